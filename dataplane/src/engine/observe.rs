//! Looking on at some of the packets while they are processed: what traces are made from.
//!
//! Without an observer a burst pays for one comparison. With one, the packets that it wants leave the common passes and go one by one, in
//! their order (R5), through the same code; all others go as ever.

use super::passes::LANES;
use super::{Engine, EngineCounters, Foreseen, Sums, gather_of};
use crate::drops::DropReason;
use crate::flow::state::FlowState;
use crate::memory::Pool;
use crate::packet::parse::parse;
use crate::packet::{Drain, Packet};
use crate::port::PortId;
use crate::slow_path::{Miss, SlowPath};
use crate::time::Time;

/// A packet that is about to be processed.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Where it came from.
    pub port: PortId,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// When it came.
    pub now: Time,
    /// What the cache will answer, and the packet as one that walks; or why it will be refused before any look-up.
    pub foreseen: Result<(Foreseen, Miss<'a>), DropReason>,
}

/// What was done with a packet: the difference that it made. Packets that it woke are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Hits and misses before it, and behind it.
    pub counters: [EngineCounters; 2],
    /// The sums before it, and behind it.
    pub sums: Box<[Sums; 2]>,
    /// Packets that waited before it, and behind it.
    pub buffered: [u64; 2],
}

/// Somebody who looks on.
pub trait Observer<S: SlowPath>: Send {
    /// The place of the first of the next packets from `port` that is to be followed. Nothing up to that one is asked about again; if there
    /// is none, none of them is.
    fn first_wanted(&mut self, port: PortId, packets: &[Packet], now: Time) -> Option<usize>;

    /// A packet that is followed is about to be processed. `slow` may think, but nothing may come of it.
    fn before(&mut self, slow: &mut S, state: &FlowState, packet: &Observed<'_>);

    /// It was.
    fn after(&mut self, outcome: Outcome);

    /// True when it has seen enough: nobody is asked any more.
    fn is_done(&self) -> bool;
}

impl<S: SlowPath> Engine<S> {
    /// `observer` looks on from now on, or nobody. Who did so before comes back.
    pub fn observe(&mut self, observer: Option<Box<dyn Observer<S>>>) -> Option<Box<dyn Observer<S>>> {
        std::mem::replace(&mut self.observer, observer)
    }

    /// True if somebody looks on.
    pub fn is_observed(&self) -> bool {
        self.observer.as_ref().is_some_and(|observer| !observer.is_done())
    }

    /// The packets of a burst while somebody looks on, until that one has seen enough.
    #[cold]
    #[inline(never)]
    pub(super) fn process_observed(
        &mut self,
        port: PortId,
        drain: &mut Drain<'_>,
        pool: &mut Pool,
        now: Time,
    ) {
        let Some(mut observer) = self.observer.take() else { return };
        while !observer.is_done() {
            let count = drain.rest().len();
            let wanted = observer.first_wanted(port, drain.rest(), now).filter(|at| *at < count);
            let mut others = wanted.unwrap_or(count);
            while others > 0 {
                self.process_part(port, drain, others, pool, now);
                others = others.saturating_sub(LANES);
            }
            if wanted.is_none() {
                self.observer = Some(observer);
                return;
            }
            if !drain.rest().first().is_some_and(Packet::is_whole) {
                self.follow(observer.as_mut(), port, drain, pool, now);
            } else if let Some(frame) = drain.next() {
                self.follow_whole(observer.as_mut(), port, frame, pool, now);
            }
        }
    }

    pub(super) fn follow(
        &mut self,
        observer: &mut dyn Observer<S>,
        port: PortId,
        drain: &mut Drain<'_>,
        pool: &mut Pool,
        now: Time,
    ) {
        let Some(packet) = drain.rest().first() else { return };
        let bytes = packet.bytes();
        let layout = parse(bytes, self.config.verify);
        let look_up = layout.map(|layout| (self.foresee_look_up(port, bytes, &layout), layout));
        let Self { slow, state, schemas, .. } = self;
        let foreseen = look_up.map(|(look_up, layout)| {
            let gather = gather_of(schemas, port, &layout);
            (look_up, Miss { bytes, layout, port, gather, now })
        });
        observer.before(slow, state, &Observed { port, bytes, now, foreseen });
        let before = (self.counters, self.outputs.sums.clone(), self.buffered());
        self.process_part(port, drain, 1, pool, now);
        observer.after(Outcome {
            counters: [before.0, self.counters],
            sums: Box::new([before.1, self.outputs.sums.clone()]),
            buffered: [before.2, self.buffered()],
        });
    }
}
