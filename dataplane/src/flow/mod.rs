//! Flows: decide once, replay per packet.
//!
//! [`key`] gathers the bytes that the functions declared to read; [`cache`] finds the entry; [`replay`] applies its
//! [`program`]. [`session`] holds the connection behind the entries, and [`validity`] says which entries a change
//! concerns.

pub mod cache;
pub mod field;
pub mod hash;
pub mod key;
pub mod program;
pub mod replay;
pub mod session;
pub mod state;
pub mod tcp;
pub mod template;
pub mod tuple;
mod tuple_index;
pub mod validity;
pub mod watch;
pub mod watch_sets;
mod wheel;
