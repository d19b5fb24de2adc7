//! Routing: routes, neighbours, interfaces, and the limits on what the router says by itself.
//!
//! [`Router`] is the forwarder at the end of a chain; it is made of tables that know nothing of chains: [`interface`], [`lpm`],
//! [`neighbour`], [`icmp_limit`].

pub mod addressing;
mod change;
mod config;
mod effects;
mod explain;
mod forward;
mod function;
mod host;
pub mod icmp_limit;
pub mod interface;
mod link;
mod local;
pub mod lpm;
pub mod neighbour;
mod prefix_trie;
mod state;
mod ways;

pub use change::{Replaced, RouterChange};
pub use config::{HOST_PORT_FIRST, HostService, HostSide, RouterConfig, RouterError, StaticNeighbour};
pub use prefix_trie::{PrefixTrie, TrieFull};
pub use state::{Router, RouterCounters};
pub use ways::Ways;
