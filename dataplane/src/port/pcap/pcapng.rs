//! Reading pcapng (draft-ietf-opsawg-pcapng): sections, interfaces and packets. Other blocks are skipped.

use super::source::{
    ByteOrder, CaptureError, LINKTYPE_ETHERNET, RECORD_BYTES_MAX, Record, Source, finish_record, read_packet,
};
use crate::time::Time;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// Most interfaces of a section: bounds memory.
const INTERFACES_MAX: usize = 4_096;
/// Longest interface description, in bytes: its options are names, filters and comments.
const INTERFACE_BYTES_MAX: u64 = 1 << 20;

/// How an interface counts time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    /// 10^-n seconds.
    Decimal(u8),
    /// 2^-n seconds.
    Binary(u8),
}

impl Resolution {
    /// Nanoseconds of `ticks`; what does not fit is the latest time.
    fn nanoseconds(self, ticks: u64) -> u64 {
        let ticks = u128::from(ticks);
        let nanoseconds = match self {
            Self::Decimal(digits @ 0..=9) => ticks * 10u128.pow(u32::from(9 - digits)),
            Self::Decimal(digits) => {
                10u128.checked_pow(u32::from(digits - 9)).map_or(0, |divisor| ticks / divisor)
            }
            Self::Binary(bits) => (ticks * 1_000_000_000).checked_shr(bits.into()).unwrap_or(0),
        };
        u64::try_from(nanoseconds).unwrap_or(u64::MAX)
    }
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    ethernet: bool,
    snap_length: u32,
    resolution: Resolution,
    /// Seconds to add to every time.
    offset_s: i64,
    fcs_bytes: u8,
}

/// The state of reading a pcapng file.
pub(super) struct Pcapng {
    order: ByteOrder,
    interfaces: Vec<Interface>,
    /// Time of the last packet: simple packets have none of their own.
    last: Time,
}

impl Pcapng {
    /// Reads the first section header after its block type.
    pub(super) fn new(source: &mut Source) -> Result<Self, CaptureError> {
        let mut reader = Self { order: ByteOrder::Little, interfaces: Vec::new(), last: Time(0) };
        reader.section(source, source.offset - 4)?;
        Ok(reader)
    }

    pub(super) fn next_record(
        &mut self,
        source: &mut Source,
        bytes: &mut Vec<u8>,
    ) -> Result<Option<Record>, CaptureError> {
        loop {
            if source.at_end()? {
                return Ok(None);
            }
            let offset = source.offset;
            let kind = self.order.u32(source.read_array()?);
            if kind == SECTION_HEADER {
                self.section(source, offset)?;
                continue;
            }
            let length_field = source.read_array()?;
            let length = self.block_length(offset, length_field)?;
            let body_end = offset + length - 4;
            let record = match kind {
                INTERFACE_DESCRIPTION => self.interface(source, offset, body_end).map(|()| None),
                ENHANCED_PACKET | OBSOLETE_PACKET => {
                    self.timed(source, bytes, offset, body_end, kind).map(Some)
                }
                SIMPLE_PACKET => self.simple(source, bytes, offset, body_end).map(Some),
                _ => Ok(None),
            }?;
            source.skip(body_end - source.offset)?;
            let trailer: [u8; 4] = source.read_array()?;
            if trailer != length_field {
                return Err(CaptureError::Corrupt {
                    offset,
                    field: "the length at a block's end",
                    found: self.order.u32(trailer).into(),
                    expected: "not the one at its start",
                });
            }
            if record.is_some() {
                return Ok(record);
            }
        }
    }

    /// Reads a section header after its type (section 4.1): it sets the byte order and forgets the interfaces.
    fn section(&mut self, source: &mut Source, offset: u64) -> Result<(), CaptureError> {
        let length_field: [u8; 4] = source.read_array()?;
        let magic: [u8; 4] = source.read_array()?;
        self.order = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
            (BYTE_ORDER_MAGIC, _) => ByteOrder::Little,
            (_, BYTE_ORDER_MAGIC) => ByteOrder::Big,
            (found, _) => {
                let expected = "0x1a2b3c4d in either byte order is known";
                let (field, found) = ("the byte-order magic", found.into());
                return Err(CaptureError::Corrupt { offset, field, found, expected });
            }
        };
        self.interfaces.clear();
        let length = self.block_length(offset, length_field)?;
        let version: [u8; 2] = source.read_array()?;
        let major = self.order.u16(version);
        if major != 1 || length < 28 {
            let (field, found, expected) = if major != 1 {
                ("the major version", major.into(), "1 is known")
            } else {
                ("the length of a section header", length, "28 is the least")
            };
            return Err(CaptureError::Corrupt { offset, field, found, expected });
        }
        source.skip(offset + length - source.offset)
    }

    /// A block's length in bytes, with its head and trailer.
    fn block_length(&self, offset: u64, field: [u8; 4]) -> Result<u64, CaptureError> {
        let length = self.order.u32(field);
        if length < 12 || !length.is_multiple_of(4) {
            return Err(CaptureError::Corrupt {
                offset,
                field: "a block's length",
                found: length.into(),
                expected: "it must be a multiple of 4 from 12 on",
            });
        }
        Ok(length.into())
    }

    /// Section 4.2.
    fn interface(&mut self, source: &mut Source, offset: u64, body_end: u64) -> Result<(), CaptureError> {
        let length = body_end - source.offset;
        let (found, expected) = if self.interfaces.len() >= INTERFACES_MAX {
            (self.interfaces.len() as u64, "4,096 interfaces are the most")
        } else if !(8..=INTERFACE_BYTES_MAX).contains(&length) {
            (length, "an interface description has 8 bytes to 1 MiB")
        } else {
            let mut body = vec![0; length as usize];
            source.read(&mut body)?;
            self.interfaces.push(self.parse_interface(&body));
            return Ok(());
        };
        Err(CaptureError::Corrupt { offset, field: "an interface description", found, expected })
    }

    fn parse_interface(&self, body: &[u8]) -> Interface {
        let order = self.order;
        let mut interface = Interface {
            ethernet: order.u16([body[0], body[1]]) == LINKTYPE_ETHERNET,
            snap_length: order.u32([body[4], body[5], body[6], body[7]]),
            resolution: Resolution::Decimal(6),
            offset_s: 0,
            fcs_bytes: 0,
        };
        let mut options = &body[8..];
        while let [c0, c1, l0, l1, rest @ ..] = options {
            let (code, length) = (order.u16([*c0, *c1]), usize::from(order.u16([*l0, *l1])));
            let Some(value) = rest.get(..length) else { break };
            match (code, value) {
                (0, _) => break,
                (9, [bits]) if bits & 0x80 != 0 => interface.resolution = Resolution::Binary(bits & 0x7f),
                (9, [digits]) => interface.resolution = Resolution::Decimal(*digits),
                (13, [fcs_bytes]) => interface.fcs_bytes = *fcs_bytes,
                (14, &[a, b, c, d, e, f, g, h]) => {
                    let (first, second) = (order.u32([a, b, c, d]), order.u32([e, f, g, h]));
                    let (high, low) = match order {
                        ByteOrder::Little => (second, first),
                        ByteOrder::Big => (first, second),
                    };
                    interface.offset_s = (u64::from(high) << 32 | u64::from(low)) as i64;
                }
                _ => {}
            }
            options = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        interface
    }

    /// An enhanced packet (section 4.3), or the block that it replaced (appendix), whose interface has 16 bits.
    fn timed(
        &mut self,
        source: &mut Source,
        bytes: &mut Vec<u8>,
        offset: u64,
        body_end: u64,
        kind: u32,
    ) -> Result<Record, CaptureError> {
        let head = packet_head::<20>(source, offset, body_end)?;
        let field = |at: usize| self.order.u32([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let short_interface = u32::from(self.order.u16([head[0], head[1]]));
        let index = if kind == OBSOLETE_PACKET { short_interface } else { field(0) };
        let ticks = u64::from(field(4)) << 32 | u64::from(field(8));
        let (captured, original) = (field(12), field(16));
        let interface = self.find_interface(offset, index)?;
        fits(source, offset, body_end, captured)?;
        read_packet(source, bytes, offset, captured as usize)?;
        let nanoseconds = interface.resolution.nanoseconds(ticks);
        let shift = interface.offset_s.unsigned_abs().saturating_mul(1_000_000_000);
        let time = Time(if interface.offset_s < 0 {
            nanoseconds.saturating_sub(shift)
        } else {
            nanoseconds.saturating_add(shift)
        });
        self.last = time;
        let fcs_bytes = interface.fcs_bytes.into();
        Ok(finish_record(bytes, original as usize, fcs_bytes, time, interface.ethernet))
    }

    /// Section 4.4: of the first interface, without a time.
    fn simple(
        &mut self,
        source: &mut Source,
        bytes: &mut Vec<u8>,
        offset: u64,
        body_end: u64,
    ) -> Result<Record, CaptureError> {
        let head = packet_head::<4>(source, offset, body_end)?;
        let interface = self.find_interface(offset, 0)?;
        let original = self.order.u32(head);
        let snap_length = if interface.snap_length == 0 { u32::MAX } else { interface.snap_length };
        let captured = original.min(snap_length);
        fits(source, offset, body_end, captured)?;
        read_packet(source, bytes, offset, captured as usize)?;
        let fcs_bytes = interface.fcs_bytes.into();
        Ok(finish_record(bytes, original as usize, fcs_bytes, self.last, interface.ethernet))
    }

    fn find_interface(&self, offset: u64, index: u32) -> Result<Interface, CaptureError> {
        self.interfaces.get(index as usize).copied().ok_or(CaptureError::Corrupt {
            offset,
            field: "a packet's interface",
            found: index.into(),
            expected: "no such interface was described",
        })
    }
}

fn packet_head<const N: usize>(
    source: &mut Source,
    offset: u64,
    body_end: u64,
) -> Result<[u8; N], CaptureError> {
    let length = body_end - source.offset;
    if length < N as u64 {
        return Err(CaptureError::Corrupt {
            offset,
            field: "the length of a packet's block",
            found: length,
            expected: "too short for its fields",
        });
    }
    source.read_array()
}

/// A packet must end inside its block, and not be longer than any packet may be.
fn fits(source: &Source, offset: u64, body_end: u64, captured: u32) -> Result<(), CaptureError> {
    if u64::from(captured) > body_end - source.offset || captured as usize > RECORD_BYTES_MAX {
        return Err(CaptureError::Corrupt {
            offset,
            field: "the captured length",
            found: captured.into(),
            expected: "it must fit the block and 262,144 bytes",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolutions_become_nanoseconds() {
        assert_eq!(Resolution::Decimal(6).nanoseconds(1_500_000), 1_500_000_000);
        assert_eq!(Resolution::Decimal(9).nanoseconds(7), 7);
        assert_eq!(Resolution::Decimal(12).nanoseconds(7_999), 7);
        assert_eq!(Resolution::Decimal(0).nanoseconds(3), 3_000_000_000);
        assert_eq!(Resolution::Decimal(127).nanoseconds(u64::MAX), 0);
        assert_eq!(Resolution::Decimal(0).nanoseconds(u64::MAX), u64::MAX);
        assert_eq!(Resolution::Binary(1).nanoseconds(3), 1_500_000_000);
        assert_eq!(Resolution::Binary(127).nanoseconds(u64::MAX), 0);
    }
}
