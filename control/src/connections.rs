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
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the request took too long to arrive"));
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
        io::Write::write(&mut self.stream, buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::Write::flush(&mut self.stream)
    }
}
