//! Routing: routes, neighbours, interfaces, and the limits on what the router says by itself.

pub mod addressing;
pub mod icmp_limit;
pub mod interface;
pub mod lpm;
pub mod neighbour;
mod prefix_trie;

pub use prefix_trie::{PrefixTrie, TrieFull};
