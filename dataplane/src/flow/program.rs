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

/// Most words' parts of fields that a recipe sets.
const STEPS_MAX: usize = 12;

/// A program of one segment that sets fields which do not overlap, to be filled with other values.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Recipe {
    key: Option<RecipeKey>,
    steps: ArrayVec<Step, STEPS_MAX>,
}

/// How at most eight bytes of a field are set. Two steps set the halves of a longer one, the first bytes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    /// Bits of the field from its offset on, in memory order.
    mask: u64,
    /// The same in the word of the header where it begins, and in the one behind that.
    masks: [u64; 2],
    offset: u8,
    /// Bits by which the value is shifted to lie under the mask, before its bytes are swapped.
    shift: u8,
    /// It sets the second half of the value that the step before set the first half of.
    goes_on: bool,
    /// The value's upper half is set.
    is_upper: bool,
    /// It starts at an odd place of what the checksums sum.
    odd: bool,
    /// All ones where the IPv4 header checksum covers it.
    l3: u64,
    /// All ones where the transport checksum does.
    l4: u64,
}

impl Step {
    /// The bytes of `value` that it sets, in memory order.
    #[inline(always)]
    fn bytes(&self, value: u128) -> u64 {
        let half = if self.is_upper { (value >> 64) as u64 } else { value as u64 };
        (half << self.shift).swap_bytes() & self.mask
    }

    /// Sets its bits of an image to `bytes`.
    #[inline(always)]
    fn put(&self, image: &mut [u64], bytes: u64) {
        let (word, parts) = (usize::from(self.offset / 8), self.parts(bytes));
        if let Some(first) = image.get_mut(word) {
            *first = *first & !self.masks[0] | parts[0];
        }
        if self.masks[1] != 0
            && let Some(second) = image.get_mut(word + 1)
        {
            *second = *second & !self.masks[1] | parts[1];
        }
    }

    /// Bytes that begin at its offset, by the header's words.
    #[inline(always)]
    fn parts(&self, bytes: u64) -> [u64; 2] {
        let bit = u32::from(self.offset % 8) * 8;
        // In two steps, since no word is shifted by all of its bits.
        [bytes << bit, bytes >> 1 >> (63 - bit)]
    }
}

impl Program {
    /// Fills the program as it is with `values`, if it was made by the same recipe. False if it was not.
    #[inline(never)]
    pub fn refill(
        &mut self,
        key: &RecipeKey,
        original: &[u8],
        mut values: impl Iterator<Item = u128>,
    ) -> bool {
        let Some(recipe) = self.recipe.as_ref().filter(|recipe| recipe.key.as_ref() == Some(key)) else {
            return false;
        };
        let (mut l3, mut l4) = (Difference::default(), Difference::default());
        let mut value = 0;
        for step in &recipe.steps {
            if !step.goes_on {
                value = values.next().unwrap_or(0);
            }
            let bytes = step.bytes(value);
            // The image is all of the operands, and what it was filled with before lies under the same masks.
            step.put(&mut self.operands, bytes);
            if step.l3 | step.l4 != 0 {
                let old = eight(original, usize::from(step.offset)) & step.mask;
                let change = sum_eight(bytes, step.odd) + sum_eight(!old, step.odd);
                l3.sum += change & step.l3;
                l4.sum += change & step.l4;
            }
        }
        (self.l3_delta, self.l4_delta) = (l3.l3_delta(self.template.first.ttl), l4.delta());
        true
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

/// The change that the edits of one segment make to the sum of a checksum.
#[derive(Clone, Copy, Debug, Default)]
struct Difference {
    /// Of what they put, and of the complement of what they replaced (RFC 1624 equation 3).
    sum: u64,
    /// Some edit is covered by the checksum.
    covers: bool,
}

impl Difference {
    /// Adds the change that an edit makes, if the checksum covers it.
    #[inline(always)]
    fn add(&mut self, covered: bool, change: u64) {
        self.sum += if covered { change } else { 0 };
        self.covers |= covered;
    }

    fn delta(&self) -> u16 {
        // Bytes were summed in little-endian order; folded, a sum is turned to the order of memory by swapping its bytes.
        checksum::fold(self.sum).to_le()
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
        None => last_sixteen(bytes, at),
    }
}

/// The same where fewer are left.
#[cold]
fn last_sixteen(bytes: &[u8], at: usize) -> u128 {
    bytes.get(at..).unwrap_or(&[]).iter().take(16).rev().fold(0, |word, &byte| word << 8 | u128::from(byte))
}

fn put_sixteen(bytes: &mut [u8; SCRATCH_BYTES], at: usize, value: u128) {
    if let Some(chunk) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *chunk = value.to_le_bytes();
    }
}

/// Bytes as they lie in memory, 8 at a time.
#[inline(always)]
fn eight(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => last_sixteen(bytes, at) as u64,
    }
}

/// The unfolded sum of 8 bytes as they lie in memory, in little-endian order; `odd`: they start at an odd place of what is summed.
#[inline(always)]
fn sum_eight(bytes: u64, odd: bool) -> u64 {
    let bytes = if odd { bytes.rotate_left(8) } else { bytes };
    (bytes & 0xffff_ffff) + (bytes >> 32)
}

/// The same of 16 bytes.
fn sum_sixteen(bytes: u128, odd: bool) -> u64 {
    sum_eight(bytes as u64, odd) + sum_eight((bytes >> 64) as u64, odd)
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
        let (near, far) = (mask as u64, (mask >> 64) as u64);
        // Values are shifted to the upper end of 16 bytes, the first of which lies lowest in memory.
        let (is_wide, shift) = (far != 0, (shift % 64) as u8);
        let odd = (offset ^ usize::from(self.layout.l3)) & 1 == 1;
        let (goes_on, is_upper, offset) = (false, is_wide, offset as u8);
        let [l3, l4] = [coverage.l3, coverage.l4].map(|covered| if covered { u64::MAX } else { 0 });
        let step = Step { mask: near, masks: [0; 2], offset, shift, goes_on, is_upper, odd, l3, l4 };
        let rest = Step { mask: far, offset: offset + 8, goes_on: true, is_upper: false, ..step };
        let [step, rest] = [step, rest].map(|step| Step { masks: step.parts(step.mask), ..step });
        let fits = self
            .steps
            .as_mut()
            .is_some_and(|steps| steps.try_push(step).is_ok() && (!is_wide || steps.try_push(rest).is_ok()));
        if again || self.segments > 0 || !fits || is_wide && shift != 0 {
            self.steps = None;
        }
    }

    fn write_known(&mut self, offset: usize, value: u128, mask: u128, coverage: Coverage) {
        self.untouched = false;
        let (image, written) = (sixteen(&self.image, offset), sixteen(&self.written, offset));
        // What the segment wrote before is what is replaced.
        let old = ((sixteen(self.original, offset) & !written) | (image & written)) & mask;
        let odd = (offset ^ usize::from(self.layout.l3)) & 1 == 1;
        let change = sum_sixteen(value, odd) + sum_sixteen(!old, odd);
        self.l3.add(coverage.l3, change);
        self.l4.add(coverage.l4, change);
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
