//! What measurements ask of the CPU itself: its cycle counter, and the CRC instruction.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

/// The time stamp counter: cycles at a fixed rate, whatever the core's clock does. Elsewhere than on x86-64: nanoseconds.
#[inline(always)]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: each x86-64 CPU has the instruction; it reads a counter and changes nothing.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// How many cycles [`cycles`] counts in a second, measured over `span` (20 ms give three digits).
pub fn cycles_per_second(span: Duration) -> f64 {
    let (start, first) = (Instant::now(), cycles());
    while start.elapsed() < span {
        std::hint::spin_loop();
    }
    let (counted, elapsed) = (cycles().wrapping_sub(first), start.elapsed());
    counted as f64 / elapsed.as_secs_f64()
}

/// CRC-32C of one word, continued from `crc`: one instruction where the target has SSE 4.2. A measure of the least that a
/// hash can cost; its collisions are known to everybody, so that no table of the data plane uses it (R16).
#[inline(always)]
pub fn crc32c(crc: u64, word: u64) -> u64 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse4.2"))]
    // SAFETY: compiled only where the instruction is part of the target.
    unsafe {
        std::arch::x86_64::_mm_crc32_u64(crc, word)
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse4.2")))]
    {
        let mut crc = crc as u32;
        for byte in word.to_le_bytes() {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1));
            }
        }
        u64::from(crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_runs_at_a_steady_rate() {
        let (a, b) =
            (cycles_per_second(Duration::from_millis(20)), cycles_per_second(Duration::from_millis(20)));
        assert!(a > 1e6 && (0.5..2.0).contains(&(a / b)), "{a} {b}");
    }

    /// RFC 3720 appendix B.4: the CRC of 32 zero bytes is 0x8a9136aa.
    #[test]
    fn the_crc_is_castagnolis() {
        let crc = (0..4).fold(0xffff_ffff, |crc, _| crc32c(crc, 0));
        assert_eq!(!crc as u32, 0x8a91_36aa);
    }
}
