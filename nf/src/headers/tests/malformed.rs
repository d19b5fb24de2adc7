//! Frames that contradict themselves, each with the rule that it breaks.

use super::samples::{SERVER6, echo, ipv4, ipv6, link, tcp, udp};
use super::{check_strictly, rebuild};
use crate::headers::{Network, Parsed, Transport};
use millrace_dataplane::drops::DropReason::{self, BadHeader, BadLength, Truncated, UnsupportedProtocol};

/// The reason that `frame` is refused for after `value` was put at `at`.
fn refused(mut frame: Vec<u8>, at: usize, value: &[u8]) -> DropReason {
    assert!(Parsed::parse(&frame).is_ok(), "the sample itself is right");
    frame[at..at + value.len()].copy_from_slice(value);
    Parsed::parse(&frame).expect_err("refused")
}

#[test]
fn ipv4_headers() {
    let frame = || udp(ipv4(), b"data");
    assert_eq!(refused(frame(), 14, &[0x65]), BadHeader, "RFC 791 section 3.1: version");
    assert_eq!(refused(frame(), 14, &[0x44]), BadLength, "RFC 791 section 3.1: IHL below 5");
    assert_eq!(refused(frame(), 14, &[0x4f]), BadLength, "header longer than the total length");
    assert_eq!(refused(frame(), 16, &[0, 19]), BadLength, "total length below the header's");
    assert_eq!(refused(frame(), 16, &[0, 33]), Truncated, "total length beyond the frame");
    assert_eq!(refused(frame(), 16, &[0xff, 0xff]), Truncated, "total length beyond the frame");
    assert_eq!(refused(udp(ipv4(), &[0; 40]), 12, &[0x86, 0xdd]), BadHeader, "the EtherType says IPv6");
    // Options that take the whole packet leave no room for UDP.
    assert_eq!(refused(frame(), 14, &[0x48]), Truncated);
}

#[test]
fn transport_headers() {
    assert_eq!(refused(udp(ipv4(), b"data"), 38, &[0, 7]), BadLength, "RFC 768: length below 8");
    assert_eq!(refused(udp(ipv4(), b"data"), 38, &[0, 13]), BadLength, "RFC 768: length beyond the packet");
    assert_eq!(
        refused(udp(ipv6(), b"data"), 58, &[0, 0]),
        BadLength,
        "RFC 2675 section 4: only in jumbograms"
    );
    let segment = || tcp(ipv4(), b"data", |_| {});
    assert_eq!(refused(segment(), 46, &[0x40]), BadLength, "RFC 9293 section 3.1: data offset below 5");
    assert_eq!(
        refused(segment(), 46, &[0x70]),
        Truncated,
        "RFC 9293 section 3.1: data offset beyond the end"
    );
    assert_eq!(refused(segment(), 16, &[0, 39]), Truncated, "a TCP header cut off by the IP length");
    assert_eq!(refused(echo(ipv4(), b""), 16, &[0, 27]), Truncated, "an ICMP header cut off");
    assert_eq!(refused(echo(ipv6(), b""), 18, &[0, 7]), Truncated, "an ICMPv6 header cut off");
}

#[test]
fn ipv6_headers() {
    let frame = || udp(ipv6(), b"data");
    assert_eq!(refused(frame(), 14, &[0x40]), BadHeader, "RFC 8200 section 3: version");
    assert_eq!(refused(frame(), 18, &[0, 13]), Truncated, "payload length beyond the frame");
    assert_eq!(refused(frame(), 12, &[8, 0]), BadHeader, "the EtherType says IPv4");
    assert_eq!(refused(frame(), 18, &[0, 0, 0]), UnsupportedProtocol, "RFC 2675 section 3: jumbogram");
}

/// An IPv6 frame whose first next header is `first`, with `body` behind the fixed header.
fn chain(first: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = udp(ipv6(), b"");
    frame.truncate(54);
    frame[20] = first;
    frame[18..20].copy_from_slice(&(body.len() as u16).to_be_bytes());
    frame.extend(body);
    frame
}

const UDP_HEADER: [u8; 8] = [0x0f, 0xa0, 0, 53, 0, 8, 0x12, 0x34];

#[test]
fn extension_headers() {
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    // Each kind alone, then UDP; authentication has 12 bytes at least.
    for first in [0, 43, 60] {
        let parsed = Parsed::parse(&chain(first, &[options(17), UDP_HEADER].concat())).unwrap();
        assert_eq!((parsed.ports(), parsed.offsets.transport), (Some((4000, 53)), 62), "{first}");
    }
    let authentication = [&[17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2][..], &UDP_HEADER].concat();
    assert_eq!(Parsed::parse(&chain(51, &authentication)).unwrap().offsets.transport, 66);
    let short = [&[17, 0, 0, 0, 0, 0, 0, 1][..], &UDP_HEADER].concat();
    assert_eq!(Parsed::parse(&chain(51, &short)), Err(BadLength), "RFC 4302 section 2.2");
    // RFC 8200 section 4.1: hop-by-hop options come first.
    let late = [options(0), options(17), UDP_HEADER].concat();
    assert_eq!(Parsed::parse(&chain(60, &late)), Err(BadHeader));
    // Longer than the packet.
    assert_eq!(Parsed::parse(&chain(60, &[17, 1, 1, 4, 0, 0, 0, 0])), Err(Truncated));
    assert_eq!(Parsed::parse(&chain(60, &[17, 0, 1, 4])), Err(Truncated));
    assert_eq!(Parsed::parse(&chain(60, &[])), Err(Truncated));
}

#[test]
fn chains_end_and_are_bounded() {
    // RFC 8200 section 4.7; ESP hides the rest (RFC 4303); mobility and others are opaque protocols.
    for (number, body) in [(59, &[][..]), (59, b"rest"), (50, b"secret"), (135, &[59, 0, 1, 2, 3, 4, 5, 6])] {
        let parsed = Parsed::parse(&chain(number, body)).unwrap();
        assert_eq!(parsed.transport, Transport::Other(number));
        assert_eq!((parsed.offsets.payload, usize::from(parsed.offsets.end)), (54, 54 + body.len()));
    }
    let options = |count: usize| {
        let mut body = [60, 0, 1, 4, 0, 0, 0, 0].repeat(count);
        body[(count - 1) * 8] = 17;
        body.extend(UDP_HEADER);
        chain(60, &body)
    };
    assert_eq!(Parsed::parse(&options(8)).unwrap().ports(), Some((4000, 53)));
    assert_eq!(Parsed::parse(&options(9)), Err(UnsupportedProtocol), "RFC 8504 section 5.3");
}

#[test]
fn a_routing_header_with_segments_left_hides_the_last_destination() {
    let whole = udp(ipv6(), b"data");
    let body = [&[17, 2, 4, 1, 0, 0, 0, 0][..], &SERVER6, &whole[54..]].concat();
    let mut frame = chain(43, &body);
    // The destination on the way is another than the checksum's.
    frame[38..54].copy_from_slice(&[0x20; 16]);
    let mut parsed = Parsed::parse(&frame).unwrap();
    let Network::V6(ip) = &mut parsed.network else { panic!() };
    let routing = ip.routing.unwrap();
    assert_eq!((routing.at, routing.routing_type, routing.segments_left), (54, 4, 1));
    assert!(!ip.destination_is_final());
    ip.source = "2001:db8::beef".parse().unwrap();
    assert!(parsed.transport_checksum_is_valid(&frame), "can't be judged");
    // Rebuilt with another source, and then sent to the last destination, it has the right checksum.
    let mut rebuilt = rebuild(&parsed, &frame).to_vec();
    rebuilt[57] = 0;
    rebuilt[38..54].copy_from_slice(&SERVER6);
    check_strictly(&rebuilt);
}

#[test]
fn arp_packets() {
    let mut frame = link(&[], 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([0; 20]);
    assert_eq!(refused(frame.clone(), 14, &[0, 6]), UnsupportedProtocol, "RFC 826: hardware type");
    assert_eq!(refused(frame.clone(), 16, &[0x86, 0xdd]), UnsupportedProtocol, "RFC 826: protocol type");
    assert_eq!(refused(frame.clone(), 18, &[8]), BadLength, "RFC 826: hardware address length");
    assert_eq!(refused(frame.clone(), 19, &[16]), BadLength, "RFC 826: protocol address length");
    assert_eq!(Parsed::parse(&frame[..41]), Err(Truncated));
}

#[test]
fn link_headers() {
    let frame = link(&[(0x88a8, 1), (0x8100, 2)], 0x1234);
    for length in 0..frame.len() {
        assert_eq!(Parsed::parse(&frame[..length]), Err(Truncated), "{length} bytes");
    }
    assert!(Parsed::parse(&frame).is_ok());
}
