//! A capture whose times are moved to where the instance's clock starts.

use millrace_dataplane::memory::Pool;
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::pcap::PcapPort;
use millrace_dataplane::port::{Port, PortCounters, PortInfo};
use millrace_dataplane::time::Time;

/// A capture port for a clock that does not start in 1970.
pub struct Shifted {
    port: PcapPort,
    /// What the captures' times are ahead of the clock, in nanoseconds.
    ahead_ns: u64,
}

impl Shifted {
    /// `ahead_ns`: what the captures' times are ahead of the clock, in nanoseconds.
    pub fn new(port: PcapPort, ahead_ns: u64) -> Self {
        Self { port, ahead_ns }
    }
}

impl Port for Shifted {
    fn rx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        self.port.rx(pool, Time(now.0.saturating_add(self.ahead_ns)), burst);
    }

    fn tx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        self.port.tx(pool, now, burst);
    }

    fn info(&self) -> &PortInfo {
        self.port.info()
    }

    fn counters(&mut self) -> PortCounters {
        self.port.counters()
    }

    fn exhausted(&self) -> bool {
        self.port.exhausted()
    }

    fn next_timestamp(&self) -> Option<Time> {
        self.port.next_timestamp().map(|time| Time(time.0.saturating_sub(self.ahead_ns)))
    }

    fn failure(&self) -> Option<&str> {
        self.port.failure()
    }

    fn close(&mut self, pool: Option<&mut Pool>) {
        self.port.close(pool);
    }
}
