//! Frames that etherparse builds: random ones for properties, and plain ones for examples.

use etherparse::{
    Ethernet2Header, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options,
    Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions, PacketBuilder,
    TcpHeader,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Ethernet addresses of all samples.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// IPv4 addresses of the plain samples.
pub const CLIENT: [u8; 4] = [192, 0, 2, 1];
pub const SERVER: [u8; 4] = [198, 51, 100, 7];
/// IPv6 addresses of the plain samples.
pub const CLIENT6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub const SERVER6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

/// What is above IP.
#[derive(Clone, Debug)]
pub enum Upper {
    Udp(u16, u16),
    Tcp(Box<TcpHeader>),
    Echo(u16, u16),
}

/// A frame's description.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Tags as (TPID, TCI).
    pub tags: Vec<(u16, u16)>,
    pub ip: IpHeaders,
    pub upper: Upper,
    pub payload: Vec<u8>,
    /// Zeros behind the packet.
    pub padding: usize,
}

impl Sample {
    /// The frame, and its length without padding.
    pub fn build(&self) -> (Vec<u8>, usize) {
        let builder = PacketBuilder::ip(self.ip.clone());
        let mut packet = Vec::new();
        match (&self.upper, &self.ip) {
            (Upper::Udp(from, to), _) => builder.udp(*from, *to).write(&mut packet, &self.payload),
            (Upper::Tcp(tcp), _) => builder.tcp_header((**tcp).clone()).write(&mut packet, &self.payload),
            (Upper::Echo(id, sequence), IpHeaders::Ipv4(..)) => {
                builder.icmpv4_echo_request(*id, *sequence).write(&mut packet, &self.payload)
            }
            (Upper::Echo(id, sequence), IpHeaders::Ipv6(..)) => {
                builder.icmpv6_echo_request(*id, *sequence).write(&mut packet, &self.payload)
            }
        }
        .expect("etherparse builds it");
        let ether_type = if matches!(self.ip, IpHeaders::Ipv4(..)) { 0x0800 } else { 0x86dd };
        let mut frame = link(&self.tags, ether_type);
        frame.extend(packet);
        let end = frame.len();
        frame.resize(end + self.padding, 0);
        (frame, end)
    }
}

/// Ethernet and tags from client to router.
pub fn link(tags: &[(u16, u16)], ether_type: u16) -> Vec<u8> {
    let types: Vec<u16> = tags.iter().map(|tag| tag.0).chain([ether_type]).collect();
    let header = Ethernet2Header { source: CLIENT_MAC, destination: ROUTER_MAC, ether_type: types[0].into() };
    let mut frame = header.to_bytes().to_vec();
    for (tag, next) in tags.iter().zip(&types[1..]) {
        frame.extend(tag.1.to_be_bytes());
        frame.extend(next.to_be_bytes());
    }
    frame
}

fn sample(ip: IpHeaders, upper: Upper, payload: &[u8]) -> Vec<u8> {
    Sample { tags: Vec::new(), ip, upper, payload: payload.to_vec(), padding: 0 }.build().0
}

pub fn ipv4() -> IpHeaders {
    let header = Ipv4Header {
        source: CLIENT,
        destination: SERVER,
        time_to_live: 64,
        identification: 0x4321,
        ..Ipv4Header::default()
    };
    IpHeaders::Ipv4(header, Ipv4Extensions::default())
}

pub fn ipv6() -> IpHeaders {
    let header = Ipv6Header { source: CLIENT6, destination: SERVER6, hop_limit: 64, ..Ipv6Header::default() };
    IpHeaders::Ipv6(header, Ipv6Extensions::default())
}

/// UDP from port 4000 to 53.
pub fn udp(ip: IpHeaders, payload: &[u8]) -> Vec<u8> {
    sample(ip, Upper::Udp(4000, 53), payload)
}

/// TCP from port 4000 to 80; `set` changes the header, which has sequence number 1000 and no flags.
pub fn tcp(ip: IpHeaders, payload: &[u8], set: impl FnOnce(&mut TcpHeader)) -> Vec<u8> {
    let mut header = TcpHeader::new(4000, 80, 1000, 0xffff);
    set(&mut header);
    sample(ip, Upper::Tcp(Box::new(header)), payload)
}

/// An echo request with identifier 77 and sequence number 3.
pub fn echo(ip: IpHeaders, payload: &[u8]) -> Vec<u8> {
    sample(ip, Upper::Echo(77, 3), payload)
}

fn tags() -> impl Strategy<Value = Vec<(u16, u16)>> {
    vec((select(vec![0x8100u16, 0x88a8]), any::<u16>()), 0..=2)
}

prop_compose! {
    fn any_ipv4()(
        source: [u8; 4], destination: [u8; 4], identification: u16, ttl: u8, tos: u8, df: bool,
        options in vec(any::<u8>(), 0..=10).prop_map(|words| words.repeat(4)),
    ) -> IpHeaders {
        let header = Ipv4Header {
            dscp: (tos >> 2).try_into().unwrap(),
            ecn: (tos & 3).try_into().unwrap(),
            identification,
            dont_fragment: df,
            more_fragments: false,
            fragment_offset: IpFragOffset::ZERO,
            time_to_live: ttl,
            source,
            destination,
            options: Ipv4Options::try_from(&options[..]).unwrap(),
            ..Ipv4Header::default()
        };
        IpHeaders::Ipv4(header, Ipv4Extensions::default())
    }
}

fn raw_extension() -> impl Strategy<Value = Option<Ipv6RawExtHeader>> {
    let payload = (0usize..4).prop_flat_map(|words| vec(any::<u8>(), 6 + 8 * words));
    proptest::option::of(payload.prop_map(|p| Ipv6RawExtHeader::new_raw(IpNumber::UDP, &p).unwrap()))
}

/// A routing header that has been used up: the destination is the last one.
fn routing_extension() -> impl Strategy<Value = Option<Ipv6RawExtHeader>> {
    raw_extension().prop_map(|header| {
        header.map(|header| {
            let mut payload = header.payload().to_vec();
            payload[1] = 0;
            Ipv6RawExtHeader::new_raw(IpNumber::UDP, &payload).unwrap()
        })
    })
}

prop_compose! {
    fn any_extensions()(
        hop_by_hop_options in raw_extension(),
        destination_options in raw_extension(),
        routing in routing_extension(),
        final_destination_options in raw_extension(),
        fragment in proptest::option::of(any::<u32>()),
    ) -> Ipv6Extensions {
        Ipv6Extensions {
            hop_by_hop_options,
            destination_options,
            routing: routing.map(|routing| Ipv6RoutingExtensions { routing, final_destination_options }),
            // An atomic fragment (RFC 6946).
            fragment: fragment.map(|id| Ipv6FragmentHeader::new(IpNumber::UDP, IpFragOffset::ZERO, false, id)),
            auth: None,
        }
    }
}

prop_compose! {
    fn any_ipv6()(
        source: [u8; 16], destination: [u8; 16], traffic_class: u8, label in 0u32..1 << 20, hop_limit: u8,
        extensions in proptest::option::of(any_extensions()),
    ) -> IpHeaders {
        let header = Ipv6Header {
            traffic_class,
            flow_label: label.try_into().unwrap(),
            hop_limit,
            source,
            destination,
            ..Ipv6Header::default()
        };
        IpHeaders::Ipv6(header, extensions.unwrap_or_default())
    }
}

prop_compose! {
    fn any_tcp()(
        ports: (u16, u16), sequence: u32, acknowledgment: u32, flags: [bool; 9], window: u16, urgent: u16,
        options in vec(any::<u8>(), 0..=10).prop_map(|words| words.repeat(4)),
    ) -> Upper {
        let mut tcp = TcpHeader::new(ports.0, ports.1, sequence, window);
        tcp.acknowledgment_number = acknowledgment;
        tcp.urgent_pointer = urgent;
        [tcp.ns, tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack, tcp.urg, tcp.ece, tcp.cwr] = flags;
        tcp.set_options_raw(&options).unwrap();
        Upper::Tcp(Box::new(tcp))
    }
}

fn any_upper() -> impl Strategy<Value = Upper> {
    prop_oneof![
        any::<(u16, u16)>().prop_map(|(from, to)| Upper::Udp(from, to)),
        any_tcp(),
        any::<(u16, u16)>().prop_map(|(id, sequence)| Upper::Echo(id, sequence)),
    ]
}

prop_compose! {
    /// Any whole packet over IPv4 or IPv6.
    pub fn any_sample()(
        tags in tags(),
        ip in prop_oneof![any_ipv4(), any_ipv6()],
        upper in any_upper(),
        payload in vec(any::<u8>(), 0..200),
        padding in select(vec![0usize, 1, 18, 46]),
    ) -> Sample {
        Sample { tags, ip, upper, payload, padding }
    }
}
