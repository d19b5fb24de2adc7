//! The flow key: exactly the bits that the functions of a port's chain declared to read (R2).
//!
//! For each shape the schema is compiled to a *gather*: a few 8-byte windows of the header with a mask each. A key is
//! one word naming ingress port, shape and generation of the schema, then the masked windows. Two packets with one key differ in nothing
//! that a decision may depend on, but for what is guarded (R3).

use super::field::{Field, Reads};
use super::hash::{HASH_WORDS_MAX, KeyedHash};
use crate::packet::{L3, L4, Shape};
use crate::port::PortId;

/// Most words of a key, the first included.
pub const KEY_WORDS_MAX: usize = HASH_WORDS_MAX;
/// Bytes of a header that key and programs can name.
pub const HEADER_BYTES_MAX: usize = 128;

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

/// How the key of one shape is gathered.
#[derive(Clone, Debug)]
pub struct Gather {
    /// The first `count` are used; the others have no mask.
    windows: [Window; KEY_WORDS_MAX],
    count: u8,
    first: u64,
    covered: [u8; HEADER_BYTES_MAX + 16],
}

impl Gather {
    fn compile(port: PortId, generation: u32, shape: Shape, reads: &Reads) -> Option<Self> {
        let header_bytes = shape.header_bytes();
        let mut covered = [0u8; HEADER_BYTES_MAX + 16];
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
        let mut gather = Self {
            windows: [Window::default(); KEY_WORDS_MAX],
            count: 0,
            first: u64::from(port.0)
                | u64::from(shape.0) << 16
                | u64::from(generation & 0x7fff_ffff) << 32
                | 1 << 63,
            covered,
        };
        for window in windows(&covered[..HEADER_BYTES_MAX], header_bytes) {
            *gather.windows[..KEY_WORDS_MAX - 1].get_mut(usize::from(gather.count))? = window;
            gather.count += 1;
        }
        Some(gather)
    }

    /// Words of the key.
    #[inline]
    pub fn words(&self) -> usize {
        usize::from(self.count) + 1
    }

    /// Tells this gather from all others of an engine: port, shape and generation of the schema.
    #[inline]
    pub fn identity(&self) -> u64 {
        self.first
    }

    /// Writes the key of a packet with this gather's shape to `key`, and returns its words.
    #[inline]
    pub fn gather(&self, bytes: &[u8], key: &mut Key) -> usize {
        key[0] = self.first;
        let count = usize::from(self.count);
        for (at, word) in key[1..].iter_mut().enumerate().take(count) {
            *word = self.word(bytes, at);
        }
        count + 1
    }

    /// As [`Self::gather`], with the hash of the key, which is computed while its words are at hand.
    #[inline(always)]
    pub fn gather_and_hash(&self, bytes: &[u8], key: &mut Key, hash: &KeyedHash) -> (usize, u64) {
        let count = usize::from(self.count).min(KEY_WORDS_MAX - 1);
        let mut state = hash.begin();
        let first = self.word(bytes, 0);
        (key[0], key[1]) = (self.first, first);
        hash.absorb(&mut state, 0, self.first, first);
        let (mut at, mut pair) = (1, 1);
        while at < count {
            let (low, high) = (self.word(bytes, at), self.word(bytes, at + 1));
            (key[at + 1], key[(at + 2) % KEY_WORDS_MAX]) = (low, high);
            hash.absorb(&mut state, pair, low, high);
            (at, pair) = (at + 2, pair + 1);
        }
        (count + 1, hash.finish(state))
    }

    /// The word of a window; zero of one that is not used.
    #[inline(always)]
    fn word(&self, bytes: &[u8], at: usize) -> u64 {
        let window = self.windows[at % KEY_WORDS_MAX];
        let from = usize::from(window.offset);
        let eight = bytes.get(from..from + 8).and_then(|slice| slice.first_chunk());
        // The shape fixes the header's length and the parser checked it, so the window is inside.
        u64::from_ne_bytes(*eight.unwrap_or(&[0; 8])) & window.mask
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
    gathers: Box<[Option<Gather>]>,
    reads: Reads,
    port: PortId,
}

impl KeySchema {
    /// Compiles what the functions behind `port` declared to read. Keys of different generations never match, so a
    /// changed schema leaves the entries of the old one unreachable at once; they are evicted in time.
    pub fn new(port: PortId, generation: u32, reads: Reads) -> Self {
        let gathers = (0..Shape::COUNT as u16)
            .map(|bits| {
                let shape = Shape(bits);
                let possible = shape.tags() < 3
                    && shape.is_regular()
                    && (matches!(shape.l3(), L3::Ipv4 | L3::Ipv6) || shape.l4() == L4::Other);
                possible.then(|| Gather::compile(port, generation, shape, &reads)).flatten()
            })
            .collect();
        Self { gathers, reads, port }
    }

    /// How to key packets of this shape; none if they walk the slow path alone.
    #[inline]
    pub fn gather(&self, shape: Shape) -> Option<&Gather> {
        self.gathers.get(usize::from(shape.0)).and_then(Option::as_ref)
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
    fn a_usual_key_fits_half_a_line() {
        assert_eq!(schema().gather(Shape::new(0, L3::Ipv4, L4::Udp)).unwrap().words(), 4);
        assert_eq!(schema().gather(Shape::new(0, L3::Ipv6, L4::Tcp)).unwrap().words(), 7);
    }

    #[test]
    fn an_irregular_shape_has_no_key() {
        assert!(schema().gather(Shape::new(0, L3::Ipv4, L4::Udp).irregular()).is_none());
    }

    proptest! {
        /// R2: a bit of the header changes the key exactly if it was declared.
        #[test]
        fn the_key_is_what_was_declared(mut bytes in proptest::collection::vec(any::<u8>(), 64..64 + 1), bit in 0usize..62 * 8, v6: bool) {
            bytes.resize(80, 0);
            let shape = Shape::new(0, if v6 { L3::Ipv6 } else { L3::Ipv4 }, L4::Udp);
            let (schema, mut before, mut after) = (schema(), [0; KEY_WORDS_MAX], [0; KEY_WORDS_MAX]);
            let gather = schema.gather(shape).unwrap();
            gather.gather(&bytes, &mut before);
            bytes[bit / 8] ^= 1 << (bit % 8);
            gather.gather(&bytes, &mut after);
            let declared = match bit / 8 {
                0..6 => true,
                22..62 if v6 => bit / 8 < 58,
                26..38 if !v6 => true,
                _ => false,
            };
            prop_assert_eq!(before != after, declared);
            let hash = KeyedHash::seeded(1);
            let mut alike = [7; KEY_WORDS_MAX];
            let (words, hashed) = gather.gather_and_hash(&bytes, &mut alike, &hash);
            prop_assert_eq!(words, gather.words());
            prop_assert_eq!(&alike[..words], &after[..words]);
            prop_assert_eq!(hashed, hash.hash(&after[..words]));
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
