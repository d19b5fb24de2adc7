//! The account of which of a pool's frames the kernel has through one socket.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use super::ring::ProducerRing;
use super::socket::XskSocket;
use super::umem::Umem;
use crate::limits::METADATA_BYTES;
use crate::memory::{Pool, give_back};
use crate::packet::Packet;

/// Not with the kernel through this socket.
const AWAY: u16 = 0;
/// In the fill ring, being filled, or in the RX ring.
const FILLING: u16 = u16::MAX;

/// Which frames the kernel has through one socket. Any other state than the two above is the length of a
/// packet that is being sent, from 1 to the size of a frame.
///
/// It is what makes a wrong descriptor harmless: a frame comes back from the kernel once, and only in the way
/// that it went there.
#[derive(Debug)]
pub(super) struct Frames {
    base: NonNull<u8>,
    shift: u32,
    states: Box<[u16]>,
    filling: u32,
    sending: u32,
}

// SAFETY: the account owns the frames that are in it, as a list of addresses; they are tied to no thread.
unsafe impl Send for Frames {}

/// What an RX descriptor turned out to be.
#[derive(Debug, PartialEq, Eq)]
enum Received {
    /// A packet: its frame, where it starts in the frame, and its length.
    Packet(NonNull<u8>, usize, usize),
    /// A frame came back, but what is said about the packet in it can't be.
    Broken(NonNull<u8>),
    /// It names no frame that the kernel had to fill.
    Unknown,
}

/// An RX descriptor that gave no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BrokenDescriptor;

impl Frames {
    /// An account for one socket, with no frame in it.
    pub(super) fn new(umem: &Umem) -> Self {
        Self {
            base: umem.base(),
            shift: umem.frame_bytes().trailing_zeros(),
            states: vec![AWAY; umem.frame_count()].into(),
            filling: 0,
            sending: 0,
        }
    }

    /// Whether this is the account of `pool`'s memory.
    #[inline]
    pub(super) fn is_of(&self, pool: &Pool) -> bool {
        pool.region().0 == self.base
    }

    /// Takes up to `count` free frames from the pool and puts their addresses in the fill ring. Returns how
    /// many.
    #[inline]
    pub(super) fn fill(&mut self, pool: &mut Pool, ring: &mut ProducerRing<u64>, count: u32) -> u32 {
        let mut filled = 0;
        for _ in 0..ring.room(count) {
            let Some(frame) = pool.take_raw() else { break };
            let Some(address) = self.lend_to_fill(frame) else {
                // SAFETY: the frame was taken just now, and went nowhere.
                unsafe { pool.put_raw(frame) };
                break;
            };
            ring.push(address);
            filled += 1;
        }
        filled
    }

    /// Makes a packet of what an RX descriptor says. A frame that came with a broken one goes back to the
    /// pool.
    #[inline]
    pub(super) fn take_received(
        &mut self,
        pool: &mut Pool,
        descriptor: libc::xdp_desc,
    ) -> Result<Packet, BrokenDescriptor> {
        if !self.is_of(pool) {
            return Err(BrokenDescriptor);
        }
        match self.receive(descriptor) {
            Received::Packet(frame, offset, length) => {
                // SAFETY: `fill` took the frame from this pool (its memory was compared above); the kernel
                // gave it back, and the account has forgotten it.
                unsafe { pool.packet_from_raw(frame, offset, length) }.ok_or(BrokenDescriptor)
            }
            Received::Broken(frame) => {
                // SAFETY: as above.
                unsafe { pool.put_raw(frame) };
                Err(BrokenDescriptor)
            }
            Received::Unknown => Err(BrokenDescriptor),
        }
    }

    /// Takes over a packet and returns what the TX ring needs. The packet comes back if its frame is not of
    /// this memory or if it has no bytes.
    #[inline]
    pub(super) fn send(&mut self, packet: Packet) -> Result<libc::xdp_desc, Packet> {
        let offset = METADATA_BYTES + packet.headroom();
        let length = packet.len();
        match self.lend_to_send(packet.base_address(), offset, length) {
            Some(addr) => {
                packet.into_raw();
                Ok(libc::xdp_desc { addr, len: length as u32, options: 0 })
            }
            None => Err(packet),
        }
    }

    /// Gives the frame that an entry of the completion ring names back to the pool. Returns the length of
    /// what was sent from it; `None` if there was nothing to be sent from there.
    #[inline]
    pub(super) fn finish(&mut self, pool: &mut Pool, address: u64) -> Option<u16> {
        let (frame, length) = self.complete(address)?;
        // SAFETY: it was a packet until `send`; the kernel is done with it, the account has forgotten it.
        unsafe { pool.put_raw(frame) };
        Some(length)
    }

    /// Closes the socket of this account and gives all frames back: to `pool`, or by the slow way to whatever
    /// pool they are of. Returns how many packets were still to be sent.
    ///
    /// # Errors
    /// The device did not let go of the frames; they stay out of use for good.
    pub(super) fn close(
        mut self,
        socket: XskSocket,
        umem: &Umem,
        mut pool: Option<&mut Pool>,
    ) -> io::Result<u64> {
        socket.close(umem)?;
        let mut unsent = 0;
        for (frame, sending) in self.take_all() {
            unsent += u64::from(sending);
            match &mut pool {
                // SAFETY: it came from `take_raw` or `into_raw`; `close` says that nobody uses it any more,
                // and the account has forgotten it.
                Some(pool) => unsafe { pool.put_raw(frame) },
                // SAFETY: as above.
                None => unsafe { give_back(frame) },
            }
        }
        Ok(unsent)
    }

    fn frame_bytes(&self) -> u64 {
        1 << self.shift
    }

    /// The frame's number, if it is one of this memory.
    #[inline]
    fn index_of(&self, frame: NonNull<u8>) -> Option<usize> {
        let distance = (frame.as_ptr() as usize).wrapping_sub(self.base.as_ptr() as usize);
        Some(distance >> self.shift).filter(|&index| index < self.states.len())
    }

    #[inline]
    fn frame(&self, index: usize) -> NonNull<u8> {
        debug_assert!(index < self.states.len());
        // SAFETY: callers found `index` in `states`, which has one entry for each frame of the memory.
        unsafe { self.base.add(index << self.shift) }
    }

    /// Frames that the kernel has to fill, or has filled.
    #[inline]
    pub(super) const fn filling(&self) -> u32 {
        self.filling
    }

    /// Packets that the kernel has to send, or has sent without saying so.
    #[inline]
    pub(super) const fn sending(&self) -> u32 {
        self.sending
    }

    /// Takes over a free frame to be filled. Returns its address for the fill ring; `None` if it is not of
    /// this memory or here already.
    #[inline]
    fn lend_to_fill(&mut self, frame: NonNull<u8>) -> Option<u64> {
        let index = self.index_of(frame)?;
        let state = self.states.get_mut(index).filter(|state| **state == AWAY)?;
        *state = FILLING;
        self.filling += 1;
        Some((index as u64) << self.shift)
    }

    /// Takes over a packet to be sent. Returns the address of its first byte for the TX ring; `None` if the
    /// frame is not of this memory, here already, or does not hold that packet.
    #[inline]
    fn lend_to_send(&mut self, frame: NonNull<u8>, offset: usize, length: usize) -> Option<u64> {
        let fits = length > 0 && (offset + length) as u64 <= self.frame_bytes();
        let index = self.index_of(frame).filter(|_| fits)?;
        let state = self.states.get_mut(index).filter(|state| **state == AWAY)?;
        // At most the size of a frame, 4,096.
        *state = length as u16;
        self.sending += 1;
        Some(((index as u64) << self.shift) + offset as u64)
    }

    /// Takes a frame back by an RX descriptor.
    #[inline]
    fn receive(&mut self, descriptor: libc::xdp_desc) -> Received {
        let Ok(index) = usize::try_from(descriptor.addr >> self.shift) else { return Received::Unknown };
        match self.states.get_mut(index) {
            Some(state) if *state == FILLING => *state = AWAY,
            _ => return Received::Unknown,
        }
        self.filling -= 1;
        let frame = self.frame(index);
        let offset = descriptor.addr & (self.frame_bytes() - 1);
        let length = u64::from(descriptor.len);
        if descriptor.options & libc::XDP_PKT_CONTD != 0 || offset + length > self.frame_bytes() {
            return Received::Broken(frame);
        }
        Received::Packet(frame, offset as usize, length as usize)
    }

    /// Takes a frame back by an address of the completion ring, with the length of what was sent.
    #[inline]
    fn complete(&mut self, address: u64) -> Option<(NonNull<u8>, u16)> {
        let index = usize::try_from(address >> self.shift).ok()?;
        let state = self.states.get_mut(index).filter(|state| !matches!(**state, AWAY | FILLING))?;
        let length = std::mem::replace(state, AWAY);
        self.sending -= 1;
        Some((self.frame(index), length))
    }

    /// Takes all frames back, once the kernel can't touch them any more. Returns each with whether a packet
    /// was to be sent from it.
    fn take_all(&mut self) -> impl Iterator<Item = (NonNull<u8>, bool)> + '_ {
        self.filling = 0;
        self.sending = 0;
        let (base, shift) = (self.base, self.shift);
        self.states.iter_mut().enumerate().filter(|(_, state)| **state != AWAY).map(move |(index, state)| {
            let sending = std::mem::replace(state, AWAY) != FILLING;
            // SAFETY: `states` has one entry for each frame of the memory.
            (unsafe { base.add(index << shift) }, sending)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, PoolConfig};
    use proptest::prelude::*;

    fn pool(frames: usize, frame_bytes: usize) -> Pool {
        Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig { frames, frame_bytes }).unwrap()
    }

    #[test]
    fn only_pools_that_the_kernel_takes_are_accepted() {
        assert!(Umem::new(&pool(16, 2_048)).is_ok());
        assert!(Umem::new(&pool(16, 4_096)).is_ok());
        let error = Umem::new(&pool(16, 2_368)).unwrap_err();
        assert!(error.to_string().contains("2,048 or 4,096"), "{error}");
    }

    #[test]
    fn a_frame_comes_back_once_and_only_as_it_went() {
        let mut pool = pool(4, 2_048);
        let mut frames = Frames::new(&Umem::new(&pool).unwrap());
        let (a, b) = (pool.take_raw().unwrap(), pool.take_raw().unwrap());
        let descriptor = |addr, len, options| libc::xdp_desc { addr, len, options };
        let at = frames.lend_to_fill(a).unwrap();
        assert_eq!(frames.lend_to_fill(a), None);
        assert_eq!(frames.lend_to_send(a, 256, 60), None);
        assert_eq!(frames.complete(at), None);
        assert_eq!(frames.receive(descriptor(at + 256, 60, 0)), Received::Packet(a, 256, 60));
        assert_eq!(frames.receive(descriptor(at + 256, 60, 0)), Received::Unknown);
        assert_eq!(frames.receive(descriptor(u64::MAX, u32::MAX, 0)), Received::Unknown);
        assert_eq!(frames.lend_to_fill(a), Some(at));
        assert_eq!(frames.receive(descriptor(at + 256, 1_793, 0)), Received::Broken(a));
        assert_eq!(frames.lend_to_fill(a), Some(at));
        assert_eq!(frames.receive(descriptor(at + 256, 60, libc::XDP_PKT_CONTD)), Received::Broken(a));

        assert_eq!(frames.lend_to_send(b, 2_000, 49), None);
        assert_eq!(frames.lend_to_send(b, 2_000, 0), None);
        let at = frames.lend_to_send(b, 2_000, 48).unwrap();
        assert_eq!((frames.filling(), frames.sending()), (0, 1));
        assert_eq!(frames.receive(descriptor(at, 48, 0)), Received::Unknown);
        assert_eq!(frames.complete(at), Some((b, 48)));
        assert_eq!(frames.complete(at), None);
        for frame in [a, b] {
            // SAFETY: both came from `take_raw` and are in nobody's hands.
            unsafe { pool.put_raw(frame) };
        }
        assert_eq!(pool.available(), 4);
    }

    proptest! {
        /// Whatever the kernel's side says, frames neither vanish nor double.
        #[test]
        fn no_descriptor_makes_or_loses_a_frame(steps in proptest::collection::vec((0u8..5, 0u64..12_000, 0u32..3_000), 0..200)) {
            let mut pool = pool(5, 2_048);
            let mut frames = Frames::new(&Umem::new(&pool).unwrap());
            let mut back = Vec::new();
            for (step, addr, len) in steps {
                match step {
                    0 => if let Some(frame) = pool.take_raw() { frames.lend_to_fill(frame).unwrap(); },
                    1 => if let Some(frame) = pool.take_raw() { frames.lend_to_send(frame, 256, 60).unwrap(); },
                    2 => match frames.receive(libc::xdp_desc { addr, len, options: 0 }) {
                        Received::Packet(frame, offset, length) => {
                            prop_assert!(offset + length <= 2_048);
                            back.push(frame);
                        }
                        Received::Broken(frame) => back.push(frame),
                        Received::Unknown => {}
                    },
                    3 => back.extend(frames.complete(addr).map(|(frame, _)| frame)),
                    _ => back.extend(frames.take_all().map(|(frame, _)| frame)),
                }
                let held = (frames.filling() + frames.sending()) as usize;
                prop_assert_eq!(pool.available() + held + back.len(), 5);
                for frame in back.drain(..) {
                    // SAFETY: the account gave it back, and gives no frame back twice: what is tested here.
                    unsafe { pool.put_raw(frame) };
                }
            }
            for (frame, _) in frames.take_all() {
                // SAFETY: as above.
                unsafe { pool.put_raw(frame) };
            }
            prop_assert_eq!(pool.available(), 5);
        }
    }
}
