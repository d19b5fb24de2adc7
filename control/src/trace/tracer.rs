//! Takes what a follower saw to the thread that serves the trace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use millrace_dataplane::port::PortId;
use millrace_nf::follow::{Audience, Followed};

use super::filter::PacketFilter;

/// What a trace shares with who asked for it.
#[derive(Debug, Default)]
pub struct Shared {
    /// Packets that matched and were not followed, for want of time or room.
    pub left_out: AtomicU64,
    /// Nobody waits for more.
    pub ended: AtomicBool,
}

/// Wants the next packets that match.
#[derive(Debug)]
pub struct Tracer {
    filter: PacketFilter,
    /// Packets that are still wanted.
    rest: u64,
    sender: SyncSender<Followed>,
    shared: Arc<Shared>,
}

impl Tracer {
    /// Wants `count` packets, which go to `sender`.
    pub fn new(filter: PacketFilter, count: u64, sender: SyncSender<Followed>, shared: Arc<Shared>) -> Self {
        Self { filter, rest: count, sender, shared }
    }
}

impl Audience for Tracer {
    fn is_at(&self, _: PortId) -> bool {
        true
    }

    fn wants(&self, port: PortId, bytes: &[u8]) -> bool {
        self.filter.matches(port, bytes)
    }

    fn passed(&mut self, _: PortId, _: u64, left_out: u64) {
        if left_out > 0 {
            self.shared.left_out.fetch_add(left_out, Ordering::Relaxed);
        }
    }

    fn take(&mut self, followed: Followed) {
        match self.sender.try_send(followed) {
            Ok(()) => self.rest = self.rest.saturating_sub(1),
            Err(TrySendError::Full(_)) => {
                self.shared.left_out.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(_)) => self.rest = 0,
        }
    }

    fn is_done(&self) -> bool {
        self.rest == 0 || self.shared.ended.load(Ordering::Relaxed)
    }
}
