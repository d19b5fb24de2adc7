//! The TCP header and its options (RFC 9293 section 3.1).

use super::bytes::{Span, be16, be32, index, take};
use millrace_dataplane::drops::DropReason;
use std::ops::BitOr;

/// The control bits: the twelve low bits of the word that begins with the data offset, reserved bits included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u16);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x001);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x002);
    /// Reset the connection.
    pub const RST: Self = Self(0x004);
    /// Push.
    pub const PSH: Self = Self(0x008);
    /// The acknowledgment field is valid.
    pub const ACK: Self = Self(0x010);
    /// The urgent pointer is valid.
    pub const URG: Self = Self(0x020);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(0x040);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x080);

    /// Whether all bits of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for TcpFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The header's fields in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tcp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number of the first data byte (of the SYN, if set).
    pub sequence: u32,
    /// Next sequence number that the sender expects.
    pub acknowledgment: u32,
    /// Control bits.
    pub flags: TcpFlags,
    /// Receive window, not scaled.
    pub window: u16,
    /// Checksum as received. Computed when serialised.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent_pointer: u16,
    /// The options' bytes in the frame, at most 40.
    pub options: Span,
}

impl Tcp {
    /// Bytes of the header without options.
    pub const HEADER_BYTES: usize = 20;

    /// Reads the header at index `at`; with its options it ends at or before `limit`.
    ///
    /// Errors: `Truncated`; `BadLength` for a data offset below 5.
    #[inline]
    pub fn read(frame: &[u8], at: usize, limit: usize) -> Result<Self, DropReason> {
        let bytes: &[u8; Self::HEADER_BYTES] = take(frame, at, limit)?;
        let header_bytes = usize::from(bytes[12] >> 4) * 4;
        if header_bytes < Self::HEADER_BYTES {
            return Err(DropReason::BadLength);
        }
        if at + header_bytes > limit {
            return Err(DropReason::Truncated);
        }
        Ok(Self {
            source_port: be16(bytes, 0),
            destination_port: be16(bytes, 2),
            sequence: be32(bytes, 4),
            acknowledgment: be32(bytes, 8),
            flags: TcpFlags(be16(bytes, 12) & 0x0fff),
            window: be16(bytes, 14),
            checksum: be16(bytes, 16),
            urgent_pointer: be16(bytes, 18),
            options: Span::between(at + Self::HEADER_BYTES, at + header_bytes),
        })
    }

    /// Bytes of the header with its options.
    #[inline]
    pub const fn header_bytes(&self) -> usize {
        Self::HEADER_BYTES + self.options.length as usize
    }

    /// The data offset: words of four bytes in the header, 5 to 15.
    pub const fn data_offset(&self) -> u8 {
        (self.header_bytes() / 4) as u8
    }

    /// The options, out of the frame that the header was parsed from.
    pub fn options<'a>(&self, frame: &'a [u8]) -> TcpOptions<'a> {
        TcpOptions { bytes: self.options.of(frame), at: self.options.start }
    }

    /// The maximum segment size option: the index of its two value bytes in the frame, and the value. The index may
    /// be odd: an incremental checksum update must respect that.
    pub fn maximum_segment_size(&self, frame: &[u8]) -> Option<(usize, u16)> {
        self.options(frame).find_map(|found| match found.option {
            TcpOption::MaximumSegmentSize(value) => Some((usize::from(found.at) + 2, value)),
            _ => None,
        })
    }

    /// The header as on the wire with a checksum of zero and with `options` (padded with zeros to whole words; at
    /// most 40 bytes are used). The second value is the header's length in bytes.
    pub(super) fn to_bytes(self, options: &[u8]) -> ([u8; 60], usize) {
        let options = &options[..options.len().min(40)];
        let header_bytes = Self::HEADER_BYTES + options.len().next_multiple_of(4);
        let mut out = [0; 60];
        out[..2].copy_from_slice(&self.source_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        out[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        out[8..12].copy_from_slice(&self.acknowledgment.to_be_bytes());
        // At most 15 words.
        let offset_and_flags = ((header_bytes / 4) as u16) << 12 | (self.flags.0 & 0x0fff);
        out[12..14].copy_from_slice(&offset_and_flags.to_be_bytes());
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        out[18..20].copy_from_slice(&self.urgent_pointer.to_be_bytes());
        out[20..20 + options.len()].copy_from_slice(options);
        (out, header_bytes)
    }
}

/// SACK blocks (RFC 2018 section 3): left and right edges, at most four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SackBlocks {
    edges: [(u32, u32); 4],
    count: u8,
}

impl SackBlocks {
    /// The blocks: sequence numbers of the first byte, and of the byte behind the last.
    pub fn as_slice(&self) -> &[(u32, u32)] {
        &self.edges[..usize::from(self.count)]
    }

    fn read(value: &[u8]) -> Self {
        let mut blocks = Self::default();
        for (edge, bytes) in blocks.edges.iter_mut().zip(value.chunks_exact(8)) {
            let (left, right) = bytes.split_at(4);
            *edge = (word(left), word(right));
            blocks.count += 1;
        }
        blocks
    }
}

/// The big-endian number in `bytes`, of at most four bytes.
fn word(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |sum, &byte| sum << 8 | u32::from(byte))
}

/// One option's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcpOption {
    /// Kind 2: the largest segment that the sender takes, in bytes (RFC 9293 section 3.7.1).
    MaximumSegmentSize(u16),
    /// Kind 3: the window's shift (RFC 7323 section 2), as sent: above 14 counts as 14.
    WindowScale(u8),
    /// Kind 4: SACK is permitted (RFC 2018 section 2).
    SackPermitted,
    /// Kind 5: what arrived out of order (RFC 2018 section 3).
    SackBlocks(SackBlocks),
    /// Kind 8: timestamps (RFC 7323 section 3).
    Timestamps {
        /// The sender's clock.
        value: u32,
        /// The clock value that it echoes.
        echo_reply: u32,
    },
    /// Another kind, or a known one with another length than its own.
    Other {
        /// Kind.
        kind: u8,
        /// Length in bytes, kind and length included.
        length: u8,
    },
}

/// An option and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpOptionAt {
    /// Index of its first byte (the kind), from the start of the frame.
    pub at: u16,
    /// Its meaning.
    pub option: TcpOption,
}

/// The options in order. A no-operation is skipped; the end-of-options kind, and an option whose length contradicts
/// the header, end it.
#[derive(Clone, Debug)]
pub struct TcpOptions<'a> {
    bytes: &'a [u8],
    at: u16,
}

impl TcpOptions<'_> {
    fn skip(&mut self, count: usize) {
        self.bytes = self.bytes.get(count..).unwrap_or_default();
        self.at = index(usize::from(self.at) + count);
    }
}

impl Iterator for TcpOptions<'_> {
    type Item = TcpOptionAt;

    fn next(&mut self) -> Option<TcpOptionAt> {
        while let [1, ..] = self.bytes {
            self.skip(1);
        }
        let &[kind, length, ..] = self.bytes else { return None };
        if kind == 0 || length < 2 {
            return None;
        }
        let value = self.bytes.get(2..usize::from(length))?;
        let option = match (kind, value) {
            (2, _) if length == 4 => TcpOption::MaximumSegmentSize(word(value) as u16),
            (3, &[shift]) => TcpOption::WindowScale(shift),
            (4, []) => TcpOption::SackPermitted,
            (5, _) if matches!(length, 10 | 18 | 26 | 34) => TcpOption::SackBlocks(SackBlocks::read(value)),
            (8, _) if length == 10 => {
                TcpOption::Timestamps { value: word(&value[..4]), echo_reply: word(&value[4..]) }
            }
            _ => TcpOption::Other { kind, length },
        };
        let found = TcpOptionAt { at: self.at, option };
        self.skip(usize::from(length));
        Some(found)
    }
}

/// The window's shift that counts: at most 14 (RFC 7323 section 2.3).
pub const fn effective_window_shift(shift: u8) -> u8 {
    if shift > 14 { 14 } else { shift }
}
