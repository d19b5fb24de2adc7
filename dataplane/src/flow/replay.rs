//! The replay: applies a program to a packet. The one way out for every forwarded packet (R4).
//!
//! A usual program is [`blend`]: one image of the header under a mask, and two checksum updates. Everything else goes by
//! segments and operations, from the same operands.

use super::template::{
    CombineEcn, Dynamic, Exit, Fixup, IMAGE_BYTES, L4Checksum, Segment, Splice, Template, Usual,
};
use crate::drops::DropReason;
use crate::lanes::{self, HALF};
use crate::memory::Pool;
use crate::outputs::Outputs;
use crate::packet::{Packet, checksum};

/// The operands of a program, consumed in order.
struct Operands<'a>(&'a [u64]);

impl Operands<'_> {
    #[inline(always)]
    fn take(&mut self) -> u64 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }
}

impl<'a> Operands<'a> {
    #[inline(always)]
    fn words(&mut self, count: usize) -> &'a [u64] {
        let (words, rest) = self.0.split_at_checked(count).unwrap_or((&[], &[]));
        self.0 = rest;
        words
    }
}

/// Runs a program on a packet, which leaves by the outputs or is dropped there.
#[inline(always)]
pub fn replay(
    template: &Template,
    operands: &[u64],
    (l3_delta, l4_delta): (u16, u16),
    mut packet: Packet,
    pool: &mut Pool,
    outputs: &mut Outputs,
) {
    let mut operands = Operands(operands);
    if let Err(reason) = apply(&template.first, &mut operands, l3_delta, l4_delta, &mut packet, outputs) {
        return outputs.drop_packet(packet, reason, pool);
    }
    match &template.first.exit {
        Exit::Output(port, more) if more.is_empty() && template.more.is_empty() => {
            outputs.send(*port, packet);
        }
        _ => replay_more(template, operands, packet, pool, outputs),
    }
}

/// The exits and segments after the first edits, where there is more than one output.
#[inline(never)]
fn replay_more(
    template: &Template,
    mut operands: Operands<'_>,
    mut packet: Packet,
    pool: &mut Pool,
    outputs: &mut Outputs,
) {
    let mut exit = &template.first.exit;
    let mut rest = template.more.iter();
    loop {
        let next = rest.next();
        match exit {
            Exit::Drop(reason) => return outputs.drop_packet(packet, *reason, pool),
            Exit::Continue => {}
            Exit::Output(port, more) => {
                let mut ports = std::iter::once(port).chain(more).peekable();
                while let Some(&port) = ports.next() {
                    if ports.peek().is_none() && next.is_none() {
                        return outputs.send(port, packet);
                    }
                    outputs.send_copy(port, &packet, pool);
                }
            }
        }
        let Some(segment) = next else { return outputs.drop_packet(packet, DropReason::NoOutput, pool) };
        let deltas = operands.take();
        let applied =
            apply(segment, &mut operands, deltas as u16, (deltas >> 16) as u16, &mut packet, outputs);
        if let Err(reason) = applied {
            return outputs.drop_packet(packet, reason, pool);
        }
        exit = &segment.exit;
    }
}

#[inline(always)]
fn apply(
    segment: &Segment,
    operands: &mut Operands<'_>,
    l3_delta: u16,
    l4_delta: u16,
    packet: &mut Packet,
    outputs: &mut Outputs,
) -> Result<(), DropReason> {
    let bytes = packet.bytes_mut();
    if segment.image_words != 0 {
        let image = operands.words(usize::from(segment.image_words));
        blend_words(bytes, &segment.mask, image);
    }
    let mut l3_delta = l3_delta;
    let mut l4_delta = l4_delta;
    if segment.ttl != 0 {
        decrement_ttl(bytes, segment.ttl);
    }
    if !segment.dynamic.is_empty() {
        dynamic(&segment.dynamic, operands, bytes, &mut l3_delta, &mut l4_delta);
    }
    if segment.l3_checksum != 0 {
        update_l3(bytes, usize::from(segment.l3_checksum), l3_delta);
    }
    if let Some(field) = segment.l4_checksum {
        update_l4(bytes, field, l4_delta);
    }
    if segment.splice.is_some() || segment.combine_ecn.is_some() || !segment.fixups.is_empty() {
        restructure(segment, operands, packet, outputs)?;
    }
    Ok(())
}

/// Sets the masked bits of the header's first words. A packet may end inside them: the mask does not reach further.
#[inline(always)]
fn blend_words(bytes: &mut [u8], mask: &[u64], image: &[u64]) {
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for ((word, mask), value) in words.iter_mut().zip(mask).zip(image) {
        *word = ((u64::from_ne_bytes(*word) & !mask) | value).to_ne_bytes();
    }
    let whole = words.len();
    if let (Some(mask), Some(value)) = (mask.get(whole), image.get(whole)) {
        let bytes = rest.iter_mut().zip(mask.to_ne_bytes()).zip(value.to_ne_bytes());
        bytes.for_each(|((byte, mask), value)| *byte = (*byte & !mask) | value);
    }
}

/// The usual form of [`replay`]: blends the image, given in halves, into the head of the packet that is the first `length` of
/// `bytes`, and updates the checksums. False if there is no room for a whole image, and nothing was done.
#[inline(always)]
pub fn blend(
    usual: &Usual,
    image: (&[u64; HALF], &[u64; HALF]),
    deltas: (u16, u16),
    bytes: &mut [u8],
    length: usize,
) -> bool {
    // The old checksums are read before the wide store, and the new ones written behind it: a narrow load would wait for the one, a
    // wide load for the others. No image sets a checksum.
    let l4_at = usize::from(usual.l4_checksum);
    let Some(&[a, b]) = bytes.get(l4_at..l4_at + 2) else { return false };
    let l4_new = updated_l4(u16::from_ne_bytes([a, b]), deltas.1, usual.udp);
    let Some(head) = bytes.first_chunk_mut::<IMAGE_BYTES>() else { return false };
    // The offset is below the image's length: see `Usual`.
    let l3_at = usize::from(usual.l3_checksum) % (IMAGE_BYTES / 2);
    let l3_old = u16::from_ne_bytes(head.as_chunks::<2>().0[l3_at]);
    lanes::blend_words(head, &usual.keep, image, &usual.less);
    if l3_at != 0 {
        head.as_chunks_mut::<2>().0[l3_at] = checksum::apply(l3_old, deltas.0).to_ne_bytes();
    }
    if l4_at != 0 {
        bytes[l4_at..l4_at + 2].copy_from_slice(&l4_new.to_ne_bytes());
        if l4_new == 0 {
            settle_zero(usual, bytes, length);
        }
    }
    true
}

/// The transport checksum of a packet came out as zero.
#[cold]
fn settle_zero(usual: &Usual, bytes: &mut [u8], length: usize) {
    if usual.icmp
        && let Some(bytes) = bytes.get_mut(..length)
    {
        settle_icmp_zero(bytes, usize::from(usual.l4_checksum));
    }
}

/// A transport checksum after `delta`, as it lies in memory.
#[inline(always)]
fn updated_l4(old: u16, delta: u16, udp: bool) -> u16 {
    let new = checksum::apply(old, delta);
    match udp {
        true if old == 0 => 0,
        true if new == 0 => 0xffff,
        _ => new,
    }
}

/// The change of the checksum is part of the segment's delta.
#[inline(always)]
fn decrement_ttl(bytes: &mut [u8], at: u16) {
    if let Some(ttl) = bytes.get_mut(usize::from(at)) {
        *ttl = ttl.wrapping_sub(1);
    }
}

#[inline(always)]
fn update_l3(bytes: &mut [u8], at: usize, delta: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        let old = u16::from_ne_bytes([field[0], field[1]]);
        field.copy_from_slice(&checksum::apply(old, delta).to_ne_bytes());
    }
}

#[inline(always)]
fn update_l4(bytes: &mut [u8], checksum_field: L4Checksum, delta: u16) {
    let at = usize::from(checksum_field.offset);
    if let Some(field) = bytes.get_mut(at..at + 2) {
        let old = u16::from_ne_bytes([field[0], field[1]]);
        let new = updated_l4(old, delta, checksum_field.udp);
        field.copy_from_slice(&new.to_ne_bytes());
        if checksum_field.icmp && new == 0 {
            settle_icmp_zero(bytes, at);
        }
    }
}

/// An ICMP checksum at `at` came out as zero. That is right where what it covers is not zero itself, but only adds up to it; of
/// nothing but zeros (an echo reply, type 0) the checksum is all ones, and an update can't tell the two apart (RFC 1624 section 3).
#[cold]
fn settle_icmp_zero(bytes: &mut [u8], at: usize) {
    let end = match at.checked_sub(22).and_then(|ip| bytes.get(ip..ip + 4).map(|header| (ip, header))) {
        Some((ip, &[0x45, _, high, low])) => ip + usize::from(u16::from_be_bytes([high, low])),
        _ => bytes.len(),
    };
    let end = end.min(bytes.len());
    if bytes.get(at - 2..end).is_some_and(|message| message.iter().all(|&byte| byte == 0)) {
        bytes[at..at + 2].fill(0xff);
    }
}

#[inline(never)]
fn dynamic(
    operations: &[Dynamic],
    operands: &mut Operands<'_>,
    bytes: &mut [u8],
    l3_delta: &mut u16,
    l4_delta: &mut u16,
) {
    let add = |delta: &mut u16, more: u16| *delta = checksum::fold(u64::from(*delta) + u64::from(more));
    for operation in operations {
        let operand = operands.take();
        match *operation {
            Dynamic::Set { window, l3, l4 } => {
                let difference = set_wide(bytes, usize::from(window.offset), window.mask, operand);
                if l3 {
                    add(l3_delta, difference);
                }
                if l4 {
                    add(l4_delta, difference);
                }
            }
            Dynamic::ShiftSequence { offset } => {
                add(l4_delta, shift_number(bytes, usize::from(offset), operand as u32));
            }
            Dynamic::ShiftAcknowledgment { tcp } => {
                add(l4_delta, shift_acknowledgment(bytes, usize::from(tcp), operand as u32));
            }
        }
    }
}

/// Writes masked bits over up to 8 bytes (fewer at the end of the packet); returns the checksum difference.
fn set_wide(bytes: &mut [u8], at: usize, mask: u64, value: u64) -> u16 {
    let end = bytes.len().min(at + 8);
    let Some(target) = bytes.get_mut(at..end) else { return 0 };
    let (mask, value) = (mask.to_ne_bytes(), value.to_ne_bytes());
    let (mut old, mut new) = ([0u8; 8], [0u8; 8]);
    for (i, byte) in target.iter_mut().enumerate() {
        old[i] = *byte & mask[i];
        new[i] = value[i] & mask[i];
        *byte = (*byte & !mask[i]) | new[i];
    }
    checksum::delta(checksum::sum(&old), checksum::sum(&new))
}

/// Adds to a 32-bit number at an even offset of the segment; returns the checksum difference.
fn shift_number(bytes: &mut [u8], at: usize, delta: u32) -> u16 {
    let Some(field) = bytes.get_mut(at..at + 4) else { return 0 };
    let old = [field[0], field[1], field[2], field[3]];
    let new = u32::from_be_bytes(old).wrapping_add(delta).to_be_bytes();
    field.copy_from_slice(&new);
    checksum::delta(checksum::sum(&old), checksum::sum(&new))
}

/// Shifts the acknowledgment number, if there is one, and the edges of SACK blocks (RFC 2018 section 3), which may lie at
/// odd offsets.
fn shift_acknowledgment(bytes: &mut [u8], tcp: usize, delta: u32) -> u16 {
    let Some(&[offset, flags]) = bytes.get(tcp + 12..tcp + 14) else { return 0 };
    let mut difference = 0u16;
    let mut add = |more: u16| difference = checksum::fold(u64::from(difference) + u64::from(more));
    if flags & super::tcp::ACK != 0 {
        add(shift_number(bytes, tcp + 8, delta));
    }
    let end = (tcp + usize::from(offset >> 4) * 4).min(bytes.len());
    let mut at = tcp + 20;
    while at < end {
        let length = match bytes[at] {
            0 => break,
            1 => 1,
            _ => usize::from(bytes.get(at + 1).copied().unwrap_or(0)).max(2),
        };
        if bytes[at] == 5 && at + length <= end {
            for edge in (at + 2..at + length).step_by(4).filter(|edge| edge + 4 <= at + length) {
                let shifted = shift_number(bytes, edge, delta);
                // A word at an odd offset adds to the checksum with its bytes exchanged (RFC 1071 section 2(B)).
                add(if (edge - tcp) & 1 == 1 { shifted.swap_bytes() } else { shifted });
            }
        }
        at += length;
    }
    difference
}

#[inline(never)]
fn restructure(
    segment: &Segment,
    operands: &mut Operands<'_>,
    packet: &mut Packet,
    outputs: &mut Outputs,
) -> Result<(), DropReason> {
    if let Some(combine) = segment.combine_ecn {
        combine_ecn(packet.bytes_mut(), combine)?;
    }
    if let Some(splice) = segment.splice {
        apply_splice(packet, splice, operands)?;
    }
    for fixup in &segment.fixups {
        apply_fixup(packet.bytes_mut(), *fixup, outputs);
    }
    Ok(())
}

/// Takes bytes out and puts others in by moving what lies in front of them.
fn apply_splice(packet: &mut Packet, splice: Splice, operands: &mut Operands<'_>) -> Result<(), DropReason> {
    let (at, remove, insert) =
        (usize::from(splice.at), usize::from(splice.remove), usize::from(splice.insert));
    if at + remove > packet.len() {
        return Err(DropReason::Truncated);
    }
    if insert > remove {
        let grow = insert - remove;
        packet.push_front(grow).map_err(|_| DropReason::NoHeadroom)?;
        packet.bytes_mut().copy_within(grow..grow + at, 0);
    } else if remove > insert {
        let shrink = remove - insert;
        packet.bytes_mut().copy_within(0..at, shrink);
        packet.pull_front(shrink);
    }
    let target = packet.bytes_mut().get_mut(at..at + insert).unwrap_or(&mut []);
    for chunk in target.chunks_mut(8) {
        chunk.copy_from_slice(&operands.take().to_ne_bytes()[..chunk.len()]);
    }
    Ok(())
}

fn apply_fixup(bytes: &mut [u8], fixup: Fixup, outputs: &mut Outputs) {
    let put = |bytes: &mut [u8], at: usize, value: u16| {
        if let Some(field) = bytes.get_mut(at..at + 2) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    };
    match fixup {
        Fixup::Length { offset, less } => {
            let length = bytes.len().saturating_sub(usize::from(less));
            put(bytes, usize::from(offset), u16::try_from(length).unwrap_or(u16::MAX));
        }
        Fixup::Ipv4Identification { offset } => {
            let identification = outputs.next_identification();
            put(bytes, usize::from(offset), identification);
        }
        Fixup::Ipv4Checksum { offset } => {
            let at = usize::from(offset);
            if let Some(header) = bytes.get_mut(at..at + 20) {
                header[10..12].fill(0);
                let sum = checksum::finish(checksum::sum(header));
                header[10..12].copy_from_slice(&sum.to_ne_bytes());
            }
        }
        Fixup::UdpChecksum { ip, udp } => udp_checksum(bytes, usize::from(ip), usize::from(udp)),
        Fixup::CopyTrafficClass { from, to } => copy_traffic_class(bytes, usize::from(from), usize::from(to)),
    }
}

fn udp_checksum(bytes: &mut [u8], ip: usize, udp: usize) {
    let version = bytes.get(ip).map_or(0, |first| first >> 4);
    let addresses = if version == 4 { ip + 12..ip + 20 } else { ip + 8..ip + 40 };
    let Some(length) = bytes.get(udp + 4..udp + 6) else { return };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let (Some(addresses), Some(datagram)) = (bytes.get(addresses), bytes.get(udp..udp + length)) else {
        return;
    };
    if length < 8 {
        return;
    }
    let old = u64::from(u16::from_ne_bytes([datagram[6], datagram[7]]));
    let sum = checksum::pseudo_header(addresses, 17, length) + checksum::sum(datagram);
    // Take the field's old value out of the sum.
    let sum = checksum::finish(sum + u64::from(!checksum::fold(old)));
    let sum = if sum == 0 { 0xffff } else { sum };
    bytes[udp + 6..udp + 8].copy_from_slice(&sum.to_ne_bytes());
}

fn traffic_class(bytes: &[u8], at: usize) -> Option<u8> {
    let first = *bytes.get(at)?;
    let second = *bytes.get(at + 1)?;
    Some(if first >> 4 == 4 { second } else { first << 4 | second >> 4 })
}

/// Sets DSCP and ECN of an IP header; the IPv4 checksum is updated.
fn set_traffic_class(bytes: &mut [u8], at: usize, class: u8) {
    match bytes.get(at).map(|first| first >> 4) {
        Some(4) if bytes.len() >= at + 20 => {
            let difference = set_wide(
                bytes,
                at,
                u64::from_ne_bytes([0, 0xff, 0, 0, 0, 0, 0, 0]),
                u64::from_ne_bytes([0, class, 0, 0, 0, 0, 0, 0]),
            );
            update_l3(bytes, at + 10, difference);
        }
        Some(6) if bytes.len() >= at + 2 => {
            bytes[at] = (bytes[at] & 0xf0) | class >> 4;
            bytes[at + 1] = (bytes[at + 1] & 0x0f) | class << 4;
        }
        _ => {}
    }
}

fn copy_traffic_class(bytes: &mut [u8], from: usize, to: usize) {
    if let Some(class) = traffic_class(bytes, from) {
        set_traffic_class(bytes, to, class);
    }
}

/// RFC 6040 section 4.2, figure 4.
fn combine_ecn(bytes: &mut [u8], combine: CombineEcn) -> Result<(), DropReason> {
    let (outer, inner) = (usize::from(combine.outer), usize::from(combine.inner));
    let (Some(outer_class), Some(inner_class)) = (traffic_class(bytes, outer), traffic_class(bytes, inner))
    else {
        return Ok(());
    };
    const NOT_ECT: u8 = 0;
    const ECT1: u8 = 1;
    const CE: u8 = 3;
    let ecn = match (inner_class & 3, outer_class & 3) {
        (NOT_ECT, CE) => return Err(DropReason::BadHeader),
        (NOT_ECT, _) => NOT_ECT,
        (_, CE) => CE,
        (CE, _) => CE,
        (_, ECT1) => ECT1,
        (inner, _) => inner,
    };
    set_traffic_class(bytes, inner, inner_class & !3 | ecn);
    Ok(())
}
