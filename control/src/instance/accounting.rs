//! The final accounting: what became of every packet.

use std::fmt;

use millrace_dataplane::crew::Crew;
use millrace_dataplane::worker::WorkerReport;
use millrace_nf::chain::Chains;
use serde_json::{Value, json};

use super::{NfWorker, functions, rows, stages};
use crate::listing::{Listing, SLICE};
use crate::table::Table;

/// What became of every packet of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accounting {
    /// Ports.
    pub ports: Listing,
    /// Functions' counters.
    pub functions: Listing,
    /// Chains' counters.
    pub chains: Listing,
    /// Drops by reason.
    pub drops: Listing,
    /// Received, originated, copied; sent, consumed, dropped.
    pub sums: Listing,
    /// Packets carried by the flow cache, and in all.
    pub hits: (u64, u64),
    /// R13 holds, for each worker and for all.
    pub sums_hold: bool,
    /// Frames in the pool at the end, and in all.
    pub pool: (usize, usize),
    /// What ports were to do and could not: captures that were not read or written whole. Packet functions that panicked.
    pub failures: Vec<String>,
}

/// A worker's number, the worker, whose ports are closed, and what it reported then.
pub type Closed = (usize, Box<NfWorker>, WorkerReport);

/// Ends the work of those on a thread and closes their ports.
pub fn close(crew: Crew<Chains>) -> Vec<Closed> {
    // First, for others wait for their ports, and what comes last is counted, too.
    let mut closed = crew.close();
    closed.iter_mut().for_each(|(_, worker, _)| fold(worker));
    closed
}

/// Ends the work of one that is on a thread of its own, or the only one.
pub fn close_one(number: usize, mut worker: NfWorker) -> Closed {
    let report = worker.close();
    fold(&mut worker);
    (number, Box::new(worker), report)
}

/// What the cache counted belongs to sessions and rules.
fn fold(worker: &mut NfWorker) {
    let mut from = Some(0);
    while let Some(place) = from {
        from = worker.engine.state.fold_from(place, SLICE);
        worker.engine.settle();
    }
}

impl Accounting {
    /// The same with packet functions that had cores of their own.
    pub(crate) fn with_stages(closed: Vec<Closed>, stages: Vec<stages::Ended>) -> Self {
        let mut listing = functions::listing();
        let mut failures = Vec::new();
        for stages::Ended { name, counters } in stages {
            let chain = closed.iter().find_map(|(_, worker, _)| functions::chain_of(worker, &name));
            match counters {
                Ok(rows) => {
                    functions::tell(&mut listing, &chain.unwrap_or_default(), &name, "inspect", rows);
                }
                Err(panic) => {
                    failures
                        .push(format!("functions.{name}: it panicked, and its counters are lost: {panic}"));
                }
            }
        }
        let mut all = Self::of(closed);
        rows::add(&mut all.functions, listing, functions::NAMES);
        all.failures.extend(failures);
        all
    }

    /// Counts what the workers of an instance did, all of which are closed.
    pub fn of(closed: Vec<Closed>) -> Self {
        let mut functions = Listing::default();
        let mut chains = Listing::default();
        let mut all: Option<WorkerReport> = None;
        let (mut pool, mut each_holds) = ((0, 0), true);
        for (_, mut worker, report) in closed {
            let mut from = Some(0);
            while let Some(at) = from {
                let (slice, next) = functions::counters(&mut worker, at);
                rows::add(&mut functions, slice, functions::NAMES);
                from = next;
            }
            rows::add(&mut chains, rows::chains(&mut worker), rows::CHAIN_NAMES);
            // Some frames came back only when another worker had ended.
            let large = worker.pool.large_frames();
            pool.0 += worker.pool.available() + large.0;
            pool.1 += worker.pool.capacity() + large.1;
            each_holds &= report.sums_hold();
            match &mut all {
                Some(all) => all.add(report),
                None => all = Some(report),
            }
        }
        let Some(report) = all else { return Self::default() };
        let engine = report.engine;
        let failed = report.ports.iter().filter_map(|port| {
            let failure = port.failure.as_ref()?;
            Some(format!("port {}: {failure}", port.info.name))
        });
        Self {
            failures: failed.collect(),
            ports: rows::ports(&report),
            functions,
            chains,
            drops: rows::drops(&report),
            sums: rows::sums(&report.sums, report.buffered),
            hits: (engine.hits, engine.hits + engine.misses + engine.alone),
            sums_hold: each_holds && report.sums_hold() && report.buffered == 0 && report.between() == 0,
            pool,
        }
    }

    /// True if every packet and every frame is accounted for.
    pub fn is_complete(&self) -> bool {
        self.sums_hold && self.pool.0 == self.pool.1
    }

    /// What did not go well, for people.
    pub fn problems(&self) -> Vec<String> {
        let missing = "the accounting does not hold: packets or frames are missing".to_owned();
        let missing = (!self.is_complete()).then_some(missing);
        missing.into_iter().chain(self.failures.iter().cloned()).collect()
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "ports": self.ports.rows,
            "functions": self.functions.rows,
            "chains": self.chains.rows,
            "drops": self.drops.rows,
            "sums": self.sums.rows.first(),
            "hits": self.hits.0,
            "looked_up": self.hits.1,
            "sums_hold": self.sums_hold,
            "pool": { "free": self.pool.0, "frames": self.pool.1 },
            "failures": self.failures,
        })
    }
}

impl fmt::Display for Accounting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, listing) in [
            ("ports", &self.ports),
            ("functions", &self.functions),
            ("chains", &self.chains),
            ("drops", &self.drops),
            ("packets", &self.sums),
        ] {
            if !listing.rows.is_empty() {
                write!(f, "\n{title}\n{}", Table::from(listing))?;
            }
        }
        writeln!(f, "\nflow cache: {} of {} packets hit", self.hits.0, self.hits.1)?;
        writeln!(f, "frames: {} of {} in the pool", self.pool.0, self.pool.1)?;
        writeln!(f, "sums hold: {}", if self.sums_hold { "yes" } else { "no" })
    }
}
