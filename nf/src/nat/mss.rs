//! Clamping of TCP's maximum segment size, where path MTU discovery can't be relied on (RFC 4459 section 3.2).

use crate::headers::{Headers, TcpFlags};

/// What the option of a SYN is lowered to. It is never raised, and never added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssClamp {
    /// This many bytes.
    Fixed(u16),
    /// What fits into packets of the outgoing interface.
    Auto {
        /// Its MTU in bytes.
        mtu: u16,
    },
}

impl MssClamp {
    /// Most bytes that an option may say: the MTU less the headers of IP (20 or 40 bytes) and TCP (20).
    pub const fn limit(self, is_ipv6: bool) -> u16 {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Auto { mtu } => mtu.saturating_sub(if is_ipv6 { 60 } else { 40 }),
        }
    }

    /// Lowers the option of a SYN in `frame`. Other segments have none; that later ones have no SYN is guarded.
    pub fn apply(self, headers: &mut Headers, frame: &[u8]) {
        if headers.tcp().is_none() || !headers.is_tcp_control() {
            return;
        }
        let Some(tcp) = headers.tcp().filter(|tcp| tcp.flags.contains(TcpFlags::SYN)) else { return };
        let limit = self.limit(headers.is_ipv6());
        if let Some((at, value)) = tcp.maximum_segment_size(frame)
            && value > limit
        {
            headers.set_bytes(at, &limit.to_be_bytes(), true);
        }
    }
}
