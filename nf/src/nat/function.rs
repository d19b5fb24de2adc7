//! The NAT as a function of a chain: what is translated, and what a session keeps of it.
//!
//! From inside (walked forwards) sources become external, from outside (walked backwards) destinations become inside ones.
//! The first packet of a session looks up or proposes mappings; `commit` keeps the session's share in them as a [`Binding`],
//! and every later packet, whichever way it goes, is translated by that binding alone (R8). A hairpin walks both ways and
//! keeps two bindings, one for each end (RFC 4787 section 6 REQ-9).

use super::bindings::{Binding, Bindings, End, Word};
use super::mapping::{Mapping, MappingId};
use super::plan::NatPlan;
use super::refusal::Refusal;
use super::scope::{NatConfig, SCOPE, Scope};
use super::secret::Secret;
use super::state::{Capacity, NatState, Proposal, SweepPending};
use super::tuple::Protocol;
use crate::function::{FlowFunction, Verdict};
use crate::walk::{Commit, Tick, Walk};
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::session::{SessionId, Tuple};
use millrace_dataplane::time::Time;
use std::any::Any;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What the walk of a session's first packet proposes for one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    /// A mapping to be made.
    Make(End, Proposal, Ipv4Addr),
    /// A share in a mapping that exists.
    Join(End, MappingId, Ipv4Addr),
    /// Addresses alone: inside, external.
    Addresses(End, Ipv4Addr, Ipv4Addr),
    /// Nothing: the drop is counted.
    Refused(Refusal, Protocol),
}

/// A change of configuration that is under way.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    /// Bindings from here on have not been looked at.
    place: Option<usize>,
}

/// The function.
#[derive(Debug)]
pub struct Nat {
    pub(super) config: NatConfig,
    pub(super) scope: Scope,
    pub(super) state: NatState,
    pub(super) bindings: Bindings,
    /// Sessions that could not get their binding; they end at the next tick.
    broken: Vec<(SessionId, [Tuple; 2])>,
    scope_changed: bool,
    sweep: Option<Sweep>,
    falling: Vec<MappingId>,
}

impl Nat {
    /// A NAT that has seen no packet. All look-ups are keyed by `secret`.
    pub fn new(config: NatConfig, capacity: &Capacity, secret: &Secret) -> Self {
        Self {
            scope: Scope::new(&config),
            state: NatState::new(Arc::clone(&config.plan), capacity, secret),
            bindings: Bindings::with_capacity(capacity.mappings),
            broken: Vec::new(),
            scope_changed: false,
            sweep: None,
            falling: Vec::new(),
            config,
        }
    }

    /// Brings another configuration into force. Mappings that it would not make end with their sessions, in slices of
    /// timers; all others go on (R8).
    ///
    /// # Errors
    /// While an earlier change is under way.
    pub fn reconfigure(&mut self, config: NatConfig) -> Result<(), SweepPending> {
        if self.sweep.is_some() {
            return Err(SweepPending);
        }
        let scope = Scope::new(&config);
        if *config.plan != *self.config.plan {
            self.state.reconfigure(Arc::clone(&config.plan))?;
            self.sweep = Some(Sweep { place: Some(0) });
        }
        self.scope_changed |= scope != self.scope
            || config.plan.pool() != self.config.plan.pool()
            || config.plan.rules().one_to_one() != self.config.plan.rules().one_to_one();
        self.scope = scope;
        self.config = config;
        Ok(())
    }

    /// Is a change of configuration still under way?
    pub fn is_changing(&self) -> bool {
        self.sweep.is_some() || self.scope_changed
    }

    /// The configuration in force.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Mappings, pool, subscribers and refusals, for display.
    pub fn state(&self) -> &NatState {
        &self.state
    }

    /// A page of mappings: those of `slots_max` slots from `slot` on, and where the next page begins.
    pub fn mappings(&self, slot: usize, slots_max: usize) -> (Vec<Mapping>, Option<usize>) {
        let (rows, next) = self.state.mappings().page(slot, slots_max);
        (rows.map(|(_, mapping)| mapping).collect(), next)
    }

    /// Shares in mappings that sessions hold now.
    pub fn bindings(&self) -> usize {
        self.bindings.len()
    }

    pub(super) fn plan(&self) -> &NatPlan {
        &self.config.plan
    }

    fn bind(&mut self, staged: Staged, now: Time) -> Result<(End, Binding), Refusal> {
        match staged {
            Staged::Make(end, proposal, remote) => {
                self.state.commit(&proposal, remote, now).map(|hold| (end, Binding::Mapped(hold)))
            }
            Staged::Join(end, mapping, remote) => {
                self.state.acquire(mapping, remote).map(|hold| (end, Binding::Mapped(hold)))
            }
            Staged::Addresses(end, inside, external) => Ok((end, Binding::Addresses { inside, external })),
            Staged::Refused(refusal, _) => Err(refusal),
        }
    }

    fn release(&mut self, binding: Binding) {
        if let Binding::Mapped(hold) = binding {
            self.state.release(&hold);
        }
    }

    fn release_word(&mut self, word: Word) {
        for end in [End::Initiator, End::Responder] {
            if let Some(binding) = word.place(end).and_then(|place| self.bindings.remove(place)) {
                self.release(binding);
            }
        }
    }

    /// Would the configuration in force not make this binding?
    fn falls(&self, binding: Binding) -> bool {
        match binding {
            Binding::Mapped(hold) => {
                self.state.mapping(hold.mapping).is_some_and(|mapping| !self.plan().keeps(&mapping))
            }
            Binding::Addresses { inside, external } => {
                self.plan().rules().one_to_one_external(DOMAIN, inside) != Some(external)
            }
        }
    }

    fn sweep(&mut self, tick: &mut Tick<'_>) {
        let Some(Sweep { place }) = self.sweep else { return };
        self.falling.clear();
        // The state looks at a sixteenth as many addresses, and at one at least.
        let done = self.state.sweep(tick.budget.max(16), &mut self.falling);
        let place = place.and_then(|place| {
            let (rows, next) = self.bindings.page(place, tick.budget);
            for (binding, session) in rows {
                if self.falls(binding) {
                    tick.end_session(session);
                }
            }
            next
        });
        self.sweep = (!done || place.is_some()).then_some(Sweep { place });
    }
}

/// The routing domain of the inside: a chain has one.
pub(super) const DOMAIN: u16 = 0;

impl FlowFunction for Nat {
    type Staged = Staged;

    fn kind(&self) -> &'static str {
        "nat"
    }

    fn reads(&self) -> Reads {
        Reads::none().with(&[
            Field::Ipv4Source,
            Field::Ipv4Destination,
            Field::SourcePort,
            Field::DestinationPort,
            Field::IcmpType,
            Field::IcmpCode,
            Field::IcmpIdentifier,
        ])
    }

    fn keeps_part(&self) -> bool {
        true
    }

    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<Staged>) {
        if let Some(clamp) = self.config.mss_clamp.filter(|_| !walk.hairpin) {
            clamp.apply(walk.headers, walk.frame);
        }
        if !walk.headers.is_ipv4() {
            return (Verdict::Continue, None);
        }
        if walk.headers.embedded().is_some() {
            return (self.admit_error(walk), None);
        }
        match walk.part() {
            Some(word) => (self.follow(walk, Word(word)), None),
            None => self.open(walk),
        }
    }

    fn commit(&mut self, staged: Staged, commit: &mut Commit<'_>) {
        if let Staged::Refused(refusal, protocol) = staged {
            return self.state.count_refusal(refusal, protocol);
        }
        // Without a session (another protocol's query over a 1:1 rule) there is nothing to keep.
        let Some(session) = commit.session else { return };
        let word = Word(commit.part());
        if word == Word::BROKEN {
            return;
        }
        if let Ok((end, binding)) = self.bind(staged, commit.now) {
            match self.bindings.insert(binding, session) {
                Some(place) => return commit.set_part(word.with(end, place).0),
                None => self.release(binding),
            }
        }
        // Both proposals of a hairpin were possible, but not together.
        self.release_word(word);
        commit.set_part(Word::BROKEN.0);
        self.broken.push((session, commit.state.sessions.tuples(session)));
    }

    fn ended(&mut self, part: u64, _tuples: &[Tuple; 2], _now: Time) {
        if Word(part) != Word::BROKEN {
            self.release_word(Word(part));
        }
    }

    fn hairpins(&self, walk: &mut Walk<'_>) -> bool {
        if !walk.headers.is_ipv4() {
            return false;
        }
        if walk.headers.embedded().is_some() {
            let Some(related) = walk.related else { return false };
            let word = Word(walk.related_part().unwrap_or(0));
            return word.place(End::receiver(related.reply)).is_some();
        }
        match walk.session {
            Some(session) => {
                let word = Word(walk.part().unwrap_or(0));
                word.place(End::receiver(session.reply)).is_some()
            }
            None => self.is_hairpin(walk),
        }
    }

    fn tick(&mut self, tick: &mut Tick<'_>) {
        self.state.advance(tick.now, 1);
        for (session, tuples) in self.broken.drain(..) {
            // Its number may be another's by now.
            if tick.state.sessions.get(session.0).is_some() && tick.state.sessions.tuples(session) == tuples {
                tick.end_session(session);
            }
        }
        if std::mem::take(&mut self.scope_changed) {
            tick.changed(SCOPE);
        }
        self.sweep(tick);
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
