//! The `millrace` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use millrace_control::commands::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
