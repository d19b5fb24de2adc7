//! `[ports.NAME]`: where packets enter and leave.

use std::path::PathBuf;

use millrace_dataplane::limits::PORTS_MAX;
use millrace_dataplane::port::MacAddress;
use millrace_dataplane::port::fault::FaultConfig;
use millrace_dataplane::port::host::HOST_MTU;

use super::context::Finding;
use super::fault::read_fault;
use super::generator::{Generator, read_generator};
pub use super::kernel_ports::{AfPacket, Tap};
use super::kernel_ports::{read_af_packet, read_tap};
pub use super::link::Link;
use super::link::read_link;
use super::names::check_name;
use super::schema::{self, Schema};
use super::section::{Invalid, Scalar, Section, narrow};

/// A port and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its kind with the settings of that kind.
    pub kind: PortKind,
    /// What happens to its packets as on a bad link.
    pub fault: Option<FaultConfig>,
}

impl Port {
    /// Whether it receives and sends frames of several packets as they are. Faults are for packets, so they want them cut.
    pub fn carries_whole(&self) -> bool {
        self.fault.is_none() && self.kind.carries_whole()
    }
}

/// The kinds of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A network interface through AF_XDP.
    AfXdp(AfXdp),
    /// A network interface through packet sockets.
    AfPacket(AfPacket),
    /// A tap device: an interface of the kernel whose other end is the port.
    Tap(Tap),
    /// Capture files.
    Pcap(Pcap),
    /// Made packets.
    Generator(Box<Generator>),
    /// Takes packets and counts them.
    Sink(Sink),
    /// The host stack of the chain of this name. It follows from `[host]`; no configuration names it.
    Host(String),
}

impl PortKind {
    /// The word for it in `kind`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AfXdp(_) => "af_xdp",
            Self::AfPacket(_) => "af_packet",
            Self::Tap(_) => "tap",
            Self::Pcap(_) => "pcap",
            Self::Generator(_) => "generator",
            Self::Sink(_) => "sink",
            Self::Host(_) => "host",
        }
    }

    /// The interface that it opens, with the key that names it.
    pub fn interface(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::AfXdp(af_xdp) => Some(("interface", &af_xdp.interface)),
            Self::AfPacket(af_packet) => Some(("interface", &af_packet.interface)),
            Self::Tap(tap) => Some(("name", &tap.interface)),
            Self::Pcap(_) | Self::Generator(_) | Self::Sink(_) | Self::Host(_) => None,
        }
    }

    /// Queues.
    pub fn queues(&self) -> u16 {
        match self {
            Self::AfXdp(af_xdp) => af_xdp.queues,
            Self::AfPacket(af_packet) => af_packet.queues,
            Self::Tap(tap) => tap.queues,
            Self::Pcap(_) | Self::Generator(_) | Self::Sink(_) | Self::Host(_) => 1,
        }
    }

    /// The port's own address, as far as the configuration says.
    pub fn mac(&self) -> Option<MacAddress> {
        match self {
            Self::AfXdp(_) | Self::AfPacket(_) | Self::Host(_) => None,
            Self::Tap(tap) => tap.mac,
            Self::Pcap(pcap) => pcap.link.mac,
            Self::Generator(generator) => generator.link.mac,
            Self::Sink(sink) => sink.link.mac,
        }
    }

    /// Whether frames of several packets are carried whole where the other side does so too.
    pub fn carries_whole(&self) -> bool {
        match self {
            Self::AfPacket(af_packet) => af_packet.carries_whole,
            Self::Tap(tap) => tap.carries_whole,
            _ => false,
        }
    }

    /// Largest IP packet in bytes, as far as the configuration of the port says.
    pub fn mtu(&self) -> Option<u16> {
        match self {
            Self::AfXdp(_) | Self::AfPacket(_) => None,
            Self::Tap(tap) => tap.mtu,
            Self::Pcap(pcap) => Some(pcap.link.mtu),
            Self::Generator(generator) => Some(generator.link.mtu),
            Self::Sink(sink) => Some(sink.link.mtu),
            Self::Host(_) => Some(HOST_MTU),
        }
    }
}

/// How packets travel between an interface and the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyMode {
    /// Without a copy where the driver can, else with one.
    #[default]
    Auto,
    /// With a copy.
    Copy,
    /// Without a copy, or an error.
    ZeroCopy,
}

/// Where the XDP program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// In the driver where it can, else in the generic stack.
    #[default]
    Auto,
    /// In the driver, or an error.
    Native,
    /// In the generic stack.
    Skb,
}

/// Settings of an `af_xdp` port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AfXdp {
    /// The interface's name.
    pub interface: String,
    /// How many of its queues are used, from queue 0.
    pub queues: u16,
    /// With or without a copy.
    pub mode: CopyMode,
    /// Where the program is attached.
    pub attach: Attach,
    /// Descriptors of a queue's RX ring (and of its fill ring), a power of two.
    pub rx_ring: u32,
    /// Descriptors of a queue's TX ring (and of its completion ring), a power of two.
    pub tx_ring: u32,
    /// Whether frames for other stations are received too.
    pub promiscuous: bool,
}

/// Settings of a `pcap` port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pcap {
    /// The capture that is received.
    pub input: Option<PathBuf>,
    /// The capture that sent packets are written to.
    pub output: Option<PathBuf>,
    /// Address and MTU.
    pub link: Link,
}

/// Settings of a `sink` port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// Whether checksums of what arrives are verified and bad ones counted.
    pub verify_checksums: bool,
    /// Address and MTU.
    pub link: Link,
}

const KINDS: [(&str, &Schema); 6] = [
    ("af_xdp", &schema::AF_XDP),
    ("af_packet", &schema::AF_PACKET),
    ("tap", &schema::TAP),
    ("pcap", &schema::PCAP),
    ("generator", &schema::GENERATOR),
    ("sink", &schema::SINK),
];

/// Ports that are read at most. What is wrong with so many more than there can be needs no telling, and each is compared with each.
const PORTS_READ_MAX: usize = 4 * PORTS_MAX;

/// Reads all ports; the second list holds the declared names, those of broken ports included.
pub(crate) fn read_ports(root: &Section<'_>) -> (Vec<Port>, Vec<String>) {
    let mut ports = Vec::new();
    let entries = root.named("ports");
    let names: Vec<String> =
        entries.iter().take(PORTS_READ_MAX).map(|(name, ..)| (*name).to_owned()).collect();
    for (index, (name, path, value)) in entries.into_iter().take(PORTS_READ_MAX).enumerate() {
        check_name(root.context, &path, name);
        if index == PORTS_MAX {
            let finding = Finding::error(&path, format!("a worker serves at most {PORTS_MAX} ports"));
            root.context.push(finding.at_key().valid(format!("at most {PORTS_MAX} ports")));
        }
        let section = super::kind::read(root.context, &path, value, &KINDS, &names);
        let Some(section) = section else { continue };
        let fault = read_fault(&section);
        if let Some(kind) = read_kind(&section) {
            ports.push(Port { name: name.to_owned(), kind, fault });
        }
    }
    if names.is_empty() {
        let finding = Finding::error("ports", "no port is defined").at_key();
        root.context.push(finding.valid("at least one table [ports.NAME] with `kind`"));
    }
    (ports, names)
}

fn read_kind(section: &Section<'_>) -> Option<PortKind> {
    let kinds = KINDS.map(|(kind, _)| (kind, kind));
    match section.choice("kind", &kinds)? {
        "af_xdp" => read_af_xdp(section).map(PortKind::AfXdp),
        "af_packet" => read_af_packet(section).map(PortKind::AfPacket),
        "tap" => read_tap(section).map(PortKind::Tap),
        "pcap" => Some(PortKind::Pcap(read_pcap(section))),
        "generator" => Some(PortKind::Generator(Box::new(read_generator(section)))),
        _ => Some(PortKind::Sink(Sink {
            verify_checksums: section.boolean("verify_checksums").unwrap_or(false),
            link: read_link(section),
        })),
    }
}

/// Whether the kernel would take it as the name of an interface.
pub(super) fn interface(scalar: Scalar<'_>) -> Result<String, Invalid> {
    let valid = "an interface's name of 1 to 15 characters, as \"eth0\" (see `ip link`)";
    match scalar {
        Scalar::Text(text)
            if (1..=15).contains(&text.len())
                && !matches!(text, "." | "..")
                && !text
                    .contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':')) =>
        {
            Ok(text.to_owned())
        }
        Scalar::Text(text) => Err(Invalid::new(format!("`{text}` cannot be an interface"), valid)),
        Scalar::Number(_) => Err(Invalid::new("expected a name, found a number", valid)),
    }
}

fn read_af_xdp(section: &Section<'_>) -> Option<AfXdp> {
    section.require("interface", "interface = \"NAME\" of a network interface (see `ip link`)");
    let interface = section.parsed("interface", interface);
    let ring = |scalar: Scalar<'_>| match scalar {
        Scalar::Number(number @ 64..=32_768) if number.is_power_of_two() => Ok(number),
        _ => Err(Invalid::new("no ring has this size", "a power of two from 64 to 32768")),
    };
    let queues = section.integer("queues", 1..=64).map_or(1, narrow);
    let modes = [("auto", CopyMode::Auto), ("copy", CopyMode::Copy), ("zero_copy", CopyMode::ZeroCopy)];
    let attach = [("auto", Attach::Auto), ("native", Attach::Native), ("skb", Attach::Skb)];
    let (mode, attach) = (section.choice("mode", &modes), section.choice("attach", &attach));
    let (rx_ring, tx_ring) = (section.parsed("rx_ring", ring), section.parsed("tx_ring", ring));
    let promiscuous = section.boolean("promiscuous").unwrap_or(false);
    Some(AfXdp {
        interface: interface?,
        queues,
        mode: mode.unwrap_or_default(),
        attach: attach.unwrap_or_default(),
        rx_ring: rx_ring.map_or(2_048, narrow),
        tx_ring: tx_ring.map_or(2_048, narrow),
        promiscuous,
    })
}

fn read_pcap(section: &Section<'_>) -> Pcap {
    let path = |scalar: Scalar<'_>| match scalar {
        Scalar::Text(path) if !path.is_empty() && !path.contains('\0') => Ok(section.context.resolve(path)),
        _ => Err(Invalid::new(
            "not a file's path",
            "a path; relative ones start at the configuration's directory",
        )),
    };
    let (input, output) = (section.parsed("input", path), section.parsed("output", path));
    if !section.has("input") && !section.has("output") {
        let finding = Finding::error(&section.path, "a pcap port needs a file to read or to write").at_key();
        section
            .context
            .push(finding.found("neither `input` nor `output`").valid("`input`, `output` or both"));
    }
    if let Some(output) = output.as_ref().filter(|_| output == input) {
        let finding =
            Finding::error(section.key("output"), "the capture would be overwritten while it is read");
        section.context.push(finding.found(output.display().to_string()).valid("another file than `input`"));
    }
    Pcap { input, output, link: read_link(section) }
}
