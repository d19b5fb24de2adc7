//! Typed headers: the small parsed meaning of a frame, and its emission.
//!
//! [`Parsed::parse`] reads a whole frame in one pass that is total: whatever the bytes, it returns headers whose
//! offsets lie inside the frame, or a reason. Headers are plain values in host byte order; parts of variable length
//! (IPv4 options, IPv6 extension headers, TCP options) stay in the frame and are named by a [`Span`].
//! [`serialise`] builds a frame from such values, with all lengths and checksums computed.
//! [`answer`] and [`resolve`] build the frames that the data plane itself originates.

pub mod answer;
mod apply;
pub mod arp;
mod bytes;
pub mod embedded;
pub mod ethernet;
pub mod frame;
pub mod icmp;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod neighbour_discovery;
mod parsed;
pub mod protocol;
mod record;
pub mod resolve;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod udp;
pub mod vlan;

pub use apply::apply_edits;
pub use arp::Arp;
pub use bytes::Span;
pub use embedded::{Embedded, EmbeddedTransport};
pub use ethernet::Ethernet;
pub use frame::{FrameBuffer, FrameTooLong, serialise};
pub use icmp::Icmp;
pub use icmpv4::Icmpv4;
pub use icmpv6::Icmpv6;
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use parsed::{Network, Offsets, Parsed, Transport};
pub use record::{EDITS_MAX, Edit, Headers};
pub use tcp::{Tcp, TcpFlags};
pub use udp::Udp;
pub use vlan::{VlanTag, VlanTags};
