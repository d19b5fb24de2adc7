//! What a router is configured with.

use super::icmp_limit::{IcmpLimitConfig, Rate};
use super::interface::{Interface, InterfaceError, InterfaceId, Interfaces, ProxyPrefix};
use super::lpm::{Route, RouteError, RouteLimits, RouteTable};
use super::neighbour::{NeighbourLimits, NeighbourTimers};
use ipnet::IpNet;
use millrace_dataplane::port::{MacAddress, PortId};
use std::net::IpAddr;

/// A neighbour that is known from the configuration: never asked for, never changed by what others say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticNeighbour {
    /// The interface that it is behind.
    pub interface: InterfaceId,
    /// Its IP address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: MacAddress,
}

/// The host stack takes what comes to these ports and the ones above as answers to what it sent itself, where no function keeps
/// sessions (RFC 6335 section 6: dynamic ports).
pub const HOST_PORT_FIRST: u16 = 49_152;

/// Something that the host stack serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostService {
    /// IP protocol: TCP or UDP.
    pub protocol: u8,
    /// Port, in host order.
    pub port: u16,
    /// The own address that it is reached at; none for all.
    pub address: Option<IpAddr>,
}

/// The way to the host stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSide {
    /// The port that it is behind.
    pub port: PortId,
    /// Largest IP packet in bytes that it takes.
    pub mtu: u16,
    /// What it serves; all else is refused as by a host with no open port.
    pub services: Vec<HostService>,
}

/// A router's configuration. Connected routes and those to its own addresses follow from the interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// The interfaces; an [`InterfaceId`] is the place in this list, where some may be empty.
    pub interfaces: Vec<Option<Interface>>,
    /// Addresses to answer for: NAT pools, virtual services.
    pub proxies: Vec<ProxyPrefix>,
    /// Static routes.
    pub routes: Vec<Route>,
    /// Static neighbours.
    pub neighbours: Vec<StaticNeighbour>,
    /// Bounds of the route table.
    pub route_limits: RouteLimits,
    /// Bounds of the neighbour table; those of the first configuration stay.
    pub neighbour_limits: NeighbourLimits,
    /// Timers of neighbours; those of the first configuration stay.
    pub timers: NeighbourTimers,
    /// Limits on ICMP errors and resets.
    pub errors: IcmpLimitConfig,
    /// Limits on echo replies.
    pub echoes: IcmpLimitConfig,
    /// Where the host stack is; without one, whatever is for our addresses is refused.
    pub host: Option<HostSide>,
    /// The port by which hairpins come that other workers walked forwards: they are treated as if they came by the first
    /// interface of the inside, and answers to them leave by that port.
    pub hairpins: Option<PortId>,
    /// Whether it answers ARP and neighbour solicitations. Of the workers that hear the same questions one does; the others
    /// learn from them alike.
    pub answers: bool,
}

impl RouterConfig {
    /// Interfaces, and defaults that are right for most.
    pub fn new(interfaces: impl IntoIterator<Item = impl Into<Option<Interface>>>) -> Self {
        let echoes = IcmpLimitConfig {
            router: Rate { per_second: 100_000, burst: 10_000 },
            source: Rate { per_second: 10_000, burst: 1_000 },
            ..IcmpLimitConfig::default()
        };
        Self {
            interfaces: interfaces.into_iter().map(Into::into).collect(),
            proxies: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
            route_limits: RouteLimits::default(),
            neighbour_limits: NeighbourLimits::default(),
            timers: NeighbourTimers::default(),
            errors: IcmpLimitConfig::default(),
            echoes,
            host: None,
            hairpins: None,
            answers: true,
        }
    }
}

/// A contradiction in a router's configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouterError {
    /// In its interfaces.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// An interface on a VLAN.
    #[error("interface {}: interfaces on VLANs are not supported", .interface.0)]
    Vlan {
        /// The interface.
        interface: InterfaceId,
    },
    /// A route that the table refuses.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A route or neighbour names an interface that does not exist.
    #[error("{what} is behind interface {}, which does not exist", .interface.0)]
    UnknownInterface {
        /// The destinations or the address.
        what: IpNet,
        /// What was given.
        interface: InterfaceId,
    },
    /// A gateway or neighbour that is not on its interface's link, or is the router itself.
    #[error("{address} is no neighbour of interface {}: {reason}", .interface.0)]
    NotANeighbour {
        /// The gateway or neighbour.
        address: IpAddr,
        /// Its interface.
        interface: InterfaceId,
        /// What is wrong.
        reason: &'static str,
    },
}

/// What is built from a configuration.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) interfaces: Interfaces,
    pub(super) routes: RouteTable,
}

/// Checks a configuration whole and builds its tables.
pub(super) fn check_and_build(config: &RouterConfig) -> Result<Tables, Vec<RouterError>> {
    let interfaces = Interfaces::new(config.interfaces.clone(), config.proxies.clone())
        .map_err(|errors| errors.into_iter().map(RouterError::from).collect::<Vec<_>>())?;
    let mut errors = Vec::new();
    for (interface, it) in interfaces.iter() {
        if it.vlan.is_some() {
            errors.push(RouterError::Vlan { interface });
        }
    }
    let mut routes = RouteTable::new(config.route_limits);
    for route in interfaces.routes() {
        errors.extend(routes.insert(route).err().map(RouterError::from));
    }
    for route in &config.routes {
        check_route(&interfaces, route, &mut errors);
        errors.extend(routes.insert(route.clone()).err().map(RouterError::from));
    }
    for it in &config.neighbours {
        check_neighbour(&interfaces, it.interface, it.address.into(), it.address, &mut errors);
        if !super::addressing::is_unicast_mac(it.mac) {
            let (address, interface) = (it.address, it.interface);
            let reason = "its MAC address is not a station's";
            errors.push(RouterError::NotANeighbour { address, interface, reason });
        }
    }
    if errors.is_empty() { Ok(Tables { interfaces, routes }) } else { Err(errors) }
}

pub(super) fn check_route(interfaces: &Interfaces, route: &Route, errors: &mut Vec<RouterError>) {
    for hop in route.next_hops.iter() {
        match hop.gateway {
            Some(gateway) => check_neighbour(interfaces, hop.interface, route.prefix, gateway, errors),
            None if interfaces.get(hop.interface).is_none() => {
                let (what, interface) = (route.prefix, hop.interface);
                errors.push(RouterError::UnknownInterface { what, interface });
            }
            None => {}
        }
    }
}

fn check_neighbour(
    interfaces: &Interfaces,
    interface: InterfaceId,
    what: IpNet,
    address: IpAddr,
    errors: &mut Vec<RouterError>,
) {
    let reason = match interfaces.get(interface) {
        None => return errors.push(RouterError::UnknownInterface { what, interface }),
        Some(it) if it.has_address(address) => "it is the router's own address",
        Some(it) if !it.is_on_link(address) => "it is in none of the interface's networks",
        Some(_) => return,
    };
    errors.push(RouterError::NotANeighbour { address, interface, reason });
}
