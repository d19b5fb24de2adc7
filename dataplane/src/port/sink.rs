//! A port that counts what it is given and gives the frames back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::verify::{ChecksumVerdict, verify_checksums};
use super::{MacAddress, Port, PortCounters, PortInfo};
use crate::memory::Pool;
use crate::packet::Burst;
use crate::time::Time;

/// What a sink's verification found; readable from any thread while the sink runs.
#[derive(Debug, Default)]
pub struct SinkStatistics {
    good: AtomicU64,
    bad_ipv4: AtomicU64,
    bad_l4: AtomicU64,
    unchecked: AtomicU64,
}

impl SinkStatistics {
    /// Packets whose checksums are all right.
    pub fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    /// Packets with a wrong IPv4 header checksum.
    pub fn bad_ipv4(&self) -> u64 {
        self.bad_ipv4.load(Ordering::Relaxed)
    }

    /// Packets with a wrong TCP, UDP or ICMP checksum.
    pub fn bad_l4(&self) -> u64 {
        self.bad_l4.load(Ordering::Relaxed)
    }

    /// Packets without a checksum that could be checked.
    pub fn unchecked(&self) -> u64 {
        self.unchecked.load(Ordering::Relaxed)
    }

    fn count(&self, verdict: ChecksumVerdict) {
        let counter = match verdict {
            ChecksumVerdict::Good => &self.good,
            ChecksumVerdict::BadIpv4 => &self.bad_ipv4,
            ChecksumVerdict::BadL4 => &self.bad_l4,
            ChecksumVerdict::Unchecked => &self.unchecked,
        };
        // The sink is the only writer.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// A port that delivers nothing, and takes, counts and discards all packets.
#[derive(Debug)]
pub struct SinkPort {
    info: PortInfo,
    counters: PortCounters,
    verification: Option<Arc<SinkStatistics>>,
}

impl SinkPort {
    /// A sink that counts.
    pub fn new(name: &str, mac: MacAddress, mtu: u16) -> Self {
        let info =
            PortInfo { name: name.to_owned(), description: "sink".to_owned(), mac, mtu, link_up: true };
        Self { info, counters: PortCounters::default(), verification: None }
    }

    /// A sink that also verifies the checksums of every packet, and where it counts them.
    pub fn verifying(name: &str, mac: MacAddress, mtu: u16) -> (Self, Arc<SinkStatistics>) {
        let statistics = Arc::new(SinkStatistics::default());
        let mut sink = Self::new(name, mac, mtu);
        sink.info.description = "sink (verifies checksums)".to_owned();
        sink.verification = Some(Arc::clone(&statistics));
        (sink, statistics)
    }
}

/// Counts a burst as sent and gives its frames back.
pub(super) fn discard(counters: &mut PortCounters, pool: &mut Pool, burst: &mut Burst) {
    counters.tx_packets += burst.len() as u64;
    counters.tx_bytes += burst.iter().map(|packet| packet.len() as u64).sum::<u64>();
    pool.put_all(burst);
}

impl Port for SinkPort {
    fn rx(&mut self, _pool: &mut Pool, _now: Time, _burst: &mut Burst) {}

    fn tx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        if let Some(statistics) = &self.verification {
            burst.iter().for_each(|packet| statistics.count(verify_checksums(packet.bytes())));
        }
        discard(&mut self.counters, pool, burst);
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

    fn close(&mut self, _pool: Option<&mut Pool>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, PoolConfig};
    use etherparse::PacketBuilder;

    #[test]
    fn a_sink_counts_verifies_and_gives_back() {
        let mut pool = Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig::new(8)).unwrap();
        let (mut sink, statistics) = SinkPort::verifying("out", [2; 6], 1_500);
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([1; 4], [2; 4], 64).udp(1, 2);
        builder.write(&mut frame, b"payload").unwrap();
        let mut burst = Burst::new();
        pool.take_bulk(&mut burst, 4);
        for (index, packet) in burst.iter_mut().enumerate() {
            packet.set_contents(&frame).unwrap();
            match index {
                1 => packet.bytes_mut()[14 + 10] ^= 1,
                2 => packet.bytes_mut()[frame.len() - 1] ^= 1,
                3 => packet.truncate(10),
                _ => {}
            }
        }
        sink.tx(&mut pool, Time(0), &mut burst);
        assert!(burst.is_empty());
        assert_eq!(pool.available(), 8);
        let counters = sink.counters();
        assert_eq!((counters.tx_packets, counters.tx_bytes), (4, frame.len() as u64 * 3 + 10));
        let found = [statistics.good(), statistics.bad_ipv4(), statistics.bad_l4(), statistics.unchecked()];
        assert_eq!(found, [1, 1, 1, 1]);
    }
}
