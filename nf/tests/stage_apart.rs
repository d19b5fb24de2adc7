//! A packet function on a thread of its own does what it does inline: the same packets leave in the same order, the same are dropped,
//! and nothing is lost, whoever ends first.

#[path = "common/wires.rs"]
mod wires;

use etherparse::PacketBuilder;
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::field::Reads;
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{FlowConfig, FlowState};
use millrace_dataplane::handoff::Waker;
use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::{Burst, Packet};
use millrace_dataplane::packet_function::PacketFunction;
use millrace_dataplane::port::PortId;
use millrace_dataplane::stage::{STAGE_PACKETS, StageLink, StageReport, StageWorker};
use millrace_dataplane::time::{SystemClock, Time};
use millrace_dataplane::worker::Worker;
use millrace_nf::chain::{ChainBuilder, Chains};
use millrace_nf::function::{FlowFunction, Forwarder, Verdict};
use millrace_nf::inspect::{Action, Inspect, Pattern, Patterns};
use millrace_nf::walk::{Direction, Walk};
use millrace_nf::zone::ZoneId;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wires::{QueuePort, Wires};

struct Wire;

impl FlowFunction for Wire {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "wire"
    }
    fn reads(&self) -> Reads {
        Reads::none()
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        (Verdict::Forward(PortId(if walk.direction == Direction::Forward { 1 } else { 0 })), None)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Forwarder for Wire {
    fn destination_zone(&self, _: &mut Walk<'_>) -> Option<ZoneId> {
        None
    }
}

fn inspect() -> Box<dyn PacketFunction> {
    let evil = Pattern {
        name: "evil".to_owned(),
        bytes: b"evil".to_vec(),
        ignore_case: false,
        protocols: Vec::new(),
        ports: Vec::new(),
        action: Action::Drop,
    };
    Box::new(Inspect::new(Arc::new(Patterns::new(vec![evil]).unwrap())))
}

/// A worker with its two ports.
struct Owner {
    worker: Worker<Chains>,
    wires: Vec<Wires>,
}

impl Owner {
    fn new(link: Option<StageLink>, waker: Waker) -> Self {
        let arena = Arena::anonymous(64 << 20).unwrap();
        let builder = ChainBuilder::new("test", &["inside", "outside"]);
        let builder = match link {
            Some(link) => builder.packet_function_apart("ids", link, inspect()),
            None => builder.packet_function("ids", inspect()),
        };
        let mut chains = Chains::new();
        let at = chains.insert(builder.forwarder("wire", Wire));
        chains.attach(PortId(0), at, ZoneId(0));
        chains.attach(PortId(1), at, ZoneId(1));
        let config = FlowConfig {
            sessions: SessionConfig { capacity: 100, parts: 0, timeouts: Timeouts::default() },
            cache_entries: 1000,
            key_words: 8,
            operand_words: 8,
        };
        let state = FlowState::new(&arena, &config, None).unwrap();
        let config = EngineConfig { budget: BudgetConfig::UNLIMITED, ..EngineConfig::default() };
        let engine = Engine::new(chains, state, 2, config);
        let pool = Pool::new(&arena, PoolConfig::new(4096)).unwrap();
        let clock = Box::<SystemClock>::default();
        let (mut worker, _) = Worker::new(engine, pool, clock, IdlePolicy::Adaptive);
        worker.set_waker(waker);
        let wires: Vec<Wires> = (0..2).map(|_| Wires::default()).collect();
        for (at, wire) in wires.iter().enumerate() {
            worker.add_port(PortId(at as u16), Box::new(QueuePort::new(at, wire)));
        }
        Self { worker, wires }
    }

    fn feed(&self, port: usize, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.wires[port].lock().unwrap().0.extend(frames);
    }

    fn sent(&self, port: usize) -> Vec<Vec<u8>> {
        self.wires[port].lock().unwrap().1.clone()
    }

    /// Turns until so many packets left or were dropped.
    fn turn_until(&mut self, done: u64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.worker.turn();
            let report = self.worker.report();
            assert!(report.sums_hold(), "{report:?}");
            if report.sums.sent + report.sums.drops.total() == done {
                return;
            }
            assert!(Instant::now() < deadline, "{:?}", report.sums);
            std::thread::yield_now();
        }
    }

    fn close(mut self) -> (Worker<Chains>, millrace_dataplane::worker::WorkerReport) {
        let report = self.worker.close();
        assert!(report.sums_hold(), "{report:?}");
        assert_eq!(report.buffered, 0);
        (self.worker, report)
    }
}

fn frame(flow: u16, number: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    let payload = if number % 5 == 3 { format!("{number} evil") } else { format!("{number} good") };
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(flow, 2)
        .write(&mut frame, payload.as_bytes())
        .unwrap();
    frame
}

fn frames(seed: u32, count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|at| frame(1 + ((at * 7 + seed) % 13) as u16, at)).collect()
}

/// Owners joined with a stage on a thread of its own.
struct Joined {
    owners: Vec<Owner>,
    stage: Option<StageWorker>,
    stop: Arc<AtomicBool>,
}

impl Joined {
    fn new(owners: usize, function: Box<dyn PacketFunction>) -> Self {
        let wakers: Vec<Waker> = (0..owners).map(|_| Waker::new().unwrap()).collect();
        let clock = Box::<SystemClock>::default();
        let (stage, links, _) = StageWorker::new(function, &wakers, clock, IdlePolicy::Adaptive).unwrap();
        let owners = links.into_iter().zip(wakers).map(|(link, waker)| Owner::new(Some(link), waker));
        Self { owners: owners.collect(), stage: Some(stage), stop: Arc::default() }
    }

    fn start(&mut self) -> JoinHandle<StageReport> {
        let (mut stage, stop) = (self.stage.take().unwrap(), Arc::clone(&self.stop));
        std::thread::spawn(move || {
            stage.run(|| stop.load(Ordering::Relaxed));
            stage.report()
        })
    }

    /// Ends all owners, then the stage. All frames are back, and all packets are accounted for.
    fn end(self, thread: JoinHandle<StageReport>) -> StageReport {
        let closed: Vec<_> = self.owners.into_iter().map(Owner::close).collect();
        self.stop.store(true, Ordering::Relaxed);
        let report = thread.join().unwrap();
        for (worker, _) in &closed {
            assert_eq!(worker.pool.available(), worker.pool.capacity());
        }
        assert_eq!(report.taken, report.given);
        report
    }
}

#[test]
fn inline_and_apart_are_the_same_with_one_owner_and_with_two() {
    const PACKETS: u32 = 3_000;
    for count in [1, 2] {
        let mut joined = Joined::new(count, inspect());
        let thread = joined.start();
        for (seed, owner) in joined.owners.iter_mut().enumerate() {
            let mut inline = Owner::new(None, Waker::new().unwrap());
            for (port, half) in frames(seed as u32, PACKETS).chunks(PACKETS as usize / 2).enumerate() {
                for (done, part) in half.chunks(500).enumerate() {
                    // No more at once than the ring holds: what does not fit is dropped, by design.
                    for it in [&mut *owner, &mut inline] {
                        it.feed(port, part.to_vec());
                        it.turn_until((port * half.len() + (done + 1) * 500) as u64);
                    }
                }
            }
            for port in 0..2 {
                assert_eq!(owner.sent(port), inline.sent(port));
                assert_eq!(owner.sent(port).len(), PACKETS as usize / 2 * 4 / 5);
            }
            let (apart, inline) = (owner.worker.report(), inline.close().1);
            assert_eq!(apart.sums.drops, inline.sums.drops);
            assert_eq!(apart.sums.drops.get(DropReason::PayloadDenied), u64::from(PACKETS) / 5);
        }
        let report = joined.end(thread);
        assert_eq!(report.taken, count as u64 * u64::from(PACKETS));
        assert_eq!(report.dropped, count as u64 * u64::from(PACKETS) / 5);
    }
}

/// A generator of numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Of one of 20 flows, with a payload of any length that holds the pattern anywhere, or not at all.
    fn frame(&mut self) -> Vec<u8> {
        let mut payload: Vec<u8> = (0..self.below(1_200)).map(|_| b'a' + self.below(26) as u8).collect();
        if payload.len() >= 4 && self.below(4) == 0 {
            let at = self.below(payload.len() as u64 - 3) as usize;
            payload[at..at + 4].copy_from_slice(b"evil");
        }
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1 + self.below(20) as u16, 2)
            .write(&mut frame, &payload)
            .unwrap();
        frame
    }
}

#[test]
fn random_traffic_of_two_owners_at_once_passes_as_it_does_inline() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let mut joined = Joined::new(2, inspect());
        let thread = joined.start();
        let mut inline: Vec<Owner> = (0..2).map(|_| Owner::new(None, Waker::new().unwrap())).collect();
        let mut fed = [0; 2];
        for _ in 0..20 {
            for at in 0..2 {
                // No more at once than the ring holds.
                for port in 0..2 {
                    let frames: Vec<_> =
                        (0..random.below(STAGE_PACKETS as u64 / 2)).map(|_| random.frame()).collect();
                    fed[at] += frames.len() as u64;
                    joined.owners[at].feed(port, frames.clone());
                    inline[at].feed(port, frames);
                }
            }
            // In any order, as threads would.
            let done = |owner: &mut Owner| {
                let sums = owner.worker.report().sums;
                sums.sent + sums.drops.total()
            };
            let deadline = Instant::now() + Duration::from_secs(60);
            while (0..2).any(|at| done(&mut joined.owners[at]) < fed[at]) {
                let turns = random.below(5);
                let owner = &mut joined.owners[random.below(2) as usize];
                (0..turns).for_each(|_| _ = owner.worker.turn());
                assert!(Instant::now() < deadline, "seed {seed}");
                std::thread::yield_now();
            }
            inline.iter_mut().zip(fed).for_each(|(owner, fed)| owner.turn_until(fed));
        }
        for (apart, inline) in joined.owners.iter_mut().zip(&mut inline) {
            for port in 0..2 {
                assert_eq!(apart.sent(port), inline.sent(port), "seed {seed}");
            }
            let (apart, inline) = (apart.worker.report().sums, inline.worker.report().sums);
            assert_eq!(apart.drops, inline.drops, "seed {seed}");
            assert!(apart.drops.get(DropReason::PayloadDenied) > 0 && apart.sent > 0);
        }
        let report = joined.end(thread);
        assert_eq!(report.taken, fed.iter().sum::<u64>());
    }
}

#[test]
fn a_full_ring_drops_at_its_tail_and_the_rest_comes_back() {
    let mut joined = Joined::new(1, inspect());
    let owner = &mut joined.owners[0];
    owner.feed(0, frames(0, 1_500));
    while owner.worker.turn() > 0 {}
    let report = owner.worker.report();
    assert!(report.sums_hold(), "{report:?}");
    assert_eq!(report.buffered, STAGE_PACKETS as u64, "what is under way is buffered");
    assert_eq!(report.sums.drops.get(DropReason::RingFull), 1_500 - STAGE_PACKETS as u64);
    let thread = joined.start();
    joined.owners[0].turn_until(1_500);
    let kept: Vec<_> =
        frames(0, STAGE_PACKETS as u32).into_iter().filter(|it| !it.ends_with(b"evil")).collect();
    assert_eq!(joined.owners[0].sent(1), kept, "the first ones, in order");
    joined.end(thread);
}

/// Lets nothing pass.
struct Gate;

impl FlowFunction for Gate {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "gate"
    }
    fn reads(&self) -> Reads {
        Reads::none()
    }
    fn admit(&self, _: &mut Walk<'_>) -> (Verdict, Option<()>) {
        (Verdict::Drop(DropReason::FirewallDenied), None)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[test]
fn what_is_under_way_passes_no_function_that_changed_sides_unseen() {
    let mut joined = Joined::new(1, inspect());
    let owner = &mut joined.owners[0];
    let replace = |owner: &mut Owner, chain| {
        let engine = &mut owner.worker.engine;
        assert!(engine.slow.replace(0, chain, &mut engine.state).is_ok());
    };
    let chain = || ChainBuilder::new("test", &["inside", "outside"]);
    replace(owner, chain().keep_packet_function("ids").function("gate", Gate).keep_forwarder("wire"));
    owner.feed(0, (0..10).map(|at| frame(1, at)));
    while owner.worker.turn() > 0 {}
    assert_eq!(owner.worker.report().buffered, 10);
    // They have not been at the gate, and would come in behind it.
    replace(owner, chain().keep("gate").keep_packet_function("ids").keep_forwarder("wire"));
    let thread = joined.start();
    joined.owners[0].turn_until(10);
    assert!(joined.owners[0].sent(1).is_empty());
    let drops = joined.owners[0].worker.report().sums.drops;
    assert_eq!((drops.get(DropReason::NoOutput), drops.get(DropReason::PayloadDenied)), (8, 2), "{drops:?}");
    joined.end(thread);
}

#[test]
fn closing_under_load_loses_nothing() {
    for round in 0..20 {
        let mut joined = Joined::new(2, inspect());
        let thread = joined.start();
        for owner in &mut joined.owners {
            owner.feed(0, frames(round, 640));
            owner.feed(1, frames(round, 640));
            (0..round % 7).for_each(|_| _ = owner.worker.turn());
        }
        let wires: Vec<_> = joined.owners.iter().map(|owner| owner.wires.clone()).collect();
        let report = joined.end(thread);
        let sent = wires.iter().flatten().map(|wire| wire.lock().unwrap().1.len() as u64).sum::<u64>();
        assert_eq!(report.given, sent + report.dropped, "what was on its way was sent");
    }
}

#[test]
fn a_stage_that_does_not_come_in_time_loses_what_it_has_and_no_frame() {
    let mut joined = Joined::new(1, inspect());
    let owner = &mut joined.owners[0];
    owner.feed(0, frames(0, 300));
    while owner.worker.turn() > 0 {}
    let (worker, report) = joined.owners.pop().unwrap().close();
    assert_eq!(report.sums.drops.get(DropReason::Shutdown), 300);
    assert_eq!(worker.pool.available(), worker.pool.capacity() - 300, "the stage has them");
    // It works on what it has, and nobody takes it.
    let report = joined.start().join().unwrap();
    assert_eq!((report.taken, report.given), (300, 300));
    assert_eq!(worker.pool.available(), worker.pool.capacity());
}

#[test]
fn an_end_amid_traffic_receives_nothing_more_and_waits_for_what_is_under_way() {
    let mut joined = Joined::new(1, inspect());
    let thread = joined.start();
    let owner = &mut joined.owners[0];
    let lap = frames(0, 1_000);
    owner.feed(0, lap.iter().cycle().take(100_000).cloned());
    (0..50).for_each(|_| _ = owner.worker.turn());
    let (wires, before) = (owner.wires[0].clone(), owner.worker.report().sums.received);
    let (worker, report) = joined.owners.pop().unwrap().close();
    assert_eq!(report.sums.received, before);
    assert_eq!(wires.lock().unwrap().0.len() as u64, 100_000 - before);
    assert_eq!(report.sums.drops.get(DropReason::Shutdown), 0, "{report:?}");
    joined.end(thread);
    assert_eq!(worker.pool.available(), worker.pool.capacity());
}

/// Works for a while, then panics.
struct Fragile(u32);

impl PacketFunction for Fragile {
    fn kind(&self) -> &'static str {
        "fragile"
    }
    fn process(&mut self, _: &mut Burst, _: Time, _: &mut Vec<(Packet, DropReason)>) {
        self.0 = self.0.checked_sub(1).expect("as the test wants it");
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[test]
fn a_function_that_panics_costs_what_it_had_and_all_is_counted() {
    let mut joined = Joined::new(2, Box::new(Fragile(3)));
    let thread = joined.start();
    for owner in &mut joined.owners {
        owner.feed(0, frames(0, 900));
        owner.turn_until(900);
    }
    assert!(thread.join().is_err());
    for owner in joined.owners {
        // It goes on: what comes finds the stage gone.
        owner.feed(1, frames(0, 10));
        let mut owner = owner;
        owner.turn_until(910);
        let drops = owner.worker.report().sums.drops;
        assert!(drops.get(DropReason::Shutdown) >= 10, "{drops:?}");
        let (worker, _) = owner.close();
        assert_eq!(worker.pool.available(), worker.pool.capacity());
    }
}
