//! What a router has: its tables, its limits, and what they say of an address or a port. What it does with packets stands in the
//! files beside this one, which know this one.

use super::config::{RouterConfig, RouterError, Tables, check_and_build};
use super::icmp_limit::IcmpLimit;
use super::interface::{AddressClass, Interface, InterfaceId, Interfaces};
use super::lpm::{NextHop, Route, RouteId, RouteTable};
use super::neighbour::{self, Action, NeighbourInfo, NeighbourTable};
use crate::slices::depend_on_destination;
use crate::walk::Walk;
pub(super) use crate::walk::port_watch;
use crate::zone::ZoneId;
use millrace_dataplane::flow::hash::KeyedHash;
use millrace_dataplane::flow::validity::{ObjectKind, Watch};
use millrace_dataplane::port::PortId;
use std::cell::Cell;
use std::net::IpAddr;

/// What the router did by itself, as counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterCounters {
    /// ICMP and ICMPv6 errors and TCP resets sent.
    pub errors_sent: u64,
    /// Errors and resets that the rate limits suppressed.
    pub errors_limited: u64,
    /// Echo requests answered.
    pub echo_replies: u64,
    /// Echo requests that the rate limits left unanswered.
    pub echo_limited: u64,
    /// ARP requests and neighbour solicitations answered.
    pub resolutions_answered: u64,
    /// ARP requests and neighbour solicitations sent.
    pub solicitations_sent: u64,
}

/// A router.
#[derive(Debug)]
pub struct Router {
    /// Without the routes: the table has them.
    pub(super) config: RouterConfig,
    pub(super) interfaces: Interfaces,
    pub(super) routes: RouteTable,
    pub(super) neighbours: NeighbourTable,
    pub(super) errors: IcmpLimit,
    pub(super) echoes: IcmpLimit,
    pub(super) counters: RouterCounters,
    /// What a change of the configuration leaves to be done by the next tick.
    pub(super) pending: Vec<Action>,
    pub(super) actions: Vec<Action>,
    /// Neighbours from this place on are still to be held against a new configuration.
    pub(super) forgetting: Option<usize>,
    /// Chooses among equal next hops (R16).
    hash: KeyedHash,
    /// The destination looked up last: functions ask for its zone before the packet is forwarded there.
    recent: Cell<Option<Recent>>,
}

/// What a destination was found to be.
#[derive(Clone, Copy, Debug)]
struct Recent {
    address: IpAddr,
    class: AddressClass,
    route: Option<RouteId>,
}

/// The cell of a neighbour's link-layer address.
pub(super) const fn neighbour_watch(id: neighbour::NeighbourId) -> Watch {
    Watch::of(ObjectKind::Neighbour, id.0 as u64)
}

impl Router {
    /// A router as configured. `seed` makes hashes repeat, for deterministic runs; none takes a random secret.
    ///
    /// # Errors
    /// Every contradiction in the configuration.
    pub fn new(mut config: RouterConfig, seed: Option<u64>) -> Result<Self, Vec<RouterError>> {
        let Tables { interfaces, routes } = check_and_build(&config)?;
        config.routes = Vec::new();
        let hash = || seed.map_or_else(KeyedHash::random, KeyedHash::seeded);
        let spread = hash().hash(&[0]);
        let mut neighbours = NeighbourTable::new(config.neighbour_limits, config.timers, hash(), spread);
        let mut actions = Vec::new();
        for it in &config.neighbours {
            let now = millrace_dataplane::time::Time(0);
            neighbours.set_permanent(it.interface, it.address, it.mac, now, &mut actions);
        }
        Ok(Self {
            errors: IcmpLimit::new(config.errors),
            echoes: IcmpLimit::new(config.echoes),
            config,
            interfaces,
            routes,
            neighbours,
            counters: RouterCounters::default(),
            pending: Vec::new(),
            actions: Vec::new(),
            forgetting: None,
            hash: hash(),
            recent: Cell::new(None),
        })
    }

    /// The interfaces.
    pub fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// The routes: connected, static, and to the router's own addresses.
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// The neighbours, in no particular order.
    pub fn neighbours(&self) -> impl Iterator<Item = NeighbourInfo> {
        self.neighbours.iter()
    }

    /// The neighbour table, for its counters.
    pub fn neighbour_table(&self) -> &NeighbourTable {
        &self.neighbours
    }

    /// What it did.
    pub fn counters(&self) -> RouterCounters {
        self.counters
    }

    /// What `address` is as a destination of what came in by `ingress`, and the route that leads there.
    #[inline(always)]
    pub(super) fn destination(
        &self,
        walk: &mut Walk<'_>,
        ingress: InterfaceId,
        address: IpAddr,
    ) -> (AddressClass, Option<&Route>) {
        let (class, id) = match self.recent.get() {
            Some(recent) if recent.address == address => (recent.class, recent.route),
            _ => self.find_destination(ingress, address),
        };
        let route = id.and_then(|id| self.routes.route(id));
        // Functions ask for its zone before the packet is forwarded there.
        if walk.record.routed != Some(address) {
            let sought = class.is_routed().then(|| route.map(|route| route.prefix));
            depend_on_destination(walk, address, sought);
        }
        (class, route)
    }

    #[inline(always)]
    fn find_destination(&self, ingress: InterfaceId, address: IpAddr) -> (AddressClass, Option<RouteId>) {
        let class = self.interfaces.classify(ingress, address);
        let route = if class.is_routed() { self.routes.lookup_id(address) } else { None };
        // Of other addresses it depends on the interface what they are.
        self.recent.set(class.is_routed().then_some(Recent { address, class, route }));
        (class, route)
    }

    /// Routes or interfaces changed.
    pub(super) fn forget_recent(&self) {
        self.recent.set(None);
    }

    /// The interface that packets of a port come in by.
    pub(super) fn interface_of(&self, port: PortId) -> Option<InterfaceId> {
        if self.is_handed_over(port) {
            return self.interfaces.first_of(ZoneId(0));
        }
        self.interfaces.by_port(port, None)
    }

    /// Do packets of this port come from another worker?
    pub(super) fn is_handed_over(&self, port: PortId) -> bool {
        self.config.hairpins == Some(port)
    }

    /// Where the sender of the packet is told something.
    pub(super) fn answer_port(&self, walk: &Walk<'_>, interface: &Interface) -> PortId {
        if self.is_handed_over(walk.port) { walk.port } else { interface.port }
    }

    /// Chooses among the next hops of a route: see [`Self::path_hash`].
    pub(super) fn next_hop(&self, route: &Route, walk: &Walk<'_>, destination: IpAddr) -> Option<NextHop> {
        let hash = if route.next_hops.len() > 1 { self.path_hash(walk, destination) } else { 0 };
        route.next_hop(hash)
    }

    /// A hash by which to choose among next hops: by the source as it came and the destination as it is now, so that
    /// the zone that functions were told and the way that the packet takes are the same.
    fn path_hash(&self, walk: &Walk<'_>, destination: IpAddr) -> u32 {
        let source = walk.headers.original().addresses().map(|(source, _)| bits(source)).unwrap_or_default();
        let destination = bits(destination);
        (self.hash.hash(&[source[0], source[1], destination[0], destination[1]]) >> 32) as u32
    }
}

fn bits(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [0, u64::from(address.to_bits())],
        IpAddr::V6(address) => [(address.to_bits() >> 64) as u64, address.to_bits() as u64],
    }
}
