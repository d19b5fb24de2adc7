//! Slices of plain values in an arena.
#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::arena::{Arena, ArenaError};
use super::prefetch::prefetch_at;
use super::region::Region;

/// Types that may lie in an arena: zero bytes are a valid value, and nothing has to be dropped.
///
/// # Safety
/// All bytes zero must be a valid value of the type, and its alignment at most 4096.
pub unsafe trait Pod: Copy + Send + Sync + 'static {}

macro_rules! pod {
    ($($type:ty),+) => { $(
        // SAFETY: an integer of zero bytes is 0.
        unsafe impl Pod for $type {}
    )+ };
}
pod!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

// SAFETY: an array of valid values is valid, and has its element's alignment.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// A slice of plain values in an arena, zero at the start: for tables that are too large for small pages.
#[derive(Debug)]
pub struct ArenaSlice<T: Pod> {
    first: NonNull<T>,
    length: usize,
    region: Region,
}

// SAFETY: the slice owns its region, and `Pod` types are `Send`.
unsafe impl<T: Pod> Send for ArenaSlice<T> {}
// SAFETY: shared access gives `&[T]` only, and `Pod` types are `Sync`.
unsafe impl<T: Pod> Sync for ArenaSlice<T> {}

impl<T: Pod> ArenaSlice<T> {
    /// `length` values of zero bytes.
    ///
    /// # Errors
    /// The arena has no room for them.
    pub fn zeroed(arena: &Arena, length: usize) -> Result<Self, ArenaError> {
        const { assert!(align_of::<T>() <= 4096) };
        let too_large = ArenaError::TooLarge { count: length, element_bytes: size_of::<T>() };
        let bytes = length.checked_mul(size_of::<T>()).ok_or(too_large)?;
        let region = arena.carve(bytes, align_of::<T>().max(64))?;
        let first = region.base().cast::<T>();
        if !region.zero {
            // SAFETY: the region has `bytes` bytes at least and is ours alone.
            unsafe { region.base().write_bytes(0, bytes) };
        }
        Ok(Self { first, length, region })
    }

    /// Asks the CPU for the first cache line of the value at `index`; any index will do.
    #[inline(always)]
    pub fn prefetch(&self, index: usize) {
        self.prefetch_line(index, 0);
    }

    /// Asks the CPU for a cache line of the value at `index`, counted from its first; any numbers will do.
    #[inline(always)]
    pub fn prefetch_line(&self, index: usize, line: usize) {
        prefetch_at(self.first.as_ptr().wrapping_add(index).cast::<u8>().wrapping_add(64 * line));
    }

    /// Bytes taken from the arena.
    pub fn arena_bytes(&self) -> usize {
        self.region.len()
    }
}

impl<T: Pod> Deref for ArenaSlice<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `zeroed` carved room for `length` values, aligned for `T`, all zero and thus valid by the
        // contract of `Pod`; the region is ours alone and lives as long as we do.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl<T: Pod> DerefMut for ArenaSlice<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_zero_also_on_used_memory() {
        let arena = Arena::anonymous(2 << 20).unwrap();
        let length = arena.len() / 8;
        let mut slice = ArenaSlice::<u64>::zeroed(&arena, length).unwrap();
        assert!(slice.iter().all(|&value| value == 0));
        slice.fill(u64::MAX);
        assert!(ArenaSlice::<u64>::zeroed(&arena, 1).is_err());
        drop(slice);
        let slice = ArenaSlice::<[u32; 16]>::zeroed(&arena, length / 8).unwrap();
        assert!(slice.iter().flatten().all(|&value| value == 0));
        assert_eq!(slice.arena_bytes(), arena.len());
    }

    #[test]
    fn a_slice_outlives_its_arena_handle() {
        let slice = ArenaSlice::<u32>::zeroed(&Arena::anonymous(1 << 20).unwrap(), 100).unwrap();
        assert_eq!(slice.iter().sum::<u32>(), 0);
        assert!(matches!(
            ArenaSlice::<u64>::zeroed(&Arena::anonymous(1).unwrap(), usize::MAX / 4),
            Err(ArenaError::TooLarge { .. })
        ));
    }
}
