//! What a descriptor that passes whole frames has to do for its port.

use std::fmt::Debug;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::Failure;
use super::message::Arrival;
use super::netlink::{Link, LinkWatch};
use super::slots::Slots;
use crate::packet::Packet;
use crate::port::MacAddress;

/// An open device.
#[derive(Debug)]
pub(in crate::port) struct Opened {
    pub(in crate::port) fd: OwnedFd,
    pub(in crate::port) link: Link,
    pub(in crate::port) watch: LinkWatch,
}

/// One queue of a packet socket's interface or of a tap device, which can be opened again and again.
pub(in crate::port) trait Device: Debug + Send {
    /// The interface's name.
    fn interface(&self) -> &str;

    /// Kind, interface and queue, for people.
    fn description(&self) -> String;

    /// The port's own address, given the interface's.
    fn mac(&self, link: &Link) -> MacAddress;

    /// Opens it. `keeps` is the address that the port had before, when it is opened again.
    fn open(&mut self, keeps: Option<MacAddress>) -> Result<Opened, Failure>;

    /// Whether opening it again is worth a try; cheap.
    fn may_return(&self) -> bool;

    /// Whether the descriptor still has its interface though that is gone from this network namespace.
    fn is_elsewhere(&self, fd: BorrowedFd<'_>) -> bool {
        let _ = fd;
        false
    }

    /// Receives as many frames as there are, at most as many as packets (empty ones), and never blocks.
    fn receive(
        &self,
        fd: BorrowedFd<'_>,
        packets: &mut [Packet],
        slots: &mut Slots,
        arrivals: &mut [Arrival],
    ) -> io::Result<usize>;

    /// Sends packets in order; returns how many were taken. The error is about the first. Never blocks.
    fn send(&self, fd: BorrowedFd<'_>, packets: &[Packet]) -> io::Result<usize>;

    /// Frames that the kernel had no room for since the last call.
    fn missed(&self, fd: BorrowedFd<'_>) -> u64;
}
