//! Whether addresses, networks, gateways, pools and forwards fit each other.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::Config;
use super::chains::Chain;
use super::context::{Context, Finding};
use super::functions::FunctionKind;
use super::nat::Nat;
use super::network::Ipv4Range;
use super::places::join;
use super::router::{Router, Target};

/// Checks every router, and every NAT against the router of its chain.
pub(crate) fn check(context: &Context<'_>, config: &Config) {
    for function in &config.functions {
        let path = join("functions", &function.name);
        if let FunctionKind::Router(router) = &function.kind {
            check_networks(context, &path, router);
            check_routes(context, &path, router, connected(context, &function.name));
            check_neighbours(context, &path, router);
        }
        if let FunctionKind::Nat(nat) = &function.kind
            && let Some(chain) = config.chain_of(&function.name)
            && let Some(router) = config.router_of(chain)
            && chain.zone(&nat.inside).is_some()
            && chain.zone(&nat.outside).is_some()
            && nat.inside != nat.outside
            && connected(context, chain.functions.last().map_or("", String::as_str))
        {
            check_pool(context, &path, nat, chain, router);
            check_pool_is_free(context, &path, nat, router);
            check_forwards(context, &path, nat, chain, router);
        }
    }
}

/// Whether all interfaces of a router could be read: else its networks are not all known.
fn connected(context: &Context<'_>, router: &str) -> bool {
    !context.has_errors_under(&format!("{}.interfaces", join("functions", router)))
}

/// No address twice, and no network on two interfaces.
fn check_networks(context: &Context<'_>, path: &str, router: &Router) {
    let mut seen: Vec<(&str, IpNet, String)> = Vec::new();
    for interface in &router.interfaces {
        let list = format!("{}.addresses", join(&format!("{path}.interfaces"), &interface.port));
        for (index, &network) in interface.addresses.iter().enumerate() {
            let here = context.item(&list, index);
            let same = seen.iter().find(|(_, other, _)| other.addr() == network.addr());
            let overlap = seen.iter().find(|(port, other, _)| {
                *port != interface.port
                    && (other.contains(&network.network()) || network.contains(&other.network()))
            });
            if let Some((_, _, first)) = same {
                let finding = Finding::error(&here, format!("the address {} is given twice", network.addr()));
                let finding = finding.found(format!("\"{network}\"")).help(format!("the other is {first}"));
                context.push(finding.valid("an address of its own"));
            } else if let Some((port, other, first)) = overlap {
                let message = format!(
                    "the network {} overlaps {} of the interface `{port}`",
                    network.trunc(),
                    other.trunc()
                );
                let finding = Finding::error(&here, message).found(format!("\"{network}\""));
                let finding = finding.help(format!("the other is {first}"));
                context
                    .push(finding.valid("networks that do not overlap: else no one knows where a host is"));
            }
            seen.push((&interface.port, network, here));
        }
    }
}

/// Gateways are on connected networks; no prefix has two routes.
fn check_routes(context: &Context<'_>, path: &str, router: &Router, connected: bool) {
    let list = format!("{path}.routes");
    let mut seen: HashMap<IpNet, String> = HashMap::new();
    for (index, route) in router.routes.iter().enumerate() {
        let here = context.item(&list, index);
        if let Target::Gateway { address, interface } = &route.target
            && connected
        {
            check_gateway(context, &format!("{here}.via"), router, *address, interface.as_deref());
        }
        if let Some(first) = seen.get(&route.prefix) {
            let finding =
                Finding::error(format!("{here}.prefix"), format!("{} has two routes", route.prefix));
            let finding = finding.found(format!("\"{}\"", route.prefix));
            context.push(finding.valid("one route a prefix").help(format!("the other is {first}")));
        } else {
            seen.insert(route.prefix, here);
        }
    }
}

fn check_gateway(context: &Context<'_>, path: &str, router: &Router, gateway: IpAddr, port: Option<&str>) {
    let found = format!("\"{gateway}\"");
    if let IpAddr::V6(v6) = gateway
        && v6.is_unicast_link_local()
    {
        if port.is_none() {
            let finding = Finding::error(path, format!("{gateway} is link-local: it needs `interface`"));
            context.push(finding.found(found).valid("interface = \"PORT\" beside it"));
        }
        return;
    }
    let interfaces = router.interfaces.iter().filter(|i| port.is_none_or(|port| i.port == port));
    let networks: Vec<IpNet> = interfaces.flat_map(|i| i.addresses.iter().copied()).collect();
    if networks.iter().any(|network| network.addr() == gateway) {
        let finding = Finding::error(path, format!("{gateway} is the router's own address")).found(found);
        context.push(finding.valid("the address of another router on a connected network"));
    } else if !networks.iter().any(|network| network.contains(&gateway)) {
        let on = port.map_or_else(String::new, |port| format!(" of the interface `{port}`"));
        let finding = Finding::error(path, format!("the gateway {gateway} is on no connected network{on}"));
        let same_family = networks.iter().filter(|network| network.addr().is_ipv4() == gateway.is_ipv4());
        let known = same_family.map(|network| network.trunc().to_string()).collect::<Vec<_>>();
        let valid =
            if known.is_empty() { "no network of that family is connected".into() } else { known.join(", ") };
        context.push(finding.found(found).valid(valid));
    }
}

/// Static neighbours are on the network of their interface, once.
fn check_neighbours(context: &Context<'_>, path: &str, router: &Router) {
    for interface in &router.interfaces {
        let list = format!("{}.neighbours", join(&format!("{path}.interfaces"), &interface.port));
        for (index, neighbour) in interface.neighbours.iter().enumerate() {
            let here = format!("{}.address", context.item(&list, index));
            let address = neighbour.address;
            let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            let on_link = link_local || interface.addresses.iter().any(|network| network.contains(&address));
            if !on_link || interface.addresses.iter().any(|network| network.addr() == address) {
                let finding = Finding::error(here, format!("{address} is no neighbour of this interface"));
                let networks: Vec<_> = interface.addresses.iter().map(|n| n.trunc().to_string()).collect();
                let valid = format!("another host in {}", networks.join(", "));
                context.push(finding.found(format!("\"{address}\"")).valid(valid));
            } else if interface.neighbours[..index].iter().any(|earlier| earlier.address == address) {
                let finding = Finding::error(here, format!("the neighbour {address} is given twice"));
                context.push(finding.found(format!("\"{address}\"")).valid("each neighbour once"));
            }
        }
    }
}

/// External addresses must not be those of hosts on networks other than the outside's.
fn check_pool(context: &Context<'_>, path: &str, nat: &Nat, chain: &Chain, router: &Router) {
    for interface in &router.interfaces {
        let outside = chain.zone_of(&interface.port).is_some_and(|zone| zone.name == nat.outside);
        for network in interface.addresses.iter().filter(|_| !outside) {
            let IpNet::V4(v4) = network else { continue };
            let connected = Ipv4Range { first: v4.network(), last: v4.broadcast() };
            for (index, range) in nat.pool.iter().enumerate().filter(|(_, range)| range.overlaps(connected)) {
                let here = context.item(&format!("{path}.pool"), index);
                let message = format!(
                    "the pool overlaps {}, the network of the interface `{}`",
                    network.trunc(),
                    interface.port
                );
                let finding = Finding::error(here, message).found(format!("\"{range}\""));
                context.push(finding.valid(format!("addresses that the zone `{}` can reach", nat.outside)));
            }
        }
    }
}

/// External addresses must be no other host's: the router answers for them, so that nobody would reach that host any more.
fn check_pool_is_free(context: &Context<'_>, path: &str, nat: &Nat, router: &Router) {
    let mut taken: Vec<(Ipv4Addr, String)> = Vec::new();
    for network in router.interfaces.iter().flat_map(|interface| &interface.addresses) {
        if let IpNet::V4(network) = network
            && network.prefix_len() < 31
        {
            taken.push((network.network(), format!("the network address of {}", network.trunc())));
            taken.push((network.broadcast(), format!("the broadcast address of {}", network.trunc())));
        }
    }
    for route in &router.routes {
        if let Target::Gateway { address: IpAddr::V4(address), .. } = &route.target {
            taken.push((*address, format!("the gateway of the route to {}", route.prefix)));
        }
    }
    for interface in &router.interfaces {
        for neighbour in &interface.neighbours {
            if let IpAddr::V4(address) = neighbour.address {
                taken.push((address, format!("a neighbour on the interface `{}`", interface.port)));
            }
        }
    }
    for (index, range) in nat.pool.iter().enumerate() {
        let here = context.item(&format!("{path}.pool"), index);
        let mut held: Vec<_> = taken.iter().filter(|(address, _)| range.contains(*address)).collect();
        held.sort();
        held.dedup_by_key(|(address, _)| *address);
        for (address, whose) in held {
            let finding = Finding::error(&here, format!("the pool holds {address}, {whose}"));
            let finding = finding.found(format!("\"{range}\""));
            context.push(finding.valid("addresses that no other host has; the router answers ARP for them"));
        }
    }
}

/// Forwards lead from addresses that are ours to hosts that are inside.
fn check_forwards(context: &Context<'_>, path: &str, nat: &Nat, chain: &Chain, router: &Router) {
    let outside: Vec<IpAddr> = router
        .interfaces
        .iter()
        .filter(|interface| chain.zone_of(&interface.port).is_some_and(|zone| zone.name == nat.outside))
        .flat_map(|interface| interface.addresses.iter().map(IpNet::addr))
        .collect();
    for (index, forward) in nat.forwards.iter().enumerate() {
        let here = context.item(&format!("{path}.forward"), index);
        let external = forward.external.address;
        let ours =
            nat.pool.iter().any(|range| range.contains(external)) || outside.contains(&external.into());
        if !ours {
            let finding =
                Finding::error(format!("{here}.external"), format!("{external} is not an address of ours"));
            let pool = nat.pool.iter().map(ToString::to_string);
            let own = outside.iter().filter(|address| address.is_ipv4()).map(ToString::to_string);
            let valid = pool.chain(own).collect::<Vec<_>>().join(", ");
            context.push(finding.found(format!("\"{}\"", forward.external)).valid(format!("one of {valid}")));
        }
        let internal = forward.internal.address;
        let port = router.port_to(internal.into());
        let zone = port.and_then(|port| chain.zone_of(port)).map(|zone| zone.name.as_str());
        if zone != Some(nat.inside.as_str()) {
            let what = match zone {
                Some(zone) => format!("{internal} is in the zone `{zone}`, not inside"),
                None => format!("no route leads to {internal}"),
            };
            let finding = Finding::error(format!("{here}.internal"), what);
            let finding = finding.found(format!("\"{}\"", forward.internal));
            context.push(finding.valid(format!("a host that is reached through the zone `{}`", nat.inside)));
        } else if router
            .interfaces
            .iter()
            .any(|i| i.addresses.iter().any(|a| a.addr() == IpAddr::V4(internal)))
        {
            let finding =
                Finding::error(format!("{here}.internal"), format!("{internal} is the router's own address"));
            context
                .push(finding.found(format!("\"{}\"", forward.internal)).valid("a host behind the router"));
        }
    }
}
