//! Random frames: flows whose packets differ in all that a key may leave out, replies, errors, fragments and garbage.

use super::random::Random;
use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpNumber, PacketBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LINK_BYTES: usize = 14;

/// What the packets of a flow carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP.
    Udp,
    /// TCP, whose sequence numbers mostly go on.
    Tcp,
    /// Echo requests.
    Echo,
    /// Another protocol.
    Other(u8),
    /// No IP at all.
    Raw(u16),
}

/// One direction of a flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The port that it arrives at.
    pub port: u16,
    kind: Kind,
    stations: [[u8; 6]; 2],
    addresses: (IpAddr, IpAddr),
    ports: (u16, u16),
    tags: Vec<(u16, u16)>,
    dscp: u8,
    sequence: u32,
    started: bool,
}

/// Addresses of few hosts on each side, so that flows, mappings and rules meet.
pub fn host(random: &mut Random, v6: bool, inside: bool) -> IpAddr {
    let low = random.below(24) as u8;
    match (v6, inside) {
        (false, true) => Ipv4Addr::new(10, 0, low & 3, low + 1).into(),
        (false, false) => Ipv4Addr::new(198, 18, low & 3, low + 1).into(),
        (true, true) => {
            Ipv6Addr::new(0x2001, 0xdb8, 1, u16::from(low & 3), 0, 0, 0, u16::from(low) + 1).into()
        }
        (true, false) => {
            Ipv6Addr::new(0x2001, 0xdb8, 2, u16::from(low & 3), 0, 0, 0, u16::from(low) + 1).into()
        }
    }
}

impl Flow {
    /// A random flow; `inside` tells the side that it starts from.
    pub fn random(random: &mut Random, destination_mac: [u8; 6]) -> Self {
        let inside = !random.once_in(4);
        let v6 = random.once_in(3);
        let kind = match random.below(12) {
            0..5 => Kind::Udp,
            5..8 => Kind::Tcp,
            8..10 => Kind::Echo,
            10 => Kind::Other(*random.pick(&[47, 50, 89, 132])),
            _ => Kind::Raw(*random.pick(&[0x88cc, 0x8847, 0x1234])),
        };
        let tags = match random.below(8) {
            0 => vec![(0x8100, random.next() as u16)],
            1 => vec![(0x88a8, random.next() as u16), (0x8100, random.next() as u16)],
            _ => Vec::new(),
        };
        let well_known = *random.pick(&[53, 80, 443, 5000, 5001]);
        Self {
            port: u16::from(!inside),
            kind,
            stations: [[2, 0, 0, 0, 1, random.below(8) as u8], destination_mac],
            addresses: (host(random, v6, inside), host(random, v6, !inside)),
            ports: (1024 + random.below(64) as u16, well_known),
            tags,
            dscp: *random.pick(&[0, 0, 10, 46]),
            sequence: random.next() as u32,
            started: false,
        }
    }

    /// The next packet of the flow.
    pub fn packet(&mut self, random: &mut Random) -> Vec<u8> {
        let bytes = if random.once_in(40) { 1200 + random.below(500) } else { random.below(120) };
        let payload = random.bytes(bytes);
        let mut frame = self.plain(random, &payload);
        self.vary(random, &mut frame);
        if !self.tags.is_empty() {
            let mut tagged = frame[..12].to_vec();
            for (tpid, tci) in &self.tags {
                tagged.extend(tpid.to_be_bytes());
                tagged.extend(tci.to_be_bytes());
            }
            tagged.extend(&frame[12..]);
            frame = tagged;
        }
        if random.once_in(4) {
            let padding = random.below(20);
            frame.extend(random.bytes(padding));
        }
        frame.truncate(1900);
        frame
    }

    fn plain(&mut self, random: &mut Random, payload: &[u8]) -> Vec<u8> {
        let start = PacketBuilder::ethernet2(self.stations[0], self.stations[1]);
        let mut frame = Vec::with_capacity(1900);
        if let Kind::Raw(ether_type) = self.kind {
            frame.extend(self.stations[1]);
            frame.extend(self.stations[0]);
            frame.extend(ether_type.to_be_bytes());
            frame.extend(payload);
            return frame;
        }
        let ttl = match random.below(30) {
            0 => random.below(4) as u8,
            _ => 5 + random.below(250) as u8,
        };
        let builder = match self.addresses {
            (IpAddr::V4(s), IpAddr::V4(d)) => start.ipv4(s.octets(), d.octets(), ttl),
            (IpAddr::V6(s), IpAddr::V6(d)) => start.ipv6(s.octets(), d.octets(), ttl),
            _ => unreachable!("addresses of one family"),
        };
        let echo = IcmpEchoHeader { id: self.ports.0, seq: random.next() as u16 };
        let written = match self.kind {
            Kind::Udp => builder.udp(self.ports.0, self.ports.1).write(&mut frame, payload),
            Kind::Tcp => {
                let odd = random.once_in(12);
                let sequence = if odd { random.next() as u32 } else { self.sequence };
                let mut tcp =
                    builder.tcp(self.ports.0, self.ports.1, sequence, random.next() as u16 | 0x8000);
                let opens = !self.started || random.once_in(60);
                if opens {
                    tcp = tcp.syn();
                } else {
                    tcp = tcp.ack(random.next() as u32);
                }
                if odd && random.once_in(3) {
                    tcp = tcp.fin();
                }
                if odd && random.once_in(4) {
                    tcp = tcp.rst();
                }
                self.started = true;
                let data = if opens { &[][..] } else { payload };
                self.sequence = sequence.wrapping_add(u32::from(opens) + data.len() as u32);
                tcp.write(&mut frame, data)
            }
            Kind::Echo if self.addresses.0.is_ipv4() => {
                builder.icmpv4(Icmpv4Type::EchoRequest(echo)).write(&mut frame, payload)
            }
            Kind::Echo => builder.icmpv6(Icmpv6Type::EchoRequest(echo)).write(&mut frame, payload),
            Kind::Other(protocol) => builder.write(&mut frame, IpNumber(protocol), payload),
            Kind::Raw(_) => unreachable!("returned above"),
        };
        written.expect("etherparse writes what fits");
        frame
    }

    /// Changes what no key holds, and now and then what it holds or what is guarded.
    fn vary(&self, random: &mut Random, frame: &mut Vec<u8>) {
        if matches!(self.kind, Kind::Raw(_)) {
            return;
        }
        if self.addresses.0.is_ipv4() {
            frame[15] = self.dscp << 2 | random.below(4) as u8;
            frame[18..20].copy_from_slice(&(random.next() as u16).to_be_bytes());
            frame[20] = if random.once_in(2) { 0x40 } else { 0 };
            if random.once_in(30) {
                insert_options(random, frame);
            }
            fix_ipv4(frame);
        } else {
            let class = self.dscp << 2 | random.below(4) as u8;
            frame[14] = 0x60 | class >> 4;
            frame[15] = class << 4 | random.below(16) as u8;
            frame[16..18].copy_from_slice(&(random.next() as u16).to_be_bytes());
        }
        if self.kind == Kind::Udp && frame[14] >> 4 == 4 && random.once_in(6) {
            let at = LINK_BYTES + usize::from(frame[14] & 15) * 4;
            frame[at + 6..at + 8].fill(0);
        }
        if random.once_in(50) {
            let at = random.below(frame.len());
            frame[at] ^= 1 << random.below(8);
        }
    }
}

/// Four or eight bytes of IPv4 options: no-operations and a router alert.
fn insert_options(random: &mut Random, frame: &mut Vec<u8>) {
    let options: &[u8] = if random.once_in(2) { &[1, 1, 1, 0] } else { &[148, 4, 0, 0, 1, 1, 1, 1] };
    frame.splice(34..34, options.iter().copied());
    frame[14] = 0x45 + (options.len() / 4) as u8;
    let length = (frame.len() - LINK_BYTES) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0))).sum()
}

fn folded(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Computes the IPv4 header checksum of an untagged frame.
pub fn fix_ipv4(frame: &mut [u8]) {
    let end = LINK_BYTES + usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let checksum = !folded(sum(&frame[LINK_BYTES..end]));
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// Computes the transport checksum of an untagged frame without options, padding or fragmentation.
fn fix_transport(frame: &mut [u8]) {
    let v4 = frame[14] >> 4 == 4;
    let (at, addresses, protocol) = if v4 { (34, 26..34, frame[23]) } else { (54, 22..54, frame[20]) };
    let field = match protocol {
        6 => 16,
        17 => 6,
        _ => 2,
    };
    frame[at + field..at + field + 2].fill(0);
    let length = (frame.len() - at) as u64;
    let pseudo = if protocol == 1 { 0 } else { sum(&frame[addresses]) + u64::from(protocol) + length };
    let checksum = match !folded(pseudo + sum(&frame[at..])) {
        0 if protocol == 17 => 0xffff,
        checksum => checksum,
    };
    frame[at + field..at + field + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Where the IP packet of an untagged frame ends; none if it is not a plain one.
fn plain_end(frame: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?])));
    let end = match (word(12)?, *frame.get(14)?) {
        (0x0800, 0x45) if word(20)? & 0x3fff == 0 => LINK_BYTES + word(16)?,
        (0x86dd, 0x60..=0x6f) => LINK_BYTES + 40 + word(18)?,
        _ => return None,
    };
    (end <= frame.len()).then_some(end)
}

/// The answer of whoever got `frame`: the same connection in the other direction.
pub fn reply(random: &mut Random, frame: &[u8], destination_mac: [u8; 6]) -> Option<Vec<u8>> {
    let end = plain_end(frame)?;
    let mut reply = frame[..end].to_vec();
    let v4 = reply[14] >> 4 == 4;
    let (at, protocol, width, source) = if v4 { (34, reply[23], 4, 26) } else { (54, reply[20], 16, 22) };
    if reply.len() < at + if protocol == 6 { 20 } else { 8 } {
        return None;
    }
    let from: [u8; 6] = frame[..6].try_into().ok()?;
    reply[..6].copy_from_slice(&destination_mac);
    reply[6..12].copy_from_slice(&from);
    for i in source..source + width {
        reply.swap(i, i + width);
    }
    let ttl = if v4 { 22 } else { 21 };
    reply[ttl] = 2 + random.below(250) as u8;
    match protocol {
        6 | 17 => {
            reply.swap(at, at + 2);
            reply.swap(at + 1, at + 3);
        }
        1 if reply[at] == 8 => reply[at] = 0,
        58 if reply[at] == 128 => reply[at] = 129,
        1 | 58 => return None,
        _ => {}
    }
    if protocol == 6 {
        answer_tcp(&mut reply, at);
    }
    if v4 {
        fix_ipv4(&mut reply);
    }
    if matches!(protocol, 1 | 6 | 17 | 58) {
        fix_transport(&mut reply);
    }
    Some(reply)
}

fn answer_tcp(reply: &mut [u8], at: usize) {
    let word = |at: usize| u32::from_be_bytes([reply[at], reply[at + 1], reply[at + 2], reply[at + 3]]);
    let (sequence, flags) = (word(at + 4), reply[at + 13]);
    let data = (reply.len() - at - usize::from(reply[at + 12] >> 4) * 4) as u32;
    let next = sequence.wrapping_add(data + u32::from(flags & 3 != 0));
    let own = if flags & 0x10 != 0 { word(at + 8) } else { 77 };
    reply[at + 4..at + 8].copy_from_slice(&own.to_be_bytes());
    reply[at + 8..at + 12].copy_from_slice(&next.to_be_bytes());
    reply[at + 13] = if flags & 2 != 0 { 0x12 } else { 0x10 };
}

/// "Port unreachable" about `frame`, from a host on its way to its sender.
pub fn unreachable(random: &mut Random, frame: &[u8], destination_mac: [u8; 6]) -> Option<Vec<u8>> {
    let end = plain_end(frame)?;
    let quote = &frame[LINK_BYTES..end.min(LINK_BYTES + 28 + random.below(100))];
    let from: [u8; 6] = frame[..6].try_into().ok()?;
    let start = PacketBuilder::ethernet2(from, destination_mac);
    let mut error = Vec::new();
    let written = if frame[14] >> 4 == 4 {
        let code = etherparse::icmpv4::DestUnreachableHeader::Port;
        let source = Ipv4Addr::new(198, 18, 9, 9).octets();
        let builder = start.ipv4(source, frame[26..30].try_into().ok()?, 60);
        builder.icmpv4(Icmpv4Type::DestinationUnreachable(code)).write(&mut error, quote)
    } else {
        let code = etherparse::icmpv6::DestUnreachableCode::Port;
        let source = Ipv6Addr::new(0x2001, 0xdb8, 2, 9, 0, 0, 0, 9).octets();
        let builder = start.ipv6(source, frame[22..38].try_into().ok()?, 60);
        builder.icmpv6(Icmpv6Type::DestinationUnreachable(code)).write(&mut error, quote)
    };
    written.ok().map(|()| error)
}

/// The fragments of an IPv4 packet, in an order that may be wrong; none if it is too short to be cut.
pub fn fragments(random: &mut Random, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let end = plain_end(frame)?;
    if frame[14] != 0x45 || end < 34 + 48 {
        return None;
    }
    let data = &frame[34..end];
    let cut = (24 + random.below(data.len() - 24)) & !7;
    let mut pieces = Vec::new();
    for (offset, part, more) in [(0, &data[..cut], true), (cut, &data[cut..], false)] {
        let mut piece = frame[..34].to_vec();
        piece[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
        piece[20..22].copy_from_slice(&((offset / 8) as u16 | u16::from(more) << 13).to_be_bytes());
        piece.extend(part);
        fix_ipv4(&mut piece);
        pieces.push(piece);
    }
    if random.once_in(3) {
        pieces.swap(0, 1);
    }
    if random.once_in(6) {
        pieces.pop();
    }
    Some(pieces)
}

/// Bytes without meaning, or a frame cut off.
pub fn garbage(random: &mut Random, frame: &[u8]) -> Vec<u8> {
    if random.once_in(2) {
        return frame[..random.below(frame.len())].to_vec();
    }
    let count = random.below(150);
    let mut bytes = random.bytes(count);
    if bytes.len() > 14 {
        let ether_type: u16 = *random.pick(&[0x0800, 0x86dd, 0x0806, 0x8100]);
        bytes[12..14].copy_from_slice(&ether_type.to_be_bytes());
    }
    bytes
}
