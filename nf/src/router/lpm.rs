//! The route table: which next hop a destination has.
//!
//! A prefix may have several candidates (a connected route and a static one, static ones of different metrics);
//! the look-up sees the best of each prefix only. What a change of the routes of prefix P can affect is exactly the
//! keys whose destination lies in P (R8), so entries of the flow cache name no route, and a [`RouteId`] is for
//! showing and tracing: it may be reused once its route is gone.
//!
//! Cost and memory are those of [`PrefixTrie`], and one record a route; equal sets of next hops are shared by
//! whoever inserts them.

use super::interface::InterfaceId;
use super::prefix_trie::{PrefixTrie, TrieFull};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// A route's record in its table. Reused once the route is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(pub u32);

/// Where a route came from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteOrigin {
    /// The network of an interface's address.
    Connected,
    /// Configured.
    Static,
}

/// What happens to packets for a route's destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// They go to a next hop.
    Unicast,
    /// They end here: the data plane's own addresses.
    Local,
    /// They are dropped silently.
    Blackhole,
    /// They are dropped with ICMP "communication administratively prohibited".
    Prohibit,
    /// They are dropped with ICMP "host unreachable" or "no route to destination".
    Unreachable,
}

/// Where to send packets: to the destination itself on a connected network, or to a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// The outgoing interface.
    pub interface: InterfaceId,
    /// The neighbour to send to, possibly of the other family (RFC 8950); `None` for the destination itself.
    pub gateway: Option<IpAddr>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destinations; host bits are ignored.
    pub prefix: IpNet,
    /// Next hops with equal shares; at least one for [`RouteKind::Unicast`], none else.
    pub next_hops: Arc<[NextHop]>,
    /// What to do with the packets.
    pub kind: RouteKind,
    /// Lower is better among routes of one prefix and origin.
    pub metric: u32,
    /// Where the route came from.
    pub origin: RouteOrigin,
}

impl Route {
    /// The next hop for a flow: `hash` must be a keyed hash of the flow (R16), so that its packets stay together
    /// and nobody chooses the path from outside (RFC 2992). `None` unless the route is unicast.
    pub fn next_hop(&self, hash: u32) -> Option<NextHop> {
        let at = (u64::from(hash) * self.next_hops.len() as u64) >> 32;
        self.next_hops.get(at as usize).copied()
    }

    /// Lower is better. Own addresses win over everything.
    fn preference(&self) -> (bool, RouteOrigin, u32) {
        (self.kind != RouteKind::Local, self.origin, self.metric)
    }

    fn identity(&self) -> RouteIdentity {
        RouteIdentity { prefix: self.prefix.trunc(), origin: self.origin, metric: self.metric }
    }
}

/// What distinguishes a route from the others of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteIdentity {
    /// The destinations.
    pub prefix: IpNet,
    /// Where the route came from.
    pub origin: RouteOrigin,
    /// Its metric.
    pub metric: u32,
}

/// Bounds of a route table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteLimits {
    /// Most routes, of both families together.
    pub routes_max: usize,
    /// Most trie nodes (24 bytes each) for each family.
    pub nodes_max: usize,
}

impl Default for RouteLimits {
    fn default() -> Self {
        Self { routes_max: 2_000_000, nodes_max: 8_000_000 }
    }
}

/// Most candidates of one prefix: bounds what an update costs.
pub const CANDIDATES_MAX: usize = 16;

/// Why a route was refused; the table is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// A limit of the table is reached.
    #[error("the route table is full ({routes} routes)")]
    Full {
        /// Routes in the table.
        routes: usize,
    },
    /// The prefix has [`CANDIDATES_MAX`] routes of different origin or metric already.
    #[error("{prefix} has {CANDIDATES_MAX} routes already; remove one or replace it by using its metric")]
    TooManyCandidates {
        /// The prefix.
        prefix: IpNet,
    },
    /// A unicast route without next hops, or another kind of route with some.
    #[error("route {prefix}: a unicast route needs a next hop, any other kind takes none")]
    NextHops {
        /// The prefix.
        prefix: IpNet,
    },
}

/// What an update did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The route that was replaced or removed.
    pub before: Option<Route>,
    /// Whether the prefix's best route is another one now, or none: then the keys whose destination lies in the
    /// prefix are to be invalidated (R8).
    pub best_changed: bool,
}

/// A route and the next less preferred candidate of its prefix.
#[derive(Clone, Debug)]
struct Slot {
    route: Option<Route>,
    next: u32,
}

/// The end of a list of candidates or of free slots.
const NONE: u32 = u32::MAX;

/// Routes of both families.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// Prefix to the slot of its best route.
    best: PrefixTrie,
    slots: Vec<Slot>,
    free: u32,
    count: usize,
    routes_max: usize,
}

impl RouteTable {
    /// An empty table.
    pub fn new(limits: RouteLimits) -> Self {
        Self {
            best: PrefixTrie::new(limits.nodes_max),
            slots: Vec::new(),
            free: NONE,
            count: 0,
            routes_max: limits.routes_max.min(NONE as usize - 1),
        }
    }

    /// The best route of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<&Route> {
        self.route(RouteId(self.best.lookup(address)?))
    }

    /// The number of the best route of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup_id(&self, address: IpAddr) -> Option<RouteId> {
        self.best.lookup(address).map(RouteId)
    }

    /// As [`RouteTable::lookup`], with the route's number and its prefix without host bits.
    pub fn lookup_with_prefix(&self, address: IpAddr) -> Option<(RouteId, IpNet, &Route)> {
        let id = RouteId(self.best.lookup(address)?);
        self.route(id).map(|route| (id, route.prefix, route))
    }

    /// A route by its number.
    #[inline]
    pub fn route(&self, id: RouteId) -> Option<&Route> {
        self.slots.get(id.0 as usize)?.route.as_ref()
    }

    /// The routes of exactly this prefix, best first.
    pub fn candidates(&self, prefix: IpNet) -> impl Iterator<Item = &Route> {
        let mut at = self.best.get(prefix).unwrap_or(NONE);
        std::iter::from_fn(move || {
            let slot = self.slots.get(at as usize)?;
            at = slot.next;
            slot.route.as_ref()
        })
    }

    /// Adds a route, or replaces the one of the same prefix, origin and metric.
    ///
    /// # Errors
    /// See [`RouteError`]; the table is unchanged.
    pub fn insert(&mut self, mut route: Route) -> Result<RouteChange, RouteError> {
        route.prefix = route.prefix.trunc();
        let prefix = route.prefix;
        if (route.kind == RouteKind::Unicast) == route.next_hops.is_empty() {
            return Err(RouteError::NextHops { prefix });
        }
        let best = self.candidates(prefix).next().cloned();
        let before = self.candidates(prefix).find(|other| other.identity() == route.identity()).cloned();
        if before.is_none() {
            if self.candidates(prefix).count() >= CANDIDATES_MAX {
                return Err(RouteError::TooManyCandidates { prefix });
            }
            if self.count >= self.routes_max {
                return Err(RouteError::Full { routes: self.count });
            }
            if best.is_none() {
                // Reserves the nodes, so that nothing below can fail.
                let full = |TrieFull| RouteError::Full { routes: self.count };
                self.best.insert(prefix, NONE).map_err(full)?;
            }
        } else {
            self.unlink(route.identity());
        }
        self.link(route);
        let best_changed = self.candidates(prefix).next() != best.as_ref();
        Ok(RouteChange { before, best_changed })
    }

    /// Removes a route; `None` if there is none of this identity.
    pub fn remove(&mut self, identity: RouteIdentity) -> Option<RouteChange> {
        let identity = RouteIdentity { prefix: identity.prefix.trunc(), ..identity };
        let was_best =
            self.candidates(identity.prefix).next().is_some_and(|best| best.identity() == identity);
        let before = self.unlink(identity)?;
        if self.best.get(identity.prefix) == Some(NONE) {
            self.best.remove(identity.prefix);
        }
        // The next candidate may well do the same as the one that went.
        let best_changed = was_best
            && self
                .candidates(identity.prefix)
                .next()
                .is_none_or(|best| (best.kind, &best.next_hops) != (before.kind, &before.next_hops));
        Some(RouteChange { before: Some(before), best_changed })
    }

    /// Puts a route into a free slot and into its prefix's list of candidates. The prefix is in the trie.
    fn link(&mut self, route: Route) {
        let (prefix, preference) = (route.prefix, route.preference());
        let id = if self.free == NONE {
            self.slots.push(Slot { route: Some(route), next: NONE });
            (self.slots.len() - 1) as u32
        } else {
            let id = self.free;
            let slot = &mut self.slots[id as usize];
            self.free = slot.next;
            slot.route = Some(route);
            id
        };
        self.count += 1;
        let (mut previous, mut at) = (NONE, self.best.get(prefix).unwrap_or(NONE));
        while let Some(slot) = self.slots.get(at as usize) {
            if slot.route.as_ref().is_some_and(|other| other.preference() > preference) {
                break;
            }
            (previous, at) = (at, slot.next);
        }
        self.slots[id as usize].next = at;
        self.point(prefix, previous, id);
    }

    /// Takes a route out of its list and frees its slot. The prefix stays in the trie, possibly with no candidate.
    fn unlink(&mut self, identity: RouteIdentity) -> Option<Route> {
        let (mut previous, mut at) = (NONE, self.best.get(identity.prefix)?);
        while let Some(slot) = self.slots.get_mut(at as usize) {
            if slot.route.as_ref().is_some_and(|route| route.identity() == identity) {
                let (next, route) = (slot.next, slot.route.take());
                slot.next = self.free;
                self.free = at;
                self.count -= 1;
                self.point(identity.prefix, previous, next);
                return route;
            }
            (previous, at) = (at, slot.next);
        }
        None
    }

    /// Makes `target` the successor of `previous` in a prefix's list, or its head.
    fn point(&mut self, prefix: IpNet, previous: u32, target: u32) {
        match self.slots.get_mut(previous as usize) {
            Some(slot) => slot.next = target,
            None => {
                let replaced = self.best.insert(prefix, target);
                debug_assert!(matches!(replaced, Ok(Some(_))), "the prefix was in the trie");
            }
        }
    }

    /// All routes, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (RouteId, &Route)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(at, slot)| Some((RouteId(at as u32), slot.route.as_ref()?)))
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes allocated, without the sets of next hops.
    pub fn memory_bytes(&self) -> usize {
        self.best.memory_bytes() + self.slots.capacity() * size_of::<Slot>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hops(interface: u16) -> Arc<[NextHop]> {
        Arc::new([NextHop { interface: InterfaceId(interface), gateway: None }])
    }

    fn route(prefix: &str, interface: u16, metric: u32, origin: RouteOrigin) -> Route {
        let prefix = prefix.parse().unwrap();
        Route { prefix, next_hops: hops(interface), kind: RouteKind::Unicast, metric, origin }
    }

    #[test]
    fn the_best_candidate_wins_and_the_next_takes_over() {
        use RouteOrigin::{Connected, Static};
        let mut table = RouteTable::new(RouteLimits::default());
        assert!(table.insert(route("10.0.0.0/24", 1, 5, Static)).unwrap().best_changed);
        assert!(!table.insert(route("10.0.0.0/24", 2, 9, Static)).unwrap().best_changed);
        assert!(table.insert(route("10.0.0.7/24", 3, 0, Connected)).unwrap().best_changed);
        let best = |table: &RouteTable| {
            table.lookup("10.0.0.1".parse().unwrap()).map(|r| r.next_hops[0].interface.0)
        };
        assert_eq!(best(&table), Some(3));
        let connected = route("10.0.0.0/24", 3, 0, Connected).identity();
        assert!(table.remove(connected).unwrap().best_changed);
        assert_eq!(table.remove(connected), None);
        assert_eq!(best(&table), Some(1));
        // The same identity replaces; the same meaning changes nothing.
        assert!(!table.insert(route("10.0.0.0/24", 1, 5, Static)).unwrap().best_changed);
        let change = table.insert(route("10.0.0.0/24", 4, 5, Static)).unwrap();
        assert!(change.best_changed);
        assert_eq!(change.before, Some(route("10.0.0.0/24", 1, 5, Static)));
        assert_eq!(table.len(), 2);
        for metric in [5, 9] {
            assert!(table.remove(route("10.0.0.0/24", 0, metric, Static).identity()).is_some());
        }
        assert_eq!((best(&table), table.len(), table.best.len()), (None, 0, 0));
    }

    #[test]
    fn limits_and_contradictions_are_refused() {
        let mut table = RouteTable::new(RouteLimits { routes_max: 17, nodes_max: 100 });
        let empty = Route { next_hops: Arc::new([]), ..route("::/0", 0, 0, RouteOrigin::Static) };
        assert!(matches!(table.insert(empty.clone()), Err(RouteError::NextHops { .. })));
        table.insert(Route { kind: RouteKind::Blackhole, ..empty.clone() }).unwrap();
        assert_eq!(table.lookup("2001:db8::1".parse().unwrap()).unwrap().next_hop(7), None);
        for metric in 0..CANDIDATES_MAX as u32 {
            table.insert(route("10.0.0.0/8", 0, metric, RouteOrigin::Static)).unwrap();
        }
        let refused = table.insert(route("10.0.0.0/8", 0, 99, RouteOrigin::Static));
        assert!(matches!(refused, Err(RouteError::TooManyCandidates { .. })));
        let refused = table.insert(route("10.0.0.0/9", 0, 0, RouteOrigin::Static));
        assert_eq!(refused, Err(RouteError::Full { routes: 17 }));
        // Replacing is possible in a full table.
        table.insert(route("10.0.0.0/8", 3, 0, RouteOrigin::Static)).unwrap();
        assert_eq!(table.lookup("10.9.9.9".parse().unwrap()).unwrap().next_hops[0].interface, InterfaceId(3));
        let mut small = RouteTable::new(RouteLimits { routes_max: 10, nodes_max: 1 });
        assert!(matches!(
            small.insert(route("10.0.0.0/24", 0, 0, RouteOrigin::Static)),
            Err(RouteError::Full { .. })
        ));
        assert_eq!((small.len(), small.best.len()), (0, 0));
    }

    #[test]
    fn equal_cost_paths_share_by_hash() {
        let next_hops: Arc<[NextHop]> =
            (0..3).map(|n| NextHop { interface: InterfaceId(n), gateway: None }).collect();
        let route = Route { next_hops, ..route("::/0", 0, 0, RouteOrigin::Static) };
        let mut shares = [0; 3];
        for step in 0..3_000u32 {
            shares[route.next_hop(step * (u32::MAX / 3_000)).unwrap().interface.0 as usize] += 1;
        }
        assert!(shares.iter().all(|&share| (999..=1001).contains(&share)), "{shares:?}");
        assert!(route.next_hop(u32::MAX).is_some());
    }

    proptest! {
        #[test]
        fn equals_a_list_of_routes_through_any_changes(
            changes in proptest::collection::vec((0u8..4, 0u8..33, 0u32..3, any::<bool>(), 0u16..4, any::<bool>()), 1..200),
        ) {
            let mut table = RouteTable::new(RouteLimits::default());
            let mut model: Vec<Route> = Vec::new();
            for (octet, length, metric, connected, interface, insert) in changes {
                let origin = if connected { RouteOrigin::Connected } else { RouteOrigin::Static };
                let prefix = IpNet::new(IpAddr::from([10, octet << 6, 1, 1]), length).unwrap();
                let route = Route { prefix: prefix.trunc(), ..route("::/0", interface, metric, origin) };
                let at = model.iter().position(|other| other.identity() == route.identity());
                let probe = prefix.addr();
                let before = table.lookup(probe).map(|r| (r.prefix, r.next_hops.clone()));
                let (change, expected) = if insert {
                    let before = at.map(|at| model.swap_remove(at));
                    model.push(route.clone());
                    (table.insert(route).ok(), Some(before))
                } else {
                    (table.remove(route.identity()), at.map(|at| Some(model.swap_remove(at))))
                };
                prop_assert_eq!(change.clone().map(|change| change.before), expected);
                let found = table.lookup(probe);
                let best = model.iter().filter(|r| r.prefix.contains(&probe))
                    .max_by_key(|r| (r.prefix.prefix_len(), std::cmp::Reverse(r.preference())));
                prop_assert_eq!(found, best);
                // What an unchanged best promises: nobody sees a difference.
                if !change.is_some_and(|change| change.best_changed) {
                    prop_assert_eq!(before, found.map(|r| (r.prefix, r.next_hops.clone())));
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.iter().count(), model.len());
            }
        }
    }
}
