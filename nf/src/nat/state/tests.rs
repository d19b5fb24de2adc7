use super::super::forward::{Forward, OneToOne};
use super::super::plan::{NatSettings, PoolRange};
use super::super::subscriber::SubscriberLimits;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn endpoint(text: &str) -> SocketAddrV4 {
    text.parse().expect("an address and port")
}

fn inside(protocol: Protocol, text: &str) -> Inside {
    Inside { protocol, endpoint: endpoint(text) }
}

fn forward(external: &str, to: &str) -> Forward {
    Forward { protocol: Protocol::Tcp, external: endpoint(external), ports: 1, inside: endpoint(to) }
}

fn settings() -> NatSettings {
    let pool = PoolRange { first: [192, 0, 2, 1].into(), last: [192, 0, 2, 2].into() };
    NatSettings { pool: vec![pool], ..NatSettings::default() }
}

fn plan(settings: NatSettings) -> Arc<NatPlan> {
    Arc::new(NatPlan::new(settings).expect("valid settings"))
}

fn made(plan: Arc<NatPlan>, capacity: &Capacity, key: [u64; 2]) -> NatState {
    let bytes = NatState::bytes_for(capacity, plan.settings().filtering, plan.addresses());
    let arena = Arena::anonymous(bytes).unwrap();
    NatState::new(plan, capacity, &Secret::from_key(key), &arena).unwrap()
}

fn state(settings: NatSettings) -> NatState {
    let capacity = Capacity { mappings: 64, mappings_static: 4, subscribers: 16, contacts: 16 };
    made(plan(settings), &capacity, [31, 32])
}

/// Looks, and makes what the look proposes or joins what it finds.
fn open(state: &mut NatState, tuple: &Inside, remote: Ipv4Addr) -> Result<(Hold, SocketAddrV4), Refusal> {
    match state.outbound(tuple)? {
        Outbound::Existing { mapping, external } => Ok((state.acquire(mapping, remote)?, external)),
        Outbound::New(proposal) => Ok((state.commit(&proposal, remote)?, proposal.external)),
    }
}

/// Memory is asked for by what a mapping is going to be, so that is foreseen for all but those who find their first choice taken.
#[test]
fn what_a_mapping_will_be_is_foreseen() {
    let mut state = state(settings());
    for port in 2000..2060 {
        let tuple = inside(Protocol::Udp, &format!("10.0.0.{}:{port}", port % 8));
        let foreseen = state.prefetch_external(&tuple);
        let (_, external) = open(&mut state, &tuple, REMOTE).expect("ports are free");
        assert_eq!(foreseen, Some(external));
    }
    // Not where the ports of an address are still to be made anew.
    let forwards = vec![forward("192.0.2.1:8080", "10.0.0.9:80"), forward("192.0.2.2:8080", "10.0.0.9:80")];
    assert_eq!(state.reconfigure(plan(NatSettings { forwards, ..settings() })), Ok(()));
    let tuple = inside(Protocol::Tcp, "10.0.0.1:9");
    assert_eq!(state.prefetch_external(&tuple), None);
    while !state.sweep(100, &mut Vec::new()) {}
    assert!(state.prefetch_external(&tuple).is_some());
    let nowhere = NatSettings { pool: Vec::new(), ..settings() };
    assert_eq!(self::state(nowhere).prefetch_external(&inside(Protocol::Tcp, "10.0.0.1:1")), None);
}

/// RFC 4787 section 4.1 REQ-1: one mapping for an inside endpoint, whatever it talks to, until its last session.
#[test]
fn mappings_are_endpoint_independent() {
    let mut state = state(settings());
    let tuple = inside(Protocol::Udp, "10.0.0.1:5000");
    let (first, external) = open(&mut state, &tuple, REMOTE).expect("ports are free");
    let (second, again) = open(&mut state, &tuple, [203, 0, 113, 5].into()).expect("it is mapped");
    assert_eq!((first.mapping, external), (second.mapping, again));
    let found = Inbound::Existing { mapping: first.mapping, inside: tuple };
    assert_eq!(state.inbound(Protocol::Udp, external), Ok(found));
    assert_eq!(state.inbound(Protocol::Tcp, external), Ok(Inbound::Unmapped));
    assert_eq!(state.release(&first), None);
    assert_eq!(state.inbound(Protocol::Udp, external), Ok(found));
    assert_eq!(state.release(&second).map(|m| m.external), Some(external));
    assert_eq!(state.inbound(Protocol::Udp, external), Ok(Inbound::Unmapped));
    assert_eq!((state.used().mappings.0, state.used().subscribers), (0, 0));
}

/// R6: looking changes nothing, as often as one looks.
#[test]
fn looking_commits_nothing() {
    let state = state(settings());
    let tuple = inside(Protocol::Tcp, "10.0.0.1:5000");
    let looks: Vec<_> = (0..3).map(|_| state.outbound(&tuple)).collect();
    assert!(looks.iter().all(|look| *look == looks[0] && matches!(look, Ok(Outbound::New(_)))));
    assert_eq!((state.used().mappings.0, state.pool().used(Protocol::Tcp).taken), (0, 0));
}

/// R6: a commit that fails has changed nothing.
#[test]
fn a_stale_proposal_is_refused_without_a_trace() {
    let mut state = state(NatSettings { ports: (4_000, 4_000), overflow: false, ..settings() });
    let tuples = [inside(Protocol::Tcp, "10.0.0.1:5000"), inside(Protocol::Tcp, "10.0.0.1:5001")];
    let looks = tuples.map(|tuple| state.outbound(&tuple));
    let [Ok(Outbound::New(first)), Ok(Outbound::New(second))] = looks else { panic!("{looks:?}") };
    let hold = state.commit(&first, REMOTE).expect("it is free");
    assert_eq!(first.external, second.external);
    let before = (state.used(), state.pool().used(Protocol::Tcp));
    assert_eq!(state.commit(&second, REMOTE), Err(Refusal::ExternalBusy));
    assert_eq!((state.used(), state.pool().used(Protocol::Tcp)), before);
    assert_eq!(state.outbound(&tuples[1]), Err(Refusal::PortsExhausted));
    state.count_refusal(Refusal::PortsExhausted, Protocol::Tcp);
    assert_eq!(state.pool().used(Protocol::Tcp).exhausted, 1);
    assert_eq!(state.refusals().get(Refusal::PortsExhausted), 1);
    assert!(state.release(&hold).is_some() && state.release(&hold).is_none());
    assert!(state.outbound(&tuples[1]).is_ok(), "the resting port is the only one");
}

/// RFC 4787 section 5 REQ-8: the three filtering behaviours, and static mappings, which anyone may use.
#[test]
fn filters_admit_what_they_say() {
    let stranger = Ipv4Addr::new(203, 0, 113, 9);
    for (filtering, admitted) in [
        (Filtering::EndpointIndependent, [true, true]),
        (Filtering::AddressDependent, [true, false]),
        (Filtering::AddressAndPortDependent, [false, false]),
    ] {
        let forwards = vec![forward("192.0.2.1:80", "10.0.0.9:80")];
        let mut state = state(NatSettings { filtering, forwards, ..settings() });
        let (hold, _) =
            open(&mut state, &inside(Protocol::Tcp, "10.0.0.1:5000"), REMOTE).expect("ports are free");
        assert_eq!([REMOTE, stranger].map(|remote| state.admits(hold.mapping, remote)), admitted);
        let (fixed, _) = open(&mut state, &inside(Protocol::Tcp, "10.0.0.9:80"), REMOTE).expect("a rule");
        assert!(state.admits(fixed.mapping, stranger));
        state.release(&hold);
        assert!(!state.admits(hold.mapping, REMOTE), "the mapping is gone");
    }
}

/// The table of contacts is bounded; without room a contact is not admitted, and that is counted.
#[test]
fn filtering_fails_closed_when_its_table_is_full() {
    let mut state = state(NatSettings { filtering: Filtering::AddressDependent, ..settings() });
    let tuple = inside(Protocol::Udp, "10.0.0.1:5000");
    let remotes: Vec<Ipv4Addr> = (0..20).map(|n| [203, 0, 113, n].into()).collect();
    let holds: Vec<Hold> = remotes.iter().map(|r| open(&mut state, &tuple, *r).expect("mapped").0).collect();
    let admitted = remotes.iter().filter(|remote| state.admits(holds[0].mapping, **remote)).count();
    assert_eq!((admitted, state.used().contacts), (16, (16, 4)));
    for hold in &holds {
        state.release(hold);
    }
    assert_eq!((state.used().contacts.0, state.used().mappings.0), (0, 0));
}

/// A session that found no room in the table of contacts takes nobody else's place in it when it ends.
#[test]
fn an_unrecorded_session_ends_without_harm() {
    let mut state = state(NatSettings { filtering: Filtering::AddressDependent, ..settings() });
    let tuple = inside(Protocol::Udp, "10.0.0.1:5000");
    let mut session = |n: u8| open(&mut state, &tuple, [203, 0, 113, n].into()).expect("mapped").0;
    let recorded: Vec<Hold> = (0..16).map(&mut session).collect();
    let unrecorded = session(99);
    state.release(&recorded[0]);
    let (again, _) = open(&mut state, &tuple, unrecorded.remote).expect("mapped");
    assert!(again.recorded && !unrecorded.recorded);
    state.release(&unrecorded);
    assert!(state.admits(again.mapping, again.remote));
    state.release(&again);
    assert!(!state.admits(again.mapping, again.remote));
}

#[test]
fn forwards_work_in_both_directions() {
    let one_to_one =
        vec![OneToOne { external: [192, 0, 2, 128].into(), addresses: 4, inside: [10, 0, 1, 0].into() }];
    let forwards = vec![forward("192.0.2.1:80", "10.0.0.9:8080"), forward("192.0.2.1:81", "10.0.0.9:8080")];
    let mut state = state(NatSettings { forwards, one_to_one, ..settings() });
    let server = inside(Protocol::Tcp, "10.0.0.9:8080");
    let mut holds = Vec::new();
    for external in ["192.0.2.1:80", "192.0.2.1:81"].map(endpoint) {
        let look = state.inbound(Protocol::Tcp, external);
        let Ok(Inbound::New(proposal)) = look else { panic!("{look:?}") };
        assert_eq!((proposal.inside, proposal.external, proposal.is_static()), (server, external, true));
        holds.push(state.commit(&proposal, REMOTE).expect("it is free"));
    }
    let (hold, external) = open(&mut state, &server, REMOTE).expect("it is mapped");
    assert_eq!((hold.mapping, external), (holds[0].mapping, endpoint("192.0.2.1:80")));
    let (_, external) = open(&mut state, &inside(Protocol::Icmp, "10.0.1.3:77"), REMOTE).expect("1:1");
    assert_eq!(external, endpoint("192.0.2.131:77"));
    assert_eq!(state.pool().used(Protocol::Tcp).taken, 0, "rules take nothing from the pool");
    assert_eq!(state.used().subscribers, 0);
    holds.push(hold);
    assert_eq!(holds.iter().filter(|hold| state.release(hold).is_some()).count(), 2);
    assert!(matches!(state.inbound(Protocol::Tcp, endpoint("192.0.2.1:80")), Ok(Inbound::New(_))));
}

#[test]
fn full_tables_refuse_and_keep_room_for_rules() {
    let limits = SubscriberLimits::new(5, 65_535, 65_535);
    let mut state =
        state(NatSettings { limits, forwards: vec![forward("192.0.2.1:80", "10.0.0.9:80")], ..settings() });
    let tuple = |protocol, host: u8, port| Inside {
        protocol,
        endpoint: SocketAddrV4::new([10, 0, 0, host].into(), port),
    };
    let limited: Vec<_> = (1..=6).map(|n| open(&mut state, &tuple(Protocol::Tcp, 1, n), REMOTE)).collect();
    assert!(limited[..5].iter().all(Result::is_ok));
    assert_eq!(limited[5], Err(Refusal::SubscriberLimit));
    (2..=16).for_each(|host| assert!(open(&mut state, &tuple(Protocol::Udp, host, 1), REMOTE).is_ok()));
    assert_eq!(open(&mut state, &tuple(Protocol::Udp, 17, 1), REMOTE), Err(Refusal::SubscribersFull));
    (2..=41).for_each(|n| assert!(open(&mut state, &tuple(Protocol::Udp, 2, n), REMOTE).is_ok(), "{n}"));
    assert_eq!(open(&mut state, &tuple(Protocol::Udp, 2, 99), REMOTE), Err(Refusal::MappingsFull));
    assert_eq!(state.used().mappings, (60, 64));
    assert!(open(&mut state, &inside(Protocol::Tcp, "10.0.0.9:80"), REMOTE).is_ok(), "a rule finds room");
}

/// R8: a change ends exactly the mappings that it concerns, and a look sees the new plan at once.
#[test]
fn a_change_falls_exactly_what_it_concerns() {
    let forwards = vec![forward("192.0.2.1:80", "10.0.0.9:80"), forward("192.0.2.1:22", "10.0.0.9:22")];
    let mut state = state(NatSettings { forwards, ..settings() });
    let tuples =
        ["10.0.0.9:80", "10.0.0.9:22", "10.0.0.1:5000", "10.0.0.2:5000"].map(|t| inside(Protocol::Tcp, t));
    let holds = tuples.map(|tuple| open(&mut state, &tuple, REMOTE).expect("room"));
    // Port 80 goes elsewhere, 22 stays, 10.0.0.1:5000 gets a forward of its own.
    let forwards = vec![
        forward("192.0.2.1:80", "10.0.0.8:80"),
        forward("192.0.2.1:22", "10.0.0.9:22"),
        forward("192.0.2.1:5000", "10.0.0.1:5000"),
    ];
    let new = plan(NatSettings { forwards, ..settings() });
    assert_eq!(state.reconfigure(Arc::clone(&new)), Ok(()));
    assert_eq!(state.reconfigure(Arc::clone(&new)), Err(SweepPending));
    // Before the sweep: the moved forward is not in use by its old owner any more, and by nobody else yet.
    assert_eq!(state.inbound(Protocol::Tcp, endpoint("192.0.2.1:80")), Err(Refusal::ExternalBusy));
    let found = state.inbound(Protocol::Tcp, holds[2].1);
    assert_eq!(found, Ok(Inbound::Unmapped));
    assert!(matches!(state.outbound(&tuples[1]), Ok(Outbound::Existing { .. })));
    assert!(matches!(state.outbound(&tuples[3]), Ok(Outbound::Existing { .. })));
    let mut falling = Vec::new();
    for _ in 0..20 {
        assert!(!state.sweep(1, &mut falling));
    }
    assert_eq!(falling, [holds[0].0.mapping, holds[2].0.mapping]);
    for index in [0, 2] {
        assert!(state.release(&holds[index].0).is_some());
    }
    for _ in 0..4 {
        state.sweep(1, &mut falling);
    }
    assert!(state.sweep(1, &mut falling) && falling.len() == 2);
    let look = state.inbound(Protocol::Tcp, endpoint("192.0.2.1:80"));
    let Ok(Inbound::New(proposal)) = look else { panic!("{look:?}") };
    assert_eq!((proposal.inside, proposal.is_static()), (inside(Protocol::Tcp, "10.0.0.8:80"), true));
    for index in [1, 3] {
        assert_eq!(state.mapping(holds[index].0.mapping).map(|m| m.external), Some(holds[index].1));
    }
}

/// 1,000,000 mappings over 16 addresses, of few hosts and of 1,000,000: memory of everything, port states included.
#[test]
fn a_million_mappings_over_sixteen_addresses() {
    for (ports_each, bytes_max) in [(32_u32, 31_000_000), (1, 50_000_000)] {
        let pool = PoolRange { first: [192, 0, 2, 0].into(), last: [192, 0, 2, 15].into() };
        let plan = plan(NatSettings { pool: vec![pool], ..NatSettings::default() });
        let subscribers = 1_000_000 / ports_each as usize;
        let capacity = Capacity { mappings: 1_000_000, mappings_static: 0, subscribers, contacts: 9_999_999 };
        let mut state = made(plan, &capacity, [1, 9]);
        let mut externals = BTreeSet::new();
        for n in 0..1_000_000_u32 {
            let protocol = Protocol::ALL[n as usize % 3];
            let host = 0x0A00_0000 + n / ports_each;
            let endpoint = SocketAddrV4::new(host.into(), (2_000 + n % ports_each) as u16);
            let (_, external) =
                open(&mut state, &Inside { protocol, endpoint }, REMOTE).expect("there is room");
            assert!(externals.insert((protocol, external)), "one owner");
        }
        let used = state.used();
        println!("1,000,000 mappings, {} hosts, 16 addresses: {} bytes", used.subscribers, used.memory_bytes);
        assert!(used.memory_bytes <= bytes_max);
        assert_eq!((used.mappings.0, used.subscribers), (1_000_000, subscribers));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Sessions come and go and plans change; the model is the set of holds. At every moment each external
    /// tuple has one owner, every session's mapping is alive, and at the end nothing is left.
    #[test]
    fn sessions_and_changes_leave_nothing_behind(
        operations in prop::collection::vec((0_u8..10, 0_u8..5, 0_u16..8, 0_usize..3), 1..200),
    ) {
        let plans = [
            NatSettings { ports: (2_000, 2_006), ..settings() },
            NatSettings { ports: (2_004, 2_010), filtering: Filtering::AddressDependent, ..settings() },
            NatSettings {
                ports: (2_000, 2_006),
                pool: vec![PoolRange { first: [192, 0, 2, 2].into(), last: [192, 0, 2, 3].into() }],
                forwards: vec![forward("192.0.2.2:2001", "10.0.0.1:3001"), forward("192.0.2.9:7", "10.0.0.2:3002")],
                ..settings()
            },
        ].map(plan);
        let mut state = state(settings());
        let mut holds: Vec<Hold> = Vec::new();
        let mut falling = Vec::new();
        for (operation, host, port, choice) in operations {
            let protocol = Protocol::ALL[choice];
            let from = SocketAddrV4::new([10, 0, 0, host].into(), 3_000 + port);
            let tuple = Inside { protocol, endpoint: from };
            match operation {
                0..=4 => {
                    if let Ok((hold, external)) = open(&mut state, &tuple, [203, 0, 113, host].into()) {
                        holds.push(hold);
                        let found = state.inbound(protocol, external);
                        prop_assert_eq!(found, Ok(Inbound::Existing { mapping: hold.mapping, inside: tuple }));
                    }
                }
                5 | 6 if !holds.is_empty() => {
                    let hold = holds.swap_remove(usize::from(port) % holds.len());
                    state.release(&hold);
                }
                7 => {
                    // Refused while the change before is being swept; then nothing changes.
                    let before = Arc::clone(state.plan());
                    if state.reconfigure(Arc::clone(&plans[choice])).is_err() {
                        prop_assert!(Arc::ptr_eq(&before, state.plan()));
                    }
                }
                _ => {
                    falling.clear();
                    state.sweep(usize::from(port) + 1, &mut falling);
                    for hold in holds.extract_if(.., |hold| falling.contains(&hold.mapping)) {
                        state.release(&hold);
                    }
                }
            }
            let mut owners = BTreeMap::new();
            for hold in &holds {
                let mapping = state.mapping(hold.mapping);
                prop_assert!(mapping.is_some());
                if let Some(mapping) = mapping {
                    let key = (mapping.inside.protocol, mapping.external);
                    prop_assert_eq!(*owners.entry(key).or_insert(hold.mapping), hold.mapping);
                }
            }
            prop_assert_eq!(state.used().mappings.0, owners.len());
        }
        for hold in &holds {
        state.release(hold);
    }
        for _ in 0..200 {
            state.sweep(64, &mut falling);
        }
        prop_assert!(state.sweep(1, &mut falling));
        let used = state.used();
        prop_assert_eq!((used.mappings.0, used.subscribers, used.contacts.0), (0, 0, 0));
        for protocol in Protocol::ALL {
            prop_assert_eq!(state.pool().used(protocol).taken, 0);
            let (first, last) = state.plan().settings().ports;
            let reserved = state.plan().pool().iter().flat_map(|r| [r.first, r.last]).flat_map(|address| {
                (first..=last).map(move |port| SocketAddrV4::new(address, port))
            }).filter(|e| state.plan().is_reserved(protocol, *e)).count();
            let all = 2 * (usize::from(last - first) + 1);
            prop_assert_eq!(state.pool().available(protocol) as usize, all - reserved);
        }
    }
}
