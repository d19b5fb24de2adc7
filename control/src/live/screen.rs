//! The terminal while the view is on it; it is given back however that ends.

use std::io::{self, Stdout};
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

/// The terminal is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A terminal in raw mode, on its alternate screen.
#[derive(Debug)]
pub struct Screen {
    /// Where to draw.
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal of standard output.
    ///
    /// # Errors
    /// It is none, or it refuses.
    pub fn take() -> io::Result<Self> {
        restore_on_panic(std::thread::current().id());
        TAKEN.store(true, Ordering::Release);
        let taken = enable_raw_mode().and_then(|()| execute!(io::stdout(), EnterAlternateScreen, Hide));
        taken
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())))
            .map(|terminal| Self { terminal })
            .inspect_err(|_| restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, if it is taken.
pub fn restore() {
    if TAKEN.swap(false, Ordering::AcqRel) {
        // What can't be given back can't be told either.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// Before a panic of the view or of the main thread is told, the terminal is given back. One of another thread, which others start
/// again or whose end they tell of, becomes a line of the log while the view is there.
fn restore_on_panic(view: ThreadId) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let earlier = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let ours = thread.id() == view || thread.name() == Some("main") || thread.name() == Some("live");
            if ours {
                restore();
            }
            if TAKEN.load(Ordering::Acquire) {
                tracing::error!(thread = thread.name(), "{info}");
            } else {
                earlier(info);
            }
        }));
    });
}
