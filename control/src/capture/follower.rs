//! Takes what a follower saw of some chains' packets to the thread that serves the capture.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use millrace_dataplane::port::PortId;
use millrace_nf::follow::{Audience, Followed};

use crate::trace::filter::PacketFilter;

/// What passed a chain, of one worker.
#[derive(Debug, Default)]
pub struct Passed {
    /// Packets that came to the chain.
    pub passed: AtomicU64,
    /// Packets that were not followed for want of time.
    pub no_time: AtomicU64,
    /// Packets that were followed, and found no room on their way to who writes.
    pub no_room: AtomicU64,
}

/// What the worker shares with who asked for the capture.
#[derive(Debug, Default)]
pub struct Shared {
    /// By chain.
    pub chains: Vec<Passed>,
    /// Nobody waits for more.
    pub ended: AtomicBool,
}

/// The packets of some chains on one worker.
#[derive(Debug)]
pub struct ChainAudience {
    /// By port, the place of its chain.
    pub chain_of: Vec<Option<usize>>,
    /// Which packets.
    pub filter: PacketFilter,
    /// The worker's number.
    pub worker: usize,
    /// Where what is seen goes, with that number.
    pub sender: SyncSender<(usize, Followed)>,
    /// What others see of it.
    pub shared: Arc<Shared>,
}

impl ChainAudience {
    fn chain_of(&self, port: PortId) -> Option<&Passed> {
        let chain = self.chain_of.get(usize::from(port.0)).copied().flatten()?;
        self.shared.chains.get(chain)
    }
}

/// Adds to a counter that no other thread writes.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

impl Audience for ChainAudience {
    fn is_at(&self, port: PortId) -> bool {
        self.chain_of(port).is_some()
    }

    fn wants(&self, port: PortId, bytes: &[u8]) -> bool {
        self.filter.matches(port, bytes)
    }

    fn passed(&mut self, port: PortId, packets: u64, left_out: u64) {
        if let Some(counts) = self.chain_of(port) {
            add(&counts.passed, packets);
            add(&counts.no_time, left_out);
        }
    }

    fn take(&mut self, followed: Followed) {
        let port = followed.port;
        match self.sender.try_send((self.worker, followed)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                if let Some(counts) = self.chain_of(port) {
                    add(&counts.no_room, 1);
                }
            }
            Err(TrySendError::Disconnected(_)) => self.shared.ended.store(true, Ordering::Relaxed),
        }
    }

    fn is_done(&self) -> bool {
        self.shared.ended.load(Ordering::Relaxed)
    }
}
