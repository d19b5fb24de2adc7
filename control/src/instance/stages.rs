//! Packet functions with cores of their own: one thread each, joined by rings with all shares that own connections.
//!
//! They end after the workers, whose packets they have.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use millrace_dataplane::affinity;
use millrace_dataplane::handoff::Waker;
use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::stage::{StageCommand, StageLink, StageReport, StageWorker};
use millrace_dataplane::time::SystemClock;
use millrace_nf::inspect::{Change, Inspect};
use serde_json::Value;

use super::InstanceError;
use super::functions::{self, Counter};
use super::handle::{self, Answer, answer_deadline};
use crate::config::{Config, FunctionKind};
use crate::listing::{Listing, Row};
use crate::logging;
use crate::supervised::panic_message;

/// A way to a packet function on a core of its own.
#[derive(Debug)]
struct Handle {
    name: String,
    core: Option<usize>,
    commands: Sender<StageCommand>,
    waker: Waker,
    turns: Arc<AtomicU64>,
}

/// All of an instance.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    handles: Vec<Handle>,
    /// By function and part of the connections, until chains have them.
    links: Mutex<Vec<(String, usize, StageLink)>>,
    /// In the order of the handles, until they run.
    waiting: Mutex<Vec<StageWorker>>,
}

impl Stages {
    /// Of the functions of `config` that have cores; `owners` wake the shares that own connections.
    ///
    /// # Errors
    /// What a function finds wrong with its settings; the system has no descriptors left.
    pub(crate) fn of(
        config: &Config,
        owners: &[Waker],
        idle: IdlePolicy,
        pinned: bool,
    ) -> Result<Self, InstanceError> {
        let mut stages = Self::default();
        for (name, core) in config.stages() {
            let Some(FunctionKind::Inspect(settings)) = config.function(name).map(|found| &found.kind) else {
                continue;
            };
            let function = Box::new(functions::inspect::build(name, settings)?);
            let system =
                |source| InstanceError::System { action: format!("make a thread for {name}"), source };
            let clock = Box::<SystemClock>::default();
            let (worker, links, commands) =
                StageWorker::new(function, owners, clock, idle).map_err(system)?;
            stages.handles.push(Handle {
                name: name.to_owned(),
                core: pinned.then_some(core),
                commands,
                waker: worker.waker().clone(),
                turns: Arc::clone(worker.turns()),
            });
            let links = links.into_iter().enumerate().map(|(part, link)| (name.to_owned(), part, link));
            stages.links.lock().unwrap_or_else(PoisonError::into_inner).extend(links);
            stages.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        }
        Ok(stages)
    }

    /// The end of a link for a part of the connections: each is there once, when the instance is built.
    pub(crate) fn link(&self, name: &str, part: u8) -> Result<StageLink, InstanceError> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let at = links.iter().position(|(of, at, _)| of == name && *at == usize::from(part));
        let at = at.ok_or_else(|| {
            let message = "a function with a core of its own can't be built anew while the instance runs";
            InstanceError::unsupported(format!("functions.{name}.core"), message)
        })?;
        Ok(links.swap_remove(at).2)
    }

    /// Grow as long as the threads live.
    pub(crate) fn turns(&self) -> impl Iterator<Item = Arc<AtomicU64>> + '_ {
        self.handles.iter().map(|handle| Arc::clone(&handle.turns))
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// One can't be made; those that were made are told by `is_over` to end.
    pub(crate) fn start(&self, is_over: &Arc<AtomicBool>) -> Result<Vec<StageThread>, InstanceError> {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let each = self.handles.iter().zip(waiting);
        each.map(|(handle, worker)| handle.start(worker, Arc::clone(is_over))).collect()
    }

    fn handle(&self, name: &str) -> Option<&Handle> {
        self.handles.iter().find(|handle| handle.name == name)
    }

    /// True if the function has a core of its own.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.handle(name).is_some()
    }

    /// Brings other patterns into force. The answer is what they replace, to be dropped where it is waited for.
    ///
    /// # Errors
    /// The thread is gone.
    pub(crate) fn change(&self, name: &str, change: Change) -> Result<Answer<Option<Change>>, InstanceError> {
        let handle = self.handle(name).ok_or(InstanceError::WorkerGone)?;
        handle.send(move |worker| {
            worker.function().as_any().downcast_mut::<Inspect>().map(|inspect| inspect.apply(change))
        })
    }

    /// Counters of all, as [`functions::counters`] has them.
    ///
    /// # Errors
    /// A thread is gone.
    pub(crate) fn counters(&self, config: &Config) -> Result<Listing, InstanceError> {
        let mut listing = functions::listing();
        for handle in &self.handles {
            let rows = handle.ask(counters)?;
            let chain = config.chains.iter().find(|chain| chain.functions.contains(&handle.name));
            let chain = chain.map_or("", |chain| chain.name.as_str());
            functions::tell(&mut listing, chain, &handle.name, "inspect", rows);
        }
        Ok(listing)
    }

    /// What each of them did.
    ///
    /// # Errors
    /// A thread is gone.
    pub(crate) fn reports(&self) -> Result<Vec<(String, StageReport)>, InstanceError> {
        let each = self.handles.iter();
        each.map(|handle| Ok((handle.name.clone(), handle.ask(|worker| worker.report())?))).collect()
    }

    /// A row for each of them, of a listing of workers.
    ///
    /// # Errors
    /// A thread is gone.
    pub(crate) fn add_rows(&self, workers: &mut Listing) -> Result<(), InstanceError> {
        for (handle, (_, StageReport { time, .. })) in self.handles.iter().zip(self.reports()?) {
            let mut row: Row = workers.columns.iter().map(|column| (column.clone(), Value::Null)).collect();
            let values: [(&str, Value); 7] = [
                ("worker", thread_name(&handle.name).into()),
                ("core", handle.core.map_or(Value::Null, Value::from)),
                ("shares", "".into()),
                ("turns", time.turns.into()),
                ("busy_turns", time.busy_turns.into()),
                ("sleeps", time.sleeps.into()),
                ("busy_ms", (time.busy_nanos / 1_000_000).into()),
            ];
            row.extend(values.map(|(column, value)| (column.to_owned(), value)));
            workers.rows.push(row);
        }
        Ok(())
    }
}

fn thread_name(function: &str) -> String {
    format!("stage-{function}")
}

fn counters(worker: &mut StageWorker) -> Vec<Counter> {
    let inspect = worker.function().as_any().downcast_mut::<Inspect>();
    inspect.map_or_else(Vec::new, |inspect| functions::inspect::rows(inspect))
}

impl Handle {
    fn start(&self, mut worker: StageWorker, is_over: Arc<AtomicBool>) -> Result<StageThread, InstanceError> {
        let system =
            |source| InstanceError::System { action: format!("start a thread for {}", self.name), source };
        let (core, (pins, pinned)) = (self.core, sync_channel::<(io::Result<()>, i32)>(1));
        let work = move || {
            // Who started it waits for this.
            let _ = pins.send((core.map_or(Ok(()), affinity::pin_to_core), affinity::thread_number()));
            logging::on_packet_path();
            worker.run(|| is_over.load(Ordering::Relaxed));
            worker
        };
        let thread = Builder::new().name(thread_name(&self.name)).spawn(work).map_err(system)?;
        let (pinned, number) = pinned.recv().map_err(|_| InstanceError::WorkerGone)?;
        if let (Some(core), Err(error)) = (core, pinned) {
            tracing::warn!(core, %error, function = self.name, "the function could not be pinned to its core");
        }
        Ok(StageThread { name: self.name.clone(), number, core, thread })
    }

    /// For work that only looks: if it panics, packets flow on.
    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut StageWorker) -> T + Send + 'static,
    ) -> Result<T, InstanceError> {
        let caught = |worker: &mut StageWorker| catch_unwind(AssertUnwindSafe(|| work(worker)));
        self.send(caught)?.wait(answer_deadline())?.map_err(|panic| InstanceError::Panicked {
            what: "a look at a packet function",
            panic: panic_message(panic.as_ref()).to_owned(),
        })
    }

    fn send<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut StageWorker) -> T + Send + 'static,
    ) -> Result<Answer<T>, InstanceError> {
        handle::send(&self.commands, &self.waker, work)
    }
}

/// One at work. It ends when all workers have closed their links.
#[derive(Debug)]
pub(crate) struct StageThread {
    name: String,
    /// By which the kernel knows it.
    number: i32,
    core: Option<usize>,
    thread: JoinHandle<StageWorker>,
}

impl StageThread {
    /// True if it has ended, well or not.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Its number and core.
    pub(crate) fn seat(&self) -> (i32, Option<usize>) {
        (self.number, self.core)
    }

    /// Waits for its end. Frames that it had go back to their pools.
    pub(crate) fn join(self) -> Ended {
        let Self { name, thread, .. } = self;
        let counters = thread.join().map(|mut worker| counters(&mut worker));
        Ended { name, counters: counters.map_err(|panic| panic_message(panic.as_ref()).to_owned()) }
    }
}

/// One that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The function.
    pub(crate) name: String,
    /// What it counted; or what its thread said when it panicked.
    pub(crate) counters: Result<Vec<Counter>, String>,
}

#[cfg(test)]
mod tests;
