//! The packet handle: an owned frame and where the packet lies in it.
//!
//! A frame is one line of metadata, headroom, and room for data:
//!
//! ```text
//! base          base + 64                  base + offset     + length             base + end
//!  | metadata line | headroom ................. | packet bytes ... | tailroom ........ |
//! ```
//!
//! The handle carries all that the packet loop needs, so that the metadata line is not touched per packet; it
//! says to which pool a frame belongs and is read when a frame comes back where it was not taken.
#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;

use crate::limits::{DATA_OFFSET, LARGE_FRAME_BYTES, METADATA_BYTES};
use crate::memory::{Metadata, give_back, prefetch_at};
use crate::port::PortId;
use crate::time::Time;

/// No room in front of or behind the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room in the packet's frame")]
pub struct NoRoom;

/// How a frame that stands for several packets is to be cut, in the words of the virtio-net header (OASIS virtio 1.2 section 5.1.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gso {
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub kind: u8,
    /// Payload bytes of each packet; 0 for what is one packet.
    pub size: u16,
}

/// An owned packet. Dropping it gives its frame back to its pool by a slow way that takes a lock; the packet
/// loop gives frames back with [`crate::memory::Pool::put`] and its bulk form.
///
/// Invariants (established by `Packet::from_raw`, kept by every method):
/// `base` is the start of a frame of `end` initialised bytes that this handle owns alone, with valid metadata in
/// its first line; `METADATA_BYTES <= offset` and `offset + length <= end`.
#[repr(C)]
pub struct Packet {
    base: NonNull<u8>,
    offset: u16,
    length: u16,
    end: u16,
    port: PortId,
}

const _: () = assert!(size_of::<Packet>() == 16 && size_of::<Option<Packet>>() == 16);

// SAFETY: the handle owns its frame alone; pools take frames back from any thread (see `give_back`).
unsafe impl Send for Packet {}
// SAFETY: shared access only reads.
unsafe impl Sync for Packet {}

impl Packet {
    /// A handle over a frame of `frame_bytes` bytes at `base`, with `length` bytes of packet from `offset` on.
    ///
    /// # Safety
    /// `base` must be the start of a frame of a living pool with frames of `frame_bytes` bytes, which nobody else
    /// owns or will hand out; `METADATA_BYTES <= offset` and `offset + length <= frame_bytes`.
    #[inline]
    pub(crate) unsafe fn from_raw(base: NonNull<u8>, offset: u16, length: u16, frame_bytes: u16) -> Self {
        debug_assert!(usize::from(offset) >= METADATA_BYTES);
        debug_assert!(u32::from(offset) + u32::from(length) <= u32::from(frame_bytes));
        Self { base, offset, length, end: frame_bytes, port: PortId(0) }
    }

    /// Gives up the handle: the start of the frame, the packet's offset in it and its length. Who takes it must
    /// bring the frame back to a pool with `Pool::put_raw`, or make it a packet again.
    #[inline]
    pub fn into_raw(self) -> (NonNull<u8>, u16, u16) {
        let raw = (self.base, self.offset, self.length);
        std::mem::forget(self);
        raw
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.length)
    }

    /// True when the packet has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes free in front of the packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.offset) - METADATA_BYTES
    }

    /// Bytes free behind the packet.
    #[inline]
    pub fn tailroom(&self) -> usize {
        self.reach() - usize::from(self.length)
    }

    /// Bytes from the packet's start to the end of its frame.
    #[inline]
    fn reach(&self) -> usize {
        usize::from(self.end - self.offset)
    }

    /// Address of the packet's first byte.
    #[inline]
    fn start(&self) -> NonNull<u8> {
        // SAFETY: `offset <= end`, so that the result is inside the frame or at its end.
        unsafe { self.base.add(usize::from(self.offset)) }
    }

    /// The packet's bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `offset + length <= end`: inside the frame, which is initialised and ours alone.
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), usize::from(self.length)) }
    }

    /// The packet's bytes, to change.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), usize::from(self.length)) }
    }

    /// Makes the packet longer by `count` bytes in front and returns them. They hold what was left there: the
    /// caller writes all of them.
    ///
    /// # Errors
    /// [`NoRoom`] if the headroom is smaller; nothing changed then.
    #[inline]
    pub fn push_front(&mut self, count: usize) -> Result<&mut [u8], NoRoom> {
        if count > self.headroom() || count > usize::from(u16::MAX - self.length) {
            return Err(NoRoom);
        }
        self.offset -= count as u16;
        self.length += count as u16;
        Ok(&mut self.bytes_mut()[..count])
    }

    /// Removes `count` bytes in front, or all if the packet is shorter.
    #[inline]
    pub fn pull_front(&mut self, count: usize) {
        let count = count.min(self.len()) as u16;
        self.offset += count;
        self.length -= count;
    }

    /// Cuts the packet to `length` bytes; a shorter packet stays as it is.
    #[inline]
    pub fn truncate(&mut self, length: usize) {
        self.length = self.len().min(length) as u16;
    }

    /// Makes the packet longer by `count` bytes at its end and returns them. They hold what was left there: the
    /// caller writes all of them.
    ///
    /// # Errors
    /// [`NoRoom`] if the tailroom is smaller; nothing changed then.
    #[inline]
    pub fn extend(&mut self, count: usize) -> Result<&mut [u8], NoRoom> {
        if count > self.tailroom() {
            return Err(NoRoom);
        }
        let before = self.len();
        self.length += count as u16;
        Ok(&mut self.bytes_mut()[before..])
    }

    /// Makes `bytes` the packet, with the full headroom in front.
    ///
    /// # Errors
    /// [`NoRoom`] if the frame is too small; nothing changed then.
    #[inline]
    pub fn set_contents(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        if bytes.len() > self.room_for_contents() {
            return Err(NoRoom);
        }
        self.offset = DATA_OFFSET as u16;
        self.length = bytes.len() as u16;
        self.bytes_mut().copy_from_slice(bytes);
        Ok(())
    }

    /// The longest packet that [`Self::set_contents`] takes, in bytes.
    #[inline]
    pub fn room_for_contents(&self) -> usize {
        usize::from(self.end).saturating_sub(DATA_OFFSET)
    }

    /// The 64 bytes from the packet's start on.
    ///
    /// The bound is the frame, not the packet: of a shorter packet those behind it are whatever the frame held, to be
    /// masked out. `None` if the frame ends before.
    #[inline(always)]
    pub fn head(&self) -> Option<&[u8; 64]> {
        // SAFETY: the 64 bytes end inside the frame, by the check; they are initialised and ours alone.
        (self.reach() >= 64).then(|| unsafe { self.start().cast().as_ref() })
    }

    /// The bytes from the packet's start to its frame's end, to change. What is written behind the packet is never sent.
    #[inline(always)]
    pub fn reach_mut(&mut self) -> &mut [u8] {
        // SAFETY: `reach` bytes lie between the packet's start and the frame's end; they are initialised and ours alone, and
        // `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), self.reach()) }
    }

    /// Asks the CPU for the packet's first cache line.
    #[inline]
    pub fn prefetch(&self) {
        prefetch_at(self.start().as_ptr());
    }

    /// The port that it came in by.
    #[inline]
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Sets the port that it came in by.
    #[inline]
    pub fn set_port(&mut self, port: PortId) {
        self.port = port;
    }

    /// When it arrived, if its port says so; touches the metadata line.
    #[inline]
    pub fn timestamp(&self) -> Time {
        // SAFETY: the first line of the frame is valid metadata, which changes through its owner only.
        unsafe { self.base.cast::<Metadata>().as_ref() }.timestamp
    }

    /// Sets the time of arrival; touches the metadata line.
    #[inline]
    pub fn set_timestamp(&mut self, time: Time) {
        // SAFETY: as in `timestamp`, and `&mut self` makes the access exclusive.
        unsafe { self.base.cast::<Metadata>().as_mut() }.timestamp = time;
    }

    /// True if it stands for several packets, which a port or the engine cuts where they must be told apart: see [`Self::gso`].
    /// Its transport checksum says nothing then; who sends or cuts it writes that anew.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        usize::from(self.end) == LARGE_FRAME_BYTES && self.gso().size != 0
    }

    /// How it is to be cut; touches the metadata line.
    #[inline]
    pub fn gso(&self) -> Gso {
        // SAFETY: as in `timestamp`.
        unsafe { self.base.cast::<Metadata>().as_ref() }.gso
    }

    /// Says how it is to be cut. Only a packet in a large frame can stand for several: see [`crate::memory::Pool::take_large`].
    #[inline]
    pub fn set_gso(&mut self, gso: Gso) {
        debug_assert!(gso.size == 0 || usize::from(self.end) == LARGE_FRAME_BYTES);
        // SAFETY: as in `set_timestamp`.
        unsafe { self.base.cast::<Metadata>().as_mut() }.gso = gso;
    }

    /// Address of the frame's start.
    #[inline]
    pub fn base_address(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // SAFETY: we own the frame, its metadata is valid, and the handle ends here.
        unsafe { give_back(self.base) };
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("base", &self.base)
            .field("offset", &self.offset)
            .field("length", &self.length)
            .field("port", &self.port)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, Pool, PoolConfig};
    use proptest::prelude::*;

    fn pool() -> Pool {
        let config = PoolConfig { frames: 4, frame_bytes: 576 };
        Pool::new(&Arena::anonymous(1 << 20).unwrap(), config).unwrap()
    }

    #[test]
    fn a_head_ends_with_the_frame() {
        let mut pool = pool();
        let mut packet = pool.take().unwrap();
        packet.set_contents(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
        assert_eq!(packet.head().unwrap()[..9], [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        packet.reach_mut()[1..64].fill(7);
        assert_eq!(packet.bytes(), [1, 7, 7, 7, 7, 7, 7, 7, 7]);
        packet.extend(320 - 9).unwrap();
        packet.pull_front(320 - 64);
        assert_eq!(packet.head().unwrap(), packet.bytes());
        packet.pull_front(1);
        assert!(packet.head().is_none());
        assert_eq!(packet.reach_mut().len(), 63);
        pool.put(packet);
    }

    #[test]
    fn metadata_survives_all_edits() {
        let mut pool = pool();
        let mut packet = pool.take().unwrap();
        packet.set_timestamp(Time(77));
        packet.set_port(PortId(3));
        let all = packet.headroom();
        packet.push_front(all).unwrap().fill(0xff);
        let rest = packet.tailroom();
        packet.extend(rest).unwrap().fill(0xff);
        assert_eq!((packet.timestamp(), packet.port()), (Time(77), PortId(3)));
        drop(packet);
        assert_eq!(pool.available(), 4);
    }

    proptest! {
        #[test]
        fn edits_follow_a_model(steps in proptest::collection::vec((0u8..5, 0usize..700), 0..60)) {
            let mut pool = pool();
            let mut packet = pool.take().unwrap();
            let mut model: Vec<u8> = Vec::new();
            let mut offset = DATA_OFFSET;
            for (index, (step, count)) in steps.into_iter().enumerate() {
                let fill = index as u8;
                match step {
                    0 => match packet.push_front(count) {
                        Ok(bytes) => {
                            bytes.fill(fill);
                            model.splice(0..0, std::iter::repeat_n(fill, count));
                            offset -= count;
                        }
                        Err(NoRoom) => prop_assert!(count > offset - METADATA_BYTES),
                    },
                    1 => {
                        packet.pull_front(count);
                        let count = count.min(model.len());
                        model.drain(..count);
                        offset += count;
                    }
                    2 => match packet.extend(count) {
                        Ok(bytes) => {
                            bytes.fill(fill);
                            model.extend(std::iter::repeat_n(fill, count));
                        }
                        Err(NoRoom) => prop_assert!(offset + model.len() + count > 576),
                    },
                    3 => {
                        packet.truncate(count);
                        model.truncate(count);
                    }
                    _ => {
                        let bytes = vec![fill; count];
                        let result = packet.set_contents(&bytes);
                        prop_assert_eq!(result.is_ok(), count <= 320);
                        if result.is_ok() {
                            model = bytes;
                            offset = DATA_OFFSET;
                        }
                    }
                }
                prop_assert_eq!(packet.bytes(), &model[..]);
                prop_assert_eq!(packet.headroom(), offset - METADATA_BYTES);
                prop_assert_eq!(packet.tailroom(), 576 - offset - model.len());
            }
            pool.put(packet);
            prop_assert_eq!(pool.available(), 4);
        }
    }
}
