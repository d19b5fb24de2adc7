//! The ring between two cores: cycles an element in bulks of 32, beside DPDK's ring where its test is installed.

use crate::dpdk_ring;
use crate::rig::BenchResult;
use crate::statistics::Series;
use millrace_dataplane::affinity::{allowed_cores, pin_to_core};
use millrace_dataplane::cpu::cycles;
use millrace_dataplane::ring::ring;
use serde::Serialize;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Elements moved at once.
const BULK: usize = 32;
/// As in DPDK's test, and its capacity. It takes some milliseconds, so that most runs are not interrupted.
const ELEMENTS: usize = 1 << 20;
const CAPACITY: usize = 4096;
/// Runs of ours, whose median counts, to one of DPDK's test.
const RUNS: usize = 64;
/// Most runs of DPDK's test, which takes several seconds for all that it measures.
const DPDK_RUNS_MAX: usize = 3;

// Then each push and each pop moves a whole bulk or nothing, as DPDK's bulk functions do.
const _: () = assert!(CAPACITY.is_multiple_of(BULK) && ELEMENTS.is_multiple_of(BULK));

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct RingReport {
    /// Elements moved at once.
    pub bulk: usize,
    /// TSC cycles an element, those of the sending and of the receiving core added, as DPDK's test counts them: median.
    pub cycles_per_element: f64,
    /// Distance of the least and the most, in percent.
    pub spread_percent: f64,
    /// The two ends ran on cores of their own.
    pub two_cores: bool,
    /// The same of DPDK's ring, median of its runs, which alternate with ours.
    pub dpdk_cycles_per_element: Option<f64>,
    /// Why DPDK's ring was not measured.
    pub dpdk_missing: Option<String>,
}

impl std::fmt::Display for RingReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ring bulk={} cycles_per_element={:.1} two_cores={}",
            self.bulk, self.cycles_per_element, self.two_cores
        )?;
        match self.dpdk_cycles_per_element {
            Some(dpdk) => {
                write!(
                    f,
                    " dpdk_cycles_per_element={dpdk:.1} dpdk_ratio={:.2}",
                    self.cycles_per_element / dpdk
                )
            }
            None => write!(f, " dpdk_cycles_per_element=none"),
        }
    }
}

/// Moves a million elements from one core to another, 64 times, and that `repeat` times. Where `dpdk-test` is installed, the
/// first rounds (three at most) are each followed by one run of its `ring_perf_autotest`.
///
/// # Errors
/// If a thread can't be pinned.
pub fn measure(repeat: usize) -> BenchResult<RingReport> {
    let cores = allowed_cores()?;
    let pair = match cores[..] {
        [first, second, ..] => Some((first, second)),
        _ => None,
    };
    let (mut series, mut dpdk) = (Series::new(), Series::new());
    let mut missing = None;
    for i in 0..repeat.max(1) {
        let mut runs = Series::new();
        for _ in 0..RUNS {
            runs.push(run(pair)?);
        }
        series.push(runs.median());
        if i < DPDK_RUNS_MAX && missing.is_none() {
            match dpdk_ring::run(pair, BULK) {
                Ok(cycles) => dpdk.push(cycles),
                Err(error) => missing = Some(error.to_string()),
            }
        }
    }
    Ok(RingReport {
        bulk: BULK,
        cycles_per_element: series.median(),
        spread_percent: series.spread_percent(),
        two_cores: pair.is_some(),
        dpdk_cycles_per_element: missing.is_none().then(|| dpdk.median()),
        dpdk_missing: missing,
    })
}

/// Returns when both ends have come. They spin, since one that slept would start late.
fn meet(ready: &AtomicUsize) {
    ready.fetch_add(1, Ordering::AcqRel);
    while ready.load(Ordering::Acquire) < 2 {
        std::hint::spin_loop();
    }
}

/// Cycles an element of both ends, added.
fn run(pair: Option<(usize, usize)>) -> BenchResult<f64> {
    let (mut producer, mut consumer) = ring::<u64>(CAPACITY);
    // Both wait for each other also when pinning failed; the end that gives up then is seen by the other.
    let ready = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let ready = &ready;
        let sender = scope.spawn(move || -> std::io::Result<u64> {
            let pinned = pair.map_or(Ok(()), |(core, _)| pin_to_core(core));
            meet(ready);
            pinned?;
            // Memory of which the compiler knows nothing, as a caller's is.
            let bulk = std::hint::black_box([7u64; BULK]);
            let start = cycles();
            let mut sent = 0;
            while sent < ELEMENTS {
                let pushed = producer.push_copies(&bulk);
                sent += pushed;
                if pushed == 0 {
                    if producer.is_abandoned() {
                        break;
                    }
                    std::hint::spin_loop();
                }
            }
            Ok(cycles().wrapping_sub(start))
        });
        let receiver = scope.spawn(move || -> std::io::Result<u64> {
            let pinned = pair.map_or(Ok(()), |(_, core)| pin_to_core(core));
            meet(ready);
            pinned?;
            let mut bulk = [0u64; BULK];
            let start = cycles();
            let mut received = 0;
            while received < ELEMENTS {
                let popped = consumer.pop_copies(&mut bulk);
                received += popped;
                if popped == 0 {
                    if consumer.is_abandoned() && consumer.is_empty() {
                        break;
                    }
                    std::hint::spin_loop();
                }
            }
            std::hint::black_box(bulk);
            Ok(cycles().wrapping_sub(start))
        });
        let sent = sender.join().map_err(|_| "the producer failed")??;
        let received = receiver.join().map_err(|_| "the consumer failed")??;
        Ok((sent as f64 + received as f64) / ELEMENTS as f64)
    })
}
