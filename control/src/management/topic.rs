//! What `show` can show.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What `show` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// Ports with their counters.
    Ports,
    /// Functions with their counters, a firewall's by rule.
    Functions,
    /// Entries of the flow cache.
    Flows,
    /// Connections.
    Sessions,
    /// Chains, their zones, functions and keys.
    Chains,
    /// Workers and what they do with their time.
    Workers,
    /// Shares of the connections, each with its worker.
    Shares,
    /// Memory: arena, packet buffers, tables.
    Memory,
    /// Dropped packets by reason.
    Drops,
    /// How long bursts take: histograms by worker and chain.
    Latency,
    /// Neighbours of the routers.
    Neighbours,
    /// Routes.
    Routes,
    /// Address mappings.
    Nat,
    /// Health probes and what they found.
    Probes,
}
