//! Internet checksums (RFC 1071) and their incremental update (RFC 1624).
//!
//! Sums are kept as `u32` accumulators of 16-bit words *as they lie in memory* (native order of wire bytes);
//! one's complement addition is independent of byte order (RFC 1071 section 2(B)), so nothing is swapped.

/// Folds an accumulator to 16 bits with end-around carry.
#[inline]
pub const fn fold(sum: u64) -> u16 {
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let sum = sum + carry as u32;
    // The high half of this is both halves with the carry of the low one.
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The unfolded sum of `bytes`; an odd last byte is padded with zero.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut total = 0u64;
    let mut chunks = bytes.chunks_exact(4);
    for chunk in &mut chunks {
        total += u64::from(u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut last = [0u8; 4];
        last[..rest.len()].copy_from_slice(rest);
        total += u64::from(u32::from_ne_bytes(last));
    }
    total
}

/// The checksum field for `sum`, as it lies in memory.
#[inline]
pub const fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// The delta that replaces words summing to `old` by words summing to `new`: what [`apply`] adds.
#[inline]
pub const fn delta(old: u64, new: u64) -> u16 {
    // RFC 1624 equation 3: HC' = ~(~HC + ~m + m'). The delta is ~m + m'.
    fold((!fold(old)) as u64 + fold(new) as u64)
}

/// The one's complement sum of two 16-bit words.
#[inline(always)]
pub const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// Applies `delta` to a checksum field as it lies in memory (RFC 1624 equation 3).
#[inline]
pub const fn apply(field: u16, delta: u16) -> u16 {
    !add(!field, delta)
}

/// The sum of the pseudo-header of TCP, UDP and ICMPv6 (RFC 8200 section 8.1; RFC 9293 section 3.1).
/// `addresses` are source then destination as on the wire; `length` is the upper-layer length in bytes.
#[inline]
pub fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    sum(addresses)
        + u64::from(u32::from(protocol).to_be())
        + u64::from((u32::try_from(length).unwrap_or(u32::MAX)).to_be())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_update_equals_a_new_sum(mut bytes in proptest::collection::vec(any::<u8>(), 20..200), at in 0usize..9, new: [u8; 2]) {
            // A header of all zeros has two representations of zero; RFC 1624 section 3 excludes it.
            bytes[18] |= 1;
            let at = at * 2;
            let before = finish(sum(&bytes));
            let old = [bytes[at], bytes[at + 1]];
            bytes[at..at + 2].copy_from_slice(&new);
            let updated = apply(before, delta(sum(&old), sum(&new)));
            prop_assert_eq!(updated, finish(sum(&bytes)));
        }

        #[test]
        fn a_sum_may_be_split_anywhere_even(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..150) {
            let at = (at * 2).min(bytes.len() & !1);
            prop_assert_eq!(fold(sum(&bytes)), fold(sum(&bytes[..at]) + sum(&bytes[at..])));
        }
    }
}
