//! What each inside host holds: its count of dynamic mappings, its limit, its paired external address.

use super::index::{ENTRIES_MAX, Index};
use super::refusal::Refusal;
use super::rows::Rows;
use super::secret::{Purpose, Secret};
use super::tuple::{Inside, PROTOCOLS, Protocol};
use millrace_dataplane::memory::{Arena, ArenaError};
use std::net::Ipv4Addr;

/// Most dynamic mappings that one inside host may hold at a time, by protocol (RFC 6888 section 3 REQ-4).
/// 65,535, the default, is as many as it has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriberLimits([u16; PROTOCOLS]);

impl SubscriberLimits {
    /// A limit for each protocol.
    pub const fn new(tcp: u16, udp: u16, icmp: u16) -> Self {
        Self([tcp, udp, icmp])
    }

    /// The limit for one protocol.
    pub const fn get(&self, protocol: Protocol) -> u16 {
        self.0[protocol.index()]
    }
}

impl Default for SubscriberLimits {
    fn default() -> Self {
        Self([u16::MAX; PROTOCOLS])
    }
}

/// The external address that a host is paired with: its place in the pool, in the numbering that was in force then
/// ([`super::pool::ExternalPool::place_of`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paired(pub u16);

/// One inside host that holds a dynamic mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// Inside address.
    pub address: Ipv4Addr,
    /// External address that its mappings get while it has ports (RFC 4787 section 4.1 REQ-2).
    pub paired: Paired,
    /// Dynamic mappings held, by [`Protocol::index`].
    pub held: [u16; PROTOCOLS],
}

/// A host in memory: its address, the pairing and three counts of 16 bits each. A free row has no counts.
type Row = [u32; 3];

impl Subscriber {
    fn of(row: &Row) -> Self {
        Self {
            address: row[0].into(),
            paired: Paired(row[1] as u16),
            held: [(row[1] >> 16) as u16, row[2] as u16, (row[2] >> 16) as u16],
        }
    }

    fn row(&self) -> Row {
        let [tcp, udp, icmp] = self.held.map(u32::from);
        [self.address.into(), u32::from(self.paired.0) | tcp << 16, udp | icmp << 16]
    }

    fn holds_any(&self) -> bool {
        self.held != [0; PROTOCOLS]
    }
}

/// The word and the unit of the count of a protocol.
#[inline]
fn place(protocol: Protocol) -> (usize, u32) {
    match protocol {
        Protocol::Tcp => (1, 1 << 16),
        Protocol::Udp => (2, 1),
        Protocol::Icmp => (2, 1 << 16),
    }
}

#[inline]
fn held(row: &Row, protocol: Protocol) -> u16 {
    let (word, one) = place(protocol);
    (row[word] / one) as u16
}

/// Where a host that asks for a mapping is kept, or will be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    hash: u64,
    /// The number of its row plus one; zero without one.
    row: u32,
}

/// The hosts that hold dynamic mappings. Sized once.
#[derive(Debug)]
pub struct Subscribers {
    rows: Rows<3>,
    index: Index,
    secret: Secret,
}

impl Subscribers {
    /// A table for `capacity` hosts, at most 2^24.
    ///
    /// # Errors
    /// The arena has no room for it.
    pub fn new(arena: &Arena, capacity: usize, secret: Secret) -> Result<Self, ArenaError> {
        let capacity = capacity.min(ENTRIES_MAX);
        Ok(Self { rows: Rows::new(arena, capacity)?, index: Index::new(arena, capacity)?, secret })
    }

    /// Bytes that a table of this size takes from the arena.
    pub fn bytes_for(capacity: usize) -> usize {
        let capacity = capacity.min(ENTRIES_MAX);
        Rows::<3>::bytes_for(capacity) + Index::bytes_for(capacity)
    }

    #[inline]
    pub(super) fn hash(&self, inside: &Inside) -> u64 {
        self.secret.hash(Purpose::Subscriber, inside.host_word())
    }

    #[inline]
    fn number(&self, hash: u64, inside: &Inside) -> Option<u32> {
        let address = u32::from(*inside.endpoint.ip());
        self.index.find(hash, |number| self.rows.get(number).is_some_and(|row| row[0] == address))
    }

    /// Asks for what a look for the host with this hash needs.
    pub(super) fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// The host of this inside tuple, if it holds a mapping.
    pub fn get(&self, inside: &Inside) -> Option<Subscriber> {
        self.rows.get(self.number(self.hash(inside), inside)?).map(Subscriber::of)
    }

    /// May the host hold one more mapping? If so, where it is kept, and its pairing if it has one.
    ///
    /// # Errors
    /// Its limit is reached, or there is no room for another host.
    #[inline]
    pub fn check(
        &self,
        inside: &Inside,
        limits: &SubscriberLimits,
    ) -> Result<(Host, Option<Paired>), Refusal> {
        let (limit, hash) = (limits.get(inside.protocol), self.hash(inside));
        let row = self.number(hash, inside).and_then(|number| self.rows.get(number).map(|row| (number, row)));
        match row {
            Some((_, row)) if held(row, inside.protocol) >= limit => Err(Refusal::SubscriberLimit),
            Some((number, row)) => Ok((Host { hash, row: number + 1 }, Some(Paired(row[1] as u16)))),
            None if limit == 0 => Err(Refusal::SubscriberLimit),
            None if self.rows.len() >= self.rows.capacity() => Err(Refusal::SubscribersFull),
            None => Ok((Host { hash, row: 0 }, None)),
        }
    }

    /// Counts a new mapping. `host` is what the last change left it to be. A host without a pairing, or with one that `keeps`
    /// denies, is paired with `paired`. False if there is no room for the host.
    #[inline]
    pub fn add(
        &mut self,
        host: &Host,
        inside: &Inside,
        paired: Paired,
        keeps: impl Fn(Paired) -> bool,
    ) -> bool {
        let (word, one) = place(inside.protocol);
        let Some(number) = host.row.checked_sub(1) else {
            debug_assert!(self.get(inside).is_none(), "a host has one row");
            let mut row = [u32::from(*inside.endpoint.ip()), u32::from(paired.0), 0];
            row[word] += one;
            let Some(number) = self.rows.take(row) else { return false };
            let placed = self.index.insert(host.hash, number);
            if !placed {
                self.rows.free(number);
            }
            return placed;
        };
        let Some(row) = self.rows.get_mut(number) else { return false };
        debug_assert_eq!(row[0], u32::from(*inside.endpoint.ip()));
        if held(row, inside.protocol) == u16::MAX {
            return false;
        }
        row[word] += one;
        if !keeps(Paired(row[1] as u16)) {
            row[1] = row[1] & 0xffff_0000 | u32::from(paired.0);
        }
        true
    }

    /// Counts the end of a mapping; a host without any is forgotten.
    pub fn remove(&mut self, inside: &Inside) {
        self.remove_at(self.hash(inside), inside);
    }

    #[inline]
    pub(super) fn remove_at(&mut self, hash: u64, inside: &Inside) {
        let Some(number) = self.number(hash, inside) else { return };
        let Some(row) = self.rows.get_mut(number) else { return };
        let (word, one) = place(inside.protocol);
        row[word] -= if held(row, inside.protocol) > 0 { one } else { 0 };
        if row[1] >> 16 == 0 && row[2] == 0 {
            self.index.remove(hash, number);
            self.rows.free(number);
        }
    }

    /// Pairs the hosts in `rows_max` rows from `row` on anew, as `renumber` says. Returns where to go on, or `None` at the end.
    pub fn pair_anew(
        &mut self,
        row: usize,
        rows_max: usize,
        renumber: impl Fn(Paired) -> Paired,
    ) -> Option<usize> {
        let last = row.saturating_add(rows_max.max(1)).min(self.rows.high_water());
        for number in row..last {
            if let Some(row) = self.rows.get_mut(number as u32) {
                let host = Subscriber::of(row);
                if host.holds_any() {
                    *row = Subscriber { paired: renumber(host.paired), ..host }.row();
                }
            }
        }
        (last < self.rows.high_water()).then_some(last)
    }

    /// Hosts in the table.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Does no host hold a mapping?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes taken from the arena.
    pub fn memory_bytes(&self) -> usize {
        self.rows.memory_bytes() + self.index.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddrV4;

    fn table(capacity: usize) -> Subscribers {
        let arena = Arena::anonymous(Subscribers::bytes_for(capacity)).unwrap();
        Subscribers::new(&arena, capacity, Secret::from_key([0, 1])).unwrap()
    }

    fn add(table: &mut Subscribers, inside: &Inside, paired: Paired, in_pool: bool) -> bool {
        let host = table.check(inside, &SubscriberLimits::default());
        host.is_ok_and(|(host, _)| table.add(&host, inside, paired, |_| in_pool))
    }

    fn inside(host: u8, protocol: Protocol) -> Inside {
        Inside { protocol, endpoint: SocketAddrV4::new([10, 0, 0, host].into(), 1) }
    }

    /// RFC 6888 section 3 REQ-4: limits are per host and per protocol.
    #[test]
    fn limits_are_kept_for_each_host_and_protocol() {
        let limits = SubscriberLimits::new(2, 1, 0);
        let mut table = table(10);
        let external = Paired(4);
        let add = |table: &mut Subscribers, tuple| add(table, &tuple, external, true);
        let check =
            |table: &Subscribers, tuple: &Inside| table.check(tuple, &limits).map(|(_, paired)| paired);
        let (tcp, udp) = (inside(1, Protocol::Tcp), inside(1, Protocol::Udp));
        assert_eq!(check(&table, &inside(1, Protocol::Icmp)), Err(Refusal::SubscriberLimit));
        assert_eq!(check(&table, &tcp), Ok(None));
        assert!(add(&mut table, tcp));
        assert_eq!(check(&table, &tcp), Ok(Some(external)));
        assert!(add(&mut table, tcp) && add(&mut table, udp));
        assert_eq!(check(&table, &tcp), Err(Refusal::SubscriberLimit));
        assert_eq!(check(&table, &udp), Err(Refusal::SubscriberLimit));
        assert_eq!(check(&table, &inside(2, Protocol::Udp)), Ok(None));
        table.remove(&tcp);
        assert_eq!(check(&table, &tcp), Ok(Some(external)));
        assert_eq!(table.get(&tcp).map(|row| row.held), Some([1, 1, 0]));
        table.remove(&tcp);
        table.remove(&udp);
        assert!(table.is_empty() && table.get(&tcp).is_none());
    }

    #[test]
    fn a_full_table_refuses_new_hosts_only() {
        let mut table = table(3);
        for host in 0..3 {
            assert!(add(&mut table, &inside(host, Protocol::Udp), Paired(0), true));
        }
        let limits = SubscriberLimits::default();
        assert_eq!(table.check(&inside(3, Protocol::Udp), &limits), Err(Refusal::SubscribersFull));
        assert!(!add(&mut table, &inside(3, Protocol::Udp), Paired(0), true));
        assert!(table.check(&inside(2, Protocol::Tcp), &limits).is_ok());
    }

    #[test]
    fn a_host_whose_address_left_the_pool_is_paired_anew() {
        let mut table = table(3);
        let (old, new) = (Paired(1), Paired(2));
        let tuple = inside(1, Protocol::Udp);
        for (external, in_pool, paired) in [(old, true, old), (new, true, old), (new, false, new)] {
            assert!(add(&mut table, &tuple, external, in_pool));
            assert_eq!(table.get(&tuple).map(|row| row.paired), Some(paired));
        }
        assert!(add(&mut table, &inside(2, Protocol::Icmp), old, true));
        assert_eq!(table.pair_anew(0, 1, |Paired(n)| Paired(n + 10)), Some(1));
        assert_eq!(table.pair_anew(1, 9, |Paired(n)| Paired(n + 20)), None);
        let hosts =
            [1, 2].map(|host| table.get(&inside(host, Protocol::Udp)).map(|row| (row.paired, row.held)));
        assert_eq!(hosts, [Some((Paired(12), [0, 3, 0])), Some((Paired(21), [0, 0, 1]))]);
    }
}
