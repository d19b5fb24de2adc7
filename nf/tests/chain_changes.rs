//! Chains change while packets flow (R8): what a change does not concern does not even walk again, what stays keeps its
//! state, and what is left to do is done in slices.

mod common;

use common::{Harness, INSIDE, OUTSIDE, Sent, Wire, udp};
use millrace_dataplane::memory::Arena;
use millrace_dataplane::port::PortId;
use millrace_nf::chain::{Chain, ChainBuilder};
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::nat::{Capacity, Nat, NatConfig, NatPlan, NatSettings, PoolRange, Secret};
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::zone::ZoneId;
use std::sync::Arc;

const REMOTE: &str = "198.51.100.7";
/// Ports of the other chain.
const OTHER: [u16; 2] = [2, 3];
/// Objects of one slice of timers.
const SLICE: usize = 64;

fn firewall(default: Action) -> Firewall {
    Firewall::new(
        Policy::new(&RuleSet::new(Vec::new()).unwrap(), default).unwrap(),
        IcmpLimitConfig::default(),
    )
}

fn nat() -> Nat {
    let address = [192, 0, 2, 1].into();
    let pool = vec![PoolRange { first: address, last: address }];
    let plan = NatPlan::new(NatSettings { pool, ..NatSettings::default() }).unwrap();
    let capacity = Capacity { mappings: 4096, mappings_static: 16, subscribers: 4096, contacts: 256 };
    let arena = Arena::anonymous(8 << 20).unwrap();
    Nat::new(NatConfig::new(Arc::new(plan)), &capacity, &Secret::from_key([1, 2]), &arena).unwrap()
}

fn builder(name: &str) -> ChainBuilder {
    ChainBuilder::new(name, &["inside", "outside"])
}

fn edge(name: &str) -> Chain {
    builder(name)
        .function("firewall", firewall(Action::Allow))
        .function("nat", nat())
        .forwarder("wire", Wire::default())
}

/// Room in sessions for more functions than the chain has: a chain with as many words is shown to the harness first.
fn harness() -> Harness {
    let wide = (0..5)
        .fold(builder("edge"), |chain, n| chain.function(format!("spare {n}"), firewall(Action::Allow)));
    let mut harness = Harness::new(wide.forwarder("wire", Wire::default()));
    let Harness { engine, .. } = &mut harness;
    engine.slow.remove(0, &mut engine.state).unwrap();
    harness.housekeep(SLICE);
    let slow = &mut harness.engine.slow;
    assert_eq!(slow.insert(edge("edge")), 0, "the place is free again");
    let at = slow.insert(edge("other"));
    for (port, chain, zone) in [(INSIDE, 0, 0), (OUTSIDE, 0, 1), (OTHER[0], at, 0), (OTHER[1], at, 1)] {
        harness.engine.slow.attach(PortId(port), chain, ZoneId(zone));
        harness.engine.compile_schema(PortId(port));
    }
    harness
}

trait Housekeep {
    fn housekeep(&mut self, budget: usize);
    fn replace(&mut self, chain: Chain) -> Chain;
    fn flow(&mut self, port: u16, host: u8) -> Sent;
    fn walks_of(&self, chain: &str) -> u64;
}

impl Housekeep for Harness {
    fn housekeep(&mut self, budget: usize) {
        self.engine.housekeeping(&mut self.pool, self.now, budget);
    }

    fn replace(&mut self, chain: Chain) -> Chain {
        let engine = &mut self.engine;
        let old = engine.slow.replace(0, chain, &mut engine.state).unwrap();
        [INSIDE, OUTSIDE].into_iter().for_each(|port| engine.compile_schema(PortId(port)));
        old
    }

    fn flow(&mut self, port: u16, host: u8) -> Sent {
        self.send_one(port, &udp(&format!("10.0.0.{host}"), REMOTE, (5000, 53), b"flow"))
    }

    fn walks_of(&self, chain: &str) -> u64 {
        let chains = &self.engine.slow;
        chains.get(chains.place_of(chain).unwrap()).unwrap().counters().walks
    }
}

fn source(sent: &Sent) -> String {
    assert_eq!(sent.len(), 1, "{sent:?}");
    let ip = &sent[0].1[14..];
    let port = u16::from_be_bytes([ip[20], ip[21]]);
    format!("{}:{port}", common::addresses(&sent[0].1).0)
}

/// A function comes, moves and goes: sessions, mappings and the other chain's entries stay.
#[test]
fn functions_that_stay_keep_their_state() {
    let mut it = harness();
    let before: Vec<_> = (1..=100).map(|host| source(&it.flow(INSIDE, host))).collect();
    it.flow(OTHER[0], 1);
    assert!(before.iter().all(|source| source.starts_with("192.0.2.1:")));
    let (sessions, other) = (it.sessions(), it.walks_of("other"));
    assert_eq!(sessions, 101);
    let same = |it: &mut Harness, what: &str| {
        let walks = it.walks_of("edge");
        for (host, before) in (1..=100).zip(&before) {
            assert_eq!(source(&it.flow(INSIDE, host)), *before, "{what}");
            assert_eq!(source(&it.flow(INSIDE, host)), *before, "{what}");
        }
        assert_eq!(it.walks_of("edge") - walks, 100, "{what}: one walk a flow");
        it.flow(OTHER[0], 1);
        assert_eq!(it.walks_of("other"), other, "{what}: the other chain does not walk");
        assert_eq!((it.sessions(), it.function::<Nat>("nat").bindings()), (sessions, 100), "{what}");
        while it.engine.slow.is_sweeping() {
            it.housekeep(SLICE);
        }
    };
    let more = builder("edge").function("second", firewall(Action::Allow)).keep("firewall").keep("nat");
    drop(it.replace(more.keep_forwarder("wire")));
    same(&mut it, "a firewall in front");
    let moved = builder("edge").keep("firewall").keep("nat").keep("second").keep_forwarder("wire");
    drop(it.replace(moved));
    same(&mut it, "another order");
    drop(it.replace(builder("edge").keep("firewall").keep("nat").keep_forwarder("wire")));
    same(&mut it, "the firewall goes");
    // Words are used again, and clean: many times over.
    for round in 0..20 {
        let more = builder("edge").keep("firewall").keep("nat").function("second", firewall(Action::Allow));
        drop(it.replace(more.keep_forwarder("wire")));
        same(&mut it, &format!("round {round}"));
        drop(it.replace(builder("edge").keep("firewall").keep("nat").keep_forwarder("wire")));
        same(&mut it, &format!("round {round} back"));
    }
    it.finish();
}

/// A firewall that is new judges the sessions that it finds.
#[test]
fn a_firewall_that_is_new_judges_sessions() {
    let mut it = harness();
    it.flow(INSIDE, 1);
    let strict = builder("edge").keep("firewall").keep("nat").function("strict", firewall(Action::Deny));
    drop(it.replace(strict.keep_forwarder("wire")));
    assert!(it.flow(INSIDE, 1).is_empty());
    it.finish();
}

/// A NAT goes: no packet leaves with what only it could know, whether or not its session was looked at yet.
#[test]
fn sessions_end_with_the_function_that_they_need() {
    let mut it = harness();
    (1..=200).for_each(|host| assert_eq!(it.flow(INSIDE, host).len(), 1));
    drop(it.replace(builder("edge").keep("firewall").keep_forwarder("wire")));
    assert!(it.engine.slow.is_sweeping());
    assert_eq!(source(&it.flow(INSIDE, 200)), "10.0.0.200:5000");
    let reply = udp(REMOTE, "10.0.0.200", (53, 5000), b"reply");
    assert!(it.passes(OUTSIDE, &reply), "the new session's answer finds it");
    let mut left = it.sessions();
    while it.engine.slow.is_sweeping() {
        it.housekeep(SLICE);
        assert!(left - it.sessions() <= SLICE, "a slice is bounded");
        left = it.sessions();
    }
    assert_eq!(left, 1);
    it.finish();
}

/// A chain goes: at once for packets, in slices for its sessions; its place is nobody's until then.
#[test]
fn a_chain_that_goes_ends_in_slices() {
    let mut it = harness();
    (1..=250).for_each(|host| assert_eq!(it.flow(INSIDE, host).len(), 1));
    it.flow(OTHER[0], 1);
    let (walks, sessions, entries) = (it.walks_of("other"), it.sessions(), it.entries());
    assert_eq!((sessions, entries), (251, 251));
    let Harness { engine, .. } = &mut it;
    let old = engine.slow.remove(0, &mut engine.state).unwrap();
    assert!(it.flow(INSIDE, 1).is_empty(), "no port leads there");
    // One of the same name begins elsewhere, and at once.
    let at = it.engine.slow.insert(edge("edge"));
    assert_eq!(at, 2);
    for (port, zone) in [(INSIDE, 0), (OUTSIDE, 1)] {
        it.engine.slow.attach(PortId(port), at, ZoneId(zone));
        it.engine.compile_schema(PortId(port));
    }
    assert_eq!(it.flow(INSIDE, 1).len(), 1);
    let mut left = it.sessions();
    let mut slices = 0;
    while it.engine.slow.is_sweeping() {
        it.housekeep(SLICE);
        assert!(left - it.sessions() <= SLICE, "a slice is bounded");
        (left, slices) = (it.sessions(), slices + 1);
    }
    assert_eq!((left, slices), (2, 251usize.div_ceil(SLICE)));
    assert_eq!(it.engine.slow.insert(edge("third")), 0, "the place is free again");
    it.flow(OTHER[0], 1);
    assert_eq!(it.walks_of("other"), walks, "R8");
    drop(old);
    // Entries that are void are cleared away, should nobody ask for them.
    (0..400).for_each(|_| it.housekeep(SLICE));
    assert_eq!(it.entries(), 2);
    it.engine.slow.remove(0, &mut it.engine.state);
}

/// A port that leads elsewhere takes its decisions with it, and no others.
#[test]
fn a_port_that_moves_takes_its_decisions_with_it() {
    let mut it = harness();
    it.flow(INSIDE, 1);
    it.flow(OTHER[0], 1);
    let walks = (it.walks_of("edge"), it.walks_of("other"));
    let Harness { engine, .. } = &mut it;
    assert!(!engine.slow.reattach(PortId(INSIDE), Some((0, ZoneId(0))), &mut engine.state.validity));
    assert!(engine.slow.reattach(PortId(INSIDE), Some((1, ZoneId(0))), &mut engine.state.validity));
    engine.compile_schema(PortId(INSIDE));
    it.flow(INSIDE, 1);
    it.flow(OTHER[0], 1);
    assert_eq!((it.walks_of("edge"), it.walks_of("other")), (walks.0, walks.1 + 1));
    it.finish();
}

/// Two chains number their objects alike; a rule of one concerns no decision of the other.
#[test]
fn a_rule_of_one_chain_concerns_no_other() {
    let mut it = harness();
    it.flow(INSIDE, 1);
    it.flow(OTHER[0], 1);
    let sources = vec!["10.0.0.0/24".parse().unwrap()];
    let rule = Rule { sources, ..Rule::any(RuleId(7), 7, "mine", Action::Allow) };
    let walks = |it: &Harness| (it.walks_of("edge"), it.walks_of("other"));
    let before = walks(&it);
    let engine = &mut it.engine;
    let chain = engine.slow.chain_named("other").unwrap();
    let mut validity = engine.state.validity.within(chain.scope());
    chain.function::<Firewall>("firewall").unwrap().insert(rule, &mut validity).unwrap();
    it.flow(INSIDE, 1);
    it.flow(OTHER[0], 1);
    assert_eq!(walks(&it), (before.0, before.1 + 1));
    it.finish();
}

/// A chain that keeps what is not there is refused, and nothing has changed.
#[test]
fn what_is_not_there_can_not_stay() {
    let mut it = harness();
    it.flow(INSIDE, 1);
    let engine = &mut it.engine;
    let wrong = builder("edge").keep("nat").keep("nobody").keep_forwarder("wire");
    assert!(engine.slow.replace(0, wrong, &mut engine.state).is_err());
    let walks = it.walks_of("edge");
    it.flow(INSIDE, 1);
    assert_eq!(it.walks_of("edge"), walks);
    it.finish();
}
