//! The arena: the memory of packets and large tables, one a process.

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::Arc;

use super::mapping::{ArenaConfig, ArenaReport, Backing, Mapping, PageSize};
use super::region::{Region, Shared};

/// Why memory can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The system has no memory for the arena.
    #[error("map {bytes} bytes for the arena: {source}")]
    Map {
        /// Bytes wanted.
        bytes: usize,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The arena has no free range that is large enough.
    #[error("the arena has no free range of {wanted} bytes; {free} bytes are free, {largest} in one piece")]
    Full {
        /// Bytes wanted.
        wanted: usize,
        /// Bytes free in all.
        free: usize,
        /// Bytes of the largest free range.
        largest: usize,
    },
    /// The alignment is no power of two between 64 bytes and 2 MiB.
    #[error("an alignment of {0} bytes is no power of two between 64 and 2 MiB")]
    Alignment(usize),
    /// The size overflows.
    #[error("{count} elements of {element_bytes} bytes are more than memory can hold")]
    TooLarge {
        /// Elements wanted.
        count: usize,
        /// Bytes of one.
        element_bytes: usize,
    },
}

/// The process's memory for packets and large tables: mapped once, bound to one NUMA node, shared by handles.
///
/// The mapping lives until the last handle and the last region are gone. Carving and giving back take a lock and
/// belong to set-up, not to the packet loop.
#[derive(Clone, Debug)]
pub struct Arena(Arc<Shared>);

impl Arena {
    /// Maps an arena by the best means that works (see [`ArenaReport`]); warns once if only plain pages are left.
    ///
    /// # Errors
    /// The system has not enough memory of any kind.
    pub fn new(config: &ArenaConfig) -> Result<Self, ArenaError> {
        let mapping =
            Mapping::new(config).map_err(|source| ArenaError::Map { bytes: config.bytes, source })?;
        let report = mapping.report();
        if report.backing == Backing::PlainPages && config.page_size != PageSize::Plain {
            let reasons: Vec<String> = report
                .failed_steps
                .iter()
                .map(|failed| format!("{}: {}", failed.step, failed.reason))
                .collect();
            tracing::warn!(
                bytes = report.bytes,
                reasons = reasons.join("; "),
                "the arena lies on plain 4 KiB pages: large tables will be slower"
            );
        }
        Ok(Self::over(mapping))
    }

    /// An arena of private plain pages that are taken as they are touched: for tests and tools.
    ///
    /// # Errors
    /// The address space is exhausted.
    pub fn anonymous(bytes: usize) -> Result<Self, ArenaError> {
        Mapping::anonymous(bytes).map(Self::over).map_err(|source| ArenaError::Map { bytes, source })
    }

    fn over(mapping: Mapping) -> Self {
        Self(Arc::new(Shared::new(mapping)))
    }

    /// Carves `bytes`, rounded up to whole cache lines, aligned to `align` (a power of two from 64 to 2 MiB).
    /// The region gives its space back when it is dropped.
    ///
    /// # Errors
    /// No free range is large enough, or the alignment is not allowed.
    pub fn carve(&self, bytes: usize, align: usize) -> Result<Region, ArenaError> {
        if !align.is_power_of_two() || !(64..=super::mapping::HUGE_2M_BYTES).contains(&align) {
            return Err(ArenaError::Alignment(align));
        }
        let wanted = bytes.max(1).checked_next_multiple_of(64).unwrap_or(usize::MAX);
        let mut free = self.0.lock();
        // The mapping is aligned to 2 MiB, so that aligned offsets are aligned addresses.
        let found = free.ranges.iter().position(|&(start, length)| {
            let padding = start.next_multiple_of(align) - start;
            length.checked_sub(padding).is_some_and(|usable| usable >= wanted)
        });
        let Some(at) = found else {
            let free_bytes = free.ranges.iter().map(|range| range.1).sum();
            let largest = free.ranges.iter().map(|range| range.1).max().unwrap_or(0);
            return Err(ArenaError::Full { wanted, free: free_bytes, largest });
        };
        let (start, length) = free.ranges.remove(at);
        let offset = start.next_multiple_of(align);
        let rest = length - (offset - start) - wanted;
        if rest > 0 {
            free.ranges.insert(at, (offset + wanted, rest));
        }
        if offset > start {
            free.ranges.insert(at, (start, offset - start));
        }
        let zero = offset >= free.untouched_from;
        free.untouched_from = free.untouched_from.max(offset + wanted);
        drop(free);
        Ok(Region::new(Arc::clone(&self.0), offset, wanted, zero))
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.0.mapping.base()
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.0.mapping.len()
    }

    /// Never true: an arena has one page at least.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that are not carved.
    pub fn free_bytes(&self) -> usize {
        self.0.lock().ranges.iter().map(|range| range.1).sum()
    }

    /// The file descriptor of the memory, if it can be shared with another process. It stays the arena's.
    pub fn fd(&self) -> Option<RawFd> {
        self.0.mapping.fd()
    }

    /// What the arena got, and why nothing better.
    pub fn report(&self) -> &ArenaReport {
        self.0.mapping.report()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_arena_says_what_it_got() {
        let arena = Arena::new(&ArenaConfig::new(3 << 20)).unwrap();
        let report = arena.report();
        assert_eq!(report.bytes, 4 << 20);
        assert_eq!(arena.base().as_ptr() as usize % (2 << 20), 0);
        if report.backing == Backing::HugePages {
            assert_eq!(report.page_bytes, 2 << 20);
        } else {
            assert!(report.failed_steps.iter().any(|failed| failed.step == "map 2 huge pages of 2 MiB"));
        }
    }

    #[test]
    fn who_insists_on_huge_pages_gets_no_others() {
        // More than any machine has free.
        for page_size in [PageSize::Huge2M, PageSize::Huge1G] {
            let error =
                Arena::new(&ArenaConfig { page_size, ..ArenaConfig::new(1 << 46) }).unwrap_err().to_string();
            assert!(error.contains(" huge pages of ") && error.contains("are free"), "{error}");
            assert!(!error.contains("available"), "nothing else was tried: {error}");
        }
    }

    #[test]
    fn plain_pages_are_shareable_and_populated() {
        let config = ArenaConfig { page_size: PageSize::Plain, ..ArenaConfig::new(1 << 20) };
        let arena = Arena::new(&config).unwrap();
        assert_eq!(arena.report().backing, Backing::PlainPages);
        assert!(arena.fd().is_some());
        assert!(arena.report().failed_steps.is_empty());
    }

    #[test]
    fn a_node_that_does_not_exist_is_a_failed_step() {
        let config = ArenaConfig { node: Some(999), ..ArenaConfig::new(1 << 20) };
        let arena = Arena::new(&config).unwrap();
        assert_eq!(arena.report().node, None);
        assert!(arena.report().failed_steps.iter().any(|failed| failed.step.contains("NUMA node 999")));
    }

    #[test]
    fn wrong_sizes_are_errors() {
        let arena = Arena::anonymous(1 << 20).unwrap();
        assert!(matches!(arena.carve(64, 3), Err(ArenaError::Alignment(3))));
        assert!(matches!(arena.carve(64, 4 << 20), Err(ArenaError::Alignment(_))));
        assert!(matches!(arena.carve(usize::MAX, 64), Err(ArenaError::Full { .. })));
        assert!(matches!(Arena::new(&ArenaConfig::new(usize::MAX - 5)), Err(ArenaError::Map { .. })));
        assert!(matches!(Arena::anonymous(usize::MAX - 5), Err(ArenaError::Map { .. })));
    }

    proptest! {
        #[test]
        fn regions_never_overlap_and_all_space_comes_back(
            steps in proptest::collection::vec((1usize..400_000, 6u32..13, any::<prop::sample::Index>(), any::<bool>()), 1..60)
        ) {
            let arena = Arena::anonymous(2 << 20).unwrap();
            let mut regions: Vec<Region> = Vec::new();
            for (bytes, align, index, remove) in steps {
                if remove && !regions.is_empty() {
                    regions.swap_remove(index.index(regions.len()));
                } else if let Ok(region) = arena.carve(bytes, 1 << align) {
                    prop_assert!(region.len() >= bytes);
                    prop_assert_eq!(region.base().as_ptr() as usize % (1 << align), 0);
                    regions.push(region);
                }
                let mut spans: Vec<_> =
                    regions.iter().map(|r| (r.base().as_ptr() as usize, r.len())).collect();
                spans.sort_unstable();
                prop_assert!(spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
                let carved: usize = spans.iter().map(|span| span.1).sum();
                prop_assert_eq!(carved + arena.free_bytes(), arena.len());
            }
            regions.clear();
            prop_assert_eq!(arena.carve(arena.len(), 64).unwrap().len(), arena.len());
        }
    }
}
