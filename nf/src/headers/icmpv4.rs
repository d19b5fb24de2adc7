//! ICMP for IPv4 (RFC 792): types, and what they say of a message.

use super::icmp::Icmp;

/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable.
pub const DESTINATION_UNREACHABLE: u8 = 3;
/// Source quench (deprecated by RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Code of destination unreachable: fragmentation needed (RFC 1191).
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;

/// A message's header.
pub type Icmpv4 = Icmp<4>;

impl Icmp<4> {
    /// Whether it reports an error and quotes a packet.
    #[inline]
    pub const fn is_error(&self) -> bool {
        matches!(
            self.icmp_type,
            DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM
        )
    }

    /// Whether it is known not to be an error: echo, router discovery, timestamp, information, address mask,
    /// extended echo. An unknown type is not known to be a query.
    #[inline]
    pub const fn is_query(&self) -> bool {
        matches!(self.icmp_type, ECHO_REPLY | ECHO_REQUEST | 9 | 10 | 13..=18 | 42 | 43)
    }

    /// Whether it is an echo request or reply.
    #[inline]
    pub const fn is_echo(&self) -> bool {
        matches!(self.icmp_type, ECHO_REPLY | ECHO_REQUEST)
    }

    /// Whether it is a query with an identifier: echo, timestamp, information, address mask (RFC 5508 section 3).
    #[inline]
    pub const fn has_identifier(&self) -> bool {
        matches!(self.icmp_type, ECHO_REPLY | ECHO_REQUEST | 13..=18)
    }

    /// The next hop's MTU in bytes, of a "fragmentation needed" (RFC 1191 section 4); zero if not said.
    #[inline]
    pub const fn next_hop_mtu(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }
}
