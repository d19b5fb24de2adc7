//! The UDP header (RFC 768).

use super::bytes::{be16, take};
use millrace_dataplane::drops::DropReason;

/// The header's fields in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Udp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Bytes of header and data. Serialising keeps it when it is shorter than what IP carries (the rest is the
    /// surplus area of RFC 9868) and computes it otherwise.
    pub length: u16,
    /// Checksum as received; zero says that there is none, and serialising keeps it so.
    pub checksum: u16,
}

impl Udp {
    /// Bytes of the header.
    pub const HEADER_BYTES: usize = 8;

    /// Reads the header at index `at`, which ends at or before `limit`; the length is not held against it.
    ///
    /// Errors: `Truncated`; `BadLength` for a length below 8 (also a jumbogram's zero, RFC 2675 section 4).
    #[inline]
    pub fn read(frame: &[u8], at: usize, limit: usize) -> Result<Self, DropReason> {
        let bytes: &[u8; Self::HEADER_BYTES] = take(frame, at, limit)?;
        let length = be16(bytes, 4);
        if usize::from(length) < Self::HEADER_BYTES {
            return Err(DropReason::BadLength);
        }
        Ok(Self {
            source_port: be16(bytes, 0),
            destination_port: be16(bytes, 2),
            length,
            checksum: be16(bytes, 6),
        })
    }

    /// The header as on the wire, with its fields as they are.
    pub(super) fn to_bytes(self) -> [u8; Self::HEADER_BYTES] {
        let mut out = [0; Self::HEADER_BYTES];
        out[..2].copy_from_slice(&self.source_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        out[4..6].copy_from_slice(&self.length.to_be_bytes());
        out[6..].copy_from_slice(&self.checksum.to_be_bytes());
        out
    }
}
