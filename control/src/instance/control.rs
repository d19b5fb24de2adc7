//! What control threads hold of a running instance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use millrace_dataplane::memory::Arena;
use millrace_dataplane::port::PortId;
use millrace_nf::firewall::Policy;

use super::functions::PortFacts;
use super::handle::WorkerHandle;
use super::memory;
use super::numbers::PortNumbers;
use super::ports::Opener;
use super::rule_logs::RuleLogs;
use super::timings::Timings;
use crate::config::Config;
use crate::notify::Notifier;

/// What an instance was last configured with.
#[derive(Debug)]
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
    pub(crate) worker: WorkerHandle,
    pub(crate) core: Option<usize>,
    pub(crate) memory: Arc<memory::Facts>,
    pub(crate) arena: Arena,
    pub(crate) opener: Opener,
    pub(crate) seed: Option<u64>,
    pub(crate) logs: RuleLogs,
    pub(crate) timings: Timings,
    /// Who is told of changes.
    pub(crate) notifier: OnceLock<Arc<Notifier>>,
    /// One change at a time.
    pub(crate) changing: Mutex<()>,
    /// Never held for long: others ask for names.
    pub(crate) running: Mutex<Arc<Running>>,
}

impl Control {
    /// The way to the worker.
    pub fn worker(&self) -> &WorkerHandle {
        &self.worker
    }

    /// The worker's core, if it has one of its own.
    pub fn core(&self) -> Option<usize> {
        self.core
    }

    /// What is known of the memory.
    pub fn memory(&self) -> &Arc<memory::Facts> {
        &self.memory
    }

    /// What logging rules tell.
    pub fn rule_logs(&self) -> &RuleLogs {
        &self.logs
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
