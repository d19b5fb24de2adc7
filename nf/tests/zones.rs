//! A session has its ends in zones: what a third one sends in the name of either is no part of it, whoever keeps the session.

mod common;

use common::*;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::validity::{ObjectKind, Watch};
use millrace_dataplane::port::PortId;
use millrace_nf::chain::{Chain, ChainBuilder};
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::function::{FlowFunction, Forwarder, Verdict};
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::walk::Walk;
use millrace_nf::zone::ZoneId;
use std::any::Any;
use std::net::IpAddr;

const CLIENT: &str = "10.0.0.5";
const SERVER: &str = "198.51.100.7";
const THIRD: u16 = 2;
/// What is behind which port.
const UPLINK: Watch = Watch::of(ObjectKind::Other, 1);

/// 10.0.0.0/8 is behind port `home`, everything else behind port `uplink`, if there is one.
struct Uplinks {
    home: u16,
    uplink: Option<u16>,
}

fn uplinks(uplink: u16) -> Uplinks {
    Uplinks { home: INSIDE, uplink: Some(uplink) }
}

impl FlowFunction for Uplinks {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "uplinks"
    }
    fn reads(&self) -> Reads {
        Reads::none().with(&[Field::Ipv4Destination])
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        match self.destination_zone(walk) {
            Some(zone) => (Verdict::Forward(PortId(u16::from(zone.0))), None),
            None => (Verdict::Drop(DropReason::NoRoute), None),
        }
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Forwarder for Uplinks {
    fn destination_zone(&self, walk: &mut Walk<'_>) -> Option<ZoneId> {
        let inside = walk.headers.destination()?.to_string().starts_with("10.");
        walk.depend(UPLINK);
        let port = if inside { Some(self.home) } else { self.uplink };
        port.map(|port| ZoneId(port as u8))
    }

    fn is_behind(&self, address: IpAddr, zone: ZoneId) -> bool {
        address.to_string().starts_with("10.") && u16::from(zone.0) == self.home
    }
}

/// Keeps a session for everything, and asks nothing.
struct Keeper;

impl FlowFunction for Keeper {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "keeper"
    }
    fn reads(&self) -> Reads {
        Reads::none()
    }
    fn keeps_part(&self) -> bool {
        true
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        walk.want_session();
        (Verdict::Continue, None)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

fn firewall() -> Firewall {
    firewall_between(0, None)
}

/// Allows what comes from one zone and goes to the other, or to any.
fn firewall_between(from: u8, to: Option<u16>) -> Firewall {
    let (from_zone, to_zone) = (Some(ZoneId(from)), to.map(|zone| ZoneId(zone as u8)));
    let out = Rule { from_zone, to_zone, ..Rule::any(RuleId(1), 1 << 32, "out", Action::Allow) };
    let policy = Policy::new(&RuleSet::new(vec![out]).unwrap(), Action::Deny).unwrap();
    Firewall::new(policy, IcmpLimitConfig::default())
}

/// Adds a rule behind all others that changes nothing: every session is held against the rules again.
fn judge_again(it: &mut Harness) {
    let engine = &mut it.engine;
    let firewall: &mut Firewall = engine.slow.chain_named("edge").unwrap().function("firewall").unwrap();
    let behind = Rule::any(RuleId(2), 2 << 32, "behind", Action::Deny);
    firewall.insert(behind, &mut engine.state.validity.within(0)).unwrap();
}

/// Frames that left by a port that the harness doesn't collect.
fn left_by(it: &mut Harness, port: u16) -> usize {
    let left = it.engine.outputs.burst(PortId(port)).unwrap();
    let count = left.len();
    it.pool.put_all(left);
    count
}

fn harness(chain: Chain) -> Harness {
    let mut it = Harness::new(chain);
    it.engine.slow.attach(PortId(THIRD), 0, ZoneId(2));
    it.engine.compile_schema(PortId(THIRD));
    it
}

fn chain() -> ChainBuilder {
    ChainBuilder::new("edge", &["inside", "outside", "third"])
}

fn ask() -> Vec<u8> {
    udp(CLIENT, SERVER, (1000, 53), b"query")
}

fn answer() -> Vec<u8> {
    udp(SERVER, CLIENT, (53, 1000), b"answer")
}

#[test]
fn a_third_zone_can_not_answer() {
    for chain in [
        chain().function("firewall", firewall()).forwarder("uplinks", uplinks(1)),
        chain().function("keeper", Keeper).forwarder("uplinks", uplinks(1)),
    ] {
        let mut it = harness(chain);
        assert!(it.passes(INSIDE, &ask()));
        assert_eq!(it.send_one(THIRD, &answer()), [], "before the first answer");
        for _ in 0..3 {
            assert!(it.passes(OUTSIDE, &answer()));
            assert_eq!(it.send_one(THIRD, &answer()), [], "behind it");
            assert_eq!(it.send_one(THIRD, &ask()), [], "nor ask");
        }
        assert_eq!(it.drops(DropReason::WrongZone), 7);
        it.finish();
    }
}

#[test]
fn a_third_zone_can_not_reset() {
    let chain = chain().function("firewall", firewall()).forwarder("uplinks", uplinks(1));
    let mut it = harness(chain);
    let (out, back) = ((1000, 80), (80, 1000));
    assert!(it.passes(INSIDE, &tcp(CLIENT, SERVER, out, segment("S", 100, 0))));
    assert!(it.passes(OUTSIDE, &tcp(SERVER, CLIENT, back, segment("SA", 500, 101))));
    assert!(it.passes(INSIDE, &tcp(CLIENT, SERVER, out, segment("A", 101, 501))));
    assert_eq!(it.send_one(THIRD, &tcp(SERVER, CLIENT, back, segment("R", 501, 0))), []);
    assert_eq!(it.drops(DropReason::WrongZone), 1);
    assert!(it.passes(OUTSIDE, &tcp(SERVER, CLIENT, back, segment("R", 501, 0))));
    it.finish();
}

#[test]
fn a_third_zone_can_not_report_errors() {
    let chain = chain().function("firewall", firewall()).forwarder("uplinks", uplinks(1));
    let mut it = harness(chain);
    assert!(it.passes(INSIDE, &ask()));
    let error = port_unreachable(SERVER, CLIENT, &ask());
    assert_eq!(it.send_one(THIRD, &error), []);
    assert_eq!(it.drops(DropReason::WrongZone), 1);
    assert!(it.passes(OUTSIDE, &error));
    it.finish();
}

/// Routes change: the responder's zone is the one that the initiator's packets leave to.
#[test]
fn the_responders_zone_follows_the_route() {
    let chain = chain().function("firewall", firewall()).forwarder("uplinks", uplinks(2));
    let mut it = harness(chain);
    assert_eq!(it.send_one(INSIDE, &ask()), [], "it leaves by the third port");
    assert_eq!(it.send_one(THIRD, &answer()).len(), 1);
    assert_eq!(it.send_one(OUTSIDE, &answer()), []);
    it.function::<Uplinks>("uplinks").uplink = Some(OUTSIDE);
    it.engine.state.validity.change(UPLINK);
    assert!(it.passes(INSIDE, &ask()));
    assert!(it.passes(OUTSIDE, &answer()));
    assert_eq!(it.send_one(THIRD, &answer()), [], "not even by the entry that it had");
    assert_eq!(it.drops(DropReason::WrongZone), 2);
    assert_eq!(left_by(&mut it, THIRD), 1);
    it.finish();
}

/// An initiator that is reached through another zone has moved there: its session is judged anew, and where it was nobody speaks in
/// its name any more.
#[test]
fn the_initiator_may_move() {
    let moved = |it: &mut Harness| {
        assert!(it.passes(INSIDE, &ask()));
        assert!(it.passes(OUTSIDE, &answer()));
        it.function::<Uplinks>("uplinks").home = THIRD;
        it.engine.state.validity.change(UPLINK);
    };
    let mut it = harness(chain().function("keeper", Keeper).forwarder("uplinks", uplinks(1)));
    moved(&mut it);
    for _ in 0..3 {
        assert_eq!(it.send_one(THIRD, &ask()), [(OUTSIDE, ask())]);
        assert_eq!(it.send_one(OUTSIDE, &answer()), [], "it leaves by the third port");
        assert_eq!(it.send_one(INSIDE, &ask()), [], "it is not there any more");
    }
    assert_eq!((it.drops(DropReason::WrongZone), it.sessions()), (3, 1));
    assert_eq!(left_by(&mut it, THIRD), 3);
    it.finish();
    // Where the rules don't let it out, the old session lives on (R6).
    let mut it = harness(chain().function("firewall", firewall()).forwarder("uplinks", uplinks(1)));
    moved(&mut it);
    assert_eq!(it.send_one(THIRD, &ask()), []);
    assert_eq!((it.drops(DropReason::FirewallDenied), it.sessions()), (1, 1));
    it.finish();
}

/// Whoever asks, the rules see a session between the zones of its opening, wherever the routes lead by then.
#[test]
fn a_session_is_judged_again_between_the_zones_of_its_opening() {
    let opened = || {
        let firewall = firewall_between(0, Some(OUTSIDE));
        let mut it = harness(chain().function("firewall", firewall).forwarder("uplinks", uplinks(OUTSIDE)));
        assert!(it.passes(INSIDE, &ask()) && it.passes(OUTSIDE, &answer()));
        judge_again(&mut it);
        it.engine.state.validity.change(UPLINK);
        it
    };
    let mut it = opened();
    it.function::<Uplinks>("uplinks").home = THIRD;
    assert_eq!((it.send_one(OUTSIDE, &answer()), left_by(&mut it, THIRD)), (vec![], 1));
    it.finish();
    let mut it = opened();
    it.function::<Uplinks>("uplinks").uplink = Some(THIRD);
    assert_eq!((it.send_one(INSIDE, &ask()), left_by(&mut it, THIRD)), (vec![], 1));
    it.finish();
}

/// The first zone whose number a session has no room for: a reply tells it.
#[test]
fn a_session_of_a_high_zone_is_judged_again() {
    const HIGH: u16 = 13;
    let firewall = firewall_between(0, Some(HIGH));
    let mut it = harness(chain().function("firewall", firewall).forwarder("uplinks", uplinks(HIGH)));
    it.engine.slow.attach(PortId(HIGH), 0, ZoneId(HIGH as u8));
    it.engine.compile_schema(PortId(HIGH));
    assert_eq!((it.send_one(INSIDE, &ask()), left_by(&mut it, HIGH)), (vec![], 1));
    judge_again(&mut it);
    assert_eq!(it.send_one(HIGH, &answer()), [(INSIDE, answer())]);
    it.finish();
}

/// A destination without a route is in no zone, and so in none that a rule names.
#[test]
fn a_rule_between_zones_says_nothing_of_what_has_no_route() {
    let nowhere = Uplinks { home: INSIDE, uplink: None };
    let firewall = firewall_between(0, Some(INSIDE));
    let mut it = harness(chain().function("firewall", firewall).forwarder("uplinks", nowhere));
    assert_eq!(it.send_one(INSIDE, &ask()), []);
    assert_eq!((it.drops(DropReason::FirewallDenied), it.drops(DropReason::NoRoute)), (1, 0));
    it.finish();
}
