//! The chains that benchmarks run, as a user would configure them.

use crate::rig::{BenchResult, INSIDE, OUTSIDE, PEER_MACS, PORT_MACS};
use ipnet::IpNet;
use millrace_dataplane::flow::field::Reads;
use millrace_dataplane::memory::{Arena, ArenaConfig};
use millrace_dataplane::port::PortId;
use millrace_nf::chain::{ChainBuilder, Chains};
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::function::{FlowFunction, Forwarder, Verdict};
use millrace_nf::nat::{Capacity, Nat, NatConfig, NatPlan, NatSettings, NatState, PoolRange, Secret};
use millrace_nf::placing::Translation;
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::router::interface::{Interface, InterfaceId};
use millrace_nf::router::lpm::{NextHop, Route, RouteKind, RouteOrigin};
use millrace_nf::router::{Router, RouterConfig, StaticNeighbour};
use millrace_nf::walk::Walk;
use millrace_nf::zone::ZoneId;
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The name of every chain here.
pub const CHAIN: &str = "bench";
/// External addresses of the NAT.
const POOL: PoolRange =
    PoolRange { first: Ipv4Addr::new(203, 0, 113, 0), last: Ipv4Addr::new(203, 0, 113, 127) };

/// A function of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Stateful, five rules, default deny.
    Firewall,
    /// NAPT44 with a pool of 128 addresses.
    Nat,
    /// Static routes with a gateway on each side; it forwards, so it is the last.
    Router,
}

impl std::str::FromStr for Kind {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "firewall" => Ok(Self::Firewall),
            "nat" => Ok(Self::Nat),
            "router" => Ok(Self::Router),
            other => Err(format!("function `{other}`: valid are firewall, nat and router")),
        }
    }
}

/// A chain of these functions between the two ports; without a router at its end, packets go from one port to the other.
/// A NAT has room for the mappings of `sessions` sessions, each of a host of its own.
///
/// # Errors
/// If the router is not the last, a configuration is refused or there is not enough memory.
pub fn build(kinds: &[Kind], sessions: usize) -> BenchResult<Chains> {
    let (last, before) = match kinds.split_last() {
        Some((Kind::Router, before)) => (Some(router()?), before),
        _ => (None, kinds),
    };
    let mut builder = ChainBuilder::new(CHAIN, &["inside", "outside"]);
    for (i, kind) in before.iter().enumerate() {
        builder = match kind {
            Kind::Firewall => builder.function(format!("firewall{i}"), firewall()?),
            Kind::Nat => builder.function(format!("nat{i}"), nat(sessions)?),
            Kind::Router => return Err("the router forwards: it is the last function of a chain".into()),
        };
    }
    let mut chains = Chains::new();
    let at = chains.insert(match last {
        Some(router) => builder.forwarder("router", router),
        None => builder.forwarder("wire", Wire),
    });
    chains.attach(INSIDE, at, ZoneId(0));
    chains.attach(OUTSIDE, at, ZoneId(1));
    Ok(chains)
}

/// Firewall, NAT and router, with what `inspect` puts behind the firewall. The NAT has room as in [`build`].
///
/// # Errors
/// As for [`build`].
pub fn inspected(sessions: usize, inspect: impl FnOnce(ChainBuilder) -> ChainBuilder) -> BenchResult<Chains> {
    let builder = ChainBuilder::new(CHAIN, &["inside", "outside"]).function("firewall", firewall()?);
    let builder = inspect(builder).function("nat", nat(sessions)?);
    let mut chains = Chains::new();
    let at = chains.insert(builder.forwarder("router", router()?));
    chains.attach(INSIDE, at, ZoneId(0));
    chains.attach(OUTSIDE, at, ZoneId(1));
    Ok(chains)
}

/// A rule that concerns no flow of the benchmarks.
pub fn stray_rule(id: u32) -> BenchResult<Rule> {
    let destination: IpNet = format!("192.88.{}.{}/32", (id >> 8) & 255, id & 255).parse()?;
    let any = Rule::any(RuleId(1000 + id), u64::from(1000 + id), "stray", Action::Deny);
    Ok(Rule { destinations: vec![destination], ..any })
}

fn firewall() -> BenchResult<Firewall> {
    let rule = |id: u32, port: u16, protocol: u8, action: Action| Rule {
        from_zone: Some(ZoneId(0)),
        protocols: vec![protocol],
        destination_ports: vec![port..=port],
        ..Rule::any(RuleId(id), u64::from(id), format!("rule {id}"), action)
    };
    let rules = vec![
        rule(1, 25, 6, Action::Deny),
        rule(2, 53, 17, Action::Allow),
        rule(3, 80, 6, Action::Allow),
        rule(4, 443, 6, Action::Allow),
        rule(5, 443, 17, Action::Allow),
    ];
    let policy = Policy::new(&RuleSet::new(rules)?, Action::Deny)?;
    Ok(Firewall::new(policy, IcmpLimitConfig::default()))
}

/// What translates in a chain of firewall, NAT and router: by it packets find their worker.
///
/// # Errors
/// If the configuration is refused.
pub fn translation() -> BenchResult<Translation> {
    Translation::new(&nat_config()?, &router_config()?).map_err(|errors| format!("{errors:?}").into())
}

fn nat_config() -> BenchResult<NatConfig> {
    let settings = NatSettings { pool: vec![POOL], ports: (1024, u16::MAX), ..NatSettings::default() };
    let plan = NatPlan::new(settings).map_err(|errors| format!("{errors:?}"))?;
    Ok(NatConfig::new(Arc::new(plan)))
}

fn nat(sessions: usize) -> BenchResult<Nat> {
    let config = nat_config()?;
    let (filtering, addresses) = (config.plan.settings().filtering, config.plan.addresses());
    // More than sessions, so that a full session table makes room before the NAT refuses.
    let capacity = Capacity {
        mappings: sessions + 256,
        mappings_static: 0,
        subscribers: sessions + 256,
        ..Capacity::default()
    };
    let bytes = NatState::bytes_for(&capacity, filtering, addresses);
    let arena = Arena::new(&ArenaConfig::new(bytes + (64 << 10)))?;
    Ok(Nat::new(config, &capacity, &Secret::random(), &arena)?)
}

fn router() -> BenchResult<Router> {
    Router::new(router_config()?, None).map_err(|errors| format!("{errors:?}").into())
}

fn router_config() -> BenchResult<RouterConfig> {
    let interface = |port: PortId, addresses: &[&str]| -> BenchResult<Interface> {
        let addresses = addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
        let mac = PORT_MACS[usize::from(port.0)];
        Ok(Interface { port, vlan: None, zone: ZoneId(port.0 as u8), mac, mtu: 9000, addresses, ipv6: true })
    };
    let gateways = ["172.16.0.2", "2001:db8:1::2", "192.0.2.2", "2001:db8:2::2"];
    let gateways: Vec<IpAddr> = gateways.iter().map(|gateway| gateway.parse()).collect::<Result<_, _>>()?;
    let route = |prefix: &str, gateway: usize| -> BenchResult<Route> {
        let hop = NextHop { interface: InterfaceId((gateway / 2) as u16), gateway: Some(gateways[gateway]) };
        Ok(Route {
            prefix: prefix.parse()?,
            next_hops: Arc::from([hop]),
            kind: RouteKind::Unicast,
            metric: 0,
            origin: RouteOrigin::Static,
        })
    };
    let mut config = RouterConfig::new(vec![
        interface(INSIDE, &["172.16.0.1/24", "2001:db8:1::1/64"])?,
        interface(OUTSIDE, &["192.0.2.1/24", "2001:db8:2::1/64"])?,
    ]);
    config.routes =
        vec![route("10.0.0.0/8", 0)?, route("fd00::/8", 1)?, route("0.0.0.0/0", 2)?, route("::/0", 3)?];
    config.neighbours = gateways
        .iter()
        .enumerate()
        .map(|(i, &address)| StaticNeighbour {
            interface: InterfaceId((i / 2) as u16),
            address,
            mac: PEER_MACS[i / 2],
        })
        .collect();
    Ok(config)
}

/// From one port to the other, unchanged.
struct Wire;

impl FlowFunction for Wire {
    type Staged = ();

    fn kind(&self) -> &'static str {
        "wire"
    }

    fn reads(&self) -> Reads {
        Reads::none()
    }

    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        (Verdict::Forward(PortId(1 - walk.port.0.min(1))), None)
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Forwarder for Wire {
    fn destination_zone(&self, walk: &mut Walk<'_>) -> Option<ZoneId> {
        Some(ZoneId(1 - walk.port.0.min(1) as u8))
    }
}
