//! Building frames from typed headers, with all lengths and checksums computed.

use super::ethernet;
use super::parsed::pseudo_header;
use super::{Network, Parsed, Transport, Udp, protocol};
use arrayvec::ArrayVec;
use millrace_dataplane::packet::checksum;

/// A frame that the data plane originates. It holds what an MTU of 1,500 lets pass, with two tags.
pub type FrameBuffer = ArrayVec<u8, 1600>;

/// The frame does not fit its buffer, or a length field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame is longer than its buffer or than an IP packet can be")]
pub struct FrameTooLong;

/// Builds the frame that `parsed` describes, with `payload` behind its headers.
///
/// Computed: the EtherType (but for [`Network::None`]), IP lengths, the IPv4 header length and checksum, the TCP data
/// offset, the UDP length (see [`Udp::length`]) and the TCP, UDP and ICMP checksums. IPv4 options, IPv6 extension
/// headers and TCP options are taken from `original`, the frame that `parsed` came from (empty for a new one).
///
/// A UDP checksum of zero stays zero. Where the checksum covers what the frame does not hold (a first fragment, or
/// the last destination that a routing header hides), it is the original's, changed by what changed in the headers
/// (RFC 1624).
///
/// Errors: [`FrameTooLong`] if the frame exceeds `N` bytes or an IP length field.
pub fn serialise<const N: usize>(
    parsed: &Parsed,
    original: &[u8],
    payload: &[u8],
) -> Result<ArrayVec<u8, N>, FrameTooLong> {
    let mut out = ArrayVec::new();
    push_link(&mut out, parsed)?;
    let (header, header_bytes) = transport_header(parsed, original, payload);
    let segment_bytes = header_bytes + payload.len();
    match &parsed.network {
        Network::None => {}
        Network::Arp(arp) => push(&mut out, &arp.to_bytes())?,
        Network::V4(ip) => {
            let options = ip.options.of(original);
            let length = 20 + options.len().min(40).next_multiple_of(4) + segment_bytes;
            let (bytes, bytes_len) = ip.to_bytes(options, u16::try_from(length).map_err(|_| FrameTooLong)?);
            push(&mut out, &bytes[..bytes_len])?;
        }
        Network::V6(ip) => {
            let extensions = ip.extensions.of(original);
            let length = extensions.len() + segment_bytes;
            push(&mut out, &ip.to_bytes(u16::try_from(length).map_err(|_| FrameTooLong)?))?;
            push(&mut out, extensions)?;
        }
    }
    let at = out.len();
    push(&mut out, &header[..header_bytes])?;
    push(&mut out, payload)?;
    patch_checksum(&mut out[at..], parsed, original, header_bytes);
    Ok(out)
}

fn push<const N: usize>(out: &mut ArrayVec<u8, N>, bytes: &[u8]) -> Result<(), FrameTooLong> {
    out.try_extend_from_slice(bytes).map_err(|_| FrameTooLong)
}

fn push_link<const N: usize>(out: &mut ArrayVec<u8, N>, parsed: &Parsed) -> Result<(), FrameTooLong> {
    push(out, &parsed.ethernet.destination)?;
    push(out, &parsed.ethernet.source)?;
    for tag in &parsed.tags {
        push(out, &tag.tpid.to_be_bytes())?;
        push(out, &tag.tci.to_be_bytes())?;
    }
    let ether_type = match parsed.network {
        Network::None => parsed.ethernet.ether_type,
        Network::Arp(_) => ethernet::ARP,
        Network::V4(_) => ethernet::IPV4,
        Network::V6(_) => ethernet::IPV6,
    };
    push(out, &ether_type.to_be_bytes())
}

/// The transport header with a checksum of zero, and its length in bytes.
fn transport_header(parsed: &Parsed, original: &[u8], payload: &[u8]) -> ([u8; 60], usize) {
    fn widen<const M: usize>(bytes: [u8; M]) -> ([u8; 60], usize) {
        let mut out = [0; 60];
        out[..M].copy_from_slice(&bytes);
        (out, M)
    }
    match parsed.transport {
        Transport::None | Transport::Other(_) => widen([]),
        Transport::Tcp(tcp) => tcp.to_bytes(tcp.options.of(original)),
        Transport::Udp(udp) => {
            let full = Udp::HEADER_BYTES + payload.len();
            let keep = parsed.is_fragment() || (Udp::HEADER_BYTES..full).contains(&usize::from(udp.length));
            // A length that does not fit is refused with the IP length, which is larger.
            let length = if keep { udp.length } else { u16::try_from(full).unwrap_or(u16::MAX) };
            widen(Udp { length, checksum: 0, ..udp }.to_bytes())
        }
        Transport::Icmpv4(icmp) => widen(icmp.to_bytes()),
        Transport::Icmpv6(icmp) => widen(icmp.to_bytes()),
    }
}

/// The checksum's place in a transport header, the protocol's number, and the checksum as received.
const fn checksum_field(transport: &Transport) -> Option<(usize, u8, u16)> {
    match transport {
        Transport::None | Transport::Other(_) => None,
        Transport::Tcp(tcp) => Some((16, protocol::TCP, tcp.checksum)),
        Transport::Udp(udp) => Some((6, protocol::UDP, udp.checksum)),
        Transport::Icmpv4(icmp) => Some((2, protocol::ICMPV4, icmp.checksum)),
        Transport::Icmpv6(icmp) => Some((2, protocol::ICMPV6, icmp.checksum)),
    }
}

/// Sets the checksum of `segment`, the transport header and payload.
fn patch_checksum(segment: &mut [u8], parsed: &Parsed, original: &[u8], header_bytes: usize) {
    let Some((at, number, received)) = checksum_field(&parsed.transport) else { return };
    let is_udp = number == protocol::UDP;
    if is_udp && received == 0 {
        return;
    }
    let hidden =
        parsed.is_fragment() || matches!(parsed.network, Network::V6(ip) if !ip.destination_is_final());
    let value = if hidden {
        let new = headers_sum(parsed, &segment[..header_bytes], number);
        updated_checksum(original, new, received)
    } else {
        let covered = match parsed.transport {
            Transport::Udp(_) => usize::from(u16::from_be_bytes([segment[4], segment[5]])).min(segment.len()),
            _ => segment.len(),
        };
        let pseudo = pseudo_sum(&parsed.network, number, covered);
        checksum::finish(pseudo + checksum::sum(&segment[..covered]))
    };
    // RFC 768: a computed zero is sent as all ones.
    let value = if is_udp && value == 0 { 0xffff } else { value };
    segment[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}

fn pseudo_sum(network: &Network, number: u8, length: usize) -> u64 {
    if number == protocol::ICMPV4 { 0 } else { pseudo_header(network, number, length) }
}

/// The sum of what a change of headers changes: addresses and the transport header, whose checksum field is zero.
fn headers_sum(parsed: &Parsed, header: &[u8], number: u8) -> u64 {
    pseudo_sum(&parsed.network, number, 0) + checksum::sum(header)
}

/// The checksum `received` (host order) with the original's headers replaced by such that sum to `new`.
fn updated_checksum(original: &[u8], new: u64, received: u16) -> u16 {
    let field = received.to_be();
    let Ok(before) = Parsed::parse(original) else { return field };
    let Some((_, number, _)) = checksum_field(&before.transport) else { return field };
    let (header, header_bytes) = transport_header(&before, original, before.payload(original));
    let old = headers_sum(&before, &header[..header_bytes], number);
    checksum::apply(field, checksum::delta(old, new))
}
