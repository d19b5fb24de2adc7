//! What all readers share while one document is read: its text, its places and what was found wrong so far.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, LeftOut, Report, SHOWN_CHARACTERS_MAX, Severity};
use super::places::{Places, item};

/// Most findings that are kept and told; more are counted. A file with more wrong than this has one thing wrong many times.
pub(crate) const FINDINGS_MAX: usize = 200;

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
    /// Those beyond [`FINDINGS_MAX`].
    left_out: Cell<LeftOut>,
    /// Lines that are no TOML: findings on them would mislead.
    damaged: RefCell<Vec<usize>>,
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
            left_out: Cell::default(),
            damaged: RefCell::default(),
            kept: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    /// Notes something wrong.
    pub(crate) fn push(&self, finding: Finding) {
        if !self.is_full() {
            self.findings.borrow_mut().push(finding);
        } else if !self.is_misleading(&finding, &self.damaged.borrow()) {
            self.left_out.set(self.left_out.get().and(finding.severity));
        }
    }

    /// Whether findings are only counted from here on.
    pub(crate) fn is_full(&self) -> bool {
        self.findings.borrow().len() >= FINDINGS_MAX
    }

    /// Whether any error was noted.
    pub(crate) fn has_errors(&self) -> bool {
        self.left_out.get().errors > 0
            || self.findings.borrow().iter().any(|finding| finding.severity == Severity::Error)
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

    /// Notes `lines` that are no TOML, before the rest is read.
    pub(crate) fn note_damage(&self, lines: &[usize]) {
        *self.damaged.borrow_mut() = lines.to_vec();
    }

    /// Drops findings on damaged lines, and those of missing keys: after a syntax error they would mislead.
    pub(crate) fn forgive(&self) {
        let damaged = self.damaged.borrow();
        self.findings.borrow_mut().retain(|finding| !self.is_misleading(finding, &damaged));
    }

    fn is_misleading(&self, finding: &Finding, damaged: &[usize]) -> bool {
        if damaged.is_empty() || finding.span.is_some() {
            return false;
        }
        !self.places.has(&finding.path) || damaged.contains(&self.line_at(&self.span_of(finding)))
    }

    /// The line (from 1) in which `span` starts.
    pub(crate) fn line_at(&self, span: &Range<usize>) -> usize {
        self.line_starts.partition_point(|&start| start <= span.start).max(1)
    }

    /// How many lines there are.
    pub(crate) fn lines(&self) -> usize {
        self.line_starts.len()
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
        Report { file: self.file.clone(), diagnostics, left_out: self.left_out.get() }
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
        let line = self.line_at(&span);
        let before = self.source(self.line_starts[line - 1]..span.start);
        let column = before.chars().count() + 1;
        // A line may be as long as a file: what is kept of it is what is shown, from a little before the place.
        let cut = before
            .char_indices()
            .rev()
            .nth(SHOWN_CHARACTERS_MAX / 4)
            .filter(|_| column > SHOWN_CHARACTERS_MAX / 2);
        let skipped = cut.map_or(0, |(at, _)| before[..at].chars().count());
        let source_line = &self.line(line)[cut.map_or(0, |(at, _)| at)..];
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
            source_line: source_line.chars().take(SHOWN_CHARACTERS_MAX).collect(),
            skipped,
            underlined: first_line.chars().take(SHOWN_CHARACTERS_MAX).count().max(1),
        }
    }
}
