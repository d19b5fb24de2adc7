//! Who owns a packet.

use crate::time::Time;

/// A worker's number within its instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// To this worker.
    Owner(WorkerId),
    /// Each worker that owns connections gets one: what it says is for all of them.
    Everyone,
    /// A fragment whose owner is not known yet: another one of its datagram will tell, see [`Place::told`].
    Waits,
}

/// Says who owns the packets of one port. Both directions of a connection have one owner, and so have the errors about it.
pub trait Place: Send {
    /// Where the packet in `frame` goes. Frames that can't be read have an owner, too, which counts why.
    fn place(&mut self, frame: &[u8], now: Time) -> Placed;

    /// True if a packet placed since the last call told the owner of fragments that may wait: they are to be placed again.
    fn told(&mut self) -> bool;
}
