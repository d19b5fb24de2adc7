//! Which entries a change concerns (R8).
//!
//! What: a decision names the objects that it used and that many flows share: a neighbour, a port, a slice of the rule or
//! route space. While any entry names an object, the object has a place in a table, with the number of its entries and
//! the epoch of its last change. A change of an object that no entry names costs one look-up and concerns nobody.
//! Otherwise it starts a new epoch: an entry is valid while none of its objects is newer than the entry's own stamp.
//!
//! Cost: a hit compares its stamp with the current epoch and is done, unless an object in use changed since. Then it looks
//! at its own objects and, if none was touched, takes the new epoch. So a change costs the change, not a walk of the cache.
//! Stamps have 32 bits: the sweep that folds counters renews them, so that none is ever older than that.
//!
//! Safe approximation: a decision with too many objects, or one that found no place for them, falls with any change. The
//! reverse can't be. Objects that belong to one session (a mapping, a back-end choice) need no name: the session kills its
//! entries.

use super::hash::KeyedHash;
pub use super::watch::{ObjectKind, WATCHES_MAX, Watch, Watches};
use super::watch_sets::{SetId, WatchSet, WatchSets};
use crate::memory::{Arena, ArenaError};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};

/// Most objects that entries may name at a time.
pub const OBJECTS_MAX: usize = 1 << 20;
/// Most objects that are kept though no entry names them.
const IDLE_MAX: usize = 1 << 14;
/// The place of the object that every decision names.
const EVERYTHING: u32 = 0;

#[derive(Clone, Copy, Debug)]
struct Object {
    watch: Watch,
    /// Epoch of the last change.
    changed: u64,
    /// Sets that name it, each of which some entry keeps.
    sets: u32,
    /// It waits in [`Validity::idle`].
    queued: bool,
}

/// Hashes one object under a secret (R16): ids are made of addresses that the network chooses.
#[derive(Clone, Debug)]
struct Keyed(KeyedHash);

impl BuildHasher for Keyed {
    type Hasher = ObjectHasher;

    fn build_hasher(&self) -> ObjectHasher {
        ObjectHasher(self.0.clone(), 0)
    }

    fn hash_one<T: std::hash::Hash>(&self, value: T) -> u64 {
        struct One(u64);
        impl Hasher for One {
            fn finish(&self) -> u64 {
                self.0
            }
            fn write(&mut self, bytes: &[u8]) {
                absorb(&mut self.0, bytes);
            }
            fn write_u64(&mut self, word: u64) {
                self.0 ^= word;
            }
        }
        let mut hasher = One(0);
        value.hash(&mut hasher);
        self.0.hash(&[hasher.finish()])
    }
}

/// The owned form, which the trait asks for and the map does not use.
#[derive(Clone, Debug)]
struct ObjectHasher(KeyedHash, u64);

fn absorb(word: &mut u64, bytes: &[u8]) {
    bytes.iter().for_each(|&byte| *word = word.rotate_left(8) ^ u64::from(byte));
}

impl Hasher for ObjectHasher {
    fn finish(&self) -> u64 {
        self.0.hash(&[self.1])
    }
    fn write(&mut self, bytes: &[u8]) {
        absorb(&mut self.1, bytes);
    }
    fn write_u64(&mut self, word: u64) {
        self.1 ^= word;
    }
}

/// Places that were asked for of late, by a few bits of the object.
const RECENT: usize = 1 << RECENT_BITS;
/// Bits of a place among them.
const RECENT_BITS: u32 = 12;

/// The validity of decisions as one chain may change it: by its own objects.
#[derive(Debug)]
pub struct Scoped<'a> {
    validity: &'a mut Validity,
    scope: u8,
}

impl Scoped<'_> {
    /// An object changed: decisions that used it are void.
    pub fn change(&mut self, watch: Watch) {
        self.validity.change(watch.within(self.scope));
    }

    /// Several objects changed at once.
    pub fn change_all(&mut self, watches: &[Watch]) {
        let scope = self.scope;
        self.validity.change_each(watches.iter().map(|watch| watch.within(scope)));
    }
}

/// The objects in use with the epoch of each one's last change.
#[derive(Debug)]
pub struct Validity {
    places: HashMap<Watch, u32, Keyed>,
    /// Decisions of one time name the same objects; a place is right if its object is still this one: a free place is of
    /// none that can be asked for.
    recent: Box<[u32; RECENT]>,
    objects: Vec<Object>,
    free: Vec<u32>,
    sets: WatchSets,
    /// Objects that no entry named at some time since: they keep their places for a while, as they will be named again.
    idle: VecDeque<u32>,
    epoch: u64,
    /// No entry's stamp is older.
    stamped_since: u64,
    changes: u64,
}

impl Validity {
    /// Nothing is in use; there is room for what `entries` entries name.
    ///
    /// # Errors
    /// If the arena has not enough memory.
    pub fn new(arena: &Arena, entries: usize, hash: KeyedHash) -> Result<Self, ArenaError> {
        let everything = Object { watch: Watch::EVERYTHING, changed: 0, sets: 1, queued: false };
        Ok(Self {
            places: HashMap::with_hasher(Keyed(hash)),
            recent: Box::new([0; RECENT]),
            objects: vec![everything],
            free: Vec::new(),
            sets: WatchSets::new(arena, entries)?,
            idle: VecDeque::new(),
            epoch: 1,
            stamped_since: 1,
            changes: 0,
        })
    }

    /// Bytes that it takes from the arena.
    pub fn bytes_for(entries: usize) -> usize {
        WatchSets::bytes_for(entries)
    }

    /// The current epoch: the stamp of new entries. Its low half, which is unambiguous while no stamp is older than 2^32 epochs: the
    /// sweep of the cache takes care of that.
    #[inline(always)]
    pub fn epoch(&self) -> u32 {
        self.epoch as u32
    }

    /// The current epoch in full.
    pub(super) fn full_epoch(&self) -> u64 {
        self.epoch
    }

    /// All entries carry stamps of this epoch or later ones.
    pub(super) fn all_stamped_since(&mut self, epoch: u64) {
        self.stamped_since = epoch;
    }

    /// True if stamps may become ambiguous before the next look: all entries are to go.
    pub(super) fn is_overdue(&self) -> bool {
        self.epoch - self.stamped_since > 3 << 30
    }

    /// Lets epochs pass, as so many changes would.
    #[cfg(test)]
    pub(super) fn pass(&mut self, epochs: u64) {
        self.epoch += epochs;
    }

    /// Counts all changes, also those that concern no entry: a decision during which it moved is not to be stored.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Objects that entries name.
    pub fn objects_in_use(&self) -> usize {
        self.objects.iter().skip(1).filter(|object| object.sets > 0).count()
    }

    /// An object changed: decisions that used it are void.
    pub fn change(&mut self, watch: Watch) {
        self.change_all(&[watch]);
    }

    /// Several objects changed at once: one new epoch for all of them.
    pub fn change_all(&mut self, watches: &[Watch]) {
        self.change_each(watches.iter().copied());
    }

    /// The same as the chain that owns `scope` sees it.
    pub fn within(&mut self, scope: u8) -> Scoped<'_> {
        Scoped { validity: self, scope }
    }

    fn change_each(&mut self, watches: impl Iterator<Item = Watch>) {
        self.changes += 1;
        let epoch = self.epoch + 1;
        for watch in watches {
            let place = match watch {
                Watch::EVERYTHING => Some(EVERYTHING),
                watch => self.places.get(&watch).copied(),
            };
            if let Some(object) = place.and_then(|place| self.objects.get_mut(place as usize))
                && object.sets > 0
            {
                object.changed = epoch;
                self.epoch = epoch;
            }
        }
        if self.has_nameless() {
            self.epoch = epoch;
        }
    }

    /// Everything changed.
    pub fn change_everything(&mut self) {
        self.change(Watch::EVERYTHING);
    }

    /// The set of objects of a decision that is stored; none if there is no room.
    pub(super) fn hold(&mut self, watches: &Watches) -> Option<SetId> {
        let recent_place = WatchSets::recent_place(watches.objects());
        let alike = |set: &WatchSet| {
            let mut pairs = set.places().iter().zip(watches.objects());
            !set.is_nameless()
                && !watches.overflows()
                && set.places().len() == watches.objects().len()
                && pairs.all(|(&place, watch)| self.objects[place as usize].watch == *watch)
        };
        if let Some((id, _)) = self.sets.recent(recent_place).filter(|(_, set)| alike(set)) {
            self.sets.keep(id);
            return Some(id);
        }
        let mut set = WatchSet::default();
        for &watch in watches.objects() {
            set.add(self.place(watch));
        }
        if watches.overflows() {
            set.add(None);
        }
        // An entry without names for all its objects must see every change: it keeps the epoch moving.
        if set.is_nameless() {
            self.objects[EVERYTHING as usize].sets += 1;
        }
        let id = self.sets.insert(set, recent_place);
        if id.is_none() {
            self.forget(&set);
        }
        id
    }

    #[inline(always)]
    fn place(&mut self, watch: Watch) -> Option<u32> {
        let recent = (watch.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - RECENT_BITS)) as usize;
        let place = self.recent[recent];
        if let Some(object) = self.objects.get_mut(place as usize)
            && object.watch == watch
        {
            object.sets += 1;
            return Some(place);
        }
        let place = self.find_place(watch)?;
        self.recent[recent] = place;
        Some(place)
    }

    #[inline(never)]
    fn find_place(&mut self, watch: Watch) -> Option<u32> {
        if let Some(&place) = self.places.get(&watch) {
            self.objects[place as usize].sets += 1;
            return Some(place);
        }
        if self.places.len() >= OBJECTS_MAX {
            self.forget_idle();
        }
        if self.places.len() >= OBJECTS_MAX {
            return None;
        }
        let object = Object { watch, changed: self.epoch, sets: 1, queued: false };
        let place = if let Some(place) = self.free.pop() {
            self.objects[place as usize] = object;
            place
        } else {
            self.objects.push(object);
            (self.objects.len() - 1) as u32
        };
        self.places.insert(watch, place);
        Some(place)
    }

    fn forget_idle(&mut self) {
        let Some(place) = self.idle.pop_front() else { return };
        let object = &mut self.objects[place as usize];
        object.queued = false;
        if object.sets == 0 {
            self.places.remove(&object.watch);
            object.watch = Watch::EVERYTHING;
            self.free.push(place);
        }
    }

    /// Asks for the set of what an entry named.
    #[inline(always)]
    pub(super) fn prefetch(&self, id: SetId) {
        self.sets.prefetch(id);
    }

    /// An entry fell: its set is kept by one fewer.
    #[inline(always)]
    pub(super) fn release(&mut self, id: SetId) {
        if let Some(set) = self.sets.release(id) {
            self.forget(&set);
        }
    }

    /// A set ended: its objects are in use by one fewer.
    fn forget(&mut self, set: &WatchSet) {
        for &place in set.places() {
            let object = &mut self.objects[place as usize];
            object.sets -= 1;
            if object.sets == 0 && !object.queued {
                object.queued = true;
                self.idle.push_back(place);
            }
        }
        while self.idle.len() > IDLE_MAX {
            self.forget_idle();
        }
        if set.is_nameless() {
            self.objects[EVERYTHING as usize].sets -= 1;
        }
    }

    /// True if some entry has no names for all its objects, so that every change must be seen.
    fn has_nameless(&self) -> bool {
        self.objects[EVERYTHING as usize].sets > 1
    }

    /// True if nothing that a set names changed after `stamp`.
    #[inline(never)]
    pub fn holds(&self, stamp: u32, set: SetId) -> bool {
        let stamp = self.epoch - u64::from((self.epoch as u32).wrapping_sub(stamp));
        let newer = |place: u32| self.objects[place as usize].changed > stamp;
        let set = self.sets.get(set);
        !set.is_nameless() && !newer(EVERYTHING) && !set.places().iter().any(|&place| newer(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn validity() -> Validity {
        let arena = Arena::anonymous(Validity::bytes_for(16) + 4096).unwrap();
        Validity::new(&arena, 16, KeyedHash::seeded(1)).unwrap()
    }

    fn watches(ids: impl IntoIterator<Item = u64>) -> Watches {
        let mut watches = Watches::default();
        ids.into_iter().for_each(|id| watches.add(Watch::of(ObjectKind::Neighbour, id)));
        watches
    }

    /// R8: a change voids the decisions that named its object, and no other.
    #[test]
    fn a_change_voids_those_who_named_it() {
        let mut validity = validity();
        let mine = validity.hold(&watches([7, 9])).unwrap();
        let other = validity.hold(&watches([8, 9])).unwrap();
        let stamp = validity.epoch();
        validity.change(Watch::of(ObjectKind::Neighbour, 8));
        assert!(validity.holds(stamp, mine) && !validity.holds(stamp, other));
        validity.change(Watch::of(ObjectKind::Neighbour, 9));
        assert!(!validity.holds(stamp, mine));
        assert!(validity.holds(validity.epoch(), mine));
        validity.change_everything();
        assert!(!validity.holds(validity.epoch() - 1, mine));
    }

    #[test]
    fn what_two_chains_number_alike_are_two_objects() {
        let mut validity = validity();
        let watch = Watch::of(ObjectKind::Neighbour, 7);
        let mut of = |scope| {
            let mut watches = Watches::default();
            watches.add(watch.within(scope));
            validity.hold(&watches).unwrap()
        };
        let (first, second) = (of(0), of(1));
        let stamp = validity.epoch();
        validity.within(1).change(watch);
        assert!(validity.holds(stamp, first) && !validity.holds(stamp, second));
        validity.within(3).change(Watch::EVERYTHING);
        assert!(!validity.holds(stamp, first), "everything is everybody's");
    }

    #[test]
    fn a_change_that_concerns_no_entry_starts_no_epoch() {
        let mut validity = validity();
        let packed = validity.hold(&watches([1, 2])).unwrap();
        let epoch = validity.epoch();
        (100..1000).for_each(|id| validity.change(Watch::of(ObjectKind::Neighbour, id)));
        assert_eq!((validity.epoch(), validity.changes()), (epoch, 900));
        validity.release(packed);
        assert_eq!(validity.objects_in_use(), 0);
        validity.change(Watch::of(ObjectKind::Neighbour, 1));
        assert_eq!(validity.epoch(), epoch);
        // The place is used again, and its past is not the new object's.
        let packed = validity.hold(&watches([3])).unwrap();
        assert!(validity.holds(validity.epoch(), packed));
    }

    #[test]
    fn too_many_objects_fall_with_any_change() {
        let mut validity = validity();
        let packed = validity.hold(&watches(0..100)).unwrap();
        let stamp = validity.epoch();
        validity.change(Watch::of(ObjectKind::Other, 1));
        assert_ne!(validity.epoch(), stamp, "a change that no name leads to is seen");
        assert!(!validity.holds(stamp, packed));
        validity.release(packed);
        assert_eq!(validity.objects_in_use(), 0);
    }

    #[test]
    fn who_names_the_same_shares_a_set() {
        let mut validity = validity();
        let first = validity.hold(&watches([1, 2])).unwrap();
        assert_eq!(validity.hold(&watches([1, 2])), Some(first));
        assert_ne!(validity.hold(&watches([2, 1])), Some(first), "which is as right, and seldom");
        assert_ne!(validity.hold(&watches([1])), Some(first));
        validity.release(first);
        assert_eq!(validity.objects_in_use(), 2);
        validity.release(first);
        // Its number is used again, also where the recent ones still know it.
        let other = validity.hold(&watches([5])).unwrap();
        assert_eq!(other, first);
        assert_ne!(validity.hold(&watches([1, 2])), Some(first));
    }

    #[test]
    fn there_is_room_for_one_set_an_entry_and_no_more() {
        let mut validity = validity();
        let held: Vec<_> = (0..17).map(|id| validity.hold(&watches([id, id + 100])).unwrap()).collect();
        assert_eq!(validity.hold(&watches([50])), None);
        assert_eq!(validity.objects_in_use(), 34, "what found no room is not in use");
        validity.release(held[3]);
        assert_eq!(validity.hold(&watches([50])), Some(held[3]));
    }

    proptest! {
        /// However sets are shared: an entry is valid exactly while nothing that it named has changed.
        #[test]
        fn sharing_changes_nothing(steps in proptest::collection::vec((0u8..3, 0u64..6, 0u64..6), 1..200)) {
            let mut validity = validity();
            let mut held: Vec<(SetId, u32, [u64; 2], bool)> = Vec::new();
            for (step, a, b) in steps {
                match step {
                    0 => match validity.hold(&watches([a, b])) {
                        Some(id) => held.push((id, validity.epoch(), [a, b], true)),
                        None => prop_assert!(held.len() > 16),
                    },
                    1 if !held.is_empty() => validity.release(held.remove((6 * a + b) as usize % held.len()).0),
                    _ => {
                        validity.change(Watch::of(ObjectKind::Neighbour, a));
                        held.iter_mut().for_each(|(_, _, ids, valid)| *valid &= !ids.contains(&a));
                    }
                }
                for &(id, stamp, _, valid) in &held {
                    prop_assert_eq!(validity.holds(stamp, id), valid);
                }
                let used: HashSet<u64> = held.iter().flat_map(|entry| entry.2).collect();
                prop_assert_eq!(validity.objects_in_use(), used.len());
            }
        }
    }
}
