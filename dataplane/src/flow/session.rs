//! Sessions: one record a connection, both directions, for all functions of the chain (R7).
//!
//! What: a bounded table, indexed by the tuple of each direction *as received*: what the initiator sends, and what the
//! responder's answers look like when they come in. Functions keep a word each in the record (`parts`). Entries of the
//! flow cache hang on the session in a list, so that they fall with it.
//!
//! Design: records never move and nothing is rehashed. A record is three lines: what hits touch, apart from the others; and one for each
//! end with all that is kept of it. The index (`flow/tuple_index.rs`) finds them.
//! A single timer wheel (`flow/wheel.rs`) of one-second slots holds every session; a session whose slot comes up is looked at, its true
//! deadline computed from the folded last-seen, and put back or ended. All work is done in slices bounded in entries.
//!
//! Thread-safety: none needed; a table belongs to one worker.

use super::hash::KeyedHash;
use super::tcp::{TcpState, TcpTracker};
pub use super::tuple::Tuple;
use super::tuple_index::{End, Homes, TupleIndex};
use super::wheel::{Timer, TimerWheel};
use crate::memory::{Arena, ArenaError, ArenaSlice, Pod, prefetch};
use crate::time::{Time, nanos};
use std::time::Duration;

/// No session, no entry, end of a list.
pub const NONE: u32 = u32::MAX;
/// Most words that the functions of a chain keep in one session.
pub const PARTS_MAX: usize = 12;
/// Words of functions that are in the record itself, one at each end.
const NEAR_PARTS: usize = 2;
/// Most sessions of a table.
pub const SESSIONS_MAX: usize = 1 << 27;

/// A session's number in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u32);

/// How long a session lives without traffic. The defaults are the least that the RFCs allow, or what they recommend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, established: 2 hours 4 minutes (RFC 5382 REQ-5).
    pub tcp_established: Duration,
    /// TCP, opening or closing: 4 minutes (RFC 5382 REQ-5).
    pub tcp_transitory: Duration,
    /// TCP after both FINs or a reset: 4 minutes (RFC 5382 section 5, RFC 7857 section 2).
    pub tcp_closed: Duration,
    /// UDP, also without an answer: 5 minutes (RFC 4787 REQ-5).
    pub udp: Duration,
    /// ICMP queries: 60 seconds (RFC 5508 REQ-1).
    pub icmp: Duration,
    /// Anything else.
    pub other: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(2 * 3600 + 240),
            tcp_transitory: Duration::from_secs(240),
            tcp_closed: Duration::from_secs(240),
            udp: Duration::from_secs(300),
            icmp: Duration::from_secs(60),
            other: Duration::from_secs(600),
        }
    }
}

/// Traffic of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// What hits touch: one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Hot {
    /// The TCP tracker, used by both directions.
    pub tcp: TcpTracker,
    /// Milliseconds, folded from the entries.
    last_seen: u32,
    /// First entry of the flow cache that belongs to this session.
    pub(super) entries: u32,
    timer: Timer,
    flags: u8,
    protocol: u8,
    /// Where the initiator and the responder are, or [`ANYWHERE`].
    zones: [u8; 2],
    /// Milliseconds.
    created: u32,
}

/// The zone of an end that may be in any.
pub const ANYWHERE: u8 = u8::MAX;

const IN_USE: u8 = 1;
const REPLIED: u8 = 2;

/// What is kept of one end: one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Side {
    /// What it sends, as received.
    tuple: Tuple,
    /// What it sent, as folded.
    traffic: Traffic,
    /// A word of the functions.
    part: u64,
}

impl Side {
    const fn new(tuple: Tuple) -> Self {
        Self { tuple, traffic: Traffic { packets: 0, bytes: 0 }, part: 0 }
    }
}

/// The initiator's side, the responder's.
type Sides = [Side; 2];

#[allow(unsafe_code)]
mod pod {
    use super::{Hot, Pod, Side};
    // SAFETY: plain integers and arrays of them; all zeroes is a valid value.
    unsafe impl Pod for Hot {}
    // SAFETY: as above.
    unsafe impl Pod for Side {}
}

/// Size and behaviour of a session table.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Most sessions at a time.
    pub capacity: usize,
    /// Words that functions keep in each session.
    pub parts: usize,
    /// When sessions end.
    pub timeouts: Timeouts,
}

/// The table has no room for another session, or the tuple is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// All records are in use.
    Full,
    /// A tuple has no room in the index: both its buckets are full. With keyed hashes and the index at most 80 % full this does
    /// not happen in practice.
    Crowded,
    /// One of the tuples belongs to another session.
    Taken,
}

/// The sessions of one worker.
#[derive(Debug)]
pub struct SessionTable {
    /// By number: what hits touch, apart from the rest, so that it lies on few pages.
    hots: ArenaSlice<Hot>,
    sides: ArenaSlice<Sides>,
    /// The functions' words beyond those in the records.
    far_parts: ArenaSlice<u64>,
    index: TupleIndex,
    wheel: TimerWheel,
    parts_count: usize,
    /// Numbers that are free again, a stack of `free_count`.
    free: ArenaSlice<u32>,
    free_count: usize,
    fresh: u32,
    count: usize,
    capacity: usize,
    clock_hand: u32,
    timeouts: Timeouts,
}

/// Most sessions whose timers are looked at together.
pub(super) const DUE_MAX: usize = 64;

/// Numbers of sessions whose timers came up.
pub(super) type Due = arrayvec::ArrayVec<u32, DUE_MAX>;

/// Numbers beyond the capacity: those that ended stay theirs until the functions were told, and a walk that ends some may open
/// another.
const SPARE: usize = 8;

impl SessionTable {
    /// Memory comes from `arena`, all of it at once.
    ///
    /// # Errors
    /// If the arena has not enough.
    pub fn new(arena: &Arena, config: &SessionConfig, hash: KeyedHash) -> Result<Self, ArenaError> {
        let capacity = config.capacity.clamp(1, SESSIONS_MAX);
        let numbers = capacity + SPARE;
        Ok(Self {
            hots: ArenaSlice::zeroed(arena, numbers)?,
            sides: ArenaSlice::zeroed(arena, numbers)?,
            far_parts: ArenaSlice::zeroed(arena, numbers * far_parts(config.parts))?,
            index: TupleIndex::new(arena, capacity, hash)?,
            wheel: TimerWheel::new(arena, capacity)?,
            parts_count: config.parts.min(PARTS_MAX),
            free: ArenaSlice::zeroed(arena, numbers)?,
            free_count: 0,
            fresh: 0,
            count: 0,
            capacity,
            clock_hand: 0,
            timeouts: config.timeouts,
        })
    }

    /// Bytes that a table of this size takes from the arena.
    pub fn bytes_for(capacity: usize, parts: usize) -> usize {
        let capacity = capacity.clamp(1, SESSIONS_MAX);
        let session_bytes = size_of::<Hot>() + size_of::<Sides>() + 8 * far_parts(parts) + size_of::<u32>();
        (capacity + SPARE) * session_bytes
            + TupleIndex::bytes_for(capacity)
            + TimerWheel::bytes_for(capacity)
            + 6 * 64
    }

    /// Bytes that this table takes, wheel included.
    pub fn memory_bytes(&self) -> usize {
        self.hots.arena_bytes()
            + self.sides.arena_bytes()
            + self.far_parts.arena_bytes()
            + self.index.memory_bytes()
            + self.free.arena_bytes()
            + self.wheel.memory_bytes()
    }

    /// Most sessions.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sessions now.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Changes the timeouts; running timers follow when they come up.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Where the index may have a tuple.
    #[cfg(test)]
    pub(super) fn homes(&self, tuple: &Tuple) -> Homes {
        self.index.homes(tuple)
    }

    /// Asks for the memory that [`Self::find`] will need.
    pub fn prefetch(&self, tuple: &Tuple) {
        self.index.prefetch(self.index.homes(tuple));
    }

    /// Asks for the record that a session will get after `ahead` others.
    pub fn prefetch_free(&self, ahead: usize) {
        let id = match self.free_count.checked_sub(ahead + 1) {
            Some(at) => self.free[at],
            None => self.fresh.saturating_add((ahead - self.free_count) as u32),
        };
        self.prefetch_record(id);
    }

    /// Asks for all of a session's record.
    pub fn prefetch_record(&self, id: u32) {
        self.hots.prefetch(id as usize);
        if let Some(sides) = self.sides.get(id as usize) {
            sides.iter().for_each(prefetch);
        }
        if let Some(parts) = self.far_parts.get(id as usize * far_parts(self.parts_count)) {
            prefetch(parts);
        }
    }

    /// The session with this tuple, and whether it is the responder's direction. At most 2 buckets are looked at.
    pub fn find(&self, tuple: &Tuple) -> Option<(SessionId, bool)> {
        self.find_at(tuple, self.index.homes(tuple))
    }

    #[inline(always)]
    fn find_at(&self, tuple: &Tuple, homes: Homes) -> Option<(SessionId, bool)> {
        let end = self.index.find(homes, |end| self.side(end).tuple == *tuple)?;
        Some((end.session(), end.is_reply()))
    }

    #[inline(always)]
    fn side(&self, end: End) -> &Side {
        &self.sides[end.session().0 as usize][usize::from(end.is_reply())]
    }

    /// Adds the entry of a tuple whose record is written.
    #[inline(always)]
    fn index_add(&mut self, id: SessionId, reply: bool, homes: Homes) -> bool {
        let Self { sides, index, .. } = self;
        index.insert(homes, End::new(id, reply), |index, end| homes_of(sides, index, end))
    }

    /// The number of the next session; none without room for it.
    fn next_number(&self) -> Option<u32> {
        let fresh = || ((self.fresh as usize) < self.hots.len()).then_some(self.fresh);
        match self.free_count.checked_sub(1) {
            _ if self.count >= self.capacity => None,
            Some(last) => Some(self.free[last]),
            None => fresh(),
        }
    }

    /// Whether [`Self::insert`] would add a session of these tuples, once the session `replaces` has ended.
    ///
    /// # Errors
    /// As [`Self::insert`].
    pub fn may_insert(
        &self,
        initiator: &Tuple,
        responder: &Tuple,
        replaces: Option<SessionId>,
    ) -> Result<(), InsertError> {
        let taken = |tuple| self.find(tuple).is_some_and(|(id, _)| Some(id) != replaces);
        if taken(initiator) || taken(responder) {
            return Err(InsertError::Taken);
        }
        // That both want the last place of all is as good as impossible, and costs one connection.
        let room = |tuple| {
            let homes_of = |index: &TupleIndex, end| homes_of(&self.sides, index, end);
            self.index.has_room(self.index.homes(tuple), replaces, homes_of)
        };
        if !room(initiator) || !room(responder) {
            return Err(InsertError::Crowded);
        }
        let full = self.next_number().is_none() && replaces.is_none();
        if full { Err(InsertError::Full) } else { Ok(()) }
    }

    /// Adds a session. `initiator` is what its first packet looked like, `responder` what answers will look like, both as
    /// received.
    ///
    /// # Errors
    /// If the table is full (see [`Self::victim`]), the index has no room for a tuple, or a tuple is taken.
    pub fn insert(
        &mut self,
        initiator: &Tuple,
        responder: &Tuple,
        now: Time,
    ) -> Result<SessionId, InsertError> {
        let homes = self.index.homes(initiator);
        if self.find_at(initiator, homes).is_some() {
            return Err(InsertError::Taken);
        }
        let id = SessionId(self.next_number().ok_or(InsertError::Full)?);
        let last_seen = now.as_millis() as u32;
        *self.hot(id) = Hot {
            tcp: TcpTracker::default(),
            last_seen,
            entries: NONE,
            timer: Timer::NONE,
            flags: IN_USE,
            protocol: initiator.protocol,
            zones: [ANYWHERE; 2],
            created: last_seen,
        };
        self.sides[id.0 as usize] = [Side::new(*initiator), Side::new(*responder)];
        if !self.index_add(id, false, homes) {
            self.hot(id).flags = 0;
            return Err(InsertError::Crowded);
        }
        if self.count == 0 {
            // An empty wheel has nothing to turn through.
            self.wheel.skip_to(now.0 / 1_000_000_000);
        }
        let slot = self.slot_for(now + self.timeout(id));
        self.hot(id).timer = self.wheel.arm(id.0, slot);
        // Last, since what answers look like is known last, and so is where in memory that leads.
        if let Err(error) = self.add_responder(id, initiator, responder) {
            self.index.remove(homes, End::new(id, false));
            self.disarm(id.0);
            self.hot(id).flags = 0;
            return Err(error);
        }
        match self.free_count.checked_sub(1) {
            Some(last) => self.free_count = last,
            None => self.fresh += 1,
        }
        self.count += 1;
        if self.parts_count > NEAR_PARTS {
            let far = self.far_range(id);
            self.far_parts[far].fill(0);
        }
        Ok(id)
    }

    /// Enters the responder's tuple of a session whose record is written.
    #[inline(always)]
    fn add_responder(
        &mut self,
        id: SessionId,
        initiator: &Tuple,
        responder: &Tuple,
    ) -> Result<(), InsertError> {
        if initiator == responder {
            // Traffic between equal tuples in both directions (a host to itself) has one index entry.
            return Ok(());
        }
        let homes = self.index.homes(responder);
        if self.find_at(responder, homes).is_some() {
            return Err(InsertError::Taken);
        }
        if self.index_add(id, true, homes) { Ok(()) } else { Err(InsertError::Crowded) }
    }

    /// Removes a session that has no entries left, from the homes of its ends. What is kept of it stays, and its number is not
    /// given to another, until [`Self::free`].
    pub(super) fn remove(&mut self, id: SessionId, [initiator, responder]: [Homes; 2]) {
        debug_assert_eq!(self.hot(id).entries, NONE);
        self.index.remove(initiator, End::new(id, false));
        self.index.remove(responder, End::new(id, true));
        self.disarm(id.0);
        self.hot(id).flags = 0;
        self.count -= 1;
    }

    /// The number of a session that was removed is free.
    pub(super) fn free(&mut self, id: SessionId) {
        self.free[self.free_count] = id.0;
        self.free_count += 1;
    }

    /// A session that may give way to a new one: not assured, found within a bounded number of looks.
    pub fn victim(&mut self) -> Option<SessionId> {
        for _ in 0..32 {
            let id = self.clock_hand;
            self.clock_hand = if self.clock_hand + 1 < self.fresh { self.clock_hand + 1 } else { 0 };
            if let Some(id) = self.get(id)
                && !self.is_assured(id)
            {
                return Some(id);
            }
        }
        None
    }

    /// True if both ends agreed to the connection: answered, and for TCP past its handshake.
    pub fn is_assured(&self, id: SessionId) -> bool {
        let hot = &self.hots[id.0 as usize];
        hot.flags & REPLIED != 0 && (hot.protocol != 6 || hot.tcp.is_assured())
    }

    /// How long the session lives without traffic, in its state.
    pub fn timeout(&self, id: SessionId) -> Duration {
        let hot = &self.hots[id.0 as usize];
        match hot.protocol {
            6 => match hot.tcp.state() {
                TcpState::Established if hot.tcp.is_doubted() => self.timeouts.tcp_closed,
                TcpState::Established => self.timeouts.tcp_established,
                TcpState::TimeWait | TcpState::Closed => self.timeouts.tcp_closed,
                _ => self.timeouts.tcp_transitory,
            },
            17 => self.timeouts.udp,
            1 | 58 => self.timeouts.icmp,
            _ => self.timeouts.other,
        }
    }

    /// Moves a session's timer to the second of `deadline`.
    fn arm(&mut self, id: u32, deadline: Time) {
        let slot = self.slot_for(deadline);
        if !self.wheel.is_in(self.hots[id as usize].timer, slot) {
            self.disarm(id);
            self.hots[id as usize].timer = self.wheel.arm(id, slot);
        }
    }

    fn slot_for(&self, deadline: Time) -> u16 {
        self.wheel.slot_for(deadline.0.div_ceil(1_000_000_000))
    }

    fn disarm(&mut self, id: u32) {
        let timer = std::mem::replace(&mut self.hots[id as usize].timer, Timer::NONE);
        if let Some((moved, timer)) = self.wheel.disarm(timer) {
            self.hots[moved as usize].timer = timer;
        }
    }

    /// Sessions whose timers came up by `now`, at most so many; fewer than that if there are no more. Each has no timer then: it
    /// is to be put back, or removed.
    pub(super) fn take_due(&mut self, now: Time, most: usize) -> Due {
        let second = now.0 / 1_000_000_000;
        if self.count == 0 {
            self.wheel.skip_to(second);
        }
        let mut due = Due::new();
        self.wheel.take_due(second, &mut due, most);
        due
    }

    /// Asks for the records of some sessions whose timers came up by `now`.
    pub(super) fn prefetch_due(&self, now: Time) {
        self.wheel.due(now.0 / 1_000_000_000).iter().rev().for_each(|&id| self.prefetch_record(id));
    }

    /// Where the ends of a session are in the index.
    pub(super) fn homes_of(&self, id: SessionId) -> [Homes; 2] {
        let [initiator, responder] = &self.sides[id.0 as usize];
        [self.index.homes(&initiator.tuple), self.index.homes(&responder.tuple)]
    }

    /// Asks for the memory there.
    pub(super) fn prefetch_homes(&self, homes: &[Homes; 2]) {
        homes.iter().for_each(|homes| self.index.prefetch(*homes));
    }

    /// Puts the timer that came up to where the session's last traffic says, or answers false if it has run out.
    pub(super) fn rearm(&mut self, id: SessionId, now: Time) -> bool {
        let deadline = Time((now + self.timeout(id)).0.saturating_sub(nanos(self.idle(id, now))));
        // In whole seconds, as the wheel turns: whether it was looked at before makes no difference to when it ends.
        let goes_on = deadline.0.div_ceil(1_000_000_000) > now.0 / 1_000_000_000;
        let timer = if goes_on { self.wheel.arm(id.0, self.slot_for(deadline)) } else { Timer::NONE };
        self.hot(id).timer = timer;
        goes_on
    }

    /// A packet of a session walked: its timer is set anew, and a `reply` counts as one before any counter is folded.
    pub fn touch(&mut self, id: SessionId, reply: bool, now: Time) {
        let hot = &mut self.hots[id.0 as usize];
        let millis = now.as_millis() as u32;
        if hot.last_seen == millis && !reply && hot.protocol != 6 {
            // It was opened by this very packet, or is as good as that.
            return;
        }
        hot.last_seen = millis;
        if reply {
            hot.flags |= REPLIED;
        }
        let deadline = now + self.timeout(id);
        self.arm(id.0, deadline);
    }

    /// Time since the last packet, as folded.
    pub fn idle(&self, id: SessionId, now: Time) -> Duration {
        let elapsed = (now.as_millis() as u32).wrapping_sub(self.hots[id.0 as usize].last_seen);
        // A last-seen after `now` (by a fold in between) is no idle time.
        Duration::from_millis(if elapsed > u32::MAX / 2 { 0 } else { u64::from(elapsed) })
    }

    /// Adds traffic to a direction, and notes when it was last seen (milliseconds).
    pub(super) fn credit(&mut self, id: SessionId, reply: bool, traffic: Traffic, last_seen: u32) {
        let hot = &mut self.hots[id.0 as usize];
        if reply {
            hot.flags |= REPLIED;
        }
        if (last_seen.wrapping_sub(hot.last_seen) as i32) > 0 {
            hot.last_seen = last_seen;
        }
        let mine = &mut self.sides[id.0 as usize][usize::from(reply)].traffic;
        *mine += traffic;
    }

    /// The line that hits touch.
    #[inline]
    pub fn hot(&mut self, id: SessionId) -> &mut Hot {
        &mut self.hots[id.0 as usize]
    }

    /// Asks for the line that hits touch.
    #[inline(always)]
    pub fn prefetch_hot(&self, id: u32) {
        self.hots.prefetch(id as usize);
    }

    /// The TCP tracker, for reading.
    pub fn tcp(&self, id: SessionId) -> &TcpTracker {
        &self.hots[id.0 as usize].tcp
    }

    /// Words that functions have in each session.
    pub fn parts_count(&self) -> usize {
        self.parts_count
    }

    /// All functions' words.
    pub fn parts_of(&self, id: SessionId) -> arrayvec::ArrayVec<u64, PARTS_MAX> {
        let near = self.sides[id.0 as usize].iter().map(|side| side.part);
        let mut parts: arrayvec::ArrayVec<u64, PARTS_MAX> = near.take(self.parts_count).collect();
        if self.parts_count > NEAR_PARTS {
            parts.extend(self.far_parts[self.far_range(id)].iter().copied());
        }
        parts
    }

    /// A function's word.
    pub fn part(&self, id: SessionId, part: usize) -> u64 {
        if part >= self.parts_count {
            return 0;
        }
        match self.sides[id.0 as usize].get(part) {
            Some(side) => side.part,
            None => self.far_parts[self.far_range(id)].get(part - NEAR_PARTS).copied().unwrap_or(0),
        }
    }

    /// Sets a function's word; one that the table has no room for is not kept.
    pub fn set_part(&mut self, id: SessionId, part: usize, word: u64) {
        if part >= self.parts_count {
            return;
        }
        let far = self.far_range(id);
        let mine = match self.sides[id.0 as usize].get_mut(part) {
            Some(side) => Some(&mut side.part),
            None => self.far_parts[far].get_mut(part - NEAR_PARTS),
        };
        if let Some(mine) = mine {
            *mine = word;
        }
    }

    /// Where the words are that are not in the record.
    fn far_range(&self, id: SessionId) -> std::ops::Range<usize> {
        let count = far_parts(self.parts_count);
        id.0 as usize * count..(id.0 as usize + 1) * count
    }

    /// The tuples of both directions: as the initiator sent, as the responder answers.
    pub fn tuples(&self, id: SessionId) -> [Tuple; 2] {
        self.sides[id.0 as usize].map(|side| side.tuple)
    }

    /// What the initiator sends, or what the responder answers, as received.
    pub fn tuple(&self, id: SessionId, reply: bool) -> &Tuple {
        &self.side(End::new(id, reply)).tuple
    }

    /// The domain in which its tuples are unique.
    pub fn domain(&self, id: SessionId) -> u16 {
        self.sides[id.0 as usize][0].tuple.domain
    }

    /// The zones from which the initiator and the responder send; [`ANYWHERE`]: any.
    pub fn zones(&self, id: SessionId) -> [u8; 2] {
        self.hots[id.0 as usize].zones
    }

    /// Sets the zones of the initiator and the responder. Entries made before don't know: they are to be killed if this matters.
    pub fn set_zones(&mut self, id: SessionId, zones: [u8; 2]) {
        self.hot(id).zones = zones;
    }

    /// The folded traffic of both directions.
    pub fn traffic(&self, id: SessionId) -> [Traffic; 2] {
        self.sides[id.0 as usize].map(|side| side.traffic)
    }

    /// When the session began, in milliseconds of the clock (it wraps after 49 days).
    pub fn created_millis(&self, id: SessionId) -> u32 {
        self.hots[id.0 as usize].created
    }

    /// True if traffic came from the responder, as folded.
    pub fn is_replied(&self, id: SessionId) -> bool {
        self.hots[id.0 as usize].flags & REPLIED != 0
    }

    /// The session of this number, if it is in use: for walks in slices.
    pub fn get(&self, id: u32) -> Option<SessionId> {
        self.hots.get(id as usize).filter(|hot| hot.flags & IN_USE != 0).map(|_| SessionId(id))
    }

    /// Numbers from here on were never used.
    pub fn high_water(&self) -> u32 {
        self.fresh
    }
}

/// How many words of a session are not in its record.
const fn far_parts(parts: usize) -> usize {
    let parts = if parts < PARTS_MAX { parts } else { PARTS_MAX };
    parts.saturating_sub(NEAR_PARTS)
}

fn homes_of(sides: &[Sides], index: &TupleIndex, end: End) -> Homes {
    index.homes(&sides[end.session().0 as usize][usize::from(end.is_reply())].tuple)
}

const _: () = assert!(size_of::<Hot>() == 64 && size_of::<Sides>() == 128);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn tuple(i: u32) -> Tuple {
        Tuple::new(0, 17, (Ipv4Addr::from(i).into(), 1000), (Ipv4Addr::new(10, 0, 0, 1).into(), 53))
    }

    fn table(capacity: usize) -> SessionTable {
        let arena = Arena::anonymous(SessionTable::bytes_for(capacity, 2) + 4096).unwrap();
        let config = SessionConfig { capacity, parts: 2, timeouts: Timeouts::default() };
        SessionTable::new(&arena, &config, KeyedHash::random()).unwrap()
    }

    fn remove(table: &mut SessionTable, id: SessionId) {
        let homes = table.homes_of(id);
        table.remove(id, homes);
    }

    /// The next session whose timer came up.
    fn due(table: &mut SessionTable, now: u64) -> Option<SessionId> {
        table.take_due(Time::from_secs(now), 1).first().copied().map(SessionId)
    }

    #[test]
    fn both_directions_are_found_and_a_full_table_says_so() {
        let mut table = table(1000);
        let ids: Vec<_> =
            (0..1000).map(|i| table.insert(&tuple(i), &tuple(i).inverse(), Time(0)).unwrap()).collect();
        for (i, &id) in ids.iter().enumerate() {
            assert_eq!(table.find(&tuple(i as u32)), Some((id, false)));
            assert_eq!(table.find(&tuple(i as u32).inverse()), Some((id, true)));
        }
        assert_eq!(table.insert(&tuple(5000), &tuple(5000).inverse(), Time(0)), Err(InsertError::Full));
        assert_eq!(table.insert(&tuple(3), &tuple(9999), Time(0)), Err(InsertError::Taken));
        remove(&mut table, ids[7]);
        assert_eq!(table.tuples(ids[7])[0], tuple(7), "it is remembered for the functions");
        table.free(ids[7]);
        assert_eq!(table.find(&tuple(7)), None);
        assert_eq!(table.insert(&tuple(5000), &tuple(5000).inverse(), Time(0)), Ok(ids[7]));
    }

    /// What is foretold comes true, up to the last place and with a session that gives way.
    #[test]
    fn whether_there_is_room_is_foretold() {
        for capacity in [1usize, 4, 8, 64, 500] {
            let mut table = table(capacity);
            let mut refused = 0;
            for i in 0..2 * capacity as u32 {
                let (initiator, responder) = (tuple(i), tuple(i).inverse());
                let foretold = table.may_insert(&initiator, &responder, None);
                refused += usize::from(foretold.is_err());
                assert_eq!(table.insert(&initiator, &responder, Time(0)).is_ok(), foretold.is_ok());
                if let Some((old, _)) = table.find(&tuple(i / 2)) {
                    assert_eq!(table.may_insert(&tuple(i / 2), &tuple(i / 2).inverse(), Some(old)), Ok(()));
                }
            }
            assert_eq!(refused, 2 * capacity - table.count());
        }
    }

    #[test]
    fn timers_come_up_once_and_in_time() {
        let mut table = table(100);
        let id = table.insert(&tuple(1), &tuple(2), Time::from_secs(10)).unwrap();
        assert_eq!(due(&mut table, 309), None);
        assert_eq!(due(&mut table, 311), Some(id));
        table.credit(id, false, Traffic { packets: 1, bytes: 60 }, 100_000);
        assert!(table.rearm(id, Time::from_secs(311)));
        assert_eq!(due(&mut table, 399), None);
        assert_eq!(due(&mut table, 401), Some(id));
        assert!(!table.rearm(id, Time::from_secs(401)));
        remove(&mut table, id);
        assert_eq!(due(&mut table, 100_000), None);
    }

    #[test]
    fn the_wheel_survives_long_timeouts_and_long_pauses() {
        let mut table = table(100);
        table.set_timeouts(Timeouts { udp: Duration::from_secs(100_000), ..Timeouts::default() });
        let id = table.insert(&tuple(1), &tuple(2), Time(0)).unwrap();
        let mut now = 0;
        loop {
            now += 5000;
            match due(&mut table, now) {
                Some(due) if !table.rearm(due, Time::from_secs(now)) => break,
                _ => {}
            }
        }
        assert_eq!(now, 100_000);
        remove(&mut table, id);
    }

    #[test]
    fn the_table_holds_what_it_promises() {
        // The load is highest just below a power of two of buckets.
        for capacity in [1, 7, 8, 100, 4096, 131_000, 262_144] {
            let mut table = table(capacity);
            let all = 0..capacity as u32;
            let ids: Vec<_> =
                all.clone().map(|i| table.insert(&tuple(i), &tuple(i).inverse(), Time(0)).unwrap()).collect();
            for (i, &id) in all.zip(&ids) {
                assert_eq!(table.find(&tuple(i)), Some((id, false)));
                assert_eq!(table.find(&tuple(i).inverse()), Some((id, true)));
            }
            for &id in &ids {
                remove(&mut table, id);
            }
            assert!(table.index.is_empty());
        }
    }
}
