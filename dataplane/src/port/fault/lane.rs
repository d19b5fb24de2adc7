//! One direction of a port with faults.

use std::collections::VecDeque;
use std::time::Duration;

use super::{FaultConfig, HELD_MAX};
use crate::drops::{DropCounters, DropReason};
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::port::random::Random;
use crate::time::Time;

const ETHERNET_BYTES: usize = 14;
/// Most packets that overtake one.
const OVERTAKERS_MAX: u32 = 3;
/// How long a packet waits to be overtaken.
const OVERTAKEN_WITHIN: Duration = Duration::from_millis(10);

/// A packet that others overtake.
#[derive(Debug)]
struct Overtaken {
    packet: Packet,
    /// It goes on when so many packets have passed, or at that time.
    passed: u64,
    due: Time,
}

/// Packets of one direction, with what becomes of them.
#[derive(Debug)]
pub(super) struct Lane {
    config: FaultConfig,
    random: Random,
    /// In the order of their times, since all wait equally long.
    delayed: VecDeque<(Time, Packet)>,
    overtaken: VecDeque<Overtaken>,
    ready: VecDeque<Packet>,
    passed: u64,
    pub(super) drops: DropCounters,
    pub(super) copied: u64,
}

impl Lane {
    pub(super) fn new(config: FaultConfig, seed: u64) -> Self {
        Self {
            config,
            random: Random::new(seed),
            delayed: VecDeque::with_capacity(HELD_MAX),
            overtaken: VecDeque::with_capacity(HELD_MAX),
            ready: VecDeque::with_capacity(HELD_MAX),
            passed: 0,
            drops: DropCounters::default(),
            copied: 0,
        }
    }

    /// Decides about a packet.
    pub(super) fn pass(&mut self, mut packet: Packet, now: Time, pool: &mut Pool) {
        // All are drawn for every packet, so that one setting does not change what another does.
        let random = &mut self.random;
        let [loss, duplicate, reorder, corrupt, truncate, delay]: [u64; 6] =
            std::array::from_fn(|_| random.next());
        let (place, length, overtakers) = (random.next(), random.next(), random.below(OVERTAKERS_MAX) + 1);
        let config = &self.config;
        if config.loss.hits(loss) {
            self.drops.count(DropReason::FaultInjected);
            pool.discard(packet, DropReason::FaultInjected);
            return;
        }
        if config.truncate.hits(truncate) && packet.len() > ETHERNET_BYTES {
            let spare = (packet.len() - ETHERNET_BYTES) as u64;
            packet.truncate(ETHERNET_BYTES + scaled(length, spare));
        }
        if config.corrupt.hits(corrupt) && !packet.is_empty() {
            let bit = scaled(place, packet.len() as u64 * 8);
            packet.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
        }
        let copy = if config.duplicate.hits(duplicate) { copy(&packet, pool) } else { None };
        let is_delayed = config.delay.hits(delay) && !config.delay_time.is_zero();
        let is_overtaken = config.reorder.hits(reorder);
        for packet in std::iter::once(packet).chain(copy.inspect(|_| self.copied += 1)) {
            if is_delayed || is_overtaken {
                self.hold(packet, now, is_delayed, u64::from(overtakers), pool);
            } else {
                self.ready.push_back(packet);
            }
        }
        self.passed += 1;
        self.release_overtaken(now);
    }

    fn hold(&mut self, packet: Packet, now: Time, is_delayed: bool, overtakers: u64, pool: &mut Pool) {
        if self.delayed.len() + self.overtaken.len() >= HELD_MAX {
            self.drops.count(DropReason::FaultInjected);
            pool.discard(packet, DropReason::FaultInjected);
        } else if is_delayed {
            self.delayed.push_back((now + self.config.delay_time, packet));
        } else {
            // This packet is among those that passed when the next come.
            let passed = self.passed + 1 + overtakers;
            self.overtaken.push_back(Overtaken { packet, passed, due: now + OVERTAKEN_WITHIN });
        }
    }

    /// Lets go on what has waited long enough.
    pub(super) fn release(&mut self, now: Time) {
        while self.delayed.front().is_some_and(|(due, _)| *due <= now) {
            self.ready.extend(self.delayed.pop_front().map(|(_, packet)| packet));
        }
        self.release_overtaken(now);
    }

    fn release_overtaken(&mut self, now: Time) {
        let mut at = 0;
        while let Some(held) = self.overtaken.get(at) {
            if held.passed <= self.passed || held.due <= now {
                self.ready.extend(self.overtaken.remove(at).map(|held| held.packet));
            } else {
                at += 1;
            }
        }
    }

    /// Lets everything go on.
    pub(super) fn release_all(&mut self) {
        self.ready.extend(self.delayed.drain(..).map(|(_, packet)| packet));
        self.ready.extend(self.overtaken.drain(..).map(|held| held.packet));
    }

    /// Moves what is ready to `burst`, as much as fits.
    pub(super) fn take_ready(&mut self, burst: &mut Burst) {
        while !burst.is_full() {
            let Some(packet) = self.ready.pop_front() else { return };
            // There is room.
            let _ = burst.push(packet);
        }
    }

    /// Packets in here.
    pub(super) fn held(&self) -> u64 {
        (self.delayed.len() + self.overtaken.len() + self.ready.len()) as u64
    }

    /// Drops all that is in here.
    pub(super) fn discard(&mut self, reason: DropReason, pool: Option<&mut Pool>) {
        self.release_all();
        self.drops.count_many(reason, self.ready.len() as u64);
        match pool {
            Some(pool) => self.ready.drain(..).for_each(|packet| pool.discard(packet, reason)),
            None => self.ready.clear(),
        }
    }
}

/// A number below `bound`, evenly from 32 random bits.
fn scaled(random: u64, bound: u64) -> usize {
    (((random >> 32) * bound) >> 32) as usize
}

fn copy(packet: &Packet, pool: &mut Pool) -> Option<Packet> {
    let mut copy = pool.take()?;
    copy.set_timestamp(packet.timestamp());
    if copy.set_contents(packet.bytes()).is_err() {
        pool.put(copy);
        return None;
    }
    Some(copy)
}
