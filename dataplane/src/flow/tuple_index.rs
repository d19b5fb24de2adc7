//! The index of sessions: from a tuple to the session whose end sends it.
//!
//! What: buckets of one cache line with ten ways. A tuple has two homes, and is in the first unless that was full. Each bucket
//! counts the tuples that went past it to their second home; where it counts none, a look ends there. So most looks, also
//! for what is not there, touch one line, and none more than two (R16).
//!
//! The index keeps no tuples: who knows them says whether an end is the one, and where an end that is to move may go.

use super::hash::KeyedHash;
use super::session::SessionId;
use super::tuple::Tuple;
use crate::lanes::matching_twelve;
use crate::memory::{Arena, ArenaError, ArenaSlice, Pod, prefetch};

const WAYS: usize = 10;
/// Behind the tags: how many tuples went past the bucket.
const PAST: usize = WAYS;
const REPLY_BIT: u32 = 1 << 31;

/// One end of a session: its number, and whether it is the responder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End(u32);

impl End {
    /// The initiator's end, or that of who replies.
    pub(super) const fn new(session: SessionId, reply: bool) -> Self {
        Self(session.0 & !REPLY_BIT | if reply { REPLY_BIT } else { 0 })
    }

    /// The session.
    pub(super) const fn session(self) -> SessionId {
        SessionId(self.0 & !REPLY_BIT)
    }

    /// It is the responder's.
    pub(super) const fn is_reply(self) -> bool {
        self.0 & REPLY_BIT != 0
    }
}

/// Where a tuple may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Homes {
    /// The bucket where it is, unless that was full.
    pub(super) first: usize,
    /// Then it is here.
    pub(super) second: usize,
    tag: u16,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Bucket {
    /// Ten tags, 0 where the way is free; then [`PAST`]; the last is unused.
    tags: [u16; WAYS + 2],
    ends: [u32; WAYS],
}

#[allow(unsafe_code)]
mod pod {
    use super::{Bucket, Pod};
    // SAFETY: plain integers and arrays of them; all zeroes is a valid value.
    unsafe impl Pod for Bucket {}
}

/// The lowest of the ways in a mask.
#[inline(always)]
const fn way_of(ways: u32) -> usize {
    ways.trailing_zeros() as usize % WAYS
}

impl Bucket {
    /// The ways with this tag, as bits.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u32 {
        matching_twelve(&self.tags, tag) & ((1 << WAYS) - 1)
    }

    /// The way with this tag whose end `is` the one.
    #[inline(always)]
    fn find(&self, tag: u16, is: impl Fn(End) -> bool) -> Option<usize> {
        let mut ways = self.matches(tag);
        while ways != 0 {
            let way = way_of(ways);
            if is(End(self.ends[way])) {
                return Some(way);
            }
            ways &= ways - 1;
        }
        None
    }

    #[inline(always)]
    fn set(&mut self, way: usize, tag: u16, end: End) {
        self.tags[way % WAYS] = tag;
        self.ends[way % WAYS] = end.0;
    }

    /// Takes an end out. False if it is not here.
    #[inline(always)]
    fn take(&mut self, tag: u16, end: End) -> bool {
        let found = self.find(tag, |other| other == end);
        if let Some(way) = found {
            self.tags[way] = 0;
        }
        found.is_some()
    }

    /// True if a tuple of this first home may be in its second.
    #[inline(always)]
    fn is_passed(&self) -> bool {
        self.tags[PAST] != 0
    }

    /// A tuple went past. A count as high as it can be stays there.
    fn pass(&mut self) {
        self.tags[PAST] = self.tags[PAST].saturating_add(1);
    }

    /// One that went past is gone.
    fn unpass(&mut self) {
        if self.tags[PAST] < u16::MAX {
            self.tags[PAST] = self.tags[PAST].saturating_sub(1);
        }
    }
}

/// An end that can go to its other home: where it is, and where it may be. A place is bucket and way.
struct Move {
    from: (usize, usize),
    to: (usize, usize),
    /// Its first home is where it is.
    leaves_first: bool,
}

/// The index of one session table.
#[derive(Debug)]
pub(super) struct TupleIndex {
    buckets: ArenaSlice<Bucket>,
    mask: usize,
    hash: KeyedHash,
}

fn buckets_for(sessions: usize) -> usize {
    // Two tuples a session; 10 ways hold them at a load of at most 80 %.
    (2 * sessions).div_ceil(WAYS * 8 / 10).next_power_of_two()
}

impl TupleIndex {
    /// An index for both ends of so many sessions.
    ///
    /// # Errors
    /// If the arena has not enough memory.
    pub(super) fn new(arena: &Arena, sessions: usize, hash: KeyedHash) -> Result<Self, ArenaError> {
        let buckets = buckets_for(sessions);
        Ok(Self { buckets: ArenaSlice::zeroed(arena, buckets)?, mask: buckets - 1, hash })
    }

    /// Bytes that such an index takes from the arena.
    pub(super) fn bytes_for(sessions: usize) -> usize {
        buckets_for(sessions) * size_of::<Bucket>()
    }

    /// Bytes that this one takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.buckets.arena_bytes()
    }

    /// Where a tuple may be.
    #[inline(always)]
    pub(super) fn homes(&self, tuple: &Tuple) -> Homes {
        let hash = self.hash.hash(&tuple.words());
        Homes {
            first: hash as usize & self.mask,
            second: (hash >> 24) as usize & self.mask,
            tag: ((hash >> 48) as u16).max(1),
        }
    }

    /// Asks for the memory of a look.
    #[inline(always)]
    pub(super) fn prefetch(&self, homes: Homes) {
        if let Some(bucket) = self.buckets.get(homes.first) {
            prefetch(bucket);
        }
    }

    /// The end whose tuple has these homes and that `is` the one.
    #[inline(always)]
    pub(super) fn find(&self, homes: Homes, is: impl Fn(End) -> bool) -> Option<End> {
        let bucket = &self.buckets[homes.first];
        if let Some(way) = bucket.find(homes.tag, &is) {
            return Some(End(bucket.ends[way]));
        }
        if bucket.is_passed() { self.find_second(homes, is) } else { None }
    }

    #[cold]
    fn find_second(&self, homes: Homes, is: impl Fn(End) -> bool) -> Option<End> {
        let bucket = &self.buckets[homes.second];
        bucket.find(homes.tag, is).map(|way| End(bucket.ends[way]))
    }

    /// Adds an end that is not there; `homes_of` tells where others may be. False if there is no place, nor one to be made by
    /// moving another.
    #[inline(always)]
    pub(super) fn insert(&mut self, homes: Homes, end: End, homes_of: impl Fn(&Self, End) -> Homes) -> bool {
        let bucket = &mut self.buckets[homes.first];
        let free = bucket.matches(0);
        if free != 0 {
            bucket.set(way_of(free), homes.tag, end);
            return true;
        }
        self.insert_past(homes, end, homes_of)
    }

    /// The same where the first home is full.
    #[cold]
    fn insert_past(&mut self, homes: Homes, end: End, homes_of: impl Fn(&Self, End) -> Homes) -> bool {
        let free = self.buckets[homes.second].matches(0);
        let (home, way) = if free != 0 {
            (homes.second, way_of(free))
        } else {
            let Some(other) = self.movable(homes, homes_of) else { return false };
            self.make_room(&other);
            other.from
        };
        self.buckets[home].set(way, homes.tag, end);
        if home != homes.first {
            self.buckets[homes.first].pass();
        }
        true
    }

    /// An end in one of these full homes that fits its own other home.
    fn movable(&self, homes: Homes, homes_of: impl Fn(&Self, End) -> Homes) -> Option<Move> {
        let places =
            [homes.first, homes.second].into_iter().flat_map(|home| (0..WAYS).map(move |way| (home, way)));
        places.into_iter().find_map(|from| {
            let theirs = homes_of(self, End(self.buckets[from.0].ends[from.1]));
            let leaves_first = theirs.first == from.0;
            let other = if leaves_first { theirs.second } else { theirs.first };
            let free = self.buckets[other].matches(0);
            (other != from.0 && free != 0).then(|| Move { from, to: (other, way_of(free)), leaves_first })
        })
    }

    fn make_room(&mut self, Move { from, to, leaves_first }: &Move) {
        let (tag, end) = (self.buckets[from.0].tags[from.1], End(self.buckets[from.0].ends[from.1]));
        self.buckets[to.0].set(to.1, tag, end);
        if *leaves_first {
            self.buckets[from.0].pass();
        } else {
            self.buckets[to.0].unpass();
        }
    }

    /// Whether [`Self::insert`] would find a place, once the ends of the session `leaves` are gone.
    pub(super) fn has_room(
        &self,
        homes: Homes,
        leaves: Option<SessionId>,
        homes_of: impl Fn(&Self, End) -> Homes,
    ) -> bool {
        let gives = |home: usize| {
            let bucket = &self.buckets[home];
            let mut ends = bucket.ends.iter();
            bucket.matches(0) != 0 || leaves.is_some_and(|old| ends.any(|&end| End(end).session() == old))
        };
        gives(homes.first) || gives(homes.second) || self.movable(homes, homes_of).is_some()
    }

    /// Takes an end out.
    #[inline(always)]
    pub(super) fn remove(&mut self, homes: Homes, end: End) {
        if !self.buckets[homes.first].take(homes.tag, end) && self.buckets[homes.second].take(homes.tag, end)
        {
            self.buckets[homes.first].unpass();
        }
    }

    /// True if nothing is there, nor thought to have gone past.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.tags.iter().all(|&tag| tag == 0))
    }
}

const _: () = assert!(size_of::<Bucket>() == 64);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Held against a map, with so few buckets that ends go past, move, and find no room.
        #[test]
        fn what_is_there_is_found_and_nothing_else(steps in proptest::collection::vec((0u32..200, any::<bool>()), 1..600)) {
            let arena = Arena::anonymous(1 << 16).unwrap();
            let mut index = TupleIndex::new(&arena, 16, KeyedHash::seeded(5)).unwrap();
            let tuple = |n: u32| Tuple { source_port: n as u16, ..Tuple::default() };
            let end = |n: u32| End::new(SessionId(n), n.is_multiple_of(3));
            let homes_of = |index: &TupleIndex, end: End| index.homes(&tuple(end.session().0));
            let mut model = BTreeMap::new();
            for (n, adds) in steps {
                let homes = index.homes(&tuple(n));
                if adds && !model.contains_key(&n) {
                    let foretold = index.has_room(homes, None, homes_of);
                    prop_assert_eq!(index.insert(homes, end(n), homes_of), foretold);
                    if foretold {
                        model.insert(n, end(n));
                    }
                } else if !adds && model.remove(&n).is_some() {
                    index.remove(homes, end(n));
                }
                for n in 0..200 {
                    let found = index.find(index.homes(&tuple(n)), |end| end.session() == SessionId(n));
                    prop_assert_eq!(found, model.get(&n).copied());
                }
            }
            for (n, end) in model {
                index.remove(index.homes(&tuple(n)), end);
            }
            prop_assert!(index.is_empty());
        }
    }
}
