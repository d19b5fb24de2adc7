//! What a packet carries on its way to a stage apart and back: the logical port behind the stage, or why it was dropped there.
//!
//! Dropped packets come back, too: the worker that owns them counts them and has their frames, so that its sums hold alone (R13).

use crate::drops::DropReason;
use crate::limits::{LOGICAL_PORTS_MAX, PORTS_MAX};
use crate::packet::Packet;
use crate::port::PortId;

/// Marks from here on are reasons; no logical port has such a number.
const REASONS: u16 = 0xff00;

const _: () = assert!(PORTS_MAX + LOGICAL_PORTS_MAX <= REASONS as usize && DropReason::ALL.len() <= 0xff);

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It goes on from this port.
    On(PortId),
    /// It was dropped.
    Dropped(DropReason),
}

impl Mark {
    pub(crate) fn put(self, packet: &mut Packet) {
        packet.set_port(match self {
            Self::On(port) => port,
            Self::Dropped(reason) => PortId(REASONS | reason as u16),
        });
    }

    pub(crate) fn of(packet: &Packet) -> Self {
        let PortId(mark) = packet.port();
        match mark.checked_sub(REASONS) {
            None => Self::On(PortId(mark)),
            Some(at) => {
                Self::Dropped(DropReason::ALL.get(usize::from(at)).copied().unwrap_or(DropReason::NoOutput))
            }
        }
    }
}
