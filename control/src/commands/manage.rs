//! `show`, `clear` and `apply`: what is asked of a running instance.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use serde_json::Value;

use super::values::integer;
use crate::config::{self, Host, LeftOut, Management};
use crate::instance::Applied;
use crate::management::protocol::{ROWS_DEFAULT, ROWS_MAX};
use crate::management::{Answer, Request, Topic, client};
use crate::table::Table;

/// Which instance is asked.
#[derive(Debug, Args)]
pub struct Instance {
    /// The management socket of the instance.
    #[arg(long, value_name = "PATH", default_value_os_t = Management::default().socket)]
    pub socket: PathBuf,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Show {
    /// What to show.
    #[arg(value_enum)]
    pub topic: Topic,
    /// A term KEY=VALUE that rows must match, as protocol=tcp; may be repeated, and all must match then. Keys of
    /// sessions and flows are source, destination, protocol, port and state; those of others are the columns.
    #[arg(long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Most rows, 1 to 10000.
    #[arg(long, value_name = "ROWS", default_value_t = ROWS_DEFAULT, value_parser = limit)]
    pub limit: usize,
    /// Rows that are left out at the beginning.
    #[arg(long, value_name = "ROWS", default_value_t = 0, value_parser = offset)]
    pub offset: usize,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Which instance.
    #[command(flatten)]
    pub instance: Instance,
}

/// Arguments of `clear`.
#[derive(Debug, Args)]
pub struct Clear {
    /// What to clear.
    #[command(subcommand)]
    pub what: ClearWhat,
}

/// What can be cleared.
#[derive(Debug, Subcommand)]
pub enum ClearWhat {
    /// End the sessions that match all terms.
    #[command(arg_required_else_help = true)]
    Sessions {
        /// Terms KEY=VALUE, as source=10.0.0.0/8 protocol=tcp; the keys are source, destination, protocol, port and state.
        /// `all` ends all sessions.
        #[arg(required = true, value_name = "FILTER")]
        filter: Vec<String>,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Apply {
    /// The configuration, a TOML file. Its `management.socket` says which instance is changed.
    pub config: PathBuf,
    /// Print JSON: what changed, or what is wrong.
    #[arg(long)]
    pub json: bool,
}

fn limit(text: &str) -> Result<usize, String> {
    integer(text, &(1..=ROWS_MAX))
}

fn offset(text: &str) -> Result<usize, String> {
    // No table has more rows.
    integer(text, &(0..=u32::MAX as usize))
}

fn ask(socket: &Path, request: &Request) -> Option<Answer> {
    match client::ask(socket, request) {
        Ok(Answer::Refused(why)) => {
            complain!("error: {why}");
            None
        }
        Ok(answer) => Some(answer),
        Err(error) => {
            complain!("error: {error}");
            None
        }
    }
}

fn print(answer: &Answer, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match answer {
        Answer::Rows(listing) if json => {
            let rows = serde_json::json!({ "rows": listing.rows, "next_offset": listing.next_offset });
            writeln!(out, "{rows}")
        }
        Answer::Rows(listing) => {
            write!(out, "{}", Table::from(listing))?;
            match listing.next_offset {
                Some(next) => writeln!(out, "more: --offset {next}"),
                None => Ok(()),
            }
        }
        Answer::Done(lines) => lines.iter().try_for_each(|line| writeln!(out, "{line}")),
        Answer::Applied(applied) if json => {
            let Applied { summary, changes, worker_nanos } = applied;
            let said = serde_json::json!({
                "applied": true, "summary": summary, "changes": changes.rows, "worker_nanos": worker_nanos,
            });
            writeln!(out, "{said}")
        }
        Answer::Applied(applied) if applied.is_empty() => writeln!(out, "nothing has changed"),
        Answer::Applied(applied) => {
            writeln!(out, "{}\n\n{}", applied.summary, Table::from(&applied.changes))?;
            writeln!(out, "in force; packets waited {} for it", show_time(applied.worker_nanos))
        }
        Answer::Tracing | Answer::TraceEnded { .. } | Answer::Capturing | Answer::CaptureEnded { .. } => {
            Ok(())
        }
        Answer::Explained(report) => write!(out, "{report}"),
        Answer::Refused(why) => writeln!(out, "{why}"),
        Answer::Invalid { text, .. } => writeln!(out, "{text}"),
    }
}

/// A short time in microseconds.
fn show_time(nanos: u64) -> String {
    format!("{}.{} µs", nanos / 1_000, nanos / 100 % 10)
}

/// Prints why a configuration was refused.
fn refuse(text: &str, diagnostics: &[Value], left_out: LeftOut, json: bool) {
    if json {
        // A closed pipe is no reason to panic: the status says it all.
        let said = serde_json::json!({
            "applied": false, "diagnostics": diagnostics, "left_out": left_out, "refused": text,
        });
        let _ = writeln!(io::stdout().lock(), "{said}");
    } else {
        complain!("{text}");
    }
}

fn finish(answer: Option<Answer>, json: bool) -> ExitCode {
    let printed = answer.map(|answer| print(&answer, json));
    match printed {
        Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

/// Shows rows.
pub fn show(arguments: &Show) -> ExitCode {
    let request = Request::Show {
        topic: arguments.topic,
        filter: arguments.filter.clone(),
        limit: Some(arguments.limit),
        offset: arguments.offset,
    };
    finish(ask(&arguments.instance.socket, &request), arguments.json)
}

/// Ends sessions.
pub fn clear(arguments: &Clear) -> ExitCode {
    let ClearWhat::Sessions { filter, instance } = &arguments.what;
    let filter = if filter.len() == 1 && filter[0] == "all" { Vec::new() } else { filter.clone() };
    finish(ask(&instance.socket, &Request::ClearSessions { filter }), false)
}

/// Changes the instance to another configuration.
pub fn apply(arguments: &Apply) -> ExitCode {
    // What the file says is checked here; what the machine has, by the instance: its network namespace may be another.
    let checked = config::load(&arguments.config, &Host::default());
    let Some(config) = checked.config else {
        if let Answer::Invalid { text, diagnostics, left_out } = Answer::invalid(&checked.report) {
            refuse(&text, &diagnostics, left_out, arguments.json);
        }
        return ExitCode::FAILURE;
    };
    if !checked.report.diagnostics.is_empty() {
        complain!("{}", checked.report);
    }
    let read = std::path::absolute(&arguments.config)
        .and_then(|path| std::fs::read_to_string(&path).map(|text| (path, text)));
    let (path, text) = match read {
        Ok((path, text)) => (path.to_string_lossy().into_owned(), text),
        Err(error) => {
            complain!("error: {}: {error}", arguments.config.display());
            return ExitCode::FAILURE;
        }
    };
    match client::ask(&config.management.socket, &Request::Apply { path, text }) {
        Ok(Answer::Invalid { text, diagnostics, left_out }) => {
            refuse(&text, &diagnostics, left_out, arguments.json);
        }
        Ok(Answer::Refused(why)) => refuse(&why, &[], LeftOut::default(), arguments.json),
        Ok(answer) => return finish(Some(answer), arguments.json),
        Err(error) => refuse(&error.to_string(), &[], LeftOut::default(), arguments.json),
    }
    ExitCode::FAILURE
}
