//! Memory: one arena of huge pages a process, and pools of packet frames carved from it.
//!
//! The arena is mapped once and never moves. Regions are carved from it for pools and for large tables and
//! give their space back when they are dropped. Nothing here runs per packet but [`Pool::take`] and
//! [`Pool::put`] with their bulk forms, which touch the worker's own list only.

mod arena;
mod heap;
mod limits;
mod mapping;
mod pool;
mod prefetch;
mod region;
mod reservation;
mod return_ring;
mod slice;

pub use arena::{Arena, ArenaError};
pub use heap::{HeapUse, heap_use, limit_heap_arenas, trim_heap};
pub use mapping::{ArenaConfig, ArenaReport, Backing, FailedStep, PageSize};
pub use pool::{FRAME_BYTES_DEFAULT, Pool, PoolConfig, PoolError};
pub use prefetch::prefetch;
pub use region::Region;
pub use return_ring::{ReturnRing, Taken};
pub use slice::{ArenaSlice, Pod};

pub(crate) use pool::{Metadata, give_back};
pub(crate) use prefetch::prefetch_at;
