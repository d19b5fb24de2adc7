//! The router's interfaces: which addresses are ours, which of them to speak from, whom to answer for.
//!
//! Built whole from the configuration and immutable; every look-up costs one walk of a [`PrefixTrie`] at most, and the
//! addresses of one interface are a short list.

use super::addressing::{
    common_prefix_bits, is_link_local, is_network_number, is_unicast_mac, link_local, solicited_node,
    subnet_broadcast,
};
use super::lpm::{NextHop, Route, RouteKind, RouteOrigin};
use super::prefix_trie::PrefixTrie;
use crate::zone::ZoneId;
use ipnet::IpNet;
use millrace_dataplane::port::{MacAddress, PortId};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// An interface's number in its router: its place in the configuration. Places may be empty, so that an interface keeps its
/// number while others come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(pub u16);

/// Most addresses of one interface: they are searched one by one.
pub const ADDRESSES_MAX: usize = 64;
/// Least MTU in bytes for IPv4 (RFC 791 section 3.2).
pub const IPV4_MTU_BYTES_MIN: u16 = 68;
/// Least MTU in bytes for IPv6 (RFC 8200 section 5).
pub const IPV6_MTU_BYTES_MIN: u16 = 1_280;

/// One interface: a port, or a VLAN on it, with addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The port.
    pub port: PortId,
    /// The 802.1Q VLAN on it; `None` for untagged frames.
    pub vlan: Option<u16>,
    /// The zone that it belongs to.
    pub zone: ZoneId,
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Its addresses with their networks, in the order of preference.
    pub addresses: Vec<IpNet>,
    /// Whether it speaks IPv6. If so it has the link-local address of its MAC address too.
    pub ipv6: bool,
}

impl Interface {
    /// The link-local address derived from the MAC address, when IPv6 is on.
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        self.ipv6.then(|| link_local(self.mac))
    }

    /// Its addresses: the configured ones, then the derived link-local one.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(IpNet::addr).chain(self.link_local().map(IpAddr::V6))
    }

    /// Whether `address` is one of its addresses.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.own_addresses().any(|own| own == address)
    }

    /// Whether neighbours with this address are on its link: in one of its networks, or link-local of a family it speaks.
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        (address.is_ipv6() && self.ipv6 && is_link_local(address))
            || self.addresses.iter().any(|network| network.contains(&address))
    }
}

/// Addresses that an interface answers ARP and neighbour solicitations for, beside its own: NAT pools, virtual services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyPrefix {
    /// The addresses.
    pub prefix: IpNet,
    /// Where questions for them are answered.
    pub interface: InterfaceId,
}

/// What an address is to the router, as seen from one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressClass {
    /// One of the router's own addresses; the interface that has it (a packet may arrive on any).
    Own(InterfaceId),
    /// An address that a function of the chain owns (see [`ProxyPrefix`]).
    Proxy,
    /// The limited broadcast address 255.255.255.255.
    Broadcast,
    /// The directed broadcast address of an interface's network, in either form.
    SubnetBroadcast(InterfaceId),
    /// A multicast group that the interface belongs to: all nodes, all routers, solicited-node.
    JoinedGroup,
    /// Another multicast group.
    Multicast,
    /// Unspecified: 0.0.0.0/8 or `::`.
    Unspecified,
    /// Loopback.
    Loopback,
    /// Not for use on the wire: 240.0.0.0/4, IPv4-mapped IPv6 addresses.
    Reserved,
    /// Link-local and not ours: never forwarded.
    LinkLocal,
    /// Any other unicast address.
    Unicast,
}

impl AddressClass {
    /// Whether no packet may have such a source (RFC 1812 section 5.3.7, RFC 4291 sections 2.5 and 2.7). The unspecified
    /// address counts as martian: what may use it (address configuration) is not for a router to forward.
    pub const fn is_martian_source(self) -> bool {
        !matches!(self, Self::Own(_) | Self::Proxy | Self::LinkLocal | Self::Unicast)
    }

    /// Whether a route leads to such a destination, whatever interface the packet came in by.
    pub const fn is_routed(self) -> bool {
        matches!(self, Self::Unicast | Self::Proxy)
    }

    /// Whether no packet may have such a destination.
    pub const fn is_martian_destination(self) -> bool {
        matches!(self, Self::Unspecified | Self::Loopback | Self::Reserved)
    }
}

/// Why what a message says of a neighbour is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImplausibleNeighbour {
    /// The link-layer address is a group or zero.
    MacNotUnicast,
    /// The link-layer address is our own: a loop, or a forgery.
    OwnMac,
    /// The address is one that we answer for: a conflict, or a forgery (RFC 5227 section 2.4, RFC 4862 section 5.4).
    OwnAddress,
    /// The address can't be a station's.
    AddressNotUnicast,
    /// The address is not on the interface's link.
    NotOnLink,
}

/// A contradiction in the configuration of interfaces.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceError {
    /// More than 65,535 interfaces.
    #[error("{count} interfaces are more than the 65,535 that a router can have")]
    TooMany {
        /// Interfaces given.
        count: usize,
    },
    /// Two interfaces on the same port and VLAN.
    #[error("interfaces {} and {} are on the same port and VLAN", .first.0, .second.0)]
    SamePort {
        /// The earlier one.
        first: InterfaceId,
        /// The later one.
        second: InterfaceId,
    },
    /// A VLAN outside 1 to 4094.
    #[error("interface {}: VLAN {vlan} is not within 1 to 4094", .interface.0)]
    Vlan {
        /// The interface.
        interface: InterfaceId,
        /// What was given.
        vlan: u16,
    },
    /// A MAC address that names no station.
    #[error("interface {}: its MAC address must be a unicast address", .interface.0)]
    Mac {
        /// The interface.
        interface: InterfaceId,
    },
    /// An MTU below what the interface's protocols need.
    #[error("interface {}: an MTU of {mtu} bytes is below the {least} that its protocols need", .interface.0)]
    Mtu {
        /// The interface.
        interface: InterfaceId,
        /// What was given.
        mtu: u16,
        /// The least valid value.
        least: u16,
    },
    /// Too many addresses on one interface.
    #[error("interface {}: {count} addresses; at most {ADDRESSES_MAX} are possible", .interface.0)]
    TooManyAddresses {
        /// The interface.
        interface: InterfaceId,
        /// Addresses given.
        count: usize,
    },
    /// An address that no interface can have.
    #[error("interface {}: {address} can't be an interface's address: {reason}", .interface.0)]
    Address {
        /// The interface.
        interface: InterfaceId,
        /// What was given.
        address: IpNet,
        /// What it is instead.
        reason: &'static str,
    },
    /// An address or a network that another interface, or this one, has already.
    #[error("interface {}: {address} is on interface {} already", .second.0, .first.0)]
    Duplicate {
        /// What both have.
        address: IpNet,
        /// The earlier one.
        first: InterfaceId,
        /// The later one.
        second: InterfaceId,
    },
    /// Addresses to answer for on an interface that does not exist.
    #[error("{prefix} is to be answered for on interface {}, which does not exist", .interface.0)]
    UnknownInterface {
        /// The addresses.
        prefix: IpNet,
        /// What was given.
        interface: InterfaceId,
    },
}

/// Whose an address is, in the trie of own addresses.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Own(InterfaceId),
    Proxy,
    SubnetBroadcast(InterfaceId),
}

/// All interfaces of a router.
#[derive(Clone, Debug)]
pub struct Interfaces {
    interfaces: Vec<Option<Interface>>,
    /// Addresses that interfaces answer for beside their own, by interface.
    answers: Vec<PrefixTrie>,
    proxies: Vec<ProxyPrefix>,
    /// Sorted by port and VLAN.
    by_port: Vec<((PortId, Option<u16>), InterfaceId)>,
    /// Those of untagged frames, by port.
    untagged: Vec<Option<InterfaceId>>,
    /// Addresses that are the same whatever the interface: to an index into `owners`.
    owned: PrefixTrie,
    owners: Vec<Owner>,
}

/// More trie nodes than any configuration within the limits needs would be a mistake elsewhere.
const NODES_MAX: usize = 1 << 24;

impl Interfaces {
    /// Checks the interfaces and builds the tables. [`InterfaceId`] is the position in `interfaces`, of which some may be
    /// `None`.
    ///
    /// # Errors
    /// Every contradiction found, in the order of the interfaces.
    pub fn new(
        interfaces: impl IntoIterator<Item = impl Into<Option<Interface>>>,
        proxies: Vec<ProxyPrefix>,
    ) -> Result<Self, Vec<InterfaceError>> {
        let interfaces: Vec<Option<Interface>> = interfaces.into_iter().map(Into::into).collect();
        if interfaces.len() > usize::from(u16::MAX) {
            return Err(vec![InterfaceError::TooMany { count: interfaces.len() }]);
        }
        let mut errors = Vec::new();
        for (id, interface) in numbered(&interfaces) {
            check_interface(id, interface, &mut errors);
        }
        check_duplicates(&interfaces, &mut errors);
        for proxy in &proxies {
            if !matches!(interfaces.get(usize::from(proxy.interface.0)), Some(Some(_))) {
                let ProxyPrefix { prefix, interface } = *proxy;
                errors.push(InterfaceError::UnknownInterface { prefix, interface });
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut by_port: Vec<_> =
            numbered(&interfaces).map(|(id, interface)| ((interface.port, interface.vlan), id)).collect();
        by_port.sort_unstable();
        let answers = interfaces.iter().map(|_| PrefixTrie::new(NODES_MAX)).collect();
        let owned = PrefixTrie::new(NODES_MAX);
        let mut untagged = Vec::new();
        for &((port, _), id) in by_port.iter().filter(|((_, vlan), _)| vlan.is_none()) {
            untagged.resize(usize::from(port.0), None);
            untagged.push(Some(id));
        }
        let mut this = Self { interfaces, answers, proxies, by_port, untagged, owned, owners: Vec::new() };
        this.fill_tries();
        Ok(this)
    }

    /// Fills the tries: later insertions win, so own addresses come last.
    fn fill_tries(&mut self) {
        let mut owned = Vec::new();
        for proxy in &self.proxies {
            // The tries are far larger than any valid configuration, so their limit can't be met.
            let _ = self.answers[usize::from(proxy.interface.0)].insert(proxy.prefix, 0);
            owned.push((proxy.prefix, Owner::Proxy));
        }
        for (id, interface) in numbered(&self.interfaces) {
            for network in &interface.addresses {
                if let Some(broadcast) = subnet_broadcast(*network) {
                    owned.push((IpAddr::V4(broadcast).into(), Owner::SubnetBroadcast(id)));
                    owned.push((network.network().into(), Owner::SubnetBroadcast(id)));
                }
            }
        }
        for (id, interface) in numbered(&self.interfaces) {
            let addresses =
                interface.addresses.iter().map(IpNet::addr).filter(|&address| !is_link_local(address));
            owned.extend(addresses.map(|address| (address.into(), Owner::Own(id))));
        }
        for (prefix, owner) in owned {
            let _ = self.owned.insert(prefix, self.owners.len() as u32);
            self.owners.push(owner);
        }
    }

    /// An interface by its number.
    #[inline]
    pub fn get(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(usize::from(id.0))?.as_ref()
    }

    /// All interfaces.
    pub fn iter(&self) -> impl Iterator<Item = (InterfaceId, &Interface)> {
        numbered(&self.interfaces)
    }

    /// One more than the highest number.
    pub fn span(&self) -> u16 {
        self.interfaces.len() as u16
    }

    /// Number of interfaces.
    pub fn len(&self) -> usize {
        self.by_port.len()
    }

    /// Whether there is no interface.
    pub fn is_empty(&self) -> bool {
        self.by_port.is_empty()
    }

    /// The interface of frames with this VLAN tag (`None`: without) on this port.
    #[inline]
    pub fn by_port(&self, port: PortId, vlan: Option<u16>) -> Option<InterfaceId> {
        if vlan.is_none() {
            return self.untagged.get(usize::from(port.0)).copied().flatten();
        }
        let at = self.by_port.binary_search_by_key(&(port, vlan), |&(key, _)| key).ok()?;
        Some(self.by_port[at].1)
    }

    /// The first interface of a zone.
    pub fn first_of(&self, zone: ZoneId) -> Option<InterfaceId> {
        numbered(&self.interfaces).find(|(_, interface)| interface.zone == zone).map(|(id, _)| id)
    }

    /// What an address of a packet on `interface` is to the router.
    #[inline]
    pub fn classify(&self, interface: InterfaceId, address: IpAddr) -> AddressClass {
        let by_form = match address {
            IpAddr::V4(address) => classify_v4(address),
            IpAddr::V6(address) => classify_v6(address),
        };
        match by_form {
            AddressClass::LinkLocal if self.get(interface).is_some_and(|it| it.has_address(address)) => {
                AddressClass::Own(interface)
            }
            AddressClass::Multicast if self.has_joined(interface, address) => AddressClass::JoinedGroup,
            AddressClass::Unicast | AddressClass::LinkLocal => {
                match self.owned.lookup(address).and_then(|at| self.owners.get(at as usize)) {
                    Some(Owner::Own(id)) => AddressClass::Own(*id),
                    Some(Owner::Proxy) => AddressClass::Proxy,
                    Some(Owner::SubnetBroadcast(id)) => AddressClass::SubnetBroadcast(*id),
                    None => by_form,
                }
            }
            other => other,
        }
    }

    /// Whether an interface listens to a multicast group: all systems and all routers (RFC 1112 section 4, RFC 4291
    /// section 2.8), and the solicited-node groups of what it answers for.
    pub fn has_joined(&self, interface: InterfaceId, group: IpAddr) -> bool {
        let Some(it) = self.get(interface) else { return false };
        match group {
            IpAddr::V4(group) => matches!(group.octets(), [224, 0, 0, 1 | 2]),
            IpAddr::V6(_) if !it.ipv6 => false,
            IpAddr::V6(group) => {
                let well_known = [(0xff01, 1), (0xff02, 1), (0xff01, 2), (0xff02, 2), (0xff05, 2)];
                well_known.iter().any(|&(scope, id)| group == Ipv6Addr::new(scope, 0, 0, 0, 0, 0, 0, id))
                    || self.joined_solicited_node(interface, it, group)
            }
        }
    }

    fn joined_solicited_node(&self, id: InterfaceId, it: &Interface, group: Ipv6Addr) -> bool {
        let of_own = |own: IpAddr| matches!(own, IpAddr::V6(own) if solicited_node(own) == group);
        let of_proxy = |proxy: &ProxyPrefix| match proxy.prefix {
            IpNet::V6(net) if proxy.interface == id => {
                // The group tells the last 24 bits only: it may be an address of the prefix if those match.
                let fixed = net.netmask().to_bits() & 0xff_ffff;
                solicited_node(group) == group && (net.network().to_bits() ^ group.to_bits()) & fixed == 0
            }
            _ => false,
        };
        it.own_addresses().any(of_own) || self.proxies.iter().any(of_proxy)
    }

    /// Whether an ARP request or neighbour solicitation for `target` that arrived on `interface` is to be answered with
    /// the interface's MAC address (RFC 826; RFC 4861 section 7.2.4): its own addresses and what it answers for. An
    /// address of another interface is not answered for, so that zones learn nothing of one another.
    pub fn answers_for(&self, interface: InterfaceId, target: IpAddr) -> bool {
        self.get(interface).is_some_and(|it| it.has_address(target))
            || self.answers.get(usize::from(interface.0)).is_some_and(|trie| trie.lookup(target).is_some())
    }

    /// Our address to use as the source of packets that the router originates to `destination` through `interface`, such
    /// as ICMP errors (RFC 1812 section 4.3.2.4; RFC 4443 section 2.2; a subset of RFC 6724 section 5): an address of the
    /// interface of the destination's scope, with the longest common prefix; else an address of another interface; else
    /// the link-local one. `None` if the router has no address of that family.
    pub fn source_for(&self, interface: InterfaceId, destination: IpAddr) -> Option<IpAddr> {
        let outgoing = self.get(interface)?;
        if is_link_local(destination) {
            let own =
                outgoing.own_addresses().find(|own| is_link_local(*own) && same_family(*own, destination));
            if own.is_some() {
                return own;
            }
        }
        let elsewhere = || self.interfaces.iter().flatten().find_map(|it| best_source(it, destination));
        best_source(outgoing, destination)
            .or_else(elsewhere)
            .or_else(|| outgoing.own_addresses().find(|own| same_family(*own, destination)))
    }

    /// Our address to ask for the neighbour `target` from: the sender of an ARP request, or the source of a neighbour
    /// solicitation (RFC 4861 section 7.2.2). IPv6 takes an address of this interface; IPv4 may take another's where the
    /// interface has none. `None` if there is none at all.
    pub fn solicitation_source(&self, interface: InterfaceId, target: IpAddr) -> Option<IpAddr> {
        let outgoing = self.get(interface)?;
        match target {
            IpAddr::V4(_) => self.source_for(interface, target),
            IpAddr::V6(_) if is_link_local(target) => outgoing.link_local().map(IpAddr::V6),
            IpAddr::V6(_) => best_source(outgoing, target).or(outgoing.link_local().map(IpAddr::V6)),
        }
    }

    /// Checks what an ARP packet or a neighbour discovery message on `interface` says: that the station `address` has
    /// the link-layer address `mac`.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub fn plausible_neighbour(
        &self,
        interface: InterfaceId,
        address: IpAddr,
        mac: MacAddress,
    ) -> Result<(), ImplausibleNeighbour> {
        let it = self.get(interface).ok_or(ImplausibleNeighbour::NotOnLink)?;
        if !is_unicast_mac(mac) {
            return Err(ImplausibleNeighbour::MacNotUnicast);
        }
        if mac == it.mac {
            return Err(ImplausibleNeighbour::OwnMac);
        }
        match self.classify(interface, address) {
            AddressClass::Own(_) | AddressClass::Proxy => Err(ImplausibleNeighbour::OwnAddress),
            AddressClass::Unicast | AddressClass::LinkLocal if it.is_on_link(address) => Ok(()),
            AddressClass::Unicast | AddressClass::LinkLocal => Err(ImplausibleNeighbour::NotOnLink),
            _ => Err(ImplausibleNeighbour::AddressNotUnicast),
        }
    }

    /// The routes that follow from the interfaces: to each of their networks, and to their own addresses.
    pub fn routes(&self) -> Vec<Route> {
        let own: Arc<[NextHop]> = Arc::new([]);
        let mut routes = Vec::new();
        for (id, interface) in self.iter() {
            let direct: Arc<[NextHop]> = Arc::new([NextHop { interface: id, gateway: None }]);
            for network in interface.addresses.iter().filter(|network| !is_link_local(network.addr())) {
                let (metric, origin) = (0, RouteOrigin::Connected);
                let (prefix, kind, next_hops) = (network.trunc(), RouteKind::Unicast, Arc::clone(&direct));
                routes.push(Route { prefix, next_hops, kind, metric, origin });
                let (prefix, kind, next_hops) = (network.addr().into(), RouteKind::Local, Arc::clone(&own));
                // A host address is its own network: one route says it all.
                if prefix == network.trunc() {
                    routes.pop();
                }
                routes.push(Route { prefix, next_hops, kind, metric, origin });
            }
        }
        routes
    }
}

fn numbered(interfaces: &[Option<Interface>]) -> impl Iterator<Item = (InterfaceId, &Interface)> {
    interfaces.iter().enumerate().filter_map(|(at, it)| Some((InterfaceId(at as u16), it.as_ref()?)))
}

fn same_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}

/// The address of an interface to speak from, of more than link-local scope: in the destination's network if possible,
/// then with the longest common prefix, then in the order of the configuration.
fn best_source(interface: &Interface, destination: IpAddr) -> Option<IpAddr> {
    let candidates = interface.addresses.iter().enumerate();
    candidates
        .filter(|(_, network)| same_family(network.addr(), destination) && !is_link_local(network.addr()))
        .max_by_key(|(at, network)| {
            let shared = common_prefix_bits(network.addr(), destination);
            (network.contains(&destination), shared, std::cmp::Reverse(*at))
        })
        .map(|(_, network)| network.addr())
}

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    match address.octets() {
        [0, ..] => AddressClass::Unspecified,
        [127, ..] => AddressClass::Loopback,
        [224..=239, ..] => AddressClass::Multicast,
        [255, 255, 255, 255] => AddressClass::Broadcast,
        [240..=255, ..] => AddressClass::Reserved,
        [169, 254, ..] => AddressClass::LinkLocal,
        _ => AddressClass::Unicast,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    if address.is_multicast() {
        AddressClass::Multicast
    } else if address.is_unspecified() {
        AddressClass::Unspecified
    } else if address.is_loopback() {
        AddressClass::Loopback
    } else if address.to_ipv4_mapped().is_some() {
        AddressClass::Reserved
    } else if address.is_unicast_link_local() {
        AddressClass::LinkLocal
    } else {
        AddressClass::Unicast
    }
}

fn check_interface(id: InterfaceId, it: &Interface, errors: &mut Vec<InterfaceError>) {
    if let Some(vlan) = it.vlan.filter(|vlan| !(1..=4094).contains(vlan)) {
        errors.push(InterfaceError::Vlan { interface: id, vlan });
    }
    if !is_unicast_mac(it.mac) {
        errors.push(InterfaceError::Mac { interface: id });
    }
    let least = if it.ipv6 { IPV6_MTU_BYTES_MIN } else { IPV4_MTU_BYTES_MIN };
    if it.mtu < least {
        errors.push(InterfaceError::Mtu { interface: id, mtu: it.mtu, least });
    }
    if it.addresses.len() > ADDRESSES_MAX {
        errors.push(InterfaceError::TooManyAddresses { interface: id, count: it.addresses.len() });
    }
    for &network in &it.addresses {
        let address = network.addr();
        let by_form = match address {
            IpAddr::V4(address) => classify_v4(address),
            IpAddr::V6(address) => classify_v6(address),
        };
        let reason = match by_form {
            AddressClass::Unicast | AddressClass::LinkLocal if address.is_ipv6() && !it.ipv6 => {
                "IPv6 is off there"
            }
            AddressClass::Unicast | AddressClass::LinkLocal if is_network_number(network, address) => {
                "it is the number of its network"
            }
            AddressClass::Unicast | AddressClass::LinkLocal
                if subnet_broadcast(network).is_some_and(|broadcast| address == broadcast) =>
            {
                "it is the broadcast address of its network"
            }
            AddressClass::Unicast | AddressClass::LinkLocal => continue,
            AddressClass::Multicast => "it is a multicast group",
            AddressClass::Loopback => "it is a loopback address",
            AddressClass::Unspecified => "it is unspecified",
            _ => "it is reserved",
        };
        errors.push(InterfaceError::Address { interface: id, address: network, reason });
    }
}

/// Finds what two interfaces, or one twice, can't both have: a port and VLAN, an address, a network.
fn check_duplicates(interfaces: &[Option<Interface>], errors: &mut Vec<InterfaceError>) {
    let mut ports: Vec<_> = numbered(interfaces).map(|(id, it)| ((it.port, it.vlan), id)).collect();
    ports.sort_unstable();
    for pair in ports.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        errors.push(InterfaceError::SamePort { first: pair[0].1, second: pair[1].1 });
    }
    // Addresses are compared as host prefixes. Two addresses of one interface may share their network.
    let mut prefixes: Vec<(IpNet, InterfaceId)> = Vec::new();
    for (id, it) in numbered(interfaces) {
        let global = || it.addresses.iter().filter(|network| !is_link_local(network.addr()));
        prefixes.extend(global().map(|network| (IpNet::from(network.addr()), id)));
        let networks: HashSet<IpNet> = global().map(IpNet::trunc).collect();
        let wide = networks.into_iter().filter(|network| network.prefix_len() < network.max_prefix_len());
        prefixes.extend(wide.map(|network| (network, id)));
    }
    prefixes.sort_unstable();
    for pair in prefixes.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        errors.push(InterfaceError::Duplicate { address: pair[0].0, first: pair[0].1, second: pair[1].1 });
    }
}

#[cfg(test)]
#[path = "interface_tests.rs"]
mod tests;
