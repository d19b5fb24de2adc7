//! What functions say of packets.

use millrace_dataplane::drops::DropReason;
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::HoldToken;

/// What a function says of a packet (R10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next function.
    Continue,
    /// The packet is dropped. Frames that this function emitted (an ICMP error, a reset) are sent all the same.
    Drop(DropReason),
    /// The packet ends here: it was for us. Frames that this function emitted answer it.
    Consume,
    /// It waits until the token wakes it, then walks again.
    Hold(HoldToken),
    /// To the control plane, with a cookie of this function.
    Punt(u64),
    /// It leaves by this port. Only the last function of a chain, which forwards, says so.
    Forward(PortId),
    /// A copy leaves by each of the ports that this function listed with [`Walk::flood`](crate::walk::Walk::flood).
    Flood,
}

impl Verdict {
    /// Its name, in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Drop(_) => "drop",
            Self::Consume => "consume",
            Self::Hold(_) => "hold",
            Self::Punt(_) => "punt",
            Self::Forward(_) => "forward",
            Self::Flood => "flood",
        }
    }
}
