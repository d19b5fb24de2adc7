//! The ring by which frames come back: any thread gives, one takes.

use std::ptr::{self, NonNull};

#[cfg(loom)]
use loom::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::prefetch::prefetch_at;

/// Slots that are asked for ahead of the one that is taken: two cache lines.
const PREFETCH_AHEAD: usize = 16;

/// A ring with room for all that can ever be in it, so that to give always succeeds: it takes one atomic addition and one store,
/// and touches nothing of the element. Who takes reads slot by slot, and so needs no element's memory to find the next.
///
/// A giver reserves a slot and then fills it. What was given behind a reserved slot waits until that is filled: for the time
/// that the system stops a thread just between the two.
#[derive(Debug)]
pub struct ReturnRing {
    /// Elements, null where there is none. A power of two of them.
    slots: Box<[AtomicPtr<u8>]>,
    given: Given,
}

/// Slots reserved so far, on cache lines of their own. 128 bytes, since the hardware fetches lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Given(AtomicUsize);

/// What was taken so far. A ring has one, with who takes.
#[derive(Debug, Default)]
pub struct Taken(usize);

impl ReturnRing {
    /// For `elements` elements, each of which is in it once at most.
    pub fn new(elements: usize) -> Self {
        let slots = (0..elements.next_power_of_two()).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        Self { slots, given: Given(AtomicUsize::new(0)) }
    }

    /// Gives an element back. Behind its last step neither the ring nor the element is touched.
    #[inline]
    pub fn give(&self, element: NonNull<u8>) {
        // Acquire and Release: one of the elements that were ahead by a whole round came back by here, so its giver's Release
        // says that the slot was emptied before it is filled again.
        let at = self.given.0.fetch_add(1, Ordering::AcqRel);
        // Release: what was written to the element is seen by who takes it.
        self.slots[at & (self.slots.len() - 1)].store(element.as_ptr(), Ordering::Release);
    }

    /// Takes up to `most` elements, those that were given first.
    pub fn take(&self, taken: &mut Taken, most: usize, mut to: impl FnMut(NonNull<u8>)) {
        let slot = |at: usize| &self.slots[at & (self.slots.len() - 1)];
        for _ in 0..most.min(self.len(taken)) {
            prefetch_at(ptr::from_ref(slot(taken.0.wrapping_add(PREFETCH_AHEAD))).cast());
            // Acquire and Release: see `give`.
            let Some(element) = NonNull::new(slot(taken.0).load(Ordering::Acquire)) else { return };
            slot(taken.0).store(ptr::null_mut(), Ordering::Relaxed);
            taken.0 = taken.0.wrapping_add(1);
            to(element);
        }
    }

    /// Elements that are given and not taken, also those whose slot is not filled yet.
    #[inline]
    pub fn len(&self, taken: &Taken) -> usize {
        self.given.0.load(Ordering::Relaxed).wrapping_sub(taken.0)
    }
}
