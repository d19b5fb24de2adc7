//! Frames for what a kernel hands over as one though it is several packets: a second pool beside a worker's own.

use super::{Arena, Pool, PoolConfig, PoolError};
use crate::limits::{LARGE_DATA_OFFSET, LARGE_FRAME_BYTES};
use crate::packet::{Gso, Packet};

impl Pool {
    /// Frames of several packets may come by from now on. `frames` of them, of [`LARGE_FRAME_BYTES`] each, are this worker's own
    /// to receive into; none if only others' do.
    ///
    /// # Errors
    /// The arena has no room.
    pub fn add_large(&mut self, arena: &Arena, frames: usize) -> Result<(), PoolError> {
        let config = PoolConfig { frames, frame_bytes: LARGE_FRAME_BYTES };
        self.large = if frames > 0 { Some(Box::new(Self::new(arena, config)?)) } else { None };
        self.meets_large = true;
        Ok(())
    }

    /// Whether packets may be [`whole`](Packet::is_whole) frames of several.
    #[inline(always)]
    pub fn meets_large(&self) -> bool {
        self.meets_large
    }

    /// An empty packet in a large frame; `None` if there are none, or all are in use.
    pub fn take_large(&mut self) -> Option<Packet> {
        let pool = self.large.as_deref_mut()?;
        let frame = pool.take_raw()?;
        // SAFETY: the frame comes from the pool's list, so that nobody else owns it; the offset is below its size.
        let mut packet = unsafe { Packet::from_raw(frame, LARGE_DATA_OFFSET as u16, 0, pool.frame_bytes) };
        packet.set_gso(Gso::default());
        Some(packet)
    }

    /// Large frames: those that can be taken now, and all.
    pub fn large_frames(&self) -> (usize, usize) {
        self.large.as_ref().map_or((0, 0), |pool| (pool.available(), pool.capacity()))
    }

    /// Gives back a packet whose frame is not of the usual ones: at once if it is a large one, so that these stay warm; else by its
    /// pool's ring.
    #[cold]
    pub(super) fn put_elsewhere(&mut self, packet: Packet) {
        if let Some(pool) = self.large.as_deref_mut().filter(|pool| pool.owns(packet.base_address())) {
            let (frame, _, _) = packet.into_raw();
            pool.push(frame);
        }
        // Else dropping the packet gives it to its owner.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::METADATA_BYTES;

    fn pool(large: usize) -> Pool {
        let arena = Arena::anonymous(2 << 20).unwrap();
        let mut pool = Pool::new(&arena, PoolConfig::new(4)).unwrap();
        pool.add_large(&arena, large).unwrap();
        pool
    }

    #[test]
    fn large_frames_are_apart_and_come_back() {
        let mut pool = pool(3);
        let packets: Vec<Packet> = std::iter::from_fn(|| pool.take_large()).collect();
        assert_eq!((packets.len(), pool.large_frames(), pool.available()), (3, (0, 3), 4));
        for mut packet in packets {
            assert_eq!(packet.headroom(), LARGE_DATA_OFFSET - METADATA_BYTES);
            // The largest frame that Linux makes of a TCP stream, and a tag in front.
            packet.extend(65_226).unwrap();
            packet.push_front(4).unwrap();
            assert!(!packet.is_whole());
            packet.set_gso(Gso { kind: 1, size: 1_448 });
            assert!(packet.is_whole());
            pool.put(packet);
        }
        assert_eq!((pool.large_frames(), pool.available()), ((3, 3), 4));
        // What was said of the frame before is forgotten.
        let packet = pool.take_large().unwrap();
        assert!(!packet.is_whole());
        std::thread::spawn(move || drop(packet)).join().unwrap();
        assert_eq!(pool.large_frames(), (3, 3));
        assert!(!pool.take().unwrap().is_whole());
    }

    #[test]
    fn a_worker_may_meet_large_frames_that_are_others() {
        let (mut own, mut other) = (pool(1), pool(0));
        assert!(other.meets_large() && other.take_large().is_none());
        other.put(own.take_large().unwrap());
        assert_eq!((own.large_frames(), other.large_frames()), ((1, 1), (0, 0)));
    }
}
