//! Placing held against chains at work: as many engines as workers, each with its share of the external ports, and every packet
//! goes to the one that placing names. What a connection's packets, their answers and the errors about them become is compared
//! with one worker that has everything.

mod common;

use common::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use millrace_dataplane::flow::hash::KeyedHash;
use millrace_dataplane::handoff::{Place, Placed, WorkerId};
use millrace_dataplane::memory::Arena;
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::{MacAddress, PortId};
use millrace_nf::chain::ChainBuilder;
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::nat::{
    Capacity, Forward, Hairpins, Nat, NatConfig, NatPlan, NatSettings, PoolRange, PortShare, Protocol, Secret,
};
use millrace_nf::placing::{Owners, Placing, PortRule, Translation};
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::router::interface::{Interface, InterfaceId, ProxyPrefix};
use millrace_nf::router::lpm::{NextHop, Route, RouteKind, RouteOrigin};
use millrace_nf::router::{HostService, HostSide, Router, RouterConfig, StaticNeighbour};
use millrace_nf::zone::ZoneId;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The port and zone of servers.
const DMZ: u16 = 2;
/// The port of the host stack.
const HOST: u16 = 3;
const STATIONS: [MacAddress; 4] = [OWN, [2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4], [2, 0, 0, 0, 0, 5]];
/// What the host stack serves, over TCP and UDP.
const SERVICE: u16 = 8_000;
/// The port by which hairpins go from worker to worker.
const HAIRPINS: u16 = 4;
const UDP: u8 = 17;
const TCP: u8 = 6;
const ECHO: u8 = 1;
const ECHO6: u8 = 58;

fn interface(port: u16, addresses: &[&str]) -> Interface {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let mac = STATIONS[usize::from(port)];
    Interface {
        port: PortId(port),
        vlan: None,
        zone: ZoneId(port as u8),
        mac,
        mtu: 1500,
        addresses,
        ipv6: true,
    }
}

fn router_config() -> RouterConfig {
    let mut config = RouterConfig::new(vec![
        interface(INSIDE, &["10.0.0.1/24", "2001:db8:1::1/64"]),
        interface(OUTSIDE, &["192.0.2.1/24", "2001:db8:2::1/64"]),
        interface(DMZ, &["172.16.0.1/24", "2001:db8:3::1/64"]),
    ]);
    config.proxies = ["192.0.2.100/32", "192.0.2.101/32"]
        .map(|prefix| ProxyPrefix { prefix: prefix.parse().unwrap(), interface: InterfaceId(1) })
        .to_vec();
    let route = |prefix: &str, gateway: &str| Route {
        prefix: prefix.parse().unwrap(),
        next_hops: vec![NextHop { interface: InterfaceId(1), gateway: gateway.parse().ok() }].into(),
        kind: RouteKind::Unicast,
        metric: 0,
        origin: RouteOrigin::Static,
    };
    config.routes = vec![route("0.0.0.0/0", "192.0.2.9"), route("::/0", "2001:db8:2::9")];
    let mut known = |interface: u16, address: String| {
        let address = address.parse().unwrap();
        config.neighbours.push(StaticNeighbour { interface: InterfaceId(interface), address, mac: SENDER });
    };
    known(1, "192.0.2.9".to_owned());
    known(1, "2001:db8:2::9".to_owned());
    for host in 5..100 {
        known(0, format!("10.0.0.{host}"));
        known(0, format!("2001:db8:1::{host}"));
        known(2, format!("172.16.0.{host}"));
        known(2, format!("2001:db8:3::{host}"));
    }
    let services = [TCP, UDP].map(|protocol| HostService { protocol, port: SERVICE, address: None });
    config.host = Some(HostSide { port: PortId(HOST), mtu: 1500, services: services.into() });
    config.hairpins = Some(PortId(HAIRPINS));
    // What is answered here is no limit's business.
    config.errors = IcmpLimitConfig::default();
    config
}

fn nat_config(share: PortShare) -> NatConfig {
    let forward = |protocol, external: &str, inside: &str| Forward {
        protocol,
        external: external.parse().unwrap(),
        ports: 1,
        inside: inside.parse().unwrap(),
    };
    let settings = NatSettings {
        pool: vec![PoolRange { first: [192, 0, 2, 100].into(), last: [192, 0, 2, 101].into() }],
        ports: (1024, 65_535),
        share,
        forwards: vec![
            forward(Protocol::Tcp, "192.0.2.100:8080", "10.0.0.80:80"),
            forward(Protocol::Udp, "192.0.2.100:5353", "10.0.0.81:53"),
            forward(Protocol::Tcp, "192.0.2.100:8443", "172.16.0.9:443"),
        ],
        ..NatSettings::default()
    };
    let plan = Arc::new(NatPlan::new(settings).unwrap());
    NatConfig { outside: Some(ZoneId(OUTSIDE as u8)), ..NatConfig::new(plan) }
}

fn engine(hairpins: Hairpins, rules: &[Rule]) -> Harness {
    let share = hairpins.owners.share(hairpins.worker).unwrap();
    let policy = Policy::new(&RuleSet::new(rules.to_vec()).unwrap(), Action::Allow).unwrap();
    let capacity = Capacity { mappings: 2048, mappings_static: 16, subscribers: 256, contacts: 256 };
    let arena = Arena::anonymous(8 << 20).unwrap();
    let config = NatConfig { hairpins: Some(hairpins), ..nat_config(share) };
    let nat = Nat::new(config, &capacity, &Secret::from_key([1, 2]), &arena).unwrap();
    let chain = ChainBuilder::new("edge", &["inside", "outside", "dmz"])
        .function("firewall", Firewall::new(policy, IcmpLimitConfig::default()))
        .function("nat", nat)
        .forwarder("router", Router::new(router_config(), Some(1)).unwrap());
    let mut harness = Harness::new(chain);
    harness.engine.slow.attach(PortId(DMZ), 0, ZoneId(DMZ as u8));
    harness.engine.compile_schema(PortId(DMZ));
    harness.engine.slow.attach(PortId(HOST), 0, ZoneId::LOCAL);
    harness.engine.compile_schema(PortId(HOST));
    harness.engine.slow.attach_turned(PortId(HAIRPINS), 0);
    harness.engine.compile_schema(PortId(HAIRPINS));
    harness.engine.outputs.grow(usize::from(HAIRPINS) + 1);
    harness
}

/// Several workers, and what places the packets of each queue of each port.
struct World {
    workers: Vec<Harness>,
    ports: Vec<Vec<Placing>>,
    first: u8,
    /// By port and queue.
    waiting: Vec<(u16, usize, Vec<u8>)>,
    /// Chooses the queue that a packet comes by.
    random: u64,
}

/// What became of a frame: who worked on it, and what left.
#[derive(Debug, Default)]
struct Became {
    by: Vec<u8>,
    sent: Sent,
}

impl World {
    /// `first` is the number of the first worker that owns connections.
    fn new(first: u8, count: u8, queues: usize, seed: u64) -> Self {
        Self::with_rules(first, count, queues, seed, &[])
    }

    fn with_rules(first: u8, count: u8, queues: usize, seed: u64, rules: &[Rule]) -> Self {
        let owners = Owners { first: WorkerId(first), count };
        let translation =
            Arc::new(Translation::new(&nat_config(PortShare::default()), &router_config()).unwrap());
        let rule = |port: u16| PortRule {
            port: PortId(port),
            zone: Some(match port {
                HOST => ZoneId::LOCAL,
                // Hairpins find the external end's owner as if they came from outside.
                HAIRPINS => ZoneId(OUTSIDE as u8),
                _ => ZoneId(port as u8),
            }),
            translation: Some(Arc::clone(&translation)),
        };
        let place = |port| Placing::new(rule(port), owners, KeyedHash::seeded(seed));
        let places = |port| (0..queues).map(|_| place(port)).collect();
        let hash = KeyedHash::seeded(seed);
        let hairpins = |worker| Hairpins { owners, hash: hash.clone(), worker, port: PortId(HAIRPINS) };
        let workers = owners.iter().map(|worker| engine(hairpins(worker), rules)).collect();
        let ports = [INSIDE, OUTSIDE, DMZ, HOST, HAIRPINS].map(places).into();
        Self { workers, ports, first, waiting: Vec::new(), random: seed }
    }

    fn deliver(&mut self, port: u16, frame: &[u8]) -> Became {
        let mut became = Became::default();
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let queue = (self.random >> 33) as usize % self.ports[usize::from(port)].len();
        self.place(port, queue, queue, frame, &mut became);
        became
    }

    /// `received_by` is the queue that it came by, `queue` whose poller places it.
    fn place(&mut self, port: u16, received_by: usize, queue: usize, frame: &[u8], became: &mut Became) {
        let now = self.workers[0].now;
        let queues = &mut self.ports[usize::from(port)];
        let placed = queues[queue].place(frame, now);
        let datagram = queues[queue].datagram();
        let placed_by = ((u128::from(datagram.hash) * queues.len() as u128) >> 64) as usize;
        match placed {
            Placed::Owner(worker) => self.work(worker.0 - self.first, port, frame, became),
            Placed::First(worker) => {
                if placed_by != queue {
                    let told = queues[queue].told();
                    assert_eq!(told.owner, worker);
                    queues[placed_by].learn(told, now);
                }
                self.work(worker.0 - self.first, port, frame, became);
                for (port, queue, frame) in std::mem::take(&mut self.waiting) {
                    self.place(port, queue, queue, &frame, became);
                }
            }
            Placed::Everyone => {
                (0..self.workers.len()).for_each(|worker| self.work(worker as u8, port, frame, became));
            }
            Placed::Waits if queue == received_by && placed_by != queue => {
                self.place(port, received_by, placed_by, frame, became);
            }
            Placed::Waits => self.waiting.push((port, queue, frame.to_vec())),
        }
    }

    fn work(&mut self, worker: u8, port: u16, frame: &[u8], became: &mut Became) {
        let Harness { engine, pool, now, .. } = &mut self.workers[usize::from(worker)];
        let mut packet = pool.take().unwrap();
        packet.set_contents(frame).unwrap();
        let mut burst = Burst::new();
        burst.push(packet).unwrap();
        engine.process(PortId(port), &mut burst, pool, *now);
        became.by.push(worker);
        for port in [INSIDE, OUTSIDE, DMZ, HOST] {
            let burst = engine.outputs.burst(PortId(port)).unwrap();
            became.sent.extend(burst.iter().map(|packet| (port, packet.bytes().to_vec())));
            pool.put_all(burst);
        }
        let burst = engine.outputs.burst(PortId(HAIRPINS)).unwrap();
        let hairpins: Vec<_> = burst.iter().map(|packet| packet.bytes().to_vec()).collect();
        pool.put_all(burst);
        for frame in hairpins {
            assert!(became.by.len() < 8, "hairpins go once from worker to worker");
            self.place(HAIRPINS, 0, 0, &frame, became);
        }
    }

    fn sessions(&self) -> usize {
        self.workers.iter().map(Harness::sessions).sum()
    }

    fn finish(self) {
        assert!(self.waiting.is_empty());
        self.workers.into_iter().for_each(Harness::finish);
    }
}

/// An end of a connection: address, and port or identifier.
type End = (IpAddr, u16);

/// Protocol, source, destination.
fn ends(frame: &[u8]) -> (u8, End, End) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (source, destination, protocol): (IpAddr, IpAddr, u8) = match sliced.net.unwrap() {
        NetSlice::Ipv4(ip) => (
            Ipv4Addr::from(ip.header().source()).into(),
            Ipv4Addr::from(ip.header().destination()).into(),
            ip.header().protocol().0,
        ),
        NetSlice::Ipv6(ip) => (
            Ipv6Addr::from(ip.header().source()).into(),
            Ipv6Addr::from(ip.header().destination()).into(),
            ip.payload().ip_number.0,
        ),
        other => panic!("no IP: {other:?}"),
    };
    let id = |bytes: [u8; 4]| u16::from_be_bytes([bytes[0], bytes[1]]);
    let (from, to) = match sliced.transport {
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Icmpv4(icmp)) => (id(icmp.bytes5to8()), id(icmp.bytes5to8())),
        Some(TransportSlice::Icmpv6(icmp)) => (id(icmp.bytes5to8()), id(icmp.bytes5to8())),
        _ => (0, 0),
    };
    (protocol, (source, from), (destination, to))
}

/// A packet of a connection, to the station of a port; `step` counts the packets of a handshake.
fn packet(protocol: u8, from: End, to: End, step: usize, port: u16) -> Vec<u8> {
    let (source, destination) = (from.0.to_string(), to.0.to_string());
    let ports = (from.1, to.1);
    let mut frame = match protocol {
        UDP => udp(&source, &destination, ports, &[7; 40]),
        TCP => {
            let said = [("S", 1_000, 0), ("SA", 5_000, 1_001), ("A", 1_001, 5_001)];
            let (flags, sequence, acknowledgment) = said[step.min(2)];
            tcp(&source, &destination, ports, segment(flags, sequence, acknowledgment))
        }
        ECHO | ECHO6 => echo(&source, &destination, step == 1, ports.0, 1),
        protocol => other(&source, &destination, protocol, &[9; 32]),
    };
    frame[..6].copy_from_slice(&STATIONS[usize::from(port)]);
    frame
}

/// An error about `frame`, which was received where it is sent.
fn error(frame: &[u8], port: u16) -> Vec<u8> {
    let (_, from, to) = ends(frame);
    let mut error = port_unreachable(&to.0.to_string(), &from.0.to_string(), frame);
    error[..6].copy_from_slice(&STATIONS[usize::from(port)]);
    error
}

/// The ends that an error quotes.
fn quoted(frame: &[u8]) -> (u8, End, End) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let quote = match &sliced.transport {
        Some(TransportSlice::Icmpv4(icmp)) => icmp.payload(),
        Some(TransportSlice::Icmpv6(icmp)) => icmp.payload(),
        other => panic!("no error: {other:?}"),
    };
    ends(&[&frame[..14], quote].concat())
}

/// The datagram in a frame as fragments of 48 bytes, with this identification.
fn fragments(frame: &[u8], identification: u16) -> Vec<Vec<u8>> {
    const PIECE: usize = 48;
    let is_ipv6 = frame[12..14] == [0x86, 0xdd];
    let header = if is_ipv6 { 54 } else { 34 };
    let pieces: Vec<_> = frame[header..].chunks(PIECE).collect();
    let build = |(at, piece): (usize, &&[u8])| {
        let word = (at * PIECE) as u16;
        let more = at + 1 < pieces.len();
        let mut out = frame[..header].to_vec();
        if is_ipv6 {
            out[18..20].copy_from_slice(&(piece.len() as u16 + 8).to_be_bytes());
            let next = std::mem::replace(&mut out[20], 44);
            out.extend([next, 0]);
            out.extend((word | u16::from(more)).to_be_bytes());
            out.extend([0, 0]);
            out.extend(identification.to_be_bytes());
        } else {
            out[16..18].copy_from_slice(&(piece.len() as u16 + 20).to_be_bytes());
            out[18..20].copy_from_slice(&identification.to_be_bytes());
            out[20..22].copy_from_slice(&((word / 8) | (u16::from(more) << 13)).to_be_bytes());
            let ip = etherparse::Ipv4HeaderSlice::from_slice(&out[14..34]).unwrap().to_header();
            out[24..26].copy_from_slice(&ip.calc_header_checksum().to_be_bytes());
        }
        out.extend(*piece);
        out
    };
    pieces.iter().enumerate().map(build).collect()
}

/// What of a frame does not depend on who chose its external address and port.
fn apart_from_choices(sent: &Sent) -> Vec<(u16, usize, Option<IpAddr>)> {
    let address = |port: u16, frame: &[u8]| {
        let (source, destination) = addresses(frame);
        if port == INSIDE { Some(source) } else { Some(destination) }
    };
    sent.iter().map(|(port, frame)| (*port, frame.len(), address(*port, frame))).collect()
}

/// A connection that somebody opens.
#[derive(Clone, Debug)]
struct Call {
    protocol: u8,
    port: u16,
    from: End,
    to: End,
    /// The order in which fragments arrive.
    shuffle: u64,
}

fn call() -> impl Strategy<Value = Call> {
    let host = 5u8..100;
    let kinds = prop_oneof![Just(UDP), Just(TCP), Just(ECHO), Just(47u8)];
    let ways = 0usize..22;
    (kinds, ways, host.clone(), host, 1024u16.., 1u16.., any::<u64>()).prop_map(
        |(protocol, way, one, other, source_port, destination_port, shuffle)| {
            let inside = |host: u8| IpAddr::from([10, 0, 0, host]);
            let dmz = |host: u8| IpAddr::from([172, 16, 0, host]);
            let outside = |host: u8| IpAddr::from([198, 51, 100, host]);
            let six = |zone: &str, host: u8| format!("2001:db8:{zone}::{host}").parse::<IpAddr>().unwrap();
            let external = IpAddr::from([192, 0, 2, 100]);
            let other = if other == one { 5 + (one - 4) % 95 } else { other };
            let (port, from, to, forward) = match way {
                0 | 1 => (INSIDE, inside(one), outside(other), None),
                2 => (INSIDE, inside(one), dmz(other), None),
                3 => (INSIDE, inside(one), inside(other), None),
                4 => (DMZ, dmz(one), outside(other), None),
                5 => (DMZ, dmz(one), inside(other), None),
                6 => (OUTSIDE, outside(one), dmz(other), None),
                7 => (OUTSIDE, outside(one), external, Some((TCP, 8080))),
                8 => (OUTSIDE, outside(one), external, Some((UDP, 5353))),
                9 => (OUTSIDE, outside(one), external, Some((TCP, 8443))),
                10 => (DMZ, dmz(one), external, Some((TCP, 8080))),
                11 => (INSIDE, six("1", one), six("9", other), None),
                12 => (OUTSIDE, six("9", one), six("3", other), None),
                13 => (DMZ, six("3", one), six("1", other), None),
                14 => (INSIDE, inside(one), [192, 0, 2, 1].into(), Some((UDP, SERVICE))),
                15 => (OUTSIDE, outside(one), [192, 0, 2, 1].into(), Some((TCP, SERVICE))),
                16 => (DMZ, six("3", one), six("1", 1), Some((TCP, SERVICE))),
                17 => (HOST, [10, 0, 0, 1].into(), inside(other), None),
                18 => (HOST, [192, 0, 2, 1].into(), outside(other), None),
                19 => (HOST, [172, 16, 0, 1].into(), dmz(other), None),
                20 => (HOST, [10, 0, 0, 1].into(), external, Some((TCP, 8080))),
                _ => (HOST, six("2", 1), six("9", other), None),
            };
            let (protocol, destination_port) = forward.unwrap_or((protocol, destination_port));
            let protocol = if from.is_ipv6() && protocol == ECHO { ECHO6 } else { protocol };
            // Echoes have one identifier, other protocols no ports.
            let destination_port =
                if matches!(protocol, ECHO | ECHO6) { source_port } else { destination_port };
            let ports = if protocol == 47 { (0, 0) } else { (source_port, destination_port) };
            Call { protocol, port, from: (from, ports.0), to: (to, ports.1), shuffle }
        },
    )
}

/// What of a hairpin's packet does not depend on a choice of external ports: where it went, its length, TTL, stations, addresses, and
/// the inside port of who gets it.
type Hairpin = (u16, usize, u8, Vec<u8>, IpAddr, IpAddr, u16);

fn seen(sent: &Sent) -> Vec<Hairpin> {
    let of = |(port, frame): &(u16, Vec<u8>)| {
        let (_, (source, _), (destination, inside_port)) = ends(frame);
        (*port, frame.len(), frame[22], frame[..12].to_vec(), source, destination, inside_port)
    };
    sent.iter().map(of).collect()
}

/// `caller` calls `callee` by the external end under which it is known, and is answered. What left, step by step.
fn hairpin(
    world: &mut World,
    protocol: u8,
    caller: End,
    callee: End,
    external: End,
    id: u16,
) -> Vec<Vec<Hairpin>> {
    let mut all = Vec::new();
    let called = world.deliver(INSIDE, &packet(protocol, caller, external, 0, INSIDE)).sent;
    all.push(seen(&called));
    let [(INSIDE, call)] = &called[..] else { return all };
    let (_, as_seen, to) = ends(call);
    assert_eq!(to, callee);
    assert_ne!(as_seen.0, caller.0, "it hides behind an external address");
    let answered = world.deliver(INSIDE, &packet(protocol, callee, as_seen, 1, INSIDE)).sent;
    all.push(seen(&answered));
    let [(INSIDE, answer)] = &answered[..] else { panic!("no answer") };
    assert_eq!(ends(answer), (protocol, external, caller));
    let again = world.deliver(INSIDE, &packet(protocol, caller, external, 2, INSIDE)).sent;
    all.push(seen(&again));
    assert_eq!(again.len(), 1);
    // The same with entries of the flow cache.
    if protocol == UDP {
        all.push(seen(&world.deliver(INSIDE, &packet(protocol, callee, as_seen, 3, INSIDE)).sent));
        let whole = |from: End, to: End| {
            let mut frame = udp(&from.0.to_string(), &to.0.to_string(), (from.1, to.1), &[5; 130]);
            frame[..6].copy_from_slice(&STATIONS[0]);
            frame
        };
        for (from, to) in [(caller, external), (callee, as_seen)] {
            let mut sent = Sent::new();
            let mut pieces = fragments(&whole(from, to), id);
            pieces.rotate_left(usize::from(id % 3));
            pieces.iter().for_each(|piece| sent.extend(world.deliver(INSIDE, piece).sent));
            assert_eq!(sent.len(), 3, "fragments");
            sent.sort();
            all.push(
                sent.iter()
                    .map(|(port, frame)| (*port, frame.len(), frame[22], Vec::new(), from.0, to.0, 0))
                    .collect(),
            );
        }
    }
    // Each is told of what became of its packets, in terms that it knows.
    let about = |of: &[u8]| error(of, INSIDE);
    let told = world.deliver(INSIDE, &about(call)).sent;
    assert_eq!(told.len(), 1, "error about the call");
    assert_eq!(quoted(&told[0].1), (protocol, caller, external));
    let told = world.deliver(INSIDE, &about(answer)).sent;
    assert_eq!(told.len(), 1, "error about the answer");
    assert_eq!(quoted(&told[0].1), (protocol, callee, as_seen));
    // One that would run out on the way is reported by the router, once.
    let mut last = packet(protocol, caller, external, 2, INSIDE);
    last[22] = 1;
    let ip = etherparse::Ipv4HeaderSlice::from_slice(&last[14..34]).unwrap().to_header();
    last[24..26].copy_from_slice(&ip.calc_header_checksum().to_be_bytes());
    let told = world.deliver(INSIDE, &last).sent;
    assert_eq!(told.len(), 1, "TTL");
    assert_eq!((told[0].0, quoted(&told[0].1)), (INSIDE, (protocol, caller, external)));
    all
}

/// RFC 4787 section 6 REQ-9, whoever owns the two.
#[test]
fn inside_hosts_call_each_other_by_external_addresses() {
    let inside = |host: u8, port| (IpAddr::from([10, 0, 0, host]), port);
    let hosts = [5u8, 6, 7, 8, 9, 10];
    let results = (1..=5).map(|count| {
        let mut world = World::new(count % 3, count, 1 + usize::from(count % 2), u64::from(count) * 7);
        let mut all = Vec::new();
        let mut both = [0; 2];
        let mut id = 0;
        for &callee in &hosts {
            // It is known by whom it called.
            let known = world.deliver(
                INSIDE,
                &packet(UDP, inside(callee, 5_000), ([198, 51, 100, 7].into(), 53), 0, INSIDE),
            );
            let [(OUTSIDE, frame)] = &known.sent[..] else { panic!("{known:?}") };
            let external = ends(frame).1;
            for &caller in hosts.iter().filter(|caller| **caller != callee) {
                id += 1;
                let from = inside(caller, 6_000 + u16::from(callee));
                all.push(hairpin(&mut world, UDP, from, inside(callee, 5_000), external, id));
                let owners: Vec<_> = [caller, callee]
                    .map(|host| {
                        world
                            .deliver(
                                INSIDE,
                                &packet(UDP, inside(host, 9), ([198, 51, 100, 7].into(), 9), 0, INSIDE),
                            )
                            .by
                    })
                    .into();
                both[usize::from(owners[0] != owners[1])] += 1;
            }
        }
        // By forwards, which lead to 10.0.0.80 and 10.0.0.81.
        for &caller in &hosts {
            let external = (IpAddr::from([192, 0, 2, 100]), 8_080);
            all.push(hairpin(&mut world, TCP, inside(caller, 7_000), inside(80, 80), external, 0));
            let external = (IpAddr::from([192, 0, 2, 100]), 5_353);
            all.push(hairpin(
                &mut world,
                UDP,
                inside(caller, 7_000),
                inside(81, 53),
                external,
                900 + u16::from(caller),
            ));
            // Nobody is there.
            let nobody = (IpAddr::from([192, 0, 2, 101]), 60_001);
            let sent = world.deliver(INSIDE, &packet(UDP, inside(caller, 7_001), nobody, 0, INSIDE)).sent;
            assert!(sent.is_empty(), "{sent:?}");
            // A forward to a host of another zone.
            let external = (IpAddr::from([192, 0, 2, 100]), 8_443);
            let sent = world.deliver(INSIDE, &packet(TCP, inside(caller, 7_002), external, 0, INSIDE)).sent;
            let [(DMZ, call)] = &sent[..] else { panic!("{sent:?}") };
            let (_, as_seen, server) = ends(call);
            let sent = world.deliver(DMZ, &packet(TCP, server, as_seen, 1, DMZ)).sent;
            let [(INSIDE, answer)] = &sent[..] else { panic!("{sent:?}") };
            assert_eq!(ends(answer), (TCP, external, inside(caller, 7_002)));
        }
        assert!(count == 1 || both[0] > 0 && both[1] > 0, "{count} owners: {both:?}");
        world.finish();
        all
    });
    let results: Vec<_> = results.collect();
    assert!(results[0].iter().all(|steps| steps.len() >= 3));
    for result in &results[1..] {
        assert_eq!(*result, results[0]);
    }
}

/// The rules see a hairpin twice, with one owner or with two: as it came, for the outside, and translated, from the inside to it.
#[test]
fn rules_see_a_hairpin_whoever_owns_its_ends() {
    let zone = |zone: u16| Some(ZoneId(zone as u8));
    let denied = |from, to| Rule {
        from_zone: zone(from),
        to_zone: zone(to),
        ..Rule::any(RuleId(1), 1, "no", Action::Deny)
    };
    let inside = |host: u8, port| (IpAddr::from([10, 0, 0, host]), port);
    for (rule, passes) in [
        (denied(INSIDE, INSIDE), false),
        (denied(INSIDE, OUTSIDE), false),
        (denied(OUTSIDE, INSIDE), true),
        (denied(DMZ, INSIDE), true),
    ] {
        for count in 1..=4 {
            let mut world = World::with_rules(0, count, 1, 99, std::slice::from_ref(&rule));
            for caller in 5..15 {
                let external = (IpAddr::from([192, 0, 2, 100]), 8_080);
                let call = packet(TCP, inside(caller, 7_000), external, 0, INSIDE);
                let sent = world.deliver(INSIDE, &call).sent;
                assert_eq!(sent.len(), usize::from(passes), "{rule:?} with {count} owners");
            }
            world.finish();
        }
    }
}

/// A connection from its first packet on; what became of each packet, for the comparison. `datagram` identifies fragments.
fn hold(world: &mut World, call: &Call, datagram: u16) -> Vec<Sent> {
    let Call { protocol, port, from, to, shuffle } = *call;
    let opened = world.deliver(port, &packet(protocol, from, to, 0, port));
    let mut all = vec![opened.sent.clone()];
    let [(out, sent)] = &opened.sent[..] else { return all };
    let sessions = world.sessions();
    let owner = opened.by.clone();
    let (_, seen_from, seen_to) = ends(sent);
    let mut step = |world: &mut World, port: u16, frame: &[u8], what: &str| {
        let became = world.deliver(port, frame);
        assert_eq!(became.by, owner, "{what} of {call:?}");
        assert_eq!(became.sent.len(), 1, "{what} of {call:?}");
        all.push(became.sent.clone());
        became.sent.into_iter().next().unwrap()
    };
    let answer = packet(protocol, seen_to, seen_from, 1, *out);
    let (back, answered) = step(world, *out, &answer, "answer");
    assert_eq!(back, port, "{call:?}");
    assert_eq!(ends(&answered), (protocol, to, from), "{call:?}");
    if protocol == TCP {
        step(world, port, &packet(protocol, from, to, 2, port), "acknowledgment");
    }
    if port == HOST || *out == HOST {
        // The router tells nobody about packets of its own, and takes no errors about them.
        assert_eq!(world.sessions(), sessions, "{call:?}");
        return all;
    }
    let (back, told) = step(world, *out, &error(sent, *out), "error about the packet");
    assert_eq!((back, quoted(&told)), (port, (protocol, from, to)), "{call:?}");
    let (there, told) = step(world, port, &error(&answered, port), "error about the answer");
    assert_eq!((there, quoted(&told)), (*out, (protocol, seen_to, seen_from)), "{call:?}");
    if protocol == UDP {
        let whole = |from: End, to: End, port: u16| {
            let mut frame = udp(&from.0.to_string(), &to.0.to_string(), (from.1, to.1), &[5; 130]);
            frame[..6].copy_from_slice(&STATIONS[usize::from(port)]);
            frame
        };
        for (port, frame) in [(port, whole(from, to, port)), (*out, whole(seen_to, seen_from, *out))] {
            let mut pieces = fragments(&frame, datagram);
            assert_eq!(pieces.len(), 3);
            pieces.rotate_left(shuffle as usize % 3);
            let mut sent = Sent::new();
            for piece in pieces {
                let became = world.deliver(port, &piece);
                assert!(became.by.iter().all(|by| *by == owner[0]), "fragment of {call:?}");
                sent.extend(became.sent);
            }
            assert_eq!(sent.len(), 3, "fragments of {call:?}");
            sent.sort();
            all.push(sent);
        }
    }
    assert_eq!(world.sessions(), sessions, "{call:?}");
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_connection_has_one_owner_and_goes_as_with_one_worker(
        first in 0u8..3,
        count in 1u8..6,
        queues in 1usize..4,
        seed: u64,
        calls in prop::collection::vec(call(), 1..40),
    ) {
        let (mut several, mut one) = (World::new(first, count, queues, seed), World::new(0, 1, 1, 1));
        for (at, call) in calls.iter().enumerate() {
            let (became, expected) = (hold(&mut several, call, at as u16), hold(&mut one, call, at as u16));
            // NAPT has nothing to tell connections of other protocols apart by.
            prop_assert!(expected.len() > 1 || call.protocol == 47, "refused: {:?}", call);
            let (became, expected) = [&became, &expected]
                .map(|all| all.iter().map(apart_from_choices).collect::<Vec<_>>())
                .into();
            prop_assert_eq!(became, expected, "{:?}", call);
        }
        prop_assert_eq!(several.sessions(), one.sessions());
        several.finish();
        one.finish();
    }

    #[test]
    fn any_bytes_have_an_owner(port in 0u16..4, frame in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut world = World::new(2, 3, 1, 9);
        match world.ports[usize::from(port)][0].place(&frame, world.workers[0].now) {
            Placed::Owner(WorkerId(owner)) | Placed::First(WorkerId(owner)) => prop_assert!((2..5).contains(&owner)),
            Placed::Everyone | Placed::Waits => {}
        }
    }
}

#[test]
fn connections_are_spread_over_all_workers() {
    let mut world = World::new(0, 4, 1, 77);
    for (port, frame) in [
        (
            INSIDE,
            (|host: u8, port| {
                packet(UDP, ([10, 0, 0, host].into(), port), ([8, 8, 8, 8].into(), 53), 0, INSIDE)
            }) as fn(u8, u16) -> Vec<u8>,
        ),
        (OUTSIDE, |_, port| {
            packet(UDP, ([8, 8, 8, 8].into(), 53), ([192, 0, 2, 101].into(), 1024 + port * 64), 0, OUTSIDE)
        }),
        (DMZ, |host, port| packet(UDP, ([172, 16, 0, host].into(), port), ([8, 8, 8, 8].into(), 53), 0, DMZ)),
    ] {
        let mut counts = [0; 4];
        for host in 5..105u8 {
            for number in 0..10 {
                let now = world.workers[0].now;
                let frame = frame(host, u16::from(host) * 10 % 700 + number);
                let placed = world.ports[usize::from(port)][0].place(&frame, now);
                let Placed::Owner(WorkerId(owner)) = placed else { panic!("{placed:?}") };
                counts[usize::from(owner)] += 1;
            }
        }
        assert!(counts.iter().all(|count| (130..400).contains(count)), "port {port}: {counts:?}");
    }
}

#[test]
fn the_link_is_everyones_and_one_answers() {
    let mut world = World::new(0, 3, 2, 5);
    let mut arp = [[0xff; 6], SENDER].concat();
    arp.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    arp.extend(SENDER);
    arp.extend([192, 0, 2, 77]);
    arp.extend([0; 6]);
    arp.extend([192, 0, 2, 1]);
    let became = world.deliver(OUTSIDE, &arp);
    assert_eq!(became.by, [0, 1, 2]);
    // The workers of this test are alike, so each answers.
    assert_eq!(became.sent.len(), 3);
    let silent = RouterConfig { answers: false, ..router_config() };
    let chain = ChainBuilder::new("edge", &["inside", "outside"])
        .forwarder("router", Router::new(silent, Some(1)).unwrap());
    let mut harness = Harness::new(chain);
    assert!(harness.send_one(OUTSIDE, &arp).is_empty());
    let knows = |router: &mut Router| router.neighbours().any(|it| it.address.to_string() == "192.0.2.77");
    assert!(knows(harness.function("router")), "it learns all the same");
    harness.finish();
}
