//! One hash table of the classifier: the rules that are hashed by one tuple.
//!
//! A table is an array of buckets of four slots, half a cache line each, addressed by the leading bits of the hash.
//! A slot holds a hash and the list of the rules that have it, best rule first. A look-up reads one bucket, and
//! follows a list only where the hash is equal. A bucket that overflows doubles the array; lists stay whole.

use std::collections::BTreeSet;

use super::hash::HashKeys;
use super::pack::Pattern;
use super::tuple::Tuple;
use super::{Found, Rank};

/// Most rules in one list.
pub(super) const LIST_RULES_MAX: usize = 4;
/// No rule.
pub(super) const NONE: u32 = u32::MAX;

const SLOTS: usize = 4;
const BUCKET_BITS_MIN: u32 = 4;
/// Buckets for each list at which growing gives up. With a random secret this is all but impossible: five of n
/// lists would have to share their first log2(n) + 6 hash bits.
const BUCKETS_PER_LIST_MAX: usize = 64;

/// One pattern of a rule, with its place in a list.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub pattern: Pattern,
    pub rank: Rank,
    pub found: Found,
    /// The next rule of the same list, or [`NONE`].
    pub next: u32,
    /// The identity of the table that holds it.
    pub table: u32,
}

#[derive(Clone, Copy)]
#[repr(align(32))]
struct Bucket {
    hashes: [u32; SLOTS],
    heads: [u32; SLOTS],
}

const EMPTY: Bucket = Bucket { hashes: [0; SLOTS], heads: [NONE; SLOTS] };

/// See the module.
#[derive(Clone)]
pub(super) struct Table {
    /// The best rank of its rules: a look-up that has found a better one stops before this table.
    pub first: Rank,
    pub tuple: Tuple,
    /// Where a look-up keeps the hash share of the source address at this tuple's length.
    pub source_slot: u8,
    /// The same for the destination address.
    pub destination_slot: u8,
    bucket_bits: u32,
    buckets: Vec<Bucket>,
    pub identity: u32,
    lists_in_use: usize,
    ranks: BTreeSet<(Rank, u32)>,
    /// How many lists there are of each length.
    lists: [u32; LIST_RULES_MAX + 1],
}

impl Table {
    pub fn new(identity: u32, tuple: Tuple, source_slot: u8, destination_slot: u8) -> Self {
        Self {
            first: Rank::MAX,
            tuple,
            source_slot,
            destination_slot,
            bucket_bits: BUCKET_BITS_MIN,
            buckets: vec![EMPTY; 1 << BUCKET_BITS_MIN],
            identity,
            lists_in_use: 0,
            ranks: BTreeSet::new(),
            lists: [0; LIST_RULES_MAX + 1],
        }
    }

    /// The first rule of the list for this hash, or [`NONE`]. At most one slot has it.
    #[inline]
    pub fn list(&self, hash: u32) -> u32 {
        let bucket = &self.buckets[self.index(hash)];
        let mut head = NONE;
        for slot in 0..SLOTS {
            head = if bucket.hashes[slot] == hash && bucket.heads[slot] != NONE {
                bucket.heads[slot]
            } else {
                head
            };
        }
        head
    }

    /// The length of the list for this hash.
    pub fn list_length(&self, hash: u32, entries: &[Entry]) -> usize {
        chain(self.list(hash), entries).count()
    }

    /// The longest list there is.
    pub fn longest(&self) -> usize {
        self.lists.iter().rposition(|count| *count > 0).unwrap_or(0)
    }

    /// Whether no rule is left.
    pub fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }

    /// Puts entry `index` into the list for its hash. False, and nothing changed, where the list is full or the
    /// buckets can't hold the key.
    pub fn insert(&mut self, index: u32, entries: &mut [Entry], keys: &HashKeys) -> bool {
        let hash = keys.pattern(&entries[index as usize].pattern, &self.tuple);
        let length = self.list_length(hash, entries);
        if length >= LIST_RULES_MAX || (length == 0 && !self.make_room(hash, entries, keys)) {
            return false;
        }
        let rank = entries[index as usize].rank;
        let head = self.list(hash);
        let before = chain(head, entries).take_while(|at| entries[*at as usize].rank <= rank).last();
        match before {
            Some(before) => {
                entries[index as usize].next = entries[before as usize].next;
                entries[before as usize].next = index;
            }
            None => {
                entries[index as usize].next = head;
                self.set_head(hash, head, index);
            }
        }
        entries[index as usize].table = self.identity;
        self.count_list(length, length + 1);
        self.ranks.insert((rank, index));
        self.first = self.first.min(rank);
        true
    }

    /// Takes entry `index` out of its list.
    pub fn remove(&mut self, index: u32, entries: &mut [Entry], keys: &HashKeys) {
        let hash = keys.pattern(&entries[index as usize].pattern, &self.tuple);
        let length = self.list_length(hash, entries);
        let head = self.list(hash);
        let next = entries[index as usize].next;
        if head == index {
            self.set_head(hash, head, next);
        } else {
            let before = chain(head, entries).find(|at| entries[*at as usize].next == index);
            debug_assert!(before.is_some(), "entry {index} is in no list of its table");
            let Some(before) = before else { return };
            entries[before as usize].next = next;
        }
        self.count_list(length, length - 1);
        self.ranks.remove(&(entries[index as usize].rank, index));
        self.first = self.ranks.first().map_or(Rank::MAX, |(rank, _)| *rank);
    }

    #[inline]
    fn index(&self, hash: u32) -> usize {
        (hash >> (32 - self.bucket_bits)) as usize
    }

    fn count_list(&mut self, from: usize, to: usize) {
        if from > 0 {
            self.lists[from] -= 1;
        } else {
            self.lists_in_use += 1;
        }
        if to > 0 {
            self.lists[to] += 1;
        } else {
            self.lists_in_use -= 1;
        }
    }

    /// Replaces the head of the list for `hash`: `old` is its head so far, [`NONE`] for a new list.
    fn set_head(&mut self, hash: u32, old: u32, head: u32) {
        let index = self.index(hash);
        let bucket = &mut self.buckets[index];
        if let Some(slot) = bucket.heads.iter().position(|head| *head == old) {
            bucket.hashes[slot] = hash;
            bucket.heads[slot] = head;
        }
    }

    /// Makes sure that the bucket of `hash` has a free slot.
    fn make_room(&mut self, hash: u32, entries: &[Entry], keys: &HashKeys) -> bool {
        while !self.buckets[self.index(hash)].heads.contains(&NONE) {
            if !self.grow(entries, keys) {
                return false;
            }
        }
        true
    }

    /// Doubles the buckets until all lists fit.
    fn grow(&mut self, entries: &[Entry], keys: &HashKeys) -> bool {
        let heads: Vec<u32> =
            self.buckets.iter().flat_map(|bucket| bucket.heads).filter(|head| *head != NONE).collect();
        for bits in self.bucket_bits + 1..u32::BITS {
            let count = 1usize << bits;
            if count > (self.lists_in_use + 1) * BUCKETS_PER_LIST_MAX {
                return false;
            }
            let mut buckets = vec![EMPTY; count];
            let fits = heads.iter().all(|head| {
                let hash = keys.pattern(&entries[*head as usize].pattern, &self.tuple);
                let bucket: &mut Bucket = &mut buckets[(hash >> (32 - bits)) as usize];
                match bucket.heads.iter().position(|head| *head == NONE) {
                    Some(slot) => {
                        bucket.hashes[slot] = hash;
                        bucket.heads[slot] = *head;
                        true
                    }
                    None => false,
                }
            });
            if fits {
                self.bucket_bits = bits;
                self.buckets = buckets;
                return true;
            }
        }
        false
    }
}

/// The entries of a list from `head` on.
fn chain(head: u32, entries: &[Entry]) -> impl Iterator<Item = u32> + '_ {
    let some = |index: u32| (index != NONE).then_some(index);
    std::iter::successors(some(head), move |at| some(entries[*at as usize].next))
}
