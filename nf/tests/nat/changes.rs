//! Changes of configuration while traffic flows (R8).

use super::*;
use common::{INSIDE, OUTSIDE, udp};
use rfc4787::out;

const HOST: &str = "10.0.0.5";

fn apply(bench: &mut Harness, config: NatConfig) {
    nat(bench).reconfigure(config).unwrap();
    for _ in 0..20 {
        bench.advance(1);
    }
    assert!(!nat(bench).is_changing());
}

/// A pool address goes: its sessions end and their flows get another; those of the other address go on in the cache.
#[test]
fn only_mappings_that_the_change_concerns_fall() {
    let range =
        |first: u8, last: u8| PoolRange { first: [192, 0, 2, first].into(), last: [192, 0, 2, last].into() };
    let mut bench = harness(config(NatSettings { pool: vec![range(1, 2)], ..settings() }));
    let hosts: Vec<_> = (1..30).map(|n| format!("10.0.0.{n}")).collect();
    let before: Vec<_> = hosts.iter().map(|host| out(&mut bench, host, REMOTE, (5000, 53)).source).collect();
    let falling = before.iter().filter(|source| source.starts_with("192.0.2.1:")).count();
    assert!(falling > 0 && falling < hosts.len(), "both addresses are used");
    apply(&mut bench, config(NatSettings { pool: vec![range(2, 2)], ..settings() }));
    assert_eq!(bench.sessions(), hosts.len() - falling);
    assert_eq!(nat(&mut bench).bindings(), hosts.len() - falling);
    let misses = bench.counters().misses;
    for (host, before) in hosts.iter().zip(&before) {
        let after = out(&mut bench, host, REMOTE, (5000, 53)).source;
        assert!(after.starts_with("192.0.2.2:"));
        assert!(before.starts_with("192.0.2.1:") || after == *before);
    }
    assert_eq!(bench.counters().misses - misses, falling as u64, "R8");
    bench.finish();
}

/// A port forward comes and goes; other flows stay in the cache.
#[test]
fn forwards_come_and_go() {
    let mut bench = harness(config(settings()));
    out(&mut bench, HOST, REMOTE, (5000, 53));
    let call = udp(REMOTE, POOL, (999, 80), b"call");
    assert!(bench.send_one(OUTSIDE, &call).is_empty());
    let forwards = vec![forward(Protocol::Udp, "192.0.2.1:80", "10.0.0.9:8080")];
    apply(&mut bench, config(NatSettings { forwards, ..settings() }));
    assert!(bench.passes(OUTSIDE, &call));
    let forwards = vec![forward(Protocol::Udp, "192.0.2.1:80", "10.0.0.10:8080")];
    apply(&mut bench, config(NatSettings { forwards, ..settings() }));
    let (moved, _) = only(INSIDE, &bench.send_one(OUTSIDE, &call));
    assert_eq!(moved.destination, "10.0.0.10:8080");
    apply(&mut bench, config(settings()));
    assert!(bench.send_one(OUTSIDE, &call).is_empty());
    let misses = bench.counters().misses;
    out(&mut bench, HOST, REMOTE, (5000, 53));
    assert_eq!(bench.counters().misses, misses, "R8");
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (1, 1));
    bench.finish();
}

/// A 1:1 rule goes: sessions without ports end too.
#[test]
fn sessions_of_a_one_to_one_rule_end_with_it() {
    let mut bench = harness(config(NatSettings { one_to_one: vec![one_to_one()], ..settings() }));
    let gre = common::other("10.0.0.80", REMOTE, 47, b"gre data");
    assert_eq!(bench.send_one(INSIDE, &gre).len(), 1);
    assert_eq!(out(&mut bench, "10.0.0.80", REMOTE, (5000, 53)).source, "192.0.2.80:5000");
    apply(&mut bench, config(settings()));
    assert_eq!((bench.sessions(), nat(&mut bench).bindings()), (0, 0));
    assert!(bench.send_one(INSIDE, &gre).is_empty());
    assert!(out(&mut bench, "10.0.0.80", REMOTE, (5000, 53)).source.starts_with("192.0.2.1:"));
    bench.finish();
}

/// A 1:1 rule goes: so do the decisions that no session owns, for ICMP queries without a known identifier.
#[test]
fn what_no_session_owns_falls_with_its_one_to_one_rule() {
    let mut bench = harness(config(NatSettings { one_to_one: vec![one_to_one()], ..settings() }));
    let query = |source, destination| {
        let message = etherparse::Icmpv4Type::Unknown { type_u8: 15, code_u8: 0, bytes5to8: [0, 9, 0, 1] };
        common::icmpv4(source, destination, message, b"")
    };
    let (outward, inward) = (query("10.0.0.80", REMOTE), query(REMOTE, "192.0.2.80"));
    for _ in 0..2 {
        let sent = bench.send_one(INSIDE, &outward);
        assert_eq!((sent[0].0, &sent[0].1[26..30]), (OUTSIDE, &[192, 0, 2, 80][..]));
        let sent = bench.send_one(OUTSIDE, &inward);
        assert_eq!((sent[0].0, &sent[0].1[30..34]), (INSIDE, &[10, 0, 0, 80][..]));
    }
    assert_eq!(bench.sessions(), 0);
    apply(&mut bench, config(settings()));
    assert!(bench.send_one(INSIDE, &outward).is_empty(), "R8");
    let (_, packet) = bench.send_one(OUTSIDE, &inward).pop().unwrap_or_default();
    assert_ne!(packet.get(30..34), Some(&[10, 0, 0, 80][..]), "R8");
    bench.finish();
}

/// Flows that were not translated walk again when their source is.
#[test]
fn untranslated_flows_follow_the_scope() {
    let mut narrow = config(settings());
    narrow.sources = vec!["10.0.1.0/24".parse().unwrap()];
    let mut bench = harness(narrow);
    for _ in 0..2 {
        assert_eq!(out(&mut bench, HOST, REMOTE, (5000, 53)).source, "10.0.0.5:5000");
    }
    assert_eq!(bench.counters().hits, 1);
    apply(&mut bench, config(settings()));
    assert!(out(&mut bench, HOST, REMOTE, (5000, 53)).source.starts_with("192.0.2.1:"));
    bench.finish();
}

/// A change is refused while another is under way.
#[test]
fn changes_follow_one_another() {
    let mut bench = harness(config(settings()));
    let mut other = settings();
    other.ports = (2000, 3000);
    nat(&mut bench).reconfigure(config(other.clone())).unwrap();
    assert!(nat(&mut bench).reconfigure(config(settings())).is_err());
    bench.advance(5);
    nat(&mut bench).reconfigure(config(settings())).unwrap();
    bench.finish();
}
