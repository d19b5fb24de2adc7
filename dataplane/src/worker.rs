//! The worker: one pinned core's loop.
//!
//! A turn polls each port, takes the burst through the engine, sends what came out, and does one slice of housekeeping.
//! Commands of the control plane are closures that run between two turns, so they see everything at rest.

use crate::capture::Moment;
use crate::cut::CutBurst;
use crate::engine::{Engine, EngineCounters, Outputs, Sums};
use crate::handoff::Waker;
use crate::idle::{Idle, IdlePolicy};
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::port::{Handed, Port, PortCounters, PortId, PortInfo};
use crate::slow_path::SlowPath;
use crate::time::{Clock, Time};
use crate::timing::Timing;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Objects that one slice of housekeeping looks at.
const HOUSEKEEPING_OBJECTS: usize = 64;
/// Frames that it collects which ended with other threads.
const HOUSEKEEPING_FRAMES: usize = 256;
/// A slice of housekeeping is due this often while packets flow.
const HOUSEKEEPING_EVERY: Duration = Duration::from_micros(100);

/// How long a worker waits at its end for what others still have for it.
pub(crate) const FINISH_TIME_MAX: Duration = Duration::from_secs(1);
/// The same for one that ends because all its ports have ended: others may not be through yet with what it gave them.
const FINISH_TIME_MAX_THROUGH: Duration = Duration::from_secs(60);

/// How long one that ends waits for others, which `is_through` with all its ports or was told to end.
pub(crate) const fn finish_time_max(is_through: bool) -> Duration {
    if is_through { FINISH_TIME_MAX_THROUGH } else { FINISH_TIME_MAX }
}

/// Removed ports whose counts are kept apart; those before them are one sum.
const REMOVED_MAX: usize = 64;
/// The name of that sum, which no port can have.
const REMOVED_BEFORE: &str = "(removed before)";

/// Something to be done by a worker between two turns.
pub type Command<S> = Box<dyn FnOnce(&mut Worker<S>) + Send>;

/// What a worker did with its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerCounters {
    /// Turns of the loop.
    pub turns: u64,
    /// Turns that moved packets.
    pub busy_turns: u64,
    /// Times that it slept.
    pub sleeps: u64,
    /// Nanoseconds spent in turns that moved packets.
    pub busy_nanos: u64,
}

/// The state of one port, for people.
#[derive(Clone, Debug)]
pub struct PortReport {
    /// Number.
    pub id: PortId,
    /// What it is.
    pub info: PortInfo,
    /// What passed it.
    pub counters: PortCounters,
    /// What workers handed each other there.
    pub handed: Handed,
    /// What it holds.
    pub buffered: u64,
    /// What it could not do.
    pub failure: Option<String>,
}

/// A worker's state, for people and for the final accounting.
#[derive(Clone, Debug)]
pub struct WorkerReport {
    /// Its time.
    pub worker: WorkerCounters,
    /// Hits and misses.
    pub engine: EngineCounters,
    /// What came in and what became of it.
    pub sums: Sums,
    /// Packets held, punted and waiting.
    pub buffered: u64,
    /// Ports: open ones in the order of their numbers, then those that were removed.
    pub ports: Vec<PortReport>,
    /// Frames of the pool: in it now, and in all.
    pub pool: (usize, usize),
}

impl WorkerReport {
    /// True if R13 holds: everything that entered left, was dropped, consumed, or is still here; and the ports account for all
    /// that they were given.
    pub fn sums_hold(&self) -> bool {
        // What came and went by other workers is theirs to account for, or their due.
        let taken = |port: &PortReport| {
            i128::from(port.counters.rx_packets) - i128::from(port.handed.rx_given)
                + i128::from(port.handed.rx_taken)
                - i128::from(port.handed.rx_dropped)
        };
        let given = |port: &PortReport| {
            let PortCounters { tx_packets, tx_drops, tx_copied, .. } = &port.counters;
            let gone = tx_packets + tx_drops.total() + port.buffered + port.handed.tx_given;
            i128::from(gone) - i128::from(*tx_copied) - i128::from(port.handed.tx_taken)
        };
        let (taken, given) =
            self.ports.iter().map(|port| (taken(port), given(port))).unzip::<_, _, Vec<_>, Vec<_>>();
        self.sums.balance() == i128::from(self.buffered)
            && taken.iter().sum::<i128>() == i128::from(self.sums.received)
            && given.iter().sum::<i128>() == i128::from(self.sums.sent)
    }

    /// Adds another worker's: ports of one number and name are one port.
    pub fn add(&mut self, other: Self) {
        self.worker.add(&other.worker);
        self.engine.add(&other.engine);
        self.sums.add(&other.sums);
        self.buffered += other.buffered;
        self.pool = (self.pool.0 + other.pool.0, self.pool.1 + other.pool.1);
        for port in other.ports {
            let same = |mine: &&mut PortReport| (mine.id, &mine.info.name) == (port.id, &port.info.name);
            match self.ports.iter_mut().find(same) {
                Some(mine) => {
                    mine.counters.add(&port.counters);
                    mine.handed.add(&port.handed);
                    mine.buffered += port.buffered;
                    mine.failure = mine.failure.take().or(port.failure);
                }
                None => self.ports.push(port),
            }
        }
    }

    /// Packets between workers, if these are all of them, and at rest.
    pub fn between(&self) -> i128 {
        let of = |port: &PortReport| {
            let Handed { rx_given, rx_taken, tx_given, tx_taken, .. } = port.handed;
            i128::from(rx_given) - i128::from(rx_taken) + i128::from(tx_given) - i128::from(tx_taken)
        };
        self.ports.iter().map(of).sum()
    }
}

impl WorkerCounters {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.turns += other.turns;
        self.busy_turns += other.busy_turns;
        self.sleeps += other.sleeps;
        self.busy_nanos += other.busy_nanos;
    }
}

/// One core's loop and all that it owns.
pub struct Worker<S: SlowPath> {
    /// Decides and replays.
    pub engine: Engine<S>,
    /// Frames.
    pub pool: Pool,
    /// How long bursts take.
    pub timing: Timing,
    ports: Vec<Option<Box<dyn Port>>>,
    /// Ports that take nothing more and finish what they have to send.
    leaving: Vec<(PortId, Box<dyn Port>)>,
    /// Those that another thread closes.
    closing: Vec<PortReport>,
    removed: Vec<PortReport>,
    clock: Box<dyn Clock>,
    commands: Receiver<Command<S>>,
    idle: Idle,
    /// How others wake it, if they do.
    waker: Option<Waker>,
    counters: WorkerCounters,
    housekeeping_due: Time,
    burst: Burst,
    /// It ended because all its ports had.
    is_through: bool,
    /// Nothing more is received from devices.
    is_finishing: bool,
}

impl<S: SlowPath> std::fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl<S: SlowPath> Worker<S> {
    /// A worker without ports, and the way to command it.
    pub fn new(
        engine: Engine<S>,
        pool: Pool,
        clock: Box<dyn Clock>,
        idle: IdlePolicy,
    ) -> (Self, Sender<Command<S>>) {
        let (sender, commands) = channel();
        let worker = Self {
            engine,
            pool,
            timing: Timing::default(),
            ports: Vec::new(),
            leaving: Vec::new(),
            closing: Vec::new(),
            removed: Vec::new(),
            clock,
            commands,
            idle: Idle::new(idle),
            waker: None,
            counters: WorkerCounters::default(),
            housekeeping_due: Time(0),
            burst: Burst::new(),
            is_through: false,
            is_finishing: false,
        };
        (worker, sender)
    }

    /// Others that hand it packets or commands wake it by this.
    pub fn set_waker(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    /// Puts a port into its place.
    pub fn add_port(&mut self, id: PortId, port: Box<dyn Port>) {
        let at = usize::from(id.0);
        if self.ports.len() <= at {
            self.ports.resize_with(at + 1, || None);
        }
        self.engine.outputs.grow(at + 1);
        self.timing.grow(at + 1);
        self.ports[at] = Some(port);
        self.engine.compile_schema(id);
    }

    /// Closes a port: what waits for it is sent or dropped first; its counts stay in the accounting. Takes as long as the
    /// device does: while packets flow, [`Self::retire_port`] and [`Self::take_retired`] hold up nobody.
    pub fn remove_port(&mut self, id: PortId) {
        self.retire_port(id);
        for (id, mut port) in std::mem::take(&mut self.leaving) {
            // As it was while it was open: a closed port has no link.
            let info = port.info().clone();
            port.close(Some(&mut self.pool));
            self.note_removed(PortReport { info, ..report_of(id, port.as_mut()) });
        }
    }

    /// Takes a port out of its place: it receives no more, what waits for it is given to it, and it goes on sending that.
    pub fn retire_port(&mut self, id: PortId) {
        let now = self.clock.now();
        self.send(id, now);
        if let Some(port) = self.ports.get_mut(usize::from(id.0)).and_then(Option::take) {
            self.leaving.push((id, port));
        }
    }

    /// Gives away the retired ports that have sent all that they had, or all of them if `at_once`, to be closed on another
    /// thread. Until [`Self::note_closed`] says what they counted in the end, they count as they do now.
    pub fn take_retired(&mut self, at_once: bool) -> Vec<(PortId, Box<dyn Port>)> {
        let mut taken = Vec::new();
        for (id, mut port) in std::mem::take(&mut self.leaving) {
            if at_once || !port.has_to_send() {
                self.closing.push(report_of(id, port.as_mut()));
                taken.push((id, port));
            } else {
                self.leaving.push((id, port));
            }
        }
        taken
    }

    /// Retired ports that nobody has taken.
    pub fn retiring(&self) -> usize {
        self.leaving.len()
    }

    /// What a port counted in the end that was taken and closed on another thread.
    pub fn note_closed(&mut self, id: PortId, port: &mut dyn Port) {
        let report = report_of(id, port);
        let before = self.closing.iter().position(|it| (it.id, &it.info.name) == (id, &report.info.name));
        // As it was while it was open: a closed port has no link.
        let info = before.map_or_else(|| report.info.clone(), |at| self.closing.remove(at).info);
        self.note_removed(PortReport { info, ..report });
    }

    /// Keeps the counts of a port that is gone: one report a name, and a bounded number of names.
    fn note_removed(&mut self, report: PortReport) {
        if self.removed.len() >= REMOVED_MAX {
            let mut oldest = self.removed.remove(usize::from(self.removed[0].info.name == REMOVED_BEFORE));
            REMOVED_BEFORE.clone_into(&mut oldest.info.name);
            self.add_removed(oldest, 0);
        }
        let end = self.removed.len();
        self.add_removed(report, end);
    }

    fn add_removed(&mut self, report: PortReport, at: usize) {
        match self.removed.iter_mut().find(|kept| kept.info.name == report.info.name) {
            Some(kept) => {
                kept.counters.add(&report.counters);
                kept.handed.add(&report.handed);
                kept.buffered += report.buffered;
            }
            None => self.removed.insert(at, report),
        }
    }

    /// A port that is open.
    pub fn port(&mut self, id: PortId) -> Option<&mut Box<dyn Port>> {
        self.ports.get_mut(usize::from(id.0)).and_then(Option::as_mut)
    }

    /// The time of this worker.
    pub fn now(&mut self) -> Time {
        self.clock.now()
    }

    /// One turn of the loop. Returns the packets that it took from ports.
    pub fn turn(&mut self) -> usize {
        while let Ok(command) = self.commands.try_recv() {
            command(self);
        }
        let now = self.clock.now();
        let mut taken = 0;
        for at in 0..self.ports.len() {
            let id = PortId(at as u16);
            let Some(port) = self.ports[at].as_mut() else { continue };
            if self.is_finishing && port.is_finished() {
                continue;
            }
            if let Some(recorder) = self.pool.recorder() {
                recorder.enter(Moment::Received, Some(id), now);
            }
            port.rx(&mut self.pool, now, &mut self.burst);
            if self.burst.is_empty() {
                continue;
            }
            if let Some(recorder) = self.pool.recorder() {
                recorder.received(id, self.burst.as_slice(), now);
            }
            let received = self.timing.received();
            taken += self.burst.len();
            self.engine.process(id, &mut self.burst, &mut self.pool, now);
            self.timing.processed(id, received);
        }
        taken += self.engine.run_stages(&mut self.pool, now);
        for at in 0..self.ports.len() {
            self.send(PortId(at as u16), now);
        }
        if !self.leaving.is_empty() {
            self.finish_leaving(now);
        }
        if self.waker.is_some() {
            taken += self.ports.iter_mut().flatten().map(|port| port.take_moved() as usize).sum::<usize>();
        }
        if now >= self.housekeeping_due || taken == 0 {
            self.housekeeping_due = now + HOUSEKEEPING_EVERY;
            if let Some(recorder) = self.pool.recorder() {
                recorder.enter(Moment::Inside, None, now);
                recorder.flush(now, taken == 0);
            }
            self.pool.collect(HOUSEKEEPING_FRAMES);
            self.engine.housekeeping(&mut self.pool, now, HOUSEKEEPING_OBJECTS);
        }
        self.counters.turns += 1;
        self.timing.sent(self.counters.turns);
        self.counters.busy_turns += u64::from(taken > 0);
        taken
    }

    fn send(&mut self, id: PortId, now: Time) {
        let Self { ports, engine, pool, clock, .. } = self;
        match ports.get_mut(usize::from(id.0)).and_then(Option::as_mut) {
            Some(port) => loop {
                let Some(burst) = engine.outputs.burst(id) else { return };
                if pool.meets_large() && !port.takes_whole() && burst.iter().any(Packet::is_whole) {
                    send_cut(port.as_mut(), id, &mut engine.outputs, pool, now, clock.as_mut());
                    continue;
                }
                if let Some(recorder) = pool.recorder() {
                    recorder.sends(id, burst.as_slice(), clock.now());
                }
                port.tx(pool, now, burst);
                if !engine.outputs.refill(id) {
                    return;
                }
            },
            None => engine.outputs.abandon(id, pool),
        }
    }

    /// Retired ports finish what they had taken.
    fn finish_leaving(&mut self, now: Time) {
        let mut nothing = Burst::new();
        for (_, port) in &mut self.leaving {
            port.tx(&mut self.pool, now, &mut nothing);
        }
    }

    /// Turns until `stop` is set, or, with `until_exhausted`, until all ports that can end have ended. [`Crew`] runs several.
    ///
    /// [`Crew`]: crate::crew::Crew
    pub fn run(&mut self, stop: &AtomicBool, until_exhausted: bool) {
        let mut before = self.clock.now();
        while !stop.load(Ordering::Relaxed) {
            let taken = self.turn();
            if taken > 0 {
                let after = self.clock.now();
                self.note_busy(after.0.saturating_sub(before.0));
                before = after;
                self.idle.busy();
                continue;
            }
            if until_exhausted && self.is_exhausted() {
                self.is_through = true;
                return;
            }
            self.rest();
            before = self.clock.now();
        }
    }

    /// The turn found nothing: sleeps, if it is time to.
    fn rest(&mut self) {
        let mut idle = std::mem::take(&mut self.idle);
        let rings = std::iter::once_with(|| self.sleep_on_rings()).flatten();
        let slept = idle.empty(rings.chain(self.wait_fds()), self.is_pending());
        self.idle = idle;
        if slept {
            self.counters.sleeps += 1;
            self.awake();
        }
    }

    /// A turn that moved packets took so long.
    #[inline]
    pub(crate) fn note_busy(&mut self, nanos: u64) {
        self.counters.busy_nanos += nanos;
    }

    fn open_ports(&self) -> impl Iterator<Item = &dyn Port> {
        self.ports.iter().flatten().map(|port| &**port as &dyn Port)
    }

    /// Whether something waits to be sent.
    pub(crate) fn is_pending(&self) -> bool {
        let leaving = self.leaving.iter().map(|(_, port)| &**port as &dyn Port);
        self.open_ports().chain(leaving).any(|port| port.is_pending())
    }

    /// What it sleeps on for the sake of other workers; to be called right before, and [`Self::awake`] after it.
    pub(crate) fn sleep_on_rings(&self) -> Option<RawFd> {
        let waker = self.waker.as_ref()?;
        let arrived = || self.open_ports().any(|port| port.has_arrived()) || self.engine.slow.has_returned();
        Some(waker.sleep_on(arrived))
    }

    /// What it sleeps on for the sake of its ports.
    pub(crate) fn wait_fds(&self) -> impl Iterator<Item = RawFd> {
        self.open_ports().filter_map(|port| port.wait_fd())
    }

    /// It turns again.
    pub(crate) fn awake(&self) {
        if let Some(waker) = &self.waker {
            waker.awake();
        }
    }

    /// True if every port has delivered all that it ever will.
    pub fn is_exhausted(&self) -> bool {
        let is_through = |port: &dyn Port| !port.has_to_send() && !port.has_arrived();
        let has_ended = |port: &dyn Port| if port.is_source() { port.exhausted() } else { is_through(port) };
        self.ports.iter().flatten().all(|port| has_ended(port.as_ref())) && self.engine.slow.under_way() == 0
    }

    /// Ends the work: what is held is dropped and counted, ports send what they have and are closed. The pool is full then,
    /// and the report is final.
    pub fn close(&mut self) -> WorkerReport {
        self.finish_receiving();
        let deadline = std::time::Instant::now() + finish_time_max(self.is_through);
        while !self.is_finished() && std::time::Instant::now() < deadline {
            if self.turn() == 0 {
                std::thread::yield_now();
            }
        }
        self.end()
    }

    /// Nothing more is received from devices; what is on its way between workers gets where it was going.
    pub(crate) fn finish_receiving(&mut self) {
        self.is_finishing = true;
        self.ports.iter_mut().flatten().for_each(|port| port.finish());
    }

    /// Whether nothing more is on its way to it.
    pub(crate) fn is_finished(&self) -> bool {
        self.open_ports().all(|port| port.is_finished()) && self.engine.slow.under_way() == 0
    }

    /// The end of [`Self::close`]: nobody has anything for it any more.
    pub(crate) fn end(&mut self) -> WorkerReport {
        // Who asks it something from now on is not left waiting.
        self.commands = channel().1;
        self.engine.drain(&mut self.pool);
        for at in 0..self.ports.len() {
            let id = PortId(at as u16);
            let deadline = std::time::Instant::now() + Duration::from_millis(200);
            loop {
                let now = self.clock.now();
                self.send(id, now);
                let busy =
                    self.ports[at].as_ref().is_some_and(|port| port.buffered() > 0 && !port.exhausted());
                if !busy || std::time::Instant::now() > deadline {
                    break;
                }
            }
            self.remove_port(id);
        }
        self.report()
    }

    /// How it stands.
    pub fn report(&mut self) -> WorkerReport {
        let mut ports = Vec::new();
        for (at, port) in self.ports.iter_mut().enumerate() {
            if let Some(port) = port {
                ports.push(report_of(PortId(at as u16), port.as_mut()));
            }
        }
        ports.extend(self.leaving.iter_mut().map(|(id, port)| report_of(*id, port.as_mut())));
        ports.extend(self.closing.iter().chain(&self.removed).cloned());
        let waiting = self.engine.outputs.waiting();
        let mut sums = self.engine.outputs.sums.clone();
        // What waits for its port is not sent yet.
        sums.sent -= waiting;
        WorkerReport {
            worker: self.counters,
            engine: self.engine.counters(),
            sums,
            buffered: self.engine.buffered() + waiting,
            ports,
            pool: (self.pool.available(), self.pool.capacity()),
        }
    }

    /// Limits what one port may deliver in a turn, to 1 to [`crate::limits::BURST_PACKETS_MAX`] packets.
    pub fn set_burst_packets(&mut self, packets: usize) {
        self.burst = Burst::with_limit(packets.max(1));
    }
}

/// Sends a burst by a port for which whole frames are cut.
#[cold]
fn send_cut(
    port: &mut dyn Port,
    id: PortId,
    outputs: &mut Outputs,
    pool: &mut Pool,
    now: Time,
    clock: &mut dyn Clock,
) {
    let (mut rest, mut ready) = (CutBurst::new(outputs.take_back(id)), Burst::new());
    while rest.fill(&mut ready, outputs, pool) {
        outputs.sums.sent += ready.len() as u64;
        if let Some(recorder) = pool.recorder() {
            recorder.sends(id, ready.as_slice(), clock.now());
        }
        port.tx(pool, now, &mut ready);
    }
}

fn report_of(id: PortId, port: &mut dyn Port) -> PortReport {
    let counters = port.counters();
    let failure = port.failure().map(str::to_owned);
    let (info, handed) = (port.info().clone(), port.handed());
    PortReport { id, info, counters, handed, buffered: port.buffered(), failure }
}
