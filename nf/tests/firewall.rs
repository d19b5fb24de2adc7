//! The firewall through the real engine.

mod common;

use common::*;
use etherparse::{Icmpv4Type, Icmpv6Type, IpFragOffset, Ipv4HeaderSlice, SlicedPacket, TransportSlice};
use ipnet::IpNet;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_nf::chain::ChainBuilder;
use millrace_nf::firewall::counters::RuleCounters;
use millrace_nf::firewall::log::{RECORDS_PER_SECOND_MAX, log_ring};
use millrace_nf::firewall::query::{Addresses, Transport};
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Family, IcmpMatch, Rule, RuleId};
use millrace_nf::firewall::{Change, DEFAULT_RULE, Firewall, Policy};
use millrace_nf::function::{FlowFunction, Verdict};
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::walk::{Direction, Walk};
use millrace_nf::zone::ZoneId;
use std::any::Any;
use std::net::IpAddr;

const INSIDE_ZONE: ZoneId = ZoneId(0);
const OUTSIDE_ZONE: ZoneId = ZoneId(1);
const CLIENT: &str = "10.0.0.5";
const SERVER: &str = "203.0.113.8";
const CLIENT6: &str = "2001:db8:1::5";
const SERVER6: &str = "2001:db8:9::8";
const WEB: RuleId = RuleId(1);
const DNS: RuleId = RuleId(2);
const PING: RuleId = RuleId(3);

fn rule(id: RuleId, name: &str, action: Action) -> Rule {
    Rule::any(id, u64::from(id.0) << 32, name, action)
}

/// From the inside: TCP to port 80, UDP to port 53.
fn web() -> Rule {
    Rule {
        from_zone: Some(INSIDE_ZONE),
        protocols: vec![6],
        destination_ports: vec![80..=80],
        ..rule(WEB, "web", Action::Allow)
    }
}

fn dns() -> Rule {
    Rule {
        from_zone: Some(INSIDE_ZONE),
        protocols: vec![17],
        destination_ports: vec![53..=53],
        ..rule(DNS, "dns", Action::Allow)
    }
}

fn policy(rules: &[Rule], default: Action) -> Policy {
    Policy::new(&RuleSet::new(rules.to_vec()).unwrap(), default).unwrap()
}

fn harness_with(rules: &[Rule], default: Action) -> Harness {
    let firewall = Firewall::new(policy(rules, default), IcmpLimitConfig::default());
    let chain = ChainBuilder::new("edge", &["inside", "outside"]).function("firewall", firewall);
    Harness::new(chain.forwarder("wire", Wire::default()))
}

fn harness(rules: &[Rule]) -> Harness {
    harness_with(rules, Action::Deny)
}

fn counters(harness: &mut Harness, id: RuleId) -> RuleCounters {
    harness.fold();
    let report = harness.function::<Firewall>("firewall").rules_report();
    report.iter().find(|rule| rule.id == id).unwrap().counters
}

fn insert(harness: &mut Harness, rule: Rule) {
    let engine = &mut harness.engine;
    let firewall: &mut Firewall = engine.slow.chain_named("edge").unwrap().function("firewall").unwrap();
    firewall.insert(rule, &mut engine.state.validity.within(0)).unwrap();
}

fn remove(harness: &mut Harness, id: RuleId) {
    let engine = &mut harness.engine;
    let firewall: &mut Firewall = engine.slow.chain_named("edge").unwrap().function("firewall").unwrap();
    assert_eq!(firewall.remove(id, &mut engine.state.validity.within(0)).unwrap().id, id);
}

fn apply(harness: &mut Harness, rules: &[Rule]) {
    let engine = &mut harness.engine;
    let firewall: &mut Firewall = engine.slow.chain_named("edge").unwrap().function("firewall").unwrap();
    let change =
        Change::between(firewall.policy(), &RuleSet::new(rules.to_vec()).unwrap(), Action::Deny).unwrap();
    firewall.apply(change, &mut engine.state.validity.within(0));
}

fn query(port: u16) -> Vec<u8> {
    udp(CLIENT, SERVER, (port, 53), b"query")
}

fn answer(port: u16) -> Vec<u8> {
    udp(SERVER, CLIENT, (53, port), b"answer")
}

/// SYN, SYN-ACK, ACK.
fn connect(harness: &mut Harness, client: &str, server: &str, port: u16) -> bool {
    harness.passes(INSIDE, &tcp(client, server, (port, 80), segment("S", 100, 0)))
        && harness.passes(OUTSIDE, &tcp(server, client, (80, port), segment("SA", 900, 101)))
        && harness.passes(INSIDE, &tcp(client, server, (port, 80), segment("A", 101, 901)))
}

#[test]
fn without_rules_nothing_passes_and_nothing_is_kept() {
    let mut harness = harness(&[]);
    for (port, from, to) in [
        (INSIDE, CLIENT, SERVER),
        (OUTSIDE, SERVER, CLIENT),
        (INSIDE, CLIENT6, SERVER6),
        (OUTSIDE, SERVER6, CLIENT6),
    ] {
        let frames = [
            udp(from, to, (1000, 53), b"x"),
            tcp(from, to, (1000, 80), segment("S", 1, 0)),
            echo(from, to, false, 7, 1),
            other(from, to, 47, b"gre"),
        ];
        assert!(harness.send(port, &frames).is_empty());
    }
    // What is not IP is no rule's, and so the default's. 0x88b5: IEEE 802, for experiments.
    let mut frame = query(1000);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    assert!(harness.send_one(INSIDE, &frame).is_empty());
    assert_eq!(harness.drops(DropReason::FirewallDenied), 17);
    // R6: a packet that is denied leaves nothing behind.
    assert_eq!((harness.sessions(), harness.entries()), (0, 0));
    let default = counters(&mut harness, DEFAULT_RULE);
    assert_eq!((default.hits, default.packets), (17, 17));
    harness.finish();
}

#[test]
fn what_is_allowed_out_is_answered_and_nothing_else_comes_in() {
    let mut harness = harness(&[web(), dns()]);
    assert!(!harness.passes(OUTSIDE, &answer(1000)), "an answer without a query");
    assert!(harness.passes(INSIDE, &query(1000)));
    assert!(harness.passes(OUTSIDE, &answer(1000)));
    assert!(!harness.passes(OUTSIDE, &answer(1001)), "another port");
    assert!(!harness.passes(OUTSIDE, &udp("203.0.113.9", CLIENT, (53, 1000), b"x")), "another server");
    assert!(!harness.passes(INSIDE, &udp(CLIENT, SERVER, (1000, 54), b"x")));
    assert!(connect(&mut harness, CLIENT, SERVER, 2000));
    assert_eq!(harness.sessions(), 2);
    // Later packets need no walk.
    let walks = harness.walks();
    for _ in 0..10 {
        assert!(harness.passes(INSIDE, &query(1000)) && harness.passes(OUTSIDE, &answer(1000)));
    }
    assert_eq!(harness.walks(), walks);
    harness.finish();
}

#[test]
fn ipv6_is_treated_alike() {
    let mut harness = harness(&[web(), dns()]);
    assert!(connect(&mut harness, CLIENT6, SERVER6, 2000));
    assert!(harness.passes(INSIDE, &udp(CLIENT6, SERVER6, (1000, 53), b"query")));
    assert!(harness.passes(OUTSIDE, &udp(SERVER6, CLIENT6, (53, 1000), b"answer")));
    assert!(!harness.passes(OUTSIDE, &udp(SERVER6, CLIENT6, (53, 1001), b"answer")));
    assert_eq!(harness.drops(DropReason::FirewallDenied), 1);
    harness.finish();
}

#[test]
fn errors_about_a_session_come_in_and_others_do_not() {
    let mut harness = harness(&[dns()]);
    let (mine, foreign) = (query(1000), query(1001));
    assert!(harness.passes(INSIDE, &mine));
    assert!(harness.passes(OUTSIDE, &port_unreachable(SERVER, CLIENT, &mine)));
    // A router on the way may say so, too.
    assert!(harness.passes(OUTSIDE, &port_unreachable("198.51.100.77", CLIENT, &mine)));
    assert!(!harness.passes(OUTSIDE, &port_unreachable(SERVER, CLIENT, &foreign)));
    let six = udp(CLIENT6, SERVER6, (1000, 53), b"query");
    assert!(!harness.passes(OUTSIDE, &port_unreachable(SERVER6, CLIENT6, &six)));
    assert!(harness.passes(INSIDE, &six));
    assert!(harness.passes(OUTSIDE, &port_unreachable(SERVER6, CLIENT6, &six)));
    assert_eq!(harness.drops(DropReason::IcmpUnrelated), 2);
    harness.finish();
}

#[test]
fn rule_counters_are_exact() {
    let mut harness = harness(&[web(), dns()]);
    let (mut packets, mut bytes) = (0, 0);
    for round in 0..20 {
        for port in 1000..1010 {
            assert!(harness.passes(INSIDE, &query(port)));
            assert!(harness.passes(OUTSIDE, &answer(port)));
            packets += 2;
            bytes += query(port).len() + answer(port).len();
        }
        assert!(!harness.passes(OUTSIDE, &answer(round)));
    }
    assert!(connect(&mut harness, CLIENT, SERVER, 2000));
    let dns = counters(&mut harness, DNS);
    assert_eq!(dns, RuleCounters { hits: 10, packets, bytes: bytes as u64 });
    let web = counters(&mut harness, WEB);
    assert_eq!((web.hits, web.packets), (1, 3));
    let default = counters(&mut harness, DEFAULT_RULE);
    let refused = RuleCounters { hits: 20, packets: 20, bytes: 20 * answer(0).len() as u64 };
    assert_eq!(default, refused);
    harness.finish();
}

#[test]
fn counters_need_no_cache() {
    let firewall = Firewall::new(policy(&[dns()], Action::Deny), IcmpLimitConfig::default());
    let chain = ChainBuilder::new("edge", &["inside", "outside"]).function("firewall", firewall);
    let mut harness = Harness::with_cache(chain.forwarder("wire", Wire::default()), 0);
    for _ in 0..5 {
        assert!(harness.passes(INSIDE, &query(1000)) && harness.passes(OUTSIDE, &answer(1000)));
    }
    let bytes = 5 * (query(0).len() + answer(0).len()) as u64;
    assert_eq!(counters(&mut harness, DNS), RuleCounters { hits: 1, packets: 10, bytes });
    harness.finish();
}

#[test]
fn tcp_is_refused_with_a_reset_that_its_sender_accepts() {
    let mut harness = harness_with(&[], Action::Reject);
    let sent = harness.send_one(OUTSIDE, &tcp(SERVER, CLIENT, (4000, 22), segment("S", 77, 0)));
    let [(OUTSIDE, frame)] = sent.as_slice() else { panic!("{sent:?}") };
    let parsed = SlicedPacket::from_ethernet(frame).unwrap();
    assert_eq!((&frame[..6], &frame[6..12]), (&SENDER[..], &OWN[..]));
    assert_eq!(addresses(frame), (CLIENT.parse().unwrap(), SERVER.parse().unwrap()));
    let Some(TransportSlice::Tcp(reset)) = parsed.transport else { panic!("no TCP") };
    assert_eq!((reset.source_port(), reset.destination_port()), (22, 4000));
    assert!(reset.rst() && reset.ack());
    assert_eq!((reset.sequence_number(), reset.acknowledgment_number()), (0, 78));
    assert_eq!(harness.drops(DropReason::FirewallDenied), 1);
    // A reset is not answered.
    assert!(harness.send_one(OUTSIDE, &tcp(SERVER, CLIENT, (4000, 22), segment("R", 78, 0))).is_empty());
    assert_eq!((harness.sessions(), harness.entries()), (0, 0));
    harness.finish();
}

#[test]
fn everything_else_is_refused_with_an_icmp_error() {
    let mut harness = harness_with(&[], Action::Reject);
    let offending = udp(SERVER, CLIENT, (4000, 161), b"get");
    let sent = harness.send_one(OUTSIDE, &offending);
    let [(OUTSIDE, frame)] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!(addresses(frame), (CLIENT.parse().unwrap(), SERVER.parse().unwrap()));
    let parsed = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = parsed.transport else { panic!("no ICMP") };
    assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 13));
    assert_eq!(icmp.payload(), packet_of(&offending));
    assert!(icmp.header().checksum == icmp.icmp_type().calc_checksum(icmp.payload()));
    let offending = udp(SERVER6, CLIENT6, (4000, 161), b"get");
    let sent = harness.send_one(OUTSIDE, &offending);
    let [(OUTSIDE, frame)] = sent.as_slice() else { panic!("{sent:?}") };
    let parsed = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Icmpv6(icmp)) = parsed.transport else { panic!("no ICMPv6") };
    assert_eq!((icmp.type_u8(), icmp.code_u8()), (1, 1));
    assert_eq!(icmp.payload(), packet_of(&offending));
    // An error is not answered with an error.
    assert!(harness.send_one(OUTSIDE, &port_unreachable(SERVER, CLIENT, &offending_v4())).is_empty());
    harness.finish();
}

fn offending_v4() -> Vec<u8> {
    udp(CLIENT, SERVER, (9, 9), b"")
}

#[test]
fn answers_to_one_source_have_a_rate() {
    let mut harness = harness_with(&[], Action::Reject);
    let limit = IcmpLimitConfig::default().source.burst as usize;
    let frames: Vec<_> = (0..60).map(|port| udp(SERVER, CLIENT, (port, 161), b"get")).collect();
    assert_eq!(harness.send(OUTSIDE, &frames).len(), limit);
    assert_eq!(harness.drops(DropReason::FirewallDenied), 60);
    // Another source has its own.
    assert_eq!(harness.send_one(OUTSIDE, &udp("203.0.113.200", CLIENT, (1, 161), b"get")).len(), 1);
    harness.finish();
}

#[test]
fn icmp_is_told_apart_by_type() {
    let ping = Rule {
        from_zone: Some(INSIDE_ZONE),
        family: Family::V4,
        icmp: vec![IcmpMatch { icmp_type: 8, code: None }],
        ..rule(PING, "ping", Action::Allow)
    };
    let mut harness = harness(&[ping]);
    assert!(!harness.passes(OUTSIDE, &echo(SERVER, CLIENT, true, 7, 1)), "no request yet");
    assert_eq!(harness.drops(DropReason::IcmpUnrelated), 1);
    assert!(harness.passes(INSIDE, &echo(CLIENT, SERVER, false, 7, 1)));
    assert!(harness.passes(OUTSIDE, &echo(SERVER, CLIENT, true, 7, 1)));
    assert!(harness.passes(INSIDE, &echo(CLIENT, SERVER, false, 7, 2)));
    assert!(!harness.passes(OUTSIDE, &echo(SERVER, CLIENT, true, 8, 1)), "another identifier");
    assert!(!harness.passes(INSIDE, &echo(CLIENT6, SERVER6, false, 7, 1)), "another version");
    let timestamp = Icmpv4Type::TimestampRequest(etherparse::icmpv4::TimestampMessage {
        id: 7,
        seq: 1,
        originate_timestamp: 0,
        receive_timestamp: 0,
        transmit_timestamp: 0,
    });
    assert!(!harness.passes(INSIDE, &icmpv4(CLIENT, SERVER, timestamp, &[])), "another type");
    let ping = counters(&mut harness, PING);
    assert_eq!((ping.hits, ping.packets), (1, 3));
    harness.finish();
}

/// No session carries a message that asks for no answer of its kind; its rule counts it all the same.
#[test]
fn icmp_is_told_apart_by_code_and_counted_without_a_session() {
    let message = |version: Family, code_u8| {
        let bytes5to8 = [0; 4];
        if version == Family::V4 {
            icmpv4(CLIENT, SERVER, Icmpv4Type::Unknown { type_u8: 42, code_u8, bytes5to8 }, &[])
        } else {
            icmpv6(CLIENT6, SERVER6, Icmpv6Type::Unknown { type_u8: 160, code_u8, bytes5to8 }, &[])
        }
    };
    for (family, icmp_type) in [(Family::V4, 42), (Family::V6, 160)] {
        let icmp = vec![IcmpMatch { icmp_type, code: Some(1) }];
        let mut harness = harness(&[Rule { family, icmp, ..rule(PING, "probe", Action::Allow) }]);
        for _ in 0..2 {
            assert!(harness.passes(INSIDE, &message(family, 1)));
            assert!(!harness.passes(INSIDE, &message(family, 2)));
        }
        let probe = counters(&mut harness, PING);
        assert_eq!((probe.hits, probe.packets, harness.sessions()), (2, 2, 0));
        harness.finish();
    }
}

/// An echo's reply is held against the rules as the request that it answers, both ends in each other's place.
#[test]
fn an_echo_reply_is_judged_as_its_request() {
    for (client, server, family, icmp_type) in
        [(CLIENT, SERVER, Family::V4, 8), (CLIENT6, SERVER6, Family::V6, 128)]
    {
        let icmp = vec![IcmpMatch { icmp_type, code: Some(0) }];
        let sources = vec![address(client).into()];
        let mut it = harness(&[Rule { family, icmp, sources, ..rule(PING, "ping", Action::Allow) }]);
        assert!(it.passes(INSIDE, &echo(client, server, false, 7, 1)));
        insert(&mut it, rule(RuleId(50), "behind", Action::Deny));
        assert!(it.passes(OUTSIDE, &echo(server, client, true, 7, 1)));
        it.finish();
    }
}

#[test]
fn tcp_outside_its_connection_is_dropped() {
    let mut harness = harness(&[web()]);
    // In mid-stream, and with flags that open nothing.
    for flags in ["A", "SA", "FA", "R"] {
        assert!(!harness.passes(INSIDE, &tcp(CLIENT, SERVER, (2000, 80), segment(flags, 100, 1))), "{flags}");
    }
    assert_eq!(harness.drops(DropReason::TcpInvalid), 4);
    assert_eq!((harness.sessions(), counters(&mut harness, WEB)), (0, RuleCounters::default()));
    assert!(connect(&mut harness, CLIENT, SERVER, 2000));
    // Far outside the window.
    assert!(!harness.passes(OUTSIDE, &tcp(SERVER, CLIENT, (80, 2000), segment("R", 900_000_000, 101))));
    assert!(!harness.passes(OUTSIDE, &tcp(SERVER, CLIENT, (80, 2000), segment("A", 900_000_000, 101))));
    assert!(harness.passes(OUTSIDE, &tcp(SERVER, CLIENT, (80, 2000), segment("A", 901, 101))));
    harness.finish();
}

/// An IPv4 packet in two fragments, the first of 16 bytes.
fn fragments(whole: &[u8], identification: u16) -> [Vec<u8>; 2] {
    let fragment = |offset: u16, more: bool, bytes: &[u8]| {
        let mut header = Ipv4HeaderSlice::from_slice(packet_of(whole)).unwrap().to_header();
        (header.identification, header.more_fragments, header.dont_fragment) = (identification, more, false);
        header.fragment_offset = IpFragOffset::try_new(offset / 8).unwrap();
        header.set_payload_len(bytes.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        let mut frame = whole[..14].to_vec();
        header.write(&mut frame).unwrap();
        frame.extend_from_slice(bytes);
        frame
    };
    let payload = &packet_of(whole)[20..];
    [fragment(0, true, &payload[..16]), fragment(16, false, &payload[16..])]
}

fn fragmented_query(port: u16, identification: u16) -> [Vec<u8>; 2] {
    fragments(&udp(CLIENT, SERVER, (port, 53), &[5; 64]), identification)
}

#[test]
fn fragments_go_with_their_first_one() {
    let mut harness = harness(&[dns()]);
    let [first, second] = fragmented_query(1000, 1);
    assert!(harness.passes(INSIDE, &first) && harness.passes(INSIDE, &second));
    assert!(harness.passes(OUTSIDE, &answer(1000)), "they opened one session");
    assert_eq!(harness.sessions(), 1);
    // Under changed rules the first fragment is judged, the later one goes with the session.
    let behind =
        Rule { destinations: vec![net("203.0.113.0/24")], ..rule(RuleId(50), "behind", Action::Deny) };
    insert(&mut harness, behind);
    let [first, second] = fragmented_query(1000, 2);
    assert!(harness.passes(INSIDE, &first) && harness.passes(INSIDE, &second));
    remove(&mut harness, DNS);
    let [first, second] = fragmented_query(1000, 3);
    assert!(!harness.passes(INSIDE, &first) && !harness.passes(INSIDE, &second));
    assert_eq!((harness.sessions(), harness.drops(DropReason::FirewallDenied)), (0, 1));
    harness.finish();
}

/// Whatever changes between two fragments: type and code of a message are in the first alone.
#[test]
fn a_later_fragment_is_not_judged_by_itself() {
    let icmp = vec![IcmpMatch { icmp_type: 8, code: None }];
    let ping = Rule { family: Family::V4, icmp, ..rule(PING, "ping", Action::Allow) };
    let mut it = harness(&[ping]);
    let [first, second] = fragments(&echo(CLIENT, SERVER, false, 7, 1), 1);
    assert!(it.passes(INSIDE, &first));
    insert(&mut it, rule(RuleId(50), "behind", Action::Deny));
    assert!(it.passes(INSIDE, &second));
    it.finish();
}

#[test]
fn the_data_planes_own_addresses_are_a_zone() {
    let local = Rule { to_zone: Some(ZoneId::LOCAL), log: true, ..rule(RuleId(9), "local", Action::Allow) };
    let mut harness = harness(&[dns(), local]);
    let (ring, mut records) = log_ring();
    harness.function::<Firewall>("firewall").log_to(ring);
    harness.send_one(OUTSIDE, &udp(SERVER, "192.0.2.254", (1, 2), b"to us"));
    assert_eq!(harness.engine.outputs.sums.consumed, 1);
    let counted = counters(&mut harness, RuleId(9));
    assert_eq!((counted.hits, counted.packets), (1, 1), "no session tells of it, and yet it is counted");
    assert_eq!(records.pop().unwrap().flow.unwrap().to, None, "it left by no port");
    assert!(!harness.passes(OUTSIDE, &udp(SERVER, CLIENT, (1, 2), b"through us")));
    remove(&mut harness, RuleId(9));
    harness.send_one(OUTSIDE, &udp(SERVER, "192.0.2.254", (1, 2), b"to us"));
    assert_eq!(harness.engine.outputs.sums.consumed, 1);
    harness.finish();
}

#[test]
fn rules_between_zones_hold_in_their_direction() {
    let both = |name, from, to, id| Rule {
        from_zone: Some(from),
        to_zone: Some(to),
        ..rule(RuleId(id), name, Action::Allow)
    };
    let mut outward = harness(&[both("out", INSIDE_ZONE, OUTSIDE_ZONE, 1)]);
    assert!(outward.passes(INSIDE, &query(1)) && !outward.passes(OUTSIDE, &answer(2)));
    outward.finish();
    let mut inward = harness(&[both("in", OUTSIDE_ZONE, INSIDE_ZONE, 1)]);
    assert!(!inward.passes(INSIDE, &query(1)) && inward.passes(OUTSIDE, &answer(2)));
    inward.finish();
}

/// R8: the connections that only the removed rule admitted end; no other is even looked at.
#[test]
fn a_removed_rule_cuts_what_it_admitted_and_nothing_else() {
    let mut harness = harness(&[web(), dns()]);
    assert!(connect(&mut harness, CLIENT, SERVER, 2000));
    assert!(harness.passes(INSIDE, &query(1000)) && harness.passes(OUTSIDE, &answer(1000)));
    remove(&mut harness, DNS);
    let walks = harness.walks();
    let data = tcp(CLIENT, SERVER, (2000, 80), segment("A", 101, 901));
    let back = tcp(SERVER, CLIENT, (80, 2000), segment("A", 901, 101));
    assert!(harness.passes(INSIDE, &data), "the other connection goes on");
    assert_eq!(harness.walks(), walks, "without a walk");
    assert!(harness.passes(OUTSIDE, &back));
    // The reply is held against the rules as its query was.
    assert!(!harness.passes(OUTSIDE, &answer(1000)));
    assert_eq!(harness.sessions(), 1, "the session is cut");
    assert!(!harness.passes(INSIDE, &query(1000)));
    assert_eq!(harness.drops(DropReason::FirewallDenied), 2);
    let removed = harness.function::<Firewall>("firewall").removed_counters();
    assert_eq!((removed.hits, removed.packets), (1, 2));
    harness.finish();
}

#[test]
fn a_connection_that_another_rule_admits_goes_on_and_counts_there() {
    let wider = Rule { from_zone: Some(INSIDE_ZONE), ..rule(RuleId(7), "all", Action::Allow) };
    let mut harness = harness(&[web(), dns(), wider]);
    assert!(connect(&mut harness, CLIENT, SERVER, 2000));
    remove(&mut harness, WEB);
    // The reply first: the rule that admits it now names the initiator's zone.
    assert!(harness.passes(OUTSIDE, &tcp(SERVER, CLIENT, (80, 2000), segment("A", 901, 101))));
    assert!(harness.passes(INSIDE, &tcp(CLIENT, SERVER, (2000, 80), segment("A", 101, 901))));
    assert_eq!(harness.sessions(), 1);
    let all = counters(&mut harness, RuleId(7));
    assert_eq!((all.hits, all.packets), (1, 2));
    harness.finish();
}

#[test]
fn a_rule_put_in_front_cuts_what_it_denies() {
    let mut harness = harness(&[dns()]);
    assert!(harness.passes(INSIDE, &query(1000)));
    let other = udp(CLIENT, "198.51.100.9", (1000, 53), b"query");
    assert!(harness.passes(INSIDE, &other));
    let walks = harness.walks();
    let block = Rule {
        order: 0,
        destinations: vec![net("203.0.113.0/24")],
        ..rule(RuleId(8), "block", Action::Reject)
    };
    insert(&mut harness, block);
    assert!(harness.passes(INSIDE, &other));
    assert_eq!(harness.walks(), walks, "R8: the other connection did not walk");
    let sent = harness.send_one(INSIDE, &query(1000));
    assert_eq!((sent.len(), sent[0].0), (1, INSIDE), "rejected");
    assert_eq!(harness.sessions(), 1);
    let block = counters(&mut harness, RuleId(8));
    assert_eq!((block.hits, block.packets), (1, 1));
    harness.finish();
}

/// R8: what concerns no live flow costs no live flow a walk.
#[test]
fn changes_that_concern_no_flow_cause_no_walk() {
    let mut harness = harness(&[web(), dns()]);
    assert!(connect(&mut harness, CLIENT, SERVER, 2000));
    assert!(harness.passes(INSIDE, &query(1000)) && harness.passes(OUTSIDE, &answer(1000)));
    let data = tcp(CLIENT, SERVER, (2000, 80), segment("A", 101, 901));
    let back = tcp(SERVER, CLIENT, (80, 2000), segment("A", 901, 101));
    assert!(harness.passes(INSIDE, &data) && harness.passes(OUTSIDE, &back));
    let (walks, hits) = (harness.walks(), harness.counters().hits);
    for i in 0..200u32 {
        let id = RuleId(100 + i);
        let block = Rule {
            order: 0,
            destinations: vec![net(&format!("172.16.{}.0/24", i % 16))],
            ..rule(id, &format!("block {i}"), Action::Deny)
        };
        insert(&mut harness, block);
        assert!(harness.passes(INSIDE, &data) && harness.passes(OUTSIDE, &back));
        remove(&mut harness, id);
        assert!(harness.passes(INSIDE, &query(1000)) && harness.passes(OUTSIDE, &answer(1000)));
    }
    assert_eq!((harness.walks(), harness.counters().hits), (walks, hits + 800));
    harness.finish();
}

#[test]
fn a_connection_that_its_rule_still_admits_is_counted_once() {
    let mut harness = harness(&[dns()]);
    assert!(harness.passes(INSIDE, &query(1000)));
    let walks = harness.walks();
    let behind =
        Rule { destinations: vec![net("203.0.113.0/24")], ..rule(RuleId(50), "behind", Action::Deny) };
    insert(&mut harness, behind);
    assert!(harness.passes(INSIDE, &query(1000)) && harness.passes(INSIDE, &query(1000)));
    assert_eq!(
        harness.walks(),
        walks + 1,
        "the new rule can match it, so it is held against the rules, once"
    );
    let dns = counters(&mut harness, DNS);
    assert_eq!((dns.hits, dns.packets), (1, 3));
    harness.finish();
}

/// Behind the firewall: what leaves has the address 198.51.100.1; 192.0.2.1 is the host named here, a hairpin.
struct Translator(&'static str);

const PUBLIC: &str = "198.51.100.1";
const SERVICE: &str = "192.0.2.1";
const HOST: &str = "10.0.0.9";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

impl FlowFunction for Translator {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "translator"
    }
    fn reads(&self) -> Reads {
        Reads::none().with(&[Field::Ipv4Source, Field::Ipv4Destination])
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        let initiator = walk.session.filter(|session| session.reply).map(|session| session.tuples[0]);
        match (walk.direction, initiator) {
            (Direction::Forward, None) => walk.headers.set_source(address(PUBLIC)),
            (Direction::Backward, Some(tuple)) => walk.headers.set_destination(tuple.source_address()),
            (Direction::Backward, None) => walk.headers.set_destination(address(self.0)),
            (Direction::Forward, Some(_)) => {}
        }
        (Verdict::Continue, None)
    }
    fn hairpins(&self, walk: &mut Walk<'_>) -> bool {
        walk.headers.destination() == Some(address(SERVICE))
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

fn translating_harness(host: &'static str, rules: &[Rule]) -> Harness {
    let firewall = Firewall::new(policy(rules, Action::Deny), IcmpLimitConfig::default());
    let chain = ChainBuilder::new("edge", &["inside", "outside"]).function("firewall", firewall);
    Harness::new(chain.function("translator", Translator(host)).forwarder("wire", Wire::default()))
}

/// The reply comes to the translated address; rules speak of the inside one, on both ways.
#[test]
fn a_reply_is_held_against_the_rules_in_the_initiators_addresses() {
    let from = |id, host: &str| Rule { sources: vec![net(host)], ..rule(RuleId(id), host, Action::Allow) };
    let mut harness = translating_harness(HOST, &[from(1, "10.0.1.5/32"), from(2, "10.0.2.5/32")]);
    let replies = [udp(SERVER, PUBLIC, (53, 1001), b"answer"), udp(SERVER, PUBLIC, (53, 1002), b"answer")];
    assert!(harness.passes(INSIDE, &udp("10.0.1.5", SERVER, (1001, 53), b"query")));
    assert!(harness.passes(INSIDE, &udp("10.0.2.5", SERVER, (1002, 53), b"query")));
    assert!(harness.passes(OUTSIDE, &replies[0]) && harness.passes(OUTSIDE, &replies[1]));
    let walks = harness.walks();
    remove(&mut harness, RuleId(1));
    assert!(harness.passes(OUTSIDE, &replies[1]));
    assert_eq!(harness.walks(), walks);
    assert!(!harness.passes(OUTSIDE, &replies[0]));
    // A walk under the new rules finds the same.
    harness.engine.state.flush();
    assert!(harness.passes(OUTSIDE, &replies[1]));
    assert_eq!(harness.sessions(), 1);
    harness.finish();
}

/// R6: refused on the way back of a hairpin, nothing of the way there remains.
#[test]
fn a_refused_hairpin_admits_nothing_on_its_first_half() {
    let block =
        Rule { order: 0, destinations: vec![net("10.0.0.9/32")], ..rule(RuleId(8), "block", Action::Deny) };
    let allow = Rule { from_zone: Some(INSIDE_ZONE), ..rule(WEB, "all", Action::Allow) };
    let mut harness = translating_harness(HOST, &[block, allow]);
    assert!(harness.send_one(INSIDE, &udp(CLIENT, SERVICE, (1000, 53), b"query")).is_empty());
    assert_eq!(counters(&mut harness, RuleId(8)).packets, 1);
    assert_eq!(counters(&mut harness, WEB), RuleCounters::default());
    assert_eq!((harness.sessions(), harness.entries()), (0, 0));
    remove(&mut harness, RuleId(8));
    let sent = harness.send_one(INSIDE, &udp(CLIENT, SERVICE, (1000, 53), b"query"));
    assert_eq!((sent[0].0, addresses(&sent[0].1)), (INSIDE, (address(PUBLIC), address(HOST))));
    let all = counters(&mut harness, WEB);
    assert_eq!((all.hits, all.packets), (1, 1));
    harness.finish();
}

/// A hairpin is one connection, also where it ends at the data plane itself.
#[test]
fn a_hairpin_to_the_data_plane_counts_once() {
    let mut it = translating_harness("10.0.0.254", &[rule(WEB, "all", Action::Allow)]);
    assert!(it.send_one(INSIDE, &udp(CLIENT, SERVICE, (1000, 53), b"query")).is_empty());
    assert_eq!(it.engine.outputs.sums.consumed, 1);
    let all = counters(&mut it, WEB);
    assert_eq!((all.hits, all.packets), (1, 1));
    it.finish();
}

#[test]
fn a_new_policy_touches_what_differs() {
    let mut harness = harness(&[web(), dns()]);
    assert!(connect(&mut harness, CLIENT, SERVER, 2000));
    assert!(harness.passes(INSIDE, &query(1000)));
    let walks = harness.walks();
    // The same rules under other identities, another in front.
    let renumber = |rule: Rule, id: u32| Rule { id: RuleId(id), order: u64::from(id) << 32, ..rule };
    let front = Rule { destinations: vec![net("172.16.0.0/24")], ..rule(RuleId(1), "front", Action::Deny) };
    apply(&mut harness, &[front, renumber(web(), 5), renumber(dns(), 6)]);
    assert!(harness.passes(INSIDE, &tcp(CLIENT, SERVER, (2000, 80), segment("A", 101, 901))));
    assert!(harness.passes(INSIDE, &query(1000)));
    assert_eq!(harness.walks(), walks);
    // Now without the name server rule.
    apply(&mut harness, &[web()]);
    assert!(harness.passes(INSIDE, &tcp(CLIENT, SERVER, (2000, 80), segment("A", 101, 901))));
    assert!(!harness.passes(INSIDE, &query(1000)));
    assert_eq!(harness.walks(), walks + 1);
    let web = counters(&mut harness, WEB);
    assert_eq!((web.hits, web.packets), (1, 5));
    let removed = harness.function::<Firewall>("firewall").removed_counters();
    assert_eq!((removed.hits, removed.packets), (1, 2));
    harness.finish();
}

/// Expiry and flushing change nothing but speed: a session outlives its entries, with the rule that admitted it.
#[test]
fn sessions_outlive_their_entries() {
    let mut harness = harness(&[dns()]);
    assert!(harness.passes(INSIDE, &query(1000)));
    harness.engine.state.flush();
    assert!(harness.passes(OUTSIDE, &answer(1000)));
    harness.engine.state.flush();
    assert!(harness.passes(INSIDE, &query(1000)));
    let dns = counters(&mut harness, DNS);
    assert_eq!((dns.hits, dns.packets), (1, 3));
    harness.advance(400);
    assert_eq!(harness.sessions(), 0);
    assert!(!harness.passes(OUTSIDE, &answer(1000)));
    harness.finish();
}

/// A session belongs to the zone that opened it: what another zone sends in the initiator's name is not part of it.
#[test]
fn another_zone_can_not_speak_for_the_initiator() {
    let mut it = harness(&[dns()]);
    assert!(it.passes(INSIDE, &query(1000)));
    assert!(it.passes(OUTSIDE, &answer(1000)));
    assert_eq!(it.send_one(OUTSIDE, &query(1000)), []);
    assert_eq!(it.drops(DropReason::WrongZone), 1);
    assert!(it.passes(INSIDE, &query(1000)));
    it.finish();
}

/// Who may answer an echo may not ask one in return.
#[test]
fn a_session_of_echoes_admits_answers_alone() {
    for (client, server) in [(CLIENT, SERVER), (CLIENT6, SERVER6)] {
        let ping = Rule { from_zone: Some(INSIDE_ZONE), ..rule(PING, "ping", Action::Allow) };
        let mut it = harness(&[ping]);
        assert!(it.passes(INSIDE, &echo(client, server, false, 7, 1)));
        assert_eq!(it.send_one(OUTSIDE, &echo(server, client, false, 7, 1)), []);
        assert_eq!(it.send_one(INSIDE, &echo(client, server, true, 7, 1)), []);
        assert_eq!(it.drops(DropReason::IcmpUnrelated), 2);
        assert!(it.passes(OUTSIDE, &echo(server, client, true, 7, 1)));
        it.finish();
    }
}

/// Later fragments belong to the first one of their own port.
#[test]
fn fragments_of_another_port_do_not_borrow_ports() {
    let mut it = harness(&[dns()]);
    let fragment = |word: u16| {
        let mut frame = query(1000);
        frame[20..22].copy_from_slice(&word.to_be_bytes());
        let header = Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
        frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        frame
    };
    let mut first = udp(CLIENT, SERVER, (1000, 53), &[7; 16]);
    first[20..22].copy_from_slice(&0x2000u16.to_be_bytes());
    let header = Ipv4HeaderSlice::from_slice(&first[14..]).unwrap().to_header();
    first[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    assert!(it.passes(INSIDE, &first));
    assert_eq!(it.send_one(OUTSIDE, &fragment(3)), []);
    assert_eq!(it.engine.buffered(), 1, "it waits for a first fragment of its own");
    assert!(it.passes(INSIDE, &fragment(3)));
    it.finish();
}

/// A redirect is for the link where it was sent: nobody behind a router may be told another gateway.
#[test]
fn redirects_go_no_further() {
    let mut it = harness(&[dns()]);
    assert!(it.passes(INSIDE, &query(1000)));
    let redirect = etherparse::icmpv4::RedirectHeader {
        code: etherparse::icmpv4::RedirectCode::RedirectForHost,
        gateway_internet_address: [203, 0, 113, 66],
    };
    let message = Icmpv4Type::Redirect(redirect);
    assert_eq!(it.send_one(OUTSIDE, &icmpv4("203.0.113.1", CLIENT, message, &query(1000)[14..42])), []);
    assert_eq!(it.drops(DropReason::IcmpUnrelated), 1);
    it.finish();
}

/// An error goes to the host whose packet it quotes: a known session is no way in to others.
#[test]
fn an_error_about_a_session_reaches_nobody_else() {
    for (client, server, other) in [(CLIENT, SERVER, "10.0.0.6"), (CLIENT6, SERVER6, "2001:db8:1::6")] {
        let mut it = harness(&[dns()]);
        let query = udp(client, server, (1000, 53), b"query");
        assert!(it.passes(INSIDE, &query));
        assert_eq!(it.send_one(OUTSIDE, &port_unreachable(server, other, &query)), []);
        assert_eq!(it.drops(DropReason::IcmpUnrelated), 1);
        assert!(it.passes(OUTSIDE, &port_unreachable(server, client, &query)));
        it.finish();
    }
}

/// A logging rule tells of the flows that it decided, once each, with where they went; other rules tell nothing.
#[test]
fn a_logging_rule_tells_of_each_new_flow_and_of_nothing_else() {
    let mut logged = Rule { log: true, ..dns() };
    let deny =
        Rule { log: true, from_zone: Some(OUTSIDE_ZONE), ..rule(RuleId(9), "from outside", Action::Deny) };
    let mut harness = harness(&[web(), logged.clone(), deny]);
    let (ring, mut records) = log_ring();
    harness.function::<Firewall>("firewall").log_to(ring);
    assert!(connect(&mut harness, CLIENT, SERVER, 1000));
    for _ in 0..3 {
        assert_eq!(harness.send_one(INSIDE, &query(1000)).len(), 1);
        assert_eq!(harness.send_one(OUTSIDE, &answer(1000)).len(), 1);
    }
    let record = records.pop().unwrap();
    let flow = record.flow.unwrap();
    assert_eq!((record.rule.name.as_str(), record.left_out), ("dns", 0));
    assert_eq!((flow.from.0, flow.to.map(|port| port.0), flow.protocol), (INSIDE, Some(OUTSIDE), 17));
    assert_eq!(flow.transport, Transport::Ports { source: 1000, destination: 53 });
    let addresses = Addresses::V4 { source: CLIENT.parse().unwrap(), destination: SERVER.parse().unwrap() };
    assert_eq!(flow.addresses, addresses);
    assert!(records.pop().is_none(), "one record a flow; the rule of the other flow does not log");
    // A refused packet opens nothing; each is told of.
    for _ in 0..2 {
        assert!(harness.send_one(OUTSIDE, &answer(2000)).is_empty());
        let record = records.pop().unwrap();
        assert_eq!((record.rule.action, record.flow.unwrap().to), (Action::Deny, None));
    }
    // A connection that the changed rules still admit is none that is new.
    logged.destination_ports = vec![50..=60];
    remove(&mut harness, DNS);
    insert(&mut harness, logged);
    assert_eq!(harness.send_one(INSIDE, &query(1000)).len(), 1);
    assert!(records.pop().is_none());
    let firewall = harness.function::<Firewall>("firewall");
    assert_eq!(firewall.log_totals(), (3, 0));
}

#[test]
fn what_the_log_leaves_out_is_told_of_and_is_the_rules_own() {
    let logged = |id, name| Rule { log: true, ..rule(RuleId(id), name, Action::Deny) };
    let mut harness = harness(&[logged(1, "first")]);
    let (ring, mut records) = log_ring();
    harness.function::<Firewall>("firewall").log_to(ring);
    let most = RECORDS_PER_SECOND_MAX as u16;
    let flood: Vec<_> = (0..most + 3).map(query).collect();
    let mut told = |harness: &mut Harness, frames: &[Vec<u8>]| {
        harness.send(INSIDE, frames);
        harness.advance(2);
        let records: Vec<_> = std::iter::from_fn(|| records.pop()).collect();
        let last = records.last().unwrap();
        (records.len() as u16, last.rule.name.clone(), last.flow.is_some(), last.left_out)
    };
    assert_eq!(told(&mut harness, &flood), (most + 1, "first".to_owned(), false, 3));
    harness.send(INSIDE, &flood);
    apply(&mut harness, &[logged(2, "second")]);
    assert_eq!(told(&mut harness, &flood[..1]), (most + 1, "second".to_owned(), true, 0));
    harness.finish();
}

/// R6: what another function drops was not admitted, and so is not told of.
#[test]
fn a_flow_that_a_later_function_drops_is_not_logged() {
    let logged = Rule { log: true, ..dns() };
    let mut firewall = Firewall::new(policy(&[logged], Action::Deny), IcmpLimitConfig::default());
    let (ring, mut records) = log_ring();
    firewall.log_to(ring);
    let second = Firewall::new(policy(&[], Action::Deny), IcmpLimitConfig::default());
    let chain = ChainBuilder::new("edge", &["inside", "outside"]).function("firewall", firewall);
    let mut harness = Harness::new(chain.function("second", second).forwarder("wire", Wire::default()));
    assert!(harness.send_one(INSIDE, &query(1000)).is_empty());
    assert!(records.pop().is_none());
}
