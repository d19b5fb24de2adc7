//! What a kernel leaves to a device: the virtio-net header says it (OASIS virtio 1.2 section 5.1.6), software does it.
//!
//! Packet sockets and tap devices hand frames over as the stack made them: checksums that cover a pseudo-header only,
//! TCP or UDP of up to 64 KiB under one set of headers. [`finish_checksum`] completes the first, [`Cut`] makes packets
//! of the second, or [`Pieces`] of one that was carried whole for a while; [`leave_to_kernel`] makes it what a kernel takes. Everything is total: a header that contradicts its frame is a counted drop.

mod segment;
#[cfg(test)]
mod tests;
mod whole;

pub use segment::Cut;
pub use whole::{Pieces, leave_to_kernel, segment_ip_bytes, whole_header};

use crate::drops::DropReason;
use crate::packet::{NoRoom, Packet, checksum};

/// Bytes of the header in front of a frame.
pub const VNET_HEADER_BYTES: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_ECN`: beside a type, the first segment alone carries CWR.
const GSO_ECN: u8 = 0x80;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
const PROTOCOL_SCTP: u8 = 132;
/// Where SCTP keeps its CRC (RFC 9260 section 3.1), which is no sum of words.
const SCTP_CRC_OFFSET: u16 = 8;

/// What shall be cut, and so what its segments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segmentation {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either: datagrams of one flow, not fragments of one datagram.
    Udp,
}

/// A virtio-net header, in the machine's byte order as Linux passes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Bytes of all headers: a hint that is not trusted.
    pub header_bytes: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where the checksum begins to cover, counted from the frame's start.
    pub checksum_start: u16,
    /// Where the checksum's field is, counted from there.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Reads a header.
    pub fn parse(bytes: &[u8; VNET_HEADER_BYTES]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_bytes: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; VNET_HEADER_BYTES] {
        let mut bytes = [0; VNET_HEADER_BYTES];
        (bytes[0], bytes[1]) = (self.flags, self.gso_type);
        let words = [self.header_bytes, self.gso_size, self.checksum_start, self.checksum_offset];
        for (target, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            target.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Whether the checksum's field holds the sum of the pseudo-header only.
    pub const fn needs_checksum(&self) -> bool {
        self.flags & NEEDS_CHECKSUM != 0
    }

    /// How the frame is to be cut; `None` if it is one packet.
    ///
    /// # Errors
    /// [`DropReason::OffloadUnfinished`] for a kind that is not known.
    pub const fn segmentation(&self) -> Result<Option<Segmentation>, DropReason> {
        match self.gso_type & !GSO_ECN {
            GSO_NONE => Ok(None),
            GSO_TCP4 => Ok(Some(Segmentation::Tcp4)),
            GSO_TCP6 => Ok(Some(Segmentation::Tcp6)),
            GSO_UDP => Ok(Some(Segmentation::Udp)),
            _ => Err(DropReason::OffloadUnfinished),
        }
    }
}

/// Completes the checksum of `frame`, if its header asks for it.
///
/// # Errors
/// [`DropReason::OffloadUnfinished`] if the field is outside the frame, or is no Internet checksum.
pub fn finish_checksum(frame: &mut [u8], header: &VnetHeader) -> Result<(), DropReason> {
    if !header.needs_checksum() {
        return Ok(());
    }
    if header.checksum_offset == SCTP_CRC_OFFSET && protocol_of(frame) == Some(PROTOCOL_SCTP) {
        return Err(DropReason::OffloadUnfinished);
    }
    let offset = usize::from(header.checksum_offset);
    let covered = frame.get_mut(usize::from(header.checksum_start)..).ok_or(DropReason::OffloadUnfinished)?;
    // The field takes part: it holds the sum of the pseudo-header.
    let sum = checksum::finish(checksum::sum(covered));
    let field = covered.get_mut(offset..offset + 2).ok_or(DropReason::OffloadUnfinished)?;
    // Zero would say that there is none (RFC 768); both representations mean the same to the others.
    field.copy_from_slice(&if sum == 0 { u16::MAX } else { sum }.to_ne_bytes());
    Ok(())
}

/// The transport protocol of a frame, extension headers not followed.
fn protocol_of(frame: &[u8]) -> Option<u8> {
    let (l3, is_ipv6) = segment::network_header(frame)?;
    frame.get(l3 + if is_ipv6 { 6 } else { 9 }).copied()
}

/// Puts a VLAN tag (TPID and TCI, host byte order) back behind the addresses.
///
/// # Errors
/// [`NoRoom`] if the headroom is smaller or the frame has no addresses; nothing changed then.
pub fn insert_tag(packet: &mut Packet, tpid: u16, tci: u16) -> Result<(), NoRoom> {
    const ADDRESSES: usize = 12;
    if packet.len() < ADDRESSES {
        return Err(NoRoom);
    }
    packet.push_front(4)?;
    let bytes = packet.bytes_mut();
    bytes.copy_within(4..4 + ADDRESSES, 0);
    bytes[ADDRESSES..ADDRESSES + 2].copy_from_slice(&tpid.to_be_bytes());
    bytes[ADDRESSES + 2..ADDRESSES + 4].copy_from_slice(&tci.to_be_bytes());
    Ok(())
}
