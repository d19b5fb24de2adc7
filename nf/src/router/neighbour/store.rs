//! Where neighbours are kept: slots, an index by interface and address, deadlines, and who gives way.
//!
//! Slots are reused in the order in which they became free, with a generation in the [`NeighbourId`]. The index is a hash
//! table with chains through the slots, sized once for all entries; a chain has at most [`CHAIN_MAX`] of them. Who gives way
//! when all slots are taken is found by looking at the next [`EVICTION_SCAN`] slots only.

use super::{NeighbourId, NeighbourState};
use crate::router::interface::InterfaceId;
use millrace_dataplane::flow::hash::KeyedHash;
use millrace_dataplane::port::MacAddress;
use millrace_dataplane::time::Time;
use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

/// Most entries of one chain of the index. There are as many chains as entries, so a secret that fills one is not met.
pub const CHAIN_MAX: usize = 32;
/// Slots that are looked at to find one to displace.
const EVICTION_SCAN: usize = 64;
/// Bits of a [`NeighbourId`] that number the slot; the rest is its generation.
const SLOT_BITS: u32 = 20;
/// No slot.
const NONE: u32 = u32::MAX;

/// A neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) id: NeighbourId,
    pub(super) interface: InterfaceId,
    pub(super) address: IpAddr,
    /// Zero until known.
    pub(super) mac: MacAddress,
    pub(super) state: NeighbourState,
    pub(super) is_router: bool,
    /// Solicitations sent in this state.
    pub(super) solicits: u8,
    /// When the state was entered, or confirmed again.
    pub(super) since: Time,
    pub(super) last_used: Option<Time>,
    /// In `Store::deadlines` if set; set by [`Store::schedule`] only.
    deadline: Option<Time>,
    pub(super) hash: u64,
    /// Next slot of the chain.
    next: u32,
}

/// How far a new entry may go to find a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Displaces {
    /// Failed entries, and stale ones that were never used.
    NeverUsed,
    /// Stale entries too, and reachable ones that were never used.
    Idle,
}

#[derive(Clone, Debug)]
enum Slot {
    /// Unused; the generation of its next entry.
    Free(u32),
    Used(Entry),
}

#[derive(Clone, Debug)]
pub(super) struct Store {
    slots: Vec<Slot>,
    free: VecDeque<u32>,
    chains: Box<[u32]>,
    deadlines: BTreeSet<(Time, u32)>,
    entries_max: usize,
    hand: usize,
    hash: KeyedHash,
    /// The slot of the entry found last: most packets go to few gateways.
    recent: Cell<u32>,
}

fn slot_of(id: NeighbourId) -> usize {
    (id.0 & ((1 << SLOT_BITS) - 1)) as usize
}

impl Store {
    pub(super) fn new(entries_max: usize, hash: KeyedHash) -> Self {
        let entries_max = entries_max.clamp(1, 1 << SLOT_BITS);
        Self {
            slots: Vec::new(),
            free: VecDeque::new(),
            chains: vec![NONE; entries_max.next_power_of_two()].into_boxed_slice(),
            deadlines: BTreeSet::new(),
            entries_max,
            hand: 0,
            hash,
            recent: Cell::new(NONE),
        }
    }

    /// The keyed hash of a neighbour's name.
    pub(super) fn hash(&self, interface: InterfaceId, address: IpAddr) -> u64 {
        let (family, bits) = match address {
            IpAddr::V4(address) => (4, u128::from(address.to_bits())),
            IpAddr::V6(address) => (6, address.to_bits()),
        };
        self.hash.hash(&[u64::from(interface.0) << 8 | family, bits as u64, (bits >> 64) as u64])
    }

    fn chain(&self, hash: u64) -> usize {
        hash as usize & (self.chains.len() - 1)
    }

    fn entry_at(&self, slot: u32) -> Option<&Entry> {
        match self.slots.get(slot as usize) {
            Some(Slot::Used(entry)) => Some(entry),
            _ => None,
        }
    }

    /// The entries of a chain.
    fn walk(&self, hash: u64) -> impl Iterator<Item = &Entry> {
        let mut at = self.chains[self.chain(hash)];
        std::iter::from_fn(move || {
            let entry = self.entry_at(at)?;
            at = entry.next;
            Some(entry)
        })
    }

    pub(super) fn find(&self, interface: InterfaceId, address: IpAddr) -> Option<&Entry> {
        let is_it = |it: &&Entry| it.interface == interface && it.address == address;
        if let Some(recent) = self.entry_at(self.recent.get()).filter(is_it) {
            return Some(recent);
        }
        let found = self.walk(self.hash(interface, address)).find(is_it)?;
        self.recent.set(slot_of(found.id) as u32);
        Some(found)
    }

    pub(super) fn get(&self, id: NeighbourId) -> Option<&Entry> {
        self.entry_at(slot_of(id) as u32).filter(|entry| entry.id == id)
    }

    pub(super) fn get_mut(&mut self, id: NeighbourId) -> Option<&mut Entry> {
        match self.slots.get_mut(slot_of(id)) {
            Some(Slot::Used(entry)) if entry.id == id => Some(entry),
            _ => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Used(entry) => Some(entry),
            Slot::Free(_) => None,
        })
    }

    /// The entries in `count` slots from `from` on, and where to go on, or none at the end.
    pub(super) fn page(&self, from: usize, count: usize) -> (impl Iterator<Item = &Entry>, Option<usize>) {
        let first = from.min(self.slots.len());
        let last = first.saturating_add(count.max(1)).min(self.slots.len());
        let used = self.slots[first..last].iter().filter_map(|slot| match slot {
            Slot::Used(entry) => Some(entry),
            Slot::Free(_) => None,
        });
        (used, (last < self.slots.len()).then_some(last))
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The entry that a new one would displace, if it must displace one. `Err` if nothing may be displaced or the chain is
    /// full: then there is no room.
    pub(super) fn make_room(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        displaces: Displaces,
    ) -> Result<Option<NeighbourId>, ()> {
        if self.walk(self.hash(interface, address)).count() >= CHAIN_MAX {
            return Err(());
        }
        if self.len() < self.entries_max {
            return Ok(None);
        }
        let mut best = None;
        for _ in 0..EVICTION_SCAN.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            let candidate = self.entry_at(self.hand as u32).and_then(|entry| {
                let (class, rank) = displaceable(entry)?;
                (class <= displaces).then_some((rank, entry.last_used.unwrap_or(entry.since), entry.id))
            });
            best = match (best, candidate) {
                (Some(best), Some(candidate)) => Some(candidate.min(best)),
                (best, candidate) => best.or(candidate),
            };
        }
        best.map(|(_, _, id)| Some(id)).ok_or(())
    }

    /// Adds an entry after [`Store::make_room`] said that there is room.
    pub(super) fn insert(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        state: NeighbourState,
        now: Time,
    ) -> NeighbourId {
        debug_assert!(self.find(interface, address).is_none() && self.len() < self.entries_max);
        let hash = self.hash(interface, address);
        let slot = self.free.pop_front().unwrap_or_else(|| {
            self.slots.push(Slot::Free(0));
            (self.slots.len() - 1) as u32
        });
        let generation = match &self.slots[slot as usize] {
            Slot::Free(generation) => *generation,
            Slot::Used(_) => 0,
        };
        let id = NeighbourId(generation << SLOT_BITS | slot);
        let chain = self.chain(hash);
        self.slots[slot as usize] = Slot::Used(Entry {
            id,
            interface,
            address,
            mac: [0; 6],
            state,
            is_router: false,
            solicits: 0,
            since: now,
            last_used: None,
            deadline: None,
            hash,
            next: self.chains[chain],
        });
        self.chains[chain] = slot;
        id
    }

    /// Removes an entry and returns it.
    pub(super) fn remove(&mut self, id: NeighbourId) -> Option<Entry> {
        let entry = *self.get(id)?;
        self.schedule(id, None);
        let slot = slot_of(id) as u32;
        let chain = self.chain(entry.hash);
        let before = self.walk(entry.hash).find(|other| other.next == slot).map(|other| other.id);
        match before.and_then(|before| self.get_mut(before)) {
            Some(before) => before.next = entry.next,
            None => self.chains[chain] = entry.next,
        }
        let generation = ((id.0 >> SLOT_BITS) + 1) & (u32::MAX >> SLOT_BITS);
        self.slots[slot as usize] = Slot::Free(generation);
        self.free.push_back(slot);
        Some(entry)
    }

    /// Sets or clears an entry's deadline.
    pub(super) fn schedule(&mut self, id: NeighbourId, deadline: Option<Time>) {
        let slot = slot_of(id) as u32;
        let Some(entry) = self.get_mut(id) else { return };
        let before = std::mem::replace(&mut entry.deadline, deadline);
        if before == deadline {
            return;
        }
        if let Some(before) = before {
            self.deadlines.remove(&(before, slot));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, slot));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// The entry with the earliest deadline, if that is due.
    pub(super) fn due(&self, now: Time) -> Option<NeighbourId> {
        let &(deadline, slot) = self.deadlines.first()?;
        if deadline > now { None } else { self.entry_at(slot).map(|entry| entry.id) }
    }

    /// Whether the structures agree with one another.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let (mut reached, mut timed) = (0, 0);
        for chain in 0..self.chains.len() {
            for entry in self.walk(chain as u64) {
                assert_eq!(self.chain(entry.hash), chain);
                assert_eq!(self.get(entry.id).map(|it| it.address), Some(entry.address));
                reached += 1;
                if let Some(deadline) = entry.deadline {
                    assert!(self.deadlines.contains(&(deadline, slot_of(entry.id) as u32)));
                    timed += 1;
                }
            }
        }
        assert_eq!((reached, timed), (self.len(), self.deadlines.len()));
        assert!(reached <= self.entries_max);
    }
}

/// Who may displace an entry, and in which order such entries go; `None` if nobody may.
fn displaceable(entry: &Entry) -> Option<(Displaces, u8)> {
    match (entry.state, entry.last_used) {
        (NeighbourState::Failed, _) => Some((Displaces::NeverUsed, 0)),
        (NeighbourState::Stale, None) => Some((Displaces::NeverUsed, 1)),
        (NeighbourState::Stale, Some(_)) => Some((Displaces::Idle, 2)),
        (NeighbourState::Reachable, None) => Some((Displaces::Idle, 3)),
        _ => None,
    }
}
