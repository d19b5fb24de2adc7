//! Copies of packets for somebody who looks on: what captures are made from.
//!
//! 1. [`allowance`] bounds the time that looking on may take.
//! 2. [`record`] is a copy with what is known of it, in chunks that go to another thread and come back.
//! 3. [`recorder`] makes the copies on the worker: of what ports receive and send, and of what is dropped, wherever that is.
//!
//! A packet never waits for its copy: without time or room it goes on, and is counted as left out.

pub mod allowance;
pub mod record;
pub mod recorder;

pub use allowance::Allowance;
pub use record::{Chunk, Moment, Record};
pub use recorder::{Counts, Filter, Points, Recorder, RecorderConfig, Records};
