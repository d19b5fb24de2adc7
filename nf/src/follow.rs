//! Follows packets through the chains of a worker: what the functions say of each, and what becomes of it.

use crate::chain::Chains;
use crate::explain::Explanation;
use millrace_dataplane::capture::Allowance;
use millrace_dataplane::cpu::cycles;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Foreseen, Observed, Observer, Outcome};
use millrace_dataplane::flow::state::FlowState;
use millrace_dataplane::packet::Packet;
use millrace_dataplane::port::PortId;
use millrace_dataplane::time::Time;

/// How many times as long as it takes to follow packets all packets take longer for it: who explains a packet reads all that a walk does.
const AFTERMATH: u64 = 8;

/// What was foreseen of a packet: what the flow cache answers, and what its chain says of it as of one that misses; or why it is
/// refused before any look-up.
pub type Prospect = Result<(Foreseen, Option<Explanation>), DropReason>;

/// A packet that was followed.
#[derive(Debug)]
pub struct Followed {
    /// When it was processed, on the worker's clock.
    pub time: Time,
    /// Where it came from.
    pub port: PortId,
    /// Its bytes as they came.
    pub frame: Vec<u8>,
    /// What was foreseen.
    pub foreseen: Prospect,
    /// What became of it.
    pub outcome: Outcome,
}

/// Somebody who is told of packets. All is called on the worker.
pub trait Audience: Send {
    /// Whether packets from `port` are asked about at all.
    fn is_at(&self, port: PortId) -> bool;

    /// Whether a frame that came from `port` is to be followed.
    fn wants(&self, port: PortId, bytes: &[u8]) -> bool;

    /// Packets from `port` passed; some of them were left out for want of time.
    fn passed(&mut self, port: PortId, packets: u64, left_out: u64);

    /// A packet was followed. Must not wait.
    fn take(&mut self, followed: Followed);

    /// It wants no more.
    fn is_done(&self) -> bool;
}

/// Follows packets within an allowance of the worker's time.
#[derive(Debug)]
pub struct Follower<A> {
    audience: A,
    every: u64,
    until: u64,
    allowance: Allowance,
    /// Every packet is asked about, also when there is no time to follow one.
    finds_all: bool,
    at_hand: Option<(Time, PortId, Vec<u8>, Prospect)>,
}

impl<A: Audience> Follower<A> {
    /// Looks at one packet in `every`, for as long as `allowance` allows. What is asked of the audience is part of that.
    pub fn new(audience: A, every: u64, allowance: Allowance) -> Self {
        Self { audience, every: every.max(1), until: 0, allowance, finds_all: false, at_hand: None }
    }

    /// Asks about every packet, whatever time that takes, so that a rare one is found; only following them is part of the allowance.
    #[must_use]
    pub fn finding_all(self) -> Self {
        Self { finds_all: true, ..self }
    }

    /// Whether a packet is followed; counts it as left out if it would be, were there time.
    fn chooses(&mut self, port: PortId, packet: &Packet, now: Time, left_out: &mut u64) -> bool {
        let allows = self.allowance.allows(now);
        let wants = (allows || self.finds_all) && self.audience.wants(port, packet.bytes());
        *left_out += u64::from(!allows && (wants || !self.finds_all));
        wants && allows
    }
}

impl<A: Audience> Observer<Chains> for Follower<A> {
    fn first_wanted(&mut self, port: PortId, packets: &[Packet], now: Time) -> Option<usize> {
        if !self.audience.is_at(port) {
            return None;
        }
        let count = packets.len() as u64;
        if self.until >= count {
            self.until -= count;
            self.audience.passed(port, count, 0);
            return None;
        }
        let start = cycles();
        let (mut at, mut left_out) = (self.until, 0);
        let mut found = None;
        while at < count && found.is_none() {
            let packet = packets.get(at as usize);
            if packet.is_some_and(|packet| self.chooses(port, packet, now, &mut left_out)) {
                found = Some(at as usize);
            }
            at = at.saturating_add(self.every);
        }
        // Those behind the one that was found are asked about again.
        let seen = found.map_or(count, |found| found as u64 + 1);
        self.until = at - seen;
        self.audience.passed(port, seen, left_out);
        if !self.finds_all {
            self.allowance.spend_since(start, AFTERMATH);
        }
        found
    }

    fn before(&mut self, slow: &mut Chains, state: &FlowState, packet: &Observed<'_>) {
        let start = cycles();
        let foreseen = packet.foreseen.map(|(foreseen, miss)| (foreseen, slow.explain(&miss, state)));
        self.at_hand = Some((packet.now, packet.port, packet.bytes.to_vec(), foreseen));
        self.allowance.spend_since(start, AFTERMATH);
    }

    fn after(&mut self, outcome: Outcome) {
        let Some((time, port, frame, foreseen)) = self.at_hand.take() else { return };
        let start = cycles();
        self.audience.take(Followed { time, port, frame, foreseen, outcome });
        self.allowance.spend_since(start, AFTERMATH);
    }

    fn is_done(&self) -> bool {
        self.audience.is_done()
    }
}
