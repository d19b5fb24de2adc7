//! The names of objects that decisions use and that many flows share.

use arrayvec::ArrayVec;

/// Most objects that one entry names; a decision that used more is invalidated by any change.
pub const WATCHES_MAX: usize = 14;

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
pub struct Watch(pub(super) u64);

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

    /// A bit for each few objects.
    #[inline(always)]
    const fn bit(self) -> u64 {
        1 << (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
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
        let bit = watch.bit();
        let known = self.seen & bit != 0 && self.objects.contains(&watch);
        if watch != Watch::EVERYTHING && !known {
            self.seen |= bit;
            self.overflow |= self.objects.try_push(watch).is_err();
        }
    }

    /// Names several objects, of which no two are the same. As a rule they are new here.
    #[inline(always)]
    pub fn add_all<const N: usize>(&mut self, watches: [Watch; N]) {
        let bits = watches.iter().fold(0, |bits, watch| bits | watch.bit());
        let are_new = self.seen & bits == 0 && !watches.contains(&Watch::EVERYTHING);
        if are_new && self.objects.try_extend_from_slice(&watches).is_ok() {
            self.seen |= bits;
        } else {
            watches.into_iter().for_each(|watch| self.add(watch));
        }
    }

    /// What was named, as far as there is room.
    #[inline(always)]
    pub fn objects(&self) -> &[Watch] {
        &self.objects
    }

    /// True if more was named.
    #[inline(always)]
    pub fn overflows(&self) -> bool {
        self.overflow
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.objects.clear();
        self.seen = 0;
        self.overflow = false;
    }
}
