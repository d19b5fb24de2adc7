//! Reading capture files: pcap (micro- and nanoseconds, both byte orders) and pcapng.
//!
//! Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. Total on any bytes: memory is bounded by
//! `RECORD_BYTES_MAX`, and everything that is wrong ends the file with an error that says where.

use std::io::Read;

use crate::time::Time;

use super::pcapng::Pcapng;
use super::source::{ByteOrder, CaptureError, LINKTYPE_ETHERNET, Record, Source, finish_record, read_packet};

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const MAGIC_PCAPNG: u32 = 0x0a0d_0d0a;

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
        let mut source = Source::new(source);
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
