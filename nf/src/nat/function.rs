//! The NAT as a function of a chain: what is translated, and what a session keeps of it.
//!
//! From inside (walked forwards) sources become external, from outside (walked backwards) destinations become inside ones.
//! The first packet of a session looks up or proposes mappings; `commit` keeps the session's share in them in its [`Word`],
//! and every later packet, whichever way it goes, is translated by that share alone (R8). A hairpin walks both ways and
//! keeps two shares, one for each end (RFC 4787 section 6 REQ-9).
//!
//! Shares of ended sessions are given back together: `ended` only asks for the memory, and `tick`, which follows every
//! slice of expiry, finds it there.

use super::filter::Filtering;
use super::mapping::{Mapping, MappingId};
use super::plan::NatPlan;
use super::refusal::Refusal;
use super::scope::{NatConfig, SCOPE, Scope};
use super::secret::Secret;
use super::state::{Capacity, Hold, NatState, Proposal, ReleaseHashes, SweepPending};
use super::tuple::{Inside, Protocol};
use super::word::{End, Share, Word};
use crate::explain::Notes;
use crate::function::{FlowFunction, Verdict};
use crate::walk::{Commit, Direction, Tick, Walk};
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::session::Tuple;
use millrace_dataplane::flow::validity::Watch;
use millrace_dataplane::memory::{Arena, ArenaError};
use millrace_dataplane::time::Time;
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

/// What the walk of a session's first packet proposes for one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    /// A mapping to be made.
    Make(End, Proposal),
    /// A share in a mapping that exists.
    Join(End, MappingId),
    /// Addresses alone: inside, external.
    Addresses(End, Ipv4Addr, Ipv4Addr),
    /// Nothing: the drop is counted.
    Refused(Refusal, Protocol),
}

/// A change of configuration that is under way.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    /// Sessions from this number on have not been looked at.
    session: Option<u32>,
}

/// Most ended sessions whose shares wait to be given back.
const ENDED_MAX: usize = 64;

/// How many shares ahead their memory is asked for.
const AHEAD: usize = 8;

/// A share to be given back.
#[derive(Clone, Copy, Debug)]
struct Ended {
    share: Share,
    remote: Ipv4Addr,
}

/// The function.
#[derive(Debug)]
pub struct Nat {
    pub(super) config: NatConfig,
    pub(super) scope: Scope,
    pub(super) state: NatState,
    ended: Vec<Ended>,
    scope_changed: bool,
    sweep: Option<Sweep>,
    falling: Vec<MappingId>,
}

impl Nat {
    /// A NAT that has seen no packet. All look-ups are keyed by `secret`; the tables lie in `arena`.
    ///
    /// # Errors
    /// The arena has no room for the tables.
    pub fn new(
        config: NatConfig,
        capacity: &Capacity,
        secret: &Secret,
        arena: &Arena,
    ) -> Result<Self, ArenaError> {
        Ok(Self {
            scope: Scope::new(&config),
            state: NatState::new(Arc::clone(&config.plan), capacity, secret, arena)?,
            ended: Vec::with_capacity(ENDED_MAX),
            scope_changed: false,
            sweep: None,
            falling: Vec::new(),
            config,
        })
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
            self.sweep = Some(Sweep { session: Some(0) });
        }
        self.scope_changed |=
            scope != self.scope || config.plan.rules().one_to_one() != self.config.plan.rules().one_to_one();
        self.scope = scope;
        self.config = config;
        Ok(())
    }

    /// What decisions that translate nothing depend on, if the last change concerns them and no timer has said so yet.
    pub fn take_scope_change(&mut self) -> Option<Watch> {
        std::mem::take(&mut self.scope_changed).then_some(SCOPE)
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
        self.state.shares() - self.ended.len()
    }

    pub(super) fn plan(&self) -> &NatPlan {
        &self.config.plan
    }

    fn bind(&mut self, staged: &Staged, commit: &Commit<'_>) -> Result<(End, Share), Refusal> {
        let (end, hold) = match *staged {
            Staged::Make(end, ref proposal) => {
                (end, self.state.commit(proposal, self.remote_at_commit(commit, end))?)
            }
            Staged::Join(end, mapping) => {
                (end, self.state.acquire(mapping, self.remote_at_commit(commit, end))?)
            }
            Staged::Addresses(end, inside, external) => (end, self.state.hold_addresses(inside, external)?),
            Staged::Refused(refusal, _) => return Err(refusal),
        };
        Ok((end, Share { mapping: hold.mapping, recorded: hold.recorded }))
    }

    /// The remote address of a session that begins, where filtering needs it.
    fn remote_at_commit(&self, commit: &Commit<'_>, end: End) -> Ipv4Addr {
        match commit.session {
            Some(session) if self.plan().settings().filtering == Filtering::AddressDependent => {
                remote_of(commit.state.sessions.tuple(session, end == End::Responder))
            }
            _ => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// Gives back the shares of ended sessions, so that none waits for memory: their mappings' rows were asked for when they
    /// ended, what those lead to is asked for here, a few shares ahead.
    fn settle(&mut self) {
        let mut asked = [ReleaseHashes::default(); AHEAD];
        for at in 0..self.ended.len() + AHEAD {
            let hashes = &mut asked[at % AHEAD];
            if let Some(Ended { share, remote }) = at.checked_sub(AHEAD).map(|at| self.ended[at]) {
                let hold = Hold { mapping: share.mapping, remote, recorded: share.recorded };
                self.state.release_at(hashes, &hold);
            }
            if let Some(next) = self.ended.get(at) {
                *hashes = self.state.release_hashes(next.share.mapping);
                self.state.prefetch_release(hashes);
            }
        }
        self.ended.clear();
    }

    /// Would the configuration in force not make the mapping of this share?
    fn falls(&self, share: Share) -> bool {
        if let Some(mapping) = self.state.mapping(share.mapping) {
            return !self.plan().keeps(&mapping);
        }
        self.state.faces(share.mapping).is_some_and(|faces| {
            self.plan().rules().one_to_one_external(faces.inside.0) != Some(faces.external.0)
        })
    }

    fn sweep(&mut self, tick: &mut Tick<'_>) {
        let Some(Sweep { session }) = self.sweep else { return };
        self.falling.clear();
        // The state looks at a sixteenth as many addresses, and at one at least.
        let done = self.state.sweep(tick.budget.max(16), &mut self.falling);
        let session = session.and_then(|session| {
            tick.each_part(session, tick.budget, |part| {
                let word = Word(part);
                End::ALL.iter().filter_map(|&end| word.share(end)).any(|share| self.falls(share))
            })
        });
        self.sweep = (!done || session.is_some()).then_some(Sweep { session });
    }
}

/// The remote address of an end of a session, by what the end sends: whom the initiator calls, or whom the responder answers.
fn remote_of(tuple: &Tuple) -> Ipv4Addr {
    match tuple.destination_address() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

/// The protocol of a tuple with its IPv4 source or destination.
fn endpoint_of(tuple: &Tuple, source: bool) -> Option<(Protocol, SocketAddrV4)> {
    let (address, port) = match source {
        true => (tuple.source_address(), tuple.source_port),
        false => (tuple.destination_address(), tuple.destination_port),
    };
    let IpAddr::V4(address) = address else { return None };
    Some((Protocol::from_ip(tuple.protocol)?, SocketAddrV4::new(address, port)))
}

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

    fn explain(&self, walk: &Walk<'_>, staged: Option<&Staged>, notes: &mut Notes) {
        self.say_mappings(walk, staged, notes);
    }

    fn commit(&mut self, staged: Staged, commit: &mut Commit<'_>) {
        if let Staged::Refused(refusal, protocol) = staged {
            return self.state.count_refusal(refusal, protocol);
        }
        // Without a session (another protocol's query over a 1:1 rule) there is nothing to keep.
        if commit.session.is_none() {
            return;
        }
        match self.bind(&staged, commit) {
            Ok((end, share)) => commit.set_part(Word(commit.part()).with(end, share).0),
            // Both proposals of a hairpin were possible, but not together. What the session got is given back as it ends.
            Err(refusal) => {
                self.state.count_failure(refusal);
                commit.refuse(refusal.drop_reason());
            }
        }
    }

    fn ended(&mut self, part: u64, tuples: [&Tuple; 2], _now: Time) {
        let word = Word(part);
        for (end, tuple) in End::ALL.into_iter().zip(tuples) {
            let Some(share) = word.share(end) else { continue };
            self.state.prefetch_mapping(share.mapping);
            let remote = if share.recorded { remote_of(tuple) } else { Ipv4Addr::UNSPECIFIED };
            self.ended.push(Ended { share, remote });
        }
        if self.ended.len() >= ENDED_MAX {
            self.settle();
        }
    }

    fn prefetch(&self, tuple: &Tuple, direction: Direction) {
        match (direction, endpoint_of(tuple, direction == Direction::Forward)) {
            (Direction::Forward, Some((protocol, endpoint))) => {
                self.state.prefetch_outbound(&Inside { protocol, endpoint });
            }
            (Direction::Backward, Some((protocol, external))) => {
                self.state.prefetch_inbound(protocol, external);
            }
            _ => {}
        }
    }

    fn prefetch_behind(&self, tuple: &mut Tuple) {
        let Some((protocol, endpoint)) = endpoint_of(tuple, true) else { return };
        if self.scope.covers(*endpoint.ip())
            && let Some(external) = self.state.prefetch_external(&Inside { protocol, endpoint })
        {
            tuple.source = external.ip().to_ipv6_mapped().octets();
            tuple.source_port = external.port();
        }
    }

    fn hairpins(&self, walk: &mut Walk<'_>) -> bool {
        if !walk.headers.is_ipv4() {
            return false;
        }
        if walk.headers.embedded().is_some() {
            let Some(related) = walk.related else { return false };
            let word = Word(walk.related_part().unwrap_or(0));
            return word.share(End::receiver(related.reply)).is_some();
        }
        match walk.session {
            Some(session) => {
                let word = Word(walk.part().unwrap_or(0));
                word.share(End::receiver(session.reply)).is_some()
            }
            None => self.is_hairpin(walk),
        }
    }

    fn may_hairpin(&self) -> bool {
        true
    }

    fn tick(&mut self, tick: &mut Tick<'_>) {
        self.settle();
        self.state.advance(tick.now, 1);
        if let Some(scope) = self.take_scope_change() {
            tick.changed(scope);
        }
        self.sweep(tick);
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
