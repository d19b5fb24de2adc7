//! Routers.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Subnets};
use millrace_dataplane::port::PortId;
use millrace_nf::chain::Chain;
use millrace_nf::router::icmp_limit::{IcmpLimitConfig, Rate};
use millrace_nf::router::interface::{Interface, InterfaceId, ProxyPrefix};
use millrace_nf::router::lpm::{NextHop, Route, RouteKind, RouteOrigin};
use millrace_nf::router::neighbour::{NeighbourInfo, NeighbourLimits};
use millrace_nf::router::{HostSide, Router, RouterChange, RouterConfig, StaticNeighbour};

use super::{Context, Counter};
use crate::config::FunctionKind;
use crate::config::router::{self as settings, Target};
use crate::instance::hairpins;
use crate::instance::{InstanceError, NfWorker};
use crate::listing::SLICE;

/// Makes a router.
///
/// # Errors
/// All that it finds wrong, in a line.
pub fn build(
    context: &Context<'_>,
    name: &str,
    settings: &settings::Router,
) -> Result<Router, InstanceError> {
    Router::new(config(context, settings), context.seed).map_err(|errors| all(name, &errors))
}

/// What changes from one configuration of a router to another; none if nothing does.
///
/// # Errors
/// All that is wrong with the new one, in a line.
pub fn change(
    was: &Context<'_>,
    context: &Context<'_>,
    name: &str,
    old: &settings::Router,
    new: &settings::Router,
) -> Result<Option<RouterChange>, InstanceError> {
    let (old, new) = (config(was, old), config(context, new));
    if old == new {
        return Ok(None);
    }
    RouterChange::between(&old, new).map(Some).map_err(|errors| all(name, &errors))
}

fn all<E: ToString>(name: &str, errors: &[E]) -> InstanceError {
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    InstanceError::function(name, errors.join("; "))
}

/// The settings as the router takes them. An interface has the number of its port, so that it keeps it while others come and
/// go.
pub fn config(context: &Context<'_>, settings: &settings::Router) -> RouterConfig {
    let number = |port: &str| {
        settings.interface(port)?;
        context.zone_of(port)?;
        Some(InterfaceId(context.port(port)?.id.0))
    };
    let mut interfaces: Vec<Option<Interface>> = Vec::new();
    for side in &settings.interfaces {
        let (Some(port), Some(zone)) = (context.port(&side.port), context.zone_of(&side.port)) else {
            continue;
        };
        let at = usize::from(port.id.0);
        if interfaces.len() <= at {
            interfaces.resize(at + 1, None);
        }
        interfaces[at] = Some(Interface {
            port: port.id,
            vlan: None,
            zone,
            mac: port.mac,
            mtu: side.mtu.unwrap_or(port.mtu).min(port.mtu),
            addresses: side.addresses.clone(),
            ipv6: side.addresses.iter().any(|address| matches!(address, IpNet::V6(_))),
        });
    }
    let mut config = RouterConfig::new(interfaces);
    config.routes = settings.routes.iter().filter_map(|route| convert(settings, route, &number)).collect();
    config.neighbours = settings
        .interfaces
        .iter()
        .filter_map(|side| number(&side.port).map(|id| (id, side)))
        .flat_map(|(interface, side)| {
            let neighbour = move |known: &settings::StaticNeighbour| StaticNeighbour {
                interface,
                address: known.address,
                mac: known.mac,
            };
            side.neighbours.iter().map(neighbour)
        })
        .collect();
    config.proxies = proxies(context, &number);
    config.host = context.host().map(|port| HostSide {
        port: port.id,
        mtu: port.mtu,
        services: context.config.host.services(),
    });
    let entries_max = settings.neighbour_capacity as usize;
    let part = context.part;
    let unanswered = NeighbourLimits::default().incomplete_per_interface_max;
    // All workers know all neighbours; each asks for those that it needs.
    let incomplete_per_interface_max = part.share(unanswered as u32) as usize;
    config.neighbour_limits = NeighbourLimits { entries_max, incomplete_per_interface_max };
    let rate = |per_second: u32, least: u32| Rate { per_second, burst: (per_second / 10).max(least) };
    // All workers together say as much as one would; of one source each may hear.
    let all = part.share(settings.icmp_errors_per_second);
    config.answers = part.at == 0;
    config.hairpins =
        hairpins::nat_of(context.config, context.chain).and_then(|nat| context.hairpin_port(nat));
    config.echoes.router = part.share_rate(config.echoes.router);
    config.errors = IcmpLimitConfig {
        router: rate(all, 20),
        source: rate(settings.icmp_source_errors_per_second, 20),
        ..IcmpLimitConfig::default()
    };
    config
}

fn convert(
    settings: &settings::Router,
    route: &settings::Route,
    number: &impl Fn(&str) -> Option<InterfaceId>,
) -> Option<Route> {
    let (kind, next_hops): (RouteKind, Vec<NextHop>) = match &route.target {
        Target::Gateway { address, interface } => {
            let port = interface.as_deref().or_else(|| settings.port_to(*address))?;
            (RouteKind::Unicast, vec![NextHop { interface: number(port)?, gateway: Some(*address) }])
        }
        Target::Blackhole => (RouteKind::Blackhole, Vec::new()),
        Target::Unreachable => (RouteKind::Unreachable, Vec::new()),
        Target::Prohibit => (RouteKind::Prohibit, Vec::new()),
    };
    let next_hops = Arc::from(next_hops);
    Some(Route { prefix: route.prefix, next_hops, kind, metric: 0, origin: RouteOrigin::Static })
}

/// The external addresses of the chain's NATs, answered for on all ports of their outside zone.
fn proxies(context: &Context<'_>, number: &impl Fn(&str) -> Option<InterfaceId>) -> Vec<ProxyPrefix> {
    let mut proxies = Vec::new();
    for name in &context.chain.functions {
        let Some(FunctionKind::Nat(nat)) = context.config.function(name).map(|function| &function.kind)
        else {
            continue;
        };
        let outside = context.chain.zone(&nat.outside);
        for port in outside.iter().flat_map(|zone| &zone.ports) {
            let Some(interface) = number(port) else { continue };
            let networks = nat.pool.iter().flat_map(|range| Ipv4Subnets::new(range.first, range.last, 0));
            proxies.extend(networks.map(|network| ProxyPrefix { prefix: network.into(), interface }));
        }
    }
    proxies
}

/// Counters of a router.
pub fn counters(chain: &mut Chain, name: &str) -> Vec<Counter> {
    let Some(router) = chain.function::<Router>(name) else { return Vec::new() };
    let counters = router.counters();
    let neighbours = router.neighbour_table().counters();
    [
        ("errors sent", counters.errors_sent),
        ("errors limited", counters.errors_limited),
        ("echo replies", counters.echo_replies),
        ("echo requests limited", counters.echo_limited),
        ("neighbour resolutions", neighbours.resolutions),
        ("neighbours not found", neighbours.failures),
    ]
    .map(|(item, count)| (item.to_owned(), count, None, None))
    .into()
}

/// At most a slice of a router's neighbours behind the first `skip`, with their ports.
pub fn neighbours(
    worker: &mut NfWorker,
    chain: usize,
    name: &str,
    skip: usize,
) -> Vec<(Option<PortId>, NeighbourInfo)> {
    let Some(router) = worker.engine.slow.chain(chain).and_then(|chain| chain.function::<Router>(name))
    else {
        return Vec::new();
    };
    let interfaces = router.interfaces();
    let page = router.neighbours().skip(skip).take(SLICE);
    page.map(|info| (interfaces.get(info.interface).map(|interface| interface.port), info)).collect()
}

/// A route's next hops: gateway and port.
pub type Hops = Vec<(Option<IpAddr>, Option<PortId>)>;

/// At most a slice of a router's routes behind the first `skip`.
pub fn routes(worker: &mut NfWorker, chain: usize, name: &str, skip: usize) -> Vec<(Route, Hops)> {
    let Some(router) = worker.engine.slow.chain(chain).and_then(|chain| chain.function::<Router>(name))
    else {
        return Vec::new();
    };
    let interfaces = router.interfaces();
    let hop = |hop: &NextHop| (hop.gateway, interfaces.get(hop.interface).map(|interface| interface.port));
    let page = router.routes().iter().skip(skip).take(SLICE);
    page.map(|(_, route)| (route.clone(), route.next_hops.iter().map(hop).collect())).collect()
}
