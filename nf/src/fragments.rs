//! The datagrams that pass in fragments: what the first fragment says of the later ones, and which pieces have passed.
//!
//! Later fragments have no transport header; the ports of the first are kept for them, by addresses, identification and
//! protocol, and so is the header of a TCP segment, which is tracked whole when its last fragment passes. Those that overtake
//! their first wait for it, within the bounds of the hold queue.
//!
//! No two pieces overlap (RFC 5722, and RFC 1858 and 3128 for IPv4): a datagram with an overlap is dropped from there on, so that its
//! receiver can't complete it. A piece that comes again exactly is dropped alone. A datagram is over when all of it has passed:
//! its identification may be used again at once.
//!
//! All is bounded: datagrams, waits (each has its own table, and in both the oldest gives way) and pieces of a datagram.

use crate::headers::{Headers, Network, Parsed};
use crate::walk::{HoldKind, hold_token};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::tcp::Segment;
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::{HoldToken, Wake};
use millrace_dataplane::time::Time;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// Most datagrams whose first fragment passed.
pub const DATAGRAMS_MAX: usize = 4096;
/// Most datagrams whose first fragment is waited for.
pub const WAITS_MAX: usize = 512;
/// Most pieces of one datagram: 64 KiB over links with an MTU of 576 bytes.
const PIECES_MAX: usize = 128;
/// How long the ports of a datagram are kept (RFC 791 section 3.2 suggests 15 seconds for reassembly).
const KEEP: Duration = Duration::from_secs(15);
/// How long later fragments wait for their first.
const WAIT: Duration = Duration::from_secs(2);

/// What all fragments of a datagram share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    protocol: u8,
    domain: u16,
    /// Where it came from: no other port's fragments belong to it.
    port: u16,
}

impl DatagramKey {
    /// The key of a fragment; none if it is not one.
    pub fn of(headers: &Headers, domain: u16, port: PortId) -> Option<Self> {
        let original = headers.original();
        if !original.is_fragment() {
            return None;
        }
        let (source, destination) = original.addresses()?;
        let identification = match &original.network {
            Network::V4(ip) => u32::from(ip.identification),
            Network::V6(ip) => ip.fragment?.identification,
            _ => return None,
        };
        Some(Self {
            source,
            destination,
            identification,
            protocol: original.protocol()?,
            domain,
            port: port.0,
        })
    }
}

/// Which bytes of its datagram a fragment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    start: u16,
    end: u16,
    is_last: bool,
}

impl Piece {
    /// The piece that a fragment is; none if it is not one.
    pub fn of(parsed: &Parsed) -> Option<Self> {
        let (start, offset, more) = fragmented(parsed)?;
        let length = parsed.offsets.end.saturating_sub(start);
        let start = offset.saturating_mul(8);
        Some(Self { start, end: start.saturating_add(length), is_last: !more })
    }

    /// The bytes from `start` to in front of `end`.
    #[cfg(test)]
    pub(crate) const fn new(start: u16, end: u16, is_last: bool) -> Self {
        Self { start, end, is_last }
    }

    /// How many bytes it has.
    pub(crate) const fn bytes(self) -> u16 {
        self.end.saturating_sub(self.start)
    }

    /// The first byte behind it.
    pub(crate) const fn end(self) -> u16 {
        self.end
    }

    /// None follow behind it.
    pub(crate) const fn is_last(self) -> bool {
        self.is_last
    }
}

/// Where the fragmented part starts in the frame, the fragment's offset in units of eight bytes, and whether more follow.
fn fragmented(parsed: &Parsed) -> Option<(u16, u16, bool)> {
    match &parsed.network {
        Network::V4(ip) => {
            let start = parsed.offsets.network + ip.header_bytes() as u16;
            Some((start, ip.fragment_offset, ip.more_fragments))
        }
        Network::V6(ip) => {
            let fragment = ip.fragment?;
            Some((fragment.at + 8, fragment.fragment_offset, fragment.more_fragments))
        }
        _ => None,
    }
}

/// What a first fragment says of the later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// The ports (of echo messages: the identifier, twice).
    pub ports: (u16, u16),
    /// The header of its TCP segment, if it is one.
    pub segment: Option<Segment>,
    /// Bytes of the fragmented part in front of the transport's payload.
    headers: u16,
}

impl First {
    /// Of a first fragment.
    pub fn of(parsed: &Parsed, ports: (u16, u16), segment: Option<Segment>) -> Self {
        let start = fragmented(parsed).map_or(parsed.offsets.payload, |(start, ..)| start);
        Self { ports, segment, headers: parsed.offsets.payload.saturating_sub(start) }
    }

    /// The whole segment, of whose datagram `last` is the last piece.
    pub fn whole(&self, last: Piece) -> Option<Segment> {
        let payload_bytes = u32::from(last.end.saturating_sub(self.headers));
        self.segment.filter(|_| last.is_last).map(|segment| Segment { payload_bytes, ..segment })
    }
}

/// What a fragment is to its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing of the datagram has passed.
    New,
    /// Its first fragment has passed, and this piece has not.
    Follows(First),
    /// It may not pass.
    Refused,
}

#[derive(Clone, Debug)]
struct Datagram {
    first: First,
    deadline: Time,
    /// What passed, in order.
    pieces: Vec<(u16, u16)>,
    /// Bytes in all, once the last piece passed.
    total: Option<u16>,
    /// Pieces overlap: nothing more of it passes.
    is_broken: bool,
}

impl Datagram {
    fn is_complete(&self) -> bool {
        let mut end = 0;
        let joined = self.pieces.iter().all(|piece| std::mem::replace(&mut end, piece.1) == piece.0);
        joined && self.total == Some(end)
    }

    fn has(&self, piece: Piece) -> bool {
        self.pieces.binary_search(&(piece.start, piece.end)).is_ok()
    }

    /// True if the piece lies beside all that passed, within the whole.
    fn takes(&self, piece: Piece) -> bool {
        let at = self.pieces.partition_point(|&(start, _)| start < piece.start);
        let before = at.checked_sub(1).map_or(0, |before| self.pieces[before].1);
        let after = self.pieces.get(at).map_or(u16::MAX, |&(start, _)| start);
        let beyond = self.total.is_some_and(|total| piece.end > total || piece.is_last);
        let is_behind = self.pieces.last().is_none_or(|&(_, end)| end <= piece.start);
        before <= piece.start
            && piece.end <= after
            && !beyond
            && (is_behind || !piece.is_last)
            && self.pieces.len() < PIECES_MAX
    }
}

/// The datagrams in transit.
#[derive(Debug, Default)]
pub struct Fragments {
    datagrams: HashMap<DatagramKey, Datagram>,
    queue: VecDeque<(Time, DatagramKey)>,
    /// Those of which later fragments wait for the first, and until when.
    waits: HashMap<DatagramKey, Time>,
    waits_queue: VecDeque<(Time, DatagramKey)>,
    tokens: RandomState,
}

impl Fragments {
    /// The token on which later fragments of a datagram wait.
    pub fn token(&self, key: &DatagramKey) -> HoldToken {
        hold_token(HoldKind::Fragment, self.tokens.hash_one(key))
    }

    /// What this piece is to its datagram.
    pub fn look(&self, key: &DatagramKey, piece: Piece) -> Place {
        match self.datagrams.get(key).filter(|datagram| !datagram.is_complete()) {
            None => Place::New,
            Some(datagram) if datagram.is_broken || !datagram.takes(piece) => Place::Refused,
            Some(datagram) => Place::Follows(datagram.first),
        }
    }

    /// The same. A piece that overlaps breaks the datagram.
    pub fn place(&mut self, key: &DatagramKey, piece: Piece) -> Place {
        let place = self.look(key, piece);
        if place == Place::Refused
            && let Some(datagram) = self.datagrams.get_mut(key).filter(|datagram| !datagram.has(piece))
        {
            datagram.is_broken = true;
            datagram.pieces = Vec::new();
        }
        place
    }

    /// The first fragment of a new datagram passed; later ones that wait are woken. Where there is no room, the oldest datagram
    /// gives way.
    pub fn first_passed(
        &mut self,
        key: DatagramKey,
        first: First,
        piece: Piece,
        now: Time,
        mut wake: impl FnMut(Wake),
    ) {
        let deadline = now + KEEP;
        let pieces = vec![(piece.start, piece.end)];
        let datagram = Datagram { first, deadline, pieces, total: None, is_broken: false };
        if self.datagrams.insert(key, datagram).is_none() {
            self.queue.push_back((deadline, key));
        }
        if self.waits.remove(&key).is_some() {
            wake(Wake::Release(self.token(&key)));
        }
        if self.datagrams.len() > DATAGRAMS_MAX {
            self.forget_oldest(now);
        }
    }

    /// A later fragment passed.
    pub fn later_passed(&mut self, key: &DatagramKey, piece: Piece) {
        if let Some(datagram) = self.datagrams.get_mut(key).filter(|datagram| datagram.takes(piece)) {
            let at = datagram.pieces.partition_point(|&(start, _)| start < piece.start);
            datagram.pieces.insert(at, (piece.start, piece.end));
            if piece.is_last {
                datagram.total = Some(piece.end);
            }
        }
    }

    /// A later fragment came first and waits. Where too many do, those that wait longest are given up.
    pub fn await_first(&mut self, key: DatagramKey, now: Time, wake: impl FnMut(Wake)) {
        if let std::collections::hash_map::Entry::Vacant(e) = self.waits.entry(key) {
            e.insert(now + WAIT);
            self.waits_queue.push_back((now + WAIT, key));
        }
        if self.waits_queue.len() > WAITS_MAX {
            self.give_up_oldest(wake);
        }
    }

    fn give_up_oldest(&mut self, mut wake: impl FnMut(Wake)) {
        if let Some((deadline, key)) = self.waits_queue.pop_front()
            && self.waits.get(&key) == Some(&deadline)
        {
            self.waits.remove(&key);
            wake(Wake::Discard(self.token(&key), DropReason::FragmentUnmatched));
        }
    }

    fn forget_oldest(&mut self, now: Time) {
        let over = self.datagrams.len() > DATAGRAMS_MAX;
        let Some((_, key)) = self.queue.pop_front() else { return };
        match self.datagrams.get(&key) {
            // Its identification was used again since it was queued.
            Some(datagram) if datagram.deadline > now && !over => {
                self.queue.push_back((datagram.deadline, key));
            }
            _ => {
                self.datagrams.remove(&key);
            }
        }
    }

    /// Forgets what is over: at most `budget` datagrams and as many waits. Those that were in vain are reported.
    pub fn expire(&mut self, now: Time, budget: usize, mut wake: impl FnMut(Wake)) {
        let due = |queue: &VecDeque<(Time, DatagramKey)>| queue.front().is_some_and(|front| front.0 <= now);
        for _ in 0..budget {
            let (waits, datagrams) = (due(&self.waits_queue), due(&self.queue));
            if waits {
                self.give_up_oldest(&mut wake);
            }
            if datagrams {
                self.forget_oldest(now);
            }
            if !waits && !datagrams {
                return;
            }
        }
    }

    /// Datagrams now, with those whose first fragment is waited for.
    pub fn count(&self) -> usize {
        self.datagrams.len() + self.waits.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(identification: u32) -> DatagramKey {
        let address = IpAddr::from([10, 0, 0, 1]);
        DatagramKey {
            source: address,
            destination: address,
            identification,
            protocol: 17,
            domain: 0,
            port: 0,
        }
    }

    const FIRST: First = First { ports: (1, 2), segment: None, headers: 8 };

    fn piece(start: u16, end: u16, is_last: bool) -> Piece {
        Piece { start, end, is_last }
    }

    /// Offers pieces in order, as a chain does; which passed.
    fn offer(fragments: &mut Fragments, pieces: &[Piece]) -> Vec<bool> {
        let mut passes = |piece: &Piece| match fragments.place(&key(1), *piece) {
            Place::New if piece.start == 0 => {
                fragments.first_passed(key(1), FIRST, *piece, Time(0), |_| {});
                true
            }
            Place::Follows(_) => {
                fragments.later_passed(&key(1), *piece);
                true
            }
            Place::New | Place::Refused => false,
        };
        pieces.iter().map(&mut passes).collect()
    }

    /// Between two slices of timers more first fragments may come than one slice forgets.
    #[test]
    fn a_flood_of_first_fragments_displaces_the_oldest() {
        let mut fragments = Fragments::default();
        for identification in 0..3 * DATAGRAMS_MAX as u32 {
            fragments.first_passed(key(identification), FIRST, piece(0, 8, false), Time(0), |_| {});
        }
        assert_eq!((fragments.count(), fragments.queue.len()), (DATAGRAMS_MAX, DATAGRAMS_MAX));
        let later = piece(8, 16, true);
        assert_eq!(fragments.place(&key(0), later), Place::New);
        assert_eq!(fragments.place(&key(3 * DATAGRAMS_MAX as u32 - 1), later), Place::Follows(FIRST));
        fragments.expire(Time::from_secs(16), DATAGRAMS_MAX, |_| {});
        assert_eq!((fragments.count(), fragments.queue.len()), (0, 0));
    }

    /// Whoever floods with later fragments keeps nobody from waiting: the longest wait ends, the newest begins.
    #[test]
    fn a_flood_of_later_fragments_displaces_the_oldest_wait() {
        let mut fragments = Fragments::default();
        let mut given_up = Vec::new();
        for identification in 0..WAITS_MAX as u32 + 100 {
            fragments.await_first(key(identification), Time(0), |wake| given_up.push(wake));
            fragments.await_first(key(identification), Time(0), |wake| given_up.push(wake));
        }
        assert_eq!((fragments.count(), fragments.waits_queue.len()), (WAITS_MAX, WAITS_MAX));
        let expected: Vec<_> = (0..100)
            .map(|n| Wake::Discard(fragments.token(&key(n)), DropReason::FragmentUnmatched))
            .collect();
        assert_eq!(given_up, expected);
        let mut woken = Vec::new();
        let newest = key(WAITS_MAX as u32 + 99);
        fragments.first_passed(newest, FIRST, piece(0, 8, false), Time(0), |wake| woken.push(wake));
        assert_eq!(woken, [Wake::Release(fragments.token(&newest))]);
        fragments.expire(Time::from_secs(3), WAITS_MAX, |wake| woken.push(wake));
        assert_eq!(woken.len(), WAITS_MAX, "who was released is not given up");
    }

    #[test]
    fn a_datagram_is_over_when_all_of_it_passed() {
        let mut fragments = Fragments::default();
        let pieces = [piece(0, 8, false), piece(16, 20, true), piece(8, 16, false)];
        assert_eq!(offer(&mut fragments, &pieces), [true; 3]);
        assert_eq!(fragments.place(&key(1), piece(8, 16, false)), Place::New);
        assert_eq!(offer(&mut fragments, &pieces), [true; 3], "the identification comes again");
        assert_eq!(fragments.queue.len(), 1);
    }

    #[test]
    fn overlaps_break_a_datagram_and_repetitions_do_not() {
        let (first, last) = (piece(0, 24, false), piece(48, 56, true));
        for (bad, why) in [
            (piece(16, 32, false), "over an end"),
            (piece(8, 16, false), "inside"),
            (piece(0, 32, false), "another first"),
            (piece(40, 56, false), "over a start"),
            (piece(24, 64, false), "around"),
            (piece(56, 64, false), "behind the last"),
            (piece(24, 32, true), "another last"),
            (piece(48, 64, true), "a longer last"),
        ] {
            let mut fragments = Fragments::default();
            let pieces = [first, last, bad, piece(24, 48, false)];
            assert_eq!(offer(&mut fragments, &pieces), [true, true, false, false], "{why}");
        }
        let mut fragments = Fragments::default();
        let pieces = [first, piece(48, 56, false), piece(24, 32, true), piece(32, 48, false)];
        assert_eq!(offer(&mut fragments, &pieces), [true, true, false, false], "a last one before others");
        let mut fragments = Fragments::default();
        let pieces = [first, last, first, last, piece(24, 48, false)];
        assert_eq!(offer(&mut fragments, &pieces), [true, true, false, false, true]);
    }

    #[test]
    fn pieces_are_bounded() {
        let mut fragments = Fragments::default();
        let pieces: Vec<_> = (0..1000).map(|n| piece(n * 16, n * 16 + 8, false)).collect();
        assert_eq!(offer(&mut fragments, &pieces).iter().filter(|&&passed| passed).count(), PIECES_MAX);
    }

    proptest! {
        /// Whatever comes, no byte passes twice before the datagram is over.
        #[test]
        fn no_byte_passes_twice(offers in proptest::collection::vec((0u16..12, 1u16..6, any::<bool>()), 1..40)) {
            let mut fragments = Fragments::default();
            let mut passed = std::collections::HashSet::new();
            for (start, length, is_last) in offers {
                let piece = piece(start * 8, (start + length) * 8, is_last);
                let was_complete = fragments.datagrams.get(&key(1)).is_some_and(Datagram::is_complete);
                if offer(&mut fragments, &[piece])[0] {
                    if was_complete {
                        passed.clear();
                    }
                    prop_assert!((piece.start..piece.end).all(|byte| passed.insert(byte)));
                }
            }
        }
    }
}
