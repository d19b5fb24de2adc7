//! What is for the data plane's own addresses goes to the host stack, and what comes from there is routed as its own.

mod common;

use std::net::IpAddr;
use std::sync::Arc;

use common::*;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::memory::Arena;
use millrace_dataplane::port::{MacAddress, PortId};
use millrace_dataplane::time::Time;
use millrace_nf::chain::ChainBuilder;
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::nat::{Capacity, Nat, NatConfig, NatPlan, NatSettings, PoolRange, Secret};
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::router::interface::{Interface, InterfaceId};
use millrace_nf::router::{HostService, HostSide, Router, RouterConfig, StaticNeighbour};
use millrace_nf::zone::ZoneId;

const HOST: u16 = 2;
const OWN_OUTSIDE: MacAddress = [2, 0, 0, 0, 0, 3];
const SERVER: MacAddress = [2, 0, 0, 0, 0, 0x51];
const CLIENT: &str = "10.0.0.5";
const CLIENT6: &str = "2001:db8:1::5";
const INSIDE_OWN: &str = "10.0.0.1";
const INSIDE_OWN6: &str = "2001:db8:1::1";
const OUTSIDE_OWN: &str = "192.0.2.1";
const OUTSIDE_HOST: &str = "192.0.2.9";
const TCP: u8 = 6;
const UDP: u8 = 17;

fn interface(port: u16, mac: MacAddress, addresses: &[&str]) -> Interface {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let zone = ZoneId(port as u8);
    Interface { port: PortId(port), vlan: None, zone, mac, mtu: 1500, addresses, ipv6: true }
}

fn service(protocol: u8, port: u16, address: Option<&str>) -> HostService {
    HostService { protocol, port, address: address.map(|address| address.parse().unwrap()) }
}

fn config(services: &[HostService]) -> RouterConfig {
    let mut config = RouterConfig::new(vec![
        interface(INSIDE, OWN, &["10.0.0.1/24", "2001:db8:1::1/64"]),
        interface(OUTSIDE, OWN_OUTSIDE, &["192.0.2.1/24", "2001:db8:2::1/64"]),
    ]);
    let known = [(0, CLIENT, SENDER), (0, CLIENT6, SENDER), (1, OUTSIDE_HOST, SERVER)];
    config.neighbours = known
        .map(|(interface, address, mac)| StaticNeighbour {
            interface: InterfaceId(interface),
            address: address.parse().unwrap(),
            mac,
        })
        .into();
    config.host = Some(HostSide { port: PortId(HOST), mtu: 1500, services: services.to_vec() });
    config
}

fn usual() -> Vec<HostService> {
    vec![service(TCP, 8080, None), service(UDP, 7, None), service(TCP, 9090, Some(INSIDE_OWN))]
}

fn attach(mut harness: Harness) -> Harness {
    harness.engine.slow.attach(PortId(HOST), 0, ZoneId::LOCAL);
    harness.engine.compile_schema(PortId(HOST));
    harness.ports = HOST + 1;
    harness
}

/// From inside to us, and from us anywhere, is allowed.
fn firewall() -> Firewall {
    let rule = |id: u32, name: &str| Rule::any(RuleId(id), u64::from(id) << 32, name, Action::Allow);
    let rules = vec![
        Rule { from_zone: Some(ZoneId(0)), to_zone: Some(ZoneId::LOCAL), ..rule(1, "in") },
        Rule { from_zone: Some(ZoneId::LOCAL), ..rule(2, "own") },
    ];
    Firewall::new(
        Policy::new(&RuleSet::new(rules).unwrap(), Action::Deny).unwrap(),
        IcmpLimitConfig::default(),
    )
}

fn guarded() -> Harness {
    let router = Router::new(config(&usual()), Some(1)).unwrap();
    let chain = ChainBuilder::new("edge", &["inside", "outside"]);
    attach(Harness::new(chain.function("firewall", firewall()).forwarder("router", router)))
}

fn bare() -> Harness {
    let router = Router::new(config(&usual()), Some(1)).unwrap();
    attach(Harness::new(ChainBuilder::new("edge", &["inside", "outside"]).forwarder("router", router)))
}

/// As the router sends it: between these stations, and otherwise as it was.
fn between(from: MacAddress, to: MacAddress, frame: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &frame[12..]].concat()
}

fn from_outside(frame: &[u8]) -> Vec<u8> {
    between(SERVER, OWN_OUTSIDE, frame)
}

#[test]
fn what_is_served_goes_to_the_host_stack_as_it_came_and_answers_come_back() {
    let mut it = guarded();
    for (client, own) in [(CLIENT, INSIDE_OWN), (CLIENT6, INSIDE_OWN6), (CLIENT, OUTSIDE_OWN)] {
        let before = it.counters();
        for byte in 0..3 {
            let asked = udp(client, own, (5000, 7), &[byte; 100]);
            assert_eq!(it.send_one(INSIDE, &asked), [(HOST, asked)]);
            let answer = udp(own, client, (7, 5000), &[byte; 100]);
            let sent = it.send_one(HOST, &answer);
            assert_eq!(sent, [(INSIDE, between(OWN, SENDER, &answer))], "with the TTL that it has");
        }
        let after = it.counters();
        assert_eq!((after.misses - before.misses, after.hits - before.hits), (2, 4), "both ways are cached");
    }
    assert_eq!(it.sessions(), 3);
    // A connection with all that belongs to it.
    let segments =
        [(INSIDE, "S", 100, 0), (HOST, "SA", 900, 101), (INSIDE, "A", 101, 901), (HOST, "FA", 901, 101)];
    for (port, flags, sequence, acknowledgment) in segments {
        let said = segment(flags, sequence, acknowledgment);
        let sent = match port {
            HOST => it.send_one(port, &tcp(INSIDE_OWN, CLIENT, (8080, 1000), said)),
            _ => it.send_one(port, &tcp(CLIENT, INSIDE_OWN, (1000, 8080), said)),
        };
        assert_eq!(sent.len(), 1, "{flags}");
    }
    it.finish();
}

#[test]
fn what_no_rule_allows_does_not_come_to_the_host_stack() {
    let mut it = guarded();
    for frame in [
        tcp(OUTSIDE_HOST, OUTSIDE_OWN, (1000, 8080), segment("S", 1, 0)),
        udp(OUTSIDE_HOST, OUTSIDE_OWN, (1000, 7), &[1]),
        tcp("2001:db8:2::9", INSIDE_OWN6, (1000, 8080), segment("S", 1, 0)),
    ] {
        assert!(it.send_one(OUTSIDE, &from_outside(&frame)).is_empty());
    }
    assert_eq!(it.drops(DropReason::FirewallDenied), 3);
    it.finish();
}

#[test]
fn what_nothing_serves_is_refused_as_before() {
    for mut it in [guarded(), bare()] {
        let refused = tcp(CLIENT, INSIDE_OWN, (1000, 8081), segment("S", 1, 0));
        let sent = it.send_one(INSIDE, &refused);
        assert_eq!((sent.len(), sent[0].0), (1, INSIDE), "a reset");
        let sent = it.send_one(INSIDE, &udp(CLIENT, INSIDE_OWN, (1000, 53), &[1]));
        assert_eq!((sent.len(), sent[0].0), (1, INSIDE), "port unreachable");
        // At another address of ours.
        let sent = it.send_one(INSIDE, &tcp(CLIENT, OUTSIDE_OWN, (1000, 9090), segment("S", 1, 0)));
        assert_eq!((sent.len(), sent[0].0), (1, INSIDE));
        let served = tcp(CLIENT, INSIDE_OWN, (1000, 9090), segment("S", 1, 0));
        assert_eq!(it.send_one(INSIDE, &served), [(HOST, served)]);
        assert_eq!(it.drops(DropReason::UnsupportedProtocol), 3);
        // Echo requests are the router's to answer.
        let sent = it.send_one(INSIDE, &echo(CLIENT, INSIDE_OWN, false, 1, 1));
        assert_eq!((sent.len(), sent[0].0), (1, INSIDE));
        it.finish();
    }
}

#[test]
fn what_the_host_stack_sends_is_routed_and_its_answers_find_it() {
    for (mut it, keeps_sessions) in [(guarded(), true), (bare(), false)] {
        let ports = (50_000, 80);
        let syn = tcp(OUTSIDE_OWN, OUTSIDE_HOST, ports, segment("S", 10, 0));
        assert_eq!(it.send_one(HOST, &syn), [(OUTSIDE, between(OWN_OUTSIDE, SERVER, &syn))]);
        let answer = from_outside(&tcp(OUTSIDE_HOST, OUTSIDE_OWN, (80, 50_000), segment("SA", 70, 11)));
        assert_eq!(it.send_one(OUTSIDE, &answer), [(HOST, answer)]);
        let asked = echo(OUTSIDE_OWN, OUTSIDE_HOST, false, 77, 1);
        assert_eq!(it.send_one(HOST, &asked), [(OUTSIDE, between(OWN_OUTSIDE, SERVER, &asked))]);
        let answer = from_outside(&echo(OUTSIDE_HOST, OUTSIDE_OWN, true, 77, 1));
        assert_eq!(it.send_one(OUTSIDE, &answer), [(HOST, answer.clone())]);
        assert_eq!(it.sessions(), if keeps_sessions { 2 } else { 0 });
        if keeps_sessions {
            // Nobody else answers: not of the same zone for what was not asked, and not from another one.
            let other = from_outside(&echo(OUTSIDE_HOST, OUTSIDE_OWN, true, 78, 1));
            assert!(it.send_one(OUTSIDE, &other).is_empty());
            assert!(it.send_one(INSIDE, &between(SENDER, OWN, &answer)).is_empty());
            assert_eq!((it.drops(DropReason::IcmpUnrelated), it.drops(DropReason::WrongZone)), (1, 1));
        } else {
            let low = from_outside(&udp(OUTSIDE_HOST, OUTSIDE_OWN, (53, 5000), &[1]));
            let sent = it.send_one(OUTSIDE, &low);
            assert_eq!((sent.len(), sent[0].0), (1, OUTSIDE), "no answer of anybody's: port unreachable");
        }
        it.finish();
    }
}

#[test]
fn it_speaks_in_its_own_name_only_and_not_to_groups() {
    let mut it = bare();
    assert!(it.send_one(HOST, &udp("10.0.0.77", CLIENT, (7, 5000), &[1])).is_empty());
    assert!(it.send_one(HOST, &udp(INSIDE_OWN, "224.0.0.1", (7, 5000), &[1])).is_empty());
    assert!(it.send_one(HOST, &udp(INSIDE_OWN, "10.0.0.255", (7, 5000), &[1])).is_empty());
    assert!(it.send_one(HOST, &udp(INSIDE_OWN, "255.255.255.255", (7, 5000), &[1])).is_empty());
    assert_eq!(it.drops(DropReason::MartianAddress), 4);
    assert!(it.send_one(HOST, &udp(INSIDE_OWN, "203.0.113.9", (7, 5000), &[1])).is_empty());
    assert_eq!(it.drops(DropReason::NoRoute), 1, "and it is told nothing");
    // To itself.
    let own = udp(INSIDE_OWN, OUTSIDE_OWN, (50_000, 7), &[1]);
    assert_eq!(it.send_one(HOST, &own), [(HOST, own)]);
    it.finish();
}

#[test]
fn what_it_sends_waits_for_the_neighbour() {
    let mut it = guarded();
    let asked = udp(INSIDE_OWN, "10.0.0.66", (50_000, 53), &[1; 30]);
    let sent = it.send_one(HOST, &asked);
    assert_eq!((sent.len(), sent[0].0, &sent[0].1[..6]), (1, INSIDE, &[0xff; 6][..]), "an ARP request");
    let station = [2, 0, 0, 0, 0, 0x66];
    let mut reply = [&OWN[..], &station, &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2], &station].concat();
    reply.extend([10, 0, 0, 66]);
    reply.extend(OWN);
    reply.extend([10, 0, 0, 1]);
    assert_eq!(it.send_one(INSIDE, &reply), [(INSIDE, between(OWN, station, &asked))]);
    it.finish();
}

#[test]
fn an_address_that_a_nat_shares_serves_both() {
    let own: std::net::Ipv4Addr = OUTSIDE_OWN.parse().unwrap();
    let settings = NatSettings {
        pool: vec![PoolRange { first: own, last: own }],
        ports: (1024, 65_535),
        ..NatSettings::default()
    };
    let capacity = Capacity { mappings: 1024, mappings_static: 16, subscribers: 256, contacts: 256 };
    let arena = Arena::anonymous(8 << 20).unwrap();
    let nat = NatConfig {
        outside: Some(ZoneId(OUTSIDE as u8)),
        ..NatConfig::new(Arc::new(NatPlan::new(settings).unwrap()))
    };
    let nat = Nat::new(nat, &capacity, &Secret::from_key([1, 2]), &arena).unwrap();
    let policy = Policy::new(&RuleSet::new(Vec::new()).unwrap(), Action::Allow).unwrap();
    let chain = ChainBuilder::new("edge", &["inside", "outside"])
        .function("firewall", Firewall::new(policy, IcmpLimitConfig::default()))
        .function("nat", nat)
        .forwarder("router", Router::new(config(&usual()), Some(1)).unwrap());
    let mut it = attach(Harness::new(chain));
    let out = it.send_one(INSIDE, &udp(CLIENT, OUTSIDE_HOST, (4000, 53), &[1]));
    assert_eq!(addresses(&out[0].1).0, IpAddr::V4(own));
    let asked = from_outside(&udp(OUTSIDE_HOST, OUTSIDE_OWN, (4000, 7), &[1]));
    assert_eq!(it.send_one(OUTSIDE, &asked), [(HOST, asked)]);
    let answer = udp(OUTSIDE_OWN, OUTSIDE_HOST, (7, 4000), &[1]);
    assert_eq!(it.send_one(HOST, &answer), [(OUTSIDE, between(OWN_OUTSIDE, SERVER, &answer))]);
    let probe = udp(OUTSIDE_OWN, OUTSIDE_HOST, (50_000, 53), &[1]);
    assert_eq!(it.send_one(HOST, &probe), [(OUTSIDE, between(OWN_OUTSIDE, SERVER, &probe))]);
    let answer = from_outside(&udp(OUTSIDE_HOST, OUTSIDE_OWN, (53, 50_000), &[1]));
    assert_eq!(it.send_one(OUTSIDE, &answer), [(HOST, answer)]);
    it.finish();
}

#[test]
fn a_change_of_what_is_served_takes_its_decisions_with_it() {
    let mut it = guarded();
    let asked = udp(CLIENT, INSIDE_OWN, (5000, 7), &[1]);
    it.send_one(INSIDE, &asked);
    it.send_one(INSIDE, &asked);
    assert_eq!(it.counters().hits, 1);
    let without = RouterConfig { host: None, ..config(&[]) };
    let watches = it.function::<Router>("router").apply(without, Time::from_secs(2)).unwrap();
    it.engine.state.validity.within(0).change_all(&watches);
    let sent = it.send_one(INSIDE, &asked);
    assert_eq!((sent.len(), sent[0].0), (1, INSIDE), "port unreachable");
    it.finish();
}
