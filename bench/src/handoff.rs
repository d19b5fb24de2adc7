//! Packets between workers: what a hop costs, and two workers beside one that does all: an I/O worker with a flow worker, and two
//! that have a queue of each port.

use crate::chains::{Kind, build, translation};
use crate::device::{Device, Progress, pair, pin};
use crate::random::Random;
use crate::rig::{BenchResult, INSIDE, OUTSIDE, Templates};
use crate::statistics::Series;
use crate::traffic::{TrafficConfig, inside_frame};
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::cpu::cycles;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::hash::KeyedHash;
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{FlowConfig, FlowState};
use millrace_dataplane::handoff::{Member, Queue, Waker, WorkerId, share};
use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::memory::{Arena, ArenaConfig, Pool, PoolConfig};
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::{Port, PortId};
use millrace_dataplane::ring::ring;
use millrace_dataplane::time::SystemClock;
use millrace_dataplane::worker::Worker;
use millrace_nf::chain::Chains;
use millrace_nf::placing::{Owners, Placing, PortRule};
use millrace_nf::zone::ZoneId;
use serde::Serialize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};

/// Packets moved at once between two cores.
const BULK: usize = 32;
const RING_PACKETS: usize = 4_096;
const HOP_PACKETS: usize = 1 << 22;
const FRAMES: usize = 8_192;
const WARM: u64 = 1 << 20;
const PACKETS: u64 = 1 << 22;
const CHAIN: [Kind; 3] = [Kind::Firewall, Kind::Nat, Kind::Router];
const TRAFFIC: TrafficConfig = TrafficConfig {
    flows: 10_000,
    flows_per_host: 64,
    frame_bytes: 64,
    protocol: 17,
    v6: false,
    both_directions: false,
};

/// What was found; cycles of the TSC, medians.
#[derive(Clone, Debug, Serialize)]
pub struct HandoffReport {
    /// Packets moved at once.
    pub bulk: usize,
    /// Time from packet to packet where one core fills frames of 64 bytes and takes them back, and another changes their headers.
    pub hop_cycles: f64,
    /// The same on one core, without rings.
    pub alone_cycles: f64,
    /// Time from packet to packet of one worker that receives, walks the chain and sends.
    pub one_worker_cycles: f64,
    /// The same of an I/O worker that receives, places and sends, and a flow worker.
    pub two_workers_cycles: f64,
    /// Distance of the least and the most of the latter, in percent.
    pub spread_percent: f64,
    /// The same of two workers that each receive half of the flows, own half of all flows, and send: half of the packets change
    /// over.
    pub queue_each_cycles: f64,
    /// The workers ran on cores of their own.
    pub two_cores: bool,
}

impl std::fmt::Display for HandoffReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "handoff bulk={} hop_cycles={:.1} alone_cycles={:.1} one_worker_cycles={:.1} two_workers_cycles={:.1} ratio={:.2} \
             queue_each_cycles={:.1} queue_each_ratio={:.2} two_cores={}",
            self.bulk,
            self.hop_cycles,
            self.alone_cycles,
            self.one_worker_cycles,
            self.two_workers_cycles,
            self.two_workers_cycles / self.one_worker_cycles,
            self.queue_each_cycles,
            self.queue_each_cycles / self.one_worker_cycles,
            self.two_cores
        )
    }
}

/// Measures, all in turns, `repeat` times.
///
/// # Errors
/// If a thread can't be pinned, the chain can't be built or there is not enough memory.
pub fn measure(repeat: usize) -> BenchResult<HandoffReport> {
    let pair = pair()?;
    let (mut hops, mut alone) = (Series::new(), Series::new());
    let (mut one, mut two, mut each) = (Series::new(), Series::new(), Series::new());
    for _ in 0..repeat.max(1) {
        alone.push(touch_alone(pair)?);
        hops.push(hop(pair)?);
        one.push(run(Layout::One, pair)?);
        two.push(run(Layout::IoAndFlow, pair)?);
        each.push(run(Layout::QueueEach, pair)?);
    }
    Ok(HandoffReport {
        bulk: BULK,
        hop_cycles: hops.median(),
        alone_cycles: alone.median(),
        one_worker_cycles: one.median(),
        two_workers_cycles: two.median(),
        spread_percent: two.spread_percent(),
        queue_each_cycles: each.median(),
        two_cores: pair.is_some(),
    })
}

/// As a device fills a frame.
fn fill(pool: &mut Pool, burst: &mut Burst, frame: &[u8]) {
    pool.take_bulk(burst, BULK);
    for packet in burst.iter_mut() {
        // Frames have room for it.
        let _ = packet.set_contents(frame);
    }
}

/// As a replay changes a header.
fn change(burst: &mut Burst) {
    for packet in burst.iter_mut() {
        for byte in packet.bytes_mut().iter_mut().take(12) {
            *byte = byte.wrapping_add(1);
        }
    }
}

fn pool() -> BenchResult<Pool> {
    let config = PoolConfig::new(FRAMES);
    let arena = Arena::new(&ArenaConfig::new(config.frames * config.frame_bytes + (1 << 20)))?;
    Ok(Pool::new(&arena, config)?)
}

fn touch_alone(pair: Option<[usize; 2]>) -> BenchResult<f64> {
    let mut pool = pool()?;
    let measured = std::thread::scope(|scope| {
        let work = scope.spawn(move || -> std::io::Result<u64> {
            pin(pair, 0)?;
            let (mut burst, frame) = (Burst::new(), [7; 64]);
            let start = cycles();
            for _ in 0..HOP_PACKETS / BULK {
                fill(&mut pool, &mut burst, &frame);
                change(&mut burst);
                pool.put_all(&mut burst);
            }
            Ok(cycles().wrapping_sub(start))
        });
        work.join().map_err(|_| "the worker failed")
    });
    Ok(measured?? as f64 / HOP_PACKETS as f64)
}

/// From one core to the other and back to the pool.
fn hop(pair: Option<[usize; 2]>) -> BenchResult<f64> {
    let mut pool = pool()?;
    let (mut to, mut arrive) = ring(RING_PACKETS);
    let (mut back, mut from) = ring(RING_PACKETS);
    let ready = Barrier::new(2);
    std::thread::scope(|scope| {
        let ready = &ready;
        let changes = scope.spawn(move || -> std::io::Result<()> {
            let pinned = pin(pair, 1);
            ready.wait();
            pinned?;
            let mut burst = Burst::with_limit(BULK);
            loop {
                let last = arrive.is_abandoned();
                if arrive.pop_packets(&mut burst) == 0 && last {
                    return Ok(());
                }
                change(&mut burst);
                while !burst.is_empty() && !back.is_abandoned() {
                    back.push_packets(&mut burst);
                }
            }
        });
        let fills = scope.spawn(move || -> std::io::Result<u64> {
            let pinned = pin(pair, 0);
            ready.wait();
            pinned?;
            let (mut burst, mut returned, frame) = (Burst::new(), Burst::new(), [7; 64]);
            let (mut sent, mut done) = (0, 0);
            let start = cycles();
            while done < HOP_PACKETS {
                if sent < HOP_PACKETS && sent - done <= RING_PACKETS - BULK {
                    fill(&mut pool, &mut burst, &frame);
                    sent += to.push_packets(&mut burst);
                }
                done += from.pop_packets(&mut returned);
                pool.put_all(&mut returned);
                if to.is_abandoned() {
                    break;
                }
            }
            Ok(cycles().wrapping_sub(start))
        });
        let spent = fills.join().map_err(|_| "the core that fills failed")??;
        changes.join().map_err(|_| "the core that changes failed")??;
        Ok(spent as f64 / HOP_PACKETS as f64)
    })
}

/// Who does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// One worker does all.
    One,
    /// The first receives and sends, the second works on all flows.
    IoAndFlow,
    /// Two have a queue of each port.
    QueueEach,
}

/// The flows of one of `queues`.
fn traffic(queue: usize, queues: usize) -> (Templates, Vec<u32>) {
    let mut templates = Templates::new(TRAFFIC.frame_bytes, TRAFFIC.flows);
    for index in 0..TRAFFIC.flows as u32 {
        templates.push(|target| inside_frame(&TRAFFIC, index, TRAFFIC.first_segment(), target));
    }
    let order = Random::new(0x5eed).permutation(TRAFFIC.flows);
    (templates, order.into_iter().skip(queue).step_by(queues).collect())
}

fn worker() -> BenchResult<Worker<Chains>> {
    let chains = build(&CHAIN, TRAFFIC.flows * 4)?;
    let flow = FlowConfig {
        sessions: SessionConfig {
            capacity: TRAFFIC.flows * 2 + 1_024,
            parts: chains.parts(),
            timeouts: Timeouts::default(),
        },
        cache_entries: TRAFFIC.flows * 2 + 1_024,
        key_words: 9,
        operand_words: 8,
    };
    let frames = PoolConfig::new(FRAMES);
    let arena =
        Arena::new(&ArenaConfig::new(flow.bytes() + frames.frames * frames.frame_bytes + (64 << 20)))?;
    let state = FlowState::new(&arena, &flow, None)?;
    let config = EngineConfig { budget: BudgetConfig::UNLIMITED, ..EngineConfig::default() };
    let engine = Engine::new(chains, state, 2, config);
    let pool = Pool::new(&arena, frames)?;
    Ok(Worker::new(engine, pool, Box::<SystemClock>::default(), IdlePolicy::Poll).0)
}

/// Cycles from packet to packet.
fn run(layout: Layout, pair: Option<[usize; 2]>) -> BenchResult<f64> {
    let progress = Progress::new(WARM, PACKETS);
    let queues = if layout == Layout::QueueEach { 2 } else { 1 };
    let devices = [INSIDE, OUTSIDE].map(|port| {
        let queue = |queue| {
            let traffic = (port == INSIDE).then(|| traffic(queue, queues));
            Box::new(Device::new(&format!("port {}", port.0), traffic, &progress)) as Box<dyn Port>
        };
        (port, (0..queues).map(queue).collect::<Vec<_>>())
    });
    let mut made = vec![worker()?];
    if layout == Layout::One {
        let queues = devices.into_iter().flat_map(|(id, queues)| queues.into_iter().map(move |it| (id, it)));
        queues.for_each(|(id, device)| made[0].add_port(id, device));
    } else {
        made.push(worker()?);
        join(&mut made, devices.into(), layout)?;
    }
    let ready = Barrier::new(made.len());
    let reports = std::thread::scope(|scope| {
        let (ready, over) = (&ready, &progress.over);
        let threads: Vec<_> = made
            .into_iter()
            .enumerate()
            .map(|(at, mut worker)| {
                scope.spawn(move || -> std::io::Result<_> {
                    let pinned = pin(pair, at);
                    ready.wait();
                    pinned.inspect_err(|_| over.store(true, Ordering::Relaxed))?;
                    worker.run(over, false);
                    Ok(worker.close())
                })
            })
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join().map_err(|_| "a worker failed"));
        ended.collect::<Result<Vec<_>, _>>()
    })?;
    for report in reports {
        let report = report?;
        if !report.sums_hold() || report.sums.drops.total() > 0 {
            return Err(format!("packets were lost: {:?}", report.sums).into());
        }
    }
    Ok(progress.cycles_per_packet())
}

/// Gives both workers their parts in the devices.
fn join(
    workers: &mut [Worker<Chains>],
    devices: Vec<(PortId, Vec<Box<dyn Port>>)>,
    layout: Layout,
) -> BenchResult<()> {
    let first = u8::from(layout == Layout::IoAndFlow);
    let member = |worker: u8| -> std::io::Result<Member> {
        Ok(Member { worker: WorkerId(worker), is_owner: worker >= first, waker: Waker::new()? })
    };
    let members = [member(0)?, member(1)?];
    let translation = Arc::new(translation()?);
    let hash = KeyedHash::random();
    for (id, devices) in devices {
        let queue = |device| {
            let translation = Some(Arc::clone(&translation));
            let rule = PortRule { port: id, zone: Some(ZoneId(id.0 as u8)), translation };
            let owners = Owners { first: WorkerId(first), count: 2 - first };
            Queue { device, place: Box::new(Placing::new(rule, owners, hash.clone())) }
        };
        let parts = share(devices.into_iter().map(queue).collect(), &members);
        workers.iter_mut().zip(parts).for_each(|(worker, part)| worker.add_port(id, Box::new(part)));
    }
    for (worker, member) in workers.iter_mut().zip(members) {
        worker.set_waker(member.waker);
    }
    Ok(())
}
