//! Hand-over between workers: which of them owns a packet (R14), and the rings by which it gets there and back.
//!
//! A port is polled by one worker, which has it as a [`SharedPort`]; every other worker has its part as a [`RemotePort`]. Engine and
//! loop know ports only, so a worker works as if it were alone. The poller asks a [`Place`] for the owner of each packet. This
//! crate knows no connections, so that is implemented where functions are.
//!
//! Frames belong to the pool of who received or made them. One that ends with another worker returns by its pool's list.

mod place;
mod remote;
mod shared;
mod waker;

pub use place::{Place, Placed, WorkerId};
pub use remote::RemotePort;
pub use shared::{Member, RING_PACKETS, SharedPort, share};
pub use waker::Waker;
