//! Whether a receiver would take a frame: its lengths and checksums, by etherparse's reading of it and a sum of our own. Nothing
//! of Millrace is asked.

use etherparse::{ArpPacketSlice, IpNumber, Ipv4Slice, Ipv6ExtensionSlice, Ipv6Slice};

/// What is wrong with the lengths or checksums of a frame. Transport checksums of fragments and behind routing headers can't be
/// seen from the frame alone, and count as right.
pub fn fault(frame: &[u8]) -> Option<String> {
    let Some((ether_type, packet)) = behind_tags(frame) else { return Some("no Ethernet header".to_owned()) };
    match ether_type {
        [0x08, 0x00] => match Ipv4Slice::from_slice(packet) {
            Ok(ip) => ipv4_fault(&ip),
            Err(error) => Some(format!("{error}")),
        },
        [0x86, 0xdd] => match Ipv6Slice::from_slice(packet) {
            Ok(ip) => ipv6_fault(&ip),
            Err(error) => Some(format!("{error}")),
        },
        [0x08, 0x06] => ArpPacketSlice::from_slice(packet).err().map(|error| format!("{error}")),
        _ => None,
    }
}

/// The type and the packet behind the Ethernet header and up to two tags.
fn behind_tags(frame: &[u8]) -> Option<([u8; 2], &[u8])> {
    let (mut ether_type, mut rest) = (*frame.get(12..)?.first_chunk()?, &frame[14..]);
    for _ in 0..2 {
        if !matches!(ether_type, [0x81, 0x00] | [0x88, 0xa8]) {
            break;
        }
        (ether_type, rest) = (*rest.get(2..)?.first_chunk()?, &rest[4..]);
    }
    Some((ether_type, rest))
}

fn ipv4_fault(ip: &Ipv4Slice<'_>) -> Option<String> {
    if sum(&[ip.header().slice()]) != 0xffff {
        return Some("checksum of the IPv4 header".to_owned());
    }
    let payload = ip.payload();
    if payload.fragmented {
        return None;
    }
    let addresses = [ip.header().source(), ip.header().destination()].concat();
    transport_fault(payload.ip_number, payload.payload, &addresses)
}

fn ipv6_fault(ip: &Ipv6Slice<'_>) -> Option<String> {
    let payload = ip.payload();
    let routed = ip.extensions().clone().into_iter().any(|it| matches!(it, Ipv6ExtensionSlice::Routing(_)));
    if payload.fragmented || routed {
        return None;
    }
    let addresses = [ip.header().source(), ip.header().destination()].concat();
    transport_fault(payload.ip_number, payload.payload, &addresses)
}

fn transport_fault(protocol: IpNumber, bytes: &[u8], addresses: &[u8]) -> Option<String> {
    let v6 = addresses.len() == 32;
    let short = || Some(format!("protocol {} is cut off", protocol.0));
    let (covered, with_addresses, field) = match protocol {
        IpNumber::TCP => {
            let header = bytes.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4);
            if header < 20 || header > bytes.len() {
                return short();
            }
            (bytes, true, 16)
        }
        IpNumber::UDP => {
            let Some(&[_, _, _, _, high, low, first, second]) = bytes.first_chunk() else { return short() };
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length < 8 || length > bytes.len() {
                return Some("length of the UDP datagram".to_owned());
            }
            if [first, second] == [0, 0] {
                // RFC 768: none was computed. RFC 8200 section 8.1: not in IPv6.
                return v6.then(|| "UDP over IPv6 without checksum".to_owned());
            }
            (&bytes[..length], true, 6)
        }
        IpNumber::ICMP if !v6 => (bytes, false, 2),
        IpNumber::IPV6_ICMP if v6 => (bytes, true, 2),
        _ => return None,
    };
    if covered.len() < 8 {
        return short();
    }
    let pseudo = [&[0, protocol.0][..], &(covered.len() as u16).to_be_bytes()].concat();
    let parts: &[&[u8]] = if with_addresses { &[addresses, &pseudo, covered] } else { &[covered] };
    if sum(parts) == 0xffff {
        return None;
    }
    let found = &covered[field..field + 2];
    Some(format!("checksum {found:02x?} of protocol {}", protocol.0))
}

/// The ones' complement sum of 16-bit words (RFC 1071); each part starts at a word.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u64 =
        words.map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::samples;

    /// Flips of any bit that a checksum covers are seen.
    #[test]
    fn right_frames_are_right_and_damaged_ones_are_not() {
        for (name, frame) in samples() {
            assert_eq!(fault(&frame), None, "{name}");
        }
        let frame = &samples().into_iter().find(|(name, _)| *name == "udp4").unwrap().1;
        for bit in 14 * 8..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Fragment bits make it a fragment: its header checksum is wrong then.
            assert!(fault(&damaged).is_some(), "bit {bit}");
        }
    }
}
