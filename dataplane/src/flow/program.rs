//! Programs: what a walk decided, as operations in order (R1), ready to be replayed or stored in an entry.
//!
//! [`ProgramBuilder`] turns recorded edits into the normal form of [`super::template`]. Where an edit replaces bits that
//! the key holds, the checksum difference is the same for each packet of the entry and is computed once; where it
//! replaces others, the replay computes it from what it finds. Edits are never inferred by comparing values.

use super::field::{Coverage, Field, l4_checksum_offset};
use super::key::{Gather, HEADER_BYTES_MAX};
use super::template::{
    CombineEcn, Dynamic, Exit, Fixup, IMAGE_WORDS, IMAGE_WORDS_MAX, L4Checksum, Segment, Splice, Template,
    TemplateId, Trackers, WideWindow,
};
use crate::drops::DropReason;
use crate::packet::{Flags, L3, L4, Layout, checksum};
use crate::port::PortId;
use arrayvec::ArrayVec;

/// Most words of operands.
pub const OPERANDS_MAX: usize = 64;
/// No limit of length.
pub const ANY_LENGTH: u16 = u16::MAX;
/// A field's widest access, 16 bytes, may start at the header's last byte.
const SCRATCH_BYTES: usize = HEADER_BYTES_MAX + 16;

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
    /// How it was made, if the same edits with other values make the same structure.
    recipe: Option<Recipe>,
    /// The number of the template as it is, once it was interned.
    pub(super) interned: Option<TemplateId>,
}

/// What a program's structure follows from: the same gather, edits, exits and guards give the same structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecipeKey {
    /// [`Gather::identity`].
    pub gather: u64,
    /// The kinds of the edits in order, each in so many bits that no two lists are alike.
    pub edits: u64,
    /// Exits, guards and trackers.
    pub rest: u64,
}

/// Most fields that a recipe sets.
const STEPS_MAX: usize = 8;

/// A program of one segment that sets fields which do not overlap, to be filled with other values.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Recipe {
    key: Option<RecipeKey>,
    steps: ArrayVec<Step, STEPS_MAX>,
}

/// How one field is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    /// Bits of the field from its offset on, in memory order.
    mask: u128,
    offset: u8,
    /// Bits by which the value is shifted to lie under the mask, before its bytes are swapped.
    shift: u8,
    coverage: Coverage,
    /// It starts at an odd place of what the checksums sum.
    odd: bool,
}

impl Program {
    /// Fills the program as it is with `values`, if it was made by the same recipe. False if it was not.
    pub fn refill(&mut self, key: &RecipeKey, original: &[u8], values: impl Iterator<Item = u128>) -> bool {
        let Some(recipe) = self.recipe.as_ref().filter(|recipe| recipe.key.as_ref() == Some(key)) else {
            return false;
        };
        let mut image = [0; SCRATCH_BYTES];
        let (mut l3, mut l4) = (Difference::default(), Difference::default());
        for (step, value) in recipe.steps.iter().zip(values) {
            let offset = usize::from(step.offset);
            let value = (value << step.shift).swap_bytes() & step.mask;
            let before = sixteen(&image, offset);
            put_sixteen(&mut image, offset, before | value);
            if step.coverage.l3 || step.coverage.l4 {
                let old = sum_sixteen(sixteen(original, offset) & step.mask, step.odd);
                let new = sum_sixteen(value, step.odd);
                if step.coverage.l3 {
                    l3.add(old, new);
                }
                if step.coverage.l4 {
                    l4.add(old, new);
                }
            }
        }
        (self.l3_delta, self.l4_delta) = (l3.l3_delta(self.template.first.ttl), l4.delta());
        let words: [u64; IMAGE_WORDS_MAX] = words_of(&image);
        let count = usize::from(self.template.first.image_words).min(IMAGE_WORDS_MAX);
        self.operands.clear();
        self.operands.try_extend_from_slice(&words[..count]).is_ok()
    }

    /// Whether the session's TCP tracker runs.
    pub fn set_tracks_tcp(&mut self, tracks: bool) {
        if self.template.trackers.tcp != tracks {
            self.template.trackers.tcp = tracks;
            self.interned = None;
        }
    }

    fn clear(&mut self) {
        (self.recipe, self.interned) = (None, None);
        self.template.clear();
        self.operands.clear();
        (self.l3_delta, self.l4_delta, self.length_max) = (0, 0, ANY_LENGTH);
    }
}

/// The program would not fit its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramTooLarge;

/// What the edits of one segment replaced and put, as sums for a checksum.
#[derive(Clone, Copy, Debug, Default)]
struct Difference {
    old: u64,
    new: u64,
    /// Some edit is covered by the checksum.
    covers: bool,
}

impl Difference {
    fn add(&mut self, old: u64, new: u64) {
        self.old += old;
        self.new += new;
        self.covers = true;
    }

    fn delta(&self) -> u16 {
        // Bytes were summed in little-endian order; folded, a sum is turned to the order of memory by swapping its bytes.
        let folded = |sum: u64| u64::from(checksum::fold(sum).to_le());
        checksum::delta(folded(self.old), folded(self.new))
    }

    /// The delta of an IPv4 header whose TTL, if it has an offset, is decremented. IPv6 has no checksum to apply it to.
    fn l3_delta(&self, ttl: u16) -> u16 {
        // -1 in one's complement is ~1, in the first byte of the TTL's word.
        if ttl == 0 { self.delta() } else { checksum::add(self.delta(), u16::from_ne_bytes([0xfe, 0xff])) }
    }
}

/// Bytes as they lie in memory, 16 at a time.
fn sixteen(bytes: &[u8], at: usize) -> u128 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(chunk) => u128::from_le_bytes(*chunk),
        None => {
            bytes.get(at..).unwrap_or(&[]).iter().rev().fold(0, |word, &byte| word << 8 | u128::from(byte))
        }
    }
}

fn put_sixteen(bytes: &mut [u8; SCRATCH_BYTES], at: usize, value: u128) {
    if let Some(chunk) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *chunk = value.to_le_bytes();
    }
}

/// The unfolded sum of 16 bytes as they lie in memory, in little-endian order; `odd`: they start at an odd place of what is summed.
fn sum_sixteen(bytes: u128, odd: bool) -> u64 {
    // What starts at an odd place is no longer than 15 bytes.
    let bytes = if odd { bytes << 8 } else { bytes };
    let (low, high) = (bytes as u64, (bytes >> 64) as u64);
    (low & 0xffff_ffff) + (low >> 32) + (high & 0xffff_ffff) + (high >> 32)
}

/// Builds a [`Program`] from edits in the order in which they were made.
#[derive(Debug)]
pub struct ProgramBuilder<'a> {
    layout: Layout,
    /// The packet as it came; old values are read from it.
    original: &'a [u8],
    /// The key, if the program may serve other packets; else all of the packet is known.
    gather: Option<&'a Gather>,
    program: &'a mut Program,
    /// What the segment at hand writes, and which bits of it.
    image: [u8; SCRATCH_BYTES],
    written: [u8; SCRATCH_BYTES],
    l3: Difference,
    l4: Difference,
    dynamic_operands: ArrayVec<u64, 16>,
    splice_bytes: ArrayVec<u8, 192>,
    segments: usize,
    /// Decrements of the TTL so far.
    decrements: u8,
    /// The segment at hand sets the TTL.
    sets_ttl: bool,
    /// Offsets of this segment are those of the original packet.
    pristine: bool,
    /// Nothing was recorded since the last exit.
    untouched: bool,
    /// How the fields were set; none once something was done that values alone do not tell.
    steps: Option<ArrayVec<Step, STEPS_MAX>>,
    too_large: bool,
}

impl<'a> ProgramBuilder<'a> {
    /// Builds `program` anew, for a packet `original` of this layout. With `gather`, it serves each packet of the same key.
    #[inline(always)]
    pub fn new(
        program: &'a mut Program,
        original: &'a [u8],
        layout: Layout,
        gather: Option<&'a Gather>,
    ) -> Self {
        program.clear();
        program.template.shape = layout.shape;
        Self {
            layout,
            original,
            gather,
            program,
            image: [0; SCRATCH_BYTES],
            written: [0; SCRATCH_BYTES],
            l3: Difference::default(),
            l4: Difference::default(),
            dynamic_operands: ArrayVec::new(),
            splice_bytes: ArrayVec::new(),
            segments: 0,
            decrements: 0,
            sets_ttl: false,
            pristine: true,
            untouched: true,
            steps: Some(ArrayVec::new()),
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

    /// The segment at hand: the last one, which has no exit yet.
    fn segment(&mut self) -> &mut Segment {
        self.untouched = false;
        let template = &mut self.program.template;
        if self.segments == 0 {
            return &mut template.first;
        }
        if template.more.len() < self.segments {
            template.more.push(Segment::default());
        }
        &mut template.more[self.segments - 1]
    }

    /// Sets a field of the outermost packet to `value` (right-aligned). Without such a field nothing happens.
    pub fn set(&mut self, field: Field, value: u128) -> &mut Self {
        let (l3, l4) = (usize::from(self.layout.l3), usize::from(self.layout.l4));
        let Some(location) = field.locate(self.layout.shape, l3, l4) else {
            self.steps = None;
            return self;
        };
        if field == Field::Ttl {
            // Within a segment, a decrement comes between what is known and what is not.
            if self.segment().ttl != 0 {
                self.end_segment(Exit::Continue);
            }
            self.sets_ttl = true;
        }
        let coverage = field.coverage(self.layout.shape);
        let align = 8 * (16 - location.bytes);
        // In memory order, the first byte lowest.
        let mask = (location.mask << align).swap_bytes();
        let value = (value << location.shift() << align).swap_bytes() & mask;
        let static_difference = (!coverage.l3 && !coverage.l4) || self.is_keyed(location.offset, mask);
        if static_difference && location.offset + location.bytes <= HEADER_BYTES_MAX {
            let shift = location.shift() + align as u32;
            self.note_step(location.offset, mask, shift, coverage);
            self.write_known(location.offset, value, mask, coverage);
        } else {
            let (value, mask) = (value.to_le_bytes(), mask.to_le_bytes());
            let bytes = location.bytes;
            self.write_unknown(location.offset, &value[..bytes], &mask[..bytes], coverage);
        }
        self
    }

    /// Writes bytes at any offset, for programs that serve this packet only: what ICMP errors quote, TCP options.
    pub fn set_bytes(&mut self, offset: usize, bytes: &[u8], l4: bool) -> &mut Self {
        for (i, chunk) in bytes.chunks(8).enumerate() {
            let coverage = Coverage { l3: false, l4 };
            self.write_unknown(offset + 8 * i, chunk, &[0xff; 8][..chunk.len()], coverage);
        }
        self
    }

    fn is_keyed(&self, offset: usize, mask: u128) -> bool {
        self.pristine && self.gather.is_none_or(|gather| gather.covers(offset, mask))
    }

    /// The field is set by its value alone, unless something was written there before.
    fn note_step(&mut self, offset: usize, mask: u128, shift: u32, coverage: Coverage) {
        let again = sixteen(&self.written, offset) & mask != 0;
        let odd = (offset ^ usize::from(self.layout.l3)) & 1 == 1;
        let step = Step { mask, offset: offset as u8, shift: shift as u8, coverage, odd };
        if again || self.segments > 0 || self.steps.as_mut().is_none_or(|steps| steps.try_push(step).is_err())
        {
            self.steps = None;
        }
    }

    fn write_known(&mut self, offset: usize, value: u128, mask: u128, coverage: Coverage) {
        self.untouched = false;
        let (image, written) = (sixteen(&self.image, offset), sixteen(&self.written, offset));
        if coverage.l3 || coverage.l4 {
            // What the segment wrote before is what is replaced.
            let old = ((sixteen(self.original, offset) & !written) | (image & written)) & mask;
            let odd = (offset ^ usize::from(self.layout.l3)) & 1 == 1;
            let (old, new) = (sum_sixteen(old, odd), sum_sixteen(value, odd));
            if coverage.l3 {
                self.l3.add(old, new);
            }
            if coverage.l4 {
                self.l4.add(old, new);
            }
        }
        put_sixteen(&mut self.image, offset, (image & !mask) | value);
        put_sixteen(&mut self.written, offset, written | mask);
    }

    fn write_unknown(&mut self, offset: usize, value: &[u8], mask: &[u8], coverage: Coverage) {
        self.steps = None;
        for (i, (value, mask)) in value.chunks(8).zip(mask.chunks(8)).enumerate() {
            let (mut v, mut m) = ([0u8; 8], [0u8; 8]);
            // An even start keeps the 16-bit words of the checksum whole.
            let start = offset + 8 * i;
            let even = start & !1;
            let lead = start - even;
            if lead + value.len() > 8 {
                self.write_unknown(start, &value[..4], &mask[..4], coverage);
                self.write_unknown(start + 4, &value[4..], &mask[4..], coverage);
                continue;
            }
            v[lead..lead + value.len()].copy_from_slice(value);
            m[lead..lead + mask.len()].copy_from_slice(mask);
            let window = WideWindow { offset: even as u16, mask: u64::from_ne_bytes(m) };
            self.segment().dynamic.push(Dynamic::Set { window, l3: coverage.l3, l4: coverage.l4 });
            self.too_large |= self.dynamic_operands.try_push(u64::from_ne_bytes(v) & window.mask).is_err();
            self.l3.covers |= coverage.l3;
            self.l4.covers |= coverage.l4;
        }
    }

    /// Decrements TTL or hop limit by one; guards against zero.
    pub fn decrement_ttl(&mut self) -> &mut Self {
        self.decrements = self.decrements.saturating_add(1);
        self.guard_ttl(self.decrements.saturating_add(1));
        // A segment decrements once, and what it sets it does not decrement.
        if self.segment().ttl != 0 || self.sets_ttl {
            self.end_segment(Exit::Continue);
        }
        let offset = match self.layout.shape.l3() {
            L3::Ipv4 => 8,
            L3::Ipv6 => 7,
            L3::Other | L3::Arp => return self,
        };
        self.l3.covers |= self.layout.shape.l3() == L3::Ipv4;
        self.segment().ttl = self.layout.l3 + offset;
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
            let operation = operation(self.layout.l4);
            self.segment().dynamic.push(operation);
            self.too_large |= self.dynamic_operands.try_push(u64::from(delta)).is_err();
            self.l4.covers = true;
        }
        self
    }

    /// Combines the ECN of an outer header into the inner one, before the outer is removed.
    pub fn combine_ecn(&mut self, outer: u16, inner: u16) -> &mut Self {
        self.segment().combine_ecn = Some(CombineEcn { outer, inner });
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
        self.segment().splice = Some(Splice { at, remove, insert: insert.len() as u16 });
        self.too_large |= self.splice_bytes.try_extend_from_slice(insert).is_err();
        self.segment().fixups.extend_from_slice(fixups);
        self.end_segment(Exit::Continue);
        self.layout = layout;
        self.pristine = false;
        self
    }

    /// A copy leaves by `port` as the packet is now.
    pub fn output(&mut self, port: PortId) -> &mut Self {
        let untouched = self.untouched && self.segments > 0;
        let last = self.program.template.more.last_mut().unwrap_or(&mut self.program.template.first);
        match &mut last.exit {
            Exit::Output(_, more) if untouched => more.push(port),
            exit @ Exit::Continue if untouched => *exit = Exit::Output(port, Vec::new()),
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
        let l3_offset = self.layout.l3 + 10;
        let l3_checksum = if self.l3.covers && self.layout.shape.l3() == L3::Ipv4 { l3_offset } else { 0 };
        let l4_checksum = if self.l4.covers { self.l4_checksum() } else { None };
        let mask: [u64; IMAGE_WORDS_MAX] = words_of(&self.written);
        let words = mask.iter().rposition(|&word| word != 0).map_or(0, |last| (last + 1).max(IMAGE_WORDS));
        let segment = self.segment();
        (segment.l3_checksum, segment.l4_checksum, segment.exit) = (l3_checksum, l4_checksum, exit);
        (segment.mask, segment.image_words) = (mask, words as u8);
        let ttl = segment.ttl;
        let (l3_delta, l4_delta) = (self.l3.l3_delta(ttl), self.l4.delta());
        if self.segments == 0 {
            (self.program.l3_delta, self.program.l4_delta) = (l3_delta, l4_delta);
        } else {
            self.operand(u64::from(l3_delta) | u64::from(l4_delta) << 16);
        }
        let image: [u64; IMAGE_WORDS_MAX] = words_of(&self.image);
        self.too_large |= self.program.operands.try_extend_from_slice(&image[..words]).is_err();
        for operand in std::mem::take(&mut self.dynamic_operands) {
            self.operand(operand);
        }
        for chunk in std::mem::take(&mut self.splice_bytes).chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.operand(u64::from_ne_bytes(word));
        }
        self.segments += 1;
        if words > 0 {
            self.image = [0; SCRATCH_BYTES];
            self.written = [0; SCRATCH_BYTES];
        }
        (self.l3, self.l4) = (Difference::default(), Difference::default());
        // Later segments see what this one wrote, not the original.
        self.pristine = false;
        self.sets_ttl = false;
        self.untouched = true;
    }

    fn l4_checksum(&self) -> Option<L4Checksum> {
        // A later fragment has no transport header.
        let offset = l4_checksum_offset(self.layout.shape, usize::from(self.layout.l4))?;
        let (l3, l4) = (self.layout.shape.l3(), self.layout.shape.l4());
        let icmp = l3 == L3::Ipv4 && matches!(l4, L4::IcmpEcho | L4::IcmpOther);
        Some(L4Checksum { offset: offset as u16, udp: l4 == L4::Udp, icmp })
    }

    fn operand(&mut self, word: u64) {
        self.too_large |= self.program.operands.try_push(word).is_err();
    }

    /// The program. Edits without an output behind them are dropped with [`DropReason::NoOutput`].
    ///
    /// # Errors
    /// If it exceeds the bounds of a program.
    pub fn finish(self) -> Result<&'a Program, ProgramTooLarge> {
        self.finish_mut().map(|program| &*program)
    }

    #[inline(always)]
    fn finish_mut(mut self) -> Result<&'a mut Program, ProgramTooLarge> {
        let last = self.program.template.more.last().unwrap_or(&self.program.template.first);
        if !self.untouched || self.segments == 0 || last.exit == Exit::Continue {
            self.end_segment(Exit::Drop(DropReason::NoOutput));
        }
        if self.too_large {
            return Err(ProgramTooLarge);
        }
        let one = self.segments == 1 && self.program.template.first.is_plain();
        self.program.recipe = self.steps.filter(|_| one).map(|steps| Recipe { key: None, steps });
        Ok(self.program)
    }

    /// As [`Self::finish`]; [`Program::refill`] may then make the next one of the same key.
    ///
    /// # Errors
    /// If it exceeds the bounds of a program.
    #[inline(always)]
    pub fn finish_as(self, key: Option<RecipeKey>) -> Result<(), ProgramTooLarge> {
        let program = self.finish_mut()?;
        if let Some(recipe) = &mut program.recipe {
            recipe.key = key;
        }
        Ok(())
    }
}

/// The first bytes as words in memory order.
fn words_of(bytes: &[u8; SCRATCH_BYTES]) -> [u64; IMAGE_WORDS_MAX] {
    let mut words = [0; IMAGE_WORDS_MAX];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}
