//! Ports between two queues of frames.

use millrace_dataplane::memory::Pool;
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::{Port, PortCounters, PortInfo};
use millrace_dataplane::time::Time;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// What is still to be received, and what was sent.
pub type Wires = Arc<Mutex<(VecDeque<Vec<u8>>, Vec<Vec<u8>>)>>;

/// A port between two queues of frames.
pub struct QueuePort(PortInfo, PortCounters, Wires);

impl QueuePort {
    /// Number `at`.
    pub fn new(at: usize, wires: &Wires) -> Self {
        let info = PortInfo {
            name: format!("p{at}"),
            description: "queue".into(),
            mac: [2; 6],
            mtu: 1500,
            link_up: true,
        };
        Self(info, PortCounters::default(), wires.clone())
    }
}

impl Port for QueuePort {
    fn rx(&mut self, pool: &mut Pool, _: Time, burst: &mut Burst) {
        let mut wires = self.2.lock().unwrap();
        while burst.room() > 0 {
            let Some(frame) = wires.0.pop_front() else { return };
            let Some(mut packet) = pool.take() else { return wires.0.push_front(frame) };
            packet.set_contents(&frame).unwrap();
            burst.push(packet).unwrap();
            self.1.rx_packets += 1;
        }
    }
    fn tx(&mut self, pool: &mut Pool, _: Time, burst: &mut Burst) {
        self.1.tx_packets += burst.len() as u64;
        self.2.lock().unwrap().1.extend(burst.iter().map(|packet| packet.bytes().to_vec()));
        pool.put_all(burst);
    }
    fn info(&self) -> &PortInfo {
        &self.0
    }
    fn counters(&mut self) -> PortCounters {
        self.1.clone()
    }
    fn close(&mut self, _: Option<&mut Pool>) {}
}
