//! Rings: bounded queues between one producer and one consumer, with bulk push and pop.

mod atomics;
mod slots;
pub mod spsc;

pub use spsc::{Consumer, Producer, ring};
