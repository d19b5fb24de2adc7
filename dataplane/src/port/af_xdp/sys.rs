//! The system calls of sockets, each behind a safe function: descriptors are owned, buffers are slices.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};

use libc::{c_int, c_void, socklen_t};

/// Turns the C convention (negative, and `errno`) into a `Result`.
pub(super) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls `operation` again for as long as a signal interrupts it.
pub(super) fn uninterrupted<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match operation() {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            other => return other,
        }
    }
}

/// A socket that no child process inherits.
pub(super) fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer; a result that is not negative is a descriptor nobody else owns.
    unsafe {
        let fd = check(libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sets a socket option whose value is an integer that the kernel reads as a number, not as an address.
pub(super) fn set_option_u32(fd: BorrowedFd<'_>, level: c_int, option: c_int, value: u32) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which lives until the call returns.
    unsafe { set_option(fd, level, option, &value) }
}

/// Sets a socket option.
///
/// # Safety
/// What addresses `value` holds must be valid for all that the kernel does with this option, for as long.
pub(super) unsafe fn set_option<T>(
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
unsafe fn get_option<T>(fd: BorrowedFd<'_>, level: c_int, option: c_int) -> io::Result<T> {
    // SAFETY: all zeros is a valid `T` by the caller's promise.
    let mut value: T = unsafe { zeroed() };
    let mut length = size_of::<T>() as socklen_t;
    let pointer: *mut T = &mut value;
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, pointer.cast(), &mut length) })?;
    Ok(value)
}

/// Where the four rings of an AF_XDP socket lie in their mappings (kernel 5.4 and later).
pub(super) fn mmap_offsets(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: `xdp_mmap_offsets` holds integers only.
    unsafe { get_option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS) }
}

/// The kernel's counters of an AF_XDP socket.
pub(super) fn statistics(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    // SAFETY: `xdp_statistics` holds integers only.
    unsafe { get_option(fd, libc::SOL_XDP, libc::XDP_STATISTICS) }
}

/// Whether a bound AF_XDP socket runs without copies.
pub(super) fn is_zero_copy(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: `xdp_options` holds one integer.
    let options: libc::xdp_options = unsafe { get_option(fd, libc::SOL_XDP, libc::XDP_OPTIONS) }?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Binds an AF_XDP socket to a queue. `shared` names a bound socket whose UMEM is to be used.
pub(super) fn bind_xdp(
    fd: BorrowedFd<'_>,
    interface_index: u32,
    queue: u32,
    flags: u16,
    shared: Option<RawFd>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface_index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared.and_then(|fd| u32::try_from(fd).ok()).unwrap_or(0),
    };
    bind(fd, &address, size_of::<libc::sockaddr_xdp>())
}

/// Binds a netlink socket and subscribes it to the multicast groups of the bit mask `groups`.
pub(super) fn bind_netlink(fd: BorrowedFd<'_>, groups: u32) -> io::Result<()> {
    // SAFETY: all zeros is a valid `sockaddr_nl`.
    let mut address: libc::sockaddr_nl = unsafe { zeroed() };
    address.nl_family = libc::AF_NETLINK as u16;
    address.nl_groups = groups;
    bind(fd, &address, size_of::<libc::sockaddr_nl>())
}

/// Binds a Unix socket to a name of the network namespace's abstract space (`unix(7)`): one holder at a
/// time, free again when that process is gone. Names longer than 100 bytes are cut.
pub(super) fn bind_abstract(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // SAFETY: all zeros is a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    let used = name.len().min(100);
    for (target, &byte) in address.sun_path[1..].iter_mut().zip(name.as_bytes()).take(used) {
        *target = byte.cast_signed();
    }
    bind(fd, &address, size_of::<libc::sa_family_t>() + 1 + used)
}

fn bind<T>(fd: BorrowedFd<'_>, address: &T, length: usize) -> io::Result<()> {
    debug_assert!(length <= size_of::<T>());
    let pointer: *const T = address;
    // SAFETY: `length` bytes of `address` are readable for the duration of the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), pointer.cast(), length as socklen_t) }).map(drop)
}

/// Makes the kernel look at the TX ring. Never blocks.
pub(super) fn kick_tx(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an empty message: no pointer is followed.
    let sent = unsafe { libc::sendto(fd.as_raw_fd(), null(), 0, libc::MSG_DONTWAIT, null(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel look at the fill ring. Never blocks.
pub(super) fn kick_rx(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a buffer of no bytes: no pointer is followed.
    let got =
        unsafe { libc::recvfrom(fd.as_raw_fd(), null_mut(), 0, libc::MSG_DONTWAIT, null_mut(), null_mut()) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends one message.
pub(super) fn send(fd: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of `message`.
    let sent = unsafe { libc::send(fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one message; what does not fit in `buffer` is lost. `flags` as in `recv(2)`.
pub(super) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: c_int) -> io::Result<usize> {
    // SAFETY: pointer and length are those of `buffer`, which is borrowed mutably.
    let got = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// The name of an interface of this network namespace.
pub(super) fn interface_name(index: u32) -> Option<String> {
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
pub(super) fn join_promiscuous(fd: BorrowedFd<'_>, interface_index: u32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: interface_index.cast_signed(),
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: `packet_mreq` holds no address.
    unsafe { set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request) }
}

/// Lifts the soft limit of locked memory to the hard one, or both where the process may do that.
pub(super) fn raise_locked_memory_limit() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointers are to live `rlimit` values.
    unsafe {
        if libc::setrlimit(libc::RLIMIT_MEMLOCK, &unlimited) != 0 {
            let mut limit = unlimited;
            if libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) == 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit);
            }
        }
    }
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
pub(super) fn receive_channels(interface: &str) -> io::Result<u32> {
    // command, max rx, tx, other, combined, then the counts in use of the same four.
    let mut words = [ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    ethtool(interface, &mut words)?;
    Ok(words[5].saturating_add(words[8]))
}

/// Whether the interface leaves checksums of what it sends to a device (`ethtool -k`, tx-checksumming).
pub(super) fn sends_partial_checksums(interface: &str) -> io::Result<bool> {
    let mut words = [ETHTOOL_GTXCSUM, 0];
    ethtool(interface, &mut words)?;
    Ok(words[1] != 0)
}

/// A shared mapping of a file's pages, unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    base: std::ptr::NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; `base` only describes where it is.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `bytes` of `fd` from `offset`, read and write, populated.
    pub(super) fn new(fd: BorrowedFd<'_>, bytes: usize, offset: libc::off_t) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: the kernel chooses the place, so that no mapping in use is touched.
        let base = unsafe { libc::mmap(null_mut(), bytes, protection, flags, fd.as_raw_fd(), offset) };
        match std::ptr::NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast::<c_void>() != libc::MAP_FAILED => Ok(Self { base, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Private zeroed pages, for a UMEM that holds no packet.
    pub(super) fn anonymous(bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: as above, and no file is involved.
        let base = unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) };
        match std::ptr::NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast::<c_void>() != libc::MAP_FAILED => Ok(Self { base, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its first byte; the mapping is aligned to a page.
    pub(super) const fn base(&self) -> std::ptr::NonNull<u8> {
        self.base
    }

    /// Its length in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those that `mmap` returned; rings that point into it own this value.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
