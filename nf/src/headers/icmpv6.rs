//! ICMP for IPv6 (RFC 4443): the eight bytes that all messages share.

use super::bytes::{be16, part, take};
use millrace_dataplane::drops::DropReason;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Icmpv6 {
    /// Type of the message.
    pub icmp_type: u8,
    /// Code, within the type.
    pub code: u8,
    /// Checksum as received. Computed when serialised.
    pub checksum: u16,
    /// The second word, in wire order: its meaning depends on the type.
    pub rest: [u8; 4],
}

impl Icmpv6 {
    /// Bytes of the header.
    pub const HEADER_BYTES: usize = 8;

    /// Reads the header at index `at`, which ends at or before `limit`. Error: `Truncated`.
    #[inline]
    pub fn read(frame: &[u8], at: usize, limit: usize) -> Result<Self, DropReason> {
        let bytes: &[u8; Self::HEADER_BYTES] = take(frame, at, limit)?;
        Ok(Self { icmp_type: bytes[0], code: bytes[1], checksum: be16(bytes, 2), rest: part(bytes, 4) })
    }

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

    /// The identifier of an echo.
    #[inline]
    pub const fn identifier(&self) -> u16 {
        u16::from_be_bytes([self.rest[0], self.rest[1]])
    }

    /// Sets the identifier of an echo.
    pub fn set_identifier(&mut self, identifier: u16) {
        self.rest[..2].copy_from_slice(&identifier.to_be_bytes());
    }

    /// The sequence number of an echo.
    #[inline]
    pub const fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// The MTU in bytes, of a "packet too big" (RFC 4443 section 3.2).
    #[inline]
    pub const fn mtu(&self) -> u32 {
        u32::from_be_bytes(self.rest)
    }

    /// The header as on the wire, with a checksum of zero.
    pub(super) fn to_bytes(self) -> [u8; Self::HEADER_BYTES] {
        let [a, b, c, d] = self.rest;
        [self.icmp_type, self.code, 0, 0, a, b, c, d]
    }
}
