//! The four rings that an AF_XDP socket shares with the kernel.
//!
//! Design: single producer, single consumer, a power of two of entries, free-running 32-bit indices
//! (`Documentation/networking/af_xdp.rst`). Ours is one side, the kernel the other. Each side writes its own
//! index with release order and reads the other's with acquire order; we keep a copy of the other side's
//! index and read it again only when the copy is not enough.
//!
//! What the kernel writes decides neither where we read nor how much: positions are masked and counts are
//! clamped to the size, so that a broken index gives wrong entries (which are validated by the callers),
//! never an access outside the mapping.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::sys::Mapping;

/// What a ring may hold.
///
/// # Safety
/// Every bit pattern is a valid value, and its alignment is at most 8.
pub(super) unsafe trait Entry: Copy {}
// SAFETY: an integer.
unsafe impl Entry for u64 {}
// SAFETY: three integers, aligned to 8.
unsafe impl Entry for libc::xdp_desc {}

/// One mapped ring: where its indices, flags and entries are.
#[derive(Debug)]
struct SharedRing<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _mapping: Mapping,
}

// SAFETY: the pointers lead into the mapping that the ring owns; the ring is used by one thread at a time.
unsafe impl<T: Entry> Send for SharedRing<T> {}

impl<T: Entry> SharedRing<T> {
    /// Maps the ring of `size` entries (a power of two) that lies at `page_offset` of the socket's file.
    fn map(
        fd: BorrowedFd<'_>,
        offsets: &libc::xdp_ring_offset,
        size: u32,
        page_offset: libc::off_t,
    ) -> io::Result<Self> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's ring offsets make no sense");
        let at = |offset: u64, bytes: usize, align: usize| {
            let offset = usize::try_from(offset).ok()?;
            let end = offset.checked_add(bytes)?;
            (offset.is_multiple_of(align) && size.is_power_of_two()).then_some((offset, end))
        };
        let entries_bytes = size as usize * size_of::<T>();
        let (desc, end) = at(offsets.desc, entries_bytes, 8).ok_or_else(broken)?;
        let (producer, _) = at(offsets.producer, 4, 4).filter(|at| at.1 <= end).ok_or_else(broken)?;
        let (consumer, _) = at(offsets.consumer, 4, 4).filter(|at| at.1 <= end).ok_or_else(broken)?;
        let (flags, _) = at(offsets.flags, 4, 4).filter(|at| at.1 <= end).ok_or_else(broken)?;
        let mapping = Mapping::new(fd, end, page_offset)?;
        let base = mapping.base();
        // SAFETY: each offset with the size of what is there was checked above to end within `end`, the
        // length of the mapping, and to be aligned; the base is aligned to a page.
        unsafe {
            Ok(Self {
                producer: base.add(producer).cast(),
                consumer: base.add(consumer).cast(),
                flags: base.add(flags).cast(),
                entries: base.add(desc).cast(),
                size,
                _mapping: mapping,
            })
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: within the mapping and aligned (see `map`); shared with the kernel through atomics only.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as for `producer`.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: the masked index is below `size`, and `size` entries lie in the mapping (see `map`).
        unsafe { self.entries.as_ptr().add((index & (self.size - 1)) as usize) }
    }
}

/// A ring that we fill: the fill ring and the TX ring.
#[derive(Debug)]
pub(super) struct ProducerRing<T> {
    shared: SharedRing<T>,
    /// Where the next entry goes. Written only by us; published by [`Self::submit`].
    next: u32,
    /// The kernel's index as last seen. May lag: that costs room, never safety.
    consumer_seen: u32,
}

impl<T: Entry> ProducerRing<T> {
    /// Maps the ring; see [`SharedRing::map`].
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        offsets: &libc::xdp_ring_offset,
        size: u32,
        page_offset: libc::off_t,
    ) -> io::Result<Self> {
        let shared = SharedRing::map(fd, offsets, size, page_offset)?;
        let next = shared.producer().load(Ordering::Relaxed);
        let consumer_seen = shared.consumer().load(Ordering::Acquire);
        Ok(Self { shared, next, consumer_seen })
    }

    /// How many of `wanted` entries fit now.
    #[inline]
    pub(super) fn room(&mut self, wanted: u32) -> u32 {
        if self.room_seen() < wanted {
            // Acquire pairs with the kernel's release of the entries it has read.
            self.consumer_seen = self.shared.consumer().load(Ordering::Acquire);
        }
        self.room_seen().min(wanted)
    }

    fn room_seen(&self) -> u32 {
        self.shared.size.saturating_sub(self.next.wrapping_sub(self.consumer_seen))
    }

    /// Writes one entry; the caller has asked [`Self::room`] for it. The kernel sees it after `submit`.
    #[inline]
    pub(super) fn push(&mut self, value: T) {
        debug_assert!(self.room_seen() > 0);
        // SAFETY: `entry` is within the mapping. Between our index and the kernel's only we write.
        unsafe { self.shared.entry(self.next).write_volatile(value) };
        self.next = self.next.wrapping_add(1);
    }

    /// Publishes all entries pushed so far.
    #[inline]
    pub(super) fn submit(&mut self) {
        // Release: the entries above become visible to the kernel before the index.
        self.shared.producer().store(self.next, Ordering::Release);
    }

    /// Entries that the kernel has not consumed yet.
    #[inline]
    pub(super) fn pending(&mut self) -> u32 {
        self.consumer_seen = self.shared.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(self.consumer_seen).min(self.shared.size)
    }

    /// Whether the kernel asks for a system call before it looks at this ring.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.shared.needs_wakeup()
    }
}

/// A ring that we empty: the completion ring and the RX ring.
#[derive(Debug)]
pub(super) struct ConsumerRing<T> {
    shared: SharedRing<T>,
    /// The next entry to read. Written only by us; published by [`Self::release`].
    next: u32,
    /// The kernel's index as last seen. May lag: what is missed now is seen at the next call.
    producer_seen: u32,
}

impl<T: Entry> ConsumerRing<T> {
    /// Maps the ring; see [`SharedRing::map`].
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        offsets: &libc::xdp_ring_offset,
        size: u32,
        page_offset: libc::off_t,
    ) -> io::Result<Self> {
        let shared = SharedRing::map(fd, offsets, size, page_offset)?;
        let next = shared.consumer().load(Ordering::Relaxed);
        Ok(Self { shared, next, producer_seen: next })
    }

    /// How many entries can be read, `wanted` at most.
    #[inline]
    pub(super) fn available(&mut self, wanted: u32) -> u32 {
        let seen = self.producer_seen.wrapping_sub(self.next);
        if seen >= wanted {
            return wanted;
        }
        // Acquire pairs with the kernel's release: the entries up to this index are readable.
        self.producer_seen = self.shared.producer().load(Ordering::Acquire);
        let seen = self.producer_seen.wrapping_sub(self.next);
        if seen > self.shared.size {
            // An index that can't be: nothing is believed until it makes sense again.
            self.producer_seen = self.next;
            return 0;
        }
        seen.min(wanted)
    }

    /// Takes one entry; the caller has asked [`Self::available`] for it.
    #[inline]
    pub(super) fn pop(&mut self) -> T {
        debug_assert!(self.next != self.producer_seen);
        // SAFETY: `entry` is within the mapping, and any bit pattern is a valid `T`.
        let value = unsafe { self.shared.entry(self.next).read_volatile() };
        self.next = self.next.wrapping_add(1);
        value
    }

    /// Gives the entries taken so far back to the kernel.
    #[inline]
    pub(super) fn release(&mut self) {
        // Release: our reads of the entries are done before the kernel may write them again.
        self.shared.consumer().store(self.next, Ordering::Release);
    }
}
