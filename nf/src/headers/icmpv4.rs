//! ICMP for IPv4 (RFC 792): the eight bytes that all messages share.

use super::bytes::{be16, part, take};
use millrace_dataplane::drops::DropReason;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Icmpv4 {
    /// Type of the message.
    pub icmp_type: u8,
    /// Code, within the type.
    pub code: u8,
    /// Checksum as received. Computed when serialised.
    pub checksum: u16,
    /// The second word, in wire order: its meaning depends on the type.
    pub rest: [u8; 4],
}

impl Icmpv4 {
    /// Bytes of the header.
    pub const HEADER_BYTES: usize = 8;

    /// Reads the header at index `at`, which ends at or before `limit`. Error: `Truncated`.
    #[inline]
    pub fn read(frame: &[u8], at: usize, limit: usize) -> Result<Self, DropReason> {
        let bytes: &[u8; Self::HEADER_BYTES] = take(frame, at, limit)?;
        Ok(Self { icmp_type: bytes[0], code: bytes[1], checksum: be16(bytes, 2), rest: part(bytes, 4) })
    }

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

    /// The identifier of a query.
    #[inline]
    pub const fn identifier(&self) -> u16 {
        u16::from_be_bytes([self.rest[0], self.rest[1]])
    }

    /// Sets the identifier of a query.
    pub fn set_identifier(&mut self, identifier: u16) {
        self.rest[..2].copy_from_slice(&identifier.to_be_bytes());
    }

    /// The sequence number of a query.
    #[inline]
    pub const fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// The next hop's MTU in bytes, of a "fragmentation needed" (RFC 1191 section 4); zero if not said.
    #[inline]
    pub const fn next_hop_mtu(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// The header as on the wire, with a checksum of zero.
    pub(super) fn to_bytes(self) -> [u8; Self::HEADER_BYTES] {
        let [a, b, c, d] = self.rest;
        [self.icmp_type, self.code, 0, 0, a, b, c, d]
    }
}
