//! What control threads hold of a running instance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::memory::Arena;
use millrace_dataplane::port::PortId;
use millrace_dataplane::worker::{WorkerCounters, WorkerReport};
use millrace_nf::firewall::Policy;

use super::functions::PortFacts;
use super::handle::{Asked, NfWorker, WorkerHandle};
use super::hosts::Hosts;
use super::numbers::PortNumbers;
use super::ports::Opener;
use super::rule_logs::RuleLogs;
use super::sharing::Sharing;
use super::stages::Stages;
use super::thread::{Seat, Threads};
use super::timings::Timings;
use super::{InstanceError, memory};
use crate::config::Config;
use crate::config::deal::deal;
use crate::config::settings::Workers;
use crate::notify::Notifier;

/// What an instance was last configured with.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// The configuration in force.
    pub(crate) config: Config,
    /// Numbers of the open ports.
    pub(crate) numbers: PortNumbers,
    /// What is known of them.
    pub(crate) facts: Vec<PortFacts>,
    /// The rules in force by firewall: the next change is compared with them off the packet path.
    pub(crate) policies: HashMap<String, Policy>,
}

/// A running instance, as control threads see it.
#[derive(Debug)]
pub struct Control {
    pub(crate) workers: Vec<WorkerHandle>,
    /// Those from here on own connections.
    pub(crate) first_owner: usize,
    /// Workers get cores of their own.
    pub(crate) pinned: bool,
    /// The cores that the process was started with, whatever its threads may use since. Empty if the system does not say.
    pub(crate) cores: Vec<usize>,
    pub(crate) idle: IdlePolicy,
    /// Once they run.
    pub(crate) threads: OnceLock<Arc<Threads>>,
    /// None where there is one worker.
    pub(crate) sharing: Option<Sharing>,
    pub(crate) stages: Stages,
    pub(crate) memory: Arc<memory::Facts>,
    pub(crate) arena: Arena,
    pub(crate) opener: Opener,
    pub(crate) seed: Option<u64>,
    pub(crate) logs: RuleLogs,
    pub(crate) hosts: Hosts,
    pub(crate) timings: Timings,
    /// Who is told of changes.
    pub(crate) notifier: OnceLock<Arc<Notifier>>,
    /// One change at a time; whether the last one left removed ports open.
    pub(crate) changing: Mutex<bool>,
    /// Never held for long: others ask for names.
    pub(crate) running: Mutex<Arc<Running>>,
}

impl Control {
    /// The ways to all workers. The first one has the ports.
    pub fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    /// The ways to those that own connections, with their numbers; one at least.
    pub fn owners(&self) -> impl Iterator<Item = (usize, &WorkerHandle)> {
        self.workers.iter().enumerate().skip(self.first_owner)
    }

    /// The worker that works on a frame which `port` receives, if it is one alone; else any that owns connections.
    pub fn owner_of(&self, port: PortId, frame: &[u8]) -> Option<&WorkerHandle> {
        let owner = self.sharing.as_ref().and_then(|sharing| sharing.owner(port, frame));
        self.workers.get(owner.unwrap_or(self.first_owner))
    }

    /// Asks all workers, at a time, for those of one thread may sleep together.
    ///
    /// # Errors
    /// One is gone, or `look` panicked.
    pub fn ask_all<T: Send + 'static>(
        &self,
        look: impl Fn(&mut NfWorker) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, InstanceError> {
        let asked: Result<Vec<_>, _> =
            self.workers.iter().map(|worker| worker.begin_ask(look.clone())).collect();
        asked?.into_iter().map(Asked::wait).collect()
    }

    /// What all workers report together.
    ///
    /// # Errors
    /// One is gone.
    pub fn report(&self) -> Result<WorkerReport, InstanceError> {
        let mut reports = self.ask_all(NfWorker::report)?.into_iter();
        let mut all = reports.next().ok_or(InstanceError::WorkerGone)?;
        reports.for_each(|report| all.add(report));
        Ok(all)
    }

    /// The threads: their cores and what each of them runs. Before they run, as they are meant to be.
    pub fn seats(&self) -> Vec<Seat> {
        if let Some(threads) = self.threads.get() {
            return threads.seats();
        }
        let workers = self.running.lock().unwrap_or_else(PoisonError::into_inner).config.workers.clone();
        let cores = self.cores_of(&workers);
        let dealt = deal(&workers, &vec![Vec::new(); cores.len()]);
        let seat = |(core, shares)| Seat { core, shares, time: WorkerCounters::default() };
        cores.into_iter().zip(dealt).map(seat).collect()
    }

    /// A core for each thread that `workers` asks for, as far as is known.
    pub(crate) fn cores_of(&self, workers: &Workers) -> Vec<Option<usize>> {
        match workers.cores.as_deref() {
            _ if !self.pinned => vec![None; workers.threads()],
            Some(cores @ [_, ..]) => cores.iter().copied().map(Some).collect(),
            _ => vec![self.cores.last().copied()],
        }
    }

    /// True if a thread has ended, or all were told to: nobody may answer any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.threads.get().is_some_and(|threads| threads.has_ended())
    }

    /// What is known of the memory.
    pub fn memory(&self) -> &Arc<memory::Facts> {
        &self.memory
    }

    /// What logging rules tell.
    pub fn rule_logs(&self) -> &RuleLogs {
        &self.logs
    }

    /// The ways to connect to the ports of the host stack.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// How long bursts take.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Tells a service manager when a change begins and when it is over.
    pub fn notify(&self, notifier: Arc<Notifier>) {
        // The first one stays.
        let _ = self.notifier.set(notifier);
    }

    /// The configuration in force.
    pub fn config(&self) -> Config {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// What is known of the open ports.
    pub fn ports(&self) -> Vec<PortFacts> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).facts.clone()
    }

    /// The name of a port, or its number if it is gone.
    pub fn port_name(&self, id: PortId) -> String {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let port = running.facts.iter().find(|port| port.id == id);
        port.map_or_else(|| id.0.to_string(), |port| port.name.clone())
    }
}
