//! Ports that pass whole frames with the kernel: `af_packet` and `tap`.

use millrace_dataplane::port::MacAddress;

use super::network::mac;
use super::ports::interface;
use super::section::{Section, narrow};

/// Most sockets of an interface, and queues of a tap device.
const QUEUES_MAX: u64 = 64;

/// Settings of an `af_packet` port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AfPacket {
    /// The interface's name.
    pub interface: String,
    /// How many sockets share what arrives.
    pub queues: u16,
    /// Whether frames for other stations are received too.
    pub promiscuous: bool,
    /// Whether frames of several packets are carried whole where the other side does so too; else they are cut.
    pub carries_whole: bool,
}

/// Settings of a `tap` port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The device's name.
    pub interface: String,
    /// How many queues it has.
    pub queues: u16,
    /// The port's own address; made from its number when `None`.
    pub mac: Option<MacAddress>,
    /// The MTU that the device is given; it keeps its own when `None`.
    pub mtu: Option<u16>,
    /// Whether frames of several packets are carried whole where the other side does so too; else they are cut.
    pub carries_whole: bool,
}

fn queues(section: &Section<'_>) -> u16 {
    section.integer("queues", 1..=QUEUES_MAX).map_or(1, narrow)
}

/// `segmentation`: what becomes of frames that a kernel leaves to a device to cut.
fn carries_whole(section: &Section<'_>) -> bool {
    section.choice("segmentation", &[("cut", false), ("whole", true)]).unwrap_or(false)
}

pub(crate) fn read_af_packet(section: &Section<'_>) -> Option<AfPacket> {
    section.require("interface", "interface = \"NAME\" of a network interface (see `ip link`)");
    let name = section.parsed("interface", interface);
    let (queues, promiscuous) = (queues(section), section.boolean("promiscuous").unwrap_or(false));
    let carries_whole = carries_whole(section);
    Some(AfPacket { interface: name?, queues, promiscuous, carries_whole })
}

pub(crate) fn read_tap(section: &Section<'_>) -> Option<Tap> {
    section.require("name", "name = \"NAME\" of the tap device, which is made if there is none");
    let name = section.parsed("name", interface);
    let queues = queues(section);
    let mac = section.parsed("mac", mac);
    let mtu = section.integer("mtu", 68..=9_000).map(narrow);
    let carries_whole = carries_whole(section);
    Some(Tap { interface: name?, queues, mac, mtu, carries_whole })
}
