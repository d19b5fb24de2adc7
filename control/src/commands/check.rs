//! `millrace check`: validates a configuration and prints the plan.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::config::{self, Diagnostic, Host, LeftOut, Plan};
use crate::instance::keys::{self, ChainKeys};

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Arguments {
    /// The configuration, a TOML file.
    pub config: PathBuf,
    /// Print diagnostics and plan as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    file: &'a str,
    valid: bool,
    diagnostics: &'a [Diagnostic],
    /// How many there are beside them.
    left_out: LeftOut,
    /// What would run; null when there are errors.
    plan: Option<Plan>,
    /// What the chains read and their keys; null when there are errors.
    keys: Option<&'a [ChainKeys]>,
    /// Why the chains can't be built.
    refused: Option<String>,
}

/// Status 0 when the configuration is valid (with warnings or without), 1 when it is not.
pub fn run(arguments: &Arguments) -> ExitCode {
    let host = Host::probe();
    let checked = config::load(&arguments.config, &host);
    let (keys, refused) = match checked.config.as_ref().map(keys::of) {
        Some(Ok(keys)) => (Some(keys), None),
        Some(Err(error)) => (None, Some(error.to_string())),
        None => (None, None),
    };
    let valid = keys.is_some();
    let plan = checked.config.filter(|_| valid).map(|config| Plan::of(&config, &host));
    let report = checked.report;
    let written = if arguments.json {
        let answer = Answer {
            file: &report.file,
            valid,
            diagnostics: &report.diagnostics,
            left_out: report.left_out,
            plan,
            keys: keys.as_deref(),
            refused,
        };
        serde_json::to_string_pretty(&answer)
            .map_err(io::Error::from)
            .and_then(|json| writeln!(io::stdout().lock(), "{json}"))
    } else {
        show(&report, plan.as_ref(), keys.as_deref().unwrap_or_default(), refused.as_deref())
    };
    // A closed pipe (`| head`) is no reason to panic or to call the configuration bad.
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ if valid => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn show(
    report: &config::Report,
    plan: Option<&Plan>,
    keys: &[ChainKeys],
    refused: Option<&str>,
) -> io::Result<()> {
    if !report.diagnostics.is_empty() {
        writeln!(io::stderr().lock(), "{report}")?;
    }
    if let Some(refused) = refused {
        writeln!(io::stderr().lock(), "error: {}: {refused}", report.file)?;
    }
    if let Some(plan) = plan {
        write!(io::stdout().lock(), "{} is valid\n\n{plan}{}", report.file, keys::show(keys))?;
    }
    Ok(())
}
