//! Ports over packet sockets (`packet(7)`): any Linux interface, without a driver's help and without a program on it.
//!
//! The kernel's own stack sees what arrives, too: give the interface no addresses. Frames carry virtio-net headers, so
//! that partial checksums and frames of several packets are finished by [`super::offload`] (or, of the latter, left to who gets
//! them), and the VLAN tag that the
//! kernel takes out comes beside the frame and is put back. Several queues are sockets of one fanout group that spreads by
//! a hash which both directions of a connection share.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::kernel::device::{Device, Opened};
use super::kernel::message::{self, Arrival};
use super::kernel::netlink::Link;
use super::kernel::port::{KernelPort, Setup, privileges, watch_and_read};
use super::kernel::slots::Slots;
use super::kernel::{Failure, interface, sys};
use super::{MacAddress, Port, PortError};
use crate::packet::Packet;

/// Bytes of frames that the kernel keeps for us, and of those that it has to send: about a thousand full frames.
const BUFFER_BYTES: u32 = 4 << 20;
/// `linux/if_packet.h`: spread by hash, with an identifier that nobody else has, without the machine's own frames.
const FANOUT_HASH: u32 = 0;
const FANOUT_FLAG_UNIQUEID: u32 = 0x2000;
const FANOUT_FLAG_IGNORE_OUTGOING: u32 = 0x4000;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// What to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AfPacketConfig {
    /// The port's name, for messages.
    pub name: String,
    /// The interface.
    pub interface: String,
    /// How many sockets share what arrives, at least 1.
    pub queues: u16,
    /// Whether frames for other stations are received too.
    pub promiscuous: bool,
    /// Bytes of the frames of the pool that the ports will work with.
    pub frame_bytes: usize,
    /// Whether frames of several packets are received and sent as they are, where the pool has large frames for them; else they are cut.
    pub carries_whole: bool,
}

/// Opens the ports of an interface, one a queue. It must exist in the calling thread's network namespace and be up.
///
/// # Errors
/// The interface is missing or down, its MTU does not fit in a frame, or privileges are missing.
pub fn open(config: &AfPacketConfig) -> Result<Vec<Box<dyn Port>>, PortError> {
    let fail = |(action, source): Failure| PortError { port: config.name.clone(), action, source };
    interface::find(&config.interface).map_err(fail)?;
    let group = (config.queues > 1).then(|| Arc::new(Mutex::new(None)));
    let setup = Setup { frame_bytes: config.frame_bytes, carries_whole: config.carries_whole };
    let queues = (0..config.queues.max(1)).map(|queue| {
        let device = Queue { config: config.clone(), queue, group: group.clone() };
        let port = KernelPort::open(&config.name, device, setup)?;
        Ok(Box::new(port) as Box<dyn Port>)
    });
    queues.collect()
}

/// The fanout group of an interface's sockets: the interface's index and the group's number, once there is one.
type Group = Arc<Mutex<Option<(u32, u32)>>>;

/// One socket of an interface.
#[derive(Debug)]
struct Queue {
    config: AfPacketConfig,
    queue: u16,
    group: Option<Group>,
}

impl Queue {
    /// Joins the group of the other queues, or founds it. The group of an interface that is gone is of no use.
    fn join(&self, socket: BorrowedFd<'_>, index: u32) -> io::Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = (FANOUT_HASH | FANOUT_FLAG_IGNORE_OUTGOING) << 16;
        let join = |word| sys::set_option_u32(socket, libc::SOL_PACKET, libc::PACKET_FANOUT, word);
        if let Some((_, number)) = group.filter(|(its_index, _)| *its_index == index)
            && join(kind | number).is_ok()
        {
            return Ok(());
        }
        join(kind | FANOUT_FLAG_UNIQUEID << 16)?;
        let word = sys::option_u32(socket, libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        *group = Some((index, word & 0xffff));
        Ok(())
    }
}

impl Device for Queue {
    fn interface(&self) -> &str {
        &self.config.interface
    }

    fn description(&self) -> String {
        format!("af_packet {} queue {}", self.config.interface, self.queue)
    }

    fn mac(&self, link: &Link) -> MacAddress {
        link.mac
    }

    fn open(&mut self, keeps: Option<MacAddress>) -> Result<Opened, Failure> {
        let name = self.config.interface.clone();
        let (watch, link) = watch_and_read(&name)?;
        let fail = |error| {
            let needs = "packet sockets need CAP_NET_RAW";
            (format!("open a packet socket on {name} queue {}", self.queue), privileges(error, needs))
        };
        // Protocol 0: it receives nothing until it is bound, when all is set.
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK;
        let fd = sys::socket(libc::AF_PACKET, kind, 0).map_err(fail)?;
        let socket = fd.as_fd();
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA] {
            sys::set_option_u32(socket, libc::SOL_PACKET, option, 1).map_err(fail)?;
        }
        // Before Linux 4.20 the frames come, and are left out one by one.
        let _ = sys::set_option_u32(socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
        sys::set_buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, BUFFER_BYTES);
        sys::set_buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, BUFFER_BYTES);
        let renamed = keeps.is_some_and(|mac| mac != link.mac);
        if self.config.promiscuous || renamed {
            sys::join_promiscuous(socket, link.index).map_err(fail)?;
        }
        if renamed {
            tracing::warn!(
                port = self.config.name,
                interface = name,
                "the interface came back with another address; the port keeps the one it had, and receives all frames"
            );
        }
        sys::bind_packet(socket, link.index).map_err(fail)?;
        self.join(socket, link.index).map_err(fail)?;
        Ok(Opened { fd, link, watch })
    }

    fn may_return(&self) -> bool {
        sys::interface_index(&self.config.interface).is_some()
    }

    fn receive(
        &self,
        fd: BorrowedFd<'_>,
        packets: &mut [Packet],
        slots: &mut Slots,
        arrivals: &mut [Arrival],
    ) -> io::Result<usize> {
        message::receive(fd, packets, slots, arrivals)
    }

    fn send(&self, fd: BorrowedFd<'_>, packets: &[Packet]) -> io::Result<usize> {
        message::send(fd, packets)
    }

    fn missed(&self, fd: BorrowedFd<'_>) -> u64 {
        sys::packet_statistics(fd).map_or(0, |(_, dropped)| u64::from(dropped))
    }
}
