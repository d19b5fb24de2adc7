//! A packet function splits its chain: both segments decide once a flow, the bytes are looked at in between.

#[path = "common/wires.rs"]
mod wires;

use etherparse::PacketBuilder;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{FlowConfig, FlowState};
use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::{Burst, Packet};
use millrace_dataplane::port::PortId;
use millrace_dataplane::time::{Time, VirtualClock};
use millrace_dataplane::worker::Worker;
use millrace_nf::chain::{ChainBuilder, Chains};
use millrace_nf::function::{FlowFunction, Forwarder, PacketFunction, Verdict};
use millrace_nf::walk::{Direction, Walk};
use millrace_nf::zone::ZoneId;
use std::any::Any;
use wires::{QueuePort, Wires};

/// Adds to the code point; the two ends of the chain mark differently, so that the order of segments can be seen.
struct Mark(u8);

impl FlowFunction for Mark {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "mark"
    }
    fn reads(&self) -> Reads {
        Reads::none().with(&[Field::Dscp])
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        let dscp = walk.headers.dscp().unwrap_or(0);
        let shift = if walk.direction == Direction::Forward { 4 } else { 2 };
        walk.headers.set_dscp(dscp * shift + self.0);
        (Verdict::Continue, None)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

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
        let out = if walk.direction == Direction::Forward { 1 } else { 0 };
        (Verdict::Forward(PortId(out)), None)
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

/// Drops what contains a word; capitals for the rest.
struct Inspect;

impl PacketFunction for Inspect {
    fn kind(&self) -> &'static str {
        "inspect"
    }
    fn process(&mut self, burst: &mut Burst, _: Time, dropped: &mut Vec<(Packet, DropReason)>) {
        let mut kept = Burst::new();
        for mut packet in burst.drain_all() {
            if packet.bytes().windows(4).any(|word| word == b"evil") {
                dropped.push((packet, DropReason::FirewallDenied));
            } else {
                packet.bytes_mut()[42..].make_ascii_uppercase();
                kept.push(packet).unwrap();
            }
        }
        burst.append(&mut kept);
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(1, 2)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

#[test]
fn both_segments_and_the_function_between_them_see_every_packet() {
    let arena = Arena::anonymous(32 << 20).unwrap();
    let mut chains = Chains::new();
    let chain = ChainBuilder::new("test", &["inside", "outside"])
        .function("first", Mark(1))
        .packet_function("inspect", Box::new(Inspect))
        .function("second", Mark(2))
        .forwarder("wire", Wire);
    let at = chains.insert(chain);
    chains.attach(PortId(0), at, ZoneId(0));
    chains.attach(PortId(1), at, ZoneId(1));
    let config = FlowConfig {
        sessions: SessionConfig { capacity: 100, parts: 0, timeouts: Timeouts::default() },
        cache_entries: 100,
        key_words: 8,
        operand_words: 8,
    };
    let state = FlowState::new(&arena, &config, None).unwrap();
    let engine = Engine::new(chains, state, 4, EngineConfig::default());
    let pool = Pool::new(&arena, PoolConfig::new(1024)).unwrap();
    let (mut worker, _commands) = Worker::new(engine, pool, Box::<VirtualClock>::default(), IdlePolicy::Poll);
    let wires: Vec<Wires> = (0..2).map(|_| Wires::default()).collect();
    for (i, wire) in wires.iter().enumerate() {
        worker.add_port(PortId(i as u16), Box::new(QueuePort::new(i, wire)));
    }

    for i in 0..300 {
        let payload: &[u8] = if i % 3 == 0 { b"something evil" } else { b"something good" };
        wires[i % 2].lock().unwrap().0.push_back(frame(payload));
    }
    while worker.turn() > 0 {}
    for (wire, dscp) in [(1, 6), (0, 5)] {
        let sent = wires[wire].lock().unwrap().1.clone();
        assert_eq!(sent.len(), 100);
        for frame in sent {
            assert_eq!(&frame[42..56], b"SOMETHING GOOD");
            assert_eq!(frame[15] >> 2, dscp, "0 * 4 + 1, * 4 + 2 forwards; 0 * 2 + 2, * 2 + 1 backwards");
        }
    }
    assert_eq!(worker.engine.counters().misses, 4, "one walk a segment and direction");
    let report = worker.close();
    assert_eq!(report.sums.drops.get(DropReason::FirewallDenied), 100);
    assert_eq!((report.sums.received, report.sums.sent), (300, 200));
    assert!(report.sums_hold(), "{report:?}");
    assert_eq!(report.pool.0, report.pool.1);
}
