//! Programs: what a walk decided, as operations in order (R1), ready to be replayed or stored in an entry.
//!
//! [`ProgramBuilder`] turns recorded edits into the normal form of [`super::template`]. Where an edit replaces bits that
//! the key holds, the checksum difference is the same for each packet of the entry and is computed once; where it
//! replaces others, the replay computes it from what it finds. Edits are never inferred by comparing values.

use super::field::{Field, l4_checksum_offset};
use super::key::{Gather, HEADER_BYTES_MAX, Window, windows};
use super::template::{
    CombineEcn, Dynamic, Exit, Fixup, IMAGE_BYTES, L4Checksum, Segment, Splice, Template, Trackers,
    WRITES_MAX, WideWindow,
};
use crate::drops::DropReason;
use crate::packet::{Flags, L3, L4, Layout, checksum};
use crate::port::PortId;
use arrayvec::ArrayVec;

/// Most words of operands.
pub const OPERANDS_MAX: usize = 64;
/// No limit of length.
pub const ANY_LENGTH: u16 = u16::MAX;

/// Values of a program, in the order in which the replay consumes them.
pub type Operands = ArrayVec<u64, OPERANDS_MAX>;

/// A compiled decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The structure.
    pub template: Template,
    /// The values.
    pub operands: Operands,
    /// What the first segment adds to the IPv4 header checksum.
    pub l3_delta: u16,
    /// What the first segment adds to the transport checksum.
    pub l4_delta: u16,
    /// Longest network packet in bytes that may take this program.
    pub length_max: u16,
}

/// The program would not fit its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramTooLarge;

/// Builds a [`Program`] from edits in the order in which they were made.
#[derive(Debug)]
pub struct ProgramBuilder<'a> {
    layout: Layout,
    /// The packet as it came; old values are read from it.
    original: &'a [u8],
    /// The key, if the program may serve other packets; else all of the packet is known.
    gather: Option<&'a Gather>,
    program: Program,
    segment: Segment,
    image: [u8; HEADER_BYTES_MAX],
    written: [u8; HEADER_BYTES_MAX],
    old_l3: u64,
    new_l3: u64,
    old_l4: u64,
    new_l4: u64,
    covers_l3: bool,
    covers_l4: bool,
    dynamic_operands: ArrayVec<u64, 16>,
    splice_bytes: ArrayVec<u8, 192>,
    segments: usize,
    /// Decrements of the TTL so far.
    decrements: u8,
    /// Offsets of this segment are those of the original packet.
    pristine: bool,
    too_large: bool,
}

impl<'a> ProgramBuilder<'a> {
    /// For a packet `original` of this layout. With `gather`, the program serves each packet of the same key.
    pub fn new(original: &'a [u8], layout: Layout, gather: Option<&'a Gather>) -> Self {
        let template = Template { shape: layout.shape, ..Template::default() };
        Self {
            layout,
            original,
            gather,
            program: Program { template, length_max: ANY_LENGTH, ..Program::default() },
            segment: Segment::default(),
            image: [0; HEADER_BYTES_MAX],
            written: [0; HEADER_BYTES_MAX],
            old_l3: 0,
            new_l3: 0,
            old_l4: 0,
            new_l4: 0,
            covers_l3: false,
            covers_l4: false,
            dynamic_operands: ArrayVec::new(),
            splice_bytes: ArrayVec::new(),
            segments: 0,
            decrements: 0,
            pristine: true,
            too_large: false,
        }
    }

    /// Adds guards (R3).
    pub fn guard(&mut self, flags: Flags) -> &mut Self {
        self.program.template.guards = self.program.template.guards.union(flags);
        self
    }

    /// Packets whose TTL is below `ttl` don't take this program.
    pub fn guard_ttl(&mut self, ttl: u8) -> &mut Self {
        self.program.template.ttl_min = self.program.template.ttl_min.max(ttl);
        self
    }

    /// Network packets longer than `bytes` don't take this program.
    pub fn guard_length(&mut self, bytes: u16) -> &mut Self {
        self.program.length_max = self.program.length_max.min(bytes);
        self
    }

    /// Runs trackers.
    pub fn track(&mut self, trackers: Trackers) -> &mut Self {
        self.program.template.trackers.tcp |= trackers.tcp;
        self
    }

    /// Sets a field of the outermost packet to `value` (right-aligned). Without such a field nothing happens.
    pub fn set(&mut self, field: Field, value: u128) -> &mut Self {
        let (l3, l4) = (usize::from(self.layout.l3), usize::from(self.layout.l4));
        let Some(location) = field.locate(self.layout.shape, l3, l4) else { return self };
        let coverage = field.coverage(self.layout.shape);
        let shifted = (value << location.shift()) & location.mask;
        let (value, mask) = (shifted.to_be_bytes(), location.mask.to_be_bytes());
        let skip = 16 - location.bytes;
        let (value, mask) = (&value[skip..], &mask[skip..]);
        let static_difference = (!coverage.l3 && !coverage.l4) || self.is_keyed(location.offset, mask);
        if static_difference && location.offset + location.bytes <= HEADER_BYTES_MAX {
            self.write_known(location.offset, value, mask, coverage.l3, coverage.l4);
        } else {
            self.write_unknown(location.offset, value, mask, coverage.l3, coverage.l4);
        }
        self
    }

    /// Writes bytes at any offset, for programs that serve this packet only: what ICMP errors quote, TCP options.
    pub fn set_bytes(&mut self, offset: usize, bytes: &[u8], l4: bool) -> &mut Self {
        for (i, chunk) in bytes.chunks(8).enumerate() {
            self.write_unknown(offset + 8 * i, chunk, &[0xff; 8][..chunk.len()], false, l4);
        }
        self
    }

    fn is_keyed(&self, offset: usize, mask: &[u8]) -> bool {
        self.pristine && self.gather.is_none_or(|gather| gather.covers(offset, mask))
    }

    fn write_known(&mut self, offset: usize, value: &[u8], mask: &[u8], l3: bool, l4: bool) {
        for (i, (&value, &mask)) in value.iter().zip(mask).enumerate() {
            let at = offset + i;
            let original = self.original.get(at).copied().unwrap_or(0);
            // A byte written twice in a segment keeps its first old value and its last new one.
            let seen = self.written[at];
            let old = original & mask;
            let new = value & mask;
            let replaced = self.image[at] & mask & seen;
            let (old_shifted, new_shifted) = if at & 1 == usize::from(self.layout.l3) & 1 {
                (u64::from(u16::from_ne_bytes([old & !seen, 0])), [new, 0])
            } else {
                (u64::from(u16::from_ne_bytes([0, old & !seen])), [0, new])
            };
            let new_shifted = u64::from(u16::from_ne_bytes(new_shifted));
            let replaced = if at & 1 == usize::from(self.layout.l3) & 1 {
                u64::from(u16::from_ne_bytes([replaced, 0]))
            } else {
                u64::from(u16::from_ne_bytes([0, replaced]))
            };
            if l3 {
                self.old_l3 += old_shifted + replaced;
                self.new_l3 += new_shifted;
                self.covers_l3 = true;
            }
            if l4 {
                self.old_l4 += old_shifted + replaced;
                self.new_l4 += new_shifted;
                self.covers_l4 = true;
            }
            self.image[at] = (self.image[at] & !mask) | new;
            self.written[at] |= mask;
        }
    }

    fn write_unknown(&mut self, offset: usize, value: &[u8], mask: &[u8], l3: bool, l4: bool) {
        for (i, (value, mask)) in value.chunks(8).zip(mask.chunks(8)).enumerate() {
            let (mut v, mut m) = ([0u8; 8], [0u8; 8]);
            // An even start keeps the 16-bit words of the checksum whole.
            let start = offset + 8 * i;
            let even = start & !1;
            let lead = start - even;
            if lead + value.len() > 8 {
                self.write_unknown(start, &value[..4], &mask[..4], l3, l4);
                self.write_unknown(start + 4, &value[4..], &mask[4..], l3, l4);
                continue;
            }
            v[lead..lead + value.len()].copy_from_slice(value);
            m[lead..lead + mask.len()].copy_from_slice(mask);
            let window = WideWindow { offset: even as u16, mask: u64::from_ne_bytes(m) };
            self.segment.dynamic.push(Dynamic::Set { window, l3, l4 });
            self.too_large |= self.dynamic_operands.try_push(u64::from_ne_bytes(v) & window.mask).is_err();
            self.covers_l3 |= l3;
            self.covers_l4 |= l4;
        }
    }

    /// Decrements TTL or hop limit by one; guards against zero.
    pub fn decrement_ttl(&mut self) -> &mut Self {
        self.decrements = self.decrements.saturating_add(1);
        self.guard_ttl(self.decrements.saturating_add(1));
        // A segment decrements once.
        if self.segment.ttl != 0 {
            self.end_segment(Exit::Continue);
        }
        let offset = match self.layout.shape.l3() {
            L3::Ipv4 => 8,
            L3::Ipv6 => 7,
            L3::Other | L3::Arp => return self,
        };
        self.covers_l3 |= self.layout.shape.l3() == L3::Ipv4;
        self.segment.ttl = self.layout.l3 + offset;
        self
    }

    /// Adds `delta` to the TCP sequence number of each packet.
    pub fn shift_sequence(&mut self, delta: u32) -> &mut Self {
        self.shift(delta, |l4| Dynamic::ShiftSequence { offset: l4 + 4 })
    }

    /// Adds `delta` to the TCP acknowledgment number of each packet, and to its SACK blocks.
    pub fn shift_acknowledgment(&mut self, delta: u32) -> &mut Self {
        self.shift(delta, |l4| Dynamic::ShiftAcknowledgment { tcp: l4 })
    }

    fn shift(&mut self, delta: u32, operation: impl Fn(u16) -> Dynamic) -> &mut Self {
        if self.layout.shape.l4() == L4::Tcp {
            self.segment.dynamic.push(operation(self.layout.l4));
            self.too_large |= self.dynamic_operands.try_push(u64::from(delta)).is_err();
            self.covers_l4 = true;
        }
        self
    }

    /// Combines the ECN of an outer header into the inner one, before the outer is removed.
    pub fn combine_ecn(&mut self, outer: u16, inner: u16) -> &mut Self {
        self.segment.combine_ecn = Some(CombineEcn { outer, inner });
        self
    }

    /// Replaces `remove` bytes at `at` by `insert`; `layout` is the packet's layout afterwards.
    pub fn splice(
        &mut self,
        at: u16,
        remove: u16,
        insert: &[u8],
        fixups: &[Fixup],
        layout: Layout,
    ) -> &mut Self {
        self.segment.splice = Some(Splice { at, remove, insert: insert.len() as u16 });
        self.too_large |= self.splice_bytes.try_extend_from_slice(insert).is_err();
        self.segment.fixups.extend_from_slice(fixups);
        self.end_segment(Exit::Continue);
        self.layout = layout;
        self.pristine = false;
        self
    }

    /// A copy leaves by `port` as the packet is now.
    pub fn output(&mut self, port: PortId) -> &mut Self {
        let untouched = self.segment == Segment::default() && self.written == [0; HEADER_BYTES_MAX];
        let last = self.program.template.more.last_mut().unwrap_or(&mut self.program.template.first);
        match &mut last.exit {
            Exit::Output(_, more) if untouched && self.segments > 0 => more.push(port),
            exit @ Exit::Continue if untouched && self.segments > 0 => *exit = Exit::Output(port, Vec::new()),
            _ => self.end_segment(Exit::Output(port, Vec::new())),
        }
        self
    }

    /// The packet is dropped.
    pub fn drop_packet(&mut self, reason: DropReason) -> &mut Self {
        self.end_segment(Exit::Drop(reason));
        self
    }

    fn end_segment(&mut self, exit: Exit) {
        let mut segment = std::mem::take(&mut self.segment);
        segment.exit = exit;
        let l3 = usize::from(self.layout.l3);
        if self.covers_l3 && self.layout.shape.l3() == L3::Ipv4 {
            segment.l3_checksum = (l3 + 10) as u16;
        }
        if self.covers_l4 {
            segment.l4_checksum = self.l4_checksum();
        }
        let mut l3_delta = checksum::delta(self.old_l3, self.new_l3);
        if segment.ttl != 0 {
            // -1 in one's complement is ~1, in the first byte of the TTL's word. IPv6 has no checksum to apply it to.
            l3_delta = checksum::add(l3_delta, u16::from_ne_bytes([0xfe, 0xff]));
        }
        let l4_delta = checksum::delta(self.old_l4, self.new_l4);
        if self.segments == 0 {
            (self.program.l3_delta, self.program.l4_delta) = (l3_delta, l4_delta);
        } else {
            self.operand(u64::from(l3_delta) | u64::from(l4_delta) << 16);
        }
        let known = self.known_bytes();
        let written = self.written;
        // The first segment's writes are kept as an image, to be blended in at once.
        let near = |window: &Window| usize::from(window.offset) + 8 <= IMAGE_BYTES;
        for window in windows(&written, known) {
            self.too_large |= segment.writes.try_push(window).is_err();
        }
        segment.image = self.segments == 0 && segment.writes.iter().all(near);
        if segment.image {
            for at in (0..IMAGE_BYTES).step_by(8) {
                let word = u64::from_ne_bytes(std::array::from_fn(|i| self.image[at + i]));
                self.operand(word);
            }
        }
        for window in segment.writes.iter().filter(|_| !segment.image) {
            let at = usize::from(window.offset);
            let value = u64::from_ne_bytes(std::array::from_fn(|i| self.image[at + i]));
            self.operand(value & window.mask);
        }
        for operand in std::mem::take(&mut self.dynamic_operands) {
            self.operand(operand);
        }
        for chunk in std::mem::take(&mut self.splice_bytes).chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.operand(u64::from_ne_bytes(word));
        }
        if self.segments == 0 {
            self.program.template.first = segment;
        } else {
            self.program.template.more.push(segment);
        }
        self.segments += 1;
        self.image = [0; HEADER_BYTES_MAX];
        self.written = [0; HEADER_BYTES_MAX];
        (self.old_l3, self.new_l3, self.old_l4, self.new_l4) = (0, 0, 0, 0);
        (self.covers_l3, self.covers_l4) = (false, false);
        // Later segments see what this one wrote, not the original.
        self.pristine = false;
    }

    /// Bytes of the header that windows may lie in.
    fn known_bytes(&self) -> usize {
        let header = if self.layout.shape.is_regular() && self.gather.is_some() {
            self.layout.shape.header_bytes()
        } else {
            usize::from(self.layout.end)
        };
        header.min(HEADER_BYTES_MAX)
    }

    fn l4_checksum(&self) -> Option<L4Checksum> {
        // A later fragment has no transport header.
        let offset = l4_checksum_offset(self.layout.shape, usize::from(self.layout.l4))?;
        Some(L4Checksum { offset: offset as u16, udp: self.layout.shape.l4() == L4::Udp })
    }

    fn operand(&mut self, word: u64) {
        self.too_large |= self.program.operands.try_push(word).is_err();
    }

    /// The program. Edits without an output behind them are dropped with [`DropReason::NoOutput`].
    ///
    /// # Errors
    /// If it exceeds the bounds of a program.
    pub fn finish(mut self) -> Result<Program, ProgramTooLarge> {
        let pending = self.segment != Segment::default() || self.written != [0; HEADER_BYTES_MAX];
        let last = self.program.template.more.last().unwrap_or(&self.program.template.first);
        if pending || self.segments == 0 || last.exit == Exit::Continue {
            self.end_segment(Exit::Drop(DropReason::NoOutput));
        }
        if self.too_large { Err(ProgramTooLarge) } else { Ok(self.program) }
    }
}

const _: () = assert!(WRITES_MAX * 8 >= 112 - 14);
const _: () = assert!(size_of::<Window>() == 16);
