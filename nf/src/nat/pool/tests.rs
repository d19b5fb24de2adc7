use super::super::plan::{NatPlan, NatSettings, PoolRange, Reservation};
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn settings(addresses: u32) -> NatSettings {
    let first = u32::from(Ipv4Addr::new(192, 0, 2, 1));
    let pool = PoolRange { first: first.into(), last: (first + addresses - 1).into() };
    NatSettings { pool: vec![pool], ..NatSettings::default() }
}

fn plan(settings: NatSettings) -> Arc<NatPlan> {
    Arc::new(NatPlan::new(settings).expect("valid settings"))
}

/// The pool, with addresses for choices and pairings.
struct Pool(ExternalPool);

impl Pool {
    fn new(plan: &NatPlan, secret: Secret) -> Self {
        Self(ExternalPool::new(plan, secret, None))
    }

    fn peek(&self, inside: &Inside, paired: Option<Ipv4Addr>) -> Option<SocketAddrV4> {
        let choice = paired.and_then(|address| self.0.choice(SocketAddrV4::new(address, 0)));
        let paired = choice.map(|choice| self.0.pairing(&choice));
        self.0.peek(inside, paired).map(|choice| choice.external)
    }

    fn take(&mut self, protocol: Protocol, external: SocketAddrV4) -> bool {
        self.0.choice(external).is_some_and(|choice| self.0.take(protocol, &choice))
    }
}

impl std::ops::Deref for Pool {
    type Target = ExternalPool;
    fn deref(&self) -> &ExternalPool {
        &self.0
    }
}

impl std::ops::DerefMut for Pool {
    fn deref_mut(&mut self) -> &mut ExternalPool {
        &mut self.0
    }
}

fn pool(settings: NatSettings) -> Pool {
    Pool::new(&plan(settings), Secret::from_key([21, 22]))
}

fn inside(host: u32, port: u16, protocol: Protocol) -> Inside {
    Inside { protocol, endpoint: SocketAddrV4::new((0x0A00_0000 + host).into(), port) }
}

/// RFC 4787 section 4.1 REQ-2: one external address a host while it has ports; then by choice.
#[test]
fn a_host_keeps_its_address_and_overflows_by_choice() {
    for overflow in [true, false] {
        let mut pool = pool(NatSettings { ports: (2_000, 2_009), overflow, ..settings(4) });
        let mut paired = None;
        for n in 0..12 {
            let found = pool.peek(&inside(1, 5_000 + n, Protocol::Tcp), paired);
            match (n < 10, overflow) {
                (true, _) => {
                    let found = found.expect("the address has ten ports");
                    assert_eq!(*found.ip(), *paired.get_or_insert(*found.ip()));
                    assert!(pool.take(Protocol::Tcp, found));
                }
                (false, true) => assert_ne!(found.map(|e| *e.ip()), paired),
                (false, false) => assert_eq!(found, None),
            }
        }
        // Another host finds another address, even if its hash chose the full one.
        for host in 2..40 {
            let found =
                pool.peek(&inside(host, 1_024, Protocol::Tcp), None).expect("three addresses are free");
            assert_ne!(Some(*found.ip()), paired);
        }
    }
}

#[test]
fn hosts_are_spread_over_the_addresses() {
    let pool = pool(settings(16));
    let mut hosts = BTreeMap::new();
    for host in 0..16_000 {
        let first = pool.peek(&inside(host, 1_024, Protocol::Udp), None).expect("all are free");
        let second = pool.peek(&inside(host, 9_999, Protocol::Tcp), None).expect("all are free");
        assert_eq!(first.ip(), second.ip(), "the host's hash alone chooses its address");
        *hosts.entry(*first.ip()).or_insert(0) += 1;
    }
    assert_eq!(hosts.len(), 16);
    assert!(hosts.values().all(|n| (850..1_150).contains(n)), "{hosts:?}");
}

/// RFC 4787 section 4.2.1 REQ-3a: well-known stays below 1024, other ports stay above.
#[test]
fn ports_stay_on_their_side_of_1024() {
    let mut pool = pool(NatSettings { ports: (1_020, 1_030), ..settings(1) });
    for port in [1_020, 1_021, 1_022, 1_023] {
        let low = pool.peek(&inside(1, 123, Protocol::Udp), None).expect("low ports are left");
        assert!((1_020..1_024).contains(&low.port()));
        let high = pool.peek(&inside(1, 50_000, Protocol::Udp), None).expect("high ports are left");
        assert!(high.port() >= 1_024);
        assert!(pool.take(Protocol::Udp, SocketAddrV4::new(*low.ip(), port)));
    }
    let beyond = pool.peek(&inside(1, 123, Protocol::Udp), None).expect("high ports are left");
    assert!(beyond.port() >= 1_024);
    (1_024..=1_030).for_each(|port| assert!(pool.take(Protocol::Tcp, SocketAddrV4::new(*beyond.ip(), port))));
    assert_eq!(pool.peek(&inside(1, 50_000, Protocol::Tcp), None), None, "low ports are not for high ones");
    let identifiers: BTreeSet<u16> = std::iter::from_fn(|| {
        let found = pool.peek(&inside(1, 7, Protocol::Icmp), None)?;
        pool.take(Protocol::Icmp, found).then_some(found.port())
    })
    .collect();
    assert_eq!(identifiers, (1_020..=1_030).collect(), "query identifiers use both sides");
}

/// RFC 4787 section 4.2.2 REQ-4, by choice.
#[test]
fn parity_is_kept_for_udp_by_choice() {
    let parities = |udp_parity, protocol| -> BTreeSet<u16> {
        let pool = pool(NatSettings { udp_parity, ..settings(2) });
        let peek = |host| pool.peek(&inside(host, 5_001, protocol), None).expect("all are free");
        (0..100).map(|host| peek(host).port() % 2).collect()
    };
    assert_eq!(parities(true, Protocol::Udp), [1].into());
    assert_eq!(parities(false, Protocol::Udp), [0, 1].into());
    assert_eq!(parities(true, Protocol::Tcp), [0, 1].into());
}

/// RFC 6056 section 3.1: neighbouring inside ports, and one inside port again and again, get ports that do not
/// follow from each other; another secret gives others.
#[test]
fn ports_are_not_predictable() {
    let mut first = pool(settings(1));
    let second = Pool::new(&plan(settings(1)), Secret::from_key([23, 22]));
    let (mut differences, mut equal) = (BTreeSet::new(), 0);
    let mut last = 0;
    for n in 0..1_000_u16 {
        let tuple = inside(1, 10_000 + n / 2, Protocol::Tcp);
        let found = first.peek(&tuple, None).expect("ports are left");
        equal += u32::from(second.peek(&tuple, None) == Some(found));
        assert!(first.take(Protocol::Tcp, found));
        first.advance(Time(0), 1);
        differences.insert(found.port().wrapping_sub(last));
        last = found.port();
    }
    assert!(differences.len() > 980, "{} different steps", differences.len());
    assert!(equal < 5, "{equal} equal");
}

/// RFC 6888 section 3 REQ-8: a released port is not used again for 120 seconds while others are free.
#[test]
fn released_ports_rest() {
    let plan = plan(NatSettings { ports: (3_000, 3_001), ..settings(3) });
    for released_at in [1, 50, 119, 121] {
        let mut pool = Pool::new(&plan, Secret::from_key([21, 22]));
        let (used, other) = ("192.0.2.2:3000", "192.0.2.2:3001");
        let [used, other]: [SocketAddrV4; 2] = [used, other].map(|text| text.parse().expect("an endpoint"));
        assert!(pool.take(Protocol::Tcp, used));
        let mut reused_at = None;
        for second in 0..600 {
            pool.advance(Time::from_secs(second), 1);
            if second == released_at {
                pool.release(Protocol::Tcp, used, &plan);
            }
            let ports =
                (0..64).filter_map(|n| pool.peek(&inside(1, 2_000 + n, Protocol::Tcp), Some(*used.ip())));
            if ports.into_iter().any(|found| found == used) {
                reused_at.get_or_insert(second);
            }
        }
        let rest = reused_at.map(|second| second - released_at);
        assert!(rest.is_some_and(|seconds| (120..=250).contains(&seconds)), "{released_at}: {rest:?}");
        // Under pressure a resting port is used all the same.
        assert!(pool.take(Protocol::Tcp, used) && pool.take(Protocol::Tcp, other));
        pool.release(Protocol::Tcp, used, &plan);
        assert_eq!(pool.peek(&inside(1, 2_000, Protocol::Tcp), Some(*used.ip())), Some(used));
    }
}

#[test]
fn addresses_without_a_mapping_cost_nothing() {
    let mut pool = pool(settings(4_096));
    let before = pool.memory_bytes();
    assert!(before < 1 << 20, "{before}");
    let found = pool.peek(&inside(1, 1_024, Protocol::Udp), None).expect("all are free");
    assert!(pool.take(Protocol::Udp, found));
    assert_eq!(pool.memory_bytes() - before, 16_384);
}

#[test]
fn states_lie_in_the_arena_while_it_has_room() {
    let arena = Arena::anonymous(ExternalPool::bytes_for(1)).unwrap();
    // What is left of the arena's page is not the pool's.
    let rest = arena.free_bytes() - ExternalPool::bytes_for(1);
    let _rest = (rest > 0).then(|| arena.carve(rest, 64).unwrap());
    let secret = Secret::from_key([7, 8]);
    let mut pool = Pool(ExternalPool::new(&plan(settings(2)), secret, Some(&arena)));
    let port = |last| SocketAddrV4::new([192, 0, 2, last].into(), 4_000);
    for (place, protocol) in Protocol::ALL.into_iter().enumerate() {
        assert_eq!(arena.free_bytes(), (PROTOCOLS - place) * PortStates::BYTES);
        assert!(pool.take(protocol, port(1)) && !pool.take(protocol, port(1)));
    }
    assert_eq!(arena.free_bytes(), 0);
    assert!(pool.take(Protocol::Udp, port(2)) && !pool.take(Protocol::Udp, port(2)));
    drop(pool);
    assert_eq!(arena.free_bytes(), ExternalPool::bytes_for(1));
}

/// R8: what a change does not concern stays as it is, what it reserves is not used, what it frees comes back.
#[test]
fn a_change_keeps_what_it_does_not_concern() {
    let reserve = |first, last| Reservation { address: None, protocol: None, first, last };
    let old =
        plan(NatSettings { ports: (3_000, 3_009), reserved: vec![reserve(3_000, 3_004)], ..settings(3) });
    let new =
        plan(NatSettings { ports: (3_000, 3_009), reserved: vec![reserve(3_003, 3_006)], ..settings(2) });
    let mut pool = Pool::new(&old, Secret::from_key([1, 2]));
    let at = |host: u8, port| SocketAddrV4::new([192, 0, 2, host].into(), port);
    for external in [at(1, 3_005), at(1, 3_009), at(3, 3_009)] {
        assert!(pool.take(Protocol::Tcp, external));
    }
    pool.reconfigure(&old, &new);
    assert!(!pool.take(Protocol::Tcp, at(1, 3_009)) && !pool.take(Protocol::Tcp, at(3, 3_008)));
    // The first address is in use, so what the old plan reserved there waits; the second is not.
    assert!(!pool.take(Protocol::Tcp, at(1, 3_000)) && pool.take(Protocol::Tcp, at(2, 3_000)));
    assert!(!pool.take(Protocol::Tcp, at(1, 3_006)) && !pool.take(Protocol::Tcp, at(2, 3_006)));
    pool.release(Protocol::Tcp, at(1, 3_005), &new);
    assert!(!pool.take(Protocol::Tcp, at(1, 3_005)), "it is reserved now");
    pool.release(Protocol::Tcp, at(3, 3_009), &new);
    assert_eq!(pool.used(Protocol::Tcp), PoolUse { taken: 2, highest: 4, exhausted: 0 });
    assert_eq!(pool.unreserve(&old, &new, 0, 1), Some(1));
    assert_eq!(pool.unreserve(&old, &new, 1, 1), None);
    assert!(pool.take(Protocol::Tcp, at(1, 3_000)) && !pool.take(Protocol::Tcp, at(2, 3_000)));
    // Two addresses of ten ports, of which four are reserved and three are taken.
    assert_eq!(pool.available(Protocol::Tcp), 20 - 8 - 3);
}

/// A change reaches a few addresses at a time; who asks for one before that sees what is reserved there all the same.
#[test]
fn a_change_reaches_addresses_in_slices() {
    let (old, new) = (plan(settings(64)), plan(NatSettings { ports: (32_768, 65_535), ..settings(65) }));
    let mut pool = Pool::new(&old, Secret::from_key([1, 2]));
    let at = |host: u8, port| SocketAddrV4::new([192, 0, 2, host].into(), port);
    for host in 1..=64 {
        assert!(pool.take(Protocol::Udp, at(host, 2_000)));
    }
    pool.reconfigure(&old, &new);
    let stale = |pool: &Pool| pool.slots.iter().filter(|slot| slot.stale).count();
    assert_eq!(stale(&pool), 64, "the change itself looks at no ports");
    for host in 1..=65_u8 {
        for port in [5_000, 5_001] {
            let tuple = inside(host.into(), port, Protocol::Udp);
            let found = pool.peek(&tuple, Some(*at(host, 0).ip())).expect("ports are free");
            assert!(found.port() >= 32_768, "{found}");
        }
    }
    assert!(!pool.take(Protocol::Udp, at(5, 2_001)) && pool.take(Protocol::Udp, at(6, 40_000)));
    assert_eq!(stale(&pool), 62);
    assert!(!pool.reserve(10));
    assert_eq!(stale(&pool), 64 - 10);
    let slices = (0..).take_while(|_| !pool.reserve(10)).count();
    assert_eq!((slices, stale(&pool)), (5, 0));
    assert_eq!(pool.available(Protocol::Udp), 65 * 32_768 - 1);
}

/// A pairing outlives the addresses' places, as long as the address is in the pool.
#[test]
fn pairings_follow_their_addresses() {
    let plans = [(1, 4), (3, 6), (2, 3)].map(|(first, last)| {
        let pool = PoolRange { first: [192, 0, 2, first].into(), last: [192, 0, 2, last].into() };
        plan(NatSettings { pool: vec![pool], ..NatSettings::default() })
    });
    let mut pool = Pool::new(&plans[0], Secret::from_key([1, 2]));
    let at = |host: u8| SocketAddrV4::new([192, 0, 2, host].into(), 5_000);
    let mut paired = [2, 3].map(|host| pool.pairing(&pool.choice(at(host)).expect("it is in the pool")));
    for (change, places) in
        [([0, 1], [None, Some(at(3))]), ([1, 2], [None, Some(at(3))]), ([2, 0], [None, Some(at(3))])]
    {
        pool.reconfigure(&plans[change[0]], &plans[change[1]]);
        let expected = places.map(|place| place.map(|at| *at.ip()));
        assert_eq!(paired.map(|paired| pool.place_of(paired)), expected);
        paired = paired.map(|paired| pool.renumber(paired));
        assert_eq!(paired.map(|paired| pool.place_of(paired)), expected);
    }
    let found = pool.0.peek(&inside(1, 5_000, Protocol::Tcp), Some(paired[1])).map(|choice| choice.external);
    assert_eq!(found.map(|external| *external.ip()), Some(*at(3).ip()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The set of taken ports is the model: never two owners, release returns, exhaustion exactly when all
    /// that the host may have are taken.
    #[test]
    fn ports_have_one_owner(
        operations in prop::collection::vec((0_u8..6, 0_u32..5, any::<u16>(), 0_usize..3), 1..250),
        overflow: bool,
    ) {
        let ports = (1_020, 1_030);
        let reserved = vec![Reservation { address: Some([192, 0, 2, 2].into()), protocol: None, first: 1_022, last: 1_025 }];
        let plan = plan(NatSettings { ports, overflow, reserved, ..settings(3) });
        let mut pool = Pool::new(&plan, Secret::from_key([7, 8]));
        let mut owners: BTreeMap<(Protocol, SocketAddrV4), u32> = BTreeMap::new();
        for (operation, host, port, protocol) in operations {
            let protocol = Protocol::ALL[protocol];
            let paired = (operation % 2 == 0).then(|| Ipv4Addr::from([192, 0, 2, 1 + (host % 4) as u8]));
            if operation == 5 {
                if let Some((&(protocol, external), _)) = owners.iter().next() {
                    owners.remove(&(protocol, external));
                    pool.release(protocol, external, &plan);
                }
                pool.advance(Time::from_secs(u64::from(port)), 2);
                continue;
            }
            let tuple = inside(host, port, protocol);
            let bound = |a: &Ipv4Addr| paired.is_none_or(|p| overflow || !plan.in_pool(p) || p == *a);
            let open = (1..=3_u8).map(|n| Ipv4Addr::from([192, 0, 2, n])).filter(bound).flat_map(|a| {
                (ports.0..=ports.1).map(move |p| SocketAddrV4::new(a, p))
            }).filter(|e| {
                !plan.is_reserved(protocol, *e) && !owners.contains_key(&(protocol, *e))
                    && (e.port() >= 1_024 || port < 1_024 || protocol == Protocol::Icmp)
            }).count();
            let found = pool.peek(&tuple, paired);
            prop_assert_eq!(found.is_some(), open > 0);
            if let Some(found) = found {
                prop_assert!(plan.in_pool(*found.ip()) && !plan.is_reserved(protocol, found));
                prop_assert!(pool.take(protocol, found) && !pool.take(protocol, found));
                prop_assert_eq!(owners.insert((protocol, found), host), None);
            }
            let taken = owners.keys().filter(|(p, _)| *p == protocol).count();
            prop_assert_eq!(pool.used(protocol).taken as usize, taken);
            prop_assert_eq!(pool.available(protocol) as usize, 33 - 4 - taken);
        }
    }
}
