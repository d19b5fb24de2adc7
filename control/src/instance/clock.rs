//! A clock that stands until somebody outside the worker moves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace_dataplane::time::{Clock, Time};

/// A virtual clock with several hands on it; copies show the same time.
#[derive(Clone, Debug, Default)]
pub struct SharedClock(Arc<AtomicU64>);

impl SharedClock {
    /// Moves the clock to `time`; an earlier time is ignored.
    pub fn set(&self, time: Time) {
        self.0.fetch_max(time.0, Ordering::Relaxed);
    }
}

impl Clock for SharedClock {
    fn now(&mut self) -> Time {
        Time(self.0.load(Ordering::Relaxed))
    }
}
