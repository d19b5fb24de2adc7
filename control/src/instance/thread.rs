//! The threads that workers run on: one a core, each with one or several shares of the work, which it runs in turns. Shares go from
//! one to another while packets flow.
//!
//! A *share* here is a [`NfWorker`] with all that it owns. The data plane calls those of one thread a crew.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use millrace_dataplane::affinity;
use millrace_dataplane::crew::{Crew, CrewHandle};
use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::worker::WorkerCounters;
use millrace_nf::chain::Chains;

use super::accounting::{Accounting, Closed, close};
use super::stages::{self, StageThread};
use super::{Control, InstanceError, NfWorker, apart};
use crate::config::deal::deal;
use crate::config::settings::Workers;
use crate::logging;
use crate::supervised::panic_message;

/// Longest wait for a share that moves, which takes microseconds: this means that a thread is gone.
const MOVE_TIME_MAX: Duration = Duration::from_secs(10);

/// A worker, for people: its core, if it is pinned to one, its shares, and what it does with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The core.
    pub core: Option<usize>,
    /// Numbers of its shares, ascending.
    pub shares: Vec<usize>,
    /// Its time.
    pub time: WorkerCounters,
}

/// A thread at work.
#[derive(Debug)]
struct Thread {
    /// No other thread of the instance has or had this number.
    id: u64,
    /// By which the kernel knows it.
    number: i32,
    core: Option<usize>,
    shares: Vec<usize>,
    crew: CrewHandle<Chains>,
    thread: JoinHandle<Vec<Closed>>,
}

/// The threads, as those see them who change them.
#[derive(Debug)]
pub(crate) struct Threads {
    /// The cores of the process, if other threads are to keep off those of the workers.
    cores: Option<Vec<usize>>,
    idle: IdlePolicy,
    until_exhausted: bool,
    is_over: Arc<AtomicBool>,
    next_id: AtomicU64,
    /// In the order of their cores in the configuration; never held for long.
    list: Mutex<Vec<Thread>>,
    /// Packet functions with cores of their own. They end last.
    stages: Mutex<Vec<StageThread>>,
    /// Held while shares move: only then threads come and go.
    moving: Mutex<()>,
}

/// How all threads ended.
struct Ended {
    workers: Vec<std::thread::Result<Vec<Closed>>>,
    stages: Vec<stages::Ended>,
}

/// Workers at work. They end, with their ports closed, at the latest when this is dropped.
#[derive(Debug)]
pub struct WorkerThreads(Arc<Threads>);

impl WorkerThreads {
    /// Starts threads for the `shares` of an instance, each pinned to its core. They run until this ends or, with
    /// `until_exhausted`, until all ports that have an end have ended. From then on `control` can change them.
    ///
    /// # Errors
    /// No thread can be made, or they run already. Those that were made end.
    pub fn start(
        shares: Vec<NfWorker>,
        control: &Control,
        until_exhausted: bool,
    ) -> Result<Self, InstanceError> {
        let cores = (control.pinned && !control.cores.is_empty()).then(|| control.cores.clone());
        let threads = Arc::new(Threads {
            cores,
            idle: control.idle,
            until_exhausted,
            is_over: Arc::default(),
            next_id: AtomicU64::new(0),
            list: Mutex::default(),
            stages: Mutex::default(),
            moving: Mutex::default(),
        });
        // From here on, an error ends what runs.
        let started = Self(Arc::clone(&threads));
        *threads.stages() = control.stages.start(&threads.is_over)?;
        let mut shares: BTreeMap<usize, NfWorker> = shares.into_iter().enumerate().collect();
        for Seat { core, shares: numbers, .. } in control.seats() {
            let own = numbers.iter().filter_map(|number| Some((*number, Box::new(shares.remove(number)?))));
            let (thread, pinned) = threads.spawn(core, own.collect())?;
            if let (Some(core), Err(error)) = (core, pinned) {
                tracing::warn!(core, %error, "the worker could not be pinned to its core");
            }
            threads.list().push(thread);
        }
        threads.keep_apart();
        let twice = |_| InstanceError::unsupported("workers", "they run already");
        control.threads.set(threads).map_err(twice)?;
        Ok(started)
    }

    /// True if one has ended, well or not: the others will, too.
    pub fn has_ended(&self) -> bool {
        self.0.has_ended()
    }

    /// Drains: what is held is dropped and counted, what waits is sent, ports are closed. Says what became of every packet.
    ///
    /// # Errors
    /// A worker panicked; its ports are closed, its accounting is lost. If a packet function on a core of its own did, the workers have
    /// counted what it had, so it is one of [`Accounting::problems`].
    pub fn finish(self) -> Result<Accounting, InstanceError> {
        let Ended { workers: joined, stages } = self.0.end();
        let closed = joined.into_iter().collect::<Result<Vec<_>, _>>();
        let closed = closed.map_err(|panic| InstanceError::Panicked {
            what: "a worker, whose accounting is lost,",
            panic: panic_message(panic.as_ref()).to_owned(),
        })?;
        let mut closed: Vec<Closed> = closed.into_iter().flatten().collect();
        closed.sort_by_key(|(number, ..)| *number);
        Ok(Accounting::with_stages(closed, stages))
    }
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        // Who wanted to know how they ended has asked `finish`.
        let _ = self.0.end();
    }
}

impl Threads {
    fn list(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all, once no share is on its way between two of them.
    fn end(&self) -> Ended {
        let _still = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_over.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut *self.list());
        let workers = threads.into_iter().map(|thread| thread.thread.join()).collect();
        let stages = std::mem::take(&mut *self.stages());
        Ended { workers, stages: stages.into_iter().map(StageThread::join).collect() }
    }

    /// True if one of them has ended, or all were told to.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
            || self.list().iter().any(|thread| thread.thread.is_finished())
            || self.stages().iter().any(StageThread::has_ended)
    }

    fn stages(&self) -> MutexGuard<'_, Vec<StageThread>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps all other threads off the cores that workers and packet functions have now, where there are others.
    fn keep_apart(&self) {
        let Some(cores) = &self.cores else { return };
        let mut pinned: Vec<_> = self.list().iter().map(|thread| (thread.number, thread.core)).collect();
        pinned.extend(self.stages().iter().map(StageThread::seat));
        apart::keep(cores, &pinned);
    }

    /// The workers now.
    pub(crate) fn seats(&self) -> Vec<Seat> {
        let seat = |thread: &Thread| Seat {
            core: thread.core,
            shares: thread.shares.clone(),
            time: thread.crew.counters(),
        };
        self.list().iter().map(seat).collect()
    }

    /// A thread that runs `shares`, and whether it could be pinned to its core; it runs in either case.
    fn spawn(
        &self,
        core: Option<usize>,
        shares: Vec<(usize, Box<NfWorker>)>,
    ) -> Result<(Thread, io::Result<()>), InstanceError> {
        let system = |source| InstanceError::System { action: "start a worker".to_owned(), source };
        let numbers = shares.iter().map(|(number, _)| *number).collect();
        let (mut crew, handle) = Crew::new(shares, self.idle).map_err(system)?;
        let (is_over, until_exhausted) = (Arc::clone(&self.is_over), self.until_exhausted);
        let (pins, pinned) = sync_channel(1);
        let work = move || {
            let pin = core.map_or(Ok(()), affinity::pin_to_core);
            // Who started it waits for this.
            let _ = pins.send((pin, affinity::thread_number()));
            logging::on_packet_path();
            crew.run(|| is_over.load(Ordering::Relaxed), until_exhausted);
            close(crew)
        };
        let name = core.map_or_else(|| "worker".to_owned(), |core| format!("worker-{core}"));
        let thread = Builder::new().name(name).spawn(work).map_err(system)?;
        let (pinned, number) = pinned.recv().map_err(|_| InstanceError::WorkerGone)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Ok((Thread { id, number, core, shares: numbers, crew: handle, thread }, pinned))
    }

    /// Makes ready for a worker on each of `cores`, with shares as `workers` divides them: all that can fail. Nothing has moved
    /// yet.
    ///
    /// # Errors
    /// A thread can't be made or pinned to its core, or the instance ends.
    pub(crate) fn prepare<'a>(
        &'a self,
        workers: &Workers,
        cores: &[Option<usize>],
    ) -> Result<Prepared<'a>, InstanceError> {
        let moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest: Vec<_> =
            self.list().iter().map(|thread| (thread.id, thread.core, thread.shares.clone())).collect();
        if rest.is_empty() {
            return Err(InstanceError::WorkerGone);
        }
        let mut prepared =
            Prepared { threads: self, started: Vec::new(), targets: Vec::new(), _moving: moving };
        let mut held = Vec::new();
        for core in cores {
            let (id, shares) = match rest.iter().position(|(_, of, _)| of == core) {
                Some(at) => {
                    let (id, _, shares) = rest.remove(at);
                    (id, shares)
                }
                None => (prepared.start(*core)?, Vec::new()),
            };
            prepared.targets.push((id, Vec::new()));
            held.push(shares);
        }
        let dealt = deal(workers, &held);
        prepared.targets.iter_mut().zip(dealt).for_each(|(target, shares)| target.1 = shares);
        Ok(prepared)
    }
}

/// Threads that are ready to take shares over. They end when this is dropped before.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    threads: &'a Threads,
    started: Vec<Thread>,
    /// By number of the thread, in the order of the configuration.
    targets: Vec<(u64, Vec<usize>)>,
    _moving: MutexGuard<'a, ()>,
}

/// What became of the workers.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// Workers before and after.
    pub(crate) before: Vec<Seat>,
    pub(crate) after: Vec<Seat>,
    /// The longest time that a share did not run.
    pub(crate) longest: Duration,
}

impl Prepared<'_> {
    /// A thread on a core that has none.
    fn start(&mut self, core: Option<usize>) -> Result<u64, InstanceError> {
        let (thread, pinned) = self.threads.spawn(core, Vec::new())?;
        let id = thread.id;
        self.started.push(thread);
        pinned.map_err(|error| {
            let core = core.map_or_else(|| "a core".to_owned(), |core| format!("core {core}"));
            InstanceError::unsupported("workers.cores", format!("no worker can run on {core}: {error}"))
        })?;
        Ok(id)
    }

    /// Moves shares to where they belong, and ends workers that have none any more.
    ///
    /// # Errors
    /// A worker is gone, and with it the instance.
    pub(crate) fn carry_out(mut self) -> Result<Moved, InstanceError> {
        let before = self.threads.seats();
        let mut longest = Duration::ZERO;
        self.threads.list().append(&mut self.started);
        for (thread, shares) in &self.targets {
            for &share in shares {
                longest = longest.max(self.bring(share, *thread)?);
            }
        }
        let gone = {
            let mut list = self.threads.list();
            let place = |thread: &Thread| self.targets.iter().position(|(id, _)| *id == thread.id);
            list.sort_by_key(|thread| place(thread).unwrap_or(usize::MAX));
            list.split_off(self.targets.len())
        };
        end(gone);
        self.threads.keep_apart();
        Ok(Moved { before, after: self.threads.seats(), longest })
    }

    /// Brings a share to a thread, unless it is there. Says for how long it did not run.
    fn bring(&self, share: usize, thread: u64) -> Result<Duration, InstanceError> {
        let (arrived, arrives) = channel();
        {
            let list = self.threads.list();
            let from = list.iter().find(|it| it.shares.contains(&share));
            let to = list.iter().find(|it| it.id == thread);
            let (Some(from), Some(to)) = (from, to) else { return Err(InstanceError::WorkerGone) };
            if from.id == to.id {
                return Ok(Duration::ZERO);
            }
            from.crew.give(share, &to.crew, arrived);
        }
        let time = arrives.recv_timeout(MOVE_TIME_MAX).map_err(|_| InstanceError::WorkerGone)?;
        for it in self.threads.list().iter_mut() {
            it.shares.retain(|number| *number != share);
            if it.id == thread {
                it.shares.push(share);
                it.shares.sort_unstable();
            }
        }
        Ok(time)
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        end(std::mem::take(&mut self.started));
    }
}

/// Ends threads without shares.
fn end(threads: Vec<Thread>) {
    for Thread { crew, thread, .. } in threads {
        crew.end();
        // Nothing is left of it that could be lost.
        let _ = thread.join();
    }
}
