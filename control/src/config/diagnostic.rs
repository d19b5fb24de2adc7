//! Errors and warnings of a configuration: where, what was found, what is valid.

use std::fmt;

use serde::Serialize;

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but is probably not what was meant.
    Warning,
}

/// One error or warning at one place of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Line in the file, from 1; 0 when it concerns the whole file.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key's full path, as `functions.nat.pool[0]`; empty when no key is concerned.
    pub key: String,
    /// What is wrong, as one sentence without a full stop.
    pub message: String,
    /// What stands in the file.
    pub found: Option<String>,
    /// What may stand there.
    pub valid: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// The offending line.
    #[serde(skip)]
    pub(crate) source_line: String,
    /// Characters to underline from `column` on.
    #[serde(skip)]
    pub(crate) underlined: usize,
}

/// Everything that was found wrong in one file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file's name, as it was given.
    pub file: String,
    /// Errors and warnings by line.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// How many diagnostics make the configuration unusable.
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// How many are only warnings.
    pub fn warnings(&self) -> usize {
        self.diagnostics.len() - self.errors()
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            show(f, &self.file, diagnostic)?;
            writeln!(f)?;
        }
        let (errors, warnings) = (self.errors(), self.warnings());
        write!(f, "{}: {}, {}", self.file, count(errors, "error"), count(warnings, "warning"))
    }
}

/// A number with its noun: `1 rule`, `2 rules`.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = match what {
        _ if number == 1 => "",
        _ if what.ends_with("ss") => "es",
        _ => "s",
    };
    format!("{number} {what}{plural}")
}

/// Most characters of a source line that are shown.
const SHOWN_CHARACTERS_MAX: usize = 140;

fn show(f: &mut fmt::Formatter<'_>, file: &str, diagnostic: &Diagnostic) -> fmt::Result {
    let severity = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    writeln!(f, "{severity}: {}", printable(&diagnostic.message))?;
    let margin = diagnostic.line.to_string().len();
    if diagnostic.line == 0 {
        writeln!(f, "{:margin$}--> {file}", "")?;
    } else {
        writeln!(f, "{:margin$}--> {file}:{}:{}", "", diagnostic.line, diagnostic.column)?;
        let (shown, column) = window(diagnostic);
        let length = diagnostic.underlined.min(shown.chars().count().saturating_sub(column)).max(1);
        writeln!(f, "{:margin$} |", "")?;
        writeln!(f, "{} | {shown}", diagnostic.line)?;
        writeln!(f, "{:margin$} | {:column$}{}", "", "", "^".repeat(length))?;
    }
    let notes = [
        ("key", Some(&diagnostic.key).filter(|key| !key.is_empty())),
        ("found", diagnostic.found.as_ref()),
        ("valid", diagnostic.valid.as_ref()),
        ("help", diagnostic.help.as_ref()),
    ];
    for (label, note) in notes {
        if let Some(note) = note {
            writeln!(f, "{:margin$} = {label}: {}", "", printable(note))?;
        }
    }
    Ok(())
}

/// The part of a source line to show, and the column (from zero) of the underlined part within it.
fn window(diagnostic: &Diagnostic) -> (String, usize) {
    let column = diagnostic.column.saturating_sub(1);
    let skipped = if column > SHOWN_CHARACTERS_MAX / 2 { column - SHOWN_CHARACTERS_MAX / 4 } else { 0 };
    let shown: String = diagnostic.source_line.chars().skip(skipped).take(SHOWN_CHARACTERS_MAX).collect();
    (printable(&shown), column - skipped)
}

/// Text that cannot move the cursor or change the colours of the terminal it is printed on.
fn printable(text: &str) -> String {
    let invisible =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .map(|c| {
            if c == '\t' {
                ' '
            } else if invisible(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostic() -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            line: 12,
            column: 8,
            key: "workers.burst".into(),
            message: "too many packets in a burst".into(),
            found: Some("65".into()),
            valid: Some("an integer from 1 to 64".into()),
            help: None,
            source_line: "burst = 65".into(),
            underlined: 2,
        }
    }

    #[test]
    fn a_diagnostic_shows_its_line_and_underlines_the_place() {
        let report = Report { file: "a.toml".into(), diagnostics: vec![diagnostic()] };
        let expected = "error: too many packets in a burst\n  --> a.toml:12:8\n   |\n12 | burst = 65\n   |        ^^\n   \
                        = key: workers.burst\n   = found: 65\n   = valid: an integer from 1 to 64\n\n\
                        a.toml: 1 error, 0 warnings";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn long_lines_and_control_characters_are_tamed() {
        let mut long = diagnostic();
        long.source_line = format!("{}\u{1b}[31m\u{202e}", "é".repeat(5_000));
        long.column = 5_001;
        long.underlined = 100_000;
        let report = Report { file: "a.toml".into(), diagnostics: vec![long] }.to_string();
        assert!(!report.contains('\u{1b}') && !report.contains('\u{202e}'), "{report:?}");
        assert!(report.lines().all(|line| line.chars().count() < 200), "{report}");
    }
}
