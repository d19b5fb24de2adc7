//! The memory that AF_XDP sockets work in: a pool's frames, registered with the kernel.
//!
//! One registration serves many sockets: the first registers, later ones bind to it. Sockets with and without
//! copies can't share one (the kernel takes over the first one's mode), so that there is one for each mode.
//! Registering the same memory twice is allowed; addresses are offsets into it, the same in both.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::sys;
use crate::memory::Pool;

/// A pool's memory as AF_XDP sees it. Make one for each pool, and open all ports that use the pool with it.
#[derive(Clone, Debug)]
pub struct Umem {
    base: NonNull<u8>,
    bytes: usize,
    frame_bytes: usize,
    bound: Arc<Mutex<Vec<Bound>>>,
}

// SAFETY: `base` is only an address here; what happens to the memory goes through the pool.
unsafe impl Send for Umem {}
// SAFETY: as above; the list of sockets is behind a mutex.
unsafe impl Sync for Umem {}

/// A socket that others can share the registration of, for as long as it is bound.
#[derive(Debug)]
struct Bound {
    socket: Weak<OwnedFd>,
    zero_copy: bool,
}

/// Holds off closing and sharing of sockets, so that a socket being shared is not closed half-way.
pub(super) struct Sharing<'a>(MutexGuard<'a, Vec<Bound>>);

impl Sharing<'_> {
    /// A bound socket of this mode.
    pub(super) fn socket(&self, zero_copy: bool) -> Option<Arc<OwnedFd>> {
        let mut same = self.0.iter().filter(|bound| bound.zero_copy == zero_copy);
        same.find_map(|bound| bound.socket.upgrade())
    }

    /// Lets others share with this socket, which is bound.
    pub(super) fn add(&mut self, socket: &Arc<OwnedFd>, zero_copy: bool) {
        self.0.retain(|bound| bound.socket.strong_count() > 0);
        self.0.push(Bound { socket: Arc::downgrade(socket), zero_copy });
    }
}

impl Umem {
    /// The memory of `pool`.
    ///
    /// # Errors
    /// `InvalidInput` if the pool's frames are not of 2,048 or 4,096 bytes, which AF_XDP demands.
    pub fn new(pool: &Pool) -> io::Result<Self> {
        let (base, bytes) = pool.region();
        let frame_bytes = pool.frame_bytes();
        if !matches!(frame_bytes, 2_048 | 4_096) || !(base.as_ptr() as usize).is_multiple_of(4_096) {
            let text = format!(
                "a pool for AF_XDP needs frames of 2,048 or 4,096 bytes, and has {frame_bytes} bytes a frame"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self { base, bytes, frame_bytes, bound: Arc::default() })
    }

    /// Bytes of a frame, with metadata line and headroom.
    pub const fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    pub(super) fn sharing(&self) -> Sharing<'_> {
        Sharing(self.bound.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Registers the memory with a socket that is not bound yet. The kernel pins its pages.
    pub(super) fn register(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the pool's frames are in this memory; the kernel writes only to frames that sit in a fill
        // ring, and `super::frames::Frames` lends to the rings only what it took over from the pool.
        let attempt = || unsafe { register(socket, self.base, self.bytes, self.frame_bytes) };
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                sys::raise_locked_memory_limit();
                attempt().map_err(|error| {
                    if error.raw_os_error() != Some(libc::ENOBUFS) {
                        return error;
                    }
                    let text = format!(
                        "{} bytes are more than this process may lock: raise the limit (ulimit -l, or LimitMEMLOCK= \
                         of the service) or give it CAP_IPC_LOCK",
                        self.bytes
                    );
                    io::Error::new(io::ErrorKind::OutOfMemory, text)
                })
            }
            other => other,
        }
    }

    /// The first byte.
    pub(super) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Frames in it.
    pub(super) const fn frame_count(&self) -> usize {
        self.bytes / self.frame_bytes
    }
}

/// Registers a page of its own with a socket: enough to bind it, and nothing to receive in.
pub(super) fn register_scratch(socket: BorrowedFd<'_>) -> io::Result<sys::Mapping> {
    let scratch = sys::Mapping::anonymous(4_096)?;
    // SAFETY: the page is nobody's; the kernel pins it for as long as it wants it.
    unsafe { register(socket, scratch.base(), scratch.bytes(), 4_096) }?;
    Ok(scratch)
}

/// # Safety
/// The kernel may write to any part of the memory that is later put in the socket's fill ring.
unsafe fn register(
    socket: BorrowedFd<'_>,
    base: NonNull<u8>,
    bytes: usize,
    frame_bytes: usize,
) -> io::Result<()> {
    let registration = libc::xdp_umem_reg {
        addr: base.as_ptr() as u64,
        len: bytes as u64,
        chunk_size: u32::try_from(frame_bytes).unwrap_or(0),
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    // SAFETY: the address and length are those of the caller's memory, which it answers for.
    unsafe { sys::set_option(socket.as_fd(), libc::SOL_XDP, libc::XDP_UMEM_REG, &registration) }
}
