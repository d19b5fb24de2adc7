//! The system calls of AF_XDP sockets alone, each behind a safe function, and mapped memory.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::{null, null_mut};

use libc::c_void;

use crate::port::kernel::sys::{bind, get_option};
pub(super) use crate::port::kernel::sys::{set_option, set_option_u32, socket, uninterrupted};

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
