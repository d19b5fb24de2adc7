//! A bounded ring between one producer and one consumer.
//!
//! **Design.** Lamport's queue with the cached indices of FastForward's and MCRingBuffer's kin: both indices run free
//! (they wrap with the integer, and are masked to find a slot); `tail - head` is the number of elements. Each side
//! keeps a private copy of the other's index and reads the shared one only when the copy says that there is not
//! enough room or not enough to take. A bulk of elements costs one copy, or two where the ring wraps, and one store.
//! Copies go upwards into the ring and downwards out of it, so that neither end asks for lines that the other one needs.
//!
//! **Thread-safety.** `tail` is written by the producer alone, `head` by the consumer alone. The producer's Release
//! store of `tail` pairs with the consumer's Acquire load: elements are written before they are seen. The consumer's
//! Release store of `head` pairs with the producer's Acquire load: elements are moved out before their slots are
//! written again. A copy that lags is safe: it says less room, or fewer elements, than there are.
#![allow(unsafe_code)]

use std::fmt;
use std::mem::MaybeUninit;

use arrayvec::ArrayVec;

use super::atomics::{Arc, AtomicUsize, Ordering, Padded, fence};
use super::slots::Slots;
use crate::packet::{Burst, Packet};

/// Most elements that a ring holds.
pub const RING_CAPACITY_MAX: usize = 1 << 20;

struct Shared<T> {
    /// The next element to take. Written by the consumer.
    head: Padded<AtomicUsize>,
    /// The next slot to fill. Written by the producer.
    tail: Padded<AtomicUsize>,
    slots: Slots<T>,
    /// Number of slots less one; the number is a power of two.
    mask: usize,
}

impl<T> Shared<T> {
    /// Moves `count` elements from `source` to the slots from `index` on, around the end if need be.
    ///
    /// # Safety
    /// As [`Slots::write`], for the masked slots; `count <= mask + 1`.
    #[inline]
    unsafe fn write(&self, index: usize, source: *const T, count: usize) {
        let at = index & self.mask;
        let first = self.mask + 1 - at;
        // SAFETY: the slots are inside, at once or in two parts; the rest is the caller's promise.
        unsafe {
            if count <= first {
                self.slots.write(at, source, count);
            } else {
                self.write_around(source, first, count);
            }
        }
    }

    /// Moves the `first` elements to the last slots and the others to those at the start. Rare, and out of the way: the copy
    /// of a usual bulk has no part whose length would have to be known first.
    ///
    /// # Safety
    /// As [`Self::write`]; `first < count`.
    #[cold]
    unsafe fn write_around(&self, source: *const T, first: usize, count: usize) {
        // SAFETY: the two parts cover `count` slots once and stay inside; the rest is the caller's promise.
        unsafe {
            self.slots.write(self.mask + 1 - first, source, first);
            self.slots.write(0, source.add(first), count - first);
        }
    }

    /// Moves `count` elements from the slots from `index` on to `target`, around the end if need be.
    ///
    /// # Safety
    /// As [`Slots::read`], for the masked slots; `count <= mask + 1`.
    #[inline]
    unsafe fn read(&self, index: usize, target: *mut T, count: usize) {
        let at = index & self.mask;
        let first = self.mask + 1 - at;
        // SAFETY: as in `write`.
        unsafe {
            if count <= first {
                self.slots.read(at, target, count);
            } else {
                self.read_around(target, first, count);
            }
        }
    }

    /// The counterpart of [`Self::write_around`].
    ///
    /// # Safety
    /// As [`Self::read`]; `first < count`.
    #[cold]
    unsafe fn read_around(&self, target: *mut T, first: usize, count: usize) {
        // SAFETY: as in `write_around`.
        unsafe {
            self.slots.read(self.mask + 1 - first, target, first);
            self.slots.read(0, target.add(first), count - first);
        }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Both halves are gone: their reference counts ordered their last stores before this.
        let tail = self.tail.0.load(Ordering::Relaxed);
        let mut head = self.head.0.load(Ordering::Relaxed);
        while head != tail {
            let mut element = MaybeUninit::<T>::uninit();
            // SAFETY: the slots from `head` to `tail` hold elements, and nobody else is left; each is read once.
            unsafe {
                self.read(head, element.as_mut_ptr(), 1);
                element.assume_init_drop();
            }
            head = head.wrapping_add(1);
        }
    }
}

/// A ring for `capacity` elements, rounded up to a power of two and bounded by [`RING_CAPACITY_MAX`]. What is still
/// in it when both halves are gone is dropped.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    const { assert!(size_of::<T>() > 0 && size_of::<T>() <= 1 << 20) };
    let capacity = capacity.clamp(1, RING_CAPACITY_MAX).next_power_of_two();
    let shared = Arc::new(Shared {
        head: Padded(AtomicUsize::new(0)),
        tail: Padded(AtomicUsize::new(0)),
        slots: Slots::new(capacity),
        mask: capacity - 1,
    });
    let producer = Producer { tail: 0, head_seen: 0, shared: Arc::clone(&shared) };
    (producer, Consumer { head: 0, tail_seen: 0, shared })
}

/// The half that pushes.
pub struct Producer<T> {
    /// Our next slot. Written by us alone; published through `shared.tail`.
    tail: usize,
    /// Last seen value of the consumer's head. May lag: lag costs room, never safety.
    head_seen: usize,
    shared: Arc<Shared<T>>,
}

impl<T: Send> Producer<T> {
    /// Number of elements that the ring holds at most.
    pub fn capacity(&self) -> usize {
        self.shared.mask + 1
    }

    /// Elements in the ring, at the time of the call.
    pub fn len(&self) -> usize {
        self.tail.wrapping_sub(self.shared.head.0.load(Ordering::Acquire))
    }

    /// True when the ring holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when the consumer is gone: what is pushed will never be taken.
    pub fn is_abandoned(&self) -> bool {
        let abandoned = Arc::strong_count(&self.shared) == 1;
        // Acquire: pairs with the Release decrement of the consumer's reference, so that `len` after this is what it left.
        fence(Ordering::Acquire);
        abandoned
    }

    /// True when there is no room for another element. Asks the consumer's index only if the last known one says so.
    #[inline]
    pub fn is_full(&mut self) -> bool {
        self.free(1) == 0
    }

    /// Free slots, `wanted` at most; asks the consumer's index only if the last known one is not enough.
    #[inline]
    fn free(&mut self, wanted: usize) -> usize {
        let capacity = self.shared.mask + 1;
        let mut free = capacity - self.tail.wrapping_sub(self.head_seen);
        if free < wanted {
            // Acquire: the consumer moved its elements out before it stored this.
            self.head_seen = self.shared.head.0.load(Ordering::Acquire);
            free = capacity - self.tail.wrapping_sub(self.head_seen);
        }
        free.min(wanted)
    }

    /// Moves up to `count` elements from `source` to the ring; returns how many.
    ///
    /// # Safety
    /// `source` must be valid for `count` elements, of which the caller gives up the first ones, as many as returned.
    #[inline]
    unsafe fn push_raw(&mut self, source: *const T, count: usize) -> usize {
        let count = self.free(count);
        if count > 0 {
            // SAFETY: `free` says that these slots are empty; they become the consumer's by the store below only.
            unsafe { self.shared.write(self.tail, source, count) };
            self.tail = self.tail.wrapping_add(count);
            // Release: the elements are written before the consumer's Acquire load sees the new tail.
            self.shared.tail.0.store(self.tail, Ordering::Release);
        }
        count
    }

    /// Pushes one element.
    ///
    /// # Errors
    /// The element comes back if the ring is full.
    #[inline]
    pub fn push(&mut self, element: T) -> Result<(), T> {
        // SAFETY: the element is valid, and forgotten if it was taken.
        if unsafe { self.push_raw(&raw const element, 1) } == 1 {
            std::mem::forget(element);
            Ok(())
        } else {
            Err(element)
        }
    }

    /// Pushes elements from the front of `elements`, as many as fit; the rest stays, in order. Returns how many.
    #[inline]
    pub fn push_from<const N: usize>(&mut self, elements: &mut ArrayVec<T, N>) -> usize {
        let before = elements.len();
        // SAFETY: all elements are valid; `set_len` and the copy below forget those that were taken, and `pushed <=
        // before`. Nothing can panic between, so that nothing is dropped twice.
        unsafe {
            let pushed = self.push_raw(elements.as_ptr(), before);
            let first = elements.as_mut_ptr();
            std::ptr::copy(first.add(pushed), first, before - pushed);
            elements.set_len(before - pushed);
            pushed
        }
    }

    /// Pushes copies from the front of `elements`, as many as fit. Returns how many.
    #[inline]
    pub fn push_copies(&mut self, elements: &[T]) -> usize
    where
        T: Copy,
    {
        // SAFETY: the slice is valid, and its elements may be copied.
        unsafe { self.push_raw(elements.as_ptr(), elements.len()) }
    }
}

impl Producer<Packet> {
    /// Pushes packets from the front of `burst`, as many as fit; the rest stays, in order. Returns how many.
    #[inline]
    pub fn push_packets(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: all packets of the burst are valid, and it forgets those that were taken.
        unsafe {
            let pushed = self.push_raw(burst.as_slice().as_ptr(), burst.len());
            burst.forget_front(pushed);
            pushed
        }
    }
}

/// The half that pops.
pub struct Consumer<T> {
    /// Our next element. Written by us alone; published through `shared.head`.
    head: usize,
    /// Last seen value of the producer's tail. May lag: lag costs time, never safety.
    tail_seen: usize,
    shared: Arc<Shared<T>>,
}

impl<T: Send> Consumer<T> {
    /// Number of elements that the ring holds at most.
    pub fn capacity(&self) -> usize {
        self.shared.mask + 1
    }

    /// Elements in the ring, at the time of the call.
    pub fn len(&self) -> usize {
        self.shared.tail.0.load(Ordering::Acquire).wrapping_sub(self.head)
    }

    /// True when the ring holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when the producer is gone: nothing will come after what is in the ring.
    pub fn is_abandoned(&self) -> bool {
        let abandoned = Arc::strong_count(&self.shared) == 1;
        // Acquire: pairs with the Release decrement of the producer's reference, which follows its last store of
        // `tail`, so that a pop after this sees all elements.
        fence(Ordering::Acquire);
        abandoned
    }

    /// Moves up to `count` elements to `target`; returns how many.
    ///
    /// # Safety
    /// `target` must be valid for writing `count` elements; the caller owns what was written.
    #[inline]
    unsafe fn pop_raw(&mut self, target: *mut T, count: usize) -> usize {
        let mut there = self.tail_seen.wrapping_sub(self.head);
        if there < count {
            // Acquire: the producer wrote its elements before it stored this.
            self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
            there = self.tail_seen.wrapping_sub(self.head);
        }
        let count = there.min(count);
        if count > 0 {
            // SAFETY: the slots from `head` to `tail_seen` hold elements, and are ours until the store below.
            unsafe { self.shared.read(self.head, target, count) };
            self.head = self.head.wrapping_add(count);
            // Release: the elements are moved out before the producer's Acquire load sees their slots free.
            self.shared.head.0.store(self.head, Ordering::Release);
        }
        count
    }

    /// Pops one element.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        let mut element = MaybeUninit::uninit();
        // SAFETY: there is room for one element, and it is read only if it was written.
        unsafe { (self.pop_raw(element.as_mut_ptr(), 1) == 1).then(|| element.assume_init()) }
    }

    /// Appends elements to `elements`, as many as fit and are there. Returns how many.
    #[inline]
    pub fn pop_into<const N: usize>(&mut self, elements: &mut ArrayVec<T, N>) -> usize {
        let (before, room) = (elements.len(), elements.remaining_capacity());
        // SAFETY: there is room for `room` elements behind the `before` first; the new length covers what was written.
        unsafe {
            let popped = self.pop_raw(elements.as_mut_ptr().add(before), room);
            elements.set_len(before + popped);
            popped
        }
    }

    /// Pops into the front of `elements`, as many as fit and are there. Returns how many.
    #[inline]
    pub fn pop_copies(&mut self, elements: &mut [T]) -> usize
    where
        T: Copy,
    {
        // SAFETY: the slice is valid for writing, and what it held needs no drop.
        unsafe { self.pop_raw(elements.as_mut_ptr(), elements.len()) }
    }
}

impl Consumer<Packet> {
    /// Appends packets to `burst`, as many as fit and are there. Returns how many.
    #[inline]
    pub fn pop_packets(&mut self, burst: &mut Burst) -> usize {
        let spare = burst.spare();
        let (target, room) = (spare.as_mut_ptr().cast(), spare.len());
        // SAFETY: the spare slots are valid for writing; the burst's new length covers what was written.
        unsafe {
            let popped = self.pop_raw(target, room);
            burst.extend_by(popped);
            popped
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("tail", &self.tail).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("head", &self.head).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::{Arena, Pool, PoolConfig};
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::Arc as Counted;

    #[test]
    fn capacities_are_powers_of_two() {
        for (asked, got) in [(0, 1), (1, 1), (3, 4), (64, 64), (usize::MAX, RING_CAPACITY_MAX)] {
            assert_eq!(ring::<u8>(asked).0.capacity(), got);
        }
    }

    #[test]
    fn what_remains_is_dropped_once() {
        let token = Counted::new(());
        let (mut producer, mut consumer) = ring(4);
        for _ in 0..3 {
            producer.push(Counted::clone(&token)).unwrap();
            drop(consumer.pop());
        }
        for _ in 0..4 {
            producer.push(Counted::clone(&token)).unwrap();
        }
        assert!(producer.push(Counted::clone(&token)).is_err());
        assert!(!producer.is_abandoned());
        drop(consumer);
        assert!(producer.is_abandoned());
        assert_eq!(Counted::strong_count(&token), 5);
        drop(producer);
        assert_eq!(Counted::strong_count(&token), 1);
    }

    #[test]
    fn no_more_are_popped_than_a_burst_takes() {
        let mut pool =
            Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig { frames: 64, frame_bytes: 320 })
                .unwrap();
        let (mut producer, mut consumer) = ring::<Packet>(64);
        let mut burst = Burst::new();
        pool.take_bulk(&mut burst, 40);
        assert_eq!(producer.push_packets(&mut burst), 40);
        let mut limited = Burst::with_limit(32);
        assert_eq!((consumer.pop_packets(&mut limited), consumer.pop_packets(&mut limited)), (32, 0));
        assert!(limited.is_full() && consumer.len() == 8);
        pool.put_all(&mut limited);
    }

    /// Packets with running numbers travel through a small ring between two threads in bursts of changing size; every
    /// number arrives once, in order, and every frame comes back.
    #[test]
    fn two_threads_keep_order_and_lose_nothing() {
        const PACKETS: u64 = 400_000;
        let mut pool =
            Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig { frames: 512, frame_bytes: 320 })
                .unwrap();
        let (mut producer, mut consumer) = ring::<Packet>(128);
        let (mut back, mut returned) = ring::<Packet>(512);
        let reader = std::thread::spawn(move || {
            let mut burst = Burst::new();
            let mut expected = 0u64;
            while expected < PACKETS {
                if consumer.pop_packets(&mut burst) == 0 {
                    std::thread::yield_now();
                }
                for packet in &burst {
                    assert_eq!(packet.bytes(), expected.to_ne_bytes());
                    expected += 1;
                }
                while !burst.is_empty() {
                    back.push_packets(&mut burst);
                }
            }
        });
        let mut burst = Burst::new();
        let mut number = 0u64;
        while number < PACKETS || !burst.is_empty() {
            let start = burst.len();
            let wanted = (number % 63 + 1).min(PACKETS - number) as usize;
            pool.take_bulk(&mut burst, wanted);
            for packet in &mut burst.as_mut_slice()[start..] {
                packet.set_contents(&number.to_ne_bytes()).unwrap();
                number += 1;
            }
            if producer.push_packets(&mut burst) == 0 {
                std::thread::yield_now();
            }
            let mut done = Burst::new();
            returned.pop_packets(&mut done);
            pool.put_all(&mut done);
        }
        reader.join().unwrap();
        drop(returned);
        assert_eq!(pool.available(), 512);
    }

    proptest! {
        #[test]
        fn a_ring_follows_a_queue(
            capacity in 1usize..20,
            steps in proptest::collection::vec((0u8..6, 0usize..12), 0..200),
        ) {
            let (mut producer, mut consumer) = ring::<u32>(capacity);
            let capacity = producer.capacity();
            let mut model = VecDeque::new();
            let mut next = 0u32;
            for (step, count) in steps {
                let fits = count.min(capacity - model.len());
                let there = count.min(model.len());
                let numbers: Vec<u32> = (next..next + count as u32).collect();
                match step {
                    0 => {
                        prop_assert_eq!(producer.push(next).is_ok(), model.len() < capacity);
                        if model.len() < capacity { model.push_back(next); next += 1; }
                    }
                    1 => prop_assert_eq!(consumer.pop(), model.pop_front()),
                    2 => {
                        let mut elements: ArrayVec<u32, 12> = numbers.iter().copied().collect();
                        prop_assert_eq!(producer.push_from(&mut elements), fits);
                        prop_assert_eq!(&elements[..], &numbers[fits..]);
                        model.extend(&numbers[..fits]);
                        next += fits as u32;
                    }
                    3 => {
                        prop_assert_eq!(producer.push_copies(&numbers), fits);
                        model.extend(&numbers[..fits]);
                        next += fits as u32;
                    }
                    4 => {
                        let mut elements = ArrayVec::<u32, 12>::new();
                        (count..12).for_each(|_| elements.push(7));
                        prop_assert_eq!(consumer.pop_into(&mut elements), there);
                        prop_assert_eq!(&elements[12 - count..], &model.drain(..there).collect::<Vec<_>>()[..]);
                    }
                    _ => {
                        let mut elements = vec![0; count];
                        prop_assert_eq!(consumer.pop_copies(&mut elements), there);
                        prop_assert_eq!(&elements[..there], &model.drain(..there).collect::<Vec<_>>()[..]);
                    }
                }
                prop_assert_eq!(producer.len(), model.len());
                prop_assert_eq!(consumer.len(), model.len());
                prop_assert_eq!(consumer.is_empty(), model.is_empty());
            }
        }
    }
}
