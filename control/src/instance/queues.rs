//! Several queues of one interface as one port of one worker.

use std::os::fd::RawFd;

use millrace_dataplane::memory::Pool;
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::{Port, PortCounters, PortInfo};
use millrace_dataplane::time::Time;

/// All queues of an interface, served by one worker: received in turn, sent by the first. Never empty.
pub struct Queues {
    first: Box<dyn Port>,
    others: Vec<Box<dyn Port>>,
    info: PortInfo,
    /// The queue that is asked first, so that a busy one can't starve the rest.
    turn: usize,
}

impl Queues {
    /// Joins `first` with `others`; alone it stays as it is.
    pub fn join(first: Box<dyn Port>, others: Vec<Box<dyn Port>>) -> Box<dyn Port> {
        if others.is_empty() {
            return first;
        }
        let mut info = first.info().clone();
        info.description = format!("{} and {} more", info.description, others.len());
        Box::new(Self { first, others, info, turn: 0 })
    }

    /// The queues have one link; its news are those of the first.
    fn take_over_news(&mut self) {
        let PortInfo { mac, mtu, link_up, .. } = *self.first.info();
        (self.info.mac, self.info.mtu, self.info.link_up) = (mac, mtu, link_up);
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Box<dyn Port>> {
        std::iter::once(&mut self.first).chain(&mut self.others)
    }
}

impl Port for Queues {
    fn rx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        let turn = self.turn;
        self.turn = (turn + 1) % (self.others.len() + 1);
        self.all().skip(turn).for_each(|port| port.rx(pool, now, burst));
        self.all().take(turn).for_each(|port| port.rx(pool, now, burst));
    }

    fn tx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        self.first.tx(pool, now, burst);
        // The others send nothing, and may have work of their own to finish.
        let mut none = Burst::new();
        self.others.iter_mut().for_each(|port| port.tx(pool, now, &mut none));
        self.take_over_news();
    }

    fn takes_whole(&self) -> bool {
        self.first.takes_whole()
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        let mut sum = PortCounters::default();
        for port in self.all() {
            sum.add(&port.counters());
        }
        sum
    }

    fn buffered(&self) -> u64 {
        self.first.buffered() + self.others.iter().map(|port| port.buffered()).sum::<u64>()
    }

    /// None: a sleep on one queue would be deaf to the others; an idle worker's sleep is short all the same.
    fn wait_fd(&self) -> Option<RawFd> {
        None
    }

    fn failure(&self) -> Option<&str> {
        std::iter::once(&self.first).chain(&self.others).find_map(|port| port.failure())
    }

    fn close(&mut self, mut pool: Option<&mut Pool>) {
        self.all().for_each(|port| port.close(pool.as_deref_mut()));
    }
}
