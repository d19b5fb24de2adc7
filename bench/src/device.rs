//! A device in memory for workers that run as they do in an instance, and how a run of them is timed.

use crate::rig::Templates;
use millrace_dataplane::affinity::{allowed_cores, pin_to_core};
use millrace_dataplane::cpu::cycles;
use millrace_dataplane::memory::Pool;
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::{Port, PortCounters, PortInfo};
use millrace_dataplane::time::Time;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Packets on their way in a run, so that rings never overflow.
const UNDER_WAY: u64 = 768;

/// Two cores, if there are as many.
pub(crate) fn pair() -> std::io::Result<Option<[usize; 2]>> {
    Ok(match allowed_cores()?[..] {
        [first, second, ..] => Some([first, second]),
        _ => None,
    })
}

/// Pins the thread to one of the two cores, or lets it be where there are no two.
pub(crate) fn pin(pair: Option<[usize; 2]>, at: usize) -> std::io::Result<()> {
    pair.map_or(Ok(()), |cores| pin_to_core(cores[at.min(1)]))
}

/// What the ends of a run share.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Packets before the first that counts.
    warm: u64,
    /// Packets that count.
    packets: u64,
    received: AtomicU64,
    sent: AtomicU64,
    started_at: AtomicU64,
    spent: AtomicU64,
    /// So many were sent.
    pub(crate) over: AtomicBool,
}

impl Progress {
    /// Of a run of `packets`, behind `warm` others.
    pub(crate) fn new(warm: u64, packets: u64) -> Arc<Self> {
        let (received, sent, started_at, spent) = Default::default();
        Arc::new(Self { warm, packets, received, sent, started_at, spent, over: AtomicBool::new(false) })
    }

    /// Cycles from packet to packet.
    pub(crate) fn cycles_per_packet(&self) -> f64 {
        self.spent.load(Ordering::Relaxed) as f64 / self.packets as f64
    }
}

/// A queue of a device in memory: delivers flows in a fixed random order while not too many packets are under way, and counts what
/// is sent.
pub(crate) struct Device {
    info: PortInfo,
    templates: Option<(Templates, Vec<u32>)>,
    turn: usize,
    counters: PortCounters,
    progress: Arc<Progress>,
}

impl Device {
    /// Delivers these frames in this order, or nothing.
    pub(crate) fn new(
        name: &str,
        templates: Option<(Templates, Vec<u32>)>,
        progress: &Arc<Progress>,
    ) -> Self {
        let name = name.to_owned();
        let info = PortInfo { name, description: String::new(), mac: [2; 6], mtu: 9000, link_up: true };
        let counters = PortCounters::default();
        Self { info, templates, turn: 0, counters, progress: Arc::clone(progress) }
    }
}

impl Port for Device {
    fn rx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        let Some((templates, order)) = &self.templates else { return };
        let Progress { received, sent, .. } = &*self.progress;
        if received.load(Ordering::Relaxed).saturating_sub(sent.load(Ordering::Relaxed)) >= UNDER_WAY {
            return;
        }
        let taken = pool.take_bulk(burst, burst.room());
        for packet in burst.iter_mut() {
            let index = order[self.turn] as usize;
            self.turn = if self.turn + 1 == order.len() { 0 } else { self.turn + 1 };
            // Frames have room for it.
            let _ = packet.set_contents(templates.get(index));
        }
        self.counters.rx_packets += taken as u64;
        received.fetch_add(taken as u64, Ordering::Relaxed);
    }

    fn tx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        if burst.is_empty() {
            return;
        }
        let (count, progress) = (burst.len() as u64, &*self.progress);
        self.counters.tx_packets += count;
        pool.put_all(burst);
        let before = progress.sent.fetch_add(count, Ordering::Relaxed);
        let (sent, end) = (before + count, progress.warm + progress.packets);
        if before < progress.warm && sent >= progress.warm {
            progress.started_at.store(cycles(), Ordering::Relaxed);
        }
        if before < end && sent >= end {
            let started = progress.started_at.load(Ordering::Relaxed);
            progress.spent.store(cycles().wrapping_sub(started), Ordering::Relaxed);
            progress.over.store(true, Ordering::Relaxed);
        }
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        self.counters.clone()
    }

    fn close(&mut self, _pool: Option<&mut Pool>) {}
}
