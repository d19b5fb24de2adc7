//! The external addresses and their ports: which one a new mapping gets.
//!
//! Design. A host is paired with one external address, chosen by a keyed hash of its own, and gets its ports
//! there while there are any (RFC 4787 section 4.1 REQ-2). The port is the first free one from a place that a
//! keyed hash of the inside tuple and a number of the moment decides, so an outsider cannot predict it (RFC 6056
//! section 3.3, RFC 7857); the moment changes whenever mappings may have ended. Ports are never shared between two inside endpoints (RFC 4787 section 4.2.1
//! REQ-3; RFC 5382 section 7.1 REQ-7).
//!
//! Cost. [`ExternalPool::peek`] reads a few words as a rule. At worst, with one port left on one of 4,096
//! addresses, it reads 64 words to find the address and 1,008 to find the port (see [`super::ports`]). The first that asks for
//! an address after a change of reservations gets the states made anew for it, some ten microseconds.

use super::plan::NatPlan;
use super::plan_error::POOL_ADDRESSES_MAX;
use super::ports::{PortRange, PortStates};
use super::secret::{Purpose, Secret};
use super::subscriber::Paired;
use super::tuple::{Inside, PROTOCOLS, Protocol};
use millrace_dataplane::memory::Arena;
use millrace_dataplane::time::Time;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

/// Least time that a released port rests before it is used again, if there are others
/// (RFC 6888 section 3 REQ-8: at least 120 seconds). It may rest up to twice as long.
pub const REST: Duration = Duration::from_secs(120);

/// Most states of one address and protocol for which room in the arena is planned: 16 MiB. More lie there if it has room.
const ARENA_STATES_MAX: usize = 1_024;

/// Use of the pool by one protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUse {
    /// Ports taken now.
    pub taken: u32,
    /// Most ports taken at once.
    pub highest: u32,
    /// Requests that found no port.
    pub exhausted: u64,
}

/// A range of addresses; the slots of its addresses follow each other from `base`.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u32,
    last: u32,
    base: usize,
}

/// The ports of one address. States are made when the address's first port of a protocol is taken.
#[derive(Debug, Default)]
struct AddressPorts {
    states: [Option<Box<PortStates>>; PROTOCOLS],
    /// Protocols (bits by index) with ports that a change of configuration has yet to give back.
    pending: u8,
    /// What the plan in force reserves here may not be reserved yet: [`ExternalPool::fresh_states`] knows it.
    stale: bool,
}

/// A change of plan that not all addresses have seen yet.
#[derive(Debug)]
struct Change {
    old: Arc<NatPlan>,
    new: Arc<NatPlan>,
    /// Slots before this one have seen it.
    next: usize,
    /// What is left of addresses that are not in the pool any more.
    gone: Vec<AddressPorts>,
}

/// A set of slots.
type SlotSet = Vec<u64>;

/// Stands for no slot where slots have fifteen bits.
const NO_SLOT: u16 = 0x7fff;
/// Tells two numberings of the slots apart.
const NUMBERING: u16 = 0x8000;
const _: () = assert!(POOL_ADDRESSES_MAX < NO_SLOT as u64);

/// A port that is free, and the slot of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Address and port, or query identifier.
    pub external: SocketAddrV4,
    pub(super) slot: u32,
}

/// The pool. [`ExternalPool::peek`] only looks; what it found is free until the next change.
#[derive(Debug)]
pub struct ExternalPool {
    spans: Vec<Span>,
    slots: Vec<AddressPorts>,
    /// The states of an address that has no states and reservations of its own.
    template: [PortStates; PROTOCOLS],
    /// Addresses with a port that is not taken, by protocol and range.
    open: [[SlotSet; 2]; PROTOCOLS],
    overflow: bool,
    udp_parity: bool,
    /// Counts slices of housekeeping: a host that asks again later starts its search elsewhere.
    moment: u64,
    used: [PoolUse; PROTOCOLS],
    /// When the next round of [`ExternalPool::advance`] begins.
    next_round: Time,
    /// Next slot of the round that is under way.
    round: Option<usize>,
    change: Option<Change>,
    /// [`NUMBERING`] or zero: it changes when slots are numbered anew.
    numbering: u16,
    /// The slots of addresses by their number before that, or [`NO_SLOT`].
    renumbered: Vec<u16>,
    /// Where states are made while it has room.
    arena: Option<Arena>,
    secret: Secret,
}

impl ExternalPool {
    /// Bytes of the arena that a pool of this many addresses has use for.
    pub fn bytes_for(addresses: u64) -> usize {
        (addresses.min(POOL_ADDRESSES_MAX) as usize * PROTOCOLS).min(ARENA_STATES_MAX) * PortStates::BYTES
    }

    /// The pool of a plan, with all ports free that it does not reserve. The states of ports lie in the arena, if there is one,
    /// while it has room for them.
    pub fn new(plan: &NatPlan, secret: Secret, arena: Option<&Arena>) -> Self {
        let mut pool = Self {
            spans: Vec::new(),
            slots: Vec::new(),
            template: templates(plan),
            open: Default::default(),
            overflow: false,
            udp_parity: false,
            moment: 0,
            used: Default::default(),
            next_round: Time(0),
            round: None,
            change: None,
            numbering: 0,
            renumbered: Vec::new(),
            arena: arena.cloned(),
            secret,
        };
        pool.lay_out(plan);
        for set in pool.open.iter_mut().flatten() {
            *set = vec![0; pool.slots.len().div_ceil(64)];
        }
        for slot in 0..pool.slots.len() {
            for protocol in Protocol::ALL {
                pool.slots[slot].states[protocol.index()] =
                    pool.own_states(plan, slot, protocol).map(Box::new);
                pool.refresh_open(slot, protocol);
            }
        }
        pool
    }

    /// A port for a new mapping: of `paired`, if that is in the pool, else of the address that the host's
    /// hash chooses. `None` exactly if all permitted ports are taken: those of the paired address alone
    /// without overflow, else those of all addresses.
    pub fn peek(&self, inside: &Inside, paired: Option<Paired>) -> Option<Choice> {
        let ranges = ranges_for(inside);
        if let Some(slot) = paired.and_then(|paired| self.slot_of_paired(paired)) {
            if let Some(found) = ranges.iter().find_map(|&range| self.peek_at(slot, inside, range)) {
                return Some(found);
            }
            if !self.overflow {
                return None;
            }
        }
        let start = self.home(inside);
        ranges.iter().find_map(|&range| {
            let open = &self.open[inside.protocol.index()][range as usize];
            self.peek_at(next_in(open, start)?, inside, range)
        })
    }

    /// The port that [`ExternalPool::peek`] finds as a rule: one of the first range, on the address that the host's hash chooses.
    pub fn peek_at_home(&self, inside: &Inside) -> Option<Choice> {
        let home = self.home(inside);
        // What a change of plan has not come to yet would be made anew to be looked at, which is too dear for a guess.
        if self.slots.get(home)?.stale {
            return None;
        }
        self.peek_at(home, inside, ranges_for(inside)[0])
    }

    /// The slot that the hash of an inside host chooses.
    fn home(&self, inside: &Inside) -> usize {
        let random = self.secret.choice(Purpose::Address, inside.host_word(), 0);
        (((random >> 32) * self.slots.len() as u64) >> 32) as usize
    }

    fn peek_at(&self, slot: usize, inside: &Inside, range: PortRange) -> Option<Choice> {
        let address = self.address_of(slot)?;
        let like = (self.udp_parity && inside.protocol == Protocol::Udp).then_some(inside.endpoint.port());
        let random = self.random(inside);
        let fresh = match &self.change {
            Some(change) if self.slots[slot].stale => self.fresh_states(change, slot, inside.protocol),
            _ => None,
        };
        let states = fresh.as_ref().unwrap_or_else(|| self.states(slot, inside.protocol));
        let port = states.find(range, like, random)?;
        Some(Choice { external: SocketAddrV4::new(address, port), slot: slot as u32 })
    }

    /// Where the search for a port of an inside tuple begins at this moment.
    fn random(&self, inside: &Inside) -> u64 {
        self.secret.choice(Purpose::Port, inside.word(), self.moment)
    }

    /// Asks for the memory that [`ExternalPool::peek`] will read for a host that is not paired otherwise.
    pub fn prefetch(&self, inside: &Inside) {
        let range = ranges_for(inside)[0];
        let random = self.random(inside);
        if let Some(slot) = self.slots.get(self.home(inside))
            && let Some(states) = &slot.states[inside.protocol.index()]
        {
            states.prefetch(range, random);
        }
    }

    /// Asks for the memory that [`ExternalPool::release`] will need.
    pub fn prefetch_port(&self, protocol: Protocol, external: SocketAddrV4) {
        if let Some(slot) = self.slot_of(*external.ip())
            && let Some(states) = &self.slots[slot].states[protocol.index()]
        {
            states.prefetch_port(external.port());
        }
    }

    /// Takes a port. False, without effect, if it is taken or reserved.
    pub fn take(&mut self, protocol: Protocol, choice: &Choice) -> bool {
        let (slot, port) = (choice.slot as usize, choice.external.port());
        if slot >= self.slots.len() {
            return false;
        }
        debug_assert_eq!(self.address_of(slot), Some(*choice.external.ip()), "a choice of this numbering");
        if self.slots[slot].stale {
            self.freshen(slot);
        }
        let states = match &mut self.slots[slot].states[protocol.index()] {
            Some(states) => states,
            // Looked at first, so that a reserved port of an unused address does not cost it its states.
            None if self.template[protocol.index()].is_taken(port) => return false,
            none => none.insert(states_like(&self.template[protocol.index()], self.arena.as_ref())),
        };
        if !states.take(port) {
            return false;
        }
        let range = PortRange::of(port);
        if states.available(range) == 0 {
            self.open[protocol.index()][range as usize][slot / 64] &= !(1 << (slot % 64));
        }
        let used = &mut self.used[protocol.index()];
        used.taken += 1;
        used.highest = used.highest.max(used.taken);
        true
    }

    /// Gives back a port that [`ExternalPool::take`] took; it rests before it is used again. One that `plan`
    /// reserves meanwhile stays reserved, one whose address left the pool is only no longer counted.
    pub fn release(&mut self, protocol: Protocol, external: SocketAddrV4, plan: &NatPlan) {
        let used = &mut self.used[protocol.index()];
        used.taken = used.taken.saturating_sub(1);
        let Some(slot) = self.slot_of(*external.ip()) else { return };
        let port = external.port();
        if plan.is_reserved(protocol, external) || !self.states_mut(slot, protocol).release(port) {
            return;
        }
        self.open[protocol.index()][PortRange::of(port) as usize][slot / 64] |= 1 << (slot % 64);
    }

    /// The address of a choice, as a host is paired with it.
    pub fn pairing(&self, choice: &Choice) -> Paired {
        Paired(choice.slot as u16 | self.numbering)
    }

    /// Is the address that a host is paired with in the pool?
    #[inline]
    pub fn keeps(&self, paired: Paired) -> bool {
        self.slot_of_paired(paired).is_some()
    }

    #[inline]
    fn slot_of_paired(&self, Paired(paired): Paired) -> Option<usize> {
        let slot = paired & !NUMBERING;
        let slot = if paired & NUMBERING == self.numbering {
            slot
        } else {
            self.renumbered.get(usize::from(slot)).copied().unwrap_or(NO_SLOT)
        };
        (usize::from(slot) < self.slots.len()).then_some(usize::from(slot))
    }

    /// The address that a host is paired with, if it is in the pool.
    pub fn place_of(&self, paired: Paired) -> Option<Ipv4Addr> {
        self.address_of(self.slot_of_paired(paired)?)
    }

    /// A pairing in the numbering that is in force. Before [`ExternalPool::reconfigure`] is called again, all pairings
    /// must be brought into it.
    pub fn renumber(&self, paired: Paired) -> Paired {
        let slot = self.slot_of_paired(paired).map_or(NO_SLOT, |slot| slot as u16);
        Paired(slot | self.numbering)
    }

    /// Counts a request that found no port.
    pub fn count_exhausted(&mut self, protocol: Protocol) {
        self.used[protocol.index()].exhausted += 1;
    }

    /// Use by one protocol.
    pub fn used(&self, protocol: Protocol) -> PoolUse {
        self.used[protocol.index()]
    }

    /// Number of addresses.
    pub fn addresses(&self) -> usize {
        self.slots.len()
    }

    /// Ports of all addresses that are not taken, for display: visits every address.
    pub fn available(&self, protocol: Protocol) -> u64 {
        let count = |slot| -> u32 {
            PortRange::ALL.map(|range| self.states(slot, protocol).available(range)).iter().sum()
        };
        (0..self.slots.len()).map(|slot| u64::from(count(slot))).sum()
    }

    /// A port of one's own choice, whether it is free or not. None if its address is not in the pool.
    pub fn choice(&self, external: SocketAddrV4) -> Option<Choice> {
        self.slot_of(*external.ip()).map(|slot| Choice { external, slot: slot as u32 })
    }

    /// Memory of the port states in bytes: 16 KiB for each address and protocol in use.
    pub fn memory_bytes(&self) -> usize {
        let made = self.slots.iter().flat_map(|slot| &slot.states).flatten().count();
        (made + PROTOCOLS) * PortStates::BYTES + self.slots.len() * size_of::<AddressPorts>()
    }

    /// Ends the rest of ports whose time has come, on at most `addresses_max` addresses. Each costs up to
    /// about ten microseconds; call it from housekeeping.
    pub fn advance(&mut self, now: Time, addresses_max: usize) {
        self.moment = self.moment.wrapping_add(1);
        if self.round.is_none() && now >= self.next_round {
            self.round = Some(0);
        }
        let Some(first) = self.round else { return };
        let last = first.saturating_add(addresses_max.max(1)).min(self.slots.len());
        for slot in self.slots.get_mut(first..last).into_iter().flatten() {
            slot.states.iter_mut().flatten().for_each(|states| states.rotate());
        }
        // The next round starts a whole period after the end of this one, so no port rests less.
        let ended = last == self.slots.len();
        self.round = (!ended).then_some(last);
        if ended {
            self.next_round = now + REST;
        }
    }

    /// Brings a new plan into force: addresses come and go, newly reserved ports get no new mapping. Of each address only its
    /// place changes here; what is reserved on it follows when it is used next, or with [`ExternalPool::reserve`]. What is
    /// no longer reserved stays so until [`ExternalPool::unreserve`], because mappings of the rules that
    /// reserved it may still be there.
    pub fn reconfigure(&mut self, old: &Arc<NatPlan>, new: &Arc<NatPlan>) {
        while !self.reserve(usize::MAX) {}
        let mut before = std::mem::take(&mut self.slots);
        let (spans, open_before) = (std::mem::take(&mut self.spans), std::mem::take(&mut self.open));
        self.template = templates(new);
        self.lay_out(new);
        self.numbering ^= NUMBERING;
        self.renumbered = vec![NO_SLOT; before.len()];
        let open_template =
            self.template.each_ref().map(|states| PortRange::ALL.map(|r| states.available(r) > 0));
        self.open = std::array::from_fn(|_| [(); 2].map(|()| vec![0; self.slots.len().div_ceil(64)]));
        let stale = !new.reserves_all_like(old);
        for slot in 0..self.slots.len() {
            let Some(address) = self.address_of(slot) else { continue };
            let old_slot = slot_in(&spans, address);
            if let Some((old_slot, kept)) = old_slot.and_then(|at| before.get_mut(at).map(|kept| (at, kept)))
            {
                self.renumbered[old_slot] = slot as u16;
                self.slots[slot] = std::mem::take(kept);
                self.slots[slot].stale = stale;
            } else {
                self.slots[slot].stale = new.reserves_somewhere();
            }
            // The states themselves are not looked at: there are many, and each look waits for memory.
            for (protocol, states) in self.slots[slot].states.iter().enumerate() {
                for range in 0..2 {
                    let open = match old_slot {
                        Some(at) if states.is_some() => {
                            open_before[protocol][range][at / 64] >> (at % 64) & 1
                        }
                        _ => u64::from(open_template[protocol][range]),
                    };
                    self.open[protocol][range][slot / 64] |= open << (slot % 64);
                }
            }
        }
        self.round = None;
        self.change = Some(Change { old: Arc::clone(old), new: Arc::clone(new), next: 0, gone: before });
    }

    /// Goes on with a change of plan, on at most `addresses_max` addresses. True when all have seen it.
    pub fn reserve(&mut self, addresses_max: usize) -> bool {
        let Some(change) = &mut self.change else { return true };
        let first = change.next;
        let last = first.saturating_add(addresses_max.max(1)).min(self.slots.len());
        change.next = last;
        let left = change.gone.len().saturating_sub(addresses_max.max(1));
        change.gone.truncate(left);
        (first..last).for_each(|slot| self.freshen(slot));
        let ended = left == 0 && last == self.slots.len();
        if ended {
            self.change = None;
        }
        ended
    }

    /// Reserves on an address what the new plan adds, and notes what it takes back.
    fn freshen(&mut self, slot: usize) {
        let Some(change) = self.change.take() else { return };
        if std::mem::take(&mut self.slots[slot].stale) {
            for protocol in Protocol::ALL {
                if let Some(fresh) = self.fresh_states(&change, slot, protocol) {
                    let states = &mut self.slots[slot].states[protocol.index()];
                    let was_used = states.replace(Box::new(fresh)).is_some();
                    self.slots[slot].pending |= u8::from(was_used) << protocol.index();
                }
                self.refresh_open(slot, protocol);
            }
        }
        self.change = Some(change);
    }

    /// The states of an address as the new plan would have them; none if they are so already.
    fn fresh_states(&self, change: &Change, slot: usize, protocol: Protocol) -> Option<PortStates> {
        let Change { old, new, .. } = change;
        let Some(states) = &self.slots[slot].states[protocol.index()] else {
            return self.own_states(new, slot, protocol);
        };
        let address = self.address_of(slot).filter(|address| !new.reserves_like(old, *address))?;
        let mut added = new.reserved_mask(protocol, Some(address));
        let before = old.reserved_mask(protocol, Some(address));
        added.iter_mut().zip(before.iter()).for_each(|(bits, before)| *bits &= !before);
        let mut fresh = states.copy(self.arena.as_ref());
        fresh.reserve(&added);
        Some(fresh)
    }

    /// The states of an address without mappings, if a plan has reservations of its own for it.
    fn own_states(&self, plan: &NatPlan, slot: usize, protocol: Protocol) -> Option<PortStates> {
        let address = self.address_of(slot).filter(|address| plan.has_own_reservations(*address))?;
        Some(PortStates::new(&plan.reserved_mask(protocol, Some(address)), self.arena.as_ref()))
    }

    /// Gives back what the plan before reserved and this one does not, on `addresses_max` addresses from
    /// `slot` on. No mapping of the plan before may be left. Returns where to go on.
    pub fn unreserve(
        &mut self,
        old: &NatPlan,
        new: &NatPlan,
        slot: usize,
        addresses_max: usize,
    ) -> Option<usize> {
        let last = slot.saturating_add(addresses_max.max(1)).min(self.slots.len());
        for index in slot..last {
            let Some(address) = self.address_of(index) else { continue };
            let pending = std::mem::take(&mut self.slots[index].pending);
            for protocol in Protocol::ALL.into_iter().filter(|p| pending >> p.index() & 1 == 1) {
                let mut removed = old.reserved_mask(protocol, Some(address));
                let now = new.reserved_mask(protocol, Some(address));
                removed.iter_mut().zip(now.iter()).for_each(|(bits, now)| *bits &= !now);
                self.states_mut(index, protocol).unreserve(&removed);
                self.refresh_open(index, protocol);
            }
        }
        (last < self.slots.len()).then_some(last)
    }

    /// Gives each address of the plan a slot without states.
    fn lay_out(&mut self, plan: &NatPlan) {
        let mut base = 0;
        for range in plan.pool() {
            self.spans.push(Span { first: range.first.into(), last: range.last.into(), base });
            base += range.addresses() as usize;
        }
        self.slots.resize_with(base, AddressPorts::default);
        self.overflow = plan.settings().overflow;
        self.udp_parity = plan.settings().udp_parity;
    }

    fn slot_of(&self, address: Ipv4Addr) -> Option<usize> {
        slot_in(&self.spans, address)
    }

    fn address_of(&self, slot: usize) -> Option<Ipv4Addr> {
        let after = self.spans.partition_point(|span| span.base <= slot);
        let span = self.spans.get(after.checked_sub(1)?)?;
        u32::try_from(slot - span.base).ok().map(|offset| Ipv4Addr::from(span.first + offset))
    }

    fn states(&self, slot: usize, protocol: Protocol) -> &PortStates {
        let index = protocol.index();
        self.slots[slot].states[index].as_deref().unwrap_or(&self.template[index])
    }

    #[inline]
    fn states_mut(&mut self, slot: usize, protocol: Protocol) -> &mut PortStates {
        let index = protocol.index();
        match &mut self.slots[slot].states[index] {
            Some(states) => states,
            none => none.insert(states_like(&self.template[index], self.arena.as_ref())),
        }
    }

    fn refresh_open(&mut self, slot: usize, protocol: Protocol) {
        for range in PortRange::ALL {
            let open = self.states(slot, protocol).available(range) > 0;
            let word = &mut self.open[protocol.index()][range as usize][slot / 64];
            *word = *word & !(1 << (slot % 64)) | u64::from(open) << (slot % 64);
        }
    }
}

#[cold]
fn states_like(template: &PortStates, arena: Option<&Arena>) -> Box<PortStates> {
    Box::new(template.copy(arena))
}

fn templates(plan: &NatPlan) -> [PortStates; PROTOCOLS] {
    Protocol::ALL.map(|protocol| PortStates::new(&plan.reserved_mask(protocol, None), None))
}

fn slot_in(spans: &[Span], address: Ipv4Addr) -> Option<usize> {
    let address = u32::from(address);
    let after = spans.partition_point(|span| span.first <= address);
    let span = spans.get(after.checked_sub(1)?)?;
    (address <= span.last).then(|| span.base + (address - span.first) as usize)
}

/// RFC 4787 section 4.2.1 REQ-3a: a port stays on its side of 1024. An inside port below may go above when
/// nothing else is left, never the reverse: external ports below 1024 are mistaken for services. Query
/// identifiers have no such sides.
fn ranges_for(inside: &Inside) -> &'static [PortRange] {
    match (inside.protocol, PortRange::of(inside.endpoint.port())) {
        (Protocol::Icmp, _) => &[PortRange::Other, PortRange::WellKnown],
        (_, PortRange::WellKnown) => &[PortRange::WellKnown, PortRange::Other],
        (_, PortRange::Other) => &[PortRange::Other],
    }
}

/// The first member of the set from `start` on, round to the beginning.
fn next_in(set: &[u64], start: usize) -> Option<usize> {
    let first = start / 64;
    let from_start = set.get(first)? & u64::MAX << (start % 64);
    let lowest = |index: usize, word: u64| (word != 0).then(|| index * 64 + word.trailing_zeros() as usize);
    lowest(first, from_start)
        .or_else(|| (first + 1..set.len()).chain(0..first + 1).find_map(|index| lowest(index, set[index])))
}

#[cfg(test)]
mod tests;
