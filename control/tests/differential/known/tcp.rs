//! What differs about the state of TCP connections.

use super::{Known, is_at_its_last_hop, is_source_routed, is_too_big};
use crate::packet::{ACK, RST, SYN, URG};
use crate::script::Step;
use crate::seen::{Kind, Seen};
use crate::view::Segment;

pub const KNOWN: &[Known] = &[
    Known {
        name: "The router answers before the state of TCP is looked at",
        is_it: |case| {
            let answers = |seen: &Seen| match seen.kind {
                Kind::Reset => case.is_refused(),
                Kind::Answer(11, 0) => !case.packet().v6 && is_at_its_last_hop(case.step),
                Kind::Answer(3, 0) => case.packet().v6 && is_at_its_last_hop(case.step),
                Kind::Answer(3, 4) => !case.packet().v6 && is_too_big(case.step),
                Kind::Answer(2, 0) => case.packet().v6 && is_too_big(case.step),
                _ => false,
            };
            case.linux_drops() && case.segment().is_some() && case.millrace.iter().all(answers)
        },
    },
    Known {
        name: "Resets count where their receiver believes them",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            // In SYN-SENT a reset must acknowledge the SYN (RFC 9293 section 3.10.7.3).
            let unacknowledged = view.receiver.acknowledged.is_none()
                && !(segment.has(ACK) && view.receiver.end == Some(segment.acknowledgment));
            // One inside the window would be challenged.
            let elsewhere = view.is_outside(&segment) || view.acknowledges_else(&segment);
            // The responder has an older connection: who began anew resets that exactly where it was told.
            let older = view.sender.asked
                && !view.is_answered
                && view.receiver.acknowledged != Some(segment.sequence);
            segment.has(RST) && case.millrace_drops() && (unacknowledged || elsewhere || older)
        },
    },
    Known {
        name: "A connection that closes takes any reset",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            segment.has(RST) && case.linux_drops() && (view.is_over || view.closes)
        },
    },
    Known {
        name: "A SYN may be refused at any time",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            let acknowledges = view.receiver.end == Some(segment.acknowledgment);
            let refusal = segment.has(RST | ACK) && (segment.sequence == 0 || acknowledges);
            refusal && view.receiver.asked && case.linux_drops()
        },
    },
    Known {
        name: "What follows a refusal reaches who refused",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            // A reset that refused a SYN in a connection that was open, or was about to be.
            let refusal = |(step, passed): &(&Step, bool)| {
                let segment = Segment::of(step).filter(|_| *passed && step.flow == case.step.flow);
                segment.is_some_and(|segment| segment.has(RST | ACK) && segment.sequence == 0)
            };
            let refused = view.is_over && view.is_asked_again && case.before.iter().any(refusal);
            let fits = !view.is_outside(&segment) && !view.acknowledges_else(&segment);
            case.linux_drops() && refused && segment.has(ACK) && fits
        },
    },
    Known {
        name: "Urgent data may come with any flags",
        is_it: |case| {
            let urgent = case
                .segment()
                .is_some_and(|(segment, _)| segment.has(URG) && segment.flags & (SYN | RST) != 0);
            urgent && case.linux_drops()
        },
    },
    Known {
        name: "A wrong answer to a SYN reaches who sent it",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            let waits = !view.is_answered && view.receiver.first.is_some();
            let wrong = view.receiver.end != Some(segment.acknowledgment) || !segment.has(SYN);
            let fits = !view.is_outside(&segment) && !view.acknowledges_else(&segment);
            let answers = waits && wrong || view.resets_older && fits;
            segment.has(ACK) && !segment.has(RST) && case.linux_drops() && answers
        },
    },
    Known {
        name: "A reset connection is over",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            // Who refused was never heard, but for its reset; and a SYN-ACK ends what a SYN began.
            let refused = view.sender.first.is_none() || view.receiver.first.is_none();
            let is_late = refused && segment.has(ACK) || segment.has(SYN | ACK);
            let is_old = case.millrace_drops() && view.is_over && is_late;
            // Linux still knew the old one when a SYN began another.
            let fits = !view.is_outside(&segment) && !view.acknowledges_else(&segment);
            is_old || view.is_after_reset && case.linux_drops() && (segment.has(SYN) || fits)
        },
    },
    Known {
        name: "A connection is open when its SYN is acknowledged",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            let is_answered = view.is_answered && !view.receiver.is_new && !view.sender.is_new;
            segment.flags & (SYN | RST) == 0 && case.millrace_drops() && !is_answered
        },
    },
    Known {
        name: "A connection is over when both FINs are acknowledged",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            let answered = view.sender.first.is_some() && !view.sender.asked;
            let begins = segment.has(SYN) && !segment.has(ACK) && answered && case.millrace_drops();
            // Linux forgot the old one with a SYN that passed.
            let fits = !view.is_outside(&segment) && !view.acknowledges_else(&segment);
            let ends = view.is_asked_again && !segment.has(SYN) && fits && case.linux_drops();
            view.closes && (begins || ends)
        },
    },
    Known {
        name: "Only who was asked answers with a SYN-ACK",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            segment.has(SYN | ACK) && case.millrace_drops() && !view.receiver.asked
        },
    },
    Known {
        name: "What is refused changes nothing",
        is_it: |case| {
            // Linux forgot the connection by a SYN that it then refused, or took what went no further into account.
            let earlier = |is_it: fn(&Step, &Segment) -> bool| {
                let dropped = case.before.iter().filter(|(_, passed)| !passed).map(|(step, _)| *step);
                let mut of_flow = dropped.filter(|step| step.flow == case.step.flow);
                of_flow.any(|step| Segment::of(step).is_some_and(|segment| is_it(step, &segment)))
            };
            let forgot = earlier(|_, segment| segment.has(SYN) && !segment.has(ACK));
            let went_no_further =
                earlier(|step, _| is_at_its_last_hop(step) || is_too_big(step) || is_source_routed(step));
            let Some((segment, view)) = case.segment() else {
                // Nor does it end what an error is about.
                return case.linux_drops() && case.is_error() && went_no_further;
            };
            // What follows a SYN that never arrived, or answers it, belongs to nothing.
            let follows = case.before.iter().any(|(step, passed)| {
                let syn = Segment::of(step).filter(|_| !passed && step.flow == case.step.flow);
                let syn = syn.filter(|syn| syn.has(SYN)).map(|syn| syn.sequence.wrapping_add(1));
                syn == Some(segment.sequence) || segment.has(ACK) && syn == Some(segment.acknowledgment)
            });
            let knows = case.linux_drops() && (view.closes && forgot || went_no_further);
            knows || case.millrace_drops() && went_no_further && follows
        },
    },
    Known {
        name: "What a SYN carried may come again",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            let carries = |(step, passed): &(&Step, bool)| {
                let syn = Segment::of(step).filter(|_| *passed && step.flow == case.step.flow);
                syn.is_some_and(|syn| syn.has(SYN) && syn.end.wrapping_sub(syn.sequence) > 1)
            };
            let fits = !view.is_outside(&segment) && !view.acknowledges_else(&segment);
            let refuses = view.began_anew && segment.has(SYN | ACK) && case.millrace_drops();
            (case.linux_drops() && fits || refuses) && case.before.iter().any(carries)
        },
    },
    Known {
        name: "Another connection has another number",
        is_it: |case| {
            let Some((_, view)) = case.segment() else { return false };
            let answers = case.before.iter().filter(|(step, passed)| *passed && step.flow == case.step.flow);
            let answers = answers.filter_map(|(step, _)| Segment::of(step)).filter(|it| it.has(SYN | ACK));
            let answers: Vec<_> = answers.map(|it| (it.sequence, it.acknowledgment)).collect();
            let same = |a: &(u32, u32)| answers.iter().any(|b| a.0 == b.0 && a.1 != b.1);
            case.millrace_drops() && view.began_anew && answers.iter().any(same)
        },
    },
    Known {
        name: "What lies at the edge of a window passes",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            case.linux_drops() && view.edge() == Some(segment.sequence)
        },
    },
    Known {
        name: "The window of a SYN counts",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            let silent = (view.is_answered || view.is_over) && view.receiver.acknowledged.is_none();
            let fits = !view.is_outside(&segment) && !view.acknowledges_else(&segment);
            let next = view.sender.first.map(|first| first.wrapping_add(1));
            case.linux_drops() && silent && fits && next != Some(segment.sequence)
        },
    },
    Known {
        name: "The window of a late SYN is taken for the largest",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            let first = view.sender.first.unwrap_or_default();
            let within = segment.sequence.wrapping_sub(first) <= 1 + u32::from(u16::MAX);
            let answers = view.began_anew && view.is_answered && view.receiver.asked;
            case.linux_drops() && answers && within && !view.acknowledges_else(&segment)
        },
    },
    Known {
        name: "An unanswered SYN may be replaced",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            let fits = !view.is_outside(&segment) && !view.acknowledges_unsent(&segment);
            let follows = fits || view.keeps_alive(&segment) || segment.flags & (SYN | RST) != 0;
            view.began_anew && case.linux_drops() && follows
        },
    },
    Known {
        name: "Segments outside the window are dropped",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            let another = view.sender.first.is_some_and(|first| first != segment.sequence);
            let again = view.is_answered && !segment.has(ACK);
            let outside = view.is_outside(&segment) || segment.has(SYN) && (another || again);
            let refused = outside || view.acknowledges_else(&segment);
            segment.flags & RST == 0 && case.millrace_drops() && refused
        },
    },
    Known {
        name: "A SYN in a connection is for its receiver to answer",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            let established = view.sender.first.is_some() && view.receiver.first.is_some();
            segment.has(SYN) && case.linux_drops() && established
        },
    },
];
