//! Which worker owns a packet (R14), where several work.
//!
//! Each worker has sessions, flow cache and functions of its own, and shares none of them. So both directions of a connection,
//! and the errors about it, go to one worker, and every worker says the same of a packet, without asking another: placing is
//! a function of the packet, of the port that it came from, and of the configuration.
//!
//! - Where nothing is translated: by a keyed hash of addresses, protocol and ports that is the same for both directions.
//! - What a NAT translates is placed by its inside address: on the way out that is the source, and what comes back to an
//!   external address is placed by the port, whose block belongs to the worker that gave it out ([`crate::nat::PortShare`]). Static
//!   translations lead to an inside address, which places. So all of a host's connections, its mappings and its limits have
//!   one owner (RFC 4787 sections 4.1 and 5).
//! - What the data plane itself sends is placed as its answer will be.
//! - An ICMP error is placed as the answer to the packet that it quotes.
//! - Fragments are placed by their addresses where these suffice; else the first fragment of their datagram tells whoever polls
//!   the port: it itself, or the one of them whom all choose by addresses and identification.
//! - What is about the link (ARP, neighbour discovery) goes to everyone: each worker knows its neighbours itself.
//!
//! Hashes are keyed (R16): nobody can choose addresses that all fall to one worker. The owners of external ports are no secret:
//! whoever sends to one port always meets one owner.

mod datagrams;
mod ends;
mod link;
mod moves;

pub use moves::Moved;

use crate::nat::scope::Scope;
use crate::nat::{ExternalEnd, Inside, NatConfig, NatPlan, Protocol};
pub use crate::owners::Owners;
use crate::router::{RouterConfig, RouterError, Ways};
use crate::zone::ZoneId;
use datagrams::Datagrams;
use ends::{Ends, Fragment, Read};
use link::LinkBudget;
use millrace_dataplane::flow::hash::KeyedHash;
use millrace_dataplane::handoff::{Datagram, Place, Placed, Told, WorkerId};
use millrace_dataplane::port::PortId;
use millrace_dataplane::time::Time;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

/// What translates in a chain.
#[derive(Debug)]
pub struct Translation {
    scope: Scope,
    plan: Arc<NatPlan>,
    ways: Ways,
}

impl Translation {
    /// Of a chain with this NAT and this router.
    ///
    /// # Errors
    /// Every contradiction in the router's configuration.
    pub fn new(nat: &NatConfig, router: &RouterConfig) -> Result<Self, Vec<RouterError>> {
        let ways = Ways::new(router)?;
        Ok(Self { scope: Scope::new(nat), plan: Arc::clone(&nat.plan), ways })
    }

    /// What places an IPv4 packet from `zone`. Whether an inside address is translated does not matter, nor where it calls, as
    /// long as that is not the inside: so a change of either moves no connection.
    fn by(&self, port: PortId, zone: ZoneId, ends: &Ends) -> By {
        if zone == ZoneId::LOCAL {
            return self.by_answer(port, ends);
        }
        let address = |number: u128| Ipv4Addr::from_bits(number as u32);
        let (source, destination) = (address(ends.source), address(ends.destination));
        let is_external = self.scope.is_external(destination);
        let stays_inside = || self.ways.zone(port, IpAddr::V4(destination)) == Some(ZoneId(0));
        if zone == ZoneId(0) {
            return if is_external || !stays_inside() { By::Host(source) } else { By::Connection };
        }
        if is_external {
            // The answer of a host that a forward leads to, and that is not inside, to an inside host that called it by that.
            // From where only the external addresses are known, none comes.
            if self.scope.outside == Some(zone) {
                return self.by_external(ends, destination);
            }
            return match self.static_ends(ends, source, destination) {
                Statics::Ends(true, _) => By::Host(source),
                Statics::Ports => By::Ports,
                Statics::Ends(false, _) => self.by_external(ends, destination),
            };
        }
        if stays_inside() {
            return By::Host(destination);
        }
        self.by_static_end(ends, source, destination)
    }

    /// A packet of the data plane's own: as its answer, which comes from where it goes.
    fn by_answer(&self, port: PortId, ends: &Ends) -> By {
        let destination = Ipv4Addr::from_bits(ends.destination as u32);
        if self.scope.is_external(destination) {
            return self.by_external(ends, destination);
        }
        match self.ways.zone(port, IpAddr::V4(destination)) {
            Some(ZoneId::LOCAL) | None => By::Connection,
            Some(zone) => self.by(port, zone, &ends.inverse()),
        }
    }

    /// Between zones that are not the inside: a forward may lead to such a host, too, and places all of its connections there.
    fn by_static_end(&self, ends: &Ends, source: Ipv4Addr, destination: Ipv4Addr) -> By {
        match self.static_ends(ends, source, destination) {
            Statics::Ports => By::Ports,
            Statics::Ends(true, true) => By::Host(source.min(destination)),
            Statics::Ends(true, false) => By::Host(source),
            Statics::Ends(false, true) => By::Host(destination),
            Statics::Ends(false, false) => By::Connection,
        }
    }

    /// Whether static translations lead to source and destination.
    fn static_ends(&self, ends: &Ends, source: Ipv4Addr, destination: Ipv4Addr) -> Statics {
        let rules = self.plan.rules();
        if rules.is_empty() {
            return Statics::Ends(false, false);
        }
        let is_whole = |address| rules.one_to_one_external(address).is_some();
        let (from, to) = (is_whole(source), is_whole(destination));
        match (Protocol::from_ip(ends.protocol), ends.ports) {
            (None, _) => Statics::Ends(from, to),
            // No port tells more.
            (Some(_), _) if from && to => Statics::Ends(from, to),
            (Some(_), None) => Statics::Ports,
            (Some(protocol), Some((source_port, destination_port))) => {
                let is_static = |address, port| {
                    let inside = Inside { protocol, endpoint: SocketAddrV4::new(address, port) };
                    rules.external_of(&inside).is_some()
                };
                Statics::Ends(is_static(source, source_port), is_static(destination, destination_port))
            }
        }
    }

    /// What places a packet to one of the external addresses.
    fn by_external(&self, ends: &Ends, destination: Ipv4Addr) -> By {
        let port = ends.ports.map(|(_, port)| port);
        match self.plan.external_end(ends.protocol, destination, port) {
            Some(ExternalEnd::Host(inside)) => By::Host(inside),
            Some(ExternalEnd::Port(port)) => By::Block(port),
            None if Protocol::from_ip(ends.protocol).is_none() => By::Connection,
            None => By::Ports,
        }
    }
}

/// To which ends of a packet static translations lead.
enum Statics {
    /// The source, the destination.
    Ends(bool, bool),
    /// Its ports would tell.
    Ports,
}

/// What a packet is placed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Both ends, in any order.
    Connection,
    /// The inside host.
    Host(Ipv4Addr),
    /// The block of an external port.
    Block(u16),
    /// Ports that this fragment does not have.
    Ports,
}

/// How the packets of a port are placed.
#[derive(Clone, Debug)]
pub struct PortRule {
    /// The port.
    pub port: PortId,
    /// The zone that its packets come from; none if it belongs to no chain.
    pub zone: Option<ZoneId>,
    /// What translates in its chain; none if nothing does.
    pub translation: Option<Arc<Translation>>,
}

/// Places the packets of a port.
#[derive(Debug)]
pub struct Placing {
    rule: PortRule,
    owners: Owners,
    hash: KeyedHash,
    datagrams: Datagrams,
    /// Of the last fragment; without an owner, if it has none.
    told: Told,
    link: LinkBudget,
}

impl Placing {
    /// All placings of an instance have the same owners and the same `hash`.
    pub fn new(rule: PortRule, owners: Owners, hash: KeyedHash) -> Self {
        Self {
            rule,
            owners,
            hash,
            datagrams: Datagrams::default(),
            told: Told::default(),
            link: LinkBudget::default(),
        }
    }

    /// The packets of the port are placed by another rule from now on.
    pub fn set_rule(&mut self, rule: PortRule) {
        self.rule = rule;
    }

    fn owner(&self, ends: &Ends) -> Option<WorkerId> {
        let by = match (&self.rule.translation, self.rule.zone) {
            (Some(translation), Some(zone)) if ends.is_ipv4 => translation.by(self.rule.port, zone, ends),
            _ => By::Connection,
        };
        match by {
            By::Host(address) => Some(self.owners.by_host(&self.hash, address)),
            By::Block(port) => Some(self.owners.by_port(port)),
            By::Connection => self.by_connection(ends),
            By::Ports => None,
        }
    }

    /// By its addresses where these suffice. Else the first fragment tells by its ports where all go.
    #[cold]
    fn place_fragment(
        &mut self,
        ends: &Ends,
        fragment: Fragment,
        owner: Option<WorkerId>,
        now: Time,
    ) -> Placed {
        let Fragment { identification, piece } = fragment;
        if let Some(owner) = owner
            && (ends.ports.is_none() || self.owner(&Ends { ports: None, ..*ends }).is_some())
        {
            return Placed::Owner(owner);
        }
        let (addresses, is_ipv4) = ([ends.source, ends.destination], ends.is_ipv4);
        // Later fragments of IPv6 may name an extension header that the first has (RFC 8200 section 4.5).
        let protocol = if is_ipv4 { ends.protocol } else { 0 };
        let words = |number: u128| [(number >> 64) as u64, number as u64];
        let ([a, b], [c, d]) = (words(ends.source), words(ends.destination));
        let hash = self.hash.hash(&[a, b, c, d, u64::from(identification) << 8 | u64::from(protocol)]);
        let datagram = Datagram { addresses, identification, is_ipv4, protocol, hash };
        self.told = Told { datagram, owner: owner.unwrap_or_default(), bytes: piece.bytes() };
        if let Some(owner) = owner {
            self.datagrams.first(self.told, now);
            return Placed::First(owner);
        }
        self.datagrams.owner(&datagram, piece, now).map_or(Placed::Waits, Placed::Owner)
    }

    /// The same for both directions: the lower end first.
    fn by_connection(&self, ends: &Ends) -> Option<WorkerId> {
        let (source_port, destination_port) = ends.ports?;
        let (one, other) = ((ends.source, source_port), (ends.destination, destination_port));
        let ((low, low_port), (high, high_port)) = if one <= other { (one, other) } else { (other, one) };
        let ports = u64::from(low_port) << 32 | u64::from(high_port) << 16 | u64::from(ends.protocol);
        let words = |number: u128| [(number >> 64) as u64, number as u64];
        let ([a, b], [c, d]) = (words(low), words(high));
        let hash = if ends.is_ipv4 {
            self.hash.hash(&[b << 32 | d, ports])
        } else {
            self.hash.hash(&[a, b, c, d, ports])
        };
        Some(self.owners.by_hash(hash))
    }
}

impl Place for Placing {
    #[inline]
    fn place(&mut self, frame: &[u8], now: Time) -> Placed {
        let (ends, fragment) = match Read::of(frame) {
            Read::Packet(ends, fragment) => (ends, fragment),
            Read::LinkControl if self.link.has_room(now) => return Placed::Everyone,
            // Who answers for all.
            Read::LinkControl => return Placed::Owner(self.owners.first),
            Read::Other => return Placed::Owner(self.owners.first),
        };
        let owner = self.owner(&ends);
        match fragment {
            None => Placed::Owner(owner.unwrap_or(self.owners.first)),
            Some(fragment) => self.place_fragment(&ends, fragment, owner, now),
        }
    }

    fn datagram(&self) -> Datagram {
        self.told.datagram
    }

    fn told(&self) -> Told {
        self.told
    }

    fn learn(&mut self, told: Told, now: Time) {
        self.datagrams.first(told, now);
    }
}
