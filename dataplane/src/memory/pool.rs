//! Pools of packet frames: a worker's own free list, and a ring for frames that come back by other ways.
#![allow(unsafe_code)]

mod large;

use std::ptr::NonNull;
use std::sync::Arc;

use super::arena::{Arena, ArenaError};
use super::region::Region;
use super::return_ring::{ReturnRing, Taken};
use crate::capture::Recorder;
use crate::drops::DropReason;
use crate::limits::{BURST_PACKETS_MAX, DATA_OFFSET, METADATA_BYTES};
use crate::packet::{Burst, Gso, Packet};
use crate::time::Time;

/// Bytes of a frame for an MTU of 1,500: 37 cache lines, an odd number, so that the first lines of successive
/// frames spread over all sets of the L1 cache. It leaves 2,112 bytes for the packet.
pub const FRAME_BYTES_DEFAULT: usize = 2_368;
/// The smallest frame: a packet of 64 bytes behind the headroom.
const FRAME_BYTES_MIN: usize = DATA_OFFSET + 64;
/// The largest frame: offsets in it fit 16 bits.
const FRAME_BYTES_MAX: usize = (u16::MAX as usize) & !63;
/// Returned frames that are collected at once where packets wait for it: what a burst takes.
const COLLECTED_MAX: usize = BURST_PACKETS_MAX;
/// Regions of pools start at a page, as AF_XDP asks.
const PAGE_BYTES: usize = 4 << 10;

/// Size of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Number of frames.
    pub frames: usize,
    /// Bytes of one frame with its metadata line and headroom; a multiple of 64. AF_XDP needs 2,048 or 4,096;
    /// other pools do better with an odd number of cache lines.
    pub frame_bytes: usize,
}

impl PoolConfig {
    /// `frames` frames of the default size.
    pub const fn new(frames: usize) -> Self {
        Self { frames, frame_bytes: FRAME_BYTES_DEFAULT }
    }

    /// `frames` frames for IP packets of up to `mtu` bytes, with an Ethernet header and two tags before them.
    pub const fn for_mtu(frames: usize, mtu: u16) -> Self {
        let lines = (DATA_OFFSET + mtu as usize + 14 + 8).div_ceil(64) | 1;
        let bytes = lines * 64;
        Self { frames, frame_bytes: if bytes < FRAME_BYTES_DEFAULT { FRAME_BYTES_DEFAULT } else { bytes } }
    }

    /// Bytes for the packet in a frame.
    pub const fn data_bytes(&self) -> usize {
        self.frame_bytes.saturating_sub(DATA_OFFSET)
    }
}

/// Why a pool can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The frame size is not allowed.
    #[error(
        "frames of {0} bytes: the size must be a multiple of 64 from {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX}"
    )]
    FrameBytes(usize),
    /// There are no frames, or more than memory can hold.
    #[error("a pool of {0} frames: the number must be from 1 to what the arena holds")]
    Frames(usize),
    /// The arena has no room.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}

/// The first line of each frame. Written when the pool is made; afterwards by the frame's owner.
#[repr(C, align(64))]
pub(crate) struct Metadata {
    /// The pool that the frame belongs to, from `Arc::as_ptr`. Never changes.
    owner: *const Shared,
    /// When the packet arrived, if its port says so.
    pub(crate) timestamp: Time,
    /// How it is to be cut, if it stands for several packets. Nothing but zero in frames that are not large.
    pub(crate) gso: Gso,
}

const _: () = assert!(size_of::<Metadata>() == METADATA_BYTES);

/// A frame that is free.
#[derive(Clone, Copy, Debug)]
struct Frame(NonNull<u8>);

// SAFETY: a frame on a free list is owned by that list; it is an address, tied to no thread.
unsafe impl Send for Frame {}

/// What the pool shares with its frames, wherever they are.
#[derive(Debug)]
struct Shared {
    /// Frames that came back other than by the pool's owner.
    returned: ReturnRing,
    /// The frames' memory.
    region: Region,
}

/// Gives a frame back to its pool, from any thread.
///
/// # Safety
/// `base` must be the start of a frame whose only owner calls this and does not use it afterwards.
#[cold]
pub(crate) unsafe fn give_back(base: NonNull<u8>) {
    let metadata = base.cast::<Metadata>();
    // SAFETY: the frame has valid metadata since its pool was made, and is ours alone until it is in the ring. Its owner lives
    // until then: a pool waits at its end for who is just filling a slot, and leaks `Shared` if frames are outstanding (see
    // `Pool::drop`). When the slot is filled neither is touched any more.
    unsafe { (*metadata.as_ref().owner).returned.give(base) };
}

/// A worker's pool of frames. The free list is last in, first out, so that frames are warm.
///
/// A frame is on the free list, in the return ring, or owned by one [`Packet`] (or by a device, through the raw
/// functions): it can't be freed twice or leaked. [`Self::take`] and [`Self::put`] touch the worker's own list
/// only; when that is too short, some are collected from the return ring, and others by [`Self::collect`] as time passes.
#[derive(Debug)]
pub struct Pool {
    /// Free frames. Its capacity is the number of frames, so that a push never allocates.
    free: Vec<Frame>,
    /// What was taken of the return ring.
    collected: Taken,
    frames: usize,
    frame_bytes: u16,
    /// Address of the first frame, and bytes of all.
    start: usize,
    bytes: usize,
    /// The least number that is at least 2^64 / `frame_bytes`: multiplying by it divides (see `frame_of`).
    reciprocal: u64,
    shared: Arc<Shared>,
    /// Who copies packets of this pool's worker: all that are dropped come back here.
    recorder: Option<Box<Recorder>>,
    /// Packets may be whole frames of several.
    meets_large: bool,
    /// Frames of this worker's own for these.
    large: Option<Box<Pool>>,
}

impl Pool {
    /// Carves a pool from the arena.
    ///
    /// # Errors
    /// A size is not allowed, or the arena has no room.
    pub fn new(arena: &Arena, config: PoolConfig) -> Result<Self, PoolError> {
        let PoolConfig { frames, frame_bytes } = config;
        if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame_bytes) || !frame_bytes.is_multiple_of(64) {
            return Err(PoolError::FrameBytes(frame_bytes));
        }
        let bytes = frames.checked_mul(frame_bytes).filter(|&bytes| bytes > 0);
        let bytes = bytes.ok_or(PoolError::Frames(frames))?;
        let region = arena.carve(bytes, PAGE_BYTES)?;
        let base = region.base();
        let shared = Arc::new(Shared { returned: ReturnRing::new(frames), region });
        let owner = Arc::as_ptr(&shared);
        let mut free = Vec::with_capacity(frames);
        // The frame with the lowest address is taken first.
        for index in (0..frames).rev() {
            // SAFETY: `index < frames`, so that the frame lies in the region, which is ours alone and aligned to a
            // page; frames are multiples of 64 bytes, the alignment of `Metadata`.
            unsafe {
                let frame = base.add(index * frame_bytes);
                frame.cast::<Metadata>().write(Metadata { owner, timestamp: Time(0), gso: Gso::default() });
                free.push(Frame(frame));
            }
        }
        Ok(Self {
            free,
            collected: Taken::default(),
            frames,
            frame_bytes: frame_bytes as u16,
            start: base.as_ptr() as usize,
            bytes,
            reciprocal: u64::MAX / frame_bytes as u64 + 1,
            shared,
            recorder: None,
            meets_large: false,
            large: None,
        })
    }

    /// An empty packet with the full headroom, or `None` if all frames are in use.
    #[inline]
    pub fn take(&mut self) -> Option<Packet> {
        let frame = self.take_raw()?;
        // SAFETY: the frame comes from our list, so that nobody else owns it; DATA_OFFSET is below the least
        // size of a frame.
        Some(unsafe { Packet::from_raw(frame, DATA_OFFSET as u16, 0, self.frame_bytes) })
    }

    /// Appends up to `count` empty packets to `burst`, as many as fit and are there. Returns how many.
    #[inline]
    pub fn take_bulk(&mut self, burst: &mut Burst, count: usize) -> usize {
        let wanted = count.min(burst.room());
        if self.free.len() < wanted {
            self.collect(COLLECTED_MAX);
        }
        let rest = self.free.len() - wanted.min(self.free.len());
        let mut taken = 0;
        for (slot, frame) in burst.spare().iter_mut().take(wanted).zip(self.free.drain(rest..)) {
            // SAFETY: as in `take`.
            slot.write(unsafe { Packet::from_raw(frame.0, DATA_OFFSET as u16, 0, self.frame_bytes) });
            taken += 1;
        }
        // SAFETY: the loop wrote the first `taken` spare slots, at most `room()`.
        unsafe { burst.extend_by(taken) };
        taken
    }

    /// Gives a packet's frame back. A frame of another pool goes to that pool's return ring.
    #[inline]
    pub fn put(&mut self, packet: Packet) {
        if self.owns(packet.base_address()) {
            let (frame, _, _) = packet.into_raw();
            self.push(frame);
        } else {
            self.put_elsewhere(packet);
        }
    }

    /// Gives the frames of all packets back.
    #[inline]
    pub fn put_all(&mut self, burst: &mut Burst) {
        for packet in burst.drain_all() {
            self.put(packet);
        }
    }

    /// Gives back a packet that is dropped.
    #[cold]
    pub fn discard(&mut self, packet: Packet, reason: DropReason) {
        self.tell_dropped(packet.bytes(), reason);
        self.put(packet);
    }

    /// Gives back packets that are dropped.
    #[cold]
    pub fn discard_all(&mut self, burst: &mut Burst, reason: DropReason) {
        burst.iter().for_each(|packet| self.tell_dropped(packet.bytes(), reason));
        self.put_all(burst);
    }

    /// A packet of these bytes is dropped that has no frame of its own.
    pub fn tell_dropped(&mut self, bytes: &[u8], reason: DropReason) {
        if let Some(recorder) = &mut self.recorder {
            recorder.dropped(bytes, reason);
        }
    }

    /// Packets of this pool's worker are copied from now on, or no more. Who did so before comes back.
    pub fn record(&mut self, recorder: Option<Box<Recorder>>) -> Option<Box<Recorder>> {
        std::mem::replace(&mut self.recorder, recorder)
    }

    /// Who copies packets, if somebody does.
    #[inline(always)]
    pub fn recorder(&mut self) -> Option<&mut Recorder> {
        self.recorder.as_deref_mut()
    }

    /// Takes a frame for a device to fill: the address of its first byte, which is the metadata line. Bring it back
    /// with [`Self::put_raw`] or [`Self::packet_from_raw`].
    #[inline]
    pub fn take_raw(&mut self) -> Option<NonNull<u8>> {
        if self.free.is_empty() {
            self.collect(COLLECTED_MAX);
        }
        self.free.pop().map(|frame| frame.0)
    }

    /// Gives back a frame by the address of its first byte. A frame of another pool goes to that pool's return ring.
    ///
    /// # Safety
    /// `frame` must come from [`Self::take_raw`] or [`Packet::into_raw`] (of any pool), be given back once, and
    /// neither caller nor device may use it afterwards.
    #[inline]
    pub unsafe fn put_raw(&mut self, frame: NonNull<u8>) {
        if self.owns(frame) {
            self.push(frame);
        } else {
            // SAFETY: by the caller's promise the frame belongs to a pool, and to nobody else.
            unsafe { give_back(frame) };
        }
    }

    /// Makes a packet of a frame that a device filled: `length` bytes from `offset` (counted from the frame's start)
    /// on. `None`, and the frame goes back, if that is not inside the frame behind its metadata line.
    ///
    /// # Safety
    /// `frame` must be a frame of this pool from [`Self::take_raw`] or [`Packet::into_raw`], and neither caller nor
    /// device may use it afterwards.
    #[inline]
    pub unsafe fn packet_from_raw(
        &mut self,
        frame: NonNull<u8>,
        offset: usize,
        length: usize,
    ) -> Option<Packet> {
        debug_assert!(self.owns(frame));
        let fits = offset.checked_add(length).is_some_and(|end| end <= usize::from(self.frame_bytes));
        if offset < METADATA_BYTES || !fits {
            self.push(frame);
            return None;
        }
        // SAFETY: the frame is the caller's alone; the bounds were checked just now.
        Some(unsafe { Packet::from_raw(frame, offset as u16, length as u16, self.frame_bytes) })
    }

    /// The first byte of the frame of this pool that holds `address`, if one does.
    #[inline]
    pub fn frame_of(&self, address: usize) -> Option<NonNull<u8>> {
        let distance = address.wrapping_sub(self.start);
        if distance >= self.bytes {
            return None;
        }
        // distance * reciprocal / 2^64 is the quotient for all distances below 2^64 / frame_bytes, since the
        // reciprocal is too large by less than 1; no region is that large (2^48 bytes).
        let index = ((distance as u128 * u128::from(self.reciprocal)) >> 64) as usize;
        // SAFETY: `distance < bytes`, so that the frame lies in the region.
        Some(unsafe { self.shared.region.base().add(index * usize::from(self.frame_bytes)) })
    }

    /// Frames that can be taken now, those in the return ring included.
    pub fn available(&self) -> usize {
        self.free.len() + self.shared.returned.len(&self.collected)
    }

    /// Frames in all.
    pub fn capacity(&self) -> usize {
        self.frames
    }

    /// Frames that are somewhere else: in packets, or with a device.
    pub fn outstanding(&self) -> usize {
        self.frames - self.available()
    }

    /// Bytes of a frame.
    pub fn frame_bytes(&self) -> usize {
        usize::from(self.frame_bytes)
    }

    /// Bytes for the packet in a frame.
    pub fn data_bytes(&self) -> usize {
        usize::from(self.frame_bytes) - DATA_OFFSET
    }

    /// The memory of all frames: address of the first byte (at a page) and length in bytes.
    pub fn region(&self) -> (NonNull<u8>, usize) {
        (self.shared.region.base(), self.bytes)
    }

    #[inline]
    fn owns(&self, frame: NonNull<u8>) -> bool {
        (frame.as_ptr() as usize).wrapping_sub(self.start) < self.bytes
    }

    #[inline]
    fn push(&mut self, frame: NonNull<u8>) {
        debug_assert_eq!(self.frame_of(frame.as_ptr() as usize), Some(frame));
        debug_assert!(self.free.len() < self.frames);
        self.free.push(Frame(frame));
    }

    /// Moves up to `most` frames from the return ring to the free list, which has room for all.
    #[cold]
    pub fn collect(&mut self, most: usize) {
        let Self { free, collected, shared, .. } = self;
        shared.returned.take(collected, most, |frame| free.push(Frame(frame)));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Until all that is reserved is filled: who fills a slot of the ring needs `Shared`.
        while self.shared.returned.len(&self.collected) > 0 {
            self.collect(self.frames);
            std::hint::spin_loop();
        }
        let outstanding = self.frames - self.free.len();
        if outstanding > 0 {
            tracing::error!(
                outstanding,
                frames = self.frames,
                "a pool ended while frames were in use; its memory stays mapped"
            );
            // Frames point to `Shared`, which holds the region, which holds the mapping: all of it must stay.
            std::mem::forget(Arc::clone(&self.shared));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn arena() -> Arena {
        Arena::anonymous(2 << 20).unwrap()
    }

    fn pool(frames: usize, frame_bytes: usize) -> Pool {
        Pool::new(&arena(), PoolConfig { frames, frame_bytes }).unwrap()
    }

    #[test]
    fn sizes_are_checked() {
        let make = |frames, frame_bytes| Pool::new(&arena(), PoolConfig { frames, frame_bytes });
        for bad in [0, 64, 256, 2_000, 65_536, usize::MAX] {
            assert!(matches!(make(1, bad), Err(PoolError::FrameBytes(_))), "{bad}");
        }
        assert!(matches!(make(0, 2_048), Err(PoolError::Frames(0))));
        assert!(matches!(make(usize::MAX / 64, 2_048), Err(PoolError::Frames(_))));
        assert!(matches!(make(5_000, 2_048), Err(PoolError::Arena(ArenaError::Full { .. }))));
        assert_eq!(make(4, 65_472).unwrap().take().unwrap().tailroom(), 65_472 - 256);
    }

    #[test]
    fn the_frame_size_follows_the_mtu() {
        assert_eq!(PoolConfig::for_mtu(1, 1_500).frame_bytes, FRAME_BYTES_DEFAULT);
        for mtu in [68, 1_500, 9_000, u16::MAX - 400] {
            let config = PoolConfig::for_mtu(1, mtu);
            assert!(config.data_bytes() >= usize::from(mtu) + 22);
            assert_eq!(config.frame_bytes / 64 % 2, 1);
        }
    }

    #[test]
    fn every_frame_is_taken_once_until_none_is_left() {
        let mut pool = pool(100, 320);
        let packets: Vec<Packet> = std::iter::from_fn(|| pool.take()).collect();
        let distinct: HashSet<_> = packets.iter().map(Packet::base_address).collect();
        assert_eq!((packets.len(), distinct.len()), (100, 100));
        assert_eq!((pool.available(), pool.outstanding()), (0, 100));
        assert_eq!(pool.take_bulk(&mut Burst::new(), 5), 0);
        for packet in packets {
            pool.put(packet);
        }
        assert_eq!(pool.available(), 100);
    }

    #[test]
    fn frames_come_back_from_other_threads_and_pools() {
        let mut pool = pool(64, 320);
        let mut other = Pool::new(&arena(), PoolConfig { frames: 8, frame_bytes: 384 }).unwrap();
        let mut burst = Burst::new();
        pool.take_bulk(&mut burst, 64);
        let moved = burst.take(40);
        std::thread::spawn(move || drop(moved)).join().unwrap();
        assert_eq!(pool.available(), 40);
        other.put_all(&mut burst);
        assert_eq!((pool.available(), other.available()), (64, 8));
        assert_eq!(pool.take_bulk(&mut burst, 64), 64);
        pool.put_all(&mut burst);
        assert_eq!(pool.available(), 64);
    }

    #[test]
    fn frames_come_back_from_several_threads_at_once() {
        let mut pool = pool(96, 320);
        for _ in 0..200 {
            let mut packets: Vec<Packet> = std::iter::from_fn(|| pool.take()).collect();
            let distinct: HashSet<_> = packets.iter().map(Packet::base_address).collect();
            assert_eq!((packets.len(), distinct.len()), (96, 96));
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    let part = packets.split_off(packets.len() - 32);
                    scope.spawn(move || part.into_iter().for_each(drop));
                }
            });
            assert_eq!(pool.available(), 96);
        }
    }

    #[test]
    fn a_take_collects_a_bounded_number_of_returned_frames() {
        let mut pool = pool(1_000, 320);
        let mut packets: Vec<Packet> = std::iter::from_fn(|| pool.take()).collect();
        packets.drain(..500).for_each(drop);
        assert_eq!((pool.available(), pool.free.len()), (500, 0));
        packets.extend(pool.take());
        assert_eq!((pool.available(), pool.free.len()), (499, COLLECTED_MAX - 1));
        let mut burst = Burst::new();
        assert_eq!(pool.take_bulk(&mut burst, BURST_PACKETS_MAX), BURST_PACKETS_MAX);
        assert!(pool.free.len() < COLLECTED_MAX);
        pool.put_all(&mut burst);
        packets.clear();
        assert!(pool.free.len() <= 2 * BURST_PACKETS_MAX);
        pool.collect(300);
        assert!((300..1_000).contains(&pool.free.len()));
        assert_eq!((pool.available(), pool.outstanding()), (1_000, 0));
        // None is lost on the way.
        packets.extend(std::iter::from_fn(|| pool.take()));
        let all: HashSet<_> = packets.iter().map(Packet::base_address).collect();
        assert_eq!(all.len(), 1_000);
    }

    #[test]
    fn packets_outlive_their_pool() {
        let mut pool = pool(4, 320);
        let mut packet = pool.take().unwrap();
        let other = pool.take().unwrap();
        drop(pool);
        packet.set_contents(b"still mapped").unwrap();
        assert_eq!(packet.bytes(), b"still mapped");
        drop((packet, other));
    }

    #[test]
    fn a_pool_without_outstanding_frames_gives_its_region_back() {
        let arena = arena();
        let before = arena.free_bytes();
        let mut pool = Pool::new(&arena, PoolConfig::new(100)).unwrap();
        drop(pool.take());
        assert!(arena.free_bytes() < before);
        drop(pool);
        assert_eq!(arena.free_bytes(), before);
    }

    #[test]
    fn frames_go_to_a_device_and_back() {
        let mut pool = pool(4, 2_048);
        let frame = pool.take_raw().unwrap();
        assert_eq!(frame.as_ptr() as usize % 2_048, 0);
        // SAFETY: the frame was taken just now and is not used otherwise.
        let packet = unsafe { pool.packet_from_raw(frame, 256, 1_792) }.unwrap();
        assert_eq!((packet.len(), packet.tailroom()), (1_792, 0));
        let (frame, offset, length) = packet.into_raw();
        assert_eq!((offset, length), (256, 1_792));
        for (offset, length) in [(256, 1_793), (63, 0), (usize::MAX, 2), (2, usize::MAX)] {
            let frame = pool.take_raw().unwrap();
            // SAFETY: as above.
            assert!(unsafe { pool.packet_from_raw(frame, offset, length) }.is_none());
        }
        // SAFETY: as above.
        unsafe { pool.put_raw(frame) };
        assert_eq!(pool.available(), 4);
    }

    proptest! {
        #[test]
        fn addresses_find_their_frames(lines in 5usize..200, frames in 1usize..40, at: prop::sample::Index) {
            let frame_bytes = lines * 64;
            let pool = pool(frames, frame_bytes);
            let (base, bytes) = pool.region();
            let base = base.as_ptr() as usize;
            let at = at.index(bytes);
            let expected = base + at / frame_bytes * frame_bytes;
            prop_assert_eq!(pool.frame_of(base + at).map(|frame| frame.as_ptr() as usize), Some(expected));
            prop_assert_eq!(pool.frame_of(base + bytes), None);
            prop_assert_eq!(pool.frame_of(base - 1), None);
        }

        #[test]
        fn a_pool_follows_a_model(steps in proptest::collection::vec((0u8..6, 0usize..20), 0..100)) {
            let mut pool = pool(50, 320);
            let mut held: Vec<Packet> = Vec::new();
            let mut burst = Burst::new();
            for (step, count) in steps {
                match step {
                    0 => held.extend(pool.take()),
                    1 => {
                        let wanted = count.min(burst.room()).min(pool.available());
                        prop_assert_eq!(pool.take_bulk(&mut burst, count), wanted);
                    }
                    2 => if let Some(packet) = held.pop() { pool.put(packet) },
                    3 => drop(held.pop()),
                    4 => pool.put_all(&mut burst),
                    _ => drop(burst.take(count)),
                }
                let owned: HashSet<_> = held.iter().chain(&burst).map(Packet::base_address).collect();
                prop_assert_eq!(owned.len(), held.len() + burst.len());
                prop_assert_eq!(pool.available() + owned.len(), 50);
            }
        }
    }
}
