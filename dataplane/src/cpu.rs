//! What measurements ask of the CPU itself: its cycle counter, and the CRC instruction.
#![allow(unsafe_code)]

use std::sync::OnceLock;
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

/// Turns cycles into nanoseconds by a multiplication, since a division would cost the packet path too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CycleScale {
    /// Nanoseconds a cycle, times 2^32.
    multiplier: u64,
}

impl CycleScale {
    /// For a counter of so many cycles a second.
    pub fn new(cycles_per_second: f64) -> Self {
        Self { multiplier: (1e9 / cycles_per_second * (1u64 << 32) as f64).round() as u64 }
    }

    /// That of [`cycles`], measured once a process: some 15 milliseconds when it is asked for first.
    pub fn measured() -> Self {
        static SCALE: OnceLock<CycleScale> = OnceLock::new();
        *SCALE.get_or_init(|| {
            // The median, should the thread lose its core between the two clocks.
            let mut rates = [(); 3].map(|()| cycles_per_second(Duration::from_millis(5)));
            rates.sort_by(f64::total_cmp);
            Self::new(rates[1])
        })
    }

    /// Nanoseconds of so many cycles.
    #[inline(always)]
    pub fn nanos(self, cycles: u64) -> u64 {
        ((u128::from(cycles) * u128::from(self.multiplier)) >> 32) as u64
    }
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

    #[test]
    fn cycles_become_nanoseconds() {
        let scale = CycleScale::new(2.5e9);
        for (cycles, nanos) in [(0, 0), (2_500, 1_000), (2_500_000_000, 1_000_000_000)] {
            assert!(scale.nanos(cycles).abs_diff(nanos) <= 1, "{cycles}: {}", scale.nanos(cycles));
        }
        assert_eq!(CycleScale::new(1e9).nanos(u64::MAX), u64::MAX);
        let (start, first) = (Instant::now(), cycles());
        let scale = CycleScale::measured();
        std::thread::sleep(Duration::from_millis(20));
        let (counted, elapsed) = (cycles() - first, start.elapsed());
        let ratio = scale.nanos(counted) as f64 / elapsed.as_nanos() as f64;
        assert!((0.8..1.25).contains(&ratio), "{ratio}");
    }

    /// RFC 3720 appendix B.4: the CRC of 32 zero bytes is 0x8a9136aa.
    #[test]
    fn the_crc_is_castagnolis() {
        let crc = (0..4).fold(0xffff_ffff, |crc, _| crc32c(crc, 0));
        assert_eq!(!crc as u32, 0x8a91_36aa);
    }
}
