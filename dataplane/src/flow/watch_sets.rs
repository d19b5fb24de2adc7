//! Which objects entries named: sets, each shared by the entries of one time that named the same.
//!
//! What: a set is one cache line of places in the table of objects. Flows of a kind name the same objects, so an entry keeps the
//! number of a set, and to store or to drop an entry counts in one place.
//!
//! Sets are found again through a table of the recent ones. What it does not know becomes a set of its own, which is as right: there is
//! room for one set an entry. So nothing that the network sends makes this grow, or costs a search.

use super::watch::{WATCHES_MAX, Watch};
use crate::memory::{Arena, ArenaError, ArenaSlice, Pod};

/// No set.
const NONE: u32 = u32::MAX;
/// Sets that are found again.
const RECENT: usize = 1 << RECENT_BITS;
/// Bits of a place among them.
const RECENT_BITS: u32 = 12;
/// Spreads the bits of a word (the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A set's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetId(pub(super) u32);

/// Objects, by their places in the table of [`super::validity::Validity`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct WatchSet {
    /// The first `count` are used. Of a free set, the first is the next free one.
    places: [u32; WATCHES_MAX],
    /// Entries that keep this set; 0: it is free.
    entries: u32,
    count: u8,
    nameless: u8,
    _spare: u16,
}

#[allow(unsafe_code)]
mod pod {
    use super::{Pod, WatchSet};
    // SAFETY: plain integers and arrays of them; all zeroes is a valid value.
    unsafe impl Pod for WatchSet {}
}

impl WatchSet {
    /// The places of the objects.
    pub(super) fn places(&self) -> &[u32] {
        self.places.get(..usize::from(self.count)).unwrap_or(&[])
    }

    /// True if some of its objects have no place: it falls with any change.
    pub(super) fn is_nameless(&self) -> bool {
        self.nameless != 0
    }

    /// Names one object more; without a place, it becomes nameless.
    pub(super) fn add(&mut self, place: Option<u32>) {
        match (place, self.places.get_mut(usize::from(self.count))) {
            (Some(place), Some(free)) => {
                *free = place;
                self.count += 1;
            }
            _ => self.nameless = 1,
        }
    }
}

/// The sets of a worker's entries.
#[derive(Debug)]
pub(super) struct WatchSets {
    sets: ArenaSlice<WatchSet>,
    /// Sets that were ever used.
    used: u32,
    /// The first of the free ones among them.
    free: u32,
    recent: Box<[u32; RECENT]>,
}

impl WatchSets {
    /// Room for the sets of `entries` entries.
    pub(super) fn new(arena: &Arena, entries: usize) -> Result<Self, ArenaError> {
        // One more: an entry is about to take the place of another.
        let sets = ArenaSlice::zeroed(arena, entries + 1)?;
        Ok(Self { sets, used: 0, free: NONE, recent: Box::new([0; RECENT]) })
    }

    /// Bytes that they take from the arena.
    pub(super) fn bytes_for(entries: usize) -> usize {
        (entries + 1) * size_of::<WatchSet>()
    }

    /// Where the number of a set of these objects is among the recent ones.
    #[inline(always)]
    pub(super) fn recent_place(watches: &[Watch]) -> usize {
        let spread = |(at, watch): (usize, &Watch)| watch.0.wrapping_mul(SPREAD).rotate_left(7 * at as u32);
        let mixed = watches.iter().enumerate().map(spread).fold(0, |mixed, word| mixed ^ word);
        (mixed.wrapping_mul(SPREAD) >> (64 - RECENT_BITS)) as usize
    }

    /// A set in use that was found or made at this place, to be compared.
    #[inline(always)]
    pub(super) fn recent(&self, place: usize) -> Option<(SetId, &WatchSet)> {
        let id = self.recent[place % RECENT];
        self.sets.get(id as usize).filter(|set| set.entries > 0).map(|set| (SetId(id), set))
    }

    /// Asks for the memory of a set.
    #[inline(always)]
    pub(super) fn prefetch(&self, id: SetId) {
        self.sets.prefetch(id.0 as usize);
    }

    /// One entry more keeps the set.
    #[inline(always)]
    pub(super) fn keep(&mut self, id: SetId) {
        self.sets[id.0 as usize].entries += 1;
    }

    /// Stores a set, which one entry keeps. None if there is no room.
    pub(super) fn insert(&mut self, set: WatchSet, recent_place: usize) -> Option<SetId> {
        let id = if self.free == NONE { self.used } else { self.free };
        let slot = self.sets.get_mut(id as usize)?;
        if self.free == NONE {
            self.used += 1;
        } else {
            self.free = slot.places[0];
        }
        *slot = WatchSet { entries: 1, ..set };
        self.recent[recent_place % RECENT] = id;
        Some(SetId(id))
    }

    /// One entry fewer keeps the set. If that was the last, the set is free, and is returned.
    #[inline(always)]
    pub(super) fn release(&mut self, id: SetId) -> Option<WatchSet> {
        let set = &mut self.sets[id.0 as usize];
        set.entries -= 1;
        if set.entries > 0 {
            return None;
        }
        let ended = *set;
        set.places[0] = std::mem::replace(&mut self.free, id.0);
        Some(ended)
    }

    /// The set.
    pub(super) fn get(&self, id: SetId) -> &WatchSet {
        &self.sets[id.0 as usize]
    }
}
