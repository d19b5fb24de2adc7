//! How large the process is, and how full its tables, over time.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::clients::Clients;
use super::network::Network;

/// A look at the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Seconds since the start.
    pub at: f64,
    /// KiB in all, and without the arena, which is a file.
    pub rss: u64,
    pub heap: u64,
    pub descriptors: u64,
    pub threads: u64,
    pub sessions: u64,
    pub buffers_used: u64,
    pub received: u64,
    pub connections: u64,
}

pub struct Samples {
    pid: u32,
    start: Instant,
    time: Duration,
    pub all: Vec<Sample>,
    /// Looks at which the sums did not hold.
    pub broken: Vec<Value>,
}

impl Samples {
    pub fn new(pid: u32, time: Duration) -> Self {
        Self { pid, start: Instant::now(), time, all: Vec::new(), broken: Vec::new() }
    }

    pub fn take(&mut self, network: &Network, clients: &Clients) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let workers = network.site.show("workers").unwrap();
        self.broken
            .extend(workers.iter().filter(|row| row["worker"].is_u64() && row["sums_hold"] != true).cloned());
        let memory = network.site.show("memory").unwrap();
        let buffers = memory.iter().filter(|row| row["what"] == "frames");
        let sum = |rows: &[Value], column: &str| rows.iter().filter_map(|row| row[column].as_u64()).sum();
        let ports = network.site.show("ports").unwrap();
        let shorts = clients.counts().into_iter().filter(|(name, ..)| name.starts_with("short"));
        let connections = shorts.map(|(_, _, counts)| counts.ok + counts.failed).sum();
        self.all.push(Sample {
            at: self.start.elapsed().as_secs_f64(),
            rss: number("VmRSS:"),
            heap: number("RssAnon:"),
            descriptors: fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap().count() as u64,
            threads: number("Threads:"),
            sessions: sum(&workers, "sessions"),
            buffers_used: buffers.filter_map(|row| row["used"].as_u64()).sum(),
            received: sum(&ports, "rx_packets"),
            connections,
        });
    }

    /// By how much a figure grew over the second half: from the floor of the third quarter to that of the last, for what an answer
    /// takes for a moment is no growth.
    pub fn growth(&self, figure: impl Fn(&Sample) -> u64) -> i64 {
        let floor = |from: f64, to: f64| {
            let within = |sample: &&Sample| (from..to).contains(&(sample.at / self.time.as_secs_f64()));
            let figures = self.all.iter().filter(within).map(&figure);
            i64::try_from(figures.min().unwrap_or(0)).unwrap()
        };
        floor(0.75, f64::INFINITY) - floor(0.5, 0.75)
    }

    /// About a dozen of them, as a table.
    pub fn text(&self) -> String {
        let every = self.all.len().div_ceil(12).max(1);
        let shown = self.all.iter().enumerate().filter(|(at, _)| at % every == 0 || at + 1 == self.all.len());
        let rows = shown.map(|(_, sample)| {
            let Sample { at, rss, heap, descriptors, threads, sessions, buffers_used, received, connections } = sample;
            format!(
                "{at:>8.0}{rss:>10}{heap:>10}{descriptors:>6}{threads:>9}{sessions:>10}{buffers_used:>9}{received:>12}{connections:>13}\n"
            )
        });
        let heading =
            " seconds   RSS KiB  heap KiB   fds  threads  sessions  buffers    received  connections\n"
                .to_owned();
        heading + &rows.collect::<String>()
    }

    pub fn json(&self) -> Value {
        let one = |sample: &Sample| {
            json!({
                "at_s": sample.at, "rss_kib": sample.rss, "heap_kib": sample.heap,
                "descriptors": sample.descriptors, "threads": sample.threads, "sessions": sample.sessions,
                "buffers_used": sample.buffers_used, "received": sample.received,
                "connections": sample.connections,
            })
        };
        self.all.iter().map(one).collect()
    }
}
