//! Rows of a few words under numbers: the memory of mappings, inside hosts and contacts.
//!
//! The row that was freed last is used first: it is the one that the caches still hold.

use millrace_dataplane::memory::{Arena, ArenaError, ArenaSlice, prefetch};

/// Ends the list of free rows.
const NONE: u32 = u32::MAX;

/// Rows of `N` words. Sized once; no row moves.
#[derive(Debug)]
pub struct Rows<const N: usize> {
    rows: ArenaSlice<[u32; N]>,
    /// Rows from here on were never used.
    fresh: u32,
    /// The first free row before that; its first word names the next.
    free: u32,
    len: usize,
}

impl<const N: usize> Rows<N> {
    /// Room for `capacity` rows.
    ///
    /// # Errors
    /// The arena has no room for them.
    pub fn new(arena: &Arena, capacity: usize) -> Result<Self, ArenaError> {
        Ok(Self { rows: ArenaSlice::zeroed(arena, capacity)?, fresh: 0, free: NONE, len: 0 })
    }

    /// Bytes that so many rows take from the arena.
    pub fn bytes_for(capacity: usize) -> usize {
        (capacity * size_of::<[u32; N]>()).max(1).next_multiple_of(64)
    }

    /// Bytes taken from the arena.
    pub fn memory_bytes(&self) -> usize {
        self.rows.arena_bytes()
    }

    /// Rows in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is none in use?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most rows in use.
    pub fn capacity(&self) -> usize {
        self.rows.len()
    }

    /// Rows from this number on were never used.
    pub fn high_water(&self) -> usize {
        self.fresh as usize
    }

    /// Asks for the memory of a row.
    #[inline]
    pub fn prefetch(&self, number: u32) {
        if let Some(row) = self.rows.get(number as usize) {
            prefetch(row);
        }
    }

    /// The row of this number, in use or free: what says which is the user's.
    #[inline]
    pub fn get(&self, number: u32) -> Option<&[u32; N]> {
        self.rows.get(number as usize)
    }

    /// The same, to be changed.
    #[inline]
    pub fn get_mut(&mut self, number: u32) -> Option<&mut [u32; N]> {
        self.rows.get_mut(number as usize)
    }

    /// Puts a row into use. None if all are.
    #[inline]
    pub fn take(&mut self, row: [u32; N]) -> Option<u32> {
        let number = if self.free == NONE { self.fresh } else { self.free };
        let place = self.rows.get_mut(number as usize)?;
        if self.free == NONE {
            self.fresh += 1;
        } else {
            self.free = place[0];
        }
        *place = row;
        self.len += 1;
        // The next that is taken lies elsewhere.
        self.prefetch(self.free.min(self.fresh));
        Some(number)
    }

    /// Frees a row that is in use: it is all zero but for its first word.
    #[inline]
    pub fn free(&mut self, number: u32) {
        if let Some(row) = self.rows.get_mut(number as usize) {
            *row = [0; N];
            row[0] = self.free;
            self.free = number;
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_freed_last_is_used_first() {
        let arena = Arena::anonymous(Rows::<3>::bytes_for(3)).unwrap();
        let mut rows = Rows::<3>::new(&arena, 3).unwrap();
        assert_eq!([1, 2, 3].map(|n| rows.take([n, n, n])), [Some(0), Some(1), Some(2)]);
        assert_eq!((rows.take([9; 3]), rows.len(), rows.high_water()), (None, 3, 3));
        rows.free(0);
        rows.free(2);
        assert_eq!((rows.len(), rows.get(0).map(|row| row[1..].to_vec())), (1, Some(vec![0, 0])));
        assert_eq!([7, 8].map(|n| rows.take([n, n, n])), [Some(2), Some(0)]);
        assert_eq!((rows.get(2), rows.get(1), rows.get(3)), (Some(&[7; 3]), Some(&[2; 3]), None));
        assert_eq!(rows.take([9; 3]), None);
    }
}
