//! Comparing many words at once: what look-ups are made of.
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

/// Which of a bucket's tags are `tag`: two equal bits each, those of the first lowest.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn matching_tags(bucket: &[u16; 8], tag: u16) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi16};
    // SAFETY: SSE2 is part of x86-64; the load covers the 16 bytes of `bucket`.
    unsafe {
        let tags = _mm_loadu_si128(bucket.as_ptr().cast());
        _mm_movemask_epi8(_mm_cmpeq_epi16(tags, _mm_set1_epi16(tag as i16))) as u32
    }
}

/// Which of a bucket's tags are `tag`: two equal bits each, those of the first lowest.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn matching_tags(bucket: &[u16; 8], tag: u16) -> u32 {
    bucket.iter().enumerate().fold(0, |bits, (at, &other)| bits | (3 * u32::from(other == tag)) << (2 * at))
}

/// Words of half a line, which a vector holds.
pub const HALF: usize = 4;

/// True if `header` under `mask` is the two halves of `key`, all as they lie in memory. A bit of `nothing` is for a byte of the second
/// half, the first lowest, that may be anything.
#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
#[inline(always)]
pub fn equals_masked(
    header: &[u8; 64],
    mask: &[u64; 8],
    (low, high): (&[u64; HALF], &[u64; HALF]),
    nothing: u32,
) -> bool {
    use std::arch::x86_64::{_mm256_and_si256, _mm256_cmpeq_epi64, _mm256_loadu_si256, _mm256_movemask_epi8};
    // SAFETY: AVX2 is part of the target where this is compiled; all loads, of 32 bytes each, lie within the 64 of their arrays.
    unsafe {
        let equal = |at: usize, key: &[u64; HALF]| {
            let bytes = _mm256_loadu_si256(header.as_ptr().add(32 * at).cast());
            let mask = _mm256_loadu_si256(mask.as_ptr().add(HALF * at).cast());
            let key = _mm256_loadu_si256(key.as_ptr().cast());
            _mm256_movemask_epi8(_mm256_cmpeq_epi64(_mm256_and_si256(bytes, mask), key)) as u32
        };
        equal(0, low) & (equal(1, high) | nothing) == u32::MAX
    }
}

/// True if `header` under `mask` is the two halves of `key`, all as they lie in memory. A bit of `nothing` is for a byte of the second
/// half, the first lowest, that may be anything.
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
#[inline(always)]
pub fn equals_masked(
    header: &[u8; 64],
    mask: &[u64; 8],
    (low, high): (&[u64; HALF], &[u64; HALF]),
    nothing: u32,
) -> bool {
    let differs = |at: usize, key: u64| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[8 * at..8 * at + 8]);
        (u64::from_ne_bytes(bytes) & mask[at]) ^ key
    };
    let means = |at: usize| {
        u64::from_ne_bytes(std::array::from_fn(|byte| 0xff * (!nothing >> (8 * at + byte) & 1) as u8))
    };
    let low = low.iter().enumerate().fold(0, |bits, (at, &key)| bits | differs(at, key));
    let high = high.iter().enumerate().fold(0, |bits, (at, &key)| bits | differs(HALF + at, key) & means(at));
    low | high == 0
}

/// Sets the bits of `header` that `keep` leaves out to those of an image, given in halves, then takes `less` from its words: all as they lie in memory.
/// What else the image holds is of no effect.
#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
#[inline(always)]
pub fn blend_words(
    header: &mut [u8; 64],
    keep: &[u64; 8],
    (low, high): (&[u64; HALF], &[u64; HALF]),
    less: &[u64; 8],
) {
    use std::arch::x86_64::{
        _mm256_and_si256, _mm256_andnot_si256, _mm256_loadu_si256, _mm256_or_si256, _mm256_storeu_si256,
        _mm256_sub_epi64,
    };
    for (half, image) in [low, high].into_iter().enumerate() {
        // SAFETY: AVX2 is part of the target where this is compiled; all accesses, of 32 bytes each, lie within the 64 of their
        // arrays.
        unsafe {
            let bytes = header.as_mut_ptr().add(32 * half).cast();
            let words = |array: &[u64; 8]| _mm256_loadu_si256(array.as_ptr().add(HALF * half).cast());
            let keep = words(keep);
            let kept = _mm256_and_si256(keep, _mm256_loadu_si256(bytes));
            let set = _mm256_andnot_si256(keep, _mm256_loadu_si256(image.as_ptr().cast()));
            let blended = _mm256_sub_epi64(_mm256_or_si256(kept, set), words(less));
            _mm256_storeu_si256(bytes, blended);
        }
    }
}

/// Sets the bits of `header` that `keep` leaves out to those of an image, given in halves, then takes `less` from its words: all as they lie in memory.
/// What else the image holds is of no effect.
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
#[inline(always)]
pub fn blend_words(
    header: &mut [u8; 64],
    keep: &[u64; 8],
    (low, high): (&[u64; HALF], &[u64; HALF]),
    less: &[u64; 8],
) {
    let words = header.as_chunks_mut::<8>().0.iter_mut().zip(keep).zip(low.iter().chain(high)).zip(less);
    for (((bytes, keep), image), less) in words {
        *bytes = ((u64::from_ne_bytes(*bytes) & keep) | (image & !keep)).wrapping_sub(*less).to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(words: &[u64; 8]) -> (&[u64; HALF], &[u64; HALF]) {
        (words.first_chunk().unwrap(), words.last_chunk().unwrap())
    }

    #[test]
    fn a_blend_keeps_sets_and_takes() {
        let old: [u8; 64] = std::array::from_fn(|at| (at * 37 + 5) as u8);
        let mut header = old;
        let bytes = |word: u64| word.to_ne_bytes();
        let keep: [u64; 8] = std::array::from_fn(|at| !(0xff00_ff00_0000_0000 >> at));
        let image: [u64; 8] = std::array::from_fn(|at| 0x1234_5678_9abc_def0 << at);
        let less: [u64; 8] = std::array::from_fn(|at| at as u64);
        blend_words(&mut header, &keep, halves(&image), &less);
        for at in 0..8 {
            let word = u64::from_ne_bytes(std::array::from_fn(|i| old[8 * at + i]));
            let expected = (word & keep[at] | image[at] & !keep[at]).wrapping_sub(at as u64);
            assert_eq!(header[8 * at..8 * at + 8], bytes(expected), "word {at}");
        }
    }

    #[test]
    fn each_tag_has_two_bits() {
        let bucket = [7, 8, 7, 0, 0xffff, 7, 9, 0x0707];
        assert_eq!(matching_tags(&bucket, 7), 0b00_00_11_00_00_11_00_11);
        assert_eq!(matching_tags(&bucket, 0xffff), 0b11 << 8);
        assert_eq!(matching_tags(&bucket, 10), 0);
    }

    #[test]
    fn every_masked_bit_is_compared_and_no_other() {
        let mut mask = [0u64; 8];
        (0..512).filter(|bit| bit % 3 == 0).for_each(|bit| mask[bit / 64] |= 1 << (bit % 64));
        let header: [u8; 64] = std::array::from_fn(|at| (at * 37) as u8);
        let words = header.as_chunks::<8>().0;
        let key = std::array::from_fn(|at| u64::from_ne_bytes(words[at]) & mask[at]);
        assert!(equals_masked(&header, &mask, halves(&key), 0));
        for bit in 0..512 {
            let mut changed = [0u64; 8];
            changed[bit / 64] = 1 << (bit % 64);
            let changed: Vec<u8> = changed.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let changed: [u8; 64] = std::array::from_fn(|at| header[at] ^ changed[at]);
            assert_eq!(equals_masked(&changed, &mask, halves(&key), 0), bit % 3 != 0, "bit {bit}");
            let means_nothing = bit % 3 != 0 || bit >= 320;
            assert_eq!(equals_masked(&changed, &mask, halves(&key), !0 << 8), means_nothing, "bit {bit}");
        }
    }

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
