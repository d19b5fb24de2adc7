//! A bound on the time that looking on takes from packets.

use std::time::Duration;

use crate::cpu::{CycleScale, cycles};
use crate::time::{Time, nanos};

/// What is not used is kept for so long: a burst of packets may be looked at together.
const KEPT: Duration = Duration::from_millis(100);

/// A share of a worker's time: a token bucket of nanoseconds.
///
/// What is begun is ended, so that a single piece of work may exceed what is left; the next ones wait for it.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// Nanoseconds earned in 2^20 nanoseconds.
    rate: u64,
    left: i64,
    most: i64,
    at: Option<Time>,
    scale: CycleScale,
}

impl Allowance {
    /// `share` of the time, from 0 to 1. Asks for the rate of the cycle counter, which takes some milliseconds the first time: make
    /// it on a thread that moves no packets.
    pub fn new(share: f64) -> Self {
        let rate = (share.clamp(0.0, 1.0) * f64::from(1 << 20)) as u64;
        let most = ((nanos(KEPT) * rate) >> 20).max(1) as i64;
        Self { rate, left: most, most, at: None, scale: CycleScale::measured() }
    }

    /// Time has passed.
    pub fn earn(&mut self, now: Time) {
        let before = *self.at.get_or_insert(now);
        let earned = (u128::from(now.0.saturating_sub(before.0)) * u128::from(self.rate)) >> 20;
        // What is too little to count is earned later.
        if earned > 0 {
            let earned = i64::try_from(earned).unwrap_or(i64::MAX);
            self.left = self.left.saturating_add(earned).min(self.most);
            self.at = Some(now);
        }
    }

    /// Whether something may begin.
    pub fn allows(&self) -> bool {
        self.left > 0
    }

    /// Something was done since the counter [`cycles`] was `start`.
    pub fn spend_since(&mut self, start: u64) {
        self.spend(self.scale.nanos(cycles().saturating_sub(start)));
    }

    fn spend(&mut self, nanos: u64) {
        self.left = self.left.saturating_sub(i64::try_from(nanos).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_share_is_spent_in_the_long_run() {
        let mut allowance = Allowance::new(0.03);
        let (mut spent, mut now) = (0u64, Time(0));
        for _ in 0..1_000_000 {
            now = now + Duration::from_micros(1);
            allowance.earn(now);
            if allowance.allows() {
                allowance.spend(700);
                spent += 700;
            }
        }
        // A second's share, what was kept from before it, and one piece of work.
        assert!((30_000_000..33_001_000).contains(&spent), "{spent}");
    }

    #[test]
    fn nothing_and_everything_are_shares() {
        let mut nothing = Allowance::new(0.0);
        nothing.earn(Time(0));
        assert!(nothing.allows(), "one piece of work");
        nothing.spend(1);
        nothing.earn(Time::from_secs(1_000));
        assert!(!nothing.allows());
        let mut all = Allowance::new(1.0);
        all.earn(Time(0));
        all.spend(1_000_000_000);
        assert!(!all.allows());
        all.earn(Time(900_000_001));
        assert!(all.allows());
        all.earn(Time(u64::MAX));
        assert_eq!(all.left, 100_000_000);
    }
}
