//! A ring to another worker.

use super::waker::Waker;
use crate::drops::{DropCounters, DropReason};
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::ring::Producer;

/// Where packets go to another worker, which is woken.
pub(super) struct Way {
    /// None once it is closed, or the other is gone.
    to: Option<Producer<Packet>>,
    waker: Waker,
}

impl Way {
    pub(super) const fn new(to: Producer<Packet>, waker: Waker) -> Self {
        Self { to: Some(to), waker }
    }

    /// Pushes what fits, and drops and counts the rest. `given` counts what the other has.
    #[inline]
    pub(super) fn push(
        &mut self,
        burst: &mut Burst,
        pool: &mut Pool,
        given: &mut u64,
        drops: &mut DropCounters,
    ) {
        let mut reason = DropReason::Shutdown;
        if let Some(to) = &mut self.to {
            let pushed = to.push_packets(burst) as u64;
            *given += pushed;
            if to.is_abandoned() {
                self.close(given, drops);
            } else {
                reason = DropReason::RingFull;
                if pushed > 0 {
                    self.waker.pushed();
                }
            }
        }
        if !burst.is_empty() {
            drops.count_many(reason, burst.len() as u64);
            pool.discard_all(burst, reason);
        }
    }

    /// No more will come: the other finds what is in the ring, and that this was all. If it ended before, what it left in the ring
    /// is dropped.
    #[cold]
    pub(super) fn close(&mut self, given: &mut u64, drops: &mut DropCounters) {
        let Some(to) = self.to.take() else { return };
        if to.is_abandoned() {
            *given -= to.len() as u64;
            drops.count_many(DropReason::Shutdown, to.len() as u64);
        }
        drop(to);
        self.waker.pushed();
    }
}
