//! What a command logs.

use clap::Args;

use crate::config::Log;
use crate::logging::{self, Format, Levels, Logging};

/// Options of all commands.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What is logged on standard error: a level (off, error, warn, info, debug, trace) for all, and MODULE=LEVEL for some, as
    /// info,millrace_dataplane::port=debug. Goes before RUST_LOG, and that before the configuration.
    #[arg(long = "log", value_name = "LEVELS", global = true)]
    levels: Option<Levels>,
    /// How it is written.
    #[arg(long = "log-format", value_name = "FORMAT", value_enum, global = true)]
    format: Option<Format>,
}

impl Arguments {
    /// Logs until the answer is dropped.
    pub(super) fn start(&self, configured: &Log) -> Option<Logging> {
        let environment = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
        let environment = environment.and_then(|text| {
            let levels = text.parse();
            levels.inspect_err(|why| complain!("warning: RUST_LOG is ignored: {why}")).ok()
        });
        let levels = self.levels.clone().or(environment).unwrap_or_else(|| configured.levels.clone());
        let started = logging::start(&levels, self.format.unwrap_or(configured.format));
        started.inspect_err(|error| complain!("warning: nothing is logged: {error}")).ok()
    }
}
