//! The sixteen rules of the design, R1 to R16: one test for each, through the real engine, that fails when the rule is broken.

mod common;
#[allow(dead_code, reason = "shared with another test")]
#[path = "oracle/serialise.rs"]
mod serialise;

use common::*;
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::hash::KeyedHash;
use millrace_dataplane::flow::program::{Program, ProgramBuilder};
use millrace_dataplane::flow::replay::replay;
use millrace_dataplane::flow::session::{InsertError, SessionConfig, SessionId, Timeouts, Traffic, Tuple};
use millrace_dataplane::flow::state::{FlowConfig, FlowState};
use millrace_dataplane::flow::tuple::tuple_address;
use millrace_dataplane::flow::validity::{ObjectKind, Watch, Watches};
use millrace_dataplane::hold::HoldLimits;
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::outputs::Outputs;
use millrace_dataplane::packet::Verify;
use millrace_dataplane::packet::parse::parse;
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::Wake;
use millrace_dataplane::time::Time;
use millrace_nf::chain::{Chain, ChainBuilder};
use millrace_nf::firewall::classifier::{Classifier, ClassifierError, PROBES_MAX};
use millrace_nf::firewall::query::{Addresses, Query, Transport};
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::slots::RuleSlot;
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::fragments::{DATAGRAMS_MAX, WAITS_MAX};
use millrace_nf::function::{FlowFunction, Forwarder, Verdict};
use millrace_nf::headers::Parsed;
use millrace_nf::nat::{Capacity, Nat, NatConfig, NatPlan, NatSettings, PoolRange, Protocol, Secret};
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::router::interface::{Interface, InterfaceId};
use millrace_nf::router::{Router, RouterConfig, StaticNeighbour};
use millrace_nf::walk::{Commit, HoldKind, Walk, hold_token};
use millrace_nf::zone::ZoneId;
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

const HOST: &str = "10.0.0.5";
const REMOTE: &str = "198.51.100.7";

type Admit = Box<dyn Fn(&mut Walk<'_>) -> Verdict + Send>;
type OnCommit = Box<dyn Fn(&mut Commit<'_>) + Send>;
type Hairpins = Box<dyn Fn(&mut Walk<'_>) -> bool + Send>;

/// A function made of closures, which counts what it is told.
struct Stage {
    reads: Reads,
    keeps_part: bool,
    admit: Admit,
    on_commit: OnCommit,
    hairpins: Hairpins,
    commits: u64,
    traffic: [Traffic; 2],
    ended: u64,
}

fn stage(reads: &[Field], admit: impl Fn(&mut Walk<'_>) -> Verdict + Send + 'static) -> Stage {
    Stage {
        reads: Reads::none().with(reads),
        keeps_part: false,
        admit: Box::new(admit),
        on_commit: Box::new(|_| ()),
        hairpins: Box::new(|_| false),
        commits: 0,
        traffic: [Traffic::default(); 2],
        ended: 0,
    }
}

impl FlowFunction for Stage {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "stage"
    }
    fn reads(&self) -> Reads {
        self.reads.clone()
    }
    fn keeps_part(&self) -> bool {
        self.keeps_part
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        ((self.admit)(walk), Some(()))
    }
    fn commit(&mut self, (): (), commit: &mut Commit<'_>) {
        self.commits += 1;
        (self.on_commit)(commit);
    }
    fn account(&mut self, _: u64, reply: bool, traffic: Traffic) {
        let mine = &mut self.traffic[usize::from(reply)];
        (mine.packets, mine.bytes) = (mine.packets + traffic.packets, mine.bytes + traffic.bytes);
    }
    fn ended(&mut self, _: u64, _: [&Tuple; 2], _: Time) {
        self.ended += 1;
    }
    fn hairpins(&self, walk: &mut Walk<'_>) -> bool {
        (self.hairpins)(walk)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Forwarder for Stage {
    fn destination_zone(&self, _: &mut Walk<'_>) -> Option<ZoneId> {
        None
    }
}

fn builder() -> ChainBuilder {
    ChainBuilder::new("rules", &["inside", "outside"])
}

/// One function in front of [`Wire`].
fn with(function: Stage) -> Harness {
    Harness::new(builder().function("it", function).forwarder("wire", Wire::default()))
}

/// A function that wants a session for everything, with TCP tracked.
fn tracker() -> Stage {
    let admit = |walk: &mut Walk<'_>| {
        walk.want_session();
        walk.track_tcp();
        Verdict::Continue
    };
    Stage { keeps_part: true, ..stage(&[], admit) }
}

fn flow(port: u16) -> Vec<u8> {
    udp(HOST, REMOTE, (port, 53), b"data")
}

/// Changes an IPv4 frame and computes its header checksum.
fn changed(frame: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = frame.to_vec();
    change(&mut frame);
    let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
    frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    frame
}

fn dscp_of(frame: &[u8]) -> u8 {
    frame[15] >> 2
}

/// With another engine under the chain.
fn reconfigured(mut it: Harness, config: EngineConfig) -> Harness {
    let Engine { slow, state, .. } = it.engine;
    it.engine = Engine::new(slow, state, 2, config);
    it
}

/// What a burst cost: hits, misses and walks alone.
fn cost(it: &mut Harness, port: u16, frames: &[Vec<u8>]) -> (u64, u64, u64) {
    let before = it.counters();
    it.send(port, frames);
    let after = it.counters();
    (after.hits - before.hits, after.misses - before.misses, after.alone - before.alone)
}

/// "Set DSCP to 0" on a packet that has 0 is a set for the next one; one hop less is one hop less of whatever there was.
#[test]
fn r01_operations_not_differences() {
    let mut it = with(stage(&[], |walk| {
        walk.headers.set_dscp(0);
        walk.headers.set_source_port(5000);
        Verdict::Continue
    }));
    it.send_one(INSIDE, &flow(5000));
    let later = changed(&flow(6000), |frame| (frame[15], frame[22]) = (46 << 2 | 1, 9));
    let before = it.counters();
    let sent = it.send_one(INSIDE, &later);
    assert_eq!((it.counters().hits, sent.len()), (before.hits + 1, 1), "the entry serves it");
    let frame = &sent[0].1;
    assert_eq!((frame[15], frame[22], &frame[34..36]), (1, 8, &5000_u16.to_be_bytes()[..]));
    it.finish();
}

/// What is declared is the key; what is not is none of it, and reading it makes the decision uncached, and is counted.
#[test]
fn r02_key_is_what_was_declared() {
    let read_dscp = |walk: &mut Walk<'_>| {
        let dscp = walk.headers.dscp().unwrap_or(0);
        walk.headers.set_source_port(1000 + u16::from(dscp));
        Verdict::Continue
    };
    let of_dscp = |dscp: u8| changed(&flow(1), move |frame| frame[15] = dscp << 2);
    let mut it = with(stage(&[Field::Dscp], read_dscp));
    assert_eq!(cost(&mut it, INSIDE, &[of_dscp(0), flow(2), of_dscp(8), of_dscp(8)]), (2, 2, 0));
    it.finish();
    let mut it = with(stage(&[], read_dscp));
    for (step, dscp) in [(1, 0), (2, 8), (3, 8)] {
        let sent = it.send_one(INSIDE, &of_dscp(dscp));
        assert_eq!(sent[0].1[34..36], (1000 + u16::from(dscp)).to_be_bytes(), "decided for itself");
        assert_eq!((it.entries(), it.walks()), (0, step));
        assert_eq!(it.engine.slow.get(0).unwrap().counters().undeclared_reads, step, "counted");
    }
}

/// What may vary within a flow is guarded: such a packet walks alone, and the entry stays.
#[test]
fn r03_guards() {
    let mut it = with(tracker());
    let usual = flow(5000);
    it.send(INSIDE, &[usual.clone(), usual.clone()]);
    let options = changed(&usual, |frame| {
        frame.splice(34..34, [1, 1, 1, 0]);
        (frame[14], frame[17]) = (0x46, frame[17] + 4);
    });
    let error = port_unreachable(REMOTE, HOST, &usual);
    for (what, port, odd) in [
        ("no hops left", INSIDE, changed(&usual, |frame| frame[22] = 1)),
        ("too long", INSIDE, udp(HOST, REMOTE, (5000, 53), &[0; 1480])),
        ("a fragment", INSIDE, changed(&usual, |frame| frame[20] = 0x20)),
        ("options", INSIDE, options),
        ("an ICMP error", OUTSIDE, error),
    ] {
        let entries = it.entries();
        let (hits, misses, alone) = cost(&mut it, port, &[odd]);
        assert_eq!((hits, misses + alone), (0, 1), "{what}");
        assert_eq!(it.entries(), entries, "{what}");
        assert_eq!(cost(&mut it, INSIDE, std::slice::from_ref(&usual)), (1, 0, 0), "{what}: the entry stays");
    }
    assert_eq!(it.drops(DropReason::TtlExceeded), 1);
    assert_eq!(it.drops(DropReason::MtuExceeded), 1);
    let tcp_out = |flags, sequence, ack| tcp(HOST, REMOTE, (5000, 80), segment(flags, sequence, ack));
    it.send_one(INSIDE, &tcp_out("S", 100, 0));
    it.send_one(OUTSIDE, &tcp(REMOTE, HOST, (80, 5000), segment("SA", 700, 101)));
    it.send_one(INSIDE, &tcp_out("A", 101, 701));
    assert_eq!(cost(&mut it, INSIDE, &[tcp_out("A", 101, 701)]), (1, 0, 0));
    for flags in ["S", "FA", "R"] {
        assert_eq!(cost(&mut it, INSIDE, &[tcp_out(flags, 101, 701)]), (0, 0, 1), "{flags}");
    }
    it.finish();
}

/// The packet that missed and the packet that hit both are what an independent serialisation of the walk's headers says:
/// with the edited fields in the key, whose checksum deltas are known beforehand, and without.
#[test]
fn r04_one_way_out() {
    let sources = [Field::Ipv4Source, Field::Ipv6Source, Field::SourcePort];
    // Where the source port is in the key, another one would be another flow.
    for (reads, ports) in [(&[][..], [5000, 5001, 5002]), (&sources, [5000; 3])] {
        let rewrite = |walk: &mut Walk<'_>| {
            let v6 = walk.headers.is_ipv6();
            walk.headers.set_source(if v6 { "2001:db8:9::9" } else { "192.0.2.9" }.parse().unwrap());
            walk.headers.set_source_port(4242);
            walk.headers.set_dscp(10);
            Verdict::Continue
        };
        let chain = || builder().function("it", stage(reads, rewrite)).forwarder("wire", Wire::default());
        let (mut it, mut plain) = (Harness::new(chain()), Harness::with_cache(chain(), 0));
        for (host, remote) in [(HOST, REMOTE), ("2001:db8:1::5", "2001:db8:2::5")] {
            for (port, payload) in ports.into_iter().zip([&b"first"[..], b"a later one", b""]) {
                let datagram = udp(host, remote, (port, 53), payload);
                let part =
                    Segment { flags: "PA", sequence: 7, acknowledgment: payload.len() as u32, payload };
                for frame in [datagram, tcp(host, remote, (port, 80), part)] {
                    let sent = it.send_one(INSIDE, &frame);
                    assert_eq!(sent, plain.send_one(INSIDE, &frame));
                    let before = Parsed::parse(&frame).unwrap();
                    let after = plain.engine.slow.get(0).unwrap().last_headers().current();
                    let expected = serialise::serialise(&before, after, &frame).unwrap();
                    assert_eq!(sent, [(OUTSIDE, expected)], "{payload:?}");
                }
            }
        }
        assert_eq!((it.counters().hits, it.counters().misses), (8, 4));
        it.finish();
        plain.finish();
    }
}

/// Hits and misses of a burst leave in the order in which they came; a change in its middle holds for those behind it alone.
#[test]
fn r05_order() {
    let watch = Watch::of(ObjectKind::Other, 5);
    let version = Arc::new(AtomicU16::new(1));
    let (seen, next) = (Arc::clone(&version), Arc::clone(&version));
    let mut function = stage(&[Field::DestinationPort], move |walk| {
        walk.depend(watch);
        if walk.headers.destination_port() == Some(99) {
            walk.do_not_cache();
        }
        walk.headers.set_dscp(seen.load(Ordering::Relaxed) as u8);
        Verdict::Continue
    });
    // Whatever walks on port 99 changes what all others are told.
    function.on_commit = Box::new(move |commit| {
        if next.load(Ordering::Relaxed) == 2 {
            commit.changed(watch);
            next.store(3, Ordering::Relaxed);
        }
    });
    let mut it = with(function);
    let numbered = |n: u8| udp(HOST, REMOTE, (5000, 53), &[n]);
    let counted = cost(&mut it, INSIDE, &[numbered(0), numbered(0), numbered(0)]);
    assert_eq!(counted, (2, 1, 0), "those behind a miss look up again");
    version.store(2, Ordering::Relaxed);
    let burst: Vec<_> =
        (1..=8).map(|n| if n == 4 { udp(HOST, REMOTE, (5000, 99), &[n]) } else { numbered(n) }).collect();
    let sent = it.send(INSIDE, &burst);
    let order: Vec<_> = sent.iter().map(|(_, frame)| (frame[42], dscp_of(frame))).collect();
    assert_eq!(order, [(1, 1), (2, 1), (3, 1), (4, 2), (5, 3), (6, 3), (7, 3), (8, 3)]);
    // Three by the old entry; one more walk behind the change, whose entry carries it and the rest.
    assert_eq!((it.counters().hits, it.counters().misses), (2 + 3 + 3, 3));
    it.finish();
}

fn nat() -> Nat {
    let address = Ipv4Addr::new(192, 0, 2, 1);
    let pool = vec![PoolRange { first: address, last: address }];
    let settings = NatSettings { pool, ports: (1024, 65_535), ..NatSettings::default() };
    let capacity = Capacity { mappings: 4096, mappings_static: 16, subscribers: 256, contacts: 256 };
    Nat::new(
        NatConfig::new(Arc::new(NatPlan::new(settings).unwrap())),
        &capacity,
        &Secret::from_key([1, 2]),
        &Arena::anonymous(8 << 20).unwrap(),
    )
    .unwrap()
}

/// A packet that is dropped behind the NAT leaves nothing behind: no port, no session, no entry, no commit.
#[test]
fn r06_all_or_nothing() {
    let denier = stage(&[Field::DestinationPort], |walk| match walk.headers.destination_port() {
        Some(666) => Verdict::Drop(DropReason::FirewallDenied),
        _ => Verdict::Continue,
    });
    let chain = builder().function("first", tracker()).function("nat", nat()).function("denier", denier);
    let mut it = Harness::new(chain.forwarder("wire", Wire::default()));
    for port in 0..20 {
        assert!(it.send_one(INSIDE, &udp(HOST, REMOTE, (5000 + port, 666), b"")).is_empty());
    }
    let state = it.function::<Nat>("nat").state();
    assert_eq!((state.mappings().len(), state.subscribers().len()), (0, 0));
    assert_eq!(state.pool().used(Protocol::Udp).highest, 0, "no port was ever taken");
    assert_eq!((it.sessions(), it.entries(), it.function::<Stage>("first").commits), (0, 0, 0));
    assert!(it.passes(INSIDE, &flow(5000)));
    assert_eq!((it.sessions(), it.function::<Stage>("first").commits), (1, 1));
    it.finish();
}

/// One record for both directions, counters to the packet, and hits that keep it alive.
#[test]
fn r07_sessions() {
    let mut it = with(tracker());
    let (there, back) = (flow(5000), udp(REMOTE, HOST, (53, 5000), b"an answer"));
    it.send(INSIDE, &vec![there.clone(); 5]);
    it.send(OUTSIDE, &vec![back.clone(); 3]);
    assert_eq!((it.sessions(), it.entries()), (1, 2));
    let walks = it.walks();
    // Longer than the time limit of 300 seconds in all, by hits alone, which nobody looked at before the timer.
    for _ in 0..3 {
        it.now = Time(it.now.0 + Time::from_secs(299).0);
        it.send_one(INSIDE, &there);
        it.advance(2);
    }
    assert_eq!((it.sessions(), it.walks()), (1, walks), "hits are seen");
    it.fold();
    let told = |packets: u64, frame: &[u8]| Traffic { packets, bytes: packets * frame.len() as u64 };
    assert_eq!(it.function::<Stage>("it").traffic, [told(8, &there), told(3, &back)]);
    it.advance(296);
    assert_eq!(it.sessions(), 1);
    it.advance(4);
    assert_eq!((it.sessions(), it.entries(), it.function::<Stage>("it").ended), (0, 0, 1));
    it.fold();
    assert_eq!(it.function::<Stage>("it").traffic, [told(8, &there), told(3, &back)], "nothing twice");
    it.finish();
}

fn routed() -> Chain {
    let interface = |port: u16, address: &str| Interface {
        port: PortId(port),
        vlan: None,
        zone: ZoneId(port as u8),
        mac: [2, 0, 0, 0, 0, 2 + port as u8],
        mtu: 1500,
        addresses: vec![address.parse().unwrap()],
        ipv6: false,
    };
    let mut config = RouterConfig::new(vec![interface(0, "10.0.0.1/24"), interface(1, "203.0.112.1/22")]);
    config.neighbours =
        vec![StaticNeighbour { interface: InterfaceId(0), address: HOST.parse().unwrap(), mac: SENDER }];
    let rules = RuleSet::new(vec![Rule::any(RuleId(1), 1 << 32, "all", Action::Allow)]).unwrap();
    let firewall = Firewall::new(Policy::new(&rules, Action::Deny).unwrap(), IcmpLimitConfig::default());
    builder().function("firewall", firewall).forwarder("router", Router::new(config, Some(1)).unwrap())
}

/// An ARP reply of `address` at station `last`, to the router outside.
fn arp_reply(address: &str, last: u8) -> Vec<u8> {
    let (own, mac) = ([2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 9, last]);
    let octets = address.parse::<Ipv4Addr>().unwrap().octets();
    let head = [&own[..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &mac, &octets, &own];
    [&head.concat()[..], &[203, 0, 112, 1]].concat()
}

/// A change concerns the decisions that used what changed: their next packet walks. No other does.
#[test]
fn r08_exact_invalidation() {
    let mut it = Harness::new(routed());
    let remotes = ["203.0.113.1", "203.0.113.2", "203.0.114.1"];
    let flows: Vec<_> = remotes.iter().map(|to| udp(HOST, to, (5000, 53), b"data")).collect();
    for (at, remote) in remotes.iter().enumerate() {
        it.send_one(INSIDE, &flows[at]);
        it.send_one(OUTSIDE, &arp_reply(remote, at as u8));
    }
    // Which of the flows walk, and the stations that they go to.
    let walking = |it: &mut Harness| -> (Vec<u64>, Vec<u8>) {
        let mut stations = Vec::new();
        let walked = flows.iter().map(|frame| {
            let walks = it.walks();
            stations.extend(it.send_one(INSIDE, frame).iter().map(|(_, frame)| frame[5]));
            it.walks() - walks
        });
        (walked.collect(), stations)
    };
    assert_eq!(walking(&mut it), (vec![0, 0, 0], vec![0, 1, 2]));
    it.send_one(OUTSIDE, &arp_reply(remotes[1], 77));
    assert_eq!(walking(&mut it), (vec![0, 1, 0], vec![0, 77, 2]), "a neighbour");
    let engine = &mut it.engine;
    let firewall: &mut Firewall = engine.slow.chain_named("rules").unwrap().function("firewall").unwrap();
    let destinations = vec!["203.0.114.0/24".parse().unwrap()];
    let deny = Rule { destinations, ..Rule::any(RuleId(2), 1, "deny", Action::Deny) };
    firewall.insert(deny, &mut engine.state.validity.within(0)).unwrap();
    assert_eq!(walking(&mut it), (vec![0, 0, 1], vec![0, 77]), "a rule");
    assert_eq!((it.sessions(), it.entries()), (2, 2), "its session ended with its entry");
    let first = Tuple::new(0, 17, (HOST.parse().unwrap(), 5000), (remotes[0].parse().unwrap(), 53));
    let (id, _) = it.engine.state.sessions.find(&first).unwrap();
    it.engine.state.end_session(id);
    it.engine.settle();
    assert_eq!(it.entries(), 1, "entries fall before the session's number is free");
    assert_eq!(walking(&mut it), (vec![1, 0, 1], vec![0, 77]), "a session");
    it.finish();
}

/// Forwards in order, backwards in reverse, a hairpin both ways; what forwards is last.
#[test]
fn r09_direction() {
    let log = Arc::new(Mutex::new(String::new()));
    let noted = |name: char| {
        let log = Arc::clone(&log);
        stage(&[Field::DestinationPort], move |walk| {
            log.lock().unwrap().push(name);
            if name == 'f' { Verdict::Forward(PortId(1 - walk.port.0)) } else { Verdict::Continue }
        })
    };
    let mut middle = noted('b');
    middle.hairpins = Box::new(|walk| walk.headers.destination_port() == Some(7777));
    let chain = builder().function("a", noted('a')).function("b", middle).function("c", noted('c'));
    let mut it = Harness::new(chain.forwarder("f", noted('f')));
    let mut way = |port: u16, to: u16| {
        it.send_one(port, &udp(HOST, REMOTE, (1, to), b""));
        std::mem::take(&mut *log.lock().unwrap())
    };
    assert_eq!(way(INSIDE, 1), "abcf");
    assert_eq!(way(OUTSIDE, 1), "cbaf");
    assert_eq!(way(INSIDE, 7777), "abccbaf");
    assert_eq!(way(OUTSIDE, 7777), "cbaf", "only what comes from inside turns back");
    it.finish();
}

/// Every verdict does what it says.
#[test]
fn r10_verdicts() {
    let token = hold_token(HoldKind::Neighbour, 1);
    let mut function = stage(&[Field::DestinationPort], move |walk| match walk.headers.destination_port() {
        Some(1) => Verdict::Drop(DropReason::RateLimited),
        Some(2) => {
            walk.emit(walk.port, &[0x5a; 60]);
            Verdict::Consume
        }
        Some(3) => Verdict::Hold(token),
        Some(4) => Verdict::Punt(42),
        _ => Verdict::Continue,
    });
    let freed = Arc::new(AtomicU16::new(0));
    let wakes = Arc::clone(&freed);
    // The held packets walk again, and are held again unless the wake drops them.
    function.on_commit = Box::new(move |commit| match wakes.swap(0, Ordering::Relaxed) {
        1 => commit.wake(Wake::Discard(token, DropReason::NeighbourUnreachable)),
        2 => commit.wake(Wake::Release(token)),
        _ => {}
    });
    let out = stage(&[Field::DestinationPort], |walk| match walk.headers.destination_port() {
        Some(5) => {
            walk.flood(PortId(INSIDE));
            walk.flood(PortId(OUTSIDE));
            Verdict::Flood
        }
        Some(6) => Verdict::Continue,
        _ => Verdict::Forward(PortId(OUTSIDE)),
    });
    let mut it = Harness::new(builder().function("it", function).forwarder("out", out));
    it.engine.enable_punts();
    let to = |port: u16| udp(HOST, REMOTE, (9, port), b"");
    for _ in 0..2 {
        assert_eq!(it.send_one(INSIDE, &to(7)), [(OUTSIDE, to(7))], "continue, forward");
        assert!(it.send_one(INSIDE, &to(1)).is_empty());
        assert_eq!(it.send_one(INSIDE, &to(2)), [(INSIDE, vec![0x5a; 60])], "consumed and answered");
        assert_eq!(it.send_one(INSIDE, &to(5)), [(INSIDE, to(5)), (OUTSIDE, to(5))], "flooded");
        assert!(it.send_one(INSIDE, &to(6)).is_empty());
    }
    assert_eq!((it.drops(DropReason::RateLimited), it.drops(DropReason::NoOutput)), (2, 2));
    assert_eq!((it.engine.outputs.sums.consumed, it.engine.outputs.sums.copied), (2, 2));
    assert!(it.send_one(INSIDE, &to(3)).is_empty());
    assert!(it.send_one(INSIDE, &to(4)).is_empty());
    assert_eq!(it.engine.buffered(), 2, "held, punted");
    let mut punted = Vec::new();
    it.engine.take_punts(&mut it.pool, |cookie, port, bytes| punted.push((cookie, port, bytes.to_vec())));
    assert_eq!(punted, [(42, PortId(INSIDE), to(4))]);
    freed.store(2, Ordering::Relaxed);
    let walks = it.walks();
    it.send_one(INSIDE, &to(8));
    assert_eq!((it.walks() - walks, it.engine.buffered()), (2, 1), "woken, it walks and waits again");
    freed.store(1, Ordering::Relaxed);
    it.send_one(INSIDE, &to(10));
    assert_eq!((it.drops(DropReason::NeighbourUnreachable), it.engine.buffered()), (1, 0));
    it.finish();
}

/// An edit behind an output does not touch what left before.
#[test]
fn r11_outputs() {
    let frame = flow(5000);
    let layout = parse(&frame, Verify::None).unwrap();
    let mut program = Program::default();
    let mut builder = ProgramBuilder::new(&mut program, &frame, layout, None);
    builder.set(Field::Dscp, 1).output(PortId(0)).set(Field::Dscp, 2).output(PortId(1));
    builder.set(Field::Dscp, 3).output(PortId(0));
    let program = builder.finish().unwrap();
    let mut pool = Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig::new(16)).unwrap();
    let mut outputs = Outputs::new(2);
    let mut packet = pool.take().unwrap();
    packet.set_contents(&frame).unwrap();
    let deltas = (program.l3_delta, program.l4_delta);
    replay(&program.template, &program.operands, deltas, packet, &mut pool, &mut outputs);
    for (port, expected) in [(0, &[1, 3][..]), (1, &[2])] {
        let burst = outputs.burst(PortId(port)).unwrap();
        let sent: Vec<_> = burst.iter().map(|packet| packet.bytes().to_vec()).collect();
        pool.put_all(burst);
        assert_eq!(sent.iter().map(|frame| dscp_of(frame)).collect::<Vec<_>>(), expected);
        for frame in sent {
            assert_eq!(frame, changed(&frame, |_| ()), "checksum");
        }
    }
    assert_eq!((outputs.sums.copied, pool.available()), (2, pool.capacity()));
}

/// Under a flood of new flows the established ones lose nothing; where there are none, nothing is limited.
#[test]
fn r12_budget() {
    for established in [true, false] {
        let mut it = reconfigured(with(tracker()), EngineConfig::default());
        let mut sent = 0;
        it.send(INSIDE, &vec![flow(5000); 64]);
        for burst in 0..2000_u32 {
            // A microsecond: far less than half a burst of walks takes.
            it.now = Time(it.now.0 + 1000);
            let frames: Vec<_> = (0..64)
                .map(|at| match established && at % 2 == 0 {
                    true => flow(5000),
                    false => {
                        let source = Ipv4Addr::from(0x0a01_0000 + burst * 64 + at).to_string();
                        udp(&source, REMOTE, (burst as u16, 53), b"flood")
                    }
                })
                .collect();
            sent +=
                it.send(INSIDE, &frames).iter().filter(|(_, frame)| frame[34..36] == [0x13, 0x88]).count();
        }
        let dropped = it.drops(DropReason::MissBudget);
        if established {
            assert_eq!(sent, 2000 * 32, "every packet of the established flow");
            assert!(dropped > 2000 * 16, "{dropped} new flows were refused");
        } else {
            // The flow that was there before needs no protection once it is silent.
            assert!(dropped < 2000 * 64 / 10, "{dropped} were refused");
        }
        it.finish();
    }
}

/// Whatever happens to packets, the sums are right to the packet, after every burst.
#[test]
fn r13_sums() {
    let function =
        stage(&[Field::DestinationPort], |walk| match walk.headers.destination_port().unwrap_or(0) {
            port @ 0..60 => Verdict::Hold(hold_token(HoldKind::Neighbour, u64::from(port % 7))),
            60..120 => Verdict::Drop(DropReason::RateLimited),
            120..180 => {
                walk.emit(PortId(INSIDE), &[1; 60]);
                Verdict::Consume
            }
            180..240 => Verdict::Punt(1),
            _ => Verdict::Continue,
        });
    let out = stage(&[Field::SourcePort], |walk| match walk.headers.source_port().unwrap_or(0) % 3 {
        0 => {
            walk.flood(PortId(INSIDE));
            walk.flood(PortId(OUTSIDE));
            Verdict::Flood
        }
        1 => Verdict::Forward(PortId(OUTSIDE)),
        // A port that does not exist.
        _ => Verdict::Forward(PortId(40)),
    });
    let mut it = Harness::new(builder().function("it", function).forwarder("out", out));
    let (mut word, mut left) = (1_u64, 0);
    for round in 0..500 {
        let frames: Vec<_> = (0..48)
            .map(|_| {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let mut frame = udp(HOST, REMOTE, ((word >> 33) as u16 % 50, (word >> 50) as u16 % 400), b"");
                frame.truncate(if word >> 40 & 31 == 0 { 20 } else { frame.len() });
                frame
            })
            .collect();
        left += it.send(INSIDE, &frames).len();
        let sums = &it.engine.outputs.sums;
        assert_eq!(sums.balance(), i128::from(it.engine.buffered()), "round {round}: {sums:?}");
        assert_eq!((sums.sent, sums.received), (left as u64, 48 * (round + 1)));
        let held = it.pool.capacity() - it.pool.available();
        assert_eq!(held as u64, it.engine.buffered(), "frames are where the sums say");
        // Before that, packets for the control plane are dropped.
        if round == 10 {
            it.engine.enable_punts();
        }
        if round % 5 == 0 {
            it.engine.take_punts(&mut it.pool, |_, _, _| ());
        }
    }
    let sums = &it.engine.outputs.sums;
    assert!(sums.copied > 0 && sums.originated > 0 && sums.consumed > 0 && it.engine.buffered() > 0);
    for reason in [DropReason::HoldFull, DropReason::RateLimited, DropReason::RingFull, DropReason::NoOutput]
    {
        assert!(it.drops(reason) > 0, "{reason:?}");
    }
    it.finish();
}

/// One of the three fragments of a datagram with an identification: at `offset` 0, 32 or 64.
fn fragment(identification: u16, offset: u16) -> Vec<u8> {
    changed(&udp(HOST, REMOTE, (5000, 53), &[7; 24]), |frame| {
        frame[18..20].copy_from_slice(&identification.to_be_bytes());
        let word = (offset / 8) | if offset < 64 { 0x2000 } else { 0 };
        frame[20..22].copy_from_slice(&word.to_be_bytes());
    })
}

/// Fragments find the flow of their datagram in any order, and what is remembered of datagrams is bounded.
#[test]
fn r14_wider_state() {
    let it = Harness::new(builder().function("nat", nat()).forwarder("wire", Wire::default()));
    let holds = HoldLimits { per_token: 16, total: 64 };
    let budget = BudgetConfig::UNLIMITED;
    let mut it = reconfigured(it, EngineConfig { holds, budget, ..EngineConfig::default() });
    assert!(it.send_one(INSIDE, &fragment(1, 32)).is_empty(), "it waits for its first");
    assert_eq!(it.engine.buffered(), 1);
    let mut sent = it.send_one(INSIDE, &fragment(1, 0));
    // Another station's later fragment with this identification is not of this datagram: it waits for its own first.
    let stranger = changed(&fragment(1, 64), |frame| frame[29] = 6);
    assert!(it.send_one(INSIDE, &stranger).is_empty());
    sent.extend(it.send_one(INSIDE, &fragment(1, 64)));
    assert_eq!((sent.len(), it.sessions(), it.engine.buffered()), (3, 1, 1));
    for (port, frame) in &sent {
        assert_eq!((*port, &frame[26..30]), (OUTSIDE, &[192, 0, 2, 1][..]), "translated alike");
    }
    let followed = |it: &mut Harness| it.engine.slow.get(0).unwrap().fragments().count();
    for identification in 2..=2 * DATAGRAMS_MAX as u16 {
        assert_eq!(it.send_one(INSIDE, &fragment(identification, 0)).len(), 1);
    }
    assert_eq!(followed(&mut it), DATAGRAMS_MAX + 1, "the oldest gave way; the stranger waits");
    for identification in 0..2 * DATAGRAMS_MAX as u16 {
        it.send_one(INSIDE, &fragment(3 * DATAGRAMS_MAX as u16 + identification, 32));
    }
    assert!(followed(&mut it) <= DATAGRAMS_MAX + WAITS_MAX);
    assert!(it.drops(DropReason::FragmentUnmatched) + it.drops(DropReason::HoldFull) > DATAGRAMS_MAX as u64);
    it.advance(90);
    assert_eq!((it.engine.slow.get(0).unwrap().fragments().count(), it.engine.buffered()), (0, 0));
    it.finish();
}

/// A classifier says what a look-up may cost; a rule that would cost more is refused, and no packet costs more.
#[test]
fn r15_bounded_lookups() {
    const RULES: u32 = 8192;
    let net = |address: u128, length: u8| {
        ipnet::IpNet::from(ipnet::Ipv6Net::new(Ipv6Addr::from_bits(address), length).unwrap().trunc())
    };
    let (source, destination): (u128, u128) = (0x2001_0db8 << 96 | 5, 0x2001_0db8_0001 << 80 | 7);
    let mut classifier = Classifier::new([1, 2]);
    let (mut accepted, mut refused) = (0, 0);
    for id in 0..RULES {
        let mut rule = Rule::any(RuleId(id), u64::from(RULES - id), format!("rule {id}"), Action::Deny);
        rule.sources = vec![net(source, (id % 128) as u8 + 1)];
        rule.destinations = vec![net(destination, (id / 128) as u8 + 1)];
        match classifier.insert(&rule, RuleSlot::DEFAULT) {
            Ok(()) => accepted += 1,
            Err(ClassifierError::TooCostly { probes_max, .. }) => {
                assert_eq!(probes_max, PROBES_MAX);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(classifier.worst_case_probes() <= PROBES_MAX);
    }
    assert!(accepted > 4096 && refused > 0, "{accepted} accepted, {refused} refused");
    assert_eq!(classifier.len(), accepted);
    for n in 0..20_000_u32 {
        let addresses = Addresses::V6 {
            source: Ipv6Addr::from_bits(source ^ 1 << (n % 128)),
            destination: Ipv6Addr::from_bits(destination ^ 1 << (n / 128 % 128)),
        };
        let (from_zone, to_zone) = (ZoneId(0), ZoneId(1));
        let transport = Transport::Ports { source: 1, destination: 2 };
        let query = Query { from_zone, to_zone, addresses, protocol: 17, transport };
        let (_, probes) = classifier.find_counting(&query);
        assert!(probes <= classifier.worst_case_probes(), "{probes} probes");
    }
}

fn state(seed: u64) -> FlowState {
    let sessions = SessionConfig { capacity: 140, parts: 0, timeouts: Timeouts::default() };
    let config = FlowConfig { sessions, cache_entries: 300, key_words: 8, operand_words: 8 };
    FlowState::new(&Arena::anonymous(16 << 20).unwrap(), &config, Some(seed)).unwrap()
}

/// Home 0 of tables with up to 64 buckets, by both parts of the hash that choose homes.
const fn is_home(hash: u64) -> bool {
    hash & 63 == 0 && hash >> 24 & 63 == 0
}

/// The same of the flow cache, where the highest bits of two parts of the hash choose.
const fn is_cache_home(hash: u64) -> bool {
    hash >> 26 & 63 == 0 && hash >> 42 & 63 == 0
}

fn tuple_words(tuple: &Tuple) -> [u64; 5] {
    let word = |address: IpAddr, at: usize| {
        let bytes = tuple_address(address);
        u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
    };
    let (source, destination) = (tuple.source_address(), tuple.destination_address());
    [
        word(source, 0),
        word(source, 8),
        word(destination, 0),
        word(destination, 8),
        u64::from(tuple.source_port)
            | u64::from(tuple.destination_port) << 16
            | u64::from(tuple.domain) << 32
            | u64::from(tuple.protocol) << 48,
    ]
}

/// What was chosen to collide under one secret fills one bucket there, and is spread under another secret.
#[test]
fn r16_keyed_hashes() {
    let frame = flow(5000);
    let mut program = Program::default();
    let mut builder = ProgramBuilder::new(&mut program, &frame, parse(&frame, Verify::None).unwrap(), None);
    builder.output(PortId(0));
    builder.finish().unwrap();
    let chooser = KeyedHash::seeded(1);
    let keys: Vec<_> =
        (0..).map(|n| [n, 7, n << 32]).filter(|key| is_cache_home(chooser.hash_key(key))).take(100).collect();
    let kept = |mut state: FlowState| {
        let mut program = program.clone();
        for key in &keys {
            let hash = state.cache.hash(key);
            state.remember((key, hash), &mut program, None, &Watches::default(), Time(0)).unwrap();
        }
        state.cache.count()
    };
    assert_eq!(kept(state(1)), 8, "the attacker's secret: one bucket, never more probes");
    assert!(kept(state(2)) > 90, "another: {}", kept(state(2)));
    let other = Tuple::new(0, 17, (REMOTE.parse().unwrap(), 53), (HOST.parse().unwrap(), 0));
    let tuples: Vec<_> = (0..1 << 24)
        .map(|n: u32| {
            let source = (Ipv4Addr::from(0x0a00_0000 | n >> 16).into(), n as u16);
            Tuple::new(0, 17, source, (REMOTE.parse().unwrap(), 53))
        })
        .filter(|tuple| is_home(chooser.hash(&tuple_words(tuple))))
        .take(100)
        .collect();
    let opened = |mut state: FlowState| {
        let answers = (0..).map(|port| Tuple { destination_port: port, ..other });
        let open = |(tuple, answer): (&Tuple, Tuple)| -> Result<SessionId, InsertError> {
            state.sessions.insert(tuple, &answer, Time(0))
        };
        tuples.iter().zip(answers).map(open).filter(Result::is_ok).count()
    };
    assert!(opened(state(1)) <= 10, "one bucket: {}", opened(state(1)));
    assert!(opened(state(2)) > 90, "another: {}", opened(state(2)));
}
