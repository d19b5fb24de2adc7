//! Messages of neighbour discovery, with the validity checks of RFC 4861.

use super::bytes::{be16, be32, part};
use super::{Icmpv6, Ipv6, Network, Parsed, Transport, icmpv6};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::port::MacAddress;
use std::net::Ipv6Addr;

/// Hop limit of every message: none was forwarded (RFC 4861 section 3.1).
pub const REQUIRED_HOP_LIMIT: u8 = 255;
/// Option type: the sender's link-layer address (RFC 4861 section 4.6.1).
pub const OPTION_SOURCE_LINK_LAYER: u8 = 1;
/// Option type: the target's link-layer address.
pub const OPTION_TARGET_LINK_LAYER: u8 = 2;
/// Option type: MTU (RFC 4861 section 4.6.4).
pub const OPTION_MTU: u8 = 5;

/// A valid message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// A host asks for routers (section 4.1).
    RouterSolicitation {
        /// The host's link-layer address.
        source_mac: Option<MacAddress>,
    },
    /// A router tells of itself (section 4.2).
    RouterAdvertisement {
        /// Hop limit that hosts should use; zero for unspecified.
        hop_limit: u8,
        /// Seconds that it serves as default router; zero for not at all.
        lifetime_seconds: u16,
        /// Milliseconds that a neighbour counts as reachable; zero for unspecified.
        reachable_milliseconds: u32,
        /// Milliseconds between solicitations; zero for unspecified.
        retransmit_milliseconds: u32,
        /// The router's link-layer address.
        source_mac: Option<MacAddress>,
        /// MTU of the link in bytes.
        mtu: Option<u32>,
    },
    /// Who has `target`? (section 4.3)
    NeighbourSolicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// The asking station's link-layer address.
        source_mac: Option<MacAddress>,
    },
    /// `target` is at `target_mac` (section 4.4).
    NeighbourAdvertisement {
        /// The address told of.
        target: Ipv6Addr,
        /// The sender is a router.
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It replaces a cached link-layer address.
        override_cached: bool,
        /// The target's link-layer address.
        target_mac: Option<MacAddress>,
    },
    /// A better first hop for `destination` is `target` (section 4.5).
    Redirect {
        /// The better first hop.
        target: Ipv6Addr,
        /// The destination that it is for.
        destination: Ipv6Addr,
        /// The target's link-layer address.
        target_mac: Option<MacAddress>,
    },
}

impl Message {
    /// Reads and validates the message `parsed` in `frame`; `None` if it is no message of neighbour discovery.
    ///
    /// Errors (RFC 4861 sections 6.1, 7.1, 8.1): `BadHeader` for another hop limit than 255, another code than 0, or
    /// addresses that contradict the message; `BadL4Checksum`; `BadLength` for a message that is too short or an
    /// option of length zero, beyond the end, or of another length than Ethernet's; `FragmentInvalid` for a message
    /// in a fragment (RFC 6980 section 5).
    pub fn parse(parsed: &Parsed, frame: &[u8]) -> Result<Option<Self>, DropReason> {
        let (Network::V6(ip), Transport::Icmpv6(icmp)) = (&parsed.network, parsed.transport) else {
            return Ok(None);
        };
        if !icmp.is_neighbour_discovery() {
            return Ok(None);
        }
        if ip.fragment.is_some() {
            return Err(DropReason::FragmentInvalid);
        }
        if ip.hop_limit != REQUIRED_HOP_LIMIT || icmp.code != 0 {
            return Err(DropReason::BadHeader);
        }
        if !parsed.transport_checksum_is_valid(frame) {
            return Err(DropReason::BadL4Checksum);
        }
        let body = parsed.payload(frame);
        match icmp.icmp_type {
            icmpv6::ROUTER_SOLICITATION => router_solicitation(ip, body),
            icmpv6::ROUTER_ADVERTISEMENT => router_advertisement(ip, &icmp, body),
            icmpv6::NEIGHBOUR_SOLICITATION => neighbour_solicitation(ip, body),
            icmpv6::NEIGHBOUR_ADVERTISEMENT => neighbour_advertisement(ip, &icmp, body),
            _ => redirect(ip, body),
        }
        .map(Some)
    }
}

/// What the options of a message say; other options are skipped.
#[derive(Default)]
struct Options {
    source_mac: Option<MacAddress>,
    target_mac: Option<MacAddress>,
    mtu: Option<u32>,
}

impl Options {
    /// Reads all options; of several of one kind the first counts.
    fn read(mut bytes: &[u8]) -> Result<Self, DropReason> {
        let mut options = Self::default();
        while let &[kind, length, ..] = bytes {
            // RFC 4861 section 4.6: in units of eight bytes; zero makes the packet invalid.
            let length = usize::from(length) * 8;
            if length == 0 || length > bytes.len() {
                return Err(DropReason::BadLength);
            }
            let (option, rest) = bytes.split_at(length);
            options.note(kind, option)?;
            bytes = rest;
        }
        if bytes.is_empty() { Ok(options) } else { Err(DropReason::BadLength) }
    }

    fn note(&mut self, kind: u8, option: &[u8]) -> Result<(), DropReason> {
        if !matches!(kind, OPTION_SOURCE_LINK_LAYER | OPTION_TARGET_LINK_LAYER | OPTION_MTU) {
            return Ok(());
        }
        let option: &[u8; 8] = option.try_into().map_err(|_| DropReason::BadLength)?;
        match kind {
            OPTION_SOURCE_LINK_LAYER => _ = self.source_mac.get_or_insert(part(option, 2)),
            OPTION_TARGET_LINK_LAYER => _ = self.target_mac.get_or_insert(part(option, 2)),
            _ => _ = self.mtu.get_or_insert(be32(option, 4)),
        }
        Ok(())
    }
}

/// The fixed part of a message behind the ICMPv6 header, and its options.
fn split<const N: usize>(body: &[u8]) -> Result<(&[u8; N], Options), DropReason> {
    let (fixed, options) = body.split_first_chunk().ok_or(DropReason::BadLength)?;
    Ok((fixed, Options::read(options)?))
}

/// An error unless `valid`.
fn require(valid: bool) -> Result<(), DropReason> {
    if valid { Ok(()) } else { Err(DropReason::BadHeader) }
}

fn router_solicitation(ip: &Ipv6, body: &[u8]) -> Result<Message, DropReason> {
    let (&[], Options { source_mac, .. }) = split(body)?;
    // RFC 4861 section 6.1.1: an unspecified sender gives no link-layer address.
    require(!ip.source.is_unspecified() || source_mac.is_none())?;
    Ok(Message::RouterSolicitation { source_mac })
}

fn router_advertisement(ip: &Ipv6, icmp: &Icmpv6, body: &[u8]) -> Result<Message, DropReason> {
    let (fixed, Options { source_mac, mtu, .. }) = split::<8>(body)?;
    // RFC 4861 section 6.1.2.
    require(ip.source.is_unicast_link_local())?;
    Ok(Message::RouterAdvertisement {
        hop_limit: icmp.rest[0],
        lifetime_seconds: be16(&icmp.rest, 2),
        reachable_milliseconds: be32(fixed, 0),
        retransmit_milliseconds: be32(fixed, 4),
        source_mac,
        mtu,
    })
}

fn neighbour_solicitation(ip: &Ipv6, body: &[u8]) -> Result<Message, DropReason> {
    let (fixed, Options { source_mac, .. }) = split::<16>(body)?;
    let target = Ipv6Addr::from(*fixed);
    require(!target.is_multicast())?;
    if ip.source.is_unspecified() {
        // RFC 4861 section 7.1.1: duplicate address detection goes to a solicited-node group.
        let prefix = 0xff02_0000_0000_0000_0000_0001_ff00_0000u128;
        require(ip.destination.to_bits() >> 24 == prefix >> 24 && source_mac.is_none())?;
    }
    Ok(Message::NeighbourSolicitation { target, source_mac })
}

fn neighbour_advertisement(ip: &Ipv6, icmp: &Icmpv6, body: &[u8]) -> Result<Message, DropReason> {
    let (fixed, Options { target_mac, .. }) = split::<16>(body)?;
    let target = Ipv6Addr::from(*fixed);
    let [flags, ..] = icmp.rest;
    let solicited = flags & 0x40 != 0;
    // RFC 4861 section 7.1.2.
    require(!target.is_multicast())?;
    require(!ip.destination.is_multicast() || !solicited)?;
    let (router, override_cached) = (flags & 0x80 != 0, flags & 0x20 != 0);
    Ok(Message::NeighbourAdvertisement { target, router, solicited, override_cached, target_mac })
}

fn redirect(ip: &Ipv6, body: &[u8]) -> Result<Message, DropReason> {
    let (fixed, Options { target_mac, .. }) = split::<32>(body)?;
    let target = Ipv6Addr::from(part::<32, 16>(fixed, 0));
    let destination = Ipv6Addr::from(part::<32, 16>(fixed, 16));
    // RFC 4861 section 8.1.
    require(ip.source.is_unicast_link_local() && !destination.is_multicast())?;
    require(target.is_unicast_link_local() || target == destination)?;
    Ok(Message::Redirect { target, destination, target_mac })
}
