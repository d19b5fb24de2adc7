//! By which route and neighbour the router forwarded, for people.

use super::forward::asker;
use super::interface::AddressClass;
use super::lpm::RouteKind;
use super::state::Router;
use crate::explain::Notes;
use crate::walk::Walk;

impl Router {
    /// Says what the destination is to the router, which route leads there, and who is next on that way.
    pub(super) fn say_route(&self, walk: &Walk<'_>, notes: &mut Notes) {
        let Some(ingress) = self.view_from(walk.port) else {
            return notes.say("interface", "none on this port");
        };
        let Some((_, destination)) = walk.headers.current().addresses() else { return };
        let class = self.interfaces.classify(ingress, destination);
        if !class.is_routed() {
            let is_local = matches!(class, AddressClass::Own(_));
            let is_hosts = is_local && self.host_for(walk).is_some();
            return notes.say("destination", if is_hosts { "the host stack" } else { show_class(class) });
        }
        let Some(route) = self.routes.lookup(destination) else { return notes.say("route", "none") };
        notes.say("route", &route.prefix);
        if route.kind != RouteKind::Unicast {
            return notes.say("kind", show_kind(route.kind));
        }
        let Some(hop) = self.next_hop(route, walk, destination) else { return };
        let next = hop.gateway.unwrap_or(destination);
        notes.say("next_hop", &next);
        let view = self.neighbours.lookup(hop.interface, next, asker(walk, ingress), walk.now);
        notes.say("neighbour", view.state.map_or("unknown", |state| state.name()));
    }
}

const fn show_kind(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Unicast => "unicast",
        RouteKind::Local => "local",
        RouteKind::Blackhole => "blackhole",
        RouteKind::Prohibit => "prohibit",
        RouteKind::Unreachable => "unreachable",
    }
}

const fn show_class(class: AddressClass) -> &'static str {
    match class {
        AddressClass::Own(_) => "the router itself",
        AddressClass::Proxy => "an address that a function translates",
        AddressClass::Broadcast => "limited broadcast",
        AddressClass::SubnetBroadcast(_) => "directed broadcast",
        AddressClass::JoinedGroup => "a multicast group of the router",
        AddressClass::Multicast => "multicast",
        AddressClass::Unspecified => "unspecified",
        AddressClass::Loopback => "loopback",
        AddressClass::Reserved => "reserved",
        AddressClass::LinkLocal => "link-local",
        AddressClass::Unicast => "unicast",
    }
}
