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

/// Which of twelve tags are `tag`: a bit each, that of the first lowest.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn matching_twelve(tags: &[u16; 12], tag: u16) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
    };
    // SAFETY: SSE2 is part of x86-64; both loads, of 8 tags each from the first and from the fifth, lie within the 12.
    let bits = unsafe {
        let tag = _mm_set1_epi16(tag as i16);
        let eight = |at: usize| _mm_cmpeq_epi16(_mm_loadu_si128(tags.as_ptr().add(at).cast()), tag);
        _mm_movemask_epi8(_mm_packs_epi16(eight(0), eight(4))) as u32
    };
    // The fifth to the eighth are there twice.
    bits & 0xff | bits >> 4 & 0xf00
}

/// Which of twelve tags are `tag`: a bit each, that of the first lowest.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn matching_twelve(tags: &[u16; 12], tag: u16) -> u32 {
    tags.iter().enumerate().fold(0, |bits, (at, &other)| bits | u32::from(other == tag) << at)
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

    #[test]
    fn each_of_twelve_tags_has_its_bit() {
        let tags: [u16; 12] = std::array::from_fn(|at| 0xff00 | (at as u16 % 5));
        for tag in 0xfeff..=0xff05 {
            let expected = (0..12).fold(0, |bits, at| bits | u32::from(tags[at] == tag) << at);
            assert_eq!(matching_twelve(&tags, tag), expected, "{tag:x}");
        }
    }
}
