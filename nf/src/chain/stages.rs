//! Packet functions in a chain: where they split it, and the logical ports by which packets come in again behind them.
//!
//! What a walk sends to a logical port is worked on by the packet function in front of it, and comes in by that port to walk the
//! next segment. There is one for each packet function and each port of the chain, so that a later segment knows by which
//! port a packet was received: answers go back there, and what the router says depends on it. Ports of the inside have a second
//! one, for what turned round at a NAT (a hairpin, R9) and walks back.

use super::{Attachment, Chain, ChainBuilder, Chains, chains::domain_of};
use crate::explain::{Explanation, Notes, Payload};
use crate::function::PacketFunction;
use crate::headers::{Edit, Headers, serialise};
use crate::zone::ZoneId;
use millrace_dataplane::flow::key::KeySchema;
use millrace_dataplane::flow::state::FlowState;
use millrace_dataplane::limits::{FRAME_BYTES_MAX, LOGICAL_PORTS_MAX, PORTS_MAX};
use millrace_dataplane::packet::Verify;
use millrace_dataplane::packet::parse::parse;
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::{Fate, Miss};
use millrace_dataplane::stage::{LinkCounters, Stage, StageLink};

/// Numbers of logical ports follow those of ports.
const FIRST: usize = PORTS_MAX;
const END: usize = FIRST + LOGICAL_PORTS_MAX;

/// Where a packet function splits a chain.
#[derive(Debug)]
pub(super) struct Boundary {
    pub(super) name: String,
    /// Functions in front of it.
    pub(super) functions: usize,
    /// The packet function; none if it is that of the chain to be replaced.
    pub(super) stage: Option<Stage>,
    pub(super) ways: Vec<Way>,
}

/// A way to the packet function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Of packets that this port received.
    ingress: PortId,
    /// They turned round and walk back.
    turned: bool,
    /// The logical port.
    port: PortId,
}

impl Boundary {
    /// The logical port for packets that were received by `ingress`.
    pub(super) fn port(&self, ingress: PortId, turned: bool) -> Option<PortId> {
        let found = self.ways.iter().find(|way| (way.ingress, way.turned) == (ingress, turned));
        found.map(|way| way.port)
    }

    pub(super) fn leads(&self, port: PortId) -> bool {
        self.ways.iter().any(|way| way.port == port)
    }
}

impl ChainBuilder {
    /// Splits the chain here: what passes goes through a packet function. Each side has its own look-up and sessions.
    #[must_use]
    pub fn packet_function(self, name: impl Into<String>, function: Box<dyn PacketFunction>) -> Self {
        self.split(name.into(), Some(Stage::Inline(function)))
    }

    /// The same with a packet function on a thread of its own (see [`millrace_dataplane::stage`]). `likeness` is made as that one is, and
    /// changed with it: it is asked what would become of packets.
    #[must_use]
    pub fn packet_function_apart(
        self,
        name: impl Into<String>,
        link: StageLink,
        likeness: Box<dyn PacketFunction>,
    ) -> Self {
        self.split(name.into(), Some(Stage::Apart { link, likeness }))
    }

    /// The packet function of this name stays when the chain replaces the one that has it.
    #[must_use]
    pub fn keep_packet_function(self, name: impl Into<String>) -> Self {
        self.split(name.into(), None)
    }

    fn split(mut self, name: String, stage: Option<Stage>) -> Self {
        let functions = self.functions.len();
        self.boundaries.push(Boundary { name, functions, stage, ways: Vec::new() });
        self
    }
}

impl Chain {
    /// A packet function by its name, to be configured or looked at; of one on a thread of its own the likeness.
    pub fn packet_function<F: 'static>(&mut self, name: &str) -> Option<&mut F> {
        let boundary = self.boundaries.iter_mut().find(|boundary| boundary.name == name)?;
        boundary.stage.as_mut()?.function().as_any().downcast_mut()
    }

    /// What passed the way to a packet function that works apart, by its name.
    pub fn stage_link(&self, name: &str) -> Option<LinkCounters> {
        let boundary = self.boundaries.iter().find(|boundary| boundary.name == name)?;
        match boundary.stage.as_ref()? {
            Stage::Inline(_) => None,
            Stage::Apart { link, .. } => Some(link.counters()),
        }
    }

    /// True if all packet functions that stay are there.
    pub(super) fn can_take_over_stages(&self, old: &Self) -> bool {
        let kept = self.boundaries.iter().filter(|boundary| boundary.stage.is_none());
        let mut found = kept.map(|kept| old.boundaries.iter().any(|it| it.name == kept.name));
        found.all(|found| found)
    }

    /// Packet functions that stay move over, with their logical ports: what waits there goes on. Unless a function came to their other
    /// side: what is under way would pass that one twice, or not at all, and finds no port any more.
    pub(super) fn take_over_stages(&mut self, old: &mut Self) {
        for at in 0..self.boundaries.len() {
            let Boundary { name, stage, .. } = &self.boundaries[at];
            let before = old.boundaries.iter().position(|it| it.name == *name);
            let Some(before) = before.filter(|_| stage.is_none()) else { continue };
            let is_crossed = self.is_crossed(at, old, before);
            let (boundary, before) = (&mut self.boundaries[at], &mut old.boundaries[before]);
            boundary.stage = before.stage.take();
            if !is_crossed {
                boundary.ways = std::mem::take(&mut before.ways);
            }
        }
    }

    /// Whether anything is on the one side of the packet function at `at` that was on the other side of it, at `before` in `old`.
    fn is_crossed(&self, at: usize, old: &Self, before: usize) -> bool {
        let (now, then) = (self.boundaries[at].functions, old.boundaries[before].functions);
        let crossed = |here: usize, now: usize, there: Option<usize>, then: usize| {
            there.is_some_and(|there| (here < now) != (there < then))
        };
        let functions = self.functions.iter().enumerate().any(|(here, function)| {
            crossed(here, now, old.functions.iter().position(|it| it.name() == function.name()), then)
        });
        let boundaries = self.boundaries.iter().enumerate().filter(|(here, _)| *here != at);
        functions
            || boundaries.into_iter().any(|(here, boundary)| {
                crossed(here, at, old.boundaries.iter().position(|it| it.name == boundary.name), before)
            })
    }
}

impl Chain {
    /// The segment of the function at this place.
    fn segment_of(&self, function: usize) -> usize {
        self.boundaries.iter().filter(|boundary| boundary.functions <= function).count()
    }

    /// Segments whose functions were in one of `old` go on with its sessions. Others get what no session has.
    pub(super) fn number_segments(&mut self, old: &Self) {
        let mut numbers = vec![None; self.boundaries.len() + 1];
        for (at, function) in self.functions.iter().enumerate().filter(|(_, it)| it.part().is_some()) {
            let before = old.functions.iter().position(|it| it.name() == function.name());
            if let Some(before) = before {
                numbers[self.segment_of(at)] = old.segments.get(old.segment_of(before)).copied();
            }
        }
        let mut next = old.segments.iter().copied().max().unwrap_or(0);
        for number in &mut numbers {
            if number.is_none() {
                next = next.wrapping_add(1);
                while old.segments.contains(&next) {
                    next = next.wrapping_add(1);
                }
                *number = Some(next);
            }
        }
        self.segments = numbers.into_iter().flatten().collect();
    }
}

impl Chains {
    /// Gives each packet function of a chain its logical ports, and frees those that lead nowhere any more.
    pub(super) fn connect(&mut self, at: usize) {
        let Some(chain) = self.chains.get_mut(at).and_then(Option::as_mut) else { return };
        let domains: Vec<u16> = chain.segments.iter().map(|segment| domain_of(at, *segment)).collect();
        let mut boundaries = std::mem::take(&mut chain.boundaries);
        let received: Vec<(PortId, ZoneId)> = (self.ports.iter().take(FIRST).flatten())
            .filter(|to| to.chain == at)
            .map(|to| (to.ingress, to.zone))
            .collect();
        let last = boundaries.len();
        // Where packets turn round.
        let turn = chain.functions.iter().position(|function| function.may_hairpin()).unwrap_or(0);
        let turn = boundaries.iter().filter(|boundary| boundary.functions <= turn).count();
        for (segment, boundary) in boundaries.iter_mut().enumerate() {
            let wanted: Vec<(PortId, ZoneId, bool)> = (received.iter())
                .flat_map(|&(ingress, zone)| [(ingress, zone, false), (ingress, zone, true)])
                .filter(|(_, zone, turned)| !turned || *zone == ZoneId(0))
                .collect();
            boundary.ways.retain(|way| {
                // What is under way from a port that came to another zone would go on in the other direction.
                let zone = self.attachment(way.port).map(|to| to.zone);
                let stays = wanted.iter().any(|&(ingress, now, turned)| {
                    (ingress, turned) == (way.ingress, way.turned) && zone.is_none_or(|before| before == now)
                });
                if !stays {
                    self.free(way.port);
                }
                stays
            });
            for (ingress, zone, turned) in wanted {
                let Some(port) = boundary.port(ingress, turned).or_else(|| self.free_logical()) else {
                    continue;
                };
                if !boundary.leads(port) {
                    boundary.ways.push(Way { ingress, turned, port });
                }
                let forward = zone == ZoneId(0) && !turned;
                let segment = if forward { segment + 1 } else { segment };
                let domain = domains.get(segment).copied().unwrap_or(0);
                self.attach_segment(port, Attachment { chain: at, zone, segment, domain, ingress, turned });
            }
        }
        // Where a port's packets enter depends on how many segments there are.
        for to in self.ports.iter_mut().take(FIRST).flatten().filter(|to| to.chain == at) {
            to.segment = match to.zone {
                ZoneId(0) if to.turned => turn,
                ZoneId(0) => 0,
                _ => last,
            };
            to.domain = domains.get(to.segment).copied().unwrap_or(0);
        }
        if let Some(chain) = self.chains.get_mut(at).and_then(Option::as_mut) {
            chain.boundaries = boundaries;
        }
        self.list_logical();
    }

    /// Frees the logical ports of packet functions that are gone.
    pub(super) fn free_stages(&mut self, gone: &Chain) {
        gone.boundaries.iter().flat_map(|boundary| &boundary.ways).for_each(|way| self.free(way.port));
        self.list_logical();
    }

    /// The logical ports of what a port receives.
    pub fn logical_ports_of(&self, ingress: PortId) -> impl Iterator<Item = PortId> + '_ {
        let ports = self.logical.iter().copied();
        ports.filter(move |port| self.attachment(*port).is_some_and(|to| to.ingress == ingress))
    }

    fn free(&mut self, port: PortId) {
        if let Some(attached) = self.ports.get_mut(usize::from(port.0)) {
            *attached = None;
        }
    }

    /// A number that is not in use, and was not for as long as possible.
    fn free_logical(&mut self) -> Option<PortId> {
        let next = self.next_logical.max(FIRST);
        let is_free = |at: &usize| self.ports.get(*at).is_none_or(Option::is_none);
        let at = (next..END).chain(FIRST..next).find(is_free)?;
        self.next_logical = at + 1;
        Some(PortId(at as u16))
    }

    pub(super) fn list_logical(&mut self) {
        let ports = self.ports.iter().enumerate().skip(FIRST);
        self.logical = ports.filter(|(_, to)| to.is_some()).map(|(at, _)| PortId(at as u16)).collect();
    }

    /// All packet functions.
    pub(super) fn stages(&self) -> impl Iterator<Item = &Stage> {
        let boundaries = self.chains.iter().flatten().flat_map(|chain| &chain.boundaries);
        boundaries.filter_map(|boundary| boundary.stage.as_ref()).chain(&self.leaving)
    }

    /// What is under way to the packet functions of a chain that is gone comes back, and goes nowhere then.
    pub(super) fn keep_leaving(&mut self, gone: &mut Chain) {
        for boundary in &mut gone.boundaries {
            if let Some(link) = boundary.stage.as_mut().and_then(Stage::link) {
                link.finish();
                self.leaving.extend(boundary.stage.take());
            }
        }
    }

    /// The ways to those that work apart.
    pub(super) fn links(&mut self) -> impl Iterator<Item = &mut StageLink> {
        let boundaries = self.chains.iter_mut().flatten().flat_map(|chain| &mut chain.boundaries);
        let stages = boundaries.filter_map(|boundary| boundary.stage.as_mut()).chain(&mut self.leaving);
        stages.filter_map(Stage::link)
    }

    /// The packet function behind a logical port.
    pub(super) fn stage_of(&mut self, port: PortId) -> Option<&mut Stage> {
        let to = self.attachment(port)?;
        let boundary = if to.is_forward() { to.segment.checked_sub(1)? } else { to.segment };
        self.chain(to.chain)?.boundaries.get_mut(boundary)?.stage.as_mut()
    }
}

/// Bytes of a frame that is explained, at most.
const EXPLAINED_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

impl Chains {
    /// What would become of a packet, segment by segment, at most `segments` of them.
    pub(super) fn explain_from(
        &mut self,
        miss: &Miss<'_>,
        state: &FlowState,
        segments: usize,
    ) -> Option<Explanation> {
        let to = self.attachment(miss.port)?;
        let chain = self.chain(to.chain)?;
        let mut said = chain.explain(miss, to, state);
        if let (Fate::Replay, &[port]) = (&said.fate, said.outputs.as_slice())
            && let Some(boundary) = chain.boundaries.iter_mut().find(|boundary| boundary.leads(port))
        {
            let frame = rewritten(miss.bytes, &chain.headers);
            let stage = boundary.stage.as_mut()?;
            let mut notes = Notes::default();
            let bytes = frame.as_deref().unwrap_or(miss.bytes);
            let drop = stage.function().foresee(bytes, &mut |what, value| notes.say(what, value));
            let (function, kind) = (boundary.name.clone(), stage.kind());
            let schema = KeySchema::new(port, 0, chain.reads());
            let direction = to.direction();
            let mut payload = Payload { function, kind, direction, notes: notes.0, drop, then: None };
            if let (None, Some(bytes), 1..) = (drop, &frame, segments)
                && let Ok(layout) = parse(bytes, Verify::None)
            {
                let next = Miss { bytes, layout, port, gather: schema.gather(layout.shape), now: miss.now };
                payload.then = self.explain_from(&next, state, segments - 1);
            }
            said.payload = Some(Box::new(payload));
        }
        Some(said)
    }
}

/// A frame as its headers are after a walk; none if it would be longer than any port takes.
pub(super) fn rewritten(frame: &[u8], headers: &Headers) -> Option<Vec<u8>> {
    let mut bytes = frame.to_vec();
    for edit in headers.edits() {
        if let Edit::Bytes { offset, bytes: written, count, .. } = edit {
            let (at, count) = (usize::from(*offset), usize::from(*count));
            bytes.get_mut(at..at + count)?.copy_from_slice(written.get(..count)?);
        }
    }
    let payload = headers.original().payload(&bytes);
    Some(serialise::<EXPLAINED_BYTES_MAX>(headers.current(), &bytes, payload).ok()?.to_vec())
}
