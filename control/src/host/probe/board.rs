//! What probes found: written by the thread that asks, read by `show`, metrics and whoever wants to know.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::health::{Health, State};
use crate::config::probe::Probe;
use crate::listing::Listing;

/// A host came up or went down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The probe that says so.
    pub probe: String,
    /// The state before.
    pub from: State,
    /// The state now.
    pub to: State,
    /// What the last check found: how long it took, or what is wrong.
    pub found: Result<Duration, String>,
}

/// What is known by a probe.
#[derive(Clone, Debug)]
pub struct Status {
    /// The probe.
    pub probe: Probe,
    health: Health,
    /// Since when it is in its state.
    since: Instant,
    /// How long the last good check took.
    latency: Option<Duration>,
    /// Checks that were good, and that were bad.
    pub checks: (u64, u64),
    /// What was wrong with the last check; none if it was good.
    error: Option<String>,
}

impl Status {
    /// Whether the host works.
    pub fn state(&self) -> State {
        self.health.state()
    }

    /// How long the last good check took.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }
}

/// The board. Copies are the same.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<BTreeMap<String, Status>>,
    followers: Mutex<Vec<Sender<Change>>>,
}

impl Board {
    /// All changes from now on, in order.
    pub fn follow(&self) -> Receiver<Change> {
        let (sender, receiver) = channel();
        self.0.followers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Status>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These probes are asked from now on. What is known of one that stays as it is stays known.
    pub(crate) fn keep(&self, probes: &[Probe], now: Instant) {
        let mut board = self.known();
        board.retain(|_, status| probes.contains(&status.probe));
        for probe in probes {
            board.entry(probe.name.clone()).or_insert_with(|| Status {
                probe: probe.clone(),
                health: Health::default(),
                since: now,
                latency: None,
                checks: (0, 0),
                error: None,
            });
        }
    }

    /// Notes a check, and what follows from it.
    pub(crate) fn note(&self, probe: &str, found: Result<Duration, &str>, now: Instant) -> Option<Change> {
        let mut board = self.known();
        let status = board.get_mut(probe)?;
        match found {
            Ok(latency) => {
                status.checks.0 += 1;
                (status.latency, status.error) = (Some(latency), None);
            }
            Err(error) => {
                status.checks.1 += 1;
                status.error = Some(error.to_owned());
            }
        }
        let Probe { rise, fall, .. } = status.probe;
        let from = status.health.note(found.is_ok(), rise, fall)?;
        status.since = now;
        let to = status.state();
        let change = Change { probe: probe.to_owned(), from, to, found: found.map_err(str::to_owned) };
        let mut followers = self.0.followers.lock().unwrap_or_else(PoisonError::into_inner);
        // Who is gone is told nothing more.
        followers.retain(|follower| follower.send(change.clone()).is_ok());
        Some(change)
    }

    /// All that is known, by name.
    pub fn all(&self) -> Vec<Status> {
        self.known().values().cloned().collect()
    }

    /// As rows.
    pub fn rows(&self) -> Listing {
        let mut listing = Listing::new(&[
            "probe",
            "chain",
            "kind",
            "target",
            "port",
            "state",
            "since_s",
            "latency_us",
            "good",
            "bad",
            "error",
        ]);
        for status in self.all() {
            let Status { probe, since, latency, checks, error, .. } = &status;
            let micros = |latency: &Duration| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            listing.push([
                probe.name.as_str().into(),
                probe.chain.as_str().into(),
                probe.check.kind().into(),
                probe.target.to_string().into(),
                probe.check.port().map_or(Value::Null, Value::from),
                status.state().name().into(),
                since.elapsed().as_secs().into(),
                latency.as_ref().map(micros).map_or(Value::Null, Value::from),
                checks.0.into(),
                checks.1.into(),
                error.as_deref().map_or(Value::Null, Value::from),
            ]);
        }
        listing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::probe::Check;

    fn probe(name: &str, fall: u32) -> Probe {
        Probe {
            name: name.to_owned(),
            chain: "edge".to_owned(),
            target: [10, 0, 0, 3].into(),
            check: Check::Tcp { port: 80 },
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall,
        }
    }

    #[test]
    fn what_is_known_stays_known_and_followers_hear_of_changes() {
        let (board, now) = (Board::default(), Instant::now());
        board.keep(&[probe("a", 2), probe("b", 2)], now);
        let changes = board.follow();
        drop(board.follow());
        let took = Duration::from_millis(3);
        board.note("a", Ok(took), now);
        board.note("a", Err("no answer in time"), now);
        board.note("nobody", Ok(took), now);
        let up = Change { probe: "a".to_owned(), from: State::Unknown, to: State::Up, found: Ok(took) };
        assert_eq!(changes.try_iter().collect::<Vec<_>>(), [up]);
        // One stays, one is another now.
        board.keep(&[probe("a", 2), probe("b", 3)], now);
        assert_eq!(board.all().iter().map(Status::state).collect::<Vec<_>>(), [State::Up, State::Unknown]);
        board.note("a", Err("no answer in time"), now);
        let change = changes.try_recv().unwrap();
        assert_eq!((change.from, change.to), (State::Up, State::Down));
        let rows = board.rows();
        assert_eq!(rows.rows[0]["state"], "down");
        assert_eq!(
            (&rows.rows[0]["good"], &rows.rows[0]["bad"], &rows.rows[0]["latency_us"]),
            (&1.into(), &2.into(), &3000.into())
        );
        assert_eq!(rows.rows[0]["error"], "no answer in time");
        board.keep(&[], now);
        assert!(board.all().is_empty());
    }
}
