//! Functions that need the payload: they work on whole bursts of bytes, between two segments of a chain.

use crate::drops::DropReason;
use crate::packet::{Burst, Packet};
use crate::time::Time;
use std::any::Any;

/// A function that works on the bytes of whole bursts (inspection, encryption).
///
/// It splits its chain into segments, each with its own look-up: the first forwards to a logical port, the worker gives what
/// arrives there to the function, and the rest enters the second segment from that port.
pub trait PacketFunction: Send {
    /// The kind, as the configuration names it.
    fn kind(&self) -> &'static str;

    /// Works on the packets of `burst` in place. Those to be dropped are taken out, into `dropped` with their reasons; order is
    /// kept. It makes no packets and keeps none: each is in `burst` or in `dropped` afterwards.
    fn process(&mut self, burst: &mut Burst, now: Time, dropped: &mut Vec<(Packet, DropReason)>);

    /// Says for people what would become of a frame, without any of it coming true: why it would be dropped, if it would, and
    /// what the function goes by, each as a name in snake case and a value.
    fn foresee(&self, frame: &[u8], say: &mut dyn FnMut(&'static str, &str)) -> Option<DropReason> {
        let _ = (frame, say);
        None
    }

    /// The function itself, for its configuration and for `show`.
    fn as_any(&mut self) -> &mut dyn Any;
}
