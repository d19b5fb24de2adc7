//! Bursts: up to 64 packets that move together.
#![allow(unsafe_code)]

use std::fmt;
use std::mem::MaybeUninit;
use std::ptr;

use super::buffer::Packet;
use crate::limits::BURST_PACKETS_MAX;

/// Up to [`BURST_PACKETS_MAX`] packets in order. Moving packets between bursts, pools and rings copies handles.
///
/// Invariant: the first `length` elements are initialised, the others are not.
pub struct Burst {
    packets: [MaybeUninit<Packet>; BURST_PACKETS_MAX],
    length: usize,
    /// From here on the burst says that it is full; at most [`BURST_PACKETS_MAX`].
    limit: usize,
}

impl Burst {
    /// An empty burst.
    #[inline]
    pub const fn new() -> Self {
        Self::with_limit(BURST_PACKETS_MAX)
    }

    /// An empty burst that is full with `limit` packets: ports put no more into it.
    pub const fn with_limit(limit: usize) -> Self {
        let limit = if limit < BURST_PACKETS_MAX { limit } else { BURST_PACKETS_MAX };
        Self { packets: [const { MaybeUninit::uninit() }; BURST_PACKETS_MAX], length: 0, limit }
    }

    /// Number of packets.
    #[inline]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// True without packets.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// True when no packet fits.
    #[inline]
    pub const fn is_full(&self) -> bool {
        self.length >= self.limit
    }

    /// How many packets still fit.
    #[inline]
    pub const fn room(&self) -> usize {
        self.limit.saturating_sub(self.length)
    }

    /// Appends a packet.
    ///
    /// # Errors
    /// The packet comes back if the burst is full.
    #[inline]
    pub fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        let Some(slot) = self.packets.get_mut(self.length) else { return Err(packet) };
        slot.write(packet);
        self.length += 1;
        Ok(())
    }

    /// Takes the last packet.
    #[inline]
    pub fn pop(&mut self) -> Option<Packet> {
        self.length = self.length.checked_sub(1)?;
        // SAFETY: the element was below `length`, thus initialised; it is no longer, so that it is read once.
        Some(unsafe { self.packets[self.length].assume_init_read() })
    }

    /// The packets.
    #[inline]
    pub fn as_slice(&self) -> &[Packet] {
        // SAFETY: the first `length` elements are initialised, and `MaybeUninit<Packet>` has the layout of `Packet`.
        unsafe { std::slice::from_raw_parts(self.packets.as_ptr().cast(), self.length) }
    }

    /// The packets, to change or to reorder.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Packet] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.packets.as_mut_ptr().cast(), self.length) }
    }

    /// The packets in order.
    #[inline]
    pub fn iter(&self) -> std::slice::Iter<'_, Packet> {
        self.as_slice().iter()
    }

    /// The packets in order, to change.
    #[inline]
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Packet> {
        self.as_mut_slice().iter_mut()
    }

    /// Takes the first `count` packets out, or all if there are fewer. What the iterator does not yield is dropped
    /// with it.
    #[inline]
    pub fn drain(&mut self, count: usize) -> Drain<'_> {
        let end = count.min(self.length);
        let length = self.length;
        // If the iterator is leaked, so are the packets; nothing is read twice.
        self.length = 0;
        Drain { burst: self, next: 0, end, length }
    }

    /// Takes all packets out, in order.
    #[inline]
    pub fn drain_all(&mut self) -> Drain<'_> {
        self.drain(BURST_PACKETS_MAX)
    }

    /// The first `count` packets (or all if there are fewer) as a burst of their own.
    pub fn take(&mut self, count: usize) -> Self {
        let mut taken = Self::new();
        self.move_to(&mut taken, count);
        taken
    }

    /// Moves packets from the front of `other` to the end of this burst, as many as fit.
    #[inline]
    pub fn append(&mut self, other: &mut Self) {
        other.move_to(self, BURST_PACKETS_MAX);
    }

    /// Moves up to `count` packets from the front to the end of `target`, as many as fit there.
    #[inline]
    fn move_to(&mut self, target: &mut Self, count: usize) {
        let count = count.min(self.length).min(target.room());
        // SAFETY: `count` elements are initialised here and free there; the two bursts are distinct. They stop to
        // be ours by `forget_front`, and are the target's by its new length.
        unsafe {
            let from = self.packets.as_ptr();
            ptr::copy_nonoverlapping(from, target.packets.as_mut_ptr().add(target.length), count);
            self.forget_front(count);
        }
        target.length += count;
    }

    /// Closes the gap of the first `count` packets, which were moved out.
    ///
    /// # Safety
    /// `count <= len()`, and the caller owns those packets now.
    #[inline]
    pub(crate) unsafe fn forget_front(&mut self, count: usize) {
        let rest = self.length - count;
        if rest > 0 && count > 0 {
            let first = self.packets.as_mut_ptr();
            // SAFETY: `count + rest` is the old length, which is within the array.
            unsafe { ptr::copy(first.add(count), first, rest) };
        }
        self.length = rest;
    }

    /// The free slots behind the packets.
    #[inline]
    pub(crate) fn spare(&mut self) -> &mut [MaybeUninit<Packet>] {
        let end = self.length + self.room();
        &mut self.packets[self.length..end]
    }

    /// Makes the first `count` spare slots part of the burst.
    ///
    /// # Safety
    /// They must have been initialised, and `count <= room()`.
    #[inline]
    pub(crate) unsafe fn extend_by(&mut self, count: usize) {
        debug_assert!(count <= self.room());
        self.length += count;
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        drop(self.drain_all());
    }
}

impl fmt::Debug for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &'a Burst {
    type Item = &'a Packet;
    type IntoIter = std::slice::Iter<'a, Packet>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Burst {
    type Item = &'a mut Packet;
    type IntoIter = std::slice::IterMut<'a, Packet>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

/// Packets on their way out of a burst, by [`Burst::drain`].
///
/// Invariant: the elements from `next` to `length` are initialised, while the burst's own length is 0.
#[derive(Debug)]
pub struct Drain<'a> {
    burst: &'a mut Burst,
    next: usize,
    end: usize,
    length: usize,
}

impl Drain<'_> {
    /// The packets that are still to come.
    #[inline]
    pub fn rest(&self) -> &[Packet] {
        let rest = &self.burst.packets[self.next..self.end];
        // SAFETY: the elements from `next` to `end` are initialised, and `MaybeUninit` has the layout of what is in it.
        unsafe { std::slice::from_raw_parts(rest.as_ptr().cast(), rest.len()) }
    }

    /// The next packet, to change where it lies.
    #[inline(always)]
    pub fn first_mut(&mut self) -> Option<&mut Packet> {
        if self.next == self.end {
            return None;
        }
        // SAFETY: `next < end <= length`: initialised.
        Some(unsafe { self.burst.packets[self.next].assume_init_mut() })
    }

    /// Moves the next packet to the end of `target`; false if there is none, or no room for it.
    #[inline(always)]
    pub fn move_first(&mut self, target: &mut Burst) -> bool {
        if self.next == self.end || target.length >= BURST_PACKETS_MAX {
            return false;
        }
        // SAFETY: `next < end <= length`: initialised, and never read again since `next` moves on. The target's element is
        // free, and its own by the new length. The two bursts are distinct.
        unsafe {
            let from = self.burst.packets.as_ptr().add(self.next);
            ptr::copy_nonoverlapping(from, target.packets.as_mut_ptr().add(target.length), 1);
        }
        self.next += 1;
        target.length += 1;
        true
    }
}

impl Iterator for Drain<'_> {
    type Item = Packet;

    #[inline]
    fn next(&mut self) -> Option<Packet> {
        if self.next == self.end {
            return None;
        }
        // SAFETY: `next < end <= length`: initialised, and never read again since `next` moves on.
        let packet = unsafe { self.burst.packets[self.next].assume_init_read() };
        self.next += 1;
        Some(packet)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Drain<'_> {}

impl Drop for Drain<'_> {
    #[inline]
    fn drop(&mut self) {
        for packet in self.by_ref() {
            drop(packet);
        }
        self.burst.length = self.length;
        // SAFETY: the first `end` packets were yielded or dropped above; the rest is initialised.
        unsafe { self.burst.forget_front(self.end) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, Pool, PoolConfig};
    use crate::port::PortId;
    use proptest::prelude::*;

    fn pool(frames: usize) -> Pool {
        Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig { frames, frame_bytes: 576 }).unwrap()
    }

    fn ports(burst: &Burst) -> Vec<u16> {
        burst.iter().map(|packet| packet.port().0).collect()
    }

    #[test]
    fn a_limit_is_what_ports_see() {
        let mut burst = Burst::with_limit(3);
        assert_eq!((burst.room(), burst.is_full()), (3, false));
        let mut pool = Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig::new(8)).unwrap();
        assert_eq!(pool.take_bulk(&mut burst, 8), 3);
        assert!(burst.is_full());
        pool.put_all(&mut burst);
        assert_eq!(Burst::with_limit(1000).room(), BURST_PACKETS_MAX);
    }

    #[test]
    fn packets_move_from_a_drain_while_there_is_room() {
        let mut pool = pool(67);
        let (mut from, mut to) = (Burst::new(), Burst::new());
        assert_eq!(pool.take_bulk(&mut from, 3), 3);
        assert_eq!(pool.take_bulk(&mut to, 62), 62);
        for (at, packet) in from.iter_mut().enumerate() {
            packet.set_port(PortId(at as u16 + 1));
        }
        let mut drain = from.drain_all();
        drain.first_mut().unwrap().set_port(PortId(9));
        assert!(drain.move_first(&mut to) && drain.move_first(&mut to));
        assert!(!drain.move_first(&mut to), "it is full");
        assert_eq!(drain.first_mut().unwrap().port(), PortId(3));
        pool.put(drain.next().unwrap());
        assert!(drain.first_mut().is_none() && !drain.move_first(&mut Burst::new()));
        drop(drain);
        assert_eq!(ports(&to)[62..], [9, 2]);
        assert!(from.is_empty());
        pool.put_all(&mut to);
        assert_eq!(pool.take_bulk(&mut to, 67), 64, "all came back");
        pool.put_all(&mut to);
    }

    #[test]
    fn a_full_burst_gives_the_packet_back() {
        let mut pool = pool(65);
        let mut burst = Burst::new();
        assert_eq!(pool.take_bulk(&mut burst, usize::MAX), 64);
        assert!(burst.is_full());
        let mut packet = pool.take().unwrap();
        packet.set_port(PortId(9));
        assert_eq!(burst.push(packet).unwrap_err().port(), PortId(9));
        drop(burst);
        assert_eq!(pool.available(), 65);
    }

    proptest! {
        #[test]
        fn bursts_follow_a_model(steps in proptest::collection::vec((0u8..7, 0usize..70), 0..80)) {
            let mut pool = pool(128);
            let (mut a, mut b) = (Burst::new(), Burst::new());
            let (mut model_a, mut model_b) = (Vec::<u16>::new(), Vec::<u16>::new());
            let mut number = 0;
            for (step, count) in steps {
                match step {
                    0 | 1 => for _ in 0..count.min(a.room()) {
                        let mut packet = pool.take().unwrap();
                        number += 1;
                        packet.set_port(PortId(number));
                        a.push(packet).unwrap();
                        model_a.push(number);
                    },
                    2 => {
                        let drained: Vec<u16> = a.drain(count).map(|packet| packet.port().0).collect();
                        let end = count.min(model_a.len());
                        prop_assert_eq!(drained, model_a.drain(..end).collect::<Vec<_>>());
                    }
                    3 => {
                        let mut drain = a.drain(count);
                        prop_assert_eq!(drain.next().map(|p| p.port().0), model_a.first().copied().filter(|_| count > 0));
                        drop(drain);
                        model_a.drain(..count.min(model_a.len()));
                    }
                    4 => {
                        b.append(&mut a);
                        let end = model_a.len().min(64 - model_b.len());
                        model_b.extend(model_a.drain(..end));
                    }
                    5 => {
                        let taken = b.take(count);
                        let end = count.min(model_b.len());
                        prop_assert_eq!(ports(&taken), model_b.drain(..end).collect::<Vec<_>>());
                    }
                    _ => prop_assert_eq!(a.pop().map(|packet| packet.port().0), model_a.pop()),
                }
                prop_assert_eq!(ports(&a), model_a.clone());
                prop_assert_eq!(ports(&b), model_b.clone());
                prop_assert_eq!(pool.available() + a.len() + b.len(), 128);
            }
        }
    }
}
