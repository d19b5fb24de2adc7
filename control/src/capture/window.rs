//! Brings what several workers recorded into the order of time, as far as a window allows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Most bytes that wait for what may still come before them.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// A block and when it was: in nanoseconds since 1970, then in the order of a packet's way, then as it came.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    order: (u64, u8, u64),
    bytes: Vec<u8>,
}

/// Blocks that wait for earlier ones.
#[derive(Debug, Default)]
pub struct Window {
    waiting: BinaryHeap<Reverse<Waiting>>,
    bytes: usize,
    next: u64,
}

impl Window {
    /// A block of a packet that was there at `time`, at that `step` of its way.
    pub fn push(&mut self, time: u64, step: u8, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.waiting.push(Reverse(Waiting { order: (time, step, self.next), bytes }));
        self.next += 1;
    }

    /// The earliest block, if it is not later than `until`, or if there is no room for more.
    pub fn pop(&mut self, until: u64) -> Option<Vec<u8>> {
        let Reverse(first) = self.waiting.peek()?;
        if first.order.0 > until && self.bytes <= WAITING_BYTES_MAX {
            return None;
        }
        let Reverse(first) = self.waiting.pop()?;
        self.bytes -= first.bytes.len();
        Some(first.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_time_and_way() {
        let mut window = Window::default();
        for (time, step, name) in [(5, 2, 1), (3, 0, 2), (5, 0, 3), (9, 0, 4), (5, 0, 5)] {
            window.push(time, step, vec![name]);
        }
        let taken: Vec<_> = std::iter::from_fn(|| window.pop(5)).flatten().collect();
        assert_eq!(taken, [2, 3, 5, 1]);
        assert_eq!((window.pop(8), window.pop(9)), (None, Some(vec![4])));
        assert_eq!(window.bytes, 0);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut window = Window::default();
        for time in 0..65 {
            window.push(100 + time, 0, vec![0; 1 << 20]);
        }
        assert!(window.pop(0).is_some());
        assert!(window.pop(0).is_none());
    }
}
