//! Several workers on one port: nothing is lost, each flow keeps its order, copies and fragments go where they belong, and sleepers
//! are woken.

use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::field::Reads;
use millrace_dataplane::flow::program::ProgramBuilder;
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{Event, FlowConfig, FlowState};
use millrace_dataplane::handoff::{Member, Place, Placed, Waker, WorkerId, share};
use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::{Port, PortCounters, PortId, PortInfo};
use millrace_dataplane::slow_path::{Decision, Fate, Miss, SlowPath};
use millrace_dataplane::time::{SystemClock, Time};
use millrace_dataplane::worker::{Worker, WorkerReport};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PORT: PortId = PortId(0);
/// The first byte behind the Ethernet header says what a frame is.
const FLOW: u8 = 0;
const FOR_ALL: u8 = 1;
const FIRST: u8 = 2;
const LATER: u8 = 3;

/// Sends each frame back where it came from.
struct Mirror;

impl SlowPath for Mirror {
    fn reads(&self, _port: PortId) -> Reads {
        Reads::none()
    }

    fn is_known(&self, _miss: &Miss<'_>, _state: &FlowState) -> bool {
        false
    }

    fn decide(&mut self, miss: &Miss<'_>, _state: &mut FlowState, decision: &mut Decision) {
        let mut builder = ProgramBuilder::new(&mut decision.program, miss.bytes, miss.layout, None);
        builder.output(PORT);
        builder.finish().unwrap();
        decision.fate = Fate::Replay;
    }

    fn events(&mut self, _events: &[Event], _state: &mut FlowState) {}

    fn tick(&mut self, _now: Time, _budget: usize, _state: &mut FlowState, _decision: &mut Decision) {}
}

/// A frame: kind, flow, and its number in the flow.
type Mark = (u8, u16, u32);

fn frame(mark: Mark) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, mark.0];
    frame.extend(mark.1.to_be_bytes());
    frame.extend(mark.2.to_be_bytes());
    frame.resize(60, 0);
    frame
}

fn mark(frame: &[u8]) -> Mark {
    let number = u32::from_be_bytes([frame[17], frame[18], frame[19], frame[20]]);
    (frame[14], u16::from_be_bytes([frame[15], frame[16]]), number)
}

/// Delivers what a function makes of the count so far, and keeps what it is given.
struct Script {
    info: PortInfo,
    next: Box<dyn FnMut(u64) -> Option<Mark> + Send>,
    counters: PortCounters,
    sent: Arc<Mutex<Vec<Mark>>>,
    ends: bool,
    has_ended: bool,
}

impl Port for Script {
    fn rx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        while !burst.is_full() && pool.available() > 256 {
            let Some(mark) = (self.next)(self.counters.rx_packets) else {
                self.has_ended = self.ends;
                return;
            };
            let mut packet = pool.take().unwrap();
            packet.set_contents(&frame(mark)).unwrap();
            self.counters.rx_packets += 1;
            burst.push(packet).unwrap();
        }
    }

    fn tx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        self.counters.tx_packets += burst.len() as u64;
        self.sent.lock().unwrap().extend(burst.iter().map(|packet| mark(packet.bytes())));
        pool.put_all(burst);
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        self.counters.clone()
    }

    fn exhausted(&self) -> bool {
        self.has_ended
    }

    fn close(&mut self, _pool: Option<&mut Pool>) {}
}

/// By the flow's number; the first fragment of a flow tells where the later ones go.
struct ByFlow {
    owners: std::ops::Range<u8>,
    known: Vec<u16>,
    told: bool,
}

impl Place for ByFlow {
    fn place(&mut self, frame: &[u8], _now: Time) -> Placed {
        let (kind, flow, _) = mark(frame);
        let owner = self.owners.start + (flow % u16::from(self.owners.end - self.owners.start)) as u8;
        match kind {
            FOR_ALL => return Placed::Everyone,
            FIRST => {
                self.known.push(flow);
                self.told = true;
            }
            LATER if !self.known.contains(&flow) => return Placed::Waits,
            _ => {}
        }
        Placed::Owner(WorkerId(owner))
    }

    fn told(&mut self) -> bool {
        std::mem::take(&mut self.told)
    }
}

fn worker(arena: &Arena, waker: Waker, port: Box<dyn Port>, idle: IdlePolicy) -> Worker<Mirror> {
    let sessions = SessionConfig { capacity: 16, parts: 0, timeouts: Timeouts::default() };
    let config = FlowConfig { sessions, cache_entries: 16, key_words: 16, operand_words: 16 };
    let state = FlowState::new(arena, &config, Some(1)).unwrap();
    let config = EngineConfig { budget: BudgetConfig::UNLIMITED, ..EngineConfig::default() };
    let pool = Pool::new(arena, PoolConfig::new(4096)).unwrap();
    let engine = Engine::new(Mirror, state, 1, config);
    let (mut worker, _) = Worker::new(engine, pool, Box::<SystemClock>::default(), idle);
    worker.set_waker(waker);
    worker.add_port(PORT, port);
    worker
}

/// So many workers, the first of which polls; those of `owners` own flows.
struct Rig {
    workers: Vec<Worker<Mirror>>,
    sent: Arc<Mutex<Vec<Mark>>>,
}

impl Rig {
    fn new(
        workers: u8,
        owners: std::ops::Range<u8>,
        idle: IdlePolicy,
        ends: bool,
        next: impl FnMut(u64) -> Option<Mark> + Send + 'static,
    ) -> Self {
        let arena = Arena::anonymous(64 << 20).unwrap();
        let sent = Arc::default();
        let info = PortInfo {
            name: "script".to_owned(),
            description: String::new(),
            mac: [2; 6],
            mtu: 1500,
            link_up: true,
        };
        let device = Script {
            info,
            next: Box::new(next),
            counters: PortCounters::default(),
            sent: Arc::clone(&sent),
            ends,
            has_ended: false,
        };
        let members: Vec<_> = (0..workers)
            .map(|worker| Member {
                worker: WorkerId(worker),
                is_owner: owners.contains(&worker),
                waker: Waker::new().unwrap(),
            })
            .collect();
        let place = ByFlow { owners, known: Vec::new(), told: false };
        let (shared, remotes) = share(Box::new(device), Box::new(place), &members[0], &members[1..]);
        let mut made = vec![worker(&arena, members[0].waker.clone(), Box::new(shared), idle)];
        for (id, remote) in remotes {
            let waker = members[usize::from(id.0)].waker.clone();
            made.push(worker(&arena, waker, Box::new(remote), idle));
        }
        Self { workers: made, sent }
    }

    /// Runs all workers on threads of their own until all is through, or until `stop`. What each reported in the end, and what
    /// was sent.
    fn run(self, stop: &AtomicBool) -> (Vec<WorkerReport>, Vec<Mark>) {
        let run = |mut worker: Worker<Mirror>| {
            worker.run(stop, true);
            let report = worker.close();
            // Frames that end with another worker come back until the last one has ended.
            (worker, report)
        };
        let ended: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.workers.into_iter().map(|worker| scope.spawn(move || run(worker))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (worker, report) in &ended {
            assert!(report.sums_hold(), "{report:?}");
            assert_eq!(worker.pool.available(), worker.pool.capacity(), "frames are missing");
        }
        let mut all = ended[0].1.clone();
        ended[1..].iter().for_each(|(_, report)| all.add(report.clone()));
        assert!(all.sums_hold(), "{all:?}");
        assert_eq!(all.between(), 0, "rings are empty");
        let sent = std::mem::take(&mut *self.sent.lock().unwrap());
        (ended.into_iter().map(|(_, report)| report).collect(), sent)
    }
}

/// The numbers of each flow grow.
fn assert_order(sent: &[Mark]) {
    let mut last = std::collections::HashMap::new();
    for (_, flow, number) in sent.iter().filter(|(kind, ..)| *kind == FLOW) {
        if let Some(before) = last.insert(flow, number) {
            assert!(before < number, "flow {flow}: {number} behind {before}");
        }
    }
}

#[test]
fn every_packet_passes_in_the_order_of_its_flow() {
    const PACKETS: u64 = 60_000;
    for (workers, owners) in [(1, 0..1), (2, 0..2), (2, 1..2), (3, 1..3), (3, 0..3)] {
        let next = |count: u64| {
            (count < PACKETS)
                .then(|| (FLOW, (count.wrapping_mul(0x9e37_79b9) >> 7) as u16 % 50, count as u32))
        };
        let rig = Rig::new(workers, owners.clone(), IdlePolicy::Adaptive, true, next);
        let (reports, sent) = rig.run(&AtomicBool::new(false));
        assert_order(&sent);
        let dropped: u64 = reports
            .iter()
            .flat_map(|report| &report.ports)
            .map(|port| {
                port.counters.rx_drops.get(DropReason::RingFull)
                    + port.counters.tx_drops.get(DropReason::RingFull)
            })
            .sum();
        assert_eq!(sent.len() as u64 + dropped, PACKETS, "{workers} workers");
        for (at, report) in reports.iter().enumerate() {
            assert_eq!(report.sums.received > 0, owners.contains(&(at as u8)), "worker {at} of {owners:?}");
        }
    }
}

#[test]
fn what_is_for_all_is_copied_for_each_owner() {
    let next = |count: u64| (count < 40).then_some((FOR_ALL, 0, count as u32));
    let (reports, sent) = Rig::new(4, 1..4, IdlePolicy::Adaptive, true, next).run(&AtomicBool::new(false));
    assert_eq!(sent.len(), 120);
    assert_eq!(reports[0].ports[0].counters.rx_copied, 80);
    assert_eq!(reports[0].ports[0].counters.rx_packets, 120);
    assert!(reports[1..].iter().all(|report| report.sums.received == 40));
}

#[test]
fn fragments_wait_for_the_first_of_their_datagram() {
    // Flow 1 has its first behind the others, flow 2 before them, flow 3 none.
    let frames = [(LATER, 1, 1), (LATER, 3, 1), (LATER, 1, 2), (FIRST, 2, 0), (FIRST, 1, 0), (LATER, 2, 1)];
    let next = move |count: u64| frames.get(count as usize).copied();
    let (reports, mut sent) = Rig::new(3, 1..3, IdlePolicy::Adaptive, false, next).run_for(300);
    sent.sort_unstable();
    assert_eq!(sent, [(FIRST, 1, 0), (FIRST, 2, 0), (LATER, 1, 1), (LATER, 1, 2), (LATER, 2, 1)]);
    assert_eq!(reports[0].ports[0].counters.rx_drops.get(DropReason::Shutdown), 1);
}

#[test]
fn too_many_fragments_are_dropped() {
    let next = |count: u64| (count < 100).then_some((LATER, 1, count as u32));
    let (reports, sent) = Rig::new(2, 0..2, IdlePolicy::Adaptive, false, next).run_for(100);
    assert!(sent.is_empty());
    let drops = &reports[0].ports[0].counters.rx_drops;
    assert_eq!((drops.get(DropReason::FragmentUnmatched), drops.get(DropReason::Shutdown)), (36, 64));
}

impl Rig {
    /// The same until so many milliseconds are over.
    fn run_for(self, millis: u64) -> (Vec<WorkerReport>, Vec<Mark>) {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(millis));
            told.store(true, Ordering::Relaxed);
        });
        let ended = self.run(&stop);
        ends.join().unwrap();
        ended
    }
}

#[test]
fn a_stop_in_full_flow_loses_nothing_uncounted() {
    for idle in [IdlePolicy::Adaptive, IdlePolicy::Sleep] {
        let next = |count: u64| Some((FLOW, count as u16 % 32, count as u32));
        let (reports, sent) = Rig::new(3, 0..3, idle, false, next).run_for(150);
        assert_order(&sent);
        assert!(sent.len() > 1_000 && reports[2].sums.received > 0, "{}", sent.len());
    }
}

/// A packet comes when all sleep: it is there and back sooner than sleeps last.
#[test]
fn sleepers_are_woken() {
    let (asked, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (due, told) = (Arc::clone(&asked), Arc::clone(&answered));
    let next = move |count: u64| {
        (count < due.load(Ordering::Acquire)).then(|| {
            told.store(count + 1, Ordering::Release);
            (FLOW, 0, count as u32)
        })
    };
    let rig = Rig::new(2, 1..2, IdlePolicy::Sleep, false, next);
    let sent = Arc::clone(&rig.sent);
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let asks = std::thread::spawn(move || {
        let mut times = Vec::new();
        for count in 1..=100 {
            std::thread::sleep(Duration::from_millis(2));
            asked.store(count, Ordering::Release);
            // The script has no descriptor, so the poller finds the packet when its sleep is over.
            while answered.load(Ordering::Acquire) < count {
                std::thread::yield_now();
            }
            let start = Instant::now();
            while sent.lock().unwrap().len() < count as usize {
                assert!(start.elapsed() < Duration::from_secs(5));
                std::thread::yield_now();
            }
            times.push(start.elapsed());
        }
        told.store(true, Ordering::Relaxed);
        times.sort_unstable();
        times
    });
    rig.run(&stop);
    let times = asks.join().unwrap();
    // Two sleeps of 5 ms would be on the way, if nobody woke.
    assert!(times[50] < Duration::from_millis(2), "{times:?}");
}
