//! How long bursts take: histograms that one thread writes and any thread reads, neither waiting for the other.
//!
//! Time is that of the CPU's cycle counter, read twice for a burst and once for a turn that moved packets: nothing is read,
//! written or counted for each packet.

use crate::cpu::{CycleScale, cycles};
use crate::port::PortId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of a histogram: each takes up to twice the time of the one before, the last whatever is longer.
pub const BUCKETS: usize = 24;
/// The first bucket takes up to 2 to this power nanoseconds.
const FIRST_POWER: u32 = 8;

/// The longest time that a bucket takes, in nanoseconds; none for the last.
pub const fn bound_nanos(bucket: usize) -> Option<u64> {
    if bucket + 1 < BUCKETS { Some(1 << (FIRST_POWER as usize + bucket)) } else { None }
}

/// The bucket of a time in nanoseconds.
#[inline(always)]
const fn bucket_of(nanos: u64) -> usize {
    let below = nanos.saturating_sub(1) | ((1 << FIRST_POWER) - 1);
    let bucket = (u64::BITS - below.leading_zeros() - FIRST_POWER) as usize;
    if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
}

/// Counts of times in buckets. One thread writes; what others read is never older than their last look.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

/// A histogram as it stood at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramReport {
    /// Times in each bucket, not cumulated.
    pub buckets: [u64; BUCKETS],
    /// Their sum in nanoseconds. A time that is noted while the report is made may be in one of the two only.
    pub sum_nanos: u64,
}

impl Histogram {
    /// Notes a time in nanoseconds. Only one thread may do so: a second one's counts would be lost.
    #[inline(always)]
    pub fn note(&self, nanos: u64) {
        let add = |to: &AtomicU64, what: u64| {
            to.store(to.load(Ordering::Relaxed).wrapping_add(what), Ordering::Relaxed);
        };
        if let Some(bucket) = self.buckets.get(bucket_of(nanos)) {
            add(bucket, 1);
        }
        add(&self.sum_nanos, nanos);
    }

    /// What it holds.
    pub fn report(&self) -> HistogramReport {
        HistogramReport {
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed)),
            sum_nanos: self.sum_nanos.load(Ordering::Relaxed),
        }
    }
}

impl HistogramReport {
    /// Adds another histogram's times.
    pub fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.sum_nanos += other.sum_nanos;
    }

    /// How many times were noted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// One worker's times.
#[derive(Debug)]
pub struct Timing {
    scale: CycleScale,
    /// From when a burst was received to when all its packets are decided and rewritten.
    bursts: Arc<Histogram>,
    /// By port: from when a burst was received from it to when what became of it was given to the ports it leaves by.
    latency: Vec<Option<Arc<Histogram>>>,
    /// Ports whose bursts are not sent yet, and when those were received, in cycles.
    unsent: Vec<(PortId, u64)>,
    turns: Arc<AtomicU64>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            scale: CycleScale::measured(),
            bursts: Arc::default(),
            latency: Vec::new(),
            unsent: Vec::new(),
            turns: Arc::default(),
        }
    }
}

impl Timing {
    /// The histogram of the time from when a burst was received to when its packets are decided and rewritten.
    pub fn bursts(&self) -> &Arc<Histogram> {
        &self.bursts
    }

    /// Turns of the worker, counted while it lives: a sign of life for those who must not ask it.
    pub fn turns(&self) -> &Arc<AtomicU64> {
        &self.turns
    }

    /// Where the latency of bursts from `port` is noted, if anywhere. Several ports may share a histogram.
    pub fn set_latency(&mut self, port: PortId, histogram: Option<Arc<Histogram>>) {
        let at = usize::from(port.0);
        self.grow(at + 1);
        self.latency[at] = histogram;
    }

    /// Makes room for ports 0 to `ports` - 1.
    pub(crate) fn grow(&mut self, ports: usize) {
        if self.latency.len() < ports {
            self.latency.resize_with(ports, || None);
            self.unsent.reserve(ports - self.unsent.len());
        }
    }

    /// A burst was received; call [`Self::processed`] with the answer when it is rewritten.
    #[inline(always)]
    pub(crate) fn received(&self) -> u64 {
        cycles()
    }

    /// The burst that was received from `port` at `received` is decided and rewritten.
    #[inline(always)]
    pub(crate) fn processed(&mut self, port: PortId, received: u64) {
        self.bursts.note(self.scale.nanos(cycles().saturating_sub(received)));
        if self.unsent.len() < self.unsent.capacity() {
            self.unsent.push((port, received));
        }
    }

    /// A turn ends: all that its bursts became is given to ports.
    #[inline(always)]
    pub(crate) fn sent(&mut self, turns: u64) {
        self.turns.store(turns, Ordering::Relaxed);
        if self.unsent.is_empty() {
            return;
        }
        let now = cycles();
        for (port, received) in self.unsent.drain(..) {
            if let Some(Some(histogram)) = self.latency.get(usize::from(port.0)) {
                histogram.note(self.scale.nanos(now.saturating_sub(received)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_the_bucket_that_its_bound_names() {
        for bucket in 0..BUCKETS {
            match bound_nanos(bucket) {
                Some(bound) => {
                    assert_eq!((bucket_of(bound), bucket_of(bound + 1)), (bucket, bucket + 1), "{bound}");
                }
                None => assert_eq!((bucket, bucket_of(u64::MAX)), (BUCKETS - 1, bucket)),
            }
        }
        assert_eq!((bucket_of(0), bound_nanos(0)), (0, Some(256)));
        assert_eq!(bound_nanos(BUCKETS - 2), Some(1 << 30));
    }

    #[test]
    fn a_histogram_counts_and_sums() {
        let histogram = Histogram::default();
        for nanos in [0, 256, 257, 5_000_000_000] {
            histogram.note(nanos);
        }
        let report = histogram.report();
        assert_eq!((report.count(), report.sum_nanos), (4, 5_000_000_513));
        assert_eq!((report.buckets[0], report.buckets[1], report.buckets[BUCKETS - 1]), (2, 1, 1));
    }

    #[test]
    fn a_burst_is_timed_from_its_receipt_to_its_sending() {
        let mut timing = Timing::default();
        let histograms = [(); 2].map(|()| Arc::new(Histogram::default()));
        timing.set_latency(PortId(0), Some(Arc::clone(&histograms[0])));
        timing.set_latency(PortId(2), Some(Arc::clone(&histograms[1])));
        let received = timing.received();
        timing.processed(PortId(2), received);
        timing.processed(PortId(1), received);
        std::thread::sleep(std::time::Duration::from_millis(3));
        timing.sent(7);
        timing.sent(8);
        let counts = histograms.each_ref().map(|histogram| histogram.report().count());
        assert_eq!((counts, timing.bursts().report().count()), ([0, 1], 2));
        assert!(histograms[1].report().sum_nanos >= 2_500_000, "{:?}", histograms[1].report());
        assert!(timing.bursts().report().sum_nanos < histograms[1].report().sum_nanos);
        assert_eq!(timing.turns().load(Ordering::Relaxed), 8);
    }
}
