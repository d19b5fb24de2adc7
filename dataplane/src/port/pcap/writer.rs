//! Writing pcap files with nanosecond timestamps (draft-ietf-opsawg-pcap), in the machine's byte order.

use std::io::{self, BufWriter, Write};

use super::source::RECORD_BYTES_MAX;
use crate::time::Time;

/// Bytes written to the file at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A capture file that is being written.
pub struct CaptureWriter<W: Write> {
    target: BufWriter<W>,
    /// Frames that are in the buffer and not yet with the system.
    unflushed: u64,
    unflushed_bytes: u64,
}

impl<W: Write> CaptureWriter<W> {
    /// Writes the file header: version 2.4, link type Ethernet.
    ///
    /// # Errors
    /// What the system answers.
    pub fn new(target: W) -> io::Result<Self> {
        let mut target = BufWriter::with_capacity(BUFFER_BYTES, target);
        let mut header = [0u8; 24];
        header[..4].copy_from_slice(&0xa1b2_3c4du32.to_ne_bytes());
        header[4..6].copy_from_slice(&2u16.to_ne_bytes());
        header[6..8].copy_from_slice(&4u16.to_ne_bytes());
        header[16..20].copy_from_slice(&(RECORD_BYTES_MAX as u32).to_ne_bytes());
        header[20..].copy_from_slice(&1u32.to_ne_bytes());
        target.write_all(&header)?;
        Ok(Self { target, unflushed: 0, unflushed_bytes: 0 })
    }

    /// Writes a frame with its time (nanoseconds since 1970; seconds beyond 32 bits wrap, in 2106).
    ///
    /// # Errors
    /// What the system answers.
    pub fn write(&mut self, time: Time, frame: &[u8]) -> io::Result<()> {
        let length = u32::try_from(frame.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut header = [0u8; 16];
        header[..4].copy_from_slice(&((time.0 / 1_000_000_000) as u32).to_ne_bytes());
        header[4..8].copy_from_slice(&((time.0 % 1_000_000_000) as u32).to_ne_bytes());
        header[8..12].copy_from_slice(&length.to_ne_bytes());
        header[12..].copy_from_slice(&length.to_ne_bytes());
        // The buffer is emptied between records only, so that it is known which of them the system has.
        if self.target.buffer().len() + header.len() + frame.len() > self.target.capacity() {
            self.flush()?;
        }
        self.target.write_all(&header)?;
        self.target.write_all(frame)?;
        self.unflushed += 1;
        self.unflushed_bytes += frame.len() as u64;
        Ok(())
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// What the system answers.
    pub fn flush(&mut self) -> io::Result<()> {
        self.target.flush()?;
        (self.unflushed, self.unflushed_bytes) = (0, 0);
        Ok(())
    }

    /// Frames and bytes that were written and that the system does not have: lost, if a flush failed.
    pub fn unflushed(&self) -> (u64, u64) {
        (self.unflushed, self.unflushed_bytes)
    }
}
