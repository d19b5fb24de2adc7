//! A reading: the counters of an instance at one moment, asked of each worker in one short look.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_dataplane::memory::{HeapUse, heap_use};
use millrace_dataplane::port::Handed;
use millrace_dataplane::stage::{LinkCounters, StageReport};
use millrace_dataplane::timing::HistogramReport;
use millrace_dataplane::worker::{PortReport, WorkerReport};
use millrace_nf::chain::ChainCounters;

use crate::host::probe::Status;
use crate::instance::thread::Seat;
use crate::instance::{Control, InstanceError, NfWorker};

/// A reading serves all who ask within this time: a look holds up packets for some microseconds.
const FRESH: Duration = Duration::from_millis(250);

/// What a share counted.
#[derive(Clone, Debug)]
pub struct ShareReading {
    /// Its turns, ports and sums.
    pub report: WorkerReport,
    /// Sessions now.
    pub sessions: usize,
    /// Sessions that there is room for.
    pub sessions_max: usize,
    /// Entries of the flow cache now.
    pub flows: usize,
    /// Chains by name.
    pub chains: Vec<(String, ChainCounters)>,
    /// The ways to functions with cores of their own, by name.
    pub links: Vec<(String, LinkCounters)>,
}

impl ShareReading {
    /// What it handed to or got from other shares, at all ports.
    pub fn handed(&self, of: impl Fn(&Handed) -> u64) -> u64 {
        self.report.ports.iter().map(|port| of(&port.handed)).sum()
    }
}

/// What an instance counted.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The workers and their time.
    pub seats: Vec<Seat>,
    /// By share.
    pub shares: Vec<ShareReading>,
    /// Ports, of which each share has its part.
    pub ports: Vec<PortReport>,
    /// Chains by name, of all shares.
    pub chains: Vec<(String, ChainCounters)>,
    /// Times that bursts took, by share.
    pub bursts: Vec<HistogramReport>,
    /// Latency by chain.
    pub latency: Vec<(String, HistogramReport)>,
    /// What is known by each probe.
    pub probes: Vec<Status>,
    /// Functions with cores of their own, by name.
    pub stages: Vec<(String, StageReport)>,
    /// What is no packet and no table, where the system says.
    pub heap: Option<HeapUse>,
}

impl Reading {
    /// Asks the workers of `control`.
    ///
    /// # Errors
    /// One is gone or does not answer.
    pub fn take(control: &Control) -> Result<Self, InstanceError> {
        let look = |worker: &mut NfWorker| {
            let state = &worker.engine.state;
            let (sessions, flows) = (state.sessions.count(), state.cache.count());
            let sessions_max = state.sessions.capacity();
            let all = || worker.engine.slow.iter().map(|(_, chain)| chain);
            let links = all().flat_map(|chain| {
                let link = |(name, _): (&str, _)| Some((name.to_owned(), chain.stage_link(name)?));
                chain.functions().into_iter().filter_map(link).collect::<Vec<_>>()
            });
            let links = links.collect();
            let chains = all().map(|chain| (chain.name().to_owned(), chain.counters())).collect();
            ShareReading { report: worker.report(), sessions, sessions_max, flows, chains, links }
        };
        let shares = control.ask_all(look)?;
        let seats = control.seats();
        let timings = control.timings();
        let (bursts, latency) = (timings.bursts(), timings.latency());
        let probes = control.hosts().board().all();
        let stages = control.stages.reports()?;
        let mut reports = shares.iter().map(|share| &share.report);
        let mut all = reports.next().cloned().ok_or(InstanceError::WorkerGone)?;
        reports.for_each(|report| all.add(report.clone()));
        let mut chains: Vec<(String, ChainCounters)> = Vec::new();
        for (name, counters) in shares.iter().flat_map(|share| &share.chains) {
            match chains.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => sum.add(counters),
                None => chains.push((name.clone(), *counters)),
            }
        }
        let heap = heap_use();
        Ok(Self { seats, shares, ports: all.ports, chains, bursts, latency, probes, stages, heap })
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
