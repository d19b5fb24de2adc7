//! Keys of ports without a device: their own address and MTU.

use millrace_dataplane::port::MacAddress;

use super::network::mac;
use super::section::{Section, narrow};

/// Address and MTU of a port without a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The port's own address; made from its number when `None`.
    pub mac: Option<MacAddress>,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

/// Reads address and MTU of a port without a device.
pub(crate) fn read_link(section: &Section<'_>) -> Link {
    Link { mac: section.parsed("mac", mac), mtu: section.integer("mtu", 68..=9_000).map_or(1_500, narrow) }
}
