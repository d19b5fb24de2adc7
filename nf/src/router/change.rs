//! How a new configuration of a router replaces the old one (R8).
//!
//! [`RouterChange::between`] checks the new one whole, builds its tables and finds what differs, away from the packets.
//! [`Router::bring`] then takes it between two bursts, at the cost of what differs beside the routes. Neighbours that are none any
//! more are forgotten in slices of the timers: nothing leads to them meanwhile.

use super::config::{RouterConfig, RouterError, StaticNeighbour, Tables, check_and_build, check_route};
use super::icmp_limit::IcmpLimit;
use super::interface::{Interface, InterfaceId, Interfaces};
use super::lpm::{NextHop, Route, RouteIdentity, RouteKind, RouteOrigin, RouteTable};
use super::neighbour::Action;
use super::state::{Router, neighbour_watch, port_watch};
use crate::slices;
use ipnet::IpNet;
use millrace_dataplane::flow::validity::{ObjectKind, Watch};
use millrace_dataplane::port::PortId;
use millrace_dataplane::time::Time;
use std::collections::HashSet;
use std::net::IpAddr;

/// Most objects that a change names one by one; a wider one names the ports.
const WATCHES_MAX: usize = 1024;

/// A checked configuration with what differs from the one before.
#[derive(Debug)]
pub struct RouterChange {
    config: RouterConfig,
    tables: Tables,
    watches: Vec<Watch>,
    /// Interfaces on another link than before: none of their neighbours stays.
    relinked: Vec<InterfaceId>,
    /// Interfaces that were not there before.
    added: Vec<InterfaceId>,
    /// Static neighbours that are none any more.
    gone: Vec<(InterfaceId, IpAddr)>,
    /// Those that are new or have another address.
    come: Vec<StaticNeighbour>,
    is_forgetting: bool,
}

/// What a change leaves of the old configuration, to be dropped where that takes no packet's time.
#[derive(Debug)]
pub struct Replaced {
    _config: RouterConfig,
    _interfaces: Interfaces,
    _routes: RouteTable,
}

impl RouterChange {
    /// From the configuration that a router has, as it was given, to another.
    ///
    /// # Errors
    /// Every contradiction in either.
    pub fn between(old: &RouterConfig, new: RouterConfig) -> Result<Self, Vec<RouterError>> {
        let Tables { interfaces, routes } = check_and_build(old)?;
        Self::from(old, &interfaces, &routes, new)
    }

    pub(super) fn from(
        old: &RouterConfig,
        interfaces: &Interfaces,
        routes: &RouteTable,
        new: RouterConfig,
    ) -> Result<Self, Vec<RouterError>> {
        let tables = check_and_build(&new)?;
        let mut watches = HashSet::new();
        changed_routes(routes, &tables.routes, &mut watches);
        let mut wide = changed_proxies(old, &new, &mut watches);
        let (mut relinked, mut added) = (Vec::new(), Vec::new());
        for id in (0..interfaces.span().max(tables.interfaces.span())).map(InterfaceId) {
            let (before, after) = (interfaces.get(id), tables.interfaces.get(id));
            if before == after {
                continue;
            }
            watches.extend(before.into_iter().chain(after).map(|it| port_watch(it.port)));
            watches.extend(before.into_iter().chain(after).flat_map(own_cells));
            let link = |it: &Interface| (it.port, it.vlan, it.mac);
            match (before.map(link), after.map(link)) {
                (None, Some(_)) => added.push(id),
                (Some(before), Some(after)) if before != after => relinked.push(id),
                _ => {}
            }
        }
        wide |= watches.len() > WATCHES_MAX;
        if wide {
            let all = interfaces.iter().chain(tables.interfaces.iter());
            watches = all.map(|(_, it)| port_watch(it.port)).collect();
        }
        if old.host != new.host {
            watches.extend(old.host.iter().chain(&new.host).map(|host| port_watch(host.port)));
        }
        let kept: HashSet<_> = new.neighbours.iter().map(|it| (it.interface, it.address)).collect();
        let before = old.neighbours.iter().map(|it| (it.interface, it.address));
        let gone = before.filter(|it| !kept.contains(it)).collect();
        let known: HashSet<_> = old.neighbours.iter().map(|it| (it.interface, it.address, it.mac)).collect();
        let is_new = |it: &&StaticNeighbour| !known.contains(&(it.interface, it.address, it.mac));
        let come = new.neighbours.iter().filter(is_new).copied().collect();
        let watches = watches.into_iter().collect();
        let is_forgetting = old.interfaces != new.interfaces;
        Ok(Self { config: new, tables, watches, relinked, added, gone, come, is_forgetting })
    }
}

impl Router {
    /// Takes a new configuration in place of the old one: [`RouterChange::between`] and [`Self::bring`] at once. Returns what
    /// changed: the decisions that used it must fall before the next packet (R8).
    ///
    /// # Errors
    /// Every contradiction in it; the router is unchanged.
    pub fn apply(&mut self, config: RouterConfig, now: Time) -> Result<Vec<Watch>, Vec<RouterError>> {
        let change = RouterChange::from(&self.config, &self.interfaces, &self.routes, config)?;
        Ok(self.bring(change, now).0)
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
        self.forget_recent();
        let watches = route_watches(&self.routes, route.prefix.trunc());
        let change = self.routes.insert(route).map_err(|error| vec![RouterError::Route(error)])?;
        Ok(if change.best_changed { watches } else { Vec::new() })
    }

    /// Removes the static route of a prefix and metric. Returns what changed; none if there is no such route.
    pub fn remove_route(&mut self, prefix: IpNet, metric: u32) -> Option<Vec<Watch>> {
        let identity = RouteIdentity { prefix: prefix.trunc(), origin: RouteOrigin::Static, metric };
        self.forget_recent();
        let watches = route_watches(&self.routes, identity.prefix);
        let change = self.routes.remove(identity)?;
        Some(if change.best_changed { watches } else { Vec::new() })
    }

    /// Takes what `change` brings. Returns the objects that changed: the decisions that used them must fall before the next
    /// packet (R8), and the chain's timers must run soon.
    pub fn bring(&mut self, change: RouterChange, now: Time) -> (Vec<Watch>, Replaced) {
        let RouterChange { mut config, tables, mut watches, mut relinked, added, gone, come, is_forgetting } =
            change;
        if self.forgetting.is_some() {
            // Neighbours of an earlier interface of the same number may still be there.
            relinked.extend(added);
        }
        let interfaces = std::mem::replace(&mut self.interfaces, tables.interfaces);
        let routes = std::mem::replace(&mut self.routes, tables.routes);
        self.forget_recent();
        let mut actions = std::mem::take(&mut self.pending);
        for id in relinked {
            self.neighbours.remove_interface(id, true, &mut actions);
        }
        for (interface, address) in gone {
            self.neighbours.remove(interface, address, &mut actions);
        }
        for it in come {
            self.neighbours.set_permanent(it.interface, it.address, it.mac, now, &mut actions);
        }
        actions.retain(|action| match action {
            Action::Invalidate(id) => {
                watches.push(neighbour_watch(*id));
                false
            }
            _ => true,
        });
        self.pending = actions;
        if is_forgetting {
            self.forgetting = Some(0);
        }
        if config.errors != self.config.errors {
            self.errors = IcmpLimit::new(config.errors);
        }
        if config.echoes != self.config.echoes {
            self.echoes = IcmpLimit::new(config.echoes);
        }
        // The table has the routes.
        let given = std::mem::take(&mut config.routes);
        let mut old = std::mem::replace(&mut self.config, config);
        old.routes = given;
        (watches, Replaced { _config: old, _interfaces: interfaces, _routes: routes })
    }

    /// Forgets the neighbours behind a port whose link was down: others may be there when it is up again. Configured ones stay.
    /// Returns the objects that changed, as [`Self::bring`] does.
    pub fn forget_behind(&mut self, port: PortId) -> Vec<Watch> {
        let mut actions = std::mem::take(&mut self.pending);
        for (id, _) in self.interfaces.iter().filter(|(_, it)| it.port == port) {
            self.neighbours.remove_interface(id, false, &mut actions);
        }
        let mut watches = Vec::new();
        actions.retain(|action| match action {
            Action::Invalidate(id) => {
                watches.push(neighbour_watch(*id));
                false
            }
            _ => true,
        });
        self.pending = actions;
        watches
    }

    /// True while neighbours that are none any more are being forgotten.
    pub fn is_changing(&self) -> bool {
        self.forgetting.is_some() || !self.pending.is_empty()
    }

    /// A slice of neighbours: those go that the configuration has on no link.
    pub(super) fn forget_some(&mut self, budget: usize, actions: &mut Vec<Action>) {
        let Some(from) = self.forgetting else { return };
        let Self { neighbours, interfaces, .. } = self;
        let stays = |interface: InterfaceId, address: IpAddr| {
            interfaces.get(interface).is_some_and(|it| it.is_on_link(address) && !it.has_address(address))
        };
        self.forgetting = neighbours.retain_some(from, budget, stays, actions);
    }
}

/// Where an interface's own addresses and broadcast addresses lie.
fn own_cells(it: &Interface) -> impl Iterator<Item = Watch> + '_ {
    let ends = it.addresses.iter().flat_map(|net| [net.addr(), net.network(), net.broadcast()]);
    ends.filter_map(|address| slices::cells(ObjectKind::Route, address.into())).flatten()
}

/// Adds the addresses that are answered for in one configuration only. True if they are too many to be named.
fn changed_proxies(old: &RouterConfig, new: &RouterConfig, watches: &mut HashSet<Watch>) -> bool {
    let before: HashSet<_> = old.proxies.iter().map(|it| (it.prefix, it.interface)).collect();
    let after: HashSet<_> = new.proxies.iter().map(|it| (it.prefix, it.interface)).collect();
    let mut wide = false;
    for (prefix, _) in before.symmetric_difference(&after) {
        match slices::cells(ObjectKind::Route, *prefix) {
            Some(cells) => watches.extend(cells),
            None => wide = true,
        }
    }
    wide
}

/// Adds what to touch for each prefix whose best route does something else in the other table.
fn changed_routes(old: &RouteTable, new: &RouteTable, watches: &mut HashSet<Watch>) {
    let best = |table: &RouteTable, prefix| -> Option<(RouteKind, Vec<NextHop>)> {
        table.candidates(prefix).next().map(|route| (route.kind, route.next_hops.to_vec()))
    };
    for (_, route) in old.iter().chain(new.iter()) {
        if watches.len() > WATCHES_MAX {
            return;
        }
        if best(old, route.prefix) != best(new, route.prefix) {
            watches.extend(route_watches(old, route.prefix));
        }
    }
}

/// What a change of the best route of `prefix` touches, in the table as it was before.
pub(super) fn route_watches(before: &RouteTable, prefix: IpNet) -> Vec<Watch> {
    let is_ipv4 = prefix.addr().is_ipv4();
    if before.candidates(prefix).next().is_some() {
        return vec![slices::route(is_ipv4, Some(prefix))];
    }
    if let Some(cells) = slices::cells(ObjectKind::Route, prefix) {
        return cells.into_iter().collect();
    }
    let around = (0..prefix.prefix_len()).rev().filter_map(|length| IpNet::new(prefix.addr(), length).ok());
    let found = around.map(|net| net.trunc()).find(|net| before.candidates(*net).next().is_some());
    vec![slices::route(is_ipv4, found)]
}
