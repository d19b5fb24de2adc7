//! A port that makes traffic: flows in a fixed order, with headers prepared once and copied per packet.
//!
//! What is sent to it, it counts and discards like a sink.

mod profile;
mod template;

pub use profile::{
    AddressRange, Endpoint, FLOWS_MAX, FrameBytes, Order, PortRange, Profile, ProfileError, Protocol, Rate,
    TcpFields,
};

use self::template::Templates;
use super::random::Random;
use super::{Port, PortCounters, PortInfo, sink};
use crate::drops::DropReason;
use crate::limits::BURST_PACKETS_MAX;
use crate::memory::Pool;
use crate::packet::Burst;
use crate::time::Time;

/// Packets that a generator may be behind its rate before time is lost.
const BACKLOG_PACKETS_MAX: u64 = 1_024;
/// Credit of one packet: its rate is counted in packets and nanoseconds.
const PACKET_CREDIT: u128 = 1_000_000_000;

/// What may be sent by now, at a fixed rate.
#[derive(Debug)]
struct Pacer {
    packets_per_second: u64,
    /// Time of the last call, once there was one.
    last: Option<Time>,
    /// Packets due times [`PACKET_CREDIT`].
    credit: u128,
}

impl Pacer {
    /// Packets that are due at `now`.
    fn due(&mut self, now: Time) -> u64 {
        // The first packet is due with the first call.
        let elapsed = self.last.map_or(0, |last| now.0.saturating_sub(last.0));
        self.credit += match self.last {
            None => PACKET_CREDIT,
            Some(_) => u128::from(elapsed) * u128::from(self.packets_per_second),
        };
        self.last = Some(self.last.map_or(now, |last| last.max(now)));
        self.credit = self.credit.min(u128::from(BACKLOG_PACKETS_MAX) * PACKET_CREDIT);
        (self.credit / PACKET_CREDIT) as u64
    }

    fn sent(&mut self, packets: u64) {
        self.credit -= u128::from(packets) * PACKET_CREDIT;
    }
}

/// A port that makes the traffic of a [`Profile`].
#[derive(Debug)]
pub struct GeneratorPort {
    info: PortInfo,
    counters: PortCounters,
    templates: Templates,
    pacer: Option<Pacer>,
    random: Random,
    /// Packets left to send, if bounded.
    left: Option<u64>,
    /// The next flow's place in the lap.
    position: usize,
    /// The next length's place in its turn.
    length: usize,
}

impl GeneratorPort {
    /// Prepares the headers of all flows.
    ///
    /// # Errors
    /// No packets can be made of the profile.
    pub fn new(name: &str, profile: &Profile) -> Result<Self, ProfileError> {
        profile.check()?;
        let mut random = Random::new(profile.seed);
        // `check` bounds the number of flows by FLOWS_MAX.
        let flows = profile.flows as u32;
        let lap = match profile.order {
            Order::Sequential => (0..flows).collect(),
            Order::Permuted => random.permutation(flows),
        };
        let pacer = match profile.rate {
            Rate::Unlimited => None,
            Rate::PerSecond(packets_per_second) => Some(Pacer { packets_per_second, last: None, credit: 0 }),
        };
        let info = PortInfo {
            name: name.to_owned(),
            description: format!("generator of {} flows", profile.flows),
            mac: if profile.reversed { profile.target.mac } else { profile.source.mac },
            mtu: 9_000,
            link_up: true,
        };
        Ok(Self {
            info,
            counters: PortCounters::default(),
            templates: Templates::new(profile, &lap),
            pacer,
            random,
            left: profile.packets,
            position: 0,
            length: 0,
        })
    }

    /// The index of the next packet's length.
    #[inline]
    fn next_length(&mut self) -> usize {
        let lengths = self.templates.lengths.len();
        if self.templates.random_length {
            return self.random.below(lengths as u32) as usize;
        }
        let length = self.length;
        self.length = if length + 1 == lengths { 0 } else { length + 1 };
        length
    }

    /// Takes out the packets behind the first `before` that were too long for their frames.
    #[cold]
    fn remove_unfilled(&mut self, pool: &mut Pool, burst: &mut Burst, before: usize) {
        let mut kept = burst.take(before);
        for packet in burst.drain_all() {
            if packet.is_empty() {
                self.counters.rx_packets -= 1;
                self.counters.rx_drops.count(DropReason::MtuExceeded);
                pool.put(packet);
            } else if let Err(packet) = kept.push(packet) {
                // Not reached: they all came from one burst.
                pool.put(packet);
            }
        }
        burst.append(&mut kept);
    }
}

impl Port for GeneratorPort {
    fn rx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        let due = self.pacer.as_mut().map_or(BURST_PACKETS_MAX as u64, |pacer| pacer.due(now));
        let wanted = due.min(self.left.unwrap_or(u64::MAX)).min(BURST_PACKETS_MAX as u64);
        let before = burst.len();
        let taken = pool.take_bulk(burst, wanted as usize);
        let mut bytes = 0;
        let mut unfilled = false;
        for packet in &mut burst.as_mut_slice()[before..] {
            let index = self.next_length();
            let length = &self.templates.lengths[index];
            if let Ok(frame) = packet.extend(length.frame_bytes.into()) {
                self.templates.write(self.position, length, frame);
                bytes += u64::from(length.frame_bytes);
            } else {
                unfilled = true;
            }
            self.position += 1;
            if self.position == self.templates.len() {
                self.position = 0;
            }
        }
        self.counters.rx_packets += taken as u64;
        self.counters.rx_bytes += bytes;
        if unfilled {
            self.remove_unfilled(pool, burst, before);
        }
        if let Some(left) = &mut self.left {
            *left -= taken as u64;
        }
        if let Some(pacer) = &mut self.pacer {
            pacer.sent(taken as u64);
        }
    }

    fn tx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        sink::discard(&mut self.counters, pool, burst);
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        self.counters.clone()
    }

    fn exhausted(&self) -> bool {
        self.left == Some(0)
    }

    fn close(&mut self, _pool: Option<&mut Pool>) {}
}

#[cfg(test)]
mod tests;
