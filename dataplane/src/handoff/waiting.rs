//! Fragments that wait for the first of their datagram.

use std::collections::VecDeque;
use std::time::Duration;

use super::place::{Datagram, WorkerId};
use crate::packet::Packet;
use crate::time::Time;

/// Most fragments that wait with one who polls a port: the oldest gives way.
pub const WAITING_MAX: usize = 256;
/// How long they wait.
const WAIT: Duration = Duration::from_secs(2);
/// Counts by which most datagrams that nobody waits for are told from the others at once.
const COUNTS: usize = 1_024;

/// Who received a packet: this worker, or another, who did not know its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Us,
    Other,
}

/// A fragment that waits.
pub(super) struct Waiter {
    pub(super) by: By,
    pub(super) packet: Packet,
    /// Its owner, once that is known.
    pub(super) owner: Option<WorkerId>,
    datagram: Datagram,
    until: Time,
}

/// Those that wait, the oldest first.
pub(super) struct Waiting {
    waiters: VecDeque<Waiter>,
    /// Those without an owner, by a part of their datagrams' hashes.
    counts: Box<[u16; COUNTS]>,
    /// Those with one.
    ready: usize,
    /// Those that others received.
    of_others: usize,
}

impl Waiting {
    pub(super) fn new() -> Self {
        let waiters = VecDeque::with_capacity(WAITING_MAX);
        Self { waiters, counts: Box::new([0; COUNTS]), ready: 0, of_others: 0 }
    }

    fn count(&mut self, datagram: &Datagram) -> &mut u16 {
        &mut self.counts[datagram.hash as usize % COUNTS]
    }

    /// The packet waits. The oldest comes back if there is no room for both.
    pub(super) fn push(&mut self, by: By, packet: Packet, datagram: Datagram, now: Time) -> Option<Waiter> {
        let oldest = if self.waiters.len() >= WAITING_MAX { self.pop() } else { None };
        *self.count(&datagram) += 1;
        self.of_others += usize::from(by == By::Other);
        self.waiters.push_back(Waiter { by, packet, owner: None, datagram, until: now + WAIT });
        oldest
    }

    /// Those of this datagram have an owner.
    #[inline]
    pub(super) fn told(&mut self, datagram: &Datagram, owner: WorkerId) {
        if *self.count(datagram) > 0 {
            self.find(datagram, owner);
        }
    }

    #[cold]
    fn find(&mut self, datagram: &Datagram, owner: WorkerId) {
        let mut found = 0;
        let waits = |waiter: &&mut Waiter| waiter.owner.is_none() && waiter.datagram == *datagram;
        for waiter in self.waiters.iter_mut().filter(waits) {
            waiter.owner = Some(owner);
            found += 1;
        }
        *self.count(datagram) -= found;
        self.ready += usize::from(found);
    }

    /// Takes the oldest.
    pub(super) fn pop(&mut self) -> Option<Waiter> {
        let waiter = self.waiters.pop_front()?;
        match waiter.owner {
            Some(_) => self.ready -= 1,
            None => *self.count(&waiter.datagram) -= 1,
        }
        self.of_others -= usize::from(waiter.by == By::Other);
        Some(waiter)
    }

    /// Takes the oldest, if it has waited long enough.
    pub(super) fn pop_late(&mut self, now: Time) -> Option<Waiter> {
        let is_late = self.waiters.front().is_some_and(|front| front.owner.is_none() && front.until <= now);
        if is_late { self.pop() } else { None }
    }

    /// Takes the oldest that `by` received and that has an owner whom `may` allows.
    pub(super) fn pop_ready(&mut self, by: By, may: impl Fn(WorkerId) -> bool) -> Option<Waiter> {
        if self.ready == 0 {
            return None;
        }
        let is_ready = |waiter: &Waiter| waiter.by == by && waiter.owner.is_some_and(&may);
        let at = self.waiters.iter().position(is_ready)?;
        let waiter = self.waiters.remove(at)?;
        self.ready -= 1;
        self.of_others -= usize::from(by == By::Other);
        Some(waiter)
    }

    pub(super) fn has_ready(&self) -> bool {
        self.ready > 0
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Those that this worker received itself.
    pub(super) fn own(&self) -> usize {
        self.waiters.len() - self.of_others
    }
}
