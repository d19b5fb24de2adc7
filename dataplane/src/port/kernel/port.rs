//! The port over a descriptor that passes whole frames: packet sockets and tap devices.
//!
//! When its interface goes, the port says so and stays: it receives nothing, drops and counts what it is given, and
//! looks once a second whether it can be opened again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use super::device::{Device, Opened};
use super::inbox::Inbox;
use super::interface::{LINK_HEADER_BYTES, Promiscuous, check_mtu, keep_address};
use super::netlink::{Link, LinkNews};
use super::{Failure, sys};
use crate::drops::DropReason;
use crate::limits::DATA_OFFSET;
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::port::offload::{leave_to_kernel, segment_ip_bytes};
use crate::port::{MacAddress, Port, PortCounters, PortError, PortInfo};
use crate::time::Time;

/// How often the port looks for news about its link.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often it tries to come back.
const RETURN_INTERVAL: Duration = Duration::from_secs(1);
/// An Ethernet header with two tags, without FCS: what comes on top of the MTU when sending.
const TX_HEADER_BYTES: usize = LINK_HEADER_BYTES + 4;

/// How a port works with its pool.
#[derive(Clone, Copy, Debug)]
pub(in crate::port) struct Setup {
    /// Bytes of the pool's frames.
    pub(in crate::port) frame_bytes: usize,
    /// Frames of several packets are received and sent as they are.
    pub(in crate::port) carries_whole: bool,
}

/// One queue of a device, as a port.
#[derive(Debug)]
pub(in crate::port) struct KernelPort<D> {
    device: D,
    info: PortInfo,
    counters: PortCounters,
    setup: Setup,
    /// `None` while the interface is gone, and once the port is closed.
    live: Option<Opened>,
    is_closed: bool,
    /// What the last try to come back failed for: said once.
    said: Option<String>,
    next_look: Time,
    inbox: Inbox,
    /// The interface's own address, which may change while the port keeps its own.
    link_mac: MacAddress,
    promiscuous: Option<Promiscuous>,
}

impl<D: Device> KernelPort<D> {
    /// Opens a device.
    pub(in crate::port) fn open(name: &str, mut device: D, setup: Setup) -> Result<Self, PortError> {
        let fail = |(action, source): Failure| PortError { port: name.to_owned(), action, source };
        let opened = device.open(None).map_err(fail)?;
        check_mtu(device.interface(), opened.link.mtu, setup.frame_bytes).map_err(fail)?;
        let info = PortInfo {
            name: name.to_owned(),
            description: device.description(),
            mac: device.mac(&opened.link),
            mtu: 0,
            link_up: opened.link.is_up(),
        };
        let mut port = Self {
            device,
            info,
            counters: PortCounters::default(),
            setup,
            live: None,
            is_closed: false,
            said: None,
            next_look: Time(0),
            inbox: Inbox::new(setup.carries_whole),
            link_mac: opened.link.mac,
            promiscuous: None,
        };
        port.set_mtu(opened.link.mtu);
        port.live = Some(opened);
        Ok(port)
    }

    fn set_mtu(&mut self, mtu: u32) {
        let room = self.setup.frame_bytes.saturating_sub(DATA_OFFSET + LINK_HEADER_BYTES);
        self.info.mtu = u16::try_from((mtu as usize).min(room)).unwrap_or(u16::MAX);
    }

    /// Looks for news about the link, or for the interface if it is gone, when it is time.
    fn look(&mut self, pool: &mut Pool, now: Time) {
        if now < self.next_look || self.is_closed {
            return;
        }
        let Some(live) = &mut self.live else {
            self.next_look = now + RETURN_INTERVAL;
            return self.come_back();
        };
        self.next_look = now + LOOK_INTERVAL;
        match live.watch.news() {
            Ok(None) => {}
            Ok(Some(LinkNews::Changed(link, was_down))) => self.link_changed(&link, was_down),
            Ok(Some(LinkNews::Gone)) if self.device.is_elsewhere(live.fd.as_fd()) => {
                self.set_link(true, false);
                let interface = self.device.interface();
                tracing::info!(
                    port = self.info.name,
                    interface,
                    "the interface moved to another network namespace; its link is taken for up from now on"
                );
            }
            Ok(Some(LinkNews::Gone)) => self.fail(pool),
            Err(error) => tracing::warn!(port = self.info.name, %error, "can't read news about the link"),
        }
    }

    fn link_changed(&mut self, link: &Link, was_down: bool) {
        if link.is_up() != self.info.link_up {
            tracing::info!(port = self.info.name, interface = link.name, up = link.is_up(), "link changed");
        }
        self.set_link(link.is_up(), was_down);
        let before = self.info.mtu;
        self.set_mtu(link.mtu);
        if self.info.mtu != before {
            let (interface, mtu) = (&link.name, self.info.mtu);
            tracing::info!(port = self.info.name, interface, before, mtu, "the MTU changed");
        }
        if link.mac != self.link_mac {
            self.link_mac = link.mac;
            let keeps = self.device.mac(link) != self.info.mac;
            self.promiscuous = keeps.then(|| keep_address(&self.info.name, link));
        }
    }

    /// Takes note of the link's state; `was_down` says that it was down since the last look.
    fn set_link(&mut self, up: bool, was_down: bool) {
        self.counters.link_losses += u64::from(self.info.link_up && (was_down || !up));
        self.info.link_up = up;
    }

    /// Goes quiet: the interface is gone.
    fn fail(&mut self, pool: &mut Pool) {
        if self.live.is_none() {
            return;
        }
        tracing::error!(
            port = self.info.name,
            device = self.info.description,
            "the interface is gone; the port waits for it to come back"
        );
        self.shut(Some(pool));
    }

    fn come_back(&mut self) {
        if !self.device.may_return() {
            return;
        }
        match self.device.open(Some(self.info.mac)) {
            Ok(opened) => {
                self.said = None;
                self.info.link_up = opened.link.is_up();
                self.link_mac = opened.link.mac;
                self.set_mtu(opened.link.mtu);
                tracing::info!(
                    port = self.info.name,
                    device = self.info.description,
                    up = self.info.link_up,
                    "the interface is back; the port is open again"
                );
                self.live = Some(opened);
            }
            Err((action, error)) => {
                let text = format!("{action}: {error}");
                if self.said.as_ref() != Some(&text) {
                    tracing::warn!(port = self.info.name, error = text, "the port can't come back yet");
                    self.said = Some(text);
                }
            }
        }
    }

    /// Closes the descriptor and brings all frames back.
    fn shut(&mut self, pool: Option<&mut Pool>) {
        self.update_missed();
        self.live = None;
        self.promiscuous = None;
        self.set_link(false, false);
        self.inbox.close(pool);
    }

    fn update_missed(&mut self) {
        if let Some(live) = &self.live {
            self.counters.rx_missed += self.device.missed(live.fd.as_fd());
        }
    }

    /// What an error of the descriptor says about the interface. Of its link the news tell, in their order.
    fn handle(&mut self, error: &io::Error, pool: &mut Pool) {
        if let Some(libc::ENXIO | libc::ENODEV | libc::EBADFD | libc::EBADF) = error.raw_os_error() {
            self.fail(pool);
        }
    }

    /// Sends from the front of `burst` until all is sent or dropped.
    fn send(&mut self, pool: &mut Pool, burst: &mut Burst) {
        while let (Some(live), false) = (&self.live, burst.is_empty()) {
            match self.device.send(live.fd.as_fd(), burst.as_slice()) {
                Ok(0) => return,
                Ok(count) => {
                    for packet in burst.drain(count) {
                        self.counters.tx_packets += 1;
                        self.counters.tx_bytes += packet.len() as u64;
                        pool.put(packet);
                    }
                }
                Err(error) => {
                    let (reason, count) = match error.raw_os_error() {
                        Some(libc::EINTR) => continue,
                        Some(libc::EAGAIN) => (DropReason::TxQueueFull, burst.len()),
                        // The kernel's queue refused this one; the next may fit.
                        Some(libc::ENOBUFS) => (DropReason::TxQueueFull, 1),
                        Some(libc::EMSGSIZE | libc::EINVAL) => (DropReason::TxFailed, 1),
                        Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV | libc::EBADFD | libc::EBADF) => {
                            (DropReason::LinkDown, burst.len())
                        }
                        _ => (DropReason::TxFailed, burst.len()),
                    };
                    self.counters.tx_drops.count_many(reason, count as u64);
                    burst.drain(count).for_each(|packet| pool.discard(packet, reason));
                    self.handle(&error, pool);
                }
            }
        }
    }

    /// Drops what the link can't carry, and makes whole frames ready for the kernel.
    fn sort_out(&mut self, pool: &mut Pool, burst: &mut Burst) {
        let mtu = usize::from(self.info.mtu);
        let bad = |packet: &Packet| packet.is_empty() || packet.len() > mtu + TX_HEADER_BYTES;
        if !burst.iter().any(|packet| bad(packet) || packet.is_whole()) {
            return;
        }
        let carries_whole = self.setup.carries_whole;
        // Its packets may be as long as any others.
        let fits = |frame: &Packet| segment_ip_bytes(frame).is_some_and(|bytes| bytes <= mtu);
        let mut good = Burst::new();
        for mut packet in burst.drain_all() {
            let is_bad = match packet.is_whole() {
                true => !carries_whole || !fits(&packet) || leave_to_kernel(&mut packet).is_err(),
                false => bad(&packet),
            };
            if is_bad {
                self.counters.tx_drops.count(DropReason::TxFailed);
                pool.discard(packet, DropReason::TxFailed);
            } else {
                // No more than there were.
                let _ = good.push(packet);
            }
        }
        *burst = good;
    }
}

impl<D: Device> Port for KernelPort<D> {
    fn rx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        self.look(pool, now);
        let Self { live: Some(live), device, inbox, counters, .. } = self else { return };
        let fd = live.fd.as_fd();
        let received = inbox.rx(pool, burst, counters, |packets, slots, arrivals| {
            device.receive(fd, packets, slots, arrivals)
        });
        if let Err(error) = received {
            self.handle(&error, pool);
        }
    }

    fn tx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        self.look(pool, now);
        if burst.is_empty() {
            return;
        }
        if self.info.link_up {
            self.sort_out(pool, burst);
            self.send(pool, burst);
        }
        self.counters.tx_drops.count_many(DropReason::LinkDown, burst.len() as u64);
        pool.discard_all(burst, DropReason::LinkDown);
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        self.update_missed();
        self.counters.clone()
    }

    fn takes_whole(&self) -> bool {
        self.setup.carries_whole
    }

    fn wait_fd(&self) -> Option<RawFd> {
        self.live.as_ref().map(|live| live.fd.as_raw_fd())
    }

    fn close(&mut self, pool: Option<&mut Pool>) {
        self.is_closed = true;
        self.shut(pool);
    }
}

/// Makes the errors of missing privileges say which.
pub(in crate::port) fn privileges(error: io::Error, what: &str) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            io::Error::new(io::ErrorKind::PermissionDenied, format!("{error}: {what}, or root"))
        }
        _ => error,
    }
}

/// Opens the watch of a link before the link is read, so that no change between the two is missed.
pub(in crate::port) fn watch_and_read(interface: &str) -> Result<(super::netlink::LinkWatch, Link), Failure> {
    let fail = |error| (format!("read the link of {interface}"), error);
    let index =
        sys::interface_index(interface).ok_or_else(|| fail(io::Error::from_raw_os_error(libc::ENODEV)))?;
    let watch = super::netlink::LinkWatch::open(index).map_err(fail)?;
    let link = super::netlink::RouteSocket::open().map_err(fail)?.link_by_index(index).map_err(fail)?;
    Ok((watch, link))
}
