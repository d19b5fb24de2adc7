//! Frames that are carried whole: one packet that stands for several, from a port that received it so to one that sends it so.
//!
//! On the way its addresses, ports and whatever else a program sets change as in any packet. Its transport checksum is the sum of a
//! pseudo-header, and incremental updates make something else of it, since they count on one that covers ports and payload: nobody
//! looks at it, and it is written anew at the end, for the packets that are cut or for the kernel that goes on with it.

use super::{Cut, VnetHeader};
use crate::drops::DropReason;
use crate::memory::Pool;
use crate::packet::Packet;

/// The packets of a frame that was carried whole, cut as they are asked for.
#[derive(Debug)]
pub struct Pieces {
    frame: Packet,
    cut: Cut,
}

impl Pieces {
    /// Of a [`whole`](Packet::is_whole) frame.
    ///
    /// # Errors
    /// The frame comes back if it can't be cut any more: [`DropReason::OffloadUnfinished`].
    pub fn of(frame: Packet) -> Result<Self, (Packet, DropReason)> {
        match Cut::plan_whole(frame.bytes(), frame.gso()) {
            Ok(cut) => Ok(Self { frame, cut }),
            Err(reason) => Err((frame, reason)),
        }
    }

    /// How many are still to come; at least one at first.
    pub fn count(&self) -> usize {
        self.cut.count()
    }

    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// It is lost: there is no frame for it, or it does not fit one. Whoever copies what is dropped was told.
    pub fn next(&mut self, pool: &mut Pool) -> Option<Result<Packet, DropReason>> {
        let bytes = self.cut.next_bytes()?;
        let Some(mut packet) = pool.take() else {
            return Some(Err(self.lose(bytes, DropReason::PoolExhausted, pool)));
        };
        let Ok(target) = packet.extend(bytes) else {
            pool.put(packet);
            return Some(Err(self.lose(bytes, DropReason::BadLength, pool)));
        };
        self.cut.write_next(self.frame.bytes(), target);
        packet.set_port(self.frame.port());
        Some(Ok(packet))
    }

    fn lose(&mut self, bytes: usize, reason: DropReason, pool: &mut Pool) -> DropReason {
        self.cut.skip();
        pool.tell_dropped(self.frame.bytes().get(..bytes).unwrap_or(&[]), reason);
        reason
    }

    /// The frame, to be given back.
    pub fn into_frame(self) -> Packet {
        self.frame
    }
}

/// Bytes of the first packet of a whole frame from its IP header on: what is held against an MTU. `None` if it can't be cut.
pub fn segment_ip_bytes(frame: &Packet) -> Option<usize> {
    Cut::plan_whole(frame.bytes(), frame.gso()).ok().map(|cut| cut.next_ip_bytes())
}

/// Makes a whole frame one that a kernel takes behind [`whole_header`].
///
/// # Errors
/// [`DropReason::OffloadUnfinished`] if it can't be cut any more.
pub fn leave_to_kernel(frame: &mut Packet) -> Result<(), DropReason> {
    let cut = Cut::plan_whole(frame.bytes(), frame.gso())?;
    cut.write_partial_checksum(frame.bytes_mut());
    Ok(())
}

/// What a kernel is to do with a whole frame; nothing if it can't be cut any more.
pub fn whole_header(frame: &Packet) -> VnetHeader {
    let gso = frame.gso();
    Cut::plan_whole(frame.bytes(), gso).map_or(VnetHeader::default(), |cut| cut.header(gso))
}
