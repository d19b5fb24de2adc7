//! Steady state: established flows only, each once a lap.

use crate::rig::Rig;
use crate::traffic::Traffic;
use millrace_dataplane::counting::allocations;
use millrace_dataplane::limits::BURST_PACKETS_MAX;

/// What a run found.
#[derive(Clone, Copy, Debug)]
pub struct HitRun {
    /// TSC cycles a packet.
    pub cycles_per_packet: f64,
    /// Allocations while packets were processed.
    pub allocations: u64,
    /// Packets that did not hit.
    pub walks: u64,
}

/// Bursts of one run: at least four laps, as the limit's.
pub fn bursts(flows: usize) -> usize {
    (400_000 / BURST_PACKETS_MAX).max(flows * 4 / BURST_PACKETS_MAX)
}

/// Sends `bursts` bursts.
pub fn run(rig: &mut Rig, traffic: &mut Traffic, bursts: usize) -> HitRun {
    let hits_before = rig.engine.counters().hits;
    let (mut spent, mut allocated) = (0u64, 0u64);
    for _ in 0..bursts {
        let port = traffic.prepare(rig);
        let before = allocations();
        spent += rig.process(port);
        allocated += allocations() - before;
        rig.collect(|_, _| {});
    }
    let packets = (bursts * BURST_PACKETS_MAX) as u64;
    let hits = rig.engine.counters().hits - hits_before;
    HitRun {
        cycles_per_packet: spent as f64 / packets as f64,
        allocations: allocated,
        walks: packets.saturating_sub(hits),
    }
}
