//! Two samples as tables: rates between them, shares of time, percentiles of what happened between them.

use std::cmp::Ordering;

use serde_json::Value;

use super::source::Sample;
use crate::listing::{Listing, Row};

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// Numbers stand right.
    pub numeric: bool,
    /// Where there is no room for all, those with the highest rank go first.
    pub rank: u8,
}

/// A cell: what is shown, and what rows are sorted by.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// What is shown.
    pub text: String,
    /// The number behind it; none for words.
    pub number: Option<f64>,
}

impl Cell {
    /// The order of two cells of a column.
    pub fn order(&self, other: &Self) -> Ordering {
        match (self.number, other.number) {
            (Some(one), Some(two)) => one.total_cmp(&two),
            _ => self.number.is_some().cmp(&other.number.is_some()).then_with(|| self.text.cmp(&other.text)),
        }
    }
}

/// A table of the view.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Its heading.
    pub title: &'static str,
    /// Its columns.
    pub columns: &'static [Column],
    /// Its rows, as the instance gave them.
    pub rows: Vec<Vec<Cell>>,
}

const fn word(name: &'static str, rank: u8) -> Column {
    Column { name, numeric: false, rank }
}

const fn number(name: &'static str, rank: u8) -> Column {
    Column { name, numeric: true, rank }
}

const PORTS: &[Column] = &[
    word("port", 0),
    word("link", 3),
    number("rx pps", 1),
    number("rx Mbit/s", 4),
    number("tx pps", 2),
    number("tx Mbit/s", 5),
    number("drops/s", 3),
    number("missed/s", 6),
];
const WORKERS: &[Column] = &[
    word("worker", 0),
    number("core", 4),
    word("shares", 6),
    number("busy", 0),
    number("hits/s", 1),
    number("misses/s", 2),
    number("alone/s", 4),
    number("sessions", 2),
    number("flows", 3),
    number("held", 5),
    number("burst p99", 6),
];
const CHAINS: &[Column] = &[
    word("chain", 0),
    word("functions", 5),
    number("bursts/s", 3),
    number("latency p50", 2),
    number("p99", 1),
    number("walks/s", 2),
    number("new/s", 3),
    number("refused/s", 4),
];
const DROPS: &[Column] =
    &[word("drops", 0), word("reason", 0), number("per second", 1), number("packets", 2), word("meaning", 3)];

/// The tables of the sample `now`, with rates since `before`.
pub fn tables(before: &Sample, now: &Sample) -> Vec<Table> {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(1e-3);
    vec![
        Table { title: "ports", columns: PORTS, rows: ports(before, now, seconds) },
        Table { title: "workers", columns: WORKERS, rows: workers(before, now, seconds) },
        Table { title: "chains", columns: CHAINS, rows: chains(before, now, seconds) },
        Table { title: "drops", columns: DROPS, rows: drops(before, now, seconds) },
    ]
}

/// The row of `listing` that agrees with `row` in the columns `keys`.
fn same<'a>(listing: &'a Listing, row: &Row, keys: &[&str]) -> Option<&'a Row> {
    listing.rows.iter().find(|old| keys.iter().all(|key| old.get(*key) == row.get(*key)))
}

fn count(row: Option<&Row>, column: &str) -> u64 {
    row.and_then(|row| row.get(column)).and_then(Value::as_u64).unwrap_or(0)
}

/// A row and what it was before.
struct Change<'a> {
    row: &'a Row,
    before: Option<&'a Row>,
    seconds: f64,
}

impl Change<'_> {
    fn grown(&self, column: &str) -> u64 {
        count(Some(self.row), column).saturating_sub(count(self.before, column))
    }

    /// How much the columns grew together, in a second.
    fn rate(&self, columns: &[&str]) -> f64 {
        columns.iter().map(|column| self.grown(column)).sum::<u64>() as f64 / self.seconds
    }

    fn text(&self, column: &str) -> Cell {
        let text = match self.row.get(column) {
            None | Some(Value::Null) => "-".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        Cell { number: self.row.get(column).and_then(Value::as_f64), text }
    }
}

fn rate(value: f64) -> Cell {
    Cell { text: scaled(value), number: Some(value) }
}

/// A number in four to six characters: `987`, `12.3k`, `4.56M`.
fn scaled(value: f64) -> String {
    match value {
        ..999.5 => format!("{value:.0}"),
        ..9_995.0 => format!("{:.2}k", value / 1e3),
        ..99_950.0 => format!("{:.1}k", value / 1e3),
        ..999_500.0 => format!("{:.0}k", value / 1e3),
        ..9_995_000.0 => format!("{:.2}M", value / 1e6),
        ..99_950_000.0 => format!("{:.1}M", value / 1e6),
        ..999_500_000.0 => format!("{:.0}M", value / 1e6),
        _ => format!("{:.2}G", value / 1e9),
    }
}

fn ports(before: &Sample, now: &Sample, seconds: f64) -> Vec<Vec<Cell>> {
    let bits = |change: &Change<'_>, column: &str| {
        let value = change.rate(&[column]) * 8.0 / 1e6;
        Cell { text: format!("{value:.1}"), number: Some(value) }
    };
    let row = |row| {
        let change = Change { row, before: same(&before.ports, row, &["port", "description"]), seconds };
        vec![
            change.text("port"),
            change.text("link"),
            rate(change.rate(&["rx_packets"])),
            bits(&change, "rx_bytes"),
            rate(change.rate(&["tx_packets"])),
            bits(&change, "tx_bytes"),
            rate(change.rate(&["rx_drops", "tx_drops"])),
            rate(change.rate(&["missed"])),
        ]
    };
    now.ports.rows.iter().map(row).collect()
}

/// What packets did is counted by share: those that a worker has at the end of the time are its own.
fn workers(before: &Sample, now: &Sample, seconds: f64) -> Vec<Vec<Cell>> {
    let row = |row: &Row| {
        let change = Change { row, before: same(&before.workers, row, &["core"]), seconds };
        let busy = (change.rate(&["busy_ms"]) / 10.0).min(100.0);
        let shares = change.text("shares");
        let numbers: Vec<u64> = shares.text.split(' ').filter_map(|number| number.parse().ok()).collect();
        let is_its = |row: &&Row| numbers.contains(&count(Some(row), "share"));
        let changes: Vec<_> = (now.shares.rows.iter().filter(is_its))
            .map(|row| Change { row, before: same(&before.shares, row, &["share"]), seconds })
            .collect();
        let packets = |column| {
            // A function on a core of its own has none.
            let sum =
                (!changes.is_empty()).then(|| changes.iter().map(|change| change.rate(&[column])).sum());
            sum.map_or_else(|| Cell { text: "-".into(), number: None }, rate)
        };
        let mut bursts: Vec<(f64, u64)> =
            numbers.iter().flat_map(|share| taken(before, now, "burst", &format!("share {share}"))).collect();
        bursts.sort_by(|one, two| one.0.total_cmp(&two.0));
        vec![
            change.text("worker"),
            change.text("core"),
            shares,
            Cell { text: format!("{busy:.0} %"), number: Some(busy) },
            packets("hits"),
            packets("misses"),
            packets("alone"),
            change.text("sessions"),
            change.text("flows"),
            change.text("buffered"),
            percentile(&bursts, 0.99),
        ]
    };
    now.workers.rows.iter().map(row).collect()
}

fn chains(before: &Sample, now: &Sample, seconds: f64) -> Vec<Vec<Cell>> {
    let row = |row: &Row| {
        let change = Change { row, before: same(&before.chains, row, &["chain"]), seconds };
        let times = taken(before, now, "latency", &format!("chain {}", change.text("chain").text));
        let bursts: u64 = times.iter().map(|(_, bursts)| bursts).sum();
        vec![
            change.text("chain"),
            change.text("functions"),
            rate(bursts as f64 / seconds),
            percentile(&times, 0.5),
            percentile(&times, 0.99),
            rate(change.rate(&["walks"])),
            rate(change.rate(&["sessions_opened"])),
            rate(change.rate(&["sessions_refused"])),
        ]
    };
    now.chains.rows.iter().map(row).collect()
}

fn drops(before: &Sample, now: &Sample, seconds: f64) -> Vec<Vec<Cell>> {
    let row = |row| {
        let change = Change { row, before: same(&before.drops, row, &["where", "reason"]), seconds };
        vec![
            change.text("where"),
            change.text("reason"),
            rate(change.rate(&["packets"])),
            change.text("packets"),
            change.text("meaning"),
        ]
    };
    now.drops.rows.iter().map(row).collect()
}

/// Buckets of a histogram with what came into them between two samples: their bounds in microseconds, and how many.
fn taken(before: &Sample, now: &Sample, time: &str, of: &str) -> Vec<(f64, u64)> {
    let rows = now.latency.rows.iter().filter(|row| {
        row.get("time").and_then(Value::as_str) == Some(time)
            && row.get("of").and_then(Value::as_str) == Some(of)
    });
    rows.map(|row| {
        let old = same(&before.latency, row, &["time", "of", "up_to_us"]);
        let bound = row.get("up_to_us").and_then(Value::as_f64).unwrap_or(f64::INFINITY);
        (bound, count(Some(row), "bursts").saturating_sub(count(old, "bursts")))
    })
    .collect()
}

/// The bound of the bucket that holds the given share of all, which is an upper bound within a factor of two.
fn percentile(buckets: &[(f64, u64)], share: f64) -> Cell {
    let all: u64 = buckets.iter().map(|(_, count)| count).sum();
    let wanted = (all as f64 * share).ceil() as u64;
    let mut below = 0;
    let found = buckets.iter().find(|(_, count)| {
        below += count;
        all > 0 && below >= wanted
    });
    match found {
        None => Cell { text: "-".to_owned(), number: None },
        Some(&(bound, _)) => Cell { text: show_micros(bound), number: Some(bound) },
    }
}

fn show_micros(micros: f64) -> String {
    match micros {
        ..10.0 => format!("<{micros:.1} µs"),
        ..1_000.0 => format!("<{micros:.0} µs"),
        ..1e6 => format!("<{:.0} ms", micros / 1e3),
        _ => ">1 s".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (12_345.0, "12.3k"),
            (99_960.0, "100k"),
            (1_234_567.0, "1.23M"),
            (999_600_000.0, "1.00G"),
        ] {
            assert_eq!(scaled(value), text);
        }
        for (micros, text) in
            [(0.256, "<0.3 µs"), (16.384, "<16 µs"), (2_097.152, "<2 ms"), (f64::INFINITY, ">1 s")]
        {
            assert_eq!(show_micros(micros), text);
        }
    }

    #[test]
    fn percentiles_are_bounds_of_what_came_between() {
        let cell = |share| percentile(&[(1.0, 90), (2.0, 9), (4.0, 1)], share).number;
        assert_eq!(
            (cell(0.5), cell(0.9), cell(0.91), cell(1.0)),
            (Some(1.0), Some(1.0), Some(2.0), Some(4.0))
        );
        assert_eq!(percentile(&[(1.0, 0)], 0.5).text, "-");
        assert_eq!(percentile(&[], 0.5).number, None);
    }
}
