//! The packets that ICMP errors quote.

use super::Parsed;
use super::samples::{CLIENT, CLIENT6, SERVER, SERVER6, echo, ipv4, ipv6, tcp, udp};
use crate::headers::{Embedded, EmbeddedTransport, Network};
use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, PacketBuilder, TcpOptionElement, icmpv4, icmpv6};
use millrace_dataplane::drops::DropReason;

/// An ICMPv4 "host unreachable" from the server's side that quotes `quote`.
fn ipv4_error(quote: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([1; 6], [2; 6])
        .ipv4(SERVER, CLIENT, 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host))
        .write(&mut frame, quote)
        .unwrap();
    frame
}

/// An ICMPv6 "packet too big" that quotes `quote`.
fn ipv6_error(quote: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([1; 6], [2; 6])
        .ipv6(SERVER6, CLIENT6, 64)
        .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 })
        .write(&mut frame, quote)
        .unwrap();
    frame
}

fn parse(frame: &[u8]) -> Result<Embedded, DropReason> {
    let parsed = Parsed::parse(frame).unwrap();
    Embedded::parse(&parsed, frame).map(|quote| quote.expect("it is an error"))
}

#[test]
fn quotes_of_any_length_are_read_as_far_as_they_go() {
    let packets = [
        (udp(ipv4(), &[9; 40]), 6),
        (
            tcp(ipv4(), &[9; 40], |tcp| {
                tcp.set_options(&[TcpOptionElement::MaximumSegmentSize(1400)]).unwrap();
            }),
            16,
        ),
        (echo(ipv4(), &[9; 40]), 2),
        (udp(ipv6(), &[9; 40]), 6),
        (tcp(ipv6(), &[9; 40], |_| {}), 16),
        (echo(ipv6(), &[9; 40]), 2),
    ];
    for (original, checksum) in packets {
        let packet = &original[14..];
        let is_ipv4 = packet[0] >> 4 == 4;
        let header = if is_ipv4 { 20 } else { 40 };
        for length in 0..=packet.len() {
            let frame = if is_ipv4 { ipv4_error(&packet[..length]) } else { ipv6_error(&packet[..length]) };
            let quote = parse(&frame);
            // RFC 792: the header and eight bytes are the least that counts.
            if length < header + 8 {
                assert_eq!(quote, Err(DropReason::Truncated), "{length} bytes");
                continue;
            }
            let quote = quote.unwrap();
            let start = usize::from(quote.offsets.network);
            assert_eq!(&frame[start..usize::from(quote.offsets.end)], &packet[..length]);
            assert_eq!(usize::from(quote.offsets.transport), start + header);
            assert_eq!(quote.complete, length == packet.len());
            let place = (length >= header + checksum + 2).then_some((start + header + checksum) as u16);
            assert_eq!(quote.transport_checksum_at, place);
            if quote.complete {
                let expected = Parsed::parse(&original).unwrap();
                let at = expected.offsets.payload + quote.offsets.network - expected.offsets.network;
                assert_eq!(quote.offsets.payload, at);
                assert_eq!(quote.ports(), expected.ports());
            }
        }
    }
}

#[test]
fn the_quoted_transport_is_read() {
    let quote = parse(&ipv4_error(&tcp(ipv4(), b"", |_| {})[14..])).unwrap();
    let EmbeddedTransport::Tcp(segment) = quote.transport else { panic!() };
    assert_eq!((segment.source_port, segment.destination_port, segment.sequence), (4000, 80, 1000));
    let Network::V4(ip) = quote.network else { panic!() };
    assert_eq!((ip.source, ip.destination), (CLIENT.into(), SERVER.into()));
    let quote = parse(&ipv4_error(&echo(ipv4(), b"")[14..])).unwrap();
    let EmbeddedTransport::Icmpv4(message) = quote.transport else { panic!() };
    assert_eq!((message.identifier(), message.sequence()), (77, 3));
    let quote = parse(&ipv6_error(&echo(ipv6(), b"")[14..])).unwrap();
    assert!(matches!(quote.transport, EmbeddedTransport::Icmpv6(message) if message.identifier() == 77));
}

#[test]
fn padding_and_extensions_behind_a_quote_are_not_part_of_it() {
    // RFC 4884 section 4.1: the length attribute counts words of four bytes; here 32, so 128 bytes.
    let packet = &udp(ipv4(), &[9; 200])[14..];
    let mut frame = ipv4_error(&[&packet[..128], &[0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0, 0, 0]].concat());
    frame[34 + 5] = 32;
    let quote = parse(&frame).unwrap();
    assert_eq!(quote.offsets.end - quote.offsets.network, 128);
    assert!(!quote.complete);
    // Section 4.2: words of eight bytes in ICMPv6.
    let packet = &udp(ipv6(), &[9; 200])[14..];
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([1; 6], [2; 6])
        .ipv6(SERVER6, CLIENT6, 64)
        .icmpv6(Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded))
        .write(&mut frame, &packet[..144])
        .unwrap();
    frame[54 + 4] = 16;
    assert_eq!(parse(&frame).map(|quote| quote.offsets.end - quote.offsets.network), Ok(128));
}

#[test]
fn other_messages_quote_nothing() {
    for frame in [echo(ipv4(), b"data"), echo(ipv6(), b"data"), udp(ipv4(), b"data")] {
        let parsed = Parsed::parse(&frame).unwrap();
        assert_eq!(Embedded::parse(&parsed, &frame), Ok(None));
    }
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([1; 6], [2; 6])
        .ipv6(SERVER6, CLIENT6, 64)
        .icmpv6(Icmpv6Type::EchoReply(IcmpEchoHeader { id: 1, seq: 2 }))
        .write(&mut frame, b"data")
        .unwrap();
    let parsed = Parsed::parse(&frame).unwrap();
    assert_eq!(Embedded::parse(&parsed, &frame), Ok(None));
}

#[test]
fn quotes_that_lie_are_refused() {
    // The other version of IP.
    assert_eq!(parse(&ipv4_error(&udp(ipv6(), b"data")[14..])), Err(DropReason::BadHeader));
    assert_eq!(parse(&ipv6_error(&udp(ipv4(), &[0; 40])[14..])), Err(DropReason::BadHeader));
    // A header length below five words (RFC 791 section 3.1).
    let mut packet = udp(ipv4(), b"data")[14..].to_vec();
    packet[0] = 0x44;
    assert_eq!(parse(&ipv4_error(&packet)), Err(DropReason::BadLength));
    // A quoted fragment that is not the first has no ports.
    let mut packet = udp(ipv4(), b"data")[14..].to_vec();
    packet[7] = 3;
    let quote = parse(&ipv4_error(&packet)).unwrap();
    assert_eq!((quote.transport, quote.ports()), (EmbeddedTransport::None, None));
}
