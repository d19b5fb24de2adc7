//! The TCP tracker: connection state and windows of both directions.
//!
//! State follows RFC 9293 section 3.3.2 as seen from the middle; the window checks are those of van Rooij's "Real Stateful
//! TCP Packet Filtering in IP Filter" (2001), which Netfilter's conntrack uses, too: a segment is valid if its data lies
//! within what the receiver offered and its acknowledgment within what the other side sent.
//!
//! A reset ends an established connection only at exactly the sequence number that the receiver expects (RFC 5961 section
//! 3.2). The middle knows two such numbers: the last that the receiver acknowledged, and the end of all that the sender sent.
//! Any other reset inside the window goes on to the receiver, which answers it with a challenge; it changes no state, but the
//! connection is doubted, and lives no longer than a closing one, until another segment shows that it lives. One below what was
//! acknowledged is invalid. A closing connection takes any reset, since its ports may be in use again already. All this is as in
//! conntrack, but that conntrack takes the sender's end for the expected number only right behind the sender's last segment.

use crate::packet::Layout;

/// State of a connection, as the middle sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TcpState {
    /// Nothing seen.
    #[default]
    None,
    /// SYN from the initiator.
    SynSent,
    /// SYN and ACK from the responder.
    SynReceived,
    /// The handshake is complete.
    Established,
    /// A FIN from one side.
    FinWait,
    /// That FIN was acknowledged.
    CloseWait,
    /// A FIN from both sides.
    LastAck,
    /// Both FINs were acknowledged.
    TimeWait,
    /// Reset.
    Closed,
}

impl TcpState {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Closed,
    ];

    fn from_bits(bits: u8) -> Self {
        Self::ALL.get(usize::from(bits)).copied().unwrap_or_default()
    }

    /// The name that people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Closed => "closed",
        }
    }
}

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;

/// What one side sent and may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Side {
    /// Highest sequence number sent, plus one.
    end: u32,
    /// Highest that the other side allowed.
    end_max: u32,
    /// Largest window offered, scaled.
    window_max: u32,
    /// Window scale (RFC 7323 section 2.2).
    scale: u8,
    /// [`HAS_SCALE`], [`SENT_FIN`], [`SEEN`], [`CHALLENGED`]; of the initiator from [`LATE_SCALE`] on the window scale of its late SYN,
    /// plus one.
    flags: u8,
    /// Bytes of data in its SYN (RFC 7413), which the answer need not acknowledge.
    syn_payload: u16,
}

const HAS_SCALE: u8 = 1;
const SENT_FIN: u8 = 2;
const SEEN: u8 = 4;
/// The responder took the SYN for one of an older connection, and acknowledged what that one sent.
const CHALLENGED: u8 = 8;
/// The bits above it are a number of their own.
const LATE_SCALE: u32 = 4;
/// In `state`: a reset went by that its receiver may not have believed.
const DOUBTED: u8 = 0x80;
/// An acknowledgment may lag this far behind at least, whatever the window (as in conntrack).
const ACK_WINDOW_MIN: u32 = 66_000;

/// The tracker of one connection: 44 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TcpTracker {
    sides: [Side; 2],
    state: u8,
    /// The sides whose FIN was acknowledged, one bit each.
    fins_acknowledged: u8,
    /// Low half of the end of a SYN that passed an established connection; 0: none did.
    late_syn: u16,
    /// What each side acknowledged last, of what the other sent.
    acknowledged: [u32; 2],
}

/// The parts of a segment that the tracker looks at, in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Bytes of payload.
    pub payload_bytes: u32,
    /// Window as it stands in the header.
    pub window: u16,
    /// Flags.
    pub flags: u8,
}

/// What a segment means for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpVerdict {
    /// It belongs to the connection.
    Valid,
    /// It does not: out of window, or impossible in this state.
    Invalid,
    /// A SYN that opens a new connection on the ports of one that ended (RFC 9293 section 3.6.1).
    Reopens,
}

/// True if `b` comes after `a` in sequence space (RFC 9293 section 3.4).
#[inline]
fn after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) as i32 > 0
}

#[inline]
fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

impl Segment {
    /// Reads the segment of a TCP packet with this layout.
    #[inline(always)]
    pub fn read(bytes: &[u8], layout: &Layout) -> Self {
        let l4 = usize::from(layout.l4);
        let Some(header) = bytes.get(l4..l4 + 20) else { return Self::default() };
        let payload = usize::from(layout.end).saturating_sub(l4 + usize::from(header[12] >> 4) * 4);
        Self {
            sequence: be32(header, 4),
            acknowledgment: be32(header, 8),
            payload_bytes: payload as u32,
            window: u16::from_be_bytes([header[14], header[15]]),
            flags: header[13],
        }
    }

    fn end(&self) -> u32 {
        self.sequence
            .wrapping_add(self.payload_bytes)
            .wrapping_add(u32::from(self.flags & SYN != 0))
            .wrapping_add(u32::from(self.flags & FIN != 0))
    }
}

/// The window scale that a SYN offers, from the options of the TCP header at `header` (RFC 7323 section 2.2).
pub fn window_scale(header: &[u8]) -> Option<u8> {
    let length = usize::from(header.get(12)? >> 4) * 4;
    let mut options = header.get(20..length)?;
    loop {
        match *options.first()? {
            0 => return None,
            1 => options = &options[1..],
            kind => {
                let bytes = usize::from(*options.get(1)?);
                if kind == 3 && bytes == 3 {
                    return Some((*options.get(2)?).min(14));
                }
                options = options.get(bytes.max(2)..)?;
            }
        }
    }
}

impl TcpTracker {
    /// The state now.
    pub fn state(&self) -> TcpState {
        TcpState::from_bits(self.state & !DOUBTED)
    }

    /// True once both sides agreed to the connection.
    pub fn is_assured(&self) -> bool {
        let state = self.state();
        state >= TcpState::Established && state != TcpState::Closed
    }

    /// True if a reset went by, and nothing since that shows whether it was believed.
    pub fn is_doubted(&self) -> bool {
        self.state & DOUBTED != 0
    }

    /// What this segment would mean, without changing anything: for the slow path, before it decides.
    pub fn peek(&self, reply: bool, segment: &Segment, header: &[u8]) -> TcpVerdict {
        let mut copy = *self;
        copy.segment(reply, segment, header)
    }

    /// The usual case of [`Self::segment`]: a segment of an established connection that neither opens nor ends it. False if it is
    /// none, or not valid; nothing has changed then.
    #[inline(always)]
    pub fn usual(&mut self, reply: bool, segment: &Segment) -> bool {
        let plain =
            segment.flags & (SYN | FIN | RST | ACK) == ACK && self.state == TcpState::Established as u8;
        let valid = plain && self.in_window(reply, segment);
        if valid {
            self.advance(reply, segment);
        }
        valid
    }

    /// Takes a segment into account. `reply`: it comes from the responder. `header` is its TCP header with options.
    pub fn segment(&mut self, reply: bool, segment: &Segment, header: &[u8]) -> TcpVerdict {
        if self.usual(reply, segment) { TcpVerdict::Valid } else { self.control(reply, segment, header) }
    }

    fn control(&mut self, reply: bool, segment: &Segment, header: &[u8]) -> TcpVerdict {
        let (syn, fin, rst, ack) = (
            segment.flags & SYN != 0,
            segment.flags & FIN != 0,
            segment.flags & RST != 0,
            segment.flags & ACK != 0,
        );
        if syn && (fin || rst) || fin && rst || !(syn || rst || ack) {
            return TcpVerdict::Invalid;
        }
        if rst {
            return self.reset(reply, segment);
        }
        if syn {
            return self.synchronise(reply, segment, header, ack);
        }
        if self.state() == TcpState::SynSent && reply && !fin && self.sides[1].flags & SEEN == 0 {
            // The responder has an older connection on these ports: the initiator must see that, to reset it (RFC 9293
            // section 3.5.1).
            return self.challenge(segment);
        }
        // Of a connection that was refused at once, one side is unknown.
        let both = self.sides[0].flags & self.sides[1].flags & SEEN != 0;
        if !both || self.state() == TcpState::SynSent {
            return TcpVerdict::Invalid;
        }
        if !self.fits(reply, segment) {
            return TcpVerdict::Invalid;
        }
        self.state &= !DOUBTED;
        self.advance(reply, segment);
        self.close(reply, segment, fin);
        TcpVerdict::Valid
    }

    /// The responder acknowledges what the initiator's SYN did not send: that one may reset exactly there.
    fn challenge(&mut self, segment: &Segment) -> TcpVerdict {
        self.acknowledged[1] = segment.acknowledgment;
        self.sides[1].flags |= CHALLENGED;
        TcpVerdict::Valid
    }

    fn synchronise(&mut self, reply: bool, segment: &Segment, header: &[u8], ack: bool) -> TcpVerdict {
        let state = self.state();
        let ended = matches!(state, TcpState::TimeWait | TcpState::Closed);
        match (ack, reply) {
            (false, false) => {
                if ended {
                    return TcpVerdict::Reopens;
                }
                // Unanswered, it is repeated or tried anew. Later, the responder says whether it still has the old
                // connection (RFC 9293 section 3.10.7.4, RFC 5961 section 4); the tracker stays as it is until then.
                let unanswered = state == TcpState::SynSent && self.sides[1].flags & SEEN == 0;
                if state == TcpState::None || unanswered {
                    self.open(0, segment, header);
                    self.state = TcpState::SynSent as u8;
                } else {
                    self.late_syn = segment.end() as u16;
                    let scale = window_scale(header).map_or(0, |scale| scale + 1);
                    self.sides[0].flags = self.sides[0].flags & ((1 << LATE_SCALE) - 1) | scale << LATE_SCALE;
                }
                TcpVerdict::Valid
            }
            (false, true) if ended => TcpVerdict::Reopens,
            // Simultaneous open (RFC 9293 section 3.5).
            (false, true) if state == TcpState::SynSent => {
                self.open(1, segment, header);
                TcpVerdict::Valid
            }
            (true, _) => {
                if state >= TcpState::Established && !ended && self.fits(reply, segment) {
                    // It is repeated if the last part of the handshake was lost behind us.
                    return TcpVerdict::Valid;
                }
                let me = usize::from(reply);
                let other = self.sides[1 - me];
                let unacknowledged = other.end.wrapping_sub(segment.acknowledgment);
                let acknowledges = unacknowledged <= u32::from(other.syn_payload);
                let mine = self.sides[me];
                let first = mine.end.wrapping_sub(u32::from(mine.syn_payload)).wrapping_sub(1);
                // In a simultaneous open it has the number of the SYN before (RFC 9293 section 3.5).
                let begins = if mine.flags & SEEN != 0 { segment.sequence == first } else { reply };
                let opening = state == TcpState::SynSent && begins;
                let again = segment.end() == mine.end || segment.sequence == first;
                let again = state == TcpState::SynReceived && again;
                if acknowledges && again {
                    self.allow(1 - me, segment);
                    return TcpVerdict::Valid;
                }
                if acknowledges && opening && (reply || self.sides[1].flags & SEEN != 0) {
                    return self.accept(me, segment, header);
                }
                if reply && opening && self.sides[1].flags & SEEN == 0 {
                    // It answers an older SYN: the initiator must see that, to reset it (RFC 9293 section 3.5).
                    return self.challenge(segment);
                }
                if reply && !ended && self.is_about_late_syn(segment) {
                    // The responder knows nothing of the connection that was, or it would have challenged.
                    self.begin_anew(segment);
                    return self.accept(1, segment, header);
                }
                TcpVerdict::Invalid
            }
            _ => TcpVerdict::Invalid,
        }
    }

    /// SYN and ACK of `side`, which acknowledges the other side's SYN.
    fn accept(&mut self, side: usize, segment: &Segment, header: &[u8]) -> TcpVerdict {
        self.open(side, segment, header);
        self.state = TcpState::SynReceived as u8;
        self.agree_on_scale();
        self.acknowledged[side] = segment.acknowledgment;
        self.allow(1 - side, segment);
        TcpVerdict::Valid
    }

    /// Whether it acknowledges the SYN that passed an established connection last.
    fn is_about_late_syn(&self, segment: &Segment) -> bool {
        self.late_syn != 0 && segment.acknowledgment as u16 == self.late_syn
    }

    /// The initiator's late SYN, which `answer` acknowledges, begins the connection. Its window was not kept: it is taken for the
    /// largest.
    fn begin_anew(&mut self, answer: &Segment) {
        let scale = (self.sides[0].flags >> LATE_SCALE).checked_sub(1);
        let end = answer.acknowledgment;
        let initiator = Side {
            end,
            end_max: end,
            window_max: u32::from(u16::MAX),
            scale: scale.unwrap_or(0),
            flags: SEEN | if scale.is_some() { HAS_SCALE } else { 0 },
            syn_payload: 0,
        };
        *self =
            Self { sides: [initiator, Side::default()], state: TcpState::SynSent as u8, ..Self::default() };
    }

    fn open(&mut self, side: usize, segment: &Segment, header: &[u8]) {
        let scale = window_scale(header);
        let window = u32::from(segment.window);
        if self.sides[1 - side].flags & CHALLENGED == 0 {
            // The least that the other side can acknowledge.
            self.acknowledged[1 - side] = segment.sequence;
        }
        self.sides[side] = Side {
            end: segment.end(),
            end_max: segment.end(),
            window_max: window,
            scale: scale.unwrap_or(0),
            flags: SEEN | if scale.is_some() { HAS_SCALE } else { 0 },
            syn_payload: segment.payload_bytes.min(0xffff) as u16,
        };
        if self.sides[1 - side].flags & SEEN != 0 {
            self.sides[side].end_max = segment.end().wrapping_add(self.sides[1 - side].window_max);
        }
    }

    fn agree_on_scale(&mut self) {
        if self.sides[0].flags & self.sides[1].flags & HAS_SCALE == 0 {
            self.sides.iter_mut().for_each(|side| side.scale = 0);
        }
    }

    fn reset(&mut self, reply: bool, segment: &Segment) -> TcpVerdict {
        let me = usize::from(reply);
        let (mine, other) = (self.sides[me], self.sides[1 - me]);
        let state = self.state();
        let expected = self.acknowledged[1 - me];
        let ack = segment.flags & ACK != 0;
        // Who has nothing left of the connection refuses a new one like this (RFC 9293 section 3.10.7.1).
        let refuses = reply && ack && segment.sequence == 0;
        let refuses = refuses && self.is_about_late_syn(segment);
        let acceptable = match state {
            TcpState::None => false,
            TcpState::SynSent if reply => {
                // RFC 9293 section 3.10.7.3: in SYN-SENT a reset counts if it acknowledges our SYN.
                let unacknowledged = other.end.wrapping_sub(segment.acknowledgment);
                ack && unacknowledged <= u32::from(other.syn_payload)
            }
            TcpState::SynSent if other.flags & CHALLENGED != 0 && segment.sequence == expected => {
                // It ends the responder's older connection, not this one.
                return TcpVerdict::Valid;
            }
            TcpState::SynSent | TcpState::SynReceived | TcpState::Established => {
                refuses || !after(segment.sequence, expected) && self.reset_in_window(me, segment)
            }
            // The ports may be in use again by a connection that passes elsewhere.
            TcpState::FinWait
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::TimeWait
            | TcpState::Closed => true,
        };
        if !acceptable {
            return TcpVerdict::Invalid;
        }
        let exact = segment.sequence == expected || segment.sequence == mine.end;
        if state == TcpState::Established && !exact && !refuses {
            self.state |= DOUBTED;
        } else {
            self.state = TcpState::Closed as u8;
        }
        TcpVerdict::Valid
    }

    /// As [`Self::in_window`]; some stacks acknowledge nothing with a reset, or zero.
    fn reset_in_window(&self, me: usize, segment: &Segment) -> bool {
        let ignored = segment.flags & ACK == 0 || segment.acknowledgment == 0;
        let acknowledgment = if ignored { self.sides[1 - me].end } else { segment.acknowledgment };
        self.sides[me].flags & SEEN != 0 && self.fits(me == 1, &Segment { acknowledgment, ..*segment })
    }

    /// As [`Self::in_window`], but that what was not acknowledged yet may always come again: who sent more than the window may
    /// have to repeat it.
    fn fits(&self, reply: bool, segment: &Segment) -> bool {
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
    fn in_window(&self, reply: bool, segment: &Segment) -> bool {
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
    fn advance(&mut self, reply: bool, segment: &Segment) {
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
    fn allow(&mut self, to: usize, segment: &Segment) {
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

    fn close(&mut self, reply: bool, segment: &Segment, fin: bool) {
        let me = usize::from(reply);
        if fin {
            self.sides[me].flags |= SENT_FIN;
        }
        let other = 1 - me;
        if self.sides[other].flags & SENT_FIN != 0 && segment.acknowledgment == self.sides[other].end {
            self.fins_acknowledged |= 1 << other;
        }
        let fins = (self.sides[0].flags & SENT_FIN != 0) as u8 + (self.sides[1].flags & SENT_FIN != 0) as u8;
        let state = match (fins, self.fins_acknowledged) {
            (0, _) => TcpState::Established,
            (1, 0) => TcpState::FinWait,
            (1, _) => TcpState::CloseWait,
            (_, 3) => TcpState::TimeWait,
            _ => TcpState::LastAck,
        };
        if self.state != TcpState::Closed as u8 {
            self.state = self.state.max(state as u8);
        }
    }
}

const _: () = assert!(size_of::<TcpTracker>() == 44);

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: u8, sequence: u32, acknowledgment: u32, payload_bytes: u32) -> Segment {
        Segment { sequence, acknowledgment, payload_bytes, window: 1000, flags }
    }

    fn established() -> TcpTracker {
        let mut tracker = TcpTracker::default();
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::Established);
        tracker
    }

    #[test]
    fn a_connection_opens_and_closes() {
        let mut tracker = established();
        assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 500), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(FIN | ACK, 601, 501, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::FinWait);
        assert_eq!(tracker.segment(true, &segment(ACK, 501, 602, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::CloseWait);
        assert_eq!(tracker.segment(true, &segment(FIN | ACK, 501, 602, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::LastAck);
        assert_eq!(tracker.segment(false, &segment(ACK, 602, 502, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::TimeWait);
        assert_eq!(tracker.segment(false, &segment(SYN, 9000, 0, 0), &[]), TcpVerdict::Reopens);
    }

    #[test]
    fn out_of_window_segments_are_invalid() {
        let mut tracker = established();
        for bad in [
            segment(ACK, 101 + 5_000_000, 501, 10),
            segment(ACK, 101, 501 + 5_000_000, 10),
            segment(ACK, 101u32.wrapping_sub(200_000), 501, 10),
            segment(ACK, 101, 501u32.wrapping_sub(200_000), 0),
            segment(0, 101, 501, 10),
            segment(SYN | FIN, 101, 501, 0),
            segment(FIN | RST | ACK, 101, 501, 0),
            segment(RST, 101 + 5_000_000, 0, 0),
        ] {
            let before = tracker;
            assert_eq!(tracker.segment(false, &bad, &[]), TcpVerdict::Invalid, "{bad:?}");
            assert_eq!(tracker, before);
        }
        assert_eq!(tracker.segment(false, &segment(RST, 101, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::Closed);
    }

    #[test]
    fn a_connection_needs_its_handshake() {
        let mut tracker = TcpTracker::default();
        assert_eq!(tracker.segment(false, &segment(ACK, 1, 1, 0), &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 1, 1, 0), &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(false, &segment(SYN, 1, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(ACK, 2, 1, 0), &[]), TcpVerdict::Invalid);
    }

    /// RFC 9293 section 3.5: the responder answers an old SYN, and the initiator resets what that began.
    #[test]
    fn an_answer_to_an_older_syn_is_reset() {
        let mut tracker = TcpTracker::default();
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 300, 91, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::SynSent);
        // Neither does it begin the connection nor does any reset end it.
        assert_eq!(tracker.segment(false, &segment(ACK, 91, 301, 0), &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(false, &segment(RST, 92, 0, 0), &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(false, &segment(RST, 91, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::SynSent);
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 400, 101, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::SynReceived);
        // Once it is answered, another answer is none.
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 300, 91, 0), &[]), TcpVerdict::Invalid);
    }

    /// Both lost the connection, or the answer to the first SYN never came: the next SYN on its ports is answered as a first one.
    #[test]
    fn an_answered_late_syn_begins_the_connection_anew() {
        let mut header = vec![0u8; 24];
        header[12] = 6 << 4;
        header[20..24].copy_from_slice(&[1, 3, 3, 7]);
        let mut received = TcpTracker::default();
        assert_eq!(received.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(received.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
        let mut closing = established();
        assert_eq!(closing.segment(true, &segment(FIN | ACK, 501, 101, 0), &[]), TcpVerdict::Valid);
        for mut tracker in [received, established(), closing] {
            let answer = segment(SYN | ACK, 40_000_000, 70_000_001, 0);
            assert_eq!(tracker.segment(true, &answer, &header), TcpVerdict::Invalid, "no SYN passed");
            assert_eq!(tracker.segment(false, &segment(SYN, 70_000_000, 0, 0), &header), TcpVerdict::Valid);
            let other = segment(SYN | ACK, 40_000_000, 70_000_002, 0);
            assert_eq!(tracker.segment(true, &other, &header), TcpVerdict::Invalid);
            assert_eq!(tracker.segment(true, &answer, &header), TcpVerdict::Valid);
            assert_eq!(tracker.state(), TcpState::SynReceived);
            assert_eq!(
                tracker.segment(false, &segment(ACK, 70_000_001, 40_000_001, 0), &[]),
                TcpVerdict::Valid
            );
            assert_eq!(tracker.state(), TcpState::Established);
            // The new SYN's scale counts.
            assert_eq!(
                tracker.segment(true, &segment(ACK, 40_100_000, 70_000_001, 10), &[]),
                TcpVerdict::Valid
            );
            assert_eq!(
                tracker.segment(true, &segment(ACK, 40_200_000, 70_000_001, 10), &[]),
                TcpVerdict::Invalid
            );
            assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 0), &[]), TcpVerdict::Invalid);
        }
    }

    /// Who sends more than it may must be able to repeat all of it, piece by piece.
    #[test]
    fn what_was_not_acknowledged_may_come_again() {
        let mut tracker = established();
        assert_eq!(tracker.segment(false, &segment(ACK, 1101, 501, 1400), &[]), TcpVerdict::Valid);
        for sequence in [101, 600, 1101] {
            assert_eq!(
                tracker.segment(false, &segment(ACK, sequence, 501, 100), &[]),
                TcpVerdict::Valid,
                "{sequence}"
            );
        }
        assert_eq!(tracker.segment(true, &segment(ACK, 501, 2501, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 100), &[]), TcpVerdict::Invalid);
    }

    /// RFC 9293 section 3.5: both begin at once, and both answer with the SYN that they sent.
    #[test]
    fn both_sides_open_at_once() {
        let mut tracker = TcpTracker::default();
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
        let early = segment(SYN | ACK, 100, 301, 0);
        assert_eq!(tracker.segment(false, &early, &[]), TcpVerdict::Invalid, "nobody sent that");
        assert_eq!(tracker.segment(true, &segment(SYN, 300, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(SYN | ACK, 70, 301, 0), &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 70, 101, 0), &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(false, &early, &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 300, 101, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(ACK, 101, 301, 10), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::Established);
        // Data in a SYN need not come again with the answer.
        let mut tracker = TcpTracker::default();
        for (reply, opens) in [
            (false, segment(SYN, 100, 0, 20)),
            (true, segment(SYN, 300, 0, 40)),
            (false, early),
            (true, segment(SYN | ACK, 300, 101, 0)),
        ] {
            assert_eq!(tracker.segment(reply, &opens, &[]), TcpVerdict::Valid, "{opens:?}");
        }
        assert_eq!(tracker.state(), TcpState::SynReceived);
    }

    /// Of the responder nothing is known, whatever numbers would suit.
    #[test]
    fn a_refused_connection_takes_no_segments() {
        let mut tracker = TcpTracker::default();
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(RST | ACK, 0, 101, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::Closed);
        for acknowledgment in [0, u32::MAX, 1u32.wrapping_sub(1000)] {
            let data = segment(ACK, 101, acknowledgment, 10);
            assert_eq!(tracker.segment(false, &data, &[]), TcpVerdict::Invalid, "{acknowledgment}");
        }
        assert_eq!(tracker.segment(true, &segment(ACK, 0, 101, 0), &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(false, &segment(SYN, 900, 0, 0), &[]), TcpVerdict::Reopens);
    }

    /// The initiator's own window allows it nothing, and a closed one no byte but the probe (RFC 9293 section 3.8.6.1).
    #[test]
    fn nobody_sends_before_the_other_side_offers_a_window() {
        let mut tracker = TcpTracker::default();
        let closed = |segment: Segment| Segment { window: 0, ..segment };
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &closed(segment(SYN | ACK, 500, 101, 0)), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(ACK, 102, 501, 10), &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 1), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(ACK, 102, 501, 1), &[]), TcpVerdict::Invalid);
        let mut tracker = TcpTracker::default();
        assert_eq!(tracker.segment(false, &closed(segment(SYN, 100, 0, 0)), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(ACK, 502, 101, 10), &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(true, &segment(ACK, 501, 101, 1), &[]), TcpVerdict::Valid);
    }

    #[test]
    fn retransmissions_and_window_scale_are_valid() {
        let mut header = vec![0u8; 24];
        header[12] = 6 << 4;
        header[20..24].copy_from_slice(&[1, 3, 3, 7]);
        assert_eq!(window_scale(&header), Some(7));
        let mut tracker = TcpTracker::default();
        let syn = segment(SYN, u32::MAX, 0, 0);
        assert_eq!(tracker.segment(false, &syn, &header), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &syn, &header), TcpVerdict::Valid);
        let answer = segment(SYN | ACK, 7, 0, 0);
        assert_eq!(tracker.segment(true, &answer, &header), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &answer, &header), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(ACK, 0, 8, 0), &[]), TcpVerdict::Valid);
        // 1000 << 7 bytes are allowed now, across the wrap of the sequence space.
        assert_eq!(tracker.segment(true, &segment(ACK, 8, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(ACK, 100_000, 8, 1000), &[]), TcpVerdict::Valid);
    }

    /// The final ACK was lost behind the tracker: the responder repeats its SYN-ACK, and the initiator must see it.
    #[test]
    fn a_repeated_answer_passes_an_established_connection() {
        let mut tracker = established();
        let before = tracker;
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker, before);
        let stray = segment(SYN | ACK, 500 + 5_000_000, 101, 0);
        assert_eq!(tracker.segment(true, &stray, &[]), TcpVerdict::Invalid);
        assert_eq!(tracker, before);
    }

    /// RFC 9293 section 3.5.1: a host that lost its connection opens it anew with the same ports.
    #[test]
    fn a_half_open_connection_recovers() {
        let mut tracker = established();
        let before = TcpTracker { late_syn: 70_000_001u32 as u16, ..tracker };
        let syn = segment(SYN, 70_000_000, 0, 0);
        assert_eq!(tracker.segment(false, &syn, &[]), TcpVerdict::Valid);
        assert_eq!(tracker, before, "only the responder knows what it means");
        // The challenge ACK of RFC 5961 section 4, and the reset that it provokes.
        assert_eq!(tracker.segment(true, &segment(ACK, 501, 101, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(RST, 101, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &syn, &[]), TcpVerdict::Reopens);
        // From the responder's side a lone SYN opens nothing.
        assert_eq!(established().segment(true, &segment(SYN, 9, 0, 0), &[]), TcpVerdict::Invalid);
    }

    /// The same where only the responder remembers the old connection.
    #[test]
    fn an_older_connection_of_the_responder_is_reset() {
        let mut tracker = TcpTracker::default();
        let syn = segment(SYN, 100, 0, 0);
        assert_eq!(tracker.segment(false, &syn, &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(RST, 5_000_000, 0, 0), &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(true, &segment(ACK, 77, 5_000_000, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(RST, 5_000_000, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::SynSent);
        assert_eq!(tracker.segment(false, &syn, &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::SynReceived);
    }

    /// An attempt was given up, and the next one has the same ports and another sequence number.
    #[test]
    fn an_unanswered_attempt_is_replaced() {
        let mut tracker = TcpTracker::default();
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(SYN, 9_000_000, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::SynSent, "an answer to the attempt before");
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 9_000_001, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::SynReceived);
    }

    /// RFC 7413: the data of a SYN may be left unacknowledged.
    #[test]
    fn data_in_a_syn_may_be_refused() {
        for (acknowledgment, state) in [
            (101, TcpState::SynReceived),
            (111, TcpState::SynReceived),
            (100, TcpState::SynSent),
            (112, TcpState::SynSent),
        ] {
            let mut tracker = TcpTracker::default();
            assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 10), &[]), TcpVerdict::Valid);
            let answer = segment(SYN | ACK, 500, acknowledgment, 0);
            assert_eq!(tracker.segment(true, &answer, &[]), TcpVerdict::Valid);
            assert_eq!(tracker.state(), state, "{acknowledgment}");
        }
    }

    /// RFC 9293 section 3.8.4 and 3.8.6.1: keep-alives lie one below, zero window probes one above.
    #[test]
    fn keep_alives_and_probes_are_valid() {
        let mut tracker = established();
        assert_eq!(tracker.segment(false, &segment(ACK, 100, 501, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(ACK, 100, 501, 1), &[]), TcpVerdict::Valid);
        let closed = Segment { window: 0, ..segment(ACK, 501, 1101, 0) };
        assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 1000), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &closed, &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(ACK, 1101, 501, 1), &[]), TcpVerdict::Valid);
    }

    /// RFC 5961 section 3.2: a reset counts at exactly the expected sequence number; elsewhere in the window its receiver is asked
    /// first, and below what was acknowledged it is stale.
    #[test]
    fn a_reset_inside_the_window_does_not_close() {
        let mut tracker = established();
        assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 300), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(ACK, 501, 251, 0), &[]), TcpVerdict::Valid);
        // 251 is acknowledged, 401 is sent, 1251 is allowed.
        for sequence in [252, 400, 402, 1000, 1251] {
            for flags in [RST, RST | ACK] {
                let mut it = tracker;
                assert_eq!(it.segment(false, &segment(flags, sequence, 501, 0), &[]), TcpVerdict::Valid);
                assert_eq!(it.state(), TcpState::Established, "{sequence}");
                assert!(it.is_doubted() && it.is_assured());
                // The challenge shows that the connection lives; the reset that it provokes is exact.
                let mut lives = it;
                assert_eq!(lives.segment(true, &segment(ACK, 501, 251, 0), &[]), TcpVerdict::Valid);
                assert_eq!((lives.state(), lives.is_doubted()), (TcpState::Established, false));
                assert_eq!(it.segment(false, &segment(RST, 251, 0, 0), &[]), TcpVerdict::Valid);
                assert_eq!((it.state(), it.is_doubted()), (TcpState::Closed, false));
            }
        }
        for sequence in [101, 250, 1252, 5_000_000] {
            let before = tracker;
            let stale = segment(RST, sequence, 0, 0);
            assert_eq!(tracker.segment(false, &stale, &[]), TcpVerdict::Invalid, "{sequence}");
            assert_eq!(tracker, before);
        }
        for sequence in [251, 401] {
            let mut it = tracker;
            assert_eq!(it.segment(false, &segment(RST, sequence, 0, 0), &[]), TcpVerdict::Valid);
            assert_eq!(it.state(), TcpState::Closed, "{sequence}");
        }
        let unsent = segment(RST | ACK, 251, 501 + 5_000_000, 0);
        assert_eq!(tracker.segment(false, &unsent, &[]), TcpVerdict::Invalid);
    }

    /// What is closing may be a new connection already, elsewhere.
    #[test]
    fn a_closing_connection_takes_any_reset() {
        let mut tracker = established();
        assert_eq!(tracker.segment(false, &segment(FIN | ACK, 101, 501, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(RST, 77_000_000, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::Closed);
    }

    /// The responder lost the connection and has nobody to accept a new one: the initiator must be told.
    #[test]
    fn a_refusal_of_a_late_syn_passes() {
        let mut tracker = established();
        let refusal = segment(RST | ACK, 0, 70_000_001, 0);
        assert_eq!(tracker.segment(true, &refusal, &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(false, &segment(SYN, 70_000_000, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(RST | ACK, 0, 9, 0), &[]), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(true, &refusal, &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::Closed);
    }

    #[test]
    fn options_are_total() {
        for bytes in [vec![], vec![0; 20], vec![0xff; 40], [vec![0xf0; 13], vec![3; 47]].concat()] {
            let _ = window_scale(&bytes);
        }
    }
}
