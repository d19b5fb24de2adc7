//! `[functions.NAME]` of kind `router`: interfaces, addresses and routes.

use std::net::IpAddr;

use ipnet::IpNet;
use millrace_dataplane::port::MacAddress;

use super::chains::Chain;
use super::context::Finding;
use super::names::{check_reference, reference};
use super::network::{address, interface_address, mac, prefix};
use super::schema;
use super::section::{Section, narrow, words};
use super::suggest::nearest;

/// A router's side of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The port.
    pub port: String,
    /// The router's addresses with the prefix lengths of their networks.
    pub addresses: Vec<IpNet>,
    /// Largest IP packet in bytes; the port's own MTU when `None`.
    pub mtu: Option<u16>,
    /// Neighbours that need not be resolved.
    pub neighbours: Vec<StaticNeighbour>,
}

/// A neighbour that is known from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticNeighbour {
    /// Its IP address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: MacAddress,
}

/// Where packets of a route go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To a gateway on a connected network.
    Gateway {
        /// Its address.
        address: IpAddr,
        /// The port that it is behind; needed for link-local addresses.
        interface: Option<String>,
    },
    /// Nowhere, in silence.
    Blackhole,
    /// Nowhere, with ICMP "unreachable".
    Unreachable,
    /// Nowhere, with ICMP "administratively prohibited".
    Prohibit,
}

/// A static route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations.
    pub prefix: IpNet,
    /// Where they are sent.
    pub target: Target,
}

/// A router's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// One interface for each port of the chain.
    pub interfaces: Vec<Interface>,
    /// Static routes.
    pub routes: Vec<Route>,
    /// Most neighbours that are remembered.
    pub neighbour_capacity: u32,
    /// Most ICMP errors a second, in all.
    pub icmp_errors_per_second: u32,
    /// Most ICMP errors a second to one address.
    pub icmp_source_errors_per_second: u32,
}

impl Router {
    /// The interface of a port.
    pub fn interface(&self, port: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.port == port)
    }

    /// The port behind which an address lies, by connected networks and routes; `None` without a route.
    pub fn port_to(&self, address: IpAddr) -> Option<&str> {
        let connected = |address: IpAddr| {
            let networks = self.interfaces.iter().flat_map(|i| i.addresses.iter().map(move |a| (a, &i.port)));
            networks.filter(|(network, _)| network.contains(&address)).max_by_key(|(n, _)| n.prefix_len())
        };
        let route = self.routes.iter().filter(|route| route.prefix.contains(&address));
        let route = route.max_by_key(|route| route.prefix.prefix_len());
        match (connected(address), route) {
            (Some((network, port)), route)
                if route.is_none_or(|route| route.prefix.prefix_len() <= network.prefix_len()) =>
            {
                Some(port)
            }
            (_, Some(Route { target: Target::Gateway { address, interface }, .. })) => match interface {
                Some(interface) => Some(interface),
                None => connected(*address).map(|(_, port)| port.as_str()),
            },
            _ => None,
        }
    }
}

/// Most addresses of an interface.
const ADDRESSES_MAX: usize = 64;

/// Reads a router; `chain` is the one that uses it, `ports` are all declared ports.
pub(crate) fn read_router(section: &Section<'_>, chain: Option<&Chain>, ports: &[String]) -> Router {
    section.require(
        "interfaces",
        "[functions.NAME.interfaces.PORT] with `addresses` for each port of the chain",
    );
    let mut declared = Vec::new();
    let mut interfaces = Vec::new();
    for (port, path, value) in section.named("interfaces") {
        declared.push(port.to_owned());
        check_port(section, &path, port, chain, ports);
        if let Some(table) = Section::open(section.context, path, &schema::INTERFACE, value) {
            interfaces.push(read_interface(&table, port));
        }
    }
    if section.has("interfaces") {
        check_complete(section, chain, ports, &declared);
    }
    Router {
        interfaces,
        routes: section.tables("routes", &schema::ROUTE, |route, _| read_route(route, &declared)),
        neighbour_capacity: section.integer("neighbour_capacity", 64..=1_048_576).map_or(4_096, narrow),
        icmp_errors_per_second: section
            .integer("icmp_errors_per_second", 0..=1_000_000)
            .map_or(1_000, narrow),
        icmp_source_errors_per_second: section
            .integer("icmp_source_errors_per_second", 0..=1_000_000)
            .map_or(50, narrow),
    }
}

/// An interface is named after a port of the chain.
fn check_port(section: &Section<'_>, path: &str, port: &str, chain: Option<&Chain>, ports: &[String]) {
    let known: Vec<&str> = match chain {
        Some(chain) => chain.ports().collect(),
        None => ports.iter().map(String::as_str).collect(),
    };
    if known.contains(&port) {
        return;
    }
    let elsewhere = chain.is_some() && ports.iter().any(|name| name == port);
    let message = match chain {
        Some(chain) if elsewhere => format!("the port `{port}` is in no zone of the chain `{}`", chain.name),
        _ => format!("there is no port `{port}`"),
    };
    let suggestion = nearest(port, known.iter().copied()).map(|name| format!("did you mean `{name}`?"));
    let finding = Finding::error(path, message).at_key().found(format!("`{port}`"));
    section.context.push(finding.valid(words(&known)).maybe_help(suggestion));
}

fn check_complete(section: &Section<'_>, chain: Option<&Chain>, ports: &[String], declared: &[String]) {
    let Some(chain) = chain else { return };
    let known = |names: &[String], port: &str| names.iter().any(|name| name == port);
    // A slip in the name of an interface is one error, not two.
    let slips = declared.iter().filter(|name| !chain.ports().any(|port| port == *name));
    let meant: Vec<&str> = slips.filter_map(|name| nearest(name, chain.ports())).collect();
    let missing = chain.ports().filter(|port| known(ports, port) && !known(declared, port));
    for port in missing.filter(|port| !meant.contains(port)) {
        let path = section.key("interfaces");
        let finding =
            Finding::error(path, format!("the port `{port}` of the chain has no interface here")).at_key();
        let valid =
            format!("a table [{}] with `addresses`", super::places::join(&section.key("interfaces"), port));
        section.context.push(finding.found(words(declared)).valid(valid));
    }
}

fn read_interface(section: &Section<'_>, port: &str) -> Interface {
    section.require("addresses", "addresses = [\"10.0.0.1/24\", \"fd00::1/64\"]");
    let addresses = section.list("addresses", interface_address).unwrap_or_default();
    if addresses.len() > ADDRESSES_MAX {
        let finding = Finding::error(section.key("addresses"), "the interface has too many addresses");
        let valid = format!("at most {ADDRESSES_MAX} addresses");
        section.context.push(finding.found(addresses.len().to_string()).valid(valid));
    }
    let mtu = section.integer("mtu", 68..=9_000).map(narrow);
    if let (Some(mtu @ ..1_280), Some(v6)) = (mtu, addresses.iter().find(|a| a.addr().is_ipv6())) {
        let finding =
            Finding::error(section.key("mtu"), "IPv6 needs an MTU of at least 1280 (RFC 8200 section 5)");
        let valid = format!("at least 1280, or no IPv6 address (here {v6})");
        section.context.push(finding.found(mtu.to_string()).valid(valid));
    }
    let neighbours = section.tables("neighbours", &schema::NEIGHBOUR, |entry, _| {
        entry.require("address", "address = \"10.0.0.2\"");
        entry.require("mac", "mac = \"02:00:00:00:00:02\"");
        let (address, mac) = (entry.parsed("address", address), entry.parsed("mac", mac));
        Some(StaticNeighbour { address: address?, mac: mac? })
    });
    Interface { port: port.to_owned(), addresses, mtu, neighbours }
}

fn read_route(section: &Section<'_>, interfaces: &[String]) -> Option<Route> {
    section.require("prefix", "prefix = \"0.0.0.0/0\"");
    let kinds = [("gateway", 0), ("blackhole", 1), ("unreachable", 2), ("prohibit", 3)];
    let kind = section.choice("kind", &kinds).unwrap_or(0);
    let prefix = section.parsed("prefix", prefix);
    let via = section.parsed("via", address);
    let interface = section.parsed("interface", reference);
    if let Some(interface) = &interface {
        check_reference(section.context, &section.key("interface"), "interface", interface, interfaces);
    }
    if kind != 0 {
        for key in ["via", "interface"] {
            if section.has(key) {
                let finding =
                    Finding::error(section.key(key), "a route that leads nowhere has no gateway").at_key();
                section.context.push(finding.valid(format!("no `{key}`, or kind = \"gateway\"")));
            }
        }
        let target = [Target::Blackhole, Target::Unreachable, Target::Prohibit][kind - 1].clone();
        return Some(Route { prefix: prefix?, target });
    }
    section.require("via", "via = \"GATEWAY\", or kind = \"blackhole\", \"unreachable\" or \"prohibit\"");
    let (prefix, via) = (prefix?, via?);
    if prefix.addr().is_ipv4() != via.is_ipv4() {
        let finding = Finding::error(section.key("via"), "the gateway is of another family than the prefix");
        let family = if prefix.addr().is_ipv4() { "an IPv4 address" } else { "an IPv6 address" };
        section.context.push(finding.found(via.to_string()).valid(family));
        return None;
    }
    Some(Route { prefix, target: Target::Gateway { address: via, interface } })
}
