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

mod segment;
mod state;
#[cfg(test)]
mod tests;
mod window;

pub use self::segment::{ACK, FIN, RST, SYN, Segment, window_scale};
pub use self::state::TcpState;
pub use self::window::TcpTracker;

use self::segment::after;
use self::window::{CHALLENGED, DOUBTED, HAS_SCALE, LATE_SCALE, SEEN, SENT_FIN, Side};

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
                    self.open_again(0, segment, header);
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
                self.open_again(1, segment, header);
                TcpVerdict::Valid
            }
            (true, _) => {
                // A late SYN may have been the first one again: then the answer may be that of old, come again, too.
                let is_again = !after(self.acknowledged[1], segment.acknowledgment)
                    && !after(self.sides[1].end, segment.end())
                    && self.fits(reply, segment);
                let is_late = reply && self.is_about_late_syn(segment) && !is_again;
                if state >= TcpState::Established && !ended && !is_late && self.fits(reply, segment) {
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
                if is_late && !ended {
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
        self.open_again(side, segment, header);
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

    /// As [`Self::open`]. If that SYN went before, with data that this one does not repeat (RFC 7413 section 4.2.2), the other side may
    /// have taken that.
    fn open_again(&mut self, side: usize, segment: &Segment, header: &[u8]) {
        let before = self.sides[side];
        self.open(side, segment, header);
        let mine = &mut self.sides[side];
        let first = before.end.wrapping_sub(u32::from(before.syn_payload)).wrapping_sub(1);
        if before.flags & SEEN != 0 && first == segment.sequence && after(mine.end, before.end) {
            (mine.end, mine.syn_payload) = (before.end, before.syn_payload);
        }
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
        // Who has nothing left of the connection refuses a new one with sequence number zero (RFC 9293 section 3.10.7.1), but who
        // sent the SYN believes any reset that acknowledges it (section 3.10.7.3).
        let refuses = reply && ack && self.is_about_late_syn(segment);
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
