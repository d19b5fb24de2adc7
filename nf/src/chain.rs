//! Chains: the slow path. One packet walks the functions, and what they decided is compiled.
//!
//! A walk has five steps: find the session; walk the functions in the direction of the zone (R9); let the forwarder decide;
//! compile; commit (R6). Nothing of the functions' state changes before the last.

mod answers;
mod chains;
mod expected;
mod explain;
mod onlooker;
mod reshape;
mod stages;

pub use chains::{Attachment, CHAINS_MAX, Chains};

use crate::compile::{Exits, compile};
use crate::fragments::{DatagramKey, First, Fragments, Piece, Place};
use crate::function::{FlowFunction, Forwarder, Verdict};
use crate::headers::Headers;
use crate::slot::{ForwarderSlot, FunctionSlot, Stage as Function};
use crate::walk::{Commit, Direction, Record, SessionView, Tick, Walk, ends, port_watch};
use crate::zone::ZoneId;
use explain::Found;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::cache::Owner;
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::session::{ANYWHERE, SessionId, SessionTable, Tuple};
use millrace_dataplane::flow::state::{Event, FlowState};
use millrace_dataplane::flow::tcp::{self, Segment, TcpState, TcpTracker, TcpVerdict};
use millrace_dataplane::flow::validity::Watches;
use millrace_dataplane::packet::{L3, L4};
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::{Decision, Fate, Miss, Tracked};
use millrace_dataplane::stage::Stage;
use millrace_dataplane::time::Time;
use onlooker::Onlooker;
use reshape::Retired;
use stages::Boundary;
use std::net::Ipv4Addr;

/// What a chain did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainCounters {
    /// Walks.
    pub walks: u64,
    /// Walks whose decision read a field that was not declared (R2).
    pub undeclared_reads: u64,
    /// Sessions opened.
    pub sessions_opened: u64,
    /// Walks that opened no session because the table was full.
    pub sessions_refused: u64,
}

impl ChainCounters {
    /// Adds what the same chain did with another worker.
    pub fn add(&mut self, other: &Self) {
        self.walks += other.walks;
        self.undeclared_reads += other.undeclared_reads;
        self.sessions_opened += other.sessions_opened;
        self.sessions_refused += other.sessions_refused;
    }
}

/// A chain of functions between zones.
pub struct Chain {
    name: String,
    zones: Vec<String>,
    functions: Vec<Box<dyn Function>>,
    forwarder: Box<dyn ForwarderSlot>,
    parts: usize,
    /// Words of functions that are gone, which some sessions may still have.
    retired: Vec<Retired>,
    /// Where packet functions split it.
    boundaries: Vec<Boundary>,
    /// What the sessions of each segment are told apart by.
    segments: Vec<u8>,
    domain: u16,
    fragments: Fragments,
    headers: Headers,
    record: Record,
    /// What the TCP tracker sees of the packet at hand.
    segment: Option<Segment>,
    /// The packet at hand can have a session.
    has_tuple: bool,
    /// What that is found by.
    initiator: Tuple,
    /// The ended connection that the segment at hand opens anew.
    reopens: Option<SessionId>,
    /// The number of edits that led to what is answered by `responder`.
    answered: Option<u16>,
    /// What the packet at hand is answered by.
    responder: Tuple,
    counters: ChainCounters,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("name", &self.name).field("zones", &self.zones).finish_non_exhaustive()
    }
}

/// Builds a chain, function by function.
pub struct ChainBuilder {
    name: String,
    zones: Vec<String>,
    functions: Vec<Box<dyn Function>>,
    boundaries: Vec<Boundary>,
    parts: usize,
}

impl ChainBuilder {
    /// A chain whose first zone is the inside.
    pub fn new(name: impl Into<String>, zones: &[&str]) -> Self {
        Self {
            name: name.into(),
            zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
            functions: Vec::new(),
            boundaries: Vec::new(),
            parts: 0,
        }
    }

    /// Adds a function, called `name` by the configuration.
    #[must_use]
    pub fn function<F: FlowFunction>(mut self, name: impl Into<String>, function: F) -> Self {
        let part = self.parts;
        self.parts += usize::from(function.keeps_part());
        self.functions.push(Box::new(FunctionSlot::new(name.into(), function, part)));
        self
    }

    /// Ends the chain with what forwards.
    pub fn forwarder<F: Forwarder>(self, name: impl Into<String>, forwarder: F) -> Chain {
        let part = self.parts;
        let parts = self.parts + usize::from(forwarder.keeps_part());
        Self { parts, ..self }.end(Box::new(FunctionSlot::new(name.into(), forwarder, part)))
    }

    fn end(self, forwarder: Box<dyn ForwarderSlot>) -> Chain {
        Chain {
            name: self.name,
            zones: self.zones,
            functions: self.functions,
            forwarder,
            parts: self.parts,
            retired: Vec::new(),
            segments: (0..=self.boundaries.len()).map(|segment| segment as u8).collect(),
            boundaries: self.boundaries,
            domain: 0,
            fragments: Fragments::default(),
            headers: Headers::empty(),
            record: Record::default(),
            segment: None,
            has_tuple: false,
            initiator: Tuple::default(),
            reopens: None,
            answered: None,
            responder: Tuple::default(),
            counters: ChainCounters::default(),
        }
    }
}

/// How the functions' part of a walk ended.
struct WalkEnd {
    verdict: Verdict,
    /// The function that said so: its place, or the forwarder's.
    by: usize,
    /// Frames from here on are its own.
    first_frame: usize,
}

impl Chain {
    /// Name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names of the zones; the first is the inside.
    pub fn zones(&self) -> &[String] {
        &self.zones
    }

    /// The headers as the last walk left them, for traces and tests.
    pub fn last_headers(&self) -> &Headers {
        &self.headers
    }

    /// Whose objects its functions' watches name: see [`millrace_dataplane::flow::validity::Validity::within`].
    pub fn scope(&self) -> u8 {
        self.domain as u8
    }

    /// Words that its functions keep in a session, up to the last one.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// What it did.
    pub fn counters(&self) -> ChainCounters {
        self.counters
    }

    /// Names and kinds of its functions, packet functions among them, in order, the forwarder last.
    pub fn functions(&self) -> Vec<(&str, &'static str)> {
        let mut all: Vec<_> = self.functions.iter().map(|f| (f.name(), f.kind())).collect();
        all.push((self.forwarder.name(), self.forwarder.kind()));
        for boundary in self.boundaries.iter().rev() {
            let kind = boundary.stage.as_ref().map_or("kept", Stage::kind);
            all.insert(boundary.functions, (&boundary.name, kind));
        }
        all
    }

    /// A function by its name, to be configured or looked at.
    pub fn function<F: 'static>(&mut self, name: &str) -> Option<&mut F> {
        if self.forwarder.name() == name {
            return self.forwarder.as_any().downcast_mut();
        }
        let slot = self.functions.iter_mut().find(|f| f.name() == name)?;
        slot.as_any().downcast_mut()
    }

    /// What its functions declare to read, with what sessions need.
    pub fn reads(&self) -> Reads {
        let mut reads = Reads::none();
        for function in &self.functions {
            reads.add(&function.reads());
        }
        reads.add(&self.forwarder.reads());
        if self.parts > 0 {
            reads.add(&session_reads());
        }
        reads
    }

    /// What each function declares to read, in order.
    pub fn reads_by_function(&self) -> Vec<(&str, Reads)> {
        let mut all: Vec<_> = self.functions.iter().map(|f| (f.name(), f.reads())).collect();
        all.push((self.forwarder.name(), self.forwarder.reads()));
        all
    }

    /// Datagrams whose fragments are followed.
    pub fn fragments(&self) -> &Fragments {
        &self.fragments
    }

    fn decide(
        &mut self,
        miss: &Miss<'_>,
        entry: Attachment,
        ports: &[Option<Attachment>],
        state: &mut FlowState,
        decision: &mut Decision,
    ) {
        let zone = entry.zone;
        self.counters.walks += 1;
        self.domain = entry.domain;
        self.reopens = None;
        if let Err(reason) = self.headers.read(miss.bytes, miss.layout) {
            decision.fate = Fate::Drop(reason);
            return;
        }
        self.record.clear();
        // A port that leads elsewhere takes all decisions about its packets with it.
        decision.watches.add(port_watch(miss.port).within(self.scope()));
        self.segment = self.read_segment(miss.bytes);
        if let Err(fate) = self.match_fragment(miss, decision) {
            decision.fate = fate;
            return;
        }
        let session = match self.find_session(miss, state) {
            Ok(found) => found.map(|(id, reply)| SessionView::new(id, reply, state)),
            Err(reason) => {
                decision.fate = Fate::Drop(reason);
                return;
            }
        };
        let related = self.find_related(state);
        let (session, related) = (session.as_ref(), related.as_ref());
        let session = match self.hold_against_zone(session, related, zone) {
            Ok(session) => session,
            Err(reason) => {
                decision.fate = Fate::Drop(reason);
                return;
            }
        };
        self.answered = None;
        let watches = &mut decision.watches;
        let end = self.walk(miss, entry, session, related, state, watches, &mut ());
        let mut frames = std::mem::take(&mut self.record.frames);
        self.restore_answers(miss.port, entry, &state.sessions, &mut frames);
        self.record.frames = frames;
        match end.verdict {
            Verdict::Forward(port) => {
                let to = self.zone_behind(entry.chain, port, ports);
                self.leave(miss, &[port], [zone.0, to], session, state, decision);
            }
            Verdict::Flood => {
                let ports = std::mem::take(&mut self.record.flood);
                self.leave(miss, &ports, [zone.0, ANYWHERE], session, state, decision);
                self.record.flood = ports;
            }
            Verdict::Continue => {
                self.discard();
                decision.fate = Fate::Drop(DropReason::NoOutput);
            }
            verdict => {
                decision.fate = match verdict {
                    Verdict::Consume => Fate::Consume,
                    Verdict::Hold(token) => Fate::Hold(token),
                    Verdict::Punt(cookie) => Fate::Punt(cookie),
                    Verdict::Drop(reason) => Fate::Drop(reason),
                    Verdict::Continue | Verdict::Forward(_) | Verdict::Flood => Fate::Undecided,
                };
                decision.frames.extend(self.record.frames.drain(end.first_frame..));
                self.commit_one(end.by, miss.now, session, state, decision);
            }
        }
    }

    /// A later fragment takes the ports of its first one, or waits for it. What overlaps is refused.
    fn match_fragment(&mut self, miss: &Miss<'_>, decision: &mut Decision) -> Result<(), Fate> {
        if !self.headers.is_fragment() {
            return Ok(());
        }
        let Some((key, piece)) = self.datagram(miss.port) else {
            return Err(Fate::Drop(DropReason::FragmentInvalid));
        };
        let place = self.fragments.place(&key, piece);
        let taken = self.take_place(place, &key, piece);
        if let Err(Fate::Hold(_)) = taken {
            self.fragments.await_first(key, miss.now, |wake| decision.wakes.push(wake));
        }
        taken
    }

    /// What follows from a fragment's place in its datagram.
    fn take_place(&mut self, place: Place, key: &DatagramKey, piece: Piece) -> Result<(), Fate> {
        let is_later = self.headers.is_later_fragment();
        match place {
            Place::New if !is_later => Ok(()),
            Place::New => Err(Fate::Hold(self.fragments.token(key))),
            Place::Follows(first) if is_later => {
                self.headers.set_fragment_ports(first.ports);
                self.segment = first.whole(piece);
                Ok(())
            }
            Place::Follows(_) | Place::Refused => Err(Fate::Drop(DropReason::FragmentInvalid)),
        }
    }

    fn datagram(&self, port: PortId) -> Option<(DatagramKey, Piece)> {
        let piece = Piece::of(self.headers.original())?;
        Some((DatagramKey::of(&self.headers, self.domain, port)?, piece))
    }

    /// What the TCP tracker is to see of this packet. Of a segment in fragments it sees the first one, and when the last one
    /// passes, the whole: only then the receiver can have it.
    fn read_segment(&self, bytes: &[u8]) -> Option<Segment> {
        if self.headers.is_later_fragment() || self.headers.protocol() != Some(6) {
            return None;
        }
        let segment = Segment::read(bytes, &self.headers.layout());
        let fin = if self.headers.is_fragment() { tcp::FIN } else { 0 };
        Some(Segment { flags: segment.flags & !fin, ..segment })
    }

    /// The session of the packet, if it belongs to one, and whether it is the responder's. A TCP segment outside its session's state is refused.
    fn find_session(
        &mut self,
        miss: &Miss<'_>,
        state: &mut FlowState,
    ) -> Result<Option<(SessionId, bool)>, DropReason> {
        match self.look_for_session(miss, state)? {
            Found::Session(id, reply) => {
                state.fold_session(id);
                return Ok(Some((id, reply)));
            }
            Found::Outlived(id) => state.end_session(id),
            Found::None => {}
        }
        Ok(None)
    }

    /// The same, of which nothing but scratch memory takes note.
    #[inline]
    fn look_for_session(&mut self, miss: &Miss<'_>, state: &FlowState) -> Result<Found, DropReason> {
        self.has_tuple = self.parts > 0 && self.headers.read_tuple(self.domain, &mut self.initiator);
        if !self.has_tuple {
            return Ok(Found::None);
        }
        let Some((id, reply)) = state.sessions.find(&self.initiator) else { return Ok(Found::None) };
        if !self.outlived(id, state) {
            return Ok(Found::Outlived(id));
        }
        // A connection that nobody tracks has no state that a segment could contradict.
        let tracked = self.headers.protocol() == Some(6) && state.sessions.tcp(id).state() != TcpState::None;
        if let Some(segment) = self.segment.filter(|_| tracked) {
            match state.sessions.tcp(id).peek(reply, &segment, self.tcp_header(miss.bytes)) {
                TcpVerdict::Valid => {}
                TcpVerdict::Invalid => return Err(DropReason::TcpInvalid),
                TcpVerdict::Reopens => {
                    // The old session ends when the new one is certain (R6).
                    self.reopens = Some(id);
                    return Ok(Found::None);
                }
            }
        }
        Ok(Found::Session(id, reply))
    }

    fn tcp_header<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let layout = self.headers.layout();
        bytes.get(usize::from(layout.l4)..usize::from(layout.end)).unwrap_or(&[])
    }

    /// The zone whose hosts a port leads to. What is behind a packet function is not known yet: the segment behind it knows.
    fn zone_behind(&self, chain: usize, port: PortId, ports: &[Option<Attachment>]) -> u8 {
        let attached = ports.get(usize::from(port.0)).copied().flatten().filter(|to| to.chain == chain);
        let logical = self.boundaries.iter().any(|boundary| boundary.leads(port));
        attached.filter(|_| !logical).map_or(ANYWHERE, |to| to.zone.0)
    }

    /// The session with which a packet from `zone` goes on.
    #[inline]
    fn hold_against_zone<'a>(
        &mut self,
        session: Option<&'a SessionView>,
        related: Option<&SessionView>,
        zone: ZoneId,
    ) -> Result<Option<&'a SessionView>, DropReason> {
        // Only what lies beyond us on a packet's way can report an error about it: there, where its receiver is.
        let elsewhere = |of: &SessionView| !of.sends_from(of.reply, zone);
        // An initiator may move, too: if this is where it is reached now, its session is judged anew.
        let (session, moved) = match session {
            Some(it) if !it.reply && elsewhere(it) && self.is_sender_behind(zone) => (None, Some(it.id)),
            session => (session, None),
        };
        self.reopens = self.reopens.or(moved);
        if session.is_some_and(elsewhere) || related.is_some_and(elsewhere) {
            return Err(DropReason::WrongZone);
        }
        Ok(session)
    }

    fn is_sender_behind(&self, zone: ZoneId) -> bool {
        let addresses = self.headers.original().addresses();
        addresses.is_some_and(|(source, _)| self.forwarder.zones().is_behind(source, zone))
    }

    /// The session that an ICMP error is about: that of the packet it quotes, seen from where the error came.
    fn find_related(&mut self, state: &FlowState) -> Option<SessionView> {
        let quoted = self.headers.embedded_tuple(self.domain)?;
        // It is told to who sent that packet; to anyone else it would be a way past the rules.
        let (_, told) = self.headers.original().addresses()?;
        if told != quoted.source_address() {
            return None;
        }
        let (id, reply) = state.sessions.find(&quoted.inverse())?;
        self.outlived(id, state).then(|| SessionView::new(id, reply, state))
    }

    #[allow(clippy::too_many_arguments)]
    fn walk<O: Onlooker>(
        &mut self,
        miss: &Miss<'_>,
        entry: Attachment,
        session: Option<&SessionView>,
        related: Option<&SessionView>,
        state: &FlowState,
        watches: &mut Watches,
        onlooker: &mut O,
    ) -> WalkEnd {
        let (parts, scope) = (self.parts, self.scope());
        let Self { functions, forwarder, headers, record, boundaries, answered, responder, domain, .. } =
            self;
        let Attachment { zone, segment, ingress, .. } = entry;
        let direction = entry.direction();
        let before = segment.checked_sub(1).and_then(|at| boundaries.get(at));
        let behind = boundaries.get(segment);
        let first = before.map_or(0, |boundary| boundary.functions);
        let end = behind.map_or(functions.len(), |boundary| boundary.functions);
        let last = functions.len();
        let mut way = (direction, false);
        if !headers.is_link_control() {
            let mut walk = Walk {
                headers: &mut *headers,
                frame: miss.bytes,
                now: miss.now,
                port: ingress,
                from_zone: zone,
                direction,
                hairpin: false,
                session,
                related,
                part: 0,
                record: &mut *record,
                watches: &mut *watches,
                scope,
                forwarder: Some(forwarder.zones()),
            };
            if let Some(end) = walk_functions(functions, first..end, &mut walk, onlooker) {
                return end;
            }
            if direction == Direction::Forward && functions[first..end].iter().any(|f| f.hairpins(&mut walk))
            {
                (walk.direction, walk.hairpin) = (Direction::Backward, true);
                if let Some(end) = walk_functions(functions, first..end, &mut walk, onlooker) {
                    return end;
                }
            }
            if let Some(port) = walk.record.handed_over {
                let first_frame = walk.record.frames.len();
                return WalkEnd { verdict: Verdict::Forward(port), by: last, first_frame };
            }
            way = (walk.direction, walk.hairpin);
            let next = if walk.direction == Direction::Forward { behind } else { before };
            if let Some(boundary) = next {
                let verdict = match boundary.port(ingress, entry.turned || walk.hairpin) {
                    Some(port) => Verdict::Forward(port),
                    None => Verdict::Drop(DropReason::NoOutput),
                };
                let first_frame = walk.record.frames.len();
                return WalkEnd { verdict, by: last, first_frame };
            }
        }
        if session.is_none() && record.wants_session && parts > 0 {
            // What is still to come takes about as long as this memory does.
            if headers.read_answer_tuple(*domain, responder) {
                *answered = Some(headers.tuple_edits());
                state.sessions.prefetch(responder);
            }
        }
        let (direction, hairpin) = way;
        let first_frame = record.frames.len();
        let mut last_step = Walk {
            headers,
            frame: miss.bytes,
            now: miss.now,
            port: ingress,
            from_zone: zone,
            direction,
            hairpin,
            session,
            related,
            part: 0,
            record,
            watches,
            scope,
            forwarder: None,
        };
        onlooker.before(&last_step);
        let verdict = forwarder.admit(&mut last_step);
        onlooker.after(&last_step, &**forwarder, verdict);
        WalkEnd { verdict, by: last, first_frame }
    }

    /// The packet leaves: session, program, commit.
    fn leave(
        &mut self,
        miss: &Miss<'_>,
        ports: &[PortId],
        zones: [u8; 2],
        session: Option<&SessionView>,
        state: &mut FlowState,
        decision: &mut Decision,
    ) {
        let exits = Exits { ports, length_max: self.record.length_max, tracks_tcp: self.tracks_tcp() };
        let opens = session.is_none() && self.opens_session();
        self.count_undeclared();
        let cacheable = self.is_cacheable(miss);
        let gather = if cacheable { miss.gather } else { None };
        if compile(&mut decision.program, miss.bytes, &self.headers, gather, exits).is_err() {
            return self.fail(DropReason::NoHeadroom, decision);
        }
        if exits.tracks_tcp
            && let Err(reason) = self.may_be_tracked(miss, session.is_none())
        {
            return self.fail(reason, decision);
        }
        let owner = match session {
            Some(session) => {
                if !session.reply && session.zones != zones {
                    // Another way leads to the responder now, and its answers come back by it.
                    state.kill_entries(session.id);
                    state.sessions.set_zones(session.id, zones);
                }
                Some((Owner { session: session.id, reply: session.reply }, false))
            }
            None if opens => match self.open_session(zones, miss.now, state) {
                Ok(session) => Some((Owner { session, reply: false }, true)),
                Err(reason) => return self.fail(reason, decision),
            },
            None => None,
        };
        decision.program.set_tracks_tcp(exits.tracks_tcp && owner.is_some());
        let header = self.headers.layout().l4;
        decision.tracked =
            self.segment.filter(|_| exits.tracks_tcp).map(|segment| Tracked { segment, header });
        decision.fate = Fate::Replay;
        decision.cacheable = cacheable;
        decision.owner = owner.map(|(owner, _)| owner);
        decision.frames.append(&mut self.record.frames);
        if let Some(reason) = self.commit_all(miss.now, ports.first().copied(), owner, state, decision) {
            return Self::withdraw(reason, owner, state, decision);
        }
        self.remember_fragment(miss, decision);
    }

    fn is_cacheable(&self, miss: &Miss<'_>) -> bool {
        self.headers.is_cacheable() && !self.record.uncached && miss.gather.is_some()
    }

    fn tracks_tcp(&self) -> bool {
        self.record.tracks_tcp && self.headers.protocol() == Some(6)
    }

    /// Whether a packet of a tracked connection may pass; `is_new`: the connection begins with it.
    fn may_be_tracked(&self, miss: &Miss<'_>, is_new: bool) -> Result<(), DropReason> {
        let Some(segment) = self.segment else {
            return if is_new { Err(DropReason::TcpInvalid) } else { Ok(()) };
        };
        // Nobody needs a SYN or a reset in fragments, but to hide it.
        if self.headers.is_fragment() && segment.flags & (tcp::SYN | tcp::RST) != 0 {
            return Err(DropReason::FragmentInvalid);
        }
        let opens = || TcpTracker::default().peek(false, &segment, self.tcp_header(miss.bytes));
        if is_new && opens() != TcpVerdict::Valid { Err(DropReason::TcpInvalid) } else { Ok(()) }
    }

    /// True if the packet opens a session. What it is found by is known then: what the packet looked like, and what answers
    /// will look like.
    fn opens_session(&mut self) -> bool {
        if !self.record.wants_session || !self.has_tuple {
            return false;
        }
        let edits = self.headers.tuple_edits();
        self.answered == Some(edits) || self.headers.read_answer_tuple(self.domain, &mut self.responder)
    }

    fn open_session(
        &mut self,
        zones: [u8; 2],
        now: Time,
        state: &mut FlowState,
    ) -> Result<SessionId, DropReason> {
        match state.open_session(&self.initiator, &self.responder, self.reopens.take(), now) {
            Ok(id) => {
                state.sessions.set_zones(id, zones);
                self.counters.sessions_opened += 1;
                Ok(id)
            }
            Err(_) => {
                self.counters.sessions_refused += 1;
                Err(DropReason::SessionTableFull)
            }
        }
    }

    fn count_undeclared(&mut self) {
        if self.headers.undeclared().is_some() {
            self.counters.undeclared_reads += 1;
        }
    }

    fn fail(&mut self, reason: DropReason, decision: &mut Decision) {
        self.discard();
        decision.fate = Fate::Drop(reason);
    }

    /// A function could not make its proposal true: nothing leaves, and the session that was opened for it ends.
    fn withdraw(
        reason: DropReason,
        owner: Option<(Owner, bool)>,
        state: &mut FlowState,
        decision: &mut Decision,
    ) {
        if let Some((Owner { session, .. }, true)) = owner {
            state.end_session(session);
        }
        decision.owner = None;
        decision.frames.clear();
        decision.fate = Fate::Drop(reason);
    }

    fn discard(&mut self) {
        self.functions.iter_mut().for_each(|function| function.discard());
        self.forwarder.discard();
    }

    fn commit_all(
        &mut self,
        now: Time,
        output: Option<PortId>,
        owner: Option<(Owner, bool)>,
        state: &mut FlowState,
        decision: &mut Decision,
    ) -> Option<DropReason> {
        let (session, is_new) = (owner.map(|(o, _)| o.session), owner.is_some_and(|(_, new)| new));
        let reply = owner.is_some_and(|(o, _)| o.reply);
        let Decision { wakes, frames, .. } = decision;
        let scope = self.scope();
        let (part, refused) = (0, None);
        let mut commit =
            Commit { now, session, is_new, reply, output, part, scope, refused, state, wakes, frames };
        self.functions.iter_mut().for_each(|function| function.commit(&mut commit));
        self.forwarder.commit(&mut commit);
        commit.refused
    }

    /// Only the function that ended the walk commits.
    fn commit_one(
        &mut self,
        by: usize,
        now: Time,
        session: Option<&SessionView>,
        state: &mut FlowState,
        decision: &mut Decision,
    ) {
        let Decision { wakes, frames, .. } = decision;
        let (id, reply) = (session.map(|s| s.id), session.is_some_and(|s| s.reply));
        let scope = self.scope();
        let (is_new, output, part, refused) = (false, None, 0, None);
        let mut commit =
            Commit { now, session: id, is_new, reply, output, part, scope, refused, state, wakes, frames };
        match self.functions.get_mut(by) {
            Some(function) => function.commit(&mut commit),
            None => {
                self.forwarder.commit(&mut commit);
                if decision.fate == Fate::Consume {
                    self.functions.iter_mut().for_each(|function| function.consumed());
                }
            }
        }
        self.discard();
    }

    /// A first fragment that passed tells the later ones its ports, as they came, and its segment.
    fn remember_fragment(&mut self, miss: &Miss<'_>, decision: &mut Decision) {
        if !self.headers.is_fragment() {
            return;
        }
        let Some((key, piece)) = self.datagram(miss.port) else { return };
        if self.headers.is_later_fragment() {
            return self.fragments.later_passed(&key, piece);
        }
        let Some(tuple) = self.headers.original_tuple(self.domain) else { return };
        let (ports, layout) = ((tuple.source_port, tuple.destination_port), self.headers.layout());
        let segment = self.segment.map(|_| Segment::read(miss.bytes, &layout));
        let first = First::of(self.headers.original(), ports, segment);
        self.fragments.first_passed(key, first, piece, miss.now, |wake| decision.wakes.push(wake));
    }

    fn tick(&mut self, now: Time, budget: usize, state: &mut FlowState, decision: &mut Decision) {
        let Decision { wakes, frames, .. } = decision;
        self.fragments.expire(now, budget, |wake| wakes.push(wake));
        let (chain, scope) = (self.domain & 0xff, self.scope());
        let mut tick = Tick { now, budget, chain, part: 0, scope, state, wakes, frames };
        self.functions.iter_mut().for_each(|function| function.tick(&mut tick));
        self.forwarder.tick(&mut tick);
    }

    fn events(&mut self, events: &[Event], now: Time, sessions: &SessionTable) {
        for function in &mut self.functions {
            function.events(events, now, sessions);
        }
        self.forwarder.events(events, now, sessions);
    }
}

/// Walks the functions in the walk's direction, until one ends it.
fn walk_functions<O: Onlooker>(
    functions: &mut [Box<dyn Function>],
    segment: std::ops::Range<usize>,
    walk: &mut Walk<'_>,
    onlooker: &mut O,
) -> Option<WalkEnd> {
    for step in 0..segment.len() {
        let by =
            if walk.direction == Direction::Forward { segment.start + step } else { segment.end - 1 - step };
        let first_frame = walk.record.frames.len();
        onlooker.before(walk);
        let verdict = functions[by].admit(walk);
        onlooker.after(walk, &*functions[by], verdict);
        if ends(verdict) {
            return Some(WalkEnd { verdict, by, first_frame });
        }
    }
    None
}

/// The fields by which sessions are found.
fn session_reads() -> Reads {
    Reads::none().with(&[
        Field::Ipv4Source,
        Field::Ipv4Destination,
        Field::Ipv6Source,
        Field::Ipv6Destination,
        Field::SourcePort,
        Field::DestinationPort,
        Field::IcmpIdentifier,
        Field::IcmpType,
    ])
}

/// The tuple of a regular packet by its layout alone, before its headers are read; only for prefetching and for telling what is
/// known.
#[inline]
fn tuple_of(miss: &Miss<'_>, domain: u16) -> Option<Tuple> {
    let Miss { bytes, layout, .. } = miss;
    let (l3, l4) = (usize::from(layout.l3), usize::from(layout.l4));
    let protocol = match layout.shape.l4() {
        L4::Tcp => 6,
        L4::Udp => 17,
        _ => return None,
    };
    // As whole numbers: arrays would be moved byte by byte.
    let (source, destination) = match layout.shape.l3() {
        L3::Ipv4 => {
            let addresses = u64::from_be_bytes(*bytes.get(l3 + 12..)?.first_chunk()?);
            let mapped = |address: u32| Ipv4Addr::from(address).to_ipv6_mapped().to_bits();
            (mapped((addresses >> 32) as u32), mapped(addresses as u32))
        }
        L3::Ipv6 => {
            let (addresses, _) = bytes.get(l3 + 8..)?.first_chunk::<32>()?.as_chunks::<16>();
            (u128::from_be_bytes(addresses[0]), u128::from_be_bytes(addresses[1]))
        }
        L3::Arp | L3::Other => return None,
    };
    let ports = u32::from_be_bytes(*bytes.get(l4..)?.first_chunk()?);
    Some(Tuple {
        source: source.to_be_bytes(),
        destination: destination.to_be_bytes(),
        source_port: (ports >> 16) as u16,
        destination_port: ports as u16,
        domain,
        protocol,
        zero: 0,
    })
}
