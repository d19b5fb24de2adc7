//! Errors and warnings of a configuration: where, what was found, what is valid.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    /// What is shown of the offending line.
    #[serde(skip)]
    pub(crate) source_line: String,
    /// Characters of the line before that.
    #[serde(skip)]
    pub(crate) skipped: usize,
    /// Characters to underline from `column` on.
    #[serde(skip)]
    pub(crate) underlined: usize,
}

/// What was found beyond what is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Errors.
    pub errors: usize,
    /// Warnings.
    pub warnings: usize,
}

impl LeftOut {
    /// One more.
    pub(crate) fn and(self, severity: Severity) -> Self {
        let Self { errors, warnings } = self;
        match severity {
            Severity::Error => Self { errors: errors + 1, warnings },
            Severity::Warning => Self { errors, warnings: warnings + 1 },
        }
    }
}

/// Everything that was found wrong in one file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file's name, as it was given.
    pub file: String,
    /// Errors and warnings by line; of more than 200 those that were found first.
    pub diagnostics: Vec<Diagnostic>,
    /// How many there are beside them.
    pub left_out: LeftOut,
}

impl Report {
    /// How many diagnostics make the configuration unusable.
    pub fn errors(&self) -> usize {
        self.told(Severity::Error) + self.left_out.errors
    }

    /// How many are only warnings.
    pub fn warnings(&self) -> usize {
        self.told(Severity::Warning) + self.left_out.warnings
    }

    fn told(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|it| it.severity == severity).count()
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            show(f, &self.file, diagnostic)?;
            writeln!(f)?;
        }
        let LeftOut { errors, warnings } = self.left_out;
        if errors + warnings > 0 {
            writeln!(f, "and {} more\n", errors + warnings)?;
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
pub(crate) const SHOWN_CHARACTERS_MAX: usize = 140;

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
        let shown = printable(&diagnostic.source_line);
        let column = diagnostic.column.saturating_sub(diagnostic.skipped + 1);
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
            skipped: 0,
            underlined: 2,
        }
    }

    #[test]
    fn a_diagnostic_shows_its_line_and_underlines_the_place() {
        let report =
            Report { file: "a.toml".into(), diagnostics: vec![diagnostic()], left_out: LeftOut::default() };
        let expected = "error: too many packets in a burst\n  --> a.toml:12:8\n   |\n12 | burst = 65\n   |        ^^\n   \
                        = key: workers.burst\n   = found: 65\n   = valid: an integer from 1 to 64\n\n\
                        a.toml: 1 error, 0 warnings";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn long_lines_and_control_characters_are_tamed() {
        let text = format!("a = \"{}\u{1b}[31m\u{202e}\" {}", "é".repeat(5_000), "x".repeat(100_000));
        let checked = crate::config::parse("a.toml".as_ref(), &text, &crate::config::Host::default());
        let place = &checked.report.diagnostics[0];
        assert!((5_000..5_100).contains(&place.column) && place.source_line.len() < 1_000, "{place:?}");
        let report = checked.report.to_string();
        assert!(report.contains("31m") && report.contains("xxx"), "{report}");
        assert!(!report.contains('\u{1b}') && !report.contains('\u{202e}'), "{report:?}");
        assert!(report.lines().all(|line| line.chars().count() < 200), "{report}");
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let left_out = LeftOut { errors: 2, warnings: 1 };
        let report = Report { file: "a.toml".into(), diagnostics: vec![diagnostic()], left_out }.to_string();
        assert!(report.ends_with("\n\nand 3 more\n\na.toml: 3 errors, 1 warning"), "{report}");
    }
}
