//! The keyed hash of the tables (R16).
//!
//! Multilinear hashing: the sum, modulo 2^128, of each 64-bit word times a secret 128-bit key of its own. Its top
//! 32 bits are strongly universal over the choice of keys (Lemire and Kaser, "Strongly universal string hashing
//! is fast", 2014): two different inputs collide with probability 2^-32 for anyone who doesn't know the
//! keys. It is linear on purpose: the share of an address at some prefix length is computed once for a look-up and
//! added in every table that uses that length.
//!
//! Packets never enter a table, only rules do, and the length of every list of rules is bounded and counted. A
//! packet chosen with full knowledge of the keys can therefore cost no more than
//! [`worst_case_probes`](super::Classifier::worst_case_probes).

use std::hash::{DefaultHasher, Hash, Hasher};

use super::pack::{Pattern, address_mask};
use super::tuple::Tuple;

/// The secret keys, one for each 64-bit word of a table's key.
#[derive(Clone)]
pub(super) struct HashKeys {
    source: [u128; 2],
    destination: [u128; 2],
    word: u128,
}

impl HashKeys {
    /// Derives the keys from a random seed by SipHash.
    pub fn new(seed: [u64; 2]) -> Self {
        let half = |index: u8| {
            let mut hasher = DefaultHasher::new();
            (seed, index).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        let key = |index: u8| half(2 * index) << 64 | half(2 * index + 1);
        Self { source: [key(0), key(1)], destination: [key(2), key(3)], word: key(4) }
    }

    /// The share of the source address.
    #[inline]
    pub fn source(&self, masked: u128) -> u128 {
        linear(self.source, masked)
    }

    /// The share of the destination address.
    #[inline]
    pub fn destination(&self, masked: u128) -> u128 {
        linear(self.destination, masked)
    }

    /// The share of the word.
    #[inline]
    pub fn word(&self, masked: u64) -> u128 {
        self.word.wrapping_mul(u128::from(masked))
    }

    /// The hash of a rule in a table of this tuple.
    pub fn pattern(&self, pattern: &Pattern, tuple: &Tuple) -> u32 {
        finish(
            self.source(pattern.source & address_mask(tuple.source_bits)),
            self.destination(pattern.destination & address_mask(tuple.destination_bits)),
            self.word(pattern.word & tuple.word_mask),
        )
    }
}

/// Joins the shares; the top bits are the hash.
#[inline]
pub(super) fn finish(source: u128, destination: u128, word: u128) -> u32 {
    (source.wrapping_add(destination).wrapping_add(word) >> 96) as u32
}

#[inline]
fn linear(keys: [u128; 2], value: u128) -> u128 {
    let high = keys[0].wrapping_mul(value >> 64);
    let low = keys[1].wrapping_mul(value & u128::from(u64::MAX));
    high.wrapping_add(low)
}
