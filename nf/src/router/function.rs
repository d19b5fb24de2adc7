//! The router: the forwarder at the end of a chain.
//!
//! What: routes by longest prefix, resolves next hops by ARP and neighbour discovery, answers for its own addresses, and
//! reports by ICMP what it can't deliver. The parts: `link` takes ARP and neighbour discovery, `local` what
//! is for the router itself, `host` what goes to the host stack and comes from there, `forward` all else; `effects` makes true what they proposed.
//!
//! **Invalidation (R8).** A forwarding decision names the ports it came in and goes out by, its neighbour and the slice of
//! the route table that its destination lies in.
//!
//! **Use of neighbours.** Hits of the flow cache don't come here. When the reachable time of a neighbour runs out, its
//! watch is touched: the next packet of each flow through it walks once more, which tells that the neighbour is
//! used, and that it is to be probed (RFC 4861 section 7.3.3). That is one walk a flow about every 30 seconds.
//!
//! **Held packets.** Where resolution fails, they walk again while the failure is remembered, and so each gets its
//! ICMP error, within the rate limits.
//!
//! **Not yet.** IPv4 packets without "don't fragment" that exceed the MTU are dropped and counted, not fragmented; VLAN
//! interfaces are refused. Fragments for the router itself are refused.

use super::effects::{OnFail, Outcome, Staged, carry_out, dropped};
use super::interface::{AddressClass, InterfaceId};
use super::lpm::{NextHop, RouteKind};
use super::neighbour::{NeighbourInfo, NeighbourState};
use super::state::{Router, neighbour_watch};
use crate::explain::Notes;
use crate::function::{FlowFunction, Forwarder};
use crate::headers::{Network, ethernet};
use crate::walk::{Commit, Tick, Walk};
use crate::zone::ZoneId;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::field::{Field, Reads};
use std::any::Any;
use std::net::IpAddr;

impl Router {
    /// The interface that the packet came in by; none for tagged frames and for frames to other stations. Every decision names
    /// its port.
    fn ingress(&self, walk: &mut Walk<'_>) -> Option<InterfaceId> {
        if !walk.headers.original().tags.is_empty() {
            return None;
        }
        let id = self.interface_of(walk.port)?;
        if self.is_handed_over(walk.port) {
            return Some(id);
        }
        let to = walk.headers.ethernet_destination();
        (to == self.interfaces.get(id)?.mac || ethernet::is_group(to)).then_some(id)
    }
}

impl FlowFunction for Router {
    type Staged = Staged;

    fn kind(&self) -> &'static str {
        "router"
    }

    fn reads(&self) -> Reads {
        Reads::none().with(&[
            Field::EthernetDestination,
            Field::Ipv4Source,
            Field::Ipv4Destination,
            Field::Ipv6Source,
            Field::Ipv6Destination,
        ])
    }

    fn admit(&self, walk: &mut Walk<'_>) -> Outcome {
        if self.host_behind(walk.port).is_some() {
            return self.admit_from_host(walk);
        }
        let Some(ingress) = self.ingress(walk) else { return dropped(DropReason::NotForUs) };
        let ipv6 = self.interfaces.get(ingress).is_some_and(|it| it.ipv6);
        match walk.headers.original().network {
            Network::Arp(arp) => self.admit_arp(walk, ingress, &arp),
            Network::V6(_) if !ipv6 => dropped(DropReason::UnsupportedProtocol),
            Network::V6(_) if walk.headers.is_link_control() => self.admit_discovery(walk, ingress),
            Network::V4(_) | Network::V6(_) => self.admit_ip(walk, ingress),
            Network::None => dropped(DropReason::UnsupportedProtocol),
        }
    }

    fn explain(&self, walk: &Walk<'_>, _: Option<&Staged>, notes: &mut Notes) {
        self.say_route(walk, notes);
    }

    fn commit(&mut self, staged: Staged, commit: &mut Commit<'_>) {
        self.make_true(staged, commit);
    }

    /// Timers of neighbours: probes, failures, and what is no longer known to be reachable.
    fn tick(&mut self, tick: &mut Tick<'_>) {
        let mut pending = std::mem::take(&mut self.pending);
        self.forget_some(tick.budget, &mut pending);
        carry_out(self, &pending, tick, OnFail::Discard);
        let mut actions = std::mem::take(&mut self.actions);
        let mut asked = Vec::new();
        let (now, budget) = (tick.now, tick.budget);
        let mut ask = |id| {
            asked.push(id);
            None
        };
        self.neighbours.tick(now, budget, &mut ask, &mut actions);
        for id in asked {
            let just_stale = |it: &NeighbourInfo| it.state == NeighbourState::Stale && it.since == now;
            if self.neighbours.get(id).as_ref().is_some_and(just_stale) {
                tick.changed(neighbour_watch(id));
            }
        }
        carry_out(self, &actions, tick, OnFail::Release);
        actions.clear();
        self.actions = actions;
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Forwarder for Router {
    fn is_behind(&self, address: IpAddr, zone: ZoneId) -> bool {
        let unicast = self.routes.lookup(address).filter(|route| route.kind == RouteKind::Unicast);
        let in_zone = |hop: &NextHop| self.interfaces.get(hop.interface).is_some_and(|it| it.zone == zone);
        unicast.is_some_and(|route| route.next_hops.iter().any(in_zone))
    }

    fn destination_zone(&self, walk: &mut Walk<'_>) -> Option<ZoneId> {
        let ingress = self.view_from(walk.port)?;
        let destination = walk.headers.destination()?;
        let (class, route) = self.destination(walk, ingress, destination);
        match class {
            AddressClass::Own(_)
            | AddressClass::JoinedGroup
            | AddressClass::Broadcast
            | AddressClass::SubnetBroadcast(_) => return Some(ZoneId::LOCAL),
            AddressClass::Unicast | AddressClass::Proxy => {}
            _ => return None,
        }
        let route = route?;
        if route.kind == RouteKind::Local {
            return Some(ZoneId::LOCAL);
        }
        let hop = self.next_hop(route, walk, destination)?;
        self.interfaces.get(hop.interface).map(|it| it.zone)
    }
}
