//! Health probes: asks hosts, through the chain, whether they work.
//!
//! A [`Probe`](crate::config::probe::Probe) goes in and [`Change`]s come out: [`health`] judges answers, `run` asks, [`board`] is where others look.
//! The board outlives the thread that asks, so that what is known stays known if it is started again.

mod attempt;
pub mod board;
pub(super) mod echo;
pub mod health;
pub(super) mod run;

pub use board::{Board, Change, Status};
pub use health::{Health, State};
