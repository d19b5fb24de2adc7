//! Tuples: what a session is found by, one for each direction of a connection.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One direction of a connection as received: addresses, ports (of echo messages: the identifier, twice), protocol, and the
/// domain in which they are unique (a chain, a bridge domain, a tenant).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Tuple {
    /// Source address; IPv4 as IPv4-mapped IPv6.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// Domain.
    pub domain: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Always zero.
    pub zero: u8,
}

/// An address as a tuple keeps it.
pub fn tuple_address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address that a tuple keeps.
fn address_of(bytes: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from(bytes);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

impl Tuple {
    /// A tuple of IPv4 or IPv6 addresses.
    pub fn new(
        domain: u16,
        protocol: u8,
        (source, source_port): (IpAddr, u16),
        (destination, destination_port): (IpAddr, u16),
    ) -> Self {
        Self {
            source: tuple_address(source),
            destination: tuple_address(destination),
            source_port,
            destination_port,
            domain,
            protocol,
            zero: 0,
        }
    }

    /// The tuple of the opposite direction of untranslated traffic.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }

    /// Source address.
    pub fn source_address(&self) -> IpAddr {
        address_of(self.source)
    }

    /// Destination address.
    pub fn destination_address(&self) -> IpAddr {
        address_of(self.destination)
    }

    /// True if the addresses are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.source_address().is_ipv4()
    }

    /// All of it in words.
    #[inline(always)]
    pub(super) fn words(&self) -> [u64; 5] {
        let [a, b] = words_of(self.source);
        let [c, d] = words_of(self.destination);
        let ports = u64::from(self.source_port) | u64::from(self.destination_port) << 16;
        let rest = u64::from(self.domain) | u64::from(self.protocol) << 16 | u64::from(self.zero) << 24;
        [a, b, c, d, ports | rest << 32]
    }
}

fn words_of(address: [u8; 16]) -> [u64; 2] {
    let all = u128::from_ne_bytes(address);
    [all as u64, (all >> 64) as u64]
}

impl PartialEq for Tuple {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.words(), other.words());
        mine.iter().zip(theirs).fold(0, |bits, (mine, theirs)| bits | mine ^ theirs) == 0
    }
}

impl Eq for Tuple {}

impl Hash for Tuple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.words().hash(state);
    }
}

impl Default for Tuple {
    fn default() -> Self {
        Self::new(0, 0, (Ipv4Addr::UNSPECIFIED.into(), 0), (Ipv4Addr::UNSPECIFIED.into(), 0))
    }
}

impl std::fmt::Display for Tuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, to) = (self.source_address(), self.destination_address());
        match from {
            IpAddr::V4(_) => write!(f, "{from}:{} > {to}:{}", self.source_port, self.destination_port),
            IpAddr::V6(_) => write!(f, "[{from}]:{} > [{to}]:{}", self.source_port, self.destination_port),
        }
    }
}
