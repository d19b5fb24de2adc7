//! Workers go from thread to thread while packets flow: nothing is lost, each flow keeps its order, the sums hold, and nobody
//! sleeps through what comes for a worker that is new to its thread.

use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::crew::{Crew, CrewHandle};
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::field::Reads;
use millrace_dataplane::flow::program::ProgramBuilder;
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{Event, FlowConfig, FlowState};
use millrace_dataplane::handoff::{Datagram, Member, Place, Placed, Queue, Told, Waker, WorkerId, share};
use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::{Port, PortCounters, PortId, PortInfo};
use millrace_dataplane::slow_path::{Decision, Fate, Miss, SlowPath};
use millrace_dataplane::time::{SystemClock, Time};
use millrace_dataplane::worker::{Command, Worker, WorkerReport};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PORT: PortId = PortId(0);
const FLOWS: u64 = 50;
/// Packets between the device's two ends: fewer than a ring holds, so that none is ever full.
const UNDER_WAY_MAX: u64 = 512;
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends each frame back where it came from, and naps over the first, which is alike all others.
struct Mirror(Duration);

impl SlowPath for Mirror {
    fn reads(&self, _port: PortId) -> Reads {
        Reads::none()
    }

    fn is_known(&self, _miss: &Miss<'_>, _state: &FlowState) -> bool {
        false
    }

    fn decide(&mut self, miss: &Miss<'_>, _state: &mut FlowState, decision: &mut Decision) {
        std::thread::sleep(self.0);
        let mut builder = ProgramBuilder::new(&mut decision.program, miss.bytes, miss.layout, None);
        builder.output(PORT);
        builder.finish().unwrap();
        decision.fate = Fate::Replay;
    }

    fn events(&mut self, _events: &[Event], _state: &mut FlowState) {}

    fn tick(&mut self, _now: Time, _budget: usize, _state: &mut FlowState, _decision: &mut Decision) {}
}

fn number_of(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[14..22].try_into().unwrap())
}

/// Delivers numbered frames, as many as it is allowed, and keeps the numbers that come back.
struct Device {
    info: PortInfo,
    allowed: Arc<AtomicU64>,
    back: Arc<Mutex<Vec<u64>>>,
    counters: PortCounters,
    /// It ends after so many.
    packets: u64,
    /// How many it has delivered.
    delivered: Arc<AtomicU64>,
    /// When it delivered last, and what passed from then until something came back.
    delivered_at: Option<Instant>,
    trips: Arc<Mutex<Vec<Duration>>>,
}

impl Port for Device {
    fn rx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        let until = (self.counters.tx_packets + UNDER_WAY_MAX)
            .min(self.packets)
            .min(self.allowed.load(Ordering::Acquire));
        while !burst.is_full() && self.counters.rx_packets < until {
            let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
            frame.extend(self.counters.rx_packets.to_be_bytes());
            frame.resize(60, 0);
            let mut packet = pool.take().unwrap();
            packet.set_contents(&frame).unwrap();
            self.counters.rx_packets += 1;
            burst.push(packet).unwrap();
            self.delivered_at = Some(Instant::now());
        }
        self.delivered.store(self.counters.rx_packets, Ordering::Release);
    }

    fn tx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        if !burst.is_empty()
            && let Some(at) = self.delivered_at.take()
        {
            self.trips.lock().unwrap().push(at.elapsed());
        }
        self.counters.tx_packets += burst.len() as u64;
        self.back.lock().unwrap().extend(burst.iter().map(|packet| number_of(packet.bytes())));
        pool.put_all(burst);
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        self.counters.clone()
    }

    fn exhausted(&self) -> bool {
        self.counters.rx_packets == self.packets
    }

    fn close(&mut self, _pool: Option<&mut Pool>) {}
}

struct ByNumber(u64);

impl Place for ByNumber {
    fn place(&mut self, frame: &[u8], _now: Time) -> Placed {
        Placed::Owner(WorkerId((number_of(frame) % FLOWS % self.0) as u8))
    }

    fn datagram(&self) -> Datagram {
        Datagram::default()
    }

    fn told(&self) -> Told {
        Told::default()
    }

    fn learn(&mut self, _told: Told, _now: Time) {}
}

type Closed = Vec<(usize, Box<Worker<Mirror>>, WorkerReport)>;

/// Crews on threads of their own, and one port that their workers share.
struct Rig {
    crews: Vec<CrewHandle<Mirror>>,
    threads: Vec<JoinHandle<Closed>>,
    over: Arc<AtomicBool>,
    commands: Vec<Sender<Command<Mirror>>>,
    allowed: Arc<AtomicU64>,
    delivered: Arc<AtomicU64>,
    trips: Arc<Mutex<Vec<Duration>>>,
    back: Arc<Mutex<Vec<u64>>>,
}

impl Rig {
    /// All `workers` in the first of `crews`; the port ends after so many packets.
    fn new(workers: usize, crews: usize, idle: IdlePolicy, packets: u64) -> Self {
        Self::napping(workers, crews, idle, packets, Duration::ZERO)
    }

    /// The same, with a last worker that naps.
    fn napping(workers: usize, crews: usize, idle: IdlePolicy, packets: u64, nap: Duration) -> Self {
        let arena = Arena::anonymous(64 << 20).unwrap();
        let (allowed, delivered, back) = (Arc::default(), Arc::default(), Arc::default());
        let trips = Arc::default();
        let info = PortInfo {
            name: "device".to_owned(),
            description: String::new(),
            mac: [2; 6],
            mtu: 1500,
            link_up: true,
        };
        let device = Device {
            info,
            allowed: Arc::clone(&allowed),
            back: Arc::clone(&back),
            counters: PortCounters::default(),
            packets,
            delivered: Arc::clone(&delivered),
            delivered_at: None,
            trips: Arc::clone(&trips),
        };
        let member =
            |worker| Member { worker: WorkerId(worker as u8), is_owner: true, waker: Waker::new().unwrap() };
        let members: Vec<_> = (0..workers).map(member).collect();
        let place = Box::new(ByNumber(workers as u64));
        let ports = share(vec![Queue { device: Box::new(device), place }], &members);
        let (mut made, mut commands) = (Vec::new(), Vec::new());
        for (number, (port, member)) in ports.into_iter().zip(&members).enumerate() {
            let sessions = SessionConfig { capacity: 16, parts: 0, timeouts: Timeouts::default() };
            let config = FlowConfig { sessions, cache_entries: 16, key_words: 16, operand_words: 16 };
            let state = FlowState::new(&arena, &config, Some(1)).unwrap();
            let config = EngineConfig { budget: BudgetConfig::UNLIMITED, ..EngineConfig::default() };
            let pool = Pool::new(&arena, PoolConfig::new(2048)).unwrap();
            let nap = if number + 1 == workers { nap } else { Duration::ZERO };
            let engine = Engine::new(Mirror(nap), state, 1, config);
            let (mut worker, sender) = Worker::new(engine, pool, Box::<SystemClock>::default(), idle);
            worker.set_waker(member.waker.clone());
            worker.add_port(PORT, Box::new(port));
            made.push((number, Box::new(worker)));
            commands.push(sender);
        }
        let over = Arc::new(AtomicBool::new(false));
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..crews {
            let (mut crew, handle) = Crew::new(std::mem::take(&mut made), idle).unwrap();
            let told = Arc::clone(&over);
            handles.push(handle);
            threads.push(std::thread::spawn(move || {
                crew.run(|| told.load(Ordering::Relaxed), false);
                crew.close()
            }));
        }
        Self { crews: handles, threads, over, commands, allowed, delivered, trips, back }
    }

    fn allow(&self, packets: u64) {
        self.allowed.store(packets, Ordering::Release);
    }

    fn back(&self) -> u64 {
        self.back.lock().unwrap().len() as u64
    }

    fn wait_for(&self, packets: u64) {
        let start = Instant::now();
        while self.back() < packets {
            assert!(start.elapsed() < PATIENCE, "{} of {packets} came back", self.back());
            std::thread::yield_now();
        }
    }

    /// Moves a worker and waits until it runs again.
    fn give(&self, number: usize, from: usize, to: usize) -> Duration {
        let (arrived, arrives) = channel();
        self.crews[from].give(number, &self.crews[to], arrived);
        arrives.recv_timeout(PATIENCE).unwrap()
    }

    /// Asks a worker, wherever it is.
    fn ask<T: Send + 'static>(
        &self,
        number: usize,
        look: impl FnOnce(&mut Worker<Mirror>) -> T + Send + 'static,
    ) -> T {
        let (answer, answers) = channel();
        self.commands[number].send(Box::new(move |worker| answer.send(look(worker)).unwrap())).unwrap();
        answers.recv_timeout(PATIENCE).unwrap()
    }

    /// Ends all and checks what must be true whatever happened: each number came back once, those of a flow in order. How many
    /// there were, and what each worker reports.
    fn end(self) -> (u64, Vec<(usize, WorkerReport)>) {
        self.over.store(true, Ordering::Relaxed);
        let closed: Vec<_> = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(closed.len(), self.commands.len(), "no worker is lost");
        let mut all: Option<WorkerReport> = None;
        for (number, worker, report) in &closed {
            assert!(report.sums_hold(), "{number}: {report:?}");
            assert_eq!(worker.pool.available(), worker.pool.capacity(), "frames of {number} are missing");
            match &mut all {
                Some(all) => all.add(report.clone()),
                None => all = Some(report.clone()),
            }
        }
        let all = all.unwrap();
        assert!(all.sums_hold() && all.between() == 0, "{all:?}");
        let packets = self.delivered.load(Ordering::Relaxed);
        assert_eq!((all.sums.received, all.sums.drops.total()), (packets, 0), "{all:?}");
        let counters = || all.ports.iter().map(|port| &port.counters);
        assert!(counters().all(|it| it.rx_drops.total() + it.tx_drops.total() == 0), "{all:?}");
        let back = self.back.lock().unwrap();
        assert_eq!(back.len() as u64, packets);
        let mut next: Vec<u64> = (0..FLOWS).collect();
        for number in back.iter() {
            let next = &mut next[(number % FLOWS) as usize];
            assert_eq!(number, next, "a flow is out of order");
            *next += FLOWS;
        }
        (packets, closed.into_iter().map(|(number, _, report)| (number, report)).collect())
    }
}

#[test]
fn workers_move_under_traffic_and_nothing_is_lost() {
    const PACKETS: u64 = 400_000;
    for idle in [IdlePolicy::Adaptive, IdlePolicy::Poll] {
        let rig = Rig::new(4, 3, idle, PACKETS);
        rig.allow(PACKETS);
        // All of them, the one with the device, too, from one to the next, as long as packets flow.
        let (mut at, mut moves) = ([0; 4], 0);
        while rig.back() < PACKETS {
            let number = moves % 4;
            let to = (at[number] + 1 + moves / 4 % 2) % 3;
            rig.give(number, at[number], to);
            at[number] = to;
            moves += 1;
        }
        assert!(moves > 20, "{moves}");
        let (packets, reports) = rig.end();
        assert_eq!(packets, PACKETS);
        assert!(reports.iter().all(|(_, report)| report.sums.received >= PACKETS / 8), "{reports:?}");
    }
}

#[test]
fn a_stop_amid_moves_in_full_flow_loses_nothing() {
    let rig = Rig::new(4, 2, IdlePolicy::Adaptive, u64::MAX);
    rig.allow(u64::MAX);
    rig.wait_for(10_000);
    for round in 0..21 {
        (0..4).for_each(|number| _ = rig.give(number, round % 2, (round + 1) % 2));
    }
    let start = Instant::now();
    let (packets, _) = rig.end();
    assert!(packets > 10_000);
    assert!(start.elapsed() < Duration::from_secs(1), "each was told that no more would come");
}

/// A command that is given while a worker is on its way waits for it. A crew that sleeps wakes up for who comes.
#[test]
fn who_asks_finds_a_worker_wherever_it_is() {
    let rig = Rig::new(2, 2, IdlePolicy::Sleep, 0);
    let mut times = Vec::new();
    for round in 0..50 {
        let (arrived, arrives) = channel();
        let (from, to) = (round % 2, (round + 1) % 2);
        rig.crews[from].give(1, &rig.crews[to], arrived);
        assert_eq!(rig.ask(1, |worker| worker.report().ports.len()), 1);
        times.push(arrives.recv_timeout(PATIENCE).unwrap());
    }
    // There and back would take a sleep of 5 ms, whenever it began.
    let mut both: Vec<_> = times.windows(2).map(|pair| pair[0] + pair[1]).collect();
    both.sort_unstable();
    assert!(both[24] < Duration::from_millis(4), "{times:?}");
    rig.end();
}

#[test]
fn a_worker_stays_where_nobody_takes_it() {
    let rig = Rig::new(2, 3, IdlePolicy::Sleep, 100);
    let told = |number, from: usize, to: usize| {
        let (arrived, arrives) = channel();
        rig.crews[from].give(number, &rig.crews[to], arrived);
        arrives.recv_timeout(PATIENCE).is_ok()
    };
    assert!(!told(7, 0, 1), "there is no such worker");
    assert!(!told(0, 1, 2), "it is elsewhere");
    rig.crews[2].end();
    let start = Instant::now();
    while !rig.threads[2].is_finished() {
        assert!(start.elapsed() < PATIENCE);
    }
    assert!(!told(1, 0, 2), "that crew has ended");
    assert!(told(1, 0, 1));
    rig.allow(100);
    rig.wait_for(100);
    assert_eq!(rig.end().0, 100);
}

/// A crew that has had its turns, but has not ended its workers yet, takes who is on the way.
#[test]
fn a_worker_on_its_way_to_a_crew_that_ends_is_not_lost() {
    let mut rig = Rig::new(2, 1, IdlePolicy::Sleep, 100);
    rig.allow(100);
    rig.wait_for(100);
    let (crew, to) = Crew::new(Vec::new(), IdlePolicy::Sleep).unwrap();
    let (arrived, arrives) = channel();
    rig.crews[0].give(1, &to, arrived);
    // When the next order was obeyed, this one was.
    let (obeyed, is_obeyed) = channel();
    rig.crews[0].give(7, &to, obeyed);
    assert!(is_obeyed.recv_timeout(PATIENCE).is_err(), "there is no such worker");
    rig.threads.push(std::thread::spawn(move || crew.close()));
    let (packets, reports) = rig.end();
    assert_eq!((packets, reports.len()), (100, 2));
    assert!(arrives.try_recv().is_err(), "it never ran there");
}

/// All sleep on what their workers sleep on, those that came later, too: a packet is there and back sooner than sleeps last.
#[test]
fn sleepers_are_woken_for_whoever_is_with_them() {
    // Flow 0, whose packet comes first, is the first worker's, flow 1 the second's.
    let rig = Rig::new(2, 2, IdlePolicy::Sleep, u64::MAX);
    rig.give(1, 0, 1);
    for packets in 1..=200 {
        std::thread::sleep(Duration::from_millis(2));
        rig.allow(packets);
        rig.wait_for(packets);
    }
    // The device has no descriptor: its worker would find what came back when a sleep of 5 ms is over, if nobody woke it.
    let trips = rig.trips.lock().unwrap().clone();
    let mut trips: Vec<_> = trips.into_iter().skip(1).step_by(2).collect();
    trips.sort_unstable();
    assert!(trips.len() == 100 && trips[10] < Duration::from_millis(4), "{trips:?}");
    rig.end();
}

/// Its own turns, and not those of its neighbours, make a worker busy; the thread is busy with all of them.
#[test]
fn time_is_counted_by_worker_and_by_thread() {
    const NAP: Duration = Duration::from_millis(300);
    let rig = Rig::napping(2, 1, IdlePolicy::Adaptive, u64::MAX, NAP);
    // The second one is the second worker's.
    rig.allow(2);
    rig.wait_for(2);
    let busy = [0, 1].map(|number| rig.ask(number, Worker::report).worker.busy_nanos);
    let nap = NAP.as_nanos() as u64;
    assert!(busy[0] > 0 && busy[0] < nap && busy[1] >= nap, "{busy:?}");
    let thread = rig.crews[0].counters();
    assert!(thread.busy_nanos >= busy[0] + busy[1], "{thread:?} {busy:?}");
    assert!(thread.busy_turns >= 1 && thread.busy_turns <= thread.turns, "{thread:?}");
    rig.end();
}
