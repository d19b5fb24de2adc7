//! The atomics of the rings: the machine's, or loom's when a model checks them.

#[cfg(loom)]
pub(super) use loom::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering, fence},
};
#[cfg(not(loom))]
pub(super) use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering, fence},
};

/// A value on cache lines of its own. 128 bytes, since the hardware fetches lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);
