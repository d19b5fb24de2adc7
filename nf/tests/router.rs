//! The router at the end of a chain of its own, through the engine.

mod common;

use common::*;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use ipnet::IpNet;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::port::{MacAddress, PortId};
use millrace_nf::chain::ChainBuilder;
use millrace_nf::router::icmp_limit::{IcmpLimitConfig, Rate};
use millrace_nf::router::interface::{Interface, InterfaceId, ProxyPrefix};
use millrace_nf::router::lpm::{NextHop, Route, RouteKind, RouteOrigin};
use millrace_nf::router::neighbour::NeighbourState;
use millrace_nf::router::{Router, RouterConfig, StaticNeighbour};
use millrace_nf::zone::ZoneId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The router's station on the outside.
const OWN_OUTSIDE: MacAddress = [2, 0, 0, 0, 0, 3];
/// A neighbour outside.
const SERVER: MacAddress = [2, 0, 0, 0, 0, 0x51];
/// Another.
const OTHER: MacAddress = [2, 0, 0, 0, 0, 0x52];
const BROADCAST: MacAddress = [0xff; 6];
const NONE: MacAddress = [0; 6];

fn interface(port: u16, mac: MacAddress, mtu: u16, addresses: &[&str]) -> Interface {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Interface { port: PortId(port), vlan: None, zone: ZoneId(port as u8), mac, mtu, addresses, ipv6: true }
}

/// 10.0.0.0/24 and 2001:db8:1::/64 inside; 192.0.2.0/24 and 2001:db8:2::/64 outside, with a smaller MTU.
fn config() -> RouterConfig {
    RouterConfig::new(vec![
        interface(INSIDE, OWN, 1500, &["10.0.0.1/24", "2001:db8:1::1/64"]),
        interface(OUTSIDE, OWN_OUTSIDE, 1400, &["192.0.2.1/24", "2001:db8:2::1/64"]),
    ])
}

fn neighbour(interface: u16, address: &str, mac: MacAddress) -> StaticNeighbour {
    StaticNeighbour { interface: InterfaceId(interface), address: address.parse().unwrap(), mac }
}

/// With the sender of the builders and two stations outside known, so that nothing is asked.
fn known() -> RouterConfig {
    let neighbours = vec![
        neighbour(0, "10.0.0.5", SENDER),
        neighbour(0, "2001:db8:1::5", SENDER),
        neighbour(1, "192.0.2.9", SERVER),
        neighbour(1, "192.0.2.10", OTHER),
        neighbour(1, "2001:db8:2::9", SERVER),
    ];
    RouterConfig { neighbours, ..config() }
}

fn harness(config: RouterConfig) -> Harness {
    let router = Router::new(config, Some(1)).unwrap();
    Harness::new(ChainBuilder::new("edge", &["inside", "outside"]).forwarder("router", router))
}

fn router(harness: &mut Harness) -> &mut Router {
    harness.function("router")
}

fn state(harness: &mut Harness, address: &str) -> Option<NeighbourState> {
    let address: IpAddr = address.parse().unwrap();
    router(harness).neighbours().find(|it| it.address == address).map(|it| it.state)
}

/// The frame, to another station.
fn to(mac: MacAddress, mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&mac);
    frame
}

/// As a router forwards it: new stations, one hop less.
fn forwarded(frame: &[u8], from: MacAddress, mac: MacAddress) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[..6].copy_from_slice(&mac);
    out[6..12].copy_from_slice(&from);
    if out[12..14] == [0x86, 0xdd] {
        out[21] -= 1;
        return out;
    }
    out[22] -= 1;
    let header = etherparse::Ipv4HeaderSlice::from_slice(&out[14..]).unwrap().to_header();
    let checksum = header.calc_header_checksum().to_be_bytes();
    out[24..26].copy_from_slice(&checksum);
    out
}

fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    if frame[12..14] == [0x86, 0xdd] {
        frame[21] = ttl;
        return frame;
    }
    frame[22] = ttl;
    fix_ipv4(frame)
}

fn fix_ipv4(mut frame: Vec<u8>) -> Vec<u8> {
    let checksum = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
    let checksum = checksum.calc_header_checksum().to_be_bytes();
    frame[24..26].copy_from_slice(&checksum);
    frame
}

/// Sets flags and fragment offset of an IPv4 packet.
fn with_fragment_word(mut frame: Vec<u8>, word: u16) -> Vec<u8> {
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    fix_ipv4(frame)
}

fn arp_frame(operation: u8, mac: MacAddress, sender: &str, target_mac: MacAddress, target: &str) -> Vec<u8> {
    let octets = |address: &str| address.parse::<Ipv4Addr>().unwrap().octets();
    let ethernet_target = if target_mac == NONE { BROADCAST } else { target_mac };
    let mut frame = [ethernet_target, mac].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(octets(sender));
    frame.extend(target_mac);
    frame.extend(octets(target));
    frame
}

/// A neighbour solicitation or advertisement. `flags`: those of an advertisement.
fn discovery(
    icmp_type: u8,
    macs: (MacAddress, MacAddress),
    addresses: (&str, &str),
    flags: u8,
    target: &str,
    option: Option<(u8, MacAddress)>,
) -> Vec<u8> {
    let octets = |address: &str| address.parse::<Ipv6Addr>().unwrap().octets();
    let mut body = octets(target).to_vec();
    if let Some((kind, mac)) = option {
        body.extend([kind, 1]);
        body.extend(mac);
    }
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv6(octets(addresses.0), octets(addresses.1), 255)
        .icmpv6_raw(icmp_type, 0, [flags, 0, 0, 0])
        .write(&mut frame, &body)
        .unwrap();
    frame
}

/// Type, code, the four bytes behind the checksum, and what follows; all checksums are verified.
fn icmp_of(frame: &[u8]) -> (u8, u8, [u8; 4], Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            (icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), icmp.payload().to_vec())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            assert!(icmp.is_checksum_valid(source, destination));
            (icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), icmp.payload().to_vec())
        }
        other => panic!("no ICMP: {other:?}"),
    }
}

/// The only frame sent is an ICMP error to the sender of `about`, by port 0, that quotes it from its start.
fn assert_error(sent: &Sent, about: &[u8], from: &str, icmp: (u8, u8), rest: [u8; 4]) {
    assert_eq!(sent.len(), 1, "{sent:02x?}");
    let (port, frame) = &sent[0];
    assert_eq!((*port, &frame[..6], &frame[6..12]), (INSIDE, &about[6..12], &OWN[..]));
    assert_eq!(addresses(frame), (from.parse().unwrap(), addresses(about).0));
    let (icmp_type, code, got, quote) = icmp_of(frame);
    assert_eq!((icmp_type, code, got), (icmp.0, icmp.1, rest));
    assert!(quote.len() >= packet_of(about).len().min(500));
    assert_eq!(quote, packet_of(about)[..quote.len()]);
}

const DATA: &[u8] = b"payload";

fn out4() -> Vec<u8> {
    udp("10.0.0.5", "192.0.2.9", (1000, 53), DATA)
}

fn out6() -> Vec<u8> {
    udp("2001:db8:1::5", "2001:db8:2::9", (1000, 53), DATA)
}

#[test]
fn arp_requests_for_own_addresses_are_answered_and_tell_of_their_senders() {
    let mut it = harness(config());
    let request = arp_frame(1, SENDER, "10.0.0.5", NONE, "10.0.0.1");
    let sent = it.send_one(INSIDE, &request);
    assert_eq!(sent, vec![(INSIDE, arp_frame(2, OWN, "10.0.0.1", SENDER, "10.0.0.5"))]);
    assert_eq!(state(&mut it, "10.0.0.5"), Some(NeighbourState::Stale));
    // What comes back needs no resolution.
    let back = to(OWN_OUTSIDE, udp("192.0.2.9", "10.0.0.5", (53, 1000), DATA));
    assert_eq!(it.send_one(OUTSIDE, &back), vec![(INSIDE, forwarded(&back, OWN, SENDER))]);
    assert_eq!(state(&mut it, "10.0.0.5"), Some(NeighbourState::Delay));
    // Neither an address of another interface nor of another station is answered for, nor a probe for us learnt from.
    assert!(it.send_one(INSIDE, &arp_frame(1, SENDER, "10.0.0.5", NONE, "192.0.2.1")).is_empty());
    assert!(it.send_one(INSIDE, &arp_frame(1, SENDER, "10.0.0.6", NONE, "10.0.0.7")).is_empty());
    let probe = it.send_one(INSIDE, &arp_frame(1, OTHER, "0.0.0.0", NONE, "10.0.0.1"));
    assert_eq!(probe, vec![(INSIDE, arp_frame(2, OWN, "10.0.0.1", OTHER, "0.0.0.0"))]);
    // Who claims to be us, or to be somewhere else, is not believed.
    it.send_one(INSIDE, &arp_frame(1, OTHER, "10.0.0.1", NONE, "10.0.0.1"));
    it.send_one(INSIDE, &arp_frame(1, OTHER, "192.0.2.77", NONE, "10.0.0.1"));
    assert_eq!(router(&mut it).neighbours().count(), 1);
    it.finish();
}

#[test]
fn packets_wait_for_their_neighbour_and_leave_in_order() {
    let mut it = harness(config());
    let first = out4();
    let asks = vec![(OUTSIDE, arp_frame(1, OWN_OUTSIDE, "192.0.2.1", NONE, "192.0.2.9"))];
    assert_eq!(it.send_one(INSIDE, &first), asks);
    // More than may wait are dropped; nothing more is asked.
    let frames: Vec<_> = (0..40).map(|n| udp("10.0.0.5", "192.0.2.9", (2000 + n, 53), DATA)).collect();
    assert!(it.send(INSIDE, &frames).is_empty());
    assert_eq!((it.engine.buffered(), it.drops(DropReason::HoldFull)), (16, 25));
    assert_eq!(it.engine.outputs.sums.balance(), 16);
    let sent = it.send_one(OUTSIDE, &arp_frame(2, SERVER, "192.0.2.9", OWN_OUTSIDE, "192.0.2.1"));
    let expected: Vec<_> = std::iter::once(&first)
        .chain(&frames[..15])
        .map(|frame| (OUTSIDE, forwarded(frame, OWN_OUTSIDE, SERVER)))
        .collect();
    assert_eq!(sent, expected);
    assert_eq!(state(&mut it, "192.0.2.9"), Some(NeighbourState::Reachable));
    // The walk of the held packet left an entry.
    let walks = it.walks();
    assert_eq!(it.send_one(INSIDE, &first), expected[..1]);
    assert_eq!(it.walks(), walks);
    it.finish();
}

#[test]
fn held_packets_of_a_silent_neighbour_end_with_an_error() {
    let mut it = harness(config());
    let frame = out4();
    let asks = (OUTSIDE, arp_frame(1, OWN_OUTSIDE, "192.0.2.1", NONE, "192.0.2.9"));
    assert_eq!(it.send_one(INSIDE, &frame), vec![asks.clone()]);
    assert_eq!(it.advance(1), vec![asks.clone()]);
    assert_eq!(it.advance(1), vec![asks.clone()]);
    let sent = it.advance(1);
    assert_error(&sent, &frame, "10.0.0.1", (3, 1), [0; 4]);
    assert_eq!((it.drops(DropReason::NeighbourUnreachable), it.engine.buffered()), (1, 0));
    // A moment later it is not asked again, but told at once; then it is asked anew.
    assert_error(&it.send_one(INSIDE, &frame), &frame, "10.0.0.1", (3, 1), [0; 4]);
    it.advance(2);
    assert_eq!(it.send_one(INSIDE, &frame), vec![asks]);
    it.finish();
}

#[test]
fn neighbour_discovery_resolves_answers_and_gives_up_alike() {
    let mut it = harness(config());
    let (frame, group) = (out6(), [0x33, 0x33, 0xff, 0, 0, 9]);
    let asks = discovery(
        135,
        (OWN_OUTSIDE, group),
        ("2001:db8:2::1", "ff02::1:ff00:9"),
        0,
        "2001:db8:2::9",
        Some((1, OWN_OUTSIDE)),
    );
    assert_eq!(it.send_one(INSIDE, &frame), vec![(OUTSIDE, asks.clone())]);
    let advertisement = |hop_limit| {
        let addresses = ("2001:db8:2::9", "2001:db8:2::1");
        let frame =
            discovery(136, (SERVER, OWN_OUTSIDE), addresses, 0x60, "2001:db8:2::9", Some((2, SERVER)));
        with_ttl(frame, hop_limit)
    };
    // RFC 4861 section 7.1.2: what was forwarded is not believed.
    assert!(it.send_one(OUTSIDE, &advertisement(254)).is_empty());
    assert_eq!(it.drops(DropReason::BadHeader), 1);
    let sent = it.send_one(OUTSIDE, &advertisement(255));
    assert_eq!(sent, vec![(OUTSIDE, forwarded(&frame, OWN_OUTSIDE, SERVER))]);
    assert_eq!(state(&mut it, "2001:db8:2::9"), Some(NeighbourState::Reachable));
    // A silent one: three questions, then "address unreachable" (RFC 4443 section 3.1 code 3).
    let silent = udp("2001:db8:1::5", "2001:db8:2::77", (1, 2), DATA);
    assert_eq!(it.send_one(INSIDE, &silent).len(), 1);
    assert_eq!((it.advance(1).len(), it.advance(1).len()), (1, 1));
    assert_error(&it.advance(1), &silent, "2001:db8:1::1", (1, 3), [0; 4]);
    it.finish();
}

#[test]
fn solicitations_for_own_addresses_are_answered_also_for_duplicate_address_detection() {
    let mut it = harness(config());
    let group = [0x33, 0x33, 0xff, 0, 0, 1];
    let addresses = ("2001:db8:1::5", "ff02::1:ff00:1");
    let asks = discovery(135, (SENDER, group), addresses, 0, "2001:db8:1::1", Some((1, SENDER)));
    let answer = discovery(
        136,
        (OWN, SENDER),
        ("2001:db8:1::1", "2001:db8:1::5"),
        0xe0,
        "2001:db8:1::1",
        Some((2, OWN)),
    );
    assert_eq!(it.send_one(INSIDE, &asks), vec![(INSIDE, answer)]);
    assert_eq!(state(&mut it, "2001:db8:1::5"), Some(NeighbourState::Stale));
    let probe = discovery(135, (OTHER, group), ("::", "ff02::1:ff00:1"), 0, "2001:db8:1::1", None);
    let all = [0x33, 0x33, 0, 0, 0, 1];
    let answer =
        discovery(136, (OWN, all), ("2001:db8:1::1", "ff02::1"), 0xa0, "2001:db8:1::1", Some((2, OWN)));
    assert_eq!(it.send_one(INSIDE, &probe), vec![(INSIDE, answer)]);
    assert_eq!(router(&mut it).neighbours().count(), 1);
    it.finish();
}

#[test]
fn proxied_addresses_are_answered_for_on_their_interface_only() {
    let proxy = |prefix: &str| ProxyPrefix { prefix: prefix.parse().unwrap(), interface: InterfaceId(1) };
    let mut it = harness(RouterConfig {
        proxies: vec![proxy("192.0.2.64/28"), proxy("2001:db8:2::64/128")],
        ..config()
    });
    let request = |mac, sender, target| arp_frame(1, mac, sender, NONE, target);
    let sent = it.send_one(OUTSIDE, &request(SERVER, "192.0.2.9", "192.0.2.70"));
    assert_eq!(sent, vec![(OUTSIDE, arp_frame(2, OWN_OUTSIDE, "192.0.2.70", SERVER, "192.0.2.9"))]);
    assert!(it.send_one(OUTSIDE, &request(SERVER, "192.0.2.9", "192.0.2.80")).is_empty());
    assert!(it.send_one(INSIDE, &request(SENDER, "10.0.0.5", "192.0.2.70")).is_empty());
    let group = [0x33, 0x33, 0xff, 0, 0, 0x64];
    let addresses = ("2001:db8:2::9", "ff02::1:ff00:64");
    let asks = discovery(135, (SERVER, group), addresses, 0, "2001:db8:2::64", Some((1, SERVER)));
    let sent = it.send_one(OUTSIDE, &asks);
    // RFC 4861 section 7.2.8: without the override flag.
    let (_, flags) = (&sent[0], sent[0].1[14 + 40 + 4]);
    assert_eq!((sent.len(), flags), (1, 0xc0));
    it.finish();
}

#[test]
fn a_packet_whose_hops_ran_out_is_reported_with_the_packet_as_it_came() {
    let mut it = harness(known());
    for (frame, from, icmp) in [(out4(), "10.0.0.1", (11, 0)), (out6(), "2001:db8:1::1", (3, 0))] {
        assert!(it.passes(INSIDE, &frame));
        let last = with_ttl(frame.clone(), 1);
        assert_error(&it.send_one(INSIDE, &last), &last, from, icmp, [0; 4]);
        assert!(it.passes(INSIDE, &with_ttl(frame, 2)));
    }
    assert_eq!(it.drops(DropReason::TtlExceeded), 2);
    it.finish();
}

/// RFC 7126 sections 4.3 and 4.4: nobody chooses a way around the rules. Other options, and broken ones, are their receiver's.
#[test]
fn source_routes_are_dropped() {
    let mut it = harness(known());
    let with_options = |options: &[u8]| {
        let mut frame = out4();
        frame[14] = 0x45 + (options.len() / 4) as u8;
        let total = (frame.len() - 14 + options.len()) as u16;
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame.splice(34..34, options.iter().copied());
        fix_ipv4(frame)
    };
    for route in [131, 137] {
        assert_eq!(it.send_one(INSIDE, &with_options(&[route, 7, 4, 192, 0, 2, 99, 0])), []);
        assert_eq!(
            it.send_one(INSIDE, &with_options(&[1, 148, 4, 0, 0, route, 7, 4, 192, 0, 2, 99])),
            [],
            "behind others"
        );
    }
    assert_eq!(it.drops(DropReason::SourceRoute), 4);
    for other in [[1, 1, 1, 1], [0, 131, 7, 4], [7, 0, 131, 4], [148, 40, 131, 4]] {
        assert!(it.passes(INSIDE, &with_options(&other)), "{other:?}");
    }
    it.finish();
}

#[test]
fn packets_above_the_mtu_are_reported_with_it() {
    let mut it = harness(known());
    let big = vec![7; 1400];
    let v4 = udp("10.0.0.5", "192.0.2.9", (1000, 53), &big);
    let dont_fragment = with_fragment_word(v4.clone(), 0x4000);
    let v6 = udp("2001:db8:1::5", "2001:db8:2::9", (1000, 53), &big);
    // The flow is in the cache already: its guard notices.
    assert!(it.passes(INSIDE, &out4()) && it.passes(INSIDE, &out6()));
    assert_error(
        &it.send_one(INSIDE, &dont_fragment),
        &dont_fragment,
        "10.0.0.1",
        (3, 4),
        [0, 0, 0x05, 0x78],
    );
    assert_error(&it.send_one(INSIDE, &v6), &v6, "2001:db8:1::1", (2, 0), [0, 0, 0x05, 0x78]);
    assert!(it.send_one(INSIDE, &with_fragment_word(v4, 0)).is_empty());
    assert_eq!((it.drops(DropReason::MtuExceeded), it.drops(DropReason::NotFragmented)), (2, 1));
    let exact = udp("10.0.0.5", "192.0.2.9", (1000, 53), &big[..1400 - 28]);
    assert!(it.passes(INSIDE, &exact));
    it.finish();
}

#[test]
fn echo_requests_to_own_addresses_are_answered_whole() {
    let mut it = harness(known());
    for (source, target) in [
        ("10.0.0.5", "10.0.0.1"),
        ("10.0.0.5", "192.0.2.1"),
        ("2001:db8:1::5", "2001:db8:1::1"),
        ("2001:db8:1::5", "2001:db8:2::1"),
        ("fe80::5", "fe80::ff:fe00:2"),
    ] {
        let sent = it.send_one(INSIDE, &echo(source, target, false, 7, 9));
        assert_eq!(
            sent,
            vec![(INSIDE, {
                let mut reply = echo(target, source, true, 7, 9);
                reply[..6].copy_from_slice(&SENDER);
                reply[6..12].copy_from_slice(&OWN);
                // The identification is the request's, and so is "don't fragment": both zero or one with the builder.
                reply
            })]
        );
        icmp_of(&sent[0].1);
    }
    // A full frame.
    let header = etherparse::IcmpEchoHeader { id: 1, seq: 2 };
    let full = icmpv4("10.0.0.5", "10.0.0.1", etherparse::Icmpv4Type::EchoRequest(header), &[5; 1472]);
    assert_eq!(icmp_of(&it.send_one(INSIDE, &full)[0].1).3, vec![5; 1472]);
    // To a group: all nodes answer from their own address (RFC 4443 section 4.2), IPv4 ones need not.
    let all = to([0x33, 0x33, 0, 0, 0, 1], echo("2001:db8:1::5", "ff02::1", false, 1, 1));
    let sent = it.send_one(INSIDE, &all);
    assert_eq!(addresses(&sent[0].1), ("2001:db8:1::1".parse().unwrap(), "2001:db8:1::5".parse().unwrap()));
    let broadcast = to(BROADCAST, echo("10.0.0.5", "10.0.0.255", false, 1, 1));
    assert!(it.send_one(INSIDE, &broadcast).is_empty());
    // A damaged request is not.
    let mut damaged = echo("10.0.0.5", "10.0.0.1", false, 7, 9);
    *damaged.last_mut().unwrap() ^= 1;
    assert!(it.send_one(INSIDE, &damaged).is_empty());
    assert_eq!(it.drops(DropReason::BadL4Checksum), 1);
    it.finish();
}

#[test]
fn what_nobody_listens_to_is_refused() {
    let mut it = harness(known());
    let datagram = udp("10.0.0.5", "192.0.2.1", (1000, 53), DATA);
    assert_error(&it.send_one(INSIDE, &datagram), &datagram, "10.0.0.1", (3, 3), [0; 4]);
    let datagram = udp("2001:db8:1::5", "2001:db8:1::1", (1000, 53), DATA);
    assert_error(&it.send_one(INSIDE, &datagram), &datagram, "2001:db8:1::1", (1, 4), [0; 4]);
    let gre = other("10.0.0.5", "10.0.0.1", 47, DATA);
    assert_error(&it.send_one(INSIDE, &gre), &gre, "10.0.0.1", (3, 2), [0; 4]);
    let gre = other("2001:db8:1::5", "2001:db8:1::1", 47, DATA);
    assert_error(&it.send_one(INSIDE, &gre), &gre, "2001:db8:1::1", (4, 1), [0, 0, 0, 6]);
    let sent = it.send_one(INSIDE, &tcp("10.0.0.5", "10.0.0.1", (999, 22), segment("S", 100, 0)));
    let sliced = SlicedPacket::from_ethernet(&sent[0].1).unwrap();
    let Some(TransportSlice::Tcp(reset)) = sliced.transport else { panic!("no TCP") };
    assert!(reset.rst() && reset.ack());
    assert_eq!((reset.acknowledgment_number(), reset.source_port()), (101, 22));
    assert!(it.send_one(INSIDE, &tcp("10.0.0.5", "10.0.0.1", (999, 22), segment("R", 1, 0))).is_empty());
    it.finish();
}

/// RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4(e).
#[test]
fn no_error_answers_errors_later_fragments_or_groups() {
    let mut it = harness(known());
    let error4 = port_unreachable("10.0.0.5", "192.0.2.9", &udp("192.0.2.9", "10.0.0.5", (1, 2), DATA));
    let error6 = port_unreachable(
        "2001:db8:1::5",
        "2001:db8:2::9",
        &udp("2001:db8:2::9", "2001:db8:1::5", (1, 2), DATA),
    );
    let whole = udp("10.0.0.5", "192.0.2.9", (1000, 53), &[3; 24]);
    let first_fragment = with_fragment_word(whole.clone(), 0x2000);
    assert!(it.passes(INSIDE, &first_fragment));
    let mut first_fragment = first_fragment;
    first_fragment[18..20].copy_from_slice(&[0x12, 0x34]);
    let first_fragment = with_ttl(first_fragment, 1);
    let later_fragment = with_ttl(with_fragment_word(whole, 0x0004), 1);
    let by_broadcast = to(BROADCAST, with_ttl(out4(), 1));
    let to_broadcast = to(BROADCAST, udp("10.0.0.5", "10.0.0.255", (1, 2), DATA));
    let to_all = to(BROADCAST, udp("10.0.0.5", "255.255.255.255", (1, 2), DATA));
    let to_group = to([1, 0, 0x5e, 1, 1, 1], udp("10.0.0.5", "239.1.1.1", (1, 2), DATA));
    for silent in [
        with_ttl(error4, 1),
        with_ttl(error6, 1),
        later_fragment,
        by_broadcast,
        to_broadcast,
        to_all,
        to_group,
    ] {
        assert!(it.send_one(INSIDE, &silent).is_empty(), "{silent:02x?}");
    }
    assert_error(&it.send_one(INSIDE, &first_fragment), &first_fragment, "10.0.0.1", (11, 0), [0; 4]);
    assert_eq!((it.drops(DropReason::NotForUs), it.drops(DropReason::TtlExceeded)), (4, 4));
    it.finish();
}

#[test]
fn martians_and_frames_for_other_stations_end_here() {
    let mut it = harness(known());
    let sources =
        ["127.0.0.1", "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "10.0.0.1", "10.0.0.255"];
    for source in sources {
        assert!(it.send_one(INSIDE, &udp(source, "192.0.2.9", (1, 2), DATA)).is_empty(), "{source}");
    }
    for source in ["::1", "::", "ff02::1", "::ffff:10.0.0.5", "fe80::5"] {
        assert!(it.send_one(INSIDE, &udp(source, "2001:db8:2::9", (1, 2), DATA)).is_empty(), "{source}");
    }
    for destination in ["127.0.0.1", "0.1.2.3", "240.0.0.1", "169.254.1.1"] {
        assert!(it.send_one(INSIDE, &udp("10.0.0.5", destination, (1, 2), DATA)).is_empty(), "{destination}");
    }
    assert!(it.send_one(INSIDE, &udp("169.254.1.1", "192.0.2.9", (1, 2), DATA)).is_empty());
    assert_eq!(it.drops(DropReason::MartianAddress), 17);
    // The same flow to us and to another station: the second takes no entry of the first.
    assert!(it.passes(INSIDE, &out4()));
    assert!(it.send_one(INSIDE, &to(OTHER, out4())).is_empty());
    assert_eq!(it.drops(DropReason::NotForUs), 1);
    it.finish();
}

fn route(prefix: &str, kind: RouteKind, gateway: Option<&str>) -> Route {
    let hop = |gateway: &str| NextHop { interface: InterfaceId(1), gateway: gateway.parse().ok() };
    Route {
        prefix: prefix.parse().unwrap(),
        next_hops: gateway.map(hop).into_iter().collect(),
        kind,
        metric: 0,
        origin: RouteOrigin::Static,
    }
}

#[test]
fn routes_decide_and_say_why_not() {
    let routes = vec![
        route("203.0.113.0/24", RouteKind::Unicast, Some("192.0.2.10")),
        route("203.0.113.64/26", RouteKind::Prohibit, None),
        route("203.0.113.128/26", RouteKind::Unreachable, None),
        route("203.0.113.192/26", RouteKind::Blackhole, None),
    ];
    let mut it = harness(RouterConfig { routes, ..known() });
    let frame = |to: &str| udp("10.0.0.5", to, (1, 2), DATA);
    let sent = it.send_one(INSIDE, &frame("203.0.113.1"));
    assert_eq!(sent, vec![(OUTSIDE, forwarded(&frame("203.0.113.1"), OWN_OUTSIDE, OTHER))]);
    for (target, code) in [("203.0.113.65", 13), ("203.0.113.129", 1), ("8.8.8.8", 0)] {
        let frame = frame(target);
        assert_error(&it.send_one(INSIDE, &frame), &frame, "10.0.0.1", (3, code), [0; 4]);
    }
    let unknown = udp("2001:db8:1::5", "2001:db8:9::9", (1, 2), DATA);
    assert_error(&it.send_one(INSIDE, &unknown), &unknown, "2001:db8:1::1", (1, 0), [0; 4]);
    assert!(it.send_one(INSIDE, &frame("203.0.113.193")).is_empty());
    assert_eq!((it.drops(DropReason::NoRoute), it.drops(DropReason::Blackhole)), (4, 1));
    it.finish();
}

#[test]
fn errors_and_echo_replies_are_limited_by_source_and_the_drops_keep_their_reason() {
    let rate = |per_second, burst| Rate { per_second, burst };
    let limit = IcmpLimitConfig { router: rate(100, 8), source: rate(1, 5), sources_max: 64 };
    let mut it = harness(RouterConfig { errors: limit, echoes: limit, ..known() });
    let expired = |source: &str| with_ttl(udp(source, "192.0.2.9", (1, 2), DATA), 1);
    let frames = |source: &str| (0..20).map(|_| expired(source)).collect::<Vec<_>>();
    assert_eq!(it.send(INSIDE, &frames("10.0.0.5")).len(), 5);
    assert_eq!(it.send(INSIDE, &frames("10.0.0.6")).len(), 3);
    assert_eq!((it.drops(DropReason::TtlExceeded), it.drops(DropReason::RateLimited)), (40, 0));
    let counters = router(&mut it).counters();
    assert_eq!((counters.errors_sent, counters.errors_limited), (8, 32));
    let echoes: Vec<_> = (0..20).map(|n| echo("10.0.0.5", "10.0.0.1", false, 1, n)).collect();
    assert_eq!(it.send(INSIDE, &echoes).len(), 5);
    assert_eq!(it.drops(DropReason::RateLimited), 15);
    it.advance(1);
    assert_eq!(it.send(INSIDE, &frames("10.0.0.5")).len(), 1);
    it.finish();
}

/// R8: a neighbour's new address moves its established flows at once, and no other flow walks.
#[test]
fn a_neighbours_new_address_concerns_its_flows_alone() {
    let mut it = harness(config());
    let moving = out4();
    let staying = udp("10.0.0.5", "192.0.2.10", (1000, 53), DATA);
    for (frame, mac, address) in [(&moving, SERVER, "192.0.2.9"), (&staying, OTHER, "192.0.2.10")] {
        it.send_one(INSIDE, frame);
        it.send_one(OUTSIDE, &arp_frame(2, mac, address, OWN_OUTSIDE, "192.0.2.1"));
        assert!(it.passes(INSIDE, frame));
    }
    let moved = [2, 0, 0, 0, 0, 0x99];
    it.send_one(OUTSIDE, &arp_frame(1, moved, "192.0.2.9", NONE, "192.0.2.9"));
    let walks = it.walks();
    assert!(it.passes(INSIDE, &staying));
    assert_eq!(it.walks(), walks);
    assert_eq!(it.send_one(INSIDE, &moving), vec![(OUTSIDE, forwarded(&moving, OWN_OUTSIDE, moved))]);
    assert_eq!(it.walks(), walks + 1);
    it.finish();
}

/// R8: a route change moves the flows that it can match, and no other flow walks.
#[test]
fn a_route_change_concerns_its_destinations_alone() {
    let routes = vec![route("0.0.0.0/0", RouteKind::Unicast, Some("192.0.2.9"))];
    let mut it = harness(RouterConfig { routes, ..known() });
    let moving = udp("10.0.0.5", "203.0.113.7", (1, 2), DATA);
    let staying = udp("10.0.0.5", "198.51.100.7", (1, 2), DATA);
    assert!(it.passes(INSIDE, &moving) && it.passes(INSIDE, &staying));
    let change = |it: &mut Harness, watches: Vec<_>| {
        assert!(!watches.is_empty());
        watches.into_iter().for_each(|watch| it.engine.state.validity.change(watch));
    };
    let more = route("203.0.113.0/24", RouteKind::Unicast, Some("192.0.2.10"));
    let watches = router(&mut it).insert_route(more).unwrap();
    change(&mut it, watches);
    let walks = it.walks();
    assert!(it.passes(INSIDE, &staying));
    assert_eq!(it.walks(), walks);
    assert_eq!(it.send_one(INSIDE, &moving), vec![(OUTSIDE, forwarded(&moving, OWN_OUTSIDE, OTHER))]);
    assert_eq!(it.walks(), walks + 1);
    let prefix: IpNet = "203.0.113.0/24".parse().unwrap();
    let watches = router(&mut it).remove_route(prefix, 0).unwrap();
    change(&mut it, watches);
    assert_eq!(it.send_one(INSIDE, &moving), vec![(OUTSIDE, forwarded(&moving, OWN_OUTSIDE, SERVER))]);
    assert!(router(&mut it).remove_route(prefix, 0).is_none());
    it.finish();
}

/// RFC 4861 section 7.3.3: a neighbour in use is probed, though its traffic only hits the cache; one that moved away
/// without a word is asked for anew.
#[test]
fn traffic_of_the_cache_keeps_its_neighbour_under_watch() {
    let mut it = harness(config());
    let (frame, answer) = (out4(), arp_frame(2, SERVER, "192.0.2.9", OWN_OUTSIDE, "192.0.2.1"));
    let probe = to(SERVER, arp_frame(1, OWN_OUTSIDE, "192.0.2.1", NONE, "192.0.2.9"));
    it.send_one(INSIDE, &frame);
    it.send_one(OUTSIDE, &answer);
    let (mut probes, walks) = (0, it.walks());
    for _ in 0..300 {
        assert_eq!(it.send_one(INSIDE, &frame), vec![(OUTSIDE, forwarded(&frame, OWN_OUTSIDE, SERVER))]);
        let sent = it.advance(1);
        if !sent.is_empty() {
            assert_eq!(sent, vec![(OUTSIDE, probe.clone())]);
            it.send_one(OUTSIDE, &answer);
            probes += 1;
        }
    }
    assert!((5..=15).contains(&probes), "{probes} probes");
    // One walk for each answer, one for each time that it was no longer known to be reachable.
    assert!(it.walks() - walks <= 2 * probes + 1, "{} walks", it.walks() - walks);
    // It falls silent: at most 45 s reachable, 5 s delay, 3 probes; then everyone is asked.
    let mut asked = false;
    for _ in 0..60 {
        let sent = [it.send_one(INSIDE, &frame), it.advance(1)].concat();
        asked |= sent.contains(&(OUTSIDE, to(BROADCAST, probe.clone())));
    }
    assert!(asked);
    it.finish();
}

/// RFC 4861 section 7.2.5: an advertisement that contradicts without overriding makes a reachable neighbour doubtful and changes
/// nothing else; its flows, which only hit the cache, have it probed all the same. The router flag is what it said last.
#[test]
fn a_neighbour_that_is_contradicted_is_probed() {
    let (mut it, frame, address) = (harness(config()), out6(), "2001:db8:2::9");
    let says = |mac, flags| {
        discovery(136, (mac, OWN_OUTSIDE), (address, "2001:db8:2::1"), flags, address, Some((2, mac)))
    };
    let is_router = |it: &mut Harness| {
        router(it).neighbours().find(|it| it.address.to_string() == address).unwrap().is_router
    };
    it.send_one(INSIDE, &frame);
    it.send_one(OUTSIDE, &says(SERVER, 0xe0));
    assert!(it.passes(INSIDE, &frame) && is_router(&mut it));
    assert!(it.send_one(OUTSIDE, &says([2, 0, 0, 0, 0, 0x99], 0)).is_empty());
    assert_eq!((state(&mut it, address), is_router(&mut it)), (Some(NeighbourState::Stale), true));
    assert_eq!(it.send_one(INSIDE, &frame), vec![(OUTSIDE, forwarded(&frame, OWN_OUTSIDE, SERVER))]);
    assert_eq!(state(&mut it, address), Some(NeighbourState::Delay), "its flow says that it is used");
    let probes: Sent = (0..6).flat_map(|_| it.advance(1)).collect();
    assert!(
        !probes.is_empty() && probes.iter().all(|(port, probe)| *port == OUTSIDE && probe[..6] == SERVER)
    );
    it.send_one(OUTSIDE, &says(SERVER, 0x40));
    assert_eq!((state(&mut it, address), is_router(&mut it)), (Some(NeighbourState::Reachable), false));
    it.finish();
}

#[test]
fn a_flood_of_arp_requests_displaces_no_neighbour_in_use() {
    let mut limits = config();
    limits.neighbour_limits.entries_max = 64;
    let mut it = harness(limits);
    it.send_one(INSIDE, &out4());
    it.send_one(OUTSIDE, &arp_frame(2, SERVER, "192.0.2.9", OWN_OUTSIDE, "192.0.2.1"));
    for n in 10..250u8 {
        it.send_one(OUTSIDE, &arp_frame(1, OTHER, &format!("192.0.2.{n}"), NONE, "192.0.2.1"));
    }
    assert_eq!(router(&mut it).neighbours().count(), 64);
    assert_eq!(state(&mut it, "192.0.2.9"), Some(NeighbourState::Reachable));
    assert!(it.passes(INSIDE, &out4()));
    it.finish();
}

/// More resolutions than may be unanswered: the rest is dropped, and nothing goes round in circles.
#[test]
fn a_scan_is_bounded() {
    let mut limits = config();
    limits.neighbour_limits.incomplete_per_interface_max = 8;
    let mut it = harness(limits);
    for n in 10..110u8 {
        it.send_one(INSIDE, &udp("10.0.0.5", &format!("192.0.2.{n}"), (1, 2), DATA));
    }
    assert_eq!(it.engine.buffered(), 8);
    assert_eq!(it.drops(DropReason::HoldFull) + it.drops(DropReason::NeighbourUnreachable), 92);
    // Later ones displace what nobody answered.
    it.advance(1);
    it.send_one(INSIDE, &udp("10.0.0.5", "192.0.2.200", (1, 2), DATA));
    assert_eq!(it.engine.buffered(), 8);
    it.advance(10);
    assert_eq!(it.engine.buffered(), 0);
    it.finish();
}

#[test]
fn a_new_configuration_changes_what_it_concerns() {
    let mut it = harness(known());
    let (frame, inside) = (out4(), to(OWN_OUTSIDE, udp("192.0.2.9", "10.0.0.5", (53, 1000), DATA)));
    assert!(it.passes(INSIDE, &frame) && it.passes(OUTSIDE, &inside));
    let apply = |it: &mut Harness, config| {
        let now = it.now;
        let watches = router(it).apply(config, now).unwrap();
        watches.into_iter().for_each(|watch| it.engine.state.validity.change(watch));
        it.advance(1);
    };
    // The same again concerns nothing.
    let walks = it.walks();
    apply(&mut it, known());
    assert!(it.passes(INSIDE, &frame) && it.passes(OUTSIDE, &inside));
    assert_eq!(it.walks(), walks);
    // A static neighbour's address, an MTU, and an own address where a neighbour was.
    let mut new = known();
    new.neighbours[2].mac = OTHER;
    apply(&mut it, new.clone());
    assert_eq!(it.send_one(INSIDE, &frame), vec![(OUTSIDE, forwarded(&frame, OWN_OUTSIDE, OTHER))]);
    new.interfaces[1].as_mut().unwrap().mtu = 1280;
    apply(&mut it, new.clone());
    let big = with_fragment_word(udp("10.0.0.5", "192.0.2.9", (1000, 53), &[0; 1300]), 0x4000);
    assert_error(&it.send_one(INSIDE, &big), &big, "10.0.0.1", (3, 4), [0, 0, 5, 0]);
    new.interfaces[1].as_mut().unwrap().addresses.push("192.0.2.9/24".parse().unwrap());
    assert!(router(&mut it).apply(new.clone(), common_now()).is_err(), "it is a static neighbour still");
    new.neighbours.remove(2);
    apply(&mut it, new);
    assert_error(&it.send_one(INSIDE, &frame), &frame, "10.0.0.1", (3, 3), [0; 4]);
    it.finish();
}

fn common_now() -> millrace_dataplane::time::Time {
    millrace_dataplane::time::Time::from_secs(1)
}

/// Whatever arrives, everything is accounted for and nothing panics.
#[test]
fn damaged_frames_are_accounted_for() {
    let mut it = harness(config());
    let seeds = [
        arp_frame(1, SENDER, "10.0.0.5", NONE, "10.0.0.1"),
        arp_frame(2, SENDER, "10.0.0.5", OWN, "10.0.0.1"),
        discovery(
            135,
            (SENDER, OWN),
            ("2001:db8:1::5", "2001:db8:1::1"),
            0,
            "2001:db8:1::1",
            Some((1, SENDER)),
        ),
        discovery(
            136,
            (SENDER, OWN),
            ("2001:db8:1::5", "2001:db8:1::1"),
            0x60,
            "2001:db8:1::5",
            Some((2, SENDER)),
        ),
        out4(),
        out6(),
        with_ttl(out4(), 1),
        echo("10.0.0.5", "10.0.0.1", false, 1, 2),
        echo("2001:db8:1::5", "2001:db8:1::1", false, 1, 2),
        tcp("10.0.0.5", "10.0.0.1", (1, 2), segment("S", 1, 0)),
        port_unreachable("10.0.0.5", "192.0.2.9", &out4()),
    ];
    let mut random = 0x1234_5678_9abc_def1u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    for round in 0..20_000 {
        let mut frame = seeds[next() % seeds.len()].clone();
        for _ in 0..next() % 4 {
            let at = next() % frame.len();
            frame[at] = next() as u8;
        }
        if next() % 8 == 0 {
            frame.truncate(14 + next() % (frame.len() - 13));
        }
        it.send_one((next() % 2) as u16, &frame);
        assert_eq!(it.engine.outputs.sums.balance(), i128::from(it.engine.buffered()));
        if round % 100 == 0 {
            it.advance(1);
        }
    }
    it.finish();
}
