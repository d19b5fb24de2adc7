//! A port that does to another's packets what bad links do, by a seed.
//!
//! Every packet draws the same number of random numbers, in the order in which packets pass: the same packets meet the same
//! fate, however they come in bursts. Times decide only when what is held goes on. What is lost is a drop of the port
//! ([`DropReason::FaultInjected`]), copies are counted apart, so that sums hold (R13).

mod lane;
#[cfg(test)]
mod tests;

use std::os::fd::RawFd;
use std::time::Duration;

use self::lane::Lane;
use super::{Port, PortCounters, PortInfo};
use crate::drops::DropReason;
use crate::memory::Pool;
use crate::packet::Burst;
use crate::time::Time;

/// Most packets that one direction holds; what would be delayed beyond that is lost.
pub const HELD_MAX: usize = 1_024;

/// A probability, exact to 2^-32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probability(u64);

impl Probability {
    /// Always.
    pub const ONE: Self = Self(1 << 32);

    /// From a number from 0 to 1; others, and what is no number, count as the nearest of the two.
    pub fn new(fraction: f64) -> Self {
        Self((fraction.clamp(0.0, 1.0) * Self::ONE.0 as f64).round() as u64)
    }

    /// As a number from 0 to 1.
    pub fn fraction(self) -> f64 {
        self.0 as f64 / Self::ONE.0 as f64
    }

    fn hits(self, random: u64) -> bool {
        random >> 32 < self.0
    }
}

/// Which packets meet faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Received ones and sent ones.
    #[default]
    Both,
    /// Received ones.
    Rx,
    /// Sent ones.
    Tx,
}

/// What happens to packets, each with its own probability.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultConfig {
    /// It is lost.
    pub loss: Probability,
    /// A copy follows it.
    pub duplicate: Probability,
    /// One to three packets overtake it; after 10 ms it goes on without them.
    pub reorder: Probability,
    /// One of its bits is flipped.
    pub corrupt: Probability,
    /// It is cut to a random length of at least an Ethernet header.
    pub truncate: Probability,
    /// It goes on after `delay_time`.
    pub delay: Probability,
    /// See `delay`.
    pub delay_time: Duration,
    /// What the random numbers follow from.
    pub seed: u64,
    /// Which packets.
    pub direction: Direction,
}

/// A port with faults.
pub struct FaultPort {
    inner: Box<dyn Port>,
    info: PortInfo,
    rx: Option<Lane>,
    tx: Option<Lane>,
    rx_packets: u64,
    rx_bytes: u64,
    now: Time,
}

impl std::fmt::Debug for FaultPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultPort").field("info", &self.info).finish_non_exhaustive()
    }
}

impl FaultPort {
    /// `inner` with faults.
    pub fn new(inner: Box<dyn Port>, config: &FaultConfig) -> Self {
        let mut info = inner.info().clone();
        info.description += " with faults";
        let lane = |other: Direction, number| {
            (config.direction != other).then(|| Lane::new(config.clone(), config.seed ^ number))
        };
        Self {
            inner,
            info,
            rx: lane(Direction::Tx, 0),
            // Another sequence than that of the other direction.
            tx: lane(Direction::Rx, 1 << 63),
            rx_packets: 0,
            rx_bytes: 0,
            now: Time(0),
        }
    }

    fn take_over_news(&mut self) {
        let PortInfo { mac, mtu, link_up, .. } = *self.inner.info();
        (self.info.mac, self.info.mtu, self.info.link_up) = (mac, mtu, link_up);
    }

    /// Gives the inner port what is ready to go, at least one burst even if that is empty.
    fn send_ready(&mut self, pool: &mut Pool, now: Time) {
        let Some(lane) = &mut self.tx else { return };
        loop {
            let mut ready = Burst::new();
            lane.take_ready(&mut ready);
            let is_last = !ready.is_full();
            self.inner.tx(pool, now, &mut ready);
            if is_last {
                return;
            }
        }
    }
}

impl Port for FaultPort {
    fn rx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        self.now = now;
        let before = burst.len();
        match &mut self.rx {
            None => self.inner.rx(pool, now, burst),
            Some(lane) => {
                lane.release(now);
                lane.take_ready(burst);
                if !burst.is_full() {
                    let mut received = Burst::with_limit(burst.room());
                    self.inner.rx(pool, now, &mut received);
                    for packet in received.drain_all() {
                        lane.pass(packet, now, pool);
                    }
                    lane.take_ready(burst);
                }
            }
        }
        self.take_over_news();
        self.rx_packets += (burst.len() - before) as u64;
        self.rx_bytes += burst.iter().skip(before).map(|packet| packet.len() as u64).sum::<u64>();
    }

    fn tx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        self.now = now;
        match &mut self.tx {
            None => self.inner.tx(pool, now, burst),
            Some(lane) => {
                lane.release(now);
                for packet in burst.drain_all() {
                    lane.pass(packet, now, pool);
                }
                self.send_ready(pool, now);
            }
        }
        self.take_over_news();
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        let mut counters = self.inner.counters();
        (counters.rx_packets, counters.rx_bytes) = (self.rx_packets, self.rx_bytes);
        if let Some(lane) = &self.rx {
            counters.rx_drops.add(&lane.drops);
            counters.rx_copied += lane.copied;
        }
        if let Some(lane) = &self.tx {
            counters.tx_drops.add(&lane.drops);
            counters.tx_copied += lane.copied;
        }
        counters
    }

    fn exhausted(&self) -> bool {
        self.inner.exhausted() && self.rx.as_ref().is_none_or(|lane| lane.held() == 0)
    }

    fn next_timestamp(&self) -> Option<Time> {
        self.inner.next_timestamp()
    }

    fn failure(&self) -> Option<&str> {
        self.inner.failure()
    }

    fn buffered(&self) -> u64 {
        self.inner.buffered() + self.tx.as_ref().map_or(0, Lane::held)
    }

    fn is_pending(&self) -> bool {
        let holds = |lane: &Option<Lane>| lane.as_ref().is_some_and(|lane| lane.held() > 0);
        self.inner.is_pending() || holds(&self.rx) || holds(&self.tx)
    }

    fn wait_fd(&self) -> Option<RawFd> {
        self.inner.wait_fd()
    }

    /// What is held towards the link is sent, if there is a pool; what was received was never the worker's.
    fn close(&mut self, mut pool: Option<&mut Pool>) {
        if let (Some(pool), Some(lane)) = (&mut pool, &mut self.tx) {
            lane.release_all();
            self.send_ready(pool, self.now);
        }
        for lane in [&mut self.rx, &mut self.tx].into_iter().flatten() {
            lane.discard(DropReason::Shutdown, pool.as_deref_mut());
        }
        self.inner.close(pool);
        self.take_over_news();
    }
}
