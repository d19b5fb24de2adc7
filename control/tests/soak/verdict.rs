//! What a soak found.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::clients::{self, Counts};
use super::samples::Samples;

/// The most that the heap may grow over the second half, in KiB: of a long run what a leak of a few hundred bytes a change would exceed
/// in half an hour, and of a short one what a process still takes until each of its threads has had its largest answer.
const HEAP_GROWTH_MAX: i64 = 2_048;
const HEAP_GROWTH_MAX_SHORT: i64 = 8_192;
const SHORT: Duration = Duration::from_secs(600);
/// The same of descriptors and threads. Looks that are under way have some, and so has a port that came.
const COUNT_GROWTH_MAX: i64 = 4;
/// Errors that belong to what the soak does.
const EXPECTED_ERRORS: &[&str] = &["the interface is gone; the port waits for it to come back"];

pub struct Report {
    pub account: Value,
    pub log: String,
    pub traffic: Vec<(String, u64, Counts)>,
    pub disturbances: BTreeMap<String, u64>,
    pub looks: BTreeMap<String, u64>,
    pub samples: Samples,
    /// Sessions that expired when the traffic had ended.
    pub expired: usize,
    pub time: Duration,
    pub workers: usize,
    pub seed: u64,
}

impl Report {
    fn lines(&self) -> impl Iterator<Item = Value> + '_ {
        self.log.lines().map(|line| {
            serde_json::from_str(line).unwrap_or_else(|_| json!({ "level": "ERROR", "message": line }))
        })
    }

    /// The log by level and message.
    fn messages(&self) -> BTreeMap<(String, String), u64> {
        let mut messages = BTreeMap::new();
        for line in self.lines() {
            let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            *messages.entry((word("level"), word("message"))).or_default() += 1;
        }
        messages
    }

    /// What is wrong. That sums hold, all buffers are back and the status is 0 has been looked at with the accounting.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for ((level, message), count) in self.messages() {
            if level == "ERROR" && !EXPECTED_ERRORS.contains(&message.as_str()) {
                problems.push(format!("{count} times in the log: {message}"));
            }
        }
        for row in &self.samples.broken {
            problems.push(format!("the sums did not hold: {row}"));
        }
        for (name, _, counts) in &self.traffic {
            if counts.corrupt > 0 {
                problems.push(format!("{name}: {} answers that were wrong", counts.corrupt));
            }
            let may_have_none =
                name.starts_with("server") || name.starts_with("scan") || name.contains("third");
            if counts.ok == 0 && !may_have_none && !name.starts_with("iperf3") {
                problems.push(format!("{name}: nothing went well"));
            }
        }
        let grown = |what: &str, growth: i64, most: i64| {
            (growth > most).then(|| format!("{what} grew by {growth} over the second half, more than {most}"))
        };
        let most = if self.time < SHORT { HEAP_GROWTH_MAX_SHORT } else { HEAP_GROWTH_MAX };
        problems.extend(grown("the heap in KiB", self.samples.growth(|sample| sample.heap), most));
        problems.extend(grown(
            "descriptors",
            self.samples.growth(|sample| sample.descriptors),
            COUNT_GROWTH_MAX,
        ));
        problems.extend(grown("threads", self.samples.growth(|sample| sample.threads), COUNT_GROWTH_MAX));
        problems
    }

    pub fn json(&self) -> Value {
        let messages = self.messages();
        json!({
            "seconds": self.time.as_secs(), "workers": self.workers, "seed": self.seed,
            "problems": self.problems(),
            "account": self.account, "traffic": clients::json(&self.traffic),
            "disturbances": self.disturbances, "looks": self.looks, "expired_at_the_end": self.expired,
            "heap_growth_kib": self.samples.growth(|sample| sample.heap),
            "rss_growth_kib": self.samples.growth(|sample| sample.rss),
            "log": messages.iter().map(|((level, message), count)| json!({ "level": level, "message": message, "lines": count })).collect::<Vec<_>>(),
            "samples": self.samples.json(),
        })
    }

    pub fn text(&self) -> String {
        let mut text = format!(
            "soak: {} s, {} workers, seed {}\n\n{:<32}{:>8}{:>10}{:>9}{:>9}{:>15}\n",
            self.time.as_secs(),
            self.workers,
            self.seed,
            "client",
            "starts",
            "ok",
            "failed",
            "wrong",
            "bytes"
        );
        for (name, starts, Counts { ok, failed, corrupt, bytes }) in &self.traffic {
            let _ = writeln!(text, "{name:<32}{starts:>8}{ok:>10}{failed:>9}{corrupt:>9}{bytes:>15}");
        }
        for (title, counts) in [("what happened", &self.disturbances), ("looks", &self.looks)] {
            let list: Vec<_> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
            let _ = writeln!(text, "\n{title}: {}", list.join(", "));
        }
        let _ = writeln!(text, "\nlog:");
        for ((level, message), count) in self.messages() {
            let _ = writeln!(text, "{count:>8} {level:<6}{message}");
        }
        let _ = writeln!(text, "\n{}", self.samples.text());
        let drops: Vec<_> = self.account["drops"].as_array().into_iter().flatten().collect();
        let drops = drops.iter().map(|row| {
            let word = |key: &str| row[key].as_str().unwrap_or_default();
            format!("{} {} {}", word("where"), word("reason"), row["packets"])
        });
        let _ = writeln!(
            text,
            "sums: {}, hold: {}\ndrops: {}\nheap grew by {} KiB over the second half; {} sessions expired at the end",
            self.account["sums"],
            self.account["sums_hold"],
            drops.collect::<Vec<_>>().join(", "),
            self.samples.growth(|sample| sample.heap),
            self.expired
        );
        text
    }
}
