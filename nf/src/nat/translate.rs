//! What the NAT does to one packet: of a session, of none yet, or an ICMP error about a session.

use super::function::{Nat, Staged};
use super::mapping::Faces;
use super::plan::ExternalEnd;
use super::refusal::Refusal;
use super::scope::SCOPE;
use super::state::{Inbound, Outbound};
use super::tuple::{Inside, Protocol};
use super::word::{End, Share, Word};
use crate::function::Verdict;
use crate::headers::{Headers, Network, icmpv4, ipv4};
use crate::walk::{Direction, Walk};
use crate::zone::ZoneId;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::port::PortId;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

type Answer = (Verdict, Option<Staged>);

const fn drop(reason: DropReason) -> Answer {
    (Verdict::Drop(reason), None)
}

fn refuse(refusal: Refusal, protocol: Protocol) -> Answer {
    (Verdict::Drop(refusal.drop_reason()), Some(Staged::Refused(refusal, protocol)))
}

impl Nat {
    /// A packet of a session is translated by what the session holds, as was its first one.
    pub(super) fn follow(&self, walk: &mut Walk<'_>, word: Word) -> Verdict {
        let Some(session) = walk.session else { return Verdict::Continue };
        if word == Word::default() {
            return Verdict::Continue;
        }
        walk.want_session();
        walk.track_tcp();
        let Some(work) = Work::of(walk, word, session.reply) else {
            return Verdict::Drop(DropReason::NatFiltered);
        };
        for (share, is_source) in [(work.source, true), (work.destination, false)] {
            let Some(share) = share else { continue };
            match self.faces(share) {
                Some(faces) if is_source => set_source(walk.headers, faces.external),
                Some(faces) => set_destination(walk.headers, faces.inside),
                None => return Verdict::Drop(DropReason::NatFiltered),
            }
        }
        self.hand_over(walk);
        Verdict::Continue
    }

    /// What is now for an external endpoint that another worker has goes there. True if it does.
    fn hand_over(&self, walk: &mut Walk<'_>) -> bool {
        let port = self.elsewhere(walk);
        if let Some(port) = port {
            walk.hand_over(port);
        }
        port.is_some()
    }

    /// The way to the worker that has the external endpoint which the packet is for, if that is another.
    fn elsewhere(&self, walk: &mut Walk<'_>) -> Option<PortId> {
        let hairpins = self.config().hairpins.as_ref().filter(|_| self.scope.hairpinning)?;
        // It came from another worker: no packet goes round and round.
        if walk.port == hairpins.port {
            return None;
        }
        let Some(IpAddr::V4(destination)) = walk.headers.destination() else { return None };
        if !self.scope.is_external(destination) {
            return None;
        }
        // An error goes where the packet came from that it quotes.
        let (protocol, port) = match walk.headers.embedded() {
            Some(embedded) => {
                let Network::V4(ip) = &embedded.network else { return None };
                (ip.protocol, embedded.ports().map(|(source, _)| source))
            }
            None => (walk.headers.protocol()?, endpoint(walk.headers, false).map(|(_, port)| port)),
        };
        // A query has one identifier for both ends: only whole addresses hairpin those, as with one worker.
        let port =
            port.filter(|_| matches!(Protocol::from_ip(protocol), Some(Protocol::Tcp | Protocol::Udp)));
        let end = self.plan().external_end(protocol, destination, port)?;
        let (first, last) = self.plan().settings().ports;
        let is_one = match end {
            ExternalEnd::Host(_) => true,
            ExternalEnd::Port(port) => (first..=last).contains(&port),
        };
        (is_one && hairpins.is_elsewhere(end)).then_some(hairpins.port)
    }

    fn faces(&self, share: Share) -> Option<Faces> {
        self.state.faces(share.mapping)
    }

    /// A packet that belongs to no session yet.
    pub(super) fn open(&self, walk: &mut Walk<'_>) -> Answer {
        let addresses = (walk.headers.source(), walk.headers.destination());
        let (Some(IpAddr::V4(source)), Some(IpAddr::V4(destination))) = addresses else {
            return (Verdict::Continue, None);
        };
        match walk.direction {
            Direction::Forward => self.open_outbound(walk, source, destination),
            Direction::Backward => self.open_inbound(walk, source, destination),
        }
    }

    fn open_outbound(&self, walk: &mut Walk<'_>, source: Ipv4Addr, destination: Ipv4Addr) -> Answer {
        if !self.scope.covers(source) {
            walk.depend(SCOPE);
            return (Verdict::Continue, None);
        }
        let is_external = self.scope.is_external(destination);
        if !(is_external && (self.hand_over(walk) || self.is_mapped(walk, destination))) {
            let to = walk.to_zone();
            if !self.scope.crosses(walk.from_zone, to) {
                walk.depend(SCOPE);
                return (Verdict::Continue, None);
            }
            if is_external {
                return drop(DropReason::NatFiltered);
            }
        }
        let Some((protocol, port)) = endpoint(walk.headers, true) else {
            return self.open_addresses(walk, source);
        };
        let inside = Inside { protocol, endpoint: SocketAddrV4::new(source, port) };
        let (external, staged) = match self.state.outbound(&inside) {
            Ok(Outbound::Existing { mapping, external }) => (external, Staged::Join(End::Initiator, mapping)),
            // RFC 5508 section 3.1: a query opens a mapping, a reply does not.
            Ok(Outbound::New(_)) if is_echo(walk.headers, icmpv4::ECHO_REPLY) => {
                return drop(DropReason::NatUntranslatable);
            }
            Ok(Outbound::New(proposal)) => (proposal.external, Staged::Make(End::Initiator, proposal)),
            Err(refusal) => return refuse(refusal, protocol),
        };
        walk.want_session();
        walk.track_tcp();
        set_source(walk.headers, (*external.ip(), Some(external.port())));
        (Verdict::Continue, Some(staged))
    }

    /// A protocol without ports that the NAT knows is translated between whole addresses only.
    fn open_addresses(&self, walk: &mut Walk<'_>, source: Ipv4Addr) -> Answer {
        let Some(external) = self.plan().rules().one_to_one_external(source) else {
            return drop(DropReason::NatUntranslatable);
        };
        walk.want_session();
        set_source(walk.headers, (external, None));
        (Verdict::Continue, Some(Staged::Addresses(End::Initiator, source, external)))
    }

    fn open_inbound(&self, walk: &mut Walk<'_>, source: Ipv4Addr, destination: Ipv4Addr) -> Answer {
        if !self.scope.is_external(destination) {
            walk.depend(SCOPE);
            return (Verdict::Continue, None);
        }
        // A host that a forward leads to, in another zone than the inside, calls one of another worker.
        if self.hand_over(walk) {
            return (Verdict::Continue, None);
        }
        let Some((protocol, port)) = endpoint(walk.headers, false) else {
            let Some(inside) = self.plan().rules().one_to_one_inside(destination) else {
                return local_or(walk, DropReason::NatUntranslatable);
            };
            walk.want_session();
            set_destination(walk.headers, (inside, None));
            return (Verdict::Continue, Some(Staged::Addresses(End::Responder, inside, destination)));
        };
        let external = SocketAddrV4::new(destination, port);
        let (inside, staged) = match self.find_inbound(walk, protocol, external) {
            Ok(Inbound::Existing { mapping, inside }) if self.state.admits(mapping, source) => {
                (inside, Staged::Join(End::Responder, mapping))
            }
            Ok(Inbound::Existing { .. }) => return drop(DropReason::NatFiltered),
            Ok(Inbound::New(proposal)) => (proposal.inside, Staged::Make(End::Responder, proposal)),
            Ok(Inbound::Unmapped) => return local_or(walk, DropReason::NatFiltered),
            Err(refusal) => return refuse(refusal, protocol),
        };
        walk.want_session();
        walk.track_tcp();
        set_destination(walk.headers, (*inside.endpoint.ip(), Some(inside.endpoint.port())));
        (Verdict::Continue, Some(staged))
    }

    /// What an external endpoint stands for. Echo requests to an address of the data plane itself are its own to answer,
    /// whichever identifier they chose, unless the address is translated 1:1.
    fn find_inbound(
        &self,
        walk: &mut Walk<'_>,
        protocol: Protocol,
        external: SocketAddrV4,
    ) -> Result<Inbound, Refusal> {
        if is_echo(walk.headers, icmpv4::ECHO_REQUEST)
            && self.plan().rules().one_to_one_inside(*external.ip()).is_none()
            && walk.to_zone() == Some(ZoneId::LOCAL)
        {
            return Ok(Inbound::Unmapped);
        }
        self.state.inbound(protocol, external)
    }

    /// Is an inside host calling an external endpoint of the inside?
    pub(super) fn is_hairpin(&self, walk: &mut Walk<'_>) -> bool {
        let Some(IpAddr::V4(destination)) = walk.headers.destination() else { return false };
        !walk.is_handed_over() && self.scope.is_external(destination) && self.is_mapped(walk, destination)
    }

    /// Does this external address, with the packet's destination port, lead to an inside host that others inside may call?
    fn is_mapped(&self, walk: &mut Walk<'_>, destination: Ipv4Addr) -> bool {
        if !self.scope.hairpinning {
            return false;
        }
        match endpoint(walk.headers, false) {
            Some((protocol @ (Protocol::Tcp | Protocol::Udp), port)) => {
                let external = SocketAddrV4::new(destination, port);
                !matches!(self.state.inbound(protocol, external), Ok(Inbound::Unmapped))
            }
            // A query has one identifier for both ends, so NAPT can't tell whom an inside host means: only addresses
            // that are translated 1:1 hairpin queries (RFC 5508 section 5 REQ-7).
            _ => self.plan().rules().one_to_one_inside(destination).is_some(),
        }
    }

    /// An ICMP error (RFC 5508 section 4): its quote is put back into what the receiver knows, its outer address into what
    /// the receiver may see. Type and code stay (REQ-4 b, REQ-5 b), and so does the session (REQ-6).
    pub(super) fn admit_error(&self, walk: &mut Walk<'_>) -> Verdict {
        let Some(related) = walk.related else { return self.admit_unrelated(walk) };
        let word = Word(walk.related_part().unwrap_or(0));
        if word == Word::default() {
            return Verdict::Continue;
        }
        let Some(work) = Work::of(walk, word, related.reply) else {
            return Verdict::Drop(DropReason::IcmpUnrelated);
        };
        if let Err(reason) = verify_error(walk) {
            return Verdict::Drop(reason);
        }
        if let Some(faces) = work.source.and_then(|share| self.faces(share)) {
            // REQ-5 c: a sender with an external address of its own keeps that; anyone else on the way hides behind
            // the address of the session.
            let own = match walk.headers.source() {
                Some(IpAddr::V4(source)) => self.plan().rules().one_to_one_external(source),
                _ => None,
            };
            let (external, port) = faces.external;
            walk.headers.set_embedded_destination(external.into(), port.unwrap_or(0));
            walk.headers.set_source(own.unwrap_or(external).into());
        }
        if let Some(faces) = work.destination.and_then(|share| self.faces(share)) {
            let (inside, port) = faces.inside;
            walk.headers.set_embedded_source(inside.into(), port.unwrap_or(0));
            walk.headers.set_destination(inside.into());
        }
        self.hand_over(walk);
        Verdict::Continue
    }

    /// RFC 5508 section 4 REQ-4, REQ-5: an error about no session is dropped silently, if it is the NAT's at all.
    fn admit_unrelated(&self, walk: &mut Walk<'_>) -> Verdict {
        let addresses = (walk.headers.source(), walk.headers.destination());
        let (Some(IpAddr::V4(source)), Some(IpAddr::V4(destination))) = addresses else {
            return Verdict::Continue;
        };
        let to = walk.to_zone();
        let concerns = match walk.direction {
            Direction::Forward => self.scope.covers(source) && self.scope.crosses(walk.from_zone, to),
            Direction::Backward => self.scope.is_external(destination) && to != Some(ZoneId::LOCAL),
        };
        if concerns { Verdict::Drop(DropReason::IcmpUnrelated) } else { Verdict::Continue }
    }
}

/// Which shares of its session a packet is translated by in this walk.
#[derive(Clone, Copy, Debug)]
struct Work {
    source: Option<Share>,
    destination: Option<Share>,
}

impl Work {
    /// Forwards the sender is translated, backwards the receiver. A responder outside the inside zone, that a forward
    /// leads to, is never walked forwards: its source is translated on the way back, too.
    ///
    /// None if the packet does not come from where the session's host is: initiators with a share are inside, and what
    /// comes from elsewhere goes to a host with one.
    fn of(walk: &Walk<'_>, word: Word, reply: bool) -> Option<Self> {
        let (sender, receiver) = (word.share(End::sender(reply)), word.share(End::receiver(reply)));
        match walk.direction {
            Direction::Forward => Some(Self { source: sender, destination: None }),
            Direction::Backward if walk.hairpin => Some(Self { source: None, destination: receiver }),
            Direction::Backward if sender.is_some() && !reply => None,
            Direction::Backward if sender.is_none() && receiver.is_none() => None,
            Direction::Backward => Some(Self { source: sender, destination: receiver }),
        }
    }
}

/// Protocol and port (of echo messages: identifier) of one side; none for what NAPT can't tell apart.
#[inline]
fn endpoint(headers: &mut Headers, source: bool) -> Option<(Protocol, u16)> {
    let protocol = Protocol::from_ip(headers.protocol()?)?;
    let port = match (protocol, source) {
        (Protocol::Icmp, _) => headers.icmp_identifier()?,
        (_, true) => headers.source_port()?,
        (_, false) => headers.destination_port()?,
    };
    Some((protocol, port))
}

fn is_echo(headers: &mut Headers, icmp_type: u8) -> bool {
    headers.protocol() == Some(1) && headers.icmpv4().is_some_and(|icmp| icmp.icmp_type == icmp_type)
}

/// The packet is the data plane's own, or dropped.
fn local_or(walk: &mut Walk<'_>, reason: DropReason) -> Answer {
    if walk.to_zone() == Some(ZoneId::LOCAL) { (Verdict::Continue, None) } else { drop(reason) }
}

#[inline(always)]
fn set_source(headers: &mut Headers, (address, port): (Ipv4Addr, Option<u16>)) {
    headers.set_source(address.into());
    if let Some(port) = port {
        if headers.protocol() == Some(1) {
            headers.set_icmp_identifier(port);
        } else {
            headers.set_source_port(port);
        }
    }
}

fn set_destination(headers: &mut Headers, (address, port): (Ipv4Addr, Option<u16>)) {
    headers.set_destination(address.into());
    if let Some(port) = port {
        if headers.protocol() == Some(1) {
            headers.set_icmp_identifier(port);
        } else {
            headers.set_destination_port(port);
        }
    }
}

/// RFC 5508 section 4 REQ-3: an error whose own checksum or whose quoted IP header's is wrong is dropped; the quoted
/// transport checksum is not looked at (c).
fn verify_error(walk: &Walk<'_>) -> Result<(), DropReason> {
    if !walk.headers.original().transport_checksum_is_valid(walk.frame) {
        return Err(DropReason::BadL4Checksum);
    }
    let Some(embedded) = walk.headers.embedded() else { return Ok(()) };
    let Network::V4(ip) = &embedded.network else { return Ok(()) };
    // The quote as it came: the walk may have rewritten the parsed one.
    let at = usize::from(embedded.offsets.network);
    let header = walk.frame.get(at..at + ip.header_bytes()).unwrap_or(&[]);
    if ipv4::checksum_is_valid(header) { Ok(()) } else { Err(DropReason::BadIpv4Checksum) }
}
