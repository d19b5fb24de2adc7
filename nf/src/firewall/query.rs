//! What the firewall asks its rules about a packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::zone::ZoneId;

/// Source and destination address. They are of one version, as in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Source address.
        source: Ipv4Addr,
        /// Destination address.
        destination: Ipv4Addr,
    },
    /// IPv6. An IPv4-mapped address stays an IPv6 address: no IPv4 rule matches it.
    V6 {
        /// Source address.
        source: Ipv6Addr,
        /// Destination address.
        destination: Ipv6Addr,
    },
}

/// What is known of the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Nothing: another protocol, or a fragment without it. Matches no rule that names ports or ICMP types.
    Other,
    /// The ports of TCP, UDP, DCCP, SCTP or UDP-Lite, in host order.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// Type and code of ICMP or ICMPv6.
    Icmp {
        /// Type.
        icmp_type: u8,
        /// Code.
        code: u8,
    },
}

/// A packet's fields as the rules see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// The zone that the packet came from.
    pub from_zone: ZoneId,
    /// The zone that it goes to.
    pub to_zone: ZoneId,
    /// Its addresses.
    pub addresses: Addresses,
    /// Its IP protocol (for IPv6 the last next-header value).
    pub protocol: u8,
    /// Its ports, or ICMP type and code.
    pub transport: Transport,
}

impl Query {
    /// The same with both ends in each other's place, but for their zones.
    #[must_use]
    pub fn turned(self) -> Self {
        let addresses = match self.addresses {
            Addresses::V4 { source, destination } => {
                Addresses::V4 { source: destination, destination: source }
            }
            Addresses::V6 { source, destination } => {
                Addresses::V6 { source: destination, destination: source }
            }
        };
        let transport = match self.transport {
            Transport::Ports { source, destination } => {
                Transport::Ports { source: destination, destination: source }
            }
            other => other,
        };
        Self { addresses, transport, ..self }
    }
}
