//! A bounded hash table that never moves an entry and looks at 16 slots at most.
//!
//! Each key has two buckets of eight slots, chosen by two parts of its keyed hash, and is put into the
//! emptier one. At the 50 % load that the table is sized for, the fullest of 2^18 buckets holds seven, so
//! an insertion that finds both buckets full is a matter of a broken hash, not of luck; it is refused all
//! the same. No rehash, no tombstone, no chain: look-up, insertion and removal cost at most 16 slots (R16).

/// Slots of a bucket.
const LANES: usize = 8;
/// Least number of buckets: chance fills small tables more easily than large ones.
const BUCKETS_MIN: usize = 16;
/// Largest number of entries that a table can be sized for. The two bucket numbers and the tag of an
/// [`Entry`] are disjoint bits of one 64-bit hash.
pub const ENTRIES_MAX: usize = 1 << 24;

/// What a table stores.
pub trait Slot: Copy {
    /// The value of a free slot.
    const VACANT: Self;

    /// Is this slot free?
    fn is_vacant(&self) -> bool;
}

/// A 24-bit index of a record kept elsewhere, with eight bits of its key's hash: seven of eight
/// look-ups that meet other keys' entries are spared the load of their records, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u32);

impl Entry {
    /// The entry of the record at `index` (below 2^24) under a key with this hash.
    #[inline]
    pub const fn new(hash: u64, index: u32) -> Self {
        Self(Self::tag(hash) | index & 0x00FF_FFFF)
    }

    /// The record's index.
    #[inline]
    pub const fn index(self) -> u32 {
        self.0 & 0x00FF_FFFF
    }

    /// May this be the entry of a key with this hash?
    #[inline]
    pub const fn may_match(self, hash: u64) -> bool {
        self.0 & 0xFF00_0000 == Self::tag(hash)
    }

    /// The tag, in place. Never zero, so that no entry is [`Slot::VACANT`].
    const fn tag(hash: u64) -> u32 {
        let tag = (hash >> 56) as u32;
        (if tag == 0 { 1 } else { tag }) << 24
    }
}

impl Slot for Entry {
    const VACANT: Self = Self(0);

    fn is_vacant(&self) -> bool {
        self.0 == 0
    }
}

/// Where an entry is. Valid until the entry is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    bucket: u32,
    lane: u8,
}

/// The slots of one bucket, aligned so that a bucket of [`Entry`]s never straddles a cache line.
#[derive(Clone, Debug)]
#[repr(align(32))]
struct Bucket<T>([T; LANES]);

/// The table. See the module's text.
#[derive(Clone, Debug)]
pub struct TwoChoice<T> {
    buckets: Vec<Bucket<T>>,
    len: usize,
}

impl<T: Slot> TwoChoice<T> {
    /// A table for up to `entries` entries, at most [`ENTRIES_MAX`].
    pub fn with_capacity(entries: usize) -> Self {
        let buckets = (entries.min(ENTRIES_MAX) * 2).div_ceil(LANES).next_power_of_two().max(BUCKETS_MIN);
        Self { buckets: vec![Bucket([T::VACANT; LANES]); buckets], len: 0 }
    }

    /// Entries in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is the table empty?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket<T>>()
    }

    /// The first entry under this hash that `matches`.
    #[inline]
    pub fn find(&self, hash: u64, mut matches: impl FnMut(&T) -> bool) -> Option<Position> {
        for bucket in self.choices(hash) {
            for (lane, slot) in self.buckets[bucket].0.iter().enumerate() {
                if !slot.is_vacant() && matches(slot) {
                    return Some(Position { bucket: bucket as u32, lane: lane as u8 });
                }
            }
        }
        None
    }

    /// Would [`TwoChoice::insert`] find a slot?
    pub fn has_room(&self, hash: u64) -> bool {
        self.choices(hash).into_iter().any(|bucket| self.buckets[bucket].0.iter().any(T::is_vacant))
    }

    /// Puts `entry`, which must not be vacant, under this hash. `None` if both buckets are full.
    pub fn insert(&mut self, hash: u64, entry: T) -> Option<Position> {
        debug_assert!(!entry.is_vacant());
        let free = |bucket: usize| self.buckets[bucket].0.iter().filter(|slot| slot.is_vacant()).count();
        let [first, second] = self.choices(hash);
        let bucket = if free(second) > free(first) { second } else { first };
        let lane = self.buckets[bucket].0.iter().position(T::is_vacant)?;
        self.buckets[bucket].0[lane] = entry;
        self.len += 1;
        Some(Position { bucket: bucket as u32, lane: lane as u8 })
    }

    /// The entry at `position`.
    pub fn get(&self, position: Position) -> &T {
        &self.buckets[position.bucket as usize].0[position.lane as usize]
    }

    /// The entry at `position`, to change in place. It must not become vacant.
    pub fn get_mut(&mut self, position: Position) -> &mut T {
        &mut self.buckets[position.bucket as usize].0[position.lane as usize]
    }

    /// Frees the slot at `position`. Without effect if it is free.
    pub fn remove(&mut self, position: Position) {
        let slot = &mut self.buckets[position.bucket as usize].0[position.lane as usize];
        if !slot.is_vacant() {
            *slot = T::VACANT;
            self.len -= 1;
        }
    }

    /// The entries of `buckets_max` buckets from `bucket` on, and where to go on, or `None` at the end.
    pub fn page(&self, bucket: usize, buckets_max: usize) -> (impl Iterator<Item = &T>, Option<usize>) {
        let first = bucket.min(self.buckets.len());
        let last = first.saturating_add(buckets_max.max(1)).min(self.buckets.len());
        let entries = self.buckets[first..last].iter().flat_map(|b| b.0.iter()).filter(|s| !s.is_vacant());
        (entries, (last < self.buckets.len()).then_some(last))
    }

    /// The two buckets of a hash. They differ: there are at least two buckets.
    #[inline]
    fn choices(&self, hash: u64) -> [usize; 2] {
        let mask = self.buckets.len() - 1;
        let first = hash as usize & mask;
        let second = (hash >> 28) as usize & mask;
        [first, if second == first { first ^ 1 } else { second }]
    }
}

const _: () = assert!(BUCKETS_MIN >= 2 && BUCKETS_MIN.is_power_of_two());
// Bits 0..22 and 28..50 number buckets, bits 56..64 are the tag.
const _: () = assert!((ENTRIES_MAX * 2 / LANES) <= 1 << 22);

#[cfg(test)]
mod tests {
    use super::super::secret::{Purpose, Secret};
    use super::*;
    use proptest::prelude::*;

    /// R16: at the load it is sized for, no insertion fails, with a hundred keys of the hash.
    #[test]
    fn full_size_is_reached_with_every_key() {
        for (entries, keys) in [(100, 200), (10_000, 50), (1_000_000, 2)] {
            for key in 0..keys {
                let secret = Secret::from_key([key, 77]);
                let mut table = TwoChoice::with_capacity(entries);
                for index in 0..entries as u32 {
                    let hash = secret.hash(Purpose::Inside, u64::from(index), 0);
                    assert!(table.has_room(hash), "{index} of {entries}, key {key}");
                    assert!(table.insert(hash, Entry::new(hash, index)).is_some());
                }
                assert_eq!(table.len(), entries);
            }
        }
    }

    /// R16: keys that all collide fill their two buckets and are then refused, not searched for longer.
    #[test]
    fn colliding_keys_are_refused_at_sixteen() {
        let mut table = TwoChoice::with_capacity(1_000);
        let accepted = (0..100).filter(|&index| table.insert(42, Entry::new(42, index)).is_some()).count();
        assert_eq!(accepted, 2 * LANES);
        assert!(!table.has_room(42));
        let mut looked_at = 0;
        table.find(42, |_| {
            looked_at += 1;
            false
        });
        assert_eq!(looked_at, 2 * LANES);
    }

    proptest! {
        #[test]
        fn it_is_a_map(operations in prop::collection::vec((any::<bool>(), 0_u32..60), 1..400)) {
            let secret = Secret::from_key([5, 6]);
            let mut table = TwoChoice::with_capacity(64);
            let mut model = std::collections::BTreeSet::new();
            for (insert, key) in operations {
                let hash = secret.hash(Purpose::Inside, u64::from(key), 0);
                let found = table.find(hash, |e: &Entry| e.may_match(hash) && e.index() == key);
                prop_assert_eq!(found.is_some(), model.contains(&key));
                match (insert, found) {
                    (true, None) => {
                        let position = table.insert(hash, Entry::new(hash, key));
                        prop_assert_eq!(position.map(|p| table.get(p).index()), Some(key));
                        model.insert(key);
                    }
                    (false, Some(position)) => {
                        table.remove(position);
                        model.remove(&key);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let (mut seen, mut next) = (std::collections::BTreeSet::new(), Some(0));
            while let Some(bucket) = next {
                let (entries, after) = table.page(bucket, 3);
                seen.extend(entries.map(|entry| entry.index()));
                next = after;
            }
            prop_assert_eq!(seen, model);
        }
    }
}
