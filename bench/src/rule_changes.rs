//! Rule changes that concern no live flow (R8): what they cost the others.

use crate::chains::{CHAIN, Kind, stray_rule};
use crate::established::rig_for;
use crate::hit_path::bursts;
use crate::rig::{BenchResult, Rig};
use crate::statistics::Series;
use crate::traffic::{Traffic, TrafficConfig};
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::limits::BURST_PACKETS_MAX;
use millrace_nf::firewall::Firewall;
use millrace_nf::firewall::rules::RuleId;
use serde::Serialize;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct RuleChangeReport {
    /// Flows.
    pub flows: usize,
    /// Rule changes a second of the engine's time.
    pub changes_per_second: f64,
    /// Cycles a packet without changes.
    pub still_cycles: f64,
    /// Cycles a packet with changes, theirs included.
    pub changing_cycles: f64,
    /// How much slower, in percent: median of the pairs.
    pub slowdown_percent: f64,
    /// Packets that did not leave.
    pub lost: u64,
    /// Packets that walked.
    pub walks: u64,
}

impl std::fmt::Display for RuleChangeReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "rule_changes flows={} changes_per_second={:.0} still_cycles={:.1} changing_cycles={:.1} \
             slowdown_percent={:.1} lost={} walks={}",
            self.flows,
            self.changes_per_second,
            self.still_cycles,
            self.changing_cycles,
            self.slowdown_percent,
            self.lost,
            self.walks
        )
    }
}

/// Inserts and removes a rule, in turns.
struct Changer {
    per_second: f64,
    due_nanos: f64,
    made: u32,
}

impl Changer {
    fn turn(&mut self, rig: &mut Rig) -> BenchResult<u64> {
        let now = rig.now().0 as f64;
        if self.per_second <= 0.0 || now < self.due_nanos {
            return Ok(0);
        }
        self.due_nanos = self.due_nanos.max(now - 1e9 / self.per_second) + 1e9 / self.per_second;
        let (insert, number) = (self.made.is_multiple_of(2), self.made / 2);
        self.made += 1;
        let rule = stray_rule(number)?;
        let mut outcome = Ok(());
        let spent = rig.timed(|engine, _, _, _| {
            let firewall = engine.slow.chain_named(CHAIN).and_then(|c| c.function::<Firewall>("firewall0"));
            let Some(firewall) = firewall else {
                outcome = Err("the chain does not begin with a firewall".to_owned());
                return;
            };
            if insert {
                outcome =
                    firewall.insert(rule, &mut engine.state.validity.within(0)).map_err(|e| e.to_string());
            } else {
                firewall.remove(RuleId(1000 + number), &mut engine.state.validity.within(0));
            }
        });
        outcome?;
        Ok(spent)
    }
}

/// Measures with and without changes in turns, `repeat` times.
///
/// # Errors
/// If the chain can't be built, does not begin with a firewall, or does not carry the traffic.
pub fn measure(
    kinds: &[Kind],
    config: &TrafficConfig,
    per_second: f64,
    repeat: usize,
) -> BenchResult<RuleChangeReport> {
    let mut rig = rig_for(kinds, config.flows, config.frame_bytes, BudgetConfig::default())?;
    let mut traffic = Traffic::open(&mut rig, config)?;
    let count = bursts(traffic.flows());
    let mut changer = Changer { per_second, due_nanos: 0.0, made: 0 };
    let mut never = Changer { per_second: 0.0, due_nanos: 0.0, made: 0 };
    lap(&mut rig, &mut traffic, count / 4 + 1, &mut never)?;
    let (mut still, mut changing, mut slower) = (Series::new(), Series::new(), Series::new());
    let (mut lost, mut nanos) = (0, 0.0);
    let hits_before = rig.engine.counters().hits;
    for _ in 0..repeat.max(1) {
        let (without, lost_without) = lap(&mut rig, &mut traffic, count, &mut never)?;
        let start = rig.now();
        let (with, lost_with) = lap(&mut rig, &mut traffic, count, &mut changer)?;
        nanos += rig.now().since(start).as_nanos() as f64;
        still.push(without);
        changing.push(with);
        slower.push((with / without - 1.0) * 100.0);
        lost += lost_without + lost_with;
    }
    let packets = (2 * repeat.max(1) * count * BURST_PACKETS_MAX) as u64;
    Ok(RuleChangeReport {
        flows: config.flows,
        changes_per_second: f64::from(changer.made) * 1e9 / nanos,
        still_cycles: still.median(),
        changing_cycles: changing.median(),
        slowdown_percent: slower.median(),
        lost,
        walks: packets.saturating_sub(rig.engine.counters().hits - hits_before),
    })
}

/// Cycles a packet, and packets that did not leave.
fn lap(rig: &mut Rig, traffic: &mut Traffic, count: usize, changer: &mut Changer) -> BenchResult<(f64, u64)> {
    let (mut spent, mut left) = (0u64, 0u64);
    for _ in 0..count {
        let port = traffic.prepare(rig);
        spent += rig.process(port);
        spent += changer.turn(rig)?;
        left += rig.collect(|_, _| {}) as u64;
    }
    let packets = (count * BURST_PACKETS_MAX) as u64;
    Ok((spent as f64 / packets as f64, packets.saturating_sub(left)))
}
