//! Echo requests and their replies (RFC 792, RFC 4443 section 4). smoltcp's own ICMP sockets choose the source themselves, of addresses
//! that it does not have here.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    Ipv6Repr,
};

const HOP_LIMIT: u8 = 64;
const DATA: &[u8] = b"millrace probe..";

/// What tells an echo from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::host) struct Echo {
    /// Who is asked, or answers.
    pub(in crate::host) peer: IpAddr,
    pub(in crate::host) identifier: u16,
    pub(in crate::host) sequence: u16,
}

/// The packet that asks, from `source`; none if that is of another family.
pub(in crate::host) fn request(source: IpAddr, echo: &Echo) -> Option<Vec<u8>> {
    let (ident, seq_no) = (echo.identifier, echo.sequence);
    let checksums = ChecksumCapabilities::default();
    match (source, echo.peer) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let message = Icmpv4Repr::EchoRequest { ident, seq_no, data: DATA };
            let payload_len = message.buffer_len();
            let next_header = IpProtocol::Icmp;
            let ip = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit: HOP_LIMIT };
            let mut bytes = vec![0; ip.buffer_len() + payload_len];
            ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &checksums);
            message.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[ip.buffer_len()..]), &checksums);
            Some(bytes)
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let message = Icmpv6Repr::EchoRequest { ident, seq_no, data: DATA };
            let payload_len = message.buffer_len();
            let next_header = IpProtocol::Icmpv6;
            let ip = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit: HOP_LIMIT };
            let mut bytes = vec![0; ip.buffer_len() + payload_len];
            ip.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
            let mut packet = Icmpv6Packet::new_unchecked(&mut bytes[ip.buffer_len()..]);
            message.emit(&src_addr, &dst_addr, &mut packet, &checksums);
            Some(bytes)
        }
        _ => None,
    }
}

/// The reply that an IP packet is, if its checksums are right.
pub(in crate::host) fn reply(packet: &[u8]) -> Option<Echo> {
    let checksums = ChecksumCapabilities::default();
    match packet.first()? >> 4 {
        4 => {
            let ip =
                Ipv4Packet::new_checked(packet).ok().filter(|ip| ip.next_header() == IpProtocol::Icmp)?;
            let message = Icmpv4Packet::new_checked(ip.payload()).ok()?;
            match Icmpv4Repr::parse(&message, &checksums).ok()? {
                Icmpv4Repr::EchoReply { ident, seq_no, .. } => {
                    Some(Echo { peer: ip.src_addr().into(), identifier: ident, sequence: seq_no })
                }
                _ => None,
            }
        }
        6 => {
            let ip =
                Ipv6Packet::new_checked(packet).ok().filter(|ip| ip.next_header() == IpProtocol::Icmpv6)?;
            let message = Icmpv6Packet::new_checked(ip.payload()).ok()?;
            match Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &message, &checksums).ok()? {
                Icmpv6Repr::EchoReply { ident, seq_no, .. } => {
                    Some(Echo { peer: ip.src_addr().into(), identifier: ident, sequence: seq_no })
                }
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answered_request_is_known_again() {
        for (own, peer) in [("10.0.0.1", "10.0.0.9"), ("fd00::1", "2001:db8::9")] {
            let (own, peer): (IpAddr, IpAddr) = (own.parse().unwrap(), peer.parse().unwrap());
            let mut packet = request(own, &Echo { peer, identifier: 7, sequence: 9 }).unwrap();
            assert_eq!(reply(&packet), None, "it is no reply");
            // As the peer turns it round: type and addresses, with the checksum that follows.
            let header = if own.is_ipv4() { 20 } else { 40 };
            let (old, new) = if own.is_ipv4() { (8, 0) } else { (128, 129) };
            packet[header] = new;
            let sum = u16::from_be_bytes([packet[header + 2], packet[header + 3]]);
            let sum = u32::from(!sum) + u32::from(!(u16::from(old as u8) << 8)) + (u32::from(new) << 8);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
            packet[header + 2..header + 4].copy_from_slice(&sum.to_be_bytes());
            let addresses = if own.is_ipv4() { 12..20 } else { 8..40 };
            let half = addresses.len() / 2;
            packet[addresses].rotate_left(half);
            assert_eq!(reply(&packet), Some(Echo { peer, identifier: 7, sequence: 9 }));
            *packet.last_mut().unwrap() ^= 1;
            assert_eq!(reply(&packet), None, "its checksum is wrong");
        }
        let (four, six) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        assert_eq!(request(four, &Echo { peer: six, identifier: 1, sequence: 1 }), None);
    }

    proptest! {
        #[test]
        fn any_bytes_may_come(bytes in prop::collection::vec(any::<u8>(), 0..120), first in 0x40u8..0x70) {
            let _ = reply(&bytes);
            let _ = reply(&[&[first][..], &bytes].concat());
        }
    }
}
