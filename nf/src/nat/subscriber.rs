//! What each inside host holds: its count of dynamic mappings, its limit, its paired external address.

use super::refusal::Refusal;
use super::secret::{Purpose, Secret};
use super::tuple::{Inside, PROTOCOLS, Protocol};
use super::two_choice::{Position, Slot, TwoChoice};
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

/// One inside host that holds a dynamic mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// Inside address.
    pub address: Ipv4Addr,
    /// External address that its mappings get while it has ports (RFC 4787 section 4.1 REQ-2).
    pub paired: Ipv4Addr,
    /// Routing domain.
    pub domain: u16,
    /// Dynamic mappings held, by [`Protocol::index`].
    pub held: [u16; PROTOCOLS],
    /// Most mappings of all protocols held at once since the host last held none.
    pub highest: u32,
}

impl Slot for Subscriber {
    const VACANT: Self = Self {
        address: Ipv4Addr::UNSPECIFIED,
        paired: Ipv4Addr::UNSPECIFIED,
        domain: 0,
        held: [0; PROTOCOLS],
        highest: 0,
    };

    fn is_vacant(&self) -> bool {
        self.held == [0; PROTOCOLS]
    }
}

const _: () = assert!(size_of::<Subscriber>() == 20);

/// The hosts that hold dynamic mappings. Sized once.
#[derive(Debug)]
pub struct Subscribers {
    rows: TwoChoice<Subscriber>,
    capacity: usize,
    secret: Secret,
}

impl Subscribers {
    /// A table for `capacity` hosts.
    pub fn new(capacity: usize, secret: Secret) -> Self {
        Self { rows: TwoChoice::with_capacity(capacity), capacity, secret }
    }

    fn hash(&self, inside: &Inside) -> u64 {
        self.secret.hash(Purpose::Subscriber, inside.subscriber_word(), 0)
    }

    fn position(&self, inside: &Inside) -> Option<Position> {
        let (address, domain) = (*inside.endpoint.ip(), inside.domain);
        self.rows.find(self.hash(inside), |row| row.address == address && row.domain == domain)
    }

    /// The host of this inside tuple, if it holds a mapping.
    pub fn get(&self, inside: &Inside) -> Option<&Subscriber> {
        self.position(inside).map(|position| self.rows.get(position))
    }

    /// May the host hold one more mapping? If so, its paired external address, if it has one.
    pub fn check(&self, inside: &Inside, limits: &SubscriberLimits) -> Result<Option<Ipv4Addr>, Refusal> {
        let limit = limits.get(inside.protocol);
        match self.get(inside) {
            Some(row) if row.held[inside.protocol.index()] >= limit => Err(Refusal::SubscriberLimit),
            Some(row) => Ok(Some(row.paired)),
            None if limit == 0 => Err(Refusal::SubscriberLimit),
            None if self.rows.len() >= self.capacity || !self.rows.has_room(self.hash(inside)) => {
                Err(Refusal::SubscribersFull)
            }
            None => Ok(None),
        }
    }

    /// Counts a new mapping with this external address. `in_pool` says whether the paired address can still
    /// be used; if not, the host is paired with the new one. False if there is no room for the host.
    pub fn add(&mut self, inside: &Inside, external: Ipv4Addr, in_pool: impl Fn(Ipv4Addr) -> bool) -> bool {
        let Some(position) = self.position(inside) else {
            let mut row = Subscriber {
                address: *inside.endpoint.ip(),
                paired: external,
                domain: inside.domain,
                held: [0; PROTOCOLS],
                highest: 1,
            };
            row.held[inside.protocol.index()] = 1;
            return self.rows.len() < self.capacity && self.rows.insert(self.hash(inside), row).is_some();
        };
        let row = self.rows.get_mut(position);
        let held = &mut row.held[inside.protocol.index()];
        if *held == u16::MAX {
            return false;
        }
        *held += 1;
        row.highest = row.highest.max(row.held.iter().copied().map(u32::from).sum());
        if !in_pool(row.paired) {
            row.paired = external;
        }
        true
    }

    /// Counts the end of a mapping; a host without any is forgotten.
    pub fn remove(&mut self, inside: &Inside) {
        if let Some(position) = self.position(inside) {
            let mut row = *self.rows.get(position);
            let held = &mut row.held[inside.protocol.index()];
            *held = held.saturating_sub(1);
            if row.is_vacant() {
                self.rows.remove(position);
            } else {
                *self.rows.get_mut(position) = row;
            }
        }
    }

    /// Hosts in the table.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Does no host hold a mapping?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.rows.memory_bytes()
    }

    /// A page of hosts for display: those of `buckets_max` buckets (up to eight each) from `cursor` on, and
    /// the cursor of the next page. A host that comes or goes between pages may be missed, none shows twice.
    pub fn page(
        &self,
        cursor: usize,
        buckets_max: usize,
    ) -> (impl Iterator<Item = &Subscriber>, Option<usize>) {
        self.rows.page(cursor, buckets_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddrV4;

    fn inside(host: u8, protocol: Protocol) -> Inside {
        Inside { domain: 0, protocol, endpoint: SocketAddrV4::new([10, 0, 0, host].into(), 1) }
    }

    /// RFC 6888 section 3 REQ-4: limits are per host and per protocol.
    #[test]
    fn limits_are_kept_for_each_host_and_protocol() {
        let limits = SubscriberLimits::new(2, 1, 0);
        let mut table = Subscribers::new(10, Secret::from_key([0, 1]));
        let external = Ipv4Addr::from([192, 0, 2, 1]);
        let add = |table: &mut Subscribers, tuple| table.add(&tuple, external, |_| true);
        let (tcp, udp) = (inside(1, Protocol::Tcp), inside(1, Protocol::Udp));
        assert_eq!(table.check(&inside(1, Protocol::Icmp), &limits), Err(Refusal::SubscriberLimit));
        assert_eq!(table.check(&tcp, &limits), Ok(None));
        assert!(add(&mut table, tcp));
        assert_eq!(table.check(&tcp, &limits), Ok(Some(external)));
        assert!(add(&mut table, tcp) && add(&mut table, udp));
        assert_eq!(table.check(&tcp, &limits), Err(Refusal::SubscriberLimit));
        assert_eq!(table.check(&udp, &limits), Err(Refusal::SubscriberLimit));
        assert_eq!(table.check(&inside(2, Protocol::Udp), &limits), Ok(None));
        table.remove(&tcp);
        assert_eq!(table.check(&tcp, &limits), Ok(Some(external)));
        assert_eq!(table.get(&tcp).map(|row| (row.held, row.highest)), Some(([1, 1, 0], 3)));
        table.remove(&tcp);
        table.remove(&udp);
        assert!(table.is_empty() && table.get(&tcp).is_none());
    }

    #[test]
    fn a_full_table_refuses_new_hosts_only() {
        let mut table = Subscribers::new(3, Secret::from_key([0, 1]));
        for host in 0..3 {
            assert!(table.add(&inside(host, Protocol::Udp), [192, 0, 2, 1].into(), |_| true));
        }
        let limits = SubscriberLimits::default();
        assert_eq!(table.check(&inside(3, Protocol::Udp), &limits), Err(Refusal::SubscribersFull));
        assert!(!table.add(&inside(3, Protocol::Udp), [192, 0, 2, 1].into(), |_| true));
        assert!(table.check(&inside(2, Protocol::Tcp), &limits).is_ok());
    }

    #[test]
    fn a_host_whose_address_left_the_pool_is_paired_anew() {
        let mut table = Subscribers::new(3, Secret::from_key([0, 1]));
        let (old, new) = (Ipv4Addr::from([192, 0, 2, 1]), Ipv4Addr::from([192, 0, 2, 2]));
        let tuple = inside(1, Protocol::Udp);
        for (external, in_pool, paired) in [(old, true, old), (new, true, old), (new, false, new)] {
            assert!(table.add(&tuple, external, |_| in_pool));
            assert_eq!(table.get(&tuple).map(|row| row.paired), Some(paired));
        }
    }
}
