//! What a packet is placed by: its ends, as a session would be found by them.

use crate::fragments::Piece;
use crate::headers::neighbour_discovery::Message;
use crate::headers::{Embedded, EmbeddedTransport, Network, Parsed, Transport};
use millrace_dataplane::packet::parse::{parse, parse_usual};
use millrace_dataplane::packet::{L3, L4, Layout, Verify};
use std::net::{IpAddr, Ipv4Addr};

/// Addresses, protocol and ports of a packet, or of the packet that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) is_ipv4: bool,
    /// Addresses as numbers.
    pub(super) source: u128,
    pub(super) destination: u128,
    pub(super) protocol: u8,
    /// Of an echo message the identifier, twice; zero for what has no ports; none if they are in another fragment.
    pub(super) ports: Option<(u16, u16)>,
}

/// Which part of which datagram a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) identification: u32,
    pub(super) piece: Piece,
}

/// What a frame is to placing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// A packet of a connection, whole or a fragment.
    Packet(Ends, Option<Fragment>),
    /// ARP and neighbour discovery that was sent on the link (RFC 4861 section 7.1).
    LinkControl,
    /// Neither, or broken.
    Other,
}

impl Ends {
    fn new((source, destination): (IpAddr, IpAddr), protocol: u8, ports: Option<(u16, u16)>) -> Self {
        let number = |address| match address {
            IpAddr::V4(address) => u128::from(Ipv4Addr::to_bits(address)),
            IpAddr::V6(address) => address.to_bits(),
        };
        let (is_ipv4, source, destination) = (source.is_ipv4(), number(source), number(destination));
        Self { is_ipv4, source, destination, protocol, ports }
    }

    /// The ends of answers.
    pub(super) fn inverse(self) -> Self {
        let ports = self.ports.map(|(source, destination)| (destination, source));
        Self { source: self.destination, destination: self.source, ports, ..self }
    }
}

impl Read {
    /// Reads a frame from its Ethernet header on.
    pub(super) fn of(frame: &[u8]) -> Self {
        if let Some(head) = frame.first_chunk()
            && let Some(layout) = parse_usual(head, frame, Verify::None)
            && let Some(ends) = regular(&layout, frame)
        {
            return Self::Packet(ends, None);
        }
        match parse(frame, Verify::None) {
            Err(_) => Self::Other,
            Ok(layout) => match regular(&layout, frame) {
                Some(ends) => Self::Packet(ends, None),
                None => irregular(frame),
            },
        }
    }
}

/// The ends of a packet whose shape says where they are.
#[inline]
fn regular(layout: &Layout, frame: &[u8]) -> Option<Ends> {
    let shape = layout.shape;
    if !shape.is_regular() || matches!(shape.l4(), L4::IcmpOther) {
        return None;
    }
    let (l3, l4) = (usize::from(layout.l3), usize::from(layout.l4));
    let (is_ipv4, source, destination, protocol) = match shape.l3() {
        L3::Ipv4 => {
            let [address, other] = frame.get(l3 + 12..l3 + 20)?.as_chunks::<4>().0 else { return None };
            let number = |bytes: &[u8; 4]| u128::from(u32::from_be_bytes(*bytes));
            (true, number(address), number(other), *frame.get(l3 + 9)?)
        }
        L3::Ipv6 => {
            let [address, other] = frame.get(l3 + 8..l3 + 40)?.as_chunks::<16>().0 else { return None };
            (false, u128::from_be_bytes(*address), u128::from_be_bytes(*other), *frame.get(l3 + 6)?)
        }
        L3::Arp | L3::Other => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let ports = match shape.l4() {
        L4::Tcp | L4::Udp => (port(l4)?, port(l4 + 2)?),
        L4::IcmpEcho => (port(l4 + 4)?, port(l4 + 4)?),
        L4::Other | L4::IcmpOther => (0, 0),
    };
    Some(Ends { is_ipv4, source, destination, protocol, ports: Some(ports) })
}

/// Everything else: fragments, options, extension headers, ICMP errors.
fn irregular(frame: &[u8]) -> Read {
    let Ok(parsed) = Parsed::parse(frame) else { return Read::Other };
    if matches!(parsed.network, Network::Arp(_)) {
        return Read::LinkControl;
    }
    if matches!(&parsed.transport, Transport::Icmpv6(icmp) if icmp.is_neighbour_discovery()) {
        // From beyond the link nobody listens to it.
        return if let Ok(Some(_)) = Message::parse(&parsed, frame) {
            Read::LinkControl
        } else {
            Read::Other
        };
    }
    if let Ok(Some(embedded)) = Embedded::parse(&parsed, frame)
        && let Some(ends) = quoted(&embedded)
    {
        return Read::Packet(ends.inverse(), None);
    }
    let (Some(addresses), Some(protocol)) = (parsed.addresses(), parsed.protocol()) else {
        return Read::Other;
    };
    let ports = match &parsed.transport {
        Transport::Tcp(_) | Transport::Udp(_) => parsed.ports(),
        Transport::Icmpv4(icmp) if icmp.is_echo() => Some((icmp.identifier(), icmp.identifier())),
        Transport::Icmpv6(icmp) if icmp.is_echo() => Some((icmp.identifier(), icmp.identifier())),
        Transport::None => None,
        Transport::Icmpv4(_) | Transport::Icmpv6(_) | Transport::Other(_) => Some((0, 0)),
    };
    let identification = match &parsed.network {
        Network::V4(ip) if ip.is_fragment() => Some(u32::from(ip.identification)),
        Network::V6(ip) if ip.is_fragment() => ip.fragment.map(|fragment| fragment.identification),
        _ => None,
    };
    let fragment = identification.zip(Piece::of(&parsed));
    let fragment = fragment.map(|(identification, piece)| Fragment { identification, piece });
    Read::Packet(Ends::new(addresses, protocol, ports), fragment)
}

/// The ends of the packet that an ICMP error quotes; none if the quote does not tell.
fn quoted(embedded: &Embedded) -> Option<Ends> {
    let (addresses, protocol): ((IpAddr, IpAddr), u8) = match &embedded.network {
        Network::V4(ip) => ((ip.source.into(), ip.destination.into()), ip.protocol),
        Network::V6(ip) => ((ip.source.into(), ip.destination.into()), ip.protocol),
        Network::None | Network::Arp(_) => return None,
    };
    let ports = match &embedded.transport {
        EmbeddedTransport::Tcp(_) | EmbeddedTransport::Udp(_) => embedded.ports()?,
        EmbeddedTransport::Icmpv4(icmp) if icmp.is_echo() => (icmp.identifier(), icmp.identifier()),
        EmbeddedTransport::Icmpv6(icmp) if icmp.is_echo() => (icmp.identifier(), icmp.identifier()),
        EmbeddedTransport::Other(_) => (0, 0),
        EmbeddedTransport::None | EmbeddedTransport::Icmpv4(_) | EmbeddedTransport::Icmpv6(_) => return None,
    };
    Some(Ends::new(addresses, protocol, Some(ports)))
}
