//! Every packet opens a flow: what the slow path takes, while old sessions expire in slices.
//!
//! In the long run a session expires for each that opens. In a run of a second they don't match: timers are due in lumps. So a flow
//! is counted with what opening one took and with what the end of one took, each by its own number.

use crate::chains::{Kind, build};
use crate::rig::{BenchResult, INSIDE, Rig, RigConfig, Templates};
use crate::traffic::{TrafficConfig, inside_frame};
use hdrhistogram::Histogram;
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::flow::session::Timeouts;
use millrace_dataplane::limits::BURST_PACKETS_MAX;
use serde::Serialize;
use std::time::Duration;

/// Timers looked at in each slice of housekeeping: more than a burst opens.
const EXPIRY_SLICE: usize = 128;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct NewFlowReport {
    /// Functions in the chain.
    pub functions: usize,
    /// Flows opened.
    pub opened: u64,
    /// Flows that expired in that time.
    pub expired: u64,
    /// New flows a second where as many expire.
    pub new_flows_per_second: f64,
    /// Cycles of a new flow and of its end.
    pub cycles_per_flow: f64,
    /// Cycles to open one.
    pub open_cycles: f64,
    /// Cycles of housekeeping for each that expired.
    pub expire_cycles: f64,
    /// Time of a burst of 64 new flows with its slice of housekeeping, in microseconds.
    pub burst_p50_us: f64,
    /// 99 of 100 bursts take at most this.
    pub burst_p99_us: f64,
    /// 999 of 1,000.
    pub burst_p999_us: f64,
    /// All.
    pub burst_max_us: f64,
    /// Packets that did not leave.
    pub lost: u64,
}

impl std::fmt::Display for NewFlowReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "new_flows functions={} opened={} expired={} new_flows_per_second={:.0} cycles_per_flow={:.0} \
             open_cycles={:.0} expire_cycles={:.0} burst_p50_us={:.1} burst_p99_us={:.1} burst_p999_us={:.1} burst_max_us={:.1} lost={}",
            self.functions,
            self.opened,
            self.expired,
            self.new_flows_per_second,
            self.cycles_per_flow,
            self.open_cycles,
            self.expire_cycles,
            self.burst_p50_us,
            self.burst_p99_us,
            self.burst_p999_us,
            self.burst_max_us,
            self.lost
        )
    }
}

/// The median of `repeat` runs, by their cycles a flow. A run opens twice `traffic.flows` flows, one a packet; each expires after the
/// time in which about a quarter of them come.
///
/// # Errors
/// If the chain can't be built.
pub fn measure(kinds: &[Kind], traffic: &TrafficConfig, repeat: usize) -> BenchResult<NewFlowReport> {
    let runs = (0..repeat.max(1)).map(|_| run(kinds, traffic));
    let mut runs = runs.collect::<BenchResult<Vec<_>>>()?;
    runs.sort_by(|a, b| a.cycles_per_flow.total_cmp(&b.cycles_per_flow));
    let middle = runs.len() / 2;
    Ok(runs.swap_remove(middle))
}

fn run(kinds: &[Kind], traffic: &TrafficConfig) -> BenchResult<NewFlowReport> {
    let flows = traffic.flows.max(BURST_PACKETS_MAX);
    let life = Duration::from_micros(flows as u64 / 4);
    let config = RigConfig {
        sessions: flows * 2,
        cache_entries: flows * 2,
        timeouts: Timeouts { udp: life, tcp_transitory: life, ..Timeouts::default() },
        frame_bytes: 1514,
        budget: BudgetConfig::default(),
    };
    let mut rig = Rig::new(build(kinds, flows * 2)?, &config)?;
    let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let (mut opening, mut expiring, mut left) = (0u64, 0u64, 0u64);
    let bursts = flows * 2 / BURST_PACKETS_MAX;
    // The same number before that, so that the tables' memory has been used once and sessions expire.
    for burst in 0..bursts {
        prepare_new(&mut rig, traffic, (burst * BURST_PACKETS_MAX) as u32);
        rig.process(INSIDE);
        rig.housekeeping(EXPIRY_SLICE);
        rig.collect(|_, _| {});
    }
    let live = rig.engine.state.sessions.count() as u64;
    for burst in bursts..2 * bursts {
        prepare_new(&mut rig, traffic, (burst * BURST_PACKETS_MAX) as u32);
        let (walks, slice) = (rig.process(INSIDE), rig.housekeeping(EXPIRY_SLICE));
        times.saturating_record(rig.nanos((walks + slice) as f64) as u64);
        (opening, expiring) = (opening + walks, expiring + slice);
        left += rig.collect(|_, _| {}) as u64;
    }
    let opened = (bursts * BURST_PACKETS_MAX) as u64;
    let expired = (live + opened).saturating_sub(rig.engine.state.sessions.count() as u64);
    let (open_cycles, expire_cycles) =
        (opening as f64 / opened as f64, expiring as f64 / expired.max(1) as f64);
    let cycles_per_flow = open_cycles + expire_cycles;
    let micros = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(NewFlowReport {
        functions: kinds.len(),
        opened,
        expired,
        new_flows_per_second: 1e9 / rig.nanos(cycles_per_flow),
        cycles_per_flow,
        open_cycles,
        expire_cycles,
        burst_p50_us: micros(0.5),
        burst_p99_us: micros(0.99),
        burst_p999_us: micros(0.999),
        burst_max_us: times.max() as f64 / 1000.0,
        lost: opened.saturating_sub(left),
    })
}

/// Prepares a burst of first packets, of the flows from `first` on.
pub fn prepare_new(rig: &mut Rig, traffic: &TrafficConfig, first: u32) {
    let mut templates = Templates::new(traffic.frame_bytes, BURST_PACKETS_MAX);
    for index in first..first + BURST_PACKETS_MAX as u32 {
        templates.push(|target| inside_frame(traffic, index, traffic.first_segment(), target));
    }
    rig.prepare(&templates, 0..templates.len());
}
