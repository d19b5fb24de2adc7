//! The slots of a ring: memory for elements whose presence the ring's indices know.
//!
//! Under loom each slot is one of loom's cells, so that the model sees two threads in one slot.
#![allow(unsafe_code)]

#[cfg(not(loom))]
pub(super) use machine::Slots;
#[cfg(loom)]
pub(super) use model::Slots;

#[cfg(not(loom))]
mod machine {
    use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
    use std::mem::MaybeUninit;
    use std::ptr::{self, NonNull};
    use std::sync::atomic::{Ordering, compiler_fence};

    const PAGE_BYTES: usize = 4096;

    /// As many bytes as a cache line has. Padding and pointers pass through as they are.
    type Line = MaybeUninit<[u64; 8]>;

    /// Slots in one block that starts at a page. Which of them hold elements, and who may touch
    /// them, is the caller's knowledge.
    pub(in crate::ring) struct Slots<T> {
        first: NonNull<T>,
        layout: Layout,
    }

    // SAFETY: elements go from thread to thread by value, which `T: Send` allows; the ring's protocol makes sure
    // that no slot is touched by two threads at once.
    unsafe impl<T: Send> Send for Slots<T> {}
    // SAFETY: as above; slots are touched through unsafe functions only.
    unsafe impl<T: Send> Sync for Slots<T> {}

    impl<T> Slots<T> {
        /// `count` empty slots; one at least.
        pub(in crate::ring) fn new(count: usize) -> Self {
            const { assert!(size_of::<T>() > 0, "elements of a ring have a size") };
            let layout = Layout::array::<T>(count.max(1)).and_then(|layout| layout.align_to(PAGE_BYTES));
            let layout = layout.expect("capacity and element size are bounded at compile time by the ring");
            // SAFETY: the layout has a size above 0, by the assertion.
            let memory = unsafe { alloc(layout) };
            match NonNull::new(memory.cast()) {
                Some(first) => Self { first, layout },
                None => handle_alloc_error(layout),
            }
        }

        /// Moves `count` elements from `source` to the slots from `at` on, line by line upwards: while the lines come from the
        /// other core, that overlaps best. A `memcpy` writes both ends first.
        ///
        /// # Safety
        /// The slots must be inside, empty, and the caller's alone; `source` must be valid for `count` elements, which
        /// the caller gives up.
        #[inline]
        pub(in crate::ring) unsafe fn write(&self, at: usize, source: *const T, count: usize) {
            // SAFETY: by the caller's promise; the block was allocated for all slots.
            unsafe {
                let target = self.first.as_ptr().add(at);
                let lines = lines::<T>(count);
                for line in 0..lines {
                    move_line(source, target, line);
                }
                move_rest(source, target, lines, count);
            }
        }

        /// Moves `count` elements from the slots from `at` on to `target`, line by line downwards: upwards, the hardware would
        /// fetch the lines beyond, which the producer is about to write.
        ///
        /// # Safety
        /// The slots must be inside, hold elements, and be the caller's alone, which takes them as empty afterwards;
        /// `target` must be valid for writing `count` elements.
        #[inline]
        pub(in crate::ring) unsafe fn read(&self, at: usize, target: *mut T, count: usize) {
            // SAFETY: by the caller's promise; the block was allocated for all slots.
            unsafe {
                let source = self.first.as_ptr().add(at).cast_const();
                let lines = lines::<T>(count);
                move_rest(source, target, lines, count);
                for line in (0..lines).rev() {
                    move_line(source, target, line);
                }
            }
        }
    }

    /// Whole lines in `count` elements.
    #[inline(always)]
    fn lines<T>(count: usize) -> usize {
        count * size_of::<T>() / size_of::<Line>()
    }

    /// # Safety
    /// Both must be valid for the line with this number, counted from them on.
    #[inline(always)]
    unsafe fn move_line<T>(source: *const T, target: *mut T, line: usize) {
        // SAFETY: by the caller's promise.
        unsafe {
            target.cast::<Line>().add(line).write_unaligned(source.cast::<Line>().add(line).read_unaligned());
        };
        // Or the compiler makes one `memcpy` of them all.
        compiler_fence(Ordering::SeqCst);
    }

    /// Moves what `count` elements have beyond `lines` lines.
    ///
    /// # Safety
    /// Both must be valid for `count` elements, which have so many lines.
    #[inline(always)]
    unsafe fn move_rest<T>(source: *const T, target: *mut T, lines: usize, count: usize) {
        let done = lines * size_of::<Line>();
        let rest = count * size_of::<T>() - done;
        if rest > 0 {
            // SAFETY: by the caller's promise.
            unsafe {
                ptr::copy_nonoverlapping(
                    source.byte_add(done).cast::<u8>(),
                    target.byte_add(done).cast(),
                    rest,
                );
            };
        }
    }

    impl<T> Drop for Slots<T> {
        fn drop(&mut self) {
            // SAFETY: allocated by `new` with this layout, and given back once. Elements are the ring's to drop.
            unsafe { dealloc(self.first.as_ptr().cast(), self.layout) };
        }
    }
}

#[cfg(loom)]
mod model {
    use std::mem::MaybeUninit;
    use std::ptr;

    use loom::cell::UnsafeCell;

    /// Slots that loom watches. The contract is that of the machine's.
    pub(in crate::ring) struct Slots<T> {
        cells: Box<[UnsafeCell<MaybeUninit<T>>]>,
    }

    // SAFETY: elements go from thread to thread by value, which `T: Send` allows; loom checks the protocol.
    unsafe impl<T: Send> Send for Slots<T> {}
    // SAFETY: as above.
    unsafe impl<T: Send> Sync for Slots<T> {}

    impl<T> Slots<T> {
        pub(in crate::ring) fn new(count: usize) -> Self {
            Self { cells: (0..count).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect() }
        }

        /// # Safety
        /// As the machine's.
        pub(in crate::ring) unsafe fn write(&self, at: usize, source: *const T, count: usize) {
            for index in 0..count {
                self.cells[at + index].with_mut(|slot| {
                    // SAFETY: by the caller's promise, which loom checks for the slot.
                    unsafe { ptr::copy_nonoverlapping(source.add(index), slot.cast(), 1) };
                });
            }
        }

        /// # Safety
        /// As the machine's.
        pub(in crate::ring) unsafe fn read(&self, at: usize, target: *mut T, count: usize) {
            for index in 0..count {
                self.cells[at + index].with(|slot| {
                    // SAFETY: by the caller's promise, which loom checks for the slot.
                    unsafe { ptr::copy_nonoverlapping(slot.cast(), target.add(index), 1) };
                });
            }
        }
    }
}
