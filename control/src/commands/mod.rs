//! The commands of `millrace`, one file each.

/// Says something to people on standard error. Where that takes nothing (a full disk, a reader that is gone) nobody is left to be told, and
/// that is no reason to panic, as `eprintln!` does: the status says how it went.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

pub mod capture;
pub mod check;
pub mod explain;
mod lines;
mod live;
pub mod log;
pub mod manage;
pub mod replay;
mod rule_log;
pub mod run;
mod signals;
pub mod top;
pub mod trace;
mod values;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, Host, Log};

/// A userspace packet-processing data plane: decide once per flow, replay per packet.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, max_term_width = 110)]
pub struct Cli {
    /// What is logged, and how.
    #[command(flatten)]
    pub log: log::Arguments,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate a configuration and print the plan: ports, workers, memory, chains.
    Check(check::Arguments),
    /// Run a configuration until SIGINT, SIGTERM or SIGHUP; prints what happens, and the accounting at the end.
    Run(run::Arguments),
    /// Run the chains of a configuration on capture files, as fast as possible and repeatably.
    Replay(replay::Arguments),
    /// Tell what would become of a packet, and why, without sending it.
    Explain(explain::Arguments),
    /// Follow packets through a running instance: what the functions decide, and what becomes of them.
    Trace(trace::Arguments),
    /// Copy packets of a running instance into a capture file, with what was decided about them.
    Capture(capture::Arguments),
    /// Show what a running instance does.
    Show(manage::Show),
    /// Show what a running instance does in tables that update: ports, workers, chains, drops.
    Top(top::Arguments),
    /// End sessions of a running instance.
    Clear(manage::Clear),
    /// Change a running instance to another configuration, whole or not at all.
    Apply(manage::Apply),
}

impl Cli {
    /// Runs the command; the status is 0 when all went well and 1 otherwise (2 is clap's, for usage).
    pub fn run(self) -> ExitCode {
        let Self { log, command } = self;
        // The configuration of `run` says what is logged.
        let logging = !matches!(command, Command::Run(_));
        let _logging = logging.then(|| log.start(&Log::default()));
        match command {
            Command::Check(arguments) => check::run(&arguments),
            Command::Run(arguments) => run::run(&arguments, &log),
            Command::Replay(arguments) => replay::run(&arguments),
            Command::Explain(arguments) => explain::run(&arguments),
            Command::Trace(arguments) => trace::run(&arguments),
            Command::Capture(arguments) => capture::run(&arguments),
            Command::Show(arguments) => manage::show(&arguments),
            Command::Top(arguments) => top::run(&arguments),
            Command::Clear(arguments) => manage::clear(&arguments),
            Command::Apply(arguments) => manage::apply(&arguments),
        }
    }
}

/// Reads a configuration; prints what is wrong with it.
fn load_or_report(path: &Path, host: &Host) -> Option<Config> {
    let checked = config::load(path, host);
    if !checked.report.diagnostics.is_empty() {
        complain!("{}", checked.report);
    }
    checked.config
}
