//! The system calls of sockets, each behind a safe function: descriptors are owned, buffers are slices.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, socklen_t};

/// Turns the C convention (negative, and `errno`) into a `Result`.
pub(in crate::port) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls `operation` again for as long as a signal interrupts it.
pub(in crate::port) fn uninterrupted<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match operation() {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            other => return other,
        }
    }
}

/// A socket that no child process inherits.
pub(in crate::port) fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer; a result that is not negative is a descriptor nobody else owns.
    unsafe {
        let fd = check(libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sets a socket option whose value is an integer that the kernel reads as a number, not as an address.
pub(in crate::port) fn set_option_u32(
    fd: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    value: u32,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which lives until the call returns.
    unsafe { set_option(fd, level, option, &value) }
}

/// Sets a socket option.
///
/// # Safety
/// What addresses `value` holds must be valid for all that the kernel does with this option, for as long.
pub(in crate::port) unsafe fn set_option<T>(
    fd: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    value: &T,
) -> io::Result<()> {
    let pointer: *const T = value;
    let length = size_of::<T>() as socklen_t;
    // SAFETY: pointer and length describe `value`; its contents are the caller's promise.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, pointer.cast(), length) }).map(drop)
}

/// Reads a socket option into a zeroed `T`; fields that an older kernel does not know stay zero.
///
/// # Safety
/// Any bit pattern must be a valid `T`.
pub(in crate::port) unsafe fn get_option<T>(
    fd: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
) -> io::Result<T> {
    // SAFETY: all zeros is a valid `T` by the caller's promise.
    let mut value: T = unsafe { zeroed() };
    let mut length = size_of::<T>() as socklen_t;
    let pointer: *mut T = &mut value;
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, pointer.cast(), &mut length) })?;
    Ok(value)
}

/// Binds a netlink socket and subscribes it to the multicast groups of the bit mask `groups`.
pub(in crate::port) fn bind_netlink(fd: BorrowedFd<'_>, groups: u32) -> io::Result<()> {
    // SAFETY: all zeros is a valid `sockaddr_nl`.
    let mut address: libc::sockaddr_nl = unsafe { zeroed() };
    address.nl_family = libc::AF_NETLINK as u16;
    address.nl_groups = groups;
    bind(fd, &address, size_of::<libc::sockaddr_nl>())
}

/// Binds a socket to the first `length` bytes of `address`.
pub(in crate::port) fn bind<T>(fd: BorrowedFd<'_>, address: &T, length: usize) -> io::Result<()> {
    debug_assert!(length <= size_of::<T>());
    let pointer: *const T = address;
    // SAFETY: `length` bytes of `address` are readable for the duration of the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), pointer.cast(), length as socklen_t) }).map(drop)
}

/// Sends one message.
pub(in crate::port) fn send(fd: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of `message`.
    let sent = unsafe { libc::send(fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one message; what does not fit in `buffer` is lost. `flags` as in `recv(2)`.
pub(in crate::port) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: c_int) -> io::Result<usize> {
    // SAFETY: pointer and length are those of `buffer`, which is borrowed mutably.
    let got = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// The name of an interface of this network namespace.
pub(in crate::port) fn interface_name(index: u32) -> Option<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: `name` has the IF_NAMESIZE bytes that the call writes at most, with its closing zero.
    unsafe {
        if libc::if_indextoname(index, name.as_mut_ptr()).is_null() {
            return None;
        }
        Some(CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned())
    }
}

/// Keeps `interface_index` promiscuous for as long as the packet socket `fd` is open.
pub(in crate::port) fn join_promiscuous(fd: BorrowedFd<'_>, interface_index: u32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: interface_index.cast_signed(),
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: `packet_mreq` holds no address.
    unsafe { set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request) }
}

const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// Runs one ethtool command. The first word of `words` is the command; the kernel answers in place.
fn ethtool<const WORDS: usize>(interface: &str, words: &mut [u32; WORDS]) -> io::Result<()> {
    let name = CString::new(interface).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let bytes = name.as_bytes();
    if bytes.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (target, &byte) in request.ifr_name.iter_mut().zip(bytes) {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: `ifru_data` points to `words`, which has the size of the command's structure (the two callers
    // below: ethtool_value is 2 words, ethtool_channels 9); the kernel writes no more than that.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), 0x8946, &raw mut request) }).map(drop)
}

/// The number of queues that receive: `ethtool -l`, receive-only and combined channels together.
pub(in crate::port) fn receive_channels(interface: &str) -> io::Result<u32> {
    // command, max rx, tx, other, combined, then the counts in use of the same four.
    let mut words = [ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    ethtool(interface, &mut words)?;
    Ok(words[5].saturating_add(words[8]))
}

/// Whether the interface leaves checksums of what it sends to a device (`ethtool -k`, tx-checksumming).
pub(in crate::port) fn sends_partial_checksums(interface: &str) -> io::Result<bool> {
    let mut words = [ETHTOOL_GTXCSUM, 0];
    ethtool(interface, &mut words)?;
    Ok(words[1] != 0)
}

/// The index of an interface of this network namespace, if there is one of this name. Takes none of the kernel's global
/// locks.
pub(in crate::port) fn interface_index(interface: &str) -> Option<u32> {
    let name = CString::new(interface).ok()?;
    // SAFETY: `name` is a string that ends with a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Binds a packet socket to an interface and all protocols: it receives from now on.
pub(in crate::port) fn bind_packet(fd: BorrowedFd<'_>, interface_index: u32) -> io::Result<()> {
    // SAFETY: all zeros is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface_index.cast_signed();
    bind(fd, &address, size_of::<libc::sockaddr_ll>())
}

/// Reads an integer option of a socket.
pub(in crate::port) fn option_u32(fd: BorrowedFd<'_>, level: c_int, option: c_int) -> io::Result<u32> {
    // SAFETY: any bits are a number.
    unsafe { get_option(fd, level, option) }
}

/// Frames that a packet socket received and, of those, had no room for, since the last call.
pub(in crate::port) fn packet_statistics(fd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    // SAFETY: two numbers.
    let [received, dropped]: [u32; 2] = unsafe { get_option(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS) }?;
    Ok((received, dropped))
}

/// Asks for `bytes` of buffer in one direction (`SO_SNDBUFFORCE` or `SO_RCVBUFFORCE`, else as much as the limit allows).
pub(in crate::port) fn set_buffer(fd: BorrowedFd<'_>, forced: c_int, limited: c_int, bytes: u32) {
    if set_option_u32(fd, libc::SOL_SOCKET, forced, bytes).is_err() {
        // Less is slower, not wrong.
        let _ = set_option_u32(fd, libc::SOL_SOCKET, limited, bytes);
    }
}
