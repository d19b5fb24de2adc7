//! Where the ends of long frames are received: beside the packets that hold their beginnings.

use super::message::{MESSAGES_MAX, SLOT_BYTES};
use crate::limits::{LARGE_FRAMES_POSTED, LARGE_PACKETS_MAX};
use crate::memory::Pool;
use crate::packet::{Gso, Packet};
use crate::port::offload::{Cut, VnetHeader};

/// One slot for each frame of a call.
///
/// A slot is plain memory, from which packets are cut. Where frames are carried whole there is a large frame of the pool in front of it, if
/// the pool has one: what fits there goes on as it is.
#[derive(Debug)]
pub(in crate::port) struct Slots {
    plain: Vec<u8>,
    /// As long as they may be; none where frames are cut.
    large: Vec<Option<Packet>>,
}

impl Slots {
    /// `carries_whole`: large frames of the pool are used.
    pub(in crate::port) fn new(carries_whole: bool) -> Self {
        let mut large = Vec::new();
        large.resize_with(if carries_whole { LARGE_FRAMES_POSTED } else { 0 }, || None);
        Self { plain: vec![0; MESSAGES_MAX * SLOT_BYTES], large }
    }

    /// Most frames of one call.
    pub(in crate::port) fn count(&self) -> usize {
        if self.large.is_empty() { MESSAGES_MAX } else { LARGE_FRAMES_POSTED }
    }

    /// Puts large frames where the next `count` are missing, for as long as the pool has some.
    pub(in crate::port) fn post(&mut self, pool: &mut Pool, count: usize) {
        for slot in self.large.iter_mut().take(count).filter(|slot| slot.is_none()) {
            let Some(mut packet) = pool.take_large() else { return };
            let room = packet.tailroom();
            // As much as there is, so that it fits.
            let _ = packet.extend(room);
            *slot = Some(packet);
        }
    }

    /// For each frame of a call, where what is beyond the packet goes: counted from the frame's start, and what is beyond that.
    pub(in crate::port) fn areas(&mut self) -> impl Iterator<Item = (&mut [u8], &mut [u8])> {
        let large = self.large.iter_mut().map(Option::as_mut).chain(std::iter::repeat_with(|| None));
        self.plain.chunks_exact_mut(SLOT_BYTES).zip(large).map(|(plain, large)| match large {
            Some(large) => {
                let beyond = large.len();
                (large.bytes_mut(), &mut plain[beyond..])
            }
            None => (plain, &mut [][..]),
        })
    }

    /// Brings a frame of `length` bytes together whose beginning is `front`.
    pub(in crate::port) fn join(&mut self, at: usize, front: &[u8], length: usize) -> Option<&[u8]> {
        let plain = self.plain.chunks_exact_mut(SLOT_BYTES).nth(at)?;
        let frame = match self.large.get_mut(at).and_then(Option::as_mut) {
            Some(large) if length <= large.len() => large.bytes_mut(),
            Some(large) => {
                let begun = large.bytes();
                plain.get_mut(..begun.len())?.copy_from_slice(begun);
                plain
            }
            None => plain,
        };
        frame.get_mut(..front.len())?.copy_from_slice(front);
        frame.get(..length)
    }

    /// The frame of `length` bytes that was brought together there.
    pub(in crate::port) fn joined(&self, at: usize, length: usize) -> Option<&[u8]> {
        match self.large.get(at).and_then(Option::as_ref) {
            Some(large) if length <= large.len() => large.bytes().get(..length),
            _ => self.plain.chunks_exact(SLOT_BYTES).nth(at)?.get(..length),
        }
    }

    /// Takes that frame to carry it whole, if it lies in a large one and can be told what a kernel would ask of it.
    pub(in crate::port) fn take_whole(
        &mut self,
        at: usize,
        length: usize,
        header: &VnetHeader,
        cut: &Cut,
    ) -> Option<Packet> {
        let is_plain = header.needs_checksum() && cut.end() == length && cut.count() <= LARGE_PACKETS_MAX;
        let slot = self.large.get_mut(at).filter(|_| is_plain)?;
        let mut frame = slot.take_if(|large| length <= large.len())?;
        frame.truncate(length);
        frame.set_gso(Gso { kind: header.gso_type, size: header.gso_size });
        Some(frame)
    }

    /// Takes all large frames out.
    pub(in crate::port) fn drain(&mut self) -> impl Iterator<Item = Packet> {
        self.large.iter_mut().filter_map(Option::take)
    }
}
