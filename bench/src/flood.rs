//! A flood of new flows beside established ones (R12).
//!
//! One receive queue of 4,096 packets is served by the engine, whose time runs only while it works. Established flows send at a
//! fixed part of what the core could carry alone, new flows at a multiple of what the slow path could take alone. A packet
//! that finds the queue full is lost.

use crate::chains::Kind;
use crate::established::rig_for;
use crate::hit_path;
use crate::new_flows::{self, prepare_new};
use crate::rig::{BenchResult, INSIDE, Rig};
use crate::traffic::{Traffic, TrafficConfig};
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::limits::BURST_PACKETS_MAX;
use serde::Serialize;

const QUEUE_PACKETS: f64 = 4096.0;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct FloodReport {
    /// Established flows.
    pub flows: usize,
    /// New flows offered a second.
    pub flood_per_second: f64,
    /// New flows that were opened a second.
    pub opened_per_second: f64,
    /// Packets of established flows offered a second.
    pub offered_per_second: f64,
    /// How many of those left, in percent.
    pub kept_percent: f64,
}

impl std::fmt::Display for FloodReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "flood flows={} flood_per_second={:.0} opened_per_second={:.0} offered_per_second={:.0} kept_percent={:.1}",
            self.flows,
            self.flood_per_second,
            self.opened_per_second,
            self.offered_per_second,
            self.kept_percent
        )
    }
}

/// What was offered so far of one kind, and what became of it.
#[derive(Debug, Default)]
struct Source {
    per_second: f64,
    waiting: f64,
    offered: f64,
    left: u64,
}

impl Source {
    fn arrive(&mut self, nanos: f64, room: f64) {
        let arrived = self.per_second * nanos / 1e9;
        self.offered += arrived;
        self.waiting += arrived.min(room.max(0.0));
    }
}

/// `factor`: the flood as a multiple of the slow path's capacity; `load`: the established flows' part of the core's.
///
/// # Errors
/// If the chain can't be built or does not carry the traffic.
pub fn measure(kinds: &[Kind], config: &TrafficConfig, factor: f64, load: f64) -> BenchResult<FloodReport> {
    let capacity =
        new_flows::measure(kinds, &TrafficConfig { flows: 200_000, ..*config }, 1)?.new_flows_per_second;
    let mut rig = rig_for(kinds, config.flows + 2_000_000, config.frame_bytes, BudgetConfig::default())?;
    let mut traffic = Traffic::open(&mut rig, config)?;
    let laps = hit_path::bursts(traffic.flows());
    hit_path::run(&mut rig, &mut traffic, laps);
    let alone = hit_path::run(&mut rig, &mut traffic, laps);
    let full = 1e9 / rig.nanos(alone.cycles_per_packet);
    let mut established = Source { per_second: full * load, ..Source::default() };
    let mut flood = Source { per_second: capacity * factor, ..Source::default() };
    let mut next_new = config.flows as u32 + 4096;
    let (start, mut last) = (rig.now(), rig.now());
    let opened_before = rig.engine.state.sessions.count();
    // As long as new flows last, and their sessions fit.
    while flood.offered < 1_500_000.0 {
        let room = QUEUE_PACKETS - established.waiting - flood.waiting;
        let nanos = rig.now().since(last).as_nanos() as f64 + 1.0;
        last = rig.now();
        let share = established.per_second / (established.per_second + flood.per_second);
        established.arrive(nanos, room * share);
        flood.arrive(nanos, room * (1.0 - share));
        serve(&mut rig, config, &mut traffic, &mut established, &mut flood, &mut next_new);
    }
    let seconds = rig.now().since(start).as_secs_f64();
    let opened = rig.engine.state.sessions.count().saturating_sub(opened_before);
    Ok(FloodReport {
        flows: config.flows,
        flood_per_second: flood.per_second,
        opened_per_second: opened as f64 / seconds,
        offered_per_second: established.per_second,
        kept_percent: established.left as f64 / (established.offered - established.waiting) * 100.0,
    })
}

/// One turn of the worker: a burst of what has waited longest of each kind, and a slice of housekeeping.
fn serve(
    rig: &mut Rig,
    config: &TrafficConfig,
    traffic: &mut Traffic,
    established: &mut Source,
    flood: &mut Source,
    next_new: &mut u32,
) {
    let burst = BURST_PACKETS_MAX as f64;
    let mut worked = false;
    if flood.waiting >= burst {
        prepare_new(rig, config, *next_new);
        *next_new = next_new.wrapping_add(BURST_PACKETS_MAX as u32);
        flood.waiting -= burst;
        rig.process(INSIDE);
        flood.left += rig.collect(|_, _| {}) as u64;
        worked = true;
    }
    let ratio = (established.per_second / flood.per_second.max(1.0)).ceil().clamp(1.0, 64.0) as usize;
    for _ in 0..ratio {
        if established.waiting < burst {
            break;
        }
        let port = traffic.prepare(rig);
        established.waiting -= burst;
        rig.process(port);
        established.left += rig.collect(|_, _| {}) as u64;
        worked = true;
    }
    rig.housekeeping(64);
    if !worked {
        rig.idle(std::time::Duration::from_micros(1));
    }
}
