//! Several workers on one port: nothing is lost, each flow keeps its order, copies and fragments go where they belong, and sleepers
//! are woken.

use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::crew::Crew;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::field::Reads;
use millrace_dataplane::flow::program::ProgramBuilder;
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{Event, FlowConfig, FlowState};
use millrace_dataplane::handoff::{
    Datagram, Member, Place, Placed, Queue, RING_PACKETS, Told, WAITING_MAX, Waker, WorkerId, ring_packets,
    share,
};
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

/// Makes a frame of the count so far.
type Next = Box<dyn FnMut(u64) -> Option<Mark> + Send>;

/// Delivers what a function makes, and keeps what it is given.
struct Script {
    info: PortInfo,
    next: Next,
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
    last: u16,
}

/// Where fragments of odd flows are placed, of two who poll, is the second.
fn datagram(flow: u16) -> Datagram {
    Datagram { addresses: [flow.into(), 0], hash: u64::from(flow % 2) << 63, ..Datagram::default() }
}

impl Place for ByFlow {
    fn place(&mut self, frame: &[u8], _now: Time) -> Placed {
        let (kind, flow, _) = mark(frame);
        let owner =
            WorkerId(self.owners.start + (flow % u16::from(self.owners.end - self.owners.start)) as u8);
        self.last = flow;
        match kind {
            FOR_ALL => Placed::Everyone,
            FIRST => {
                self.known.push(flow);
                Placed::First(owner)
            }
            LATER if !self.known.contains(&flow) => Placed::Waits,
            _ => Placed::Owner(owner),
        }
    }

    fn datagram(&self) -> Datagram {
        datagram(self.last)
    }

    fn told(&self) -> Told {
        let owner = self.owners.start + (self.last % u16::from(self.owners.end - self.owners.start)) as u8;
        Told { datagram: datagram(self.last), owner: WorkerId(owner), bytes: 0 }
    }

    fn learn(&mut self, told: Told, _now: Time) {
        self.known.push(told.datagram.addresses[0] as u16);
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

/// So many workers, the first of which poll a queue each; those of `owners` own flows.
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
        Self::with_queues(workers, owners, idle, ends, vec![Box::new(next)])
    }

    fn with_queues(
        workers: u8,
        owners: std::ops::Range<u8>,
        idle: IdlePolicy,
        ends: bool,
        queues: Vec<Next>,
    ) -> Self {
        let arena = Arena::anonymous(64 << 20).unwrap();
        let sent = Arc::default();
        let queue = |next| {
            let info = PortInfo {
                name: "script".to_owned(),
                description: "a queue".to_owned(),
                mac: [2; 6],
                mtu: 1500,
                link_up: true,
            };
            let (counters, sent) = (PortCounters::default(), Arc::clone(&sent));
            let device = Box::new(Script { info, next, counters, sent, ends, has_ended: false });
            Queue { device, place: Box::new(ByFlow { owners: owners.clone(), known: Vec::new(), last: 0 }) }
        };
        let queues = queues.into_iter().map(queue).collect();
        let members: Vec<_> = (0..workers)
            .map(|worker| Member {
                worker: WorkerId(worker),
                is_owner: owners.contains(&worker),
                waker: Waker::new().unwrap(),
            })
            .collect();
        let parts = share(queues, &members).into_iter().zip(&members);
        let made = parts.map(|(part, member)| worker(&arena, member.waker.clone(), Box::new(part), idle));
        Self { workers: made.collect(), sent }
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
        assert_accounts(&ended);
        let sent = std::mem::take(&mut *self.sent.lock().unwrap());
        (ended.into_iter().map(|(_, report)| report).collect(), sent)
    }
}

/// Each worker's sums hold, and all together; every frame is back in its pool.
fn assert_accounts(ended: &[(Worker<Mirror>, WorkerReport)]) {
    for (worker, report) in ended {
        assert!(report.sums_hold(), "{report:?}");
        assert_eq!(worker.pool.available(), worker.pool.capacity(), "frames are missing");
    }
    let mut all = ended[0].1.clone();
    ended[1..].iter().for_each(|(_, report)| all.add(report.clone()));
    assert!(all.sums_hold(), "{all:?}");
    assert_eq!(all.between(), 0, "rings are empty");
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
        let dropped = ring_full(&reports);
        assert_eq!(sent.len() as u64 + dropped, PACKETS, "{workers} workers");
        for (at, report) in reports.iter().enumerate() {
            assert_eq!(report.sums.received > 0, owners.contains(&(at as u8)), "worker {at} of {owners:?}");
        }
    }
}

/// One thread for all of them: none can end before another.
#[test]
fn workers_of_one_thread_end_together_when_all_is_through() {
    const PACKETS: u64 = 20_000;
    for (workers, owners) in [(1, 0..1), (2, 0..2), (2, 1..2), (3, 0..3)] {
        let next = |count: u64| (count < PACKETS).then_some((FLOW, count as u16 % 50, count as u32));
        let Rig { workers: made, sent } = Rig::new(workers, owners, IdlePolicy::Adaptive, true, next);
        let made = made.into_iter().map(Box::new).enumerate().collect();
        let (mut crew, _) = Crew::new(made, IdlePolicy::Adaptive).unwrap();
        let start = Instant::now();
        let is_late = || start.elapsed() > Duration::from_secs(20);
        crew.run(is_late, true);
        assert!(!is_late(), "{workers} workers don't end by themselves");
        let ended: Vec<_> = crew.close().into_iter().map(|(_, worker, report)| (*worker, report)).collect();
        assert_accounts(&ended);
        let reports: Vec<_> = ended.into_iter().map(|(_, report)| report).collect();
        let sent = std::mem::take(&mut *sent.lock().unwrap());
        assert_order(&sent);
        assert_eq!(sent.len() as u64 + ring_full(&reports), PACKETS, "{workers} workers");
    }
}

fn ring_full(reports: &[WorkerReport]) -> u64 {
    let ports = reports.iter().flat_map(|report| &report.ports);
    let of = |port: &millrace_dataplane::worker::PortReport| {
        port.counters.rx_drops.get(DropReason::RingFull) + port.counters.tx_drops.get(DropReason::RingFull)
    };
    ports.map(of).sum()
}

/// Each worker polls a queue, as long as there are some, keeps its own, and sends by its own queue.
#[test]
fn queues_of_their_own_keep_the_order_too() {
    const PACKETS: u64 = 30_000;
    for (workers, queues) in [(2u8, 2u64), (3, 2), (3, 3), (4, 3)] {
        // Flows come by any queue, whoever owns them.
        let next = |queue: u64| {
            let next = move |count: u64| {
                let flow = (count.wrapping_mul(0x9e37_79b9) >> 7) % 50 + 64 * queue;
                (count < PACKETS).then_some((FLOW, flow as u16, count as u32))
            };
            Box::new(next) as Next
        };
        let all = (0..queues).map(next).collect();
        let rig = Rig::with_queues(workers, 0..workers, IdlePolicy::Adaptive, true, all);
        let (reports, sent) = rig.run(&AtomicBool::new(false));
        assert_order(&sent);
        assert_eq!(sent.len() as u64 + ring_full(&reports), queues * PACKETS, "{workers} workers");
        for (at, report) in reports.iter().enumerate() {
            let handed = report.ports[0].handed;
            let has_queue = (at as u64) < queues;
            assert!(report.sums.received > 0 && handed.rx_taken > 0, "worker {at}: {handed:?}");
            assert_eq!(handed.rx_given > 0, has_queue, "worker {at}: {handed:?}");
            assert_eq!(handed.tx_given > 0, !has_queue, "worker {at}: {handed:?}");
            assert!(report.ports[0].info.description.contains(&format!("{queues} workers poll")));
        }
    }
}

#[test]
fn a_full_ring_is_a_counted_drop() {
    let capacity = ring_packets(2) as u64;
    assert!(ring_packets(1) == RING_PACKETS && capacity < RING_PACKETS as u64);
    let packets = 2 * capacity;
    // All are the second worker's, which does not work yet.
    let queues: Vec<Next> =
        vec![Box::new(move |count| (count < packets).then_some((FLOW, 1, count as u32))), Box::new(|_| None)];
    let mut rig = Rig::with_queues(2, 0..2, IdlePolicy::Adaptive, true, queues);
    while rig.workers[0].report().ports[0].counters.rx_packets + rig.dropped(0, DropReason::RingFull)
        < packets
    {
        rig.workers[0].turn();
    }
    assert_eq!(rig.dropped(0, DropReason::RingFull), packets - capacity);
    let (_, sent) = rig.run(&AtomicBool::new(false));
    let numbers: Vec<u64> = sent.iter().map(|(_, _, number)| u64::from(*number)).collect();
    assert_eq!(
        numbers,
        (0..capacity).collect::<Vec<_>>(),
        "the tail is dropped, and what is in the ring stays"
    );
}

/// Worker 1 ends while the others go on: what is for it is dropped and counted, and what it left behind, too.
#[test]
fn a_peer_that_ends_early_costs_its_own_packets_alone() {
    for closes in [true, false] {
        let next = |count: u64| (count < 3_000).then_some((FLOW, count as u16 % 3, count as u32));
        let queues: Vec<Next> = vec![Box::new(next), Box::new(|_| None), Box::new(|_| None)];
        let mut rig = Rig::with_queues(3, 0..3, IdlePolicy::Adaptive, false, queues);
        rig.workers[0].turn();
        let mut gone = rig.workers.remove(1);
        let ended = if closes { Some(gone.close()) } else { None };
        if closes {
            assert_eq!(ended.as_ref().unwrap().sums.received, 21, "it had taken what was there");
        }
        let pool = std::mem::replace(&mut gone.pool, small_pool());
        drop(gone);
        for _ in 0..100 {
            rig.workers.iter_mut().for_each(|worker| _ = worker.turn());
        }
        let sent = Arc::clone(&rig.sent);
        let mut ended: Vec<_> = ended.into_iter().collect();
        // As on threads: each waits for the others.
        std::thread::scope(|scope| {
            let close = |mut worker: Worker<Mirror>| {
                let report = worker.close();
                (worker, report)
            };
            let threads: Vec<_> =
                rig.workers.drain(..).map(|worker| scope.spawn(move || close(worker))).collect();
            for thread in threads {
                let (worker, report) = thread.join().unwrap();
                assert!(report.sums_hold(), "{report:?}");
                assert_eq!(worker.pool.available(), worker.pool.capacity());
                ended.push(report);
            }
        });
        assert_eq!(pool.available(), pool.capacity());
        let mut all = ended[0].clone();
        ended[1..].iter().for_each(|report| all.add(report.clone()));
        assert_eq!(all.between(), 0, "{all:?}");
        let lost = all.ports[0].counters.rx_drops.get(DropReason::Shutdown);
        let sent = sent.lock().unwrap();
        assert_eq!(lost, if closes { 979 } else { 1_000 });
        assert_eq!(sent.len() as u64 + lost, 3_000);
        assert_order(&sent);
    }
}

fn small_pool() -> Pool {
    Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig::new(1)).unwrap()
}

impl Rig {
    fn dropped(&mut self, worker: usize, reason: DropReason) -> u64 {
        self.workers[worker].report().ports[0].counters.rx_drops.get(reason)
    }
}

/// The first fragment comes by one queue and the others by another; either may place their datagram, and either may be sooner.
#[test]
fn fragments_by_different_queues_meet() {
    for (first, later) in [(0, 1), (1, 0)] {
        for is_late in [false, true] {
            let firsts = [(FIRST, 4, 0), (FIRST, 5, 0), (FIRST, 7, 0)];
            let laters = [(LATER, 4, 1), (LATER, 5, 1), (LATER, 4, 2), (LATER, 7, 1), (LATER, 9, 1)];
            let script =
                |marks: &'static [Mark]| Box::new(move |count: u64| marks.get(count as usize).copied());
            let (firsts, laters) = (script(Vec::leak(firsts.into())), script(Vec::leak(laters.into())));
            let mut queues: Vec<Next> = vec![Box::new(|_| None), Box::new(|_| None)];
            queues[first] = firsts;
            queues[later] = laters;
            // Worker 2 has no queue, and owns, too.
            let mut rig = Rig::with_queues(3, 0..3, IdlePolicy::Adaptive, false, queues);
            let order = if is_late { [later, first] } else { [first, later] };
            for _ in 0..4 {
                order.into_iter().for_each(|at| _ = rig.workers[at].turn());
                rig.workers[2].turn();
            }
            let before = {
                let mut sent = rig.sent.lock().unwrap().clone();
                sent.sort_unstable();
                sent
            };
            let all = [
                (FIRST, 4, 0),
                (FIRST, 5, 0),
                (FIRST, 7, 0),
                (LATER, 4, 1),
                (LATER, 4, 2),
                (LATER, 5, 1),
                (LATER, 7, 1),
            ];
            assert_eq!(before, all, "{first} {later} {is_late}");
            // The one that waits in vain is with who places its datagram, and is accounted for there.
            let (reports, _) = rig.run_for(1);
            let dropped = |at: usize| reports[at].ports[0].counters.rx_drops.get(DropReason::Shutdown);
            assert_eq!((dropped(0), dropped(1)), (0, 1));
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
fn of_too_many_fragments_the_oldest_give_way() {
    let most = WAITING_MAX as u64;
    let next = move |count: u64| match count {
        count if count < most + 36 => Some((LATER, count as u16, 1)),
        // The first fragments of one that gave way, and of one that waits.
        count if count == most + 36 => Some((FIRST, 30, 0)),
        count if count == most + 37 => Some((FIRST, 40, 0)),
        _ => None,
    };
    let (reports, sent) = Rig::new(2, 0..2, IdlePolicy::Adaptive, false, next).run_for(100);
    assert_eq!(sent, [(FIRST, 30, 0), (FIRST, 40, 0), (LATER, 40, 1)]);
    let drops = &reports[0].ports[0].counters.rx_drops;
    assert_eq!((drops.get(DropReason::FragmentUnmatched), drops.get(DropReason::Shutdown)), (36, most - 1));
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
