//! ICMP for IPv6 (RFC 4443): types, and what they say of a message.

use super::icmp::Icmp;

/// Destination unreachable.
pub const DESTINATION_UNREACHABLE: u8 = 1;
/// Packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Router solicitation (RFC 4861).
pub const ROUTER_SOLICITATION: u8 = 133;
/// Router advertisement (RFC 4861).
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbour solicitation (RFC 4861).
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Neighbour advertisement (RFC 4861).
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Redirect (RFC 4861).
pub const REDIRECT: u8 = 137;

/// A message's header.
pub type Icmpv6 = Icmp<6>;

impl Icmp<6> {
    /// Whether it reports an error: types 0 to 127 (RFC 4443 section 2.1).
    #[inline]
    pub const fn is_error(&self) -> bool {
        self.icmp_type < 128
    }

    /// Whether it is an error that quotes a packet in a known way.
    #[inline]
    pub const fn quotes_a_packet(&self) -> bool {
        matches!(self.icmp_type, DESTINATION_UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    /// Whether it is an echo request or reply.
    #[inline]
    pub const fn is_echo(&self) -> bool {
        matches!(self.icmp_type, ECHO_REPLY | ECHO_REQUEST)
    }

    /// Whether it belongs to neighbour discovery (RFC 4861).
    #[inline]
    pub const fn is_neighbour_discovery(&self) -> bool {
        matches!(self.icmp_type, ROUTER_SOLICITATION..=REDIRECT)
    }

    /// The MTU in bytes, of a "packet too big" (RFC 4443 section 3.2).
    #[inline]
    pub const fn mtu(&self) -> u32 {
        u32::from_be_bytes(self.rest)
    }
}
