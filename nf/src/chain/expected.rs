//! What of a burst will walk: whose memory is asked for in two steps, because what is asked for first says where the rest lies.

use millrace_dataplane::flow::session::Tuple;
use millrace_dataplane::time::Time;
use std::collections::VecDeque;

/// Most packets that are expected. Some do not walk: an earlier one of their flow did.
const EXPECTED_MAX: usize = 16;
/// For so many, the last ones, what was asked for is taken to be still on its way.
const ON_THEIR_WAY: usize = 5;

/// Packets that are expected to walk forwards, in this order, by the place of their chain and their tuple.
#[derive(Debug, Default)]
pub(super) struct Expected {
    packets: VecDeque<(usize, Tuple)>,
    /// When their burst came.
    since: Time,
    /// The place of the first of them in their burst.
    first: usize,
    /// How many packets of the burst have walked.
    walked: usize,
}

impl Expected {
    /// A packet of the burst that came at `now` is expected, after all that were.
    pub(super) fn push(&mut self, chain: usize, tuple: Tuple, now: Time) {
        if self.since != now {
            self.packets.clear();
            (self.since, self.first, self.walked) = (now, 0, 0);
        }
        if self.packets.len() >= EXPECTED_MAX {
            self.pop();
        }
        self.packets.push_back((chain, tuple));
    }

    fn pop(&mut self) -> Option<(usize, Tuple)> {
        self.first += 1;
        self.packets.pop_front()
    }

    /// A packet has walked.
    pub(super) fn walked(&mut self) {
        self.walked += 1;
        while self.first < self.walked && self.pop().is_some() {}
    }

    /// How many are due for the second step: at least one, so that those at the end of a burst come in time.
    pub(super) fn due(&self) -> usize {
        self.packets.len().saturating_sub(ON_THEIR_WAY).max(1)
    }

    /// The next one, whose turn it is.
    pub(super) fn next(&mut self) -> Option<(usize, Tuple)> {
        if self.packets.is_empty() { None } else { self.pop() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(port: u16) -> Tuple {
        Tuple { source_port: port, ..Tuple::default() }
    }

    fn due(expected: &mut Expected) -> Vec<u16> {
        expected.walked();
        (0..expected.due()).map_while(|_| expected.next()).map(|(_, tuple)| tuple.source_port).collect()
    }

    #[test]
    fn each_is_due_once_and_before_its_walk() {
        let mut expected = Expected::default();
        (0..9).for_each(|port| expected.push(0, tuple(port), Time(1)));
        assert_eq!(due(&mut expected), [1, 2, 3]);
        expected.push(0, tuple(9), Time(1));
        assert_eq!(due(&mut expected), [4]);
        let rest: Vec<u16> = (0..8).flat_map(|_| due(&mut expected)).collect();
        assert_eq!(rest, [5, 6, 7, 8, 9]);
    }

    #[test]
    fn nobody_waits_for_one_alone_or_for_what_was_before() {
        let mut expected = Expected::default();
        for burst in 1..4 {
            expected.push(0, tuple(1), Time(burst));
            assert_eq!(due(&mut expected), []);
        }
        (0..4).for_each(|port| expected.push(0, tuple(port), Time(7)));
        expected.push(0, tuple(8), Time(9));
        expected.push(0, tuple(9), Time(9));
        assert_eq!(due(&mut expected), [9]);
        (0..100).for_each(|port| expected.push(0, tuple(port), Time(10)));
        assert_eq!(expected.packets.len(), EXPECTED_MAX);
    }
}
