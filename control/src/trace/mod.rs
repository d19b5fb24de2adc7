//! Follows packets through a running instance.
//!
//! 1. [`filter`] says which; [`tracer`] looks on at them on the worker.
//! 2. [`serve`] puts a tracer there for a client of the management socket, and tells what it saw.

pub mod filter;
pub mod serve;
pub mod tracer;

use std::ops::RangeInclusive;

/// How many packets one trace may follow.
pub const COUNT: RangeInclusive<usize> = 1..=10_000;
/// Of how many packets one may be looked at.
pub const EVERY: RangeInclusive<usize> = 1..=1 << 30;
/// How many seconds a trace may last.
pub const SECONDS: RangeInclusive<usize> = 1..=86_400;
