//! Stages of a chain: the packet functions between its segments.
//!
//! What programs send to a logical port waits at that output until the worker's turn comes to it. Then the stage takes it, and
//! what it lets through walks the next segment, in the order in which it came: see [`crate::engine::Engine::run_stages`].
//!
//! A stage works *inline*, in the turn of the worker whose packets they are, or *apart*: on a thread of its own, joined with each
//! worker by a ring there and a ring back. The thread has a [`StageWorker`]; workers have a [`StageLink`] each. A packet function does not
//! know which.

mod apart;
mod link;
mod mark;

pub use apart::{StageCommand, StageReport, StageWorker};
pub use link::{LinkCounters, StageLink};
pub(crate) use mark::Mark;

use crate::drops::DropReason;
use crate::packet::{Burst, Packet};
use crate::packet_function::PacketFunction;
use crate::port::PortId;
use crate::time::Time;

/// Packets that are on their way to a stage apart, in it, and on their way back, at most.
pub const STAGE_PACKETS: usize = 1_024;

/// A packet function in its place.
pub enum Stage {
    /// It works in the turn of the worker.
    Inline(Box<dyn PacketFunction>),
    /// It works on a thread of its own.
    Apart {
        /// The way there.
        link: StageLink,
        /// One like it, that works on nothing: it says what becomes of packets that are explained.
        likeness: Box<dyn PacketFunction>,
    },
}

impl Stage {
    /// The function, or one like it where it works apart.
    pub fn function(&mut self) -> &mut dyn PacketFunction {
        match self {
            Self::Inline(function) | Self::Apart { likeness: function, .. } => function.as_mut(),
        }
    }

    /// The way to the function, where it works apart.
    pub fn link(&mut self) -> Option<&mut StageLink> {
        match self {
            Self::Inline(_) => None,
            Self::Apart { link, .. } => Some(link),
        }
    }

    /// The kind of the function.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Inline(function) => function.kind(),
            Self::Apart { link, .. } => link.kind(),
        }
    }

    /// Takes a burst that was sent to the logical port `port`. What is left in it goes on at once; what is dropped is moved to
    /// `dropped`; the rest comes back later.
    pub(crate) fn work(
        &mut self,
        port: PortId,
        burst: &mut Burst,
        now: Time,
        dropped: &mut Vec<(Packet, DropReason)>,
    ) {
        match self {
            Self::Inline(function) => function.process(burst, now, dropped),
            Self::Apart { link, .. } => link.give(port, burst, dropped),
        }
    }

    /// Packets that are under way, and come back later.
    pub fn under_way(&self) -> u64 {
        match self {
            Self::Inline(_) => 0,
            Self::Apart { link, .. } => link.under_way(),
        }
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if matches!(self, Self::Inline(_)) { "inline" } else { "apart" };
        write!(f, "Stage({}, {place})", self.kind())
    }
}
