//! Who may send to a mapping from outside (RFC 4787 section 5), and the memory that needs.
//!
//! A packet of a session is found in the session table before any filter is asked; the filter decides only
//! whether a *new* session may begin from outside. So address-and-port-dependent filtering needs no memory
//! at all, endpoint-independent none either, and address-dependent filtering one bounded table: how many
//! sessions of a mapping go to one remote address. When that table has no room, the contact is not
//! recorded: the session itself works, but further sessions from that remote are refused. It fails closed,
//! and counts.

use super::index::{ENTRIES_MAX, Index};
use super::mapping::MappingId;
use super::rows::Rows;
use super::secret::{Purpose, Secret};
use millrace_dataplane::memory::{Arena, ArenaError};
use std::net::Ipv4Addr;

/// Filtering behaviour (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Filtering {
    /// Anyone may send to a mapped endpoint. Recommended for transparency (REQ-8).
    #[default]
    EndpointIndependent,
    /// Only remote addresses that the inside endpoint has a session with. Recommended for stringency (REQ-8).
    AddressDependent,
    /// Only remote addresses and ports that the inside endpoint has a session with.
    AddressAndPortDependent,
}

/// What the sessions of a mapping have to do with the sender of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contact {
    /// No session goes to its address.
    None,
    /// A session goes to its address, at another port.
    Address,
    /// A session goes to its address and port.
    AddressAndPort,
}

impl Filtering {
    /// May a sender in this relation reach the mapping?
    pub const fn admits(self, contact: Contact) -> bool {
        match self {
            Self::EndpointIndependent => true,
            Self::AddressDependent => !matches!(contact, Contact::None),
            Self::AddressAndPortDependent => matches!(contact, Contact::AddressAndPort),
        }
    }
}

/// Sessions of one mapping to one remote address: the mapping, the address, their count.
type Row = [u32; 3];

/// The remote addresses that mappings have sessions with, counted.
#[derive(Debug)]
pub struct Contacts {
    rows: Rows<3>,
    index: Index,
    refused: u64,
    secret: Secret,
}

impl Contacts {
    /// A table for `capacity` pairs of mapping and remote address, at most 2^24.
    ///
    /// # Errors
    /// The arena has no room for it.
    pub fn new(arena: &Arena, capacity: usize, secret: Secret) -> Result<Self, ArenaError> {
        let capacity = capacity.min(ENTRIES_MAX);
        let (rows, index) = (Rows::new(arena, capacity)?, Index::new(arena, capacity)?);
        Ok(Self { rows, index, refused: 0, secret })
    }

    /// Bytes that a table of this size takes from the arena.
    pub fn bytes_for(capacity: usize) -> usize {
        let capacity = capacity.min(ENTRIES_MAX);
        Rows::<3>::bytes_for(capacity) + Index::bytes_for(capacity)
    }

    fn hash(&self, mapping: MappingId, remote: Ipv4Addr) -> u64 {
        let word = u64::from(mapping.to_raw()) << 32 | u64::from(u32::from(remote));
        self.secret.hash(Purpose::Contact, word)
    }

    fn number(&self, mapping: MappingId, remote: Ipv4Addr) -> Option<u32> {
        let (mapping_raw, remote_raw) = (mapping.to_raw(), u32::from(remote));
        let matches = |row: &Row| row[0] == mapping_raw && row[1] == remote_raw;
        self.index.find(self.hash(mapping, remote), |number| self.rows.get(number).is_some_and(matches))
    }

    /// Has the mapping a recorded session with this remote address?
    pub fn knows(&self, mapping: MappingId, remote: Ipv4Addr) -> bool {
        self.number(mapping, remote).is_some()
    }

    /// Records a session. False if there is no room; then [`Contacts::forget`] must not be called for it.
    pub fn record(&mut self, mapping: MappingId, remote: Ipv4Addr) -> bool {
        let recorded = match self.number(mapping, remote).and_then(|number| self.rows.get_mut(number)) {
            Some(row) => row[2].checked_add(1).map(|sessions| row[2] = sessions).is_some(),
            None => self.insert(mapping, remote),
        };
        self.refused += u64::from(!recorded);
        recorded
    }

    fn insert(&mut self, mapping: MappingId, remote: Ipv4Addr) -> bool {
        let hash = self.hash(mapping, remote);
        let Some(number) = self.rows.take([mapping.to_raw(), remote.into(), 1]) else { return false };
        let placed = self.index.insert(hash, number);
        if !placed {
            self.rows.free(number);
        }
        placed
    }

    /// Takes back one recorded session.
    pub fn forget(&mut self, mapping: MappingId, remote: Ipv4Addr) {
        let Some(number) = self.number(mapping, remote) else { return };
        match self.rows.get_mut(number) {
            Some(row) if row[2] > 1 => row[2] -= 1,
            _ => {
                self.index.remove(self.hash(mapping, remote), number);
                self.rows.free(number);
            }
        }
    }

    /// Pairs in the table.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Is nothing recorded?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Sessions that found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Bytes taken from the arena.
    pub fn memory_bytes(&self) -> usize {
        self.rows.memory_bytes() + self.index.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// RFC 4787 section 5: the table of behaviours.
    #[test]
    fn each_behaviour_admits_what_it_says() {
        use Contact::{Address, AddressAndPort, None};
        let table = |filtering: Filtering| [None, Address, AddressAndPort].map(|c| filtering.admits(c));
        assert_eq!(table(Filtering::EndpointIndependent), [true, true, true]);
        assert_eq!(table(Filtering::AddressDependent), [false, true, true]);
        assert_eq!(table(Filtering::AddressAndPortDependent), [false, false, true]);
    }

    proptest! {
        #[test]
        fn contacts_are_counted_and_bounded(
            operations in prop::collection::vec((any::<bool>(), 0_u32..4, 0_u32..6), 1..300),
        ) {
            let arena = Arena::anonymous(Contacts::bytes_for(10)).unwrap();
            let mut contacts = Contacts::new(&arena, 10, Secret::from_key([1, 1])).unwrap();
            let mut model: HashMap<(u32, u32), u32> = HashMap::new();
            let mut refused = 0;
            for (record, mapping, remote) in operations {
                let (id, address) = (MappingId::from_raw(mapping), Ipv4Addr::from(remote));
                let known = model.contains_key(&(mapping, remote));
                prop_assert_eq!(contacts.knows(id, address), known);
                if record {
                    let room = known || model.len() < 10;
                    prop_assert_eq!(contacts.record(id, address), room);
                    if room {
                        *model.entry((mapping, remote)).or_default() += 1;
                    } else {
                        refused += 1;
                    }
                } else if let Some(count) = model.get_mut(&(mapping, remote)) {
                    *count -= 1;
                    contacts.forget(id, address);
                }
                model.retain(|_, count| *count > 0);
                prop_assert_eq!(contacts.len(), model.len());
                prop_assert_eq!(contacts.refused(), refused);
            }
        }
    }
}
