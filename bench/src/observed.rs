//! What looking on costs: established flows with nobody who looks on, with one packet in so many traced, and with one in so many captured.

use crate::chains::Kind;
use crate::established::rig_for;
use crate::hit_path::bursts;
use crate::rig::{BenchResult, INSIDE, Rig};
use crate::statistics::Series;
use crate::traffic::{Traffic, TrafficConfig};
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::capture::{Allowance, Points, Recorder, RecorderConfig};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::limits::BURST_PACKETS_MAX;
use millrace_dataplane::port::PortId;
use millrace_nf::follow::{Audience, Followed, Follower};
use serde::Serialize;
use std::sync::mpsc::{SyncSender, sync_channel};

/// One packet in so many is looked at.
const EVERY: u64 = 1_024;
/// The share of time that a trace or a capture is allowed.
const SHARE: f64 = 0.03;

/// A burst that takes longer lost its core, and is not counted: no look at a packet takes a tenth of that.
const LOST_NANOS: f64 = 100_000.0;

/// What was found. Ratios are medians of those of neighbouring runs.
#[derive(Clone, Debug, Serialize)]
pub struct ObservedReport {
    /// Flows.
    pub flows: usize,
    /// Cycles a packet with nobody who looks on: median.
    pub off_cycles: f64,
    /// How much slower one run with nobody is than the next, in percent: what the measurement can't tell apart.
    pub noise_percent: f64,
    /// How much slower packets are when one in 1,024 is traced, in percent.
    pub traced_percent: f64,
    /// Packets that were traced, of a thousand whose turn it was.
    pub traced_per_mille: f64,
    /// How much slower packets are when one in 1,024 is captured at its port, in percent.
    pub captured_percent: f64,
    /// Packets that were captured, of a thousand whose turn it was.
    pub captured_per_mille: f64,
    /// The same as [`Self::captured_percent`] of all packets, as far as the budget goes.
    pub flooded_percent: f64,
    /// Packets that were captured then, of a thousand.
    pub flooded_per_mille: f64,
}

impl std::fmt::Display for ObservedReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "observed flows={} off_cycles={:.1} noise_percent={:.1} traced_1024_percent={:.1} traced_per_mille={:.0} \
             captured_1024_percent={:.1} captured_per_mille={:.0} captured_all_percent={:.1} captured_all_per_mille={:.0}",
            self.flows,
            self.off_cycles,
            self.noise_percent,
            self.traced_percent,
            self.traced_per_mille,
            self.captured_percent,
            self.captured_per_mille,
            self.flooded_percent,
            self.flooded_per_mille
        )
    }
}

/// Who is told of what is traced, as the thread that serves a trace is.
struct Told(SyncSender<Followed>);

impl Audience for Told {
    fn is_at(&self, _: PortId) -> bool {
        true
    }

    fn wants(&self, _: PortId, _: &[u8]) -> bool {
        true
    }

    fn passed(&mut self, _: PortId, _: u64, _: u64) {}

    fn take(&mut self, followed: Followed) {
        // Who is late is not waited for.
        let _ = self.0.try_send(followed);
    }

    fn is_done(&self) -> bool {
        false
    }
}

/// Cycles a packet, of bursts that kept their core.
fn run(rig: &mut Rig, traffic: &mut Traffic, bursts: usize) -> f64 {
    let (mut spent, mut counted) = (0, 0);
    for _ in 0..bursts {
        let port = traffic.prepare(rig);
        let cycles = rig.process(port);
        if rig.nanos(cycles as f64) < LOST_NANOS {
            spent += cycles;
            counted += 1;
        }
        rig.collect(|_, _| {});
    }
    spent as f64 / (counted.max(1) * BURST_PACKETS_MAX) as f64
}

/// A run while one packet in [`EVERY`] is traced: cycles a packet, and packets that were traced.
fn traced(rig: &mut Rig, traffic: &mut Traffic, count: usize) -> (f64, u64) {
    let (sender, receiver) = sync_channel(256);
    let told = std::thread::spawn(move || receiver.iter().count() as u64);
    let follower = Follower::new(Told(sender), EVERY, Allowance::new(SHARE)).finding_all();
    rig.engine.observe(Some(Box::new(follower)));
    let cycles = run(rig, traffic, count);
    rig.engine.observe(None);
    (cycles, told.join().unwrap_or(0))
}

/// A run while one packet in `every` is captured as its port receives it, and all drops are.
fn captured(rig: &mut Rig, traffic: &mut Traffic, count: usize, every: u64) -> (f64, u64) {
    let mut points = Points::default();
    points.add_received(INSIDE, 0);
    DropReason::ALL.iter().for_each(|reason| points.add_dropped(*reason, 1));
    let allowance = Allowance::new(SHARE);
    let (recorder, mut records) =
        Recorder::new(RecorderConfig { points, snap_bytes: 9_022, every, allowance, filter: None });
    rig.record(Some(Box::new(recorder)));
    let read = std::thread::spawn(move || {
        let mut read = 0;
        loop {
            let is_over = records.is_over();
            while let Some(chunk) = records.take() {
                read += chunk.records().count() as u64;
                records.give_back(chunk);
            }
            if is_over {
                return read;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    let cycles = run(rig, traffic, count);
    rig.record(None);
    (cycles, read.join().unwrap_or(0))
}

/// Measures `repeat` times in turns.
///
/// # Errors
/// If the chain can't be built or does not carry the traffic.
pub fn measure(kinds: &[Kind], config: &TrafficConfig, repeat: usize) -> BenchResult<ObservedReport> {
    let mut rig = rig_for(kinds, config.flows, config.frame_bytes, BudgetConfig::UNLIMITED)?;
    let mut traffic = Traffic::open(&mut rig, config)?;
    // Long enough for the budgets to be used up.
    let count = 8 * bursts(traffic.flows());
    run(&mut rig, &mut traffic, count / 4);
    let mut off = Series::new();
    let mut slower: [Series; 4] = Default::default();
    let mut seen: [Series; 3] = Default::default();
    let packets = (count * BURST_PACKETS_MAX) as f64;
    for _ in 0..repeat.max(1) {
        let mut before = run(&mut rig, &mut traffic, count);
        off.push(before);
        for what in 0..slower.len() {
            let (cycles, taken) = match what {
                0 => (run(&mut rig, &mut traffic, count), 0),
                1 => traced(&mut rig, &mut traffic, count),
                2 => captured(&mut rig, &mut traffic, count, EVERY),
                _ => captured(&mut rig, &mut traffic, count, 1),
            };
            let after = run(&mut rig, &mut traffic, count);
            off.push(after);
            slower[what].push((cycles / ((before + after) / 2.0) - 1.0) * 100.0);
            if what > 0 {
                let due = if what == 3 { packets } else { packets / EVERY as f64 };
                seen[what - 1].push(taken as f64 / due * 1_000.0);
            }
            before = after;
        }
    }
    let percent = |what: usize| slower[what].median();
    Ok(ObservedReport {
        flows: config.flows,
        off_cycles: off.median(),
        noise_percent: percent(0),
        traced_percent: percent(1),
        traced_per_mille: seen[0].median(),
        captured_percent: percent(2),
        captured_per_mille: seen[1].median(),
        flooded_percent: percent(3),
        flooded_per_mille: seen[2].median(),
    })
}
