//! Configuration, management and the commands of Millrace.
#![forbid(unsafe_code)]

pub mod commands;
pub mod config;
pub mod connections;
pub mod instance;
pub mod listing;
pub mod management;
pub mod metrics;
pub mod supervised;
pub mod table;
