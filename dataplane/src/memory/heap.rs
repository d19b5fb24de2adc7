//! The C library's heap: what is not packets or tables.
//!
//! Its arenas, one a thread, keep what was freed between things that live on, so that a process whose configuration changes often
//! holds several times what it uses. Pages without anything in use can be given back.
#![allow(unsafe_code)]

/// Bytes of the heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapUse {
    /// In use.
    pub used: usize,
    /// In use, free, or given back in part: its addresses are kept.
    pub held: usize,
}

/// How much heap there is; none where the C library does not say. Each arena is locked for a moment.
pub fn heap_use() -> Option<HeapUse> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: takes nothing, and locks what it reads.
        let info = unsafe { libc::mallinfo2() };
        Some(HeapUse { used: info.uordblks + info.hblkhd, held: info.arena + info.hblkhd })
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

/// Threads share so few arenas from now on: those that only look and configure need no more, and workers
/// allocate little, none of it for a packet that the flow cache carries.
pub fn limit_heap_arenas(count: u8) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: sets a number in the allocator, which it reads when a thread first allocates. Without effect if it is refused.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, libc::c_int::from(count)) };
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = count;
}

/// Gives whole pages that nothing uses back to the system. Takes a system call for each stretch of them, while its arena is locked:
/// nothing for a thread that moves packets.
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: nothing that is in use moves or goes.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_between_things_that_stay_goes_back() {
        // In one heap, below the size that is mapped alone, so that what stays holds what is between.
        let mut blocks: Vec<Vec<u8>> = (0..2_000).map(|_| vec![1; 16_000]).collect();
        let full = heap_use().unwrap();
        assert!(full.used >= 32_000_000 && full.held >= full.used, "{full:?}");
        let mut number = 0;
        blocks.retain(|_| {
            number += 1;
            number % 100 == 0
        });
        let after = heap_use().unwrap();
        assert!(after.used + 20_000_000 < full.used, "{after:?} after {full:?}");
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * 4_096
        };
        let before = resident();
        trim_heap();
        assert!(resident() + 15_000_000 < before, "{} after {before}", resident());
        assert_eq!(blocks.len(), 20);
    }
}
