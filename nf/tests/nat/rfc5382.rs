//! RFC 5382: TCP.

use super::*;
use common::{INSIDE, OUTSIDE, OWN, SENDER, segment, tcp};
use etherparse::{PacketBuilder, TcpOptionElement};
use millrace_nf::nat::{Filtering, MssClamp};

const HOST: &str = "10.0.0.5";

/// Section 4.1 REQ-1, section 4.2 REQ-2: a connection with its handshake, data and end; the mapping is endpoint-independent.
#[test]
fn a_connection_is_translated_both_ways() {
    let mut bench = harness(config(settings()));
    let (syn, _) =
        only(OUTSIDE, &bench.send_one(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("S", 100, 0))));
    let external = port_of(&syn.source);
    let back = |bench: &mut Harness, what| {
        let (back, _) = only(INSIDE, &bench.send_one(OUTSIDE, &tcp(REMOTE, POOL, (80, external), what)));
        assert_eq!(back, seen("198.51.100.7:80", "10.0.0.5:5000"));
    };
    let out = |bench: &mut Harness, what| {
        let (left, _) = only(OUTSIDE, &bench.send_one(INSIDE, &tcp(HOST, REMOTE, (5000, 80), what)));
        assert_eq!(left, syn);
    };
    back(&mut bench, segment("SA", 900, 101));
    out(&mut bench, segment("A", 101, 901));
    let hits = bench.counters().hits;
    for n in 0..5 {
        out(
            &mut bench,
            common::Segment { flags: "AP", sequence: 101 + n * 4, acknowledgment: 901, payload: b"data" },
        );
        back(&mut bench, segment("A", 901, 105 + n * 4));
    }
    assert!(bench.counters().hits > hits + 5, "data is replayed");
    out(&mut bench, segment("FA", 121, 901));
    back(&mut bench, segment("FA", 901, 122));
    out(&mut bench, segment("A", 122, 902));
    let (second, _) =
        only(OUTSIDE, &bench.send_one(INSIDE, &tcp(HOST, "203.0.113.9", (5000, 80), segment("S", 1, 0))));
    assert_eq!(second.source, syn.source, "REQ-1");
    bench.finish();
}

/// Section 4.3 REQ-4 b: an unsolicited SYN is dropped silently; and when the inside host opens to the same remote, their
/// SYNs cross and the connection comes about (REQ-2).
#[test]
fn simultaneous_open_works() {
    let filtering = Filtering::AddressAndPortDependent;
    let mut bench = harness(config(NatSettings { filtering, ..settings() }));
    let (syn, _) =
        only(OUTSIDE, &bench.send_one(INSIDE, &tcp(HOST, "203.0.113.9", (5000, 80), segment("S", 1, 0))));
    let external = port_of(&syn.source);
    let theirs = tcp(REMOTE, POOL, (80, external), segment("S", 900, 0));
    assert!(bench.send_one(OUTSIDE, &theirs).is_empty());
    assert_eq!(bench.drops(DropReason::NatFiltered), 1);
    assert!(bench.passes(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("S", 100, 0))));
    let (crossed, _) = only(INSIDE, &bench.send_one(OUTSIDE, &theirs));
    assert_eq!(crossed, seen("198.51.100.7:80", "10.0.0.5:5000"));
    assert!(bench.passes(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("SA", 100, 901))));
    assert!(bench.passes(OUTSIDE, &tcp(REMOTE, POOL, (80, external), segment("SA", 900, 101))));
    assert!(bench.passes(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("A", 101, 901))));
    bench.finish();
}

/// A segment of no connection opens no mapping.
#[test]
fn only_a_syn_opens_a_mapping() {
    let mut bench = harness(config(settings()));
    assert!(bench.send_one(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("R", 100, 0))).is_empty());
    assert_eq!(bench.drops(DropReason::TcpInvalid), 1);
    assert_eq!((bench.sessions(), nat(&mut bench).state().mappings().len()), (0, 0));
    bench.finish();
}

/// Section 8 REQ-8 (hairpinning): over a port forward, with the external source.
#[test]
fn connections_hairpin_over_a_forward() {
    let forwards = vec![forward(Protocol::Tcp, "192.0.2.1:80", "10.0.0.9:8080")];
    let mut bench = harness(config(NatSettings { forwards, ..settings() }));
    let call = tcp(HOST, POOL, (5000, 80), segment("S", 100, 0));
    let (syn, _) = only(INSIDE, &bench.send_one(INSIDE, &call));
    assert!(syn.source.starts_with("192.0.2.1:") && syn.destination == "10.0.0.9:8080");
    let external = port_of(&syn.source);
    let answer = tcp("10.0.0.9", POOL, (8080, external), segment("SA", 900, 101));
    let (back, _) = only(INSIDE, &bench.send_one(INSIDE, &answer));
    assert_eq!(back, seen("192.0.2.1:80", "10.0.0.5:5000"));
    for n in 0..3 {
        let data = common::Segment { flags: "AP", sequence: 101 + n, acknowledgment: 901, payload: b"x" };
        let (data, _) = only(INSIDE, &bench.send_one(INSIDE, &tcp(HOST, POOL, (5000, 80), data)));
        assert_eq!(data, syn);
        let (ack, _) = only(
            INSIDE,
            &bench.send_one(INSIDE, &tcp("10.0.0.9", POOL, (8080, external), segment("A", 901, 102 + n))),
        );
        assert_eq!(ack, back);
    }
    bench.finish();
}

/// A new connection on the ports of one that ended keeps the mapping.
#[test]
fn reopened_ports_keep_their_mapping() {
    let mut bench = harness(config(settings()));
    let (syn, _) =
        only(OUTSIDE, &bench.send_one(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("S", 100, 0))));
    let external = port_of(&syn.source);
    assert!(bench.passes(OUTSIDE, &tcp(REMOTE, POOL, (80, external), segment("SA", 900, 101))));
    assert!(bench.passes(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("A", 101, 901))));
    assert!(bench.passes(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("R", 101, 0))));
    let (again, _) =
        only(OUTSIDE, &bench.send_one(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("S", 90_000, 0))));
    assert_eq!(again, syn);
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (1, 1));
    bench.finish();
}

fn syn_with_mss(source: &str, destination: &str, mss: u16, odd: bool) -> Vec<u8> {
    let mut options = vec![TcpOptionElement::MaximumSegmentSize(mss)];
    if odd {
        options.insert(0, TcpOptionElement::Noop);
    }
    let start = PacketBuilder::ethernet2(SENDER, OWN);
    let start = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (std::net::IpAddr::V4(s), std::net::IpAddr::V4(d)) => start.ipv4(s.octets(), d.octets(), 64),
        (std::net::IpAddr::V6(s), std::net::IpAddr::V6(d)) => start.ipv6(s.octets(), d.octets(), 64),
        _ => panic!("addresses of two versions"),
    };
    let mut frame = Vec::new();
    start.tcp(5000, 80, 100, 65_535).syn().options(&options).unwrap().write(&mut frame, &[]).unwrap();
    frame
}

/// The option of what left, whose checksums are right.
fn mss_of(frame: &[u8]) -> u16 {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
    let expected = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
        NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
        other => panic!("no IP: {other:?}"),
    };
    assert_eq!(tcp.checksum(), expected.unwrap());
    let mss = tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::MaximumSegmentSize(value)) => Some(value),
        _ => None,
    });
    mss.unwrap()
}

/// The option is lowered, never raised, at even and odd places, for both IP versions and both directions.
#[test]
fn the_mss_is_clamped() {
    for (clamp, expected) in
        [(MssClamp::Fixed(1200), [1200, 1200]), (MssClamp::Auto { mtu: 1400 }, [1360, 1340])]
    {
        for odd in [false, true] {
            let mut config = config(settings());
            config.mss_clamp = Some(clamp);
            let mut bench = harness(config);
            let (v4, v6) = ((HOST, REMOTE), ("2001:db8:1::5", "2001:db8:2::5"));
            for ((source, destination), limit) in [v4, v6].into_iter().zip(expected) {
                let sent = bench.send_one(INSIDE, &syn_with_mss(source, destination, 1460, odd));
                assert_eq!(mss_of(&sent[0].1), limit);
                let sent = bench.send_one(INSIDE, &syn_with_mss(source, destination, 900, odd));
                assert_eq!(mss_of(&sent[0].1), 900);
            }
            let sent = bench.send_one(OUTSIDE, &syn_with_mss(v6.1, v6.0, 1460, odd));
            assert_eq!((sent[0].0, mss_of(&sent[0].1)), (INSIDE, expected[1]));
            bench.finish();
        }
    }
}

/// Opens a connection from inside and tells its external port.
fn connect(bench: &mut Harness) -> u16 {
    let (syn, _) =
        only(OUTSIDE, &bench.send_one(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("S", 100, 0))));
    let external = port_of(&syn.source);
    assert!(bench.passes(OUTSIDE, &tcp(REMOTE, POOL, (80, external), segment("SA", 900, 101))));
    assert!(bench.passes(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("A", 101, 901))));
    external
}

/// Section 5 REQ-5: an idle connection is kept for two hours and four minutes, one that opens or closes for four minutes.
#[test]
fn connections_are_kept_as_long_as_they_must() {
    let mut bench = harness(config(settings()));
    let state = |bench: &mut Harness| (bench.sessions(), nat(bench).state().mappings().len());
    let external = connect(&mut bench);
    bench.advance(7435);
    assert!(bench.passes(OUTSIDE, &tcp(REMOTE, POOL, (80, external), segment("A", 901, 101))), "established");
    bench.advance(7435);
    assert_eq!(state(&mut bench), (1, 1));
    bench.advance(10);
    assert_eq!(state(&mut bench), (0, 0));
    assert!(bench.passes(INSIDE, &tcp(HOST, REMOTE, (5001, 80), segment("S", 100, 0))));
    bench.advance(238);
    assert_eq!(state(&mut bench), (1, 1), "it opens");
    bench.advance(5);
    assert_eq!(state(&mut bench), (0, 0));
    let external = connect(&mut bench);
    assert!(bench.passes(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("FA", 101, 901))));
    assert!(bench.passes(OUTSIDE, &tcp(REMOTE, POOL, (80, external), segment("FA", 901, 102))));
    assert!(bench.passes(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("A", 102, 902))));
    bench.advance(238);
    assert_eq!(state(&mut bench), (1, 1), "it closes");
    bench.advance(5);
    assert_eq!(state(&mut bench), (0, 0));
    bench.finish();
}

/// Section 7.1 REQ-7: no port is given to two inside endpoints, also where each has another remote.
#[test]
fn ports_are_not_overloaded() {
    let mut bench = harness(config(settings()));
    let mut taken = std::collections::HashSet::new();
    for n in 0..200_u16 {
        let (host, remote) = (format!("10.0.0.{}", n % 7 + 1), format!("198.51.100.{}", n % 5 + 1));
        let syn = tcp(&host, &remote, (4000 + n, 80), segment("S", 1, 0));
        assert!(taken.insert(only(OUTSIDE, &bench.send_one(INSIDE, &syn)).0.source));
    }
    bench.finish();
}

/// Section 4.3 REQ-4: an unsolicited SYN gets no answer, whether its endpoint is mapped to nobody or filtered.
#[test]
fn unsolicited_syns_are_dropped_silently() {
    let filtering = Filtering::AddressAndPortDependent;
    let mut bench = harness(config(NatSettings { filtering, ..settings() }));
    let external = connect(&mut bench);
    for port in [external, external ^ 1] {
        let syn = tcp("203.0.113.9", POOL, (80, port), segment("S", 900, 0));
        for _ in 0..10 {
            assert!(bench.send_one(OUTSIDE, &syn).is_empty());
            assert!(bench.advance(1).is_empty());
        }
    }
    assert_eq!((bench.drops(DropReason::NatFiltered), bench.sessions()), (20, 1));
    bench.finish();
}

/// Section 8 REQ-9, REQ-10: an ICMP error of any kind comes through, and ends neither connection nor mapping.
#[test]
fn errors_end_no_connection() {
    use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader, icmpv4::TimeExceededCode};
    let mut bench = harness(config(settings()));
    let external = connect(&mut bench);
    let (_, left) =
        only(OUTSIDE, &bench.send_one(INSIDE, &tcp(HOST, REMOTE, (5000, 80), segment("A", 101, 901))));
    let kinds = [
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host),
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port),
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Protocol),
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 }),
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
    ];
    for kind in kinds {
        let error = common::icmpv4("203.0.113.77", POOL, kind.clone(), common::packet_of(&left));
        let (outer, back) = only(INSIDE, &bench.send_one(OUTSIDE, &error));
        assert_eq!(outer.destination, "10.0.0.5:0");
        assert_eq!(quoted(&back), seen("10.0.0.5:5000", "198.51.100.7:80"));
        // Type, code and what the kind says beside them.
        assert_eq!((&back[34..36], &back[38..42]), (&error[34..36], &error[38..42]));
    }
    assert!(bench.passes(OUTSIDE, &tcp(REMOTE, POOL, (80, external), segment("A", 901, 101))));
    bench.advance(7000);
    assert_eq!((bench.sessions(), nat(&mut bench).state().mappings().len()), (1, 1));
    bench.finish();
}
