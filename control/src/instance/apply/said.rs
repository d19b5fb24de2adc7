//! What a change did, for people and as rows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::instance::thread::{Moved, Seat};
use crate::listing::Listing;

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// All of it in a line: `ports +1 -1, firewall 'edge' rules 3 changed`.
    pub summary: String,
    /// What changed, by object.
    pub changes: Listing,
    /// How long a share of the packets was held up at most to bring it into force, in nanoseconds.
    pub worker_nanos: u64,
}

/// One object that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    what: &'static str,
    name: String,
    change: Change,
    detail: String,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Removed,
    Changed,
    /// It belongs to another share.
    Moved,
}

impl Change {
    const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Moved => "moved",
        }
    }
}

/// What a change will have done.
#[derive(Clone, Debug, Default)]
pub(super) struct Said(Vec<Row>);

impl Said {
    /// Notes what becomes of the object `name` of the sort `what`: `workers`, `ports`, `chains`, `connections`, or the kind of a
    /// function.
    pub(super) fn note(&mut self, what: &'static str, name: &str, change: Change, detail: impl Into<String>) {
        self.0.push(Row { what, name: name.to_owned(), change, detail: detail.into() });
    }

    /// Notes what became of workers and their shares.
    pub(super) fn workers(&mut self, moved: &Moved) {
        let core =
            |seat: &Seat| seat.core.map_or_else(|| "any core".to_owned(), |core| format!("core {core}"));
        let shares = |seat: &Seat| seat.shares.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        for seat in &moved.before {
            let had = shares(seat);
            match moved.after.iter().find(|after| after.core == seat.core).map(shares) {
                None => self.note("workers", &core(seat), Change::Removed, format!("had shares {had}")),
                Some(has) if has != had => {
                    self.note("workers", &core(seat), Change::Changed, format!("shares {has}, had {had}"));
                }
                Some(_) => {}
            }
        }
        for seat in
            moved.after.iter().filter(|seat| moved.before.iter().all(|before| before.core != seat.core))
        {
            self.note("workers", &core(seat), Change::Added, format!("shares {}", shares(seat)));
        }
    }

    /// The result, when it took so much of the worker's time.
    pub(super) fn finish(self, worker_time: Duration) -> Applied {
        let mut changes = Listing::new(&["what", "name", "change", "detail"]);
        for Row { what, name, change, detail } in &self.0 {
            let detail = detail.as_str();
            changes.push([(*what).into(), name.as_str().into(), change.name().into(), detail.into()]);
        }
        let worker_nanos = u64::try_from(worker_time.as_nanos()).unwrap_or(u64::MAX);
        Applied { summary: self.summary(), changes, worker_nanos }
    }

    fn summary(&self) -> String {
        let mut parts = Vec::new();
        for what in ["workers", "ports", "chains"] {
            let count = |change| self.0.iter().filter(|row| row.what == what && row.change == change).count();
            let words = signed(count(Change::Added), count(Change::Removed), count(Change::Changed));
            if !words.is_empty() {
                parts.push(format!("{what} {words}"));
            }
        }
        let others = self.0.iter().filter(|row| !matches!(row.what, "workers" | "ports" | "chains"));
        parts.extend(others.map(|row| match row.change {
            Change::Changed => format!("{} '{}' {}", row.what, row.name, row.detail),
            change => format!("{} '{}' {}", row.what, row.name, change.name()),
        }));
        if parts.is_empty() { "nothing has changed".to_owned() } else { parts.join(", ") }
    }
}

/// `+1 -2, 3 changed`, without what is zero.
pub(super) fn signed(added: usize, removed: usize, changed: usize) -> String {
    let counts = [(added, '+'), (removed, '-')];
    let signs: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, sign)| format!("{sign}{n}")).collect();
    let mut words = signs.join(" ");
    if changed > 0 {
        let comma = if words.is_empty() { "" } else { " " };
        words += &format!("{comma}{changed} changed");
    }
    words
}

impl Applied {
    /// True if everything was as the configuration has it already.
    pub fn is_empty(&self) -> bool {
        self.changes.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_said_in_a_line() {
        let mut said = Said::default();
        assert_eq!(said.clone().finish(Duration::ZERO).summary, "nothing has changed");
        said.note("ports", "a", Change::Added, "sink");
        said.note("ports", "b", Change::Removed, "");
        said.note("chains", "c", Change::Changed, "functions +x");
        said.note("firewall", "edge", Change::Changed, "rules +1 2 changed");
        said.note("nat", "n", Change::Added, "");
        said.note("connections", "10.8.0.0/16", Change::Moved, "");
        let applied = said.finish(Duration::from_micros(3));
        let expected = "ports +1 -1, chains 1 changed, firewall 'edge' rules +1 2 changed, nat 'n' added, \
                        connections '10.8.0.0/16' moved";
        assert_eq!((applied.summary.as_str(), applied.worker_nanos), (expected, 3_000));
        assert_eq!(applied.changes.rows.len(), 6);
        assert_eq!(applied.changes.rows[0]["change"], "added");
    }
}
