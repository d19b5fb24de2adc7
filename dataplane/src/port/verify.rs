//! Verification of the checksums of a whole frame, for ports that end a test's traffic.
//!
//! Slow on purpose: it walks the frame from its start and trusts no one. Total on any bytes.

use crate::packet::checksum;

/// What the checksums of a frame say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumVerdict {
    /// All checksums that the frame has are right.
    Good,
    /// The IPv4 header checksum is wrong.
    BadIpv4,
    /// The TCP, UDP or ICMP checksum is wrong.
    BadL4,
    /// There was nothing to check: not IP, a fragment, an unknown protocol, or a frame cut short.
    Unchecked,
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// Most VLAN tags and most IPv6 extension headers that are looked through.
const LAYERS_MAX: usize = 8;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Verifies an Ethernet frame without FCS.
pub fn verify_checksums(frame: &[u8]) -> ChecksumVerdict {
    check_ethernet(frame).unwrap_or(ChecksumVerdict::Unchecked)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn check_ethernet(frame: &[u8]) -> Option<ChecksumVerdict> {
    let mut at = 12;
    for _ in 0..LAYERS_MAX {
        let ethertype = word(frame, at)?;
        if !ETHERTYPES_VLAN.contains(&ethertype) {
            let packet = frame.get(at + 2..)?;
            return match ethertype {
                ETHERTYPE_IPV4 => check_ipv4(packet),
                ETHERTYPE_IPV6 => check_ipv6(packet),
                _ => None,
            };
        }
        at += 4;
    }
    None
}

fn check_ipv4(packet: &[u8]) -> Option<ChecksumVerdict> {
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let header = packet.get(..header_bytes.max(20))?;
    if header_bytes < 20 || packet[0] >> 4 != 4 {
        return None;
    }
    if checksum::finish(checksum::sum(header)) != 0 {
        return Some(ChecksumVerdict::BadIpv4);
    }
    // Total length, without the padding of short frames.
    let packet = packet.get(..usize::from(word(packet, 2)?))?;
    let fragment = word(packet, 6)? & 0x3fff != 0;
    if fragment {
        return Some(ChecksumVerdict::Unchecked);
    }
    check_l4(&packet[12..20], packet[9], packet.get(header_bytes..)?, true)
}

fn check_ipv6(packet: &[u8]) -> Option<ChecksumVerdict> {
    if packet.first()? >> 4 != 6 {
        return None;
    }
    let packet = packet.get(..40 + usize::from(word(packet, 4)?))?;
    let mut protocol = packet[6];
    let mut at = 40;
    for _ in 0..LAYERS_MAX {
        match protocol {
            // Hop-by-hop options, destination options: RFC 8200 section 4.2. Routing and fragment headers change
            // what the pseudo-header holds, or where the rest is.
            0 | 60 => {
                protocol = *packet.get(at)?;
                at += 8 + 8 * usize::from(*packet.get(at + 1)?);
            }
            _ => return check_l4(&packet[8..40], protocol, packet.get(at..)?, false),
        }
    }
    None
}

fn check_l4(addresses: &[u8], protocol: u8, segment: &[u8], ipv4: bool) -> Option<ChecksumVerdict> {
    let segment = match protocol {
        UDP => {
            let checksum_field = word(segment, 6)?;
            if checksum_field == 0 {
                // RFC 768: none was computed. RFC 8200 section 8.1: not allowed over IPv6.
                return Some(if ipv4 { ChecksumVerdict::Good } else { ChecksumVerdict::BadL4 });
            }
            segment.get(..usize::from(word(segment, 4)?))?
        }
        TCP => segment.get(..segment.len().max(20))?,
        ICMP if ipv4 => {
            let good = checksum::finish(checksum::sum(segment.get(..segment.len().max(8))?)) == 0;
            return Some(if good { ChecksumVerdict::Good } else { ChecksumVerdict::BadL4 });
        }
        ICMPV6 if !ipv4 => segment.get(..segment.len().max(4))?,
        _ => return None,
    };
    let sum = checksum::pseudo_header(addresses, protocol, segment.len()) + checksum::sum(segment);
    Some(if checksum::finish(sum) == 0 { ChecksumVerdict::Good } else { ChecksumVerdict::BadL4 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn frames(payload: &[u8]) -> Vec<Vec<u8>> {
        let v4 = || PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [192, 168, 3, 4], 9);
        let v6 = || {
            PacketBuilder::ethernet2([1; 6], [2; 6])
                .single_vlan(5.try_into().unwrap())
                .ipv6([1; 16], [2; 16], 9)
        };
        let mut out = vec![Vec::new(); 6];
        v4().udp(5, 6).write(&mut out[0], payload).unwrap();
        v4().tcp(5, 6, 7, 8).write(&mut out[1], payload).unwrap();
        v4().icmpv4_echo_request(5, 6).write(&mut out[2], payload).unwrap();
        v6().udp(5, 6).write(&mut out[3], payload).unwrap();
        v6().tcp(5, 6, 7, 8).write(&mut out[4], payload).unwrap();
        v6().icmpv6_echo_request(5, 6).write(&mut out[5], payload).unwrap();
        out
    }

    proptest! {
        #[test]
        fn frames_of_another_maker_are_good_until_a_bit_flips(
            payload in proptest::collection::vec(any::<u8>(), 1..200),
            padding in 0usize..20,
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            for mut frame in frames(&payload) {
                let length = frame.len();
                frame.resize(length + padding, 0xee);
                prop_assert_eq!(verify_checksums(&frame), ChecksumVerdict::Good);
                // The last byte of the payload is under every L4 checksum.
                let last = length - 1 - at.index(payload.len());
                frame[last] ^= 1 << bit;
                prop_assert_eq!(verify_checksums(&frame), ChecksumVerdict::BadL4);
            }
        }

        #[test]
        fn any_bytes_have_a_verdict(
            bytes in proptest::collection::vec(any::<u8>(), 0..120),
            ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x8100]),
            version in prop::sample::select(vec![0x45u8, 0x46, 0x60]),
        ) {
            let mut bytes = bytes;
            if bytes.len() > 14 {
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
                bytes[14] = version;
            }
            verify_checksums(&bytes);
        }
    }

    #[test]
    fn a_wrong_ipv4_header_and_odd_frames_are_told_apart() {
        let mut frame = frames(b"x").remove(0);
        frame[14 + 8] -= 1;
        assert_eq!(verify_checksums(&frame), ChecksumVerdict::BadIpv4);
        assert_eq!(verify_checksums(&[0xff; 60]), ChecksumVerdict::Unchecked);
        let mut frame = frames(b"x").remove(0);
        frame[14 + 26..14 + 28].fill(0);
        assert_eq!(verify_checksums(&frame), ChecksumVerdict::Good, "UDP over IPv4 without a checksum");
        let mut frame = frames(b"x").remove(3);
        frame[18 + 46..18 + 48].fill(0);
        assert_eq!(verify_checksums(&frame), ChecksumVerdict::BadL4, "UDP over IPv6 needs one");
    }
}
