//! The packet that an ICMP error quotes (RFC 792, RFC 4443; RFC 5508 section 4.2 and RFC 5927 say what it is good for).
//!
//! The quote is seldom whole: an IPv4 header and eight bytes are all that RFC 792 promises. What is there is parsed;
//! offsets are absolute in the frame, so that a translator can rewrite the quote in place.

use super::bytes::{be16, be32, index, take};
use super::{
    Icmpv4, Icmpv6, Ipv4, Ipv6, Network, Offsets, Parsed, Tcp, Transport, Udp, icmpv4, icmpv6, protocol,
};
use millrace_dataplane::drops::DropReason;

/// What every quote of TCP has: the header's first eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EmbeddedTcp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number: a forged error seldom has one inside the window (RFC 5927 section 4.1).
    pub sequence: u32,
}

/// The quoted transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EmbeddedTransport {
    /// None: the quote is of a fragment that is not the first.
    None,
    /// TCP.
    Tcp(EmbeddedTcp),
    /// UDP.
    Udp(Udp),
    /// ICMP over IPv4.
    Icmpv4(Icmpv4),
    /// ICMP over IPv6.
    Icmpv6(Icmpv6),
    /// Another protocol, by its number.
    Other(u8),
}

/// A quoted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Embedded {
    /// Its IP header: [`Network::V4`] or [`Network::V6`], the same family as the error's.
    pub network: Network,
    /// The start of its transport header.
    pub transport: EmbeddedTransport,
    /// Where it is in the frame of the error; `end` is the end of the quote, `payload` is at most that.
    pub offsets: Offsets,
    /// Index in the frame of the quoted transport checksum, if the quote reaches so far. An IPv4 header's checksum
    /// is always there.
    pub transport_checksum_at: Option<u16>,
    /// Whether the quoted packet is whole, so that its checksum can be verified.
    pub complete: bool,
}

impl Embedded {
    /// Parses the packet that `parsed`, an ICMP error in `frame`, quotes; `None` if it is no error that quotes one.
    ///
    /// Errors: `Truncated` if the quote ends inside the IP header or the first eight bytes of TCP, UDP or ICMP, and
    /// the reasons of [`Ipv4::read`], [`Ipv6::read`] and [`Ipv6::walk`].
    pub fn parse(parsed: &Parsed, frame: &[u8]) -> Result<Option<Self>, DropReason> {
        let start = usize::from(parsed.offsets.payload);
        let end = usize::from(parsed.offsets.end).min(frame.len());
        match parsed.transport {
            Transport::Icmpv4(icmp) if icmp.is_error() => {
                let end = start + quoted_bytes(end.saturating_sub(start), ipv4_length_attribute(&icmp));
                Self::parse_ipv4(frame, start, end).map(Some)
            }
            Transport::Icmpv6(icmp) if icmp.quotes_a_packet() => {
                let end = start + quoted_bytes(end.saturating_sub(start), ipv6_length_attribute(&icmp));
                Self::parse_ipv6(frame, start, end).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn parse_ipv4(frame: &[u8], start: usize, quote_end: usize) -> Result<Self, DropReason> {
        let ip = Ipv4::read(frame, start, quote_end)?;
        let packet_end = start + usize::from(ip.total_length);
        let number = (!ip.is_later_fragment()).then_some(ip.protocol);
        let at = start + ip.header_bytes();
        Self::build(frame, Network::V4(ip), number, [start, at, packet_end, quote_end])
    }

    fn parse_ipv6(frame: &[u8], start: usize, quote_end: usize) -> Result<Self, DropReason> {
        let mut ip = Ipv6::read(frame, start, quote_end)?;
        let behind = start + Ipv6::HEADER_BYTES;
        let packet_end = behind + usize::from(ip.payload_length);
        ip.walk(frame, behind, packet_end.min(quote_end)).map_err(|reason| match reason {
            // The quote may end inside the chain, which says nothing about the packet.
            DropReason::FragmentInvalid if packet_end > quote_end => DropReason::Truncated,
            reason => reason,
        })?;
        let number = (!ip.is_later_fragment()).then_some(ip.protocol);
        let at = behind + usize::from(ip.extensions.length);
        Self::build(frame, Network::V6(ip), number, [start, at, packet_end, quote_end])
    }

    /// `number` is the upper protocol unless its header is absent; `places` are the indices of the network header,
    /// the transport header, the end of the quoted packet and the end of the quote.
    fn build(
        frame: &[u8],
        network: Network,
        number: Option<u8>,
        places: [usize; 4],
    ) -> Result<Self, DropReason> {
        let [start, at, packet_end, quote_end] = places;
        let end = packet_end.min(quote_end);
        let (transport, header_bytes) = match number {
            Some(number) => read_transport(frame, &network, number, at, end)?,
            None => (EmbeddedTransport::None, 0),
        };
        let transport_checksum_at =
            checksum_offset(&transport).map(|offset| at + offset).filter(|at| at + 2 <= end);
        Ok(Self {
            network,
            transport,
            offsets: Offsets {
                network: index(start),
                transport: index(at),
                payload: index((at + header_bytes).min(end)),
                end: index(end),
            },
            transport_checksum_at: transport_checksum_at.map(index),
            complete: packet_end <= quote_end,
        })
    }

    /// Source and destination port of the quoted packet, if it is TCP or UDP.
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            EmbeddedTransport::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
            EmbeddedTransport::Udp(udp) => Some((udp.source_port, udp.destination_port)),
            _ => None,
        }
    }
}

fn read_transport(
    frame: &[u8],
    network: &Network,
    number: u8,
    at: usize,
    end: usize,
) -> Result<(EmbeddedTransport, usize), DropReason> {
    Ok(match (network, number) {
        (_, protocol::TCP) => {
            let bytes: &[u8; 8] = take(frame, at, end)?;
            let tcp = EmbeddedTcp {
                source_port: be16(bytes, 0),
                destination_port: be16(bytes, 2),
                sequence: be32(bytes, 4),
            };
            // A header that is cut off reaches to the end of the quote.
            let header_bytes = Tcp::read(frame, at, end).map_or(end - at, |tcp| tcp.header_bytes());
            (EmbeddedTransport::Tcp(tcp), header_bytes)
        }
        (_, protocol::UDP) => (EmbeddedTransport::Udp(Udp::read(frame, at, end)?), Udp::HEADER_BYTES),
        (Network::V4(_), protocol::ICMPV4) => {
            (EmbeddedTransport::Icmpv4(Icmpv4::read(frame, at, end)?), Icmpv4::HEADER_BYTES)
        }
        (Network::V6(_), protocol::ICMPV6) => {
            (EmbeddedTransport::Icmpv6(Icmpv6::read(frame, at, end)?), Icmpv6::HEADER_BYTES)
        }
        (_, other) => (EmbeddedTransport::Other(other), 0),
    })
}

/// Where a transport header has its checksum, in bytes from its start.
const fn checksum_offset(transport: &EmbeddedTransport) -> Option<usize> {
    match transport {
        EmbeddedTransport::Tcp(_) => Some(16),
        EmbeddedTransport::Udp(_) => Some(6),
        EmbeddedTransport::Icmpv4(_) | EmbeddedTransport::Icmpv6(_) => Some(2),
        EmbeddedTransport::None | EmbeddedTransport::Other(_) => None,
    }
}

/// Bytes of the quote that an RFC 4884 length attribute gives (section 4: in words of four bytes); zero for none.
fn ipv4_length_attribute(icmp: &Icmpv4) -> usize {
    match icmp.icmp_type {
        icmpv4::DESTINATION_UNREACHABLE | icmpv4::TIME_EXCEEDED | icmpv4::PARAMETER_PROBLEM => {
            usize::from(icmp.rest[1]) * 4
        }
        _ => 0,
    }
}

/// As [`ipv4_length_attribute`]: in words of eight bytes.
fn ipv6_length_attribute(icmp: &Icmpv6) -> usize {
    match icmp.icmp_type {
        icmpv6::DESTINATION_UNREACHABLE | icmpv6::TIME_EXCEEDED => usize::from(icmp.rest[0]) * 8,
        _ => 0,
    }
}

/// The quote's length: all that is there, unless an extension structure (RFC 4884) follows it.
fn quoted_bytes(available: usize, attribute: usize) -> usize {
    if attribute == 0 { available } else { available.min(attribute) }
}
