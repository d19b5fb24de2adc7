//! A worker's end of the way to a stage apart.

use super::STAGE_PACKETS;
use super::mark::Mark;
use crate::drops::DropReason;
use crate::handoff::Waker;
use crate::packet::{Burst, Packet};
use crate::port::PortId;
use crate::ring::{Consumer, Producer};

/// What passed a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Packets given to the stage.
    pub given: u64,
    /// Packets that came back, those among them that the stage dropped.
    pub taken: u64,
    /// Packets that found the ring full.
    pub refused: u64,
    /// Packets that found the stage gone, or were with it when it went.
    pub lost: u64,
}

impl LinkCounters {
    /// Packets that are under way.
    pub const fn under_way(&self) -> u64 {
        self.given - self.taken
    }
}

/// The way to a stage apart and back.
///
/// No more packets are under way than a ring holds, so the ring back is never full: what can't be given is refused at the tail of the
/// way there, and nothing is lost behind it.
#[derive(Debug)]
pub struct StageLink {
    kind: &'static str,
    /// None when nothing more goes there.
    to: Option<Producer<Packet>>,
    /// None when nothing is waited for any more.
    from: Option<Consumer<Packet>>,
    stage: Waker,
    counters: LinkCounters,
}

impl StageLink {
    pub(super) const fn new(
        kind: &'static str,
        to: Producer<Packet>,
        from: Consumer<Packet>,
        stage: Waker,
    ) -> Self {
        let counters = LinkCounters { given: 0, taken: 0, refused: 0, lost: 0 };
        Self { kind, to: Some(to), from: Some(from), stage, counters }
    }

    /// The kind of the function.
    pub(super) const fn kind(&self) -> &'static str {
        self.kind
    }

    /// What passed it.
    pub const fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// Packets that are under way.
    pub const fn under_way(&self) -> u64 {
        self.counters.under_way()
    }

    /// True if packets came back.
    pub fn has_returned(&self) -> bool {
        self.from.as_ref().is_some_and(|from| !from.is_empty())
    }

    /// Gives packets of a logical port to the stage, as many as there is room for. The others are dropped.
    pub(super) fn give(&mut self, port: PortId, burst: &mut Burst, dropped: &mut Vec<(Packet, DropReason)>) {
        let room = STAGE_PACKETS.saturating_sub(self.under_way() as usize);
        let mut part = burst.take(room);
        let Self { to, stage, counters, .. } = self;
        let (reason, count) = match to.as_mut().filter(|to| !to.is_abandoned()) {
            Some(to) => {
                part.iter_mut().for_each(|packet| Mark::On(port).put(packet));
                let pushed = to.push_packets(&mut part) as u64;
                counters.given += pushed;
                if pushed > 0 {
                    stage.pushed();
                }
                (DropReason::RingFull, &mut counters.refused)
            }
            None => (DropReason::Shutdown, &mut counters.lost),
        };
        *count += (part.len() + burst.len()) as u64;
        dropped.extend(part.drain_all().chain(burst.drain_all()).map(|packet| (packet, reason)));
    }

    /// Appends what came back to `burst`, as much as fits, marked with what became of it.
    pub fn take(&mut self, burst: &mut Burst) {
        if let Some(from) = &mut self.from {
            self.counters.taken += from.pop_packets(burst) as u64;
        }
    }

    /// What was under way and can't come back, since the stage has ended. It is counted as taken.
    pub fn take_lost(&mut self) -> u64 {
        // In this order: what the stage gave back before it went is seen then.
        let is_over = self.from.as_ref().is_some_and(|from| from.is_abandoned() && from.is_empty());
        if is_over { self.close() } else { 0 }
    }

    /// Nothing more goes to the stage. What is under way still comes back.
    pub fn finish(&mut self) {
        self.to = None;
        self.stage.pushed();
    }

    /// Nothing more goes to the stage, and nothing is waited for: what was under way, which is counted as taken.
    pub fn close(&mut self) -> u64 {
        // With its ends go the rings, as soon as the stage has let go of its own, and frames return to their pools.
        self.finish();
        self.from = None;
        let lost = self.under_way();
        self.counters.taken += lost;
        self.counters.lost += lost;
        lost
    }
}
