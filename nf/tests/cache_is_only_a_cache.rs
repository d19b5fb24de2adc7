//! The cache is only a cache: one script of packets, changes, expiries and flushes runs with a cache and without one, and every
//! packet that leaves is the same, byte for byte; each is also held against an independent serialisation of the headers that its
//! walk ended with (R4). `MILLRACE_SEED=n` runs one script alone.

mod oracle;

use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{FlowConfig, FlowState};
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::{Burst, Verify};
use millrace_dataplane::port::PortId;
use millrace_dataplane::time::Time;
use millrace_nf::chain::{Chain, ChainBuilder, Chains};
use millrace_nf::headers::Parsed;
use millrace_nf::zone::ZoneId;
use oracle::frames::{self, Flow};
use oracle::functions::{Scatter, Scramble, Totals};
use oracle::random::{Random, for_each_seed};
use oracle::serialise::serialise;

const PORTS: u16 = 3;
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// More than any script opens: which session gives way in a full table depends on the order of timers, which hits don't renew.
const SESSIONS: usize = 8000;
/// More timers than any script has.
const ALL: usize = 1 << 20;

type Sent = Vec<Vec<Vec<u8>>>;

/// An engine with its frames.
struct Side {
    engine: Engine<Chains>,
    pool: Pool,
    /// Where frames lie in their buffers, and what lies behind them.
    places: Random,
    last: Vec<u8>,
}

impl Side {
    fn new(chain: Chain, sessions: usize, cache_entries: usize, verify: Verify) -> Self {
        let arena = Arena::anonymous(24 << 20).unwrap();
        let mut chains = Chains::new();
        let at = chains.insert(chain);
        for port in 0..PORTS {
            chains.attach(PortId(port), at, ZoneId(u8::from(port > 0)));
        }
        let parts = chains.parts();
        let config = FlowConfig {
            sessions: SessionConfig { capacity: sessions, parts, timeouts: Timeouts::default() },
            cache_entries,
            key_words: 16,
            operand_words: 24,
        };
        let state = FlowState::new(&arena, &config, Some(7)).unwrap();
        let engine = Engine::new(
            chains,
            state,
            usize::from(PORTS),
            EngineConfig { budget: BudgetConfig::UNLIMITED, verify, ..EngineConfig::default() },
        );
        let pool = Pool::new(&arena, PoolConfig::new(1500)).unwrap();
        Self { engine, pool, places: Random::new(9), last: Vec::new() }
    }

    fn send(&mut self, port: u16, frames: &[Vec<u8>], now: Time) {
        let mut burst = Burst::new();
        for frame in frames {
            let mut packet = self.pool.take().unwrap();
            match self.places.below(8) {
                // At the end of its buffer.
                0 => {
                    let room = packet.room_for_contents();
                    packet.set_contents(&vec![0xa5; room]).unwrap();
                    packet.pull_front(room - frame.len());
                    packet.bytes_mut().copy_from_slice(frame);
                }
                // In front of noise.
                1 => {
                    packet.set_contents(&self.places.bytes(frame.len() + 80)).unwrap();
                    packet.set_contents(frame).unwrap();
                }
                // In front of what would make a longer packet of it.
                _ => {
                    packet.set_contents(&self.last).unwrap();
                    packet.set_contents(frame).unwrap();
                }
            }
            burst.push(packet).unwrap();
            self.last.clone_from(frame);
        }
        self.engine.process(PortId(port), &mut burst, &mut self.pool, now);
    }

    fn collect(&mut self, sent: &mut Sent) -> usize {
        let mut count = 0;
        for (port, sent) in sent.iter_mut().enumerate() {
            let port = PortId(port as u16);
            loop {
                let burst = self.engine.outputs.burst(port).unwrap();
                count += burst.len();
                sent.extend(burst.iter().map(|packet| packet.bytes().to_vec()));
                self.pool.put_all(burst);
                if !self.engine.outputs.refill(port) {
                    break;
                }
            }
        }
        count
    }

    fn settle(&mut self) {
        self.engine.state.fold_all();
        self.engine.settle();
    }
}

/// The two sides of a script, and what it saw.
struct Script {
    random: Random,
    cached: Side,
    plain: Side,
    now: Time,
    packets: u64,
    checked: u64,
    recent: Vec<(u16, Vec<u8>)>,
}

impl Script {
    fn new(seed: u64, sessions: usize, cache_entries: usize, chain: impl Fn() -> Chain) -> Self {
        let verify = [Verify::Ipv4, Verify::None, Verify::All, Verify::Ipv4][seed as usize % 4];
        Self {
            random: Random::new(seed ^ 0x5eed),
            cached: Side::new(chain(), sessions, cache_entries, verify),
            plain: Side::new(chain(), sessions, 0, verify),
            now: Time::from_secs(10),
            packets: 0,
            checked: 0,
            recent: Vec::new(),
        }
    }

    /// Both sides do the same at the same time.
    fn both(&mut self, mut action: impl FnMut(&mut Engine<Chains>, &mut Random)) {
        let mut other = self.random.clone();
        action(&mut self.cached.engine, &mut self.random);
        action(&mut self.plain.engine, &mut other);
    }

    /// Bursts that arrive within one turn, so that outputs may overflow: whole through the cache, packet by packet without.
    fn burst(&mut self, port: u16, frames: &[Vec<u8>]) {
        let mut with = vec![Vec::new(); usize::from(PORTS)];
        let mut without = with.clone();
        for frames in frames.chunks(64) {
            self.cached.send(port, frames, self.now);
        }
        self.cached.collect(&mut with);
        for frame in frames {
            self.send_plain(port, frame, &mut without);
        }
        self.packets += frames.len() as u64;
        self.compare(&with, &without);
    }

    fn send_plain(&mut self, port: u16, frame: &[u8], without: &mut Sent) {
        let mut sent = vec![Vec::new(); usize::from(PORTS)];
        let originated = self.plain.engine.outputs.sums.originated;
        self.plain.send(port, std::slice::from_ref(&frame.to_vec()), self.now);
        let count = self.plain.collect(&mut sent);
        let quiet = originated == self.plain.engine.outputs.sums.originated;
        if quiet && count > 0 && sent.iter().all(|sent| sent.len() < 2) {
            for out in sent.iter().flatten() {
                self.check(frame, out);
            }
        }
        sent.into_iter().zip(without).for_each(|(sent, without)| without.extend(sent));
    }

    /// R4: what left is what the walk's headers mean. Frames that a sender would not make (wrong lengths or checksums, reserved
    /// bits) have no such meaning, and are compared between the two sides alone.
    fn check(&mut self, frame: &[u8], out: &[u8]) {
        let headers = self.plain.engine.slow.get(0).unwrap().last_headers();
        let Ok(before) = Parsed::parse(frame) else { return };
        if *headers.original() != before || headers.embedded().is_some() {
            return;
        }
        if serialise(&before, &before, frame).as_deref() != Some(frame) {
            return;
        }
        let expected = serialise(&before, headers.current(), frame);
        assert_eq!(expected.as_deref(), Some(out), "R4: in {frame:02x?}\nheaders {:?}", headers.current());
        self.checked += 1;
    }

    fn compare(&mut self, with: &Sent, without: &Sent) {
        for (port, (with, without)) in with.iter().zip(without).enumerate() {
            assert_eq!(with.len(), without.len(), "packets out of port {port}: {:?}", self.drops());
            for (with, without) in with.iter().zip(without) {
                assert_eq!(with, without, "out of port {port}");
                if self.recent.len() < 64 {
                    self.recent.push((port as u16, with.clone()));
                } else {
                    let at = self.random.below(64);
                    self.recent[at] = (port as u16, with.clone());
                }
            }
        }
        let (with, without) = (&self.cached.engine, &self.plain.engine);
        assert_eq!(with.outputs.sums, without.outputs.sums, "{:?}", self.drops());
        assert_eq!(with.outputs.sums.balance(), i128::from(with.buffered()), "R13");
        assert_eq!(with.buffered(), without.buffered());
        assert_eq!(with.state.sessions.count(), without.state.sessions.count());
    }

    fn drops(&self) -> [Vec<(DropReason, u64)>; 2] {
        [&self.cached, &self.plain].map(|side| side.engine.outputs.sums.drops.iter().collect())
    }

    fn housekeeping(&mut self) {
        for side in [&mut self.cached, &mut self.plain] {
            side.engine.housekeeping(&mut side.pool, self.now, ALL);
        }
        let mut with = vec![Vec::new(); usize::from(PORTS)];
        let mut without = with.clone();
        self.cached.collect(&mut with);
        self.plain.collect(&mut without);
        self.compare(&with, &without);
    }

    /// Time passes: mostly little, now and then enough for anything to expire.
    fn pass_time(&mut self) {
        let millis = match self.random.below(10) {
            0 => 100_000 + self.random.below(400_000),
            1..3 => self.random.below(40_000),
            _ => self.random.below(200),
        };
        self.now = Time::from_millis(self.now.as_millis() + millis as u64);
        self.housekeeping();
    }

    /// A burst of any kind.
    fn traffic(&mut self, flows: &mut [Flow]) {
        let recent = (!self.recent.is_empty()).then(|| self.random.below(self.recent.len()));
        let answer = recent.map(|at| self.recent[at].clone());
        let random = &mut self.random;
        let most = if random.once_in(12) { 300 } else { 48 };
        let count = 1 + random.below(most);
        let first = random.below(flows.len());
        let port = flows[first].port;
        let mut frames = Vec::new();
        match (random.below(8), answer) {
            (0 | 1, Some((port, frame))) => {
                frames.extend((0..count).filter_map(|_| frames::reply(random, &frame, OWN)));
                return self.burst(port, &frames);
            }
            (2, Some((port, frame))) if random.once_in(3) => {
                frames.extend(frames::unreachable(random, &frame, OWN));
                return self.burst(port, &frames);
            }
            _ => {}
        }
        while frames.len() < count {
            let near = (first + random.below(6)) % flows.len();
            if flows[near].port != port {
                break;
            }
            let frame = flows[near].packet(random);
            match random.below(60) {
                0 => frames.push(frames::garbage(random, &frame)),
                1 | 2 if frames.len() + 2 <= count => match frames::fragments(random, &frame) {
                    Some(pieces) => frames.extend(pieces),
                    None => frames.push(frame),
                },
                // Short, in a buffer that held the rest.
                3..6 if frames.len() + 2 <= count && frame.len() > 34 => {
                    let cut = 34 + random.below(frame.len().min(72) - 34);
                    let short = frame[..cut].to_vec();
                    frames.extend([frame, short]);
                }
                _ => frames.push(frame),
            }
        }
        self.burst(port, &frames);
    }

    /// Everything is accounted for, every frame is back, every read was declared.
    fn finish(mut self) -> (u64, u64, u64) {
        let mut rest = vec![Vec::new(); usize::from(PORTS)];
        for side in [&mut self.cached, &mut self.plain] {
            side.engine.drain(&mut side.pool);
            side.collect(&mut rest);
            assert_eq!(side.engine.outputs.sums.balance(), 0, "R13");
            assert_eq!(side.pool.available(), side.pool.capacity(), "frames are missing");
            assert_eq!(side.engine.slow.get(0).unwrap().counters().undeclared_reads, 0, "R2");
        }
        assert_eq!(self.plain.engine.counters().hits, 0);
        (self.packets, self.checked, self.cached.engine.counters().hits)
    }
}

fn summary(name: &str, sums: (u64, u64, u64)) {
    let (packets, checked, hits) = sums;
    println!("{name}: {packets} packets, {hits} hits, {checked} held against the serialisation");
    assert!(hits * 3 > packets, "most packets should be carried by the cache");
    assert!(checked * 4 > packets, "most packets that leave should be checked");
}

fn add(sums: &mut (u64, u64, u64), more: (u64, u64, u64)) {
    *sums = (sums.0 + more.0, sums.1 + more.1, sums.2 + more.2);
}

/// Chains of one to five generated functions.
fn scrambled(seed: u64) -> (Chain, usize) {
    let mut random = Random::new(seed);
    let mut builder = ChainBuilder::new("scrambled", &["inside", "outside"]);
    let count = 1 + random.below(5);
    for id in 0..count as u64 {
        builder = builder.function(format!("f{id}"), Scramble::random(id + 1, &mut random));
    }
    (builder.forwarder("out", Scatter::random(PORTS, &mut random)), count)
}

fn scrambled_script(seed: u64, packets: u64) -> (u64, u64, u64) {
    let functions = scrambled(seed).1;
    let mut random = Random::new(seed ^ 1);
    let entries = *random.pick(&[8, 64, 1000, 4000]);
    let mut script = Script::new(seed, SESSIONS, entries, || scrambled(seed).0);
    let count = 20 + random.below(150);
    let mut flows: Vec<_> = (0..count).map(|_| Flow::random(&mut random, OWN)).collect();
    while script.packets < packets {
        match script.random.below(80) {
            0 => script.cached.engine.state.flush(),
            1 | 2 => script.pass_time(),
            3 => {
                let which = script.random.below(functions);
                script.both(|engine, random| {
                    let chain = engine.slow.chain(0).unwrap();
                    let watch = chain.function::<Scramble>(&format!("f{which}")).unwrap().change(random);
                    engine.state.validity.change(watch);
                });
            }
            4 if script.random.once_in(3) => script.both(|engine, random| {
                let watch = engine.slow.chain(0).unwrap().function::<Scatter>("out").unwrap().change(random);
                engine.state.validity.change(watch);
            }),
            5 => {
                let at = script.random.below(flows.len());
                flows[at] = Flow::random(&mut random, OWN);
            }
            _ => script.traffic(&mut flows),
        }
    }
    // R7: the functions were told the same.
    let mut totals = [Vec::<Totals>::new(), Vec::new()];
    for (side, totals) in [&mut script.cached, &mut script.plain].into_iter().zip(&mut totals) {
        side.settle();
        let chain = side.engine.slow.chain(0).unwrap();
        totals.extend((0..functions).map(|i| chain.function::<Scramble>(&format!("f{i}")).unwrap().totals));
    }
    assert_eq!(totals[0], totals[1]);
    script.finish()
}

#[test]
fn generated_chains() {
    let mut sums = (0, 0, 0);
    for_each_seed(1, 300, |seed| add(&mut sums, scrambled_script(seed, 10_000)));
    summary("generated chains", sums);
}
