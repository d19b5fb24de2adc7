//! A small generator of pseudo-random numbers that repeats from a seed, and the seeds of a run.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// One step of SplitMix64's output function: also a good enough hash of one word.
pub fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

impl Random {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of the elements.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Runs `script` for each seed: `MILLRACE_SEED` alone if it is set, else `count` seeds from `first` on.
pub fn for_each_seed(first: u64, count: u64, mut script: impl FnMut(u64)) {
    if let Ok(seed) = std::env::var("MILLRACE_SEED") {
        let seed = seed.parse().expect("MILLRACE_SEED is a number");
        println!("seed {seed}");
        return script(seed);
    }
    println!("seeds {first} to {}", first + count - 1);
    for seed in first..first + count {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| script(seed)));
        if let Err(panic) = failed {
            println!("failed with MILLRACE_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
