//! The NAT in a chain through the real engine, requirement by requirement. Every packet that leaves is read by etherparse,
//! and its checksums computed anew.

#[path = "../common/mod.rs"]
mod common;

mod changes;
mod rfc4787;
mod rfc5382;
mod rfc5508;

use common::{Harness, Sent, Wire};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::memory::Arena;
use millrace_nf::chain::ChainBuilder;
use millrace_nf::function::{FlowFunction, Verdict};
use millrace_nf::nat::{
    Capacity, Forward, Nat, NatConfig, NatPlan, NatSettings, OneToOne, PoolRange, Protocol, Secret,
};
use millrace_nf::walk::Walk;
use std::any::Any;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A host outside.
pub const REMOTE: &str = "198.51.100.7";
/// The only address of the pool.
pub const POOL: &str = "192.0.2.1";

/// One pool address, endpoint-independent filtering.
pub fn settings() -> NatSettings {
    let address: Ipv4Addr = POOL.parse().unwrap();
    NatSettings {
        pool: vec![PoolRange { first: address, last: address }],
        ports: (1024, 65_535),
        ..NatSettings::default()
    }
}

/// The default configuration of these settings.
pub fn config(settings: NatSettings) -> NatConfig {
    NatConfig::new(Arc::new(NatPlan::new(settings).unwrap()))
}

/// A forward of one port.
pub fn forward(protocol: Protocol, external: &str, inside: &str) -> Forward {
    let (external, inside) = (external.parse().unwrap(), inside.parse().unwrap());
    Forward { protocol, external, ports: 1, inside }
}

/// 10.0.0.80 is 192.0.2.80 outside.
pub fn one_to_one() -> OneToOne {
    OneToOne { external: [192, 0, 2, 80].into(), addresses: 1, inside: [10, 0, 0, 80].into() }
}

/// Drops what is sent to port 666, behind the NAT.
struct Denier;

impl FlowFunction for Denier {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "denier"
    }
    fn reads(&self) -> Reads {
        Reads::none().with(&[Field::DestinationPort])
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        if walk.headers.destination_port() == Some(666) {
            return (Verdict::Drop(DropReason::FirewallDenied), None);
        }
        (Verdict::Continue, None)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// A NAT with small tables and ports that repeat.
pub fn nat_of(config: NatConfig) -> Nat {
    let capacity = Capacity { mappings: 4096, mappings_static: 16, subscribers: 256, contacts: 256 };
    Nat::new(config, &capacity, &Secret::from_key([1, 2]), &Arena::anonymous(8 << 20).unwrap()).unwrap()
}

/// NAT, denier, wire.
pub fn harness(config: NatConfig) -> Harness {
    let chain = ChainBuilder::new("edge", &["inside", "outside"])
        .function("nat", nat_of(config))
        .function("denier", Denier)
        .forwarder("wire", Wire::default());
    Harness::new(chain)
}

/// The NAT of the harness.
pub fn nat(harness: &mut Harness) -> &mut Nat {
    harness.function("nat")
}

/// Who sends and who receives, as `address:port`; of echo messages the identifier is both ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Sender.
    pub source: String,
    /// Receiver.
    pub destination: String,
}

/// What should be seen.
pub fn seen(source: impl Into<String>, destination: impl Into<String>) -> Seen {
    Seen { source: source.into(), destination: destination.into() }
}

/// Reads a packet and checks its checksums, and those of the packet that it quotes.
pub fn read(packet: &[u8]) -> Seen {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4 packet") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 header checksum");
    let ports = match sliced.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let expected = tcp.calc_checksum_ipv4(header.source, header.destination).unwrap();
            assert_eq!(tcp.checksum(), expected, "TCP checksum");
            (tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => {
            let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
            assert!(udp.checksum() == 0 || udp.checksum() == expected, "UDP checksum");
            (udp.source_port(), udp.destination_port())
        }
        TransportSlice::Icmpv4(icmp) => {
            let expected = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(icmp.checksum(), expected, "ICMP checksum");
            match icmp.icmp_type() {
                etherparse::Icmpv4Type::EchoRequest(echo) | etherparse::Icmpv4Type::EchoReply(echo) => {
                    (echo.id, echo.id)
                }
                _ => (0, 0),
            }
        }
        other => panic!("unexpected {other:?}"),
    };
    seen(
        format!("{}:{}", Ipv4Addr::from(header.source), ports.0),
        format!("{}:{}", Ipv4Addr::from(header.destination), ports.1),
    )
}

/// The packet that the ICMP error in a frame quotes, checked likewise.
pub fn quoted(frame: &[u8]) -> Seen {
    match SlicedPacket::from_ethernet(frame).unwrap().transport.unwrap() {
        TransportSlice::Icmpv4(icmp) => read(icmp.payload()),
        other => panic!("no ICMP: {other:?}"),
    }
}

/// The only frame that left, which left by `port`.
pub fn only(port: u16, sent: &Sent) -> (Seen, Vec<u8>) {
    assert_eq!(sent.len(), 1, "one frame leaves");
    assert_eq!(sent[0].0, port, "by this port");
    (read(common::packet_of(&sent[0].1)), sent[0].1.clone())
}

/// The port of an `address:port`.
pub fn port_of(endpoint: &str) -> u16 {
    endpoint.rsplit_once(':').unwrap().1.parse().unwrap()
}
