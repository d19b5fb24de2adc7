//! Firewall, NAT and router between two ports, with inspection at any place between them, in an engine whose account is checked whenever it is at rest.

use crate::frames::{OWN, STATION};
use ipnet::IpNet;
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{FlowConfig, FlowState};
use millrace_dataplane::hold::HoldLimits;
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::{Burst, Verify};
use millrace_dataplane::port::PortId;
use millrace_dataplane::time::Time;
use millrace_nf::chain::{ChainBuilder, Chains};
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::inspect::{Inspect, Pattern, Patterns};
use millrace_nf::nat::{Capacity, Nat, NatConfig, NatPlan, NatSettings, PoolRange, Secret};
use millrace_nf::router::icmp_limit::{IcmpLimitConfig, Rate};
use millrace_nf::router::interface::{Interface, InterfaceId, ProxyPrefix};
use millrace_nf::router::lpm::{NextHop, Route, RouteKind, RouteOrigin};
use millrace_nf::router::{Router, RouterConfig, StaticNeighbour};
use millrace_nf::zone::ZoneId;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The port and zone of the inside.
pub const INSIDE: u16 = 0;
/// The port and zone of the outside.
pub const OUTSIDE: u16 = 1;
/// Enough for all timers at once.
pub const ALL_TIMERS: usize = 1 << 20;

/// What a site is made of. The default lets everything pass, translates with one address, and knows its gateways.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The firewall's rules and what happens to the rest; none: there is no firewall.
    pub firewall: Option<(Vec<Rule>, Action)>,
    /// The NAT; none: there is none.
    pub nat: Option<NatSettings>,
    /// Where packet functions split the chain, and what each looks for.
    pub inspections: Inspections,
    /// Interfaces, routes and neighbours.
    pub router: RouterConfig,
    /// Entries of the flow cache; 0: none.
    pub cache_entries: usize,
    /// Connections, mappings and inside hosts.
    pub sessions: usize,
    /// Frames of the pool.
    pub frames: usize,
    /// How many packets may wait.
    pub holds: HoldLimits,
    /// Which checksums are verified.
    pub verify: Verify,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            firewall: Some((Vec::new(), Action::Allow)),
            nat: Some(nat([192, 0, 2, 100], [192, 0, 2, 100])),
            inspections: Inspections::default(),
            router: router(true),
            cache_entries: 1024,
            sessions: 4096,
            frames: 512,
            holds: HoldLimits::default(),
            verify: Verify::Ipv4,
        }
    }
}

/// Packet functions that look for patterns: in front of the firewall, of the NAT and of the router.
#[derive(Clone, Debug, Default)]
pub struct Inspections {
    /// Whether there is one at each of these places.
    pub places: [bool; 3],
    /// What all of them look for.
    pub patterns: Vec<Pattern>,
}

impl Inspections {
    /// The name of the one at a place.
    pub const NAMES: [&str; 3] = ["inspect-first", "inspect-middle", "inspect-last"];

    /// Puts one at this place, if there is to be one; none if its patterns are refused.
    fn split(&self, builder: ChainBuilder, place: usize) -> Option<ChainBuilder> {
        if !self.places[place] {
            return Some(builder);
        }
        let patterns = Patterns::new(self.patterns.clone()).ok()?;
        Some(builder.packet_function(Self::NAMES[place], Box::new(Inspect::new(Arc::new(patterns)))))
    }
}

/// Translation to these addresses.
pub fn nat(first: [u8; 4], last: [u8; 4]) -> NatSettings {
    let pool = vec![PoolRange { first: first.into(), last: last.into() }];
    NatSettings { pool, ports: (2000, 4000), ..NatSettings::default() }
}

/// Limits that don't depend on where a random secret places a source.
fn limits() -> IcmpLimitConfig {
    let source = Rate { per_second: 1_000_000, burst: 1_000_000 };
    IcmpLimitConfig { router: Rate { per_second: 50, burst: 20 }, source, sources_max: 64 }
}

/// The address of a literal.
fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The prefix of a literal.
pub fn prefix(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

/// A static route to the outside.
pub fn route(prefix: IpNet, kind: RouteKind, gateway: &str) -> Route {
    let hop = NextHop { interface: InterfaceId(OUTSIDE), gateway: Some(address(gateway)) };
    let next_hops = if kind == RouteKind::Unicast { vec![hop] } else { vec![] };
    Route { prefix, next_hops: next_hops.into(), kind, metric: 5, origin: RouteOrigin::Static }
}

/// An inside and an outside with default routes; the gateways are known, or have to be asked for.
pub fn router(neighbours_known: bool) -> RouterConfig {
    let interface = |port: u16, mtu, addresses: [&str; 2]| Interface {
        port: PortId(port),
        vlan: None,
        zone: ZoneId(port as u8),
        mac: OWN[usize::from(port)],
        mtu,
        addresses: addresses.map(prefix).to_vec(),
        ipv6: true,
    };
    let mut config = RouterConfig::new(vec![
        interface(INSIDE, 1500, ["10.0.0.254/16", "2001:db8:1::ffff/48"]),
        interface(OUTSIDE, 1400, ["192.0.2.1/24", "2001:db8:2::ffff/48"]),
    ]);
    let pool = prefix("192.0.2.100/31");
    config.proxies = vec![ProxyPrefix { prefix: pool, interface: InterfaceId(OUTSIDE) }];
    config.routes = vec![
        route(prefix("0.0.0.0/0"), RouteKind::Unicast, "192.0.2.9"),
        route(prefix("::/0"), RouteKind::Unicast, "2001:db8:2::9"),
    ];
    (config.errors, config.echoes) = (limits(), limits());
    if neighbours_known {
        let known = |port: u16, text| StaticNeighbour {
            interface: InterfaceId(port),
            address: address(text),
            mac: STATION[usize::from(port)],
        };
        let outside = ["192.0.2.9", "2001:db8:2::7", "2001:db8:2::9"].map(|text| known(OUTSIDE, text));
        let inside = ["10.0.0.5", "10.0.1.2", "2001:db8:1::5"].map(|text| known(INSIDE, text));
        config.neighbours = [inside, outside].concat();
    }
    config
}

/// A policy, or none if a rule or all of them together are refused.
pub fn policy(rules: &[Rule], default: Action) -> Option<Policy> {
    Policy::new(&RuleSet::new(rules.to_vec()).ok()?, default).ok()
}

/// What left, with the port that it left by, in the order of each port.
pub type Sent = Vec<(u16, Vec<u8>)>;

/// One chain between two ports.
#[derive(Debug)]
pub struct Site {
    /// The engine with the chain.
    pub engine: Engine<Chains>,
    /// Its frames.
    pub pool: Pool,
    /// The clock.
    pub now: Time,
}

impl Site {
    /// Builds it; none if the plan contradicts itself.
    pub fn new(plan: &Plan) -> Option<Self> {
        let inspections = &plan.inspections;
        let mut builder = inspections.split(ChainBuilder::new("edge", &["inside", "outside"]), 0)?;
        if let Some((rules, default)) = &plan.firewall {
            builder = builder.function("firewall", Firewall::new(policy(rules, *default)?, limits()));
        }
        builder = inspections.split(builder, 1)?;
        let arena = Arena::anonymous(arena_bytes(plan)).expect("memory of a few megabytes");
        if let Some(settings) = &plan.nat {
            let sessions = plan.sessions;
            let capacity = Capacity {
                mappings: sessions,
                mappings_static: 4,
                subscribers: sessions,
                contacts: sessions,
            };
            let config = NatConfig::new(Arc::new(NatPlan::new(settings.clone()).ok()?));
            let nat = Nat::new(config, &capacity, &Secret::from_key([1, 2]), &arena);
            builder = builder.function("nat", nat.expect("the arena is large enough"));
        }
        builder = inspections.split(builder, 2)?;
        let mut chains = Chains::new();
        let at = chains.insert(builder.forwarder("router", Router::new(plan.router.clone(), Some(1)).ok()?));
        for port in [INSIDE, OUTSIDE] {
            chains.attach(PortId(port), at, ZoneId(port as u8));
        }
        let parts = chains.parts();
        let sessions = SessionConfig { capacity: plan.sessions, parts, timeouts: Timeouts::default() };
        let config =
            FlowConfig { sessions, cache_entries: plan.cache_entries, key_words: 16, operand_words: 24 };
        let state = FlowState::new(&arena, &config, Some(7)).expect("the arena is large enough");
        let budget = BudgetConfig::UNLIMITED;
        let config = EngineConfig { verify: plan.verify, budget, holds: plan.holds };
        let engine = Engine::new(chains, state, 2, config);
        let pool = Pool::new(&arena, PoolConfig::new(plan.frames)).expect("the arena is large enough");
        Some(Self { engine, pool, now: Time::from_secs(10) })
    }

    /// Frames arrive at a port as one burst: at most 64, and what fits no buffer is left out. Returns what left.
    pub fn send(&mut self, port: u16, frames: &[Vec<u8>]) -> Sent {
        let mut burst = Burst::new();
        for frame in frames {
            let Some(mut packet) = self.pool.take() else { break };
            if packet.set_contents(frame).is_err() {
                self.pool.put(packet);
                continue;
            }
            if let Err(packet) = burst.push(packet) {
                self.pool.put(packet);
                break;
            }
        }
        self.engine.process(PortId(port), &mut burst, &mut self.pool, self.now);
        self.collect()
    }

    /// Time passes; `timers` of those that are due run. Returns what left.
    pub fn pass(&mut self, milliseconds: u64, timers: usize) -> Sent {
        self.now = Time::from_millis(self.now.as_millis() + milliseconds);
        self.engine.housekeeping(&mut self.pool, self.now, timers);
        self.collect()
    }

    /// Takes what waits at the outputs, when packet functions have had what they get.
    ///
    /// # Panics
    /// A packet is not accounted for (R13), a frame is missing, or an undeclared field was read (R2).
    pub fn collect(&mut self) -> Sent {
        self.engine.run_stages(&mut self.pool, self.now);
        let mut sent = Sent::new();
        for port in [INSIDE, OUTSIDE] {
            while let Some(burst) = self.engine.outputs.burst(PortId(port)) {
                sent.extend(burst.iter().map(|packet| (port, packet.bytes().to_vec())));
                self.pool.put_all(burst);
                if !self.engine.outputs.refill(PortId(port)) {
                    break;
                }
            }
        }
        let buffered = self.engine.buffered();
        assert_eq!(self.engine.outputs.sums.balance(), i128::from(buffered), "R13");
        assert_eq!(self.pool.outstanding() as u64, buffered, "frames that are not held are missing");
        assert_eq!(self.engine.counters().undeclared_reads, 0, "R2");
        sent
    }

    /// A function of the chain.
    pub fn function<F: 'static>(&mut self, name: &str) -> Option<&mut F> {
        self.engine.slow.chain(0)?.function(name)
    }

    /// A packet function of the chain.
    pub fn packet_function<F: 'static>(&mut self, name: &str) -> Option<&mut F> {
        self.engine.slow.chain(0)?.packet_function(name)
    }

    /// The end: what waits is dropped, and every frame is back.
    ///
    /// # Panics
    /// As [`Self::collect`].
    pub fn finish(mut self) {
        self.engine.drain(&mut self.pool);
        assert_eq!(self.collect(), [], "nothing leaves at the end");
        assert_eq!(self.pool.available(), self.pool.capacity(), "frames are missing");
    }
}

fn arena_bytes(plan: &Plan) -> usize {
    let flow = FlowConfig {
        sessions: SessionConfig { capacity: plan.sessions, parts: 4, timeouts: Timeouts::default() },
        cache_entries: plan.cache_entries,
        key_words: 16,
        operand_words: 24,
    };
    // Beside the flow state and the frames: the tables of the NAT, which round up.
    flow.bytes() + plan.frames * PoolConfig::new(1).frame_bytes + plan.sessions * 512 + (1 << 20)
}

/// A rule that lets everything pass that begins inside.
pub fn outwards() -> Rule {
    Rule { from_zone: Some(ZoneId(0)), ..Rule::any(RuleId(1 << 30), 1 << 40, "outwards", Action::Allow) }
}

/// An address of the pool.
pub const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
