//! One AF_XDP socket: its four rings, bound to one queue of one interface.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::program::{BUSY_PAUSE, privileges};
use super::ring::{ConsumerRing, ProducerRing};
use super::umem::{Umem, register_scratch};
use super::{CopyMode, sys};
use crate::port::kernel::Failure;

/// How long a queue of a process that has just ended is waited for.
const BUSY_TIME_MAX: Duration = Duration::from_secs(1);
/// How long a driver without copies may take to let go of the frames of a closed socket.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(2);
/// Most system calls for one burst. In copy mode one sends about 32 packets.
const KICKS_MAX: usize = 4;

/// Entries of the rings, powers of two. The completion ring is as large as the TX ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingSizes {
    pub(super) rx: u32,
    pub(super) tx: u32,
    pub(super) fill: u32,
}

/// What the kernel said to a kick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kick {
    /// It did what it could.
    Done,
    /// The interface is down.
    Down,
    /// The socket is no longer bound: the interface is gone.
    Gone,
}

/// A bound socket.
#[derive(Debug)]
pub(super) struct XskSocket {
    /// Frames that the kernel may write received packets to.
    pub(super) fill: ProducerRing<u64>,
    /// Frames whose packets were sent.
    pub(super) completion: ConsumerRing<u64>,
    /// Received packets.
    pub(super) rx: ConsumerRing<libc::xdp_desc>,
    /// Packets to send.
    pub(super) tx: ProducerRing<libc::xdp_desc>,
    fd: Arc<OwnedFd>,
    interface_index: u32,
    queue: u32,
    zero_copy: bool,
}

impl XskSocket {
    /// Opens a socket and binds it to a queue; without copies if `mode` and the driver allow.
    pub(super) fn open(
        umem: &Umem,
        interface: &str,
        interface_index: u32,
        queue: u32,
        sizes: RingSizes,
        mode: CopyMode,
    ) -> Result<Self, Failure> {
        let candidates: &[bool] = match mode {
            CopyMode::Auto => &[true, false],
            CopyMode::ZeroCopy => &[true],
            CopyMode::Copy => &[false],
        };
        let mut tried = Vec::new();
        let mut last = io::Error::from(io::ErrorKind::Unsupported);
        for &zero_copy in candidates {
            let opening = Opening { umem, interface_index, queue, sizes, zero_copy };
            match opening.shared_or_own() {
                Ok(socket) => return Ok(socket),
                Err(error) => {
                    let word = if zero_copy { "zero-copy" } else { "copy" };
                    tried.push(format!("{word}: {error}"));
                    let is_final = matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EPERM));
                    last = error;
                    if is_final {
                        break;
                    }
                }
            }
        }
        let action = format!(
            "bind an AF_XDP socket to {interface} queue {queue} (tried {}){}",
            tried.join("; "),
            if last.raw_os_error() == Some(libc::EBUSY) { ": another socket uses this queue" } else { "" }
        );
        Err((action, privileges(last)))
    }

    /// The socket's descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The number of the descriptor, for `poll(2)`.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Whether the device reads and writes the frames itself.
    pub(super) const fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Makes the kernel send for as long as it makes progress, bounded. Never blocks.
    #[inline]
    pub(super) fn kick_tx(&mut self) -> Kick {
        let mut pending = self.tx.pending();
        for _ in 0..KICKS_MAX {
            if pending == 0 || !self.tx.needs_wakeup() {
                break;
            }
            match classify(sys::kick_tx(self.fd.as_fd())) {
                Kick::Done => {}
                other => return other,
            }
            let left = self.tx.pending();
            if left >= pending {
                break;
            }
            pending = left;
        }
        Kick::Done
    }

    /// Makes the kernel look at the fill ring if it waits for that. Never blocks.
    #[inline]
    pub(super) fn kick_rx(&mut self) -> Kick {
        if self.fill.needs_wakeup() { classify(sys::kick_rx(self.fd.as_fd())) } else { Kick::Done }
    }

    /// Packets that the kernel lost on this socket: it had no frame for them, or the RX ring was full.
    ///
    /// `rx_fill_ring_empty_descs` is not added: in copy mode those packets are in `rx_dropped` already, and
    /// drivers without copies count tries there, not packets.
    pub(super) fn missed(&self) -> io::Result<u64> {
        let statistics = sys::statistics(self.fd.as_fd())?;
        Ok(statistics.rx_dropped.saturating_add(statistics.rx_ring_full))
    }

    /// Closes the socket. When this returns `Ok`, neither the kernel nor the device uses any of its frames.
    ///
    /// # Errors
    /// The device did not let go of the frames in time: they must not be used again.
    pub(super) fn close(self, umem: &Umem) -> io::Result<()> {
        let Self { fill, completion, rx, tx, fd, interface_index, queue, zero_copy } = self;
        let sharing = umem.sharing();
        // Others hold the socket only while they hold the lock, so that this is the last handle.
        debug_assert_eq!(Arc::strong_count(&fd), 1);
        // The kernel keeps a socket for as long as any of it is mapped.
        drop((fill, completion, rx, tx, fd));
        drop(sharing);
        // In copy mode the kernel writes to no frame after these calls. A driver is told later, by a work
        // queue.
        if zero_copy { wait_for_release(interface_index, queue) } else { Ok(()) }
    }
}

/// A socket being opened in one mode.
struct Opening<'a> {
    umem: &'a Umem,
    interface_index: u32,
    queue: u32,
    sizes: RingSizes,
    zero_copy: bool,
}

impl Opening<'_> {
    /// With the registration of a socket in the same mode, else with its own.
    fn shared_or_own(&self) -> io::Result<XskSocket> {
        if self.umem.sharing().socket(self.zero_copy).is_some() {
            match self.shared() {
                Ok(socket) => return Ok(socket),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EPERM)) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(%error, "can't share a UMEM registration; making another");
                }
            }
        }
        self.own()
    }

    fn shared(&self) -> io::Result<XskSocket> {
        let (fd, offsets) = self.prepare(false)?;
        let socket = self.map(fd, &offsets)?;
        patiently(BUSY_TIME_MAX, || {
            let sharing = self.umem.sharing();
            let sibling = sharing.socket(self.zero_copy).ok_or(io::ErrorKind::NotFound)?;
            // The kernel takes mode and wake-ups over from the other socket and allows no other flag.
            let flags = libc::XDP_SHARED_UMEM;
            sys::bind_xdp(socket.fd(), self.interface_index, self.queue, flags, Some(sibling.as_raw_fd()))
        })?;
        self.bound(socket)
    }

    fn own(&self) -> io::Result<XskSocket> {
        let (fd, offsets) = self.prepare(true)?;
        let socket = self.map(fd, &offsets)?;
        let copy = if self.zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
        patiently(BUSY_TIME_MAX, || {
            let flags = copy | libc::XDP_USE_NEED_WAKEUP;
            sys::bind_xdp(socket.fd(), self.interface_index, self.queue, flags, None)
        })?;
        self.bound(socket)
    }

    fn prepare(&self, register: bool) -> io::Result<(OwnedFd, libc::xdp_mmap_offsets)> {
        let fd = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
        let socket = fd.as_fd();
        if register {
            self.umem.register(socket)?;
        }
        for (option, size) in [
            (libc::XDP_UMEM_FILL_RING, self.sizes.fill),
            (libc::XDP_UMEM_COMPLETION_RING, self.sizes.tx),
            (libc::XDP_RX_RING, self.sizes.rx),
            (libc::XDP_TX_RING, self.sizes.tx),
        ] {
            sys::set_option_u32(socket, libc::SOL_XDP, option, size)?;
        }
        let offsets = sys::mmap_offsets(socket)?;
        Ok((fd, offsets))
    }

    fn map(&self, fd: OwnedFd, offsets: &libc::xdp_mmap_offsets) -> io::Result<XskSocket> {
        let (fill_page, completion_page) = (
            libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t,
            libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t,
        );
        let socket = fd.as_fd();
        let fill = ProducerRing::map(socket, &offsets.fr, self.sizes.fill, fill_page)?;
        let completion = ConsumerRing::map(socket, &offsets.cr, self.sizes.tx, completion_page)?;
        let rx = ConsumerRing::map(socket, &offsets.rx, self.sizes.rx, libc::XDP_PGOFF_RX_RING)?;
        let tx = ProducerRing::map(socket, &offsets.tx, self.sizes.tx, libc::XDP_PGOFF_TX_RING)?;
        Ok(XskSocket {
            fill,
            completion,
            rx,
            tx,
            fd: Arc::new(fd),
            interface_index: self.interface_index,
            queue: self.queue,
            zero_copy: self.zero_copy,
        })
    }

    fn bound(&self, mut socket: XskSocket) -> io::Result<XskSocket> {
        socket.zero_copy = sys::is_zero_copy(socket.fd())?;
        self.umem.sharing().add(&socket.fd, socket.zero_copy);
        Ok(socket)
    }
}

/// Tries until the answer is another than `EBUSY`, or the time is over.
fn patiently(time_max: Duration, mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match sys::uninterrupted(&mut attempt) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && start.elapsed() < time_max => {
                thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Waits until a queue is free: a socket that holds no packet can be bound to it, in copy mode, which does
/// not disturb the driver.
fn wait_for_release(interface_index: u32, queue: u32) -> io::Result<()> {
    let fd = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
    let _scratch = register_scratch(fd.as_fd())?;
    for option in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING] {
        sys::set_option_u32(fd.as_fd(), libc::SOL_XDP, option, 2)?;
    }
    let bind = || sys::bind_xdp(fd.as_fd(), interface_index, queue, libc::XDP_COPY, None);
    match patiently(RELEASE_TIME_MAX, bind) {
        // Only a busy queue means that the old socket is still there; without the interface nothing is.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(error),
        _ => Ok(()),
    }
}

fn classify(result: io::Result<()>) -> Kick {
    let Err(error) = result else { return Kick::Done };
    match error.raw_os_error() {
        Some(libc::ENETDOWN) => Kick::Down,
        Some(libc::ENXIO | libc::EBADF | libc::ENODEV) => Kick::Gone,
        // EAGAIN, EBUSY, ENOBUFS, EINTR: what is left stays in the ring until the next kick.
        _ => Kick::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lost_binding_is_final() {
        let of = |code| classify(Err(io::Error::from_raw_os_error(code)));
        assert_eq!(classify(Ok(())), Kick::Done);
        assert_eq!(of(libc::EAGAIN), Kick::Done);
        assert_eq!(of(libc::EINTR), Kick::Done);
        assert_eq!(of(libc::ENETDOWN), Kick::Down);
        assert_eq!(of(libc::ENXIO), Kick::Gone);
    }
}
