//! Takes events to the ring.

use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::SystemTime;

use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::line::{Format, Line};
use super::{LOST, SUPPRESSED, limit};

/// Makes lines of events and gives them to the ring. Neither waits nor allocates; the receiver polls, so that giving calls no one.
#[derive(Debug)]
pub(super) struct RingLayer {
    ring: SyncSender<Line>,
    format: Format,
}

impl RingLayer {
    pub(super) fn new(ring: SyncSender<Line>, format: Format) -> Self {
        Self { ring, format }
    }
}

impl<S: Subscriber> Layer<S> for RingLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(suppressed) = limit::admit(event.metadata()) else {
            SUPPRESSED.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let line = Line::of(event, SystemTime::now(), suppressed, self.format);
        if self.ring.try_send(line).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}
