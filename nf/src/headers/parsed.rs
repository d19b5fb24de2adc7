//! A whole frame, parsed in one pass.

use super::bytes::{index, take};
use super::ethernet::{self, Ethernet};
use super::ipv4::{self, Ipv4};
use super::vlan::{self, VlanTag, VlanTags};
use super::{Arp, Icmpv4, Icmpv6, Ipv6, Tcp, Udp, protocol};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::packet::checksum;
use std::net::IpAddr;

/// The network header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)] // A tag of its own: it is asked for all the time.
pub enum Network {
    /// Neither IP nor ARP.
    #[default]
    None,
    /// ARP.
    Arp(Arp),
    /// IPv4.
    V4(Ipv4),
    /// IPv6.
    V6(Ipv6),
}

/// The transport header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Transport {
    /// There is none: not IP, or a fragment that is not the first.
    #[default]
    None,
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp(Udp),
    /// ICMP over IPv4.
    Icmpv4(Icmpv4),
    /// ICMP over IPv6.
    Icmpv6(Icmpv6),
    /// Another protocol, by its number; its header counts as payload.
    Other(u8),
}

/// Where things are: indices from the start of the frame, `network <= transport <= payload <= end <= frame length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Offsets {
    /// Start of the network header: behind Ethernet and its tags.
    pub network: u16,
    /// Start of the transport header, or of the payload where there is none.
    pub transport: u16,
    /// Start of the payload: behind the transport header.
    pub payload: u16,
    /// End of the packet by its IP length; what follows is padding. The end of the frame where it is not IP or ARP.
    pub end: u16,
}

/// The headers of a frame and their offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The Ethernet header; its type is the one behind the tags.
    pub ethernet: Ethernet,
    /// VLAN tags, outermost first.
    pub tags: VlanTags,
    /// The network header.
    pub network: Network,
    /// The transport header.
    pub transport: Transport,
    /// Where they are.
    pub offsets: Offsets,
}

/// What a transport header is read from.
#[derive(Clone, Copy)]
struct Payload {
    at: usize,
    end: usize,
    protocol: u8,
    is_fragment: bool,
}

impl Parsed {
    /// Parses `frame` (from the Ethernet destination on, without FCS). Total: any bytes give headers or a reason.
    ///
    /// Errors: `Truncated` where a header or an announced length exceeds the frame; `BadLength` where lengths
    /// contradict each other, and for frames above 65,535 bytes; `BadHeader` for a wrong IP version;
    /// `FragmentInvalid` for fragments that RFC 791, 1858, 3128, 7112 and 8200 forbid; `UnsupportedProtocol` for
    /// ARP of other networks, jumbograms and overlong chains of extension headers. Checksums are not verified: see
    /// [`Parsed::network_checksum_is_valid`] and [`Parsed::transport_checksum_is_valid`].
    pub fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        let mut parsed = Self::default();
        parsed.read(frame)?;
        Ok(parsed)
    }

    /// As [`Parsed::parse`], in place. After an error the value is some headers.
    ///
    /// # Errors
    /// Those of [`Parsed::parse`].
    pub fn read(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        if frame.len() > usize::from(u16::MAX) {
            return Err(DropReason::BadLength);
        }
        let at = self.read_link(frame)?;
        match self.ethernet.ether_type {
            ethernet::IPV4 => self.read_ipv4(frame, at),
            ethernet::IPV6 => self.read_ipv6(frame, at),
            ethernet::ARP => {
                self.network = Network::Arp(Arp::read(frame, at)?);
                self.transport = Transport::None;
                let end = index(at + Arp::BYTES);
                self.offsets = Offsets { network: index(at), transport: end, payload: end, end };
                Ok(())
            }
            _ => {
                let at = index(at);
                (self.network, self.transport) = (Network::None, Transport::None);
                self.offsets = Offsets { network: at, transport: at, payload: at, end: index(frame.len()) };
                Ok(())
            }
        }
    }

    /// Reads Ethernet and up to two tags; returns where the network header starts.
    #[inline]
    fn read_link(&mut self, frame: &[u8]) -> Result<usize, DropReason> {
        let bytes: &[u8; Ethernet::HEADER_BYTES] = take(frame, 0, frame.len())?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *bytes;
        let mut ether_type = u16::from_be_bytes([t0, t1]);
        self.tags.clear();
        let mut at = Ethernet::HEADER_BYTES;
        while vlan::is_tag(ether_type) && !self.tags.is_full() {
            let &[c0, c1, t0, t1] = take(frame, at, frame.len())?;
            self.tags.push(VlanTag { tpid: ether_type, tci: u16::from_be_bytes([c0, c1]) });
            ether_type = u16::from_be_bytes([t0, t1]);
            at += VlanTag::BYTES;
        }
        let (destination, source) = ([d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]);
        self.ethernet = Ethernet { destination, source, ether_type };
        Ok(at)
    }

    #[inline]
    fn read_ipv4(&mut self, frame: &[u8], at: usize) -> Result<(), DropReason> {
        let ip = Ipv4::read(frame, at, frame.len())?;
        let payload = Payload {
            at: at + ip.header_bytes(),
            end: at + usize::from(ip.total_length),
            protocol: ip.protocol,
            is_fragment: ip.is_fragment(),
        };
        self.network = Network::V4(ip);
        if payload.end > frame.len() {
            return Err(DropReason::Truncated);
        }
        if payload.is_fragment {
            check_fragment(&payload, ip.header_bytes(), ip.fragment_offset, ip.more_fragments)?;
        }
        let payload_at = if ip.is_later_fragment() {
            self.no_payload(&payload)
        } else {
            self.read_ipv4_payload(frame, &payload)?
        };
        self.offsets = offsets(at, &payload, payload_at);
        Ok(())
    }

    #[inline]
    fn read_ipv6(&mut self, frame: &[u8], at: usize) -> Result<(), DropReason> {
        let mut ip = Ipv6::read(frame, at, frame.len())?;
        let start = at + Ipv6::HEADER_BYTES;
        let end = start + usize::from(ip.payload_length);
        if end > frame.len() {
            return Err(DropReason::Truncated);
        }
        if ip.payload_length == 0 && ip.next_header == protocol::HOP_BY_HOP {
            // RFC 2675 section 3: the length is in an option, and always above 65,535.
            return Err(DropReason::UnsupportedProtocol);
        }
        ip.walk(frame, start, end)?;
        let payload = Payload {
            at: start + usize::from(ip.extensions.length),
            end,
            protocol: ip.protocol,
            is_fragment: ip.is_fragment(),
        };
        if let Some(fragment) = ip.fragment.filter(|_| payload.is_fragment) {
            // What counts is the part behind the fragment header (RFC 8200 section 4.5).
            let behind = usize::from(fragment.at) + 8;
            let part = Payload { at: behind, ..payload };
            check_fragment(&part, behind - start, fragment.fragment_offset, fragment.more_fragments)?;
        }
        self.network = Network::V6(ip);
        let payload_at = if ip.is_later_fragment() {
            self.no_payload(&payload)
        } else {
            self.read_ipv6_payload(frame, &payload)?
        };
        self.offsets = offsets(at, &payload, payload_at);
        Ok(())
    }

    fn no_payload(&mut self, payload: &Payload) -> usize {
        self.transport = Transport::None;
        payload.at
    }

    #[inline]
    fn read_ipv4_payload(&mut self, frame: &[u8], payload: &Payload) -> Result<usize, DropReason> {
        if payload.protocol == protocol::ICMPV4 {
            let icmp = Icmpv4::read(frame, payload.at, payload.end).map_err(|r| in_fragment(r, payload))?;
            self.transport = Transport::Icmpv4(icmp);
            return Ok(payload.at + Icmpv4::HEADER_BYTES);
        }
        self.read_payload(frame, payload)
    }

    #[inline]
    fn read_ipv6_payload(&mut self, frame: &[u8], payload: &Payload) -> Result<usize, DropReason> {
        if payload.protocol == protocol::ICMPV6 {
            let icmp = Icmpv6::read(frame, payload.at, payload.end).map_err(|r| in_fragment(r, payload))?;
            self.transport = Transport::Icmpv6(icmp);
            return Ok(payload.at + Icmpv6::HEADER_BYTES);
        }
        self.read_payload(frame, payload)
    }

    /// Reads a transport header that both IP versions have; returns where the payload starts.
    #[inline]
    fn read_payload(&mut self, frame: &[u8], payload: &Payload) -> Result<usize, DropReason> {
        let &Payload { at, end, .. } = payload;
        match payload.protocol {
            protocol::TCP => {
                let tcp = Tcp::read(frame, at, end).map_err(|r| in_fragment(r, payload))?;
                self.transport = Transport::Tcp(tcp);
                Ok(at + tcp.header_bytes())
            }
            protocol::UDP => {
                let udp = Udp::read(frame, at, end).map_err(|r| in_fragment(r, payload))?;
                if !payload.is_fragment && at + usize::from(udp.length) > end {
                    return Err(DropReason::BadLength);
                }
                self.transport = Transport::Udp(udp);
                Ok(at + Udp::HEADER_BYTES)
            }
            other => {
                self.transport = Transport::Other(other);
                Ok(at)
            }
        }
    }

    /// Whether this is an IP fragment: not a whole packet.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        match &self.network {
            Network::V4(ip) => ip.is_fragment(),
            Network::V6(ip) => ip.is_fragment(),
            Network::None | Network::Arp(_) => false,
        }
    }

    /// Whether this is an IP fragment without the transport header.
    #[inline]
    pub const fn is_later_fragment(&self) -> bool {
        match &self.network {
            Network::V4(ip) => ip.is_later_fragment(),
            Network::V6(ip) => ip.is_later_fragment(),
            Network::None | Network::Arp(_) => false,
        }
    }

    /// The upper protocol's number, if it is IP.
    #[inline]
    pub const fn protocol(&self) -> Option<u8> {
        match &self.network {
            Network::V4(ip) => Some(ip.protocol),
            Network::V6(ip) => Some(ip.protocol),
            Network::None | Network::Arp(_) => None,
        }
    }

    /// Source and destination address, if it is IP.
    #[inline]
    pub const fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        match &self.network {
            Network::V4(ip) => Some((IpAddr::V4(ip.source), IpAddr::V4(ip.destination))),
            Network::V6(ip) => Some((IpAddr::V6(ip.source), IpAddr::V6(ip.destination))),
            Network::None | Network::Arp(_) => None,
        }
    }

    /// Source and destination port, if it is TCP or UDP.
    #[inline]
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match &self.transport {
            Transport::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
            Transport::Udp(udp) => Some((udp.source_port, udp.destination_port)),
            _ => None,
        }
    }

    /// The payload's bytes, out of the frame that was parsed; empty if they are not inside `frame`.
    pub fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(usize::from(self.offsets.payload)..usize::from(self.offsets.end)).unwrap_or_default()
    }

    /// The network packet's bytes, from its header to its end without padding; empty if they are not inside `frame`.
    pub fn packet<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(usize::from(self.offsets.network)..usize::from(self.offsets.end)).unwrap_or_default()
    }

    /// Whether the IPv4 header checksum in `frame` is right (RFC 1812 section 5.2.2 has routers verify it).
    /// Everything but IPv4 has none, and is valid.
    pub fn network_checksum_is_valid(&self, frame: &[u8]) -> bool {
        match &self.network {
            Network::V4(ip) => {
                self.packet(frame).get(..ip.header_bytes()).is_some_and(ipv4::checksum_is_valid)
            }
            _ => true,
        }
    }

    /// Whether the transport checksum in `frame` is right. What can't be judged is valid: fragments, other
    /// protocols, UDP over IPv4 without a checksum, and packets whose routing header hides the last destination.
    /// UDP over IPv6 without a checksum is not (RFC 8200 section 8.1).
    pub fn transport_checksum_is_valid(&self, frame: &[u8]) -> bool {
        if self.is_fragment() {
            return true;
        }
        let start = usize::from(self.offsets.transport);
        let mut end = usize::from(self.offsets.end);
        let number = match self.transport {
            Transport::None | Transport::Other(_) => return true,
            Transport::Tcp(_) => protocol::TCP,
            Transport::Udp(udp) => {
                if udp.checksum == 0 {
                    return matches!(self.network, Network::V4(_));
                }
                end = start + usize::from(udp.length);
                protocol::UDP
            }
            Transport::Icmpv4(_) => protocol::ICMPV4,
            Transport::Icmpv6(_) => protocol::ICMPV6,
        };
        let Some(segment) = frame.get(start..end) else { return false };
        let pseudo = match &self.network {
            Network::V6(ip) if !ip.destination_is_final() => return true,
            _ if number == protocol::ICMPV4 => 0,
            network => pseudo_header(network, number, segment.len()),
        };
        checksum::fold(pseudo + checksum::sum(segment)) == 0xffff
    }
}

/// The sum of the pseudo-header for `protocol` over `network`; zero if it is not IP.
pub(super) fn pseudo_header(network: &Network, protocol: u8, length: usize) -> u64 {
    match network {
        Network::V4(ip) => {
            let mut addresses = [0; 8];
            addresses[..4].copy_from_slice(&ip.source.octets());
            addresses[4..].copy_from_slice(&ip.destination.octets());
            checksum::pseudo_header(&addresses, protocol, length)
        }
        Network::V6(ip) => {
            let mut addresses = [0; 32];
            addresses[..16].copy_from_slice(&ip.source.octets());
            addresses[16..].copy_from_slice(&ip.destination.octets());
            checksum::pseudo_header(&addresses, protocol, length)
        }
        Network::None | Network::Arp(_) => 0,
    }
}

#[inline]
fn offsets(network: usize, payload: &Payload, payload_at: usize) -> Offsets {
    Offsets {
        network: index(network),
        transport: index(payload.at),
        payload: index(payload_at),
        end: index(payload.end),
    }
}

/// Refuses fragments that no reassembly may accept. `headers_bytes` is what precedes the fragmentable part in the
/// length field of the whole packet; `offset` is in units of eight bytes.
fn check_fragment(part: &Payload, headers_bytes: usize, offset: u16, more: bool) -> Result<(), DropReason> {
    let length = part.end.saturating_sub(part.at);
    let start = usize::from(offset) * 8;
    let invalid = length == 0
        // RFC 791 section 3.2, RFC 8200 section 4.5: all but the last are multiples of eight bytes.
        || (more && !length.is_multiple_of(8))
        || start + length + headers_bytes > usize::from(u16::MAX)
        // RFC 3128 section 4: it would overwrite the TCP flags of the first fragment.
        || (offset == 1 && part.protocol == protocol::TCP);
    if invalid { Err(DropReason::FragmentInvalid) } else { Ok(()) }
}

/// A first fragment without the whole transport header evades filters (RFC 1858 section 3).
#[inline]
fn in_fragment(reason: DropReason, payload: &Payload) -> DropReason {
    if payload.is_fragment && reason == DropReason::Truncated { DropReason::FragmentInvalid } else { reason }
}
