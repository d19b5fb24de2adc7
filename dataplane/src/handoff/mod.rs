//! Hand-over between workers: which of them owns a packet (R14).
//!
//! A worker that polls a port asks a [`Place`] for the owner of each packet. This crate knows no connections, so that is
//! implemented where functions are.

mod place;

pub use place::{Place, Placed, WorkerId};
