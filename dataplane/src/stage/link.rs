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
    /// Packets that found the ring full, or the stage gone.
    pub refused: u64,
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
    from: Consumer<Packet>,
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
        Self { kind, to: Some(to), from, stage, counters: LinkCounters { given: 0, taken: 0, refused: 0 } }
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
        self.counters.given - self.counters.taken
    }

    /// True if packets came back.
    pub fn has_returned(&self) -> bool {
        !self.from.is_empty()
    }

    /// Gives packets of a logical port to the stage, as many as there is room for. The others are dropped.
    pub(super) fn give(&mut self, port: PortId, burst: &mut Burst, dropped: &mut Vec<(Packet, DropReason)>) {
        let room = STAGE_PACKETS.saturating_sub(self.under_way() as usize);
        let mut part = burst.take(room);
        if let Some(to) = self.to.as_mut().filter(|to| !to.is_abandoned()) {
            part.iter_mut().for_each(|packet| Mark::On(port).put(packet));
            let pushed = to.push_packets(&mut part) as u64;
            self.counters.given += pushed;
            if pushed > 0 {
                self.stage.pushed();
            }
        }
        self.counters.refused += (part.len() + burst.len()) as u64;
        let refused = part.drain_all().chain(burst.drain_all());
        dropped.extend(refused.map(|packet| (packet, DropReason::RingFull)));
    }

    /// Appends what came back to `burst`, as much as fits, marked with what became of it.
    pub fn take(&mut self, burst: &mut Burst) {
        self.counters.taken += self.from.pop_packets(burst) as u64;
    }

    /// What was under way and can't come back, since the stage has ended. It is counted as taken.
    pub fn take_lost(&mut self) -> u64 {
        if self.under_way() == 0 || !(self.from.is_abandoned() && self.from.is_empty()) {
            return 0;
        }
        self.close()
    }

    /// Nothing more goes to the stage. What is under way still comes back.
    pub fn finish(&mut self) {
        self.to = None;
        self.stage.pushed();
    }

    /// Nothing more goes to the stage, and nothing is waited for: what was under way, which is counted as taken.
    pub fn close(&mut self) -> u64 {
        // With it goes the ring, if the stage is gone, and frames go back to their pools.
        self.finish();
        let lost = self.under_way();
        self.counters.taken = self.counters.given;
        lost
    }
}
