//! Memory of live connections.

use crate::chains::{CHAIN, Kind, build};
use crate::rig::{BenchResult, Rig, RigConfig};
use crate::traffic::{Traffic, TrafficConfig};
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::flow::cache::FlowCache;
use millrace_dataplane::flow::session::{SessionTable, Timeouts};
use millrace_nf::nat::Nat;
use serde::Serialize;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryReport {
    /// Connections that live.
    pub connections: usize,
    /// Bytes of the session table.
    pub session_bytes: usize,
    /// Bytes of it a connection.
    pub session_bytes_each: f64,
    /// Bytes of the NAT's mappings.
    pub mapping_bytes: usize,
    /// Bytes of the flow cache, which has a bound of its own.
    pub cache_bytes: usize,
}

impl std::fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "memory connections={} session_bytes={} session_bytes_each={:.1} mapping_bytes={} cache_bytes={}",
            self.connections,
            self.session_bytes,
            self.session_bytes_each,
            self.mapping_bytes,
            self.cache_bytes
        )
    }
}

/// Opens `flows` connections through firewall, NAT and router, in a table for just that many.
///
/// # Errors
/// If there is not enough memory, or a connection does not come about.
pub fn measure(flows: usize) -> BenchResult<MemoryReport> {
    let kinds = [Kind::Firewall, Kind::Nat, Kind::Router];
    let chains = build(&kinds, flows + 8192)?;
    let parts = chains.parts();
    // The first flows only open the way.
    let sessions = flows + 64;
    let config = RigConfig {
        sessions,
        cache_entries: flows,
        timeouts: Timeouts::default(),
        frame_bytes: 1514,
        budget: BudgetConfig::UNLIMITED,
    };
    let mut rig = Rig::new(chains, &config)?;
    let traffic = TrafficConfig { flows, frame_bytes: 64, protocol: 17, v6: false, both_directions: false };
    Traffic::open(&mut rig, &traffic)?;
    let connections = rig.engine.state.sessions.count();
    let session_bytes = SessionTable::bytes_for(sessions, parts);
    let nat = rig.engine.slow.chain_named(CHAIN).and_then(|chain| chain.function::<Nat>("nat1"));
    let mapping_bytes = nat.map_or(0, |nat| nat.state().mappings().memory_bytes());
    Ok(MemoryReport {
        connections,
        session_bytes,
        session_bytes_each: session_bytes as f64 / connections.max(1) as f64,
        mapping_bytes,
        cache_bytes: FlowCache::bytes_for(flows, 20),
    })
}
