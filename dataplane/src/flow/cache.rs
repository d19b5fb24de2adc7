//! The flow cache: from a key to the program that its packets take.
//!
//! What: buckets of eight 16-bit tags, 16 bytes each, and arrays of entries' fronts and tails with one place for each tag. So the
//! tags of a million flows fit the last-level cache, and a tag leads to its entry without another load. A key has two homes; eight
//! ways each is as far as any probe goes (R16).
//!
//! An entry is a few cache lines of words, see `cache/entry.rs`. It is only a cache: losing an entry costs one walk. Eviction takes the
//! least recently seen of the homes' entries, those that saw a single packet first, so that a flood of new flows displaces itself.
//!
//! Thread-safety: none needed; a cache belongs to one worker.

mod entry;

use super::hash::KeyedHash;
use super::key::NEAR_KEY_WORDS;
use super::session::{NONE, SessionTable, Traffic};
use super::validity::Validity;
use super::watch_sets::SetId;
use crate::flow::template::IMAGE_WORDS;
use crate::lanes::matching_tags;
use crate::memory::{Arena, ArenaError, ArenaSlice, prefetch};
use entry::{FRONT_LINES, Front, LINE_WORDS};
pub use entry::{Header, NewEntry, Owner, UsualEntry};
use std::cmp::Reverse;

const WAYS: usize = 8;
/// How many cache lines tails may have. Odd numbers, so that tails spread over all sets of the caches.
const TAIL_LINES: [usize; 3] = [1, 3, 7];

/// An entry's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

/// What happened to a cache, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Entries added.
    pub insertions: u64,
    /// Entries that gave way to others.
    pub evictions: u64,
    /// Entries that fell because something changed or their session ended.
    pub invalidations: u64,
    /// Decisions too large for an entry, or whose structure found no number.
    pub refused: u64,
}

/// The cache of one worker.
#[derive(Debug)]
pub struct FlowCache {
    tags: ArenaSlice<[u16; WAYS]>,
    fronts: ArenaSlice<Front>,
    tails: ArenaSlice<[u64; LINE_WORDS]>,
    /// Lines of each tail.
    tail_lines: usize,
    /// Most lines of its tail that any entry fills.
    tail_used: usize,
    buckets: usize,
    count: usize,
    mutations: u64,
    sweep: u32,
    hash: KeyedHash,
    counters: CacheCounters,
    /// What entries that fell had named, until it is given back.
    released: Vec<SetId>,
}

impl FlowCache {
    /// A cache for at least `entries` entries at a load of at most three quarters; `words` is the most that a key and its
    /// operands need.
    ///
    /// # Errors
    /// If the arena has not enough memory.
    pub fn new(arena: &Arena, entries: usize, words: usize, hash: KeyedHash) -> Result<Self, ArenaError> {
        let (buckets, tail_lines) = Self::dimensions(entries, words);
        Ok(Self {
            tags: ArenaSlice::zeroed(arena, buckets)?,
            fronts: ArenaSlice::zeroed(arena, buckets * WAYS)?,
            tails: ArenaSlice::zeroed(arena, buckets * WAYS * tail_lines)?,
            tail_lines,
            tail_used: 0,
            buckets,
            count: 0,
            mutations: 0,
            sweep: 0,
            hash,
            counters: CacheCounters::default(),
            released: Vec::with_capacity(64),
        })
    }

    fn dimensions(entries: usize, words: usize) -> (usize, usize) {
        let lines = words.saturating_sub(NEAR_KEY_WORDS).div_ceil(LINE_WORDS);
        let tail = TAIL_LINES.into_iter().find(|&l| l >= lines).unwrap_or(TAIL_LINES[TAIL_LINES.len() - 1]);
        ((entries.clamp(WAYS, 1 << 27) * 4 / 3).div_ceil(WAYS), tail)
    }

    /// Bytes that such a cache takes from the arena, with what its entries name (see [`Validity`]).
    pub fn bytes_for(entries: usize, words: usize) -> usize {
        let (buckets, tail_lines) = Self::dimensions(entries, words);
        buckets * WAYS * (2 + (FRONT_LINES + tail_lines) * 64) + 3 * 64 + Validity::bytes_for(buckets * WAYS)
    }

    /// Places for entries.
    pub fn places(&self) -> usize {
        self.tags.len() * WAYS
    }

    /// Entries now.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What happened so far.
    pub fn counters(&self) -> CacheCounters {
        self.counters
    }

    /// Changes with every entry that comes or goes: what was looked up before may no longer hold.
    #[inline(always)]
    pub fn mutations(&self) -> u64 {
        self.mutations
    }

    /// The hash of a key.
    #[inline(always)]
    pub fn hash(&self, key: &[u64]) -> u64 {
        self.hash.hash_key(key)
    }

    /// The hash function, to compute hashes while keys are gathered.
    #[inline(always)]
    pub fn hasher(&self) -> &KeyedHash {
        &self.hash
    }

    #[inline(always)]
    fn tag(hash: u64) -> u16 {
        // Never 0, which says that a place is free.
        (hash >> 48) as u16 | 1
    }

    /// A part of a hash, as a bucket: by its highest bits, so that there may be any number of buckets.
    #[inline(always)]
    fn bucket(&self, part: u32) -> usize {
        ((u64::from(part) * self.buckets as u64) >> 32) as usize
    }

    #[inline(always)]
    fn homes(&self, hash: u64) -> [usize; 2] {
        [self.bucket(hash as u32), self.bucket((hash >> 16) as u32)]
    }

    /// Asks for the tags of a hash.
    #[inline(always)]
    pub fn prefetch_tags(&self, hash: u64) {
        self.tags.prefetch(self.bucket(hash as u32));
    }

    /// The first place in one of the homes whose tag matches, with its lines asked for. Only a candidate: see [`Self::find`].
    #[inline(always)]
    fn candidate_in(&self, home: usize, tag: u16) -> Option<Slot> {
        let ways = matching_tags(self.tags.get(home)?, tag);
        let slot = home * WAYS + ways.trailing_zeros() as usize / 2;
        // Without a candidate too, rather than by a branch that can't be foretold.
        self.prefetch_lines(slot);
        (ways != 0).then_some(Slot(slot as u32))
    }

    /// A candidate in the first home, where most are.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Option<Slot> {
        self.candidate_in(self.homes(hash)[0], Self::tag(hash))
    }

    /// A candidate in the second home.
    pub fn second_candidate(&self, hash: u64) -> Option<Slot> {
        self.candidate_in(self.homes(hash)[1], Self::tag(hash))
    }

    /// Asks for the place that an entry of this hash would get.
    pub(crate) fn prefetch_place(&self, hash: u64) {
        let Some(slot) = self.free_in(self.homes(hash)[0]) else { return };
        self.prefetch_lines(slot.0 as usize);
    }

    /// Asks for the lines of a place, or of what is none.
    #[inline(always)]
    fn prefetch_lines(&self, place: usize) {
        (0..FRONT_LINES).for_each(|line| self.fronts.prefetch_line(place, line));
        (0..self.tail_used).for_each(|line| self.tails.prefetch(place * self.tail_lines + line));
    }

    /// Asks for what taking an entry away will touch.
    pub(super) fn prefetch_entry(&self, slot: Slot) {
        self.fronts.prefetch(slot.0 as usize);
        prefetch(&self.tags[slot.0 as usize / WAYS]);
    }

    /// The entry of a key. At most 16 tags are looked at.
    pub fn find(&self, hash: u64, key: &[u64]) -> Option<Slot> {
        let tag = Self::tag(hash);
        for home in self.homes(hash) {
            let bucket = &self.tags[home];
            let mut ways = matching_tags(bucket, tag);
            while ways != 0 {
                let way = ways.trailing_zeros() as usize / 2;
                let slot = Slot((home * WAYS + way) as u32);
                if entry::has_key(self.head(slot), self.tail(slot), key) {
                    return Some(slot);
                }
                ways &= !(3 << (2 * way));
            }
        }
        None
    }

    #[inline(always)]
    fn head(&self, slot: Slot) -> &Front {
        &self.fronts[slot.0 as usize]
    }

    #[inline(always)]
    fn head_mut(&mut self, slot: Slot) -> &mut Front {
        &mut self.fronts[slot.0 as usize]
    }

    #[inline(always)]
    fn tail(&self, slot: Slot) -> &[u64] {
        let first = slot.0 as usize * self.tail_lines;
        self.tails[first..first + self.tail_lines].as_flattened()
    }

    /// The header of the entry at `slot`.
    #[inline(always)]
    pub fn header(&self, slot: Slot) -> Header {
        Header::unpack(self.head(slot))
    }

    /// Counts a packet of `bytes` on the entry.
    #[inline(always)]
    pub fn count_packet(&mut self, slot: Slot, bytes: usize, now_millis: u32) {
        entry::count(self.head_mut(slot), bytes, now_millis);
    }

    /// The operands of the entry at `slot`, whose key has `key_words`; they may be put together in `image`.
    pub fn operands<'a>(
        &'a self,
        slot: Slot,
        key_words: usize,
        image: &'a mut [u64; IMAGE_WORDS],
    ) -> &'a [u64] {
        entry::operands(self.head(slot), self.tail(slot), key_words, image)
    }

    /// The entry at `slot`, as it is if it has a near key and a usual image.
    #[inline(always)]
    pub fn usual_entry(&mut self, slot: Slot) -> Option<UsualEntry<'_>> {
        let tail = self.tails.get(slot.0 as usize * self.tail_lines)?;
        Some(UsualEntry::new(self.fronts.get_mut(slot.0 as usize)?, tail))
    }

    /// The entry is valid up to this epoch.
    pub fn restamp(&mut self, slot: Slot, stamp: u32) {
        entry::restamp(self.head_mut(slot), stamp);
    }

    /// The objects that entries which fell had named.
    pub(super) fn take_released(&mut self) -> Option<SetId> {
        self.released.pop()
    }

    /// The objects that the entry used.
    pub fn watches(&self, slot: Slot) -> SetId {
        entry::watches(self.head(slot))
    }

    /// Adds an entry, evicting another if its homes are full. None if it does not fit. What the evicted entry had counted
    /// comes with the place.
    pub fn insert(
        &mut self,
        hash: u64,
        new: &NewEntry<'_>,
        sessions: &mut SessionTable,
    ) -> Option<(Slot, Option<(Owner, Traffic)>)> {
        let tail_lines = new.tail_lines();
        if tail_lines > self.tail_lines {
            self.refuse();
            return None;
        }
        let (slot, evicted) = self.place(hash, new.now_millis, sessions);
        self.tail_used = self.tail_used.max(tail_lines);
        self.tags[slot.0 as usize / WAYS][slot.0 as usize % WAYS] = Self::tag(hash);
        let next = new
            .owner
            .map_or(NONE, |owner| std::mem::replace(&mut sessions.hot(owner.session).entries, slot.0));
        let first = slot.0 as usize * self.tail_lines;
        let tail = self.tails[first..first + self.tail_lines].as_flattened_mut();
        new.write(&mut self.fronts[slot.0 as usize], tail, next);
        self.count += 1;
        self.mutations += 1;
        self.counters.insertions += 1;
        Some((slot, evicted))
    }

    /// Counts a decision that could not be cached.
    pub fn refuse(&mut self) {
        self.counters.refused += 1;
    }

    fn place(
        &mut self,
        hash: u64,
        now_millis: u32,
        sessions: &mut SessionTable,
    ) -> (Slot, Option<(Owner, Traffic)>) {
        let homes = self.homes(hash);
        if let Some(free) = homes.into_iter().find_map(|home| self.free_in(home)) {
            return (free, None);
        }
        let victim = self.victim(homes, now_millis);
        self.counters.evictions += 1;
        let evicted = self.remove(victim, sessions);
        (victim, evicted)
    }

    /// A place that no entry has.
    #[inline(always)]
    fn free_in(&self, home: usize) -> Option<Slot> {
        let ways = matching_tags(&self.tags[home], 0);
        (ways != 0).then(|| Slot((home * WAYS + ways.trailing_zeros() as usize / 2) as u32))
    }

    /// The entry that gives way to another with these homes: the longest unseen of those that saw a single packet, if there are
    /// such. A flow that saw more, but is unseen for longer, keeps its place once: then it counts as one of them.
    #[cold]
    fn victim(&mut self, homes: [usize; 2], now_millis: u32) -> Slot {
        let places =
            || homes.into_iter().flat_map(|home| home * WAYS..(home + 1) * WAYS).map(|at| Slot(at as u32));
        places().for_each(|slot| prefetch(self.head(slot)));
        // The clock wraps.
        let unseen = |slot| now_millis.wrapping_sub(self.last_seen_millis(slot));
        let oldest = |proven| {
            let alike = places().filter(|&slot| entry::is_proven(self.head(slot)) == proven);
            alike.min_by_key(|&slot| Reverse(unseen(slot)))
        };
        match (oldest(false), oldest(true)) {
            (Some(single), Some(proven)) if unseen(proven) >= unseen(single) => {
                entry::doubt(self.head_mut(proven));
                single
            }
            (Some(slot), _) | (None, Some(slot)) => slot,
            (None, None) => Slot(0),
        }
    }

    /// Moves an entry's counts to its session. Returns what they were, if there were any.
    pub fn fold(&mut self, slot: Slot, sessions: &mut SessionTable) -> Option<(Owner, Traffic)> {
        let head = self.head_mut(slot);
        let traffic = entry::take_counted(head);
        if traffic.packets == 0 {
            return None;
        }
        let last_seen = entry::last_seen_millis(head);
        let owner = self.header(slot).owner()?;
        sessions.credit(owner.session, owner.reply, traffic, last_seen);
        Some((owner, traffic))
    }

    /// Takes an entry away; its counts go to its session.
    fn remove(&mut self, slot: Slot, sessions: &mut SessionTable) -> Option<(Owner, Traffic)> {
        let folded = self.fold(slot, sessions);
        if let Some(owner) = self.header(slot).owner() {
            let after = self.next(slot);
            let head = &mut sessions.hot(owner.session).entries;
            if *head == slot.0 {
                *head = after;
            } else {
                let mut at = *head;
                while at != NONE && self.next(Slot(at)) != slot.0 {
                    at = self.next(Slot(at));
                }
                if at != NONE {
                    entry::set_next(self.head_mut(Slot(at)), after);
                }
            }
        }
        self.released.push(self.watches(slot));
        self.tags[slot.0 as usize / WAYS][slot.0 as usize % WAYS] = 0;
        self.count -= 1;
        self.mutations += 1;
        folded
    }

    /// Removes an entry that is no longer valid.
    pub fn invalidate(&mut self, slot: Slot, sessions: &mut SessionTable) -> Option<(Owner, Traffic)> {
        self.counters.invalidations += 1;
        self.remove(slot, sessions)
    }

    /// Takes away the entries of a session's list, of which `first` is the first. What they had counted was folded; what they named
    /// goes to `named`.
    pub(super) fn drop_list(&mut self, first: u32, mut named: impl FnMut(SetId)) {
        let mut at = first;
        while at != NONE {
            let (slot, next) = (Slot(at), self.next(Slot(at)));
            self.tags[at as usize / WAYS][at as usize % WAYS] = 0;
            self.count -= 1;
            self.mutations += 1;
            self.counters.invalidations += 1;
            named(self.watches(slot));
            at = next;
        }
    }

    /// The next entry of a session's list.
    pub(super) fn next(&self, slot: Slot) -> u32 {
        entry::next(self.head(slot))
    }

    /// Places between where the sweep is and where it should be when `part` of a round of `whole` is over.
    pub(super) fn behind_sweep(&self, part: u64, whole: u64) -> usize {
        let goal = (self.places() as u64 * part / whole) as usize;
        let at = self.sweep as usize;
        if goal >= at { goal - at } else { self.places() - at + goal }
    }

    /// The next occupied places of a sweep through the whole cache, at most `budget` places further; true at its end.
    pub(super) fn sweep(&mut self, budget: usize, mut visit: impl FnMut(&mut Self, Slot)) -> bool {
        for _ in 0..budget {
            if self.sweep as usize >= self.places() {
                self.sweep = 0;
                return true;
            }
            let slot = Slot(self.sweep);
            self.sweep += 1;
            if self.is_occupied(slot) {
                visit(self, slot);
            }
        }
        false
    }

    /// True if an entry is there.
    pub fn is_occupied(&self, slot: Slot) -> bool {
        self.tags[slot.0 as usize / WAYS][slot.0 as usize % WAYS] != 0
    }

    /// When the entry was last hit, in milliseconds of the clock.
    pub fn last_seen_millis(&self, slot: Slot) -> u32 {
        entry::last_seen_millis(self.head(slot))
    }

    /// Packets and bytes since the last fold.
    pub fn unfolded(&self, slot: Slot) -> Traffic {
        entry::counted(self.head(slot))
    }
}
