//! The table of mappings: 16 bytes each, found by inside tuple or by external tuple.
//!
//! Both [`Index`]es cost some six bytes a mapping. The external one could be an array by port, but ports are random, so
//! with many addresses every block of such an array would be touched for a few mappings; the index costs the same whatever
//! the pool.
//!
//! A mapping lives as long as a session refers to it, and its number is not used again before. Static ones too: their rule
//! stays, and makes the same mapping again when it is needed. Static mappings are not in the inside index, because several
//! forwards may lead to one inside endpoint; the rules say which of them an outbound packet takes. A session whose
//! protocol has no ports that the NAT knows has a mapping of addresses for itself, which is in no index.

use super::index::{ENTRIES_MAX, Index};
use super::rows::Rows;
use super::secret::{Purpose, Secret};
use super::tuple::{Inside, Protocol, endpoint_word};
use millrace_dataplane::memory::{Arena, ArenaError};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Names a mapping while it lives: the number of its row, below 2^24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MappingId(u32);

impl MappingId {
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
    /// Was it made by a rule (a forward or 1:1), not from the pool?
    pub is_static: bool,
}

/// What a mapping translates: addresses, with ports where the protocol's are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faces {
    /// Inside.
    pub inside: (Ipv4Addr, Option<u16>),
    /// Outside.
    pub external: (Ipv4Addr, Option<u16>),
}

const FLAG_PROTOCOL: u32 = 0b0000_0011;
/// In place of a protocol: addresses alone.
const ADDRESSES: u32 = 0b0000_0011;
const FLAG_STATIC: u32 = 0b0000_0100;
const FLAG_LIVE: u32 = 0b0000_1000;
const FLAG_DOOMED: u32 = 0b0001_0000;
/// One session, in the word of the flags.
const SESSION: u32 = 1 << 8;
/// Most sessions of a mapping.
const SESSIONS_MAX: u32 = u32::MAX / SESSION;

/// A mapping in memory: inside and external address, inside and external port (in the upper and the lower half), sessions
/// and flags. A free row has no flag.
type Row = [u32; 4];

fn has(row: &Row, flag: u32) -> bool {
    row[3] & flag != 0
}

fn protocol(row: &Row) -> Option<Protocol> {
    match row[3] & FLAG_PROTOCOL {
        0 => Some(Protocol::Tcp),
        1 => Some(Protocol::Udp),
        2 => Some(Protocol::Icmp),
        _ => None,
    }
}

fn ports(row: &Row) -> (u16, u16) {
    ((row[2] >> 16) as u16, row[2] as u16)
}

fn mapping(row: &Row) -> Option<Mapping> {
    let (inside, external) = ports(row);
    Some(Mapping {
        inside: Inside { protocol: protocol(row)?, endpoint: SocketAddrV4::new(row[0].into(), inside) },
        external: SocketAddrV4::new(row[1].into(), external),
        sessions: row[3] / SESSION,
        is_static: has(row, FLAG_STATIC),
    })
}

/// The hashes of a mapping's two tuples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hashes {
    pub(super) inside: u64,
    pub(super) external: u64,
}

/// The table. Sized once; looking takes `&self`, changing `&mut self`.
#[derive(Debug)]
pub struct MappingTable {
    rows: Rows<4>,
    by_inside: Index,
    by_external: Index,
    doomed: usize,
    secret: Secret,
}

impl MappingTable {
    /// A table for `capacity` mappings, at most 2^24.
    ///
    /// # Errors
    /// The arena has no room for it.
    pub fn new(arena: &Arena, capacity: usize, secret: Secret) -> Result<Self, ArenaError> {
        let capacity = capacity.min(ENTRIES_MAX);
        Ok(Self {
            rows: Rows::new(arena, capacity)?,
            by_inside: Index::new(arena, capacity)?,
            by_external: Index::new(arena, capacity)?,
            doomed: 0,
            secret,
        })
    }

    /// Bytes that a table of this size takes from the arena.
    pub fn bytes_for(capacity: usize) -> usize {
        let capacity = capacity.min(ENTRIES_MAX);
        Rows::<4>::bytes_for(capacity) + 2 * Index::bytes_for(capacity)
    }

    /// Mappings, doomed ones and those of addresses included.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Is there no mapping?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Most mappings.
    pub fn capacity(&self) -> usize {
        self.rows.capacity()
    }

    /// Mappings that a change of configuration ends.
    pub fn doomed(&self) -> usize {
        self.doomed
    }

    /// Bytes taken from the arena.
    pub fn memory_bytes(&self) -> usize {
        self.rows.memory_bytes() + self.by_inside.memory_bytes() + self.by_external.memory_bytes()
    }

    #[inline]
    pub(super) fn inside_hash(&self, inside: &Inside) -> u64 {
        self.secret.hash(Purpose::Inside, inside.word())
    }

    #[inline]
    pub(super) fn external_hash(&self, protocol: Protocol, external: SocketAddrV4) -> u64 {
        self.secret.hash(Purpose::External, endpoint_word(protocol, external))
    }

    pub(super) fn hashes(&self, inside: &Inside, external: SocketAddrV4) -> Hashes {
        let external = self.external_hash(inside.protocol, external);
        Hashes { inside: self.inside_hash(inside), external }
    }

    /// Asks for what a look for an inside tuple needs.
    pub fn prefetch_inside(&self, inside: &Inside) {
        self.by_inside.prefetch(self.inside_hash(inside));
    }

    pub(super) fn prefetch_hashes(&self, hashes: Hashes) {
        self.by_inside.prefetch(hashes.inside);
        self.by_external.prefetch(hashes.external);
    }

    /// Asks for what a look for an external tuple needs.
    pub fn prefetch_external(&self, protocol: Protocol, external: SocketAddrV4) {
        self.by_external.prefetch(self.external_hash(protocol, external));
    }

    pub(super) fn prefetch_external_hash(&self, hash: u64) {
        self.by_external.prefetch(hash);
    }

    /// Asks for the mapping's row.
    pub fn prefetch(&self, id: MappingId) {
        self.rows.prefetch(id.0);
    }

    #[inline]
    fn row(&self, id: MappingId) -> Option<&Row> {
        self.rows.get(id.0).filter(|row| has(row, FLAG_LIVE))
    }

    #[inline]
    fn row_mut(&mut self, id: MappingId) -> Option<&mut Row> {
        self.rows.get_mut(id.0).filter(|row| has(row, FLAG_LIVE))
    }

    /// The mapping of this name. None for one of addresses.
    pub fn get(&self, id: MappingId) -> Option<Mapping> {
        mapping(self.row(id)?)
    }

    /// What the mapping of this name translates.
    #[inline]
    pub fn faces(&self, id: MappingId) -> Option<Faces> {
        let row = self.row(id)?;
        let (inside, external) = ports(row);
        let has_ports = protocol(row).is_some();
        Some(Faces {
            inside: (row[0].into(), has_ports.then_some(inside)),
            external: (row[1].into(), has_ports.then_some(external)),
        })
    }

    /// The dynamic mapping of an inside tuple. Doomed ones are not found.
    pub fn find_inside(&self, inside: &Inside) -> Option<MappingId> {
        self.find_inside_at(self.inside_hash(inside), inside)
    }

    #[inline]
    pub(super) fn find_inside_at(&self, hash: u64, inside: &Inside) -> Option<MappingId> {
        let (address, port) = (u32::from(*inside.endpoint.ip()), inside.endpoint.port());
        let flags = inside.protocol as u32 | FLAG_LIVE;
        let matches = |number| {
            self.rows.get(number).is_some_and(|row| {
                row[0] == address
                    && (row[2] >> 16) as u16 == port
                    && row[3] & (FLAG_PROTOCOL | FLAG_LIVE | FLAG_DOOMED) == flags
            })
        };
        self.by_inside.find(hash, matches).map(MappingId)
    }

    /// The mapping, dynamic or static, of an external tuple. Doomed ones are not found.
    pub fn find_external(&self, protocol: Protocol, external: SocketAddrV4) -> Option<MappingId> {
        let id = self.holder(self.external_hash(protocol, external), protocol, external)?;
        (!has(self.row(id)?, FLAG_DOOMED)).then_some(id)
    }

    /// Does any mapping, doomed or not, hold this external tuple? No second one may be made then.
    pub fn is_held(&self, protocol: Protocol, external: SocketAddrV4) -> bool {
        self.holder(self.external_hash(protocol, external), protocol, external).is_some()
    }

    #[inline]
    fn holder(&self, hash: u64, protocol: Protocol, external: SocketAddrV4) -> Option<MappingId> {
        let (address, port) = (u32::from(*external.ip()), external.port());
        let flags = protocol as u32 | FLAG_LIVE;
        let matches = |number| {
            self.rows.get(number).is_some_and(|row| {
                row[1] == address && row[2] as u16 == port && row[3] & (FLAG_PROTOCOL | FLAG_LIVE) == flags
            })
        };
        self.by_external.find(hash, matches).map(MappingId)
    }

    /// Is there a row for another mapping, with `spare` left over?
    pub fn has_room(&self, spare: usize) -> bool {
        self.rows.len().saturating_add(spare) < self.rows.capacity()
    }

    /// Makes a mapping with one session. `None` without room, or if the external tuple is held.
    pub fn insert(&mut self, inside: &Inside, external: SocketAddrV4, is_static: bool) -> Option<MappingId> {
        let hashes = self.hashes(inside, external);
        let is_held = self.holder(hashes.external, inside.protocol, external).is_some();
        if is_held { None } else { self.insert_at(hashes, inside, external, is_static) }
    }

    /// Makes a mapping whose external tuple is not held.
    #[inline]
    pub(super) fn insert_at(
        &mut self,
        hashes: Hashes,
        inside: &Inside,
        external: SocketAddrV4,
        is_static: bool,
    ) -> Option<MappingId> {
        debug_assert!(self.holder(hashes.external, inside.protocol, external).is_none());
        let flags = inside.protocol as u32 | FLAG_LIVE | if is_static { FLAG_STATIC } else { 0 };
        let ports = u32::from(inside.endpoint.port()) << 16 | u32::from(external.port());
        let row = [u32::from(*inside.endpoint.ip()), u32::from(*external.ip()), ports, SESSION | flags];
        let number = self.rows.take(row)?;
        if !self.by_external.insert(hashes.external, number) {
            self.rows.free(number);
            return None;
        }
        if !is_static && !self.by_inside.insert(hashes.inside, number) {
            self.by_external.remove(hashes.external, number);
            self.rows.free(number);
            return None;
        }
        Some(MappingId(number))
    }

    /// Makes a mapping of whole addresses for one session, found by its name alone. `None` without room.
    pub fn insert_addresses(&mut self, inside: Ipv4Addr, external: Ipv4Addr) -> Option<MappingId> {
        let flags = ADDRESSES | FLAG_LIVE | FLAG_STATIC;
        self.rows.take([inside.into(), external.into(), 0, SESSION | flags]).map(MappingId)
    }

    /// Counts one more session. False if the mapping is gone or doomed.
    #[inline]
    pub fn acquire(&mut self, id: MappingId) -> bool {
        let Some(row) = self.row_mut(id) else { return false };
        let takes = !has(row, FLAG_DOOMED) && row[3] / SESSION < SESSIONS_MAX;
        row[3] += if takes { SESSION } else { 0 };
        takes
    }

    /// Counts one session less. With the last the mapping ends and is returned, so that its port can be too.
    pub fn release(&mut self, id: MappingId) -> Option<Mapping> {
        let hashes = self.get(id).map(|mapping| self.hashes(&mapping.inside, mapping.external));
        self.release_at(hashes.unwrap_or(Hashes { inside: 0, external: 0 }), id)
    }

    /// The same, with the hashes of the mapping's tuples.
    #[inline]
    pub(super) fn release_at(&mut self, hashes: Hashes, id: MappingId) -> Option<Mapping> {
        let row = self.row_mut(id)?;
        row[3] = row[3].saturating_sub(SESSION);
        if row[3] / SESSION > 0 {
            return None;
        }
        let (ended, was_doomed) = (mapping(row), has(row, FLAG_DOOMED));
        self.doomed -= usize::from(was_doomed);
        if let Some(ended) = ended {
            let mut found = self.by_external.remove(hashes.external, id.0);
            if !ended.is_static {
                found &= self.by_inside.remove(hashes.inside, id.0);
            }
            debug_assert!(found, "a live mapping is in its indices");
        }
        self.rows.free(id.0);
        ended
    }

    /// Hides a mapping from look-ups until its sessions have ended. False if it is gone or doomed already.
    pub fn doom(&mut self, id: MappingId) -> bool {
        let Some(row) = self.row_mut(id).filter(|row| !has(row, FLAG_DOOMED)) else { return false };
        row[3] |= FLAG_DOOMED;
        self.doomed += 1;
        true
    }

    /// The mappings of `slots_max` rows from `slot` on, and where to go on, or `None` at the end.
    /// Doomed ones and those of addresses are left out. Each keeps its row, so pages over time show none twice.
    pub fn page(
        &self,
        slot: usize,
        slots_max: usize,
    ) -> (impl Iterator<Item = (MappingId, Mapping)> + '_, Option<usize>) {
        let first = slot.min(self.rows.high_water());
        let last = first.saturating_add(slots_max.max(1)).min(self.rows.high_water());
        let shown = move |number: usize| {
            let id = MappingId(number as u32);
            let row = self.row(id).filter(|row| !has(row, FLAG_DOOMED))?;
            mapping(row).map(|mapping| (id, mapping))
        };
        ((first..last).filter_map(shown), (last < self.rows.high_water()).then_some(last))
    }
}

const _: () = assert!(Protocol::Icmp as u32 == 2 && FLAG_PROTOCOL == ADDRESSES);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn inside(n: u16) -> Inside {
        let endpoint = SocketAddrV4::new([10, 0, 0, (n % 7) as u8].into(), n);
        Inside { protocol: Protocol::ALL[usize::from(n) % 3], endpoint }
    }

    fn external(n: u16) -> SocketAddrV4 {
        SocketAddrV4::new([192, 0, 2, 1].into(), n)
    }

    fn table(capacity: usize) -> MappingTable {
        let arena = Arena::anonymous(MappingTable::bytes_for(capacity)).unwrap();
        MappingTable::new(&arena, capacity, Secret::from_key([3, 4])).unwrap()
    }

    #[test]
    fn names_of_ended_mappings_are_dead() {
        let mut table = table(2);
        let first = table.insert(&inside(1), external(1), false).expect("room");
        assert!(table.acquire(first) && table.release(first).is_none());
        assert!(table.release(first).is_some() && table.release(first).is_none());
        assert!(table.get(first).is_none() && !table.acquire(first) && !table.doom(first));
        assert_eq!((table.faces(first), table.len()), (None, 0));
    }

    #[test]
    fn addresses_are_mapped_for_one_session() {
        let mut table = table(2);
        let [inside, external] = [[10, 0, 0, 1], [192, 0, 2, 1]].map(Ipv4Addr::from);
        let id = table.insert_addresses(inside, external).expect("room");
        let faces = Faces { inside: (inside, None), external: (external, None) };
        assert_eq!((table.faces(id), table.get(id), table.page(0, 9).0.count()), (Some(faces), None, 0));
        assert_eq!((table.release(id), table.faces(id), table.len()), (None, None, 0));
    }

    #[test]
    fn a_doomed_mapping_is_hidden_and_holds_its_port() {
        let mut table = table(4);
        let id = table.insert(&inside(1), external(9), false).expect("room");
        assert!(table.doom(id) && !table.doom(id));
        assert_eq!((table.find_inside(&inside(1)), table.doomed()), (None, 1));
        assert_eq!(table.find_external(inside(1).protocol, external(9)), None);
        assert!(table.is_held(inside(1).protocol, external(9)) && !table.acquire(id));
        assert_eq!(table.insert(&inside(4), external(9), true), None);
        let again = table.insert(&inside(1), external(10), false).expect("another port");
        assert_eq!(table.find_inside(&inside(1)), Some(again));
        assert!(table.release(id).is_some());
        assert_eq!((table.find_inside(&inside(1)), table.doomed()), (Some(again), 0));
        assert!(table.insert(&inside(4), external(9), true).is_some());
    }

    /// 1,000,000 mappings in less than 30 MB.
    #[test]
    fn a_million_mappings_fit() {
        let mut table = table(1_000_000);
        for n in 0..1_000_000_u32 {
            let endpoint = SocketAddrV4::new((0x0A00_0000 | n >> 4).into(), n as u16);
            let tuple = Inside { protocol: Protocol::Udp, endpoint };
            let out = SocketAddrV4::new((0xC000_0200 + n / 65_000).into(), (n % 65_000) as u16);
            assert!(table.insert(&tuple, out, false).is_some(), "{n}");
        }
        println!("1,000,000 mappings: {} bytes", table.memory_bytes());
        assert!(table.memory_bytes() <= 30_000_000);
        assert!(!table.has_room(0) && table.insert(&inside(1), external(65_001), false).is_none());
        assert_eq!(table.len(), 1_000_000);
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
                        let id = table.insert(&tuple, external(port), is_static);
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
                    let seen = Mapping { inside: owner, external: external(port), sessions, is_static };
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
