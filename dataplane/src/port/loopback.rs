//! A port that delivers what it is given: with [`crate::handoff`], the way from one worker to another for packets that no device
//! sees.

use std::collections::VecDeque;

use super::{Port, PortCounters, PortInfo};
use crate::drops::DropReason;
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::time::Time;

/// Packets that it holds.
pub const PACKETS_MAX: usize = 1_024;

/// A port without a device.
#[derive(Debug)]
pub struct LoopbackPort {
    info: PortInfo,
    packets: VecDeque<Packet>,
    counters: PortCounters,
}

impl LoopbackPort {
    /// With this name; `description` is for people.
    pub fn new(name: &str, description: &str) -> Self {
        let (name, description) = (name.to_owned(), description.to_owned());
        let info = PortInfo { name, description, mac: [0; 6], mtu: u16::MAX, link_up: true };
        let packets = VecDeque::with_capacity(PACKETS_MAX);
        Self { info, packets, counters: PortCounters::default() }
    }
}

impl Port for LoopbackPort {
    fn rx(&mut self, _pool: &mut Pool, _now: Time, burst: &mut Burst) {
        let count = burst.room().min(self.packets.len());
        for packet in self.packets.drain(..count) {
            let bytes = packet.len() as u64;
            self.counters.rx_bytes += bytes;
            self.counters.tx_bytes += bytes;
            // There is room.
            let _ = burst.push(packet);
        }
        self.counters.rx_packets += count as u64;
        self.counters.tx_packets += count as u64;
    }

    fn tx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        for packet in burst.drain_all() {
            if self.packets.len() < PACKETS_MAX {
                self.packets.push_back(packet);
            } else {
                self.counters.tx_drops.count(DropReason::TxQueueFull);
                pool.put(packet);
            }
        }
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        self.counters.clone()
    }

    fn exhausted(&self) -> bool {
        true
    }

    fn is_source(&self) -> bool {
        false
    }

    fn buffered(&self) -> u64 {
        self.packets.len() as u64
    }

    fn close(&mut self, mut pool: Option<&mut Pool>) {
        for packet in self.packets.drain(..) {
            self.counters.tx_drops.count(DropReason::Shutdown);
            match pool.as_deref_mut() {
                Some(pool) => pool.put(packet),
                None => drop(packet),
            }
        }
    }
}
