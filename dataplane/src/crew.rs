//! Workers that share a core: one thread runs them in turns, and they come and go while packets flow.
//!
//! A worker goes from thread to thread as it is, between two of its turns, with its ports, sessions and held packets. Nothing of
//! it is copied, and what others hand it meanwhile waits in its rings.

use crate::cpu::{CycleScale, cycles};
use crate::handoff::Waker;
use crate::idle::{Idle, IdlePolicy};
use crate::slow_path::SlowPath;
use crate::worker::{Worker, WorkerCounters, WorkerReport, finish_time_max};
use std::io;
use std::iter::once_with;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A worker under its number.
#[derive(Debug)]
struct Member<S: SlowPath> {
    number: usize,
    worker: Box<Worker<S>>,
}

/// Who wants to know that a worker runs again, and since when it does not.
#[derive(Debug)]
struct Moving {
    since: Instant,
    arrived: Sender<Duration>,
}

#[derive(Debug)]
enum Order<S: SlowPath> {
    /// The worker of this number goes to another crew.
    Give { number: usize, to: CrewHandle<S>, arrived: Sender<Duration> },
    /// A worker comes.
    Take { member: Member<S>, moving: Moving },
    /// The crew ends.
    End,
}

/// What a crew writes while it works, and what it is woken by.
#[derive(Debug)]
struct Shared {
    /// Held while something is ordered, so that nothing is once the crew takes no more.
    is_open: Mutex<bool>,
    is_ordered: AtomicBool,
    waker: Waker,
    turns: AtomicU64,
    busy_turns: AtomicU64,
    sleeps: AtomicU64,
    busy_nanos: AtomicU64,
}

/// A way to a crew. Copies lead to the same one.
#[derive(Debug)]
pub struct CrewHandle<S: SlowPath> {
    orders: Sender<Order<S>>,
    shared: Arc<Shared>,
}

impl<S: SlowPath> Clone for CrewHandle<S> {
    fn clone(&self) -> Self {
        Self { orders: self.orders.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S: SlowPath> CrewHandle<S> {
    /// The worker of this number goes over to the crew `to`. `arrived` is told for how long it did not run, when it does again;
    /// it is dropped untold if either crew has ended or there is no such worker: then the worker stays where it is. If the crew
    /// `to` is about to end, it may still take the worker, and ends it with its own.
    pub fn give(&self, number: usize, to: &Self, arrived: Sender<Duration>) {
        // A crew that has ended tells nobody.
        let _ = self.order(Order::Give { number, to: to.clone(), arrived });
    }

    /// The crew ends as if it were over.
    pub fn end(&self) {
        let _ = self.order(Order::End);
    }

    /// What its thread did with its time. Asking costs it nothing.
    pub fn counters(&self) -> WorkerCounters {
        let read = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let Shared { turns, busy_turns, sleeps, busy_nanos, .. } = &*self.shared;
        WorkerCounters {
            turns: read(turns),
            busy_turns: read(busy_turns),
            sleeps: read(sleeps),
            busy_nanos: read(busy_nanos),
        }
    }

    fn order(&self, order: Order<S>) -> Result<(), SendError<Order<S>>> {
        let is_open = self.shared.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_open {
            return Err(SendError(order));
        }
        self.orders.send(order)?;
        drop(is_open);
        self.shared.is_ordered.store(true, Ordering::Release);
        self.shared.waker.pushed();
        Ok(())
    }
}

/// The workers of one thread.
#[derive(Debug)]
pub struct Crew<S: SlowPath> {
    members: Vec<Member<S>>,
    orders: Receiver<Order<S>>,
    shared: Arc<Shared>,
    idle: Idle,
    counters: WorkerCounters,
    scale: CycleScale,
    is_over: bool,
    /// It ended because all ports had.
    is_through: bool,
}

impl<S: SlowPath> Crew<S> {
    /// A crew of `workers` with their numbers, and the way to it. What each of them does when idle does not matter: they sleep
    /// together.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(workers: Vec<(usize, Box<Worker<S>>)>, idle: IdlePolicy) -> io::Result<(Self, CrewHandle<S>)> {
        let (sender, orders) = channel();
        let shared = Arc::new(Shared {
            is_open: Mutex::new(true),
            is_ordered: AtomicBool::new(false),
            waker: Waker::new()?,
            turns: AtomicU64::new(0),
            busy_turns: AtomicU64::new(0),
            sleeps: AtomicU64::new(0),
            busy_nanos: AtomicU64::new(0),
        });
        let members = workers.into_iter().map(|(number, worker)| Member { number, worker }).collect();
        let handle = CrewHandle { orders: sender, shared: Arc::clone(&shared) };
        let crew = Self {
            members,
            orders,
            shared,
            idle: Idle::new(idle),
            counters: WorkerCounters::default(),
            scale: CycleScale::measured(),
            is_over: false,
            is_through: false,
        };
        Ok((crew, handle))
    }

    /// Its workers, in the order of their turns.
    pub fn workers(&mut self) -> impl Iterator<Item = &mut Worker<S>> {
        self.members.iter_mut().map(|member| &mut *member.worker)
    }

    /// Turns until `is_over`, or until it is told to end, or, with `until_exhausted`, until all ports that can end have ended.
    pub fn run(&mut self, is_over: impl Fn() -> bool, until_exhausted: bool) {
        let mut before = cycles();
        while !is_over() {
            if self.shared.is_ordered.load(Ordering::Relaxed) {
                self.obey();
                if self.is_over {
                    return;
                }
                before = cycles();
            }
            let mut busy_nanos = 0;
            for Member { worker, .. } in &mut self.members {
                let taken = worker.turn();
                let after = cycles();
                if taken > 0 {
                    let nanos = self.scale.nanos(after.saturating_sub(before));
                    worker.note_busy(nanos);
                    // A turn counts, however short.
                    busy_nanos += nanos.max(1);
                }
                before = after;
            }
            self.note_turn(busy_nanos);
            if busy_nanos > 0 {
                self.idle.busy();
                continue;
            }
            if until_exhausted && self.is_exhausted() {
                self.is_through = true;
                return;
            }
            self.rest();
            before = cycles();
        }
    }

    #[inline]
    fn note_turn(&mut self, busy_nanos: u64) {
        let Self { counters, shared, .. } = self;
        counters.turns += 1;
        counters.busy_turns += u64::from(busy_nanos > 0);
        counters.busy_nanos += busy_nanos;
        shared.turns.store(counters.turns, Ordering::Relaxed);
        shared.busy_turns.store(counters.busy_turns, Ordering::Relaxed);
        shared.busy_nanos.store(counters.busy_nanos, Ordering::Relaxed);
    }

    /// One without workers waits for some.
    fn is_exhausted(&self) -> bool {
        !self.members.is_empty() && self.members.iter().all(|member| member.worker.is_exhausted())
    }

    /// Nobody found anything: sleeps on all that may wake any of them, if it is time to.
    #[cold]
    fn rest(&mut self) {
        let Self { members, idle, shared, .. } = self;
        let pending = members.iter().any(|member| member.worker.is_pending());
        let ordered = || shared.is_ordered.load(Ordering::Relaxed);
        let own = once_with(|| shared.waker.sleep_on(ordered));
        let rings = members.iter().filter_map(|member| member.worker.sleep_on_rings());
        let ports = members.iter().flat_map(|member| member.worker.wait_fds());
        if idle.empty(own.chain(rings).chain(ports), pending) {
            self.counters.sleeps += 1;
            shared.sleeps.store(self.counters.sleeps, Ordering::Relaxed);
            shared.waker.awake();
            members.iter().for_each(|member| member.worker.awake());
        }
    }

    #[cold]
    fn obey(&mut self) {
        // Before the orders are taken: who orders later sets it again.
        self.shared.is_ordered.swap(false, Ordering::Acquire);
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::End => self.is_over = true,
                Order::Give { number, to, arrived } => self.hand_over(number, &to, arrived),
                Order::Take { member, moving } => {
                    self.members.push(member);
                    // Who ordered it may have lost patience.
                    let _ = moving.arrived.send(moving.since.elapsed());
                }
            }
        }
    }

    fn hand_over(&mut self, number: usize, to: &CrewHandle<S>, arrived: Sender<Duration>) {
        let Some(at) = self.members.iter().position(|member| member.number == number) else { return };
        let member = self.members.remove(at);
        let order = Order::Take { member, moving: Moving { since: Instant::now(), arrived } };
        if let Err(SendError(Order::Take { member, .. })) = to.order(order) {
            // The other crew has ended.
            self.members.push(member);
        }
    }

    /// Takes no more orders. Workers that were on their way here are here.
    fn shut(&mut self) {
        *self.shared.is_open.lock().unwrap_or_else(PoisonError::into_inner) = false;
        while let Ok(order) = self.orders.try_recv() {
            if let Order::Take { member, .. } = order {
                self.members.push(member);
            }
        }
    }

    /// Ends the work of all, each as [`Worker::close`] does: they still get what others have for them, and each other's. The pools
    /// of those whose packets ended here are full when all crews have ended; the reports are final.
    pub fn close(mut self) -> Vec<(usize, Box<Worker<S>>, WorkerReport)> {
        let mut closed = Vec::new();
        self.shut();
        self.workers().for_each(Worker::finish_receiving);
        let deadline = Instant::now() + finish_time_max(self.is_through);
        while !self.members.is_empty() {
            let (is_late, mut taken) = (Instant::now() > deadline, 0);
            for Member { number, mut worker } in std::mem::take(&mut self.members) {
                if is_late || worker.is_finished() {
                    let report = worker.end();
                    closed.push((number, worker, report));
                } else {
                    taken += worker.turn();
                    self.members.push(Member { number, worker });
                }
            }
            if taken == 0 {
                std::thread::yield_now();
            }
        }
        closed
    }
}
