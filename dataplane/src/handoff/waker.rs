//! Wakes a worker that sleeps while others put packets into its rings, or commands before it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

/// A worker's way to be woken: a flag that says whether it sleeps, and a descriptor that it sleeps on.
///
/// The sleeper sets the flag and then looks at its rings; who pushes does so and then looks at the flag. With a full fence
/// between the two on both sides, one of them sees the other. While the worker is awake, a push costs the fence and no system
/// call.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sleeps: AtomicBool,
    event: OwnedFd,
}

impl Waker {
    /// For one worker.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was opened just now and is nobody else's.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(Arc::new(Shared { sleeps: AtomicBool::new(false), event })))
    }

    /// Something was pushed: wakes the worker if it sleeps.
    #[inline]
    pub fn pushed(&self) {
        fence(Ordering::SeqCst);
        if self.0.sleeps.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// Wakes the worker, or keeps it from its next sleep: for what it does not look at before it sleeps.
    #[cold]
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is valid for eight bytes. It fails only when the counter is full, and then it wakes anyway.
        unsafe { libc::write(self.0.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// The worker is about to sleep on the descriptor that this returns. `waits` says, after it was announced, whether something
    /// waits already: then it won't sleep.
    pub fn sleep_on(&self, waits: impl FnOnce() -> bool) -> RawFd {
        self.0.sleeps.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if waits() {
            self.ring();
        }
        self.0.event.as_raw_fd()
    }

    /// Sleeps until somebody pushes, or `time` is over. `waits` as for [`Self::sleep_on`].
    pub fn sleep(&self, time: Duration, waits: impl FnOnce() -> bool) {
        let mut poll = libc::pollfd { fd: self.sleep_on(waits), events: libc::POLLIN, revents: 0 };
        // Rounded up: a sleep that ends early would only be repeated.
        let millis = time.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as libc::c_int;
        // SAFETY: one initialised element, of which poll writes nothing but `revents`.
        unsafe { libc::poll(&raw mut poll, 1, millis) };
        self.awake();
    }

    /// The worker is awake.
    #[inline]
    pub fn awake(&self) {
        if self.0.sleeps.load(Ordering::Relaxed) {
            self.clear();
        }
    }

    #[cold]
    fn clear(&self) {
        self.0.sleeps.store(false, Ordering::Relaxed);
        let mut count = [0u8; 8];
        // SAFETY: the buffer is valid for eight bytes. It fails when nobody rang.
        unsafe { libc::read(self.0.event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_readable(fd: RawFd) -> bool {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one initialised element.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[test]
    fn who_sleeps_is_woken_and_who_does_not_is_left_alone() {
        let waker = Waker::new().unwrap();
        waker.pushed();
        let fd = waker.sleep_on(|| false);
        assert!(!is_readable(fd), "nobody pushed since");
        waker.clone().pushed();
        assert!(is_readable(fd));
        waker.awake();
        assert!(!is_readable(fd));
        waker.pushed();
        assert!(!is_readable(fd), "it is awake");
    }

    #[test]
    fn a_thread_sleeps_until_somebody_pushes() {
        let waker = Waker::new().unwrap();
        let start = std::time::Instant::now();
        waker.sleep(Duration::from_micros(10_500), || false);
        assert!(start.elapsed() >= Duration::from_millis(10));
        waker.sleep(Duration::from_secs(60), || true);
        let (other, pushed) = (waker.clone(), Arc::new(AtomicBool::new(false)));
        let push = Arc::clone(&pushed);
        let pusher = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            push.store(true, Ordering::Relaxed);
            other.pushed();
        });
        waker.sleep(Duration::from_secs(60), || pushed.load(Ordering::Relaxed));
        assert!(start.elapsed() < Duration::from_secs(50) && pushed.load(Ordering::Relaxed));
        pusher.join().unwrap();
    }

    #[test]
    fn who_is_called_while_awake_does_not_sleep_the_next_time() {
        let waker = Waker::new().unwrap();
        waker.ring();
        assert!(is_readable(waker.sleep_on(|| false)));
        waker.awake();
        assert!(!is_readable(waker.sleep_on(|| false)), "once is enough");
    }

    #[test]
    fn what_waits_already_keeps_from_sleeping() {
        let waker = Waker::new().unwrap();
        assert!(is_readable(waker.sleep_on(|| true)));
    }
}
