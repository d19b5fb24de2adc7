//! What the formats of captures share: a source that knows where it is, records, and what can be wrong with them.

use std::io::{self, BufRead, BufReader, Read};

use crate::time::Time;

/// Longest packet of a capture file; also libpcap's bound.
pub(super) const RECORD_BYTES_MAX: usize = 256 << 10;
/// The link type of Ethernet.
pub(super) const LINKTYPE_ETHERNET: u16 = 1;
/// Bytes read from the file at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// What is wrong with a capture file.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file can't be read.
    #[error("at byte {offset}: {source}")]
    Read {
        /// Where in the file.
        offset: u64,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The file ends inside a header or packet.
    #[error("the file ends at byte {offset}, in the middle of a record")]
    CutOff {
        /// Length of the file in bytes.
        offset: u64,
    },
    /// The file starts with nothing known.
    #[error("not a capture file: it starts with {0:02x?}; pcap and pcapng are known{hint}", hint = hint(.0))]
    UnknownFormat([u8; 4]),
    /// The packets are not Ethernet frames.
    #[error("link type {0} is not Ethernet (1)")]
    LinkType(u16),
    /// A field contradicts the format.
    #[error("at byte {offset}: {field} is {found}, {expected}")]
    Corrupt {
        /// Where in the file the record starts.
        offset: u64,
        /// The field.
        field: &'static str,
        /// What was found.
        found: u64,
        /// What would be valid.
        expected: &'static str,
    },
}

fn hint(start: &[u8; 4]) -> &'static str {
    match start {
        [0x1f, 0x8b, ..] => " (it is compressed with gzip: unpack it first)",
        [0x28, 0xb5, 0x2f, 0xfd] => " (it is compressed with zstd: unpack it first)",
        _ => "",
    }
}

/// One packet of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was captured: nanoseconds since 1970.
    pub time: Time,
    /// Its length on the wire in bytes, without FCS.
    pub original_length: usize,
    /// Whether it is an Ethernet frame (files of several interfaces may hold others).
    pub ethernet: bool,
}

/// The byte order of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    pub(super) fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    pub(super) fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// A buffered source that knows where it is.
pub(super) struct Source {
    inner: BufReader<Box<dyn Read + Send>>,
    pub(super) offset: u64,
}

impl Source {
    pub(super) fn new(source: impl Read + Send + 'static) -> Self {
        let source: Box<dyn Read + Send> = Box::new(source);
        Self { inner: BufReader::with_capacity(BUFFER_BYTES, source), offset: 0 }
    }

    /// Fills `bytes` whole.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> Result<(), CaptureError> {
        self.inner.read_exact(bytes).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => CaptureError::CutOff { offset: self.offset },
            _ => CaptureError::Read { offset: self.offset, source },
        })?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn read_array<const N: usize>(&mut self) -> Result<[u8; N], CaptureError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads over `count` bytes without keeping them.
    pub(super) fn skip(&mut self, count: u64) -> Result<(), CaptureError> {
        let skipped = io::copy(&mut self.inner.by_ref().take(count), &mut io::sink())
            .map_err(|source| CaptureError::Read { offset: self.offset, source })?;
        self.offset += skipped;
        if skipped < count { Err(CaptureError::CutOff { offset: self.offset }) } else { Ok(()) }
    }

    /// Whether the file ends here.
    pub(super) fn at_end(&mut self) -> Result<bool, CaptureError> {
        let rest = self.inner.fill_buf();
        Ok(rest.map_err(|source| CaptureError::Read { offset: self.offset, source })?.is_empty())
    }
}

/// Reads a packet's `captured` bytes to `bytes`.
pub(super) fn read_packet(
    source: &mut Source,
    bytes: &mut Vec<u8>,
    offset: u64,
    captured: usize,
) -> Result<(), CaptureError> {
    if captured > RECORD_BYTES_MAX {
        return Err(CaptureError::Corrupt {
            offset,
            field: "the captured length",
            found: captured as u64,
            expected: "262,144 bytes is the most",
        });
    }
    bytes.resize(captured, 0);
    source.read(bytes)
}

/// Takes the FCS off, as far as it was captured.
pub(super) fn finish_record(
    bytes: &mut Vec<u8>,
    original: usize,
    fcs_bytes: usize,
    time: Time,
    ethernet: bool,
) -> Record {
    // A length on the wire below the captured one is known from broken writers; the bytes are there.
    let original_length = original.max(bytes.len()).saturating_sub(fcs_bytes);
    bytes.truncate(original_length);
    Record { time, original_length, ethernet }
}
