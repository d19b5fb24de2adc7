//! What is written down of a packet, and the chunks that carry it.

use crate::drops::DropReason;
use crate::port::PortId;
use crate::time::Time;

/// Bytes of a chunk: some of the longest frames.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Bytes in front of a record's comment and frame.
const HEAD_BYTES: usize = 24;
/// Longest comment.
pub const COMMENT_BYTES_MAX: usize = 1_024;
const NO_PORT: u16 = u16::MAX;
const NO_REASON: u8 = u8::MAX;

/// Where a packet was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Moment {
    /// A port received it.
    Received = 0,
    /// A chain decided about it, or it was there for another reason than a port's.
    #[default]
    Inside = 1,
    /// It was given to a port to be sent.
    Sent = 2,
}

/// A copy of a packet, with what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When, on the worker's clock.
    pub time: Time,
    /// The number of the point that it is for.
    pub interface: u16,
    /// Where it was.
    pub moment: Moment,
    /// The port: what was received came from it, what was sent was given to it; what was inside came from it, if that is known.
    pub port: Option<PortId>,
    /// Why it was dropped.
    pub reason: Option<DropReason>,
    /// In words, why it was dropped.
    pub comment: &'a str,
    /// The beginning of the frame.
    pub bytes: &'a [u8],
    /// Length of the frame.
    pub length: u16,
}

/// Records one after the other. Its memory is taken once, and goes round.
#[derive(Debug)]
pub struct Chunk(Vec<u8>);

impl Default for Chunk {
    fn default() -> Self {
        // Written to, so that no page is missing when packets wait.
        let mut bytes = vec![1; CHUNK_BYTES];
        bytes.clear();
        Self(bytes)
    }
}

impl Chunk {
    /// True without records.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets its records.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a record; false if there is no room.
    pub fn push(&mut self, record: &Record<'_>) -> bool {
        let mut end = record.comment.len().min(COMMENT_BYTES_MAX);
        while !record.comment.is_char_boundary(end) {
            end -= 1;
        }
        let (comment, bytes) = (&record.comment.as_bytes()[..end], record.bytes);
        let captured = bytes.len().min(usize::from(u16::MAX));
        if self.0.len() + HEAD_BYTES + comment.len() + captured > CHUNK_BYTES {
            return false;
        }
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&record.time.0.to_ne_bytes());
        head[8..10].copy_from_slice(&record.interface.to_ne_bytes());
        head[10..12].copy_from_slice(&record.port.map_or(NO_PORT, |port| port.0).to_ne_bytes());
        head[12] = record.moment as u8;
        head[13] = record.reason.map_or(NO_REASON, |reason| reason as u8);
        head[14..16].copy_from_slice(&(comment.len() as u16).to_ne_bytes());
        head[16..18].copy_from_slice(&(captured as u16).to_ne_bytes());
        head[18..20].copy_from_slice(&record.length.to_ne_bytes());
        // There is room: nothing is allocated.
        self.0.extend_from_slice(&head);
        self.0.extend_from_slice(comment);
        self.0.extend_from_slice(&bytes[..captured]);
        true
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (record, behind) = read(rest)?;
            rest = behind;
            Some(record)
        })
    }
}

fn read(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let short = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
    let (time, _) = head.split_first_chunk::<8>()?;
    let (comment, rest) = rest.split_at_checked(usize::from(short(14)))?;
    let (bytes, rest) = rest.split_at_checked(usize::from(short(16)))?;
    let record = Record {
        time: Time(u64::from_ne_bytes(*time)),
        interface: short(8),
        moment: [Moment::Received, Moment::Inside, Moment::Sent].get(usize::from(head[12])).copied()?,
        port: (short(10) != NO_PORT).then(|| PortId(short(10))),
        reason: DropReason::ALL.get(usize::from(head[13])).copied(),
        comment: std::str::from_utf8(comment).ok()?,
        bytes,
        length: short(18),
    };
    Some((record, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_come_back_until_the_chunk_is_full(
            parts in proptest::collection::vec((any::<u64>(), any::<u16>(), ".{0,40}", 0usize..3_000, any::<u8>()), 1..60)
        ) {
            let mut chunk = Chunk::default();
            let mut kept = Vec::new();
            for (time, interface, comment, length, reason) in &parts {
                let reason = DropReason::ALL.get(usize::from(*reason)).copied();
                let bytes = vec![*time as u8; *length];
                let record = Record {
                    time: Time(*time),
                    interface: *interface,
                    moment: Moment::Sent,
                    port: (*interface != NO_PORT).then_some(PortId(*interface)),
                    reason,
                    comment,
                    bytes: &bytes,
                    length: *length as u16,
                };
                if !chunk.push(&record) {
                    break;
                }
                kept.push((*time, record.port, reason, comment.clone(), bytes));
            }
            let read: Vec<_> = chunk
                .records()
                .map(|r| (r.time.0, r.port, r.reason, r.comment.to_owned(), r.bytes.to_vec()))
                .collect();
            prop_assert_eq!(read, kept);
            prop_assert!(chunk.0.capacity() == CHUNK_BYTES);
            chunk.clear();
            prop_assert!(chunk.is_empty() && chunk.records().next().is_none());
        }
    }

    #[test]
    fn a_long_comment_is_cut_between_characters() {
        let comment = "ä".repeat(1_000) + "x";
        let record = Record {
            time: Time(1),
            interface: 0,
            moment: Moment::Inside,
            port: None,
            reason: None,
            comment: &comment[..comment.len() - 1],
            bytes: &[],
            length: 0,
        };
        let mut chunk = Chunk::default();
        assert!(chunk.push(&record));
        assert_eq!(chunk.records().next().unwrap().comment, "ä".repeat(512));
    }
}
