//! Packets in words: `tcp 10.0.0.2:4000 > 198.51.100.7:443 syn`.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::str::{FromStr, SplitWhitespace};

use millrace_dataplane::limits::FRAME_BYTES_MAX;
use millrace_dataplane::port::MacAddress;
use millrace_nf::headers::{
    Ethernet, Icmpv4, Icmpv6, Ipv4, Ipv6, Network, Parsed, Tcp, TcpFlags, Transport, Udp, arp, icmpv4,
    icmpv6, protocol, serialise,
};

use crate::config::network::show_protocol;

/// The sender of frames that are made of words.
const SENDER: MacAddress = [0x02, 0, 0, 0, 0, 0xfe];
/// Length in bytes of the Ethernet header, whose tags no words describe.
const ETHERNET_BYTES: usize = Ethernet::HEADER_BYTES;
/// The identifier of echo messages that have none in their words.
const IDENTIFIER: u16 = 1;

/// How a packet is to be described, for messages.
pub const SYNTAX: &str = "a packet is described as \
    `tcp|udp|icmp SOURCE > DESTINATION [WORDS]`, with ADDRESS:PORT or [ADDRESS]:PORT for tcp and udp and an address alone for icmp. \
    Words: syn, ack, fin, rst, psh, urg (tcp); reply, id NUMBER (icmp); ttl NUMBER, length BYTES, dscp NUMBER, fragmentable";

const FLAGS: [(&str, TcpFlags); 8] = [
    ("syn", TcpFlags::SYN),
    ("ack", TcpFlags::ACK),
    ("fin", TcpFlags::FIN),
    ("rst", TcpFlags::RST),
    ("psh", TcpFlags::PSH),
    ("urg", TcpFlags::URG),
    ("ece", TcpFlags::ECE),
    ("cwr", TcpFlags::CWR),
];

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp(TcpFlags),
    Udp,
    Echo { reply: bool, identifier: u16 },
}

/// A packet as described by its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    kind: Kind,
    source: SocketAddr,
    destination: SocketAddr,
    ttl: u8,
    dscp: u8,
    /// Bytes from the network header on; as few as possible without it.
    length: Option<u16>,
    fragmentable: bool,
}

/// Why words describe no packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; {SYNTAX}")]
pub struct NotDescribed(String);

fn wrong(what: impl Into<String>) -> NotDescribed {
    NotDescribed(what.into())
}

fn number<T: FromStr>(word: &str, words: &mut SplitWhitespace<'_>) -> Result<T, NotDescribed> {
    let value = words.next().ok_or_else(|| wrong(format!("a number is missing behind `{word}`")))?;
    value.parse().map_err(|_| wrong(format!("`{value}` is no number that `{word}` can have")))
}

fn end(word: Option<&str>, what: &str, has_port: bool) -> Result<SocketAddr, NotDescribed> {
    let word = word.ok_or_else(|| wrong(format!("the {what} is missing")))?;
    let found = if has_port {
        word.parse().ok()
    } else {
        word.trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .ok()
            .map(|ip: IpAddr| SocketAddr::new(ip, 0))
    };
    found.ok_or_else(|| {
        wrong(format!("`{word}` is no {what}{}", if has_port { " with a port" } else { " without a port" }))
    })
}

impl FromStr for Described {
    type Err = NotDescribed;

    fn from_str(text: &str) -> Result<Self, NotDescribed> {
        let spaced = text.replace('>', " > ");
        let mut words = spaced.split_whitespace();
        let mut kind = match words.next() {
            Some("tcp") => Kind::Tcp(TcpFlags::default()),
            Some("udp") => Kind::Udp,
            Some("icmp" | "icmpv6") => Kind::Echo { reply: false, identifier: IDENTIFIER },
            Some(other) => return Err(wrong(format!("`{other}` is no protocol that can be described"))),
            None => return Err(wrong("there are no words")),
        };
        let has_ports = !matches!(kind, Kind::Echo { .. });
        let source = end(words.next(), "source", has_ports)?;
        if words.next() != Some(">") {
            return Err(wrong("`>` is missing between source and destination"));
        }
        let destination = end(words.next(), "destination", has_ports)?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(wrong("source and destination are of different IP versions"));
        }
        let (mut ttl, mut dscp, mut length, mut fragmentable) = (64, 0, None, false);
        while let Some(word) = words.next() {
            let flag = FLAGS.iter().find(|(name, _)| *name == word).map(|(_, flag)| *flag);
            match (word.trim_end_matches(','), &mut kind) {
                (_, Kind::Tcp(flags)) if flag.is_some() => *flags = *flags | flag.unwrap_or_default(),
                ("reply", Kind::Echo { reply, .. }) => *reply = true,
                ("id", Kind::Echo { identifier, .. }) => *identifier = number(word, &mut words)?,
                ("ttl", _) => ttl = number(word, &mut words)?,
                ("length", _) => length = Some(number(word, &mut words)?),
                ("dscp", _) => dscp = number(word, &mut words)?,
                ("fragmentable", _) if source.is_ipv4() => fragmentable = true,
                (word, _) => return Err(wrong(format!("`{word}` says nothing about such a packet"))),
            }
        }
        if dscp > 63 {
            return Err(wrong(format!("`{dscp}` is no number that `dscp` can have")));
        }
        Ok(Self { kind, source, destination, ttl, dscp, length, fragmentable })
    }
}

impl Described {
    /// The frame, addressed to `to`.
    ///
    /// # Errors
    /// It can't have the length that was asked for.
    pub fn frame(&self, to: MacAddress) -> Result<Vec<u8>, NotDescribed> {
        let (transport, header_bytes, protocol) = self.transport();
        let network = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Network::V4(Ipv4 {
                ttl: self.ttl,
                dscp: self.dscp,
                dont_fragment: !self.fragmentable,
                ..Ipv4::originated(source, destination, protocol)
            }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Network::V6(Ipv6 {
                hop_limit: self.ttl,
                dscp: self.dscp,
                ..Ipv6::originated(source, destination, protocol)
            }),
            _ => return Err(wrong("source and destination are of different IP versions")),
        };
        let least =
            header_bytes + if self.source.is_ipv4() { Ipv4::HEADER_BYTES } else { Ipv6::HEADER_BYTES };
        let length = self.length.map_or(least, usize::from);
        if length < least || length > FRAME_BYTES_MAX - ETHERNET_BYTES {
            let most = FRAME_BYTES_MAX - ETHERNET_BYTES;
            return Err(wrong(format!("such a packet has {least} to {most} bytes, not {length}")));
        }
        let ethernet = Ethernet { destination: to, source: SENDER, ether_type: 0 };
        let parsed = Parsed { ethernet, network, transport, ..Parsed::default() };
        let payload = vec![0; length - least];
        let frame = serialise::<FRAME_BYTES_MAX>(&parsed, &[], &payload);
        frame.map(|frame| frame.to_vec()).map_err(|error| wrong(error.to_string()))
    }

    /// The transport header, its length in bytes, and the protocol's number.
    fn transport(&self) -> (Transport, usize, u8) {
        let (source_port, destination_port) = (self.source.port(), self.destination.port());
        let ipv4 = self.source.is_ipv4();
        match self.kind {
            Kind::Tcp(flags) => {
                let tcp = Tcp { source_port, destination_port, flags, window: 0xffff, ..Tcp::default() };
                (Transport::Tcp(tcp), Tcp::HEADER_BYTES, protocol::TCP)
            }
            Kind::Udp => {
                // Not zero, which would say that there is none; it is computed.
                let udp = Udp { source_port, destination_port, checksum: 1, length: u16::MAX };
                (Transport::Udp(udp), Udp::HEADER_BYTES, protocol::UDP)
            }
            Kind::Echo { reply, identifier } if ipv4 => {
                let icmp_type = if reply { icmpv4::ECHO_REPLY } else { icmpv4::ECHO_REQUEST };
                let mut icmp = Icmpv4 { icmp_type, ..Icmpv4::default() };
                icmp.set_identifier(identifier);
                (Transport::Icmpv4(icmp), Icmpv4::HEADER_BYTES, protocol::ICMPV4)
            }
            Kind::Echo { reply, identifier } => {
                let icmp_type = if reply { icmpv6::ECHO_REPLY } else { icmpv6::ECHO_REQUEST };
                let mut icmp = Icmpv6 { icmp_type, ..Icmpv6::default() };
                icmp.set_identifier(identifier);
                (Transport::Icmpv6(icmp), Icmpv6::HEADER_BYTES, protocol::ICMPV6)
            }
        }
    }
}

/// Headers in the words of [`Described`], as far as these reach.
pub fn words(parsed: &Parsed) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = write_words(&mut text, parsed);
    text
}

fn write_words(text: &mut String, parsed: &Parsed) -> fmt::Result {
    if let Network::Arp(arp) = parsed.network {
        return match arp.operation {
            arp::REQUEST => write!(text, "arp {} asks for {}", arp.sender_address, arp.target_address),
            arp::REPLY => {
                write!(text, "arp {} is at {}", arp.sender_address, crate::listing::show_mac(arp.sender_mac))
            }
            other => write!(text, "arp operation {other}"),
        };
    }
    let Some(ends @ (source, destination)) = parsed.addresses() else {
        return write!(text, "ethernet type {:#06x}", parsed.ethernet.ether_type);
    };
    match &parsed.transport {
        Transport::Tcp(tcp) => {
            let (source, destination) = (
                SocketAddr::new(source, tcp.source_port),
                SocketAddr::new(destination, tcp.destination_port),
            );
            write!(text, "tcp {source} > {destination}")?;
            let set = FLAGS.iter().filter(|(_, flag)| tcp.flags.contains(*flag));
            set.into_iter().try_for_each(|(name, _)| write!(text, " {name}"))?;
        }
        Transport::Udp(udp) => {
            let (source, destination) = (
                SocketAddr::new(source, udp.source_port),
                SocketAddr::new(destination, udp.destination_port),
            );
            write!(text, "udp {source} > {destination}")?;
        }
        Transport::Icmpv4(icmp) => {
            let echo = [icmpv4::ECHO_REQUEST, icmpv4::ECHO_REPLY];
            write_icmp(text, ends, [icmp.icmp_type, icmp.code], icmp.identifier(), echo)?;
        }
        Transport::Icmpv6(icmp) => {
            let echo = [icmpv6::ECHO_REQUEST, icmpv6::ECHO_REPLY];
            write_icmp(text, ends, [icmp.icmp_type, icmp.code], icmp.identifier(), echo)?;
        }
        Transport::None | Transport::Other(_) => {
            let protocol = parsed.protocol().map_or_else(String::new, show_protocol);
            write!(text, "{protocol} {source} > {destination}")?;
        }
    }
    if parsed.is_fragment() {
        text.push_str(" fragment");
    }
    Ok(())
}

fn write_icmp(
    text: &mut String,
    (source, destination): (IpAddr, IpAddr),
    [icmp_type, code]: [u8; 2],
    identifier: u16,
    echo: [u8; 2],
) -> fmt::Result {
    write!(text, "icmp {source} > {destination}")?;
    match echo.iter().position(|&known| known == icmp_type) {
        Some(0) => write!(text, " id {identifier}"),
        Some(_) => write!(text, " reply id {identifier}"),
        None => write!(text, " type {icmp_type} code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: MacAddress = [2, 0, 0, 0, 0, 1];

    #[test]
    fn what_is_described_is_parsed_back_into_the_same_words() {
        for text in [
            "tcp 10.0.0.2:4000 > 198.51.100.7:443 syn",
            "tcp [fd00::2]:4000 > [2001:db8::7]:443 ack fin",
            "udp 10.0.0.2:53 > 198.51.100.7:53",
            "udp [fd00::2]:53 > [2001:db8::7]:53",
            "icmp 10.0.0.2 > 198.51.100.7 id 7",
            "icmp fd00::2 > 2001:db8::7 reply id 9",
        ] {
            let frame = text.parse::<Described>().unwrap().frame(TO).unwrap();
            let parsed = Parsed::parse(&frame).unwrap();
            assert_eq!(words(&parsed), text);
            assert!(parsed.network_checksum_is_valid(&frame) && parsed.transport_checksum_is_valid(&frame));
            assert_eq!(parsed.ethernet.destination, TO);
            let again: Described = words(&parsed).parse().unwrap();
            assert_eq!(again.frame(TO).unwrap(), frame);
        }
    }

    #[test]
    fn words_set_what_they_name() {
        let text = "udp 10.0.0.2:1>10.0.0.3:2 ttl 3 length 1400 dscp 46 fragmentable";
        let frame = text.parse::<Described>().unwrap().frame(TO).unwrap();
        let parsed = Parsed::parse(&frame).unwrap();
        let Network::V4(ip) = parsed.network else { panic!("{parsed:?}") };
        assert_eq!((ip.ttl, ip.total_length, ip.dscp, ip.dont_fragment), (3, 1_400, 46, false));
        assert_eq!(frame.len(), 1_414);
    }

    #[test]
    fn what_describes_no_packet_is_said() {
        for (text, why) in [
            ("", "there are no words"),
            ("sctp 1.2.3.4:1 > 1.2.3.5:2", "`sctp` is no protocol"),
            ("tcp 1.2.3.4 > 1.2.3.5:2", "`1.2.3.4` is no source with a port"),
            ("icmp 1.2.3.4:1 > 1.2.3.5", "`1.2.3.4:1` is no source without a port"),
            ("tcp 1.2.3.4:1 1.2.3.5:2", "`>` is missing"),
            ("tcp 1.2.3.4:1 >", "the destination is missing"),
            ("tcp 1.2.3.4:1 > [::1]:2", "different IP versions"),
            ("udp 1.2.3.4:1 > 1.2.3.5:2 syn", "`syn` says nothing"),
            ("udp 1.2.3.4:1 > 1.2.3.5:2 ttl 256", "`256` is no number that `ttl` can have"),
            ("udp 1.2.3.4:1 > 1.2.3.5:2 ttl", "a number is missing behind `ttl`"),
            ("udp 1.2.3.4:1 > 1.2.3.5:2 dscp 64", "`64` is no number that `dscp` can have"),
        ] {
            let error = text.parse::<Described>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        for (length, least) in [(27, 28), (65_535, 28)] {
            let text = format!("udp 1.2.3.4:1 > 1.2.3.5:2 length {length}");
            let error = text.parse::<Described>().unwrap().frame(TO).unwrap_err().to_string();
            assert!(error.contains(&format!("{least} to 9008 bytes")), "{error}");
        }
    }
}
