//! Cutting a frame into packets: TCP segmentation offload and UDP segmentation offload in software.
//!
//! Each packet has the frame's headers with what differs from packet to packet: lengths, IPv4 identification, sequence
//! number, flags, checksums. The identification counts up from the frame's (as Linux's `inet_gso_segment`), PSH and FIN
//! are on the last segment only, CWR on the first only (RFC 3168 section 6.1.2: it is said once).

use super::{NEEDS_CHECKSUM, Segmentation, VnetHeader};
use crate::drops::DropReason;
use crate::packet::{Gso, checksum};

const ETHERNET_BYTES: usize = 14;
const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const ETHER_TYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const IPV4_BYTES_MIN: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP_BYTES_MIN: usize = 20;
const UDP_BYTES: usize = 8;
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;
/// Extension headers that may stand before TCP or UDP: hop-by-hop, routing, destination (RFC 8200 section 4.1).
const EXTENSIONS: [u8; 3] = [0, ROUTING, 60];
const ROUTING: u8 = 43;

/// A frame's way to packets: what was read of its headers, and how far it is cut.
///
/// It does not hold the frame; every call is given the same one.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    is_ipv6: bool,
    is_tcp: bool,
    /// A UDP datagram without checksum stays so.
    has_checksum: bool,
    l3: usize,
    l4: usize,
    /// Where the payload begins, where the next packet's does, and where all ends.
    payload: usize,
    at: usize,
    end: usize,
    size: usize,
    /// Packets made.
    made: u16,
    sequence: u32,
    identification: u16,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Where the network header is, and whether it is IPv6; `None` for other protocols and more than two tags.
pub(super) fn network_header(frame: &[u8]) -> Option<(usize, bool)> {
    let mut at = ETHERNET_BYTES;
    let mut ether_type = u16_at(frame, at - 2)?;
    for _ in 0..2 {
        if ETHER_TYPES_VLAN.contains(&ether_type) {
            at += 4;
            ether_type = u16_at(frame, at - 2)?;
        }
    }
    match ether_type {
        ETHER_TYPE_IPV4 => Some((at, false)),
        ETHER_TYPE_IPV6 => Some((at, true)),
        _ => None,
    }
}

/// The transport header's place and protocol, and where the IP packet ends by its own word (0 if it has none).
fn transport_header(frame: &[u8], l3: usize, is_ipv6: bool) -> Option<(usize, u8, usize)> {
    let ip = frame.get(l3..)?;
    if !is_ipv6 {
        let header = usize::from(ip.first()? & 0x0f) * 4;
        // A frame that is cut has no fragments.
        let is_fragment = u16_at(ip, 6)? & 0x3fff != 0;
        if ip[0] >> 4 != 4 || header < IPV4_BYTES_MIN || is_fragment {
            return None;
        }
        return Some((l3 + header, *ip.get(9)?, usize::from(u16_at(ip, 2)?)));
    }
    if ip.first()? >> 4 != 6 {
        return None;
    }
    let (mut next, mut at) = (*ip.get(6)?, IPV6_BYTES);
    while EXTENSIONS.contains(&next) {
        // A route that goes on ends elsewhere than the destination says, which the checksum would cover.
        if next == ROUTING && *ip.get(at + 3)? != 0 {
            return None;
        }
        next = *ip.get(at)?;
        at += (usize::from(*ip.get(at + 1)?) + 1) * 8;
    }
    let length = usize::from(u16_at(ip, 4)?);
    Some((l3 + at, next, if length == 0 { 0 } else { IPV6_BYTES + length }))
}

impl Cut {
    /// Reads the headers of a frame that shall be cut.
    ///
    /// # Errors
    /// [`DropReason::OffloadUnfinished`] if its headers are not what `header` says, or are those of a tunnel around what
    /// shall be cut.
    pub fn plan(frame: &[u8], header: &VnetHeader, kind: Segmentation) -> Result<Self, DropReason> {
        let mut cut = Self::read(frame, header.gso_size, kind).ok_or(DropReason::OffloadUnfinished)?;
        if header.needs_checksum() {
            cut.has_checksum = true;
            let named = (usize::from(header.checksum_start), usize::from(header.checksum_offset));
            if named != (cut.l4, cut.checksum_offset()) {
                return Err(DropReason::OffloadUnfinished);
            }
        }
        Ok(cut)
    }

    /// Reads the headers of a frame that was carried whole: as they are now, and with a checksum that is to be written anew.
    ///
    /// # Errors
    /// [`DropReason::OffloadUnfinished`] if there is something else in front of what shall be cut than there was.
    pub fn plan_whole(frame: &[u8], gso: Gso) -> Result<Self, DropReason> {
        let header = VnetHeader { gso_type: gso.kind, ..VnetHeader::default() };
        let kind = header.segmentation()?.ok_or(DropReason::OffloadUnfinished)?;
        let mut cut = Self::read(frame, gso.size, kind).ok_or(DropReason::OffloadUnfinished)?;
        cut.has_checksum = true;
        Ok(cut)
    }

    fn read(frame: &[u8], size: u16, kind: Segmentation) -> Option<Self> {
        let (l3, is_ipv6) = network_header(frame)?;
        let (l4, protocol, ip_bytes) = transport_header(frame, l3, is_ipv6)?;
        let is_tcp = match (kind, protocol, is_ipv6) {
            (Segmentation::Tcp4, PROTOCOL_TCP, false) | (Segmentation::Tcp6, PROTOCOL_TCP, true) => true,
            (Segmentation::Udp, PROTOCOL_UDP, _) => false,
            _ => return None,
        };
        let transport = frame.get(l4..)?;
        let header_bytes = if is_tcp { usize::from(transport.get(12)? >> 4) * 4 } else { UDP_BYTES };
        if transport.len() < header_bytes || (is_tcp && header_bytes < TCP_BYTES_MIN) {
            return None;
        }
        if size == 0 {
            return None;
        }
        // Frames of more than 64 KiB say 0.
        let end = if ip_bytes == 0 { frame.len() } else { frame.len().min(l3 + ip_bytes) };
        let payload = l4 + header_bytes;
        Some(Self {
            is_ipv6,
            is_tcp,
            has_checksum: is_tcp || u16_at(transport, 6)? != 0,
            l3,
            l4,
            payload,
            at: payload,
            end: (end >= payload).then_some(end)?,
            size: usize::from(size),
            made: 0,
            sequence: u32::from_be_bytes(*transport.get(4..)?.first_chunk()?),
            identification: u16_at(frame, l3 + 4)?,
        })
    }

    /// Bytes of the next packet; `None` when there is none.
    pub fn next_bytes(&self) -> Option<usize> {
        let left = self.end - self.at;
        (left > 0 || self.made == 0).then_some(self.payload + left.min(self.size))
    }

    /// Packets that are still to come.
    pub fn count(&self) -> usize {
        let left = self.end - self.at;
        left.div_ceil(self.size).max(usize::from(self.made == 0))
    }

    /// Bytes of the next packet from its IP header on: what an MTU is about. 0 if there is none.
    pub fn next_ip_bytes(&self) -> usize {
        self.next_bytes().map_or(0, |bytes| bytes - self.l3)
    }

    /// Where the IP packet ends in the frame.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Leaves the next packet out.
    pub fn skip(&mut self) {
        self.at = self.end.min(self.at + self.size);
        self.made = self.made.saturating_add(1);
    }

    /// Writes what a device that is to cut the frame expects of its checksum's field: the sum of the pseudo-header
    /// (`CHECKSUM_PARTIAL` in Linux's words). A UDP header says the length that the sum is of, whatever it said.
    pub fn write_partial_checksum(&self, frame: &mut [u8]) {
        let field = self.l4 + self.checksum_offset();
        let bytes = self.end - self.l4;
        if !self.is_tcp {
            let length = u16::try_from(bytes).unwrap_or(u16::MAX);
            frame[self.l4 + 4..self.l4 + 6].copy_from_slice(&length.to_be_bytes());
        }
        let sum = self.pseudo_header(frame, bytes);
        frame[field..field + 2].copy_from_slice(&checksum::fold(sum).to_ne_bytes());
    }

    /// The header that asks a device to cut the frame.
    pub fn header(&self, gso: Gso) -> VnetHeader {
        VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: gso.kind,
            header_bytes: self.payload as u16,
            gso_size: gso.size,
            checksum_start: self.l4 as u16,
            checksum_offset: self.checksum_offset() as u16,
        }
    }

    const fn checksum_offset(&self) -> usize {
        if self.is_tcp { 16 } else { 6 }
    }

    fn pseudo_header(&self, packet: &[u8], transport_bytes: usize) -> u64 {
        let addresses = if self.is_ipv6 { self.l3 + 8..self.l3 + 40 } else { self.l3 + 12..self.l3 + 20 };
        let protocol = if self.is_tcp { PROTOCOL_TCP } else { PROTOCOL_UDP };
        checksum::pseudo_header(&packet[addresses], protocol, transport_bytes)
    }

    /// Writes the next packet to `target`, which has [`Self::next_bytes`] bytes. `frame` is what was planned with.
    ///
    /// # Panics
    /// If `target` or `frame` has another length: a mistake of the caller.
    pub fn write_next(&mut self, frame: &[u8], target: &mut [u8]) {
        let from = self.at;
        let count = target.len() - self.payload;
        let (headers, payload) = target.split_at_mut(self.payload);
        headers.copy_from_slice(&frame[..self.payload]);
        payload.copy_from_slice(&frame[from..from + count]);
        self.at += count;
        let is_last = self.at >= self.end;
        self.write_network(headers, count);
        if self.is_tcp {
            let offset = (from - self.payload) as u32;
            let tcp = &mut headers[self.l4..];
            tcp[4..8].copy_from_slice(&self.sequence.wrapping_add(offset).to_be_bytes());
            if !is_last {
                tcp[13] &= !TCP_FIN_PSH;
            }
            if self.made > 0 {
                tcp[13] &= !TCP_CWR;
            }
        } else {
            let length = u16::try_from(UDP_BYTES + count).unwrap_or(u16::MAX);
            headers[self.l4 + 4..self.l4 + 6].copy_from_slice(&length.to_be_bytes());
        }
        if self.has_checksum {
            self.write_checksum(target);
        }
        self.made = self.made.saturating_add(1);
    }

    fn write_network(&self, headers: &mut [u8], payload_bytes: usize) {
        let behind = self.payload - self.l3 + payload_bytes;
        let ip = &mut headers[self.l3..];
        if self.is_ipv6 {
            let length = u16::try_from(behind - IPV6_BYTES).unwrap_or(u16::MAX);
            ip[4..6].copy_from_slice(&length.to_be_bytes());
            return;
        }
        let length = u16::try_from(behind).unwrap_or(u16::MAX);
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[4..6].copy_from_slice(&self.identification.wrapping_add(self.made).to_be_bytes());
        ip[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(&ip[..self.l4 - self.l3]));
        ip[10..12].copy_from_slice(&sum.to_ne_bytes());
    }

    fn write_checksum(&self, packet: &mut [u8]) {
        let field = self.l4 + self.checksum_offset();
        packet[field..field + 2].fill(0);
        let transport = &packet[self.l4..];
        let pseudo = self.pseudo_header(packet, transport.len());
        let sum = checksum::finish(pseudo + checksum::sum(transport));
        // A UDP checksum of zero is sent as all ones (RFC 768).
        let sum = if sum == 0 && !self.is_tcp { u16::MAX } else { sum };
        packet[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
    }
}
