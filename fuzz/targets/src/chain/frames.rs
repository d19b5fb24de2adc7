//! Frames from random input: of few hosts, so that flows, mappings and rules meet; mostly right, in all shapes.

use crate::frames::{HOSTS4, HOSTS6, OWN, STATION};
use crate::site::EXTERNAL;
use arbitrary::{Result, Unstructured};

/// Longest payload: beyond every MTU.
const PAYLOAD_BYTES_MAX: usize = 1700;

/// What a packet is, before it becomes bytes.
struct Packet {
    v6: bool,
    source: Vec<u8>,
    destination: Vec<u8>,
    ttl: u8,
    class: u8,
    identification: u16,
    /// Offset in units of 8 bytes, and whether more follow.
    fragment: Option<(u16, bool)>,
    dont_fragment: bool,
    protocol: u8,
    transport: Vec<u8>,
}

/// A frame that arrives at `port`.
pub fn frame(input: &mut Unstructured<'_>, port: u16) -> Result<Vec<u8>> {
    let mut frame = match input.int_in_range(0..=15)? {
        0 => arp(input, port)?,
        1 => discovery(input, port)?,
        2 => raw(input, port)?,
        _ => packet(input, port)?.emit(input, port)?,
    };
    if input.ratio(1, 8)? {
        let tag: [u8; 2] = input.arbitrary()?;
        let kind: [u8; 2] = if input.arbitrary()? { [0x81, 0] } else { [0x88, 0xa8] };
        frame.splice(12..12, [kind, tag].concat());
    }
    damage(input, &mut frame)?;
    Ok(frame)
}

/// Now and then bytes are flipped, cut off or added.
pub fn damage(input: &mut Unstructured<'_>, frame: &mut Vec<u8>) -> Result<()> {
    if input.ratio(1, 8)? && !frame.is_empty() {
        let at = input.choose_index(frame.len().min(160))?;
        frame[at] ^= 1 << input.int_in_range(0..=7)?;
    }
    if input.ratio(1, 16)? {
        let length = input.choose_index(frame.len() + 1)?;
        frame.truncate(length);
    }
    if input.ratio(1, 8)? {
        let padding = input.int_in_range(0..=46)?;
        frame.resize(frame.len() + padding, 0);
    }
    Ok(())
}

fn link(input: &mut Unstructured<'_>, port: u16, ether_type: u16) -> Result<Vec<u8>> {
    let destination = match input.int_in_range(0..=15)? {
        0 => [0xff; 6],
        1 => [1, 0, 0x5e, 0, 0, 251],
        2 => [0x33, 0x33, 0, 0, 0, 1],
        3 => STATION[1 - usize::from(port)],
        _ => OWN[usize::from(port)],
    };
    let source = if input.ratio(1, 16)? { input.arbitrary()? } else { STATION[usize::from(port)] };
    Ok([&destination[..], &source, &ether_type.to_be_bytes()].concat())
}

/// An address of the side `inside`, or one that should not be there.
fn address(input: &mut Unstructured<'_>, v6: bool, inside: bool) -> Result<Vec<u8>> {
    let side = usize::from(!inside);
    let choice = input.int_in_range(0..=15)?;
    if !v6 {
        let host = HOSTS4[side];
        let odd = [[10, 0, 0, 254], [192, 0, 2, 1], [10, 0, 0, 255], [224, 0, 0, 1], [0; 4], [127, 0, 0, 1]];
        return Ok(match choice {
            0..=5 => host.to_vec(),
            6 => [10, 0, 1, 2].to_vec(),
            7..=9 => EXTERNAL.octets().to_vec(),
            10 => [192, 0, 2, 110].to_vec(),
            11 => [host[0], host[1], host[2], input.arbitrary()?].to_vec(),
            12 => input.arbitrary::<[u8; 4]>()?.to_vec(),
            _ => input.choose(&odd)?.to_vec(),
        });
    }
    let mut host = HOSTS6[side];
    match choice {
        0..=7 => {}
        8 | 9 => host[14..].fill(0xff),
        10 => host[15] = input.arbitrary()?,
        11 => host = input.arbitrary()?,
        12 => host = [0; 16],
        13 => host[..8].copy_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0]),
        14 => host[..8].copy_from_slice(&[0xff, 0x02, 0, 0, 0, 0, 0, 0]),
        _ => host = HOSTS6[1 - side],
    }
    Ok(host.to_vec())
}

fn payload(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let length = match input.int_in_range(0..=7)? {
        0 => input.int_in_range(1200..=PAYLOAD_BYTES_MAX)?,
        1 => 0,
        _ => input.int_in_range(0..=64)?,
    };
    let fill: u8 = input.arbitrary()?;
    Ok((0..length).map(|at| fill.wrapping_add(at as u8)).collect())
}

fn packet(input: &mut Unstructured<'_>, port: u16) -> Result<Packet> {
    let v6 = input.ratio(1, 3)?;
    let (source, destination) = (address(input, v6, port == 0)?, address(input, v6, port != 0)?);
    let protocol = *input.choose(&[17, 6, if v6 { 58 } else { 1 }, 17, 6, 47, 132, 59])?;
    let ports = [1000, 80, 5000, 2000, 2001, 53, 0];
    let ports = [*input.choose(&ports)?, *input.choose(&ports)?].map(u16::to_be_bytes).concat();
    let data = payload(input)?;
    let transport = match protocol {
        17 => [&ports[..], &(data.len() as u16 + 8).to_be_bytes(), &[0; 2], &data].concat(),
        6 => tcp(input, &ports, &data)?,
        1 | 58 => icmp(input, v6, &data)?,
        _ => data,
    };
    let fragment = if input.ratio(1, 8)? {
        Some((*input.choose(&[0, 1, 2, 3, 185, 8191])?, input.arbitrary()?))
    } else {
        None
    };
    Ok(Packet {
        v6,
        source,
        destination,
        ttl: *input.choose(&[64, 64, 255, 2, 1, 0])?,
        class: input.arbitrary()?,
        identification: *input.choose(&[7, 8, 0])?,
        fragment,
        dont_fragment: input.arbitrary()?,
        protocol,
        transport,
    })
}

fn tcp(input: &mut Unstructured<'_>, ports: &[u8], data: &[u8]) -> Result<Vec<u8>> {
    let flags = *input.choose(&[0x10, 2, 0x12, 0x11, 4, 0x14, 0x18, 0, 3, 0x3f])?;
    let numbers = [100u32, 101, 0, 78, 0x7fff_ffff, u32::MAX];
    let (sequence, acknowledgment) = (*input.choose(&numbers)?, *input.choose(&numbers)?);
    let options =
        [&[][..], &[2, 4, 5, 0xb4], &[3, 3, 14, 0], &[2, 0, 1, 1], &[4, 2, 3, 3, 7, 1, 2, 4, 0, 1, 0, 0]];
    let options = *input.choose(&options)?;
    let header = ((20 + options.len()) as u8) << 2;
    Ok([
        ports,
        &sequence.to_be_bytes(),
        &acknowledgment.to_be_bytes(),
        &[header, flags, 0xff, 0xff, 0, 0, 0, 0],
        options,
        data,
    ]
    .concat())
}

fn icmp(input: &mut Unstructured<'_>, v6: bool, data: &[u8]) -> Result<Vec<u8>> {
    let [request, reply, unreachable, exceeded] = if v6 { [128, 129, 1, 3] } else { [8, 0, 3, 11] };
    let kinds = [request, reply, unreachable, exceeded, input.arbitrary()?];
    let identifier = *input.choose(&[[0, 7], [7, 208], [0, 0]])?;
    Ok([&[*input.choose(&kinds)?, 0, 0, 0, identifier[0], identifier[1], 0, 1], data].concat())
}

/// "Unreachable" or "too big" about a frame that left, from a router beyond.
pub fn error_about(input: &mut Unstructured<'_>, port: u16, frame: &[u8]) -> Result<Vec<u8>> {
    let v6 = frame.get(12..14) == Some(&[0x86, 0xdd]);
    let quoted = frame.get(14..).unwrap_or(&[]);
    let quote = &quoted[..quoted.len().min(*input.choose(&[28, 48, 200, 1300, 8])?)];
    let back = if v6 { frame.get(22..38) } else { frame.get(26..30) };
    let Some(destination) = back else { return Ok(frame.to_vec()) };
    let kind = if v6 { *input.choose(&[1, 2, 3, 4])? } else { *input.choose(&[3, 11, 12, 4, 5])? };
    let code = *input.choose(&[0, 3, 4, 1])?;
    let packet = Packet {
        v6,
        source: address(input, v6, port == 0)?,
        destination: destination.to_vec(),
        ttl: 60,
        class: 0,
        identification: 3,
        fragment: None,
        dont_fragment: false,
        protocol: if v6 { 58 } else { 1 },
        transport: [&[kind, code, 0, 0, 0, 0, 5, 0], quote].concat(),
    };
    packet.emit(input, port)
}

/// The answer to a plain frame that left: the same connection the other way. None for anything else.
pub fn reply_to(input: &mut Unstructured<'_>, port: u16, frame: &[u8]) -> Result<Option<Vec<u8>>> {
    let (v6, at, width) = match frame.get(12..15) {
        Some([8, 0, 0x45]) => (false, 26, 4),
        Some([0x86, 0xdd, _]) => (true, 22, 16),
        _ => return Ok(None),
    };
    let start = if v6 { 54 } else { 34 };
    let end = if v6 {
        frame.get(18..20).map(|it| 54 + usize::from(u16::from_be_bytes([it[0], it[1]])))
    } else {
        frame.get(16..18).map(|it| 14 + usize::from(u16::from_be_bytes([it[0], it[1]])))
    };
    let Some(transport) = end.and_then(|end| frame.get(start..end)) else { return Ok(None) };
    let (protocol, mut transport) = (frame[if v6 { 20 } else { 23 }], transport.to_vec());
    if transport.len() < if protocol == 6 { 20 } else { 8 } {
        return Ok(None);
    }
    match protocol {
        6 | 17 => {
            transport.swap(0, 2);
            transport.swap(1, 3);
        }
        1 | 58 => {
            transport[0] = match transport[0] {
                8 => 0,
                128 => 129,
                _ => return Ok(None),
            }
        }
        _ => return Ok(None),
    }
    if protocol == 6 {
        let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
        let header = usize::from(transport[12] >> 4) * 4;
        let flags = transport[13];
        let next = (transport.len().saturating_sub(header) as u32) + u32::from(flags & 3 != 0);
        let acknowledgment = [transport[8], transport[9], transport[10], transport[11]];
        let own = if flags & 0x10 != 0 { acknowledgment } else { 77u32.to_be_bytes() };
        transport[4..8].copy_from_slice(&own);
        transport[8..12].copy_from_slice(&sequence.wrapping_add(next).to_be_bytes());
        let answers = if flags & 2 != 0 { [0x12, 0x14, 0x12] } else { [0x10, 0x11, 0x14] };
        transport[13] = *input.choose(&answers)?;
    }
    let packet = Packet {
        v6,
        source: frame[at + width..at + 2 * width].to_vec(),
        destination: frame[at..at + width].to_vec(),
        ttl: 64,
        class: 0,
        identification: 4,
        fragment: None,
        dont_fragment: input.arbitrary()?,
        protocol,
        transport,
    };
    packet.emit(input, port).map(Some)
}

impl Packet {
    /// The frame, with checksums: those of UDP over IPv4 now and then left out.
    fn emit(mut self, input: &mut Unstructured<'_>, port: u16) -> Result<Vec<u8>> {
        let field = match self.protocol {
            6 => Some(16),
            17 => Some(6),
            1 | 58 => Some(2),
            _ => None,
        };
        let unchecked = self.protocol == 17 && !self.v6 && input.ratio(1, 8)?;
        if let Some(field) = field.filter(|field| !unchecked && field + 2 <= self.transport.len()) {
            let pseudo = [&[0, self.protocol][..], &(self.transport.len() as u16).to_be_bytes()].concat();
            let parts: &[&[u8]] = if self.protocol == 1 {
                &[&self.transport]
            } else {
                &[&self.source, &self.destination, &pseudo, &self.transport]
            };
            let sum = checksum(parts);
            let sum = if sum == 0 && self.protocol == 17 { 0xffff } else { sum };
            self.transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let data = self.cut(input)?;
        let mut frame = link(input, port, if self.v6 { 0x86dd } else { 0x0800 })?;
        if self.v6 {
            self.emit_v6(input, &mut frame, &data)?;
        } else {
            self.emit_v4(input, &mut frame, &data)?;
        }
        Ok(frame)
    }

    /// What a fragment carries of the transport's bytes.
    fn cut(&self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let Some((offset, more)) = self.fragment else { return Ok(self.transport.clone()) };
        let start = (usize::from(offset) * 8).min(self.transport.len());
        let rest = &self.transport[start..];
        let length = if more { input.choose_index(rest.len() + 1)? & !7 } else { rest.len() };
        Ok(if length == 0 { vec![0x5a; 8] } else { rest[..length].to_vec() })
    }

    fn emit_v4(&self, input: &mut Unstructured<'_>, frame: &mut Vec<u8>, data: &[u8]) -> Result<()> {
        let options: &[u8] = if input.ratio(1, 16)? {
            input.choose(&[&[1, 1, 1, 0][..], &[148, 4, 0, 0], &[131, 7, 4, 0, 0, 0, 0, 0]])?
        } else {
            &[]
        };
        let (offset, more) = self.fragment.unwrap_or((0, false));
        let bits = offset | u16::from(more) << 13 | u16::from(self.dont_fragment) << 14;
        let length = (20 + options.len() + data.len()) as u16;
        let fixed = [0x45 + (options.len() / 4) as u8, self.class];
        let mut header = [
            &fixed[..],
            &length.to_be_bytes(),
            &self.identification.to_be_bytes(),
            &bits.to_be_bytes(),
            &[self.ttl, self.protocol, 0, 0],
            &self.source,
            &self.destination,
            options,
        ]
        .concat();
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(header);
        frame.extend(data);
        Ok(())
    }

    fn emit_v6(&self, input: &mut Unstructured<'_>, frame: &mut Vec<u8>, data: &[u8]) -> Result<()> {
        let mut body = Vec::new();
        let mut first = self.protocol;
        if let Some((offset, more)) = self.fragment {
            let bits = offset << 3 | u16::from(more);
            body.extend([self.protocol, 0]);
            body.extend(bits.to_be_bytes());
            body.extend(u32::from(self.identification).to_be_bytes());
            first = 44;
        }
        if input.ratio(1, 8)? {
            let kind = *input.choose(&[60, 0, 43, 135])?;
            let inside: [u8; 6] = if input.arbitrary()? { [1, 4, 0, 0, 0, 0] } else { input.arbitrary()? };
            body.splice(0..0, [first, 0].into_iter().chain(inside));
            first = kind;
        }
        body.extend(data);
        frame.extend([0x60 | self.class >> 4, self.class << 4, 0, 0]);
        frame.extend((body.len() as u16).to_be_bytes());
        frame.extend([first, self.ttl]);
        frame.extend(&self.source);
        frame.extend(&self.destination);
        frame.extend(body);
        Ok(())
    }
}

fn arp(input: &mut Unstructured<'_>, port: u16) -> Result<Vec<u8>> {
    let operation = *input.choose(&[1, 2, 1, 2, 9])?;
    let station = if input.ratio(1, 4)? { input.arbitrary()? } else { STATION[usize::from(port)] };
    let (sender, target) = (address(input, false, port == 0)?, address(input, false, port == 0)?);
    let gateway: &[u8] = if port == 0 { &[10, 0, 0, 5] } else { &[192, 0, 2, 9] };
    let sender = if input.arbitrary()? { gateway.to_vec() } else { sender };
    let fixed = [0, 1, 8, 0, 6, 4, 0, operation];
    let body = [&fixed[..], &station, &sender, &OWN[usize::from(port)], &target].concat();
    Ok([link(input, port, 0x0806)?, body].concat())
}

fn discovery(input: &mut Unstructured<'_>, port: u16) -> Result<Vec<u8>> {
    let kind = *input.choose(&[135, 136, 135, 136, 133, 134, 137])?;
    let flags = *input.choose(&[0x60, 0x40, 0x20, 0])?;
    let target = address(input, true, port == 0)?;
    let option = *input.choose(&[[1, 1], [2, 1], [5, 1], [1, 0]])?;
    let body = [&[kind, 0, 0, 0, flags, 0, 0, 0], &target[..], &option, &STATION[usize::from(port)]].concat();
    let packet = Packet {
        v6: true,
        source: address(input, true, port == 0)?,
        destination: address(input, true, port == 0)?,
        ttl: if input.ratio(1, 16)? { 64 } else { 255 },
        class: 0,
        identification: 0,
        fragment: None,
        dont_fragment: false,
        protocol: 58,
        transport: body,
    };
    packet.emit(input, port)
}

/// Bytes of no meaning behind a known type.
fn raw(input: &mut Unstructured<'_>, port: u16) -> Result<Vec<u8>> {
    let ether_type = *input.choose(&[0x0800, 0x86dd, 0x0806, 0x88cc, 0x8847, 38])?;
    let length = input.int_in_range(0..=80usize)?.min(input.len());
    Ok([link(input, port, ether_type)?, input.bytes(length)?.to_vec()].concat())
}

/// RFC 1071.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
