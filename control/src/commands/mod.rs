//! The commands of `millrace`, one file each.

pub mod check;
mod lines;
pub mod manage;
pub mod replay;
mod rule_log;
pub mod run;
mod values;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, Host};

/// A userspace packet-processing data plane: decide once per flow, replay per packet.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate a configuration and print the plan: ports, workers, memory, chains.
    Check(check::Arguments),
    /// Run a configuration until SIGINT or SIGTERM; prints what happens, and the accounting at the end.
    Run(run::Arguments),
    /// Run the chains of a configuration on capture files, as fast as possible and repeatably.
    Replay(replay::Arguments),
    /// Show what a running instance does.
    Show(manage::Show),
    /// End sessions of a running instance.
    Clear(manage::Clear),
    /// Change a running instance to another configuration, whole or not at all.
    Apply(manage::Apply),
}

impl Command {
    /// Runs the command; the status is 0 when all went well and 1 otherwise (2 is clap's, for usage).
    pub fn run(self) -> ExitCode {
        match self {
            Self::Check(arguments) => check::run(&arguments),
            Self::Run(arguments) => run::run(&arguments),
            Self::Replay(arguments) => replay::run(&arguments),
            Self::Show(arguments) => manage::show(&arguments),
            Self::Clear(arguments) => manage::clear(&arguments),
            Self::Apply(arguments) => manage::apply(&arguments),
        }
    }
}

/// Reads a configuration; prints what is wrong with it.
fn load_or_report(path: &Path, host: &Host) -> Option<Config> {
    let checked = config::load(path, host);
    if !checked.report.diagnostics.is_empty() {
        eprintln!("{}", checked.report);
    }
    checked.config
}
