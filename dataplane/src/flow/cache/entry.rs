//! An entry of the flow cache: two cache lines of words, its front; and where these don't hold all, a tail of some more.
//!
//! The first line holds counts and what names the program, and ends with the key's first word. The second holds the rest of a near key,
//! and the tail the program's operands, of which a usual image is one line; what a key has beyond the near one comes before them.
//! An entry is *narrow* if no more than the first five words of key and image say anything, as where IPv4 is untagged: then the
//! second line holds the first four words of both, and the first line the fifth ones. So it needs no tail, and entries lie on
//! fewer pages.

use crate::flow::key::{self, NEAR_BYTES, NEAR_KEY_WORDS, NEAR_WORDS, Near};
use crate::flow::program::Program;
use crate::flow::session::{SessionId, Traffic};
use crate::flow::template::{IMAGE_WORDS, TemplateId};
use crate::flow::watch_sets::SetId;
use crate::lanes::{HALF, equals_masked};

/// Words of a cache line.
pub(super) const LINE_WORDS: usize = 8;
/// Lines of a front.
pub(super) const FRONT_LINES: usize = 2;
/// What every entry has.
pub(super) type Front = [u64; FRONT_LINES * LINE_WORDS];

/// Words in front of the key. So its first word ends a line, and what is compared and blended by vectors lies in whole lines.
const HEADER_WORDS: usize = 7;

/// The word of the next entry of the session, and of the watches.
const LINKS: usize = 4;
/// The fifth words of key and image of a narrow entry.
const FIFTH_KEY: usize = 5;
const FIFTH_IMAGE: usize = 6;
/// Where the key goes on behind its first word.
const KEY: usize = HEADER_WORDS + 1;
/// Where the image of a narrow entry is.
const NARROW_IMAGE: usize = KEY + HALF;

const _: () = assert!(KEY == LINE_WORDS && NEAR_WORDS == LINE_WORDS && IMAGE_WORDS == LINE_WORDS);

const REPLY_BIT: u32 = 1 << 31;
const PROVEN_BIT: u32 = 1 << 30;
const DOUBTED_BIT: u32 = 1 << 29;
const SESSION_MASK: u32 = DOUBTED_BIT - 1;
const NO_SESSION: u32 = SESSION_MASK;
/// Above the number of the template.
const NARROW_BIT: u64 = 1 << 63;
const UPPER: u64 = 0xffff_ffff_0000_0000;

/// The session that an entry belongs to, and which direction of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The session.
    pub session: SessionId,
    /// The entry is for what the responder sends.
    pub reply: bool,
}

/// The header words of an entry, unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    session: u32,
    /// Structure of the program.
    pub template: TemplateId,
    /// Longest network packet.
    pub length_max: u16,
    /// Epoch up to which it is known to be valid.
    pub stamp: u32,
    /// First segment's IPv4 header checksum delta.
    pub l3_delta: u16,
    /// First segment's transport checksum delta.
    pub l4_delta: u16,
}

impl Header {
    #[inline(always)]
    pub(super) fn unpack(head: &Front) -> Self {
        Self {
            session: head[0] as u32,
            template: TemplateId(((head[0] & !NARROW_BIT) >> 48) as u16),
            length_max: (head[0] >> 32) as u16,
            stamp: head[1] as u32,
            l3_delta: (head[2] >> 32) as u16,
            l4_delta: (head[2] >> 48) as u16,
        }
    }

    /// The session and direction.
    #[inline]
    pub fn owner(&self) -> Option<Owner> {
        let id = self.session & SESSION_MASK;
        (id != NO_SESSION).then_some(Owner { session: SessionId(id), reply: self.session & REPLY_BIT != 0 })
    }
}

/// What an entry with a near key and a usual image has.
#[derive(Debug)]
pub struct UsualEntry<'a> {
    front: &'a mut Front,
    /// The image, of an entry that is not narrow.
    tail: &'a [u64; IMAGE_WORDS],
}

impl<'a> UsualEntry<'a> {
    #[inline(always)]
    pub(super) fn new(front: &'a mut Front, tail: &'a [u64; IMAGE_WORDS]) -> Self {
        Self { front, tail }
    }

    /// All ones if the entry is narrow, else zero: a choice of places without a branch.
    #[inline(always)]
    fn narrow(&self) -> usize {
        (self.front[0].cast_signed() >> 63) as usize
    }

    /// The header, unpacked.
    #[inline(always)]
    pub fn header(&self) -> Header {
        Header::unpack(self.front)
    }

    /// True if it has the key of a packet that begins with `head`.
    #[inline(always)]
    pub fn matches(&self, near: &Near, head: &[u8; NEAR_BYTES]) -> bool {
        let narrow = self.narrow();
        let high = half(self.front, KEY + HALF - (narrow & (KEY + HALF - FIFTH_KEY)));
        (self.front[HEADER_WORDS] == near.identity)
            & equals_masked(head, &near.mask, (half(self.front, KEY), high), (narrow as u32) << 8)
    }

    /// The halves of the image. Of a narrow one, what is behind the fifth word means nothing.
    #[inline(always)]
    pub fn image(&self) -> (&[u64; HALF], &[u64; HALF]) {
        match is_narrow(self.front) {
            true => (half(self.front, NARROW_IMAGE), half(self.front, FIFTH_IMAGE)),
            false => (half(self.tail, 0), half(self.tail, HALF)),
        }
    }

    /// Counts a packet.
    #[inline(always)]
    pub fn count(&mut self, bytes: usize, now_millis: u32) {
        count(self.front, bytes, now_millis);
    }
}

/// Four words from `at` on, all of which are there.
#[inline(always)]
fn half(words: &[u64], at: usize) -> &[u64; HALF] {
    words[at..at + HALF].first_chunk().expect("just as long")
}

/// True if no more than the first five words of key and image say anything.
#[inline(always)]
fn is_narrow(head: &Front) -> bool {
    head[0] & NARROW_BIT != 0
}

/// Counts a packet.
#[inline(always)]
pub(super) fn count(head: &mut Front, bytes: usize, now_millis: u32) {
    head[1] = u64::from(head[1] as u32) | u64::from(now_millis) << 32;
    head[2] = head[2].wrapping_add(1);
    head[3] += bytes as u64;
}

/// What was counted since it was last taken.
pub(super) fn counted(head: &Front) -> Traffic {
    Traffic { packets: u64::from(head[2] as u32), bytes: head[3] }
}

/// Takes what was counted.
pub(super) fn take_counted(head: &mut Front) -> Traffic {
    let traffic = counted(head);
    if traffic.packets > 1 {
        head[0] = (head[0] | u64::from(PROVEN_BIT)) & !u64::from(DOUBTED_BIT);
    }
    head[2] &= UPPER;
    head[3] = 0;
    traffic
}

/// True if it saw more than the packet that made it, and was not doubted since that was noted.
pub(super) fn is_proven(head: &Front) -> bool {
    head[0] as u32 & DOUBTED_BIT == 0 && (head[0] as u32 & PROVEN_BIT != 0 || head[2] as u32 > 1)
}

/// What it saw counts no more.
pub(super) fn doubt(head: &mut Front) {
    head[0] |= u64::from(DOUBTED_BIT);
}

/// When it was last hit, in milliseconds of the clock.
pub(super) fn last_seen_millis(head: &Front) -> u32 {
    (head[1] >> 32) as u32
}

/// It is valid up to this epoch.
pub(super) fn restamp(head: &mut Front, stamp: u32) {
    head[1] = (head[1] & UPPER) | u64::from(stamp);
}

/// The next entry of the session.
pub(super) fn next(head: &Front) -> u32 {
    head[LINKS] as u32
}

/// Sets the next entry of the session.
pub(super) fn set_next(head: &mut Front, next: u32) {
    head[LINKS] = head[LINKS] & UPPER | u64::from(next);
}

/// The objects that it used.
pub(super) fn watches(head: &Front) -> SetId {
    SetId((head[LINKS] >> 32) as u32)
}

/// What an entry is made of.
#[derive(Debug)]
pub struct NewEntry<'a> {
    /// The key's words.
    pub key: &'a [u64],
    /// The program.
    pub program: &'a Program,
    /// The interned number of its template.
    pub template: TemplateId,
    /// Whether the template's image is within its first five words, see [`super::super::template::Usual::narrow`].
    pub narrow: bool,
    /// The session that it belongs to.
    pub owner: Option<Owner>,
    /// The epoch at which it was decided.
    pub stamp: u32,
    /// The objects that it used.
    pub watches: SetId,
    /// Now, in milliseconds.
    pub now_millis: u32,
}

impl NewEntry<'_> {
    fn is_narrow(&self) -> bool {
        self.narrow
            && self.key.len() == NEAR_KEY_WORDS
            && self.key.first().is_some_and(|&first| key::is_narrow(first))
    }

    /// Lines of tail that it takes.
    pub(super) fn tail_lines(&self) -> usize {
        match self.is_narrow() {
            true => 0,
            false => (far_words(self.key.len()) + self.program.operands.len()).div_ceil(LINE_WORDS),
        }
    }

    /// Writes it in front of the entry `next` of its session, to a place whose tail is large enough.
    pub(super) fn write(&self, front: &mut Front, tail: &mut [u64], next: u32) {
        let Self { key, program, .. } = self;
        let reply = |owner: Owner| if owner.reply { REPLY_BIT } else { 0 };
        let session = self.owner.map_or(NO_SESSION, |owner| owner.session.0 | reply(owner));
        front[0] =
            u64::from(session) | u64::from(program.length_max) << 32 | u64::from(self.template.0) << 48;
        front[1] = u64::from(self.stamp) | u64::from(self.now_millis) << 32;
        front[2] = u64::from(program.l3_delta) << 32 | u64::from(program.l4_delta) << 48;
        front[3] = 0;
        front[LINKS] = u64::from(next) | u64::from(self.watches.0) << 32;
        let operands = &program.operands[..];
        if self.is_narrow() {
            front[0] |= NARROW_BIT;
            let fifth = |words: &[u64], at| words.get(at).copied().unwrap_or(0);
            (front[FIFTH_KEY], front[FIFTH_IMAGE]) = (fifth(key, 1 + HALF), fifth(operands, HALF));
            front[HEADER_WORDS..NARROW_IMAGE].copy_from_slice(&key[..=HALF]);
            let image = operands.get(..HALF).unwrap_or(&[0; HALF]);
            front[NARROW_IMAGE..].copy_from_slice(image);
        } else {
            let (near, far) = key.split_at(key.len() - far_words(key.len()));
            front[HEADER_WORDS..HEADER_WORDS + near.len()].copy_from_slice(near);
            tail[..far.len()].copy_from_slice(far);
            tail[far.len()..far.len() + operands.len()].copy_from_slice(operands);
        }
    }
}

/// How many words of a key are in the tail.
#[inline(always)]
fn far_words(key_words: usize) -> usize {
    key_words.saturating_sub(NEAR_KEY_WORDS)
}

/// True if an entry has this key.
#[inline(always)]
pub(super) fn has_key(front: &Front, tail: &[u64], key: &[u64]) -> bool {
    if is_narrow(front) {
        // Of keys with this first word, the words behind the fifth are zero.
        let near = key.split_first_chunk().map(|(near, _): (&[u64; 1 + HALF], _)| near);
        return near == front[HEADER_WORDS..NARROW_IMAGE].first_chunk()
            && key.get(1 + HALF) == Some(&front[FIFTH_KEY])
            && key.len() == NEAR_KEY_WORDS;
    }
    // Keys are a few words: the least at once, the rest one by one, and no call.
    match key.split_first_chunk::<NEAR_KEY_WORDS>() {
        Some((near, far)) => {
            front[HEADER_WORDS..].first_chunk() == Some(near)
                && far.len() <= tail.len()
                && tail.iter().zip(far).all(|(a, b)| a == b)
        }
        None => front[HEADER_WORDS..HEADER_WORDS + key.len()] == *key,
    }
}

/// The operands of an entry whose key has `key_words`. Those of a narrow one are put together in `image`.
pub(super) fn operands<'a>(
    front: &Front,
    tail: &'a [u64],
    key_words: usize,
    image: &'a mut [u64; IMAGE_WORDS],
) -> &'a [u64] {
    if !is_narrow(front) {
        return tail.get(far_words(key_words)..).unwrap_or(&[]);
    }
    image[..HALF].copy_from_slice(&front[NARROW_IMAGE..]);
    image[HALF] = front[FIFTH_IMAGE];
    image[HALF + 1..].fill(0);
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::field::{Field, Reads};
    use crate::flow::key::{HEADER_BYTES_MAX, KEY_WORDS_MAX, KeySchema};
    use crate::packet::{L3, L4, Shape};
    use crate::port::PortId;
    use proptest::prelude::*;

    fn schema() -> KeySchema {
        let addresses =
            [Field::Ipv4Source, Field::Ipv4Destination, Field::Ipv6Source, Field::Ipv6Destination];
        let reads = Reads::none().with(&addresses).with(&[Field::SourcePort, Field::DestinationPort]);
        KeySchema::new(PortId(3), u32::MAX, reads)
    }

    /// Keys that are narrow, near, and with words beyond.
    const SHAPES: [Shape; 3] = [
        Shape::new(0, L3::Ipv4, L4::Udp),
        Shape::new(0, L3::Ipv6, L4::Udp),
        Shape::new(2, L3::Ipv6, L4::Tcp),
    ];

    fn key(schema: &KeySchema, shape: Shape, bytes: &[u8]) -> Vec<u64> {
        let (gather, mut key) = (schema.gather(shape).unwrap(), [0; KEY_WORDS_MAX]);
        let words = gather.gather(bytes, &mut key);
        key[..words].to_vec()
    }

    proptest! {
        /// Whatever a place held before, and whatever its entry counts, it has the key that was written last and no other, and
        /// the program that was.
        #[test]
        fn a_place_holds_what_was_written_last(
            steps in proptest::collection::vec((
                0usize..3,
                0usize..4,
                proptest::collection::vec(any::<u8>(), HEADER_BYTES_MAX),
                0usize..8 * NEAR_BYTES,
                any::<[u32; 3]>(),
            ), 1..30),
        ) {
            let schema = schema();
            let (mut front, mut tail): (Front, _) = ([0; FRONT_LINES * LINE_WORDS], [0; 3 * LINE_WORDS]);
            for (shape, image, bytes, bit, [session, watches, stamp]) in steps {
                let own = key(&schema, SHAPES[shape], &bytes);
                let mut values: Vec<u64> = (1..17).map(|n| n << 56 | u64::from(stamp)).collect();
                values.truncate([0, IMAGE_WORDS, IMAGE_WORDS, 2 * IMAGE_WORDS][image]);
                if image == 1 {
                    values[HALF + 1..].fill(0);
                }
                let mut program = Program::default();
                program.operands.extend(values.iter().copied());
                (program.l3_delta, program.l4_delta, program.length_max) =
                    (stamp as u16, session as u16, watches as u16);
                let owner = Owner { session: SessionId(session & (SESSION_MASK >> 1)), reply: bit % 2 == 0 };
                let entry = NewEntry {
                    key: &own,
                    program: &program,
                    template: TemplateId(stamp as u16 % (1 << 14)),
                    narrow: image < 2,
                    owner: Some(owner),
                    stamp,
                    watches: SetId(watches),
                    now_millis: session,
                };
                let is_short = entry.tail_lines() == 0;
                prop_assert_eq!(is_short, image == 0 && shape < 2 || image == 1 && shape == 0);
                entry.write(&mut front, &mut tail, watches);
                (0..3).for_each(|_| count(&mut front, 60, stamp));
                doubt(&mut front);
                restamp(&mut front, session);
                set_next(&mut front, stamp);
                prop_assert_eq!(take_counted(&mut front), Traffic { packets: 3, bytes: 180 });

                let header = Header::unpack(&front);
                prop_assert_eq!((header.owner(), header.template), (Some(owner), entry.template));
                prop_assert_eq!((header.length_max, header.stamp), (program.length_max, session));
                prop_assert_eq!((header.l3_delta, header.l4_delta), (program.l3_delta, program.l4_delta));
                prop_assert_eq!((next(&front), self::watches(&front)), (stamp, entry.watches));
                prop_assert_eq!((last_seen_millis(&front), counted(&front)), (stamp, Traffic::default()));

                let mut scratch = [0; IMAGE_WORDS];
                let found = operands(&front, &tail, own.len(), &mut scratch);
                prop_assert_eq!(&found[..values.len()], &values[..]);
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                for (at, (&other, bytes)) in SHAPES.iter().flat_map(|at| [(at, &bytes), (at, &changed)]).enumerate() {
                    let other_key = key(&schema, other, bytes);
                    prop_assert_eq!(has_key(&front, &tail, &other_key), other_key == own, "{} {:?}", at, other);
                    let (near, head) = (schema.near(other), bytes.first_chunk().unwrap());
                    let first = *tail.first_chunk().unwrap();
                    let usual = UsualEntry::new(&mut front, &first);
                    prop_assert_eq!(usual.matches(near, head), other_key == own && near.identity != 0);
                    if shape < 2 && (1..3).contains(&image) {
                        let (low, high) = usual.image();
                        prop_assert_eq!(&low[..], &values[..HALF]);
                        let said = if usual.narrow() != 0 { 1 } else { HALF };
                        prop_assert_eq!(&high[..said], &values[HALF..][..said]);
                    }
                }
            }
        }
    }
}
