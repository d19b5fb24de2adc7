//! Frames of every kind that the data plane tells apart, made by etherparse: what seeds are made of.

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Extensions,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, PacketBuilder, TcpOptionElement,
};

/// The router's stations, by port.
pub const OWN: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]];
/// A station on each side.
pub const STATION: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 9]];
/// A host inside, and one outside.
pub const HOSTS4: [[u8; 4]; 2] = [[10, 0, 0, 5], [198, 18, 0, 7]];
/// The same for IPv6: `2001:db8:1::5` and `2001:db8:2::7`.
pub const HOSTS6: [[u8; 16]; 2] = [
    [0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5],
    [0x20, 1, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
];

macro_rules! written {
    ($builder:expr, $payload:expr) => {{
        let mut frame = Vec::new();
        $builder.write(&mut frame, $payload).expect("etherparse writes what fits");
        frame
    }};
}

/// Frames that arrive at the inside port, each with a name. All their lengths and checksums are right.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = plain();
    all.extend(errors(&all));
    all.extend(unusual());
    all.extend(link_layer());
    all
}

fn plain() -> Vec<(&'static str, Vec<u8>)> {
    let v4 = || PacketBuilder::ethernet2(STATION[0], OWN[0]).ipv4(HOSTS4[0], HOSTS4[1], 64);
    let v6 = || PacketBuilder::ethernet2(STATION[0], OWN[0]).ipv6(HOSTS6[0], HOSTS6[1], 64);
    let echo = IcmpEchoHeader { id: 7, seq: 1 };
    let options = [TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::WindowScale(7)];
    let options = &options[..];
    vec![
        ("udp4", written!(v4().udp(1000, 53), b"question")),
        ("udp6", written!(v6().udp(1000, 53), b"question")),
        ("syn4", written!(v4().tcp(1000, 80, 100, 65_535).syn().options(options).expect("they fit"), &[])),
        ("syn6", written!(v6().tcp(1000, 80, 100, 65_535).syn().options(options).expect("they fit"), &[])),
        ("ack4", written!(v4().tcp(1000, 80, 101, 65_535).ack(78), b"GET / HTTP/1.0")),
        ("fin4", written!(v4().tcp(1000, 80, 115, 65_535).ack(78).fin(), &[])),
        ("rst6", written!(v6().tcp(1000, 80, 101, 0).rst(), &[])),
        ("echo4", written!(v4().icmpv4(Icmpv4Type::EchoRequest(echo)), b"0123456789")),
        ("echo6", written!(v6().icmpv6(Icmpv6Type::EchoRequest(echo)), b"0123456789")),
    ]
}

/// Errors about other samples.
fn errors(about: &[(&'static str, Vec<u8>)]) -> Vec<(&'static str, Vec<u8>)> {
    let quote = |name: &str| {
        let (_, frame) = about.iter().find(|(it, _)| *it == name).expect("a sample");
        &frame[14..]
    };
    let v4 = || PacketBuilder::ethernet2(STATION[0], OWN[0]).ipv4(HOSTS4[0], HOSTS4[1], 64);
    let v6 = || PacketBuilder::ethernet2(STATION[0], OWN[0]).ipv6(HOSTS6[0], HOSTS6[1], 64);
    let port = Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    let exceeded = Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit);
    let big = Icmpv6Type::PacketTooBig { mtu: 1280 };
    vec![
        ("unreachable4", written!(v4().icmpv4(port), quote("udp4"))),
        ("exceeded4", written!(v4().icmpv4(exceeded), &quote("ack4")[..28])),
        ("too-big6", written!(v6().icmpv6(big), quote("udp6"))),
    ]
}

fn ethernet(ether_type: u16, packet: &[u8]) -> Vec<u8> {
    [&OWN[0][..], &STATION[0], &ether_type.to_be_bytes(), packet].concat()
}

/// An IPv4 packet with a header of one's own.
fn ipv4(protocol: u8, payload: &[u8], edit: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let mut header = Ipv4Header::new(payload.len() as u16, 64, IpNumber(protocol), HOSTS4[0], HOSTS4[1])
        .expect("it is short");
    edit(&mut header);
    header.total_len = header.header_len() as u16 + payload.len() as u16;
    header.header_checksum = header.calc_header_checksum();
    ethernet(0x0800, &[&header.to_bytes()[..], payload].concat())
}

/// An IPv6 packet with extension headers; `protocol` is the last.
fn ipv6(protocol: u8, mut extensions: Ipv6Extensions, payload: &[u8]) -> Vec<u8> {
    let next_header = extensions.set_next_headers(IpNumber(protocol));
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: Default::default(),
        payload_length: (extensions.header_len() + payload.len()) as u16,
        next_header,
        hop_limit: 64,
        source: HOSTS6[0],
        destination: HOSTS6[1],
    };
    let mut packet = Vec::new();
    IpHeaders::Ipv6(header, extensions).write(&mut packet).expect("it is right");
    packet.extend(payload);
    ethernet(0x86dd, &packet)
}

fn unusual() -> Vec<(&'static str, Vec<u8>)> {
    let samples = plain();
    let sample = |name: &str| &samples.iter().find(|(it, _)| *it == name).expect("a sample").1;
    let (udp4, udp6, tcp4) = (&sample("udp4")[34..], &sample("udp6")[54..], &sample("ack4")[34..]);
    let raw = |bytes: &[u8]| Ipv6RawExtHeader::new_raw(IpNumber(0), bytes).expect("it is right");
    let first = IpFragOffset::ZERO;
    let later = IpFragOffset::try_new(1).expect("it is small");
    let piece = |offset, more| Ipv6Extensions {
        fragment: Some(Ipv6FragmentHeader::new(IpNumber(17), offset, more, 99)),
        ..Default::default()
    };
    let options = Ipv6Extensions {
        hop_by_hop_options: Some(raw(&[5, 2, 0, 0, 1, 0])),
        destination_options: Some(raw(&[1, 4, 0, 0, 0, 0])),
        ..Default::default()
    };
    let mut zero = udp4.to_vec();
    zero[6..8].fill(0);
    vec![
        ("options4", ipv4(6, tcp4, |ip| ip.options = [148, 4, 0, 0].into())),
        (
            "first-fragment4",
            ipv4(17, &udp4[..8], |ip| {
                (ip.identification, ip.dont_fragment, ip.more_fragments) = (99, false, true);
            }),
        ),
        (
            "last-fragment4",
            ipv4(17, &udp4[8..], |ip| {
                (ip.identification, ip.dont_fragment, ip.fragment_offset) = (99, false, later);
            }),
        ),
        ("unchecked-udp4", ipv4(17, &zero, |_| {})),
        ("dont-fragment4", ipv4(17, udp4, |ip| ip.dont_fragment = true)),
        ("last-hop4", ipv4(17, udp4, |ip| ip.time_to_live = 1)),
        ("gre4", ipv4(47, &[0, 0, 8, 0, 0x45], |_| {})),
        ("sctp4", ipv4(132, &[3, 232, 0, 80, 0, 0, 0, 0, 1, 2, 3, 4], |_| {})),
        ("igmp4", ipv4(2, &[0x16, 0, 9, 4, 0xe0, 0, 0, 0xfb], |ip| ip.destination = [224, 0, 0, 251])),
        ("options6", ipv6(17, options, udp6)),
        ("first-fragment6", ipv6(17, piece(first, true), &udp6[..8])),
        ("last-fragment6", ipv6(17, piece(later, false), &udp6[8..])),
        ("atomic-fragment6", ipv6(17, piece(first, false), udp6)),
        ("no-next-header6", ipv6(59, Ipv6Extensions::default(), &[])),
        ("esp6", ipv6(50, Ipv6Extensions::default(), &[0, 0, 0, 1, 0, 0, 0, 1])),
    ]
}

fn link_layer() -> Vec<(&'static str, Vec<u8>)> {
    let samples = plain();
    let udp4 = &samples[0].1;
    let tagged = |tags: &[[u8; 4]]| [&udp4[..12], &tags.concat(), &udp4[12..]].concat();
    let arp = |operation: u8, hardware: [u8; 6], address: [u8; 4]| {
        let fixed = [0, 1, 8, 0, 6, 4, 0, operation];
        [&fixed[..], &STATION[0], &HOSTS4[0], &hardware, &address].concat()
    };
    let solicited = [&HOSTS6[0][..15], &[9]].concat();
    let solicitation = PacketBuilder::ethernet2(STATION[0], OWN[0])
        .ipv6(HOSTS6[0], HOSTS6[0], 255)
        .icmpv6_raw(135, 0, [0; 4]);
    let solicitation = written!(solicitation, &[&solicited[..], &[1, 1], &STATION[0]].concat());
    let advertisement = PacketBuilder::ethernet2(STATION[0], OWN[0])
        .ipv6(HOSTS6[0], HOSTS6[0], 255)
        .icmpv6_raw(136, 0, [0x60, 0, 0, 0]);
    let advertisement = written!(advertisement, &[&HOSTS6[0][..], &[2, 1], &STATION[0]].concat());
    vec![
        ("vlan", tagged(&[[0x81, 0, 0, 5]])),
        ("qinq", tagged(&[[0x88, 0xa8, 0, 5], [0x81, 0, 0x20, 6]])),
        ("padded", [&udp4[..], &[0; 10]].concat()),
        ("arp-request", ethernet(0x0806, &arp(1, [0; 6], [10, 0, 0, 254]))),
        ("arp-reply", ethernet(0x0806, &arp(2, OWN[0], [10, 0, 0, 254]))),
        ("solicitation", solicitation),
        ("advertisement", advertisement),
        ("lldp", ethernet(0x88cc, &[2, 7, 4, 2, 0, 0, 0, 0, 1, 0, 0])),
        ("ieee802.3", ethernet(38, &[0x42, 0x42, 3, 0, 0, 0, 0, 0])),
    ]
}
