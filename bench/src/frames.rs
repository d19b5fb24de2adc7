//! Frames of the benchmark's flows: what inside hosts send, what outside hosts answer, and answers to address resolution.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP flags.
pub mod flags {
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
}

/// Least bytes of a frame here, as the design's table counts them.
pub const FRAME_BYTES_MIN: usize = 64;
/// Bytes of a frame that a template holds; what follows is payload that nobody reads.
pub const TEMPLATE_BYTES_MAX: usize = 128;

/// What a segment says; UDP ignores it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// Flags.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTuple {
    /// Protocol, 6 or 17.
    pub protocol: u8,
    /// Source.
    pub source: (IpAddr, u16),
    /// Destination.
    pub destination: (IpAddr, u16),
}

impl FlowTuple {
    /// The `index`-th flow from inside, with so many flows from each host; to 131,072 outside hosts.
    pub fn nth(index: u32, flows_per_host: u32, protocol: u8, v6: bool) -> Self {
        let (host, nth) = (index / flows_per_host.max(1), index % flows_per_host.max(1));
        let server = index.wrapping_mul(0x9e37_79b9) >> 15;
        let (source, destination): (IpAddr, IpAddr) = if v6 {
            let (inside, outside) = (0xfd00_0000_0000_0000u128 << 64, 0x2001_0db8_00ff_0000u128 << 64);
            (
                Ipv6Addr::from(inside | u128::from(host + 256)).into(),
                Ipv6Addr::from(outside | u128::from(server + 1)).into(),
            )
        } else {
            let outside = u32::from(Ipv4Addr::new(198, 18, 0, 0)) | server;
            (Ipv4Addr::from(0x0a40_0000 + host).into(), Ipv4Addr::from(outside).into())
        };
        let port = 10_000_u16.wrapping_add((nth as u16).wrapping_mul(17));
        Self { protocol, source: (source, port), destination: (destination, 443) }
    }

    /// The tuple of the first IP header of `frame`, if it is TCP or UDP.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let byte = |at: usize| frame.get(at).copied();
        let be16 = |at: usize| Some(u16::from_be_bytes([byte(at)?, byte(at + 1)?]));
        let (protocol, source, destination, l4): (u8, IpAddr, IpAddr, usize) = match be16(12)? {
            0x0800 => {
                let address =
                    |at: usize| frame.get(at..at + 4)?.first_chunk::<4>().map(|b| Ipv4Addr::from(*b).into());
                (byte(23)?, address(26)?, address(30)?, 34)
            }
            0x86dd => {
                let address = |at: usize| {
                    frame.get(at..at + 16)?.first_chunk::<16>().map(|b| Ipv6Addr::from(*b).into())
                };
                (byte(20)?, address(22)?, address(38)?, 54)
            }
            _ => return None,
        };
        matches!(protocol, 6 | 17).then_some(())?;
        Some(Self { protocol, source: (source, be16(l4)?), destination: (destination, be16(l4 + 2)?) })
    }

    /// The opposite direction.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { source: self.destination, destination: self.source, ..*self }
    }

    /// Least bytes of such a frame.
    pub fn frame_bytes_min(&self) -> usize {
        self.header_bytes().max(FRAME_BYTES_MIN)
    }

    fn header_bytes(&self) -> usize {
        let l3 = if self.source.0.is_ipv4() { 20 } else { 40 };
        14 + l3 + if self.protocol == 6 { 20 } else { 8 }
    }

    /// Writes a frame of `frame_bytes` bytes in all, as much of it as `target` holds; the rest is zero payload. The IPv4
    /// header's checksum is right, and so is that of TCP and UDP for that payload.
    pub fn write(&self, frame_bytes: usize, macs: ([u8; 6], [u8; 6]), segment: Segment, target: &mut [u8]) {
        let mut frame = [0u8; TEMPLATE_BYTES_MAX];
        // A SYN carries nothing: the rest of its frame is padding.
        let bytes = if self.protocol == 6 && segment.flags & flags::SYN != 0 {
            self.header_bytes()
        } else {
            frame_bytes.max(self.frame_bytes_min())
        };
        frame[..6].copy_from_slice(&macs.0);
        frame[6..12].copy_from_slice(&macs.1);
        let l4 = self.write_network(bytes, &mut frame);
        frame[l4..l4 + 2].copy_from_slice(&self.source.1.to_be_bytes());
        frame[l4 + 2..l4 + 4].copy_from_slice(&self.destination.1.to_be_bytes());
        let length = (bytes - l4) as u16;
        let checksum = if self.protocol == 6 {
            frame[l4 + 4..l4 + 8].copy_from_slice(&segment.sequence.to_be_bytes());
            frame[l4 + 8..l4 + 12].copy_from_slice(&segment.acknowledgment.to_be_bytes());
            (frame[l4 + 12], frame[l4 + 13]) = (0x50, segment.flags);
            frame[l4 + 14..l4 + 16].copy_from_slice(&0xffffu16.to_be_bytes());
            l4 + 16
        } else {
            frame[l4 + 4..l4 + 6].copy_from_slice(&length.to_be_bytes());
            l4 + 6
        };
        let addresses = if l4 == 34 { &frame[26..34] } else { &frame[22..54] };
        let sum = sum(addresses) + u32::from(self.protocol) + u32::from(length) + sum(&frame[l4..]);
        let folded = match !fold(sum) {
            0 => 0xffff,
            folded => folded,
        };
        frame[checksum..checksum + 2].copy_from_slice(&folded.to_be_bytes());
        let count = target.len().min(frame.len());
        target[..count].copy_from_slice(&frame[..count]);
    }

    /// Writes the network header; returns where the transport header starts.
    fn write_network(&self, bytes: usize, frame: &mut [u8; TEMPLATE_BYTES_MAX]) -> usize {
        match (self.source.0, self.destination.0) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                (frame[12], frame[13], frame[14]) = (0x86, 0xdd, 0x60);
                frame[18..20].copy_from_slice(&((bytes - 54) as u16).to_be_bytes());
                (frame[20], frame[21]) = (self.protocol, 64);
                frame[22..38].copy_from_slice(&source.octets());
                frame[38..54].copy_from_slice(&destination.octets());
                54
            }
            (source, destination) => {
                let v4 = |address| if let IpAddr::V4(v4) = address { v4 } else { Ipv4Addr::UNSPECIFIED };
                (frame[12], frame[13], frame[14]) = (0x08, 0x00, 0x45);
                frame[16..18].copy_from_slice(&((bytes - 14) as u16).to_be_bytes());
                (frame[22], frame[23]) = (64, self.protocol);
                frame[26..30].copy_from_slice(&v4(source).octets());
                frame[30..34].copy_from_slice(&v4(destination).octets());
                let checksum = !fold(sum(&frame[14..34]));
                frame[24..26].copy_from_slice(&checksum.to_be_bytes());
                34
            }
        }
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from)).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What a host with the address `mac` answers to an ARP request or a neighbour solicitation, whatever the address asked for.
pub fn resolution_answer(frame: &[u8], mac: [u8; 6]) -> Option<Vec<u8>> {
    match frame.get(12..14)? {
        [0x08, 0x06] if frame.get(20..22)? == [0, 1] => Some(arp_reply(frame.get(..42)?, mac)),
        [0x86, 0xdd] if *frame.get(20)? == 58 && *frame.get(54)? == 135 => {
            Some(neighbour_advertisement(frame.get(..78)?, mac))
        }
        _ => None,
    }
}

fn arp_reply(request: &[u8], mac: [u8; 6]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[..6].copy_from_slice(&request[6..12]);
    reply[6..12].copy_from_slice(&mac);
    reply[21] = 2;
    reply[22..28].copy_from_slice(&mac);
    reply[28..32].copy_from_slice(&request[38..42]);
    reply[32..38].copy_from_slice(&request[22..28]);
    reply[38..42].copy_from_slice(&request[28..32]);
    reply
}

/// RFC 4861 section 4.4, solicited and with the target's link-layer address.
fn neighbour_advertisement(solicitation: &[u8], mac: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0u8; 86];
    frame[..6].copy_from_slice(&solicitation[6..12]);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    (frame[19], frame[20], frame[21]) = (32, 58, 255);
    frame[22..38].copy_from_slice(&solicitation[62..78]);
    frame[38..54].copy_from_slice(&solicitation[22..38]);
    (frame[54], frame[58]) = (136, 0x60);
    frame[62..78].copy_from_slice(&solicitation[62..78]);
    (frame[78], frame[79]) = (2, 1);
    frame[80..86].copy_from_slice(&mac);
    let sum = sum(&frame[22..54]) + 58 + 32 + sum(&frame[54..]);
    frame[56..58].copy_from_slice(&(!fold(sum)).to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_dataplane::packet::Verify;
    use millrace_dataplane::packet::parse::parse;

    #[test]
    fn frames_are_valid_and_tell_their_tuple() {
        for protocol in [6, 17] {
            for v6 in [false, true] {
                let tuple = FlowTuple::nth(123_456, 64, protocol, v6);
                let bytes = tuple.frame_bytes_min();
                let mut frame = vec![0; bytes];
                tuple.write(
                    bytes,
                    ([2; 6], [4; 6]),
                    Segment { flags: flags::ACK, ..Segment::default() },
                    &mut frame,
                );
                assert!(parse(&frame, Verify::All).is_ok(), "{protocol} {v6}");
                assert_eq!(FlowTuple::of(&frame), Some(tuple));
            }
        }
    }

    #[test]
    fn flows_differ() {
        let mut seen = std::collections::HashSet::new();
        for flows_per_host in [1, 64, 65_536] {
            seen.clear();
            assert!((0..100_000).all(|i| seen.insert(FlowTuple::nth(i, flows_per_host, 17, false).source)));
        }
    }
}
