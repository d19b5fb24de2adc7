//! ARP and neighbour discovery as they come in (RFC 826, 5227; RFC 4861 section 7).

use super::effects::{Outcome, Said, Staged, dropped};
use super::interface::InterfaceId;
use super::neighbour::Event;
use super::state::Router;
use crate::function::Verdict;
use crate::headers::neighbour_discovery::Message;
use crate::headers::resolve::{AdvertisementFlags, arp_reply, neighbour_advertisement};
use crate::headers::{Arp, Network, arp};
use crate::walk::Walk;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::port::MacAddress;
use std::net::{IpAddr, Ipv6Addr};

impl Router {
    /// An ARP packet: requests for what is ours are answered, and what its sender says of itself is learnt (RFC 826).
    pub(super) fn admit_arp(&self, walk: &mut Walk<'_>, ingress: InterfaceId, packet: &Arp) -> Outcome {
        let request = packet.operation == arp::REQUEST;
        if !request && packet.operation != arp::REPLY {
            return dropped(DropReason::UnsupportedProtocol);
        }
        let Some(it) = self.interfaces.get(ingress) else { return dropped(DropReason::NotForUs) };
        let (sender, target) = (IpAddr::V4(packet.sender_address), IpAddr::V4(packet.target_address));
        if packet.sender_mac == it.mac || !super::addressing::is_unicast_mac(packet.sender_mac) {
            return dropped(DropReason::MartianAddress);
        }
        let answered = request && sender != target && self.interfaces.answers_for(ingress, target);
        if answered
            && self.config.answers
            && let Some(frame) = arp_reply(walk.headers.original(), it.mac)
        {
            walk.emit(it.port, &frame);
        }
        // A reply that answers us has our address as its target; a request to us any that we answer for.
        let to_us = if request { answered } else { it.has_address(target) };
        let believed = self.interfaces.plausible_neighbour(ingress, sender, packet.sender_mac).is_ok();
        let staged = Staged {
            neighbour: believed.then(|| Event::from_arp(ingress, sender, packet.sender_mac, !request, to_us)),
            said: (answered && self.config.answers).then_some(Said::Resolution),
        };
        (Verdict::Consume, Some(staged))
    }

    /// A message of neighbour discovery. Those of routers are not for routers (RFC 4861 section 6.2.7) and end here.
    pub(super) fn admit_discovery(&self, walk: &mut Walk<'_>, ingress: InterfaceId) -> Outcome {
        let message = match Message::parse(walk.headers.original(), walk.frame) {
            Ok(Some(message)) => message,
            Ok(None) => return dropped(DropReason::UnsupportedProtocol),
            Err(reason) => return dropped(reason),
        };
        let Network::V6(ip) = walk.headers.original().network else {
            return dropped(DropReason::UnsupportedProtocol);
        };
        if ip.source.is_multicast() || ip.source.is_loopback() {
            return dropped(DropReason::MartianAddress);
        }
        match message {
            Message::NeighbourSolicitation { target, source_mac } => {
                self.solicited(walk, ingress, ip.source, target, source_mac)
            }
            Message::NeighbourAdvertisement { target, router, solicited, override_cached, target_mac } => {
                let address = IpAddr::V6(target);
                let mac = target_mac.unwrap_or(walk.headers.original().ethernet.source);
                if self.interfaces.plausible_neighbour(ingress, address, mac).is_err() {
                    return dropped(DropReason::MartianAddress);
                }
                let event = Event::Advertisement {
                    interface: ingress,
                    address,
                    mac: target_mac,
                    solicited,
                    overrides: override_cached,
                    router,
                };
                (Verdict::Consume, Some(Staged::neighbour(event)))
            }
            _ => (Verdict::Consume, None),
        }
    }

    /// A neighbour solicitation (RFC 4861 sections 7.2.3 and 7.2.4).
    fn solicited(
        &self,
        walk: &mut Walk<'_>,
        ingress: InterfaceId,
        source: Ipv6Addr,
        target: Ipv6Addr,
        source_mac: Option<MacAddress>,
    ) -> Outcome {
        let Some(it) = self.interfaces.get(ingress) else { return dropped(DropReason::NotForUs) };
        if !self.interfaces.answers_for(ingress, IpAddr::V6(target)) {
            return (Verdict::Consume, None);
        }
        if source_mac == Some(it.mac) {
            return dropped(DropReason::MartianAddress);
        }
        // Section 7.2.8: an answer on behalf of others does not override theirs.
        let own = it.has_address(IpAddr::V6(target));
        let flags = AdvertisementFlags { router: true, solicited: true, override_cached: own };
        if self.config.answers
            && let Some(frame) = neighbour_advertisement(walk.headers.original(), target, it.mac, flags)
        {
            walk.emit(it.port, &frame);
        }
        let address = IpAddr::V6(source);
        let believed = source_mac
            .filter(|&mac| self.interfaces.plausible_neighbour(ingress, address, mac).is_ok())
            .map(|mac| Event::Solicitation { interface: ingress, address, mac });
        let said = self.config.answers.then_some(Said::Resolution);
        (Verdict::Consume, Some(Staged { neighbour: believed, said }))
    }
}
