use super::super::Ends;
use super::*;
use crate::nat::{Forward, NatConfig, NatPlan, NatSettings, PoolRange};
use crate::router::RouterConfig;
use crate::router::interface::{Interface, InterfaceId};
use crate::router::lpm::{NextHop, Route, RouteKind, RouteOrigin};
use proptest::prelude::*;
use std::sync::Arc;

/// Inside, outside, and servers.
const ZONES: u16 = 3;

fn interface(port: u16, address: &str) -> Interface {
    Interface {
        port: PortId(port),
        vlan: None,
        zone: ZoneId(port as u8),
        mac: [2, 0, 0, 0, 0, port as u8],
        mtu: 1_500,
        addresses: vec![address.parse().unwrap()],
        ipv6: false,
    }
}

/// With these routes (a prefix and the zone that it leads to) and these forwards to hosts and ports.
fn translation(routes: &[(&str, u16)], forwards: &[(&str, &str, u16)]) -> Translation {
    let gateways = ["10.0.0.9", "192.0.2.9", "172.16.0.9"];
    let mut router = RouterConfig::new([
        interface(0, "10.0.0.1/24"),
        interface(1, "192.0.2.1/24"),
        interface(2, "172.16.0.1/24"),
    ]);
    let route = |&(prefix, zone): &(&str, u16)| Route {
        prefix: prefix.parse().unwrap(),
        next_hops: vec![NextHop {
            interface: InterfaceId(zone),
            gateway: gateways[usize::from(zone)].parse().ok(),
        }]
        .into(),
        kind: RouteKind::Unicast,
        metric: 0,
        origin: RouteOrigin::Static,
    };
    router.routes = routes.iter().map(route).collect();
    let forward = |&(external, inside, ports): &(&str, &str, u16)| Forward {
        protocol: Protocol::Tcp,
        external: external.parse().unwrap(),
        ports,
        inside: inside.parse().unwrap(),
    };
    let settings = NatSettings {
        pool: vec![PoolRange { first: [192, 0, 2, 100].into(), last: [192, 0, 2, 101].into() }],
        forwards: forwards.iter().map(forward).collect(),
        ..NatSettings::default()
    };
    let nat = NatConfig::new(Arc::new(NatPlan::new(settings).unwrap()));
    Translation::new(&nat, &router).unwrap()
}

fn hosts(first: &str, last: &str) -> Moved {
    Moved::Hosts(first.parse().unwrap(), last.parse().unwrap())
}

#[test]
fn what_does_not_touch_placing_moves_nothing() {
    let before = translation(&[("0.0.0.0/0", 1)], &[("192.0.2.100:80", "10.0.0.80:80", 1)]);
    assert_eq!(before.moved(&before), []);
    // Forwards to inside hosts, and routes of the outside.
    let routes = [("0.0.0.0/0", 1), ("198.51.100.0/24", 2)];
    let after =
        translation(&routes, &[("192.0.2.100:80", "10.0.0.81:80", 1), ("192.0.2.101:1", "10.0.0.7:1", 9)]);
    assert_eq!((before.moved(&after), after.moved(&before)), (vec![], vec![]));
}

#[test]
fn a_forward_to_a_host_that_is_not_inside_moves_its_other_connections() {
    let before = translation(&[], &[("192.0.2.100:443", "172.16.0.5:443", 1)]);
    let after =
        translation(&[], &[("192.0.2.100:443", "172.16.0.5:443", 3), ("192.0.2.101:1", "172.16.0.6:22", 1)]);
    let moved = [
        Moved::Service(Protocol::Tcp, [172, 16, 0, 5].into(), 444, 445),
        Moved::Service(Protocol::Tcp, [172, 16, 0, 6].into(), 22, 22),
    ];
    assert_eq!((before.moved(&after), after.moved(&before)), (moved.to_vec(), moved.to_vec()));
}

#[test]
fn a_network_that_comes_inside_moves() {
    let before = translation(&[("0.0.0.0/0", 1)], &[]);
    let after =
        translation(&[("0.0.0.0/0", 1), ("10.8.0.0/16", 0), ("10.9.0.0/16", 0), ("10.9.4.0/24", 2)], &[]);
    let moved = [hosts("10.8.0.0", "10.9.3.255"), hosts("10.9.5.0", "10.9.255.255")];
    assert_eq!((before.moved(&after), after.moved(&before)), (moved.to_vec(), moved.to_vec()));
}

#[test]
fn the_first_forward_of_an_own_address_moves_what_ends_there() {
    let before = translation(&[], &[]);
    let after = translation(&[], &[("192.0.2.1:8080", "10.0.0.80:80", 1)]);
    assert_eq!(before.moved(&after), [hosts("192.0.2.1", "192.0.2.1")]);
    let more =
        translation(&[], &[("192.0.2.1:8080", "10.0.0.80:80", 1), ("192.0.2.1:22", "10.0.0.80:22", 1)]);
    assert_eq!(after.moved(&more), []);
}

/// Of every kind.
const ADDRESSES: [&str; 12] = [
    "10.0.0.1",
    "10.0.0.7",
    "10.0.0.255",
    "192.0.2.1",
    "192.0.2.7",
    "192.0.2.100",
    "172.16.0.5",
    "172.16.0.6",
    "10.8.0.7",
    "10.9.0.0",
    "10.9.4.255",
    "203.0.113.7",
];
const ROUTES: [(&str, u16); 6] = [
    ("0.0.0.0/0", 0),
    ("10.8.0.0/16", 0),
    ("10.9.0.0/16", 0),
    ("10.9.4.0/24", 2),
    ("203.0.113.0/24", 1),
    ("128.0.0.0/1", 2),
];
const FORWARDS: [(&str, &str, u16); 5] = [
    ("192.0.2.100:80", "172.16.0.5:80", 2),
    ("192.0.2.100:90", "172.16.0.5:81", 2),
    ("192.0.2.101:80", "10.0.0.7:80", 1),
    ("192.0.2.101:90", "10.8.0.7:80", 1),
    ("192.0.2.100:99", "203.0.113.7:82", 1),
];

fn chosen() -> impl Strategy<Value = Translation> {
    let routes = proptest::sample::subsequence(ROUTES.to_vec(), 0..=ROUTES.len());
    let forwards = proptest::sample::subsequence(FORWARDS.to_vec(), 0..=FORWARDS.len());
    (routes, forwards).prop_map(|(routes, forwards)| translation(&routes, &forwards))
}

proptest! {
    /// Of all packets between these addresses, those that are placed by something else belong to what is said to have moved.
    #[test]
    fn all_that_is_placed_otherwise_has_moved(before in chosen(), after in chosen()) {
        let moved = before.moved(&after);
        let has_moved = |address: Ipv4Addr, port: u16| moved.iter().any(|moved| match *moved {
            Moved::Hosts(first, last) => (first..=last).contains(&address),
            Moved::Service(protocol, host, first, last) => {
                protocol == Protocol::Tcp && host == address && (first..=last).contains(&port)
            }
        });
        for (source, destination) in ADDRESSES.iter().flat_map(|one| ADDRESSES.map(|other| (*one, other))) {
            let (source, destination): (Ipv4Addr, Ipv4Addr) = (source.parse().unwrap(), destination.parse().unwrap());
            for (from, to) in [(80, 4_000), (4_000, 80), (81, 82), (82, 4_000), (4_000, 81)] {
                let ends = Ends {
                    is_ipv4: true,
                    source: source.to_bits().into(),
                    destination: destination.to_bits().into(),
                    protocol: 6,
                    ports: Some((from, to)),
                };
                let by = |translation: &Translation, zone| translation.by(NO_PORT, ZoneId(zone as u8), &ends);
                // A packet comes from where its source is, so what changes that moves it between zones, too.
                let zone = |translation: &Translation| match translation.ways.zone(NO_PORT, source.into()) {
                    Some(zone) if u16::from(zone.0) < ZONES => zone.0.into(),
                    _ => 1,
                };
                let (zone, other) = (zone(&before), zone(&after));
                if by(&before, zone) != by(&after, other) && !before.scope.is_external(destination) {
                    let said = has_moved(source, from) || has_moved(destination, to);
                    prop_assert!(said, "{source}:{from} -> {destination}:{to}: {moved:?}");
                }
            }
        }
    }
}
