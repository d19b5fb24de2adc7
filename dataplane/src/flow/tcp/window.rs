//! What the tracker keeps of a connection: what each side sent, what it may send, and what the other acknowledged of it.

use super::segment::{SYN, Segment, after};

/// What one side sent and may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Side {
    /// Highest sequence number sent, plus one.
    pub(super) end: u32,
    /// Highest that the other side allowed.
    pub(super) end_max: u32,
    /// Largest window offered, scaled.
    pub(super) window_max: u32,
    /// Window scale (RFC 7323 section 2.2).
    pub(super) scale: u8,
    /// [`HAS_SCALE`], [`SENT_FIN`], [`SEEN`], [`CHALLENGED`]; of the initiator from [`LATE_SCALE`] on the window scale of its late SYN,
    /// plus one.
    pub(super) flags: u8,
    /// Bytes of data in its SYN (RFC 7413), which the answer need not acknowledge.
    pub(super) syn_payload: u16,
}

pub(super) const HAS_SCALE: u8 = 1;
pub(super) const SENT_FIN: u8 = 2;
pub(super) const SEEN: u8 = 4;
/// The responder took the SYN for one of an older connection, and acknowledged what that one sent.
pub(super) const CHALLENGED: u8 = 8;
/// The bits above it are a number of their own.
pub(super) const LATE_SCALE: u32 = 4;
/// In `state`: a reset went by that its receiver may not have believed.
pub(super) const DOUBTED: u8 = 0x80;
/// An acknowledgment may lag this far behind at least, whatever the window (as in conntrack).
const ACK_WINDOW_MIN: u32 = 66_000;

/// The tracker of one connection: 44 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TcpTracker {
    pub(super) sides: [Side; 2],
    pub(super) state: u8,
    /// The sides whose FIN was acknowledged, one bit each.
    pub(super) fins_acknowledged: u8,
    /// Low half of the end of a SYN that passed an established connection; 0: none did.
    pub(super) late_syn: u16,
    /// What each side acknowledged last, of what the other sent.
    pub(super) acknowledged: [u32; 2],
}

const _: () = assert!(size_of::<TcpTracker>() == 44);

impl TcpTracker {
    /// As [`Self::in_window`], but that what was not acknowledged yet may always come again: who sent more than the window may
    /// have to repeat it.
    pub(super) fn fits(&self, reply: bool, segment: &Segment) -> bool {
        let me = usize::from(reply);
        let acknowledged = self.acknowledged[1 - me];
        self.in_window(reply, segment)
            || self.sides[1 - me].flags & SEEN != 0
                && !after(segment.end(), acknowledged.wrapping_sub(1))
                && self.is_allowed(me, segment)
                && self.acknowledges(me, segment)
    }

    /// The four checks: data not beyond what was allowed nor long past; acknowledgment not of what was not sent, nor
    /// long past.
    #[inline(always)]
    pub(super) fn in_window(&self, reply: bool, segment: &Segment) -> bool {
        let me = usize::from(reply);
        let (mine, other) = (&self.sides[me], &self.sides[1 - me]);
        let recent = !after(segment.end(), mine.end.wrapping_sub(other.window_max).wrapping_sub(1));
        recent & self.is_allowed(me, segment) & self.acknowledges(me, segment)
    }

    /// The data begins within what the other side allowed.
    #[inline(always)]
    fn is_allowed(&self, me: usize, segment: &Segment) -> bool {
        !after(self.sides[me].end_max, segment.sequence)
    }

    /// The acknowledgment is of what the other side sent, and not long past.
    #[inline(always)]
    fn acknowledges(&self, me: usize, segment: &Segment) -> bool {
        let (mine, other) = (&self.sides[me], &self.sides[1 - me]);
        let ack_window = mine.window_max.max(ACK_WINDOW_MIN);
        !after(other.end, segment.acknowledgment)
            & !after(segment.acknowledgment, other.end.wrapping_sub(ack_window))
    }

    #[inline(always)]
    pub(super) fn advance(&mut self, reply: bool, segment: &Segment) {
        let me = usize::from(reply);
        let end = segment.end();
        if after(self.sides[me].end, end) {
            self.sides[me].end = end;
        }
        if after(self.acknowledged[me], segment.acknowledgment) {
            self.acknowledged[me] = segment.acknowledgment;
        }
        self.allow(1 - me, segment);
    }

    /// `segment` allows side `to` to send up to its window.
    #[inline(always)]
    pub(super) fn allow(&mut self, to: usize, segment: &Segment) {
        let from = &mut self.sides[1 - to];
        let scale = if segment.flags & SYN != 0 { 0 } else { from.scale };
        let window = u32::from(segment.window) << scale;
        if window > from.window_max {
            from.window_max = window;
        }
        let limit = segment.acknowledgment.wrapping_add(window);
        if after(self.sides[to].end_max, limit) {
            self.sides[to].end_max = limit;
        }
    }
}
