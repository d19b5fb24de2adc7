//! The share of each second that a place in the code has for lines from the packet path.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use tracing::Metadata;

/// Most lines of one place in the code that a thread of the packet path logs in a second.
pub(super) const LINES_PER_SECOND_MAX: u32 = 10;

/// Places that are told apart; more share one.
const PLACES: usize = 64;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Place {
    /// Where in the code: the address of what the compiler put there. 0 for none.
    at: usize,
    since: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

struct Share {
    limited: bool,
    places: [Place; PLACES],
}

thread_local! {
    // Made with the thread, in memory of its own: nothing is allocated when it is first used.
    static SHARE: RefCell<Share> = const {
        RefCell::new(Share {
            limited: false,
            places: [Place { at: 0, since: None, lines: 0, suppressed: 0 }; PLACES],
        })
    };
}

/// This thread moves packets: of each place in the code it logs at most ten lines a second, and a count of the rest.
pub fn on_packet_path() {
    SHARE.with_borrow_mut(|share| share.limited = true);
}

/// Whether this thread may log an event; with how many of its like it did not since the last one.
pub(super) fn admit(metadata: &'static Metadata<'static>) -> Option<u64> {
    let admit =
        |share: &mut Share| if share.limited { share.admit(metadata, Instant::now()) } else { Some(0) };
    // A thread that ends may still log, and so may whoever formats a line.
    SHARE
        .try_with(|share| share.try_borrow_mut().map_or(Some(0), |mut share| admit(&mut share)))
        .unwrap_or(Some(0))
}

impl Share {
    fn admit(&mut self, metadata: &'static Metadata<'static>, now: Instant) -> Option<u64> {
        let at = std::ptr::from_ref(metadata) as usize;
        let found = self.places.iter().position(|place| place.at == at || place.at == 0);
        let place = &mut self.places[found.unwrap_or(PLACES - 1)];
        place.at = at;
        if place.since.is_none_or(|since| now.duration_since(since) >= SECOND) {
            (place.since, place.lines) = (Some(now), 0);
        }
        if place.lines >= LINES_PER_SECOND_MAX {
            place.suppressed += 1;
            return None;
        }
        place.lines += 1;
        Some(std::mem::take(&mut place.suppressed))
    }
}
