//! The walk: one packet's way through the functions of a chain, and what is recorded of it.

use crate::headers::Headers;
use crate::verdict::Verdict;
use crate::zone::ZoneId;
use arrayvec::ArrayVec;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::session::{ANYWHERE, PARTS_MAX, SessionId, Tuple};
use millrace_dataplane::flow::state::FlowState;
use millrace_dataplane::flow::validity::{ObjectKind, Watch, Watches};
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::{FRAME_BYTES, Frame, HoldToken, Wake};
use millrace_dataplane::time::Time;
use std::net::IpAddr;

/// Which way a chain is walked (R9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the inside zone: in the order of the configuration.
    Forward,
    /// To the inside zone: in reverse.
    Backward,
}

/// The session that a packet belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Its number.
    pub id: SessionId,
    /// The packet comes from the responder.
    pub reply: bool,
    /// Traffic of both directions was seen.
    pub assured: bool,
    /// The tuples as received: the initiator's, the responder's.
    pub tuples: [Tuple; 2],
    /// The zones of initiator and responder, or [`ANYWHERE`].
    pub zones: [u8; 2],
    parts: ArrayVec<u64, PARTS_MAX>,
}

impl SessionView {
    pub(crate) fn new(id: SessionId, reply: bool, state: &FlowState) -> Self {
        Self {
            id,
            reply,
            assured: state.sessions.is_assured(id),
            tuples: state.sessions.tuples(id),
            zones: state.sessions.zones(id),
            parts: state.sessions.parts_of(id),
        }
    }

    /// True if the side `reply` may send from `zone`.
    pub(crate) fn sends_from(&self, reply: bool, zone: ZoneId) -> bool {
        let expected = self.zones[usize::from(reply)];
        expected == ANYWHERE || expected == zone.0
    }

    /// A function's word.
    pub fn part(&self, part: usize) -> u64 {
        self.parts.get(part).copied().unwrap_or(0)
    }
}

/// What a walk gathers beside the edits of the headers.
#[derive(Debug, Default)]
pub struct Record {
    pub(crate) frames: Vec<Frame>,
    pub(crate) flood: Vec<PortId>,
    pub(crate) wants_session: bool,
    pub(crate) tracks_tcp: bool,
    pub(crate) uncached: bool,
    pub(crate) length_max: u16,
    /// Where the packet goes on, past the forwarder.
    pub(crate) handed_over: Option<PortId>,
    /// The zone that the headers lead to, with the number of edits that they had then.
    pub(crate) zone: Option<(u16, Option<ZoneId>)>,
    /// The destination whose route the watches name, the last one if there were several.
    pub(crate) routed: Option<IpAddr>,
}

impl Record {
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        self.flood.clear();
        self.wants_session = false;
        self.tracks_tcp = false;
        self.uncached = false;
        self.length_max = u16::MAX;
        self.handed_over = None;
        self.zone = None;
        self.routed = None;
    }
}

/// Answers where the destination of the headers is: the chain's forwarder.
pub(crate) trait ZoneOf {
    fn zone_of(&self, walk: &mut Walk<'_>) -> Option<ZoneId>;
    fn is_behind(&self, address: IpAddr, zone: ZoneId) -> bool;
}

/// One packet's walk, as a function sees it.
pub struct Walk<'a> {
    /// The headers: reads and edits are recorded.
    pub headers: &'a mut Headers,
    /// The frame as it came, for answers that quote it.
    pub frame: &'a [u8],
    /// When the packet came.
    pub now: Time,
    /// The port that it came from.
    pub port: PortId,
    /// The zone of that port.
    pub from_zone: ZoneId,
    /// Which way the chain is walked.
    pub direction: Direction,
    /// This is the second, backward walk of a hairpin.
    pub hairpin: bool,
    /// The session that the packet belongs to, if it exists already.
    pub session: Option<&'a SessionView>,
    /// For an ICMP error: the session of the packet that it quotes. `reply`: the error goes in the responder's direction.
    pub related: Option<&'a SessionView>,
    pub(crate) part: usize,
    pub(crate) record: &'a mut Record,
    /// The objects that the decision depends on.
    pub(crate) watches: &'a mut Watches,
    /// Whose objects they are: the chain's.
    pub(crate) scope: u8,
    pub(crate) forwarder: Option<&'a dyn ZoneOf>,
}

impl Walk<'_> {
    /// This function's word in the packet's session.
    pub fn part(&self) -> Option<u64> {
        self.session.map(|session| session.part(self.part))
    }

    /// This function's word in the session that an ICMP error is about.
    pub fn related_part(&self) -> Option<u64> {
        self.related.map(|session| session.part(self.part))
    }

    /// The decision depends on an object that many flows share (R8): it falls when the object changes.
    pub fn depend(&mut self, watch: Watch) {
        self.watches.add(watch.within(self.scope));
    }

    /// The same of several objects, of which no two are the same.
    #[inline(always)]
    pub fn depend_on_all<const N: usize>(&mut self, watches: [Watch; N]) {
        let scope = self.scope;
        self.watches.add_all(watches.map(|watch| watch.within(scope)));
    }

    /// A session shall exist for this packet when the walk is over.
    pub fn want_session(&mut self) {
        self.record.wants_session = true;
    }

    /// The session's TCP state and windows shall be tracked, and what does not belong to them dropped.
    pub fn track_tcp(&mut self) {
        self.record.tracks_tcp = true;
    }

    /// The decision is for this packet alone.
    pub fn do_not_cache(&mut self) {
        self.record.uncached = true;
    }

    /// True if the packet is at most `bytes` long (from the network header on); longer ones of this flow will walk.
    pub fn fits(&mut self, bytes: u16) -> bool {
        self.record.length_max = self.record.length_max.min(bytes);
        self.headers.network_bytes() <= bytes
    }

    /// Sends a frame that this function made (from the Ethernet header on). It goes out unless the walk ends with another
    /// function's drop.
    pub fn emit(&mut self, port: PortId, bytes: &[u8]) {
        let mut frame = Frame { port, bytes: ArrayVec::new() };
        let take = bytes.len().min(FRAME_BYTES);
        if frame.bytes.try_extend_from_slice(&bytes[..take]).is_ok() {
            self.record.frames.push(frame);
        }
    }

    /// Another worker goes on with the packet: it leaves by this port as it is when all functions let it pass, and is not forwarded
    /// here.
    pub fn hand_over(&mut self, port: PortId) {
        self.depend(port_watch(port));
        self.record.handed_over = Some(port);
    }

    /// True if another worker goes on with it.
    pub fn is_handed_over(&self) -> bool {
        self.record.handed_over.is_some()
    }

    /// Adds a port for [`Verdict::Flood`].
    pub fn flood(&mut self, port: PortId) {
        if !self.record.flood.contains(&port) {
            self.record.flood.push(port);
        }
    }

    /// The zone that the packet is bound for, with the headers as they are now; [`ZoneId::LOCAL`] for the data plane's own
    /// addresses, none without a route. What it depends on is recorded.
    pub fn to_zone(&mut self) -> Option<ZoneId> {
        let edits = self.headers.tuple_edits();
        if let Some((then, zone)) = self.record.zone
            && then == edits
        {
            return zone;
        }
        let zone = self.forwarder?.zone_of(self);
        self.record.zone = Some((edits, zone));
        zone
    }
}

/// What `commit` may do.
pub struct Commit<'a> {
    /// When the packet came.
    pub now: Time,
    /// The session, if there is one: new or known.
    pub session: Option<SessionId>,
    /// The session was opened by this walk.
    pub is_new: bool,
    /// The packet is the responder's.
    pub reply: bool,
    /// The port that it leaves by, the first of several; none if it doesn't.
    pub output: Option<PortId>,
    pub(crate) part: usize,
    pub(crate) scope: u8,
    pub(crate) refused: Option<DropReason>,
    pub(crate) state: &'a mut FlowState,
    pub(crate) wakes: &'a mut Vec<Wake>,
    pub(crate) frames: &'a mut Vec<Frame>,
}

impl Commit<'_> {
    /// What was proposed can't come true after all, because proposals of one walk were possible alone but not together: the
    /// packet is dropped, and the session that it opened ends, with all that functions keep in it (R6).
    pub fn refuse(&mut self, reason: DropReason) {
        self.refused = Some(reason);
    }

    /// This function's word in the session.
    pub fn part(&self) -> u64 {
        self.session.map_or(0, |id| self.state.sessions.part(id, self.part))
    }

    /// Sets it.
    pub fn set_part(&mut self, word: u64) {
        if let Some(id) = self.session {
            self.state.sessions.set_part(id, self.part, word);
        }
    }

    /// Ends a session, for instance one that the rules no longer allow.
    pub fn end_session(&mut self, id: SessionId) {
        self.state.end_session(id);
    }

    /// An object changed: the decisions that depend on it fall (R8).
    pub fn changed(&mut self, watch: Watch) {
        self.state.validity.within(self.scope).change(watch);
    }

    /// A wait ended.
    pub fn wake(&mut self, wake: Wake) {
        self.wakes.push(wake);
    }

    /// Sends a frame.
    pub fn emit(&mut self, port: PortId, bytes: &[u8]) {
        let mut frame = Frame { port, bytes: ArrayVec::new() };
        let take = bytes.len().min(FRAME_BYTES);
        if frame.bytes.try_extend_from_slice(&bytes[..take]).is_ok() {
            self.frames.push(frame);
        }
    }
}

/// What timers may do.
pub struct Tick<'a> {
    /// Now.
    pub now: Time,
    /// How many objects may be looked at.
    pub budget: usize,
    /// The chain's place.
    pub(crate) chain: u16,
    pub(crate) part: usize,
    pub(crate) scope: u8,
    pub(crate) state: &'a mut FlowState,
    pub(crate) wakes: &'a mut Vec<Wake>,
    pub(crate) frames: &'a mut Vec<Frame>,
}

impl Tick<'_> {
    /// An object changed: the decisions that depend on it fall.
    pub fn changed(&mut self, watch: Watch) {
        self.state.validity.within(self.scope).change(watch);
    }

    /// Looks at this function's word in the sessions of `count` numbers from `first` on, and ends those of which `ends` says
    /// so. Returns where to go on, or none at the end. Sessions that begin meanwhile may be left out.
    pub fn each_part(&mut self, first: u32, count: usize, mut ends: impl FnMut(u64) -> bool) -> Option<u32> {
        let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let last = first.saturating_add(count).min(self.state.sessions.high_water());
        for number in first..last {
            let Some(id) = self.state.sessions.get(number) else { continue };
            // Functions of other chains keep words of their own in that place; the low byte of a domain is the chain's.
            let is_mine = self.state.sessions.tuples(id)[0].domain & 0xff == self.chain;
            if is_mine && ends(self.state.sessions.part(id, self.part)) {
                self.state.end_session(id);
            }
        }
        (last < self.state.sessions.high_water()).then_some(last)
    }

    /// Ends a session, for instance one whose mapping the configuration no longer has. One that has ended is left alone.
    pub fn end_session(&mut self, id: SessionId) {
        if self.state.sessions.get(id.0).is_some() {
            self.state.end_session(id);
        }
    }

    /// A wait ended.
    pub fn wake(&mut self, wake: Wake) {
        self.wakes.push(wake);
    }

    /// Sends a frame.
    pub fn emit(&mut self, port: PortId, bytes: &[u8]) {
        let mut frame = Frame { port, bytes: ArrayVec::new() };
        let take = bytes.len().min(FRAME_BYTES);
        if frame.bytes.try_extend_from_slice(&bytes[..take]).is_ok() {
            self.frames.push(frame);
        }
    }
}

/// The object that a port is, with the interface on it and with what it leads to.
pub(crate) const fn port_watch(port: PortId) -> Watch {
    Watch::of(ObjectKind::Port, port.0 as u64)
}

/// A token of a function: `kind` keeps the tokens of different holders apart.
pub const fn hold_token(kind: HoldKind, id: u64) -> HoldToken {
    HoldToken((kind as u64) << 56 | (id & 0x00ff_ffff_ffff_ffff))
}

/// Who holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HoldKind {
    /// The router, for a neighbour.
    Neighbour = 1,
    /// The chain, for a first fragment.
    Fragment = 2,
}

/// True if the verdict ends the walk.
pub(crate) const fn ends(verdict: Verdict) -> bool {
    !matches!(verdict, Verdict::Continue)
}
