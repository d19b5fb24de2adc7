//! How long bursts take, as control threads see it: the histograms that the worker writes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use millrace_dataplane::port::PortId;
use millrace_dataplane::timing::{Histogram, HistogramReport, bound_nanos};

use super::NfWorker;
use super::numbers::PortNumbers;
use crate::config::Config;
use crate::listing::Listing;
use serde_json::Value;

/// Where the latency of each port's bursts is noted.
pub(crate) type Links = Vec<(PortId, Option<Arc<Histogram>>)>;

/// The histograms of an instance. To read them costs the worker nothing.
#[derive(Debug)]
pub struct Timings {
    bursts: Arc<Histogram>,
    turns: Arc<AtomicU64>,
    /// By the name of the chain.
    latency: Mutex<BTreeMap<String, Arc<Histogram>>>,
}

impl Timings {
    /// Those of `worker`.
    pub fn of(worker: &NfWorker) -> Self {
        let (bursts, turns) = (Arc::clone(worker.timing.bursts()), Arc::clone(worker.timing.turns()));
        Self { bursts, turns, latency: Mutex::default() }
    }

    /// Turns of the worker so far: they go on while it lives, with packets or without.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Times that the worker spent on a burst: parse, look-up, replay and walks.
    pub fn bursts(&self) -> HistogramReport {
        self.bursts.report()
    }

    /// By chain, times from when a burst was received to when what became of it was given to ports.
    pub fn latency(&self) -> Vec<(String, HistogramReport)> {
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.iter().map(|(chain, histogram)| (chain.clone(), histogram.report())).collect()
    }

    /// Which histogram each port of `config` is to have. A chain that was there before keeps its own.
    pub(crate) fn links(&self, config: &Config, numbers: &PortNumbers) -> Links {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let mut histogram = |port: &str| {
            let chain = config.chain_of_port(port)?;
            Some(Arc::clone(latency.entry(chain.name.clone()).or_default()))
        };
        numbers.iter().map(|(name, id)| (id, histogram(name))).collect()
    }

    /// Forgets chains that `config` does not have.
    pub(crate) fn keep(&self, config: &Config) {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.retain(|name, _| config.chains.iter().any(|chain| chain.name == *name));
    }

    /// As rows: buckets that hold something.
    pub fn rows(&self) -> Listing {
        let mut listing = Listing::new(&["time", "of", "up_to_us", "bursts"]);
        let mut rows = |time: &str, of: &str, report: &HistogramReport| {
            for (bucket, &bursts) in report.buckets.iter().enumerate().filter(|(_, bursts)| **bursts > 0) {
                let bound = bound_nanos(bucket).map(|nanos| nanos as f64 / 1e3);
                let bound = bound.map_or(Value::Null, Value::from);
                listing.push([time.into(), of.into(), bound, bursts.into()]);
            }
        };
        rows("burst", "worker 0", &self.bursts());
        self.latency().iter().for_each(|(chain, report)| rows("latency", &format!("chain {chain}"), report));
        listing
    }
}
