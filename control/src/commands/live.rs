//! What `run` shows while it runs: the live view on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::lines;
use crate::instance::Control;
use crate::live::dashboard::{self, Settings};
use crate::live::draw::Palette;
use crate::live::source::Source;
use crate::logging;
use crate::supervised::{Pulse, Supervised};

/// From line to line, if nothing else was asked for.
const LINES_EVERY: Duration = Duration::from_secs(5);
/// From sample to sample of the view.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// A terminal may take nothing for so long.
const STALL_TIME: Duration = Duration::from_secs(30);

/// How it is shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// What runs, for people.
    pub(super) title: String,
    /// The time that was asked for.
    pub(super) interval: Option<Duration>,
    /// Lines, also on a terminal.
    pub(super) plain: bool,
    /// Lines as JSON.
    pub(super) json: bool,
}

/// Shows `control` on a thread of its own: a terminal or a reader that takes nothing holds up only that. The user of the view sets
/// `stop`. None if nothing is to be shown.
///
/// # Errors
/// No thread can be made.
pub(super) fn start(
    control: Arc<Control>,
    shown: Shown,
    stop: Arc<AtomicBool>,
) -> io::Result<Option<Supervised>> {
    let Shown { title, interval, plain, json } = shown;
    if interval.is_some_and(|interval| interval.is_zero()) {
        return Ok(None);
    }
    let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if plain || json || !terminal || dumb {
        return lines::start(control, interval.unwrap_or(LINES_EVERY), json).map(Some);
    }
    let settings =
        Settings { title, interval: interval.unwrap_or(SAMPLE_EVERY), palette: Palette::from_environment() };
    let body = move |pulse: &Pulse| {
        // The log goes below the tables, unless it goes elsewhere anyway.
        let held = io::stderr().is_terminal().then(logging::hold);
        let source = Source::Own(Arc::clone(&control));
        match dashboard::run(source, &settings, held.as_ref(), || pulse.goes_on()) {
            Ok(true) => stop.store(true, Ordering::Relaxed),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the terminal shows no table; `--plain` prints lines"),
        }
    };
    Supervised::start("live", STALL_TIME, body).map(Some)
}
