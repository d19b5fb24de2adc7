//! The owners of datagrams in fragments: their first fragment tells, by its ports, where the others go (R14).
//!
//! Who polls a port knows those whose first fragment it received itself, and those that others who poll it told it of. Bounded:
//! the oldest datagram gives way.

use crate::fragments::Piece;
use millrace_dataplane::handoff::{Datagram, Told, WorkerId};
use millrace_dataplane::time::Time;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Most datagrams whose first fragment passed.
const DATAGRAMS_MAX: usize = 4_096;
/// How long a datagram is known: as long as chains keep its ports.
const KEEP: Duration = Duration::from_secs(15);

/// A datagram whose first fragment passed.
#[derive(Clone, Copy, Debug)]
struct Known {
    owner: WorkerId,
    until: Time,
    /// Bytes that passed.
    passed: u32,
    /// Bytes in all, once the last fragment passed.
    total: Option<u32>,
}

/// Who owns the datagrams in transit.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    owners: HashMap<Datagram, Known>,
    queue: VecDeque<(Time, Datagram)>,
}

impl Datagrams {
    /// The owner of a datagram whose first fragment passed, and of which this piece passes. When all of it has passed, its
    /// identification may be used again at once.
    pub(super) fn owner(&mut self, datagram: &Datagram, piece: Piece, now: Time) -> Option<WorkerId> {
        let known = self.owners.get_mut(datagram).filter(|known| now < known.until)?;
        known.passed += u32::from(piece.bytes());
        if piece.is_last() {
            known.total = Some(piece.end().into());
        }
        let owner = known.owner;
        if known.total.is_some_and(|total| known.passed >= total) {
            self.owners.remove(datagram);
        }
        Some(owner)
    }

    /// The first fragment of a datagram passes.
    pub(super) fn first(&mut self, told: Told, now: Time) {
        let Told { datagram, owner, bytes } = told;
        let until = now + KEEP;
        let known = Known { owner, until, passed: bytes.into(), total: None };
        if self.owners.insert(datagram, known).is_none() {
            self.queue.push_back((until, datagram));
        }
        let is_over = |front: &(Time, Datagram)| front.0 <= now;
        while self.queue.len() > DATAGRAMS_MAX || self.queue.front().is_some_and(is_over) {
            let Some((_, oldest)) = self.queue.pop_front() else { break };
            match self.owners.get(&oldest) {
                // Its identification was used again since it was queued.
                Some(&Known { until, .. }) if until > now && self.queue.len() < DATAGRAMS_MAX => {
                    self.queue.push_back((until, oldest));
                }
                _ => _ = self.owners.remove(&oldest),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn datagram(identification: u32) -> Datagram {
        Datagram { addresses: [1, 2], identification, is_ipv4: true, protocol: 17, hash: 7 }
    }

    const fn told(identification: u32, owner: u8) -> Told {
        Told { datagram: datagram(identification), owner: WorkerId(owner), bytes: 80 }
    }

    /// One of several in the middle of a long datagram.
    const MIDDLE: Piece = Piece::new(80, 160, false);

    #[test]
    fn the_first_fragment_tells_until_time_is_over() {
        let mut datagrams = Datagrams::default();
        let start = Time::from_secs(100);
        assert_eq!(datagrams.owner(&datagram(7), MIDDLE, start), None);
        datagrams.first(told(7, 3), start);
        assert_eq!(datagrams.owner(&datagram(7), MIDDLE, start), Some(WorkerId(3)));
        assert_eq!(datagrams.owner(&datagram(8), MIDDLE, start), None);
        for other in [
            Datagram { is_ipv4: false, ..datagram(7) },
            Datagram { protocol: 6, ..datagram(7) },
            Datagram { addresses: [2, 1], ..datagram(7) },
        ] {
            assert_eq!(datagrams.owner(&other, MIDDLE, start), None);
        }
        assert_eq!(datagrams.owner(&datagram(7), MIDDLE, start + KEEP), None);
    }

    #[test]
    fn a_datagram_is_over_when_all_of_it_passed() {
        let (mut datagrams, now) = (Datagrams::default(), Time::from_secs(1));
        let last = Piece::new(160, 200, true);
        for pieces in [[MIDDLE, last], [last, MIDDLE]] {
            datagrams.first(told(7, 3), now);
            for piece in pieces {
                assert_eq!(datagrams.owner(&datagram(7), piece, now), Some(WorkerId(3)));
            }
            assert_eq!(
                datagrams.owner(&datagram(7), MIDDLE, now),
                None,
                "another one with its identification"
            );
        }
    }

    #[test]
    fn they_are_bounded_and_the_oldest_give_way() {
        let mut datagrams = Datagrams::default();
        let now = Time::from_secs(1);
        for identification in 0..2 * DATAGRAMS_MAX as u32 {
            datagrams.first(told(identification, 1), now);
        }
        assert_eq!((datagrams.owners.len(), datagrams.queue.len()), (DATAGRAMS_MAX, DATAGRAMS_MAX));
        assert_eq!(datagrams.owner(&datagram(0), MIDDLE, now), None);
        assert!(datagrams.owner(&datagram(2 * DATAGRAMS_MAX as u32 - 1), MIDDLE, now).is_some());
        datagrams.first(told(0, 1), now + KEEP);
        assert_eq!((datagrams.owners.len(), datagrams.queue.len()), (1, 1));
    }

    #[test]
    fn an_identification_that_is_used_again_stays() {
        let mut datagrams = Datagrams::default();
        let (start, later) = (Time::from_secs(1), Time::from_secs(10));
        datagrams.first(told(1, 1), start);
        datagrams.first(told(1, 2), later);
        datagrams.first(told(2, 1), start + KEEP);
        assert_eq!(datagrams.owner(&datagram(1), MIDDLE, start + KEEP), Some(WorkerId(2)));
    }
}
