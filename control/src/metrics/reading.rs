//! A reading: the counters of an instance at one moment, asked of the worker in one short look.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_dataplane::timing::HistogramReport;
use millrace_dataplane::worker::WorkerReport;
use millrace_nf::chain::ChainCounters;

use crate::instance::{Control, InstanceError, NfWorker};

/// A reading serves all who ask within this time: a look holds up packets for some microseconds.
const FRESH: Duration = Duration::from_millis(250);

/// What an instance counted.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The worker, its ports and sums.
    pub report: WorkerReport,
    /// Sessions now.
    pub sessions: usize,
    /// Sessions that there is room for.
    pub sessions_max: usize,
    /// Entries of the flow cache now.
    pub flows: usize,
    /// Chains by name.
    pub chains: Vec<(String, ChainCounters)>,
    /// Times that bursts took.
    pub bursts: HistogramReport,
    /// Latency by chain.
    pub latency: Vec<(String, HistogramReport)>,
}

impl Reading {
    /// Asks the worker of `control`.
    ///
    /// # Errors
    /// It is gone or does not answer.
    pub fn take(control: &Control) -> Result<Self, InstanceError> {
        let look = |worker: &mut NfWorker| {
            let state = &worker.engine.state;
            let (sessions, flows) = (state.sessions.count(), state.cache.count());
            let sessions_max = state.sessions.capacity();
            let chains = worker.engine.slow.iter();
            let chains = chains.map(|(_, chain)| (chain.name().to_owned(), chain.counters())).collect();
            (worker.report(), sessions, sessions_max, flows, chains)
        };
        let (report, sessions, sessions_max, flows, chains) = control.worker().ask(look)?;
        let timings = control.timings();
        let (bursts, latency) = (timings.bursts(), timings.latency());
        Ok(Self { report, sessions, sessions_max, flows, chains, bursts, latency })
    }
}

/// The latest reading, taken again when it is old.
#[derive(Debug, Default)]
pub struct Readings(Mutex<Option<(Instant, Arc<Reading>)>>);

impl Readings {
    /// A reading that is fresh. Who asks while another waits for the worker waits with it.
    ///
    /// # Errors
    /// As for [`Reading::take`].
    pub fn fresh(&self, control: &Control) -> Result<Arc<Reading>, InstanceError> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((taken, reading)) = latest.as_ref()
            && taken.elapsed() < FRESH
        {
            return Ok(Arc::clone(reading));
        }
        let reading = Arc::new(Reading::take(control)?);
        *latest = Some((Instant::now(), Arc::clone(&reading)));
        Ok(reading)
    }
}
