//! Tuples: which leading bits of which fields a table hashes, and which tuples suit a rule.

use super::pack::{
    DESTINATION_PORT_SHIFT, FROM_ZONE_MASK, KIND_MASK, PROTOCOL_MASK, Pattern, SOURCE_PORT_SHIFT,
    TO_ZONE_MASK, VERSION_MASK, coarse_port_bits, port_mask,
};

/// Address lengths that tables are made for first. Rules of other lengths share the table of the next shorter.
const COARSE_BITS: [u8; 7] = [128, 64, 48, 32, 24, 16, 8];

/// The fields that a table hashes: leading bits of the addresses and a mask of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub source_bits: u8,
    pub destination_bits: u8,
    pub word_mask: u64,
}

impl Tuple {
    /// The longest tuple that `pattern` can be hashed by.
    pub fn exact(pattern: &Pattern) -> Self {
        Self {
            source_bits: leading_ones(pattern.source_mask),
            destination_bits: leading_ones(pattern.destination_mask),
            word_mask: pattern.word_mask,
        }
    }

    /// Whether all that this tuple hashes is hashed by `other` too.
    pub fn is_part_of(&self, other: &Self) -> bool {
        self.source_bits <= other.source_bits
            && self.destination_bits <= other.destination_bits
            && self.word_mask & !other.word_mask == 0
    }

    /// How many leading bits of the destination port it has.
    pub fn destination_port_bits(&self) -> u8 {
        ((self.word_mask >> DESTINATION_PORT_SHIFT) as u16).leading_ones() as u8
    }

    /// How many bits are hashed.
    pub fn specificity(&self) -> u32 {
        u32::from(self.source_bits) + u32::from(self.destination_bits) + self.word_mask.count_ones()
    }

    /// The tuples to make a table of for a pattern whose longest tuple is `exact`, shortest first. The first
    /// hashes the address that says most; each of the others separates rules that collide in those before it.
    pub fn candidates(exact: Self) -> [Self; 6] {
        let source = coarse_bits(exact.source_bits);
        let destination = coarse_bits(exact.destination_bits);
        let version = if source > 0 || destination > 0 { exact.word_mask & VERSION_MASK } else { 0 };
        let service = version | exact.word_mask & (PROTOCOL_MASK | KIND_MASK) | coarse_ports(exact.word_mask);
        let zones = exact.word_mask & (FROM_ZONE_MASK | TO_ZONE_MASK);
        let (first_source, first_destination) =
            if exact.destination_bits >= exact.source_bits { (0, destination) } else { (source, 0) };
        let tuple =
            |source_bits, destination_bits, word_mask| Self { source_bits, destination_bits, word_mask };
        [
            tuple(first_source, first_destination, version),
            tuple(first_source, first_destination, service),
            tuple(source, destination, service),
            tuple(source, destination, service | zones),
            tuple(exact.source_bits, exact.destination_bits, service),
            exact,
        ]
    }
}

fn coarse_bits(bits: u8) -> u8 {
    COARSE_BITS.into_iter().find(|step| *step <= bits).unwrap_or(0)
}

/// The leading bits of the destination port to hash, as a mask of the word.
fn coarse_ports(word_mask: u64) -> u64 {
    let bits = ((word_mask >> DESTINATION_PORT_SHIFT) as u16).leading_ones();
    u64::from(port_mask(coarse_port_bits(bits))) << DESTINATION_PORT_SHIFT
}

fn leading_ones(mask: u128) -> u8 {
    mask.leading_ones() as u8
}

const _: () = assert!(SOURCE_PORT_SHIFT == DESTINATION_PORT_SHIFT + 16);
