//! A port that another worker polls.

use super::waker::Waker;
use crate::drops::DropReason;
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::port::{Handed, Port, PortCounters, PortInfo};
use crate::ring::{Consumer, Producer};
use crate::time::Time;

/// The port as an owner has it: receives what the poller placed here, and gives it what is to be sent. What passed the device is
/// in the poller's counters.
pub struct RemotePort {
    info: PortInfo,
    from: Consumer<Packet>,
    /// None once the port is closed.
    to: Option<Producer<Packet>>,
    poller: Waker,
    counters: PortCounters,
    handed: Handed,
}

impl RemotePort {
    pub(super) fn new(info: &PortInfo, from: Consumer<Packet>, to: Producer<Packet>, poller: Waker) -> Self {
        let (counters, handed) = (PortCounters::default(), Handed::default());
        Self { info: info.clone(), from, to: Some(to), poller, counters, handed }
    }
}

impl Port for RemotePort {
    fn rx(&mut self, _pool: &mut Pool, _now: Time, burst: &mut Burst) {
        self.handed.rx_taken += self.from.pop_packets(burst) as u64;
    }

    fn tx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        if burst.is_empty() {
            return;
        }
        if let Some(to) = &mut self.to {
            let pushed = to.push_packets(burst) as u64;
            self.handed.tx_given += pushed;
            if pushed > 0 {
                self.poller.pushed();
            }
        }
        if !burst.is_empty() {
            self.counters.tx_drops.count_many(DropReason::RingFull, burst.len() as u64);
            pool.put_all(burst);
        }
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        self.counters.clone()
    }

    fn handed(&self) -> Handed {
        self.handed
    }

    fn is_finished(&self) -> bool {
        self.from.is_abandoned() && self.from.is_empty()
    }

    fn exhausted(&self) -> bool {
        self.is_finished()
    }

    fn has_arrived(&self) -> bool {
        !self.from.is_empty()
    }

    fn close(&mut self, pool: Option<&mut Pool>) {
        let mut rest = Burst::new();
        let mut pool = pool;
        // The poller did not end in time.
        while self.from.pop_packets(&mut rest) > 0 {
            let count = rest.len() as u64;
            self.counters.rx_drops.count_many(DropReason::Shutdown, count);
            self.handed.rx_taken += count;
            self.handed.rx_dropped += count;
            match pool.as_deref_mut() {
                Some(pool) => pool.put_all(&mut rest),
                None => drop(rest.take(rest.len())),
            }
        }
        self.to = None;
        self.poller.pushed();
    }
}
