//! Stages of a chain: the packet functions between its segments.
//!
//! What programs send to a logical port waits at that output until the worker's turn comes to it. Then the stage works on it, and
//! what it lets through walks the next segment, in the order in which it came: see [`crate::engine::Engine::run_stages`].

use crate::drops::DropReason;
use crate::packet::{Burst, Packet};
use crate::packet_function::PacketFunction;
use crate::time::Time;

/// A packet function in its place.
pub struct Stage(Box<dyn PacketFunction>);

impl Stage {
    /// A function that works in the turn of the worker whose packets they are.
    pub fn inline(function: Box<dyn PacketFunction>) -> Self {
        Self(function)
    }

    /// The function.
    pub fn function(&mut self) -> &mut dyn PacketFunction {
        self.0.as_mut()
    }

    /// The kind of the function.
    pub fn kind(&self) -> &'static str {
        self.0.kind()
    }

    /// Works on a burst. What is left in it goes on; what is dropped is moved to `dropped`.
    pub(crate) fn work(&mut self, burst: &mut Burst, now: Time, dropped: &mut Vec<(Packet, DropReason)>) {
        self.0.process(burst, now, dropped);
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stage").field(&self.kind()).finish()
    }
}
