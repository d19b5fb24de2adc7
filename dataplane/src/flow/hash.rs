//! The keyed hash of tables that the network fills (R16).
//!
//! Each 16-byte block is whitened with its own secret, goes through two AES rounds, and the blocks' results are
//! combined and go through a third; so a collision depends on the secret, and blocks don't wait for each other.
//! Without AES instructions, SipHash of the standard library takes its place.
#![allow(unsafe_code)]

/// Most 64-bit words that one hash covers.
pub const HASH_WORDS_MAX: usize = 16;

#[cfg(all(target_arch = "x86_64", target_feature = "aes"))]
mod imp {
    use super::HASH_WORDS_MAX;
    use std::arch::x86_64::{
        __m128i, _mm_aesenc_si128, _mm_and_si128, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_set_epi64x,
        _mm_xor_si128,
    };

    /// Secrets: one to whiten each block, two round keys.
    #[derive(Clone)]
    pub struct KeyedHash {
        whiten: [__m128i; HASH_WORDS_MAX / 2],
        rounds: [__m128i; 2],
    }

    impl KeyedHash {
        pub(super) fn from_secret(secret: [u64; HASH_WORDS_MAX + 4]) -> Self {
            // SAFETY: SSE2 is part of x86-64.
            let pair = |i: usize| unsafe { _mm_set_epi64x(secret[i] as i64, secret[i + 1] as i64) };
            Self {
                whiten: std::array::from_fn(|i| pair(2 * i)),
                rounds: [pair(HASH_WORDS_MAX), pair(HASH_WORDS_MAX + 2)],
            }
        }

        /// The hash of up to [`HASH_WORDS_MAX`] words; those beyond are ignored.
        #[inline(always)]
        pub fn hash(&self, words: &[u64]) -> u64 {
            let mut state = self.begin();
            let (pairs, rest) = words.as_chunks::<2>();
            for (i, pair) in pairs.iter().enumerate() {
                self.absorb(&mut state, i, pair[0], pair[1]);
            }
            if let Some(&word) = rest.first() {
                self.absorb(&mut state, pairs.len(), word, 0);
            }
            self.finish(state)
        }

        /// A hash to be fed pair by pair, from registers: what was just written to memory as words can't be read as a
        /// vector without waiting for it.
        #[inline(always)]
        pub fn begin(&self) -> HashState {
            HashState(self.rounds[0])
        }

        /// Takes in the `at`-th pair of words; the last word of an odd number is paired with zero.
        #[inline(always)]
        pub fn absorb(&self, state: &mut HashState, at: usize, low: u64, high: u64) {
            let Some(&whiten) = self.whiten.get(at) else { return };
            // SAFETY: this module is compiled only where the AES instructions are part of the target.
            unsafe {
                let block = _mm_xor_si128(_mm_set_epi64x(high as i64, low as i64), whiten);
                let block = _mm_aesenc_si128(_mm_aesenc_si128(block, self.rounds[0]), self.rounds[1]);
                state.0 = _mm_xor_si128(state.0, block);
            }
        }

        /// The hash of what was taken in.
        #[inline(always)]
        pub fn finish(&self, state: HashState) -> u64 {
            // SAFETY: as above.
            unsafe { _mm_cvtsi128_si64(_mm_aesenc_si128(state.0, self.rounds[1])) as u64 }
        }

        /// A hash of a flow key, whose first word is `identity`: to be ended by [`Self::finish_key`].
        #[inline(always)]
        pub fn begin_key(&self, identity: u64) -> HashState {
            // SAFETY: as above.
            HashState(unsafe { _mm_xor_si128(self.rounds[0], _mm_set_epi64x(0, identity as i64)) })
        }

        /// Takes in the first four pairs: a header's first 64 bytes under a mask, as they lie in memory.
        #[inline(always)]
        pub fn absorb_header(&self, state: &mut HashState, header: &[u8; 64], mask: &[u64; 8]) {
            for at in 0..4 {
                // SAFETY: as above; the loads, of 16 bytes each, lie within the 64 of `header` and of `mask`.
                unsafe {
                    let bytes = _mm_loadu_si128(header.as_ptr().add(16 * at).cast());
                    let mask = _mm_loadu_si128(mask.as_ptr().add(2 * at).cast());
                    let block = _mm_xor_si128(_mm_and_si128(bytes, mask), self.whiten[at]);
                    let block = _mm_aesenc_si128(_mm_aesenc_si128(block, self.rounds[0]), self.rounds[1]);
                    state.0 = _mm_xor_si128(state.0, block);
                }
            }
        }

        /// The hash of a key. Two rounds: the identity has been through none, and one spreads a byte over a quarter only.
        #[inline(always)]
        pub fn finish_key(&self, state: HashState) -> u64 {
            // SAFETY: as above.
            unsafe {
                let mixed = _mm_aesenc_si128(state.0, self.rounds[0]);
                _mm_cvtsi128_si64(_mm_aesenc_si128(mixed, self.rounds[1])) as u64
            }
        }
    }

    /// A hash that is being computed.
    #[derive(Clone, Copy, Debug)]
    pub struct HashState(__m128i);
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "aes")))]
mod imp {
    use super::HASH_WORDS_MAX;
    use std::hash::{DefaultHasher, Hasher};

    /// SipHash, keyed by writing the secret first.
    #[derive(Clone)]
    pub struct KeyedHash(DefaultHasher);

    impl KeyedHash {
        pub(super) fn from_secret(secret: [u64; HASH_WORDS_MAX + 4]) -> Self {
            let mut hasher = DefaultHasher::new();
            secret.iter().for_each(|&word| hasher.write_u64(word));
            Self(hasher)
        }

        /// The hash of up to [`HASH_WORDS_MAX`] words; those beyond are ignored.
        pub fn hash(&self, words: &[u64]) -> u64 {
            let mut state = self.begin();
            for (i, pair) in words.chunks(2).enumerate() {
                self.absorb(&mut state, i, pair[0], pair.get(1).copied().unwrap_or(0));
            }
            self.finish(state)
        }

        /// A hash to be fed pair by pair.
        pub fn begin(&self) -> HashState {
            HashState(self.0.clone())
        }

        /// Takes in the `at`-th pair of words; the last word of an odd number is paired with zero.
        pub fn absorb(&self, state: &mut HashState, at: usize, low: u64, high: u64) {
            if at < HASH_WORDS_MAX / 2 {
                state.0.write_u64(low);
                state.0.write_u64(high);
            }
        }

        /// The hash of what was taken in.
        pub fn finish(&self, state: HashState) -> u64 {
            state.0.finish()
        }

        /// A hash of a flow key, whose first word is `identity`: to be ended by [`Self::finish_key`].
        pub fn begin_key(&self, identity: u64) -> HashState {
            let mut state = self.begin();
            state.0.write_u64(identity);
            state
        }

        /// Takes in the first four pairs: a header's first 64 bytes under a mask, as they lie in memory.
        pub fn absorb_header(&self, state: &mut HashState, header: &[u8; 64], mask: &[u64; 8]) {
            for (bytes, mask) in header.as_chunks::<8>().0.iter().zip(mask) {
                state.0.write_u64(u64::from_ne_bytes(*bytes) & mask);
            }
        }

        /// The hash of a key.
        pub fn finish_key(&self, state: HashState) -> u64 {
            self.finish(state)
        }
    }

    /// A hash that is being computed.
    #[derive(Clone, Debug)]
    pub struct HashState(DefaultHasher);
}

pub use imp::{HashState, KeyedHash};

impl KeyedHash {
    /// The hash of a flow key: its identity, then pairs of words.
    pub fn hash_key(&self, key: &[u64]) -> u64 {
        let Some((&identity, words)) = key.split_first() else { return 0 };
        let mut state = self.begin_key(identity);
        for (at, pair) in words.chunks(2).enumerate() {
            self.absorb(&mut state, at, pair[0], pair.get(1).copied().unwrap_or(0));
        }
        self.finish_key(state)
    }

    /// With a secret from the system's random source.
    ///
    /// # Panics
    /// If the system has no random source; nothing safe can be done then.
    pub fn random() -> Self {
        let mut bytes = [0u8; (HASH_WORDS_MAX + 4) * 8];
        getrandom::fill(&mut bytes).expect("the system has a random source");
        let mut secret = [0u64; HASH_WORDS_MAX + 4];
        for (word, chunk) in secret.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes([
                chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7],
            ]);
        }
        Self::from_secret(secret)
    }

    /// With a secret derived from `seed`, for runs that must repeat.
    pub fn seeded(seed: u64) -> Self {
        let mut state = seed;
        Self::from_secret(std::array::from_fn(|_| {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }
}

impl std::fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyedHash(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R16: what collides under one secret does not under another.
    #[test]
    fn collisions_depend_on_the_secret() {
        let (a, b) = (KeyedHash::seeded(1), KeyedHash::seeded(2));
        let buckets = 1u64 << 10;
        let home = |hash: &KeyedHash, i: u64| hash.hash(&[i, 7, i << 32, 9]) % buckets;
        let chosen: Vec<u64> = (0..1 << 16).filter(|&i| home(&a, i) == 5).collect();
        assert!(chosen.len() > 32);
        let still = chosen.iter().filter(|&&i| home(&b, i) == home(&b, chosen[0])).count();
        assert!(still < chosen.len() / 8, "{still} of {}", chosen.len());
    }

    #[test]
    fn buckets_fill_evenly_under_structured_keys() {
        let hash = KeyedHash::random();
        for stride in [1u64, 1 << 8, 1 << 16, 1 << 32, 1 << 48] {
            let mut counts = vec![0u32; 256];
            (0..65_536u64)
                .for_each(|i| counts[(hash.hash(&[i.wrapping_mul(stride), 3]) & 255) as usize] += 1);
            let chi: f64 = counts.iter().map(|&c| (f64::from(c) - 256.0).powi(2) / 256.0).sum();
            assert!(chi < 400.0, "stride {stride}: chi-squared {chi}");
        }
    }

    #[test]
    fn every_word_counts() {
        let hash = KeyedHash::seeded(3);
        let words = [0u64; 16];
        for at in 0..16 {
            let mut changed = words;
            changed[at] ^= 1;
            assert_ne!(hash.hash(&changed), hash.hash(&words), "word {at}");
        }
    }
}
