//! What differs about fragments, and about packets that are too long.

use super::{Known, is_too_big};
use crate::packet::{Body, Piece, RST, SYN};
use crate::seen::{Kind, Seen};

pub const KNOWN: &[Known] = &[
    Known {
        name: "Fragments pass one by one",
        is_it: |case| {
            // A piece that can't be one is dropped alone; the others may be whole without it, as their receiver sees them.
            let broken = case.pieces().iter().any(|(start, end, more)| *more && (end - start) % 8 != 0);
            // What ends a TCP segment tells whether all of it belongs to the connection: then the last piece is dropped.
            let wrong_at_its_end = case.segment().is_some()
                && !case.millrace.iter().any(|seen| seen.text.ends_with("more=false"));
            let piece = |seen: &Seen| match seen.kind {
                Kind::Fragment => !case.is_complete() || wrong_at_its_end,
                // The first one shows where the datagram is going, and who refuses that answers it.
                Kind::Packet if case.is_refusal(seen) => case.is_refused() && !case.is_complete(),
                Kind::Packet => broken || seen.text.ends_with("BAD checksum"),
                Kind::Answer(..) | Kind::Reset => false,
            };
            case.step.pieces.is_some() && case.linux_drops() && case.millrace.iter().all(piece)
        },
    },
    Known {
        name: "A datagram has 128 pieces at most",
        is_it: |case| case.pieces().len() > 128 && !case.linux_drops() && case.millrace_passes_pieces(),
    },
    Known {
        name: "Errors quote the first fragment",
        is_it: |case| {
            let error = |seen: &Seen| {
                let text = seen.text.split(" about ").next()?;
                text.split(" error ").nth(1).map(str::to_owned)
            };
            let quotes = case.millrace.iter().all(|seen| seen.text.contains(" fragment 0 more=true]"));
            let [answer] = case.kernel else { return false };
            let same = |seen: &Seen| error(seen).is_some() && error(seen) == error(answer);
            let firsts = case.pieces().iter().filter(|piece| piece.0 == 0).count();
            let answers = (1..=firsts).contains(&case.millrace.len()) && case.millrace.iter().all(same);
            case.pieces().len() > 1 && answers && quotes
        },
    },
    Known {
        name: "Few fragments wait for their first",
        is_it: |case| {
            let late = case.pieces().iter().position(|piece| piece.0 == 0).is_some_and(|at| at > 16);
            late && !case.linux_drops() && case.millrace_passes_pieces()
        },
    },
    Known {
        name: "Overlapping fragments end their datagram",
        is_it: |case| {
            let within = |a: &Piece, b: &Piece| a != b && a.0 >= b.0 && a.1 <= b.1;
            let within = |a: &Piece| case.pieces().iter().any(|b| within(a, b));
            case.pieces().iter().any(within) && !case.linux_drops() && case.millrace_passes_pieces()
        },
    },
    Known {
        name: "Tiny fragments are dropped",
        is_it: |case| {
            let tiny =
                |pieces: &Vec<Piece>| pieces.iter().any(|piece| piece.0 < 16 && piece.1 < 20 && piece.2);
            case.segment().is_some() && case.step.pieces.as_ref().is_some_and(tiny) && case.millrace_drops()
        },
    },
    Known {
        name: "What is refused as tiny overlaps nothing",
        is_it: |case| {
            let refused = |piece: &Piece| piece.0 < 16 && piece.1 < 20 && piece.2;
            let once = |pieces: &Vec<Piece>| {
                let kept: Vec<_> = pieces.iter().filter(|piece| !refused(piece)).collect();
                let meet = |a: &Piece, b: &Piece| a != b && a.0 < b.1 && b.0 < a.1;
                kept.len() < pieces.len() && !kept.iter().any(|a| kept.iter().any(|b| meet(a, b)))
            };
            case.segment().is_some() && case.step.pieces.as_ref().is_some_and(once) && case.linux_drops()
        },
    },
    Known {
        name: "ICMP messages that are no echoes come whole",
        is_it: |case| {
            let pieces = case.step.pieces.as_ref().map_or(1, Vec::len);
            let other = matches!(case.packet().body, Body::Error { .. } | Body::Query { .. });
            let other = other && !case.is_query(&[0, 8, 128, 129]);
            other && pieces > 1 && !case.linux_drops() && case.millrace_passes_pieces()
        },
    },
    Known {
        name: "Atomic fragments stay fragments",
        is_it: |case| case.packet().v6 && case.equal_without(|text| text.replace(" atomic", "")),
    },
    Known {
        name: "No SYN and no reset in fragments",
        is_it: |case| {
            let control = case.segment().is_some_and(|(segment, _)| segment.flags & (SYN | RST) != 0);
            case.step.pieces.as_ref().is_some_and(|pieces| pieces.len() > 1)
                && control
                && case.millrace_drops()
        },
    },
    Known {
        name: "IPv4 packets are not fragmented on the way",
        is_it: |case| {
            let free = !case.packet().v6 && !case.packet().dont_fragment && case.is_whole();
            free && is_too_big(case.step) && case.millrace_drops()
        },
    },
];
