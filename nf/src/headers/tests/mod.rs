//! Tests of the typed headers. The oracle is `etherparse`: it builds what is parsed here, and checks what is built here.

mod answers;
mod discovery;
mod fragments;
mod malformed;
mod quotes;
mod round_trip;
mod samples;
mod totality;

use super::{Parsed, serialise};
use arrayvec::ArrayVec;
use etherparse::{NetHeaders, PacketHeaders, PayloadSlice, TransportHeader};

/// A buffer that every test frame fits.
type Buffer = ArrayVec<u8, 4096>;

/// The frame of `parsed` with the payload that it has in `frame`.
fn rebuild(parsed: &Parsed, frame: &[u8]) -> Buffer {
    serialise(parsed, frame, parsed.payload(frame)).expect("test frames fit")
}

/// Parses `frame` with etherparse, strictly, and checks that the IP lengths cover the frame to its end and that all
/// checksums are right.
fn check_strictly(frame: &[u8]) -> PacketHeaders<'_> {
    let packet = PacketHeaders::from_ethernet_slice(frame).expect("etherparse accepts it");
    match packet.net.as_ref().expect("a network header") {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4 header checksum");
            let start = link_bytes(&packet);
            assert_eq!(usize::from(ip.total_len), frame.len() - start, "IPv4 total length");
        }
        NetHeaders::Ipv6(ip, _) => {
            let start = link_bytes(&packet);
            assert_eq!(usize::from(ip.payload_length), frame.len() - start - 40, "IPv6 payload length");
        }
        NetHeaders::Arp(_) => {}
    }
    check_transport_checksum(&packet);
    packet
}

fn link_bytes(packet: &PacketHeaders<'_>) -> usize {
    14 + 4 * packet.link_exts.len()
}

fn check_transport_checksum(packet: &PacketHeaders<'_>) {
    let (Some(net), Some(transport)) = (&packet.net, &packet.transport) else { return };
    let payload = match packet.payload {
        PayloadSlice::Udp(p) | PayloadSlice::Tcp(p) | PayloadSlice::Icmpv4(p) | PayloadSlice::Icmpv6(p) => p,
        _ => return,
    };
    let (received, computed) = match (net, transport) {
        (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(udp)) => {
            (udp.checksum, udp.calc_checksum_ipv4(ip, payload).unwrap())
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(udp)) => {
            (udp.checksum, udp.calc_checksum_ipv6(ip, payload).unwrap())
        }
        (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(tcp)) => {
            (tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).unwrap())
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(tcp)) => {
            (tcp.checksum, tcp.calc_checksum_ipv6(ip, payload).unwrap())
        }
        (_, TransportHeader::Icmpv4(icmp)) => (icmp.checksum, icmp.icmp_type.calc_checksum(payload)),
        (NetHeaders::Ipv6(ip, _), TransportHeader::Icmpv6(icmp)) => {
            (icmp.checksum, icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload).unwrap())
        }
        _ => return,
    };
    assert_eq!(received, computed, "transport checksum");
}
