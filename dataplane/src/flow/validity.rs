//! Which entries a change concerns (R8).
//!
//! What: every object that many entries may use (a neighbour, a next hop, a port, a slice of the rule space) hashes to
//! one of 65,536 *cells*. A decision names the cells of the objects that it used; a change of an object stamps its cell with
//! a new epoch. An entry is valid while none of its cells is newer than the entry's own stamp.
//!
//! Cost: a hit compares its stamp with the current epoch and is done, unless something changed since. Then it looks at
//! its own cells and, if none was touched, takes the new epoch. So a change costs the change, not a walk of the cache.
//!
//! Safe approximation: two objects may share a cell, which re-walks entries that need not be. The reverse can't be.
//! Objects that belong to one session (a mapping, a back-end choice) need no cell: the session kills its entries.

use arrayvec::ArrayVec;

/// Number of cells.
pub const CELLS: usize = 1 << 16;
/// Most cells that one entry names; a decision that used more is invalidated by any change.
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

/// A cell, as an entry names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watch(pub u16);

impl Watch {
    /// The cell that every decision watches.
    pub const EVERYTHING: Self = Self(0);

    /// The cell of an object.
    pub const fn of(kind: ObjectKind, id: u64) -> Self {
        if matches!(kind, ObjectKind::Everything) {
            return Self::EVERYTHING;
        }
        let mixed = (id ^ (kind as u64) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        // Cell 0 is kept for `Everything`.
        let cell = (mixed >> 48) as u16;
        Self(if cell == 0 { 1 } else { cell })
    }
}

/// The cells that one decision used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watches {
    cells: ArrayVec<Watch, WATCHES_MAX>,
    overflow: bool,
}

impl Watches {
    /// Names a cell.
    pub fn add(&mut self, watch: Watch) {
        if !self.cells.contains(&watch) && self.cells.try_push(watch).is_err() {
            self.overflow = true;
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.cells.clear();
        self.overflow = false;
    }

    /// The cells, and whether there were too many to name.
    pub fn packed(&self) -> PackedWatches {
        let mut cells = [0; WATCHES_MAX];
        self.cells.iter().enumerate().for_each(|(i, watch)| cells[i] = watch.0);
        PackedWatches { cells, count: self.cells.len() as u8, overflow: u8::from(self.overflow) }
    }
}

/// Watches as an entry keeps them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PackedWatches {
    cells: [u16; WATCHES_MAX],
    count: u8,
    overflow: u8,
}

/// The cells with the epoch of each one's last change.
#[derive(Debug)]
pub struct Validity {
    cells: Box<[u32]>,
    epoch: u32,
}

impl Default for Validity {
    fn default() -> Self {
        Self { cells: vec![0; CELLS].into_boxed_slice(), epoch: 1 }
    }
}

impl Validity {
    /// The current epoch: the stamp of new entries.
    #[inline(always)]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// An object changed: decisions that used it are void.
    pub fn change(&mut self, watch: Watch) {
        self.epoch = self.epoch.wrapping_add(1);
        self.cells[usize::from(watch.0)] = self.epoch;
    }

    /// Several objects changed at once: one new epoch for all of them.
    pub fn change_all(&mut self, watches: &[Watch]) {
        self.epoch = self.epoch.wrapping_add(1);
        for watch in watches {
            self.cells[usize::from(watch.0)] = self.epoch;
        }
    }

    /// Everything changed.
    pub fn change_everything(&mut self) {
        self.change(Watch::EVERYTHING);
    }

    /// True if nothing that `watches` names changed after `stamp`.
    #[inline(never)]
    pub fn holds(&self, stamp: u32, watches: &PackedWatches) -> bool {
        // Differences, so that the epoch may wrap.
        let newer = |cell: u16| self.cells[usize::from(cell)].wrapping_sub(stamp) as i32 > 0;
        watches.overflow == 0
            && !newer(0)
            && !watches.cells[..usize::from(watches.count)].iter().any(|&cell| newer(cell))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8: a change voids the decisions that named its object, and no other (but for shared cells).
    #[test]
    fn a_change_voids_those_who_named_it() {
        let mut validity = Validity::default();
        let (mine, other) = (Watch::of(ObjectKind::Neighbour, 7), Watch::of(ObjectKind::Neighbour, 8));
        assert_ne!(mine, other);
        let mut watches = Watches::default();
        watches.add(mine);
        let (stamp, packed) = (validity.epoch(), watches.packed());
        validity.change(other);
        assert!(validity.holds(stamp, &packed));
        validity.change(mine);
        assert!(!validity.holds(stamp, &packed));
        assert!(validity.holds(validity.epoch(), &packed));
        validity.change_everything();
        assert!(!validity.holds(validity.epoch() - 1, &packed));
    }

    #[test]
    fn too_many_objects_fall_with_any_change() {
        let mut watches = Watches::default();
        (0..100).for_each(|i| watches.add(Watch::of(ObjectKind::Other, i)));
        assert!(!Validity::default().holds(1, &watches.packed()));
    }
}
