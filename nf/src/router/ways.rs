//! Where destinations are, without a router at work: what is asked before a packet has reached any.

use super::config::{RouterConfig, RouterError, Tables, check_and_build};
use super::interface::{AddressClass, InterfaceId, Interfaces};
use super::lpm::{RouteKind, RouteTable};
use crate::zone::ZoneId;
use ipnet::{IpNet, Ipv4Net};
use millrace_dataplane::port::PortId;
use std::net::IpAddr;

/// The interfaces and routes of a router's configuration.
#[derive(Debug)]
pub struct Ways {
    interfaces: Interfaces,
    routes: RouteTable,
}

impl Ways {
    /// Those of a configuration.
    ///
    /// # Errors
    /// Every contradiction in it.
    pub fn new(config: &RouterConfig) -> Result<Self, Vec<RouterError>> {
        let Tables { interfaces, routes } = check_and_build(config)?;
        Ok(Self { interfaces, routes })
    }

    /// The address from which the data plane speaks to another, if a way leads there.
    pub fn source_for(&self, address: IpAddr) -> Option<IpAddr> {
        if let AddressClass::Own(_) = self.interfaces.classify(InterfaceId(u16::MAX), address) {
            return Some(address);
        }
        let route = self.routes.lookup(address).filter(|route| route.kind == RouteKind::Unicast)?;
        self.interfaces.source_for(route.next_hops.first()?.interface, address)
    }

    /// The IPv4 networks that routes lead to, those of the interfaces included.
    pub(crate) fn networks(&self) -> impl Iterator<Item = Ipv4Net> {
        self.routes.iter().filter_map(|(_, route)| match route.prefix {
            IpNet::V4(network) => Some(network),
            IpNet::V6(_) => None,
        })
    }

    /// The zone that packets from `port` to `address` leave to; [`ZoneId::LOCAL`] if they are for the data plane itself, none
    /// if no way leads there. Of several next hops the first one counts.
    pub fn zone(&self, port: PortId, address: IpAddr) -> Option<ZoneId> {
        let ingress = self.interfaces.by_port(port, None).unwrap_or(InterfaceId(u16::MAX));
        match self.interfaces.classify(ingress, address) {
            AddressClass::Own(_)
            | AddressClass::JoinedGroup
            | AddressClass::Broadcast
            | AddressClass::SubnetBroadcast(_) => return Some(ZoneId::LOCAL),
            AddressClass::Unicast | AddressClass::Proxy => {}
            _ => return None,
        }
        let route = self.routes.lookup(address)?;
        if route.kind == RouteKind::Local {
            return Some(ZoneId::LOCAL);
        }
        self.interfaces.get(route.next_hops.first()?.interface).map(|it| it.zone)
    }
}
