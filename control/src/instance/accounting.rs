//! The final accounting: what became of every packet.

use std::fmt;

use serde_json::{Value, json};

use super::{NfWorker, functions, rows};
use crate::listing::{Listing, SLICE};
use crate::table::Table;

/// What became of every packet of a run.
#[derive(Clone, Debug, PartialEq)]
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
    /// R13 holds.
    pub sums_hold: bool,
    /// Frames in the pool at the end, and in all.
    pub pool: (usize, usize),
    /// What ports were to do and could not: captures that were not read or written whole.
    pub failures: Vec<String>,
}

impl Accounting {
    /// Closes the worker's ports and counts.
    pub fn close(worker: &mut NfWorker) -> Self {
        // What the cache counted belongs to sessions and rules.
        let mut from = Some(0);
        while let Some(place) = from {
            from = worker.engine.state.fold_from(place, SLICE);
            worker.engine.settle();
        }
        let report = worker.close();
        let mut functions = Listing::default();
        let mut from = Some(0);
        while let Some(at) = from {
            let (slice, next) = functions::counters(worker, at);
            functions.columns = slice.columns;
            functions.rows.extend(slice.rows);
            from = next;
        }
        let engine = report.engine;
        let failed = report.ports.iter().filter_map(|port| {
            let failure = port.failure.as_ref()?;
            Some(format!("port {}: {failure}", port.info.name))
        });
        Self {
            failures: failed.collect(),
            ports: rows::ports(&report),
            functions,
            chains: rows::chains(worker),
            drops: rows::drops(&report),
            sums: rows::sums(&report.sums, report.buffered),
            hits: (engine.hits, engine.hits + engine.misses + engine.alone),
            sums_hold: report.sums_hold() && report.buffered == 0,
            pool: report.pool,
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
