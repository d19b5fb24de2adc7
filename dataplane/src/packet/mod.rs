//! Packets: owned handles, bursts of them, and the parse that finds their shape.

mod buffer;
mod burst;
pub mod checksum;
pub mod parse;

pub use buffer::{Gso, NoRoom, Packet};
pub use burst::{Burst, Drain};
pub use parse::{Flags, L3, L4, Layout, Shape, Verify};
