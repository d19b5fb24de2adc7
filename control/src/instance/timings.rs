//! How long bursts take, as control threads see it: the histograms that workers write.

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

/// The histograms of an instance. To read them costs the workers nothing.
#[derive(Debug)]
pub struct Timings {
    /// By share.
    bursts: Vec<Arc<Histogram>>,
    turns: Vec<Arc<AtomicU64>>,
    /// By the name of the chain, one for each share: a histogram has one writer.
    latency: Mutex<BTreeMap<String, Vec<Arc<Histogram>>>>,
    /// The turns when all shares had last had some, and how often that was.
    progress: Mutex<(Vec<u64>, u64)>,
}

impl Timings {
    /// Those of `workers`; `others` turn, too.
    pub fn of(workers: &[NfWorker], others: impl Iterator<Item = Arc<AtomicU64>>) -> Self {
        let turns = workers.iter().map(|worker| Arc::clone(worker.timing.turns()));
        Self {
            bursts: workers.iter().map(|worker| Arc::clone(worker.timing.bursts())).collect(),
            turns: turns.chain(others).collect(),
            latency: Mutex::default(),
            progress: Mutex::default(),
        }
    }

    /// A number that grows, from call to call, as long as every share has its turns, with packets or without.
    pub fn turns(&self) -> u64 {
        let turns: Vec<u64> = self.turns.iter().map(|turns| turns.load(Ordering::Relaxed)).collect();
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, count) = &mut *progress;
        if before.is_empty() || turns.iter().zip(before.iter()).all(|(now, before)| now != before) {
            *before = turns;
            *count += 1;
        }
        *count
    }

    /// By share, times that its worker spent on a burst: parse, look-up, replay and walks.
    pub fn bursts(&self) -> Vec<HistogramReport> {
        self.bursts.iter().map(|histogram| histogram.report()).collect()
    }

    /// By chain, times from when a worker received a burst to when it gave what became of it to ports.
    pub fn latency(&self) -> Vec<(String, HistogramReport)> {
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |histograms: &Vec<Arc<Histogram>>| {
            let mut sum = HistogramReport::default();
            histograms.iter().for_each(|histogram| sum.add(&histogram.report()));
            sum
        };
        latency.iter().map(|(chain, histograms)| (chain.clone(), sum(histograms))).collect()
    }

    /// Which histogram of `worker` each port of `config` is to have. A chain that was there before keeps its own.
    pub(crate) fn links(&self, worker: usize, config: &Config, numbers: &PortNumbers) -> Links {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let mut histogram = |port: &str| {
            let chain = config.chain_of_port(port)?;
            let of_chain = latency
                .entry(chain.name.clone())
                .or_insert_with(|| self.bursts.iter().map(|_| Arc::default()).collect());
            of_chain.get(worker).cloned()
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
        let bursts = self.bursts();
        bursts.iter().enumerate().for_each(|(at, report)| rows("burst", &format!("share {at}"), report));
        self.latency().iter().for_each(|(chain, report)| rows("latency", &format!("chain {chain}"), report));
        listing
    }
}
