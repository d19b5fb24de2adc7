//! The table of mappings: 24 bytes each, found by inside tuple or by external tuple.
//!
//! Both indices are [`TwoChoice`] tables of four-byte entries. The external one could be an array by port, but
//! ports are random, so with many addresses every block of such an array would be touched for a few mappings;
//! the hash costs 8 bytes a mapping whatever the pool. In all 40 bytes for each mapping that the table is
//! sized for, none of it ever moved.
//!
//! A mapping lives as long as a session refers to it. Static ones too: their rule stays, and makes the same
//! mapping again when it is needed. Static mappings are not in the inside index, because several forwards may
//! lead to one inside endpoint; the rules say which of them an outbound packet takes.

use super::secret::{Purpose, Secret};
use super::tuple::{Inside, Protocol, endpoint_word};
use super::two_choice::{ENTRIES_MAX, Entry, Position, TwoChoice};
use millrace_dataplane::time::Time;
use std::net::SocketAddrV4;

/// Names a mapping, also after its end: a slot counts its uses (modulo 256), and free slots are used in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MappingId(u32);

impl MappingId {
    fn new(index: u32, generation: u8) -> Self {
        Self(u32::from(generation) << 24 | index)
    }

    fn index(self) -> usize {
        (self.0 & 0x00FF_FFFF) as usize
    }

    fn generation(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// As a number, to be kept in a session.
    pub const fn to_raw(self) -> u32 {
        self.0
    }

    /// From the number of [`MappingId::to_raw`]. Any other names no mapping, or another one.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
}

/// A mapping as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Whose it is.
    pub inside: Inside,
    /// What it appears as outside: address and port or query identifier.
    pub external: SocketAddrV4,
    /// Sessions that use it.
    pub sessions: u32,
    /// When it began, in whole seconds of the clock.
    pub created_s: u32,
    /// Was it made by a rule (a forward or 1:1), not from the pool?
    pub is_static: bool,
}

const FLAG_PROTOCOL: u8 = 0b0000_0011;
const FLAG_STATIC: u8 = 0b0000_0100;
const FLAG_LIVE: u8 = 0b0000_1000;
const FLAG_DOOMED: u8 = 0b0001_0000;
/// Ends the list of free slots.
const NO_SLOT: u32 = u32::MAX;

/// A mapping in memory, or a free slot.
#[derive(Clone, Copy, Debug)]
struct Record {
    inside_address: u32,
    external_address: u32,
    /// Sessions; in a free slot the next free one.
    sessions: u32,
    created_s: u32,
    inside_port: u16,
    external_port: u16,
    domain: u16,
    flags: u8,
    generation: u8,
}

const _: () = assert!(size_of::<Record>() == 24);
const _: () = assert!(ENTRIES_MAX == 1 << 24, "a mapping's index has 24 bits");

impl Record {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn protocol(&self) -> Protocol {
        match self.flags & FLAG_PROTOCOL {
            0 => Protocol::Tcp,
            1 => Protocol::Udp,
            _ => Protocol::Icmp,
        }
    }

    fn mapping(&self) -> Mapping {
        let endpoint = SocketAddrV4::new(self.inside_address.into(), self.inside_port);
        Mapping {
            inside: Inside { domain: self.domain, protocol: self.protocol(), endpoint },
            external: SocketAddrV4::new(self.external_address.into(), self.external_port),
            sessions: self.sessions,
            created_s: self.created_s,
            is_static: self.has(FLAG_STATIC),
        }
    }
}

/// The table. Sized once; looking takes `&self`, changing `&mut self`.
#[derive(Debug)]
pub struct MappingTable {
    records: Vec<Record>,
    capacity: usize,
    free_first: u32,
    free_last: u32,
    live: usize,
    doomed: usize,
    by_inside: TwoChoice<Entry>,
    by_external: TwoChoice<Entry>,
    secret: Secret,
}

impl MappingTable {
    /// A table for `capacity` mappings, at most 2^24.
    pub fn new(capacity: usize, secret: Secret) -> Self {
        let capacity = capacity.min(ENTRIES_MAX);
        Self {
            records: Vec::with_capacity(capacity),
            capacity,
            free_first: NO_SLOT,
            free_last: NO_SLOT,
            live: 0,
            doomed: 0,
            by_inside: TwoChoice::with_capacity(capacity),
            by_external: TwoChoice::with_capacity(capacity),
            secret,
        }
    }

    /// Mappings in the table.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Is there no mapping?
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Mappings that [`MappingTable::doom`] hid and whose sessions have not all ended.
    pub fn doomed(&self) -> usize {
        self.doomed
    }

    /// Most mappings.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Memory in bytes, at full size.
    pub fn memory_bytes(&self) -> usize {
        let indices = self.by_inside.memory_bytes() + self.by_external.memory_bytes();
        self.capacity * size_of::<Record>() + indices
    }

    fn inside_hash(&self, inside: &Inside) -> u64 {
        self.secret.hash(Purpose::Inside, inside.subscriber_word(), inside.port_word())
    }

    fn external_hash(&self, protocol: Protocol, external: SocketAddrV4) -> u64 {
        self.secret.hash(Purpose::External, endpoint_word(external), protocol as u64)
    }

    fn id_at(&self, index: u32) -> MappingId {
        MappingId::new(index, self.records[index as usize].generation)
    }

    fn record(&self, id: MappingId) -> Option<&Record> {
        self.records.get(id.index()).filter(|r| r.has(FLAG_LIVE) && r.generation == id.generation())
    }

    fn record_mut(&mut self, id: MappingId) -> Option<&mut Record> {
        self.records.get_mut(id.index()).filter(|r| r.has(FLAG_LIVE) && r.generation == id.generation())
    }

    /// The mapping of this name.
    pub fn get(&self, id: MappingId) -> Option<Mapping> {
        self.record(id).map(Record::mapping)
    }

    /// The dynamic mapping of an inside tuple. Doomed ones are not found.
    pub fn find_inside(&self, inside: &Inside) -> Option<MappingId> {
        let hash = self.inside_hash(inside);
        let matches = |entry: &Entry| {
            let record = &self.records[entry.index() as usize];
            entry.may_match(hash) && !record.has(FLAG_DOOMED) && record.mapping().inside == *inside
        };
        self.by_inside.find(hash, matches).map(|at| self.id_at(self.by_inside.get(at).index()))
    }

    /// The mapping, dynamic or static, of an external tuple. Doomed ones are not found.
    pub fn find_external(&self, protocol: Protocol, external: SocketAddrV4) -> Option<MappingId> {
        let (index, record) = self.holder(protocol, external)?;
        (!record.has(FLAG_DOOMED)).then(|| self.id_at(index))
    }

    /// Does any mapping, doomed or not, hold this external tuple? No second one may be made then.
    pub fn is_held(&self, protocol: Protocol, external: SocketAddrV4) -> bool {
        self.holder(protocol, external).is_some()
    }

    fn holder(&self, protocol: Protocol, external: SocketAddrV4) -> Option<(u32, &Record)> {
        self.holder_at(self.external_hash(protocol, external), protocol, external)
    }

    fn holder_at(&self, hash: u64, protocol: Protocol, external: SocketAddrV4) -> Option<(u32, &Record)> {
        let (address, port) = (u32::from(*external.ip()), external.port());
        let matches = |entry: &Entry| {
            let record = &self.records[entry.index() as usize];
            entry.may_match(hash)
                && record.external_address == address
                && record.external_port == port
                && record.protocol() == protocol
        };
        let index = self.by_external.get(self.by_external.find(hash, matches)?).index();
        Some((index, &self.records[index as usize]))
    }

    /// Would [`MappingTable::insert`] find room, with `spare` slots left over?
    pub fn has_room(&self, inside: &Inside, external: SocketAddrV4, is_static: bool, spare: usize) -> bool {
        let external_hash = self.external_hash(inside.protocol, external);
        let inside_hash = (!is_static).then(|| self.inside_hash(inside));
        self.live.saturating_add(spare) < self.capacity && self.has_room_at(external_hash, inside_hash)
    }

    fn has_room_at(&self, external_hash: u64, inside_hash: Option<u64>) -> bool {
        self.by_external.has_room(external_hash)
            && inside_hash.is_none_or(|hash| self.by_inside.has_room(hash))
    }

    /// Makes a mapping with one session. `None` without room, or if the external tuple is held.
    pub fn insert(
        &mut self,
        inside: &Inside,
        external: SocketAddrV4,
        is_static: bool,
        now: Time,
    ) -> Option<MappingId> {
        let external_hash = self.external_hash(inside.protocol, external);
        let inside_hash = (!is_static).then(|| self.inside_hash(inside));
        let is_held = self.holder_at(external_hash, inside.protocol, external).is_some();
        if is_held || self.live >= self.capacity || !self.has_room_at(external_hash, inside_hash) {
            return None;
        }
        let index = self.take_slot();
        let record = &mut self.records[index as usize];
        *record = Record {
            inside_address: u32::from(*inside.endpoint.ip()),
            external_address: u32::from(*external.ip()),
            sessions: 1,
            created_s: u32::try_from(now.as_millis() / 1_000).unwrap_or(u32::MAX),
            inside_port: inside.endpoint.port(),
            external_port: external.port(),
            domain: inside.domain,
            flags: inside.protocol as u8 | FLAG_LIVE | if is_static { FLAG_STATIC } else { 0 },
            generation: record.generation,
        };
        let id = MappingId::new(index, record.generation);
        let placed = self.by_external.insert(external_hash, Entry::new(external_hash, index)).is_some();
        debug_assert!(placed, "has_room_at said so");
        if let Some(hash) = inside_hash {
            let placed = self.by_inside.insert(hash, Entry::new(hash, index)).is_some();
            debug_assert!(placed, "has_room_at said so");
        }
        self.live += 1;
        Some(id)
    }

    /// Counts one more session. False if the mapping is gone or doomed.
    pub fn acquire(&mut self, id: MappingId) -> bool {
        let Some(record) = self.record_mut(id).filter(|r| !r.has(FLAG_DOOMED)) else { return false };
        match record.sessions.checked_add(1) {
            Some(sessions) => record.sessions = sessions,
            None => return false,
        }
        true
    }

    /// Counts one session less. With the last the mapping ends and is returned, so that its port can be too.
    pub fn release(&mut self, id: MappingId) -> Option<Mapping> {
        let record = self.record_mut(id)?;
        record.sessions = record.sessions.saturating_sub(1);
        if record.sessions > 0 {
            return None;
        }
        let (mapping, was_doomed) = (record.mapping(), record.has(FLAG_DOOMED));
        let hash = self.external_hash(mapping.inside.protocol, mapping.external);
        remove_entry(&mut self.by_external, hash, id.index() as u32);
        if !mapping.is_static {
            let hash = self.inside_hash(&mapping.inside);
            remove_entry(&mut self.by_inside, hash, id.index() as u32);
        }
        self.doomed -= usize::from(was_doomed);
        self.live -= 1;
        self.free_slot(id.index() as u32);
        Some(mapping)
    }

    /// Hides a mapping from look-ups until its sessions have ended. False if it is gone or doomed already.
    pub fn doom(&mut self, id: MappingId) -> bool {
        let Some(record) = self.record_mut(id).filter(|r| !r.has(FLAG_DOOMED)) else { return false };
        record.flags |= FLAG_DOOMED;
        self.doomed += 1;
        true
    }

    /// The mappings in `slots_max` slots from `slot` on, and where to go on, or `None` at the end.
    /// Doomed ones are left out. Each mapping keeps its slot, so pages over time show none twice.
    pub fn page(
        &self,
        slot: usize,
        slots_max: usize,
    ) -> (impl Iterator<Item = (MappingId, Mapping)> + '_, Option<usize>) {
        let first = slot.min(self.records.len());
        let last = first.saturating_add(slots_max.max(1)).min(self.records.len());
        let shown = |&index: &usize| {
            let record = &self.records[index];
            record.has(FLAG_LIVE) && !record.has(FLAG_DOOMED)
        };
        let row = |index: usize| (self.id_at(index as u32), self.records[index].mapping());
        ((first..last).filter(shown).map(row), (last < self.records.len()).then_some(last))
    }

    /// A slot never used if there is one, else the one that is free for longest.
    fn take_slot(&mut self) -> u32 {
        let index = self.free_first;
        if self.records.len() < self.capacity || index == NO_SLOT {
            self.records.push(Record {
                inside_address: 0,
                external_address: 0,
                sessions: 0,
                created_s: 0,
                inside_port: 0,
                external_port: 0,
                domain: 0,
                flags: 0,
                generation: 0,
            });
            return (self.records.len() - 1) as u32;
        }
        self.free_first = self.records[index as usize].sessions;
        if self.free_first == NO_SLOT {
            self.free_last = NO_SLOT;
        }
        index
    }

    fn free_slot(&mut self, index: u32) {
        let record = &mut self.records[index as usize];
        record.flags = 0;
        record.generation = record.generation.wrapping_add(1);
        record.sessions = NO_SLOT;
        match self.free_last {
            NO_SLOT => self.free_first = index,
            last => self.records[last as usize].sessions = index,
        }
        self.free_last = index;
    }
}

/// Removes the entry of the record at `index`.
fn remove_entry(table: &mut TwoChoice<Entry>, hash: u64, index: u32) {
    let at: Option<Position> = table.find(hash, |entry| entry.may_match(hash) && entry.index() == index);
    debug_assert!(at.is_some(), "a live mapping is in its indices");
    if let Some(at) = at {
        table.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn inside(n: u16) -> Inside {
        let endpoint = SocketAddrV4::new([10, 0, 0, (n % 7) as u8].into(), n);
        Inside { domain: n % 3, protocol: Protocol::ALL[usize::from(n) % 3], endpoint }
    }

    fn external(n: u16) -> SocketAddrV4 {
        SocketAddrV4::new([192, 0, 2, 1].into(), n)
    }

    fn table(capacity: usize) -> MappingTable {
        MappingTable::new(capacity, Secret::from_key([3, 4]))
    }

    #[test]
    fn names_of_ended_mappings_stay_dead() {
        let mut table = table(2);
        let first = table.insert(&inside(1), external(1), false, Time::from_secs(9)).expect("room");
        assert_eq!(table.get(first).map(|m| m.created_s), Some(9));
        assert!(table.release(first).is_some() && table.release(first).is_none());
        for n in 0..300 {
            let id = table.insert(&inside(n), external(n), false, Time(0)).expect("room");
            assert!(table.get(id).is_some());
            if n < 255 {
                assert!(
                    table.get(first).is_none() && !table.acquire(first) && table.release(first).is_none()
                );
            }
            table.release(id);
        }
        assert!(table.is_empty());
    }

    #[test]
    fn a_doomed_mapping_is_hidden_and_holds_its_port() {
        let mut table = table(4);
        let id = table.insert(&inside(1), external(9), false, Time(0)).expect("room");
        assert!(table.doom(id) && !table.doom(id));
        assert_eq!((table.find_inside(&inside(1)), table.doomed()), (None, 1));
        assert_eq!(table.find_external(inside(1).protocol, external(9)), None);
        assert!(table.is_held(inside(1).protocol, external(9)) && !table.acquire(id));
        assert_eq!(table.insert(&inside(4), external(9), true, Time(0)), None);
        let again = table.insert(&inside(1), external(10), false, Time(0)).expect("another port");
        assert_eq!(table.find_inside(&inside(1)), Some(again));
        assert!(table.release(id).is_some());
        assert_eq!((table.find_inside(&inside(1)), table.doomed()), (Some(again), 0));
        assert!(table.insert(&inside(4), external(9), true, Time(0)).is_some());
    }

    /// 1,000,000 mappings in at most 48 MB; 40 bytes each, and the rounding of the indices to powers of two.
    #[test]
    fn a_million_mappings_fit() {
        let mut table = table(1_000_000);
        for n in 0..1_000_000_u32 {
            let endpoint = SocketAddrV4::new((0x0A00_0000 | n >> 4).into(), n as u16);
            let tuple = Inside { domain: 0, protocol: Protocol::Udp, endpoint };
            let out = SocketAddrV4::new((0xC000_0200 + n / 65_000).into(), (n % 65_000) as u16);
            assert!(table.insert(&tuple, out, false, Time(0)).is_some(), "{n}");
        }
        println!("1,000,000 mappings: {} bytes", table.memory_bytes());
        assert!(table.memory_bytes() <= 48_000_000);
        assert_eq!(table.records.capacity(), 1_000_000, "the table was not moved");
        assert!(table.insert(&inside(1), external(65_001), false, Time(0)).is_none());
    }

    proptest! {
        /// Two maps are the model. At most one owner of an external tuple, found exactly while it lives.
        #[test]
        fn it_is_a_table_of_mappings(
            operations in prop::collection::vec((0_u8..4, 0_u16..40, 0_u16..40, any::<bool>()), 1..300),
        ) {
            let mut table = table(20);
            let mut model: BTreeMap<(Protocol, u16), (MappingId, Inside, u32, bool)> = BTreeMap::new();
            for (operation, n, port, is_static) in operations {
                let tuple = inside(n);
                let key = (tuple.protocol, port);
                let mapped = model.values().any(|(_, i, _, stays)| *i == tuple && !stays);
                match operation {
                    0 | 1 if is_static || !mapped => {
                        let room = model.len() < 20 && !model.contains_key(&key);
                        let id = table.insert(&tuple, external(port), is_static, Time(0));
                        prop_assert_eq!(id.is_some(), room);
                        if let Some(id) = id {
                            model.insert(key, (id, tuple, 1, is_static));
                        }
                    }
                    2 => {
                        if let Some((id, _, sessions, _)) = model.get_mut(&key) {
                            prop_assert!(table.acquire(*id));
                            *sessions += 1;
                        }
                    }
                    _ => {
                        if let Some((id, owner, sessions, _)) = model.get_mut(&key) {
                            let ended = table.release(*id).map(|m| (m.inside, m.external));
                            *sessions -= 1;
                            prop_assert_eq!(ended, (*sessions == 0).then_some((*owner, external(port))));
                        }
                        model.retain(|_, (_, _, sessions, _)| *sessions > 0);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                for (&(protocol, port), &(id, owner, sessions, is_static)) in &model {
                    prop_assert_eq!(table.find_external(protocol, external(port)), Some(id));
                    let seen = Mapping { inside: owner, external: external(port), sessions, created_s: 0, is_static };
                    prop_assert_eq!(table.get(id), Some(seen));
                    prop_assert!(is_static || table.find_inside(&owner) == Some(id));
                }
                prop_assert_eq!(table.find_inside(&tuple).is_some(),
                    model.values().any(|(_, i, _, stays)| *i == tuple && !stays));
            }
            let (rows, _) = table.page(0, usize::MAX);
            prop_assert_eq!(rows.count(), model.len());
        }
    }
}
