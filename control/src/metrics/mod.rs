//! Metrics for Prometheus and what speaks OpenMetrics, at `http://HOST:PORT/metrics`.
//!
//! 1. [`families`] names everything that is told: `docs/metrics.md` describes the same, and a test compares them.
//! 2. [`reading`] asks the worker for its counters, at most four times a second however many ask.
//! 3. [`exposition`] writes families and samples as text; [`tell`] says what a reading means in them.
//! 4. [`http`] reads a request and writes a response within bounds; [`server`] takes connections.

pub mod exposition;
pub mod families;
pub mod http;
pub mod reading;
pub mod server;
pub mod tell;
