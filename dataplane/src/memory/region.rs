//! Regions: ranges of an arena's memory with one holder each, and the ranges that are free.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::mapping::Mapping;

/// The free ranges of an arena, by ascending offset, never adjacent.
#[derive(Debug)]
pub(super) struct FreeRanges {
    /// Offset and length in bytes.
    pub(super) ranges: Vec<(usize, usize)>,
    /// From here on nothing was ever carved, so that the memory is still zero.
    pub(super) untouched_from: usize,
}

/// The mapping and its free ranges; regions keep it alive.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) mapping: Mapping,
    free: Mutex<FreeRanges>,
}

impl Shared {
    pub(super) fn new(mapping: Mapping) -> Self {
        let ranges = vec![(0, mapping.len())];
        Self { mapping, free: Mutex::new(FreeRanges { ranges, untouched_from: 0 }) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, FreeRanges> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a range back, merged with its neighbours.
    pub(super) fn release(&self, offset: usize, bytes: usize) {
        let mut free = self.lock();
        let ranges = &mut free.ranges;
        let at = ranges.partition_point(|&(start, _)| start < offset);
        ranges.insert(at, (offset, bytes));
        if at + 1 < ranges.len() && offset + bytes == ranges[at + 1].0 {
            ranges[at].1 += ranges[at + 1].1;
            ranges.remove(at + 1);
        }
        if at > 0 && ranges[at - 1].0 + ranges[at - 1].1 == offset {
            ranges[at - 1].1 += ranges[at].1;
            ranges.remove(at);
        }
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }
}

/// A range of an arena's memory that belongs to its holder alone. Its space goes back when it is dropped.
///
/// The memory is initialised (mapped pages are zero), aligned as asked, and valid as long as the region lives.
#[derive(Debug)]
pub struct Region {
    shared: Arc<Shared>,
    offset: usize,
    bytes: usize,
    /// Nothing was ever carved here, so that the memory is still zero.
    pub(super) zero: bool,
}

impl Region {
    pub(super) fn new(shared: Arc<Shared>, offset: usize, bytes: usize, zero: bool) -> Self {
        Self { shared, offset, bytes, zero }
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        // SAFETY: `carve` made sure that `offset + bytes` is inside the mapping that `shared` keeps alive.
        unsafe { self.shared.base().add(self.offset) }
    }

    /// Bytes, a multiple of 64.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Never true: a region has one cache line at least.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Offset of the first byte from the arena's base.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.shared.release(self.offset, self.bytes);
    }
}
