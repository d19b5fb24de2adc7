//! ICMP (RFC 792, RFC 4443): the eight bytes that all messages share. What types mean is in `icmpv4` and `icmpv6`.

use super::bytes::{be16, part, take};
use millrace_dataplane::drops::DropReason;

/// The header of a message of ICMP for IP version `VERSION`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Icmp<const VERSION: u8> {
    /// Type of the message.
    pub icmp_type: u8,
    /// Code, within the type.
    pub code: u8,
    /// Checksum as received. Computed when serialised.
    pub checksum: u16,
    /// The second word, in wire order: its meaning depends on the type.
    pub rest: [u8; 4],
}

impl<const VERSION: u8> Icmp<VERSION> {
    /// Bytes of the header.
    pub const HEADER_BYTES: usize = 8;

    /// Reads the header at index `at`, which ends at or before `limit`. Error: `Truncated`.
    #[inline]
    pub fn read(frame: &[u8], at: usize, limit: usize) -> Result<Self, DropReason> {
        let bytes: &[u8; 8] = take(frame, at, limit)?;
        Ok(Self { icmp_type: bytes[0], code: bytes[1], checksum: be16(bytes, 2), rest: part(bytes, 4) })
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

    /// The header as on the wire, with a checksum of zero.
    pub(super) fn to_bytes(self) -> [u8; 8] {
        let [a, b, c, d] = self.rest;
        [self.icmp_type, self.code, 0, 0, a, b, c, d]
    }
}
