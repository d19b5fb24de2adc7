//! The packet path of Millrace: memory, packets, rings, ports, the flow cache and the worker's loop.
//!
//! A packet's way, by file:
//!
//! 1. [`worker`]: one pinned core's loop takes a burst from a [`port`].
//! 2. [`packet`]: owned handles in a burst; [`packet::parse`] finds each packet's shape and offsets.
//! 3. [`flow`]: the key is gathered and looked up in the cache; a hit is replayed, and that is all.
//! 4. [`slow_path`]: the trait that decides misses. `millrace-nf` implements it; this crate knows no function.
//! 5. [`engine`]: joins 2 to 4 for a burst and scatters packets to their outputs, which the worker sends.
#![deny(unsafe_code)]

pub mod affinity;
pub mod budget;
pub mod capture;
pub mod counting;
pub mod cpu;
pub mod crew;
mod cut;
pub mod drops;
pub mod engine;
pub mod flow;
pub mod handoff;
pub mod hold;
pub mod idle;
pub mod lanes;
pub mod limit_loop;
pub mod limits;
pub mod memory;
pub mod outputs;
pub mod packet;
pub mod packet_function;
pub mod port;
pub mod ring;
pub mod slow_path;
pub mod stage;
pub mod time;
pub mod timing;
pub mod worker;
