//! Datagrams in fragments through a firewall: TCP segments are tracked whole, overlaps are dropped, floods displace nobody in
//! order. Fragments are cut from whole packets of etherparse.

mod common;

use common::*;
use millrace_dataplane::drops::DropReason;
use millrace_nf::chain::ChainBuilder;
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::fragments::DATAGRAMS_MAX;
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::zone::ZoneId;

const ENDS: [(&str, &str); 2] = [("10.0.0.5", "203.0.113.8"), ("2001:db8:1::5", "2001:db8:9::8")];

/// All that begins inside passes.
fn harness() -> Harness {
    let out = Rule { from_zone: Some(ZoneId(0)), ..Rule::any(RuleId(1), 1 << 32, "out", Action::Allow) };
    let policy = Policy::new(&RuleSet::new(vec![out]).unwrap(), Action::Deny).unwrap();
    let firewall = Firewall::new(policy, IcmpLimitConfig::default());
    let wire = Wire::default();
    Harness::new(
        ChainBuilder::new("edge", &["inside", "outside"]).function("fw", firewall).forwarder("wire", wire),
    )
}

/// The bytes `start..end` of a packet's payload as a fragment; `end` beyond the payload makes it the last.
fn cut(frame: &[u8], identification: u16, start: usize, end: usize) -> Vec<u8> {
    let v6 = frame[14] >> 4 == 6;
    let header = if v6 { 54 } else { 34 };
    let payload = &frame[header..];
    let (more, end) = (end < payload.len(), end.min(payload.len()));
    assert!(start.is_multiple_of(8) && (end % 8 == 0 || !more));
    let mut cut = frame[..header].to_vec();
    if v6 {
        let protocol = std::mem::replace(&mut cut[20], 44);
        cut[18..20].copy_from_slice(&((8 + end - start) as u16).to_be_bytes());
        cut.extend([protocol, 0]);
        cut.extend((start as u16 | u16::from(more)).to_be_bytes());
        cut.extend(u32::from(identification).to_be_bytes());
    } else {
        cut[16..18].copy_from_slice(&((20 + end - start) as u16).to_be_bytes());
        cut[18..20].copy_from_slice(&identification.to_be_bytes());
        cut[20..22].copy_from_slice(&((start / 8) as u16 | u16::from(more) << 13).to_be_bytes());
        let checksum = etherparse::Ipv4HeaderSlice::from_slice(&cut[14..]).unwrap().to_header();
        cut[24..26].copy_from_slice(&checksum.calc_header_checksum().to_be_bytes());
    }
    cut.extend(&payload[start..end]);
    cut
}

/// A connection with its handshake done: the next numbers are 101 and 501.
fn connected((client, server): (&str, &str)) -> Harness {
    let mut it = harness();
    assert!(it.passes(INSIDE, &tcp(client, server, (1000, 80), segment("S", 100, 0))));
    assert!(it.passes(OUTSIDE, &tcp(server, client, (80, 1000), segment("SA", 500, 101))));
    assert!(it.passes(INSIDE, &tcp(client, server, (1000, 80), segment("A", 101, 501))));
    it
}

/// The receiver acknowledges all of a segment that came in fragments, and a FIN at its end.
#[test]
fn a_fragmented_segment_is_tracked_whole() {
    for (client, server) in ENDS {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
            let mut it = connected((client, server));
            let data = [7; 3000];
            let payload = Segment { payload: &data, ..segment("AF", 101, 501) };
            let whole = tcp(client, server, (1000, 80), payload);
            let pieces = [(0, 1400), (1400, 2800), (2800, 9999)].map(|(from, to)| cut(&whole, 7, from, to));
            let sent: usize = order.iter().map(|&at| it.send_one(INSIDE, &pieces[at]).len()).sum();
            assert_eq!(sent, 3, "{order:?}");
            let before = tcp(server, client, (80, 1000), segment("A", 501, 3103));
            assert_eq!(it.send_one(OUTSIDE, &before), [], "beyond what was sent");
            assert!(it.passes(OUTSIDE, &tcp(server, client, (80, 1000), segment("A", 501, 3102))));
            assert!(it.passes(OUTSIDE, &tcp(server, client, (80, 1000), segment("AF", 501, 3102))));
            assert!(it.passes(INSIDE, &tcp(client, server, (1000, 80), segment("A", 3102, 502))));
            let (id, _) = it.session_of(client, server);
            assert_eq!(it.engine.state.sessions.tcp(id).state().name(), "time_wait");
            it.finish();
        }
    }
}

/// What is out of the window in whole is not completed, however its first fragment looks.
#[test]
fn a_fragmented_segment_beyond_the_window_is_not_completed() {
    let (client, server) = ENDS[0];
    let mut it = connected((client, server));
    let data = [7; 3000];
    let stale = Segment { payload: &data, ..segment("A", 101 + 5_000_000, 501) };
    let first = cut(&tcp(client, server, (1000, 80), stale), 1, 0, 1400);
    assert_eq!(it.send_one(INSIDE, &first), []);
    assert_eq!(it.drops(DropReason::TcpInvalid), 1);
    it.finish();
}

#[test]
fn no_syn_and_no_reset_comes_in_fragments() {
    for (client, server) in ENDS {
        let data = [7; 200];
        let syn = Segment { payload: &data, ..segment("S", 100, 0) };
        let mut it = harness();
        assert_eq!(it.send_one(INSIDE, &cut(&tcp(client, server, (1000, 80), syn), 1, 0, 40)), []);
        assert_eq!((it.drops(DropReason::FragmentInvalid), it.sessions()), (1, 0));
        it.finish();
        let mut it = connected((client, server));
        let reset = Segment { payload: &data, ..segment("R", 101, 0) };
        assert_eq!(it.send_one(INSIDE, &cut(&tcp(client, server, (1000, 80), reset), 1, 0, 40)), []);
        assert_eq!(it.drops(DropReason::FragmentInvalid), 1);
        assert!(it.passes(OUTSIDE, &tcp(server, client, (80, 1000), segment("A", 501, 101))));
        it.finish();
    }
}

/// Extension headers stand in front of a TCP header that is tracked as any other.
#[test]
fn segments_behind_extension_headers_are_tracked() {
    let (client, server) = ENDS[1];
    let behind_options = |frame: Vec<u8>| {
        let mut long = frame[..54].to_vec();
        let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
        long[18..20].copy_from_slice(&length.to_be_bytes());
        let protocol = std::mem::replace(&mut long[20], 60);
        long.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
        long.extend(&frame[54..]);
        long
    };
    let mut it = harness();
    let client_says = |it: &mut Harness, flags, sequence, acknowledgment| {
        let said = tcp(client, server, (1000, 80), segment(flags, sequence, acknowledgment));
        it.passes(INSIDE, &behind_options(said))
    };
    assert!(client_says(&mut it, "S", 100, 0));
    assert!(it.passes(OUTSIDE, &behind_options(tcp(server, client, (80, 1000), segment("SA", 500, 101)))));
    assert!(client_says(&mut it, "A", 101, 501));
    assert!(!client_says(&mut it, "A", 101 + 5_000_000, 501));
    assert_eq!(it.drops(DropReason::TcpInvalid), 1);
    assert!(client_says(&mut it, "A", 101, 501));
    it.finish();
}

/// RFC 5722, and the same for IPv4: nothing that overlaps passes, nor what would complete the datagram.
#[test]
fn overlapping_fragments_are_dropped() {
    for (client, server) in ENDS {
        let mut it = harness();
        let whole = udp(client, server, (1000, 53), &[7; 192]);
        let send = |it: &mut Harness, from, to| it.passes(INSIDE, &cut(&whole, 9, from, to));
        assert!(send(&mut it, 0, 80));
        assert!(!send(&mut it, 0, 80), "the same again is dropped alone");
        assert!(send(&mut it, 80, 120));
        assert!(!send(&mut it, 112, 160));
        assert!(!send(&mut it, 120, 160));
        assert!(!send(&mut it, 160, 9999));
        assert_eq!(it.drops(DropReason::FragmentInvalid), 4);
        // Another datagram of the same flow is not concerned.
        for (from, to) in [(0, 80), (80, 120), (120, 9999)] {
            assert!(it.passes(INSIDE, &cut(&whole, 10, from, to)));
        }
        it.finish();
    }
}

/// RFC 1858 section 3, RFC 3128: no first fragment ends within the TCP header, and no other begins there.
#[test]
fn tiny_fragments_are_dropped() {
    for (client, server) in ENDS {
        let mut it = connected((client, server));
        let whole = tcp(client, server, (1000, 80), Segment { payload: &[7; 64], ..segment("A", 101, 501) });
        for (from, to) in [(0, 8), (0, 16), (8, 24)] {
            assert_eq!(it.send_one(INSIDE, &cut(&whole, 1, from, to)), [], "{from} to {to}");
        }
        // What would have followed them finds no first.
        assert_eq!(it.send_one(INSIDE, &cut(&whole, 1, 24, 9999)), []);
        it.advance(3);
        let invalid = it.drops(DropReason::FragmentInvalid);
        assert!(
            invalid + it.drops(DropReason::Truncated) + it.drops(DropReason::BadLength) >= 2,
            "{invalid}"
        );
        assert_eq!(it.engine.buffered(), 0);
        assert!(it.passes(INSIDE, &cut(&whole, 2, 0, 24)), "the header and nothing less");
        it.finish();
    }
}

/// Datagrams that never end are forgotten, and so are those that never begin.
#[test]
fn what_is_never_finished_is_forgotten() {
    for (client, server) in ENDS {
        let mut it = harness();
        let whole = udp(client, server, (1000, 53), &[7; 192]);
        assert!(it.passes(INSIDE, &cut(&whole, 1, 0, 80)));
        assert_eq!(it.send_one(INSIDE, &cut(&whole, 2, 80, 9999)), []);
        assert_eq!((datagrams(&it), it.engine.buffered()), (2, 1));
        it.advance(3);
        assert_eq!((datagrams(&it), it.engine.buffered()), (1, 0));
        assert_eq!(it.drops(DropReason::FragmentUnmatched), 1);
        assert!(it.passes(INSIDE, &cut(&whole, 1, 80, 120)), "the first is remembered");
        it.advance(15);
        assert_eq!(datagrams(&it), 0);
        assert_eq!(it.send_one(INSIDE, &cut(&whole, 1, 120, 9999)), [], "nobody knows it any more");
        it.finish();
    }
}

fn datagrams(it: &Harness) -> usize {
    it.engine.slow.get(0).unwrap().fragments().count()
}

/// However many datagrams begin and don't end, of each pool of memory there is only so much.
#[test]
fn a_flood_of_first_fragments_takes_no_more_memory() {
    let (client, server) = ENDS[0];
    let mut it = harness();
    let whole = udp(client, server, (1000, 53), &[7; 192]);
    for identification in 0..3 * DATAGRAMS_MAX as u16 {
        assert!(it.passes(INSIDE, &cut(&whole, identification, 0, 80)));
        assert!(datagrams(&it) <= DATAGRAMS_MAX);
    }
    assert_eq!(datagrams(&it), DATAGRAMS_MAX);
    // The newest goes on, the oldest gave way.
    assert!(it.passes(INSIDE, &cut(&whole, 3 * DATAGRAMS_MAX as u16 - 1, 80, 9999)));
    assert_eq!(it.send_one(INSIDE, &cut(&whole, 0, 80, 9999)), []);
    it.finish();
}

/// RFC 6946: a fragment that is a whole packet has nothing to do with others of the same identification.
#[test]
fn atomic_fragments_are_whole_packets() {
    let (client, server) = ENDS[1];
    let mut it = harness();
    let whole = udp(client, server, (1000, 53), &[7; 192]);
    let atomic = cut(&whole, 9, 0, 9999);
    assert_eq!(atomic.len(), whole.len() + 8);
    assert!(it.passes(INSIDE, &atomic) && it.passes(INSIDE, &atomic));
    assert_eq!(datagrams(&it), 0, "nothing is remembered of it");
    // In the middle of a datagram with its identification.
    assert!(it.passes(INSIDE, &cut(&whole, 9, 0, 80)));
    assert!(it.passes(INSIDE, &atomic));
    assert!(it.passes(INSIDE, &cut(&whole, 9, 80, 120)));
    assert!(it.passes(INSIDE, &cut(&whole, 9, 120, 9999)));
    assert_eq!(it.drops(DropReason::FragmentInvalid), 0);
    it.finish();
}

/// A flood of later fragments without a first one does not keep others from waiting for theirs.
#[test]
fn a_flood_of_later_fragments_keeps_nobody_from_waiting() {
    let (client, server) = ENDS[0];
    let mut it = harness();
    let whole = udp(client, server, (1000, 53), &[7; 192]);
    for stranger in 0..8u8 {
        let junk = udp(&format!("10.0.1.{stranger}"), server, (1000, 53), &[7; 192]);
        for identification in 0..1024 {
            it.send_one(INSIDE, &cut(&junk, identification, 120, 9999));
            it.engine.housekeeping(&mut it.pool, it.now, 16);
        }
    }
    assert_eq!(it.send_one(INSIDE, &cut(&whole, 9, 120, 9999)), []);
    assert_eq!(it.send_one(INSIDE, &cut(&whole, 9, 0, 120)).len(), 2);
    it.advance(3);
    assert_eq!(it.engine.buffered(), 0);
    it.finish();
}
