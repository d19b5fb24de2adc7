//! An inspecting function in the turns of the worker, and on a core of its own.

use crate::chains::inspected;
use crate::device::{Device, Progress, pair, pin};
use crate::random::Random;
use crate::rig::{BenchResult, INSIDE, OUTSIDE, Templates};
use crate::statistics::Series;
use crate::traffic::{TrafficConfig, inside_frame};
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{FlowConfig, FlowState};
use millrace_dataplane::handoff::Waker;
use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::memory::{Arena, ArenaConfig, Pool, PoolConfig};
use millrace_dataplane::packet_function::PacketFunction;
use millrace_dataplane::stage::{StageLink, StageWorker};
use millrace_dataplane::time::SystemClock;
use millrace_dataplane::worker::Worker;
use millrace_nf::chain::Chains;
use millrace_nf::inspect::{Action, Inspect, Pattern, Patterns};
use serde::Serialize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};

const FLOWS: usize = 1_000;
const FRAMES: usize = 8_192;
const PATTERNS: usize = 64;
const WARM: u64 = 1 << 17;
const PACKETS: u64 = 1 << 19;

/// What was found; cycles of the TSC, medians.
#[derive(Clone, Debug, Serialize)]
pub struct StagesReport {
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// Patterns that are looked for.
    pub patterns: usize,
    /// Time from packet to packet where the worker looks for them between two segments of its chain.
    pub inline_cycles: f64,
    /// The same where another core does.
    pub apart_cycles: f64,
    /// Distance of the least and the most of the latter, in percent.
    pub spread_percent: f64,
    /// They had a core each.
    pub two_cores: bool,
}

impl std::fmt::Display for StagesReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "stages frame_bytes={} patterns={} inline_cycles={:.1} apart_cycles={:.1} ratio={:.2} spread_percent={:.0} two_cores={}",
            self.frame_bytes,
            self.patterns,
            self.inline_cycles,
            self.apart_cycles,
            self.apart_cycles / self.inline_cycles,
            self.spread_percent,
            self.two_cores
        )
    }
}

/// Measures firewall, inspection, NAT and router with frames of so many bytes, both ways in turns, `repeat` times.
///
/// # Errors
/// If a thread can't be pinned, the chain can't be built, packets are lost or there is not enough memory.
pub fn measure(frame_bytes: usize, repeat: usize) -> BenchResult<StagesReport> {
    let (pair, traffic) = (pair()?, traffic(frame_bytes));
    let (mut inline, mut apart) = (Series::new(), Series::new());
    for _ in 0..repeat.max(1) {
        inline.push(run(&traffic, false, pair, (WARM, PACKETS))?);
        apart.push(run(&traffic, true, pair, (WARM, PACKETS))?);
    }
    Ok(StagesReport {
        frame_bytes,
        patterns: PATTERNS,
        inline_cycles: inline.median(),
        apart_cycles: apart.median(),
        spread_percent: apart.spread_percent(),
        two_cores: pair.is_some(),
    })
}

fn traffic(frame_bytes: usize) -> TrafficConfig {
    TrafficConfig {
        flows: FLOWS,
        flows_per_host: 64,
        frame_bytes,
        protocol: 17,
        v6: false,
        both_directions: false,
    }
}

/// Each flow once a lap, in a fixed random order.
fn frames(traffic: &TrafficConfig) -> (Templates, Vec<u32>) {
    let mut templates = Templates::whole(traffic.frame_bytes, traffic.flows);
    for index in 0..traffic.flows as u32 {
        templates.push(|target| inside_frame(traffic, index, traffic.first_segment(), target));
    }
    (templates, Random::new(0x5eed).permutation(traffic.flows))
}

/// Words that no payload here holds.
fn function() -> BenchResult<Box<dyn PacketFunction>> {
    let pattern = |at: usize| Pattern {
        name: format!("pattern {at}"),
        bytes: format!("pattern of number {at:04}").into_bytes(),
        ignore_case: false,
        protocols: Vec::new(),
        ports: Vec::new(),
        action: Action::Drop,
    };
    let patterns =
        Patterns::new((0..PATTERNS).map(pattern).collect()).map_err(|error| format!("{error:?}"))?;
    Ok(Box::new(Inspect::new(Arc::new(patterns))))
}

fn worker(link: Option<StageLink>) -> BenchResult<Worker<Chains>> {
    let chains = match link {
        Some(link) => {
            let likeness = function()?;
            inspected(FLOWS * 4, |chain| chain.packet_function_apart("inspect", link, likeness))?
        }
        None => {
            let function = function()?;
            inspected(FLOWS * 4, |chain| chain.packet_function("inspect", function))?
        }
    };
    let capacity = FLOWS * 4 + 1_024;
    let flow = FlowConfig {
        sessions: SessionConfig { capacity, parts: chains.parts(), timeouts: Timeouts::default() },
        cache_entries: capacity,
        key_words: 9,
        operand_words: 8,
    };
    let frames = PoolConfig::new(FRAMES);
    let bytes = flow.bytes() + frames.frames * frames.frame_bytes + (64 << 20);
    let arena = Arena::new(&ArenaConfig::new(bytes))?;
    let state = FlowState::new(&arena, &flow, None)?;
    let config = EngineConfig { budget: BudgetConfig::UNLIMITED, ..EngineConfig::default() };
    let engine = Engine::new(chains, state, 2, config);
    let pool = Pool::new(&arena, frames)?;
    Ok(Worker::new(engine, pool, Box::<SystemClock>::default(), IdlePolicy::Poll).0)
}

/// Cycles from packet to packet, of so many behind so many that warm the caches.
fn run(
    traffic: &TrafficConfig,
    is_apart: bool,
    pair: Option<[usize; 2]>,
    (warm, packets): (u64, u64),
) -> BenchResult<f64> {
    let progress = Progress::new(warm, packets);
    let waker = Waker::new()?;
    let (stage, link) = if is_apart {
        let (clock, owners) = (Box::<SystemClock>::default(), [waker.clone()]);
        let (stage, mut links, _) = StageWorker::new(function()?, &owners, clock, IdlePolicy::Poll)?;
        (Some(stage), links.pop())
    } else {
        (None, None)
    };
    let mut worker = worker(link)?;
    worker.set_waker(waker);
    worker.add_port(INSIDE, Box::new(Device::new("inside", Some(frames(traffic)), &progress)));
    worker.add_port(OUTSIDE, Box::new(Device::new("outside", None, &progress)));
    let ready = Barrier::new(1 + usize::from(is_apart));
    let report = std::thread::scope(|scope| {
        let (ready, over) = (&ready, &progress.over);
        let stage = stage.map(|mut stage| {
            scope.spawn(move || {
                let pinned = pin(pair, 1);
                ready.wait();
                stage.run(|| over.load(Ordering::Relaxed));
                pinned
            })
        });
        let worker = scope.spawn(move || {
            let pinned = pin(pair, 0);
            ready.wait();
            worker.run(over, false);
            (worker.close(), pinned)
        });
        let (report, pinned) = worker.join().map_err(|_| "the worker failed")?;
        pinned.map_err(|error| error.to_string())?;
        if let Some(stage) = stage {
            stage.join().map_err(|_| "the function failed")?.map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(report)
    })?;
    if !report.sums_hold() || report.sums.drops.total() > 0 {
        return Err(format!("packets were lost: {:?}", report.sums).into());
    }
    Ok(progress.cycles_per_packet())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_packets_pass_either_way() {
        for frame_bytes in [64, 1_400] {
            for is_apart in [false, true] {
                // Lost ones are an error.
                let cycles = run(&traffic(frame_bytes), is_apart, None, (2_000, 10_000)).unwrap();
                assert!(cycles > 0.0, "{frame_bytes} {is_apart}");
            }
        }
    }
}
