//! A port that is taken out while packets wait in it: it sends them, receives no more, and is closed by whoever asked; every
//! packet is accounted for at each moment (R13).

use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::field::Reads;
use millrace_dataplane::flow::program::ProgramBuilder;
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{Event, FlowConfig, FlowState};
use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::{Burst, Packet};
use millrace_dataplane::port::{Port, PortCounters, PortId, PortInfo};
use millrace_dataplane::slow_path::{Decision, Fate, Miss, SlowPath};
use millrace_dataplane::time::{Time, VirtualClock};
use millrace_dataplane::worker::{Worker, WorkerReport};
use std::collections::VecDeque;

const IN: PortId = PortId(0);
const OUT: PortId = PortId(1);

/// All packets leave by [`OUT`].
struct Ahead;

impl SlowPath for Ahead {
    fn reads(&self, _port: PortId) -> Reads {
        Reads::none()
    }

    fn is_known(&self, _miss: &Miss<'_>, _state: &FlowState) -> bool {
        false
    }

    fn decide(&mut self, miss: &Miss<'_>, _state: &mut FlowState, decision: &mut Decision) {
        let mut builder = ProgramBuilder::new(&mut decision.program, miss.bytes, miss.layout, None);
        builder.output(OUT);
        builder.finish().unwrap();
        decision.fate = Fate::Replay;
    }

    fn events(&mut self, _events: &[Event], _state: &mut FlowState) {}

    fn tick(&mut self, _now: Time, _budget: usize, _state: &mut FlowState, _decision: &mut Decision) {}
}

/// Receives `left` frames, `burst` at a time; of what it is given it sends one packet a turn.
struct Slow {
    info: PortInfo,
    left: usize,
    burst: usize,
    waiting: VecDeque<Packet>,
    counters: PortCounters,
}

fn port(name: &str, left: usize, burst: usize) -> Box<dyn Port> {
    let info =
        PortInfo { name: name.into(), description: "slow".into(), mac: [2; 6], mtu: 1500, link_up: true };
    Box::new(Slow { info, left, burst, waiting: VecDeque::new(), counters: PortCounters::default() })
}

impl Port for Slow {
    fn rx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        for _ in 0..self.burst.min(self.left) {
            let mut packet = pool.take().unwrap();
            packet.set_contents(&[0x5a; 60]).unwrap();
            burst.push(packet).unwrap();
            self.left -= 1;
            self.counters.rx_packets += 1;
        }
    }

    fn tx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        self.waiting.extend(burst.drain_all());
        if let Some(packet) = self.waiting.pop_front() {
            pool.put(packet);
            self.counters.tx_packets += 1;
        }
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        self.counters.clone()
    }

    fn buffered(&self) -> u64 {
        self.waiting.len() as u64
    }

    fn close(&mut self, pool: Option<&mut Pool>) {
        self.waiting.iter().for_each(|_| self.counters.tx_drops.count(DropReason::Shutdown));
        let Some(pool) = pool else { return self.waiting.clear() };
        self.waiting.drain(..).for_each(|packet| pool.put(packet));
    }
}

/// A worker whose first port gives 8 packets a turn, 64 in all, to a second that sends one a turn.
fn worker() -> Worker<Ahead> {
    let arena = Arena::anonymous(16 << 20).unwrap();
    let sessions = SessionConfig { capacity: 16, parts: 0, timeouts: Timeouts::default() };
    let config = FlowConfig { sessions, cache_entries: 16, key_words: 8, operand_words: 8 };
    let state = FlowState::new(&arena, &config, Some(1)).unwrap();
    let engine = Engine::new(Ahead, state, 2, EngineConfig::default());
    let pool = Pool::new(&arena, PoolConfig::new(128)).unwrap();
    let clock = Box::new(VirtualClock::default());
    let (mut worker, _) = Worker::new(engine, pool, clock, IdlePolicy::Poll);
    worker.add_port(IN, port("in", 64, 8));
    worker.add_port(OUT, port("out", 0, 0));
    worker
}

fn checked(worker: &mut Worker<Ahead>) -> WorkerReport {
    let report = worker.report();
    assert!(report.sums_hold(), "{report:?}");
    report
}

fn sent(report: &WorkerReport, name: &str) -> (u64, u64) {
    let port = report.ports.iter().find(|port| port.info.name == name).unwrap();
    (port.counters.tx_packets, port.buffered)
}

#[test]
fn what_waits_in_a_leaving_port_is_sent_before_it_is_closed() {
    let mut worker = worker();
    worker.turn();
    assert_eq!(sent(&checked(&mut worker), "out"), (1, 7));
    worker.retire_port(OUT);
    // It is given nothing more, and nobody may close it yet.
    for turn in 0..6 {
        assert!(worker.take_retired(false).is_empty(), "turn {turn}");
        worker.turn();
        let report = checked(&mut worker);
        assert_eq!(sent(&report, "out"), (3 + turn, 5 - turn));
        assert_eq!(report.sums.drops.total(), 8 * (turn + 1), "what comes for it is dropped");
    }
    let mut retired = worker.take_retired(false);
    assert_eq!((retired.len(), worker.retiring()), (1, 0));
    worker.turn();
    assert_eq!(sent(&checked(&mut worker), "out"), (8, 0), "it counts while it is being closed");
    let (id, mut port) = retired.pop().unwrap();
    port.close(None);
    worker.note_closed(id, port.as_mut());
    assert_eq!(sent(&checked(&mut worker), "out"), (8, 0), "and when it is gone");
    let report = worker.close();
    assert!(report.sums_hold() && report.pool.0 == report.pool.1, "{report:?}");
}

/// A link that is down sends nothing: whoever asked stops waiting, and what waits is dropped with the port.
#[test]
fn a_port_that_does_not_finish_can_be_taken_at_once() {
    let mut worker = worker();
    worker.turn();
    worker.retire_port(OUT);
    let mut retired = worker.take_retired(true);
    let (id, mut port) = retired.pop().unwrap();
    assert_eq!((id, port.buffered()), (OUT, 6));
    // On a thread without the pool: frames find their way back by themselves.
    let port = std::thread::spawn(move || {
        port.close(None);
        port
    });
    let mut port = port.join().unwrap();
    worker.note_closed(id, port.as_mut());
    assert_eq!((worker.retiring(), port.counters().tx_drops.get(DropReason::Shutdown)), (0, 6));
    checked(&mut worker);
    let report = worker.close();
    assert!(report.sums_hold() && report.pool.0 == report.pool.1, "{report:?}");
}

/// Another port may take the place while the first one still sends.
#[test]
fn a_place_is_free_at_once() {
    let mut worker = worker();
    worker.turn();
    worker.retire_port(OUT);
    worker.add_port(OUT, port("next", 0, 0));
    worker.turn();
    let report = checked(&mut worker);
    assert_eq!((sent(&report, "out"), sent(&report, "next")), ((3, 5), (1, 7)));
    let report = worker.close();
    assert_eq!((report.pool.0, report.sums.drops.total()), (report.pool.1, 0));
}
