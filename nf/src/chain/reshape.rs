//! A chain changes its functions while it runs (R8).
//!
//! A new chain is built with [`ChainBuilder::keep`] in the places of functions that stay. [`Chain::take_over`] then moves
//! these over from the old chain with all their state, and they keep their words in the sessions. Sessions go on, unless a
//! function that is gone held something that they can't do without (a translation: [`FlowFunction::outlived`]); its word is
//! cleared in the others. A function that is new finds no word of its own in them: what it makes of that is its own
//! decision; a firewall judges the session by its rules, a NAT lets it be.
//!
//! [`FlowFunction::outlived`]: crate::function::FlowFunction::outlived

use super::{Chain, ChainBuilder};
use crate::function::Verdict;
use crate::slot::{ForwarderSlot, Stage};
use crate::walk::{Commit, Direction, Tick, Walk, ZoneOf};
use crate::zone::ZoneId;
use millrace_dataplane::flow::field::Reads;
use millrace_dataplane::flow::session::{PARTS_MAX, SessionId, SessionTable, Tuple};
use millrace_dataplane::flow::state::{Event, FlowState};
use millrace_dataplane::time::Time;
use std::any::Any;
use std::net::IpAddr;

/// A word of a function that is gone.
#[derive(Clone, Copy)]
pub(super) struct Retired {
    pub(super) part: usize,
    outlived: fn(u64) -> bool,
}

/// Stands for a function that stays.
struct Kept(String);

impl Stage for Kept {
    fn name(&self) -> &str {
        &self.0
    }
    fn kind(&self) -> &'static str {
        "kept"
    }
    fn reads(&self) -> Reads {
        Reads::none()
    }
    fn admit(&mut self, _: &mut Walk<'_>) -> Verdict {
        Verdict::Continue
    }
    fn prefetch(&self, _: &Tuple, _: Direction) {}
    fn prefetch_behind(&self, _: &mut Tuple) {}
    fn commit(&mut self, _: &mut Commit<'_>) {}
    fn consumed(&mut self) {}
    fn discard(&mut self) {}
    fn hairpins(&self, _: &mut Walk<'_>) -> bool {
        false
    }
    fn may_hairpin(&self) -> bool {
        false
    }
    fn tick(&mut self, _: &mut Tick<'_>) {}
    fn events(&mut self, _: &[Event], _: Time, _: &SessionTable) {}
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
    fn part(&self) -> Option<usize> {
        None
    }
    fn set_part(&mut self, _: usize) {}
    fn outlived(&self) -> fn(u64) -> bool {
        |_| true
    }
    fn stands_for(&self) -> bool {
        true
    }
}

impl ZoneOf for Kept {
    fn zone_of(&self, _: &mut Walk<'_>) -> Option<ZoneId> {
        None
    }

    fn is_behind(&self, _address: IpAddr, _zone: ZoneId) -> bool {
        false
    }
}

impl ForwarderSlot for Kept {
    fn zones(&self) -> &dyn ZoneOf {
        self
    }
}

impl ChainBuilder {
    /// The function of this name stays, with its state, when the chain replaces the one that has it: see
    /// [`super::Chains::replace`].
    #[must_use]
    pub fn keep(mut self, name: impl Into<String>) -> Self {
        self.functions.push(Box::new(Kept(name.into())));
        self
    }

    /// Ends the chain with the forwarder of the one that it replaces, which has this name.
    pub fn keep_forwarder(self, name: impl Into<String>) -> Chain {
        self.end(Box::new(Kept(name.into())))
    }
}

impl Chain {
    /// True if `old` has all functions that this chain keeps.
    pub(super) fn can_take_over(&self, old: &Self) -> bool {
        let functions = self.functions.iter().filter(|stage| stage.stands_for());
        let mut found = functions.map(|stage| old.functions.iter().any(|other| other.name() == stage.name()));
        let ends = !self.forwarder.stands_for() || self.forwarder.name() == old.forwarder.name();
        ends && found.all(|found| found) && self.can_take_over_stages(old)
    }

    /// Moves what stays over from `old`; what is left of that is to be dropped. Words of functions that are gone are
    /// retired: see [`Self::swept`].
    pub(super) fn take_over(&mut self, old: &mut Self) {
        for stage in self.functions.iter_mut().filter(|stage| stage.stands_for()) {
            if let Some(stays) = old.functions.iter_mut().find(|found| found.name() == stage.name()) {
                std::mem::swap(stage, stays);
            }
        }
        if self.forwarder.stands_for() && self.forwarder.name() == old.forwarder.name() {
            std::mem::swap(&mut self.forwarder, &mut old.forwarder);
        }
        self.take_over_stages(old);
        self.number_segments(old);
        self.domain = old.domain;
        self.counters = old.counters;
        std::mem::swap(&mut self.fragments, &mut old.fragments);
        self.retired = std::mem::take(&mut old.retired);
        let gone = old
            .stages()
            .filter_map(|stage| stage.part().map(|part| Retired { part, outlived: stage.outlived() }));
        self.retired.extend(gone);
    }

    /// Gives the functions in `fresh` (by place; the forwarder is last) words that nobody has.
    pub(super) fn number_parts(&mut self, fresh: &[bool]) {
        let mut taken = [false; PARTS_MAX];
        let mut take = |part: usize| taken.get_mut(part).is_some_and(|taken| !std::mem::replace(taken, true));
        self.retired.iter().for_each(|retired| _ = take(retired.part));
        for (stage, _) in self.stages().zip(fresh).filter(|(_, fresh)| !**fresh) {
            stage.part().map(&mut take);
        }
        for (stage, _) in self.stages_mut().zip(fresh).filter(|(_, fresh)| **fresh) {
            if stage.part().is_some() {
                let free = (0..PARTS_MAX).find(|&part| take(part));
                stage.set_part(free.unwrap_or(PARTS_MAX));
            }
        }
        self.parts = self.stages().filter_map(Stage::part).map(|part| part + 1).max().unwrap_or(0);
    }

    /// Words that are free for further functions, of `parts` that sessions have, when those in `kept` stay.
    pub(super) fn free_parts(&self, parts: usize, kept: &[&str]) -> usize {
        let taken = self.stages().filter(|stage| kept.contains(&stage.name())).filter_map(Stage::part);
        // What goes now is retired first.
        let going = self.stages().filter(|stage| !kept.contains(&stage.name())).filter_map(Stage::part);
        parts.saturating_sub(taken.count() + going.count() + self.retired.len())
    }

    fn stages(&self) -> impl Iterator<Item = &dyn Stage> {
        let last: &dyn Stage = &*self.forwarder;
        self.functions.iter().map(|stage| &**stage).chain([last])
    }

    fn stages_mut(&mut self) -> impl Iterator<Item = &mut dyn Stage> {
        let last: &mut dyn Stage = &mut *self.forwarder;
        self.functions.iter_mut().map(|stage| &mut **stage as &mut dyn Stage).chain([last])
    }

    /// Which of its functions are new: they stand for none of another chain.
    pub(super) fn fresh(&self) -> Vec<bool> {
        self.stages().map(|stage| !stage.stands_for()).collect()
    }

    /// True if no function that is gone held what the session can't do without.
    pub(super) fn outlived(&self, id: SessionId, state: &FlowState) -> bool {
        self.retired.iter().all(|retired| (retired.outlived)(state.sessions.part(id, retired.part)))
    }

    /// A session was looked at: it ends if it must, else it forgets the words of `parts`.
    pub(super) fn sweep(&self, id: SessionId, parts: &[usize], state: &mut FlowState) {
        if !self.outlived(id, state) {
            state.end_session(id);
            return;
        }
        parts.iter().for_each(|&part| state.sessions.set_part(id, part, 0));
    }

    /// No session has these words any more.
    pub(super) fn swept(&mut self, parts: &[usize]) {
        self.retired.retain(|retired| !parts.contains(&retired.part));
    }
}
