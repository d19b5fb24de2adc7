//! Memory of live connections, as the tables themselves count it.

use crate::chains::{CHAIN, Kind, build};
use crate::rig::{BenchResult, Rig, RigConfig};
use crate::traffic::{Traffic, TrafficConfig};
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::flow::cache::FlowCache;
use millrace_dataplane::flow::session::Timeouts;
use millrace_nf::nat::Nat;
use serde::Serialize;

/// What connections and their translations may take in all, in bytes.
const BOUND_BYTES: usize = 256 << 20;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryReport {
    /// Connections that live.
    pub connections: usize,
    /// Inside hosts that opened them.
    pub hosts: usize,
    /// Bytes of the session table.
    pub session_bytes: usize,
    /// Bytes of the NAT's mappings with their indices.
    pub mapping_bytes: usize,
    /// Bytes of what the NAT keeps of inside hosts.
    pub host_bytes: usize,
    /// Bytes of the states of external ports.
    pub port_bytes: usize,
    /// All of that.
    pub total_bytes: usize,
    /// All of that for each connection.
    pub bytes_each: f64,
    /// Bytes that it may be.
    pub bound_bytes: usize,
    /// Bytes of the flow cache, which has a bound of its own.
    pub cache_bytes: usize,
}

impl std::fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "memory connections={} hosts={} session_bytes={} mapping_bytes={} host_bytes={} port_bytes={} total_bytes={} \
             bytes_each={:.1} bound_bytes={} cache_bytes={}",
            self.connections,
            self.hosts,
            self.session_bytes,
            self.mapping_bytes,
            self.host_bytes,
            self.port_bytes,
            self.total_bytes,
            self.bytes_each,
            self.bound_bytes,
            self.cache_bytes
        )
    }
}

/// Opens `flows` connections, `flows_per_host` from each inside host, through firewall, NAT and router, in tables for just
/// that many.
///
/// # Errors
/// If there is not enough memory, or a connection does not come about.
pub fn measure(flows: usize, flows_per_host: u32) -> BenchResult<MemoryReport> {
    let kinds = [Kind::Firewall, Kind::Nat, Kind::Router];
    // The first flows only open the way.
    let sessions = flows + 64;
    let config = RigConfig {
        sessions,
        cache_entries: flows,
        timeouts: Timeouts::default(),
        frame_bytes: 1514,
        budget: BudgetConfig::UNLIMITED,
    };
    let mut rig = Rig::new(build(&kinds, sessions)?, &config)?;
    let traffic = TrafficConfig {
        flows,
        flows_per_host,
        frame_bytes: 64,
        protocol: 17,
        v6: false,
        both_directions: false,
    };
    Traffic::open(&mut rig, &traffic)?;
    let table = &rig.engine.state.sessions;
    let (connections, session_bytes) = (table.count(), table.memory_bytes());
    let nat = rig.engine.slow.chain_named(CHAIN).and_then(|chain| chain.function::<Nat>("nat1"));
    let state = nat.ok_or("the chain has no NAT")?.state();
    let mapping_bytes = state.mappings().memory_bytes();
    let host_bytes = state.subscribers().memory_bytes();
    let nat_bytes = state.used().memory_bytes;
    let total_bytes = session_bytes + nat_bytes;
    Ok(MemoryReport {
        connections,
        hosts: state.subscribers().len(),
        session_bytes,
        mapping_bytes,
        host_bytes,
        port_bytes: nat_bytes - mapping_bytes - host_bytes,
        total_bytes,
        bytes_each: total_bytes as f64 / connections.max(1) as f64,
        bound_bytes: BOUND_BYTES,
        cache_bytes: FlowCache::bytes_for(flows, 17),
    })
}
