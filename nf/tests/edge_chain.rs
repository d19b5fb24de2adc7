//! The chain that people deploy first, firewall, NAT and router together, through the real engine: hosts speak, and every
//! frame that leaves is read by etherparse with its checksums.

mod common;

use common::*;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::memory::Arena;
use millrace_dataplane::port::{MacAddress, PortId};
use millrace_nf::chain::ChainBuilder;
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::inspect::{Inspect, Patterns};
use millrace_nf::nat::{
    Capacity, Forward, Nat, NatConfig, NatPlan, NatSettings, PoolRange, Protocol, Secret,
};
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::router::interface::{Interface, InterfaceId, ProxyPrefix};
use millrace_nf::router::lpm::{NextHop, Route, RouteKind, RouteOrigin};
use millrace_nf::router::{Router, RouterConfig};
use millrace_nf::zone::ZoneId;
use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

const CLIENT: &str = "10.0.0.5";
const SERVER: &str = "198.51.100.7";
const POOL: &str = "192.0.2.100";
const CLIENT6: &str = "2001:db8:1::5";
const SERVER6: &str = "2001:db8:2::9";
/// The router's station on the outside, and that of the gateway there.
const OWN_OUTSIDE: MacAddress = [2, 0, 0, 0, 0, 3];
const GATEWAY: MacAddress = [2, 0, 0, 0, 0, 0x51];

fn interface(port: u16, mac: MacAddress, mtu: u16, addresses: &[&str]) -> Interface {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Interface { port: PortId(port), vlan: None, zone: ZoneId(port as u8), mac, mtu, addresses, ipv6: true }
}

fn router() -> Router {
    let mut config = RouterConfig::new(vec![
        interface(INSIDE, OWN, 1500, &["10.0.0.1/24", "2001:db8:1::1/64"]),
        interface(OUTSIDE, OWN_OUTSIDE, 1400, &["192.0.2.1/24", "2001:db8:2::1/64"]),
    ]);
    config.proxies =
        vec![ProxyPrefix { prefix: "192.0.2.100/32".parse().unwrap(), interface: InterfaceId(1) }];
    config.routes = vec![Route {
        prefix: "0.0.0.0/0".parse().unwrap(),
        next_hops: vec![NextHop { interface: InterfaceId(1), gateway: "192.0.2.9".parse().ok() }].into(),
        kind: RouteKind::Unicast,
        metric: 0,
        origin: RouteOrigin::Static,
    }];
    Router::new(config, Some(1)).unwrap()
}

fn rules() -> Vec<Rule> {
    let rule = |id: u32, name: &str| Rule::any(RuleId(id), u64::from(id) << 32, name, Action::Allow);
    vec![
        Rule { from_zone: Some(ZoneId(0)), ..rule(1, "out") },
        Rule {
            from_zone: Some(ZoneId(1)),
            protocols: vec![6],
            destinations: vec!["10.0.0.80/32".parse().unwrap()],
            ..rule(2, "web")
        },
        Rule { protocols: vec![1, 58], to_zone: Some(ZoneId::LOCAL), ..rule(3, "ping the router") },
    ]
}

fn nat() -> Nat {
    let address: Ipv4Addr = POOL.parse().unwrap();
    let forward = Forward {
        protocol: Protocol::Tcp,
        external: "192.0.2.100:8080".parse().unwrap(),
        ports: 1,
        inside: "10.0.0.80:80".parse().unwrap(),
    };
    let settings = NatSettings {
        pool: vec![PoolRange { first: address, last: address }],
        ports: (1024, 65_535),
        forwards: vec![forward],
        ..NatSettings::default()
    };
    let capacity = Capacity { mappings: 4096, mappings_static: 16, subscribers: 256, contacts: 256 };
    Nat::new(
        NatConfig::new(Arc::new(NatPlan::new(settings).unwrap())),
        &capacity,
        &Secret::from_key([1, 2]),
        &Arena::anonymous(8 << 20).unwrap(),
    )
    .unwrap()
}

fn arp(reply: bool, from: (MacAddress, &str), to: (MacAddress, &str)) -> Vec<u8> {
    let octets = |address: &str| address.parse::<Ipv4Addr>().unwrap().octets();
    let mut frame = [to.0, from.0].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1 + u8::from(reply)]);
    frame.extend(from.0);
    frame.extend(octets(from.1));
    frame.extend(to.0);
    frame.extend(octets(to.1));
    frame
}

/// A frame of a station outside, addressed to the router there.
fn from_outside(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&OWN_OUTSIDE);
    frame[6..12].copy_from_slice(&GATEWAY);
    frame
}

thread_local! {
    /// Where packet functions split the chain: a bit each for before the firewall, before the NAT and before the router.
    static SPLITS: Cell<u8> = const { Cell::new(0) };
}

/// The chain with its neighbours resolved as on a real wire: the first packet waits, ARP is answered, the packet leaves.
fn harness() -> Harness {
    harness_with(rules())
}

fn harness_with(rules: Vec<Rule>) -> Harness {
    let policy = Policy::new(&RuleSet::new(rules).unwrap(), Action::Deny).unwrap();
    let split = |builder: ChainBuilder, at: u8| {
        let function = || Box::new(Inspect::new(Arc::new(Patterns::new(Vec::new()).unwrap())));
        let is_split = SPLITS.get() >> at & 1 == 1;
        if is_split { builder.packet_function(format!("inspect{at}"), function()) } else { builder }
    };
    let builder = split(ChainBuilder::new("edge", &["inside", "outside"]), 0);
    let builder = builder.function("firewall", Firewall::new(policy, IcmpLimitConfig::default()));
    let builder = split(builder, 1).function("nat", nat());
    let mut it = Harness::new(split(builder, 2).forwarder("router", router()));
    let asked = it.send_one(INSIDE, &udp(CLIENT, SERVER, (9, 9), b"first"));
    assert_eq!(
        (asked.len(), asked[0].0, &asked[0].1[12..14]),
        (1, OUTSIDE, &[8, 6][..]),
        "who has the gateway"
    );
    assert_eq!(it.engine.buffered(), 1);
    let answer = arp(true, (GATEWAY, "192.0.2.9"), (OWN_OUTSIDE, "192.0.2.1"));
    assert_eq!(read(&it.send_one(OUTSIDE, &answer)[0].1).0, POOL);
    for host in [CLIENT, "10.0.0.80"] {
        let sent = it.send_one(INSIDE, &arp(false, (SENDER, host), (OWN, "10.0.0.1")));
        assert_eq!(sent.len(), 1, "the router answers");
    }
    it
}

/// Addresses and ports (of echoes the identifier, twice), once all checksums are right.
fn read_packet(packet: &[u8]) -> (String, u16, String, u16) {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 header checksum");
    let (from, to) = match sliced.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(header.source, header.destination).unwrap());
            (tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => {
            assert_eq!(udp.checksum(), udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap());
            (udp.source_port(), udp.destination_port())
        }
        TransportSlice::Icmpv4(icmp) => {
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()), "ICMP checksum");
            match icmp.icmp_type() {
                Icmpv4Type::EchoRequest(echo) | Icmpv4Type::EchoReply(echo) => (echo.id, echo.id),
                _ => (0, 0),
            }
        }
        other => panic!("unexpected {other:?}"),
    };
    (Ipv4Addr::from(header.source).to_string(), from, Ipv4Addr::from(header.destination).to_string(), to)
}

fn read(frame: &[u8]) -> (String, u16, String, u16) {
    read_packet(packet_of(frame))
}

fn ends(source: &str, from: u16, destination: &str, to: u16) -> (String, u16, String, u16) {
    (source.to_owned(), from, destination.to_owned(), to)
}

/// The one frame that left, by `port` and to `mac`.
fn only(sent: &Sent, port: u16, mac: MacAddress) -> Vec<u8> {
    assert_eq!(sent.len(), 1, "{sent:02x?}");
    assert_eq!((sent[0].0, &sent[0].1[..6]), (port, &mac[..]));
    sent[0].1.clone()
}

/// What an ICMPv4 error quotes; the error itself is checked.
fn quoted(frame: &[u8]) -> Vec<u8> {
    match SlicedPacket::from_ethernet(frame).unwrap().transport.unwrap() {
        TransportSlice::Icmpv4(icmp) => icmp.payload().to_vec(),
        other => panic!("no ICMP: {other:?}"),
    }
}

fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    frame[22] = ttl;
    fixed(frame)
}

fn with_fragment_word(mut frame: Vec<u8>, word: u16) -> Vec<u8> {
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    fixed(frame)
}

fn fixed(mut frame: Vec<u8>) -> Vec<u8> {
    let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
    frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    frame
}

/// Sends from the inside host; what the outside sees.
fn out(it: &mut Harness, frame: &[u8]) -> (String, u16, String, u16) {
    read(&only(&it.send_one(INSIDE, frame), OUTSIDE, GATEWAY))
}

/// Sends from outside; what the inside host sees.
fn into(it: &mut Harness, frame: Vec<u8>) -> (String, u16, String, u16) {
    read(&only(&it.send_one(OUTSIDE, &from_outside(frame)), INSIDE, SENDER))
}

#[test]
fn datagrams_and_echoes_go_out_and_come_back() {
    let mut it = harness();
    for _ in 0..3 {
        let seen = out(&mut it, &udp(CLIENT, SERVER, (5000, 53), b"query"));
        assert_eq!((&*seen.0, &*seen.2, seen.3), (POOL, SERVER, 53));
        let back = into(&mut it, udp(SERVER, POOL, (53, seen.1), b"answer"));
        assert_eq!(back, ends(SERVER, 53, CLIENT, 5000));
        let seen = out(&mut it, &echo(CLIENT, SERVER, false, 77, 1));
        let back = into(&mut it, echo(SERVER, POOL, true, seen.1, 1));
        assert_eq!(back, ends(SERVER, 77, CLIENT, 77));
    }
    assert!(it.counters().hits >= 8, "{:?}", it.counters());
    // Nothing else comes in.
    assert_eq!(it.send_one(OUTSIDE, &from_outside(udp(SERVER, CLIENT, (53, 5001), b"x"))), []);
    assert_eq!(it.send_one(OUTSIDE, &from_outside(udp("203.0.113.9", POOL, (53, 4000), b"x"))), []);
    it.finish();
}

#[test]
fn a_closed_connection_is_opened_anew_on_its_ports() {
    let mut it = harness();
    let mut port = 0;
    for round in 0..3u32 {
        let (a, b) = (1000 + round * 500_000, 9000 + round * 700_000);
        let seen = out(&mut it, &tcp(CLIENT, SERVER, (4000, 80), segment("S", a, 0)));
        assert!(round == 0 || seen.1 == port, "the mapping stays");
        port = seen.1;
        into(&mut it, tcp(SERVER, POOL, (80, port), segment("SA", b, a + 1)));
        out(&mut it, &tcp(CLIENT, SERVER, (4000, 80), segment("A", a + 1, b + 1)));
        // The last part of the handshake was lost further on.
        into(&mut it, tcp(SERVER, POOL, (80, port), segment("SA", b, a + 1)));
        out(&mut it, &tcp(CLIENT, SERVER, (4000, 80), segment("FA", a + 1, b + 1)));
        into(&mut it, tcp(SERVER, POOL, (80, port), segment("FA", b + 1, a + 2)));
        out(&mut it, &tcp(CLIENT, SERVER, (4000, 80), segment("A", a + 2, b + 2)));
        // Firewall and NAT share a session, unless they are in two segments.
        let each = if SPLITS.get() & 2 == 0 { 1 } else { 2 };
        assert_eq!(it.sessions(), 2 * each, "the first datagram's, and this one");
    }
    it.finish();
}

#[test]
fn a_forward_lets_in_what_the_rules_allow() {
    let mut it = harness();
    let syn = tcp(SERVER, POOL, (3333, 8080), segment("S", 1, 0));
    assert_eq!(into(&mut it, syn), ends(SERVER, 3333, "10.0.0.80", 80));
    let seen = out(&mut it, &tcp("10.0.0.80", SERVER, (80, 3333), segment("SA", 7, 2)));
    assert_eq!(seen, ends(POOL, 8080, SERVER, 3333));
    let ack = tcp(SERVER, POOL, (3333, 8080), segment("A", 2, 8));
    assert_eq!(into(&mut it, ack), ends(SERVER, 3333, "10.0.0.80", 80));
    assert_eq!(it.send_one(OUTSIDE, &from_outside(udp(SERVER, POOL, (3333, 8080), b"x"))), []);
    let syn = tcp(SERVER, POOL, (3333, 8081), segment("S", 1, 0));
    assert_eq!(it.send_one(OUTSIDE, &from_outside(syn)), []);
    // A hairpin: an inside host calls the external endpoint (RFC 4787 section 6).
    let syn = tcp(CLIENT, POOL, (3334, 8080), segment("S", 1, 0));
    let seen = read(&only(&it.send_one(INSIDE, &syn), INSIDE, SENDER));
    assert_eq!((&*seen.0, &*seen.2, seen.3), (POOL, "10.0.0.80", 80));
    let answer = tcp("10.0.0.80", POOL, (80, seen.1), segment("SA", 7, 2));
    let back = read(&only(&it.send_one(INSIDE, &answer), INSIDE, SENDER));
    assert_eq!(back, ends(POOL, 8080, CLIENT, 3334));
    it.finish();
}

/// The caller's view of a hairpin goes to the outside, the translated one stays inside: each has its own rule, also when the
/// rules change, whoever's packet asks first.
#[test]
fn both_views_of_a_hairpin_are_held_against_the_rules() {
    let view = |id, to: u8, name: &str, net: &str| Rule {
        from_zone: Some(ZoneId(0)),
        to_zone: Some(ZoneId(to)),
        destinations: vec![net.parse().unwrap()],
        ..Rule::any(RuleId(id), u64::from(id) << 32, name, Action::Allow)
    };
    let behind = |id| Rule::any(RuleId(id), u64::from(id) << 32, format!("behind {id}"), Action::Deny);
    let first = view(5, 1, "first", "198.51.100.0/24");
    let views = [view(1, 1, "called", "192.0.2.100/32"), view(2, 0, "translated", "10.0.0.80/32")];
    let mut it = harness_with([vec![first], views.to_vec()].concat());
    let syn = tcp(CLIENT, POOL, (3334, 8080), segment("S", 1, 0));
    let port = read(&only(&it.send_one(INSIDE, &syn), INSIDE, SENDER)).1;
    let call = tcp(CLIENT, POOL, (3334, 8080), segment("A", 2, 8));
    for (id, frame) in
        [(10, tcp("10.0.0.80", POOL, (80, port), segment("SA", 7, 2))), (11, call.clone()), (12, call)]
    {
        only(&it.send_one(INSIDE, &frame), INSIDE, SENDER);
        let engine = &mut it.engine;
        let firewall: &mut Firewall = engine.slow.chain_named("edge").unwrap().function("firewall").unwrap();
        firewall.insert(behind(id), &mut engine.state.validity.within(0)).unwrap();
    }
    let reply = tcp("10.0.0.80", POOL, (80, port), segment("A", 8, 2));
    only(&it.send_one(INSIDE, &reply), INSIDE, SENDER);
    it.fold();
    let report = it.function::<Firewall>("firewall").rules_report();
    let counted = |id| report.iter().find(|rule| rule.id == RuleId(id)).unwrap().counters;
    // Where firewall and NAT are in two segments, the translated view has a session of its own, and its rule counts.
    let translated = if SPLITS.get() & 2 == 0 { 0 } else { 5 };
    assert_eq!([1, 2].map(|id| (counted(id).hits, counted(id).packets)), [(1, 5), (1, translated)]);
    it.finish();
}

#[test]
fn traceroute_and_errors_speak_of_what_the_host_sent() {
    let mut it = harness();
    let probe = udp(CLIENT, SERVER, (5000, 33_434), b"probe");
    for _ in 0..2 {
        let expired = only(&it.send_one(INSIDE, &with_ttl(probe.clone(), 1)), INSIDE, SENDER);
        assert_eq!((expired[34], &*read(&expired).0, &*read(&expired).2), (11, "10.0.0.1", CLIENT));
        assert_eq!(read_packet(&quoted(&expired)), ends(CLIENT, 5000, SERVER, 33_434));
        // With an entry and a session the same.
        let sent = only(&it.send_one(INSIDE, &probe), OUTSIDE, GATEWAY);
        let port = read(&sent).1;
        let error = from_outside(port_unreachable("203.0.113.1", POOL, &sent));
        let inside = only(&it.send_one(OUTSIDE, &error), INSIDE, SENDER);
        assert_eq!((&*read(&inside).0, &*read(&inside).2), ("203.0.113.1", CLIENT));
        assert_eq!(read_packet(&quoted(&inside)), ends(CLIENT, 5000, SERVER, 33_434));
        // An error about what nobody sent does not come in.
        let other = udp(POOL, SERVER, (port ^ 1, 33_434), b"probe");
        let error = from_outside(port_unreachable("203.0.113.1", POOL, &other));
        assert_eq!(it.send_one(OUTSIDE, &error), []);
    }
    it.finish();
}

#[test]
fn what_is_too_big_is_told_both_ways() {
    let mut it = harness();
    let big = with_fragment_word(udp(CLIENT, SERVER, (5000, 53), &[7; 1450]), 0x4000);
    let mut small = udp(CLIENT, SERVER, (5000, 53), b"small");
    for _ in 0..2 {
        let error = only(&it.send_one(INSIDE, &big), INSIDE, SENDER);
        assert_eq!((error[34], error[35], &error[40..42]), (3, 4, &1400u16.to_be_bytes()[..]));
        assert_eq!(&*read(&error).0, "10.0.0.1");
        assert_eq!(&quoted(&error)[12..20], &big[26..34]);
        small = only(&it.send_one(INSIDE, &udp(CLIENT, SERVER, (5000, 53), b"small")), OUTSIDE, GATEWAY);
    }
    // A router further on says it.
    let too_big =
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 });
    let error = icmpv4("203.0.113.1", POOL, too_big, packet_of(&small));
    let inside = only(&it.send_one(OUTSIDE, &from_outside(error)), INSIDE, SENDER);
    assert_eq!(&inside[40..42], &1300u16.to_be_bytes());
    assert_eq!(read_packet(&quoted(&inside)), ends(CLIENT, 5000, SERVER, 53));
    it.finish();
}

#[test]
fn the_router_answers_on_both_sides_for_its_own_addresses() {
    let mut it = harness();
    for _ in 0..2 {
        let reply = only(&it.send_one(INSIDE, &echo(CLIENT, "10.0.0.1", false, 3, 1)), INSIDE, SENDER);
        assert_eq!(read(&reply), ends("10.0.0.1", 3, CLIENT, 3));
        let ping = from_outside(echo(SERVER, "192.0.2.1", false, 3, 1));
        let reply = only(&it.send_one(OUTSIDE, &ping), OUTSIDE, GATEWAY);
        assert_eq!(read(&reply), ends("192.0.2.1", 3, SERVER, 3));
        let reply = only(&it.send_one(INSIDE, &echo(CLIENT, "192.0.2.1", false, 4, 1)), INSIDE, SENDER);
        assert_eq!(read(&reply), ends("192.0.2.1", 4, CLIENT, 4));
    }
    it.finish();
}

#[test]
fn fragments_take_the_way_of_their_first() {
    let mut it = harness();
    let whole = udp(CLIENT, SERVER, (5000, 53), &[7; 64]);
    let cut = |from: usize, to: usize, word: u16| {
        let mut frame = [&whole[..34], &whole[34 + from..34 + to]].concat();
        frame[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
        with_fragment_word(frame, word)
    };
    let (first, later) = (cut(0, 40, 0x2000), cut(40, 72, 5));
    assert_eq!(it.send_one(INSIDE, &later), [], "it waits for the first");
    let sent = it.send_one(INSIDE, &first);
    assert_eq!(sent.len(), 2);
    for (port, frame) in &sent {
        assert_eq!((*port, &frame[..6]), (OUTSIDE, &GATEWAY[..]));
        assert_eq!(addresses(frame), (POOL.parse().unwrap(), SERVER.parse().unwrap()));
    }
    assert_eq!(sent[1].1[34..], later[34..], "a later fragment has no ports to change");
    let mut joined = [&sent[0].1[..], &sent[1].1[34..]].concat();
    joined[16..18].copy_from_slice(&(20 + 72u16).to_be_bytes());
    read(&with_fragment_word(joined, 0));
    it.finish();
}

#[test]
fn rules_neighbours_and_time_end_what_they_concern() {
    let mut it = harness();
    let query = udp(CLIENT, SERVER, (5000, 53), b"query");
    let port = out(&mut it, &query).1;
    // The gateway has a new station.
    let new: MacAddress = [2, 0, 0, 0, 0, 0x77];
    it.send_one(OUTSIDE, &arp(false, (new, "192.0.2.9"), (OWN_OUTSIDE, "192.0.2.1")));
    only(&it.send_one(INSIDE, &query), OUTSIDE, new);
    // The rule goes: its sessions end with their next packet, whichever way it goes.
    let engine = &mut it.engine;
    let chain = engine.slow.chain_named("edge").unwrap();
    let firewall: &mut Firewall = chain.function("firewall").unwrap();
    let rule = firewall.remove(RuleId(1), &mut engine.state.validity.within(0)).unwrap();
    assert_eq!(it.send_one(OUTSIDE, &from_outside(udp(SERVER, POOL, (53, port), b"late"))), []);
    assert_eq!(it.send_one(INSIDE, &query), []);
    assert!(it.drops(DropReason::FirewallDenied) >= 1);
    let engine = &mut it.engine;
    let chain = engine.slow.chain_named("edge").unwrap();
    let firewall: &mut Firewall = chain.function("firewall").unwrap();
    firewall.insert(Rule::clone(&rule), &mut engine.state.validity.within(0)).unwrap();
    only(&it.send_one(INSIDE, &query), OUTSIDE, new);
    // Silence ends sessions and mappings; the flow opens anew.
    it.advance(700);
    assert_eq!(it.sessions(), 0);
    assert_eq!(it.function::<Nat>("nat").bindings(), 0);
    it.finish();
}

/// A neighbour solicitation or advertisement that carries the station of who sends it.
fn discovery(kind: u8, macs: (MacAddress, MacAddress), from: &str, to: &str, target: &str) -> Vec<u8> {
    let octets = |address: &str| address.parse::<Ipv6Addr>().unwrap().octets();
    let option = if kind == 136 { 2 } else { 1 };
    let body = [&octets(target)[..], &[option, 1], &macs.0].concat();
    let flags = if kind == 136 { 0x60 } else { 0 };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv6(octets(from), octets(to), 255)
        .icmpv6_raw(kind, 0, [flags, 0, 0, 0])
        .write(&mut frame, &body)
        .unwrap();
    frame
}

/// IPv6 passes untranslated, and is filtered alike.
#[test]
fn ipv6_passes_untranslated() {
    let mut it = harness();
    let client = |flags: &'static str, sequence, acknowledgment| {
        tcp(CLIENT6, SERVER6, (4000, 80), segment(flags, sequence, acknowledgment))
    };
    let server = |flags: &'static str, sequence, acknowledgment| {
        from_outside(tcp(SERVER6, CLIENT6, (80, 4000), segment(flags, sequence, acknowledgment)))
    };
    let asked = it.send_one(INSIDE, &client("S", 1, 0));
    assert_eq!((asked.len(), asked[0].0, asked[0].1[54]), (1, OUTSIDE, 135), "a solicitation");
    let answer = discovery(136, (GATEWAY, OWN_OUTSIDE), SERVER6, "2001:db8:2::1", SERVER6);
    let released = only(&it.send_one(OUTSIDE, &answer), OUTSIDE, GATEWAY);
    assert_eq!((released[21], &released[22..]), (63, &client("S", 1, 0)[22..]));
    let solicit = discovery(135, (SENDER, OWN), CLIENT6, "2001:db8:1::1", "2001:db8:1::1");
    assert_eq!(it.send_one(INSIDE, &solicit).len(), 1, "the router answers");
    let back = only(&it.send_one(OUTSIDE, &server("SA", 7, 2)), INSIDE, SENDER);
    assert_eq!(back[22..], server("SA", 7, 2)[22..]);
    only(&it.send_one(INSIDE, &client("A", 2, 8)), OUTSIDE, GATEWAY);
    // Nobody else gets in, in whatever name.
    let stranger = from_outside(tcp(SERVER6, CLIENT6, (80, 4001), segment("S", 1, 0)));
    assert_eq!(it.send_one(OUTSIDE, &stranger), []);
    assert_eq!(it.send_one(OUTSIDE, &from_outside(client("A", 2, 8))), []);
    assert_eq!((it.drops(DropReason::FirewallDenied), it.drops(DropReason::WrongZone)), (1, 1));
    // Traceroute, and what the router further on says.
    let mut last = client("A", 2, 8);
    last[21] = 1;
    let expired = only(&it.send_one(INSIDE, &last), INSIDE, SENDER);
    assert_eq!((expired[54], addresses(&expired).0.to_string()), (3, "2001:db8:1::1".to_owned()));
    let sent = only(&it.send_one(INSIDE, &client("A", 2, 8)), OUTSIDE, GATEWAY);
    let error = from_outside(port_unreachable("2001:db8:2::77", CLIENT6, &sent));
    only(&it.send_one(OUTSIDE, &error), INSIDE, SENDER);
    // The router's own addresses, from both sides.
    let ping = echo(CLIENT6, "2001:db8:1::1", false, 3, 1);
    assert_eq!(only(&it.send_one(INSIDE, &ping), INSIDE, SENDER)[54], 129);
    let ping = from_outside(echo(SERVER6, "2001:db8:2::1", false, 3, 1));
    assert_eq!(only(&it.send_one(OUTSIDE, &ping), OUTSIDE, GATEWAY)[54], 129);
    it.finish();
}

/// Packet functions anywhere in the chain change nothing that hosts see.
#[test]
fn split_anywhere_it_is_the_same_chain() {
    for splits in 1..8 {
        println!("splits {splits:03b}");
        SPLITS.set(splits);
        datagrams_and_echoes_go_out_and_come_back();
        a_closed_connection_is_opened_anew_on_its_ports();
        a_forward_lets_in_what_the_rules_allow();
        both_views_of_a_hairpin_are_held_against_the_rules();
        traceroute_and_errors_speak_of_what_the_host_sent();
        what_is_too_big_is_told_both_ways();
        the_router_answers_on_both_sides_for_its_own_addresses();
        fragments_take_the_way_of_their_first();
        rules_neighbours_and_time_end_what_they_concern();
        ipv6_passes_untranslated();
    }
}
