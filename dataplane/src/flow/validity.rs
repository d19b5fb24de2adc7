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
use arrayvec::ArrayVec;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};

/// Most objects that entries may name at a time.
pub const OBJECTS_MAX: usize = 1 << 20;
/// Most objects that one entry names; a decision that used more is invalidated by any change.
pub const WATCHES_MAX: usize = 14;
/// Most objects that are kept though no entry names them.
const IDLE_MAX: usize = 1 << 14;
/// The place of the object that every decision names.
const EVERYTHING: u32 = 0;

/// The kind of an object that decisions use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// Something whose change concerns every decision.
    Everything,
    /// A neighbour's link-layer address.
    Neighbour,
    /// A slice of the route table.
    Route,
    /// A port: link, MTU, address.
    Port,
    /// A slice of a rule space by destination address.
    RulesByDestination,
    /// A slice of a rule space by source address.
    RulesBySource,
    /// A slice of a rule space by protocol and port.
    RulesByService,
    /// A back end, a station, or any other object that a function numbers by itself.
    Other,
}

/// An object, as a decision names it: its kind, and its number within the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watch(u64);

/// Bits of an object's number within its kind and scope.
const ID_BITS: u32 = 52;
/// Bits of a scope, above those; the kind has the rest.
const SCOPE_BITS: u32 = 8;

impl Watch {
    /// What every decision depends on.
    pub const EVERYTHING: Self = Self::of(ObjectKind::Everything, 0);

    /// An object by its kind and its number within it, below 2^52.
    pub const fn of(kind: ObjectKind, id: u64) -> Self {
        let id = if matches!(kind, ObjectKind::Everything) { 0 } else { id };
        debug_assert!(id >> ID_BITS == 0);
        Self((kind as u64) << (ID_BITS + SCOPE_BITS) | id & ((1 << ID_BITS) - 1))
    }

    /// The object of this kind and number that belongs to `scope`: what two chains number alike are two objects.
    #[must_use]
    pub const fn within(self, scope: u8) -> Self {
        let is_everything = self.0 >> (ID_BITS + SCOPE_BITS) == ObjectKind::Everything as u64;
        let scope = if is_everything { 0 } else { scope as u64 };
        Self(self.0 & !(((1 << SCOPE_BITS) - 1) << ID_BITS) | scope << ID_BITS)
    }
}

const _: () = assert!((ObjectKind::Other as u64) < 1 << (64 - ID_BITS - SCOPE_BITS));

/// The objects that one decision used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watches {
    objects: ArrayVec<Watch, WATCHES_MAX>,
    /// A bit for each few objects: where it is not set, an object is new here.
    seen: u64,
    overflow: bool,
}

impl Watches {
    /// Names an object.
    pub fn add(&mut self, watch: Watch) {
        let bit = 1 << (watch.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58);
        let known = self.seen & bit != 0 && self.objects.contains(&watch);
        if watch != Watch::EVERYTHING && !known {
            self.seen |= bit;
            self.overflow |= self.objects.try_push(watch).is_err();
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.objects.clear();
        self.seen = 0;
        self.overflow = false;
    }
}

/// Watches as an entry keeps them: places in the table.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PackedWatches {
    places: [u32; WATCHES_MAX],
    count: u8,
    overflow: u8,
    _spare: u16,
}

#[derive(Clone, Copy, Debug)]
struct Object {
    watch: Watch,
    /// Epoch of the last change.
    changed: u64,
    /// Entries that name it.
    entries: u32,
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
    /// Objects that no entry named at some time since: they keep their places for a while, as they will be named again.
    idle: VecDeque<u32>,
    epoch: u64,
    /// No entry's stamp is older.
    stamped_since: u64,
    changes: u64,
}

impl Default for Validity {
    fn default() -> Self {
        Self::new(KeyedHash::random())
    }
}

impl Validity {
    /// Nothing is in use.
    pub fn new(hash: KeyedHash) -> Self {
        let everything = Object { watch: Watch::EVERYTHING, changed: 0, entries: 1, queued: false };
        Self {
            places: HashMap::with_hasher(Keyed(hash)),
            recent: Box::new([0; RECENT]),
            objects: vec![everything],
            free: Vec::new(),
            idle: VecDeque::new(),
            epoch: 1,
            stamped_since: 1,
            changes: 0,
        }
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
        self.objects.iter().skip(1).filter(|object| object.entries > 0).count()
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
                && object.entries > 0
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

    /// Gives the objects of a decision that is stored their places.
    pub(super) fn hold(&mut self, watches: &Watches) -> PackedWatches {
        let mut packed = PackedWatches { overflow: u8::from(watches.overflow), ..PackedWatches::default() };
        let mut free = packed.places.iter_mut();
        for &watch in &watches.objects {
            match self.place(watch) {
                Some(place) => {
                    if let Some(next) = free.next() {
                        *next = place;
                    }
                }
                None => packed.overflow = 1,
            }
        }
        packed.count = (WATCHES_MAX - free.len()) as u8;
        // An entry without names for all its objects must see every change: it keeps the epoch moving.
        if packed.overflow != 0 {
            self.objects[EVERYTHING as usize].entries += 1;
        }
        packed
    }

    #[inline(always)]
    fn place(&mut self, watch: Watch) -> Option<u32> {
        let recent = (watch.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - RECENT_BITS)) as usize;
        let place = self.recent[recent];
        if let Some(object) = self.objects.get_mut(place as usize)
            && object.watch == watch
        {
            object.entries += 1;
            return Some(place);
        }
        let place = self.find_place(watch)?;
        self.recent[recent] = place;
        Some(place)
    }

    #[inline(never)]
    fn find_place(&mut self, watch: Watch) -> Option<u32> {
        if let Some(&place) = self.places.get(&watch) {
            self.objects[place as usize].entries += 1;
            return Some(place);
        }
        if self.places.len() >= OBJECTS_MAX {
            self.forget_idle();
        }
        if self.places.len() >= OBJECTS_MAX {
            return None;
        }
        let object = Object { watch, changed: self.epoch, entries: 1, queued: false };
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
        if object.entries == 0 {
            self.places.remove(&object.watch);
            object.watch = Watch::EVERYTHING;
            self.free.push(place);
        }
    }

    /// An entry fell: its objects are in use by one fewer.
    pub(super) fn release(&mut self, packed: &PackedWatches) {
        for &place in &packed.places[..usize::from(packed.count)] {
            let object = &mut self.objects[place as usize];
            object.entries -= 1;
            if object.entries == 0 && !object.queued {
                object.queued = true;
                self.idle.push_back(place);
            }
        }
        while self.idle.len() > IDLE_MAX {
            self.forget_idle();
        }
        if packed.overflow != 0 {
            self.objects[EVERYTHING as usize].entries -= 1;
        }
    }

    /// True if some entry has no names for all its objects, so that every change must be seen.
    fn has_nameless(&self) -> bool {
        self.objects[EVERYTHING as usize].entries > 1
    }

    /// True if nothing that `watches` names changed after `stamp`.
    #[inline(never)]
    pub fn holds(&self, stamp: u32, watches: &PackedWatches) -> bool {
        let stamp = self.epoch - u64::from((self.epoch as u32).wrapping_sub(stamp));
        let newer = |place: u32| self.objects[place as usize].changed > stamp;
        watches.overflow == 0
            && !newer(EVERYTHING)
            && !watches.places[..usize::from(watches.count)].iter().any(|&place| newer(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watches(ids: impl IntoIterator<Item = u64>) -> Watches {
        let mut watches = Watches::default();
        ids.into_iter().for_each(|id| watches.add(Watch::of(ObjectKind::Neighbour, id)));
        watches
    }

    /// R8: a change voids the decisions that named its object, and no other.
    #[test]
    fn a_change_voids_those_who_named_it() {
        let mut validity = Validity::default();
        let mine = validity.hold(&watches([7, 9]));
        let other = validity.hold(&watches([8, 9]));
        let stamp = validity.epoch();
        validity.change(Watch::of(ObjectKind::Neighbour, 8));
        assert!(validity.holds(stamp, &mine) && !validity.holds(stamp, &other));
        validity.change(Watch::of(ObjectKind::Neighbour, 9));
        assert!(!validity.holds(stamp, &mine));
        assert!(validity.holds(validity.epoch(), &mine));
        validity.change_everything();
        assert!(!validity.holds(validity.epoch() - 1, &mine));
    }

    #[test]
    fn what_two_chains_number_alike_are_two_objects() {
        let mut validity = Validity::default();
        let watch = Watch::of(ObjectKind::Neighbour, 7);
        let mut of = |scope| {
            let mut watches = Watches::default();
            watches.add(watch.within(scope));
            validity.hold(&watches)
        };
        let (first, second) = (of(0), of(1));
        let stamp = validity.epoch();
        validity.within(1).change(watch);
        assert!(validity.holds(stamp, &first) && !validity.holds(stamp, &second));
        validity.within(3).change(Watch::EVERYTHING);
        assert!(!validity.holds(stamp, &first), "everything is everybody's");
    }

    #[test]
    fn a_change_that_concerns_no_entry_starts_no_epoch() {
        let mut validity = Validity::default();
        let packed = validity.hold(&watches([1, 2]));
        let epoch = validity.epoch();
        (100..1000).for_each(|id| validity.change(Watch::of(ObjectKind::Neighbour, id)));
        assert_eq!((validity.epoch(), validity.changes()), (epoch, 900));
        validity.release(&packed);
        assert_eq!(validity.objects_in_use(), 0);
        validity.change(Watch::of(ObjectKind::Neighbour, 1));
        assert_eq!(validity.epoch(), epoch);
        // The place is used again, and its past is not the new object's.
        let packed = validity.hold(&watches([3]));
        assert!(validity.holds(validity.epoch(), &packed));
    }

    #[test]
    fn too_many_objects_fall_with_any_change() {
        let mut validity = Validity::default();
        let packed = validity.hold(&watches(0..100));
        let stamp = validity.epoch();
        validity.change(Watch::of(ObjectKind::Other, 1));
        assert_ne!(validity.epoch(), stamp, "a change that no name leads to is seen");
        assert!(!validity.holds(stamp, &packed));
        validity.release(&packed);
        assert_eq!(validity.objects_in_use(), 0);
    }
}
