//! A bounded hash index of one cache line a look: it finds the numbers of rows that are kept elsewhere.
//!
//! Each key has a bucket of fifteen places, chosen by its keyed hash (R16), and seven more in a fixed order in case that
//! one is full. A bucket counts the entries that went past it, so that a look ends at the first bucket that nobody did:
//! at the load that the index is sized for, ten entries a bucket, that is the first of them for nineteen looks of twenty.
//! No entry moves, nothing is rehashed. A look, an insertion or a removal costs eight lines at most (R15); an insertion
//! that finds all eight full is refused, which is a matter of a broken hash, not of luck.
//!
//! An entry is the row's number (24 bits) and eight bits of the key's hash, so that few looks load the row of another key.

use millrace_dataplane::lanes::matching_words;
use millrace_dataplane::memory::{Arena, ArenaError, ArenaSlice, prefetch};

/// Words of a bucket: the count of entries that went past it, then its places.
const WORDS: usize = 16;
/// Entries of a bucket that the index is sized for.
const LOAD: usize = 10;
/// Buckets that a key may be in.
const PROBES: u32 = 8;
/// Chance fills small indices more easily than large ones.
const BUCKETS_SPARE: usize = 16;
/// Most entries that an index can be sized for: their numbers have 24 bits.
pub const ENTRIES_MAX: usize = 1 << 24;
const NUMBER: u32 = 0x00ff_ffff;

type Bucket = [u32; WORDS];
const _: () = assert!(size_of::<Bucket>() == 64);

/// The index. Sized once.
#[derive(Debug)]
pub struct Index {
    buckets: ArenaSlice<Bucket>,
    len: usize,
}

impl Index {
    /// An index for `entries` entries, at most [`ENTRIES_MAX`].
    ///
    /// # Errors
    /// The arena has no room for it.
    pub fn new(arena: &Arena, entries: usize) -> Result<Self, ArenaError> {
        Ok(Self { buckets: ArenaSlice::zeroed(arena, buckets_for(entries))?, len: 0 })
    }

    /// Bytes that an index of this size takes from the arena.
    pub fn bytes_for(entries: usize) -> usize {
        buckets_for(entries) * size_of::<Bucket>()
    }

    /// Bytes taken from the arena.
    pub fn memory_bytes(&self) -> usize {
        self.buckets.arena_bytes()
    }

    /// Entries now.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Asks for the memory that a look will need.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.bucket(hash, 0)]);
    }

    /// The first number under this hash that `matches`.
    #[inline]
    pub fn find(&self, hash: u64, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        for probe in 0..PROBES {
            let bucket = &self.buckets[self.bucket(hash, probe)];
            let mut places = places(bucket, !NUMBER, tag(hash));
            while places != 0 {
                let number = bucket[places.trailing_zeros() as usize % WORDS] & NUMBER;
                if matches(number) {
                    return Some(number);
                }
                places &= places - 1;
            }
            if bucket[0] == 0 {
                break;
            }
        }
        None
    }

    /// Puts a number (below [`ENTRIES_MAX`]) under this hash. False if there is no place.
    #[inline]
    pub fn insert(&mut self, hash: u64, number: u32) -> bool {
        for probe in 0..PROBES {
            let at = self.bucket(hash, probe);
            let vacant = places(&self.buckets[at], u32::MAX, 0);
            if vacant != 0 {
                self.buckets[at][vacant.trailing_zeros() as usize % WORDS] = tag(hash) | number & NUMBER;
                self.len += 1;
                for passed in 0..probe {
                    let at = self.bucket(hash, passed);
                    self.buckets[at][0] += 1;
                }
                return true;
            }
        }
        false
    }

    /// Removes the number that was put under this hash. False if it is not there.
    #[inline]
    pub fn remove(&mut self, hash: u64, number: u32) -> bool {
        for probe in 0..PROBES {
            let at = self.bucket(hash, probe);
            let found = places(&self.buckets[at], u32::MAX, tag(hash) | number & NUMBER);
            if found != 0 {
                self.buckets[at][found.trailing_zeros() as usize % WORDS] = 0;
                self.len -= 1;
                for passed in 0..probe {
                    let at = self.bucket(hash, passed);
                    self.buckets[at][0] -= 1;
                }
                return true;
            }
            if self.buckets[at][0] == 0 {
                break;
            }
        }
        false
    }

    /// The bucket of a hash that is looked at after `probe` others: each goes by 32 bits of the hash, eight bits further on.
    #[inline]
    fn bucket(&self, hash: u64, probe: u32) -> usize {
        let bits = u64::from(hash.rotate_left(8 * probe) as u32);
        ((bits * self.buckets.len() as u64) >> 32) as usize
    }
}

/// The hash's bits in an entry, in place. Never zero, so that no entry is a vacant place.
#[inline]
fn tag(hash: u64) -> u32 {
    let tag = (hash >> 56) as u32;
    (tag + u32::from(tag == 0)) << 24
}

/// The places whose words under `mask` are `value`, a bit each.
#[inline(always)]
fn places(bucket: &Bucket, mask: u32, value: u32) -> u32 {
    // The first word is the count.
    matching_words(bucket, mask, value) & !1
}

fn buckets_for(entries: usize) -> usize {
    entries.min(ENTRIES_MAX).div_ceil(LOAD) + BUCKETS_SPARE
}

const _: () = assert!(LOAD < WORDS - 1);
// A bucket's number has 32 bits, and so has its count.
const _: () = assert!(ENTRIES_MAX / LOAD + BUCKETS_SPARE < u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::super::secret::{Purpose, Secret};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn index(entries: usize) -> Index {
        Index::new(&Arena::anonymous(Index::bytes_for(entries)).unwrap(), entries).unwrap()
    }

    /// R16: at the load it is sized for, no insertion fails, with a hundred keys of the hash; and few looks need a second line.
    #[test]
    fn full_size_is_reached_with_every_key() {
        for (entries, keys) in [(10, 200), (100, 200), (10_000, 50), (1_000_000, 3)] {
            for key in 0..keys {
                let secret = Secret::from_key([key, 77]);
                let mut index = index(entries);
                for number in 0..entries as u32 {
                    let hash = secret.hash(Purpose::Inside, u64::from(number));
                    assert!(index.insert(hash, number), "{number} of {entries}, key {key}");
                }
                assert_eq!(index.len(), entries);
                let passed = index.buckets.iter().filter(|bucket| bucket[0] > 0).count();
                assert!(
                    entries < 10_000 || passed * 12 < index.buckets.len(),
                    "{passed} buckets were passed"
                );
            }
        }
    }

    /// R16: keys that all collide fill their buckets and are then refused, not searched for longer.
    #[test]
    fn colliding_keys_are_refused() {
        let (mut index, hash) = (index(100_000), 0x1234_5678_9abc_def0);
        let accepted = (0..1_000).filter(|&number| index.insert(hash, number)).count();
        assert_eq!(accepted, PROBES as usize * (WORDS - 1));
        let mut looked_at = 0;
        index.find(hash, |_| {
            looked_at += 1;
            false
        });
        assert_eq!(looked_at, accepted);
        (0..accepted as u32).for_each(|number| assert!(index.remove(hash, number)));
        assert!(index.is_empty() && index.buckets.iter().flatten().all(|&word| word == 0));
    }

    proptest! {
        /// Few hashes for many numbers, so that buckets overflow; at the end nothing is left behind.
        #[test]
        fn it_is_a_set(operations in prop::collection::vec((any::<bool>(), 0_u32..400), 1..900), homes in 1_u64..40) {
            let secret = Secret::from_key([5, 6]);
            let mut index = index(64);
            let mut model = BTreeSet::new();
            for (insert, number) in operations {
                let hash = secret.hash(Purpose::Inside, u64::from(number) % homes);
                prop_assert_eq!(index.find(hash, |n| n == number).is_some(), model.contains(&number));
                if insert && !model.contains(&number) {
                    if index.insert(hash, number) {
                        model.insert(number);
                    }
                } else {
                    prop_assert_eq!(index.remove(hash, number), model.remove(&number));
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for number in model {
                prop_assert!(index.remove(secret.hash(Purpose::Inside, u64::from(number) % homes), number));
            }
            prop_assert!(index.buckets.iter().flatten().all(|&word| word == 0));
        }
    }
}
