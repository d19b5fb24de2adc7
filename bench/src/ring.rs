//! The ring between two cores: cycles an element in bulks of 32.

use crate::rig::BenchResult;
use crate::statistics::Series;
use millrace_dataplane::affinity::{allowed_cores, pin_to_core};
use millrace_dataplane::cpu::cycles;
use millrace_dataplane::ring::ring;
use serde::Serialize;

/// Elements moved at once.
pub const BULK: usize = 32;
const ELEMENTS: usize = 1 << 23;
const CAPACITY: usize = 1024;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct RingReport {
    /// Elements moved at once.
    pub bulk: usize,
    /// Cycles an element, median.
    pub cycles_per_element: f64,
    /// Distance of the least and the most, in percent.
    pub spread_percent: f64,
    /// The two ends ran on cores of their own.
    pub two_cores: bool,
}

impl std::fmt::Display for RingReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ring bulk={} cycles_per_element={:.1} two_cores={}",
            self.bulk, self.cycles_per_element, self.two_cores
        )
    }
}

/// Moves 8 million elements from one core to another, `repeat` times.
///
/// # Errors
/// If a thread can't be pinned.
pub fn measure(repeat: usize) -> BenchResult<RingReport> {
    let cores = allowed_cores()?;
    let pair = match cores[..] {
        [first, second, ..] => Some((first, second)),
        _ => None,
    };
    let mut series = Series::new();
    for _ in 0..repeat.max(1) {
        series.push(run(pair)?);
    }
    Ok(RingReport {
        bulk: BULK,
        cycles_per_element: series.median(),
        spread_percent: series.spread_percent(),
        two_cores: pair.is_some(),
    })
}

fn run(pair: Option<(usize, usize)>) -> BenchResult<f64> {
    let (mut producer, mut consumer) = ring::<u64>(CAPACITY);
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> std::io::Result<()> {
            pair.map_or(Ok(()), |(core, _)| pin_to_core(core))?;
            let bulk = [7u64; BULK];
            let mut sent = 0;
            while sent < ELEMENTS && !producer.is_abandoned() {
                let pushed = producer.push_copies(&bulk);
                sent += pushed;
                if pushed == 0 {
                    std::hint::spin_loop();
                }
            }
            Ok(())
        });
        let receiver = scope.spawn(move || -> std::io::Result<u64> {
            pair.map_or(Ok(()), |(_, core)| pin_to_core(core))?;
            let mut bulk = [0u64; BULK];
            let mut received = consumer.pop_copies(&mut bulk);
            while received == 0 {
                received = consumer.pop_copies(&mut bulk);
            }
            let start = cycles();
            while received < ELEMENTS {
                let popped = consumer.pop_copies(&mut bulk);
                received += popped;
                if popped == 0 {
                    std::hint::spin_loop();
                }
            }
            std::hint::black_box(bulk);
            Ok(cycles() - start)
        });
        sender.join().map_err(|_| "the producer failed")??;
        let spent = receiver.join().map_err(|_| "the consumer failed")??;
        Ok(spent as f64 / ELEMENTS as f64)
    })
}
