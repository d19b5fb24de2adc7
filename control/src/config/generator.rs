//! `[ports.NAME]` of kind `generator`: what is made.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use millrace_dataplane::port::MacAddress;

use super::context::Finding;
use super::link::{Link, read_link};
use super::network::{ICMP, TCP, UDP, mac, prefix};
use super::section::{Invalid, Scalar, Section, narrow};
use super::units;

/// Sizes of made frames in bytes, without FCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameBytes {
    /// All of one size.
    Fixed(u16),
    /// 64, 594 and 1518 bytes, 7 to 4 to 1.
    Imix,
    /// Evenly from the first to the second.
    Range(u16, u16),
}

/// In which order a generator sends its flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowOrder {
    /// One fixed random permutation, lap after lap.
    #[default]
    Permutation,
    /// One after the other.
    Sequential,
}

/// Settings of a `generator` port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generator {
    /// How many flows.
    pub flows: u32,
    /// Their frames' sizes.
    pub frame_bytes: FrameBytes,
    /// Packets a second; as fast as possible when `None`.
    pub rate_pps: Option<u64>,
    /// Packets after which it ends; never when `None`.
    pub packets: Option<u64>,
    /// IANA number: TCP, UDP or ICMP (which is ICMPv6 over IPv6).
    pub protocol: u8,
    /// Network of the source addresses.
    pub source: IpNet,
    /// Network of the destination addresses, of the same family.
    pub destination: IpNet,
    /// Source ports.
    pub source_ports: RangeInclusive<u16>,
    /// Destination ports.
    pub destination_ports: RangeInclusive<u16>,
    /// Destination of the frames; the port's own address when `None`, so that the router takes them.
    pub destination_mac: Option<MacAddress>,
    /// Sends the replies: sources and destinations change places.
    pub reverse: bool,
    /// Order of the flows.
    pub order: FlowOrder,
    /// Seed of the permutation.
    pub seed: u64,
    /// Address and MTU.
    pub link: Link,
}

/// Networks set aside for measurements: RFC 2544 (198.18.0.0/15) and RFC 5180 (2001:2::/48).
fn benchmark_networks(version: u8) -> (IpNet, IpNet) {
    let v4 = |second: u8| IpNet::from(ipnet::Ipv4Net::new_assert([198, second, 0, 0].into(), 16));
    let v6 = |net: u16| IpNet::from(ipnet::Ipv6Net::new_assert([0x2001, 2, 0, net, 0, 0, 0, 0].into(), 64));
    if version == 4 { (v4(18), v4(19)) } else { (v6(1), v6(2)) }
}

/// Bytes of a frame when nothing else is said.
const FRAME_BYTES_DEFAULT: u16 = 64;
/// Largest made frame: an MTU of 9,000 without tags.
const FRAME_BYTES_MAX: u64 = 9_014;

fn frame_bytes(scalar: Scalar<'_>, least: u16) -> Result<FrameBytes, Invalid> {
    let frames = u64::from(least)..=FRAME_BYTES_MAX;
    let valid = format!("bytes from {least} to {FRAME_BYTES_MAX}, a range \"{least}-1514\", or \"imix\"");
    let invalid = |message: &str| Invalid::new(message, valid.as_str());
    match scalar {
        Scalar::Text("imix") => Ok(FrameBytes::Imix),
        Scalar::Number(bytes) if frames.contains(&bytes) => Ok(FrameBytes::Fixed(narrow(bytes))),
        Scalar::Number(_) => Err(invalid("no such frames are possible")),
        Scalar::Text(text) => {
            let range = text
                .split_once('-')
                .and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
            match range {
                Some((first, last)) if first > last => {
                    Err(invalid("the range is reversed").help(format!("did you mean \"{last}-{first}\"?")))
                }
                Some((first, last)) if frames.contains(&first) && frames.contains(&last) => {
                    Ok(FrameBytes::Range(narrow(first), narrow(last)))
                }
                Some(_) => Err(invalid("no such frames are possible")),
                None => Err(invalid(&format!("`{text}` is not a size of frames"))),
            }
        }
    }
}

/// Reads a generator's settings.
pub(crate) fn read_generator(section: &Section<'_>) -> Generator {
    let version: u8 = section
        .parsed("ip", |scalar| match scalar {
            Scalar::Number(4) => Ok(4),
            Scalar::Number(6) => Ok(6),
            _ => Err(Invalid::new("no such version of IP", "4 or 6")),
        })
        .unwrap_or(4);
    let network = |scalar: Scalar<'_>| {
        let network = prefix(scalar)?;
        let valid = format!("an IPv{version} network");
        let same = matches!(network.addr(), IpAddr::V4(_)) == (version == 4);
        if same {
            Ok(network)
        } else {
            Err(Invalid::new("the network is of the other family", valid).help("see `ip`"))
        }
    };
    let (source, destination) = benchmark_networks(version);
    let protocols = [("udp", UDP), ("tcp", TCP), ("icmp", ICMP)];
    let orders = [("permutation", FlowOrder::Permutation), ("sequential", FlowOrder::Sequential)];
    let protocol = section.choice("protocol", &protocols).unwrap_or(UDP);
    let least = header_bytes(version, protocol);
    let generator = Generator {
        flows: section.integer("flows", 1..=16_777_216).map_or(1, narrow),
        frame_bytes: section
            .parsed("frame_bytes", |scalar| frame_bytes(scalar, least))
            .unwrap_or(FrameBytes::Fixed(least.max(FRAME_BYTES_DEFAULT))),
        rate_pps: section.parsed("rate", units::rate).flatten(),
        packets: section.integer("packets", 1..=u64::MAX >> 1),
        protocol,
        source: section.parsed("source", network).unwrap_or(source),
        destination: section.parsed("destination", network).unwrap_or(destination),
        source_ports: section.parsed("source_ports", units::ports).unwrap_or(1_024..=65_535),
        destination_ports: section.parsed("destination_ports", units::ports).unwrap_or(9..=9),
        destination_mac: section.parsed("destination_mac", mac),
        reverse: section.boolean("reverse").unwrap_or(false),
        order: section.choice("order", &orders).unwrap_or_default(),
        seed: section.integer("seed", 0..=u64::MAX >> 1).unwrap_or(1),
        link: read_link(section),
    };
    check_flows(section, &generator);
    generator
}

/// Bytes of the headers of a made frame.
fn header_bytes(version: u8, protocol: u8) -> u16 {
    let network = if version == 6 { 40 } else { 20 };
    14 + network + if protocol == TCP { 20 } else { 8 }
}

/// Flows differ in addresses and ports: there are not more than these allow.
fn check_flows(section: &Section<'_>, generator: &Generator) {
    let hosts = |network: &IpNet| 1u128 << (network.max_prefix_len() - network.prefix_len()).min(32);
    let source_ports = generator.source_ports.len() as u128;
    // Of ICMP echo only the identifier differs.
    let destination_ports =
        if generator.protocol == ICMP { 1 } else { generator.destination_ports.len() as u128 };
    let possible =
        hosts(&generator.source) * hosts(&generator.destination) * source_ports * destination_ports;
    if u128::from(generator.flows) > possible {
        let finding = Finding::error(section.key("flows"), "there are not so many addresses and ports");
        let help = "widen `source`, `destination`, `source_ports` or `destination_ports`";
        section
            .context
            .push(finding.found(generator.flows.to_string()).valid(format!("at most {possible}")).help(help));
    }
}
