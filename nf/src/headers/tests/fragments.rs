//! Fragments: which are accepted, what is known of them, and how the first one is rebuilt.

use super::rebuild;
use super::samples::{CLIENT6, SERVER6, ipv4, ipv6, tcp, udp};
use crate::headers::{Network, Parsed, Transport};
use etherparse::{Ipv4Header, NetHeaders, PacketHeaders, PayloadSlice, TransportHeader};
use millrace_dataplane::drops::DropReason;

/// Cuts the IPv4 packet in `frame` (no tags, no options) at `cut` bytes of its payload.
fn cut_ipv4(frame: &[u8], cut: usize) -> [Vec<u8>; 2] {
    let (headers, payload) = frame.split_at(34);
    let part = |payload: &[u8], flags: u16| {
        let mut fragment = [headers, payload].concat();
        let length = (20 + payload.len()) as u16;
        fragment[16..18].copy_from_slice(&length.to_be_bytes());
        fragment[20..22].copy_from_slice(&flags.to_be_bytes());
        let (header, _) = Ipv4Header::from_slice(&fragment[14..]).unwrap();
        fragment[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        fragment
    };
    [part(&payload[..cut], 0x2000), part(&payload[cut..], (cut / 8) as u16)]
}

/// Cuts the IPv6 packet in `frame` (no tags, no extension headers) at `cut` bytes of its payload.
fn cut_ipv6(frame: &[u8], cut: usize) -> [Vec<u8>; 2] {
    let (headers, payload) = frame.split_at(54);
    let part = |payload: &[u8], offset: u16| {
        let [high, low] = offset.to_be_bytes();
        let mut fragment = [headers, &[headers[20], 0, high, low, 9, 9, 9, 9], payload].concat();
        let length = (8 + payload.len()) as u16;
        fragment[18..20].copy_from_slice(&length.to_be_bytes());
        fragment[20] = 44;
        fragment
    };
    [part(&payload[..cut], 1), part(&payload[cut..], cut as u16)]
}

fn reason(frame: &[u8]) -> DropReason {
    Parsed::parse(frame).expect_err("refused")
}

#[test]
fn later_fragments_have_no_transport() {
    let payload = [7; 64];
    for [first, later] in [cut_ipv4(&udp(ipv4(), &payload), 32), cut_ipv6(&udp(ipv6(), &payload), 32)] {
        let parsed = Parsed::parse(&first).unwrap();
        assert!(parsed.is_fragment() && !parsed.is_later_fragment());
        assert!(
            matches!(parsed.transport, Transport::Udp(udp) if udp.length == 72),
            "longer than the fragment"
        );
        assert!(parsed.transport_checksum_is_valid(&first), "can't be judged");
        assert_eq!(&rebuild(&parsed, &first)[..], &first[..]);
        let parsed = Parsed::parse(&later).unwrap();
        assert!(parsed.is_fragment() && parsed.is_later_fragment());
        assert_eq!((parsed.transport, parsed.protocol()), (Transport::None, Some(17)));
        assert_eq!(parsed.payload(&later), &payload[..40]);
        assert_eq!(&rebuild(&parsed, &later)[..], &later[..]);
    }
}

#[test]
fn a_rewritten_first_fragment_keeps_the_checksum_of_the_whole() {
    // RFC 1624: what changes in the headers changes the checksum; the rest of the data is elsewhere.
    let payload: Vec<u8> = (0..100).collect();
    for whole in [udp(ipv4(), &payload), udp(ipv6(), &payload)] {
        let is_ipv4 = matches!(Parsed::parse(&whole).unwrap().network, Network::V4(_));
        let [first, later] = if is_ipv4 { cut_ipv4(&whole, 48) } else { cut_ipv6(&whole, 48) };
        let mut parsed = Parsed::parse(&first).unwrap();
        match &mut parsed.network {
            Network::V4(ip) => ip.source = [203, 0, 113, 77].into(),
            Network::V6(ip) => ip.source = "2001:db8:ffff::99".parse().unwrap(),
            _ => unreachable!(),
        }
        let Transport::Udp(header) = &mut parsed.transport else { panic!() };
        header.source_port = 61_000;
        let rebuilt = rebuild(&parsed, &first);
        let again = Parsed::parse(&rebuilt).unwrap();
        let Transport::Udp(header) = again.transport else { panic!() };
        // Put together: the IP header of the rebuilt fragment without its fragment fields, and both payloads.
        let mut reassembled = whole[..14].to_vec();
        let mut ip = rebuilt[14..usize::from(again.offsets.network) + if is_ipv4 { 20 } else { 40 }].to_vec();
        if is_ipv4 {
            ip[2..4].copy_from_slice(&128u16.to_be_bytes());
            ip[6..8].copy_from_slice(&[0, 0]);
        } else {
            ip[4..6].copy_from_slice(&108u16.to_be_bytes());
            ip[6] = 17;
        }
        reassembled.extend(ip);
        reassembled.extend(&rebuilt[usize::from(again.offsets.transport)..]);
        reassembled.extend(Parsed::parse(&later).unwrap().payload(&later));
        let packet = PacketHeaders::from_ethernet_slice(&reassembled).unwrap();
        let PayloadSlice::Udp(data) = packet.payload else { panic!() };
        assert_eq!(data, &payload[..]);
        let Some(TransportHeader::Udp(udp)) = packet.transport else { panic!() };
        let computed = match packet.net.unwrap() {
            NetHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(&ip, data).unwrap(),
            NetHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(&ip, data).unwrap(),
            NetHeaders::Arp(_) => unreachable!(),
        };
        assert_eq!((udp.source_port, header.checksum), (61_000, computed));
    }
}

#[test]
fn tiny_and_overlapping_fragments_are_refused() {
    let payload = [7; 64];
    for [first, later] in
        [cut_ipv4(&tcp(ipv4(), &payload, |_| {}), 16), cut_ipv6(&tcp(ipv6(), &payload, |_| {}), 16)]
    {
        // RFC 1858 section 3: the first fragment has no whole TCP header.
        assert_eq!(reason(&first), DropReason::FragmentInvalid);
        assert!(Parsed::parse(&later).is_ok(), "harmless without the first");
    }
    // RFC 3128 section 4: offset 1 lies inside the TCP header.
    let [_, later] = cut_ipv4(&tcp(ipv4(), &payload, |_| {}), 8);
    assert_eq!(reason(&later), DropReason::FragmentInvalid);
    let [_, later] = cut_ipv6(&tcp(ipv6(), &payload, |_| {}), 8);
    assert_eq!(reason(&later), DropReason::FragmentInvalid);
    // The same of UDP is usual.
    let [_, later] = cut_ipv4(&udp(ipv4(), &payload), 8);
    assert!(Parsed::parse(&later).is_ok());
}

#[test]
fn impossible_fragments_are_refused() {
    let payload = [7; 64];
    let whole = udp(ipv4(), &payload);
    // RFC 791 section 3.2: fragments but the last are multiples of eight bytes.
    let [first, _] = cut_ipv4(&whole, 20);
    assert_eq!(reason(&first), DropReason::FragmentInvalid);
    let [first, _] = cut_ipv6(&udp(ipv6(), &payload), 20);
    assert_eq!(reason(&first), DropReason::FragmentInvalid, "RFC 8200 section 4.5");
    // The end may not exceed 65,535 bytes ("ping of death").
    let [_, mut later] = cut_ipv4(&whole, 16);
    later[20..22].copy_from_slice(&0x1fffu16.to_be_bytes());
    assert_eq!(reason(&later), DropReason::FragmentInvalid);
    later[20..22].copy_from_slice(&((65_535 - 20 - 56) / 8u16).to_be_bytes());
    assert!(Parsed::parse(&later).is_ok());
    let [_, mut later] = cut_ipv6(&udp(ipv6(), &payload), 16);
    later[56..58].copy_from_slice(&0xfff8u16.to_be_bytes());
    assert_eq!(reason(&later), DropReason::FragmentInvalid);
    // An empty fragment.
    let [_, later] = cut_ipv4(&whole, 72);
    assert_eq!(reason(&later), DropReason::FragmentInvalid);
}

#[test]
fn a_first_ipv6_fragment_holds_the_whole_chain() {
    // RFC 7112 section 5: destination options whose length points behind the fragment.
    let mut frame = udp(ipv6(), &[7; 64]);
    frame.truncate(54);
    frame[18..20].copy_from_slice(&16u16.to_be_bytes());
    frame[20] = 44;
    frame.extend([60, 0, 0, 1, 9, 9, 9, 9]);
    frame.extend([17, 3, 1, 4, 0, 0, 0, 0]);
    assert_eq!(reason(&frame), DropReason::FragmentInvalid);
    // A fragment inside a fragment (RFC 8200 section 4.1: at most one of each).
    let mut frame = udp(ipv6(), &[7; 8]);
    frame.truncate(54);
    frame[18..20].copy_from_slice(&32u16.to_be_bytes());
    frame[20] = 44;
    frame.extend([44, 0, 0, 0, 9, 9, 9, 9]);
    frame.extend([17, 0, 0, 0, 9, 9, 9, 9]);
    frame.extend([0x11, 0x22, 0, 53, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(reason(&frame), DropReason::FragmentInvalid);
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    // RFC 6946: offset 0 and no more fragments.
    let mut frame = udp(ipv6(), b"datadata");
    let data = frame.split_off(54);
    frame[18..20].copy_from_slice(&24u16.to_be_bytes());
    frame[20] = 44;
    frame.extend([17, 0, 0, 0, 9, 9, 9, 9]);
    frame.extend(data);
    let parsed = Parsed::parse(&frame).unwrap();
    assert!(!parsed.is_fragment() && parsed.transport_checksum_is_valid(&frame));
    let Network::V6(ip) = parsed.network else { panic!() };
    assert_eq!((ip.source, ip.destination), (CLIENT6.into(), SERVER6.into()));
    let fragment = ip.fragment.unwrap();
    assert_eq!((fragment.at, fragment.identification), (54, 0x0909_0909));
    assert_eq!(&rebuild(&parsed, &frame)[..], &frame[..]);
}

#[test]
fn nothing_is_read_behind_the_header_of_a_later_ipv6_fragment() {
    // RFC 8200 section 4.5: the next header names what the first fragment starts with; here is data from its middle.
    let [_, mut later] = cut_ipv6(&udp(ipv6(), &[0xff; 64]), 32);
    later[54] = 60;
    let parsed = Parsed::parse(&later).unwrap();
    assert_eq!((parsed.transport, parsed.protocol()), (Transport::None, Some(60)));
    assert_eq!(parsed.payload(&later), [0xff; 40]);
}
