//! ARP for IPv4 on Ethernet (RFC 826).

use super::bytes::{be16, be32, part, take};
use super::ethernet;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::port::MacAddress;
use std::net::Ipv4Addr;

/// Operation code of a request.
pub const REQUEST: u16 = 1;
/// Operation code of a reply.
pub const REPLY: u16 = 2;

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arp {
    /// [`REQUEST`], [`REPLY`] or another operation, as it is.
    pub operation: u16,
    /// Sender's hardware address.
    pub sender_mac: MacAddress,
    /// Sender's protocol address.
    pub sender_address: Ipv4Addr,
    /// Target's hardware address; of no meaning in a request.
    pub target_mac: MacAddress,
    /// Target's protocol address.
    pub target_address: Ipv4Addr,
}

impl Arp {
    /// Bytes of the packet.
    pub const BYTES: usize = 28;

    /// Reads the packet at index `at`.
    ///
    /// Errors: `Truncated`; `UnsupportedProtocol` for other hardware or protocol types; `BadLength` if the address
    /// lengths contradict them.
    #[inline]
    pub fn read(frame: &[u8], at: usize) -> Result<Self, DropReason> {
        let bytes: &[u8; Self::BYTES] = take(frame, at, frame.len())?;
        if be16(bytes, 0) != 1 || be16(bytes, 2) != ethernet::IPV4 {
            return Err(DropReason::UnsupportedProtocol);
        }
        if bytes[4] != 6 || bytes[5] != 4 {
            return Err(DropReason::BadLength);
        }
        Ok(Self {
            operation: be16(bytes, 6),
            sender_mac: part(bytes, 8),
            sender_address: Ipv4Addr::from_bits(be32(bytes, 14)),
            target_mac: part(bytes, 18),
            target_address: Ipv4Addr::from_bits(be32(bytes, 24)),
        })
    }

    /// The packet as on the wire.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..2].copy_from_slice(&1u16.to_be_bytes());
        out[2..4].copy_from_slice(&ethernet::IPV4.to_be_bytes());
        out[4..6].copy_from_slice(&[6, 4]);
        out[6..8].copy_from_slice(&self.operation.to_be_bytes());
        out[8..14].copy_from_slice(&self.sender_mac);
        out[14..18].copy_from_slice(&self.sender_address.octets());
        out[18..24].copy_from_slice(&self.target_mac);
        out[24..].copy_from_slice(&self.target_address.octets());
        out
    }
}
