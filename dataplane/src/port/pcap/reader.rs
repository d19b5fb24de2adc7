//! Reading capture files: pcap (micro- and nanoseconds, both byte orders) and pcapng.
//!
//! Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. Total on any bytes: memory is bounded by
//! [`RECORD_BYTES_MAX`], and everything that is wrong ends the file with an error that says where.

use std::io::{self, BufRead, BufReader, Read};

use crate::time::Time;

use super::pcapng::Pcapng;

/// Longest packet of a capture file; also libpcap's bound.
pub(super) const RECORD_BYTES_MAX: usize = 256 << 10;
/// The link type of Ethernet.
pub(super) const LINKTYPE_ETHERNET: u16 = 1;
/// Bytes read from the file at a time.
const BUFFER_BYTES: usize = 256 << 10;

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const MAGIC_PCAPNG: u32 = 0x0a0d_0d0a;

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

enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

/// A capture file that is read packet by packet.
pub struct CaptureReader {
    source: Source,
    format: Format,
    /// After an error or the end: nothing more is read.
    ended: bool,
}

impl CaptureReader {
    /// Starts reading: the file's header.
    ///
    /// # Errors
    /// The file is no capture, or not one of Ethernet frames.
    pub fn new(source: impl Read + Send + 'static) -> Result<Self, CaptureError> {
        let inner = BufReader::with_capacity(BUFFER_BYTES, Box::new(source) as Box<dyn Read + Send>);
        let mut source = Source { inner, offset: 0 };
        let start: [u8; 4] = source.read_array()?;
        let format = match (u32::from_le_bytes(start), u32::from_be_bytes(start)) {
            (MAGIC_PCAPNG, _) => Format::Pcapng(Pcapng::new(&mut source)?),
            (MAGIC_MICROSECONDS, _) => Format::Pcap(Pcap::new(&mut source, ByteOrder::Little, 1_000)?),
            (MAGIC_NANOSECONDS, _) => Format::Pcap(Pcap::new(&mut source, ByteOrder::Little, 1)?),
            (_, MAGIC_MICROSECONDS) => Format::Pcap(Pcap::new(&mut source, ByteOrder::Big, 1_000)?),
            (_, MAGIC_NANOSECONDS) => Format::Pcap(Pcap::new(&mut source, ByteOrder::Big, 1)?),
            _ => return Err(CaptureError::UnknownFormat(start)),
        };
        Ok(Self { source, format, ended: false })
    }

    /// Reads the next packet to `bytes` (what it held is replaced), or `None` at the end.
    ///
    /// # Errors
    /// The file is cut off, corrupt or unreadable; the next call says that it ended.
    pub fn next_record(&mut self, bytes: &mut Vec<u8>) -> Result<Option<Record>, CaptureError> {
        if self.ended {
            return Ok(None);
        }
        let result = match &mut self.format {
            Format::Pcap(pcap) => pcap.next_record(&mut self.source, bytes),
            Format::Pcapng(pcapng) => pcapng.next_record(&mut self.source, bytes),
        };
        self.ended = !matches!(result, Ok(Some(_)));
        result
    }
}

/// The state of reading a pcap file.
struct Pcap {
    order: ByteOrder,
    /// Nanoseconds of the fraction's unit.
    fraction_ns: u64,
    /// Bytes of FCS at the end of each packet.
    fcs_bytes: usize,
}

impl Pcap {
    /// Reads the file header after its magic number.
    fn new(source: &mut Source, order: ByteOrder, fraction_ns: u64) -> Result<Self, CaptureError> {
        let header: [u8; 20] = source.read_array()?;
        let major = order.u16([header[0], header[1]]);
        if major != 2 {
            return Err(CaptureError::Corrupt {
                offset: 4,
                field: "the major version",
                found: major.into(),
                expected: "2 is known",
            });
        }
        let link = order.u32([header[16], header[17], header[18], header[19]]);
        if link as u16 != LINKTYPE_ETHERNET {
            return Err(CaptureError::LinkType(link as u16));
        }
        // The upper bits say how many 16-bit words of FCS each packet has, if bit 26 is set.
        let fcs_bytes = if link & 1 << 26 != 0 { (link >> 28) as usize * 2 } else { 0 };
        Ok(Self { order, fraction_ns, fcs_bytes })
    }

    fn next_record(
        &mut self,
        source: &mut Source,
        bytes: &mut Vec<u8>,
    ) -> Result<Option<Record>, CaptureError> {
        if source.at_end()? {
            return Ok(None);
        }
        let offset = source.offset;
        let header: [u8; 16] = source.read_array()?;
        let field = |at: usize| self.order.u32([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (seconds, fraction) = (u64::from(field(0)), u64::from(field(4)));
        let time = Time(seconds * 1_000_000_000 + fraction * self.fraction_ns);
        let (captured, original) = (field(8) as usize, field(12) as usize);
        read_packet(source, bytes, offset, captured)?;
        Ok(Some(finish_record(bytes, original, self.fcs_bytes, time, true)))
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
