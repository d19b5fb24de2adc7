//! Configuration, management and the commands of Millrace.
#![forbid(unsafe_code)]
// They panic where nobody can be written to.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod capture;
pub mod commands;
pub mod config;
pub mod connections;
pub mod explain;
pub mod host;
pub mod instance;
pub mod listing;
pub mod live;
pub mod logging;
pub mod management;
pub mod metrics;
pub mod notify;
pub mod supervised;
pub mod table;
pub mod trace;
