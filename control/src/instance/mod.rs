//! A running instance: memory, ports, chains and workers, made from a configuration.
//!
//! 1. [`memory`] maps the arena, [`ports`] opens ports, [`functions`] makes the functions of the chains.
//! 2. [`build`] puts them together: workers, with what they share (`sharing`), and the [`Control`] that other threads hold.
//! 3. [`thread`] runs the workers, several on a core or each on its own, and moves them; `apart` keeps other threads off their cores.
//! 4. [`apply`] changes it while it runs; [`accounting`] says at the end what became of every packet.

pub mod accounting;
mod apart;
pub mod apply;
pub mod build;
pub mod clock;
pub mod control;
mod error;
pub mod functions;
mod hairpins;
pub mod handle;
pub mod hosts;
pub mod keys;
pub mod links;
pub mod memory;
pub mod numbers;
pub mod ports;
mod queues;
pub mod rows;
pub mod rule_logs;
mod sharing;
mod shifted;
mod stages;
pub mod thread;
pub mod timings;

pub use apply::Applied;
pub use build::{Instance, Options};
pub use control::Control;
pub use error::InstanceError;
pub use handle::{NfWorker, WorkerHandle};
