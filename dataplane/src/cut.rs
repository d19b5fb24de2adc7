//! Cutting the frames of a burst that were carried whole, for who must tell their packets apart.

use crate::memory::Pool;
use crate::outputs::Outputs;
use crate::packet::{Burst, Packet};
use crate::port::offload::Pieces;

impl Outputs {
    /// Begins to cut a whole frame: one packet becomes as many as it stands for. `None` if it can't be cut, and was dropped.
    pub(crate) fn cut(&mut self, frame: Packet, pool: &mut Pool) -> Option<Pieces> {
        match Pieces::of(frame) {
            Ok(pieces) => {
                self.sums.copied += pieces.count().saturating_sub(1) as u64;
                Some(pieces)
            }
            Err((frame, reason)) => {
                self.drop_packet(frame, reason, pool);
                None
            }
        }
    }

    /// The next packet of a frame, those that are lost counted.
    pub(crate) fn next_piece(&mut self, pieces: &mut Pieces, pool: &mut Pool) -> Option<Packet> {
        loop {
            match pieces.next(pool)? {
                Ok(packet) => return Some(packet),
                Err(reason) => self.sums.drops.count(reason),
            }
        }
    }
}

/// The packets of a burst in their order, where whole frames are cut as they are asked for.
#[derive(Debug)]
pub(crate) struct CutBurst {
    packets: Burst,
    pieces: Option<Pieces>,
}

impl CutBurst {
    pub(crate) const fn new(packets: Burst) -> Self {
        Self { packets, pieces: None }
    }

    /// Fills `ready` with the next ones; false if there was none.
    pub(crate) fn fill(&mut self, ready: &mut Burst, outputs: &mut Outputs, pool: &mut Pool) -> bool {
        while !ready.is_full() {
            if let Some(pieces) = &mut self.pieces {
                match outputs.next_piece(pieces, pool) {
                    // There is room.
                    Some(piece) => drop(ready.push(piece)),
                    None => self.pieces.take().into_iter().for_each(|pieces| pool.put(pieces.into_frame())),
                }
                continue;
            }
            let Some(packet) = self.packets.take(1).pop() else { break };
            if packet.is_whole() {
                self.pieces = outputs.cut(packet, pool);
            } else {
                drop(ready.push(packet));
            }
        }
        !ready.is_empty()
    }
}
