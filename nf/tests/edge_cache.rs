//! Firewall, NAT and router in one chain with the flow cache and without it: one script of traffic from both sides, changes of
//! rules, routes, neighbours and translations, expiries and flushes. Every frame that leaves is the same, byte for byte. What would
//! become of packets is asked before they are sent, and comes true; that one side asks more than the other changes nothing (R6).
//! `MILLRACE_SEED=n` runs one script alone.

#[allow(dead_code, reason = "shared with another test")]
#[path = "oracle/frames.rs"]
mod frames;
#[path = "oracle/random.rs"]
mod random;

use etherparse::PacketBuilder;
use frames::Flow;
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Engine, EngineConfig, Foreseen, Observed, Observer, Outcome};
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{FlowConfig, FlowState};
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::{Burst, Packet};
use millrace_dataplane::port::{MacAddress, PortId};
use millrace_dataplane::slow_path::Fate;
use millrace_dataplane::time::Time;
use millrace_nf::chain::{Chain, ChainBuilder, Chains};
use millrace_nf::explain::Explanation;
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::headers::Parsed;
use millrace_nf::nat::{
    Capacity, Filtering, Forward, Nat, NatConfig, NatPlan, NatSettings, PoolRange, Protocol, Secret,
};
use millrace_nf::router::icmp_limit::{IcmpLimitConfig, Rate};
use millrace_nf::router::interface::{Interface, InterfaceId, ProxyPrefix};
use millrace_nf::router::lpm::{NextHop, Route, RouteKind, RouteOrigin};
use millrace_nf::router::{Router, RouterConfig};
use millrace_nf::zone::ZoneId;
use random::{Random, for_each_seed};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const INSIDE: u16 = 0;
const OUTSIDE: u16 = 1;
/// The router's stations, by port.
const OWN: [MacAddress; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]];
const RULES: u32 = 10;
/// More timers than any script has.
const ALL: usize = 1 << 20;

type Sent = [Vec<Vec<u8>>; 2];

fn interface(port: u16, mtu: u16, addresses: [&str; 2]) -> Interface {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let (mac, zone) = (OWN[usize::from(port)], ZoneId(port as u8));
    Interface { port: PortId(port), vlan: None, zone, mac, mtu, addresses, ipv6: true }
}

fn route(prefix: &str, kind: RouteKind, gateway: &str, metric: u32) -> Route {
    let hop = NextHop { interface: InterfaceId(OUTSIDE), gateway: gateway.parse().ok() };
    let next_hops = if kind == RouteKind::Unicast { vec![hop] } else { vec![] };
    let prefix = prefix.parse().unwrap();
    Route { prefix, next_hops: next_hops.into(), kind, metric, origin: RouteOrigin::Static }
}

/// The sources share no bucket of the limits, whose places depend on a random secret; the sum is limited.
fn limits() -> IcmpLimitConfig {
    let source = Rate { per_second: 1_000_000, burst: 1_000_000 };
    IcmpLimitConfig { router: Rate { per_second: 50, burst: 20 }, source, ..IcmpLimitConfig::default() }
}

fn router() -> Router {
    let mut config = RouterConfig::new(vec![
        interface(INSIDE, 1500, ["10.0.0.254/16", "2001:db8:1::ffff/48"]),
        interface(OUTSIDE, 1400, ["192.0.2.1/24", "2001:db8:2::ffff/48"]),
    ]);
    config.proxies =
        vec![ProxyPrefix { prefix: "192.0.2.100/31".parse().unwrap(), interface: InterfaceId(1) }];
    config.routes = vec![route("0.0.0.0/0", RouteKind::Unicast, "192.0.2.9", 0)];
    config.errors = limits();
    config.echoes = limits();
    Router::new(config, Some(1)).unwrap()
}

/// The addresses of the pool, the ports and a forward differ from one configuration to the next.
fn nat_config(which: usize) -> NatConfig {
    let forward = |protocol, external: &str, inside: &str| {
        let (external, inside) = (external.parse().unwrap(), inside.parse().unwrap());
        Forward { protocol, external, ports: 1, inside }
    };
    let mut forwards = vec![forward(Protocol::Tcp, "192.0.2.100:80", "10.0.1.2:80")];
    if which & 1 == 0 {
        forwards.push(forward(Protocol::Udp, "192.0.2.100:5000", "10.0.2.3:5000"));
    }
    let last = Ipv4Addr::new(192, 0, 2, 100 + (which as u8 >> 1 & 1));
    let filtering = if which & 4 == 0 { Filtering::EndpointIndependent } else { Filtering::AddressDependent };
    NatConfig::new(Arc::new(
        NatPlan::new(NatSettings {
            pool: vec![PoolRange { first: Ipv4Addr::new(192, 0, 2, 100), last }],
            ports: (2000, 4000),
            filtering,
            forwards,
            ..NatSettings::default()
        })
        .unwrap(),
    ))
}

fn random_rule(random: &mut Random, id: u32) -> Rule {
    let nets = |text: &str| text.split_whitespace().map(|net| net.parse().unwrap()).collect();
    let actions = [Action::Allow, Action::Allow, Action::Allow, Action::Deny, Action::Reject];
    loop {
        let rule = Rule {
            order: random.below(1000) as u64 + 1,
            from_zone: *random.pick(&[None, Some(ZoneId(0)), Some(ZoneId(0)), Some(ZoneId(1))]),
            to_zone: *random.pick(&[None, None, None, Some(ZoneId(0)), Some(ZoneId(1)), Some(ZoneId::LOCAL)]),
            sources: nets(random.pick::<&str>(&["", "", "10.0.0.0/24", "10.0.1.0/28", "2001:db8:1::/50"])),
            destinations: nets(random.pick::<&str>(&[
                "",
                "",
                "198.18.1.0/24",
                "198.18.0.0/15",
                "10.0.1.2/32",
            ])),
            protocols: random.pick(&[vec![], vec![6], vec![17], vec![1, 58]]).clone(),
            destination_ports: random.pick(&[vec![], vec![], vec![80..=80], vec![0..=1023]]).clone(),
            ..Rule::any(RuleId(id), 0, format!("rule {id}"), *random.pick(&actions))
        };
        if rule.matches().is_ok() {
            return rule;
        }
    }
}

fn add_rule(random: &mut Random, policy: &mut Policy, id: u32) -> Rule {
    let rule = random_rule(random, id);
    policy.insert(rule.clone()).unwrap();
    rule
}

fn chain(policy: Policy, nat: usize) -> Chain {
    let capacity = Capacity { mappings: 8192, mappings_static: 16, subscribers: 256, contacts: 8192 };
    ChainBuilder::new("edge", &["inside", "outside"])
        .function("firewall", Firewall::new(policy, limits()))
        .function(
            "nat",
            Nat::new(
                nat_config(nat),
                &capacity,
                &Secret::from_key([1, 2]),
                &Arena::anonymous(8 << 20).unwrap(),
            )
            .unwrap(),
        )
        .forwarder("router", router())
}

/// An engine with its frames.
struct Side {
    engine: Engine<Chains>,
    pool: Pool,
}

impl Side {
    fn new(chain: Chain, cache_entries: usize) -> Self {
        let arena = Arena::anonymous(32 << 20).unwrap();
        let mut chains = Chains::new();
        let at = chains.insert(chain);
        chains.attach(PortId(INSIDE), at, ZoneId(0));
        chains.attach(PortId(OUTSIDE), at, ZoneId(1));
        // More sessions than a script opens: which one gives way in a full table depends on traffic that is not folded yet.
        let sessions =
            SessionConfig { capacity: 16_384, parts: chains.parts(), timeouts: Timeouts::default() };
        let config = FlowConfig { sessions, cache_entries, key_words: 16, operand_words: 24 };
        let state = FlowState::new(&arena, &config, Some(7)).unwrap();
        let config = EngineConfig { budget: BudgetConfig::UNLIMITED, ..EngineConfig::default() };
        let pool = Pool::new(&arena, PoolConfig::new(1500)).unwrap();
        Self { engine: Engine::new(chains, state, 2, config), pool }
    }

    fn send(&mut self, port: u16, frames: &[Vec<u8>], now: Time, sent: &mut Sent) {
        let mut burst = Burst::new();
        for frame in frames {
            let mut packet = self.pool.take().unwrap();
            packet.set_contents(frame).unwrap();
            burst.push(packet).unwrap();
        }
        self.engine.process(PortId(port), &mut burst, &mut self.pool, now);
        self.collect(sent);
    }

    fn foresee(
        &mut self,
        port: u16,
        frame: &[u8],
        now: Time,
    ) -> Result<(Foreseen, Option<Explanation>), DropReason> {
        self.engine.foresee(PortId(port), frame, now, |chains, state, miss| chains.explain(miss, state))
    }

    fn collect(&mut self, sent: &mut Sent) {
        for (port, sent) in sent.iter_mut().enumerate() {
            loop {
                let burst = self.engine.outputs.burst(PortId(port as u16)).unwrap();
                sent.extend(burst.iter().map(|packet| packet.bytes().to_vec()));
                self.pool.put_all(burst);
                if !self.engine.outputs.refill(PortId(port as u16)) {
                    break;
                }
            }
        }
    }

    fn function<F: 'static>(&mut self, name: &str) -> &mut F {
        self.engine.slow.chain(0).unwrap().function(name).unwrap()
    }

    /// What the functions know at the end.
    fn report(&mut self) -> String {
        self.engine.state.fold_all();
        self.engine.settle();
        let firewall = self.function::<Firewall>("firewall");
        let rules = (firewall.rules_report(), firewall.removed_counters());
        let nat = self.function::<Nat>("nat");
        let nat = (nat.bindings(), nat.state().mappings().len(), nat.state().subscribers().len());
        let router = self.function::<Router>("router");
        let mut neighbours: Vec<_> =
            router.neighbours().map(|it| (it.address, it.mac, it.state, it.since)).collect();
        neighbours.sort_unstable_by_key(|it| it.0);
        format!("{rules:?}\n{nat:?}\n{:?}\n{neighbours:?}", router.counters())
    }
}

/// Follows one packet in so many: what the cache was to answer is what it answered.
struct Watched {
    every: usize,
    /// Packets before the next one.
    until: usize,
    foreseen: Option<Foreseen>,
    hits: Arc<AtomicU64>,
}

impl Observer<Chains> for Watched {
    fn first_wanted(&mut self, _: PortId, packets: &[Packet], _: Time) -> Option<usize> {
        if self.until < packets.len() {
            return Some(std::mem::replace(&mut self.until, self.every - 1));
        }
        self.until -= packets.len();
        None
    }

    fn before(&mut self, slow: &mut Chains, state: &FlowState, packet: &Observed<'_>) {
        self.foreseen = packet.foreseen.ok().map(|(foreseen, _)| foreseen);
        if let Ok((_, miss)) = packet.foreseen {
            assert!(slow.explain(&miss, state).is_some());
        }
    }

    fn after(&mut self, outcome: Outcome) {
        let [before, after] = outcome.counters;
        assert_eq!(
            after.hits - before.hits,
            u64::from(self.foreseen == Some(Foreseen::Hit)),
            "{:?}",
            self.foreseen
        );
        assert_eq!(
            after.misses > before.misses,
            self.foreseen == Some(Foreseen::Miss),
            "{:?}",
            self.foreseen
        );
        self.hits.fetch_add(after.hits - before.hits, Ordering::Relaxed);
    }

    fn is_done(&self) -> bool {
        false
    }
}

/// A TCP connection of an inside host, as its client sends it.
struct Talk {
    addresses: (IpAddr, IpAddr),
    ports: (u16, u16),
    sequence: u32,
    started: bool,
}

impl Talk {
    fn random(random: &mut Random) -> Self {
        let v6 = random.once_in(4);
        let (mut destination, mut service) = (frames::host(random, v6, false), *random.pick(&[80, 443]));
        if !v6 && random.once_in(6) {
            // Of the outside, and yet inside: a hairpin over the forward.
            (destination, service) = (Ipv4Addr::new(192, 0, 2, 100).into(), 80);
        }
        let addresses = (frames::host(random, v6, true), destination);
        let ports = (1024 + random.below(500) as u16, service);
        Self { addresses, ports, sequence: random.next() as u32, started: false }
    }

    fn packet(&mut self, random: &mut Random) -> Vec<u8> {
        let start = PacketBuilder::ethernet2([2, 0, 0, 0, 1, 1], OWN[0]);
        let ttl = if random.once_in(40) { 1 } else { 64 };
        let builder = match self.addresses {
            (IpAddr::V4(s), IpAddr::V4(d)) => start.ipv4(s.octets(), d.octets(), ttl),
            (IpAddr::V6(s), IpAddr::V6(d)) => start.ipv6(s.octets(), d.octets(), ttl),
            _ => unreachable!("addresses of one family"),
        };
        let mut tcp = builder.tcp(self.ports.0, self.ports.1, self.sequence, 0xffff);
        let opens = !self.started || random.once_in(80);
        let bytes = if random.once_in(20) { 1300 + random.below(200) } else { random.below(40) };
        let payload = if opens { Vec::new() } else { random.bytes(bytes) };
        // The peer's first sequence number is 77 (frames::reply).
        tcp = if opens { tcp.syn() } else { tcp.ack(78) };
        if !opens {
            match random.below(40) {
                0 => tcp = tcp.fin(),
                1 => tcp = tcp.rst(),
                _ => {}
            }
        }
        self.started = true;
        self.sequence = self.sequence.wrapping_add(u32::from(opens) + payload.len() as u32);
        let mut frame = Vec::new();
        tcp.write(&mut frame, &payload).unwrap();
        frame
    }
}

/// Sets FIN in an untagged TCP segment without options, its checksum by RFC 1624.
fn finish(frame: &mut [u8]) {
    let (at, protocol) = if frame[14] >> 4 == 4 { (34, frame[23]) } else { (54, frame[20]) };
    if protocol != 6 || frame.len() < at + 20 || frame[at + 13] & 3 != 0 {
        return;
    }
    let word = |at: usize| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let sum = (!word(at + 16) & 0xffff) + (!word(at + 12) & 0xffff) + (word(at + 12) | 1);
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[at + 13] |= 1;
    frame[at + 16..at + 18].copy_from_slice(&checksum.to_be_bytes());
}

/// Who the router asks for in an ARP request or a neighbour solicitation.
fn asked_for(frame: &[u8]) -> Option<IpAddr> {
    match (frame.get(12..14)?, frame.len()) {
        ([8, 6], 42..) if frame[21] == 1 => {
            Some(Ipv4Addr::from(<[u8; 4]>::try_from(&frame[38..42]).ok()?).into())
        }
        ([0x86, 0xdd], 78..) if frame[20] == 58 && frame[54] == 135 => {
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(&frame[62..78]).ok()?).into())
        }
        _ => None,
    }
}

/// The answer of the station `mac` with `address`, to the router at `port`.
fn answer(port: u16, address: IpAddr, mac: MacAddress) -> Vec<u8> {
    let own = OWN[usize::from(port)];
    match address {
        IpAddr::V4(address) => {
            let router: [u8; 4] = if port == INSIDE { [10, 0, 0, 254] } else { [192, 0, 2, 1] };
            let mut frame = [own, mac].concat();
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
            frame.extend(mac);
            frame.extend(address.octets());
            frame.extend(own);
            frame.extend(router);
            frame
        }
        IpAddr::V6(address) => {
            let router = Ipv6Addr::new(0x2001, 0xdb8, 1 + port, 0, 0, 0, 0, 0xffff);
            let body = [&address.octets()[..], &[2, 1], &mac].concat();
            let mut frame = Vec::new();
            // Solicited, overriding.
            PacketBuilder::ethernet2(mac, own)
                .ipv6(address.octets(), router.octets(), 255)
                .icmpv6_raw(136, 0, [0x60, 0, 0, 0])
                .write(&mut frame, &body)
                .unwrap();
            frame
        }
    }
}

/// The two sides of a script, and what it saw.
struct Script {
    random: Random,
    cached: Side,
    plain: Side,
    now: Time,
    packets: u64,
    left: u64,
    recent: Vec<(u16, Vec<u8>)>,
    /// Packets whose end was foreseen: sent, dropped, held, consumed.
    foreseen: [u64; 4],
    /// Packets of which it was foreseen that the cache carries them.
    foreseen_hits: Arc<AtomicU64>,
    /// Neighbours that were asked for, by port, and how often each changed its station.
    stations: HashMap<(u16, IpAddr), u8>,
    /// What the firewalls of both sides have.
    policy: Policy,
    rules: Vec<RuleId>,
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let last = Rule::any(RuleId(1 << 30), 1 << 40, "out", Action::Allow);
        let last = Rule { from_zone: Some(ZoneId(0)), ..last };
        let mut policy = Policy::new(&RuleSet::new(vec![last]).unwrap(), Action::Deny).unwrap();
        let rules: Vec<_> = (0..RULES).map(|id| add_rule(&mut random, &mut policy, id).id).collect();
        let nat = random.below(8);
        let entries = *random.pick(&[16, 256, 4096]);
        let foreseen_hits = Arc::new(AtomicU64::new(0));
        let mut cached = Side::new(chain(policy.clone(), nat), entries);
        let watched = Watched {
            every: 1 + random.below(5),
            until: 0,
            foreseen: None,
            hits: Arc::clone(&foreseen_hits),
        };
        cached.engine.observe(Some(Box::new(watched)));
        Self {
            cached,
            plain: Side::new(chain(policy.clone(), nat), 0),
            random,
            now: Time::from_secs(10),
            packets: 0,
            left: 0,
            recent: Vec::new(),
            foreseen: [0; 4],
            foreseen_hits,
            stations: HashMap::new(),
            policy,
            rules,
        }
    }

    fn both(&mut self, action: impl Fn(&mut Side)) {
        action(&mut self.cached);
        action(&mut self.plain);
    }

    /// One burst: whole through the cache, packet by packet without. Returns what left, with questions answered.
    fn burst(&mut self, port: u16, frames: &[Vec<u8>]) -> Sent {
        let (mut with, mut without) = (Sent::default(), Sent::default());
        self.cached.send(port, frames, self.now, &mut with);
        for frame in frames {
            self.send_plain(port, frame, &mut without);
        }
        self.packets += frames.len() as u64;
        self.compare(&with, &without);
        self.answer_questions(&with);
        with
    }

    /// A packet alone, without a cache; what an explanation foresaw comes true. The other side did not ask, and is compared.
    fn send_plain(&mut self, port: u16, frame: &[u8], without: &mut Sent) {
        let foreseen = self.plain.foresee(port, frame, self.now);
        let (before, buffered) = (self.plain.engine.outputs.sums.clone(), self.plain.engine.buffered());
        let from = without.each_ref().map(Vec::len);
        self.plain.send(port, std::slice::from_ref(&frame.to_vec()), self.now, without);
        let (after, buffered_after) = (&self.plain.engine.outputs.sums, self.plain.engine.buffered());
        let drops = |reason| after.drops.get(reason) - before.drops.get(reason);
        let said = match foreseen {
            Ok((look_up, Some(said))) => {
                assert!(matches!(look_up, Foreseen::Miss | Foreseen::Unkeyed), "there is no cache");
                said
            }
            Ok((_, None)) => panic!("both ports lead to the chain"),
            Err(reason) => return assert_eq!(drops(reason), 1),
        };
        let is_hairpin = said.steps.iter().any(|step| step.hairpin);
        match said.fate {
            Fate::Replay => {
                let (&[output], Some(headers)) = (&said.outputs[..], &said.sent) else { panic!("{said:?}") };
                let output = usize::from(output.0);
                let ends = |it: &Parsed| (it.ethernet, it.addresses(), it.ports(), it.protocol());
                let left =
                    without[output][from[output]..].iter().filter_map(|frame| Parsed::parse(frame).ok());
                let found = left.into_iter().any(|left| ends(&left) == ends(headers));
                // Whether both ends of a hairpin find room together, only the commit knows.
                assert!(found || is_hairpin, "{said:?} of {frame:02x?}");
                self.foreseen[0] += u64::from(found);
            }
            Fate::Drop(reason) => {
                assert!(drops(reason) > 0, "{said:?} of {frame:02x?}");
                self.foreseen[1] += 1;
            }
            Fate::Hold(_) => {
                // Where nothing more can wait, it is dropped.
                let held = buffered_after > buffered || drops(DropReason::HoldFull) > 0;
                // Who it displaces may be woken, and it with them.
                assert!(held || buffered > 0, "{said:?} of {frame:02x?}");
                self.foreseen[2] += u64::from(held);
            }
            Fate::Consume => {
                assert!(after.consumed > before.consumed, "{said:?} of {frame:02x?}");
                self.foreseen[3] += 1;
            }
            Fate::Punt(_) | Fate::Undecided => panic!("{said:?} of {frame:02x?}"),
        }
    }

    fn station(&self, port: u16, address: IpAddr) -> MacAddress {
        let version = self.stations.get(&(port, address)).copied().unwrap_or(0);
        let low = match address {
            IpAddr::V4(address) => u32::from(address) as u16,
            IpAddr::V6(address) => address.segments()[3] << 8 | address.segments()[7],
        };
        [2, 1 + port as u8, version, address.is_ipv6().into(), (low >> 8) as u8, low as u8]
    }

    /// Most neighbours answer.
    fn answer_questions(&mut self, sent: &Sent) {
        for port in [INSIDE, OUTSIDE] {
            for address in sent[usize::from(port)].iter().filter_map(|frame| asked_for(frame)) {
                self.stations.entry((port, address)).or_insert(0);
                if !self.random.once_in(12) {
                    let frame = answer(port, address, self.station(port, address));
                    self.burst(port, &[frame]);
                }
            }
        }
    }

    fn compare(&mut self, with: &Sent, without: &Sent) {
        for (port, (with, without)) in with.iter().zip(without).enumerate() {
            for (at, (with, without)) in with.iter().zip(without).enumerate() {
                assert_eq!(with, without, "frame {at} out of port {port}, after {} packets", self.packets);
                self.left += 1;
                let at = if self.recent.len() < 64 { self.recent.len() } else { self.random.below(64) };
                self.recent.resize(self.recent.len().max(at + 1), (0, Vec::new()));
                self.recent[at] = (port as u16, with.clone());
            }
            assert_eq!(with.len(), without.len(), "frames out of port {port}: {:?}", self.drops());
        }
        let (with, without) = (&self.cached.engine, &self.plain.engine);
        assert_eq!(with.outputs.sums, without.outputs.sums, "{:?}", self.drops());
        assert_eq!(with.outputs.sums.balance(), i128::from(with.buffered()), "R13");
        assert_eq!(with.buffered(), without.buffered());
        assert_eq!(with.state.sessions.count(), without.state.sessions.count());
    }

    fn drops(&self) -> [Vec<(DropReason, u64)>; 2] {
        [&self.cached, &self.plain].map(|side| side.engine.outputs.sums.drops.iter().collect())
    }

    /// Time passes: mostly little, now and then enough for anything to expire.
    fn pass_time(&mut self) {
        let millis = match self.random.below(12) {
            0 => 100_000 + self.random.below(300_000),
            1..3 => 5_000 + self.random.below(40_000),
            3..6 => self.random.below(3_000),
            _ => self.random.below(200),
        };
        self.now = Time::from_millis(self.now.as_millis() + millis as u64);
        let (mut with, mut without) = (Sent::default(), Sent::default());
        for (side, sent) in [(&mut self.cached, &mut with), (&mut self.plain, &mut without)] {
            side.engine.housekeeping(&mut side.pool, self.now, ALL);
            side.collect(sent);
        }
        self.compare(&with, &without);
        self.answer_questions(&with);
    }

    fn exchange_rule(&mut self) {
        let at = self.random.below(self.rules.len());
        // Identities are used once, so that what an old rule admitted is never counted for a new one.
        let id = self.rules.iter().map(|id| id.0).max().unwrap_or(0) + 1;
        let gone = std::mem::replace(&mut self.rules[at], RuleId(id));
        self.policy.remove(gone);
        let come = add_rule(&mut self.random, &mut self.policy, id);
        self.both(|side| {
            let engine = &mut side.engine;
            let firewall: &mut Firewall = engine.slow.chain(0).unwrap().function("firewall").unwrap();
            assert!(firewall.remove(gone, &mut engine.state.validity.within(0)).is_some());
            firewall.insert(come.clone(), &mut engine.state.validity.within(0)).unwrap();
        });
    }

    fn change_route(&mut self) {
        let prefix = *self.random.pick(&["198.18.1.0/24", "198.18.2.0/26", "198.18.0.0/16"]);
        let kind = *self.random.pick(&[RouteKind::Unicast, RouteKind::Blackhole, RouteKind::Prohibit]);
        let gateway = *self.random.pick(&["192.0.2.9", "192.0.2.10", "192.0.2.11"]);
        let remove = self.random.once_in(2);
        self.both(|side| {
            let engine = &mut side.engine;
            let router: &mut Router = engine.slow.chain(0).unwrap().function("router").unwrap();
            let changed = if remove {
                router.remove_route(prefix.parse().unwrap(), 5).unwrap_or_default()
            } else {
                router.insert_route(route(prefix, kind, gateway, 5)).unwrap()
            };
            engine.state.validity.change_all(&changed);
        });
    }

    fn change_station(&mut self) {
        let mut known: Vec<_> = self.stations.keys().copied().collect();
        known.sort_unstable();
        if known.is_empty() {
            return;
        }
        let (port, address) = *self.random.pick(&known);
        *self.stations.entry((port, address)).or_insert(0) += 1;
        self.burst(port, &[answer(port, address, self.station(port, address))]);
    }

    fn change_nat(&mut self) {
        let config = nat_config(self.random.below(8));
        let done = [&mut self.cached, &mut self.plain]
            .map(|side| side.function::<Nat>("nat").reconfigure(config.clone()).is_ok());
        assert_eq!(done[0], done[1]);
    }

    /// Answers, or errors, from the other end of frames that left a port.
    fn respond(&mut self, port: u16, sent: &[Vec<u8>]) {
        let random = &mut self.random;
        let mut frames = Vec::new();
        for frame in sent.iter().take(48) {
            let own = OWN[usize::from(port)];
            if random.once_in(30) {
                frames.extend(frames::unreachable(random, frame, own));
            } else if let Some(mut reply) = frames::reply(random, frame, own) {
                if random.once_in(40) {
                    finish(&mut reply);
                }
                frames.push(reply);
            }
        }
        self.burst(port, &frames);
    }

    /// A burst of neighbouring flows, mostly answered.
    fn traffic(&mut self, flows: &mut [Flow], talks: &mut [Talk]) {
        let random = &mut self.random;
        let count = 1 + random.below(40);
        let mut frames = Vec::new();
        let mut port = INSIDE;
        if random.once_in(2) {
            let first = random.below(talks.len());
            for _ in 0..count {
                let at = (first + random.below(5)) % talks.len();
                frames.push(talks[at].packet(random));
            }
        } else {
            let first = random.below(flows.len());
            port = flows[first].port;
            while frames.len() + 2 < count {
                let flow = (first + random.below(6)) % flows.len();
                if flows[flow].port != port {
                    break;
                }
                let frame = flows[flow].packet(random);
                match random.below(60) {
                    0 => frames.push(frames::garbage(random, &frame)),
                    1 | 2 => frames.extend(frames::fragments(random, &frame).unwrap_or_default()),
                    _ => frames.push(frame),
                }
            }
        }
        let sent = self.burst(port, &frames);
        for port in [INSIDE, OUTSIDE] {
            if self.random.below(4) > 0 {
                self.respond(port, &sent[usize::from(port)]);
            }
        }
        if self.random.once_in(6) && !self.recent.is_empty() {
            let (port, frame) = self.random.pick(&self.recent).clone();
            self.respond(port, &[frame]);
        }
    }

    /// Everything is accounted for, every frame is back, every read was declared, and the functions know the same.
    fn finish(mut self) -> [u64; 8] {
        let reports = [self.cached.report(), self.plain.report()];
        assert_eq!(reports[0], reports[1], "R7");
        for side in [&mut self.cached, &mut self.plain] {
            side.engine.drain(&mut side.pool);
            side.collect(&mut Sent::default());
            assert_eq!(side.engine.outputs.sums.balance(), 0, "R13");
            assert_eq!(side.pool.available(), side.pool.capacity(), "frames are missing");
            assert_eq!(side.engine.slow.get(0).unwrap().counters().undeclared_reads, 0, "R2");
        }
        assert_eq!(self.plain.engine.counters().hits, 0);
        let [sent, dropped, held, consumed] = self.foreseen;
        let hits = self.cached.engine.counters().hits;
        [
            self.packets,
            self.left,
            hits,
            self.foreseen_hits.load(Ordering::Relaxed),
            sent,
            dropped,
            held,
            consumed,
        ]
    }
}

fn run(seed: u64, packets: u64) -> [u64; 8] {
    let mut script = Script::new(seed);
    let flow = |random: &mut Random| Flow::random(random, OWN[0]);
    let mut flows: Vec<_> = (0..40).map(|_| flow(&mut script.random)).collect();
    let mut talks: Vec<_> = (0..30).map(|_| Talk::random(&mut script.random)).collect();
    while script.packets < packets {
        match script.random.below(100) {
            0 => script.cached.engine.state.flush(),
            1..6 => script.pass_time(),
            6 => script.exchange_rule(),
            7 => script.change_route(),
            8 => script.change_station(),
            9 if script.random.once_in(4) => script.change_nat(),
            10..14 => {
                let at = script.random.below(flows.len());
                flows[at] = flow(&mut script.random);
                let at = script.random.below(talks.len());
                talks[at] = Talk::random(&mut script.random);
            }
            _ => script.traffic(&mut flows, &mut talks),
        }
    }
    script.finish()
}

#[test]
fn the_edge_chain_behaves_the_same_with_and_without_a_cache() {
    let mut sums = [0; 8];
    for_each_seed(1, 100, |seed| {
        run(seed, 10_000).iter().zip(&mut sums).for_each(|(more, sum)| *sum += more);
    });
    let [packets, left, hits, foreseen @ ..] = sums;
    println!("{packets} packets, {left} frames left, {hits} hits; foreseen: {foreseen:?}");
    if std::env::var_os("MILLRACE_SEED").is_some() {
        return;
    }
    assert!(left * 3 > packets, "most packets should pass");
    assert!(hits * 6 > packets, "the cache should carry much of it");
    assert!(
        foreseen.iter().all(|&count| count > 0),
        "hits, packets sent, dropped, held and consumed should all be foreseen: {foreseen:?}"
    );
}
