//! What servers bound: how many connections are open, and how long one may take.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The places of a server's connections.
#[derive(Clone, Debug)]
pub struct Places {
    open: Arc<AtomicUsize>,
    most: usize,
}

/// A connection's place among the few; given back however its thread ends.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Places {
    /// So many.
    pub fn new(most: usize) -> Self {
        Self { open: Arc::default(), most }
    }

    /// A place, if one is free.
    pub fn take(&self) -> Option<Place> {
        let free = |count| (count < self.most).then_some(count + 1);
        let taken = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, free);
        taken.ok().map(|_| Place(Arc::clone(&self.open)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Most bytes that are written before the time is looked at again.
const WRITE_BYTES_MAX: usize = 32 << 10;
/// How often a server says that it can't accept connections.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// How long a server waits after such an error: what it lacks, descriptors mostly, does not come back in microseconds.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The errors of a server that accepts: each is counted, one in ten seconds is told.
#[derive(Debug, Default)]
pub struct AcceptErrors {
    told: Option<Instant>,
    left_out: u64,
}

impl AcceptErrors {
    /// Notes an error at `now`. How many were left out since the last one that was told, if this one is to be told.
    pub fn note(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TOLD_EVERY) {
            self.left_out += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

/// A stream whose reads and writes can be given a time.
pub trait Timed {
    /// Reads end after `time`.
    ///
    /// # Errors
    /// What the system answers.
    fn limit_reads(&self, time: Duration) -> io::Result<()>;

    /// Writes end after `time`.
    ///
    /// # Errors
    /// What the system answers.
    fn limit_writes(&self, time: Duration) -> io::Result<()>;
}

impl Timed for UnixStream {
    fn limit_reads(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn limit_writes(&self, time: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(time))
    }
}

impl Timed for TcpStream {
    fn limit_reads(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn limit_writes(&self, time: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(time))
    }
}

/// A stream with a time for all that is read or written together, so that a client that sends or takes a byte now and then does
/// not stay.
#[derive(Debug)]
pub struct Deadline<'a, S> {
    stream: &'a S,
    end: Instant,
    silence_max: Duration,
}

impl<'a, S> Deadline<'a, S> {
    /// `time` from now on in all; no single wait is longer than `silence_max`.
    pub fn new(stream: &'a S, time: Duration, silence_max: Duration) -> Self {
        Self { stream, end: Instant::now() + time, silence_max }
    }

    /// The time starts anew.
    pub fn renew(&mut self, time: Duration) {
        self.end = Instant::now() + time;
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now()).min(self.silence_max);
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long"));
        }
        Ok(left)
    }
}

impl<'a, S: Timed> io::Read for Deadline<'a, S>
where
    &'a S: io::Read,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.limit_reads(self.left()?)?;
        io::Read::read(&mut self.stream, buffer)
    }
}

impl<'a, S: Timed> io::Write for Deadline<'a, S>
where
    &'a S: io::Write,
{
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.limit_writes(self.left()?)?;
        // The system's own limit is on each of its waits, and of a large buffer it waits for every piece.
        io::Write::write(&mut self.stream, &buffer[..buffer.len().min(WRITE_BYTES_MAX)])
    }

    fn flush(&mut self) -> io::Result<()> {
        io::Write::flush(&mut self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_same_error_again_and_again_one_in_ten_seconds_is_told() {
        let (mut errors, start) = (AcceptErrors::default(), Instant::now());
        let told: Vec<_> = (0..100).map(|at| errors.note(start + ACCEPT_PAUSE * at)).collect();
        let lines: Vec<_> = told.iter().flatten().collect();
        assert_eq!((told[0], told[50], lines.len()), (Some(0), Some(49), 2));
    }
}
