//! What all readers share while one document is read: its text, its places and what was found wrong so far.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Report, Severity};
use super::places::{Places, item};

/// Something wrong at a place that is still to be looked up.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    severity: Severity,
    path: String,
    at_key: bool,
    span: Option<Range<usize>>,
    message: String,
    found: Option<String>,
    valid: Option<String>,
    help: Option<String>,
}

impl Finding {
    /// An error in the value at `path`.
    pub(crate) fn error(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            path: path.into(),
            at_key: false,
            span: None,
            message: message.into(),
            found: None,
            valid: None,
            help: None,
        }
    }

    /// A warning about the value at `path`.
    pub(crate) fn warning(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(path, message) }
    }

    /// Points at the key instead of its value.
    pub(crate) fn at_key(mut self) -> Self {
        self.at_key = true;
        self
    }

    /// Points at these bytes, whatever the path.
    pub(crate) fn at_span(mut self, span: Range<usize>) -> Self {
        self.span = Some(span);
        self
    }

    /// Says what stands there.
    pub(crate) fn found(mut self, found: impl Into<String>) -> Self {
        self.found = Some(found.into());
        self
    }

    /// Says what may stand there.
    pub(crate) fn valid(mut self, valid: impl Into<String>) -> Self {
        self.valid = Some(valid.into());
        self
    }

    /// Says what to do.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says what to do, if there is anything to say.
    pub(crate) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }
}

/// One document being read.
pub(crate) struct Context<'a> {
    text: &'a str,
    file: String,
    directory: PathBuf,
    places: Places,
    line_starts: Vec<usize>,
    findings: RefCell<Vec<Finding>>,
    /// For each list, the positions in the file of the elements that could be read.
    kept: RefCell<HashMap<String, Vec<usize>>>,
    /// Keys that readers asked for, by table: a test compares them with the schemas.
    asked: RefCell<BTreeSet<(&'static str, &'static str)>>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(path: &Path, text: &'a str, places: Places) -> Self {
        let line_starts =
            std::iter::once(0).chain(text.match_indices('\n').map(|(position, _)| position + 1)).collect();
        let directory = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Self {
            text,
            file: path.display().to_string(),
            directory,
            places,
            line_starts,
            findings: RefCell::default(),
            kept: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    /// Notes something wrong.
    pub(crate) fn push(&self, finding: Finding) {
        self.findings.borrow_mut().push(finding);
    }

    /// Whether any error was noted.
    pub(crate) fn has_errors(&self) -> bool {
        self.findings.borrow().iter().any(|finding| finding.severity == Severity::Error)
    }

    /// Whether an error was noted at `path` or within it.
    pub(crate) fn has_errors_under(&self, path: &str) -> bool {
        let within = |finding: &Finding| {
            let rest = finding.path.strip_prefix(path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.findings.borrow().iter().any(|finding| finding.severity == Severity::Error && within(finding))
    }

    /// A path in the file made absolute or relative to the configuration's own directory.
    pub(crate) fn resolve(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    /// The bytes of the document at `span`.
    pub(crate) fn source(&self, span: Range<usize>) -> &'a str {
        self.text.get(span).unwrap_or_default()
    }

    /// The first line of the value at exactly this path.
    pub(crate) fn found(&self, path: &str) -> Option<String> {
        let value = self.places.exact(path)?.value.clone();
        self.source(value).lines().next().map(|line| line.chars().take(60).collect())
    }

    /// Notes which elements of the list at `path` could be read.
    pub(crate) fn keep(&self, path: &str, positions: Vec<usize>) {
        self.kept.borrow_mut().insert(path.to_owned(), positions);
    }

    /// The path of the `index`th element that was read from the list at `path`.
    pub(crate) fn item(&self, path: &str, index: usize) -> String {
        let position =
            self.kept.borrow().get(path).and_then(|kept| kept.get(index).copied()).unwrap_or(index);
        let element = item(path, position);
        // A single value stands for a list of one: then the value has the list's own path.
        if self.places.has(&element) { element } else { path.to_owned() }
    }

    /// Notes that a reader knows `key` of the table `title`.
    pub(crate) fn ask(&self, title: &'static str, key: &'static str) {
        self.asked.borrow_mut().insert((title, key));
    }

    /// The keys that readers asked for.
    #[cfg(test)]
    pub(crate) fn asked(&self) -> BTreeSet<(&'static str, &'static str)> {
        self.asked.borrow().clone()
    }

    /// Drops findings on `lines`, and those of missing keys: after a syntax error they would mislead.
    pub(crate) fn forgive(&self, lines: &[usize]) {
        let mut findings = self.findings.borrow_mut();
        findings.retain(|finding| {
            let missing = finding.span.is_none() && !self.places.has(&finding.path);
            let (line, _) = self.position(&self.span_of(finding));
            finding.span.is_some() || !(missing || lines.contains(&line))
        });
    }

    /// The line (from 1) and column (from 1, in characters) at which `span` starts.
    pub(crate) fn position(&self, span: &Range<usize>) -> (usize, usize) {
        let line = self.line_starts.partition_point(|&start| start <= span.start).max(1);
        let start = self.line_starts[line - 1];
        (line, self.source(start..span.start).chars().count() + 1)
    }

    /// The text of a line, counted from 1.
    pub(crate) fn line(&self, line: usize) -> &'a str {
        let start = self.line_starts.get(line - 1).copied().unwrap_or(self.text.len());
        let end = self.line_starts.get(line).copied().unwrap_or(self.text.len());
        self.source(start..end).trim_end_matches(['\n', '\r'])
    }

    /// All findings as a report, by line.
    pub(crate) fn report(&self) -> Report {
        let mut diagnostics: Vec<Diagnostic> =
            self.findings.borrow().iter().map(|finding| self.diagnostic(finding)).collect();
        diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        diagnostics.dedup();
        Report { file: self.file.clone(), diagnostics }
    }

    fn span_of(&self, finding: &Finding) -> Range<usize> {
        let place = self.places.nearest(&finding.path);
        finding.span.clone().or_else(|| place.map(|p| self.pick(p, finding))).unwrap_or(0..0)
    }

    fn pick(&self, place: &super::places::Place, finding: &Finding) -> Range<usize> {
        if finding.at_key { place.key.clone() } else { place.value.clone() }
    }

    fn diagnostic(&self, finding: &Finding) -> Diagnostic {
        let span = self.span_of(finding);
        let whole_file = finding.span.is_none() && self.places.nearest(&finding.path).is_none();
        let (line, column) = self.position(&span);
        let first_line = self.source(span).lines().next().unwrap_or_default();
        Diagnostic {
            severity: finding.severity,
            line: if whole_file { 0 } else { line },
            column: if whole_file { 0 } else { column },
            key: finding.path.clone(),
            message: finding.message.clone(),
            found: finding.found.clone(),
            valid: finding.valid.clone(),
            help: finding.help.clone(),
            source_line: self.line(line).to_owned(),
            underlined: first_line.chars().count().max(1),
        }
    }
}
