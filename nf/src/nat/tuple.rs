//! What is translated: protocols with ports or query identifiers, and the inside tuple of a mapping.

use std::net::SocketAddrV4;

/// A protocol that NAPT44 multiplexes, each with a port space of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP (RFC 5382).
    Tcp,
    /// UDP (RFC 4787).
    Udp,
    /// ICMP queries; the query identifier takes the place of the port (RFC 5508 section 3.1).
    Icmp,
}

/// Number of protocols.
pub const PROTOCOLS: usize = Protocol::ALL.len();

impl Protocol {
    /// All protocols, in the order of [`Protocol::index`].
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];

    /// A dense index.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// From the protocol field of the IPv4 header.
    pub const fn from_ip(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            1 => Some(Self::Icmp),
            _ => None,
        }
    }

    /// The name in configurations and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Who sends from inside: the internal transport address of RFC 4787 section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inside {
    /// The protocol.
    pub protocol: Protocol,
    /// Address and port, or ICMP query identifier.
    pub endpoint: SocketAddrV4,
}

impl Inside {
    /// The tuple as one word.
    pub(super) fn word(&self) -> u64 {
        endpoint_word(self.protocol, self.endpoint)
    }

    /// The address as one word: equal for all tuples of one inside host.
    pub(super) fn host_word(&self) -> u64 {
        u64::from(u32::from(*self.endpoint.ip()))
    }
}

/// A protocol, address and port as one word.
pub(super) fn endpoint_word(protocol: Protocol, endpoint: SocketAddrV4) -> u64 {
    (protocol as u64) << 48 | u64::from(endpoint.port()) << 32 | u64::from(u32::from(*endpoint.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_apart() {
        for (index, protocol) in Protocol::ALL.into_iter().enumerate() {
            assert_eq!(protocol.index(), index);
        }
        assert_eq!(
            [6, 17, 1, 50].map(Protocol::from_ip).map(|p| p.map(Protocol::name)),
            [Some("tcp"), Some("udp"), Some("icmp"), None]
        );
    }
}
