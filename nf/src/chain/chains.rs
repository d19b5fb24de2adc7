//! All chains of an instance, the ports that lead to them, and how both change while packets flow (R8).

use super::expected::Expected;
use super::{Chain, tuple_of};
use crate::explain::Explanation;
use crate::headers::Headers;
use crate::walk::{Direction, port_watch};
use crate::zone::ZoneId;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::field::Reads;
use millrace_dataplane::flow::state::{Event, FlowState};
use millrace_dataplane::flow::validity::Validity;
use millrace_dataplane::limits::PACKET_FUNCTIONS_MAX;
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::{Decision, Fate, Miss, SlowPath};
use millrace_dataplane::stage::{Stage, StageLink};
use millrace_dataplane::time::Time;
use std::collections::VecDeque;
use std::fmt::Write;

/// What a port leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The chain's place.
    pub chain: usize,
    /// The zone from which packets walk it.
    pub zone: ZoneId,
    /// The segment that they enter: 0 and last are the ends, others lie behind packet functions.
    pub segment: usize,
    /// That of the sessions of the segment.
    pub domain: u16,
    /// The port that received them: itself, unless it is a logical one.
    pub ingress: PortId,
    /// They turned round in a later segment (a hairpin) and walk back; or another worker walked them forwards.
    pub turned: bool,
}

impl Attachment {
    /// True if packets walk the segment in the order of the configuration.
    pub(super) fn is_forward(&self) -> bool {
        self.zone == ZoneId(0) && !self.turned
    }

    /// Which way they walk the segment.
    pub(super) fn direction(&self) -> Direction {
        if self.is_forward() { Direction::Forward } else { Direction::Backward }
    }
}

/// The domain of a chain's segment: sessions of different segments never meet.
pub(super) const fn domain_of(chain: usize, segment: u8) -> u16 {
    (chain as u16 & 0xff) | (segment as u16) << 8
}

/// Most chains at a time, those included whose sessions are still being ended: a domain has eight bits for them.
pub const CHAINS_MAX: usize = 1 << 8;

/// Segments that a packet may walk: forwards and back.
const SEGMENTS_MAX: usize = 2 * (PACKET_FUNCTIONS_MAX + 1);

/// A pass over all sessions that were there when it began, a slice at a time.
#[derive(Debug)]
struct Sweep {
    place: usize,
    what: Sweeps,
    next: u32,
    end: u32,
}

#[derive(Debug)]
enum Sweeps {
    /// Ends the sessions of a chain that is gone; its place is free behind it.
    Chain,
    /// Clears words of functions that are gone, or ends the sessions that can't do without.
    Parts(Vec<usize>),
}

/// The chains of an instance, with the ports that lead to them: what the data plane calls on a miss.
#[derive(Debug, Default)]
pub struct Chains {
    pub(super) chains: Vec<Option<Chain>>,
    pub(super) ports: Vec<Option<Attachment>>,
    /// The logical ones among them, in the order of their numbers.
    pub(super) logical: Vec<PortId>,
    pub(super) next_logical: usize,
    /// Ways to packet functions that are gone, by which packets still come back.
    pub(super) leaving: Vec<Stage>,
    sweeps: VecDeque<Sweep>,
    expected: Expected,
    now: Time,
}

impl Chains {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a chain. Its place is its domain.
    ///
    /// # Panics
    /// If there are [`CHAINS_MAX`] already: see [`Self::room`].
    pub fn insert(&mut self, mut chain: Chain) -> usize {
        let swept = |at: &usize| self.sweeps.iter().any(|sweep| sweep.place == *at);
        let free = (0..self.chains.len()).find(|at| self.chains[*at].is_none() && !swept(at));
        let at = free.unwrap_or(self.chains.len());
        assert!(at < CHAINS_MAX, "a domain has no bits for more chains");
        chain.domain = domain_of(at, 0);
        let reads = chain.reads();
        chain.headers.declare(&reads);
        if at == self.chains.len() {
            self.chains.push(None);
        }
        self.chains[at] = Some(chain);
        at
    }

    /// How many more chains there may be now.
    pub fn room(&self) -> usize {
        let ending = self.sweeps.iter().filter(|sweep| matches!(sweep.what, Sweeps::Chain)).count();
        CHAINS_MAX - self.iter().count() - ending
    }

    /// Takes a chain out. Its decisions are void at once, and no port leads to it; its sessions end in slices of the timers.
    /// Until they have, no other chain has its place. What it was comes back, to be dropped where that takes no packet's time.
    pub fn remove(&mut self, at: usize, state: &mut FlowState) -> Option<Chain> {
        let mut chain = self.chains.get_mut(at)?.take()?;
        self.void(at, &mut state.validity);
        self.keep_leaving(&mut chain);
        self.ports.iter_mut().filter(|to| to.is_some_and(|to| to.chain == at)).for_each(|to| *to = None);
        self.list_logical();
        self.begin(at, Sweeps::Chain, state);
        Some(chain)
    }

    /// Replaces the chain at a place. Functions that `chain` keeps ([`super::ChainBuilder::keep`]) move over with their state,
    /// and sessions go on where these are all that they need. All decisions of the chain are void. What is left of the old
    /// one comes back.
    ///
    /// # Errors
    /// `chain` itself, if it keeps a function that is not there; nothing has changed then.
    pub fn replace(
        &mut self,
        at: usize,
        mut chain: Chain,
        state: &mut FlowState,
    ) -> Result<Chain, Box<Chain>> {
        let Some(old) =
            self.chains.get_mut(at).and_then(Option::as_mut).filter(|old| chain.can_take_over(old))
        else {
            return Err(Box::new(chain));
        };
        let fresh = chain.fresh();
        let before = old.retired.len();
        chain.take_over(old);
        chain.number_parts(&fresh);
        let reads = chain.reads();
        chain.headers.declare(&reads);
        let gone: Vec<usize> = chain.retired.iter().skip(before).map(|retired| retired.part).collect();
        let mut old = std::mem::replace(old, chain);
        self.void(at, &mut state.validity);
        self.keep_leaving(&mut old);
        if !gone.is_empty() {
            self.begin(at, Sweeps::Parts(gone), state);
        }
        self.free_stages(&old);
        self.connect(at);
        Ok(old)
    }

    /// Words that a chain can give to new functions while those in `kept` stay, of `parts` that sessions have.
    pub fn free_parts(&self, at: usize, parts: usize, kept: &[&str]) -> usize {
        self.get(at).map_or(parts, |chain| chain.free_parts(parts, kept))
    }

    /// True while sessions of chains or functions that are gone are still being looked for.
    pub fn is_sweeping(&self) -> bool {
        !self.sweeps.is_empty()
    }

    /// The ports that lead to a chain.
    pub fn ports_of(&self, at: usize) -> impl Iterator<Item = PortId> + '_ {
        let ports = self.ports.iter().zip(0u16..);
        ports.filter(move |(to, _)| to.is_some_and(|to| to.chain == at)).map(|(_, port)| PortId(port))
    }

    /// All decisions about packets from the ports of a chain are void.
    fn void(&self, at: usize, validity: &mut Validity) {
        let watches: Vec<_> = self.ports_of(at).map(port_watch).collect();
        validity.within(at as u8).change_all(&watches);
    }

    fn begin(&mut self, place: usize, what: Sweeps, state: &FlowState) {
        self.sweeps.push_back(Sweep { place, what, next: 0, end: state.sessions.high_water() });
    }

    /// Asks for the memory of packets that walk soon whose place follows from what was asked for first: what functions make of them,
    /// and where their answer's session is found.
    fn prefetch_behind(&mut self, state: &FlowState) {
        self.expected.walked();
        for _ in 0..self.expected.due() {
            let Some((at, mut tuple)) = self.expected.next() else { return };
            let Some(chain) = self.get(at) else { continue };
            chain.functions.iter().for_each(|function| function.prefetch_behind(&mut tuple));
            state.sessions.prefetch(&tuple.inverse());
        }
    }

    /// A slice of the first sweep: at most `budget` sessions.
    fn sweep(&mut self, budget: usize, state: &mut FlowState) {
        let Some(sweep) = self.sweeps.front_mut() else { return };
        let last = sweep.next.saturating_add(u32::try_from(budget).unwrap_or(u32::MAX)).min(sweep.end);
        let chain = self.chains.get_mut(sweep.place).and_then(Option::as_mut);
        for number in std::mem::replace(&mut sweep.next, last)..last {
            let Some(id) = state.sessions.get(number) else { continue };
            if usize::from(state.sessions.tuples(id)[0].domain & 0xff) != sweep.place {
                continue;
            }
            match (&sweep.what, &chain) {
                (Sweeps::Chain, _) => state.end_session(id),
                (Sweeps::Parts(parts), Some(chain)) => chain.sweep(id, parts, state),
                (Sweeps::Parts(_), None) => {}
            }
        }
        if sweep.next == sweep.end {
            if let (Sweeps::Parts(parts), Some(chain)) = (&sweep.what, chain) {
                chain.swept(parts);
            }
            self.sweeps.pop_front();
        }
    }

    /// As [`Self::attach`] or [`Self::detach`] while packets flow: decisions about the port's packets fall if it leads elsewhere
    /// now. True if it does.
    pub fn reattach(&mut self, port: PortId, to: Option<(usize, ZoneId)>, validity: &mut Validity) -> bool {
        let before = self.attachment(port);
        let logical: Vec<PortId> = self.logical_ports_of(port).collect();
        match to {
            Some((chain, zone)) => self.attach(port, chain, zone),
            None => self.detach(port),
        }
        let moved = self.attachment(port) != before;
        if let Some(before) = before.filter(|_| moved) {
            let mut validity = validity.within(before.chain as u8);
            validity.change(port_watch(port));
            logical.into_iter().for_each(|port| validity.change(port_watch(port)));
        }
        moved
    }

    /// As [`Self::attach_turned`] while packets flow.
    pub fn reattach_turned(&mut self, port: PortId, chain: usize, validity: &mut Validity) {
        let before = self.attachment(port);
        self.attach_turned(port, chain);
        if let Some(before) = before.filter(|before| Some(*before) != self.attachment(port)) {
            validity.within(before.chain as u8).change(port_watch(port));
        }
    }

    /// Packets from `port` walk `chain` from `zone`.
    pub fn attach(&mut self, port: PortId, chain: usize, zone: ZoneId) {
        let before = self.attachment(port).map(|to| to.chain);
        // Where they enter follows from the chain.
        let (segment, domain) = (0, domain_of(chain, 0));
        self.attach_segment(port, Attachment { chain, zone, segment, domain, ingress: port, turned: false });
        before.into_iter().filter(|before| *before != chain).for_each(|before| self.connect(before));
        self.connect(chain);
    }

    /// From `port` come hairpins that another worker walked forwards: they walk `chain` backwards, from where they turn.
    pub fn attach_turned(&mut self, port: PortId, chain: usize) {
        let (zone, segment, domain) = (ZoneId(0), 0, domain_of(chain, 0));
        self.attach_segment(port, Attachment { chain, zone, segment, domain, ingress: port, turned: true });
        self.connect(chain);
    }

    pub(super) fn attach_segment(&mut self, port: PortId, attachment: Attachment) {
        let at = usize::from(port.0);
        if self.ports.len() <= at {
            self.ports.resize(at + 1, None);
        }
        self.ports[at] = Some(attachment);
    }

    /// Packets from `port` go nowhere.
    pub fn detach(&mut self, port: PortId) {
        let before = self.ports.get_mut(usize::from(port.0)).and_then(Option::take);
        before.into_iter().for_each(|before| self.connect(before.chain));
    }

    /// The chain and zone behind a port.
    pub fn attachment(&self, port: PortId) -> Option<Attachment> {
        self.ports.get(usize::from(port.0)).copied().flatten()
    }

    /// All chains with their places, which are their domains.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Chain)> {
        self.chains.iter().enumerate().filter_map(|(at, chain)| Some((at, chain.as_ref()?)))
    }

    /// A chain by its place.
    pub fn get(&self, at: usize) -> Option<&Chain> {
        self.chains.get(at)?.as_ref()
    }

    /// A chain by its place, to be changed.
    pub fn chain(&mut self, at: usize) -> Option<&mut Chain> {
        self.chains.get_mut(at)?.as_mut()
    }

    /// The place of the chain of this name.
    pub fn place_of(&self, name: &str) -> Option<usize> {
        self.iter().find(|(_, chain)| chain.name == name).map(|(at, _)| at)
    }

    /// A chain by its name.
    pub fn chain_named(&mut self, name: &str) -> Option<&mut Chain> {
        self.chains.iter_mut().flatten().find(|chain| chain.name == name)
    }

    /// Most words that any chain keeps in a session.
    pub fn parts(&self) -> usize {
        self.iter().map(|(_, chain)| chain.parts()).max().unwrap_or(0)
    }

    /// What would become of a packet that walks, and why. Nothing comes true, and nothing is counted (R6); none if the port leads
    /// to no chain.
    pub fn explain(&mut self, miss: &Miss<'_>, state: &FlowState) -> Option<Explanation> {
        self.explain_from(miss, state, SEGMENTS_MAX)
    }

    /// The functions' declarations changed: what a walk may read follows. The engine compiles the keys anew.
    pub fn declare(&mut self) {
        for chain in self.chains.iter_mut().flatten() {
            let reads = chain.reads();
            chain.headers.declare(&reads);
        }
    }
}

impl SlowPath for Chains {
    fn reads(&self, port: PortId) -> Reads {
        self.attachment(port).and_then(|to| self.get(to.chain)).map(Chain::reads).unwrap_or_default()
    }

    fn is_known(&self, miss: &Miss<'_>, state: &FlowState) -> bool {
        let Some(to) = self.attachment(miss.port) else { return false };
        // A flood asks this for each of its packets.
        if let Some(tuple) = tuple_of(miss, to.domain) {
            return state.sessions.find(&tuple).is_some();
        }
        let mut headers = Headers::empty();
        headers.read(miss.bytes, miss.layout).is_ok()
            && headers.original_tuple(to.domain).is_some_and(|tuple| state.sessions.find(&tuple).is_some())
    }

    fn prefetch(&mut self, miss: &Miss<'_>, walks: bool, state: &FlowState) {
        let Some(to) = self.attachment(miss.port) else { return };
        let Some(tuple) = tuple_of(miss, to.domain) else { return };
        state.sessions.prefetch(&tuple);
        if !walks {
            return;
        }
        let direction = to.direction();
        if let Some(chain) = self.get(to.chain) {
            chain.functions.iter().for_each(|function| function.prefetch(&tuple, direction));
        }
        if direction == Direction::Forward {
            self.expected.push(to.chain, tuple, miss.now);
        }
    }

    fn say_why(&mut self, miss: &Miss<'_>, state: &FlowState, reason: DropReason, text: &mut String) {
        let said = self.explain(miss, state);
        if let Some(step) = said.as_ref().and_then(|said| said.dropped_by(reason)) {
            // A string takes any text.
            let _ = write!(text, "{step}");
        }
    }

    fn decide(&mut self, miss: &Miss<'_>, state: &mut FlowState, decision: &mut Decision) {
        self.now = miss.now;
        let Some(to) = self.attachment(miss.port) else {
            decision.fate = Fate::Drop(DropReason::NoOutput);
            return;
        };
        let Self { chains, ports, .. } = self;
        match chains.get_mut(to.chain).and_then(Option::as_mut) {
            Some(chain) => chain.decide(miss, to, ports, state, decision),
            None => decision.fate = Fate::Drop(DropReason::NoOutput),
        }
        self.prefetch_behind(state);
    }

    fn events(&mut self, events: &[Event], state: &mut FlowState) {
        let (now, sessions) = (self.now, &state.sessions);
        let place = |event: &Event| match event {
            Event::Traffic { domain, .. } => domain & 0xff,
            Event::Ended { session, .. } => sessions.domain(*session) & 0xff,
        };
        for events in events.chunk_by(|a, b| place(a) == place(b)) {
            let chain = events.first().and_then(|event| self.chain(usize::from(place(event))));
            if let Some(chain) = chain {
                chain.events(events, now, sessions);
            }
        }
    }

    fn logical_ports(&self) -> &[PortId] {
        &self.logical
    }

    fn stage(&mut self, port: PortId) -> Option<&mut Stage> {
        self.stage_of(port)
    }

    fn take_returned(&mut self, at: usize, burst: &mut Burst, lost: &mut u64) -> bool {
        if let Some(link) = self.links().nth(at) {
            link.take(burst);
            *lost += link.take_lost();
            return true;
        }
        // Here and not before, so that the others keep their numbers.
        self.leaving.retain(|stage| stage.under_way() > 0);
        false
    }

    fn has_returned(&self) -> bool {
        self.stages().any(|stage| matches!(stage, Stage::Apart { link, .. } if link.has_returned()))
    }

    fn under_way(&self) -> u64 {
        self.stages().map(Stage::under_way).sum()
    }

    fn close_stages(&mut self) -> u64 {
        self.links().map(StageLink::close).sum()
    }

    fn tick(&mut self, now: Time, budget: usize, state: &mut FlowState, decision: &mut Decision) {
        self.now = now;
        for chain in self.chains.iter_mut().flatten() {
            chain.tick(now, budget, state, decision);
        }
        self.sweep(budget, state);
    }
}
