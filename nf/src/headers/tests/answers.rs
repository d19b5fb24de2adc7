//! Frames that the data plane originates, checked by etherparse.

use super::samples::{
    CLIENT, CLIENT_MAC, CLIENT6, ROUTER_MAC, SERVER, SERVER6, Sample, Upper, any_sample, echo, ipv4, ipv6,
    tcp, udp,
};
use super::{Buffer, Parsed, check_strictly};
use crate::headers::answer::{IcmpError, echo_reply, icmp_error, may_answer_with_error, tcp_reset};
use crate::headers::{Embedded, FrameBuffer, Network, Transport};
use etherparse::{
    Icmpv4Type, Icmpv6Type, LinkHeader, NetHeaders, PacketHeaders, PayloadSlice, TcpHeader, TransportHeader,
    icmpv4, icmpv6,
};
use proptest::prelude::*;
use std::net::IpAddr;

const ROUTER: [u8; 4] = [192, 0, 2, 254];
const ROUTER6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfe];

/// Checks lengths, checksums and that it goes back to the client.
fn check_answer(frame: &[u8]) -> PacketHeaders<'_> {
    let packet = check_strictly(frame);
    let Some(LinkHeader::Ethernet2(link)) = &packet.link else { panic!() };
    assert_eq!((link.source, link.destination), (ROUTER_MAC, CLIENT_MAC));
    packet
}

fn error(frame: &[u8], error: IcmpError) -> Option<FrameBuffer> {
    let parsed = Parsed::parse(frame).unwrap();
    let source = match parsed.network {
        Network::V4(_) => IpAddr::from(ROUTER),
        _ => IpAddr::from(ROUTER6),
    };
    icmp_error(&parsed, frame, error, ROUTER_MAC, source)
}

#[test]
fn icmpv4_errors_quote_as_much_as_fits_576_bytes() {
    for payload in [0, 100, 519, 520, 521, 1400] {
        let original = udp(ipv4(), &vec![5; payload]);
        let frame = error(&original, IcmpError::TooBig { mtu: 1400 }).unwrap();
        let packet = check_answer(&frame);
        let Some(NetHeaders::Ipv4(ip, _)) = &packet.net else { panic!() };
        assert_eq!((ip.source, ip.destination, ip.time_to_live), (ROUTER, CLIENT, 64));
        assert_eq!(ip.dscp.value() >> 3, 6, "RFC 1812 section 4.3.2.5: precedence");
        let Some(TransportHeader::Icmpv4(icmp)) = &packet.transport else { panic!() };
        let expected = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
        assert_eq!(icmp.icmp_type, Icmpv4Type::DestinationUnreachable(expected));
        let PayloadSlice::Icmpv4(quote) = packet.payload else { panic!() };
        assert_eq!(quote, &original[14..original.len().min(14 + 548)], "RFC 1812 section 4.3.2.3");
        assert!(ip.total_len <= 576);
    }
}

#[test]
fn icmpv6_errors_quote_as_much_as_fits_1280_bytes() {
    for payload in [0, 1183, 1184, 1185, 1400] {
        let original = udp(ipv6(), &vec![5; payload]);
        let frame = error(&original, IcmpError::TooBig { mtu: 1400 }).unwrap();
        let packet = check_answer(&frame);
        let Some(NetHeaders::Ipv6(ip, _)) = &packet.net else { panic!() };
        assert_eq!((ip.source, ip.destination, ip.hop_limit), (ROUTER6, CLIENT6, 64));
        let Some(TransportHeader::Icmpv6(icmp)) = &packet.transport else { panic!() };
        assert_eq!(icmp.icmp_type, Icmpv6Type::PacketTooBig { mtu: 1400 });
        let PayloadSlice::Icmpv6(quote) = packet.payload else { panic!() };
        assert_eq!(quote, &original[14..original.len().min(14 + 1232)], "RFC 4443 section 2.4(c)");
        assert!(ip.payload_length + 40 <= 1280);
    }
}

#[test]
fn errors_have_the_types_of_their_version() {
    use icmpv4::DestUnreachableHeader as V4;
    use icmpv6::DestUnreachableCode as V6;
    let unreachable =
        |v4, v6| (Icmpv4Type::DestinationUnreachable(v4), Icmpv6Type::DestinationUnreachable(v6));
    for (kind, (v4, v6)) in [
        (IcmpError::NoRoute, unreachable(V4::Network, V6::NoRoute)),
        (IcmpError::AddressUnreachable, unreachable(V4::Host, V6::Address)),
        (IcmpError::PortUnreachable, unreachable(V4::Port, V6::Port)),
        (IcmpError::Prohibited, unreachable(V4::FilterProhibited, V6::Prohibited)),
        (
            IcmpError::HopLimitExceeded,
            (
                Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
                Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
            ),
        ),
        (
            IcmpError::ReassemblyTimeExceeded,
            (
                Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::FragmentReassemblyTimeExceeded),
                Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::FragmentReassemblyTimeExceeded),
            ),
        ),
    ] {
        let frame = error(&udp(ipv4(), b"data"), kind).unwrap();
        let Some(TransportHeader::Icmpv4(icmp)) = check_answer(&frame).transport else { panic!() };
        assert_eq!(icmp.icmp_type, v4);
        let frame = error(&udp(ipv6(), b"data"), kind).unwrap();
        let Some(TransportHeader::Icmpv6(icmp)) = check_answer(&frame).transport else { panic!() };
        assert_eq!(icmp.icmp_type, v6);
    }
    for (kind, code) in [
        (IcmpError::ParameterProblem { pointer: 40 }, icmpv6::ParameterProblemCode::ErroneousHeaderField),
        (
            IcmpError::ProtocolUnreachable { pointer: 40 },
            icmpv6::ParameterProblemCode::UnrecognizedNextHeader,
        ),
        (IcmpError::UnrecognisedOption { pointer: 40 }, icmpv6::ParameterProblemCode::UnrecognizedIpv6Option),
    ] {
        let frame = error(&udp(ipv6(), b"data"), kind).unwrap();
        let Some(TransportHeader::Icmpv6(icmp)) = check_answer(&frame).transport else { panic!() };
        let expected = icmpv6::ParameterProblemHeader { code, pointer: 40 };
        assert_eq!(icmp.icmp_type, Icmpv6Type::ParameterProblem(expected));
    }
}

/// `frame` with `bytes` at `at`; checksums are of no matter here.
fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn errors_that_ipv4_forbids() {
    let may = |frame: &[u8]| may_answer_with_error(&Parsed::parse(frame).unwrap(), IcmpError::NoRoute);
    let frame = || udp(ipv4(), &[1; 40]);
    assert!(may(&frame()));
    // RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7.
    let about = error(&frame(), IcmpError::NoRoute).unwrap();
    assert!(!may(&about), "an ICMP error");
    assert!(may(&echo(ipv4(), b"ping")), "an ICMP query");
    assert!(!may(&with(echo(ipv4(), b"ping"), 34, &[99])), "an unknown ICMP type");
    assert!(!may(&with(frame(), 20, &[0, 5])), "a later fragment");
    assert!(may(&with(frame(), 20, &[0x20, 0])), "a first fragment");
    assert!(!may(&with(frame(), 0, &[0xff; 6])), "link-layer broadcast");
    assert!(!may(&with(frame(), 0, &[1, 0, 0x5e, 0, 0, 1])), "link-layer multicast");
    for destination in [[224, 0, 0, 1], [255, 255, 255, 255], [239, 1, 2, 3], [240, 0, 0, 1]] {
        assert!(!may(&with(frame(), 30, &destination)), "to {destination:?}");
    }
    for source in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
        assert!(!may(&with(frame(), 26, &source)), "from {source:?}");
    }
    assert!(!may(&super::samples::link(&[], 0x1234)), "not IP");
}

#[test]
fn errors_that_ipv6_forbids() {
    let may = |frame: &[u8], error| may_answer_with_error(&Parsed::parse(frame).unwrap(), error);
    let (no_route, too_big) = (IcmpError::NoRoute, IcmpError::TooBig { mtu: 1280 });
    let frame = || udp(ipv6(), &[1; 40]);
    assert!(may(&frame(), no_route));
    // RFC 4443 section 2.4(e), by its numbers.
    let about = error(&frame(), no_route).unwrap();
    assert!(!may(&about, no_route) && !may(&about, too_big), "(e.1)");
    assert!(!may(&with(echo(ipv6(), &[0; 40]), 54, &[100]), no_route), "(e.1) an unknown error");
    assert!(!may(&with(echo(ipv6(), &[0; 40]), 54, &[137]), no_route), "(e.2) a redirect");
    let multicast = with(frame(), 38, &[0xff, 2]);
    assert!(!may(&multicast, no_route), "(e.3)");
    assert!(
        may(&multicast, too_big) && may(&multicast, IcmpError::UnrecognisedOption { pointer: 40 }),
        "(e.3)"
    );
    let link_multicast = with(frame(), 0, &[0x33, 0x33, 0, 0, 0, 1]);
    assert!(!may(&link_multicast, no_route) && may(&link_multicast, too_big), "(e.4), (e.5)");
    for source in [[0u8; 16], [0xff; 16], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]] {
        assert!(!may(&with(frame(), 22, &source), too_big), "(e.6)");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn echo_replies_return_everything(sample in any_sample(), id: u16, sequence: u16) {
        let sample = Sample { upper: Upper::Echo(id, sequence), ..sample };
        let (frame, _) = sample.build();
        let parsed = Parsed::parse(&frame).unwrap();
        let (source, destination) = parsed.addresses().unwrap();
        let reply: Option<Buffer> = echo_reply(&parsed, &frame, ROUTER_MAC, destination);
        if !may_answer_with_error(&parsed, IcmpError::TooBig { mtu: 1280 }) {
            // The source is no host, or the destination a group, which may be answered.
            prop_assume!(reply.is_some());
        }
        let reply = reply.unwrap();
        let packet = check_answer(&reply);
        prop_assert_eq!(packet.link_exts.len(), sample.tags.len());
        let again = Parsed::parse(&reply).unwrap();
        prop_assert_eq!(&again.tags, &parsed.tags);
        prop_assert_eq!(again.addresses(), Some((destination, source)));
        prop_assert_eq!(again.payload(&reply), &sample.payload[..]);
        match again.transport {
            Transport::Icmpv4(icmp) => prop_assert_eq!((icmp.icmp_type, icmp.identifier(), icmp.sequence()), (0, id, sequence)),
            Transport::Icmpv6(icmp) => prop_assert_eq!((icmp.icmp_type, icmp.identifier(), icmp.sequence()), (129, id, sequence)),
            _ => prop_assert!(false),
        }
    }

    #[test]
    fn errors_quote_the_packet_that_can_be_found_again(sample in any_sample()) {
        let (frame, _) = sample.build();
        let parsed = Parsed::parse(&frame).unwrap();
        let answer = error(&frame, IcmpError::HopLimitExceeded);
        prop_assert_eq!(answer.is_some(), may_answer_with_error(&parsed, IcmpError::HopLimitExceeded));
        let Some(answer) = answer else { return Ok(()) };
        check_answer(&answer);
        let outer = Parsed::parse(&answer).unwrap();
        prop_assert_eq!(&outer.tags, &parsed.tags);
        let quote = Embedded::parse(&outer, &answer).unwrap().unwrap();
        prop_assert!(quote.complete);
        prop_assert_eq!(quote.ports(), parsed.ports());
        let start = usize::from(quote.offsets.network);
        prop_assert_eq!(&answer[start..usize::from(quote.offsets.end)], parsed.packet(&frame));
    }
}

#[test]
fn only_whole_echo_requests_are_replied_to() {
    let reply = |frame: &[u8]| {
        let parsed = Parsed::parse(frame).unwrap();
        let (_, destination) = parsed.addresses().unwrap();
        echo_reply::<1600>(&parsed, frame, ROUTER_MAC, destination)
    };
    for ip in [ipv4, ipv6] {
        let request = echo(ip(), b"ping");
        let answer = reply(&request).unwrap();
        assert!(reply(&answer).is_none(), "a reply");
        assert!(reply(&udp(ip(), b"data")).is_none(), "UDP");
        let parsed = Parsed::parse(&request).unwrap();
        assert!(
            echo_reply::<40>(&parsed, &request, ROUTER_MAC, parsed.addresses().unwrap().1).is_none(),
            "no room"
        );
    }
    assert!(reply(&with(echo(ipv4(), b"pingpongpingpong"), 20, &[0x20, 0])).is_none(), "a fragment");
    assert!(reply(&with(echo(ipv4(), b"ping"), 26, &[224, 0, 0, 1])).is_none(), "from a group");
    let request = echo(ipv4(), b"ping");
    let parsed = Parsed::parse(&request).unwrap();
    assert!(echo_reply::<1600>(&parsed, &request, ROUTER_MAC, ROUTER6.into()).is_none(), "another version");
    // A jumbo request is answered where the buffer is as large.
    let request = echo(ipv4(), &[7; 8000]);
    let parsed = Parsed::parse(&request).unwrap();
    let answer = echo_reply::<9022>(&parsed, &request, ROUTER_MAC, SERVER.into()).unwrap();
    assert_eq!(Parsed::parse(&answer).unwrap().payload(&answer), &[7; 8000]);
}

/// A change of the segment's header, its payload, and the reset's sequence number, acknowledgment and ACK flag.
type Case = (fn(&mut TcpHeader), &'static [u8], (u32, u32, bool));

#[test]
fn resets_answer_segments_as_a_closed_port_does() {
    // RFC 9293 section 3.10.7.1.
    for (ip, from, to) in [
        (ipv4(), IpAddr::from(SERVER), IpAddr::from(CLIENT)),
        (ipv6(), IpAddr::from(SERVER6), IpAddr::from(CLIENT6)),
    ] {
        let cases: [Case; 4] = [
            (|tcp| tcp.syn = true, b"", (0, 1001, true)),
            (|tcp| (tcp.syn, tcp.fin) = (true, true), b"data", (0, 1006, true)),
            (|tcp| (tcp.syn, tcp.sequence_number) = (true, u32::MAX), b"", (0, 0, true)),
            (|tcp| (tcp.ack, tcp.acknowledgment_number) = (true, 555), b"data", (555, 0, false)),
        ];
        for (set, payload, (sequence, acknowledgment, ack)) in cases {
            let segment = tcp(ip.clone(), payload, set);
            let reset = tcp_reset(&Parsed::parse(&segment).unwrap(), &segment, ROUTER_MAC).unwrap();
            let Some(TransportHeader::Tcp(header)) = check_answer(&reset).transport else { panic!() };
            assert_eq!((header.source_port, header.destination_port), (80, 4000));
            assert_eq!((header.sequence_number, header.acknowledgment_number), (sequence, acknowledgment));
            assert_eq!((header.rst, header.ack, header.syn, header.window_size), (true, ack, false, 0));
            let again = Parsed::parse(&reset).unwrap();
            assert_eq!(again.addresses(), Some((from, to)));
            assert!(tcp_reset(&again, &reset, ROUTER_MAC).is_none(), "no reset for a reset");
        }
    }
    let refused = [
        udp(ipv4(), b"data"),
        with(tcp(ipv4(), b"", |_| {}), 0, &[0xff; 6]),
        with(tcp(ipv4(), b"", |_| {}), 30, &[224, 0, 0, 1]),
        with(tcp(ipv4(), b"", |_| {}), 26, &[127, 0, 0, 1]),
        with(tcp(ipv4(), &[0; 12], |_| {}), 20, &[0x20, 0]),
        with(tcp(ipv6(), b"", |_| {}), 38, &[0xff, 2]),
    ];
    for segment in refused {
        assert!(tcp_reset(&Parsed::parse(&segment).unwrap(), &segment, ROUTER_MAC).is_none());
    }
}
