//! What a router is configured with, and how a new configuration replaces the old one.

use super::function::{Router, port_watch};
use super::icmp_limit::{IcmpLimit, IcmpLimitConfig, Rate};
use super::interface::{Interface, InterfaceError, InterfaceId, Interfaces, ProxyPrefix};
use super::lpm::{Route, RouteError, RouteIdentity, RouteKind, RouteLimits, RouteOrigin, RouteTable};
use super::neighbour::{Action, NeighbourLimits, NeighbourTimers};
use crate::slices::changed_prefix;
use ipnet::IpNet;
use millrace_dataplane::flow::validity::{ObjectKind, Watch};
use millrace_dataplane::port::MacAddress;
use millrace_dataplane::time::Time;
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

/// A router's configuration. Connected routes and those to its own addresses follow from the interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// The interfaces; an [`InterfaceId`] is the place in this list.
    pub interfaces: Vec<Interface>,
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
}

impl RouterConfig {
    /// Interfaces, and defaults that are right for most.
    pub fn new(interfaces: Vec<Interface>) -> Self {
        let echoes = IcmpLimitConfig {
            router: Rate { per_second: 100_000, burst: 10_000 },
            source: Rate { per_second: 10_000, burst: 1_000 },
            ..IcmpLimitConfig::default()
        };
        Self {
            interfaces,
            proxies: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
            route_limits: RouteLimits::default(),
            neighbour_limits: NeighbourLimits::default(),
            timers: NeighbourTimers::default(),
            errors: IcmpLimitConfig::default(),
            echoes,
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

fn check_route(interfaces: &Interfaces, route: &Route, errors: &mut Vec<RouterError>) {
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

impl Router {
    /// Takes a new configuration in place of the old one. Neighbours that stay neighbours are kept. Returns what changed:
    /// the decisions that used it must fall before the next packet (R8), and the chain's timers must run soon.
    ///
    /// Costs a look at each route of both configurations; for single routes there are [`Self::insert_route`] and
    /// [`Self::remove_route`].
    ///
    /// # Errors
    /// Every contradiction in it; the router is unchanged.
    pub fn apply(&mut self, config: RouterConfig, now: Time) -> Result<Vec<Watch>, Vec<RouterError>> {
        let new = check_and_build(&config)?;
        let mut watches = Vec::new();
        changed_routes(&self.routes, &new.routes, &mut watches);
        changed_routes(&new.routes, &self.routes, &mut watches);
        let (old, proxies) = (&self.config.proxies, &config.proxies);
        let gone = old.iter().filter(|proxy| !proxies.contains(proxy));
        for proxy in gone.chain(proxies.iter().filter(|proxy| !old.contains(proxy))) {
            watches.extend(changed_prefix(ObjectKind::Route, proxy.prefix));
        }
        let mut actions = std::mem::take(&mut self.pending);
        self.change_interfaces(&new.interfaces, &mut watches, &mut actions);
        self.interfaces = new.interfaces;
        self.routes = new.routes;
        self.forget_recent();
        self.change_neighbours(&config, now, &mut actions);
        actions.retain(|action| match action {
            Action::Invalidate(id) => {
                watches.push(super::function::neighbour_watch(*id));
                false
            }
            _ => true,
        });
        self.pending = actions;
        if config.errors != self.config.errors {
            self.errors = IcmpLimit::new(config.errors);
        }
        if config.echoes != self.config.echoes {
            self.echoes = IcmpLimit::new(config.echoes);
        }
        // The table has the routes.
        self.config = RouterConfig { routes: Vec::new(), ..config };
        Ok(watches)
    }

    /// Adds a static route, or replaces the one of its prefix and metric. Returns what changed, as [`Self::apply`] does.
    ///
    /// # Errors
    /// What is wrong with it; nothing is changed.
    pub fn insert_route(&mut self, route: Route) -> Result<Vec<Watch>, Vec<RouterError>> {
        let mut errors = Vec::new();
        check_route(&self.interfaces, &route, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let route = Route { origin: RouteOrigin::Static, ..route };
        let prefix = route.prefix.trunc();
        self.forget_recent();
        let change = self.routes.insert(route).map_err(|error| vec![RouterError::Route(error)])?;
        Ok(touched(change.best_changed, prefix))
    }

    /// Removes the static route of a prefix and metric. Returns what changed; none if there is no such route.
    pub fn remove_route(&mut self, prefix: IpNet, metric: u32) -> Option<Vec<Watch>> {
        let identity = RouteIdentity { prefix: prefix.trunc(), origin: RouteOrigin::Static, metric };
        self.forget_recent();
        let change = self.routes.remove(identity)?;
        Some(touched(change.best_changed, identity.prefix))
    }

    fn change_interfaces(&mut self, new: &Interfaces, watches: &mut Vec<Watch>, actions: &mut Vec<Action>) {
        let count = self.interfaces.len().max(new.len()) as u16;
        for id in (0..count).map(InterfaceId) {
            let (old, new) = (self.interfaces.get(id), new.get(id));
            if old == new {
                continue;
            }
            watches.extend(old.into_iter().chain(new).map(|it| port_watch(it.port)));
            let same_link = old.zip(new).is_some_and(|(old, new)| (old.port, old.mac) == (new.port, new.mac));
            if !same_link {
                self.neighbours.remove_interface(id, true, actions);
            }
        }
    }

    /// Static neighbours come and go; others that are no neighbours any more go.
    fn change_neighbours(&mut self, config: &RouterConfig, now: Time, actions: &mut Vec<Action>) {
        let is_static = |of: &RouterConfig, interface, address| {
            of.neighbours.iter().any(|it| (it.interface, it.address) == (interface, address))
        };
        let stays = |interface: InterfaceId, address: IpAddr| {
            let on_link = self
                .interfaces
                .get(interface)
                .is_some_and(|it| it.is_on_link(address) && !it.has_address(address));
            let was_static = is_static(&self.config, interface, address);
            on_link && (!was_static || is_static(config, interface, address))
        };
        let gone: Vec<_> = self
            .neighbours
            .iter()
            .map(|it| (it.interface, it.address))
            .filter(|&(interface, address)| !stays(interface, address))
            .collect();
        for (interface, address) in gone {
            self.neighbours.remove(interface, address, actions);
        }
        for it in &config.neighbours {
            self.neighbours.set_permanent(it.interface, it.address, it.mac, now, actions);
        }
    }
}

fn touched(changed: bool, prefix: IpNet) -> Vec<Watch> {
    if changed { changed_prefix(ObjectKind::Route, prefix).into_iter().collect() } else { Vec::new() }
}

/// Adds what to touch for each prefix of `one` whose best route does something else in `other`.
fn changed_routes(one: &RouteTable, other: &RouteTable, watches: &mut Vec<Watch>) {
    let best = |table: &RouteTable, prefix| -> Option<(RouteKind, Vec<super::lpm::NextHop>)> {
        table.candidates(prefix).next().map(|route| (route.kind, route.next_hops.to_vec()))
    };
    for (_, route) in one.iter() {
        if best(one, route.prefix) != best(other, route.prefix) {
            watches.extend(changed_prefix(ObjectKind::Route, route.prefix));
        }
    }
}
