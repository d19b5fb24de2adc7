//! Packets that wait: released in order and all of them, dropped at once when the wait was in vain (R5, R13).

use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::field::Reads;
use millrace_dataplane::flow::program::ProgramBuilder;
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{Event, FlowConfig, FlowState};
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::{Decision, Fate, HoldToken, Miss, SlowPath, Wake};
use millrace_dataplane::time::Time;

const IN: PortId = PortId(0);
const OUT: PortId = PortId(1);
/// A frame whose first payload byte is this opens gates `from..to`; any other waits at the gate it names.
const OPEN: u16 = 0xffff;

/// Frames wait at gates until one comes that opens them.
#[derive(Default)]
struct Gates {
    open: std::collections::HashSet<u64>,
    /// What the next tick ends.
    given_up: Vec<u64>,
}

impl SlowPath for Gates {
    fn reads(&self, _port: PortId) -> Reads {
        Reads::none()
    }

    fn is_known(&self, _miss: &Miss<'_>, _state: &FlowState) -> bool {
        false
    }

    fn decide(&mut self, miss: &Miss<'_>, _state: &mut FlowState, decision: &mut Decision) {
        let word = |at: usize| u16::from_be_bytes([miss.bytes[at], miss.bytes[at + 1]]);
        if word(14) == OPEN {
            for gate in u64::from(word(16))..u64::from(word(18)) {
                self.open.insert(gate);
                decision.wakes.push(Wake::Release(HoldToken(gate)));
            }
            decision.fate = Fate::Consume;
        } else if self.open.contains(&u64::from(word(14))) {
            let mut builder = ProgramBuilder::new(&mut decision.program, miss.bytes, miss.layout, None);
            builder.output(OUT);
            builder.finish().unwrap();
            decision.fate = Fate::Replay;
        } else {
            decision.fate = Fate::Hold(HoldToken(u64::from(word(14))));
        }
    }

    fn events(&mut self, _events: &[Event], _state: &mut FlowState) {}

    fn tick(&mut self, _now: Time, _budget: usize, _state: &mut FlowState, decision: &mut Decision) {
        let given_up = std::mem::take(&mut self.given_up).into_iter();
        decision
            .wakes
            .extend(given_up.map(|gate| Wake::Discard(HoldToken(gate), DropReason::NeighbourUnreachable)));
    }
}

struct Rig {
    engine: Engine<Gates>,
    pool: Pool,
}

impl Rig {
    fn new() -> Self {
        let arena = Arena::anonymous(32 << 20).unwrap();
        let sessions = SessionConfig { capacity: 16, parts: 0, timeouts: Timeouts::default() };
        let config = FlowConfig { sessions, cache_entries: 16, key_words: 16, operand_words: 16 };
        let state = FlowState::new(&arena, &config, Some(1)).unwrap();
        let config = EngineConfig { budget: BudgetConfig::UNLIMITED, ..EngineConfig::default() };
        let pool = Pool::new(&arena, PoolConfig::new(2048)).unwrap();
        Self { engine: Engine::new(Gates::default(), state, 2, config), pool }
    }

    /// A frame of three numbers; the gate it waits at, or [`OPEN`] and the gates to open, and which one it is.
    fn send(&mut self, words: [u16; 3]) {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
        words.iter().for_each(|word| frame.extend(word.to_be_bytes()));
        frame.resize(60, 0);
        let mut burst = Burst::new();
        let mut packet = self.pool.take().unwrap();
        packet.set_contents(&frame).unwrap();
        burst.push(packet).unwrap();
        self.engine.process(IN, &mut burst, &mut self.pool, Time::from_secs(1));
    }

    /// The gates that what left had waited at, and the packets' numbers.
    fn left(&mut self) -> Vec<(u16, u16)> {
        let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let mut left = Vec::new();
        loop {
            let burst = self.engine.outputs.burst(OUT).unwrap();
            left.extend(burst.iter().map(|packet| (word(packet.bytes(), 14), word(packet.bytes(), 18))));
            self.pool.put_all(burst);
            if !self.engine.outputs.refill(OUT) {
                return left;
            }
        }
    }

    fn finish(mut self) {
        self.left();
        self.engine.drain(&mut self.pool);
        assert_eq!(self.engine.outputs.sums.balance(), 0, "R13");
        assert_eq!(self.pool.available(), self.pool.capacity());
    }
}

#[test]
fn released_packets_leave_in_the_order_of_their_release() {
    let mut rig = Rig::new();
    for number in 0..4 {
        (0..10).for_each(|gate| rig.send([gate, 0, number]));
    }
    assert_eq!(rig.engine.buffered(), 40);
    rig.send([OPEN, 0, 10]);
    let expected: Vec<_> = (0..10).flat_map(|gate| (0..4).map(move |number| (gate, number))).collect();
    assert_eq!(rig.left(), expected);
    assert_eq!(rig.engine.buffered(), 0);
    rig.finish();
}

/// What came behind them leaves behind them, however many were released at once.
#[test]
fn released_packets_are_not_overtaken() {
    let mut rig = Rig::new();
    (0..600).for_each(|gate| rig.send([gate, 0, 0]));
    rig.send([OPEN, 0, 600]);
    rig.send([599, 0, 1]);
    let expected: Vec<_> = (0..600).map(|gate| (gate, 0)).chain([(599, 1)]).collect();
    assert_eq!(rig.left(), expected);
    rig.finish();
}

/// Of one kind, as many wait as three quarters of the room are.
#[test]
fn a_flood_of_vain_waits_is_dropped_at_once() {
    let mut rig = Rig::new();
    (0..768).for_each(|gate| rig.send([gate, 0, 0]));
    rig.send([5000, 0, 0]);
    assert_eq!(rig.engine.outputs.sums.drops.get(DropReason::HoldFull), 1);
    rig.engine.slow.given_up = (0..768).collect();
    rig.engine.housekeeping(&mut rig.pool, Time::from_secs(2), 16);
    assert_eq!(rig.engine.buffered(), 0);
    assert_eq!(rig.engine.outputs.sums.drops.get(DropReason::NeighbourUnreachable), 768);
    rig.send([5000, 0, 0]);
    assert_eq!(rig.engine.buffered(), 1, "there is room again");
    rig.finish();
}
