//! Both ways: what etherparse builds is parsed to the same values, and what is built here is right for etherparse.

use super::samples::{Sample, Upper, any_sample, ipv4, ipv6, link, tcp, udp};
use super::{check_strictly, rebuild};
use crate::headers::tcp::TcpOption;
use crate::headers::vlan::VlanTag;
use crate::headers::{Arp, Network, Parsed, TcpFlags, Transport, serialise};
use etherparse::{IpHeaders, NetHeaders, TcpOptionElement, TransportHeader};
use proptest::prelude::*;

/// Compares what was parsed with what was asked for.
fn check_fields(sample: &Sample, parsed: &Parsed) {
    let tags: Vec<_> = parsed.tags.iter().map(|tag| (tag.tpid, tag.tci)).collect();
    assert_eq!(tags, sample.tags);
    match (&sample.ip, &parsed.network) {
        (IpHeaders::Ipv4(expected, _), Network::V4(ip)) => {
            assert_eq!((ip.source, ip.destination), (expected.source.into(), expected.destination.into()));
            assert_eq!((ip.dscp, ip.ecn), (expected.dscp.value(), expected.ecn.value()));
            assert_eq!((ip.ttl, ip.identification), (expected.time_to_live, expected.identification));
            assert_eq!(ip.dont_fragment, expected.dont_fragment);
            assert_eq!(usize::from(ip.options.length), expected.options.len());
            assert!(!ip.is_fragment());
        }
        (IpHeaders::Ipv6(expected, extensions), Network::V6(ip)) => {
            assert_eq!((ip.source, ip.destination), (expected.source.into(), expected.destination.into()));
            assert_eq!((ip.dscp << 2) | ip.ecn, expected.traffic_class);
            assert_eq!((ip.flow_label, ip.hop_limit), (expected.flow_label.value(), expected.hop_limit));
            assert_eq!(usize::from(ip.extensions.length), extensions.header_len());
            let fragment = extensions.fragment.as_ref().map(|fragment| fragment.identification);
            assert_eq!(ip.fragment.map(|fragment| fragment.identification), fragment);
            assert_eq!(ip.routing.is_some(), extensions.routing.is_some());
            assert!(!ip.is_fragment() && ip.destination_is_final());
        }
        other => panic!("another version: {other:?}"),
    }
    match (&sample.upper, &parsed.transport) {
        (Upper::Udp(from, to), Transport::Udp(udp)) => {
            assert_eq!((udp.source_port, udp.destination_port), (*from, *to));
        }
        (Upper::Tcp(expected), Transport::Tcp(tcp)) => {
            assert_eq!(parsed.ports(), Some((expected.source_port, expected.destination_port)));
            assert_eq!(tcp.sequence, expected.sequence_number);
            assert_eq!(tcp.acknowledgment, expected.acknowledgment_number);
            assert_eq!((tcp.window, tcp.urgent_pointer), (expected.window_size, expected.urgent_pointer));
            assert_eq!(tcp.data_offset(), expected.data_offset());
            assert_eq!(tcp.flags.contains(TcpFlags::SYN), expected.syn);
            assert_eq!(tcp.flags.contains(TcpFlags::ACK), expected.ack);
            assert_eq!(tcp.flags.contains(TcpFlags::RST), expected.rst);
            assert_eq!(tcp.flags.contains(TcpFlags::FIN), expected.fin);
            assert_eq!(tcp.flags.0 & 0x100 != 0, expected.ns);
        }
        (Upper::Echo(id, sequence), Transport::Icmpv4(icmp)) => {
            assert_eq!((icmp.icmp_type, icmp.identifier(), icmp.sequence()), (8, *id, *sequence));
        }
        (Upper::Echo(id, sequence), Transport::Icmpv6(icmp)) => {
            assert_eq!((icmp.icmp_type, icmp.identifier(), icmp.sequence()), (128, *id, *sequence));
        }
        other => panic!("another transport: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn what_etherparse_builds_is_parsed_and_rebuilt(sample in any_sample()) {
        let (frame, end) = sample.build();
        let parsed = Parsed::parse(&frame).unwrap();
        check_fields(&sample, &parsed);
        prop_assert_eq!(usize::from(parsed.offsets.end), end);
        prop_assert_eq!(parsed.payload(&frame), &sample.payload[..]);
        prop_assert!(parsed.network_checksum_is_valid(&frame));
        prop_assert!(parsed.transport_checksum_is_valid(&frame));
        prop_assert_eq!(&rebuild(&parsed, &frame)[..], &frame[..end]);
    }

    #[test]
    fn what_is_edited_and_built_is_right_for_etherparse(
        sample in any_sample(),
        addresses: (u128, u128), ports: (u16, u16), hops: u8, dscp in 0u8..64, shift: u32,
        payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let (frame, _) = sample.build();
        let mut parsed = Parsed::parse(&frame).unwrap();
        edit(&mut parsed, addresses, ports, (hops, dscp), shift);
        if let Transport::Udp(udp) = &mut parsed.transport {
            udp.length = 0;
        }
        let built = serialise::<4096>(&parsed, &frame, &payload).unwrap();
        let packet = check_strictly(&built);
        match packet.net.as_ref().unwrap() {
            NetHeaders::Ipv4(ip, _) => {
                prop_assert_eq!(ip.source, (addresses.0 as u32).to_be_bytes());
                prop_assert_eq!(ip.destination, (addresses.1 as u32).to_be_bytes());
                prop_assert_eq!((ip.time_to_live, ip.dscp.value()), (hops, dscp));
            }
            NetHeaders::Ipv6(ip, _) => {
                prop_assert_eq!(ip.source, addresses.0.to_be_bytes());
                prop_assert_eq!(ip.destination, addresses.1.to_be_bytes());
                prop_assert_eq!((ip.hop_limit, ip.traffic_class >> 2), (hops, dscp));
            }
            NetHeaders::Arp(_) => prop_assert!(false),
        }
        match packet.transport.as_ref().unwrap() {
            TransportHeader::Udp(udp) => prop_assert_eq!((udp.source_port, udp.destination_port), ports),
            TransportHeader::Tcp(tcp) => prop_assert_eq!((tcp.source_port, tcp.destination_port), ports),
            _ => {}
        }
        let again = Parsed::parse(&built).unwrap();
        prop_assert!(again.network_checksum_is_valid(&built) && again.transport_checksum_is_valid(&built));
        prop_assert_eq!(again.payload(&built), &payload[..]);
    }

    #[test]
    fn a_flipped_bit_breaks_a_checksum(sample in any_sample(), at: prop::sample::Index, bit in 0u8..8) {
        let (mut frame, end) = sample.build();
        let parsed = Parsed::parse(&frame).unwrap();
        let start = usize::from(parsed.offsets.transport);
        let at = start + at.index(end - start);
        frame[at] ^= 1 << bit;
        // A length may now be wrong, or the UDP checksum absent.
        let Ok(broken) = Parsed::parse(&frame) else { return Ok(()) };
        if !matches!(broken.transport, Transport::Udp(udp) if udp.checksum == 0) {
            prop_assert!(!broken.transport_checksum_is_valid(&frame));
        }
    }
}

fn edit(parsed: &mut Parsed, addresses: (u128, u128), ports: (u16, u16), (hops, dscp): (u8, u8), shift: u32) {
    match &mut parsed.network {
        Network::V4(ip) => {
            (ip.source, ip.destination) = ((addresses.0 as u32).into(), (addresses.1 as u32).into());
            (ip.ttl, ip.dscp) = (hops, dscp);
        }
        Network::V6(ip) => {
            (ip.source, ip.destination) = (addresses.0.into(), addresses.1.into());
            (ip.hop_limit, ip.dscp) = (hops, dscp);
        }
        Network::None | Network::Arp(_) => {}
    }
    match &mut parsed.transport {
        Transport::Udp(udp) => (udp.source_port, udp.destination_port) = ports,
        Transport::Tcp(tcp) => {
            (tcp.source_port, tcp.destination_port) = ports;
            tcp.sequence = tcp.sequence.wrapping_add(shift);
        }
        Transport::Icmpv4(icmp) => icmp.set_identifier(ports.0),
        Transport::Icmpv6(icmp) => icmp.set_identifier(ports.0),
        Transport::None | Transport::Other(_) => {}
    }
}

/// Puts `value` into the UDP checksum field.
fn set_udp_checksum(frame: &mut [u8], value: u16) {
    let at = usize::from(Parsed::parse(frame).unwrap().offsets.transport) + 6;
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[test]
fn a_udp_checksum_of_zero_stays_zero_and_is_right_in_ipv4_only() {
    for (ip, valid) in [(ipv4(), true), (ipv6(), false)] {
        let mut frame = udp(ip, b"data");
        set_udp_checksum(&mut frame, 0);
        let parsed = Parsed::parse(&frame).unwrap();
        assert_eq!(parsed.transport_checksum_is_valid(&frame), valid, "RFC 768, RFC 8200 section 8.1");
        assert_eq!(&rebuild(&parsed, &frame)[..], &frame[..]);
    }
}

#[test]
fn a_udp_checksum_that_computes_to_zero_is_sent_as_ones() {
    // RFC 768. The payload's last word is chosen so that the sum of all else is its complement.
    let mut frame = udp(ipv4(), &[0; 4]);
    let parsed = Parsed::parse(&frame).unwrap();
    let Transport::Udp(header) = parsed.transport else { panic!() };
    let end = frame.len();
    frame[end - 2..].copy_from_slice(&header.checksum.to_be_bytes());
    let rebuilt = rebuild(&parsed, &frame);
    let Transport::Udp(header) = Parsed::parse(&rebuilt).unwrap().transport else { panic!() };
    assert_eq!(header.checksum, 0xffff);
    assert!(Parsed::parse(&rebuilt).unwrap().transport_checksum_is_valid(&rebuilt));
}

#[test]
fn bytes_behind_a_udp_datagram_are_kept() {
    // RFC 9868: the UDP length may be shorter than what IP carries.
    let mut frame = udp(ipv4(), b"datasurplus!");
    let at = usize::from(Parsed::parse(&frame).unwrap().offsets.transport);
    frame[at + 5] = 8 + 4;
    let parsed = Parsed::parse(&frame).unwrap();
    assert_eq!(parsed.payload(&frame), b"datasurplus!");
    let rebuilt = rebuild(&parsed, &frame);
    let again = Parsed::parse(&rebuilt).unwrap();
    assert!(matches!(again.transport, Transport::Udp(udp) if udp.length == 12));
    assert!(again.transport_checksum_is_valid(&rebuilt));
    assert_eq!(again.payload(&rebuilt), b"datasurplus!");
}

#[test]
fn a_third_tag_and_unknown_types_are_opaque() {
    let mut frame = link(&[(0x88a8, 0x6123), (0x8100, 0x1002), (0x8100, 3)], 0x0800);
    frame.extend([0; 40]);
    let parsed = Parsed::parse(&frame).unwrap();
    let expected = [VlanTag { tpid: 0x88a8, tci: 0x6123 }, VlanTag { tpid: 0x8100, tci: 0x1002 }];
    assert_eq!(parsed.tags[..], expected);
    assert_eq!(
        (expected[0].vlan_id(), expected[0].priority(), expected[0].drop_eligible()),
        (0x123, 3, false)
    );
    assert!(expected[1].drop_eligible());
    assert_eq!((parsed.ethernet.ether_type, parsed.network), (0x8100, Network::None));
    assert_eq!(&rebuild(&parsed, &frame)[..], &frame[..]);
    // An 802.3 frame: the type is a length.
    let mut frame = link(&[], 38);
    frame.extend([0x42; 46]);
    let parsed = Parsed::parse(&frame).unwrap();
    assert_eq!(
        (parsed.ethernet.ether_type, parsed.network, parsed.transport),
        (38, Network::None, Transport::None)
    );
    assert_eq!(&rebuild(&parsed, &frame)[..], &frame[..]);
}

#[test]
fn arp_is_parsed_without_its_padding() {
    let packet = etherparse::ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        etherparse::EtherType::IPV4,
        etherparse::ArpOperation::REQUEST,
        &[1, 2, 3, 4, 5, 6],
        &[192, 0, 2, 1],
        &[0; 6],
        &[192, 0, 2, 9],
    )
    .unwrap();
    let mut frame = link(&[(0x8100, 5)], 0x0806);
    packet.write(&mut frame).unwrap();
    let end = frame.len();
    frame.resize(64, 0);
    let parsed = Parsed::parse(&frame).unwrap();
    let expected = Arp {
        operation: 1,
        sender_mac: [1, 2, 3, 4, 5, 6],
        sender_address: [192, 0, 2, 1].into(),
        target_mac: [0; 6],
        target_address: [192, 0, 2, 9].into(),
    };
    assert_eq!(parsed.network, Network::Arp(expected));
    assert_eq!(usize::from(parsed.offsets.end), end);
    assert_eq!(&rebuild(&parsed, &frame)[..], &frame[..end]);
}

#[test]
fn tcp_options_are_found_with_their_places() {
    let frame = tcp(ipv4(), b"", |tcp| {
        let options = [
            TcpOptionElement::Noop,
            TcpOptionElement::MaximumSegmentSize(1460),
            TcpOptionElement::SelectiveAcknowledgementPermitted,
            TcpOptionElement::Timestamp(0x0102_0304, 0x0506_0708),
            TcpOptionElement::WindowScale(7),
            TcpOptionElement::SelectiveAcknowledgement((10, 20), [Some((0xffff_fff0, 5)), None, None]),
        ];
        tcp.set_options(&options).unwrap();
    });
    let parsed = Parsed::parse(&frame).unwrap();
    let Transport::Tcp(header) = parsed.transport else { panic!() };
    let (at, value) = header.maximum_segment_size(&frame).unwrap();
    assert_eq!((value, &frame[at..at + 2]), (1460, &1460u16.to_be_bytes()[..]));
    let found: Vec<_> = header.options(&frame).map(|option| option.option).collect();
    assert_eq!(found[0], TcpOption::MaximumSegmentSize(1460));
    assert_eq!(found[1], TcpOption::SackPermitted);
    assert_eq!(found[2], TcpOption::Timestamps { value: 0x0102_0304, echo_reply: 0x0506_0708 });
    assert_eq!(found[3], TcpOption::WindowScale(7));
    let TcpOption::SackBlocks(blocks) = found[4] else { panic!() };
    assert_eq!(blocks.as_slice(), [(10, 20), (0xffff_fff0, 5)]);
    assert_eq!(found.len(), 5);
    for found in header.options(&frame) {
        assert!(matches!(frame[usize::from(found.at)], 2..=8));
    }
}

#[test]
fn bad_tcp_options_end_the_options() {
    // RFC 9293 section 3.1: a length below 2 or beyond the header is no option; the end stops all.
    for (bytes, count) in [([2u8, 1, 0, 0], 0), ([3, 3, 7, 0], 1), ([99, 2, 5, 200], 1), ([0, 3, 3, 7], 0)] {
        let frame = tcp(ipv4(), b"data", |tcp| tcp.set_options_raw(&bytes).unwrap());
        let Transport::Tcp(header) = Parsed::parse(&frame).unwrap().transport else { panic!() };
        assert_eq!(header.options(&frame).count(), count, "{bytes:?}");
    }
    let wrong_length = [2u8, 3, 1, 0];
    let frame = tcp(ipv4(), b"data", |tcp| tcp.set_options_raw(&wrong_length).unwrap());
    let Transport::Tcp(header) = Parsed::parse(&frame).unwrap().transport else { panic!() };
    assert_eq!(header.options(&frame).next().unwrap().option, TcpOption::Other { kind: 2, length: 3 });
    assert_eq!(header.maximum_segment_size(&frame), None);
}

#[test]
fn what_does_not_fit_is_refused() {
    let frame = udp(ipv4(), b"data");
    let parsed = Parsed::parse(&frame).unwrap();
    assert!(serialise::<46>(&parsed, &frame, b"data").is_ok());
    assert!(serialise::<45>(&parsed, &frame, b"data").is_err());
    let huge = vec![0; 65_535];
    assert!(serialise::<70_000>(&parsed, &frame, &huge[..65_507]).is_ok());
    assert!(serialise::<70_000>(&parsed, &frame, &huge[..65_508]).is_err());
}
