//! The rig: an engine in memory, with a ring of frames in front of it and what leaves taken behind it.
//!
//! Two ports: 0 inside, 1 outside. Bursts are prepared from templates before the clock runs, and outputs are taken after it
//! stopped. Frames go round a ring of 8,192, so that none is warm by accident.

use crate::frames::{TEMPLATE_BYTES_MAX, resolution_answer};
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::capture::Recorder;
use millrace_dataplane::cpu::{cycles, cycles_per_second};
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{FlowConfig, FlowState};
use millrace_dataplane::memory::{Arena, ArenaConfig, Pool, PoolConfig};
use millrace_dataplane::packet::{Burst, Packet};
use millrace_dataplane::port::PortId;
use millrace_dataplane::time::Time;
use millrace_nf::chain::Chains;
use std::collections::VecDeque;
use std::time::Duration;

/// Frames that go round.
const RING_FRAMES: usize = 8192;
/// The inside port.
pub const INSIDE: PortId = PortId(0);
/// The outside port.
pub const OUTSIDE: PortId = PortId(1);
/// Link-layer addresses of the chain's two ports.
pub const PORT_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
/// Link-layer addresses of what is behind them.
pub const PEER_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];

/// Any failure of a benchmark, as text for its user.
pub type BenchResult<T> = Result<T, Box<dyn std::error::Error>>;

/// Frames to be sent, one after the other, all of one length.
#[derive(Debug)]
pub struct Templates {
    bytes: Vec<u8>,
    stride: usize,
    frame_bytes: usize,
}

impl Templates {
    /// Room for frames of `frame_bytes` bytes, of which the beginning is kept that headers are in.
    pub fn new(frame_bytes: usize, capacity: usize) -> Self {
        Self::with_stride(frame_bytes, capacity, frame_bytes.min(TEMPLATE_BYTES_MAX))
    }

    /// The same, kept whole.
    pub fn whole(frame_bytes: usize, capacity: usize) -> Self {
        Self::with_stride(frame_bytes, capacity, frame_bytes)
    }

    fn with_stride(frame_bytes: usize, capacity: usize, kept_bytes: usize) -> Self {
        let stride = kept_bytes.next_multiple_of(16);
        Self { bytes: Vec::with_capacity(stride * capacity), stride, frame_bytes }
    }

    /// Adds a frame, which `write` writes.
    pub fn push(&mut self, write: impl FnOnce(&mut [u8])) {
        let at = self.bytes.len();
        self.bytes.resize(at + self.stride, 0);
        let end = at + self.frame_bytes.min(self.stride);
        write(&mut self.bytes[at..end]);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.stride
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Length of each frame in bytes.
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// The beginning of a frame, as long as templates are kept.
    pub fn get(&self, index: usize) -> &[u8] {
        let at = index * self.stride;
        &self.bytes[at..at + self.frame_bytes.min(self.stride)]
    }
}

/// Sizes of a rig.
#[derive(Clone, Debug)]
pub struct RigConfig {
    /// Sessions at most.
    pub sessions: usize,
    /// Entries of the cache at most.
    pub cache_entries: usize,
    /// When sessions end.
    pub timeouts: Timeouts,
    /// Bytes of the longest frame.
    pub frame_bytes: usize,
    /// How much time misses may take.
    pub budget: BudgetConfig,
}

/// An engine with its frames.
#[derive(Debug)]
pub struct Rig {
    /// The engine.
    pub engine: Engine<Chains>,
    pool: Pool,
    ring: VecDeque<Packet>,
    now: Time,
    nanos_per_cycle: f64,
    burst: Burst,
}

impl Rig {
    /// An engine around `chains`, whose first chain is attached to both ports.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(chains: Chains, config: &RigConfig) -> BenchResult<Self> {
        let flow = FlowConfig {
            sessions: SessionConfig {
                capacity: config.sessions,
                parts: chains.parts(),
                timeouts: config.timeouts,
            },
            cache_entries: config.cache_entries,
            key_words: 9,
            operand_words: 8,
        };
        let frames = PoolConfig::for_mtu(RING_FRAMES + 512, config.frame_bytes as u16);
        let bytes = flow.bytes() + frames.frames * frames.frame_bytes + (64 << 20);
        let arena = Arena::new(&ArenaConfig::new(bytes))?;
        let state = FlowState::new(&arena, &flow, None)?;
        let engine =
            Engine::new(chains, state, 2, EngineConfig { budget: config.budget, ..EngineConfig::default() });
        let mut pool = Pool::new(&arena, frames)?;
        let ring = (0..RING_FRAMES).filter_map(|_| pool.take()).collect();
        let nanos_per_cycle = 1e9 / cycles_per_second(Duration::from_millis(20));
        Ok(Self { engine, pool, ring, now: Time::from_secs(1), nanos_per_cycle, burst: Burst::new() })
    }

    /// The engine's time: it runs while the engine does, so that what a benchmark prepares takes none.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Time passes without traffic.
    pub fn idle(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Nanoseconds of so many cycles.
    pub fn nanos(&self, cycles: f64) -> f64 {
        cycles * self.nanos_per_cycle
    }

    /// Runs `work` on the engine with the clock running: cycles that it took.
    pub fn timed(&mut self, work: impl FnOnce(&mut Engine<Chains>, &mut Pool, &mut Burst, Time)) -> u64 {
        let start = cycles();
        work(&mut self.engine, &mut self.pool, &mut self.burst, self.now);
        let spent = cycles() - start;
        self.idle(Duration::from_nanos(self.nanos(spent as f64) as u64));
        spent
    }

    /// Prepares a burst of the templates with these numbers.
    pub fn prepare(&mut self, templates: &Templates, indices: impl Iterator<Item = usize>) {
        for index in indices {
            let Some(mut packet) = self.ring.pop_front() else { return };
            let template = templates.get(index);
            if packet.set_contents(template).is_ok() {
                let _ = packet.extend(templates.frame_bytes - template.len());
            }
            if let Err(packet) = self.burst.push(packet) {
                return self.ring.push_back(packet);
            }
        }
    }

    /// Packets are copied from now on, or no more.
    pub fn record(&mut self, recorder: Option<Box<Recorder>>) {
        let now = self.now;
        let mut before = self.pool.record(recorder);
        before.iter_mut().for_each(|recorder| recorder.flush(now, true));
    }

    /// Hands the prepared burst to the engine: cycles that it took. Never inlined: profilers collect here.
    #[inline(never)]
    pub fn process(&mut self, port: PortId) -> u64 {
        self.timed(|engine, pool, burst, now| {
            // As a worker does.
            if let Some(recorder) = pool.recorder() {
                recorder.received(port, burst.as_slice(), now);
            }
            engine.process(port, burst, pool, now);
        })
    }

    /// A slice of housekeeping: cycles that it took.
    pub fn housekeeping(&mut self, budget: usize) -> u64 {
        self.timed(|engine, pool, _, now| engine.housekeeping(pool, now, budget))
    }

    /// Takes what left, which `each` may look at with the number of its port; address resolution is answered. How many
    /// packets of flows left.
    pub fn collect(&mut self, mut each: impl FnMut(usize, &[u8])) -> usize {
        let mut count = 0;
        let mut answers = Vec::new();
        for (port, &peer) in PEER_MACS.iter().enumerate() {
            loop {
                let id = PortId(port as u16);
                let Some(out) = self.engine.outputs.burst(id) else { break };
                for packet in out.drain_all() {
                    match resolution_answer(packet.bytes(), peer) {
                        Some(answer) => answers.push((id, answer)),
                        None => {
                            count += 1;
                            each(port, packet.bytes());
                        }
                    }
                    self.ring.push_back(packet);
                }
                if !self.engine.outputs.refill(id) {
                    break;
                }
            }
        }
        // Frames of dropped packets went to the pool: they go round again, the coldest first.
        while self.ring.len() < RING_FRAMES {
            let Some(packet) = self.pool.take() else { break };
            self.ring.push_back(packet);
        }
        while self.ring.len() > RING_FRAMES {
            let Some(packet) = self.ring.pop_back() else { break };
            self.pool.put(packet);
        }
        for (port, answer) in answers {
            self.send(port, &answer);
        }
        count
    }

    fn send(&mut self, port: PortId, frame: &[u8]) {
        if let Some(mut packet) = self.ring.pop_front() {
            if packet.set_contents(frame).is_ok() && self.burst.is_empty() {
                let _ = self.burst.push(packet);
                self.process(port);
            } else {
                self.ring.push_back(packet);
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.engine.drain(&mut self.pool);
        for port in [INSIDE, OUTSIDE] {
            self.engine.outputs.abandon(port, &mut self.pool);
        }
        self.pool.put_all(&mut self.burst);
        for packet in self.ring.drain(..) {
            self.pool.put(packet);
        }
    }
}
