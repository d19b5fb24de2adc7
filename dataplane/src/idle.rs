//! What a worker does when there is nothing to do: pause, then sleep until a port has something.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::time::Duration;

/// How a worker waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Polls for a while, then sleeps: right for machines that do other things, too.
    #[default]
    Adaptive,
    /// Always polls: least latency, one core at full load.
    Poll,
    /// Sleeps whenever a turn found nothing.
    Sleep,
}

/// Empty turns before an adaptive worker sleeps: about 50 microseconds.
const TURNS_BEFORE_SLEEP: u32 = 500;
/// Most descriptors that a sleep waits for; news at others are found when it is over.
const SOURCES_MAX: usize = 128;
/// Longest sleep: timers and commands wait no longer.
const SLEEP: Duration = Duration::from_millis(5);

/// Counts empty turns and sleeps when it is time.
#[derive(Debug, Default)]
pub struct Idle {
    policy: IdlePolicy,
    empty_turns: u32,
}

impl Idle {
    /// With this policy.
    pub fn new(policy: IdlePolicy) -> Self {
        Self { policy, empty_turns: 0 }
    }

    /// The turn moved packets.
    #[inline]
    pub fn busy(&mut self) {
        self.empty_turns = 0;
    }

    /// The turn found nothing. `sources` are what to wait for; `pending`: something waits to be sent, so sleep briefly.
    /// Returns true if it slept.
    pub fn empty(&mut self, sources: impl Iterator<Item = RawFd>, pending: bool) -> bool {
        self.empty_turns = self.empty_turns.saturating_add(1);
        let sleeps = match self.policy {
            IdlePolicy::Poll => false,
            IdlePolicy::Sleep => true,
            IdlePolicy::Adaptive => self.empty_turns > TURNS_BEFORE_SLEEP,
        };
        if !sleeps {
            std::hint::spin_loop();
            return false;
        }
        let mut fds: arrayvec::ArrayVec<libc::pollfd, SOURCES_MAX> = sources
            .take(SOURCES_MAX)
            .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
            .collect();
        let time = if pending { Duration::from_millis(1) } else { SLEEP };
        if fds.is_empty() {
            std::thread::sleep(time);
            return true;
        }
        // SAFETY: `fds` is an array of that many initialised `pollfd`; poll writes nothing but their `revents`.
        unsafe {
            libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, time.as_millis() as libc::c_int);
        }
        true
    }
}
