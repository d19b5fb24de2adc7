//! A packet function on a thread of its own.

use super::STAGE_PACKETS;
use super::link::StageLink;
use super::mark::Mark;
use crate::cpu::{CycleScale, cycles};
use crate::drops::DropReason;
use crate::handoff::Waker;
use crate::idle::{Idle, IdlePolicy};
use crate::packet::{Burst, Packet};
use crate::packet_function::PacketFunction;
use crate::ring::{Consumer, Producer, ring};
use crate::time::Clock;
use crate::worker::{FINISH_TIME_MAX, WorkerCounters};
use std::io;
use std::iter::once_with;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// Something to be done with the function between two turns.
pub type StageCommand = Box<dyn FnOnce(&mut StageWorker) + Send>;

/// What a stage apart did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageReport {
    /// Its time.
    pub time: WorkerCounters,
    /// Packets that workers gave it.
    pub taken: u64,
    /// Packets that it gave back, those among them that it dropped.
    pub given: u64,
    /// Packets that it dropped; the workers whose packets they were count them by their reasons.
    pub dropped: u64,
    /// Packets that wait in front of it now.
    pub waiting: u64,
}

/// The way to a worker and back.
struct Peer {
    from: Consumer<Packet>,
    to: Producer<Packet>,
    owner: Waker,
}

/// A packet function with its ends of the rings, to be run by a thread of its own.
pub struct StageWorker {
    function: Box<dyn PacketFunction>,
    peers: Vec<Peer>,
    waker: Waker,
    clock: Box<dyn Clock>,
    idle: Idle,
    commands: Receiver<StageCommand>,
    scale: CycleScale,
    report: StageReport,
    turns: Arc<AtomicU64>,
    burst: Burst,
    dropped: Vec<(Packet, DropReason)>,
}

impl std::fmt::Debug for StageWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StageWorker").field("kind", &self.function.kind()).finish_non_exhaustive()
    }
}

impl StageWorker {
    /// For workers that are woken by `owners`: a link for each of them, in this order, and the way to command it.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(
        function: Box<dyn PacketFunction>,
        owners: &[Waker],
        clock: Box<dyn Clock>,
        idle: IdlePolicy,
    ) -> io::Result<(Self, Vec<StageLink>, Sender<StageCommand>)> {
        let (sender, commands) = channel();
        let waker = Waker::new()?;
        let (mut peers, mut links) = (Vec::new(), Vec::new());
        for owner in owners {
            let (to, theirs) = ring(STAGE_PACKETS);
            let (back, from) = ring(STAGE_PACKETS);
            links.push(StageLink::new(function.kind(), to, from, waker.clone()));
            peers.push(Peer { from: theirs, to: back, owner: owner.clone() });
        }
        let worker = Self {
            function,
            peers,
            waker,
            clock,
            idle: Idle::new(idle),
            commands,
            scale: CycleScale::measured(),
            report: StageReport::default(),
            turns: Arc::default(),
            burst: Burst::new(),
            dropped: Vec::with_capacity(STAGE_PACKETS),
        };
        Ok((worker, links, sender))
    }

    /// The function.
    pub fn function(&mut self) -> &mut dyn PacketFunction {
        self.function.as_mut()
    }

    /// What wakes it, for who commands it.
    pub const fn waker(&self) -> &Waker {
        &self.waker
    }

    /// What it did.
    pub fn report(&self) -> StageReport {
        let waiting = self.peers.iter().map(|peer| peer.from.len() as u64).sum();
        StageReport { waiting, ..self.report }
    }

    /// Grows as long as it lives, with packets or without.
    pub const fn turns(&self) -> &Arc<AtomicU64> {
        &self.turns
    }

    /// One turn: commands, and a burst of each worker. Returns the packets that it worked on.
    pub fn turn(&mut self) -> usize {
        while let Ok(command) = self.commands.try_recv() {
            command(self);
        }
        let now = self.clock.now();
        let Self { function, peers, burst, dropped, report, .. } = self;
        let mut taken = 0;
        for Peer { from, to, owner } in peers {
            let count = from.pop_packets(burst);
            if count == 0 {
                continue;
            }
            taken += count;
            function.process(burst, now, dropped);
            report.dropped += dropped.len() as u64;
            debug_assert_eq!(
                burst.len() + dropped.len(),
                count,
                "a packet function makes no packets, and loses none"
            );
            let mut given = to.push_packets(burst);
            for (mut packet, reason) in dropped.drain(..) {
                Mark::Dropped(reason).put(&mut packet);
                // There is room for all that is under way, and nothing else came to it: see `PacketFunction` and `StageLink`.
                given += usize::from(to.push(packet).is_ok());
            }
            // Nothing is left, or the worker is gone.
            drop(burst.take(burst.len()));
            report.given += given as u64;
            owner.pushed();
        }
        report.taken += taken as u64;
        report.time.turns += 1;
        report.time.busy_turns += u64::from(taken > 0);
        self.turns.store(report.time.turns, Ordering::Relaxed);
        taken
    }

    /// True when no worker will give it anything any more.
    pub fn is_over(&self) -> bool {
        self.peers.iter().all(|peer| peer.from.is_abandoned() && peer.from.is_empty())
    }

    /// Turns until all workers have closed their links; once `stops`, not for much longer. Takes no command from then on.
    pub fn run(&mut self, stops: impl Fn() -> bool) {
        self.run_until_over(stops);
        // Who asks it something is not left waiting.
        self.commands = channel().1;
    }

    fn run_until_over(&mut self, stops: impl Fn() -> bool) {
        let (mut before, mut deadline) = (cycles(), None);
        while !self.is_over() {
            if stops() {
                let deadline = deadline.get_or_insert_with(|| Instant::now() + 2 * FINISH_TIME_MAX);
                if Instant::now() > *deadline {
                    return;
                }
            }
            let taken = self.turn();
            if taken > 0 {
                let after = cycles();
                self.report.time.busy_nanos += self.scale.nanos(after.saturating_sub(before));
                before = after;
                self.idle.busy();
                continue;
            }
            self.rest();
            before = cycles();
        }
    }

    /// Nothing was there: sleeps, if it is time to.
    #[cold]
    fn rest(&mut self) {
        let Self { idle, waker, peers, .. } = self;
        let waits = || peers.iter().any(|peer| !peer.from.is_empty());
        if idle.empty(once_with(|| waker.sleep_on(waits)), false) {
            self.report.time.sleeps += 1;
            self.waker.awake();
        }
    }
}
