//! The budget of misses (R12): established flows keep their rate under a flood of new ones.
//!
//! While there are hits to protect, walks get a share of the worker's time, as a token bucket in nanoseconds. In the lower half
//! of the bucket only sources that used no more than their fair part of the current window are let through, so one
//! source can't take it all. Packets of known sessions (an entry fell, a guard failed) may overdraw by one bucket.
//! Nobody needs protection without hits, nor while bursts come in half empty: then the worker keeps up, and walks may take all the
//! time there is.

use crate::limits::BURST_PACKETS_MAX;
use crate::time::Time;

const SOURCES: usize = 256;
const WINDOW_NANOS: u64 = 10_000_000;
/// How many times the estimate of a walk's cost one measurement may be.
const RISE_MAX: u64 = 4;

/// Sizes of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetConfig {
    /// Percent of the time that walks may take while there are hits; 100: no budget.
    pub share_percent: u8,
    /// Capacity of the bucket, in nanoseconds of walking.
    pub burst_nanos: u32,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self { share_percent: 20, burst_nanos: 1_000_000 }
    }
}

impl BudgetConfig {
    /// No budget, for deterministic runs.
    pub const UNLIMITED: Self = Self { share_percent: 100, burst_nanos: 0 };
}

/// The budget of one worker.
#[derive(Debug)]
pub struct MissBudget {
    config: BudgetConfig,
    tokens: i64,
    refilled: Time,
    window_start: Time,
    spent: [u32; SOURCES],
    spent_total: u32,
    active: u32,
    /// Exponentially weighted parts of hits among packets, in 1/65,536.
    hit_part: u32,
    /// Estimated cost of one walk in nanoseconds.
    walk_nanos: u32,
    turn: u8,
    /// More packets wait than the worker keeps up with.
    pressed: bool,
}

impl MissBudget {
    /// A full bucket.
    pub fn new(config: BudgetConfig) -> Self {
        Self {
            config,
            tokens: i64::from(config.burst_nanos),
            refilled: Time(0),
            window_start: Time(0),
            spent: [0; SOURCES],
            spent_total: 0,
            active: 0,
            hit_part: 0,
            walk_nanos: 1000,
            turn: 0,
            pressed: false,
        }
    }

    /// A burst of so many packets begins at `now`.
    #[inline]
    pub fn begin(&mut self, now: Time, packets: usize) {
        self.pressed = packets > BURST_PACKETS_MAX / 2;
        let elapsed = now.0.saturating_sub(self.refilled.0).min(1 << 32);
        self.refilled = now;
        let earned = elapsed as i64 * i64::from(self.config.share_percent) / 100;
        self.tokens = (self.tokens + earned).min(i64::from(self.config.burst_nanos));
        if now.0.saturating_sub(self.window_start.0) > WINDOW_NANOS {
            self.window_start = now;
            self.spent = [0; SOURCES];
            (self.spent_total, self.active) = (0, 0);
        }
    }

    /// A burst had `hits` hits among `packets`.
    #[inline]
    pub fn observe(&mut self, hits: usize, packets: usize) {
        if packets > 0 {
            let part = ((hits << 16) / packets.max(1)) as u32;
            self.hit_part = self.hit_part - self.hit_part / 16 + part / 16;
        }
    }

    /// About how many walks of a burst will be admitted, at most `misses`: it is not worth to prepare for more.
    pub fn allowance(&self, misses: usize) -> usize {
        if self.admits_all() {
            return misses;
        }
        let walks = self.tokens.max(0) / i64::from(self.walk_nanos.max(1));
        misses.min(usize::try_from(walks).unwrap_or(usize::MAX))
    }

    /// There is nobody to protect: fewer than one hit in 64 packets, or a worker that keeps up.
    fn admits_all(&self) -> bool {
        self.config.share_percent >= 100 || self.hit_part < 1024 || !self.pressed
    }

    /// True if a walk for this source may begin. `known`: its session exists; asked only if it matters.
    pub fn admit(&mut self, source: impl FnOnce() -> u64, known: impl FnOnce() -> bool) -> bool {
        if self.admits_all() {
            return true;
        }
        let source = source();
        let capacity = i64::from(self.config.burst_nanos);
        let bucket = (source % SOURCES as u64) as usize;
        // As if one more source were about to ask: what is left of the bucket waits for it.
        let fair = self.spent[bucket].saturating_mul(self.active + 1) <= self.spent_total;
        let admitted = if self.tokens > capacity / 2 {
            true
        } else if self.tokens > 0 {
            fair || known()
        } else {
            self.tokens > -capacity && fair && known()
        };
        if admitted {
            self.tokens -= i64::from(self.walk_nanos);
            self.active += u32::from(self.spent[bucket] == 0);
            self.spent[bucket] += 1;
            self.spent_total += 1;
        }
        admitted
    }

    /// True if the walk that begins is to be measured: one in eight, as a look at the clock costs as much as a hit.
    pub fn is_sample(&mut self) -> bool {
        self.turn = self.turn.wrapping_add(1);
        self.is_limited() && self.turn.is_multiple_of(8)
    }

    /// A walk took `nanos`: the estimate follows.
    pub fn measured(&mut self, nanos: u64) {
        // A pause of the thread in one of them must not count as what walks cost.
        let nanos = nanos.clamp(50, 1_000_000).min(u64::from(self.walk_nanos) * RISE_MAX) as u32;
        // What surrounds a walk, from asking for its memory to its session's end, is about a quarter more.
        let nanos = nanos + nanos / 4;
        self.walk_nanos = self.walk_nanos - self.walk_nanos / 16 + nanos / 16;
    }

    /// True if walks are to be measured.
    pub fn is_limited(&self) -> bool {
        self.config.share_percent < 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> MissBudget {
        let mut budget = MissBudget::new(BudgetConfig { share_percent: 25, burst_nanos: 100_000 });
        (0..100).for_each(|_| budget.observe(60, 64));
        budget
    }

    #[test]
    fn walks_get_their_share_and_no_more() {
        let mut budget = busy();
        let mut walked = 0u64;
        // A second of floods: 10,000 new flows a millisecond, from many sources.
        for millisecond in 1..1000 {
            budget.begin(Time::from_millis(millisecond), BURST_PACKETS_MAX);
            walked +=
                (0..10_000u64).filter(|&source| budget.admit(|| source * 7919, || false)).count() as u64;
        }
        // A walk is taken to cost 1,000 ns; the bucket holds 0.1 ms, and is refilled each millisecond.
        assert!((90_000..110_000).contains(&walked), "{walked}");
    }

    #[test]
    fn a_loud_source_leaves_room_for_others() {
        let mut budget = busy();
        let (mut loud, mut quiet) = (0, 0);
        for millisecond in 1..1000 {
            budget.begin(Time::from_millis(millisecond), BURST_PACKETS_MAX);
            loud += (0..1000).filter(|_| budget.admit(|| 1, || false)).count();
            quiet += (0..5u64).filter(|i| budget.admit(|| 2 + i, || false)).count();
        }
        assert!(quiet > 4900, "{quiet} of 4995, beside {loud}");
    }

    #[test]
    fn a_pause_of_the_thread_is_not_the_price_of_a_walk() {
        let mut budget = busy();
        (0..1_000).for_each(|_| budget.measured(1_000));
        budget.measured(10_000_000);
        assert!(budget.walk_nanos < 1_700, "{}", budget.walk_nanos);
        // What walks really cost is found soon.
        (0..200).for_each(|_| budget.measured(20_000));
        assert!((22_000..=25_000).contains(&budget.walk_nanos), "{}", budget.walk_nanos);
    }

    #[test]
    fn without_hits_nothing_is_limited() {
        let mut budget = MissBudget::new(BudgetConfig::default());
        budget.begin(Time::from_millis(1), BURST_PACKETS_MAX);
        assert!((0..1_000_000u64).all(|source| budget.admit(|| source, || false)));
    }

    #[test]
    fn half_empty_bursts_are_not_limited() {
        let mut budget = busy();
        budget.begin(Time::from_millis(1), BURST_PACKETS_MAX / 2);
        assert!((0..1_000_000u64).all(|source| budget.admit(|| source, || false)));
        budget.begin(Time::from_millis(2), BURST_PACKETS_MAX);
        assert!(!(0..1_000_000u64).all(|source| budget.admit(|| source, || false)));
    }
}
