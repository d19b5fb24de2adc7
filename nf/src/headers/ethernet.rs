//! The Ethernet header (IEEE 802.3 clause 3).

use millrace_dataplane::port::MacAddress;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// The broadcast address.
pub const BROADCAST: MacAddress = [0xff; 6];

/// Destination, source, and the type behind any VLAN tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ethernet {
    /// Receiver's address.
    pub destination: MacAddress,
    /// Sender's address.
    pub source: MacAddress,
    /// EtherType of the payload, read behind the tags. Below 1,536 it is the length field of an 802.3 frame, as it is.
    pub ether_type: u16,
}

impl Ethernet {
    /// Bytes of the header without tags.
    pub const HEADER_BYTES: usize = 14;
}

/// Whether `address` is a group address: multicast or broadcast.
#[inline]
pub const fn is_group(address: MacAddress) -> bool {
    address[0] & 1 != 0
}
