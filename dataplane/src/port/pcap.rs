//! Capture files as a port: packets come from one file and go to another.
//!
//! Reading and writing may wait for the disk; such a port is for replays, tests and captures, not for speed.

pub mod blocks;
mod pcapng;
mod reader;
mod source;
mod writer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

pub use reader::CaptureReader;
pub use source::{CaptureError, Record};
pub use writer::CaptureWriter;

use super::{MacAddress, Port, PortCounters, PortError, PortInfo, sink};
use crate::drops::DropReason;
use crate::memory::Pool;
use crate::packet::Burst;
use crate::time::Time;

/// When packets of the input are handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As fast as they are taken.
    #[default]
    Unpaced,
    /// Those captured up to `now`: for a clock that follows the captures.
    UpToNow,
    /// At the intervals of the capture, from the first call on.
    Recorded,
}

/// What a capture port reads and writes.
#[derive(Clone, Debug)]
pub struct PcapConfig {
    /// Name in the configuration.
    pub name: String,
    /// The port's own address.
    pub mac: MacAddress,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// The file to read, pcap or pcapng; none to receive nothing.
    pub input: Option<PathBuf>,
    /// The file to write, pcap with nanoseconds; none to discard what is sent. Replaced if it exists.
    pub output: Option<PathBuf>,
    /// When packets of the input are handed over.
    pub pace: Pace,
    /// What is added to the clock for the times in the output: nanoseconds from 1970 to the clock's start.
    pub epoch_ns: u64,
}

/// A packet that was read and not handed over.
#[derive(Clone, Copy, Debug)]
struct Pending {
    time: Time,
}

struct Input {
    path: PathBuf,
    reader: CaptureReader,
    /// The bytes of `pending`.
    bytes: Vec<u8>,
    pending: Option<Pending>,
    /// What was added to the capture's times to get the clock's, once known; modulo 2^64.
    shift: Option<u64>,
    problem: Option<CaptureError>,
}

struct Output {
    path: PathBuf,
    writer: CaptureWriter<File>,
    failed: bool,
}

/// A port over capture files.
pub struct PcapPort {
    info: PortInfo,
    counters: PortCounters,
    input: Option<Input>,
    output: Option<Output>,
    pace: Pace,
    epoch_ns: u64,
    /// The first thing that went wrong with a file.
    failure: Option<String>,
}

impl PcapPort {
    /// Opens the files, reads the input's header and first packet.
    ///
    /// # Errors
    /// A file can't be opened, or the input is no capture of Ethernet frames. A file that breaks later ends there:
    /// see [`Self::problem`].
    pub fn open(config: &PcapConfig) -> Result<Self, PortError> {
        let error = |action: &str, path: &PathBuf, source: io::Error| PortError {
            port: config.name.clone(),
            action: format!("{action} {}", path.display()),
            source,
        };
        let mut counters = PortCounters::default();
        let mut description = "pcap".to_owned();
        let mut input = None;
        if let Some(path) = &config.input {
            let file = File::open(path).map_err(|source| error("open", path, source))?;
            let reader = CaptureReader::new(file).map_err(|problem| {
                error("read", path, io::Error::new(io::ErrorKind::InvalidData, problem))
            })?;
            description += &format!(" from {}", path.display());
            let mut opened = Input {
                path: path.clone(),
                reader,
                bytes: Vec::new(),
                pending: None,
                shift: None,
                problem: None,
            };
            opened.advance(&config.name, &mut counters);
            input = Some(opened);
        }
        let mut output = None;
        if let Some(path) = &config.output {
            let file = File::create(path).map_err(|source| error("create", path, source))?;
            let writer = CaptureWriter::new(file).map_err(|source| error("write", path, source))?;
            description += &format!(" to {}", path.display());
            output = Some(Output { path: path.clone(), writer, failed: false });
        }
        let info = PortInfo {
            name: config.name.clone(),
            description,
            mac: config.mac,
            mtu: config.mtu,
            link_up: true,
        };
        let (pace, epoch_ns) = (config.pace, config.epoch_ns);
        let mut port = Self { info, counters, input, output, pace, epoch_ns, failure: None };
        port.note_input();
        Ok(port)
    }

    /// Remembers what ended the input early.
    fn note_input(&mut self) {
        if let Some(Input { path, problem: Some(problem), .. }) = &self.input
            && self.failure.is_none()
        {
            self.failure = Some(format!("{} could not be read to its end: {problem}", path.display()));
        }
    }

    /// What ended the input before its end, if something did.
    pub fn problem(&self) -> Option<&CaptureError> {
        self.input.as_ref()?.problem.as_ref()
    }
}

impl Input {
    /// Reads on to the next packet that can be handed over. What can't is counted.
    fn advance(&mut self, port: &str, counters: &mut PortCounters) {
        self.pending = None;
        loop {
            match self.reader.next_record(&mut self.bytes) {
                Ok(None) => return,
                Ok(Some(record)) => {
                    if !record.ethernet {
                        counters.rx_drops.count(DropReason::UnsupportedProtocol);
                    } else if self.bytes.len() < record.original_length {
                        // The capture's snap length cut it.
                        counters.rx_drops.count(DropReason::Truncated);
                    } else {
                        self.pending = Some(Pending { time: record.time });
                        return;
                    }
                }
                Err(problem) => {
                    let reason = match problem {
                        CaptureError::CutOff { .. } => DropReason::Truncated,
                        _ => DropReason::BadLength,
                    };
                    counters.rx_drops.count(reason);
                    tracing::error!(port, file = %self.path.display(), %problem, "the capture ends early");
                    self.problem = Some(problem);
                    return;
                }
            }
        }
    }

    /// Whether the pending packet's time has come.
    fn is_due(&mut self, pace: Pace, now: Time) -> bool {
        let Some(pending) = self.pending else { return false };
        match pace {
            Pace::Unpaced => true,
            Pace::UpToNow => pending.time <= now,
            Pace::Recorded => {
                let shift = *self.shift.get_or_insert(now.0.wrapping_sub(pending.time.0));
                // Both sides relative to the first packet, which was due when the shift was made.
                pending.time.0.wrapping_add(shift) as i64 <= now.0 as i64
            }
        }
    }
}

impl Port for PcapPort {
    fn rx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        let Some(input) = &mut self.input else { return };
        while !burst.is_full() && input.is_due(self.pace, now) {
            // Without a frame the packet waits in the file.
            let Some(mut packet) = pool.take() else { return };
            if packet.set_contents(&input.bytes).is_ok() {
                packet.set_timestamp(input.pending.map_or(now, |pending| pending.time));
                self.counters.rx_packets += 1;
                self.counters.rx_bytes += packet.len() as u64;
                // The loop's condition says that there is room.
                if let Err(packet) = burst.push(packet) {
                    pool.put(packet);
                }
            } else {
                self.counters.rx_drops.count(DropReason::MtuExceeded);
                pool.tell_dropped(&input.bytes, DropReason::MtuExceeded);
                pool.put(packet);
            }
            input.advance(&self.info.name, &mut self.counters);
            if input.problem.is_some() {
                return self.note_input();
            }
        }
    }

    fn tx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        let Some(output) = &mut self.output else {
            sink::discard(&mut self.counters, pool, burst);
            return;
        };
        let time = Time(now.0.saturating_add(self.epoch_ns));
        for packet in burst.iter() {
            let sent = self.counters.tx_packets;
            match if output.failed {
                Ok(false)
            } else {
                output.writer.write(time, packet.bytes()).map(|()| true)
            } {
                Ok(true) => {
                    self.counters.tx_packets += 1;
                    self.counters.tx_bytes += packet.len() as u64;
                }
                Ok(false) => self.counters.tx_drops.count(DropReason::TxFailed),
                Err(error) => {
                    // A file with half a record in it can't be continued.
                    output.failed = true;
                    self.counters.tx_drops.count(DropReason::TxFailed);
                    take_back(&mut self.counters, output.writer.unflushed());
                    let (port, file) = (&self.info.name, output.path.display());
                    tracing::error!(port, %file, %error, "the capture can't be written; packets are dropped");
                    self.failure.get_or_insert_with(|| not_whole(&output.path, &error));
                }
            }
            if self.counters.tx_packets <= sent {
                pool.tell_dropped(packet.bytes(), DropReason::TxFailed);
            }
        }
        pool.put_all(burst);
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        self.counters.clone()
    }

    fn exhausted(&self) -> bool {
        self.input.as_ref().is_none_or(|input| input.pending.is_none())
    }

    fn next_timestamp(&self) -> Option<Time> {
        Some(self.input.as_ref()?.pending?.time)
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn close(&mut self, _pool: Option<&mut Pool>) {
        self.input = None;
        if let Some(mut output) = self.output.take()
            && !output.failed
            && let Err(error) = output.writer.flush()
        {
            take_back(&mut self.counters, output.writer.unflushed());
            let (port, file) = (&self.info.name, output.path.display());
            tracing::error!(port, %file, %error, "the end of the capture could not be written");
            self.failure.get_or_insert_with(|| not_whole(&output.path, &error));
        }
    }
}

fn not_whole(path: &Path, error: &io::Error) -> String {
    format!("{} could not be written whole: {error}", path.display())
}

/// Frames that were counted as sent did not reach the file.
fn take_back(counters: &mut PortCounters, (packets, bytes): (u64, u64)) {
    counters.tx_packets -= packets;
    counters.tx_bytes -= bytes;
    counters.tx_drops.count_many(DropReason::TxFailed, packets);
}

#[cfg(test)]
mod tests;
