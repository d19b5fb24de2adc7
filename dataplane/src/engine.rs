//! The engine: a burst in, bursts per output out.
//!
//! Three short passes over half a burst, each asking for the memory of the next: parse and hash; match tags; compare and replay. Misses
//! are walked where they stand (R5): whatever a walk changes, the packets behind it look up again.

mod foresee;
mod observe;
mod passes;
mod stages;
mod whole;

use crate::budget::{BudgetConfig, MissBudget};
use crate::capture::Moment;
use crate::drops::DropReason;
use crate::flow::cache::{Owner, Slot};
use crate::flow::key::{Gather, KEY_WORDS_MAX, KeySchema, NEAR_KEY_WORDS};
use crate::flow::replay::replay;
use crate::flow::state::FlowState;
use crate::flow::tcp::{Segment, TcpVerdict};
use crate::flow::template::{IMAGE_WORDS, Template};
use crate::hold::{HoldLimits, Holds};
use crate::limits::{BURST_PACKETS_MAX, LARGE_FRAMES_TURN};
use crate::memory::Pool;
pub use crate::outputs::{Outputs, Sums};
use crate::packet::parse::parse;
use crate::packet::{Burst, Drain, Layout, Packet, Verify};
use crate::port::PortId;
use crate::slow_path::{Decision, Fate, Miss, SlowPath, Wake};
use crate::time::Time;
pub use foresee::Foreseen;
pub use observe::{Observed, Observer, Outcome};
use passes::{LANE, LANES, Lane, Lanes, NO_SLOT, Parsed};

/// How many packets ahead a miss asks for its memory: about as long as memory takes, in walks.
const AHEAD: usize = 8;
/// Packets that a frame carried whole counts as where a burst is held against a full one: there are no more of them in a turn.
const WHOLE_LOAD: usize = BURST_PACKETS_MAX / LARGE_FRAMES_TURN;
/// Most packets that wait for the control plane.
const PUNTS_MAX: usize = 256;

/// How the engine treats what it receives.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineConfig {
    /// Which checksums are verified.
    pub verify: Verify,
    /// How much time misses may take.
    pub budget: BudgetConfig,
    /// How many packets may wait.
    pub holds: HoldLimits,
}

/// What the engine did, beside the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Packets that an entry carried.
    pub hits: u64,
    /// Packets that walked because no entry answered.
    pub misses: u64,
    /// Packets that walked because they failed a guard of their entry, or can't be keyed.
    pub alone: u64,
    /// Walks whose decision read a field that was not declared (R2). Must stay zero.
    pub undeclared_reads: u64,
}

impl EngineCounters {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.alone += other.alone;
        self.undeclared_reads += other.undeclared_reads;
    }
}

/// A packet for the control plane.
#[derive(Debug)]
pub struct Punt {
    /// Why, in the words of the function.
    pub cookie: u64,
    /// The packet as it came.
    pub packet: Packet,
    /// Where it came from.
    pub port: PortId,
}

/// One worker's way from a burst to its outputs.
pub struct Engine<S: SlowPath> {
    /// Cache, sessions, validity, templates.
    pub state: FlowState,
    /// What decides misses.
    pub slow: S,
    /// Where packets go.
    pub outputs: Outputs,
    schemas: Vec<Option<KeySchema>>,
    generation: u32,
    lanes: Box<Lanes>,
    decision: Decision,
    holds: Holds,
    punts: Vec<Punt>,
    punting: bool,
    budget: MissBudget,
    config: EngineConfig,
    counters: EngineCounters,
    /// The packet for whose place and record memory is still to be asked, see [`Self::prefetch_miss`].
    half_asked: Option<usize>,
    /// What a stage dropped and is still to be counted.
    dropped: Vec<(Packet, DropReason)>,
    /// Who follows some of the packets.
    observer: Option<Box<dyn Observer<S>>>,
}

impl<S: SlowPath> std::fmt::Debug for Engine<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("counters", &self.counters).finish_non_exhaustive()
    }
}

/// The words of a key, none if the packet can't be cached; and their hash.
type Hashed<'a> = (&'a [u64], u64);

/// For which misses of a burst memory was asked.
struct Asked {
    /// The lane to go on with.
    next: usize,
    /// How many more walks will be admitted.
    walks: usize,
}

#[derive(Clone, Copy)]
enum Lookup {
    Hit(Slot),
    /// An entry is there, but this packet may not take it.
    Alone,
    Miss,
}

impl<S: SlowPath> Engine<S> {
    /// For ports 0 to `ports` - 1.
    pub fn new(slow: S, state: FlowState, ports: usize, config: EngineConfig) -> Self {
        let mut engine = Self {
            state,
            slow,
            outputs: Outputs::new(ports),
            schemas: Vec::new(),
            generation: 0,
            lanes: Box::new([LANE; LANES]),
            decision: Decision::default(),
            holds: Holds::new(config.holds),
            punts: Vec::new(),
            punting: false,
            budget: MissBudget::new(config.budget),
            config,
            counters: EngineCounters::default(),
            half_asked: None,
            dropped: Vec::with_capacity(BURST_PACKETS_MAX),
            observer: None,
        };
        engine.schemas.resize_with(ports, || None);
        (0..ports).for_each(|port| engine.compile_schema(PortId(port as u16)));
        engine.connect_stages();
        engine
    }

    /// Compiles the key of a port anew after the functions behind it changed what they read. Entries under the old key
    /// match no more if the key changed.
    pub fn compile_schema(&mut self, port: PortId) {
        let at = usize::from(port.0);
        let reads = self.slow.reads(port);
        if self.schemas.len() <= at {
            self.schemas.resize_with(at + 1, || None);
        }
        self.outputs.open(port);
        if self.schemas[at].as_ref().is_some_and(|schema| *schema.reads() == reads) {
            return;
        }
        self.generation = self.generation.wrapping_add(1);
        self.schemas[at] = Some(KeySchema::new(port, self.generation, reads));
    }

    /// The key schema of a port.
    pub fn schema(&self, port: PortId) -> Option<&KeySchema> {
        self.schemas.get(usize::from(port.0)).and_then(Option::as_ref)
    }

    /// What it did.
    pub fn counters(&self) -> EngineCounters {
        self.counters
    }

    /// Packets that wait here.
    pub fn buffered(&self) -> u64 {
        (self.holds.count() + self.punts.len()) as u64 + self.slow.under_way()
    }

    /// Packets for the control plane from now on wait for [`Self::take_punts`]; without that they are dropped.
    pub fn enable_punts(&mut self) {
        self.punting = true;
    }

    /// The packets for the control plane. The caller gives their frames back and counts them as consumed.
    pub fn take_punts(&mut self, pool: &mut Pool, mut each: impl FnMut(u64, PortId, &[u8])) {
        for punt in self.punts.drain(..) {
            each(punt.cookie, punt.port, punt.packet.bytes());
            self.outputs.consume(punt.packet, pool);
        }
    }

    /// Takes all packets of `burst`, which came from `port`, to their outputs.
    pub fn process(&mut self, port: PortId, burst: &mut Burst, pool: &mut Pool, now: Time) {
        self.outputs.sums.received += burst.len() as u64;
        self.process_burst(port, burst, pool, now, self.observer.is_some());
    }

    /// The same for packets that are here already: they come from a packet function, by its logical port. Whoever looked on has
    /// seen them.
    pub fn process_again(&mut self, port: PortId, burst: &mut Burst, pool: &mut Pool, now: Time) {
        self.process_burst(port, burst, pool, now, false);
    }

    #[inline]
    fn process_burst(
        &mut self,
        port: PortId,
        burst: &mut Burst,
        pool: &mut Pool,
        now: Time,
        is_observed: bool,
    ) {
        let count = burst.len();
        let whole =
            if pool.meets_large() { burst.iter().filter(|packet| packet.is_whole()).count() } else { 0 };
        self.budget.begin(now, count + whole * (WHOLE_LOAD - 1));
        let hits_before = self.counters.hits;
        let mut drain = burst.drain_all();
        if is_observed {
            self.process_observed(port, &mut drain, pool, now);
        }
        while !drain.rest().is_empty() {
            self.process_part(port, &mut drain, usize::MAX, pool, now);
        }
        self.budget.observe((self.counters.hits - hits_before) as usize, count);
        self.outputs.give_back_refused(pool);
    }

    /// The next packets, as many as there are lanes, and at most `most`.
    fn process_part(&mut self, port: PortId, drain: &mut Drain<'_>, most: usize, pool: &mut Pool, now: Time) {
        let Self { lanes, state, schemas, config, .. } = self;
        let schema = schemas.get(usize::from(port.0)).and_then(Option::as_ref);
        let count = drain.rest().len().min(lanes.len()).min(most);
        let part = drain.rest().get(..count).unwrap_or(&[]);
        passes::parse_and_hash(lanes, part, schema, &state.cache, config.verify);
        let misses = passes::match_tags(lanes, count, &state.cache);
        if state.templates.any_tracks_tcp() {
            let first = lanes.iter().take(count.min(passes::TRACKERS_AHEAD));
            first.for_each(|lane| passes::prefetch_tracker(lane, &state.cache, &state.sessions));
        }
        let mutations = self.state.cache.mutations();
        let mut asked = Asked { next: 0, walks: self.budget.allowance(misses) };
        if misses > 0 {
            (0..AHEAD).for_each(|ahead| self.prefetch_miss(&mut asked, port, part, 0, ahead, now));
        }
        let now_millis = now.as_millis() as u32;
        let mut next = 0;
        while next < count {
            let fresh = self.state.cache.mutations() == mutations;
            if fresh {
                let Self { lanes, state, schemas, outputs, counters, .. } = self;
                let schema = schemas.get(usize::from(port.0)).and_then(Option::as_ref);
                let lanes = lanes.get(next..count).unwrap_or(&[]);
                let express = match (state.templates.any_tracks_tcp(), pool.meets_large()) {
                    (false, _) => passes::express::<false, false>,
                    (true, false) => passes::express::<true, false>,
                    (true, true) => passes::express::<true, true>,
                };
                let taken =
                    schema.map_or(0, |schema| express(lanes, drain, schema, state, outputs, now_millis));
                counters.hits += taken as u64;
                next += taken;
            }
            if next == count {
                break;
            }
            if self.lanes[next].misses() {
                let part = drain.rest().get(..count - next).unwrap_or(&[]);
                self.prefetch_miss(&mut asked, port, part, next, AHEAD, now);
            }
            let Some(packet) = drain.next() else { break };
            self.one_by_one(next, fresh, port, packet, pool, now);
            next += 1;
        }
    }

    /// Asks for what the next walk that was not asked for will touch, as the `ahead`-th from now: some fifteen lines, for each of
    /// which a walk alone would wait. As many at once would wait for each other, so those that the walk needs last are asked for
    /// after the walk of the packet at hand. The first of `packets` is that of lane `first`.
    #[cold]
    #[inline(never)]
    fn prefetch_miss(
        &mut self,
        asked: &mut Asked,
        port: PortId,
        packets: &[Packet],
        first: usize,
        ahead: usize,
        now: Time,
    ) {
        let Self { lanes, state, slow, schemas, .. } = self;
        let from = asked.next.max(first);
        let rest = packets.get(from - first..).unwrap_or(&[]);
        let mut missing =
            lanes.iter().skip(from).zip(rest).enumerate().filter(|(_, (lane, _))| lane.misses());
        let Some((at, (lane, packet))) = missing.next() else {
            asked.next = from + rest.len();
            return;
        };
        asked.next = from + at + 1;
        let at = from + at;
        let may_walk = asked.walks > 0;
        let gather = gather_of(schemas, port, &lane.layout);
        let miss = Miss { bytes: packet.bytes(), layout: lane.layout, port, gather, now };
        slow.prefetch(&miss, may_walk, state);
        if may_walk {
            asked.walks -= 1;
            // Where packets hit, no walk came in between.
            self.prefetch_rest(ahead.saturating_sub(1));
            self.half_asked = Some(at);
            if ahead < AHEAD {
                self.prefetch_rest(ahead);
            }
        }
    }

    /// Asks for the record and the place of the packet that was half asked for, as the `ahead`-th from now.
    #[inline(always)]
    fn prefetch_rest(&mut self, ahead: usize) {
        let Some(lane) = self.half_asked.take().and_then(|at| self.lanes.get(at)) else { return };
        self.state.sessions.prefetch_free(ahead);
        if lane.is_keyed() {
            self.state.cache.prefetch_place(lane.hash);
        }
    }

    /// Takes packet `i` of its burst to its output, whatever it needs.
    #[inline(never)]
    fn one_by_one(
        &mut self,
        i: usize,
        fresh: bool,
        port: PortId,
        packet: Packet,
        pool: &mut Pool,
        now: Time,
    ) {
        let lane = self.lanes[i];
        if packet.is_whole() {
            return self.process_whole(&lane, port, packet, pool, now);
        }
        if let Parsed::Wrong(reason) = lane.parsed {
            return self.outputs.drop_packet(packet, reason, pool);
        }
        let schema = self.schemas.get(usize::from(port.0)).and_then(Option::as_ref);
        let near = schema
            .filter(|_| fresh && lane.slot != NO_SLOT)
            .and_then(|schema| passes::near_entry(&lane, &packet, schema, &mut self.state.cache));
        let looked = near.map(|slot| self.check(&lane, slot, packet.bytes(), ip_bytes(&lane.layout)));
        if let Some(Lookup::Hit(slot)) = looked {
            self.counters.hits += 1;
            return self.hit(slot, NEAR_KEY_WORDS, packet, pool, now.as_millis() as u32);
        }
        let mut key = [0; KEY_WORDS_MAX];
        let gather = gather_of(&self.schemas, port, &lane.layout);
        let words = gather.map_or(0, |gather| gather.gather(packet.bytes(), &mut key));
        let key = &key[..words];
        let found = looked.unwrap_or_else(|| self.look_up(&lane, key, fresh, packet.bytes()));
        self.go(&lane, found, key, port, packet, pool, now);
    }

    /// A packet whose key was looked up hits or walks.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    fn go(
        &mut self,
        lane: &Lane,
        found: Lookup,
        key: &[u64],
        port: PortId,
        packet: Packet,
        pool: &mut Pool,
        now: Time,
    ) {
        match found {
            Lookup::Hit(slot) => {
                self.counters.hits += 1;
                self.hit(slot, key.len(), packet, pool, now.as_millis() as u32);
            }
            Lookup::Alone => self.walk(lane.layout, (key, lane.hash), port, packet, pool, now, true),
            Lookup::Miss => self.walk(lane.layout, (key, lane.hash), port, packet, pool, now, false),
        }
    }

    /// Finds the entry of a packet by its key, and checks it. `fresh`: nothing changed since [`passes::match_tags`].
    fn look_up(&mut self, lane: &Lane, key: &[u64], fresh: bool, bytes: &[u8]) -> Lookup {
        if key.is_empty() || fresh && lane.slot == NO_SLOT {
            return Lookup::Miss;
        }
        match self.state.cache.find(lane.hash, key) {
            Some(slot) => self.check(lane, slot, bytes, ip_bytes(&lane.layout)),
            None => Lookup::Miss,
        }
    }

    /// Checks validity, guards and trackers of a packet's entry. `length` is held against its longest: from the IP header on.
    fn check(&mut self, lane: &Lane, slot: Slot, bytes: &[u8], length: u16) -> Lookup {
        let header = self.state.cache.header(slot);
        if header.stamp != self.state.validity.epoch() && !self.revalidate(slot, header.stamp) {
            return Lookup::Miss;
        }
        let Some(template) = self.state.templates.get(header.template) else { return Lookup::Miss };
        let layout = &lane.layout;
        if !guards_hold(template, layout, length, header.length_max) {
            return Lookup::Alone;
        }
        if template.trackers.tcp
            && let Some(owner) = header.owner()
        {
            let segment = Segment::read(bytes, layout);
            let header_bytes = bytes.get(usize::from(layout.l4)..usize::from(layout.end)).unwrap_or(&[]);
            let hot = self.state.sessions.hot(owner.session);
            if hot.tcp.segment(owner.reply, &segment, header_bytes) != TcpVerdict::Valid {
                return Lookup::Alone;
            }
        }
        Lookup::Hit(slot)
    }

    /// Something changed since the entry was last known to be valid: was it anything that it used?
    #[cold]
    fn revalidate(&mut self, slot: Slot, stamp: u32) -> bool {
        let state = &mut self.state;
        if state.validity.holds(stamp, state.cache.watches(slot)) {
            state.cache.restamp(slot, state.validity.epoch());
            return true;
        }
        state.invalidate(slot);
        self.drain_events();
        false
    }

    #[inline(always)]
    fn hit(&mut self, slot: Slot, key_words: usize, packet: Packet, pool: &mut Pool, now_millis: u32) {
        let Self { state, outputs, .. } = self;
        let header = state.cache.header(slot);
        state.cache.count_packet(slot, packet.len(), now_millis);
        let mut image = [0; IMAGE_WORDS];
        let operands = state.cache.operands(slot, key_words, &mut image);
        if let Some(template) = state.templates.get(header.template) {
            replay(template, operands, (header.l3_delta, header.l4_delta), packet, pool, outputs);
        }
    }

    /// Walks a packet through the chain, if the budget allows it.
    #[allow(clippy::too_many_arguments)]
    #[cold]
    #[inline(never)]
    fn walk(
        &mut self,
        layout: Layout,
        key: Hashed<'_>,
        port: PortId,
        packet: Packet,
        pool: &mut Pool,
        now: Time,
        alone: bool,
    ) {
        if self.budget.is_limited() {
            let Self { budget, slow, state, schemas, .. } = self;
            let gather = gather_of(schemas, port, &layout);
            let miss = Miss { bytes: packet.bytes(), layout, port, gather, now };
            if !budget.admit(|| source_of(packet.bytes(), &layout), || slow.is_known(&miss, state)) {
                return self.outputs.drop_packet(packet, DropReason::MissBudget, pool);
            }
        }
        let start = self.budget.is_sample().then(std::time::Instant::now);
        self.decide_and_apply(layout, key, port, packet, pool, now, alone);
        if let Some(start) = start {
            self.budget.measured(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        self.finish_wakes(pool, now);
        self.prefetch_rest(AHEAD - 1);
    }

    #[allow(clippy::too_many_arguments)]
    fn decide_and_apply(
        &mut self,
        layout: Layout,
        key: Hashed<'_>,
        port: PortId,
        packet: Packet,
        pool: &mut Pool,
        now: Time,
        alone: bool,
    ) {
        if alone || key.0.is_empty() {
            self.counters.alone += 1;
        } else {
            self.counters.misses += 1;
        }
        self.decision.clear();
        let gather = gather_of(&self.schemas, port, &layout);
        let miss = Miss { bytes: packet.bytes(), layout, port, gather, now };
        let changes = self.state.validity.changes();
        self.slow.decide(&miss, &mut self.state, &mut self.decision);
        // What it committed may be what it used: the next packet of the flow decides anew.
        self.decision.cacheable &= self.state.validity.changes() == changes;
        self.drain_events();
        self.emit_frames(pool);
        match self.decision.fate {
            Fate::Replay => self.leave(key, packet, pool, now, alone),
            Fate::Drop(reason) => {
                self.tell_why(layout, port, &packet, reason, pool, now);
                self.outputs.drop_packet(packet, reason, pool);
            }
            Fate::Undecided => self.outputs.drop_packet(packet, DropReason::NoOutput, pool),
            Fate::Consume => self.outputs.consume(packet, pool),
            Fate::Hold(token) => {
                if let Err(packet) = self.holds.keep(token, packet, port) {
                    self.outputs.drop_packet(packet, DropReason::HoldFull, pool);
                }
            }
            Fate::Punt(cookie) => {
                if self.punting && self.punts.len() < PUNTS_MAX {
                    self.punts.push(Punt { cookie, packet, port });
                } else {
                    self.outputs.drop_packet(packet, DropReason::RingFull, pool);
                }
            }
        }
        // Only now: a packet's own wait may have been refused.
        self.note_wakes(pool, now);
    }

    /// Tells who copies what is dropped why a walk ended so.
    fn tell_why(
        &mut self,
        layout: Layout,
        port: PortId,
        packet: &Packet,
        reason: DropReason,
        pool: &mut Pool,
        now: Time,
    ) {
        let Some(recorder) = pool.recorder() else { return };
        // It may have waited, and come from elsewhere than what is at hand.
        recorder.enter(Moment::Inside, Some(port), now);
        if recorder.explains(packet.bytes(), reason) {
            let Self { slow, state, schemas, .. } = self;
            let miss =
                Miss { bytes: packet.bytes(), layout, port, gather: gather_of(schemas, port, &layout), now };
            recorder.explain(|text| slow.say_why(&miss, state, reason, text));
        }
    }

    /// A walked packet leaves as later ones of its flow do: by its program, through the same trackers (R4).
    fn leave(&mut self, key: Hashed<'_>, packet: Packet, pool: &mut Pool, now: Time, alone: bool) {
        let Self { state, decision, outputs, .. } = self;
        let program = &mut decision.program;
        if let (Some(owner), Some(tracked)) = (decision.owner, &decision.tracked) {
            let header = packet.bytes().get(usize::from(tracked.header)..).unwrap_or(&[]);
            let tracker = &mut state.sessions.hot(owner.session).tcp;
            let verdict = tracker.segment(owner.reply, &tracked.segment, header);
            if verdict != TcpVerdict::Valid {
                return outputs.drop_packet(packet, DropReason::TcpInvalid, pool);
            }
        }
        if let Some(owner) = decision.owner {
            state.sessions.touch(owner.session, owner.reply, now);
        }
        let stored = if decision.cacheable && !alone && !key.0.is_empty() {
            state.remember(key, program, decision.owner, &decision.watches, now)
        } else {
            None
        };
        match (stored, decision.owner) {
            (Some(slot), _) => state.cache.count_packet(slot, packet.len(), now.as_millis() as u32),
            (None, Some(owner)) => state.credit(owner, packet.len(), now),
            (None, None) => {}
        }
        let deltas = (program.l3_delta, program.l4_delta);
        replay(&program.template, &program.operands, deltas, packet, pool, outputs);
        self.drain_events();
    }

    fn drain_events(&mut self) {
        let Self { state, slow, .. } = self;
        state.tell_events(|events, state| slow.events(events, state));
    }

    fn emit_frames(&mut self, pool: &mut Pool) {
        for frame in self.decision.frames.drain(..) {
            self.outputs.originate(frame.port, &frame.bytes, pool);
        }
    }

    /// Waits ended: what is to be dropped is, what is to walk again stands in line.
    fn note_wakes(&mut self, pool: &mut Pool, now: Time) {
        let Self { decision, holds, outputs, .. } = self;
        if decision.wakes.is_empty() {
            return;
        }
        for wake in decision.wakes.drain(..) {
            match wake {
                Wake::Discard(token, reason) => {
                    for (packet, port) in holds.discard(token) {
                        if let Some(recorder) = pool.recorder() {
                            recorder.enter(Moment::Inside, Some(port), now);
                        }
                        outputs.drop_packet(packet, reason, pool);
                    }
                }
                Wake::Release(token) => holds.release(token),
            }
        }
    }

    /// Walks the packets whose wait ended, in the order in which it did. All of them, so that no later packet of their flows
    /// overtakes them: they are at most as many as can wait. One that waits again and is woken again, by turns with another,
    /// stays in line for the next call.
    fn finish_wakes(&mut self, pool: &mut Pool, now: Time) {
        if self.holds.count() == 0 {
            return;
        }
        for _ in 0..self.holds.capacity() {
            let Some((packet, port)) = self.holds.take_ready() else { return };
            self.walk_again(port, packet, pool, now);
        }
    }

    fn walk_again(&mut self, port: PortId, packet: Packet, pool: &mut Pool, now: Time) {
        if let Some(recorder) = pool.recorder() {
            recorder.enter(Moment::Inside, Some(port), now);
        }
        let layout = match parse(packet.bytes(), Verify::None) {
            Ok(layout) => layout,
            Err(reason) => return self.outputs.drop_packet(packet, reason, pool),
        };
        let mut key = [0; KEY_WORDS_MAX];
        let words = gather_of(&self.schemas, port, &layout).map_or(0, |g| g.gather(packet.bytes(), &mut key));
        let key = &key[..words];
        let hash = self.state.cache.hash(key);
        let known = words > 0 && self.state.cache.find(hash, key).is_some();
        self.decide_and_apply(layout, (key, hash), port, packet, pool, now, known);
    }

    /// A slice of housekeeping, bounded in objects: timers of sessions and functions, folding of counters.
    pub fn housekeeping(&mut self, pool: &mut Pool, now: Time, budget: usize) {
        self.state.expire(now, budget);
        self.state.fold_full(now, budget / 2);
        self.drain_events();
        self.tick(pool, now, budget);
    }

    fn tick(&mut self, pool: &mut Pool, now: Time, budget: usize) {
        self.decision.clear();
        self.slow.tick(now, budget, &mut self.state, &mut self.decision);
        self.drain_events();
        self.emit_frames(pool);
        self.note_wakes(pool, now);
        self.finish_wakes(pool, now);
        self.outputs.give_back_refused(pool);
    }

    /// What lies behind `ports` changed, and with it who would wake their packets that are held: they walk again, at most as
    /// many as can wait.
    pub fn release_held(&mut self, ports: &[PortId], pool: &mut Pool, now: Time) {
        for token in self.holds.tokens_of(ports) {
            self.holds.release(token);
        }
        self.finish_wakes(pool, now);
    }

    /// Drops what is held, with [`DropReason::Shutdown`]: the end of a run.
    pub fn drain(&mut self, pool: &mut Pool) {
        self.close_stages();
        for (packet, _) in self.holds.discard_all() {
            self.outputs.drop_packet(packet, DropReason::Shutdown, pool);
        }
        for punt in std::mem::take(&mut self.punts) {
            self.outputs.drop_packet(punt.packet, DropReason::Shutdown, pool);
        }
    }

    /// Tells functions about sessions that a command ended.
    pub fn settle(&mut self) {
        self.drain_events();
    }

    /// The session of a decision that was just made, for tests and traces.
    pub fn last_owner(&self) -> Option<Owner> {
        self.decision.owner
    }
}

#[inline(always)]
fn guards_hold(template: &Template, layout: &Layout, length: u16, length_max: u16) -> bool {
    !layout.flags.intersects(template.guards) & (layout.ttl >= template.ttl_min) & (length <= length_max)
}

/// Bytes of a packet from its IP header on.
#[inline(always)]
fn ip_bytes(layout: &Layout) -> u16 {
    layout.end - layout.l3
}

fn gather_of<'a>(schemas: &'a [Option<KeySchema>], port: PortId, layout: &Layout) -> Option<&'a Gather> {
    schemas.get(usize::from(port.0)).and_then(Option::as_ref).and_then(|schema| schema.gather(layout.shape))
}

/// Which source a miss is charged to: the IPv4 address, the IPv6 /64, or the Ethernet address.
fn source_of(bytes: &[u8], layout: &Layout) -> u64 {
    use crate::packet::L3;
    let at = usize::from(layout.l3);
    let range = match layout.shape.l3() {
        L3::Ipv4 => at + 12..at + 16,
        L3::Ipv6 => at + 8..at + 16,
        L3::Other | L3::Arp => 6..12,
    };
    let folded = bytes.get(range).unwrap_or(&[]).iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}
