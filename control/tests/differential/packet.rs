//! Packets of scripts: what they say by names of hosts and mappings, and the bytes that they are in one of the two networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;

/// Who sends or receives. Clients and remotes have other addresses in each run of a script, so that runs don't meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An inside host that opens connections.
    Client(u8),
    /// The inside host that the port forwards lead to.
    Server,
    /// A host outside.
    Remote(u8),
    /// A router on the way inside, or outside.
    Hop(End),
    /// The middle's own address inside. Its own address outside is also the external address of all inside hosts.
    Gateway,
    External,
}

/// An end of the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    Inside,
    Outside,
}

impl End {
    pub const BOTH: [Self; 2] = [Self::Inside, Self::Outside];

    pub fn other(self) -> Self {
        if self == Self::Inside { Self::Outside } else { Self::Inside }
    }
}

impl Host {
    /// Its address in a run.
    pub fn address(self, v6: bool, run: u16) -> IpAddr {
        let [high, low] = run.to_be_bytes();
        if v6 {
            let six = |site: [u16; 3], host: u16| {
                let [a, b, c] = site;
                Ipv6Addr::new(a, b, c, run, 0, 0, 0, host)
            };
            return IpAddr::V6(match self {
                Self::Client(it) => six([0xfd01, 0, 1], 0x10 + u16::from(it)),
                Self::Remote(it) => six([0x2001, 0xdb8, 1], 0x10 + u16::from(it)),
                Self::Server => "fd01:0:2::3".parse().expect("an address"),
                Self::Hop(End::Inside) => "fd00:1::2".parse().expect("an address"),
                Self::Hop(End::Outside) => "2001:db8:ffff::2".parse().expect("an address"),
                Self::Gateway => "fd00:1::1".parse().expect("an address"),
                Self::External => "2001:db8:ffff::1".parse().expect("an address"),
            });
        }
        IpAddr::V4(match self {
            Self::Client(it) => Ipv4Addr::new(10, 16 + it, high, low),
            Self::Remote(it) => Ipv4Addr::new(100, 64 + it, high, low),
            Self::Server => Ipv4Addr::new(10, 1, 0, 3),
            Self::Hop(End::Inside) => Ipv4Addr::new(10, 0, 0, 2),
            Self::Hop(End::Outside) => Ipv4Addr::new(198, 51, 100, 2),
            Self::Gateway => Ipv4Addr::new(10, 0, 0, 1),
            Self::External => Ipv4Addr::new(198, 51, 100, 1),
        })
    }

    /// Who has an address in this run.
    pub fn named(address: IpAddr, run: u16) -> Option<Self> {
        let numbered = (0..4).flat_map(|it| [Self::Client(it), Self::Remote(it)]);
        let others =
            [Self::Server, Self::Hop(End::Inside), Self::Hop(End::Outside), Self::Gateway, Self::External];
        numbered.chain(others).find(|host| host.address(address.is_ipv6(), run) == address)
    }
}

/// The inside end of a mapping: protocol, host, port or identifier.
pub type Inner = (u8, Host, u16);

/// A port, or the identifier of an echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    Is(u16),
    /// The external port that the middle gave to packets from here to the remote host and port; one that no mapping has if none left yet.
    Mapped(Inner, Host, u16),
}

/// A packet without its link header.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    pub v6: bool,
    pub source: Host,
    pub destination: Host,
    pub ttl: u8,
    pub tos: u8,
    pub identification: u16,
    pub dont_fragment: bool,
    /// Options of IPv4, or extension headers of IPv6: kind and body without the first two bytes.
    pub options: Vec<u8>,
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub body: Body,
    pub damage: Damage,
}

/// What is wrong with a packet beyond what its fields say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    None,
    /// The checksum of the transport, or of the network header.
    Checksum,
    HeaderChecksum,
    /// UDP without a checksum.
    NoChecksum,
    /// The length in the UDP header, or the data offset of TCP, reaches this far beyond the packet.
    Length(u8),
    /// This many bytes at the end are missing, and the network header says so.
    CutOff(u16),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Tcp {
        ports: (Port, Port),
        sequence: u32,
        acknowledgment: u32,
        flags: u8,
        window: u16,
        urgent: u16,
        options: Vec<u8>,
        payload: Vec<u8>,
    },
    Udp {
        ports: (Port, Port),
        payload: Vec<u8>,
    },
    /// An echo, its reply, or another query.
    Query {
        kind: u8,
        code: u8,
        identifier: Port,
        sequence: u16,
        payload: Vec<u8>,
    },
    /// An ICMP error about a packet, of which it quotes so many bytes.
    Error {
        kind: u8,
        code: u8,
        rest: u32,
        about: Box<Packet>,
        quoted: usize,
    },
    Other {
        protocol: u8,
        bytes: Vec<u8>,
    },
}

impl Body {
    pub fn protocol(&self, v6: bool) -> u8 {
        match self {
            Self::Tcp { .. } => TCP,
            Self::Udp { .. } => UDP,
            Self::Query { .. } | Self::Error { .. } => {
                if v6 {
                    ICMPV6
                } else {
                    ICMP
                }
            }
            Self::Other { protocol, .. } => *protocol,
        }
    }
}

/// Tells the number of a port in one of the networks.
pub trait Resolve {
    fn port(&self, port: Port) -> u16;
}

impl Packet {
    pub fn new(v6: bool, source: Host, destination: Host, body: Body) -> Self {
        let (options, extensions) = (Vec::new(), Vec::new());
        Self {
            v6,
            source,
            destination,
            ttl: 64,
            tos: 0,
            identification: 1,
            dont_fragment: true,
            options,
            extensions,
            body,
            damage: Damage::None,
        }
    }

    /// The bytes, beginning with the network header.
    pub fn bytes(&self, run: u16, ports: &impl Resolve) -> Vec<u8> {
        let (source, destination) =
            (self.source.address(self.v6, run), self.destination.address(self.v6, run));
        let mut transport = self.transport(run, ports, (source, destination));
        if let Damage::CutOff(bytes) = self.damage {
            transport.truncate(transport.len().saturating_sub(usize::from(bytes)));
        }
        let protocol = self.body.protocol(self.v6);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header_bytes = 20 + self.options.len();
                let mut bytes = vec![0x40 | (header_bytes / 4) as u8, self.tos];
                bytes.extend(((header_bytes + transport.len()) as u16).to_be_bytes());
                bytes.extend(self.identification.to_be_bytes());
                bytes.extend(if self.dont_fragment { [0x40, 0] } else { [0, 0] });
                bytes.extend([self.ttl, protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(&self.options);
                let mut checksum = internet_checksum(&[&bytes]);
                if self.damage == Damage::HeaderChecksum {
                    checksum ^= 0x5555;
                }
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
                bytes.extend(transport);
                bytes
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut chain = Vec::new();
                for (at, (_, body)) in self.extensions.iter().enumerate() {
                    let next = self.extensions.get(at + 1).map_or(protocol, |(kind, _)| *kind);
                    chain.extend([next, ((body.len() + 2) / 8 - 1) as u8]);
                    chain.extend(body);
                }
                let next = self.extensions.first().map_or(protocol, |(kind, _)| *kind);
                let mut bytes = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
                bytes.extend(((chain.len() + transport.len()) as u16).to_be_bytes());
                bytes.extend([next, self.ttl]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(chain);
                bytes.extend(transport);
                bytes
            }
            _ => unreachable!("both ends have the same family"),
        }
    }

    fn transport(&self, run: u16, resolve: &impl Resolve, ends: (IpAddr, IpAddr)) -> Vec<u8> {
        let excess = if let Damage::Length(bytes) = self.damage { u16::from(bytes) } else { 0 };
        let (mut bytes, at) = match &self.body {
            Body::Tcp { ports, sequence, acknowledgment, flags, window, urgent, options, payload } => {
                let mut bytes = Vec::new();
                bytes.extend(resolve.port(ports.0).to_be_bytes());
                bytes.extend(resolve.port(ports.1).to_be_bytes());
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgment.to_be_bytes());
                let words = (5 + options.len() / 4 + usize::from(excess)).min(15);
                bytes.extend([(words as u8) << 4, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(urgent.to_be_bytes());
                bytes.extend(options);
                bytes.extend(payload);
                (bytes, 16)
            }
            Body::Udp { ports, payload } => {
                let mut bytes = Vec::new();
                bytes.extend(resolve.port(ports.0).to_be_bytes());
                bytes.extend(resolve.port(ports.1).to_be_bytes());
                bytes.extend((8 + payload.len() as u16 + excess).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(payload);
                (bytes, 6)
            }
            Body::Query { kind, code, identifier, sequence, payload } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(resolve.port(*identifier).to_be_bytes());
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(payload);
                (bytes, 2)
            }
            Body::Error { kind, code, rest, about, quoted } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest.to_be_bytes());
                let mut quote = about.bytes(run, resolve);
                quote.truncate(*quoted);
                bytes.extend(quote);
                (bytes, 2)
            }
            Body::Other { bytes, .. } => return bytes.clone(),
        };
        let mut checksum = transport_checksum(ends, self.body.protocol(self.v6), &bytes);
        match (&self.body, self.damage) {
            (Body::Udp { .. }, Damage::NoChecksum) => checksum = 0,
            (Body::Udp { .. }, Damage::None) if checksum == 0 => checksum = 0xffff,
            (_, Damage::Checksum) => checksum ^= 0x0101,
            _ => {}
        }
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

/// The checksum of a transport (RFC 9293, RFC 768, RFC 792, RFC 4443) whose own checksum field is zero; over a whole one it is 0.
pub fn transport_checksum(ends: (IpAddr, IpAddr), protocol: u8, bytes: &[u8]) -> u16 {
    let length = (bytes.len() as u32).to_be_bytes();
    let kind = [0, protocol];
    match ends {
        (IpAddr::V4(_), IpAddr::V4(_)) if protocol == ICMP => internet_checksum(&[bytes]),
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            internet_checksum(&[&source.octets(), &destination.octets(), &length, &kind, bytes])
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            internet_checksum(&[&source.octets(), &destination.octets(), &length, &kind, bytes])
        }
        _ => unreachable!("both ends have the same family"),
    }
}

/// RFC 1071, over parts each of which but the last has an even length.
pub fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !(sum as u16)
}

/// A part of a datagram's payload: bytes `start..end`, and whether more follow.
pub type Piece = (usize, usize, bool);

/// A piece of a whole packet, as a fragment.
pub fn fragment(packet: &[u8], identification: u16, (start, end, more): Piece) -> Vec<u8> {
    let header = if packet[0] >> 4 == 6 { 40 } else { usize::from(packet[0] & 15) * 4 };
    let (mut bytes, payload) = (packet[..header].to_vec(), &packet[header..]);
    let (start, end) = (start.min(payload.len()), end.min(payload.len()));
    if header == 40 {
        let protocol = std::mem::replace(&mut bytes[6], 44);
        bytes[4..6].copy_from_slice(&((8 + end - start) as u16).to_be_bytes());
        bytes.extend([protocol, 0]);
        bytes.extend((start as u16 | u16::from(more)).to_be_bytes());
        bytes.extend(u32::from(identification).to_be_bytes());
    } else {
        bytes[2..4].copy_from_slice(&((header + end - start) as u16).to_be_bytes());
        bytes[6..8].copy_from_slice(&((start / 8) as u16 | u16::from(more) << 13).to_be_bytes());
        bytes[10..12].fill(0);
        let checksum = internet_checksum(&[&bytes]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes.extend(&payload[start..end]);
    bytes
}
