//! What the hosts of a TCP connection know of each other, from the segments that reached them: whether a receiver would take a
//! segment at all (RFC 9293 section 3.10.7).

use super::packet::{ACK, Body, Damage, FIN, RST, SYN};
use super::script::Step;

/// One host's side, as its own segments tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Side {
    /// Its initial sequence number, once its SYN went by.
    pub first: Option<u32>,
    /// The end of all that it sent.
    pub end: Option<u32>,
    /// What it acknowledged last.
    pub acknowledged: Option<u32>,
    /// It sent a SYN without acknowledging another.
    pub asked: bool,
    /// The right edge of what it allowed by acknowledgments.
    edge: Option<u32>,
    /// Its last SYN had another number than the one before, and was not answered yet.
    pub is_new: bool,
    /// The window of its SYN, which is not scaled (RFC 7323 section 2.2).
    opening_window: u16,
    scale: Option<u8>,
}

/// Both sides, first who sent the segment in question, then who is to receive it.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    pub sender: Side,
    pub receiver: Side,
    /// A reset went by that its receiver believes, and no SYN since.
    pub is_over: bool,
    /// Who asked reset what was no answer to its SYN (RFC 9293 section 3.5.1), and asks still.
    pub resets_older: bool,
    /// A SYN went by behind such a reset.
    pub is_after_reset: bool,
    /// A FIN went by at any time.
    pub closes: bool,
    /// A SYN-ACK went by that acknowledges the other side's SYN.
    pub is_answered: bool,
    /// One side sent a SYN more than once.
    pub is_asked_again: bool,
    /// SYNs of one side with different numbers went by.
    pub began_anew: bool,
}

/// The fields of a segment that matter.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub flags: u8,
    pub sequence: u32,
    pub end: u32,
    pub acknowledgment: u32,
    window: u16,
    scale: Option<u8>,
}

/// True if `b` comes after `a`.
pub fn after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) as i32 > 0
}

fn later(a: Option<u32>, b: u32) -> Option<u32> {
    Some(a.map_or(b, |a| if after(a, b) { b } else { a }))
}

impl Segment {
    pub fn of(step: &Step) -> Option<Self> {
        let Body::Tcp { sequence, acknowledgment, flags, window, options, payload, .. } = &step.packet.body
        else {
            return None;
        };
        let missing = match step.packet.damage {
            Damage::Length(words) => 4 * usize::from(words),
            Damage::CutOff(bytes) => usize::from(bytes),
            _ => 0,
        };
        let bytes = payload.len().saturating_sub(missing) as u32;
        let length = bytes + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let scale = options.windows(3).find(|it| it[..2] == [3, 3]).map(|it| it[2].min(14));
        let (flags, window) = (*flags, *window);
        Some(Self {
            flags,
            sequence: *sequence,
            end: sequence.wrapping_add(length),
            acknowledgment: *acknowledgment,
            window,
            scale,
        })
    }

    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

impl View {
    /// By what reached its receiver before this step.
    pub fn of(step: &Step, before: &[(&Step, bool)]) -> Self {
        let mut view = Self::default();
        for (earlier, passed) in before {
            let same_flow = earlier.flow == step.flow && earlier.packet.v6 == step.packet.v6;
            let Some(segment) = Segment::of(earlier).filter(|_| *passed && same_flow) else { continue };
            let is_sender = earlier.packet.source == step.packet.source && earlier.from == step.from;
            if view.is_over && segment.has(SYN) && !segment.has(ACK) {
                // What its ends knew of the connection that was reset says nothing of this one.
                let is_known = view.receiver.first.is_some() || view.sender.first.is_some();
                let is_asked_again = view.is_asked_again || is_known;
                view = Self { is_asked_again, is_after_reset: true, closes: view.closes, ..Self::default() };
            }
            let asks = if is_sender { view.sender.asked } else { view.receiver.asked };
            view.resets_older |= segment.has(RST) && asks && !view.is_answered;
            view.is_over |= segment.has(RST) && view.is_believed(&segment, is_sender);
            view.closes |= segment.has(FIN);
            let (side, other) = if is_sender {
                (&mut view.sender, &mut view.receiver)
            } else {
                (&mut view.receiver, &mut view.sender)
            };
            let syn = other.first.is_some_and(|first| after(first, segment.acknowledgment));
            view.is_answered = !segment.has(RST) && (view.is_answered || segment.has(SYN | ACK) && syn);
            view.is_asked_again |= segment.has(SYN) && side.first.is_some();
            if segment.has(SYN) && side.first.is_some_and(|first| first != segment.sequence) {
                (view.began_anew, side.is_new) = (true, true);
            }
            let answers = other.first.is_some_and(|first| segment.acknowledgment.wrapping_sub(first) == 1);
            if segment.has(SYN | ACK) && answers && std::mem::take(&mut other.is_new) {
                // What it acknowledged before were other numbers.
                (side.acknowledged, side.edge) = (None, None);
            }
            // A SYN in an open connection is answered with a challenge, and else ignored (RFC 5961 section 4).
            let known = side.first == Some(segment.sequence);
            let is_open = known && other.acknowledged.is_some_and(|it| after(segment.sequence, it));
            if segment.has(SYN) && is_open {
                continue;
            }
            side.take(&segment, other.first.is_none() || other.scale.is_some());
            if segment.has(SYN) {
                view.is_over = false;
            }
        }
        view
    }

    /// A reset that is not exactly where its receiver expects it is challenged in an open connection (RFC 5961 section 3.2).
    fn is_believed(&self, reset: &Segment, is_sender: bool) -> bool {
        let (side, other) =
            if is_sender { (&self.sender, &self.receiver) } else { (&self.receiver, &self.sender) };
        let is_open = side.acknowledged.is_some() && other.acknowledged.is_some() && !self.closes;
        let is_exact = [side.end, other.acknowledged].contains(&Some(reset.sequence));
        !is_open || is_exact || reset.has(ACK) && reset.sequence == 0
    }

    /// Where the window ends that the receiver allows: by its SYN, before it acknowledges anything.
    pub fn edge(&self) -> Option<u32> {
        let first = |first: u32| first.wrapping_add(1 + u32::from(self.receiver.opening_window));
        self.receiver.edge.or_else(|| self.receiver.first.and(self.sender.first).map(first))
    }

    /// The segment's bytes lie outside the window that its receiver allowed, or were acknowledged long ago.
    pub fn is_outside(&self, segment: &Segment) -> bool {
        let beyond =
            self.edge().is_none_or(|edge| !after(segment.sequence, edge) && segment.sequence != edge);
        let known = self.receiver.acknowledged.or(self.sender.first);
        // Without bytes it is old below what is expected next; with some, if none of them is new.
        let is_empty = segment.end == segment.sequence;
        let is_old = |known| if is_empty { after(segment.end, known) } else { !after(known, segment.end) };
        beyond || known.is_some_and(is_old)
    }

    /// It repeats what the receiver acknowledged last, to be answered (RFC 9293 section 3.8.4).
    pub fn keeps_alive(&self, segment: &Segment) -> bool {
        let is_next = self.receiver.acknowledged == Some(segment.sequence.wrapping_add(1));
        is_next && segment.flags & (SYN | FIN | RST) == 0 && !self.acknowledges_else(segment)
    }

    /// The segment acknowledges what its receiver never sent, or what is long acknowledged.
    pub fn acknowledges_else(&self, segment: &Segment) -> bool {
        if segment.flags & ACK == 0 {
            return false;
        }
        let old = self.sender.acknowledged.is_some_and(|it| after(segment.acknowledgment, it))
            || self.receiver.first.is_some_and(|first| !after(first, segment.acknowledgment));
        self.acknowledges_unsent(segment) || old
    }

    /// The segment acknowledges what its receiver never sent.
    pub fn acknowledges_unsent(&self, segment: &Segment) -> bool {
        segment.has(ACK) && self.receiver.end.is_none_or(|end| after(end, segment.acknowledgment))
    }
}

impl Side {
    /// Takes a segment of this side; `scales`: the other side scales windows, too.
    fn take(&mut self, segment: &Segment, scales: bool) {
        if segment.has(RST) {
            return;
        }
        // One with the number of the last is that one again.
        if segment.has(SYN) && self.first != Some(segment.sequence) {
            let (first, asked) = (Some(segment.sequence), self.asked);
            let opening_window = segment.window;
            let is_new = self.is_new;
            *self = Self { first, scale: segment.scale, asked, opening_window, is_new, ..Self::default() };
        }
        self.asked |= segment.has(SYN) && !segment.has(ACK);
        self.end = later(self.end, segment.end);
        if segment.has(ACK) {
            self.acknowledged = later(self.acknowledged, segment.acknowledgment);
            let scale = self.scale.filter(|_| scales && !segment.has(SYN)).unwrap_or(0);
            let window = u32::from(segment.window) << scale;
            self.edge = later(self.edge, segment.acknowledgment.wrapping_add(window));
        }
    }
}
