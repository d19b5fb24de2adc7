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
    /// To this worker, and so do all fragments of its datagram, which don't say so themselves: see [`Place::told`].
    First(WorkerId),
    /// Each worker that owns connections gets one: what it says is for all of them.
    Everyone,
    /// A fragment whose owner is not known here: the first one of its [`Place::datagram`] tells.
    Waits,
}

/// What all fragments of a datagram share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Datagram {
    /// Source and destination as numbers.
    pub addresses: [u128; 2],
    /// The identification that its sender gave it.
    pub identification: u32,
    /// Its version; else it is IPv6.
    pub is_ipv4: bool,
    /// Its protocol, where all its fragments say so.
    pub protocol: u8,
    /// A keyed hash of these, the same wherever it is made.
    pub hash: u64,
}

/// Whose a datagram is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The datagram.
    pub datagram: Datagram,
    /// Its owner.
    pub owner: WorkerId,
    /// Bytes of it in its first fragment.
    pub bytes: u16,
}

/// Says who owns the packets of one port. Both directions of a connection have one owner, and so have the errors about it.
pub trait Place: Send {
    /// Where the packet in `frame` goes. Frames that can't be read have an owner, too, which counts why.
    fn place(&mut self, frame: &[u8], now: Time) -> Placed;

    /// The datagram of the frame that was placed last, if that was [`Placed::Waits`].
    fn datagram(&self) -> Datagram;

    /// What the frame that was placed last told, if that was [`Placed::First`].
    fn told(&self) -> Told;

    /// The first fragment of a datagram came to another who polls the port.
    fn learn(&mut self, told: Told, now: Time);
}
