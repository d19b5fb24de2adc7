//! Comparing all words of a cache line at once: what look-ups in buckets are made of.
#![allow(unsafe_code)]

/// Which of a line's words are `value` under `mask`: a bit each, that of the first word lowest.
#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
#[inline]
pub fn matching_words(line: &[u32; 16], mask: u32, value: u32) -> u32 {
    use std::arch::x86_64::{
        _mm256_and_si256, _mm256_castsi256_ps, _mm256_cmpeq_epi32, _mm256_loadu_si256, _mm256_movemask_ps,
        _mm256_set1_epi32,
    };
    // SAFETY: AVX2 is part of the target where this is compiled; both loads, of 8 words each, lie within the 16 of `line`.
    unsafe {
        let (mask, value) = (_mm256_set1_epi32(mask as i32), _mm256_set1_epi32(value as i32));
        let half = |at: usize| {
            let words = _mm256_loadu_si256(line.as_ptr().add(at).cast());
            let equal = _mm256_cmpeq_epi32(_mm256_and_si256(words, mask), value);
            _mm256_movemask_ps(_mm256_castsi256_ps(equal)) as u32
        };
        half(0) | half(8) << 8
    }
}

/// Which of a line's words are `value` under `mask`: a bit each, that of the first word lowest.
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
#[inline]
pub fn matching_words(line: &[u32; 16], mask: u32, value: u32) -> u32 {
    line.iter().enumerate().fold(0, |bits, (at, &word)| bits | u32::from(word & mask == value) << at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_has_its_bit() {
        let mut line = [0x1200_0000; 16];
        assert_eq!(matching_words(&line, 0xff00_0000, 0x1200_0000), 0xffff);
        for at in 0..16 {
            line = [0x1200_0000; 16];
            line[at] = 0xff00_0000 | at as u32;
            assert_eq!(matching_words(&line, 0xff00_0000, 0xff00_0000), 1 << at);
            assert_eq!(matching_words(&line, u32::MAX, 0xff00_0000 | at as u32), 1 << at);
            assert_eq!(matching_words(&line, u32::MAX, 0x1200_0000), 0xffff & !(1 << at));
        }
    }
}
