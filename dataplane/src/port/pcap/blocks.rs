//! Writing pcapng (draft-ietf-opsawg-pcapng): whole blocks, in the machine's byte order.

use super::source::LINKTYPE_ETHERNET;
use crate::port::MacAddress;
use crate::time::Time;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Section 3.5: an option's length has 16 bits.
const OPTION_BYTES_MAX: usize = u16::MAX as usize;

const COMMENT: u16 = 1;
const SECTION_HARDWARE: u16 = 2;
const SECTION_SYSTEM: u16 = 3;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_TEXT: u16 = 3;
const INTERFACE_MAC: u16 = 6;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const STATISTICS_START: u16 = 2;
const STATISTICS_END: u16 = 3;
const STATISTICS_RECEIVED: u16 = 4;
const STATISTICS_DROPPED: u16 = 5;
const STATISTICS_SYSTEM_DROPPED: u16 = 7;
const STATISTICS_DELIVERED: u16 = 8;

/// What a section header says of where it was written (section 4.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section<'a> {
    /// The processor.
    pub hardware: &'a str,
    /// The operating system.
    pub system: &'a str,
    /// The program.
    pub application: &'a str,
}

/// An interface (section 4.2). Its times are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is.
    pub description: &'a str,
    /// Its address, if it has one.
    pub mac: Option<MacAddress>,
    /// Most bytes of a frame that are kept; 0 if there is no limit.
    pub snap_bytes: u32,
}

/// Which way a packet went at its interface (section 4.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Nothing is said.
    #[default]
    Unknown = 0,
    /// It came in.
    Inbound = 1,
    /// It went out.
    Outbound = 2,
}

/// A packet (section 4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketBlock<'a> {
    /// The number of its interface in the section.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time: Time,
    /// Which way it went.
    pub direction: Direction,
    /// The beginning of the frame.
    pub bytes: &'a [u8],
    /// Length of the frame in bytes.
    pub length: u32,
    /// What is to be said of it.
    pub comments: &'a [String],
}

/// What became of the packets of an interface (section 4.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The number of the interface in the section.
    pub interface: u32,
    /// When the capture began and when this was counted, in nanoseconds since 1970.
    pub span: (Time, Time),
    /// Packets that passed.
    pub received: u64,
    /// Packets that were not looked at for want of time.
    pub dropped: u64,
    /// Packets that were wanted and found no room.
    pub system_dropped: u64,
    /// Packets that were written.
    pub delivered: u64,
}

/// Appends blocks to bytes.
#[derive(Debug)]
pub struct Blocks<'a>(pub &'a mut Vec<u8>);

impl Blocks<'_> {
    /// The beginning of a section; interfaces count from zero again.
    pub fn section(&mut self, section: &Section<'_>) {
        self.block(SECTION_HEADER, |body| {
            put32(body, BYTE_ORDER_MAGIC);
            // Version 1.0, and a length that is not said.
            body.extend(1u16.to_ne_bytes());
            body.extend(0u16.to_ne_bytes());
            body.extend([0xff; 8]);
            text(body, SECTION_HARDWARE, section.hardware);
            text(body, SECTION_SYSTEM, section.system);
            text(body, SECTION_APPLICATION, section.application);
            end_of_options(body);
        });
    }

    /// The next interface.
    pub fn interface(&mut self, interface: &Interface<'_>) {
        self.block(INTERFACE_DESCRIPTION, |body| {
            body.extend((LINKTYPE_ETHERNET).to_ne_bytes());
            body.extend([0; 2]);
            put32(body, interface.snap_bytes);
            text(body, INTERFACE_NAME, interface.name);
            text(body, INTERFACE_TEXT, interface.description);
            if let Some(mac) = interface.mac {
                option(body, INTERFACE_MAC, &mac);
            }
            option(body, INTERFACE_RESOLUTION, &[9]);
            end_of_options(body);
        });
    }

    /// A packet.
    pub fn packet(&mut self, packet: &PacketBlock<'_>) {
        self.block(ENHANCED_PACKET, |body| {
            put32(body, packet.interface);
            put_time(body, packet.time);
            put32(body, u32::try_from(packet.bytes.len()).unwrap_or(u32::MAX));
            put32(body, packet.length);
            body.extend(packet.bytes);
            pad(body);
            if packet.direction != Direction::Unknown {
                option(body, PACKET_FLAGS, &(packet.direction as u32).to_ne_bytes());
            }
            packet.comments.iter().for_each(|comment| text(body, COMMENT, comment));
            if packet.direction != Direction::Unknown || !packet.comments.is_empty() {
                end_of_options(body);
            }
        });
    }

    /// What became of the packets of an interface.
    pub fn statistics(&mut self, counted: &Statistics) {
        self.block(INTERFACE_STATISTICS, |body| {
            put32(body, counted.interface);
            put_time(body, counted.span.1);
            for (code, time) in [(STATISTICS_START, counted.span.0), (STATISTICS_END, counted.span.1)] {
                let mut value = Vec::with_capacity(8);
                put_time(&mut value, time);
                option(body, code, &value);
            }
            for (code, count) in [
                (STATISTICS_RECEIVED, counted.received),
                (STATISTICS_DROPPED, counted.dropped),
                (STATISTICS_SYSTEM_DROPPED, counted.system_dropped),
                (STATISTICS_DELIVERED, counted.delivered),
            ] {
                option(body, code, &count.to_ne_bytes());
            }
            end_of_options(body);
        });
    }

    /// A block of a type, with its length at both ends.
    fn block(&mut self, kind: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        put32(self.0, kind);
        put32(self.0, 0);
        write(self.0);
        pad_from(self.0, start);
        let length = (self.0.len() - start + 4) as u32;
        self.0[start + 4..start + 8].copy_from_slice(&length.to_ne_bytes());
        put32(self.0, length);
    }
}

fn put32(body: &mut Vec<u8>, value: u32) {
    body.extend(value.to_ne_bytes());
}

/// The upper half, then the lower one.
fn put_time(body: &mut Vec<u8>, time: Time) {
    put32(body, (time.0 >> 32) as u32);
    put32(body, time.0 as u32);
}

/// Blocks begin at multiples of four, as long as they are written from the start of a file or behind each other.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn pad_from(body: &mut Vec<u8>, start: usize) {
    let length = (body.len() - start).next_multiple_of(4);
    body.resize(start + length, 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    body.extend(value);
    pad(body);
}

/// A text that is too long for an option is cut between two characters.
fn text(body: &mut Vec<u8>, code: u16, value: &str) {
    let mut end = value.len().min(OPTION_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    option(body, code, &value.as_bytes()[..end]);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::pcap::CaptureReader;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
    use pcap_file::pcapng::{Block, PcapNgReader};
    use proptest::prelude::*;

    fn head(out: &mut Vec<u8>, interfaces: u32) {
        let mut blocks = Blocks(out);
        blocks.section(&Section { hardware: "a CPU", system: "Linux", application: "millrace" });
        for at in 0..interfaces {
            let name = format!("port {at}/rx");
            let mac = Some([2, 0, 0, 0, 0, at as u8]);
            let interface = Interface { name: &name, description: "received", mac, snap_bytes: 0 };
            blocks.interface(&interface);
        }
    }

    proptest! {
        /// Our own reader and the crate pcap-file read what was written.
        #[test]
        fn what_is_written_is_read(
            packets in proptest::collection::vec(
                (0u32..3, 0u64..1 << 62, proptest::collection::vec(any::<u8>(), 0..300), 0u32..2_000,
                 proptest::collection::vec("\\PC{0,60}", 0..4), 0u8..3),
                0..20,
            )
        ) {
            let mut file = Vec::new();
            head(&mut file, 3);
            for (interface, time, bytes, more, comments, direction) in &packets {
                let direction = [Direction::Unknown, Direction::Inbound, Direction::Outbound][usize::from(*direction)];
                let length = bytes.len() as u32 + more;
                let time = Time(*time);
                let packet = PacketBlock { interface: *interface, time, direction, bytes, length, comments };
                Blocks(&mut file).packet(&packet);
            }
            Blocks(&mut file).statistics(&Statistics { interface: 1, received: 9, ..Statistics::default() });
            prop_assert!(file.len().is_multiple_of(4));
            let mut own = CaptureReader::new(std::io::Cursor::new(file.clone())).unwrap();
            let mut oracle = PcapNgReader::new(file.as_slice()).unwrap();
            let mut bytes = Vec::new();
            let mut read = 0;
            let mut counted = 0;
            while let Some(block) = oracle.next_block() {
                match block.unwrap() {
                    Block::EnhancedPacket(found) => {
                        let (interface, time, wanted, more, comments, direction) = &packets[read];
                        let record = own.next_record(&mut bytes).unwrap().unwrap();
                        prop_assert_eq!((record.time.0, record.ethernet), (*time, true));
                        prop_assert_eq!(&bytes, wanted);
                        prop_assert_eq!(record.original_length, wanted.len() + *more as usize);
                        prop_assert_eq!(found.interface_id, *interface);
                        prop_assert_eq!(found.data.as_ref(), wanted.as_slice());
                        let said: Vec<_> = found.options.iter().filter_map(|option| match option {
                            EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                            _ => None,
                        }).collect();
                        prop_assert_eq!(&said, comments);
                        let flags = found.options.iter().find_map(|option| match option {
                            EnhancedPacketOption::Flags(flags) => Some(*flags),
                            _ => None,
                        });
                        prop_assert_eq!(flags.unwrap_or(0), u32::from(*direction));
                        read += 1;
                    }
                    Block::InterfaceDescription(found) => {
                        let name = InterfaceDescriptionOption::IfName(format!("port {counted}/rx").into());
                        prop_assert!(found.options.contains(&name));
                        counted += 1;
                    }
                    Block::InterfaceStatistics(found) => prop_assert_eq!(found.interface_id, 1),
                    _ => {}
                }
            }
            prop_assert_eq!((read, counted), (packets.len(), 3));
            prop_assert!(own.next_record(&mut bytes).unwrap().is_none());
        }
    }

    #[test]
    fn an_option_that_is_too_long_is_cut() {
        let mut file = Vec::new();
        head(&mut file, 1);
        let comments = ["ä".repeat(40_000)];
        Blocks(&mut file).packet(&PacketBlock { comments: &comments, ..PacketBlock::default() });
        let mut oracle = PcapNgReader::new(file.as_slice()).unwrap();
        let found = std::iter::from_fn(|| oracle.next_block().map(|block| block.unwrap().into_owned()));
        let Some(Block::EnhancedPacket(packet)) = found.last() else { panic!("no packet") };
        let EnhancedPacketOption::Comment(text) = &packet.options[0] else { panic!("no comment") };
        assert_eq!(text.len(), 65_534);
    }
}
