//! Segments, and the numbers in them.

use crate::packet::Layout;

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;

/// The parts of a segment that the tracker looks at, in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Bytes of payload.
    pub payload_bytes: u32,
    /// Window as it stands in the header.
    pub window: u16,
    /// Flags.
    pub flags: u8,
}

/// True if `b` comes after `a` in sequence space (RFC 9293 section 3.4). Two numbers that lie opposite come after each other, and so
/// are in nobody's window.
#[inline]
pub(super) fn after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).wrapping_sub(1) as i32 >= 0
}

#[inline]
fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

impl Segment {
    /// Reads the segment of a TCP packet with this layout.
    #[inline(always)]
    pub fn read(bytes: &[u8], layout: &Layout) -> Self {
        let l4 = usize::from(layout.l4);
        let Some(header) = bytes.get(l4..l4 + 20) else { return Self::default() };
        let payload = usize::from(layout.end).saturating_sub(l4 + usize::from(header[12] >> 4) * 4);
        Self {
            sequence: be32(header, 4),
            acknowledgment: be32(header, 8),
            payload_bytes: payload as u32,
            window: u16::from_be_bytes([header[14], header[15]]),
            flags: header[13],
        }
    }

    pub(super) fn end(&self) -> u32 {
        self.sequence
            .wrapping_add(self.payload_bytes)
            .wrapping_add(u32::from(self.flags & SYN != 0))
            .wrapping_add(u32::from(self.flags & FIN != 0))
    }
}

/// The window scale that a SYN offers, from the options of the TCP header at `header` (RFC 7323 section 2.2).
pub fn window_scale(header: &[u8]) -> Option<u8> {
    let length = usize::from(header.get(12)? >> 4) * 4;
    let mut options = header.get(20..length)?;
    loop {
        match *options.first()? {
            0 => return None,
            1 => options = &options[1..],
            kind => {
                let bytes = usize::from(*options.get(1)?);
                if kind == 3 && bytes == 3 {
                    return Some((*options.get(2)?).min(14));
                }
                options = options.get(bytes.max(2)..)?;
            }
        }
    }
}
