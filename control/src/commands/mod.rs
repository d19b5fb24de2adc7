//! The commands of `millrace`, one file each.

pub mod check;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
}

impl Command {
    /// Runs the command; the status is 0 when all went well and 1 otherwise (2 is clap's, for usage).
    pub fn run(self) -> ExitCode {
        match self {
            Self::Check(arguments) => check::run(&arguments),
        }
    }
}
