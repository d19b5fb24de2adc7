//! Takes lines from the ring to standard error, or to a view that shows them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use tracing::Level;

use super::LOST;
use super::line::{Format, Line};

/// How often the ring is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest wait at the end for who reads the log.
const END_TIME: Duration = Duration::from_secs(1);
/// Most lines that a view keeps.
const HELD_MAX: usize = 200;

/// Lines that a view keeps from standard error, which the view is drawn over.
static HELD: Mutex<Option<VecDeque<String>>> = Mutex::new(None);

fn held() -> std::sync::MutexGuard<'static, Option<VecDeque<String>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this lives, lines go to a view and not to standard error; the last of them go there when it ends.
#[derive(Debug)]
pub struct Held(());

/// Keeps lines for a view from now on.
pub fn hold() -> Held {
    held().get_or_insert_default();
    Held(())
}

impl Held {
    /// The last `most` lines.
    pub fn lines(&self, most: usize) -> Vec<String> {
        let held = held();
        let lines = held.iter().flatten();
        let skipped = held.iter().flatten().count().saturating_sub(most);
        lines.skip(skipped).cloned().collect()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let lines = held().take();
        for line in lines.iter().flatten() {
            // Nobody may be reading any more.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }
}

/// The log of this process; it ends when this is dropped.
#[derive(Debug)]
pub struct Logging {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Logging {
    pub(super) fn start(
        ring: Receiver<Line>,
        format: Format,
        colours: bool,
        to: Box<dyn Write + Send>,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let mut writer = Writer { ring, format, colours, to, lost: 0, is_torn: false };
        let work = move || {
            loop {
                // Asked first: what is there then is all that will come.
                let last = told.load(Ordering::Acquire);
                writer.write();
                if last {
                    return;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        };
        Ok(Self { stop, thread: Some(Builder::new().name("log".to_owned()).spawn(work)?) })
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let start = Instant::now();
        while let Some(thread) = &self.thread
            && !thread.is_finished()
            && start.elapsed() < END_TIME
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Writer {
    ring: Receiver<Line>,
    format: Format,
    colours: bool,
    to: Box<dyn Write + Send>,
    /// Lost lines that were told of.
    lost: u64,
    /// A part of a line may have been written: the next begins a line of its own.
    is_torn: bool,
}

impl Writer {
    /// Writes what waits.
    fn write(&mut self) {
        while let Ok(line) = self.ring.try_recv() {
            if self.write_line(&line).is_err() {
                LOST.fetch_add(1, Ordering::Relaxed);
            }
        }
        let lost = LOST.load(Ordering::Relaxed);
        if lost > self.lost {
            let line = Line::about_lost(lost - self.lost, SystemTime::now(), self.format);
            if self.write_line(&line).is_ok() {
                self.lost = lost;
            }
        }
        // Nobody may be reading any more; what then?
        let _ = self.to.flush();
    }

    /// Writes a line, or fails: the disk is full, or nobody holds the other end any more.
    fn write_line(&mut self, line: &Line) -> io::Result<()> {
        let text = line.text();
        if let Some(held) = held().as_mut() {
            if held.len() >= HELD_MAX {
                held.pop_front();
            }
            held.push_back(text.to_owned());
            return Ok(());
        }
        let coloured = if self.colours { coloured(text, line.level) } else { None };
        let start = if self.is_torn { "\n" } else { "" };
        // One call, so that no other writer's text comes in between.
        let written =
            self.to.write_all(format!("{start}{}\n", coloured.as_deref().unwrap_or(text)).as_bytes());
        self.is_torn = written.is_err();
        written
    }
}

/// The line with its level in colour.
fn coloured(text: &str, level: Level) -> Option<String> {
    let name = format!(" {level:>5} ");
    let at = text.find(&name)?;
    let colour = match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    };
    let (before, after) = (&text[..at], &text[at + name.len()..]);
    Some(format!("{before}\x1b[{colour}m{name}\x1b[0m{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_coloured() {
        let text = "2000-01-01T00:00:00.000000Z  WARN millrace: x";
        let expected = "2000-01-01T00:00:00.000000Z\x1b[33m  WARN \x1b[0mmillrace: x";
        assert_eq!(coloured(text, Level::WARN).as_deref(), Some(expected));
    }
}
