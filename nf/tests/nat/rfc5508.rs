//! RFC 5508: ICMP.

use super::*;
use common::{INSIDE, OUTSIDE, echo, packet_of, port_unreachable, segment, tcp, udp};
use etherparse::{Icmpv4Type, icmpv4::TimeExceededCode};

const HOST: &str = "10.0.0.5";

/// Section 3.1 REQ-1: queries from inside and their responses; REQ-1 a: one mapping whatever the destination.
#[test]
fn echo_is_translated_both_ways() {
    let mut bench = harness(config(settings()));
    let (request, _) = only(OUTSIDE, &bench.send_one(INSIDE, &echo(HOST, REMOTE, false, 7, 1)));
    let id = port_of(&request.source);
    for seq in 1..4 {
        let (left, _) = only(OUTSIDE, &bench.send_one(INSIDE, &echo(HOST, REMOTE, false, 7, seq)));
        assert_eq!(left, request);
        let (back, _) = only(INSIDE, &bench.send_one(OUTSIDE, &echo(REMOTE, POOL, true, id, seq)));
        assert_eq!(back, seen("198.51.100.7:7", "10.0.0.5:7"));
    }
    let (other, _) = only(OUTSIDE, &bench.send_one(INSIDE, &echo(HOST, "203.0.113.9", false, 7, 1)));
    assert_eq!(port_of(&other.source), id, "REQ-1 a");
    let (other, _) = only(OUTSIDE, &bench.send_one(INSIDE, &echo("10.0.0.6", REMOTE, false, 7, 1)));
    assert_ne!(port_of(&other.source), id);
    assert!(bench.send_one(INSIDE, &echo("10.0.0.7", REMOTE, true, 9, 1)).is_empty());
    assert_eq!(bench.drops(DropReason::NatUntranslatable), 1, "a reply opens no mapping");
    bench.finish();
}

/// Section 3.2 REQ-2: not before 60 seconds.
#[test]
fn queries_live_for_a_minute() {
    let mut bench = harness(config(settings()));
    only(OUTSIDE, &bench.send_one(INSIDE, &echo(HOST, REMOTE, false, 7, 1)));
    bench.advance(59);
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (1, 1));
    bench.advance(20);
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (0, 0));
    bench.finish();
}

/// The packets of a flow as they leave: UDP, TCP and echo.
fn flows() -> [Vec<u8>; 3] {
    [
        udp(HOST, REMOTE, (5000, 53), b"question"),
        tcp(HOST, REMOTE, (5000, 80), segment("S", 100, 0)),
        echo(HOST, REMOTE, false, 7, 1),
    ]
}

/// Section 4.2 REQ-4: an error from outside, by the endpoint or by a router on the way.
#[test]
fn errors_from_outside_come_home() {
    for source in [REMOTE, "203.0.113.77"] {
        for frame in flows() {
            let mut bench = harness(config(settings()));
            let (_, left) = only(OUTSIDE, &bench.send_one(INSIDE, &frame));
            let error = port_unreachable(source, POOL, &left);
            let (outer, back) = only(INSIDE, &bench.send_one(OUTSIDE, &error));
            assert_eq!(outer, seen(format!("{source}:0"), "10.0.0.5:0"), "REQ-4 c");
            assert_eq!(quoted(&back), read(packet_of(&frame)), "REQ-4 a");
            assert_eq!(back[34..36], error[34..36], "REQ-4 b");
            assert_eq!(bench.sessions(), 1, "REQ-6");
            bench.finish();
        }
    }
}

/// Section 4.2 REQ-5: an error from inside, by the host or by a router before it, leaves with the external address.
#[test]
fn errors_from_inside_hide_who_sent_them() {
    for source in [HOST, "10.0.0.1"] {
        let mut bench = harness(config(settings()));
        let frame = udp(HOST, REMOTE, (5000, 53), b"question");
        let (request, _) = only(OUTSIDE, &bench.send_one(INSIDE, &frame));
        let reply = udp(REMOTE, POOL, (53, port_of(&request.source)), b"answer");
        let (_, arrived) = only(INSIDE, &bench.send_one(OUTSIDE, &reply));
        let error = port_unreachable(source, REMOTE, &arrived);
        let (outer, left) = only(OUTSIDE, &bench.send_one(INSIDE, &error));
        assert_eq!(outer, seen("192.0.2.1:0", "198.51.100.7:0"), "REQ-5 c");
        assert_eq!(quoted(&left), read(packet_of(&reply)), "REQ-5 a");
        assert_eq!(left[34..36], error[34..36], "REQ-5 b");
        bench.finish();
    }
}

/// Section 4.2 REQ-5 c: a sender that has an external address of its own appears under that, whomever the session belongs to.
#[test]
fn an_error_of_a_one_to_one_host_comes_from_its_own_address() {
    let mut bench = harness(config(NatSettings { one_to_one: vec![one_to_one()], ..settings() }));
    let (request, _) = only(OUTSIDE, &bench.send_one(INSIDE, &udp(HOST, REMOTE, (5000, 53), b"question")));
    let reply = udp(REMOTE, POOL, (53, port_of(&request.source)), b"answer");
    let (_, arrived) = only(INSIDE, &bench.send_one(OUTSIDE, &reply));
    let error = port_unreachable("10.0.0.80", REMOTE, &arrived);
    let (outer, left) = only(OUTSIDE, &bench.send_one(INSIDE, &error));
    assert_eq!((outer, quoted(&left)), (seen("192.0.2.80:0", "198.51.100.7:0"), read(packet_of(&reply))));
    bench.finish();
}

/// The data plane may share an address with its hosts: echo requests to it are its own to answer, whichever identifier they
/// chose, also one that a host's query has. Replies to that query are the host's.
#[test]
fn echo_requests_to_an_own_address_in_the_pool_reach_no_host() {
    let own = "192.0.2.254";
    let pool = vec![PoolRange { first: own.parse().unwrap(), last: own.parse().unwrap() }];
    let mut bench = harness(config(NatSettings { pool, ..settings() }));
    let (request, _) = only(OUTSIDE, &bench.send_one(INSIDE, &echo(HOST, REMOTE, false, 7, 1)));
    let id = port_of(&request.source);
    assert_eq!(request, seen(format!("{own}:{id}"), format!("{REMOTE}:{id}")));
    for seq in 1..3 {
        assert!(bench.send_one(OUTSIDE, &echo("198.51.100.8", own, false, id, seq)).is_empty());
        assert_eq!(bench.engine.outputs.sums.consumed, u64::from(seq), "it is answered here");
        let (reply, _) = only(INSIDE, &bench.send_one(OUTSIDE, &echo(REMOTE, own, true, id, seq)));
        assert_eq!(reply, seen("198.51.100.7:7", "10.0.0.5:7"));
    }
    bench.finish();
}

/// The same for a session that came in by a port forward: its responder is inside.
#[test]
fn errors_of_forwarded_sessions_are_translated() {
    let forwards = vec![forward(Protocol::Udp, "192.0.2.1:80", "10.0.0.9:8080")];
    let mut bench = harness(config(NatSettings { forwards, ..settings() }));
    let call = udp(REMOTE, POOL, (999, 80), b"call");
    let (_, arrived) = only(INSIDE, &bench.send_one(OUTSIDE, &call));
    let error = port_unreachable("10.0.0.9", REMOTE, &arrived);
    let (outer, left) = only(OUTSIDE, &bench.send_one(INSIDE, &error));
    assert_eq!((outer, quoted(&left)), (seen("192.0.2.1:0", "198.51.100.7:0"), read(packet_of(&call))));
    let reply = udp("10.0.0.9", REMOTE, (8080, 999), b"answer");
    let (_, left) = only(OUTSIDE, &bench.send_one(INSIDE, &reply));
    let error = port_unreachable("203.0.113.77", POOL, &left);
    let (outer, back) = only(INSIDE, &bench.send_one(OUTSIDE, &error));
    assert_eq!((outer, quoted(&back)), (seen("203.0.113.77:0", "10.0.0.9:0"), read(packet_of(&reply))));
    bench.finish();
}

/// Section 5 REQ-7: a hairpinned error is translated twice.
#[test]
fn hairpinned_errors_reach_the_caller() {
    let forwards = vec![forward(Protocol::Udp, "192.0.2.1:80", "10.0.0.9:8080")];
    let mut bench = harness(config(NatSettings { forwards, ..settings() }));
    let call = udp(HOST, POOL, (5000, 80), b"call");
    let (_, arrived) = only(INSIDE, &bench.send_one(INSIDE, &call));
    let error = port_unreachable("10.0.0.9", POOL, &arrived);
    let (outer, back) = only(INSIDE, &bench.send_one(INSIDE, &error));
    assert_eq!(outer, seen("192.0.2.1:0", "10.0.0.5:0"));
    assert_eq!(quoted(&back), read(packet_of(&call)));
    bench.finish();
}

/// Section 5 REQ-7: queries hairpin between addresses that are translated 1:1.
#[test]
fn hairpinned_queries_reach_a_one_to_one_address() {
    let one_to_one = vec![one_to_one()];
    let mut bench = harness(config(NatSettings { one_to_one, ..settings() }));
    let (request, _) = only(INSIDE, &bench.send_one(INSIDE, &echo(HOST, "192.0.2.80", false, 7, 1)));
    let id = port_of(&request.source);
    assert_eq!(request, seen(format!("192.0.2.1:{id}"), format!("10.0.0.80:{id}")));
    for seq in 1..3 {
        let (reply, _) = only(INSIDE, &bench.send_one(INSIDE, &echo("10.0.0.80", POOL, true, id, seq)));
        assert_eq!(reply, seen("192.0.2.80:7", "10.0.0.5:7"));
    }
    bench.finish();
}

/// Section 4.2 REQ-4, REQ-5: an error about no session is dropped silently, unless it is the data plane's own.
#[test]
fn unrelated_errors_are_dropped() {
    let mut bench = harness(config(settings()));
    let stranger = udp(POOL, REMOTE, (1, 2), b"");
    assert!(bench.send_one(OUTSIDE, &port_unreachable(REMOTE, POOL, &stranger)).is_empty());
    let stranger = udp(REMOTE, HOST, (1, 2), b"");
    assert!(bench.send_one(INSIDE, &port_unreachable(HOST, REMOTE, &stranger)).is_empty());
    assert_eq!(bench.drops(DropReason::IcmpUnrelated), 2);
    let own = udp("10.0.0.254", HOST, (1, 2), b"");
    assert!(bench.send_one(INSIDE, &port_unreachable(HOST, "10.0.0.254", &own)).is_empty());
    assert_eq!(bench.engine.outputs.sums.consumed, 1);
    bench.finish();
}

/// Section 4.1 REQ-3: broken errors are dropped (the ICMP checksum; a: the quoted IP header's), but c: the quoted transport
/// checksum is nobody's business, and a quote of eight bytes behind the header is enough.
#[test]
fn broken_errors_are_dropped() {
    let mut bench = harness(config(settings()));
    let frame = udp(HOST, REMOTE, (5000, 53), b"question");
    let (_, left) = only(OUTSIDE, &bench.send_one(INSIDE, &frame));
    let mut wrong = port_unreachable(REMOTE, POOL, &left);
    wrong[36] ^= 1;
    assert!(bench.send_one(OUTSIDE, &wrong).is_empty());
    assert_eq!(bench.drops(DropReason::BadL4Checksum), 1);
    let mut quote = left.clone();
    quote[24] ^= 1;
    assert!(bench.send_one(OUTSIDE, &port_unreachable(REMOTE, POOL, &quote)).is_empty());
    assert_eq!(bench.drops(DropReason::BadIpv4Checksum), 1);
    let mut quote = left.clone();
    quote[40] ^= 1;
    assert!(bench.passes(OUTSIDE, &port_unreachable(REMOTE, POOL, &quote)), "REQ-3 c");
    let message = Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);
    let short = common::icmpv4("203.0.113.77", POOL, message, &packet_of(&left)[..28]);
    let sent = bench.send_one(OUTSIDE, &short);
    assert_eq!((sent.len(), &sent[0].1[30..34]), (1, &[10, 0, 0, 5][..]));
    // The quoted addresses and ports are the host's again; the outer checksum holds.
    assert_eq!((&sent[0].1[54..58], &sent[0].1[62..64]), (&[10, 0, 0, 5][..], &5000_u16.to_be_bytes()[..]));
    let sliced = SlicedPacket::from_ethernet(&sent[0].1).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("no ICMP") };
    assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
    bench.finish();
}

/// Section 4.1 REQ-3 b: the quoted packet may have IP options; its ports lie behind them.
#[test]
fn quotes_with_options_are_translated() {
    let mut bench = harness(config(settings()));
    let mut frame = udp(HOST, REMOTE, (5000, 53), b"question");
    // Four times "no operation".
    frame.splice(34..34, [1, 1, 1, 1]);
    frame[14] = 0x46;
    let length = u16::from_be_bytes([frame[16], frame[17]]) + 4;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
    frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    let (request, left) = only(OUTSIDE, &bench.send_one(INSIDE, &frame));
    assert!(request.source.starts_with("192.0.2.1:") && request.destination == "198.51.100.7:53");
    let (outer, back) =
        only(INSIDE, &bench.send_one(OUTSIDE, &port_unreachable("203.0.113.77", POOL, &left)));
    assert_eq!(outer, seen("203.0.113.77:0", "10.0.0.5:0"));
    assert_eq!(quoted(&back), seen("10.0.0.5:5000", "198.51.100.7:53"));
    bench.finish();
}

/// Section 4.2 REQ-6: an error neither ends a session nor keeps it, from whichever side it comes.
#[test]
fn errors_do_not_refresh_sessions() {
    let mut bench = harness(config(settings()));
    let frame = udp(HOST, REMOTE, (5000, 53), b"question");
    let (request, left) = only(OUTSIDE, &bench.send_one(INSIDE, &frame));
    let answer = udp(REMOTE, POOL, (53, port_of(&request.source)), b"answer");
    let (_, arrived) = only(INSIDE, &bench.send_one(OUTSIDE, &answer));
    bench.advance(290);
    only(INSIDE, &bench.send_one(OUTSIDE, &port_unreachable("203.0.113.77", POOL, &left)));
    only(OUTSIDE, &bench.send_one(INSIDE, &port_unreachable(HOST, REMOTE, &arrived)));
    assert_eq!(bench.sessions(), 1);
    bench.advance(15);
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (0, 0));
    bench.finish();
}

/// Section 7 REQ-11: what is neither an echo nor an error is not translated by ports, and opens nothing.
#[test]
fn other_messages_are_not_translated() {
    let mut bench = harness(config(settings()));
    for type_u8 in [9, 10, 13, 15, 17, 40] {
        let message = || Icmpv4Type::Unknown { type_u8, code_u8: 0, bytes5to8: [0, 7, 0, 1] };
        assert!(bench.send_one(INSIDE, &common::icmpv4(HOST, REMOTE, message(), b"")).is_empty());
        assert!(bench.send_one(OUTSIDE, &common::icmpv4(REMOTE, POOL, message(), b"")).is_empty());
    }
    assert_eq!(bench.drops(DropReason::NatUntranslatable), 12);
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (0, 0));
    bench.finish();
}
