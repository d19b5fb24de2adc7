//! Follows packets on the worker: what was foreseen of each, and what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use millrace_dataplane::engine::{Observed, Observer, Outcome};
use millrace_dataplane::flow::state::FlowState;
use millrace_dataplane::packet::Packet;
use millrace_dataplane::port::PortId;
use millrace_dataplane::time::Time;
use millrace_nf::chain::Chains;

use super::filter::PacketFilter;
use crate::explain::look::Prospect;

/// Packets that may be followed at once, and so many a second from then on: following one takes as long as some walks.
const AT_ONCE: u64 = 64;
const PER_SECOND: u64 = 1_000;

/// A packet that was followed, as the worker knows it.
#[derive(Debug)]
pub struct Followed {
    /// Where it came from.
    pub port: PortId,
    /// Its bytes as they came.
    pub frame: Vec<u8>,
    /// What was foreseen.
    pub foreseen: Prospect,
    /// What became of it.
    pub outcome: Option<Outcome>,
}

/// What a trace shares with who asked for it.
#[derive(Debug, Default)]
pub struct Shared {
    /// Packets that matched and were not followed, for want of time or room.
    pub left_out: AtomicU64,
    /// Nobody waits for more.
    pub ended: AtomicBool,
}

/// Follows the next packets that match.
#[derive(Debug)]
pub struct Tracer {
    filter: PacketFilter,
    /// Packets that are still to be followed.
    rest: u64,
    /// One packet in so many is looked at.
    every: u64,
    /// Packets before the next one that is.
    until: u64,
    allowance: u64,
    allowed_at: Time,
    at_hand: Option<Followed>,
    sender: SyncSender<Followed>,
    shared: Arc<Shared>,
}

impl Tracer {
    /// Follows `count` packets, and looks at one in `every`. What it saw goes to `sender`.
    pub fn new(
        filter: PacketFilter,
        count: u64,
        every: u64,
        sender: SyncSender<Followed>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            filter,
            rest: count,
            every: every.max(1),
            until: 0,
            allowance: AT_ONCE,
            allowed_at: Time(0),
            at_hand: None,
            sender,
            shared,
        }
    }

    /// Whether there is time for one more now.
    fn may_follow(&mut self, now: Time) -> bool {
        let earned = now.since(self.allowed_at).as_micros() as u64 * PER_SECOND / 1_000_000;
        if earned > 0 {
            self.allowance = self.allowance.saturating_add(earned).min(AT_ONCE);
            self.allowed_at = now;
        }
        self.allowance > 0
    }
}

impl Observer<Chains> for Tracer {
    fn first_wanted(&mut self, port: PortId, packets: &[Packet], now: Time) -> Option<usize> {
        let mut at = usize::try_from(self.until).unwrap_or(usize::MAX);
        while let Some(packet) = packets.get(at) {
            if self.filter.matches(port, packet.bytes()) {
                if self.may_follow(now) {
                    self.until = self.every - 1;
                    return Some(at);
                }
                self.shared.left_out.fetch_add(1, Ordering::Relaxed);
            }
            at = at.saturating_add(usize::try_from(self.every).unwrap_or(usize::MAX));
        }
        self.until = (at - packets.len()) as u64;
        None
    }

    fn before(&mut self, slow: &mut Chains, state: &FlowState, packet: &Observed<'_>) {
        self.allowance = self.allowance.saturating_sub(1);
        let foreseen = packet.foreseen.map(|(foreseen, miss)| (foreseen, slow.explain(&miss, state)));
        let frame = packet.bytes.to_vec();
        self.at_hand = Some(Followed { port: packet.port, frame, foreseen, outcome: None });
    }

    fn after(&mut self, outcome: Outcome) {
        let Some(followed) = self.at_hand.take() else { return };
        match self.sender.try_send(Followed { outcome: Some(outcome), ..followed }) {
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
