//! The IPv4 header (RFC 791).

use super::bytes::{Span, be16, be32, take};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::packet::checksum;
use std::net::Ipv4Addr;

/// TTL of packets that the data plane originates (RFC 1700).
pub const ORIGINATED_TTL: u8 = 64;

/// The header's fields in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv4 {
    /// Differentiated services code point, 6 bits (RFC 2474).
    pub dscp: u8,
    /// Explicit congestion notification, 2 bits (RFC 3168).
    pub ecn: u8,
    /// Bytes of header and payload. Computed when serialised.
    pub total_length: u16,
    /// Identification, for reassembly.
    pub identification: u16,
    /// The reserved flag bit, carried as it came.
    pub reserved_flag: bool,
    /// The packet may not be fragmented.
    pub dont_fragment: bool,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Where this fragment's payload belongs, in units of eight bytes.
    pub fragment_offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum as received. Computed when serialised.
    pub header_checksum: u16,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// The options' bytes in the frame, at most 40.
    pub options: Span,
}

impl Ipv4 {
    /// Bytes of the header without options.
    pub const HEADER_BYTES: usize = 20;

    /// A header for a packet that the data plane originates: no options, no fragment, TTL 64.
    pub const fn originated(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Self {
        Self {
            dscp: 0,
            ecn: 0,
            total_length: 0,
            identification: 0,
            reserved_flag: false,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: ORIGINATED_TTL,
            protocol,
            header_checksum: 0,
            source,
            destination,
            options: Span::EMPTY,
        }
    }

    /// Reads the header at index `at`. The header ends at or before `limit`; `total_length` is not held against it.
    ///
    /// Errors: `Truncated`; `BadHeader` for another version; `BadLength` for an IHL below 5 or a total length
    /// shorter than the header.
    #[inline]
    pub fn read(frame: &[u8], at: usize, limit: usize) -> Result<Self, DropReason> {
        let bytes: &[u8; Self::HEADER_BYTES] = take(frame, at, limit)?;
        if bytes[0] >> 4 != 4 {
            return Err(DropReason::BadHeader);
        }
        let header_bytes = usize::from(bytes[0] & 0x0f) * 4;
        let total_length = be16(bytes, 2);
        if header_bytes < Self::HEADER_BYTES || usize::from(total_length) < header_bytes {
            return Err(DropReason::BadLength);
        }
        if at + header_bytes > limit {
            return Err(DropReason::Truncated);
        }
        let fragment = be16(bytes, 6);
        Ok(Self {
            dscp: bytes[1] >> 2,
            ecn: bytes[1] & 3,
            total_length,
            identification: be16(bytes, 4),
            reserved_flag: fragment & 0x8000 != 0,
            dont_fragment: fragment & 0x4000 != 0,
            more_fragments: fragment & 0x2000 != 0,
            fragment_offset: fragment & 0x1fff,
            ttl: bytes[8],
            protocol: bytes[9],
            header_checksum: be16(bytes, 10),
            source: Ipv4Addr::from_bits(be32(bytes, 12)),
            destination: Ipv4Addr::from_bits(be32(bytes, 16)),
            options: Span::between(at + Self::HEADER_BYTES, at + header_bytes),
        })
    }

    /// Bytes of the header with its options.
    #[inline]
    pub const fn header_bytes(&self) -> usize {
        Self::HEADER_BYTES + self.options.length as usize
    }

    /// Whether this is a fragment: not a whole packet.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// Whether this is a fragment without the start of the payload.
    #[inline]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment_offset != 0
    }

    /// The header as on the wire, with `options` (padded with zeros to whole words; at most 40 bytes are used),
    /// `total_length` from the argument and the checksum computed. The second value is the header's length in bytes.
    pub(super) fn to_bytes(self, options: &[u8], total_length: u16) -> ([u8; 60], usize) {
        let options = &options[..options.len().min(40)];
        let header_bytes = Self::HEADER_BYTES + options.len().next_multiple_of(4);
        let mut out = [0; 60];
        // At most 15 words.
        out[0] = 0x40 | (header_bytes / 4) as u8;
        out[1] = (self.dscp << 2) | (self.ecn & 3);
        out[2..4].copy_from_slice(&total_length.to_be_bytes());
        out[4..6].copy_from_slice(&self.identification.to_be_bytes());
        let flags = (u16::from(self.reserved_flag) << 15)
            | (u16::from(self.dont_fragment) << 14)
            | (u16::from(self.more_fragments) << 13);
        out[6..8].copy_from_slice(&(flags | (self.fragment_offset & 0x1fff)).to_be_bytes());
        out[8] = self.ttl;
        out[9] = self.protocol;
        out[12..16].copy_from_slice(&self.source.octets());
        out[16..20].copy_from_slice(&self.destination.octets());
        out[20..20 + options.len()].copy_from_slice(options);
        let sum = checksum::finish(checksum::sum(&out[..header_bytes]));
        out[10..12].copy_from_slice(&sum.to_ne_bytes());
        (out, header_bytes)
    }
}

/// Loose and strict source route (RFC 791 section 3.1).
const SOURCE_ROUTES: [u8; 2] = [131, 137];

/// Whether these options have the packet go a way that its sender chose.
pub fn has_source_route(mut options: &[u8]) -> bool {
    loop {
        match options {
            [] | [0, ..] => return false,
            [1, rest @ ..] => options = rest,
            [kind, ..] if SOURCE_ROUTES.contains(kind) => return true,
            [_, length, ..] if *length >= 2 => {
                options = options.get(usize::from(*length)..).unwrap_or_default();
            }
            // Broken: where the next one begins is not known.
            [..] => return false,
        }
    }
}

/// Whether the checksum of the IPv4 header in `header` (options included) is right (RFC 791 section 3.1).
#[inline]
pub fn checksum_is_valid(header: &[u8]) -> bool {
    checksum::fold(checksum::sum(header)) == 0xffff
}
