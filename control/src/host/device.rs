//! The port to the host stack as smoltcp sees it: IP packets, without their Ethernet headers.

use super::probe::echo::{self, Echo};
use millrace_dataplane::port::MacAddress;
use millrace_dataplane::port::host::{HostFrame, HostLink};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// Most echo replies that wait to be looked at: as many as there are probes.
const ECHOES_MAX: usize = 256;
const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_AT: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// The station that packets of the host stack are from. Nobody else sees it: the router writes its own address.
const STATION: MacAddress = [0x02, 0x4d, 0x52, 0x02, 0x00, 0x00];

/// One end of a port.
pub(super) struct Device {
    link: HostLink,
    mtu: usize,
    /// The last packet that was received opens a TCP connection, or tries to.
    opened: bool,
    /// Echo replies that were received.
    echoes: Vec<Echo>,
}

impl Device {
    pub(super) fn new(link: HostLink, mtu: u16) -> Self {
        Self { link, mtu: usize::from(mtu), opened: false, echoes: Vec::new() }
    }

    /// True if packets wait.
    pub(super) fn has_arrived(&self) -> bool {
        self.link.has_arrived()
    }

    /// True if nothing can be sent now.
    pub(super) fn is_full(&mut self) -> bool {
        self.link.is_full()
    }

    /// Whether a SYN was received since the last call.
    pub(super) fn take_opened(&mut self) -> bool {
        std::mem::take(&mut self.opened)
    }

    /// The echo replies since the last call.
    pub(super) fn take_echoes(&mut self) -> Vec<Echo> {
        std::mem::take(&mut self.echoes)
    }

    /// Sends an IP packet; false if there is no room.
    pub(super) fn send(&mut self, packet: &[u8]) -> bool {
        let room = !self.link.is_full();
        if room {
            phy::TxToken::consume(Sending(&mut self.link), packet.len(), |bytes| {
                bytes.copy_from_slice(packet);
            });
        }
        room
    }

    fn next(&mut self) -> Option<HostFrame> {
        loop {
            let frame = self.link.receive()?;
            let (header, packet) = frame.split_at_checked(ETHERNET_BYTES)?;
            if let Some(echo) = echo::reply(packet) {
                if self.echoes.len() < ECHOES_MAX {
                    self.echoes.push(echo);
                }
                continue;
            }
            let ethertype = header.get(ETHERTYPE_AT..);
            // The router sends nothing else; whoever does is not answered.
            if ethertype == Some(&IPV4) || ethertype == Some(&IPV6) {
                return Some(frame);
            }
        }
    }
}

/// True if the IP packet is a SYN, by what is usual: without options or extension headers. A wrong answer costs a look.
fn opens_connection(packet: &[u8]) -> bool {
    let (protocol, flags) = match packet.first() {
        Some(0x45) => (packet.get(9), packet.get(33)),
        Some(first) if first >> 4 == 6 => (packet.get(6), packet.get(53)),
        _ => return false,
    };
    protocol == Some(&6) && flags.is_some_and(|flags| flags & 0x02 != 0)
}

/// A packet that was received.
pub(super) struct Received(HostFrame);

/// Room for a packet to be sent.
pub(super) struct Sending<'a>(&'a mut HostLink);

impl phy::Device for Device {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        // The answer needs room.
        if self.link.is_full() {
            return None;
        }
        let frame = self.next()?;
        self.opened |= opens_connection(frame.get(ETHERNET_BYTES..).unwrap_or(&[]));
        Some((Received(frame), Sending(&mut self.link)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        if self.link.is_full() { None } else { Some(Sending(&mut self.link)) }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0.get(ETHERNET_BYTES..).unwrap_or(&[]))
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; ETHERNET_BYTES + len];
        let (header, packet) = bytes.split_at_mut(ETHERNET_BYTES);
        let result = f(packet);
        header[..6].copy_from_slice(&self.0.mac());
        header[6..12].copy_from_slice(&STATION);
        let is_ipv6 = packet.first().is_some_and(|first| first >> 4 == 6);
        header[12..].copy_from_slice(if is_ipv6 { &IPV6 } else { &IPV4 });
        // Longer than any that passes the port: smoltcp knows the MTU.
        if let Ok(frame) = HostFrame::try_from(&bytes[..]) {
            self.0.send(frame);
        }
        result
    }
}
