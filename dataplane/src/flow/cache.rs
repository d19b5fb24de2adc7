//! The flow cache: from a key to the program that its packets take.
//!
//! What: buckets of eight 16-bit tags, 16 bytes each, and an array of entries with one place for each tag. So the tags of
//! a million flows fit the last-level cache, and a tag leads to its entry without another load. A key has two homes; eight
//! ways each is as far as any probe goes (R16).
//!
//! An entry is a few cache lines of words: counts and what names the program, with the key's first word; then the rest of the key,
//! which is one line for all but few; then the program's operands, of which a usual image is one line. It is only a cache: losing
//! an entry costs one walk. Eviction takes the least recently seen of the home's entries, those that saw a
//! single packet first, so that a flood of new flows displaces itself.
//!
//! Thread-safety: none needed; a cache belongs to one worker.

use super::hash::KeyedHash;
use super::key::{NEAR_KEY_WORDS, NEAR_WORDS};
use super::program::Program;
use super::session::{NONE, SessionId, SessionTable, Traffic};
use super::template::{IMAGE_WORDS, TemplateId};
use super::validity::Validity;
use super::watch_sets::SetId;
use crate::lanes::matching_tags;
use crate::memory::{Arena, ArenaError, ArenaSlice, prefetch};

const WAYS: usize = 8;
/// Words in front of the key. So its first word ends a line, and what is compared and blended by vectors lies in whole lines.
const HEADER_WORDS: usize = 7;
/// The word of the next entry of the session, and of the watches.
const LINKS: usize = 4;
const LINE_WORDS: usize = 8;
const _: () = assert!(
    (HEADER_WORDS + 1).is_multiple_of(LINE_WORDS) && NEAR_WORDS == LINE_WORDS && IMAGE_WORDS == LINE_WORDS
);
/// Cache lines of an entry, least and most. Odd numbers, so that entries spread over all sets of the caches.
const LINES: [usize; 3] = [USUAL_LINES, 5, 9];
/// Lines of an entry with a near key and a usual image.
const USUAL_LINES: usize = 3;
const REPLY_BIT: u32 = 1 << 31;
const PROVEN_BIT: u32 = 1 << 30;
const SESSION_MASK: u32 = PROVEN_BIT - 1;
const NO_SESSION: u32 = SESSION_MASK;

/// An entry's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

/// The session that an entry belongs to, and which direction of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The session.
    pub session: SessionId,
    /// The entry is for what the responder sends.
    pub reply: bool,
}

#[inline(always)]
fn equal(a: &[u64], b: &[u64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b)
}

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

/// What an entry is made of.
#[derive(Debug)]
pub struct NewEntry<'a> {
    /// The key's words.
    pub key: &'a [u64],
    /// The program.
    pub program: &'a Program,
    /// The interned number of its template.
    pub template: TemplateId,
    /// The session that it belongs to.
    pub owner: Option<Owner>,
    /// The epoch at which it was decided.
    pub stamp: u32,
    /// The objects that it used.
    pub watches: SetId,
    /// Now, in milliseconds.
    pub now_millis: u32,
}

/// The header words of an entry, unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    session: u32,
    /// Structure of the program.
    pub template: TemplateId,
    /// Longest network packet.
    pub length_max: u16,
    /// Epoch up to which it is known to be valid.
    pub stamp: u32,
    /// First segment's IPv4 header checksum delta.
    pub l3_delta: u16,
    /// First segment's transport checksum delta.
    pub l4_delta: u16,
}

/// The lines of an entry with a near key and a usual image.
#[derive(Debug)]
pub struct UsualEntry<'a> {
    head: &'a mut [u64; LINE_WORDS],
    /// The key, but for its first word.
    pub near: &'a [u64; NEAR_WORDS],
    /// The first operands.
    pub image: &'a [u64; IMAGE_WORDS],
}

impl UsualEntry<'_> {
    /// The header, unpacked.
    #[inline(always)]
    pub fn header(&self) -> Header {
        Header::unpack(self.head)
    }

    /// The key's first word.
    #[inline(always)]
    pub fn identity(&self) -> u64 {
        self.head[HEADER_WORDS]
    }

    /// Counts a packet.
    #[inline(always)]
    pub fn count(&mut self, bytes: usize, now_millis: u32) {
        count(self.head, bytes, now_millis);
    }
}

#[inline(always)]
fn count(head: &mut [u64; LINE_WORDS], bytes: usize, now_millis: u32) {
    head[1] = u64::from(head[1] as u32) | u64::from(now_millis) << 32;
    head[2] = head[2].wrapping_add(1);
    head[3] += bytes as u64;
}

impl Header {
    #[inline(always)]
    fn unpack(words: &[u64; LINE_WORDS]) -> Self {
        Self {
            session: words[0] as u32,
            template: TemplateId((words[0] >> 32) as u16),
            length_max: (words[0] >> 48) as u16,
            stamp: words[1] as u32,
            l3_delta: (words[2] >> 32) as u16,
            l4_delta: (words[2] >> 48) as u16,
        }
    }

    /// The session and direction.
    #[inline]
    pub fn owner(&self) -> Option<Owner> {
        let id = self.session & SESSION_MASK;
        (id != NO_SESSION).then_some(Owner { session: SessionId(id), reply: self.session & REPLY_BIT != 0 })
    }
}

/// The cache of one worker.
#[derive(Debug)]
pub struct FlowCache {
    tags: ArenaSlice<[u16; WAYS]>,
    lines: ArenaSlice<[u64; LINE_WORDS]>,
    stride: usize,
    /// Most lines that any entry fills.
    lines_used: usize,
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
        let (buckets, stride) = Self::dimensions(entries, words);
        Ok(Self {
            tags: ArenaSlice::zeroed(arena, buckets)?,
            lines: ArenaSlice::zeroed(arena, buckets * WAYS * stride)?,
            stride,
            lines_used: 1,
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
        let lines = (HEADER_WORDS + words).div_ceil(LINE_WORDS);
        let stride = LINES.into_iter().find(|&l| l >= lines).unwrap_or(LINES[LINES.len() - 1]);
        ((entries.clamp(WAYS, 1 << 27) * 4 / 3).div_ceil(WAYS), stride)
    }

    /// Bytes that such a cache takes from the arena, with what its entries name (see [`Validity`]).
    pub fn bytes_for(entries: usize, words: usize) -> usize {
        let (buckets, stride) = Self::dimensions(entries, words);
        buckets * WAYS * (2 + stride * 64) + 2 * 64 + Validity::bytes_for(buckets * WAYS)
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
        if ways == 0 {
            return None;
        }
        let slot = home * WAYS + ways.trailing_zeros() as usize / 2;
        let first = slot * self.stride;
        (0..USUAL_LINES).for_each(|line| self.lines.prefetch(first + line));
        (USUAL_LINES..self.lines_used).for_each(|line| self.lines.prefetch(first + line));
        Some(Slot(slot as u32))
    }

    /// A candidate in the first home, where most are; else the tags of the second are asked for.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Option<Slot> {
        let [first, second] = self.homes(hash);
        let found = self.candidate_in(first, Self::tag(hash));
        if found.is_none() {
            self.tags.prefetch(second);
        }
        found
    }

    /// A candidate in the second home.
    pub fn second_candidate(&self, hash: u64) -> Option<Slot> {
        self.candidate_in(self.homes(hash)[1], Self::tag(hash))
    }

    /// Asks for the place that an entry of this hash would get.
    pub(crate) fn prefetch_place(&self, hash: u64) {
        let homes = self.homes(hash);
        let Some(way) = self.tags[homes[0]].iter().position(|&tag| tag == 0) else { return };
        let slot = homes[0] * WAYS + way;
        for line in &self.lines[slot * self.stride..][..self.lines_used] {
            prefetch(line);
        }
    }

    /// Asks for what taking an entry away will touch.
    pub(super) fn prefetch_entry(&self, slot: Slot) {
        prefetch(&self.lines[slot.0 as usize * self.stride]);
        prefetch(&self.tags[slot.0 as usize / WAYS]);
    }

    /// True if the entry at `slot` has this key.
    #[inline(always)]
    fn has_key(&self, slot: Slot, key: &[u64]) -> bool {
        let mine = self.words(slot).get(HEADER_WORDS..HEADER_WORDS + key.len());
        // Keys are a few words: the least at once, the rest one by one, and no call.
        match (mine.and_then(<[u64]>::split_first_chunk::<NEAR_KEY_WORDS>), key.split_first_chunk()) {
            (Some((a, a_rest)), Some((b, b_rest))) => a == b && equal(a_rest, b_rest),
            _ => mine == Some(key),
        }
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
                if self.has_key(slot, key) {
                    return Some(slot);
                }
                ways &= !(3 << (2 * way));
            }
        }
        None
    }

    #[inline(always)]
    fn words(&self, slot: Slot) -> &[u64] {
        let first = slot.0 as usize * self.stride;
        self.lines[first..first + self.stride].as_flattened()
    }

    #[inline(always)]
    fn words_mut(&mut self, slot: Slot) -> &mut [u64] {
        let first = slot.0 as usize * self.stride;
        self.lines[first..first + self.stride].as_flattened_mut()
    }

    #[inline(always)]
    fn head(&self, slot: Slot) -> &[u64; LINE_WORDS] {
        &self.lines[slot.0 as usize * self.stride]
    }

    /// The header of the entry at `slot`.
    #[inline(always)]
    pub fn header(&self, slot: Slot) -> Header {
        Header::unpack(self.head(slot))
    }

    /// Counts a packet of `bytes` on the entry, and gives its operands; `key_words` is the length of its key.
    #[inline(always)]
    pub fn hit(&mut self, slot: Slot, key_words: usize, bytes: usize, now_millis: u32) -> &[u64] {
        count(&mut self.lines[slot.0 as usize * self.stride], bytes, now_millis);
        self.words(slot).get(HEADER_WORDS + key_words..).unwrap_or(&[])
    }

    /// The lines of the entry at `slot`, as they are if it has a near key and a usual image.
    #[inline(always)]
    pub fn usual_entry(&mut self, slot: Slot) -> Option<UsualEntry<'_>> {
        let [head, near, image] = self.lines.get_mut(slot.0 as usize * self.stride..)?.first_chunk_mut()?;
        Some(UsualEntry { head, near, image })
    }

    /// The entry is valid up to this epoch.
    pub fn restamp(&mut self, slot: Slot, stamp: u32) {
        let words = self.words_mut(slot);
        words[1] = (words[1] & 0xffff_ffff_0000_0000) | u64::from(stamp);
    }

    /// The objects that entries which fell had named.
    pub(super) fn take_released(&mut self) -> Option<SetId> {
        self.released.pop()
    }

    /// The objects that the entry used.
    pub fn watches(&self, slot: Slot) -> SetId {
        SetId((self.head(slot)[LINKS] >> 32) as u32)
    }

    /// Adds an entry, evicting another if its homes are full. None if it does not fit. What the evicted entry had counted
    /// comes with the place.
    pub fn insert(
        &mut self,
        hash: u64,
        new: &NewEntry<'_>,
        sessions: &mut SessionTable,
    ) -> Option<(Slot, Option<(Owner, Traffic)>)> {
        let operands = &new.program.operands;
        let needed = HEADER_WORDS + new.key.len() + operands.len();
        if needed > self.stride * LINE_WORDS {
            self.refuse();
            return None;
        }
        let (slot, evicted) = self.place(hash, sessions);
        self.lines_used = self.lines_used.max(needed.div_ceil(LINE_WORDS));
        self.tags[slot.0 as usize / WAYS][slot.0 as usize % WAYS] = Self::tag(hash);
        let session =
            new.owner.map_or(NO_SESSION, |owner| owner.session.0 | if owner.reply { REPLY_BIT } else { 0 });
        let words = self.words_mut(slot);
        words[0] =
            u64::from(session) | u64::from(new.template.0) << 32 | u64::from(new.program.length_max) << 48;
        words[1] = u64::from(new.stamp) | u64::from(new.now_millis) << 32;
        words[2] = u64::from(new.program.l3_delta) << 32 | u64::from(new.program.l4_delta) << 48;
        words[3] = 0;
        words[HEADER_WORDS..HEADER_WORDS + new.key.len()].copy_from_slice(new.key);
        words[HEADER_WORDS + new.key.len()..needed].copy_from_slice(operands);
        let mut next = NONE;
        if let Some(owner) = new.owner {
            next = std::mem::replace(&mut sessions.hot(owner.session).entries, slot.0);
        }
        self.words_mut(slot)[LINKS] = u64::from(next) | u64::from(new.watches.0) << 32;
        self.count += 1;
        self.mutations += 1;
        self.counters.insertions += 1;
        Some((slot, evicted))
    }

    /// Counts a decision that could not be cached.
    pub fn refuse(&mut self) {
        self.counters.refused += 1;
    }

    fn place(&mut self, hash: u64, sessions: &mut SessionTable) -> (Slot, Option<(Owner, Traffic)>) {
        let homes = self.homes(hash);
        for home in homes {
            if let Some(way) = self.tags[home].iter().position(|&tag| tag == 0) {
                return (Slot((home * WAYS + way) as u32), None);
            }
        }
        let first = homes[0] * WAYS;
        (first..first + WAYS).for_each(|slot| prefetch(&self.lines[slot * self.stride]));
        let age = |slot: &usize| {
            let words = self.words(Slot(*slot as u32));
            let proven = words[0] as u32 & PROVEN_BIT != 0 || words[2] as u32 > 1;
            (proven, (words[1] >> 32) as u32)
        };
        let victim = (first..first + WAYS).min_by_key(age).unwrap_or(first);
        self.counters.evictions += 1;
        let evicted = self.remove(Slot(victim as u32), sessions);
        (Slot(victim as u32), evicted)
    }

    /// Moves an entry's counts to its session. Returns what they were, if there were any.
    pub fn fold(&mut self, slot: Slot, sessions: &mut SessionTable) -> Option<(Owner, Traffic)> {
        let words = self.words_mut(slot);
        let packets = words[2] as u32;
        if packets == 0 {
            return None;
        }
        let traffic = Traffic { packets: u64::from(packets), bytes: words[3] };
        let last_seen = (words[1] >> 32) as u32;
        if packets > 1 {
            words[0] |= u64::from(PROVEN_BIT);
        }
        words[2] &= 0xffff_ffff_0000_0000;
        words[3] = 0;
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
                    let links = &mut self.words_mut(Slot(at))[LINKS];
                    *links = *links & 0xffff_ffff_0000_0000 | u64::from(after);
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

    /// The next entry of a session's list.
    pub(super) fn next(&self, slot: Slot) -> u32 {
        self.head(slot)[LINKS] as u32
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
        (self.words(slot)[1] >> 32) as u32
    }

    /// Packets and bytes since the last fold.
    pub fn unfolded(&self, slot: Slot) -> Traffic {
        let words = self.words(slot);
        Traffic { packets: u64::from(words[2] as u32), bytes: words[3] }
    }
}
