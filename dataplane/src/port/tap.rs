//! Ports over tap devices: what the kernel sends to an interface of its own arrives here, and the other way round.
//!
//! A device that is not there is made, and goes with the last of its ports; one that is there (`ip tuntap add`) is used as
//! it is. The kernel's end has an address of its own, which users give it; the port is another station on that link. Both
//! sides leave checksums and segmentation to this port, which finishes them by [`super::offload`].

use std::io;
use std::os::fd::BorrowedFd;

use super::kernel::device::{Device, Opened};
use super::kernel::message::{self, Arrival};
use super::kernel::netlink::Link;
use super::kernel::port::{KernelPort, Setup, privileges, watch_and_read};
use super::kernel::slots::Slots;
use super::kernel::{Failure, tun};
use super::{MacAddress, Port, PortError};
use crate::packet::Packet;

/// What to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapConfig {
    /// The port's name, for messages.
    pub name: String,
    /// The interface's name.
    pub interface: String,
    /// How many queues it has, at least 1. The kernel sends a flow by the queue that its last packet came from.
    pub queues: u16,
    /// The port's own address; the kernel's end has another.
    pub mac: MacAddress,
    /// The MTU that the interface is given; it keeps its own if `None`.
    pub mtu: Option<u16>,
    /// Bytes of the frames of the pool that the ports will work with.
    pub frame_bytes: usize,
    /// Whether frames of several packets are received and sent as they are, where the pool has large frames for them; else they are cut.
    pub carries_whole: bool,
}

/// Opens the ports of a tap device, one a queue, in the calling thread's network namespace, and brings it up.
///
/// # Errors
/// There is an interface of this name that is no such tap device or is in use, its MTU does not fit in a frame, or
/// privileges are missing.
pub fn open(config: &TapConfig) -> Result<Vec<Box<dyn Port>>, PortError> {
    let setup = Setup { frame_bytes: config.frame_bytes, carries_whole: config.carries_whole };
    let queues = (0..config.queues.max(1)).map(|queue| {
        let device = Queue { config: config.clone(), queue };
        let port = KernelPort::open(&config.name, device, setup)?;
        Ok(Box::new(port) as Box<dyn Port>)
    });
    queues.collect()
}

/// One queue of a tap device.
#[derive(Debug)]
struct Queue {
    config: TapConfig,
    queue: u16,
}

impl Device for Queue {
    fn interface(&self) -> &str {
        &self.config.interface
    }

    fn description(&self) -> String {
        format!("tap {} queue {}", self.config.interface, self.queue)
    }

    fn mac(&self, _link: &Link) -> MacAddress {
        self.config.mac
    }

    fn open(&mut self, _keeps: Option<MacAddress>) -> Result<Opened, Failure> {
        let name = self.config.interface.clone();
        let needs = "tap devices need CAP_NET_ADMIN";
        let fd = tun::open(&name, self.config.queues > 1).map_err(|error| {
            let action = format!("open the tap device {name} queue {}", self.queue);
            let text = match error.raw_os_error() {
                Some(libc::EINVAL) => {
                    "there is such an interface, but it is no tap device with as many queues"
                }
                Some(libc::EBUSY) => "another process has it",
                Some(libc::ENOENT) => "there is no /dev/net/tun: load it with: modprobe tun",
                _ => return (action, privileges(error, needs)),
            };
            (action, io::Error::new(error.kind(), text))
        })?;
        tun::bring_up(&name, self.config.mtu)
            .map_err(|error| (format!("bring the tap device {name} up"), privileges(error, needs)))?;
        let (watch, link) = watch_and_read(&name)?;
        Ok(Opened { fd, link, watch })
    }

    /// It is made if there is none.
    fn may_return(&self) -> bool {
        true
    }

    fn is_elsewhere(&self, fd: BorrowedFd<'_>) -> bool {
        tun::is_attached(fd)
    }

    fn receive(
        &self,
        fd: BorrowedFd<'_>,
        packets: &mut [Packet],
        slots: &mut Slots,
        arrivals: &mut [Arrival],
    ) -> io::Result<usize> {
        let mut got = 0;
        let each = packets.iter_mut().zip(slots.areas()).zip(arrivals);
        for ((packet, areas), arrival) in each {
            match message::read(fd, packet, areas, arrival) {
                Ok(()) => got += 1,
                // What was read before counts; the error comes again.
                Err(error) if got == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(got)
    }

    fn send(&self, fd: BorrowedFd<'_>, packets: &[Packet]) -> io::Result<usize> {
        let mut sent = 0;
        for packet in packets {
            match message::write(fd, packet) {
                Ok(()) => sent += 1,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    /// The interface counts them itself (`ip -s link`, TX dropped).
    fn missed(&self, _fd: BorrowedFd<'_>) -> u64 {
        0
    }
}
