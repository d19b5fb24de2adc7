//! Hand-over between workers: which of them owns a packet (R14), and the rings by which it gets there and back.
//!
//! Each worker has its part in a port as a [`SharedPort`]. Some poll a queue of the device; all receive what is theirs, whoever
//! polled it, and send: by their own queue, or by one of those who have one. Engine and loop know ports only, so a worker works
//! as if it were alone. Who polls asks a [`Place`] for the owner of each packet. This crate knows no connections, so that is
//! implemented where functions are.
//!
//! Frames belong to the pool of who received or made them. One that ends with another worker returns by its pool's ring.

mod place;
mod poller;
mod share;
mod shared;
mod waiting;
mod waker;
mod way;

pub use place::{Datagram, Place, Placed, Told, WorkerId};
pub use share::{Member, Queue, RING_PACKETS, ring_packets, share};
pub use shared::SharedPort;
pub use waiting::WAITING_MAX;
pub use waker::Waker;
