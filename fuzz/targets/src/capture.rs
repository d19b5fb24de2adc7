//! Any bytes as a capture file: reading ends, no record is longer than allowed, and what is read was in the file.

use crate::frames::samples;
use crate::parser;
use millrace_dataplane::port::pcap::{CaptureReader, CaptureWriter};
use millrace_dataplane::time::Time;
use std::io::Cursor;

/// Longest packet of a capture, as documented.
const RECORD_BYTES_MAX: usize = 256 << 10;
/// The shortest record: the block of a pcapng packet without data and options.
const RECORD_BYTES_MIN: usize = 12;

/// Reads the bytes as a file, whatever its format.
///
/// # Panics
/// A promise of the reader does not hold.
pub fn run(data: &[u8]) {
    let Ok(mut reader) = CaptureReader::new(Cursor::new(data.to_vec())) else { return };
    let mut bytes = Vec::new();
    let (mut records, mut total) = (0, 0);
    while let Ok(Some(record)) = reader.next_record(&mut bytes) {
        assert!(bytes.len() <= RECORD_BYTES_MAX && bytes.len() <= record.original_length);
        (records, total) = (records + 1, total + bytes.len());
        assert!(records * RECORD_BYTES_MIN + total <= data.len(), "more was read than the file has");
        if record.ethernet {
            parser::run(&bytes);
        }
    }
    assert!(matches!(reader.next_record(&mut bytes), Ok(None)), "the end is the end");
}

/// Seeds: both formats, both byte orders, several interfaces, and broken ones.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let frames: Vec<Vec<u8>> = samples().into_iter().take(3).map(|(_, frame)| frame).collect();
    let mut ours = Vec::new();
    let mut writer = CaptureWriter::new(&mut ours).expect("memory takes all");
    for frame in &frames {
        writer.write(Time::from_secs(1_700_000_000), frame).expect("memory takes all");
    }
    writer.flush().expect("memory takes all");
    drop(writer);
    let mut seeds = vec![("pcap-nanoseconds".to_owned(), ours.clone())];
    ours.truncate(ours.len() - 5);
    seeds.push(("pcap-cut-off".to_owned(), ours));
    for (name, big) in [("little", false), ("big", true)] {
        seeds.push((format!("pcap-{name}"), pcap(&frames, big)));
        seeds.push((format!("pcapng-{name}"), pcapng(&frames, big)));
    }
    seeds
}

/// A writer of integers in either byte order.
struct Ordered {
    bytes: Vec<u8>,
    big: bool,
}

impl Ordered {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
        self
    }

    /// A block of pcapng around a body.
    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.u32(kind).u32(0);
        body(self);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let length = (self.bytes.len() - start + 4) as u32;
        self.u32(length);
        let length = if self.big { length.to_be_bytes() } else { length.to_le_bytes() };
        self.bytes[start + 4..start + 8].copy_from_slice(&length);
    }
}

/// draft-ietf-opsawg-pcap, with microseconds.
fn pcap(frames: &[Vec<u8>], big: bool) -> Vec<u8> {
    let mut file = Ordered { bytes: Vec::new(), big };
    file.u32(0xa1b2_c3d4).u16(2).u16(4).u32(0).u32(0).u32(65_535).u32(1);
    for frame in frames {
        file.u32(1_700_000_000).u32(5).u32(frame.len() as u32).u32(frame.len() as u32);
        file.bytes.extend(frame);
    }
    file.bytes
}

/// draft-ietf-opsawg-pcapng: a section with two interfaces, packets of each kind, and a block of names.
fn pcapng(frames: &[Vec<u8>], big: bool) -> Vec<u8> {
    let mut file = Ordered { bytes: Vec::new(), big };
    file.block(0x0a0d_0d0a, |it| {
        it.u32(0x1a2b_3c4d).u16(1).u16(0).u32(u32::MAX).u32(u32::MAX);
    });
    // Ethernet with nanoseconds and an offset; raw IP.
    file.block(1, |it| {
        it.u16(1).u16(0).u32(0).u16(9).u16(1);
        it.bytes.extend([9, 0, 0, 0]);
        it.u16(14).u16(8).u32(0).u32(0).u16(0).u16(0);
    });
    file.block(1, |it| {
        it.u16(101).u16(0).u32(96);
    });
    file.block(4, |it| {
        it.u16(0).u16(0);
    });
    for (at, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        file.block(6, |it| {
            it.u32(at as u32 & 1).u32(7).u32(9).u32(length).u32(length);
            it.bytes.extend(frame);
        });
    }
    file.block(3, |it| {
        it.u32(frames[0].len() as u32);
        it.bytes.extend(&frames[0]);
    });
    file.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_whole_seed_is_read_to_its_end() {
        for (name, bytes) in seeds() {
            let mut reader = CaptureReader::new(Cursor::new(bytes)).unwrap();
            let (mut buffer, mut records) = (Vec::new(), 0);
            let result = loop {
                match reader.next_record(&mut buffer) {
                    Ok(Some(_)) => records += 1,
                    other => break other,
                }
            };
            assert_eq!(result.is_ok(), !name.contains("cut-off"), "{name}: {result:?}");
            assert!(records >= 2, "{name}");
        }
    }
}
