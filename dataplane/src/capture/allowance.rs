//! A bound on the time that looking on takes from packets.

use std::time::Duration;

use crate::cpu::{CycleScale, cycles};
use crate::time::{Time, nanos};

/// What is not used is kept for so long: a burst of packets may be looked at together.
const KEPT: Duration = Duration::from_millis(100);
/// Of what can be kept, the part that must be there before looking on goes on after all was used up. Stretches of packets are
/// looked at rather than single ones, so that between them a comparison tells that there is no time.
const STRETCH: i64 = 16;
/// What can be owed, in times of what can be kept: a thread that loses its core while it looks, for however long, pays for seconds.
const DEBT_MAX: i64 = 16;

/// A share of a worker's time: a token bucket of nanoseconds.
///
/// What is begun is ended, so that a single piece of work may exceed what is left; the next ones wait for it.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// Nanoseconds earned in 2^20 nanoseconds.
    rate: u64,
    left: i64,
    most: i64,
    /// Until when it was earned.
    at: Option<Time>,
    /// All was used up: nothing begins before then.
    closed_until: Option<Time>,
    scale: CycleScale,
}

impl Allowance {
    /// `share` of the time, from 0 to 1. Asks for the rate of the cycle counter, which takes some milliseconds the first time: make
    /// it on a thread that moves no packets.
    pub fn new(share: f64) -> Self {
        let rate = (share.clamp(0.0, 1.0) * f64::from(1 << 20)) as u64;
        let most = ((nanos(KEPT) * rate) >> 20).max(1) as i64;
        Self { rate, left: most, most, at: None, closed_until: None, scale: CycleScale::measured() }
    }

    /// Whether something may begin at `now`.
    #[inline]
    pub fn allows(&mut self, now: Time) -> bool {
        match self.closed_until {
            None => {
                // Not more than is kept, however long nothing was looked at.
                let since = *self.at.get_or_insert(now);
                if now.0.saturating_sub(since.0) >= nanos(KEPT) {
                    self.earn(now);
                }
                true
            }
            Some(until) => now >= until && self.opens(now),
        }
    }

    fn opens(&mut self, now: Time) -> bool {
        self.earn(now);
        self.closed_until = self.wait();
        self.closed_until.is_none()
    }

    /// Time has passed.
    fn earn(&mut self, now: Time) {
        let before = *self.at.get_or_insert(now);
        let earned = (u128::from(now.0.saturating_sub(before.0)) * u128::from(self.rate)) >> 20;
        // What is too little to count is earned later.
        if earned > 0 {
            let earned = i64::try_from(earned).unwrap_or(i64::MAX);
            self.left = self.left.saturating_add(earned).min(self.most);
            self.at = Some(now);
        }
    }

    /// When enough for a stretch is earned, if that is not there.
    fn wait(&self) -> Option<Time> {
        let missing = (self.most / STRETCH).max(1) - self.left;
        let nanos = match u64::try_from(missing) {
            Err(_) | Ok(0) => return None,
            Ok(missing) => {
                (u128::from(missing) << 20).checked_div(u128::from(self.rate)).unwrap_or(u128::MAX)
            }
        };
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX).max(1);
        Some(Time(self.at.unwrap_or_default().0.saturating_add(nanos)))
    }

    /// Something was done since the counter [`cycles`] was `start`. What is looked at displaces packets' lines from the caches, and packets
    /// that come later wait for them: with that it takes `times` as long. The benchmark of looking on shows what is left over a budget.
    pub fn spend_since(&mut self, start: u64, times: u64) {
        self.spend(times * self.scale.nanos(cycles().saturating_sub(start)));
    }

    fn spend(&mut self, nanos: u64) {
        let left = self.left.saturating_sub(i64::try_from(nanos).unwrap_or(i64::MAX));
        self.left = left.max(self.most.saturating_mul(-DEBT_MAX));
        if self.left <= 0 && self.closed_until.is_none() {
            self.closed_until = self.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_share_is_spent_in_the_long_run() {
        let mut allowance = Allowance::new(0.03);
        let (mut spent, mut stretches, mut was) = (0u64, 0, false);
        for micros in 1..=1_000_000 {
            let allows = allowance.allows(Time(micros * 1_000));
            if allows {
                allowance.spend(700);
                spent += 700;
            }
            stretches += u64::from(allows && !was);
            was = allows;
        }
        // A second's share, what was kept from before it, and one piece of work.
        assert!((29_800_000..33_001_000).contains(&spent), "{spent}");
        // One at the beginning, then sixteen in 100 ms, or a few more, since something is earned meanwhile.
        assert!((100..200).contains(&stretches), "{stretches}");
    }

    #[test]
    fn what_is_not_used_is_kept_for_a_tenth_of_a_second() {
        let mut allowance = Allowance::new(0.5);
        assert!(allowance.allows(Time(0)));
        allowance.spend(50_000_000);
        assert!(!allowance.allows(Time(6_000_000)) && allowance.allows(Time(6_250_001)));
        allowance.spend(10_000_000);
        assert!(!allowance.allows(Time(20_000_000)) && allowance.allows(Time::from_secs(1_000)));
        assert_eq!(allowance.left, 50_000_000);
    }

    #[test]
    fn nothing_and_everything_are_shares() {
        let mut nothing = Allowance::new(0.0);
        assert!(nothing.allows(Time(0)), "one piece of work");
        nothing.spend(1);
        assert!(!nothing.allows(Time::from_secs(1_000)));
        let mut all = Allowance::new(1.0);
        assert!(all.allows(Time(0)));
        all.spend(1_000_000_000);
        assert!(!all.allows(Time(0)) && !all.allows(Time(900_000_001)));
        assert!(all.allows(Time(906_250_000)));
        all.spend(1 << 40);
        assert!(all.allows(Time(u64::MAX)));
        assert_eq!(all.left, 100_000_000);
    }
}
