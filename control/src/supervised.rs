//! Control threads that are watched: one that panics or stalls is started again.
//!
//! Workers know nothing of it: they go on whatever happens to the threads here. A thread can't be ended from outside, so
//! one that stalls is left behind and a new one takes its place; the old one ends when it wakes.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// From a panic to the next start.
const PAUSE: Duration = Duration::from_secs(1);
/// Stalled threads that are left behind at most; then the last one stays the last.
const LEFT_BEHIND_MAX: usize = 3;
/// Longest time between two looks that counts as the thread's.
const LOOKS_APART_MAX: Duration = Duration::from_millis(500);
/// Longest wait for the end of a thread.
const END_TIME: Duration = Duration::from_secs(1);
/// How often the end of a thread is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Which thread is the current one.
    generation: AtomicU64,
    /// Signs of life of the current thread.
    beats: AtomicU64,
}

/// A thread's own view: its sign of life, and whether it shall go on.
#[derive(Debug)]
pub struct Pulse {
    name: &'static str,
    shared: Arc<Shared>,
    generation: u64,
}

impl Pulse {
    /// Gives a sign of life; false if the thread shall end. To be called more often than the patience of its supervisor.
    pub fn goes_on(&self) -> bool {
        let current = self.shared.generation.load(Ordering::Relaxed) == self.generation;
        if current {
            self.shared.beats.fetch_add(1, Ordering::Relaxed);
            #[cfg(debug_assertions)]
            sabotage::perhaps(self.name);
        }
        current && !self.shared.stop.load(Ordering::Relaxed)
    }
}

/// What the thread does, from its first start or any later one.
type Body = Arc<dyn Fn(&Pulse) + Send + Sync>;

/// A control thread that is started again when it panics or stalls. It ends when this is dropped.
pub struct Supervised {
    name: &'static str,
    body: Body,
    patience: Duration,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    left_behind: Vec<JoinHandle<()>>,
    /// When it is to be started again.
    due: Option<Instant>,
    /// Signs of life up to the last look, and when the last new one was seen.
    seen: (u64, Instant),
    /// The last look. Who is not looked at for long does not stall: the whole process stood still, or who looks had no time.
    looked: Instant,
    /// Signs of life before the current thread.
    before: u64,
}

impl fmt::Debug for Supervised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervised").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Supervised {
    /// Starts a thread that gives a sign of life at least every `patience`.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(
        name: &'static str,
        patience: Duration,
        body: impl Fn(&Pulse) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut supervised = Self {
            name,
            body: Arc::new(body),
            patience,
            shared: Arc::default(),
            thread: None,
            left_behind: Vec::new(),
            due: None,
            seen: (0, Instant::now()),
            looked: Instant::now(),
            before: 0,
        };
        supervised.spawn()?;
        Ok(supervised)
    }

    fn spawn(&mut self) -> io::Result<()> {
        let generation = self.shared.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let pulse = Pulse { name: self.name, shared: Arc::clone(&self.shared), generation };
        let body = Arc::clone(&self.body);
        self.before = self.shared.beats.load(Ordering::Relaxed);
        self.seen = (self.before, Instant::now());
        self.thread = Some(Builder::new().name(self.name.to_owned()).spawn(move || body(&pulse))?);
        Ok(())
    }

    /// Starts the thread again if it has panicked or stalls, a little later. To be called now and then; never blocks.
    pub fn look(&mut self) {
        let now = Instant::now();
        let since = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        if since > LOOKS_APART_MAX {
            self.seen.1 += since;
        }
        if self.due.is_some_and(|due| now >= due) {
            self.due = None;
            if let Err(error) = self.spawn() {
                tracing::error!(thread = self.name, %error, "a control thread could not be started again");
                self.due = Some(now + PAUSE);
            }
            return;
        }
        let Some(thread) = self.thread.take() else { return };
        if thread.is_finished() {
            // One that ended well had nothing more to do.
            let Err(panic) = thread.join() else { return };
            let panic = panic_message(panic.as_ref());
            tracing::error!(thread = self.name, panic, "a control thread panicked; it is started again");
            self.due = Some(now + PAUSE);
            return;
        }
        let beats = self.shared.beats.load(Ordering::Relaxed);
        if beats != self.seen.0 {
            self.seen = (beats, now);
        }
        self.left_behind.retain(|thread| !thread.is_finished());
        let silence = now.saturating_duration_since(self.seen.1);
        if silence <= self.patience || self.left_behind.len() >= LEFT_BEHIND_MAX {
            self.thread = Some(thread);
            return;
        }
        tracing::error!(thread = self.name, ?silence, "a control thread stalls; another takes its place");
        self.left_behind.push(thread);
        self.due = Some(now);
    }

    /// True if the thread lived at the last look: it gave a sign of life since it was started, and within its patience; or it is
    /// done with its work.
    pub fn is_alive(&self) -> bool {
        let lives = self.seen.0 != self.before && self.seen.1.elapsed() <= self.patience;
        self.due.is_none() && (self.thread.is_none() || lives)
    }

    /// Tells the thread to end and waits a moment for it. Says whether it has ended.
    pub fn end(&mut self) -> bool {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return true };
        let start = Instant::now();
        while !thread.is_finished() && start.elapsed() < END_TIME {
            std::thread::sleep(LOOK_EVERY);
        }
        thread.is_finished()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if !self.end() {
            tracing::warn!(thread = self.name, "a control thread did not end");
        }
    }
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it said nothing")
}

/// How tests make the threads of a running process panic and stall. Release builds have nothing of it.
#[cfg(debug_assertions)]
mod sabotage {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::time::Duration;

    /// The directory whose file of a thread's name says what becomes of it: `panic`, or for how many seconds it stalls.
    const DIRECTORY: &str = "MILLRACE_SABOTAGE";

    pub(super) fn perhaps(name: &str) {
        static PLACE: OnceLock<Option<PathBuf>> = OnceLock::new();
        let Some(directory) = PLACE.get_or_init(|| std::env::var_os(DIRECTORY).map(PathBuf::from)) else {
            return;
        };
        let file = directory.join(name);
        let Ok(what) = std::fs::read_to_string(&file) else { return };
        // Whoever takes its place is spared.
        if std::fs::remove_file(file).is_err() {
            return;
        }
        match what.trim().parse() {
            Ok(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
            Err(_) => panic!("sabotaged"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const PATIENCE: Duration = Duration::from_millis(200);

    fn wait_for(supervised: &mut Supervised, what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}");
            supervised.look();
            std::thread::sleep(LOOK_EVERY);
        }
    }

    #[test]
    fn a_thread_that_panics_or_stalls_is_started_again() {
        let (starts, turns) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (wake, sleeping) = std::sync::mpsc::channel::<()>();
        let sleeping = std::sync::Mutex::new(sleeping);
        let (counted, turned) = (Arc::clone(&starts), Arc::clone(&turns));
        let body = move |pulse: &Pulse| match counted.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("the first one panics"),
            1 => {
                let _ = sleeping.lock().unwrap().recv();
                assert!(!pulse.goes_on(), "it has been replaced");
            }
            _ => {
                while pulse.goes_on() {
                    turned.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(LOOK_EVERY);
                }
            }
        };
        let mut supervised = Supervised::start("tested", PATIENCE, body).unwrap();
        assert!(!supervised.is_alive());
        wait_for(&mut supervised, "started again after a panic", || starts.load(Ordering::Relaxed) == 2);
        assert!(!supervised.is_alive(), "it gave no sign of life");
        wait_for(&mut supervised, "replaced when it stalls", || turns.load(Ordering::Relaxed) > 0);
        wake.send(()).unwrap();
        let left = supervised.left_behind.pop().unwrap();
        assert!(left.join().is_ok());
        // One that lives is left alone, however long.
        let before = turns.load(Ordering::Relaxed);
        wait_for(&mut supervised, "goes on", || turns.load(Ordering::Relaxed) > before + 100);
        assert!(supervised.is_alive());
        assert_eq!(starts.load(Ordering::Relaxed), 3);
        assert!(supervised.end());
    }

    /// A process that was stopped (SIGSTOP, a debugger, a machine that slept) goes on with the threads it has.
    #[test]
    fn time_in_which_nobody_looks_is_no_stall() {
        let starts = Arc::new(AtomicUsize::new(0));
        let (counted, held) = (Arc::clone(&starts), Arc::new(std::sync::Mutex::new(())));
        let holds = Arc::clone(&held);
        let body = move |pulse: &Pulse| {
            counted.fetch_add(1, Ordering::Relaxed);
            while pulse.goes_on() {
                drop(holds.lock().unwrap());
                std::thread::sleep(LOOK_EVERY);
            }
        };
        let mut supervised = Supervised::start("tested", PATIENCE, body).unwrap();
        wait_for(&mut supervised, "it starts", || starts.load(Ordering::Relaxed) == 1);
        let stopped = held.lock().unwrap();
        std::thread::sleep(LOOKS_APART_MAX + PATIENCE);
        supervised.look();
        supervised.look();
        assert!(supervised.is_alive() && supervised.left_behind.is_empty() && supervised.due.is_none());
        // One that goes on standing still is a stall.
        wait_for(&mut supervised, "replaced", || starts.load(Ordering::Relaxed) == 2);
        drop(stopped);
        assert!(supervised.end());
    }

    #[test]
    fn one_that_always_stalls_does_not_fill_the_machine_with_threads() {
        let starts = Arc::new(AtomicUsize::new(0));
        let (counted, end) = (Arc::clone(&starts), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&end);
        let body = move |_: &Pulse| {
            counted.fetch_add(1, Ordering::Relaxed);
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK_EVERY);
            }
        };
        let mut supervised = Supervised::start("tested", Duration::from_millis(10), body).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            supervised.look();
            std::thread::sleep(LOOK_EVERY);
        }
        assert_eq!(starts.load(Ordering::Relaxed), 1 + LEFT_BEHIND_MAX);
        assert!(!supervised.is_alive());
        assert!(!supervised.end());
        end.store(true, Ordering::Relaxed);
    }

    #[test]
    fn one_that_is_done_is_not_started_again() {
        let starts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&starts);
        let body = move |_: &Pulse| {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        let mut supervised = Supervised::start("tested", PATIENCE, body).unwrap();
        let start = Instant::now();
        while start.elapsed() < 3 * PATIENCE {
            supervised.look();
            std::thread::sleep(LOOK_EVERY);
        }
        assert_eq!(starts.load(Ordering::Relaxed), 1);
        assert!(supervised.is_alive());
    }
}
