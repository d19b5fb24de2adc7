//! The IPv6 header and the chain of its extension headers (RFC 8200, RFC 7045).

use super::bytes::{Span, be16, be32, index, part, take};
use super::protocol;
use millrace_dataplane::drops::DropReason;
use std::net::Ipv6Addr;

/// Hop limit of packets that the data plane originates.
pub const ORIGINATED_HOP_LIMIT: u8 = 64;
/// Most extension headers of a packet; a longer chain is refused (RFC 8504 section 5.3 allows limits).
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// The fragment header (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentHeader {
    /// Index of the header, from the start of the frame.
    pub at: u16,
    /// Where this fragment belongs, in units of eight bytes.
    pub fragment_offset: u16,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Identification, for reassembly.
    pub identification: u32,
}

/// The routing header (RFC 8200 section 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoutingHeader {
    /// Index of the header, from the start of the frame.
    pub at: u16,
    /// Routing type; type 0 is deprecated (RFC 5095).
    pub routing_type: u8,
    /// Nodes still to be visited. Unless zero, the destination address is not the last one.
    pub segments_left: u8,
}

/// The header's fields in host byte order, and what its extension headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv6 {
    /// Differentiated services code point, 6 bits (RFC 2474).
    pub dscp: u8,
    /// Explicit congestion notification, 2 bits (RFC 3168).
    pub ecn: u8,
    /// Flow label, 20 bits (RFC 6437).
    pub flow_label: u32,
    /// Bytes behind this header, extension headers included. Computed when serialised.
    pub payload_length: u16,
    /// What follows this header: an extension header or the upper protocol.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// The extension headers' bytes in the frame.
    pub extensions: Span,
    /// The upper protocol: what the last extension header announces.
    pub protocol: u8,
    /// The fragment header, if there is one.
    pub fragment: Option<FragmentHeader>,
    /// The routing header, if there is one.
    pub routing: Option<RoutingHeader>,
}

impl Ipv6 {
    /// Bytes of the header without extension headers.
    pub const HEADER_BYTES: usize = 40;

    /// A header for a packet that the data plane originates: no extension headers, hop limit 64.
    pub const fn originated(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8) -> Self {
        Self {
            dscp: 0,
            ecn: 0,
            flow_label: 0,
            payload_length: 0,
            next_header: protocol,
            hop_limit: ORIGINATED_HOP_LIMIT,
            source,
            destination,
            extensions: Span::EMPTY,
            protocol,
            fragment: None,
            routing: None,
        }
    }

    /// Reads the fixed header at index `at`, which ends at or before `limit`. `payload_length` is not held against it,
    /// and the extension headers are not walked yet: see [`Ipv6::walk`].
    ///
    /// Errors: `Truncated`; `BadHeader` for another version.
    #[inline]
    pub fn read(frame: &[u8], at: usize, limit: usize) -> Result<Self, DropReason> {
        let bytes: &[u8; Self::HEADER_BYTES] = take(frame, at, limit)?;
        let first = be32(bytes, 0);
        if first >> 28 != 6 {
            return Err(DropReason::BadHeader);
        }
        Ok(Self {
            dscp: ((first >> 22) & 0x3f) as u8,
            ecn: ((first >> 20) & 3) as u8,
            flow_label: first & 0x000f_ffff,
            payload_length: be16(bytes, 4),
            next_header: bytes[6],
            hop_limit: bytes[7],
            source: Ipv6Addr::from(part::<40, 16>(bytes, 8)),
            destination: Ipv6Addr::from(part::<40, 16>(bytes, 24)),
            extensions: Span::between(at + Self::HEADER_BYTES, at + Self::HEADER_BYTES),
            protocol: bytes[6],
            fragment: None,
            routing: None,
        })
    }

    /// Walks the extension headers from index `at` up to `end`, and sets `extensions`, `protocol`, `fragment` and
    /// `routing`. ESP, "no next header", any other protocol and a fragment that is not the first end the walk.
    ///
    /// Errors: `Truncated`, or `FragmentInvalid` in a first fragment, which must hold the whole chain (RFC 7112);
    /// `BadHeader` for hop-by-hop options that are not first (RFC 8200 section 4.1); `BadLength` for an impossible
    /// authentication header; `FragmentInvalid` for a second fragment header; `UnsupportedProtocol` for more than
    /// [`EXTENSION_HEADERS_MAX`] headers.
    #[inline]
    pub fn walk(&mut self, frame: &[u8], at: usize, end: usize) -> Result<(), DropReason> {
        if !is_extension(self.next_header) {
            return Ok(());
        }
        self.walk_extensions(frame, at, end).map_err(|reason| match self.fragment {
            Some(_) if reason == DropReason::Truncated => DropReason::FragmentInvalid,
            _ => reason,
        })
    }

    fn walk_extensions(&mut self, frame: &[u8], start: usize, end: usize) -> Result<(), DropReason> {
        let mut at = start;
        for count in 0.. {
            if !is_extension(self.protocol) {
                break;
            }
            if count == EXTENSION_HEADERS_MAX {
                return Err(DropReason::UnsupportedProtocol);
            }
            let bytes: &[u8; 8] = take(frame, at, end)?;
            let length = self.note_extension(bytes, at, count == 0)?;
            if at + length > end {
                return Err(DropReason::Truncated);
            }
            at += length;
            self.protocol = bytes[0];
            if self.is_later_fragment() {
                break;
            }
        }
        self.extensions = Span::between(start, at);
        Ok(())
    }

    /// Takes in one extension header, of which `bytes` are the first eight, and returns its length in bytes.
    fn note_extension(&mut self, bytes: &[u8; 8], at: usize, first: bool) -> Result<usize, DropReason> {
        match self.protocol {
            protocol::HOP_BY_HOP if !first => return Err(DropReason::BadHeader),
            protocol::FRAGMENT => {
                if self.fragment.is_some() {
                    return Err(DropReason::FragmentInvalid);
                }
                let offset = be16(bytes, 2);
                self.fragment = Some(FragmentHeader {
                    at: index(at),
                    fragment_offset: offset >> 3,
                    more_fragments: offset & 1 != 0,
                    identification: be32(bytes, 4),
                });
                return Ok(8);
            }
            protocol::AUTHENTICATION => {
                // RFC 4302 section 2.2: in words of four bytes, minus 2; the fixed part has three.
                let length = (usize::from(bytes[1]) + 2) * 4;
                return if length < 12 { Err(DropReason::BadLength) } else { Ok(length) };
            }
            protocol::ROUTING if self.routing.is_none() => {
                self.routing =
                    Some(RoutingHeader { at: index(at), routing_type: bytes[2], segments_left: bytes[3] });
            }
            _ => {}
        }
        Ok((usize::from(bytes[1]) + 1) * 8)
    }

    /// Whether this is a fragment: not a whole packet. An atomic fragment (RFC 6946) is a whole packet.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        matches!(self.fragment, Some(f) if f.more_fragments || f.fragment_offset != 0)
    }

    /// Whether this is a fragment without the start of the payload.
    #[inline]
    pub const fn is_later_fragment(&self) -> bool {
        matches!(self.fragment, Some(f) if f.fragment_offset != 0)
    }

    /// Whether the destination address is the last one: no routing header has segments left.
    #[inline]
    pub const fn destination_is_final(&self) -> bool {
        !matches!(self.routing, Some(r) if r.segments_left != 0)
    }

    /// The fixed header as on the wire, with `payload_length` from the argument.
    pub(super) fn to_bytes(self, payload_length: u16) -> [u8; Self::HEADER_BYTES] {
        let mut out = [0; Self::HEADER_BYTES];
        let first = (6 << 28)
            | (u32::from(self.dscp & 0x3f) << 22)
            | (u32::from(self.ecn & 3) << 20)
            | (self.flow_label & 0x000f_ffff);
        out[..4].copy_from_slice(&first.to_be_bytes());
        out[4..6].copy_from_slice(&payload_length.to_be_bytes());
        out[6] = self.next_header;
        out[7] = self.hop_limit;
        out[8..24].copy_from_slice(&self.source.octets());
        out[24..].copy_from_slice(&self.destination.octets());
        out
    }
}

/// Whether `next_header` announces an extension header that the walk passes.
#[inline]
const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
    )
}
