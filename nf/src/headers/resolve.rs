//! Frames of address resolution: ARP (RFC 826, 5227) and neighbour discovery (RFC 4861) that the data plane sends.

use super::arp::{self, Arp};
use super::ethernet::{self, Ethernet};
use super::neighbour_discovery::{OPTION_SOURCE_LINK_LAYER, OPTION_TARGET_LINK_LAYER, REQUIRED_HOP_LIMIT};
use super::{
    FrameBuffer, Icmpv6, Ipv6, Network, Offsets, Parsed, Transport, VlanTags, icmpv6, protocol, serialise,
};
use arrayvec::ArrayVec;
use millrace_dataplane::port::MacAddress;
use std::net::{Ipv4Addr, Ipv6Addr};

/// All nodes on the link, `ff02::1` (RFC 4291 section 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The solicited-node multicast address of `target` (RFC 4291 section 2.7.1).
pub const fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let low = target.to_bits() & 0x00ff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low)
}

/// The Ethernet address of an IPv6 multicast address (RFC 2464 section 7).
pub const fn multicast_mac(group: Ipv6Addr) -> MacAddress {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// An ARP request for `target`'s address, from `sender`: broadcast, or to `to` if its address is to be confirmed.
pub fn arp_request(
    mac: MacAddress,
    tags: &VlanTags,
    sender: Ipv4Addr,
    target: Ipv4Addr,
    to: Option<MacAddress>,
) -> FrameBuffer {
    let packet = Arp {
        operation: arp::REQUEST,
        sender_mac: mac,
        sender_address: sender,
        target_mac: [0; 6],
        target_address: target,
    };
    arp_frame(packet, tags, to.unwrap_or(ethernet::BROADCAST))
}

/// The reply to the ARP request `parsed`: the address that it asks for is at `mac`. `None` if it is no request.
pub fn arp_reply(parsed: &Parsed, mac: MacAddress) -> Option<FrameBuffer> {
    let Network::Arp(request) = parsed.network else { return None };
    if request.operation != arp::REQUEST {
        return None;
    }
    let packet = Arp {
        operation: arp::REPLY,
        sender_mac: mac,
        sender_address: request.target_address,
        target_mac: request.sender_mac,
        target_address: request.sender_address,
    };
    Some(arp_frame(packet, &parsed.tags, parsed.ethernet.source))
}

/// A gratuitous ARP: tells all stations that `address` is at `mac` (an ARP announcement, RFC 5227 section 3).
pub fn gratuitous_arp(mac: MacAddress, tags: &VlanTags, address: Ipv4Addr) -> FrameBuffer {
    arp_request(mac, tags, address, address, None)
}

/// A neighbour solicitation for `target` from `source` (RFC 4861 section 4.3): to its solicited-node group, or to
/// the station `to` if its reachability is to be confirmed. From the unspecified address it asks whether `target` is
/// free, and carries no link-layer address (section 7.2.2).
pub fn neighbour_solicitation(
    mac: MacAddress,
    tags: &VlanTags,
    source: Ipv6Addr,
    target: Ipv6Addr,
    to: Option<MacAddress>,
) -> FrameBuffer {
    let group = solicited_node(target);
    let (destination, destination_mac) = match to {
        Some(station) => (target, station),
        None => (group, multicast_mac(group)),
    };
    let option = (!source.is_unspecified()).then_some((OPTION_SOURCE_LINK_LAYER, mac));
    let icmp = Icmpv6 { icmp_type: icmpv6::NEIGHBOUR_SOLICITATION, ..Icmpv6::default() };
    let ethernet = Ethernet { destination: destination_mac, source: mac, ether_type: ethernet::IPV6 };
    discovery_frame(ethernet, tags, (source, destination), icmp, target, option)
}

/// What a neighbour advertisement claims (RFC 4861 section 4.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AdvertisementFlags {
    /// The sender is a router.
    pub router: bool,
    /// It answers a solicitation.
    pub solicited: bool,
    /// It replaces a cached link-layer address. Not set for addresses that others may answer for, too.
    pub override_cached: bool,
}

impl AdvertisementFlags {
    /// As in the message's second word.
    const fn to_bytes(self) -> [u8; 4] {
        let bits = (self.router as u8) << 7 | (self.solicited as u8) << 6 | (self.override_cached as u8) << 5;
        [bits, 0, 0, 0]
    }
}

/// The advertisement that answers the neighbour solicitation `parsed` for `target`, which is at `mac`. It goes to the
/// asking address, or to all nodes if that is unspecified (RFC 4861 section 7.2.4); `solicited` is set accordingly.
/// `None` if it is no neighbour solicitation; whether it is a valid one is for the caller to see:
/// [`super::neighbour_discovery::Message::parse`].
pub fn neighbour_advertisement(
    parsed: &Parsed,
    target: Ipv6Addr,
    mac: MacAddress,
    flags: AdvertisementFlags,
) -> Option<FrameBuffer> {
    let (Network::V6(ip), Transport::Icmpv6(icmp)) = (&parsed.network, parsed.transport) else { return None };
    if icmp.icmp_type != icmpv6::NEIGHBOUR_SOLICITATION {
        return None;
    }
    let solicited = !ip.source.is_unspecified();
    let (destination, destination_mac) =
        if solicited { (ip.source, parsed.ethernet.source) } else { (ALL_NODES, multicast_mac(ALL_NODES)) };
    let ethernet = Ethernet { destination: destination_mac, source: mac, ether_type: ethernet::IPV6 };
    let flags = AdvertisementFlags { solicited, ..flags };
    Some(advertisement(ethernet, &parsed.tags, target, destination, flags))
}

/// An advertisement that nobody asked for: tells all nodes that `target` is at `mac` (RFC 4861 section 7.2.6).
pub fn unsolicited_advertisement(
    mac: MacAddress,
    tags: &VlanTags,
    target: Ipv6Addr,
    flags: AdvertisementFlags,
) -> FrameBuffer {
    let ethernet =
        Ethernet { destination: multicast_mac(ALL_NODES), source: mac, ether_type: ethernet::IPV6 };
    advertisement(ethernet, tags, target, ALL_NODES, AdvertisementFlags { solicited: false, ..flags })
}

fn advertisement(
    ethernet: Ethernet,
    tags: &VlanTags,
    target: Ipv6Addr,
    destination: Ipv6Addr,
    flags: AdvertisementFlags,
) -> FrameBuffer {
    let icmp =
        Icmpv6 { icmp_type: icmpv6::NEIGHBOUR_ADVERTISEMENT, rest: flags.to_bytes(), ..Icmpv6::default() };
    let option = Some((OPTION_TARGET_LINK_LAYER, ethernet.source));
    discovery_frame(ethernet, tags, (target, destination), icmp, target, option)
}

fn arp_frame(packet: Arp, tags: &VlanTags, to: MacAddress) -> FrameBuffer {
    let ethernet = Ethernet { destination: to, source: packet.sender_mac, ether_type: ethernet::ARP };
    emit(ethernet, tags, Network::Arp(packet), Transport::None, &[])
}

fn discovery_frame(
    ethernet: Ethernet,
    tags: &VlanTags,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    icmp: Icmpv6,
    target: Ipv6Addr,
    option: Option<(u8, MacAddress)>,
) -> FrameBuffer {
    let mut body = ArrayVec::<u8, 24>::new();
    body.extend(target.octets());
    if let Some((kind, mac)) = option {
        body.extend([kind, 1]);
        body.extend(mac);
    }
    let ip =
        Ipv6 { hop_limit: REQUIRED_HOP_LIMIT, ..Ipv6::originated(source, destination, protocol::ICMPV6) };
    emit(ethernet, tags, Network::V6(ip), Transport::Icmpv6(icmp), &body)
}

fn emit(
    ethernet: Ethernet,
    tags: &VlanTags,
    network: Network,
    transport: Transport,
    body: &[u8],
) -> FrameBuffer {
    let parsed = Parsed { ethernet, tags: tags.clone(), network, transport, offsets: Offsets::default() };
    // At most 94 bytes: Ethernet with two tags, IPv6, ICMPv6, an address and an option.
    serialise(&parsed, &[], body).expect("94 bytes fit 1,600")
}
