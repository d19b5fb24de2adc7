//! Memory: one arena of huge pages a process, and pools of packet frames carved from it.

mod arena;
mod pool;

pub use arena::{Arena, ArenaConfig, ArenaError, ArenaReport, Backing};
pub use pool::{Pool, PoolConfig, PoolError};
