//! Forwarding: which packets may pass, where they go, and what their senders are told if they can't
//! (RFC 1812 section 5, RFC 8200, RFC 4443).

use super::addressing::is_link_local;
use super::effects::{Outcome, Staged, dropped};
use super::interface::{AddressClass, InterfaceId};
use super::lpm::{NextHop, Route, RouteKind};
use super::neighbour::{Asker, Event, Needs};
use super::state::{Router, neighbour_watch, port_watch};
use crate::function::Verdict;
use crate::headers::answer::{IcmpError, icmp_error, may_answer_with_error};
use crate::headers::{Network, ethernet, ipv4};
use crate::walk::{HoldKind, Walk, hold_token};
use millrace_dataplane::drops::DropReason;
use std::net::IpAddr;

impl Router {
    /// An IP packet.
    pub(super) fn admit_ip(&self, walk: &mut Walk<'_>, ingress: InterfaceId) -> Outcome {
        // Recorded as read: what follows looks at the source as it came.
        let _ = walk.headers.source();
        let Some((source, _)) = walk.headers.original().addresses() else {
            return dropped(DropReason::UnsupportedProtocol);
        };
        if self.is_martian_source(ingress, source, self.is_handed_over(walk.port)) {
            return dropped(DropReason::MartianAddress);
        }
        if let Network::V4(ip) = &walk.headers.original().network
            && ipv4::has_source_route(ip.options.of(walk.frame))
        {
            return dropped(DropReason::SourceRoute);
        }
        let Some(destination) = walk.headers.destination() else {
            return dropped(DropReason::UnsupportedProtocol);
        };
        let link_group = ethernet::is_group(walk.headers.original().ethernet.destination);
        let (class, route) = self.destination(walk, ingress, destination);
        match class {
            AddressClass::JoinedGroup => return self.admit_local(walk, ingress, true),
            // RFC 1122 section 3.3.6, RFC 1812 section 5.3.4: link broadcasts are not for unicast packets.
            _ if link_group => return dropped(DropReason::NotForUs),
            AddressClass::Own(_) => return self.admit_local(walk, ingress, false),
            AddressClass::Unicast => {}
            // An address that we answer for, which no function translated.
            AddressClass::Proxy => return dropped(DropReason::NoRoute),
            AddressClass::LinkLocal
            | AddressClass::Unspecified
            | AddressClass::Loopback
            | AddressClass::Reserved => return dropped(DropReason::MartianAddress),
            AddressClass::Broadcast | AddressClass::SubnetBroadcast(_) | AddressClass::Multicast => {
                return dropped(DropReason::NotForUs);
            }
        }
        if is_link_local(source) {
            // RFC 4291 section 2.5.6, RFC 3927 section 2.7: not to be forwarded.
            return dropped(DropReason::MartianAddress);
        }
        if !walk.headers.may_be_forwarded() {
            return self.report(walk, ingress, IcmpError::HopLimitExceeded, DropReason::TtlExceeded);
        }
        self.route(walk, ingress, destination, route)
    }

    /// Whether no packet from elsewhere may have this source. Our own addresses are among those (RFC 1812 section 5.3.7).
    /// A hairpin has an external one, which may be our own, too.
    fn is_martian_source(&self, ingress: InterfaceId, source: IpAddr, is_hairpin: bool) -> bool {
        let class = self.interfaces.classify(ingress, source);
        class.is_martian_source() || (matches!(class, AddressClass::Own(_)) && !is_hairpin)
    }

    pub(super) fn route(
        &self,
        walk: &mut Walk<'_>,
        ingress: InterfaceId,
        destination: IpAddr,
        route: Option<&Route>,
    ) -> Outcome {
        let no_route = DropReason::NoRoute;
        let Some(route) = route else {
            return self.report(walk, ingress, IcmpError::NoRoute, no_route);
        };
        match route.kind {
            RouteKind::Blackhole => return dropped(DropReason::Blackhole),
            RouteKind::Prohibit => return self.report(walk, ingress, IcmpError::Prohibited, no_route),
            RouteKind::Unreachable if destination.is_ipv4() => {
                return self.report(walk, ingress, IcmpError::AddressUnreachable, no_route);
            }
            RouteKind::Unreachable => return self.report(walk, ingress, IcmpError::NoRoute, no_route),
            RouteKind::Local => return self.admit_local(walk, ingress, false),
            RouteKind::Unicast => {}
        }
        match self.next_hop(route, walk, destination) {
            Some(hop) => self.send(walk, ingress, hop, destination),
            None => self.report(walk, ingress, IcmpError::NoRoute, no_route),
        }
    }

    /// The packet goes to this next hop, if it fits and the neighbour is known.
    fn send(&self, walk: &mut Walk<'_>, ingress: InterfaceId, hop: NextHop, destination: IpAddr) -> Outcome {
        let Some(out) = self.interfaces.get(hop.interface).filter(|it| it.ipv6 || destination.is_ipv4())
        else {
            return self.report(walk, ingress, IcmpError::NoRoute, DropReason::NoRoute);
        };
        if !walk.fits(out.mtu) {
            return self.too_big(walk, ingress, out.mtu);
        }
        let address = hop.gateway.unwrap_or(destination);
        let asker = asker(walk, ingress);
        let view = self.neighbours.lookup(hop.interface, address, asker, walk.now);
        let ((mac, neighbour), staged) = match (view.needs, view.mac, view.id) {
            (Needs::Nothing, Some(mac), Some(id)) => ((mac, id), None),
            (Needs::Used, Some(mac), Some(id)) => ((mac, id), Some(Staged::neighbour(Event::Used { id }))),
            (Needs::Resolve, ..) => {
                let event = Event::Resolve { interface: hop.interface, address, asker };
                let token = hold_token(HoldKind::Neighbour, view.token.0);
                return (Verdict::Hold(token), Some(Staged::neighbour(event)));
            }
            (Needs::Refused, ..) => return dropped(DropReason::HoldFull),
            _ => {
                let error = IcmpError::AddressUnreachable;
                return self.report(walk, ingress, error, DropReason::NeighbourUnreachable);
            }
        };
        walk.depend_on_all([port_watch(out.port), neighbour_watch(neighbour)]);
        if self.host_behind(walk.port).is_none() {
            walk.headers.decrement_ttl();
        }
        walk.headers.set_ethernet_source(out.mac);
        walk.headers.set_ethernet_destination(mac);
        (Verdict::Forward(out.port), staged)
    }

    /// Longer than the next link's MTU. Only where the packet may not be fragmented is its sender told (RFC 1191 section
    /// 4, RFC 8201).
    fn too_big(&self, walk: &mut Walk<'_>, ingress: InterfaceId, mtu: u16) -> Outcome {
        match walk.headers.original().network {
            Network::V4(ip) if !ip.dont_fragment => dropped(DropReason::NotFragmented),
            _ => {
                let error = IcmpError::TooBig { mtu: u32::from(mtu) };
                self.report(walk, ingress, error, DropReason::MtuExceeded)
            }
        }
    }

    /// Drops a packet and tells its sender why, from the interface that it came in by, within the rate limits. The
    /// error quotes the packet as it came.
    pub(super) fn report(
        &self,
        walk: &mut Walk<'_>,
        ingress: InterfaceId,
        error: IcmpError,
        reason: DropReason,
    ) -> Outcome {
        let parsed = walk.headers.original();
        if !may_answer_with_error(parsed, error) {
            return dropped(reason);
        }
        let to = parsed.addresses().map(|(source, _)| source);
        let frame = self.interfaces.get(ingress).and_then(|it| {
            let from = self.interfaces.source_for(ingress, to?)?;
            Some((self.answer_port(walk, it), icmp_error(parsed, walk.frame, error, it.mac, from)?))
        });
        self.speak(walk, to, frame, reason)
    }
}

/// For whom a next hop is wanted: who sent the packet, as it came.
pub(super) fn asker(walk: &Walk<'_>, ingress: InterfaceId) -> Asker {
    Asker { ingress, source: walk.headers.original().addresses().map(|(source, _)| source) }
}
