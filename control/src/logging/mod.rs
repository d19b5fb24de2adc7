//! Logs: structured lines on standard error, which no thread waits for.
//!
//! 1. [`levels`] says what is logged: a level for all, and levels by module.
//! 2. `layer` makes a `line` of an event on the thread where it happens, in memory of fixed size, and gives it to a bounded ring;
//!    what finds no room is counted. Threads that move packets have a share of each second as well (`limit`).
//! 3. `writer` takes lines from the ring to standard error, on a thread of its own.

mod layer;
pub mod levels;
mod limit;
mod line;
mod writer;

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use tracing_subscriber::layer::SubscriberExt;

pub use self::levels::Levels;
pub use self::limit::on_packet_path;
pub use self::line::Format;
pub use self::writer::{Held, Logging, hold};

/// Lines that wait for standard error at most.
const RING_LINES: usize = 1024;

/// Lines that found no room in the ring.
static LOST: AtomicU64 = AtomicU64::new(0);
/// Lines of the packet path beyond their share.
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Lines that were not written since the process started: those that found no room, and those of the packet path beyond their
/// share of a second.
pub fn left_out() -> (u64, u64) {
    (LOST.load(Ordering::Relaxed), SUPPRESSED.load(Ordering::Relaxed))
}

/// Logs to standard error until the answer is dropped, which waits a moment for what is on its way.
///
/// # Errors
/// No thread can be made, or the process logs already.
pub fn start(levels: &Levels, format: Format) -> io::Result<Logging> {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    start_to(levels, format, colours, Box::new(io::stderr()))
}

/// The same to somewhere else.
///
/// # Errors
/// As for [`start`].
pub fn start_to(
    levels: &Levels,
    format: Format,
    colours: bool,
    to: Box<dyn Write + Send>,
) -> io::Result<Logging> {
    let (sender, receiver) = sync_channel(RING_LINES);
    let subscriber =
        tracing_subscriber::registry().with(levels.filter()).with(layer::RingLayer::new(sender, format));
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    Logging::start(receiver, format, colours && format == Format::Text, to)
}
