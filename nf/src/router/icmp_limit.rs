//! How many ICMP errors the router sends (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4(f)): so many a second in all, and
//! so many to each source of offending packets.
//!
//! A bucket is one number: the time at which it will be full again (the generic cell rate algorithm). Sources share a
//! table of fixed size by a keyed hash (R16): a source looks at four places. Where all four are taken, the one that is
//! nearest to full is given up; if it is full, nothing is lost. A flood from forged sources can gain no more than fresh
//! bursts, which the limit in all bounds. IPv6 sources count by /64, because one host has all of it.

use millrace_dataplane::time::Time;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

/// Places that a source may have in the table.
const WAYS: usize = 4;

/// A rate with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Messages a second on average; 0 forbids all.
    pub per_second: u32,
    /// Messages at once after a pause; at least 1 counts.
    pub burst: u32,
}

impl Rate {
    /// Nanoseconds that one message costs; `None` if none is allowed.
    fn interval(self) -> Option<u64> {
        1_000_000_000u64.checked_div(u64::from(self.per_second))
    }

    /// When a bucket that would be full at `full_at` is full after one more message now; `None` if it has none left.
    fn after_one(self, full_at: u64, now: Time) -> Option<u64> {
        let interval = self.interval()?;
        let full_at = full_at.max(now.0).saturating_add(interval);
        (full_at - now.0 <= interval * u64::from(self.burst.max(1))).then_some(full_at)
    }
}

/// What an [`IcmpLimit`] allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpLimitConfig {
    /// To all sources together.
    pub router: Rate,
    /// To each source.
    pub source: Rate,
    /// Sources that are told apart at once, rounded up to a power of two; 16 bytes each.
    pub sources_max: usize,
}

impl Default for IcmpLimitConfig {
    /// 1,000 a second in all. To one source 20 at once, so that a traceroute with its parallel probes gets all answers,
    /// and then 10 a second.
    fn default() -> Self {
        Self {
            router: Rate { per_second: 1_000, burst: 100 },
            source: Rate { per_second: 10, burst: 20 },
            sources_max: 4_096,
        }
    }
}

/// A source's bucket. All zero: unused, which is the same as full.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    tag: u64,
    full_at: u64,
}

/// The limits on ICMP errors of one router (of one worker's part of it).
#[derive(Debug)]
pub struct IcmpLimit {
    config: IcmpLimitConfig,
    full_at: u64,
    sources: Box<[Bucket]>,
    secret: RandomState,
}

impl IcmpLimit {
    /// Full buckets.
    pub fn new(config: IcmpLimitConfig) -> Self {
        let sources = config.sources_max.clamp(WAYS, 1 << 20).next_power_of_two();
        Self {
            config,
            full_at: 0,
            sources: vec![Bucket::default(); sources].into_boxed_slice(),
            secret: RandomState::new(),
        }
    }

    /// Whether an error to `source` may be sent now. Changes nothing.
    pub fn peek(&self, source: IpAddr, now: Time) -> bool {
        let (at, tag) = self.place(source);
        let full_at = if self.sources[at].tag == tag { self.sources[at].full_at } else { 0 };
        self.config.router.after_one(self.full_at, now).is_some()
            && self.config.source.after_one(full_at, now).is_some()
    }

    /// Takes one message from both buckets, if both have one; `false` and no change otherwise.
    pub fn take(&mut self, source: IpAddr, now: Time) -> bool {
        let (at, tag) = self.place(source);
        let full_at = if self.sources[at].tag == tag { self.sources[at].full_at } else { 0 };
        let router = self.config.router.after_one(self.full_at, now);
        let source = self.config.source.after_one(full_at, now);
        let (Some(router), Some(source)) = (router, source) else { return false };
        self.full_at = router;
        self.sources[at] = Bucket { tag, full_at: source };
        true
    }

    /// The place of a source and its tag: where it is, or else where it would go.
    fn place(&self, source: IpAddr) -> (usize, u64) {
        let identity = match source {
            IpAddr::V4(source) => (4, u64::from(source.to_bits())),
            IpAddr::V6(source) => (6u8, (source.to_bits() >> 64) as u64),
        };
        // A tag of 0 is an unused place's.
        let hash = self.secret.hash_one(identity).max(1);
        let first = (hash as usize).wrapping_mul(WAYS) & (self.sources.len() - 1);
        let ways = first..first + WAYS;
        let found = ways.clone().find(|&at| self.sources[at].tag == hash);
        let at = found.or_else(|| ways.min_by_key(|&at| self.sources[at].full_at)).unwrap_or(first);
        (at, hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn limit(router: (u32, u32), source: (u32, u32), sources_max: usize) -> IcmpLimit {
        let rate = |(per_second, burst)| Rate { per_second, burst };
        IcmpLimit::new(IcmpLimitConfig { router: rate(router), source: rate(source), sources_max })
    }

    fn taken(limit: &mut IcmpLimit, source: &str, now: Time, tries: usize) -> usize {
        (0..tries).filter(|_| limit.take(source.parse().unwrap(), now)).count()
    }

    #[test]
    fn a_source_gets_its_burst_and_then_its_rate() {
        let mut limit = limit((1_000, 1_000), (10, 5), 64);
        let start = Time::from_secs(100);
        assert_eq!(taken(&mut limit, "10.0.0.1", start, 20), 5);
        assert_eq!(taken(&mut limit, "10.0.0.2", start, 20), 5);
        assert_eq!(taken(&mut limit, "10.0.0.1", start + Duration::from_millis(99), 20), 0);
        assert_eq!(taken(&mut limit, "10.0.0.1", start + Duration::from_millis(100), 20), 1);
        assert_eq!(taken(&mut limit, "10.0.0.1", start + Duration::from_millis(450), 20), 3);
        assert_eq!(taken(&mut limit, "10.0.0.1", start + Duration::from_secs(60), 20), 5);
    }

    #[test]
    fn hosts_of_one_ipv6_network_share_a_bucket() {
        let mut limit = limit((1_000, 1_000), (10, 5), 64);
        assert_eq!(taken(&mut limit, "2001:db8::1", Time(0), 3), 3);
        assert_eq!(taken(&mut limit, "2001:db8::2", Time(0), 9), 2);
        assert_eq!(taken(&mut limit, "2001:db8:0:1::2", Time(0), 9), 5);
    }

    #[test]
    fn all_sources_share_the_routers_bucket_and_a_refusal_costs_nothing() {
        let mut limit = limit((100, 50), (10, 5), 4_096);
        let sources = (0..100u32).map(|n| IpAddr::from(Ipv4Addr::from_bits(n)));
        let total: usize =
            sources.map(|source| (0..10).filter(|_| limit.take(source, Time(0))).count()).sum();
        assert_eq!(total, 50);
        // The last source was refused by the router's bucket only, and kept its own burst.
        assert_eq!(taken(&mut limit, "0.0.0.99", Time::from_secs(1), 9), 5);
        assert_eq!(taken(&mut self::limit((0, 5), (10, 5), 64), "10.0.0.1", Time(0), 9), 0);
        assert_eq!(taken(&mut self::limit((9, 5), (0, 5), 64), "10.0.0.1", Time(0), 9), 0);
    }

    proptest! {
        /// `peek` says what `take` would do; the total never exceeds burst and rate; time may stand still or jump.
        #[test]
        fn peek_agrees_with_take_and_the_total_is_bounded(
            steps in proptest::collection::vec((0u32..40, 0u64..50_000_000), 1..2_000),
        ) {
            let mut limit = limit((50, 7), (20, 3), 4);
            let (mut now, mut sent) = (0, 0u64);
            for (source, wait) in steps {
                now += wait;
                let source = IpAddr::from(Ipv4Addr::from_bits(source));
                let allowed = limit.peek(source, Time(now));
                prop_assert_eq!(limit.take(source, Time(now)), allowed);
                sent += u64::from(allowed);
                prop_assert!(sent <= 7 + now / 20_000_000);
            }
        }
    }
}
