//! The threads that workers run on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use millrace_dataplane::affinity;

use super::accounting::{Accounting, Closed, close};
use super::{InstanceError, NfWorker};
use crate::logging;
use crate::supervised::panic_message;

/// Workers at work. They end, with their ports closed, at the latest when this is dropped.
#[derive(Debug)]
pub struct WorkerThreads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Closed>>,
}

impl WorkerThreads {
    /// Starts each of `workers` on a thread of its own, pinned to its core of `cores` if there is one. They run until `stop` is
    /// set, or, with `until_exhausted`, until all ports that have an end have ended.
    ///
    /// # Errors
    /// No thread can be made. Those that run end.
    pub fn start(
        workers: Vec<NfWorker>,
        cores: &[Option<usize>],
        stop: Arc<AtomicBool>,
        until_exhausted: bool,
    ) -> Result<Self, InstanceError> {
        let mut started = Self { stop, threads: Vec::new() };
        for (at, mut worker) in workers.into_iter().enumerate() {
            let (told, core) = (Arc::clone(&started.stop), cores.get(at).copied().flatten());
            let work = move || {
                if let Some(core) = core
                    && let Err(error) = affinity::pin_to_core(core)
                {
                    tracing::warn!(core, %error, "the worker could not be pinned to its core");
                }
                logging::on_packet_path();
                worker.run(&told, until_exhausted);
                close(worker)
            };
            let thread = Builder::new().name(format!("worker-{at}")).spawn(work);
            let thread = thread
                .map_err(|source| InstanceError::System { action: "start a worker".to_owned(), source })?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    /// True if one has ended, well or not: the others will, too.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Drains: what is held is dropped and counted, what waits is sent, ports are closed. Says what became of every packet.
    ///
    /// # Errors
    /// A worker panicked; its ports are closed, its accounting is lost.
    pub fn finish(mut self) -> Result<Accounting, InstanceError> {
        self.stop.store(true, Ordering::Relaxed);
        let joined: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        let closed = joined.into_iter().collect::<Result<Vec<_>, _>>();
        closed.map(Accounting::of).map_err(|panic| InstanceError::Panicked {
            what: "a worker, whose accounting is lost,",
            panic: panic_message(panic.as_ref()).to_owned(),
        })
    }
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Who wanted to know how it ended has asked `finish`.
            let _ = thread.join();
        }
    }
}
