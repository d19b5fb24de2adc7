//! The flow key: exactly the bits that the functions of a port's chain declared to read (R2).
//!
//! For each shape the schema is compiled to a *gather*: a mask of the header. A key is one word naming ingress port, shape and
//! generation of the schema, then the header's first 64 bytes under the mask, then masked windows of 8 bytes of what lies further
//! back, which few shapes have. So a usual packet's key is never written down: its header is hashed and compared where it lies, by
//! whole vectors. Two packets with one key differ in nothing that a decision may depend on, but for what is guarded (R3).

use super::field::{Field, Reads};
use super::hash::{HASH_WORDS_MAX, KeyedHash};
use crate::packet::{L3, L4, Shape};
use crate::port::PortId;

/// Most words of a key, the first included.
pub const KEY_WORDS_MAX: usize = HASH_WORDS_MAX;
/// Bytes of a header that key and programs can name.
pub const HEADER_BYTES_MAX: usize = 128;
/// Bytes of a header that a key holds as they lie.
pub const NEAR_BYTES: usize = 64;
/// The same in words.
pub const NEAR_WORDS: usize = NEAR_BYTES / 8;
/// Words of a key without far windows.
pub const NEAR_KEY_WORDS: usize = 1 + NEAR_WORDS;

/// The bit of [`Gather::identity`] that says that the words behind the fifth of the header are not part of the key: of untagged
/// IPv4, those are all but addresses and ports.
const NARROW_BIT: u64 = 1 << 62;
/// Words of a header that a narrow key holds.
pub const NARROW_WORDS: usize = 5;

/// True if the first word of a key says that it is narrow.
#[inline]
pub(super) fn is_narrow(identity: u64) -> bool {
    identity & NARROW_BIT != 0
}

/// A key: [`Gather::words`] words are used.
pub type Key = [u64; KEY_WORDS_MAX];

/// One masked window of 8 bytes, in memory order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Window {
    /// Offset in the frame.
    pub offset: u8,
    /// Bits taken, as they lie in memory.
    pub mask: u64,
}

/// Cuts the masked bytes of a header of `header_bytes` into as few windows as lie wholly inside it.
fn windows(mask: &[u8], header_bytes: usize) -> impl Iterator<Item = Window> + '_ {
    let mut at = 0;
    // Eight bytes of the mask from `at` on; zero behind its end.
    let eight = move |at: usize| {
        let bytes = mask.get(at..).unwrap_or(&[]);
        match bytes.first_chunk::<8>() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
        }
    };
    std::iter::from_fn(move || {
        while at < header_bytes && eight(at) == 0 {
            at += 8;
        }
        if at >= header_bytes {
            return None;
        }
        at += eight(at).trailing_zeros() as usize / 8;
        if at >= header_bytes {
            return None;
        }
        let offset = at.min(header_bytes.saturating_sub(8));
        // Bytes before `at` belong to the window before this one, those behind the header to none.
        let mut bits = eight(offset) >> (8 * (at - offset)) << (8 * (at - offset));
        if offset + 8 > header_bytes {
            bits &= u64::MAX >> (8 * (offset + 8 - header_bytes).min(7));
        }
        at = offset + 8;
        Some(Window { offset: offset as u8, mask: u64::from_le_bytes(bits.to_le_bytes()).to_le() })
    })
}

/// A key that the first bytes of a header are all of.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Near {
    /// Bits taken, as they lie in memory.
    pub mask: [u64; NEAR_WORDS],
    /// [`Gather::identity`]; 0: there is no such key, and no entry has this.
    pub identity: u64,
}

const NOT_NEAR: Near = Near { mask: [0; NEAR_WORDS], identity: 0 };

impl Near {
    /// The hash of the key of a packet that begins with `head`.
    #[inline(always)]
    pub fn hash(&self, head: &[u8; NEAR_BYTES], hash: &KeyedHash) -> u64 {
        let mut state = hash.begin_key(self.identity);
        hash.absorb_header(&mut state, head, &self.mask);
        hash.finish_key(state)
    }
}

/// How the key of one shape is gathered.
#[derive(Clone, Debug)]
pub struct Gather {
    /// What is taken of the first bytes.
    near: Near,
    /// What is taken behind them.
    far: Box<[Window]>,
    covered: Box<[u8; HEADER_BYTES_MAX + 16]>,
}

impl Gather {
    fn compile(port: PortId, generation: u32, shape: Shape, reads: &Reads) -> Option<Self> {
        let header_bytes = shape.header_bytes();
        let mut covered = Box::new([0u8; HEADER_BYTES_MAX + 16]);
        // What the shape leaves open about the protocol is always keyed.
        let implied = [
            (Field::EtherType, shape.l3() == L3::Other),
            (Field::Protocol, matches!(shape.l3(), L3::Ipv4 | L3::Ipv6) && shape.l4() == L4::Other),
        ];
        for &field in Field::ALL {
            let forced = implied.contains(&(field, true));
            let wanted = if forced { u128::MAX } else { reads.mask(field) };
            let Some(location) = field.locate(shape, shape.l3_offset(), shape.l4_offset()) else { continue };
            let bits = (wanted << location.shift()) & location.mask;
            let bytes = bits.to_be_bytes();
            for i in 0..location.bytes {
                covered[location.offset + i] |= bytes[16 - location.bytes + i];
            }
        }
        let words = covered.as_chunks::<8>().0;
        let mask: [u64; NEAR_WORDS] = std::array::from_fn(|at| u64::from_ne_bytes(words[at]));
        let mut behind = [0; HEADER_BYTES_MAX];
        behind[NEAR_BYTES..].copy_from_slice(&covered[NEAR_BYTES..HEADER_BYTES_MAX]);
        let far: Box<[Window]> = windows(&behind, header_bytes).collect();
        let narrow = far.is_empty() && mask[NARROW_WORDS..] == [0; NEAR_WORDS - NARROW_WORDS];
        let identity = u64::from(port.0)
            | u64::from(shape.0) << 16
            | u64::from(generation & 0x3fff_ffff) << 32
            | if narrow { NARROW_BIT } else { 0 }
            | 1 << 63;
        let near = Near { mask, identity };
        (NEAR_KEY_WORDS + far.len() <= KEY_WORDS_MAX).then_some(Self { near, far, covered })
    }

    /// Words of the key.
    #[inline]
    pub fn words(&self) -> usize {
        NEAR_KEY_WORDS + self.far.len()
    }

    /// Tells this gather from all others of an engine: port, shape and generation of the schema. The first word of the key.
    #[inline(always)]
    pub fn identity(&self) -> u64 {
        self.near.identity
    }

    /// Writes the key of a packet with this gather's shape to `key`, and returns its words.
    pub fn gather(&self, bytes: &[u8], key: &mut Key) -> usize {
        key[0] = self.near.identity;
        let mut head = [0; NEAR_BYTES];
        let near = bytes.len().min(NEAR_BYTES);
        head[..near].copy_from_slice(&bytes[..near]);
        let (near, far) = key[1..].split_at_mut(NEAR_WORDS);
        for ((word, bytes), mask) in near.iter_mut().zip(head.as_chunks::<8>().0).zip(&self.near.mask) {
            *word = u64::from_ne_bytes(*bytes) & mask;
        }
        for (word, window) in far.iter_mut().zip(&self.far) {
            // The shape fixes the header's length and the parser checked it, so the window is inside.
            let eight = bytes.get(usize::from(window.offset)..).and_then(<[u8]>::first_chunk);
            *word = u64::from_ne_bytes(*eight.unwrap_or(&[0; 8])) & window.mask;
        }
        self.words()
    }

    /// The hash of a packet's key.
    pub fn hash(&self, bytes: &[u8], hash: &KeyedHash) -> u64 {
        let mut key = [0; KEY_WORDS_MAX];
        let words = self.gather(bytes, &mut key);
        hash.hash_key(&key[..words])
    }

    /// True if all bits of `mask` are part of the key: 16 bytes from `offset` on, in memory order, the first lowest.
    pub fn covers(&self, offset: usize, mask: u128) -> bool {
        let Some(covered) = self.covered.get(offset..).and_then(<[u8]>::first_chunk) else {
            return mask == 0;
        };
        u128::from_le_bytes(*covered) & mask == mask
    }
}

/// The key schema of one port: fixed by its chain's configuration.
#[derive(Clone, Debug)]
pub struct KeySchema {
    /// By shape. Apart from the gathers, so that a usual packet touches these only.
    near: Box<[Near; Shape::COUNT]>,
    gathers: Box<[Option<Gather>]>,
    reads: Reads,
    port: PortId,
}

impl KeySchema {
    /// Compiles what the functions behind `port` declared to read. Keys of different generations never match, so a
    /// changed schema leaves the entries of the old one unreachable at once; they are evicted in time.
    pub fn new(port: PortId, generation: u32, reads: Reads) -> Self {
        let gather_of = |bits| {
            let shape = Shape(bits as u8);
            let possible = shape.tags() < 3
                && shape.is_regular()
                && (matches!(shape.l3(), L3::Ipv4 | L3::Ipv6) || shape.l4() == L4::Other);
            possible.then(|| Gather::compile(port, generation, shape, &reads)).flatten()
        };
        let gathers: Box<[_]> = (0..Shape::COUNT).map(gather_of).collect();
        let mut near = Box::new([NOT_NEAR; Shape::COUNT]);
        for (near, gather) in near.iter_mut().zip(&gathers) {
            *near =
                gather.as_ref().filter(|gather| gather.far.is_empty()).map_or(NOT_NEAR, |gather| gather.near);
        }
        Self { near, gathers, reads, port }
    }

    /// How to key packets of this shape; none if they walk the slow path alone.
    pub fn gather(&self, shape: Shape) -> Option<&Gather> {
        self.gathers.get(usize::from(shape.0)).and_then(Option::as_ref)
    }

    /// The key of packets of this shape, if their first bytes are all of it; else one without identity.
    #[inline(always)]
    pub fn near(&self, shape: Shape) -> &Near {
        &self.near[usize::from(shape.0)]
    }

    /// What was declared.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The ingress port.
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Most words that a key of this schema has.
    pub fn words_max(&self) -> usize {
        self.gathers.iter().flatten().map(Gather::words).max().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schema() -> KeySchema {
        let reads = Reads::none().with(&[
            Field::EthernetDestination,
            Field::Ipv4Source,
            Field::Ipv4Destination,
            Field::Ipv6Source,
            Field::Ipv6Destination,
            Field::SourcePort,
            Field::DestinationPort,
        ]);
        KeySchema::new(PortId(3), 0, reads)
    }

    #[test]
    fn only_a_doubly_tagged_key_reaches_beyond_the_first_64_bytes() {
        for (tags, l3) in [(0, L3::Ipv4), (0, L3::Ipv6), (1, L3::Ipv6), (2, L3::Ipv4)] {
            let schema = schema();
            let shape = Shape::new(tags, l3, L4::Udp);
            let gather = schema.gather(shape).unwrap();
            assert_eq!((gather.words(), schema.near(shape).identity), (NEAR_KEY_WORDS, gather.identity()));
        }
        let (schema, shape) = (schema(), Shape::new(2, L3::Ipv6, L4::Tcp));
        assert_eq!(
            (schema.gather(shape).unwrap().words(), schema.near(shape).identity),
            (NEAR_KEY_WORDS + 1, 0)
        );
        assert_eq!(schema.near(shape.irregular()).identity, 0);
    }

    #[test]
    fn an_irregular_shape_has_no_key() {
        assert!(schema().gather(Shape::new(0, L3::Ipv4, L4::Udp).irregular()).is_none());
    }

    proptest! {
        /// R2: a bit of the header changes the key exactly if it was declared.
        #[test]
        fn the_key_is_what_was_declared(
            mut bytes in proptest::collection::vec(any::<u8>(), 128..129),
            bit in 0usize..74 * 8,
            v6: bool,
            tags in 0usize..3,
        ) {
            let shape = Shape::new(tags, if v6 { L3::Ipv6 } else { L3::Ipv4 }, L4::Udp);
            let (schema, mut before, mut after) = (schema(), [0; KEY_WORDS_MAX], [0; KEY_WORDS_MAX]);
            let gather = schema.gather(shape).unwrap();
            gather.gather(&bytes, &mut before);
            bytes[bit / 8] ^= 1 << (bit % 8);
            gather.gather(&bytes, &mut after);
            let (l3, byte) = (shape.l3_offset(), bit / 8);
            let declared = match byte {
                0..6 => true,
                _ if v6 => (l3 + 8..l3 + 44).contains(&byte),
                _ => (l3 + 12..l3 + 24).contains(&byte),
            };
            prop_assert_eq!(before != after, declared);
            let hash = KeyedHash::seeded(1);
            let words = gather.words();
            prop_assert!(after[words..].iter().all(|&word| word == 0));
            prop_assert_eq!(gather.hash(&bytes, &hash), hash.hash_key(&after[..words]));
            if words == NEAR_KEY_WORDS {
                let near = schema.near(shape).hash(bytes.first_chunk().unwrap(), &hash);
                prop_assert_eq!(near, hash.hash_key(&after[..words]));
            }
            prop_assert_eq!(hash.hash_key(&before[..words]) != hash.hash_key(&after[..words]), declared);
            // A frame that ends with its header has the same key.
            let mut short = [0; KEY_WORDS_MAX];
            gather.gather(&bytes[..shape.header_bytes()], &mut short);
            prop_assert_eq!(short, after);
        }

        #[test]
        fn windows_cover_the_mask_once(mask in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 128), header in 14usize..128) {
            let mut array = [0u8; HEADER_BYTES_MAX];
            array[..header].copy_from_slice(&mask[..header]);
            let mut seen = [0u8; HEADER_BYTES_MAX];
            for window in windows(&array, header) {
                prop_assert!(usize::from(window.offset) + 8 <= header);
                for (i, byte) in window.mask.to_ne_bytes().into_iter().enumerate() {
                    prop_assert_eq!(seen[usize::from(window.offset) + i] & byte, 0);
                    seen[usize::from(window.offset) + i] |= byte;
                }
            }
            prop_assert_eq!(seen, array);
        }
    }
}
