//! A function's place in a chain: keeps what it proposed between `admit` and `commit`, whatever its type.

use crate::explain::Notes;
use crate::function::{FlowFunction, Forwarder, Verdict};
use crate::walk::{Commit, Direction, Tick, Walk, ZoneOf};
use crate::zone::ZoneId;
use millrace_dataplane::flow::field::Reads;
use millrace_dataplane::flow::session::{PARTS_MAX, SessionTable, Tuple};
use millrace_dataplane::flow::state::Event;
use millrace_dataplane::time::Time;
use std::any::Any;
use std::net::IpAddr;

/// A function in its place.
pub(crate) trait Stage: Send {
    fn name(&self) -> &str;
    fn kind(&self) -> &'static str;
    fn reads(&self) -> Reads;
    fn admit(&mut self, walk: &mut Walk<'_>) -> Verdict;
    /// What the last `admit` went by.
    fn explain(&self, walk: &Walk<'_>, notes: &mut Notes) {
        let _ = (walk, notes);
    }
    fn prefetch(&self, tuple: &Tuple, direction: Direction);
    fn prefetch_behind(&self, tuple: &mut Tuple);
    fn commit(&mut self, commit: &mut Commit<'_>);
    fn consumed(&mut self);
    fn discard(&mut self);
    fn hairpins(&self, walk: &mut Walk<'_>) -> bool;
    fn may_hairpin(&self) -> bool;
    fn tick(&mut self, tick: &mut Tick<'_>);
    fn events(&mut self, events: &[Event], now: Time, sessions: &SessionTable);
    fn as_any(&mut self) -> &mut dyn Any;
    /// Its place among the words of a session, if it keeps one.
    fn part(&self) -> Option<usize>;
    /// Gives it another: only before it has seen a session.
    fn set_part(&mut self, part: usize);
    /// May a session with this word go on without the function?
    fn outlived(&self) -> fn(u64) -> bool;
    /// It only stands for the function of this name in the chain that is replaced.
    fn stands_for(&self) -> bool {
        false
    }
}

/// The forwarder in its place.
pub(crate) trait ForwarderSlot: Stage {
    fn zones(&self) -> &dyn ZoneOf;
}

pub(crate) struct FunctionSlot<F: FlowFunction> {
    name: String,
    function: F,
    /// The function's place among the words of a session.
    part: usize,
    keeps_part: bool,
    /// What the walk forwards and the walk back of a hairpin proposed.
    staged: [Option<F::Staged>; 2],
}

impl<F: FlowFunction> FunctionSlot<F> {
    pub(crate) fn new(name: String, function: F, part: usize) -> Self {
        let keeps_part = function.keeps_part();
        // Who keeps no word must not meet that of another function.
        let part = if keeps_part { part } else { PARTS_MAX };
        Self { name, function, part, keeps_part, staged: [None, None] }
    }
}

impl<F: FlowFunction> Stage for FunctionSlot<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        self.function.kind()
    }

    fn reads(&self) -> Reads {
        self.function.reads()
    }

    fn admit(&mut self, walk: &mut Walk<'_>) -> Verdict {
        walk.part = self.part;
        let (verdict, staged) = self.function.admit(walk);
        let place = &mut self.staged[usize::from(walk.hairpin)];
        // Most forwarders propose nothing: that is not worth moving a proposal's bytes.
        match staged {
            Some(staged) => *place = Some(staged),
            None => *place = None,
        }
        if walk.hairpin && matches!(verdict, Verdict::Drop(_)) {
            // R6: what the first walk of a hairpin proposed does not happen either.
            self.staged[0] = None;
        }
        verdict
    }

    fn explain(&self, walk: &Walk<'_>, notes: &mut Notes) {
        self.function.explain(walk, self.staged[usize::from(walk.hairpin)].as_ref(), notes);
    }

    fn prefetch(&self, tuple: &Tuple, direction: Direction) {
        self.function.prefetch(tuple, direction);
    }

    fn prefetch_behind(&self, tuple: &mut Tuple) {
        self.function.prefetch_behind(tuple);
    }

    fn commit(&mut self, commit: &mut Commit<'_>) {
        commit.part = self.part;
        for staged in &mut self.staged {
            if let Some(staged) = staged.take() {
                self.function.commit(staged, commit);
            }
        }
    }

    fn consumed(&mut self) {
        for staged in &mut self.staged {
            if let Some(staged) = staged.take() {
                self.function.consumed(staged);
            }
        }
    }

    fn discard(&mut self) {
        self.staged = [None, None];
    }

    fn hairpins(&self, walk: &mut Walk<'_>) -> bool {
        walk.part = self.part;
        self.function.hairpins(walk)
    }

    fn may_hairpin(&self) -> bool {
        self.function.may_hairpin()
    }

    fn tick(&mut self, tick: &mut Tick<'_>) {
        tick.part = self.part;
        self.function.tick(tick);
    }

    fn events(&mut self, events: &[Event], now: Time, sessions: &SessionTable) {
        if !self.keeps_part || self.part >= sessions.parts_count() {
            return;
        }
        for event in events {
            match event {
                Event::Traffic { parts, reply, traffic, .. } => {
                    if let Some(&part) = parts.get(self.part) {
                        self.function.account(part, *reply, *traffic);
                    }
                }
                Event::Ended { session, untold } => {
                    let part = sessions.part(*session, self.part);
                    for (reply, traffic) in [false, true].into_iter().zip(untold) {
                        if traffic.packets > 0 {
                            self.function.account(part, reply, *traffic);
                        }
                    }
                    let tuples = [false, true].map(|reply| sessions.tuple(*session, reply));
                    self.function.ended(part, tuples, now);
                }
            }
        }
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self.function.as_any()
    }

    fn part(&self) -> Option<usize> {
        self.keeps_part.then_some(self.part)
    }

    fn set_part(&mut self, part: usize) {
        self.part = if self.keeps_part { part } else { PARTS_MAX };
    }

    fn outlived(&self) -> fn(u64) -> bool {
        F::outlived
    }
}

impl<F: Forwarder> ZoneOf for FunctionSlot<F> {
    fn zone_of(&self, walk: &mut Walk<'_>) -> Option<ZoneId> {
        self.function.destination_zone(walk)
    }

    fn is_behind(&self, address: IpAddr, zone: ZoneId) -> bool {
        self.function.is_behind(address, zone)
    }
}

impl<F: Forwarder> ForwarderSlot for FunctionSlot<F> {
    fn zones(&self) -> &dyn ZoneOf {
        self
    }
}
