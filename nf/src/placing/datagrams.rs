//! The owners of datagrams in fragments: their first fragment tells, by its ports, where the others go (R14).
//!
//! A port's fragments are placed where the port is polled, and no other port's belong to their datagrams. Bounded: the oldest
//! datagram gives way.

use super::ends::Ends;
use millrace_dataplane::handoff::WorkerId;
use millrace_dataplane::time::Time;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Most datagrams whose first fragment passed.
const DATAGRAMS_MAX: usize = 4_096;
/// How long a datagram is known: as long as chains keep its ports.
const KEEP: Duration = Duration::from_secs(15);

/// What all fragments of a datagram share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Datagram {
    source: u128,
    destination: u128,
    identification: u32,
    is_ipv4: bool,
}

impl Datagram {
    const fn of(ends: &Ends, identification: u32) -> Self {
        let Ends { source, destination, is_ipv4, .. } = *ends;
        Self { source, destination, identification, is_ipv4 }
    }
}

/// Who owns the datagrams in transit.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    owners: HashMap<Datagram, (WorkerId, Time)>,
    queue: VecDeque<(Time, Datagram)>,
}

impl Datagrams {
    /// The owner of a datagram whose first fragment passed.
    pub(super) fn owner(&self, ends: &Ends, identification: u32, now: Time) -> Option<WorkerId> {
        let (owner, until) = self.owners.get(&Datagram::of(ends, identification))?;
        (now < *until).then_some(*owner)
    }

    /// The first fragment of a datagram passes.
    pub(super) fn first(&mut self, ends: &Ends, identification: u32, owner: WorkerId, now: Time) {
        let (datagram, until) = (Datagram::of(ends, identification), now + KEEP);
        if self.owners.insert(datagram, (owner, until)).is_none() {
            self.queue.push_back((until, datagram));
        }
        let is_over = |front: &(Time, Datagram)| front.0 <= now;
        while self.queue.len() > DATAGRAMS_MAX || self.queue.front().is_some_and(is_over) {
            let Some((_, oldest)) = self.queue.pop_front() else { break };
            match self.owners.get(&oldest) {
                // Its identification was used again since it was queued.
                Some(&(_, until)) if until > now && self.queue.len() < DATAGRAMS_MAX => {
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

    const ENDS: Ends = Ends { is_ipv4: true, source: 1, destination: 2, protocol: 17, ports: None };

    #[test]
    fn the_first_fragment_tells_until_time_is_over() {
        let mut datagrams = Datagrams::default();
        let start = Time::from_secs(100);
        assert_eq!(datagrams.owner(&ENDS, 7, start), None);
        datagrams.first(&ENDS, 7, WorkerId(3), start);
        assert_eq!(datagrams.owner(&ENDS, 7, start), Some(WorkerId(3)));
        assert_eq!(datagrams.owner(&ENDS, 8, start), None);
        assert_eq!(datagrams.owner(&Ends { is_ipv4: false, ..ENDS }, 7, start), None);
        assert_eq!(datagrams.owner(&ENDS, 7, start + KEEP), None);
    }

    #[test]
    fn they_are_bounded_and_the_oldest_give_way() {
        let mut datagrams = Datagrams::default();
        let now = Time::from_secs(1);
        for identification in 0..2 * DATAGRAMS_MAX as u32 {
            datagrams.first(&ENDS, identification, WorkerId(1), now);
        }
        assert_eq!((datagrams.owners.len(), datagrams.queue.len()), (DATAGRAMS_MAX, DATAGRAMS_MAX));
        assert_eq!(datagrams.owner(&ENDS, 0, now), None);
        assert!(datagrams.owner(&ENDS, 2 * DATAGRAMS_MAX as u32 - 1, now).is_some());
        datagrams.first(&ENDS, 0, WorkerId(1), now + KEEP);
        assert_eq!((datagrams.owners.len(), datagrams.queue.len()), (1, 1));
    }

    #[test]
    fn an_identification_that_is_used_again_stays() {
        let mut datagrams = Datagrams::default();
        let (start, later) = (Time::from_secs(1), Time::from_secs(10));
        datagrams.first(&ENDS, 1, WorkerId(1), start);
        datagrams.first(&ENDS, 1, WorkerId(2), later);
        datagrams.first(&ENDS, 2, WorkerId(1), start + KEEP);
        assert_eq!(datagrams.owner(&ENDS, 1, start + KEEP), Some(WorkerId(2)));
    }
}
