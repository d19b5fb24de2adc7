//! The main measurement: established flows through a chain, beside the limit in the same run.

use crate::chains::{Kind, build};
use crate::hit_path::{HitRun, bursts, run};
use crate::limit::Limit;
use crate::rig::{BenchResult, Rig, RigConfig};
use crate::statistics::Series;
use crate::traffic::{Traffic, TrafficConfig};
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::flow::session::Timeouts;
use serde::Serialize;

/// What to measure.
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// The chain.
    pub kinds: Vec<Kind>,
    /// Its traffic.
    pub traffic: TrafficConfig,
    /// Runs of each, chain and limit in turns; the medians of each are reported.
    pub repeat: usize,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct ChainReport {
    /// Functions in the chain.
    pub functions: usize,
    /// Flows.
    pub flows: usize,
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// TSC cycles a packet: median.
    pub cycles_per_packet: f64,
    /// Packets a second on one core.
    pub packets_per_second: f64,
    /// The limit's cycles: median.
    pub limit_cycles: f64,
    /// Ratio of the two medians.
    pub limit_ratio: f64,
    /// Allocations while packets were processed, in all runs.
    pub allocations: u64,
    /// Distance of the chain's least and most cycles, in percent of the median.
    pub spread_percent: f64,
    /// The same of the limit.
    pub limit_spread_percent: f64,
    /// Packets that found no entry, in all runs.
    pub walks: u64,
}

impl std::fmt::Display for ChainReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "chain functions={} flows={} frame_bytes={} cycles_per_packet={:.1} packets_per_second={:.0} \
             limit_cycles={:.1} limit_ratio={:.2} allocations={}",
            self.functions,
            self.flows,
            self.frame_bytes,
            self.cycles_per_packet,
            self.packets_per_second,
            self.limit_cycles,
            self.limit_ratio,
            self.allocations
        )
    }
}

/// A rig large enough for so many flows, at half of the capacity of its tables.
///
/// # Errors
/// If there is not enough memory.
pub fn rig_for(kinds: &[Kind], flows: usize, frame_bytes: usize, budget: BudgetConfig) -> BenchResult<Rig> {
    let config = RigConfig {
        sessions: flows * 2 + 1024,
        cache_entries: flows * 2 + 1024,
        timeouts: Timeouts::default(),
        frame_bytes: frame_bytes.max(1514),
        budget,
    };
    Rig::new(build(kinds, flows * 2 + 8192)?, &config)
}

/// Measures: `repeat` runs of each in turns, of as many packets each, and no run left out. Each run, of the limit as of the
/// chain, begins with a quarter as many packets uncounted, so that it does not pay for the other's use of the caches.
///
/// # Errors
/// If the chain can't be built or does not carry the traffic.
pub fn measure(config: &ChainConfig) -> BenchResult<ChainReport> {
    let flows = config.traffic.flows;
    let mut rig = rig_for(&config.kinds, flows, config.traffic.frame_bytes, BudgetConfig::UNLIMITED)?;
    let mut traffic = Traffic::open(&mut rig, &config.traffic)?;
    let mut limit = Limit::new(flows)?;
    let (mut chain_runs, mut limit_runs) = (Series::new(), Series::new());
    let count = bursts(traffic.flows());
    let (mut allocations, mut walks) = (0, 0);
    for _ in 0..config.repeat.max(1) {
        limit_runs.push(limit.run());
        let warm: HitRun = run(&mut rig, &mut traffic, count.div_ceil(4));
        let it = run(&mut rig, &mut traffic, count);
        chain_runs.push(it.cycles_per_packet);
        allocations += warm.allocations + it.allocations;
        walks += it.walks;
    }
    let (cycles, limit_cycles) = (chain_runs.median(), limit_runs.median());
    Ok(ChainReport {
        functions: config.kinds.len(),
        flows,
        frame_bytes: traffic.frame_bytes(),
        cycles_per_packet: cycles,
        packets_per_second: 1e9 / rig.nanos(cycles),
        limit_cycles,
        limit_ratio: cycles / limit_cycles,
        allocations,
        spread_percent: chain_runs.spread_percent(),
        limit_spread_percent: limit_runs.spread_percent(),
        walks,
    })
}
