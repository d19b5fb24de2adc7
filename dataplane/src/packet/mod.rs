//! Packets: owned handles, bursts of them, views over their bytes, and the parse that finds their shape.

mod buffer;
mod burst;
pub mod checksum;

pub use buffer::{NoRoom, Packet};
pub use burst::{Burst, Drain};
