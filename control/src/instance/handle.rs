//! How control threads talk to the worker.

use std::sync::mpsc::{Sender, sync_channel};
use std::time::Duration;

use millrace_dataplane::worker::{Command, Worker};
use millrace_nf::chain::Chains;

use super::InstanceError;

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

    /// Runs `work` on the worker between two turns and waits for what it says. `work` must be short: it holds up packets.
    ///
    /// # Errors
    /// The worker has ended or does not answer.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NfWorker) -> T + Send + 'static,
    ) -> Result<T, InstanceError> {
        let (sender, receiver) = sync_channel(1);
        // A caller that no longer waits needs no answer.
        let command = Box::new(move |worker: &mut NfWorker| drop(sender.send(work(worker))));
        self.0.send(command).map_err(|_| InstanceError::WorkerGone)?;
        receiver.recv_timeout(ANSWER_TIMEOUT).map_err(|_| InstanceError::WorkerGone)
    }
}
