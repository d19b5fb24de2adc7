//! Inspection held against a naive search: random patterns, random payloads, all that packets come in.

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, PacketBuilder};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::{Burst, Packet};
use millrace_dataplane::packet_function::PacketFunction;
use millrace_dataplane::time::Time;
use millrace_nf::inspect::{
    Action, Change, Inspect, PATTERN_BYTES_MAX, PATTERNS_BYTES_MAX, PATTERNS_ENDING_ALIKE_MAX, PATTERNS_MAX,
    Pattern, PatternError, Patterns,
};
use proptest::prelude::*;
use std::sync::Arc;

fn pattern(name: &str, bytes: &[u8], action: Action) -> Pattern {
    Pattern {
        name: name.to_owned(),
        bytes: bytes.to_vec(),
        ignore_case: false,
        protocols: Vec::new(),
        ports: Vec::new(),
        action,
    }
}

/// Runs frames through a function as one burst after the other: the frames that are left, and those that were dropped.
fn run(inspect: &mut Inspect, frames: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let arena = Arena::anonymous(4 << 20).unwrap();
    let mut pool = Pool::new(&arena, PoolConfig::new(128)).unwrap();
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    for frames in frames.chunks(64) {
        let mut burst = Burst::new();
        for frame in frames {
            let mut packet = pool.take().unwrap();
            packet.set_contents(frame).unwrap();
            burst.push(packet).unwrap();
        }
        let mut dropped: Vec<(Packet, DropReason)> = Vec::new();
        inspect.process(&mut burst, Time(0), &mut dropped);
        kept.extend(burst.iter().map(|packet| packet.bytes().to_vec()));
        assert!(dropped.iter().all(|(_, reason)| *reason == DropReason::PayloadDenied));
        gone.extend(dropped.iter().map(|(packet, _)| packet.bytes().to_vec()));
        pool.put_all(&mut burst);
        dropped.into_iter().for_each(|(packet, _)| pool.put(packet));
    }
    assert_eq!(pool.available(), pool.capacity());
    (kept, gone)
}

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2; 6], [4; 6])
}

fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet()
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(ports.0, ports.1)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn judged(patterns: Vec<Pattern>, frame: &[u8]) -> bool {
    let mut inspect = Inspect::new(Arc::new(Patterns::new(patterns).unwrap()));
    let foreseen = inspect.foresee(frame, &mut |_, _| {});
    let dropped = run(&mut inspect, &[frame.to_vec()]).1.len() == 1;
    assert_eq!(foreseen, dropped.then_some(DropReason::PayloadDenied), "foreseen as it came");
    dropped
}

#[test]
fn payloads_of_all_transports_are_looked_at_and_headers_are_not() {
    let evil = || vec![pattern("evil", b"evil", Action::Drop)];
    let mut frames = Vec::new();
    let mut add = |build: &dyn Fn(&mut Vec<u8>, &[u8])| {
        let mut with = Vec::new();
        build(&mut with, b"an evil thing");
        let mut without = Vec::new();
        build(&mut without, b"a good thing");
        frames.push((with, without));
    };
    let (v4, v6) = (([10, 0, 0, 1], [10, 0, 0, 2]), ([1; 16], [2; 16]));
    add(&|out, payload| ethernet().ipv4(v4.0, v4.1, 64).tcp(1, 2, 3, 4).write(out, payload).unwrap());
    add(&|out, payload| {
        let tcp = ethernet().ipv4(v4.0, v4.1, 64).tcp(1, 2, 3, 4);
        let options = [etherparse::TcpOptionElement::MaximumSegmentSize(1400)];
        tcp.options(&options).unwrap().write(out, payload).unwrap();
    });
    add(&|out, payload| ethernet().ipv6(v6.0, v6.1, 64).tcp(1, 2, 3, 4).write(out, payload).unwrap());
    add(&|out, payload| ethernet().ipv6(v6.0, v6.1, 64).udp(1, 2).write(out, payload).unwrap());
    add(&|out, payload| {
        ethernet().ipv4(v4.0, v4.1, 64).icmpv4_echo_request(1, 2).write(out, payload).unwrap();
    });
    add(&|out, payload| ethernet().ipv6(v6.0, v6.1, 64).icmpv6_echo_reply(1, 2).write(out, payload).unwrap());
    let vlan = |id| etherparse::VlanId::try_new(id).unwrap();
    add(&|out, payload| {
        ethernet().single_vlan(vlan(7)).ipv4(v4.0, v4.1, 64).udp(1, 2).write(out, payload).unwrap();
    });
    add(&|out, payload| {
        let tags = ethernet().double_vlan(vlan(7), vlan(8));
        tags.ipv6(v6.0, v6.1, 64).udp(1, 2).write(out, payload).unwrap();
    });
    add(&|out, payload| {
        let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, v4.0, v4.1).unwrap();
        ip.options = [1u8; 8].into();
        ethernet()
            .ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
            .udp(1, 2)
            .write(out, payload)
            .unwrap();
    });
    for (with, without) in frames {
        assert!(judged(evil(), &with), "{with:02x?}");
        assert!(!judged(evil(), &without), "{without:02x?}");
    }
    // In the ports, not in the payload.
    let ports = (u16::from_be_bytes(*b"ev"), u16::from_be_bytes(*b"il"));
    assert!(!judged(evil(), &udp(ports, b"")));
    // In the padding of a short frame.
    let mut padded = udp((1, 2), b"ok");
    padded.extend_from_slice(b"evil");
    assert!(!judged(evil(), &padded));
}

#[test]
fn what_is_not_looked_at_passes_and_is_counted() {
    let mut inspect =
        Inspect::new(Arc::new(Patterns::new(vec![pattern("evil", b"evil", Action::Drop)]).unwrap()));
    let fragment = |offset: u16, more: bool| {
        let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        (ip.fragment_offset, ip.more_fragments) = (IpFragOffset::try_new(offset).unwrap(), more);
        let mut frame = Vec::new();
        ethernet()
            .ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
            .write(&mut frame, IpNumber::UDP, b"\x00\x01\x00\x02\x00\x10\x00\x00 evil...")
            .unwrap();
        frame
    };
    let v6_fragment = {
        let mut frame = Vec::new();
        let ip = etherparse::Ipv6Header {
            source: [1; 16],
            destination: [2; 16],
            hop_limit: 9,
            ..Default::default()
        };
        let mut extensions = etherparse::Ipv6Extensions::default();
        let offset = IpFragOffset::try_new(3).unwrap();
        extensions.fragment = Some(Ipv6FragmentHeader::new(IpNumber::UDP, offset, true, 7));
        ethernet()
            .ip(etherparse::IpHeaders::Ipv6(ip, extensions))
            .write(&mut frame, IpNumber::UDP, b"12345678 evil...")
            .unwrap();
        frame
    };
    let mut gre = Vec::new();
    ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).write(&mut gre, IpNumber::GRE, b"some evil").unwrap();
    let mut other = vec![0xff; 12];
    other.extend_from_slice(b"\x88\xb5 evil and more of it");
    let frames = [fragment(0, true), fragment(2, false), v6_fragment, gre, other, udp((1, 2), b"evil")];
    let (kept, gone) = run(&mut inspect, &frames);
    assert_eq!((kept.as_slice(), gone.as_slice()), (&frames[..5], &frames[5..]));
    let counters = inspect.counters();
    assert_eq!((counters.fragments, counters.other, counters.inspected, counters.dropped), (3, 2, 1, 1));
    assert_eq!(counters.bytes, 4);
}

#[test]
fn ports_count_in_either_direction_and_protocols_hold() {
    let dns = Pattern {
        protocols: vec![17],
        ports: vec![53..=53, 5353..=5355],
        ..pattern("dns", b"x", Action::Drop)
    };
    let one = |frame: &[u8]| judged(vec![dns.clone()], frame);
    assert!(one(&udp((53, 9), b"x")) && one(&udp((9, 53), b"x")) && one(&udp((9, 5354), b"x")));
    assert!(!one(&udp((9, 54), b"x")));
    let mut tcp = Vec::new();
    ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(53, 53, 3, 4).write(&mut tcp, b"x").unwrap();
    assert!(!one(&tcp));
    let mut echo = Vec::new();
    ethernet().ipv4([1; 4], [2; 4], 64).icmpv4_echo_request(53, 53).write(&mut echo, b"x").unwrap();
    assert!(!judged(vec![Pattern { protocols: Vec::new(), ..dns.clone() }], &echo), "no ports, no match");
}

#[test]
fn counts_go_over_by_name_when_patterns_change() {
    let old = vec![pattern("a", b"aa", Action::Count), pattern("b", b"bb", Action::Drop)];
    let mut inspect = Inspect::new(Arc::new(Patterns::new(old.clone()).unwrap()));
    let frames = [udp((1, 2), b"aa aa"), udp((1, 2), b"bb aa"), udp((1, 2), b"cc")];
    assert_eq!(run(&mut inspect, &frames).0.len(), 2);
    let new = vec![
        pattern("c", b"cc", Action::Drop),
        pattern("b", b"B", Action::Drop),
        pattern("a", b"a", Action::Count),
    ];
    let change = Change::between(&old, Arc::new(Patterns::new(new).unwrap()));
    let _before = inspect.apply(change);
    assert_eq!(run(&mut inspect, &frames).0.len(), 2);
    let counts: Vec<_> = inspect.report().map(|it| (it.name, it.packets, it.bytes)).collect();
    let bytes = |frames: &[&Vec<u8>]| frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
    let [one, two, three] = &frames;
    assert_eq!(
        counts,
        [
            ("c".to_owned(), 1, bytes(&[three])),
            ("b".to_owned(), 1, bytes(&[two])),
            ("a".to_owned(), 4, bytes(&[one, two, one, two]))
        ]
    );
    assert_eq!(inspect.counters().dropped, 2);
}

#[test]
fn what_would_cost_too_much_is_refused() {
    let many = |count: usize, bytes: &dyn Fn(usize) -> Vec<u8>| {
        Patterns::new((0..count).map(|at| pattern(&format!("p{at}"), &bytes(at), Action::Count)).collect())
    };
    let distinct = |length: usize| {
        move |at: usize| {
            let mut bytes = vec![b'.'; length];
            bytes[..2].copy_from_slice(&(at as u16).to_be_bytes());
            bytes
        }
    };
    let error = |result: Result<Patterns, PatternError>| result.unwrap_err();
    assert_eq!(
        error(many(PATTERNS_MAX + 1, &distinct(2))),
        PatternError::TooMany { found: PATTERNS_MAX + 1 }
    );
    assert_eq!(error(many(1, &|_| Vec::new())), PatternError::Length { at: 0, found: 0 });
    let found = PATTERN_BYTES_MAX + 1;
    assert_eq!(error(many(2, &|_| vec![0; found])), PatternError::Length { at: 0, found });
    let full = PATTERNS_BYTES_MAX / PATTERN_BYTES_MAX;
    let beyond = error(many(full + 1, &distinct(PATTERN_BYTES_MAX)));
    assert_eq!(beyond, PatternError::Bytes { at: full, found: PATTERNS_BYTES_MAX + PATTERN_BYTES_MAX });
    let largest = many(full, &distinct(PATTERN_BYTES_MAX)).unwrap();
    assert!(largest.memory_bytes() < 40 << 20, "{}", largest.memory_bytes());
    let nested = |at: usize| vec![b'a'; at + 1];
    let alike = PATTERNS_ENDING_ALIKE_MAX;
    assert!(many(alike, &nested).is_ok());
    assert_eq!(error(many(alike + 1, &nested)), PatternError::EndAlike { at: alike, found: alike + 1 });
}

/// Bytes, whether case is ignored, whether it drops, protocol and ports.
type Drawn = (Vec<u8>, bool, bool, Option<u8>, Option<(u16, u16)>);

/// A pattern of a small alphabet, so that it occurs, overlaps others and ends with them.
fn any_pattern() -> impl Strategy<Value = Drawn> {
    let bytes = proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'A'), Just(b'b'), Just(0xff)], 1..5);
    let protocol = proptest::option::of(prop_oneof![Just(6), Just(17)]);
    (bytes, any::<bool>(), any::<bool>(), protocol, proptest::option::of((0u16..4, 0u16..4)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_naive_search_finds_the_same(
        patterns in proptest::collection::vec(any_pattern(), 0..12),
        payloads in proptest::collection::vec(
            (any::<bool>(), 0u16..5, 0u16..5, proptest::collection::vec(prop_oneof![
                Just(b'a'), Just(b'A'), Just(b'b'), Just(b'B'), Just(0xff), any::<u8>()
            ], 0..40)),
            1..80,
        ),
    ) {
        let patterns: Vec<Pattern> = patterns.into_iter().enumerate().map(|(at, (bytes, ignore_case, drops, protocol, ports))| Pattern {
            name: format!("p{at}"),
            bytes,
            ignore_case,
            protocols: protocol.into_iter().collect(),
            ports: ports.map(|(a, b)| a.min(b)..=a.max(b)).into_iter().collect(),
            action: if drops { Action::Drop } else { Action::Count },
        }).collect();
        let Ok(built) = Patterns::new(patterns.clone()) else { return Ok(()) };
        let mut inspect = Inspect::new(Arc::new(built));
        let mut counts = vec![0u64; patterns.len()];
        let (mut frames, mut kept) = (Vec::new(), Vec::new());
        for (is_tcp, source, destination, payload) in &payloads {
            let mut frame = Vec::new();
            let ip = ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
            if *is_tcp {
                ip.tcp(*source, *destination, 1, 2).write(&mut frame, payload).unwrap();
            } else {
                ip.udp(*source, *destination).write(&mut frame, payload).unwrap();
            }
            let mut drops = false;
            for (pattern, count) in patterns.iter().zip(&mut counts) {
                let fits = |window: &[u8]| if pattern.ignore_case {
                    window.eq_ignore_ascii_case(&pattern.bytes)
                } else {
                    window == pattern.bytes
                };
                let protocol = if *is_tcp { 6 } else { 17 };
                let concerned = pattern.protocols.iter().all(|it| *it == protocol)
                    && pattern.ports.iter().all(|it| it.contains(source) || it.contains(destination));
                if concerned && payload.windows(pattern.bytes.len()).any(fits) {
                    *count += 1;
                    drops |= pattern.action == Action::Drop;
                }
            }
            if !drops {
                kept.push(frame.clone());
            }
            frames.push(frame);
        }
        let (left, gone) = run(&mut inspect, &frames);
        prop_assert_eq!(&left, &kept);
        prop_assert_eq!(left.len() + gone.len(), frames.len());
        prop_assert_eq!(inspect.report().map(|it| it.packets).collect::<Vec<_>>(), counts);
        prop_assert_eq!(inspect.counters().dropped, gone.len() as u64);
    }
}
