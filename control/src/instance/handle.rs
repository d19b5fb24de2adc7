//! How control threads talk to the worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, sync_channel};
use std::time::Duration;

use millrace_dataplane::worker::{Command, Worker};
use millrace_nf::chain::Chains;

use super::InstanceError;
use crate::supervised::panic_message;

/// The worker of an instance.
pub type NfWorker = Worker<Chains>;

/// Longest wait for a worker's answer: it works on commands between turns, so this means that it is gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A way to a worker. Copies lead to the same one.
#[derive(Clone, Debug)]
pub struct WorkerHandle(Sender<Command<Chains>>);

impl WorkerHandle {
    /// The way that a worker was made with.
    pub fn new(sender: Sender<Command<Chains>>) -> Self {
        Self(sender)
    }

    /// As [`Self::call`], for work that only looks: if it panics, packets flow on.
    ///
    /// # Errors
    /// As for [`Self::call`]; `work` panicked.
    pub fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NfWorker) -> T + Send + 'static,
    ) -> Result<T, InstanceError> {
        self.begin_ask(work)?.wait()
    }

    /// The beginning of [`Self::ask`]: several workers can so be asked at a time.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn begin_ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NfWorker) -> T + Send + 'static,
    ) -> Result<Asked<T>, InstanceError> {
        let caught = move |worker: &mut NfWorker| {
            // It changes nothing, so that nothing is half changed.
            catch_unwind(AssertUnwindSafe(|| work(worker)))
        };
        self.begin(caught).map(Asked)
    }

    /// Runs `work` on the worker between two turns and waits for what it says. `work` must be short: it holds up packets.
    /// If it panics, the worker ends: nobody knows what is half changed.
    ///
    /// # Errors
    /// The worker has ended or does not answer.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NfWorker) -> T + Send + 'static,
    ) -> Result<T, InstanceError> {
        wait(&self.begin(work)?)
    }

    fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NfWorker) -> T + Send + 'static,
    ) -> Result<Receiver<T>, InstanceError> {
        let (sender, receiver) = sync_channel(1);
        // A caller that no longer waits needs no answer.
        let command = Box::new(move |worker: &mut NfWorker| drop(sender.send(work(worker))));
        self.0.send(command).map_err(|_| InstanceError::WorkerGone)?;
        Ok(receiver)
    }
}

/// A worker's answer that is still to come.
#[derive(Debug)]
pub struct Asked<T>(Receiver<std::thread::Result<T>>);

impl<T> Asked<T> {
    /// Waits for it.
    ///
    /// # Errors
    /// As for [`WorkerHandle::ask`].
    pub fn wait(self) -> Result<T, InstanceError> {
        wait(&self.0)?.map_err(|panic| InstanceError::Panicked {
            what: "a look at the worker",
            panic: panic_message(panic.as_ref()).to_owned(),
        })
    }
}

fn wait<T>(answer: &Receiver<T>) -> Result<T, InstanceError> {
    answer.recv_timeout(ANSWER_TIMEOUT).map_err(|_| InstanceError::WorkerGone)
}
