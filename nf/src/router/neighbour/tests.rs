//! RFC 4861 appendix C row by row, its timers, the bounds, and random events.

use super::NeighbourState::{Delay, Failed, Incomplete, Permanent, Probe, Reachable, Stale};
use super::*;
use millrace_dataplane::flow::hash::KeyedHash;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const LAN: InterfaceId = InterfaceId(0);
const MAC_A: MacAddress = [0x02, 0xaa, 0, 0, 0, 1];
const MAC_B: MacAddress = [0x02, 0xbb, 0, 0, 0, 2];
const RETRANS: Duration = Duration::from_secs(1);

fn peer() -> IpAddr {
    "fd00::7".parse().unwrap()
}

fn host(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

/// A table with its clock and what it asked for.
struct Bench {
    table: NeighbourTable,
    now: Time,
    actions: Vec<Action>,
    /// When decisions of the flow cache last used each neighbour.
    replayed: HashMap<NeighbourId, Time>,
}

impl Bench {
    fn new(entries_max: usize, incomplete_per_interface_max: usize) -> Self {
        let limits = NeighbourLimits { entries_max, incomplete_per_interface_max };
        let table = NeighbourTable::new(limits, NeighbourTimers::default(), KeyedHash::seeded(3), 11);
        Self { table, now: Time::from_secs(1_000), actions: Vec::new(), replayed: HashMap::new() }
    }

    fn apply(&mut self, event: Event) -> Vec<Action> {
        self.table.apply(event, self.now, &mut self.actions);
        self.table.check();
        std::mem::take(&mut self.actions)
    }

    /// Lets time pass, handling every timer at its moment.
    fn pass(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        while let Some(due) = self.table.next_deadline().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            let replayed = &self.replayed;
            let mut used = |id: NeighbourId| replayed.get(&id).copied();
            assert_eq!(self.table.tick(self.now, 1, &mut used, &mut self.actions), 1);
            self.table.check();
        }
        self.now = end;
        std::mem::take(&mut self.actions)
    }

    fn view(&self, address: IpAddr) -> NeighbourView {
        self.table.lookup(LAN, address, Asker::default(), self.now)
    }

    fn resolve(&mut self, address: IpAddr) -> Vec<Action> {
        self.apply(Event::Resolve { interface: LAN, address, asker: Asker::default() })
    }

    fn solicitation(&mut self, address: IpAddr, mac: MacAddress) -> Vec<Action> {
        self.apply(Event::Solicitation { interface: LAN, address, mac })
    }

    /// `flags`: S and O.
    fn advertisement(&mut self, mac: Option<MacAddress>, flags: (bool, bool)) -> Vec<Action> {
        let (solicited, overrides) = flags;
        let (interface, address, router) = (LAN, peer(), false);
        self.apply(Event::Advertisement { interface, address, mac, solicited, overrides, router })
    }

    fn id(&self) -> NeighbourId {
        self.view(peer()).id.unwrap()
    }

    /// A table whose entry for `peer` is in `state`, with `MAC_A` where one is known.
    fn in_state(state: Option<NeighbourState>) -> Self {
        let mut bench = Self::new(64, 8);
        match state {
            None => {}
            Some(Incomplete) => drop(bench.resolve(peer())),
            Some(Failed) => {
                bench.resolve(peer());
                bench.pass(3 * RETRANS);
            }
            Some(Permanent) => {
                let now = bench.now;
                bench.table.set_permanent(LAN, peer(), MAC_A, now, &mut bench.actions).unwrap();
            }
            Some(Reachable) => {
                bench.solicitation(peer(), MAC_A);
                bench.apply(Event::Confirmed { id: bench.id() });
            }
            Some(Stale | Delay | Probe) => {
                bench.solicitation(peer(), MAC_A);
                if state != Some(Stale) {
                    bench.apply(Event::Used { id: bench.id() });
                }
                if state == Some(Probe) {
                    bench.pass(Duration::from_secs(5));
                }
            }
        }
        assert_eq!(bench.view(peer()).state, state);
        bench.actions.clear();
        bench
    }
}

/// The kinds of actions, for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    AskAll,
    Probe,
    Wake,
    Fail,
    Invalidate,
}

fn kinds(actions: &[Action]) -> Vec<Does> {
    let kind = |action: &Action| match action {
        Action::Solicit { to: None, .. } => Does::AskAll,
        Action::Solicit { to: Some(_), .. } => Does::Probe,
        Action::Wake(_) => Does::Wake,
        Action::Fail(_) => Does::Fail,
        Action::Invalidate(_) => Does::Invalidate,
    };
    actions.iter().map(kind).collect()
}

/// A row of appendix C: the event, the states that it is tried in, the new state (`None`: unchanged), the address
/// that the entry then has, and what is done.
type Row = (
    &'static str,
    &'static [Option<NeighbourState>],
    Input,
    Option<NeighbourState>,
    Option<MacAddress>,
    &'static [Does],
);

/// An event of a row.
#[derive(Clone, Copy, Debug)]
enum Input {
    Send,
    /// An advertisement: link-layer address, S, O.
    Na(Option<MacAddress>, bool, bool),
    /// A message that tells its sender's link-layer address.
    Ns(MacAddress),
    Used,
    Confirmed,
}

const NOTHING: &[Option<NeighbourState>] = &[None];
const ASKED: &[Option<NeighbourState>] = &[Some(Incomplete)];
const KNOWN: &[Option<NeighbourState>] = &[Some(Reachable), Some(Stale), Some(Delay), Some(Probe)];
const TRUSTED: &[Option<NeighbourState>] = &[Some(Reachable)];
const DOUBTED: &[Option<NeighbourState>] = &[Some(Stale), Some(Delay), Some(Probe)];
const UNUSED: &[Option<NeighbourState>] = &[Some(Stale)];
const IN_USE: &[Option<NeighbourState>] = &[Some(Reachable), Some(Delay), Some(Probe)];
const FIXED: &[Option<NeighbourState>] = &[Some(Permanent)];
const LOST: &[Option<NeighbourState>] = &[Some(Failed)];
const A: Option<MacAddress> = Some(MAC_A);
const B: Option<MacAddress> = Some(MAC_B);

#[rustfmt::skip]
const APPENDIX_C: &[Row] = &[
    ("packet to send", NOTHING, Input::Send, Some(Incomplete), None, &[Does::AskAll]),
    ("NA S=0 O=0", ASKED, Input::Na(B, false, false), Some(Stale), B, &[Does::Wake]),
    ("NA S=0 O=1", ASKED, Input::Na(B, false, true), Some(Stale), B, &[Does::Wake]),
    ("NA S=1 O=0", ASKED, Input::Na(B, true, false), Some(Reachable), B, &[Does::Wake]),
    ("NA S=1 O=1", ASKED, Input::Na(B, true, true), Some(Reachable), B, &[Does::Wake]),
    ("NA S=1 O=1 no LLA", ASKED, Input::Na(None, true, true), None, None, &[]),
    ("NA S=0 O=0 no LLA", ASKED, Input::Na(None, false, false), None, None, &[]),
    ("NA S=1 O=0 same LLA", KNOWN, Input::Na(A, true, false), Some(Reachable), A, &[]),
    ("NA S=1 O=0 no LLA", KNOWN, Input::Na(None, true, false), Some(Reachable), A, &[]),
    ("NA S=1 O=1 no LLA", KNOWN, Input::Na(None, true, true), Some(Reachable), A, &[]),
    ("NA S=1 O=0 other LLA", TRUSTED, Input::Na(B, true, false), Some(Stale), A, &[]),
    ("NA S=0 O=0 other LLA", TRUSTED, Input::Na(B, false, false), Some(Stale), A, &[]),
    ("NA S=1 O=0 other LLA", DOUBTED, Input::Na(B, true, false), None, A, &[]),
    ("NA S=0 O=0 other LLA", DOUBTED, Input::Na(B, false, false), None, A, &[]),
    ("NA S=1 O=1 other LLA", KNOWN, Input::Na(B, true, true), Some(Reachable), B, &[Does::Invalidate]),
    ("NA S=1 O=1 same LLA", KNOWN, Input::Na(A, true, true), Some(Reachable), A, &[]),
    ("NA S=0 O=0 same LLA", KNOWN, Input::Na(A, false, false), None, A, &[]),
    ("NA S=0 O=1 same LLA", KNOWN, Input::Na(A, false, true), None, A, &[]),
    ("NA S=0 O=1 other LLA", KNOWN, Input::Na(B, false, true), Some(Stale), B, &[Does::Invalidate]),
    ("NA S=0 O=0 no LLA", KNOWN, Input::Na(None, false, false), None, A, &[]),
    ("NA S=0 O=1 no LLA", KNOWN, Input::Na(None, false, true), None, A, &[]),
    ("confirmed from above", KNOWN, Input::Confirmed, Some(Reachable), A, &[]),
    ("confirmed from above", ASKED, Input::Confirmed, None, None, &[]),
    ("packet to send", UNUSED, Input::Used, Some(Delay), A, &[]),
    ("packet to send", IN_USE, Input::Used, None, A, &[]),
    // The second table: messages that tell their sender's address, and advertisements without an entry.
    ("NS", NOTHING, Input::Ns(MAC_B), Some(Stale), B, &[]),
    ("NS", ASKED, Input::Ns(MAC_B), Some(Stale), B, &[Does::Wake]),
    ("NS other LLA", KNOWN, Input::Ns(MAC_B), Some(Stale), B, &[Does::Invalidate]),
    ("NS same LLA", KNOWN, Input::Ns(MAC_A), None, A, &[]),
    ("NA", NOTHING, Input::Na(B, true, true), None, None, &[]),
    // What the RFC does not know.
    ("NA", FIXED, Input::Na(B, true, true), None, A, &[]),
    ("NS", FIXED, Input::Ns(MAC_B), None, A, &[]),
    ("confirmed from above", FIXED, Input::Confirmed, None, A, &[]),
    ("NS", LOST, Input::Ns(MAC_B), Some(Stale), B, &[]),
    ("packet to send", LOST, Input::Send, None, None, &[Does::Fail]),
    ("packet to send", ASKED, Input::Send, None, None, &[]),
];

/// RFC 4861 appendix C, both tables, for messages. Each row is tried in each state that it names.
#[test]
fn appendix_c_row_by_row() {
    for (event, states, input, new, mac, does) in APPENDIX_C {
        for state in *states {
            let mut bench = Bench::in_state(*state);
            let actions = match *input {
                Input::Send => bench.resolve(peer()),
                Input::Na(mac, solicited, overrides) => bench.advertisement(mac, (solicited, overrides)),
                Input::Ns(mac) => bench.solicitation(peer(), mac),
                Input::Used => bench.apply(Event::Used { id: bench.id() }),
                Input::Confirmed => bench.apply(Event::Confirmed { id: bench.id() }),
            };
            let view = bench.view(peer());
            assert_eq!(view.state, new.or(*state), "{state:?} {event}");
            assert_eq!(view.mac, *mac, "{state:?} {event}");
            assert_eq!(kinds(&actions), *does, "{state:?} {event}");
        }
    }
    let mut bench = Bench::in_state(Some(Failed));
    assert_eq!(kinds(&bench.advertisement(Some(MAC_B), (false, true))), []);
    assert_eq!((bench.view(peer()).state, bench.view(peer()).needs), (None, Needs::Resolve));
}

/// RFC 4861 section 7.2.2: MAX_MULTICAST_SOLICIT solicitations, RETRANS_TIMER apart; then the packets fail.
#[test]
fn resolution_asks_three_times_and_fails() {
    let mut bench = Bench::new(64, 8);
    let token = bench.view(peer()).token;
    assert_eq!(bench.view(peer()).needs, Needs::Resolve);
    assert_eq!(kinds(&bench.resolve(peer())), [Does::AskAll]);
    // More packets wait with the first and ask nothing.
    assert_eq!(bench.view(peer()).needs, Needs::Resolve);
    assert_eq!(bench.resolve(peer()), []);
    assert_eq!(bench.pass(Duration::from_millis(999)), []);
    assert_eq!(kinds(&bench.pass(Duration::from_millis(1))), [Does::AskAll]);
    assert_eq!(kinds(&bench.pass(RETRANS)), [Does::AskAll]);
    assert_eq!(bench.pass(RETRANS), [Action::Fail(token)]);
    assert_eq!(bench.view(peer()).needs, Needs::Unreachable);
    assert_eq!(bench.pass(Duration::from_millis(1_999)), []);
    assert_eq!(bench.view(peer()).needs, Needs::Unreachable);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.view(peer()).needs, Needs::Resolve);
    assert!(bench.table.is_empty());
    let counters = bench.table.counters();
    assert_eq!((counters.resolutions, counters.failures), (1, 1));
}

/// RFC 4861 section 7.3.3 and appendix C: DELAY, then unicast probes, then gone; the next packet asks everyone.
#[test]
fn a_silent_neighbour_is_probed_and_forgotten() {
    let mut bench = Bench::in_state(Some(Stale));
    let id = bench.id();
    assert_eq!(bench.view(peer()).needs, Needs::Used);
    bench.apply(Event::Used { id });
    assert_eq!(bench.view(peer()).needs, Needs::Nothing);
    assert_eq!(bench.pass(Duration::from_millis(4_999)), []);
    let probe = Action::Solicit { id, interface: LAN, address: peer(), to: Some(MAC_A) };
    assert_eq!(bench.pass(Duration::from_millis(1)), [probe]);
    // Section 7.3.3: packets go to the cached address meanwhile.
    assert_eq!(bench.view(peer()).mac, Some(MAC_A));
    assert_eq!(bench.pass(RETRANS), [probe]);
    assert_eq!(bench.pass(RETRANS), [probe]);
    assert_eq!(bench.pass(RETRANS), [Action::Invalidate(id)]);
    assert_eq!(bench.view(peer()).needs, Needs::Resolve);
    assert_eq!(bench.table.get(id), None);
    assert_eq!(bench.table.counters().lost, 1);
}

#[test]
fn a_probe_that_is_answered_restores_reachability() {
    let mut bench = Bench::in_state(Some(Probe));
    assert_eq!(bench.advertisement(Some(MAC_A), (true, true)), []);
    assert_eq!(bench.view(peer()).state, Some(Reachable));
    assert_eq!(bench.pass(Duration::from_secs(15)), []);
}

/// RFC 4861 section 6.3.2: a confirmation holds for 0.5 to 1.5 times REACHABLE_TIME, spread.
#[test]
fn reachable_times_are_spread() {
    let mut times = HashSet::new();
    let mut bench = Bench::in_state(Some(Reachable));
    for _ in 0..200 {
        bench.apply(Event::Confirmed { id: bench.id() });
        times.insert(bench.table.next_deadline().unwrap().since(bench.now).as_millis() / 1_000);
    }
    assert!(times.iter().all(|seconds| (15..=45).contains(seconds)), "{times:?}");
    assert!(times.len() > 20, "{times:?}");
    assert_eq!(bench.pass(Duration::from_secs(46)), []);
    assert_eq!(bench.view(peer()).state, Some(Stale));
}

/// Traffic that only hits the flow cache keeps its neighbour checked: REACHABLE, STALE, DELAY, PROBE, REACHABLE.
#[test]
fn replayed_traffic_is_noticed() {
    let mut bench = Bench::in_state(Some(Reachable));
    let id = bench.id();
    let mut probes = 0;
    for _ in 0..600 {
        bench.replayed.insert(id, bench.now);
        for action in bench.pass(Duration::from_secs(1)) {
            assert_eq!(kinds(&[action]), [Does::Probe]);
            probes += 1;
            bench.advertisement(Some(MAC_A), (true, true));
        }
    }
    // Every 15 to 45 seconds plus at most 5 until it is noticed and 5 of delay.
    assert!((600 / 56..=600 / 20).contains(&probes), "{probes}");
    assert_eq!(bench.id(), id);
    // Unused, it is asked nothing, and forgotten after a while.
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.view(peer()).state, Some(Stale));
    assert_eq!(bench.pass(Duration::from_secs(700)), [Action::Invalidate(id)]);
    assert!(bench.table.is_empty());
}

/// RFC 826, "Packet Reception", and gratuitous ARP: it updates and never makes an entry.
#[test]
fn arp_updates_what_is_there() {
    let mut bench = Bench::new(64, 8);
    let sender = host(9);
    let arp = |mac, reply, to_us| Event::from_arp(LAN, sender, mac, reply, to_us);
    for (reply, to_us) in [(false, false), (true, false), (true, true)] {
        assert_eq!(bench.apply(arp(MAC_A, reply, to_us)), []);
        assert!(bench.table.is_empty());
    }
    assert_eq!(bench.apply(arp(MAC_A, false, true)), []);
    assert_eq!(bench.view(sender).state, Some(Stale));
    let id = bench.view(sender).id.unwrap();
    // Gratuitous, as a request and as a reply: the station moved.
    assert_eq!(bench.apply(arp(MAC_B, false, false)), [Action::Invalidate(id)]);
    assert_eq!(bench.apply(arp(MAC_A, true, false)), [Action::Invalidate(id)]);
    assert_eq!(bench.view(sender).mac, Some(MAC_A));
    assert_eq!(bench.view(sender).state, Some(Stale));
    // A reply to us that nobody asked for tells an address, and not that anything reaches it (RFC 4861 section 7.2.5).
    assert_eq!(bench.apply(arp(MAC_A, true, true)), []);
    assert_eq!(bench.view(sender).state, Some(Stale));
    assert_eq!(bench.apply(arp(MAC_B, true, true)), [Action::Invalidate(id)]);
    assert_eq!((bench.view(sender).mac, bench.view(sender).state), (Some(MAC_B), Some(Stale)));
    // The answer to our probe, and to our first question.
    bench.apply(Event::Used { id });
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.view(sender).state, Some(Probe));
    assert_eq!(bench.apply(arp(MAC_B, true, true)), []);
    assert_eq!(bench.view(sender).state, Some(Reachable));
    bench.resolve(host(10));
    bench.apply(Event::from_arp(LAN, host(10), MAC_A, true, true));
    assert_eq!(bench.view(host(10)).state, Some(Reachable));
}

/// RFC 6583: a scan has a bounded number of resolutions, and stations that are there still get theirs.
#[test]
fn a_scan_is_bounded_and_gives_way() {
    let mut bench = Bench::new(1_024, 8);
    for number in 0..8 {
        assert_eq!(kinds(&bench.resolve(host(number))), [Does::AskAll]);
    }
    let token = bench.view(host(100)).token;
    assert_eq!(bench.resolve(host(100)), [Action::Fail(token)]);
    // Once it is known that nothing can give way, looking says so.
    assert_eq!(bench.view(host(101)).needs, Needs::Refused);
    // Another interface has its own limit.
    assert_eq!(
        bench.table.lookup(InterfaceId(3), host(1), Asker::default(), bench.now).needs,
        Needs::Resolve
    );
    assert_eq!(
        kinds(&bench.apply(Event::Resolve {
            interface: InterfaceId(3),
            address: host(1),
            asker: Asker::default()
        })),
        [Does::AskAll]
    );
    // The oldest missed its first answer and gives way.
    bench.pass(RETRANS);
    assert_eq!(bench.view(host(101)).needs, Needs::Resolve);
    let oldest = bench.view(host(0)).token;
    let actions = bench.resolve(host(101));
    assert_eq!(actions[0], Action::Fail(oldest));
    assert_eq!(kinds(&actions), [Does::Fail, Does::AskAll]);
    assert_eq!(bench.view(host(0)).state, None);
    assert_eq!(bench.table.counters().limited, 2);
}

/// RFC 6583 section 7: who scans takes no place that others want, be it of another interface, family, or source.
#[test]
fn a_scan_takes_no_place_that_others_want() {
    let mut bench = Bench::new(1_024, 16);
    let scanner = Asker { ingress: InterfaceId(1), source: Some(host(200)) };
    let resolve = |bench: &mut Bench, address: IpAddr, asker: Asker| {
        let needs = bench.table.lookup(LAN, address, asker, bench.now).needs;
        let actions = bench.apply(Event::Resolve { interface: LAN, address, asker });
        let got = kinds(&actions).contains(&Does::AskAll);
        assert_eq!(needs == Needs::Resolve, got, "looking says what comes");
        got
    };
    let v6 = |number: u32| IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, number as u16));
    assert_eq!((0..100).filter(|number| resolve(&mut bench, v6(*number), scanner)).count(), 16);
    // Of another family, from the same scanner; then from another interface, as many as the scan has left.
    assert_eq!((0..100).filter(|number| resolve(&mut bench, host(*number), scanner)).count(), 8);
    let inside = Asker { ingress: LAN, source: Some(host(1)) };
    assert_eq!((100..200).filter(|number| resolve(&mut bench, host(*number), inside)).count(), 5);
    // Another source behind the scanner's interface has its part of what that has.
    let other = Asker { source: Some(host(201)), ..scanner };
    assert_eq!((200..300).filter(|number| resolve(&mut bench, host(*number), other)).count(), 3);
    // Nobody who has no more than others loses what it waits for.
    let waits = |bench: &Bench, address: IpAddr| bench.view(address).state == Some(Incomplete);
    assert_eq!((100..200).filter(|number| waits(&bench, host(*number))).count(), 5);
    bench.table.check();
}

/// Who gives way in a full table: failed and never used entries for anyone, idle ones for a resolution; others never.
#[test]
fn eviction_spares_what_is_needed() {
    let mut bench = Bench::new(4, 100);
    let now = bench.now;
    bench.table.set_permanent(LAN, host(1), MAC_A, now, &mut bench.actions).unwrap();
    bench.solicitation(host(2), MAC_A);
    let reachable = bench.view(host(2)).id.unwrap();
    bench.apply(Event::Used { id: reachable });
    bench.apply(Event::Confirmed { id: reachable });
    bench.solicitation(host(3), MAC_A);
    bench.solicitation(host(4), MAC_A);
    let unused = bench.view(host(4)).id.unwrap();
    bench.apply(Event::Confirmed { id: bench.view(host(3)).id.unwrap() });
    // A stranger's request displaces the one that was never used, whatever the order.
    assert_eq!(bench.solicitation(host(5), MAC_B), [Action::Invalidate(unused)]);
    bench.apply(Event::Used { id: bench.view(host(5)).id.unwrap() });
    // Now nothing is left for strangers.
    assert_eq!(bench.solicitation(host(6), MAC_B), []);
    assert_eq!(bench.view(host(6)).state, None);
    assert_eq!(bench.table.counters().refusals, 1);
    // A resolution displaces the reachable one that nobody used.
    let idle = bench.view(host(3)).id.unwrap();
    let actions = bench.resolve(host(7));
    assert_eq!(actions[0], Action::Invalidate(idle));
    let token = bench.view(host(8)).token;
    assert_eq!(bench.resolve(host(8)), [Action::Fail(token)]);
    assert_eq!(bench.view(host(1)).state, Some(Permanent));
    assert_eq!(bench.view(host(2)).state, Some(Reachable));
    assert_eq!(bench.table.len(), 4);
}

#[test]
fn ids_of_the_dead_name_nobody() {
    let mut bench = Bench::new(1, 8);
    let mut seen = HashSet::new();
    for _ in 0..4_000 {
        bench.solicitation(peer(), MAC_A);
        let id = bench.id();
        assert!(seen.insert(id));
        assert!(bench.table.remove(LAN, peer(), &mut bench.actions));
        assert_eq!(std::mem::take(&mut bench.actions), [Action::Invalidate(id)]);
        assert_eq!(bench.table.get(id), None);
        assert_eq!(bench.apply(Event::Used { id }), []);
    }
    assert!(!bench.table.remove(LAN, peer(), &mut bench.actions));
}

/// The slot that was found last may be free by now, or another neighbour's.
#[test]
fn the_one_found_last_is_found_while_it_lives() {
    let mut bench = Bench::new(1, 8);
    bench.solicitation(peer(), MAC_A);
    assert_eq!(bench.view(peer()).mac, Some(MAC_A));
    assert_eq!(bench.table.lookup(InterfaceId(1), peer(), Asker::default(), bench.now).id, None);
    assert!(bench.table.remove(LAN, peer(), &mut bench.actions));
    assert_eq!(bench.view(peer()).id, None);
    bench.solicitation(host(2), MAC_B);
    assert_eq!((bench.view(peer()).id, bench.view(host(2)).mac), (None, Some(MAC_B)));
}

#[test]
fn an_interface_takes_its_neighbours_along() {
    let mut bench = Bench::new(64, 8);
    let now = bench.now;
    bench.table.set_permanent(LAN, host(1), MAC_A, now, &mut bench.actions).unwrap();
    bench.solicitation(host(2), MAC_A);
    bench.resolve(host(3));
    bench.apply(Event::Solicitation { interface: InterfaceId(1), address: host(2), mac: MAC_B });
    bench.table.remove_interface(LAN, false, &mut bench.actions);
    bench.table.check();
    let does = kinds(&std::mem::take(&mut bench.actions));
    assert_eq!(does, [Does::Invalidate, Does::Fail]);
    assert_eq!(bench.table.len(), 2);
    bench.table.remove_interface(LAN, true, &mut bench.actions);
    assert_eq!(bench.table.iter().map(|it| it.interface).collect::<Vec<_>>(), [InterfaceId(1)]);
}

#[test]
fn ticks_keep_their_budget() {
    let mut bench = Bench::new(1_024, 1_024);
    (0..100).for_each(|number| drop(bench.resolve(host(number))));
    bench.now = bench.now + RETRANS;
    let mut tick = |budget| bench.table.tick(bench.now, budget, &mut |_| None, &mut bench.actions);
    assert_eq!([tick(64), tick(64), tick(64)], [64, 36, 0]);
    assert_eq!(kinds(&bench.actions), [Does::AskAll; 100]);
}

#[derive(Clone, Debug)]
enum Step {
    Walk(u8, u8),
    Advertise(u8, u8, Option<u8>, bool, bool),
    Solicit(u8, u8, u8),
    Confirm(u8, u8),
    Permanent(u8, u8, u8),
    Remove(u8, u8),
    RemoveInterface(u8),
    Tick(u32, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (interface, host, mac) = (0u8..3, 0u8..24, 0u8..3);
    prop_oneof![
        8 => (interface.clone(), host.clone()).prop_map(|(i, h)| Step::Walk(i, h)),
        4 => (interface.clone(), host.clone(), proptest::option::of(mac.clone()), any::<bool>(), any::<bool>())
            .prop_map(|(i, h, m, s, o)| Step::Advertise(i, h, m, s, o)),
        2 => (interface.clone(), host.clone(), mac.clone()).prop_map(|(i, h, m)| Step::Solicit(i, h, m)),
        1 => (interface.clone(), host.clone()).prop_map(|(i, h)| Step::Confirm(i, h)),
        1 => (interface.clone(), host.clone(), mac).prop_map(|(i, h, m)| Step::Permanent(i, h, m)),
        1 => (interface.clone(), host).prop_map(|(i, h)| Step::Remove(i, h)),
        1 => interface.prop_map(Step::RemoveInterface),
        6 => (0u32..20_000, 0usize..20).prop_map(|(wait, budget)| Step::Tick(wait, budget)),
    ]
}

fn name(interface: u8, number: u8) -> (InterfaceId, IpAddr) {
    (InterfaceId(u16::from(interface)), host(u32::from(number)))
}

/// What the router holds and has decided, in the model of [`any_events_keep_the_promises`].
#[derive(Default)]
struct Model {
    held: HashSet<HoldToken>,
    /// Link-layer addresses in decisions that the flow cache keeps.
    decided: HashMap<NeighbourId, MacAddress>,
    /// So many walks: packets come by turns from several.
    walks: u16,
}

impl Model {
    /// Sends a packet as the router does.
    fn walk(&mut self, bench: &mut Bench, interface: InterfaceId, address: IpAddr) {
        let (now, actions) = (bench.now, &mut bench.actions);
        let asker =
            Asker { ingress: InterfaceId(self.walks % 3), source: Some(host(u32::from(self.walks % 5))) };
        self.walks = self.walks.wrapping_add(1);
        let view = bench.table.lookup(interface, address, asker, now);
        match (view.needs, view.mac, view.id) {
            (Needs::Nothing, Some(mac), Some(id)) => drop(self.decided.insert(id, mac)),
            (Needs::Used, Some(mac), Some(id)) => {
                self.decided.insert(id, mac);
                bench.table.apply(Event::Used { id }, now, actions);
            }
            (Needs::Resolve, None, _) => {
                self.held.insert(view.token);
                bench.table.apply(Event::Resolve { interface, address, asker }, now, actions);
            }
            (Needs::Unreachable | Needs::Refused, None, _) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Carries out what the table asks for.
    fn act(&mut self, bench: &mut Bench) {
        for action in std::mem::take(&mut bench.actions) {
            match action {
                Action::Wake(token) | Action::Fail(token) => drop(self.held.remove(&token)),
                Action::Invalidate(id) => drop(self.decided.remove(&id)),
                Action::Solicit { id, .. } => assert!(bench.table.get(id).is_some()),
            }
        }
        for (id, mac) in &self.decided {
            assert_eq!(bench.table.get(*id).and_then(|it| it.mac), Some(*mac));
        }
    }

    fn step(&mut self, bench: &mut Bench, step: &Step) {
        let (table, now, actions) = (&mut bench.table, bench.now, &mut bench.actions);
        let mac = |number: u8| [0x02, 0, 0, 0, 0, number];
        match *step {
            Step::Walk(interface, number) => {
                let (interface, address) = name(interface, number);
                self.walk(bench, interface, address);
            }
            Step::Advertise(interface, number, lla, solicited, overrides) => {
                let ((interface, address), mac) = (name(interface, number), lla.map(mac));
                let router = true;
                let event = Event::Advertisement { interface, address, mac, solicited, overrides, router };
                table.apply(event, now, actions);
            }
            Step::Solicit(interface, number, lla) => {
                let (interface, address) = name(interface, number);
                table.apply(Event::Solicitation { interface, address, mac: mac(lla) }, now, actions);
            }
            Step::Confirm(interface, number) => {
                let (interface, address) = name(interface, number);
                if let Some(id) = table.lookup(interface, address, Asker::default(), now).id {
                    table.apply(Event::Confirmed { id }, now, actions);
                }
            }
            Step::Permanent(interface, number, lla) => {
                let (interface, address) = name(interface, number);
                table.set_permanent(interface, address, mac(lla), now, actions);
            }
            Step::Remove(interface, number) => {
                let (interface, address) = name(interface, number);
                table.remove(interface, address, actions);
            }
            Step::RemoveInterface(interface) => {
                table.remove_interface(InterfaceId(u16::from(interface)), true, actions);
            }
            Step::Tick(wait, budget) => {
                bench.now = now + Duration::from_millis(u64::from(wait));
                assert!(table.tick(bench.now, budget, &mut |_| Some(now), actions) <= budget);
            }
        }
    }
}

proptest! {
    /// After any events: the structures agree; no decision keeps an address that changed (R8); no packet is held for
    /// ever; nothing exceeds its bound.
    #[test]
    fn any_events_keep_the_promises(steps in proptest::collection::vec(step(), 1..400)) {
        let mut bench = Bench::new(16, 4);
        let mut model = Model::default();
        for step in &steps {
            model.step(&mut bench, step);
            bench.table.check();
            model.act(&mut bench);
        }
        for _ in 0..20 {
            bench.actions = bench.pass(Duration::from_millis(500));
            model.act(&mut bench);
        }
        prop_assert!(model.held.is_empty(), "{:?}", model.held);
    }
}
