//! The router and the host stack: what of the packets for our own addresses goes there, and what comes from there.
//!
//! The host stack is behind a port whose zone is [`ZoneId::LOCAL`](crate::zone::ZoneId::LOCAL). What it sends is routed as any
//! packet is, but originated here: its TTL stays, and its source is one of our addresses.

use super::addressing::is_link_local;
use super::config::{HOST_PORT_FIRST, HostSide};
use super::effects::{Outcome, dropped};
use super::interface::{AddressClass, InterfaceId};
use super::state::{Router, port_watch};
use crate::function::Verdict;
use crate::headers::{Transport, icmpv4, icmpv6, protocol};
use crate::walk::Walk;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::port::PortId;

/// The interface of packets that came by none: it has no addresses, and belongs to no group.
const NO_INTERFACE: InterfaceId = InterfaceId(u16::MAX);

impl Router {
    /// The host stack, if it is behind this port.
    pub(super) fn host_behind(&self, port: PortId) -> Option<&HostSide> {
        self.config.host.as_ref().filter(|host| host.port == port)
    }

    /// Where addresses are looked at from: the interface of the port.
    pub(super) fn view_from(&self, port: PortId) -> Option<InterfaceId> {
        self.interface_of(port).or_else(|| self.host_behind(port).map(|_| NO_INTERFACE))
    }

    /// The host stack, if it takes this packet for one of our addresses.
    pub(super) fn host_for(&self, walk: &Walk<'_>) -> Option<&HostSide> {
        let host = self.config.host.as_ref()?;
        // Sessions that end here began with a packet that the host stack took or sent.
        (walk.session.is_some() || is_expected(host, walk)).then_some(host)
    }

    /// The packet goes to the host stack.
    pub(super) fn deliver(walk: &mut Walk<'_>, host: &HostSide) -> Outcome {
        if !walk.fits(host.mtu) {
            return dropped(DropReason::MtuExceeded);
        }
        // Only where sessions are kept does the key hold what the decision went by.
        if walk.session.is_none() && !walk.record.wants_session {
            walk.do_not_cache();
        }
        walk.depend(port_watch(host.port));
        (Verdict::Forward(host.port), None)
    }

    /// A packet of the host stack.
    pub(super) fn admit_from_host(&self, walk: &mut Walk<'_>) -> Outcome {
        let Some(source) = walk.headers.source() else { return dropped(DropReason::UnsupportedProtocol) };
        // As it came: a function may have given it another since.
        let came = walk.headers.original().addresses().map_or(source, |(source, _)| source);
        if !matches!(self.interfaces.classify(NO_INTERFACE, came), AddressClass::Own(_)) {
            return dropped(DropReason::MartianAddress);
        }
        let Some(destination) = walk.headers.destination() else {
            return dropped(DropReason::UnsupportedProtocol);
        };
        let (class, route) = self.destination(walk, NO_INTERFACE, destination);
        match class {
            AddressClass::Own(_) => self.admit_local(walk, NO_INTERFACE, false),
            AddressClass::Unicast if !is_link_local(destination) => {
                self.route(walk, NO_INTERFACE, destination, route)
            }
            AddressClass::Proxy => dropped(DropReason::NoRoute),
            _ => dropped(DropReason::MartianAddress),
        }
    }
}

/// A service listens there; or it is an answer to the host stack where no function keeps sessions.
fn is_expected(host: &HostSide, walk: &Walk<'_>) -> bool {
    let parsed = walk.headers.current();
    let is_answered = !walk.record.wants_session;
    let protocol = match parsed.transport {
        Transport::Tcp(_) => protocol::TCP,
        Transport::Udp(_) => protocol::UDP,
        Transport::Icmpv4(icmp) => return is_answered && icmp.icmp_type == icmpv4::ECHO_REPLY,
        Transport::Icmpv6(icmp) => return is_answered && icmp.icmp_type == icmpv6::ECHO_REPLY,
        _ => return false,
    };
    let (Some((_, address)), Some((_, port))) = (parsed.addresses(), parsed.ports()) else { return false };
    let listens = host.services.iter().any(|service| {
        (service.protocol, service.port) == (protocol, port)
            && service.address.is_none_or(|own| own == address)
    });
    listens || is_answered && port >= HOST_PORT_FIRST
}
