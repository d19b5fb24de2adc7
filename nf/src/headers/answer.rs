//! Answers of the data plane: echo replies, ICMP errors and TCP resets, built from the packet that they answer.
//!
//! Each answer goes back to where the packet came from: Ethernet addresses exchanged, VLAN tags kept.

use super::ethernet::{self, Ethernet};
use super::{
    FrameBuffer, Icmpv4, Icmpv6, Ipv4, Ipv6, Network, Offsets, Parsed, Span, Tcp, TcpFlags, Transport,
    icmpv4, icmpv6, protocol, serialise,
};
use arrayvec::ArrayVec;
use millrace_dataplane::port::MacAddress;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most bytes of an IPv4 packet that carries an ICMP error (RFC 1812 section 4.3.2.3).
pub const IPV4_ERROR_BYTES_MAX: usize = 576;
/// Most bytes of an IPv6 packet that carries an ICMPv6 error: the least MTU (RFC 4443 section 2.4(c)).
pub const IPV6_ERROR_BYTES_MAX: usize = 1280;
/// Code point of ICMPv4 errors: precedence 6, internetwork control (RFC 1812 section 4.3.2.5).
const DSCP_INTERNETWORK_CONTROL: u8 = 48;

/// Why a packet could not be delivered, for both versions of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// TTL or hop limit ran out on the way.
    HopLimitExceeded,
    /// Fragments did not arrive in time.
    ReassemblyTimeExceeded,
    /// No route to the destination.
    NoRoute,
    /// The host does not answer address resolution.
    AddressUnreachable,
    /// Nothing listens on the port.
    PortUnreachable,
    /// The protocol is not spoken here; in IPv6 a parameter problem at byte `pointer` of the packet.
    ProtocolUnreachable {
        /// Where the packet names the protocol, in bytes from the start of its IP header.
        pointer: u32,
    },
    /// Forbidden by a rule.
    Prohibited,
    /// Longer than the next link's MTU: "fragmentation needed" (RFC 1191) or "packet too big".
    TooBig {
        /// That MTU in bytes.
        mtu: u32,
    },
    /// A header field is wrong: the one at byte `pointer` of the packet.
    ParameterProblem {
        /// In bytes from the start of the IP header; ICMPv4 has room for 255.
        pointer: u32,
    },
    /// An IPv6 option is not understood and says that this be told (RFC 4443 section 3.4 code 2).
    UnrecognisedOption {
        /// In bytes from the start of the IP header.
        pointer: u32,
    },
}

impl IcmpError {
    /// The ICMPv4 header that says it (RFC 792, 1191, 1812 section 5.2.7).
    pub fn to_icmpv4(self) -> Icmpv4 {
        use icmpv4::{CODE_FRAGMENTATION_NEEDED, DESTINATION_UNREACHABLE, PARAMETER_PROBLEM, TIME_EXCEEDED};
        let (icmp_type, code, rest) = match self {
            Self::HopLimitExceeded => (TIME_EXCEEDED, 0, [0; 4]),
            Self::ReassemblyTimeExceeded => (TIME_EXCEEDED, 1, [0; 4]),
            Self::NoRoute => (DESTINATION_UNREACHABLE, 0, [0; 4]),
            Self::AddressUnreachable => (DESTINATION_UNREACHABLE, 1, [0; 4]),
            Self::ProtocolUnreachable { .. } => (DESTINATION_UNREACHABLE, 2, [0; 4]),
            Self::PortUnreachable => (DESTINATION_UNREACHABLE, 3, [0; 4]),
            Self::Prohibited => (DESTINATION_UNREACHABLE, 13, [0; 4]),
            Self::TooBig { mtu } => {
                let [high, low] = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
                (DESTINATION_UNREACHABLE, CODE_FRAGMENTATION_NEEDED, [0, 0, high, low])
            }
            Self::ParameterProblem { pointer } | Self::UnrecognisedOption { pointer } => {
                (PARAMETER_PROBLEM, 0, [u8::try_from(pointer).unwrap_or(u8::MAX), 0, 0, 0])
            }
        };
        Icmpv4 { icmp_type, code, checksum: 0, rest }
    }

    /// The ICMPv6 header that says it (RFC 4443 section 3).
    pub fn to_icmpv6(self) -> Icmpv6 {
        use icmpv6::{DESTINATION_UNREACHABLE, PACKET_TOO_BIG, PARAMETER_PROBLEM, TIME_EXCEEDED};
        let (icmp_type, code, rest) = match self {
            Self::HopLimitExceeded => (TIME_EXCEEDED, 0, 0),
            Self::ReassemblyTimeExceeded => (TIME_EXCEEDED, 1, 0),
            Self::NoRoute => (DESTINATION_UNREACHABLE, 0, 0),
            Self::Prohibited => (DESTINATION_UNREACHABLE, 1, 0),
            Self::AddressUnreachable => (DESTINATION_UNREACHABLE, 3, 0),
            Self::PortUnreachable => (DESTINATION_UNREACHABLE, 4, 0),
            Self::TooBig { mtu } => (PACKET_TOO_BIG, 0, mtu),
            Self::ParameterProblem { pointer } => (PARAMETER_PROBLEM, 0, pointer),
            Self::ProtocolUnreachable { pointer } => (PARAMETER_PROBLEM, 1, pointer),
            Self::UnrecognisedOption { pointer } => (PARAMETER_PROBLEM, 2, pointer),
        };
        Icmpv6 { icmp_type, code, checksum: 0, rest: rest.to_be_bytes() }
    }

    /// Whether it is reported even for packets to multicast (RFC 4443 section 2.4(e.3)).
    const fn answers_multicast_ipv6(self) -> bool {
        matches!(self, Self::TooBig { .. } | Self::UnrecognisedOption { .. })
    }
}

/// Whether `error` may be reported for the packet `parsed` (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7,
/// RFC 4443 section 2.4(e)): never for an ICMP error, a fragment that is not the first, a packet sent to a group of
/// stations or addresses, or one whose source is not one host. Directed broadcasts, which only a router's own
/// interfaces tell from other addresses, are for the caller to exclude.
pub fn may_answer_with_error(parsed: &Parsed, error: IcmpError) -> bool {
    if parsed.is_later_fragment() {
        return false;
    }
    let link_group = ethernet::is_group(parsed.ethernet.destination);
    match &parsed.network {
        Network::V4(ip) => {
            let about_error = match parsed.transport {
                Transport::Icmpv4(icmp) => !icmp.is_query(),
                _ => false,
            };
            !about_error && !link_group && is_ipv4_host(ip.source) && is_ipv4_unicast(ip.destination)
        }
        Network::V6(ip) => {
            let about_error = match parsed.transport {
                Transport::Icmpv6(icmp) => icmp.is_error() || icmp.icmp_type == icmpv6::REDIRECT,
                _ => false,
            };
            let group = link_group || ip.destination.is_multicast();
            !about_error && is_ipv6_host(ip.source) && (!group || error.answers_multicast_ipv6())
        }
        Network::None | Network::Arp(_) => false,
    }
}

/// Whether `address` can be a destination that is one host: no multicast, reserved (class E) or broadcast address.
const fn is_ipv4_unicast(address: Ipv4Addr) -> bool {
    address.octets()[0] < 224
}

/// Whether `address` can be the source of a packet from one host elsewhere.
const fn is_ipv4_host(address: Ipv4Addr) -> bool {
    is_ipv4_unicast(address) && !matches!(address.octets()[0], 0 | 127)
}

/// As [`is_ipv4_host`]. Anycast addresses look like others.
const fn is_ipv6_host(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

/// The ICMP error that reports `error` for the packet `parsed` in `frame`, which must be as it was received.
/// `mac` and `source` are the reporting router's addresses. It quotes as much as fits 576 bytes (IPv4) or 1,280 (IPv6).
///
/// `None` where [`may_answer_with_error`] forbids it, and if `source` is of another IP version.
pub fn icmp_error(
    parsed: &Parsed,
    frame: &[u8],
    error: IcmpError,
    mac: MacAddress,
    source: IpAddr,
) -> Option<FrameBuffer> {
    if !may_answer_with_error(parsed, error) {
        return None;
    }
    let (network, transport, quote_max) = match (&parsed.network, source) {
        (Network::V4(ip), IpAddr::V4(source)) => {
            let header = Ipv4::originated(source, ip.source, protocol::ICMPV4);
            let header = Ipv4 { dscp: DSCP_INTERNETWORK_CONTROL, ..header };
            let max = IPV4_ERROR_BYTES_MAX - Ipv4::HEADER_BYTES - Icmpv4::HEADER_BYTES;
            (Network::V4(header), Transport::Icmpv4(error.to_icmpv4()), max)
        }
        (Network::V6(ip), IpAddr::V6(source)) => {
            let header = Ipv6::originated(source, ip.source, protocol::ICMPV6);
            let max = IPV6_ERROR_BYTES_MAX - Ipv6::HEADER_BYTES - Icmpv6::HEADER_BYTES;
            (Network::V6(header), Transport::Icmpv6(error.to_icmpv6()), max)
        }
        _ => return None,
    };
    let packet = parsed.packet(frame);
    let quote = &packet[..packet.len().min(quote_max)];
    serialise(&back(parsed, mac, network, transport), &[], quote).ok()
}

/// The echo reply to the request `parsed` in `frame`, with its whole payload (RFC 1122 section 3.2.2.6, RFC 4443
/// section 4.2). `mac` and `source` are the answering host's addresses; `source` is the request's destination unless
/// that is a group. An IPv4 reply has the request's identification, which its sender made unique between the two
/// addresses, and no options.
///
/// `None` if it is no echo request, a fragment, from no single host, if `source` is of another IP version, or if the
/// reply exceeds `N` bytes.
pub fn echo_reply<const N: usize>(
    parsed: &Parsed,
    frame: &[u8],
    mac: MacAddress,
    source: IpAddr,
) -> Option<ArrayVec<u8, N>> {
    if parsed.is_fragment() {
        return None;
    }
    let (network, transport) = match (&parsed.network, parsed.transport, source) {
        (Network::V4(ip), Transport::Icmpv4(icmp), IpAddr::V4(source))
            if icmp.icmp_type == icmpv4::ECHO_REQUEST && icmp.code == 0 && is_ipv4_host(ip.source) =>
        {
            let header = Ipv4 {
                dscp: ip.dscp,
                identification: ip.identification,
                dont_fragment: ip.dont_fragment,
                ..Ipv4::originated(source, ip.source, protocol::ICMPV4)
            };
            (Network::V4(header), Transport::Icmpv4(Icmpv4 { icmp_type: icmpv4::ECHO_REPLY, ..icmp }))
        }
        (Network::V6(ip), Transport::Icmpv6(icmp), IpAddr::V6(source))
            if icmp.icmp_type == icmpv6::ECHO_REQUEST && icmp.code == 0 && is_ipv6_host(ip.source) =>
        {
            let header = Ipv6 { dscp: ip.dscp, ..Ipv6::originated(source, ip.source, protocol::ICMPV6) };
            (Network::V6(header), Transport::Icmpv6(Icmpv6 { icmp_type: icmpv6::ECHO_REPLY, ..icmp }))
        }
        _ => return None,
    };
    serialise(&back(parsed, mac, network, transport), &[], parsed.payload(frame)).ok()
}

/// The reset that answers the segment `parsed` in `frame` as if no connection existed (RFC 9293 section 3.10.7.1),
/// from the address that the segment was sent to. `mac` is the answering station's.
///
/// `None` if it is no TCP segment between two hosts, a reset itself, or a fragment, whose data is not known.
pub fn tcp_reset(parsed: &Parsed, frame: &[u8], mac: MacAddress) -> Option<FrameBuffer> {
    let Transport::Tcp(segment) = parsed.transport else { return None };
    let to_group = ethernet::is_group(parsed.ethernet.destination);
    if parsed.is_fragment() || segment.flags.contains(TcpFlags::RST) || to_group {
        return None;
    }
    let network = match &parsed.network {
        Network::V4(ip) if is_ipv4_host(ip.source) && is_ipv4_unicast(ip.destination) => {
            Network::V4(Ipv4::originated(ip.destination, ip.source, protocol::TCP))
        }
        Network::V6(ip) if is_ipv6_host(ip.source) && !ip.destination.is_multicast() => {
            Network::V6(Ipv6::originated(ip.destination, ip.source, protocol::TCP))
        }
        _ => return None,
    };
    let (sequence, acknowledgment, flags) = if segment.flags.contains(TcpFlags::ACK) {
        (segment.acknowledgment, 0, TcpFlags::RST)
    } else {
        // The length counts SYN and FIN (RFC 9293 section 3.4). Packets are below 65,536 bytes.
        let length = parsed.payload(frame).len() as u32
            + u32::from(segment.flags.contains(TcpFlags::SYN))
            + u32::from(segment.flags.contains(TcpFlags::FIN));
        (0, segment.sequence.wrapping_add(length), TcpFlags::RST | TcpFlags::ACK)
    };
    let reset = Tcp {
        source_port: segment.destination_port,
        destination_port: segment.source_port,
        sequence,
        acknowledgment,
        flags,
        window: 0,
        checksum: 0,
        urgent_pointer: 0,
        options: Span::EMPTY,
    };
    serialise(&back(parsed, mac, network, Transport::Tcp(reset)), &[], &[]).ok()
}

/// Headers of an answer to `parsed`: to its Ethernet source, from `mac`, in its VLAN.
fn back(parsed: &Parsed, mac: MacAddress, network: Network, transport: Transport) -> Parsed {
    let ethernet = Ethernet { destination: parsed.ethernet.source, source: mac, ..parsed.ethernet };
    Parsed { ethernet, tags: parsed.tags.clone(), network, transport, offsets: Offsets::default() }
}
