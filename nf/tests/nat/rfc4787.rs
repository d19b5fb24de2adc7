//! RFC 4787: UDP.

use super::*;
use common::{INSIDE, OUTSIDE, other, udp};
use millrace_nf::nat::Filtering;
use std::collections::HashSet;

const HOST: &str = "10.0.0.5";

/// Sends from inside and tells what left outside.
pub fn out(bench: &mut Harness, source: &str, destination: &str, ports: (u16, u16)) -> Seen {
    let sent = bench.send_one(INSIDE, &udp(source, destination, ports, b"data"));
    only(OUTSIDE, &sent).0
}

/// Section 4.1 REQ-1: one mapping, whatever the destination; and the reply comes back.
#[test]
fn mappings_are_endpoint_independent_and_replies_return() {
    let mut bench = harness(config(settings()));
    let first = out(&mut bench, HOST, REMOTE, (5000, 53));
    assert!(first.source.starts_with("192.0.2.1:") && first.destination == "198.51.100.7:53");
    for (destination, port) in [(REMOTE, 54), ("203.0.113.9", 53), ("203.0.113.9", 9)] {
        assert_eq!(out(&mut bench, HOST, destination, (5000, port)).source, first.source);
    }
    assert_ne!(out(&mut bench, HOST, REMOTE, (5001, 53)).source, first.source);
    let external = port_of(&first.source);
    // The first reply walks, the second is replayed.
    for _ in 0..2 {
        let reply = udp(REMOTE, POOL, (53, external), b"answer");
        let (back, _) = only(INSIDE, &bench.send_one(OUTSIDE, &reply));
        assert_eq!(back, seen("198.51.100.7:53", "10.0.0.5:5000"));
    }
    assert!(bench.counters().hits >= 1);
    assert_eq!((bench.sessions(), nat(&mut bench).state().mappings().len()), (5, 2));
    bench.finish();
}

/// Section 4.2.1 REQ-3: no port is given to two inside endpoints; REQ-4: parity is kept.
#[test]
fn ports_are_not_overloaded_and_keep_their_parity() {
    let mut bench = harness(config(settings()));
    let mut taken = HashSet::new();
    for n in 0..200_u16 {
        let left = out(&mut bench, &format!("10.0.0.{}", n % 7 + 1), REMOTE, (4000 + n, 53));
        assert_eq!(port_of(&left.source) % 2, n % 2, "REQ-4");
        assert!(taken.insert(left.source), "REQ-3");
    }
    bench.finish();
}

/// Section 5 REQ-8: filtering by choice.
#[test]
fn filtering_is_as_configured() {
    let kinds = [
        (Filtering::EndpointIndependent, true, true),
        (Filtering::AddressDependent, true, false),
        (Filtering::AddressAndPortDependent, false, false),
    ];
    for (filtering, other_port, other_address) in kinds {
        let mut bench = harness(config(NatSettings { filtering, ..settings() }));
        let external = port_of(&out(&mut bench, HOST, REMOTE, (5000, 53)).source);
        assert!(bench.passes(OUTSIDE, &udp(REMOTE, POOL, (53, external), b"")), "the session's own");
        assert_eq!(bench.passes(OUTSIDE, &udp(REMOTE, POOL, (99, external), b"")), other_port);
        assert_eq!(bench.passes(OUTSIDE, &udp("203.0.113.9", POOL, (53, external), b"")), other_address);
        let refused = u64::from(!other_port) + u64::from(!other_address);
        assert_eq!(bench.drops(DropReason::NatFiltered), refused, "{filtering:?}");
        bench.finish();
    }
}

/// Section 5: what is mapped to nobody is refused, and takes no state.
#[test]
fn unmapped_endpoints_are_refused() {
    let mut bench = harness(config(settings()));
    assert!(bench.send_one(OUTSIDE, &udp(REMOTE, POOL, (53, 5000), b"")).is_empty());
    assert!(bench.send_one(INSIDE, &udp(HOST, POOL, (53, 5000), b"")).is_empty());
    assert_eq!(bench.drops(DropReason::NatFiltered), 2);
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (0, 0));
    bench.finish();
}

/// A session from outside, which endpoint-independent filtering admits, is answered from the mapping.
#[test]
fn sessions_from_outside_are_answered_from_the_same_endpoint() {
    let mut bench = harness(config(settings()));
    let external = port_of(&out(&mut bench, HOST, REMOTE, (5000, 53)).source);
    let call = udp("203.0.113.9", POOL, (77, external), b"call");
    let (inward, _) = only(INSIDE, &bench.send_one(OUTSIDE, &call));
    assert_eq!(inward, seen("203.0.113.9:77", "10.0.0.5:5000"));
    for _ in 0..2 {
        let left = out(&mut bench, HOST, "203.0.113.9", (5000, 77));
        assert_eq!(left, seen(format!("192.0.2.1:{external}"), "203.0.113.9:77"));
    }
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (2, 2));
    bench.finish();
}

/// Section 4.3 REQ-5: a mapping lives with its sessions; then its port rests and is free again.
#[test]
fn the_end_of_the_last_session_ends_the_mapping() {
    let plan = NatSettings { ports: (2000, 2000), udp_parity: false, ..settings() };
    let mut bench = harness(config(plan));
    assert_eq!(out(&mut bench, HOST, REMOTE, (5000, 53)).source, "192.0.2.1:2000");
    out(&mut bench, HOST, "203.0.113.9", (5000, 53));
    let other = udp("10.0.0.6", REMOTE, (5000, 53), b"");
    assert!(bench.send_one(INSIDE, &other).is_empty());
    assert_eq!(bench.drops(DropReason::NatPortsExhausted), 1);
    assert_eq!(nat(&mut bench).state().pool().used(Protocol::Udp).exhausted, 1);
    bench.advance(295);
    assert_eq!(nat(&mut bench).state().mappings().len(), 1, "not before five minutes");
    bench.advance(20);
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (0, 0));
    assert_eq!(nat(&mut bench).state().mappings().len(), 0);
    bench.advance(250);
    assert!(bench.passes(INSIDE, &other), "the port is free");
    bench.finish();
}

/// A released port rests for two minutes at least while others are free (RFC 6888 section 3 REQ-8), and then rests no more.
#[test]
fn released_ports_rest_and_come_back() {
    let plan = NatSettings { ports: (2000, 2009), udp_parity: false, ..settings() };
    let mut bench = harness(config(plan));
    let mut all = HashSet::new();
    for port in 0..10 {
        all.insert(out(&mut bench, HOST, REMOTE, (5000 + port, 53)).source);
    }
    assert_eq!(all.len(), 10);
    bench.advance(310 + 250);
    assert_eq!(bench.sessions(), 0);
    // All ten have rested; of these one is used again.
    let last = out(&mut bench, HOST, REMOTE, (6000, 53)).source;
    bench.advance(305);
    assert_eq!(bench.sessions(), 0);
    for port in 0..9 {
        assert_ne!(out(&mut bench, HOST, REMOTE, (7000 + port, 53)).source, last, "it rests");
    }
    bench.finish();
}

/// Section 6 REQ-9: hairpinning with the external source, over a dynamic mapping and over a port forward.
#[test]
fn inside_hosts_reach_each_other_by_external_endpoints() {
    let forwards = vec![forward(Protocol::Udp, "192.0.2.1:80", "10.0.0.9:8080")];
    let mut bench = harness(config(NatSettings { forwards, ..settings() }));
    let dynamic = out(&mut bench, "10.0.0.9", REMOTE, (7000, 53)).source;
    for (target, inside) in [(dynamic.as_str(), "10.0.0.9:7000"), ("192.0.2.1:80", "10.0.0.9:8080")] {
        let mut external = None;
        for _ in 0..2 {
            let frame = udp(HOST, POOL, (5000, port_of(target)), b"ping");
            let (arrived, _) = only(INSIDE, &bench.send_one(INSIDE, &frame));
            assert!(arrived.source.starts_with("192.0.2.1:"), "the external source");
            assert_eq!(arrived.destination, inside);
            external = Some(port_of(&arrived.source));
        }
        for _ in 0..2 {
            let reply = udp("10.0.0.9", POOL, (port_of(inside), external.unwrap()), b"pong");
            let (back, _) = only(INSIDE, &bench.send_one(INSIDE, &reply));
            assert_eq!(back, seen(target, "10.0.0.5:5000"));
        }
    }
    // The caller's own session holds two shares, one in each mapping.
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (3, 5));
    bench.advance(400);
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (0, 0));
    assert_eq!(nat(&mut bench).state().mappings().len(), 0);
    bench.finish();
}

/// A host that calls its own external endpoint hears itself.
#[test]
fn a_host_may_call_itself() {
    let mut bench = harness(config(settings()));
    let external = port_of(&out(&mut bench, HOST, REMOTE, (5000, 53)).source);
    for _ in 0..2 {
        let frame = udp(HOST, POOL, (5000, external), b"echo");
        let (arrived, _) = only(INSIDE, &bench.send_one(INSIDE, &frame));
        assert_eq!(arrived, seen(format!("192.0.2.1:{external}"), "10.0.0.5:5000"));
    }
    bench.finish();
}

/// Section 6 REQ-9: by choice.
#[test]
fn hairpinning_can_be_off() {
    let mut config = config(settings());
    config.hairpinning = false;
    let mut bench = harness(config);
    let external = port_of(&out(&mut bench, "10.0.0.9", REMOTE, (7000, 53)).source);
    assert!(bench.send_one(INSIDE, &udp(HOST, POOL, (5000, external), b"")).is_empty());
    assert_eq!(bench.drops(DropReason::NatFiltered), 1);
    bench.finish();
}

/// R6: a packet that a later function denies takes no port.
#[test]
fn a_denied_packet_takes_no_port() {
    let mut bench = harness(config(settings()));
    for port in 0..50 {
        assert!(bench.send_one(INSIDE, &udp(HOST, REMOTE, (5000 + port, 666), b"")).is_empty());
    }
    assert_eq!(bench.drops(DropReason::FirewallDenied), 50);
    let state = nat(&mut bench).state();
    assert_eq!((state.pool().used(Protocol::Udp).highest, state.mappings().len()), (0, 0));
    assert_eq!(state.subscribers().len(), 0);
    bench.finish();
}

/// A port forward admits anyone; its host appears as the forwarded endpoint when it calls itself (section 4.1 REQ-1).
#[test]
fn forwards_lead_in_and_out() {
    let forwards = vec![forward(Protocol::Udp, "192.0.2.1:80", "10.0.0.9:8080")];
    let filtering = Filtering::AddressAndPortDependent;
    let mut bench = harness(config(NatSettings { forwards, filtering, ..settings() }));
    let (inward, _) = only(INSIDE, &bench.send_one(OUTSIDE, &udp(REMOTE, POOL, (999, 80), b"get")));
    assert_eq!(inward, seen("198.51.100.7:999", "10.0.0.9:8080"));
    let reply = out(&mut bench, "10.0.0.9", REMOTE, (8080, 999));
    assert_eq!(reply, seen("192.0.2.1:80", "198.51.100.7:999"));
    assert_eq!(out(&mut bench, "10.0.0.9", "203.0.113.5", (8080, 1)).source, "192.0.2.1:80");
    bench.finish();
}

/// A forward may lead to a host that is not inside (a demilitarised zone): its answers are translated all the same, also
/// those to inside hosts.
#[test]
fn forwards_may_lead_to_another_zone() {
    let forwards = vec![forward(Protocol::Udp, "192.0.2.1:80", "172.16.0.9:8080")];
    let mut bench = harness(config(NatSettings { forwards, ..settings() }));
    for from in [OUTSIDE, INSIDE] {
        let caller = if from == INSIDE { HOST } else { REMOTE };
        for _ in 0..2 {
            let sent = bench.send_one(from, &udp(caller, POOL, (999, 80), b"get"));
            let (arrived, _) = only(OUTSIDE, &sent);
            assert_eq!(arrived.destination, "172.16.0.9:8080");
            let (to, port) = arrived.source.split_once(':').unwrap();
            let answer = udp("172.16.0.9", to, (8080, port.parse().unwrap()), b"page");
            let (back, _) = only(from, &bench.send_one(OUTSIDE, &answer));
            assert_eq!(back, seen("192.0.2.1:80", format!("{caller}:999")));
            let error = common::port_unreachable("172.16.0.9", to, &sent[0].1);
            let (outer, about) = only(from, &bench.send_one(OUTSIDE, &error));
            assert_eq!(outer, seen("192.0.2.1:0", format!("{caller}:0")));
            assert_eq!(quoted(&about), seen(format!("{caller}:999"), "192.0.2.1:80"));
        }
    }
    bench.finish();
}

/// Who outside sends as if it were an inside host of a session is refused, and so are its errors.
#[test]
fn inside_addresses_from_outside_are_refused() {
    let mut bench = harness(config(settings()));
    let frame = udp(HOST, REMOTE, (5000, 53), b"data");
    let external = port_of(&out(&mut bench, HOST, REMOTE, (5000, 53)).source);
    assert!(bench.send_one(OUTSIDE, &frame).is_empty());
    assert_eq!(bench.drops(DropReason::WrongZone), 1);
    let reply = udp(REMOTE, HOST, (53, 5000), b"data");
    assert!(bench.send_one(OUTSIDE, &common::port_unreachable(HOST, REMOTE, &reply)).is_empty());
    assert_eq!(bench.drops(DropReason::WrongZone), 2);
    assert!(bench.passes(OUTSIDE, &udp(REMOTE, POOL, (53, external), b"data")));
    bench.finish();
}

/// Two proposals of a hairpin that are possible alone but not together: the session ends and leaves nothing behind.
#[test]
fn a_hairpin_without_room_for_both_ends_leaves_nothing() {
    let forwards = vec![forward(Protocol::Udp, "192.0.2.1:80", "10.0.0.9:8080")];
    let capacity = Capacity { mappings: 1, mappings_static: 0, subscribers: 4, contacts: 0 };
    let config = config(NatSettings { forwards, ..settings() });
    let chain = ChainBuilder::new("edge", &["inside", "outside"])
        .function(
            "nat",
            Nat::new(config, &capacity, &Secret::from_key([1, 2]), &Arena::anonymous(8 << 20).unwrap())
                .unwrap(),
        )
        .forwarder("wire", Wire::default());
    let mut bench = Harness::new(chain);
    let call = udp(HOST, POOL, (5000, 80), b"call");
    for n in 1..3 {
        assert!(
            bench.send_one(INSIDE, &call).is_empty(),
            "R6: no packet bears a port that its session has not got"
        );
        assert_eq!(bench.drops(DropReason::SessionTableFull), n);
        assert_eq!((bench.sessions(), bench.entries(), nat(&mut bench).bindings()), (0, 0, 0));
    }
    bench.advance(1);
    assert_eq!(nat(&mut bench).state().mappings().len(), 0);
    assert!(bench.passes(OUTSIDE, &udp(REMOTE, POOL, (5000, 80), b"call")), "there is room for one");
    bench.finish();
}

/// A UDP checksum of zero says that there is none (RFC 768), and stays.
#[test]
fn no_checksum_stays_none() {
    let mut bench = harness(config(settings()));
    for _ in 0..2 {
        let mut frame = udp(HOST, REMOTE, (5000, 53), b"data");
        frame[40..42].fill(0);
        let (_, sent) = only(OUTSIDE, &bench.send_one(INSIDE, &frame));
        assert_eq!(sent[40..42], [0, 0]);
    }
    bench.finish();
}

/// Section 11 REQ-14: fragments of a datagram are translated alike, in any order.
#[test]
fn fragments_are_translated_in_any_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut bench = harness(config(settings()));
        let whole = udp(HOST, REMOTE, (5000, 53), &[7; 48]);
        let mut sent = Vec::new();
        for &index in &order {
            sent.extend(bench.send_one(INSIDE, &fragment(&whole, index)));
        }
        assert_eq!(sent.len(), 3, "{order:?}");
        let mut payload = vec![0; 56];
        for (port, frame) in &sent {
            assert_eq!(*port, OUTSIDE);
            assert_eq!(frame[26..30], [192, 0, 2, 1], "the source of each fragment");
            let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let at = usize::from(header.fragment_offset.byte_offset());
            let end = 14 + usize::from(header.total_len);
            payload[at..at + end - 34].copy_from_slice(&frame[34..end]);
        }
        // Put together again it is a datagram with a right checksum.
        let mut datagram = whole[14..34].to_vec();
        datagram[12..16].copy_from_slice(&[192, 0, 2, 1]);
        let mut header = etherparse::Ipv4HeaderSlice::from_slice(&datagram).unwrap().to_header();
        header.header_checksum = header.calc_header_checksum();
        let mut packet = header.to_bytes().to_vec();
        packet.extend_from_slice(&payload);
        assert_eq!(read(&packet).destination, "198.51.100.7:53");
        bench.finish();
    }
}

/// One of three fragments of a datagram with 56 bytes behind the IP header.
fn fragment(whole: &[u8], index: usize) -> Vec<u8> {
    let (start, end) = [(0, 24), (24, 48), (48, 56)][index];
    let mut header = etherparse::Ipv4HeaderSlice::from_slice(&whole[14..34]).unwrap().to_header();
    header.identification = 77;
    header.dont_fragment = false;
    header.more_fragments = index < 2;
    header.fragment_offset = etherparse::IpFragOffset::try_new(start as u16 / 8).unwrap();
    header.set_payload_len(end - start).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut frame = whole[..14].to_vec();
    frame.extend_from_slice(&header.to_bytes());
    frame.extend_from_slice(&whole[34 + start..34 + end]);
    frame
}

/// What NAPT can't tell apart is refused, unless the address is translated 1:1.
#[test]
fn other_protocols_need_an_address_of_their_own() {
    let one_to_one = vec![one_to_one()];
    let mut bench = harness(config(NatSettings { one_to_one, ..settings() }));
    assert!(bench.send_one(INSIDE, &other(HOST, REMOTE, 47, b"gre data")).is_empty());
    assert!(bench.send_one(OUTSIDE, &other(REMOTE, POOL, 47, b"gre data")).is_empty());
    assert_eq!(bench.drops(DropReason::NatUntranslatable), 2);
    for _ in 0..2 {
        let sent = bench.send_one(INSIDE, &other("10.0.0.80", REMOTE, 47, b"gre data"));
        assert_eq!(
            (sent.len(), sent[0].0, &sent[0].1[26..34]),
            (1, OUTSIDE, &[192, 0, 2, 80, 198, 51, 100, 7][..])
        );
        let sent = bench.send_one(OUTSIDE, &other(REMOTE, "192.0.2.80", 47, b"gre data"));
        assert_eq!(
            (sent.len(), sent[0].0, &sent[0].1[26..34]),
            (1, INSIDE, &[198, 51, 100, 7, 10, 0, 0, 80][..])
        );
    }
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (1, 1));
    bench.finish();
}

/// What is not the NAT's passes untouched: other sources, the data plane's own addresses, traffic inside, IPv6.
#[test]
fn other_traffic_passes_untouched() {
    let mut config = config(settings());
    config.sources = vec!["10.0.0.0/24".parse().unwrap()];
    let mut bench = harness(config);
    let untouched = |bench: &mut Harness, from: u16, to: u16, source: &str, destination: &str| {
        let sent = bench.send_one(from, &udp(source, destination, (5, 6), b""));
        assert_eq!((sent.len(), sent[0].0), (1, to), "{source} {destination}");
        let expected = (source.parse().unwrap(), destination.parse().unwrap());
        assert_eq!(common::addresses(&sent[0].1), expected);
    };
    for _ in 0..2 {
        untouched(&mut bench, INSIDE, OUTSIDE, "10.0.1.5", REMOTE);
        untouched(&mut bench, OUTSIDE, INSIDE, REMOTE, "10.0.1.5");
        untouched(&mut bench, INSIDE, INSIDE, HOST, "10.0.0.6");
        untouched(&mut bench, INSIDE, OUTSIDE, "2001:db8:1::5", "2001:db8:2::5");
        assert!(bench.send_one(INSIDE, &udp(HOST, "192.0.2.254", (5, 6), b"")).is_empty());
    }
    assert_eq!(bench.engine.outputs.sums.consumed, 2);
    assert_eq!(nat(&mut bench).bindings(), 0);
    bench.finish();
}

/// Without a cache every packet is translated alike.
#[test]
fn the_cache_is_only_a_cache() {
    let run = |entries: usize| {
        let chain = ChainBuilder::new("edge", &["inside", "outside"])
            .function("nat", nat_of(config(settings())))
            .forwarder("wire", Wire::default());
        let mut bench = Harness::with_cache(chain, entries);
        let mut all = Vec::new();
        for n in 0..500_u16 {
            let host = format!("10.0.0.{}", n % 5 + 1);
            let sent = bench.send_one(
                INSIDE,
                &udp(&host, REMOTE, (5000 + n % 9, 53 + n % 3), &[1; 30][..usize::from(n % 30)]),
            );
            let (left, _) = only(OUTSIDE, &sent);
            all.extend(sent);
            all.extend(
                bench.send_one(OUTSIDE, &udp(REMOTE, POOL, (53 + n % 3, port_of(&left.source)), b"back")),
            );
        }
        bench.finish();
        all
    };
    assert_eq!(run(4096), run(0));
}

/// Section 4.1 REQ-2: all mappings of a host have one external address, whatever the protocol; hosts are spread.
#[test]
fn a_host_appears_under_one_external_address() {
    let pool = vec![PoolRange { first: [192, 0, 2, 1].into(), last: [192, 0, 2, 8].into() }];
    let mut bench = harness(config(NatSettings { pool, ..settings() }));
    let mut seen = HashSet::new();
    for host in (1..20).map(|n| format!("10.0.0.{n}")) {
        let address = |seen: Seen| seen.source.split_once(':').unwrap().0.to_owned();
        let first = address(out(&mut bench, &host, REMOTE, (5000, 53)));
        for n in 1..10 {
            assert_eq!(address(out(&mut bench, &host, "203.0.113.9", (5000 + n, 53))), first);
        }
        let syn = common::tcp(&host, REMOTE, (5000, 80), common::segment("S", 1, 0));
        let ping = common::echo(&host, REMOTE, false, 7, 1);
        for frame in [syn, ping] {
            assert_eq!(address(only(OUTSIDE, &bench.send_one(INSIDE, &frame)).0), first);
        }
        seen.insert(first);
    }
    assert!(seen.len() > 1);
    bench.finish();
}

/// Section 4.2.1 REQ-3 a: well-known ports become well-known ports, others become others.
#[test]
fn the_range_of_the_port_is_kept() {
    let mut bench = harness(config(NatSettings { ports: (1, 65_535), ..settings() }));
    for port in [1, 53, 1023, 1024, 5000, 65_535] {
        let left = port_of(&out(&mut bench, HOST, REMOTE, (port, 53)).source);
        assert_eq!(left < 1024, port < 1024, "{port} became {left}");
    }
    bench.finish();
}

/// Section 4.3 REQ-6: what a host sends keeps its mapping, also while the cache carries it.
#[test]
fn outbound_traffic_keeps_the_mapping() {
    let mut bench = harness(config(settings()));
    let first = out(&mut bench, HOST, REMOTE, (5000, 53));
    for _ in 0..5 {
        bench.advance(290);
        assert_eq!(out(&mut bench, HOST, REMOTE, (5000, 53)), first);
    }
    assert_eq!((bench.sessions(), nat(&mut bench).state().mappings().len()), (1, 1));
    assert!(bench.counters().hits >= 5);
    bench.advance(310);
    assert_eq!((bench.sessions(), nat(&mut bench).state().mappings().len()), (0, 0));
    bench.finish();
}
