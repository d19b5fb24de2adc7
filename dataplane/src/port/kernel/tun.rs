//! The system calls of tap devices (`Documentation/networking/tuntap.rst` of the kernel).
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::sys;
use crate::port::offload::VNET_HEADER_BYTES;

const SET_INTERFACE: libc::c_ulong = 0x4004_54ca;
const GET_INTERFACE: libc::c_ulong = 0x8004_54d2;
const SET_OFFLOADS: libc::c_ulong = 0x4004_54d0;
const SET_HEADER_BYTES: libc::c_ulong = 0x4004_54d8;
const IFF_TAP: i16 = 2;
const IFF_MULTI_QUEUE: i16 = 0x0100;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
/// Partial checksums; TCP over both, with ECN.
const OFFLOADS: libc::c_ulong = 1 | 2 | 4 | 8;
/// UDP over both, since Linux 6.2.
const OFFLOADS_UDP: libc::c_ulong = 0x20 | 0x40;

fn request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if interface.is_empty() || interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (target, &byte) in request.ifr_name.iter_mut().zip(interface.as_bytes()) {
        *target = byte.cast_signed();
    }
    Ok(request)
}

/// Runs an interface's command, which reads and writes no more than an `ifreq`.
fn interface_command(
    fd: BorrowedFd<'_>,
    command: libc::c_ulong,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    let pointer: *mut libc::ifreq = request;
    // SAFETY: the callers' commands take an `ifreq` without pointers in it.
    sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), command, pointer) }).map(drop)
}

/// Opens a queue of the tap device `interface`, which is made if there is none, with virtio-net headers and all
/// offloads. It never blocks.
pub(in crate::port) fn open(interface: &str, is_multi_queue: bool) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    let file: File = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let fd = OwnedFd::from(file);
    let mut request = request(interface)?;
    let many = if is_multi_queue { IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | many;
    let raw = fd.as_raw_fd();
    let bytes = VNET_HEADER_BYTES as libc::c_int;
    let pointer: *const libc::c_int = &bytes;
    // SAFETY: each command takes what its name says: an `ifreq` without pointers, an integer behind a pointer, and flags.
    unsafe {
        sys::check(libc::ioctl(raw, SET_INTERFACE, &raw mut request))?;
        sys::check(libc::ioctl(raw, SET_HEADER_BYTES, pointer))?;
        if libc::ioctl(raw, SET_OFFLOADS, OFFLOADS | OFFLOADS_UDP) < 0 {
            sys::check(libc::ioctl(raw, SET_OFFLOADS, OFFLOADS))?;
        }
    }
    Ok(fd)
}

/// Whether a queue still has its device, in whatever network namespace.
pub(in crate::port) fn is_attached(fd: BorrowedFd<'_>) -> bool {
    request("any").is_ok_and(|mut request| interface_command(fd, GET_INTERFACE, &mut request).is_ok())
}

/// Gives an interface its MTU, if one is given, and brings it up.
pub(in crate::port) fn bring_up(interface: &str, mtu: Option<u16>) -> io::Result<()> {
    use std::os::fd::AsFd;
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut request = request(interface)?;
    if let Some(mtu) = mtu {
        request.ifr_ifru.ifru_mtu = libc::c_int::from(mtu);
        interface_command(socket.as_fd(), libc::SIOCSIFMTU, &mut request)?;
    }
    interface_command(socket.as_fd(), libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the kernel just wrote the flags, and any bits are flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as i16;
    interface_command(socket.as_fd(), libc::SIOCSIFFLAGS, &mut request)
}
