//! How control threads talk to the worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, sync_channel};
use std::time::{Duration, Instant};

use millrace_dataplane::handoff::Waker;
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
pub struct WorkerHandle {
    sender: Sender<Command<Chains>>,
    waker: Waker,
}

/// What a worker will say.
#[derive(Debug)]
pub struct Answer<T>(Receiver<T>);

impl<T> Answer<T> {
    /// Waits for it until `deadline`, see [`answer_deadline`].
    ///
    /// # Errors
    /// The worker has ended or does not answer.
    pub fn wait(self, deadline: Instant) -> Result<T, InstanceError> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.0.recv_timeout(left).map_err(|_| InstanceError::WorkerGone)
    }
}

/// Until when workers that are asked now are waited for, however many they are.
pub fn answer_deadline() -> Instant {
    Instant::now() + ANSWER_TIMEOUT
}

impl WorkerHandle {
    /// The way that a worker was made with, and what wakes it.
    pub fn new(sender: Sender<Command<Chains>>, waker: Waker) -> Self {
        Self { sender, waker }
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
        Ok(Asked { answer: self.send(caught)?, deadline: answer_deadline() })
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
        self.send(work)?.wait(answer_deadline())
    }

    /// As [`Self::call`], without waiting: the worker runs `work` between two turns, at once also if it sleeps.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn send<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NfWorker) -> T + Send + 'static,
    ) -> Result<Answer<T>, InstanceError> {
        send(&self.sender, &self.waker, work)
    }
}

/// The way of commands to a thread that works on a `W`.
type Commands<W> = Sender<Box<dyn FnOnce(&mut W) + Send>>;

/// Sends `work` to the thread that takes such commands and is woken by `waker`.
///
/// # Errors
/// The thread has ended.
pub(super) fn send<W: 'static, T: Send + 'static>(
    commands: &Commands<W>,
    waker: &Waker,
    work: impl FnOnce(&mut W) -> T + Send + 'static,
) -> Result<Answer<T>, InstanceError> {
    let (sender, receiver) = sync_channel(1);
    // A caller that no longer waits needs no answer.
    let command = Box::new(move |worker: &mut W| drop(sender.send(work(worker))));
    commands.send(command).map_err(|_| InstanceError::WorkerGone)?;
    waker.ring();
    Ok(Answer(receiver))
}

/// A worker's answer to [`WorkerHandle::begin_ask`] that is still to come.
#[derive(Debug)]
pub struct Asked<T> {
    answer: Answer<std::thread::Result<T>>,
    deadline: Instant,
}

impl<T> Asked<T> {
    /// Waits for it.
    ///
    /// # Errors
    /// As for [`WorkerHandle::ask`].
    pub fn wait(self) -> Result<T, InstanceError> {
        self.answer.wait(self.deadline)?.map_err(|panic| InstanceError::Panicked {
            what: "a look at the worker",
            panic: panic_message(panic.as_ref()).to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_command_wakes_its_worker() {
        let (sender, commands) = channel();
        let waker = Waker::new().unwrap();
        let handle = WorkerHandle::new(sender, waker.clone());
        let answer = handle.send(|_| ()).unwrap();
        assert!(commands.try_recv().is_ok());
        assert!(matches!(answer.wait(Instant::now()), Err(InstanceError::WorkerGone)));
        // The kernel says how often it was rung.
        let fd = waker.sleep_on(|| false);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let count = info.lines().find_map(|line| line.strip_prefix("eventfd-count:")).map(str::trim);
        assert_eq!(count, Some("1"), "{info}");
    }
}
