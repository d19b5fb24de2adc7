//! The thread that a worker runs on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use millrace_dataplane::affinity;

use super::accounting::Accounting;
use super::{InstanceError, NfWorker};
use crate::logging;
use crate::supervised::panic_message;

/// A worker at work. It ends, with its ports closed, at the latest when this is dropped.
#[derive(Debug)]
pub struct WorkerThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Accounting>>,
}

impl WorkerThread {
    /// Starts `worker` on a thread of its own, pinned to `core` if there is one. It runs until `stop` is set, or, with
    /// `until_exhausted`, until all ports that have an end have ended.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(
        mut worker: NfWorker,
        core: Option<usize>,
        stop: Arc<AtomicBool>,
        until_exhausted: bool,
    ) -> Result<Self, InstanceError> {
        let told = Arc::clone(&stop);
        let work = move || {
            if let Some(core) = core
                && let Err(error) = affinity::pin_to_core(core)
            {
                tracing::warn!(core, %error, "the worker could not be pinned to its core");
            }
            logging::on_packet_path();
            worker.run(&told, until_exhausted);
            Accounting::close(&mut worker)
        };
        let thread = Builder::new()
            .name("worker-0".to_owned())
            .spawn(work)
            .map_err(|source| InstanceError::System { action: "start the worker".to_owned(), source })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// True if it has ended, well or not.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Drains: what is held is dropped and counted, what waits is sent, ports are closed. Says what became of every packet.
    ///
    /// # Errors
    /// The worker panicked; its ports are closed, its accounting is lost.
    pub fn finish(mut self) -> Result<Accounting, InstanceError> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or(InstanceError::WorkerGone)?;
        thread.join().map_err(|panic| InstanceError::Panicked {
            what: "the worker, whose accounting is lost,",
            panic: panic_message(panic.as_ref()).to_owned(),
        })
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Who wanted to know how it ended has asked `finish`.
            let _ = thread.join();
        }
    }
}
