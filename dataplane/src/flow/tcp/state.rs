//! The states of a connection.

/// State of a connection, as the middle sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TcpState {
    /// Nothing seen.
    #[default]
    None,
    /// SYN from the initiator.
    SynSent,
    /// SYN and ACK from the responder.
    SynReceived,
    /// The handshake is complete.
    Established,
    /// A FIN from one side.
    FinWait,
    /// That FIN was acknowledged.
    CloseWait,
    /// A FIN from both sides.
    LastAck,
    /// Both FINs were acknowledged.
    TimeWait,
    /// Reset.
    Closed,
}

impl TcpState {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Closed,
    ];

    pub(super) fn from_bits(bits: u8) -> Self {
        Self::ALL.get(usize::from(bits)).copied().unwrap_or_default()
    }

    /// The name that people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Closed => "closed",
        }
    }
}
