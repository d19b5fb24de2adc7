//! Managing a running instance over a Unix socket: `show`, `clear` and `apply`.
//!
//! 1. [`socket`] makes the socket, [`protocol`] says what goes over it.
//! 2. [`server`] takes connections, each a thread with timeouts; [`client`] is the other end.
//! 3. Requests run as commands on the worker between two turns. What walks a table does so in slices: [`show`], [`clear`].

pub mod clear;
pub mod client;
pub mod filter;
pub mod protocol;
pub mod server;
pub mod show;
pub mod socket;
pub mod topic;

pub use protocol::{Answer, Request};
pub use topic::Topic;
