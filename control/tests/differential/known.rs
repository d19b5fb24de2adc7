//! Where Millrace differs from Linux's connection tracking and masquerade, and why. docs/differences.md says it for readers; a test
//! holds both lists against each other.

use super::packet::{ACK, Body, Damage, End, Host, ICMPV6, Packet, Piece, RST, SYN, URG};
use super::script::Step;
use super::seen::{Kind, Seen};
use super::view::{Segment, View};

/// A step at which both differ.
pub struct Case<'a> {
    pub step: &'a Step,
    /// The steps before it, and whether anything came of them.
    pub before: &'a [(&'a Step, bool)],
    pub kernel: &'a [Seen],
    pub millrace: &'a [Seen],
}

impl Case<'_> {
    fn packet(&self) -> &Packet {
        &self.step.packet
    }

    /// Linux lets it pass or answers it, Millrace drops it.
    fn millrace_drops(&self) -> bool {
        self.millrace.is_empty()
    }

    fn linux_drops(&self) -> bool {
        self.kernel.is_empty()
    }

    fn is_whole(&self) -> bool {
        self.step.pieces.is_none()
    }

    /// The TCP segment and what its ends know.
    fn segment(&self) -> Option<(Segment, View)> {
        Some((Segment::of(self.step)?, View::of(self.step, self.before)))
    }

    fn is_query(&self, kinds: &[u8]) -> bool {
        matches!(&self.packet().body, Body::Query { kind, .. } if kinds.contains(kind))
    }

    /// The server of the port forwards sent to somebody who had not asked: Linux gave that another external port.
    fn server_began(&self) -> bool {
        let passed = || self.before.iter().filter(|(_, passed)| *passed).map(|(step, _)| &step.packet);
        let remote = |packet: &Packet| match &packet.body {
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } if packet.source == Host::Server => {
                Some((packet.destination, ports.1))
            }
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } => Some((packet.source, ports.0)),
            _ => None,
        };
        let begins =
            |packet: &Packet| matches!(packet.body, Body::Tcp { flags, .. } if flags & (SYN | ACK) == SYN);
        passed().enumerate().any(|(at, packet)| {
            let asked = passed().take(at).any(|it| it.source != Host::Server && remote(it) == remote(packet));
            packet.source == Host::Server && remote(packet).is_some() && (!asked || begins(packet))
        })
    }

    /// What came out of both is equal once this is left out of the words.
    fn equal_without(&self, words: fn(&str) -> String) -> bool {
        let plain = |seen: &[Seen]| -> Vec<_> { seen.iter().map(|it| (it.at, words(&it.text))).collect() };
        !self.kernel.is_empty() && plain(self.kernel) == plain(self.millrace)
    }
}

/// A difference that is explained.
pub struct Known {
    /// Its heading in docs/differences.md.
    pub name: &'static str,
    pub is_it: fn(&Case<'_>) -> bool,
}

/// In the order in which they are tried.
pub const KNOWN: &[Known] = &[
    Known {
        name: "Fragments pass one by one",
        is_it: |case| {
            // What is whole here, since the last piece of all is in place, is not what was cut, or came beside a broken piece.
            let broken =
                |pieces: &Vec<Piece>| pieces.iter().any(|(start, end, more)| *more && (end - start) % 8 != 0);
            let broken = case.step.pieces.as_ref().is_some_and(broken);
            let pieces =
                |seen: &Seen| broken || seen.kind == Kind::Fragment || seen.text.ends_with("BAD checksum");
            case.step.pieces.is_some() && case.linux_drops() && case.millrace.iter().all(pieces)
        },
    },
    Known {
        name: "A datagram has 128 pieces at most",
        is_it: |case| {
            let fewer = case.millrace.iter().all(|seen| seen.kind == Kind::Fragment);
            case.step.pieces.as_ref().is_some_and(|pieces| pieces.len() > 128) && fewer
        },
    },
    Known {
        name: "Errors quote the first fragment",
        is_it: |case| {
            let error = |seen: &[Seen]| match seen {
                [one] => one
                    .text
                    .split(" about ")
                    .next()
                    .and_then(|text| text.split(" error ").nth(1).map(str::to_owned)),
                _ => None,
            };
            let pieces = case.step.pieces.as_ref().map_or(1, Vec::len);
            pieces > 1 && error(case.kernel).is_some() && error(case.kernel) == error(case.millrace)
        },
    },
    Known {
        name: "Few fragments wait for their first",
        is_it: |case| {
            let waits =
                |pieces: &Vec<Piece>| pieces.iter().position(|piece| piece.0 == 0).is_none_or(|at| at > 16);
            let fewer = case.millrace.iter().all(|seen| seen.kind == Kind::Fragment);
            case.step.pieces.as_ref().is_some_and(waits) && fewer
        },
    },
    Known {
        name: "Overlapping fragments end their datagram",
        is_it: |case| {
            let overlap = |pieces: &Vec<Piece>| {
                let meet = |a: &Piece, b: &Piece| a != b && a.0 < b.1 && b.0 < a.1;
                pieces.iter().any(|a| pieces.iter().any(|b| meet(a, b)))
            };
            let fewer = case.millrace.iter().all(|seen| seen.kind == Kind::Fragment);
            case.step.pieces.as_ref().is_some_and(overlap) && fewer
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
            other && pieces > 1 && case.millrace.iter().all(|seen| seen.kind == Kind::Fragment)
        },
    },
    Known {
        name: "A port forward is a mapping in both directions",
        is_it: |case| {
            let to_forward = case.packet().destination == Host::External && case.step.from == End::Outside;
            to_forward && case.server_began() && !case.millrace_drops()
        },
    },
    Known {
        name: "Protocols without ports are not translated",
        is_it: |case| {
            !case.packet().v6 && matches!(case.packet().body, Body::Other { .. }) && case.millrace_drops()
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
        name: "IPv6 datagrams over UDP have a checksum",
        is_it: |case| case.packet().v6 && case.packet().damage == Damage::NoChecksum && case.millrace_drops(),
    },
    Known {
        name: "Options of pings to the router are not read",
        is_it: |case| {
            let own = matches!(case.packet().destination, Host::External | Host::Gateway);
            let refused = case.kernel.iter().all(|seen| seen.kind == Kind::Answer(4, 2));
            own && case.packet().v6
                && !case.packet().extensions.is_empty()
                && !case.kernel.is_empty()
                && refused
        },
    },
    Known {
        name: "Routers leave IP options alone",
        is_it: |case| {
            let without = |text: &str| text.split(" options=07").next().unwrap_or_default().to_owned();
            let complains = |seen: &Seen| seen.kind == Kind::Answer(12, 0);
            case.packet().options.first() == Some(&7)
                && (case.equal_without(without) || case.kernel.iter().all(complains))
        },
    },
    Known {
        name: "Hop-by-hop options come first",
        is_it: |case| {
            let misplaced = case.packet().extensions.iter().skip(1).any(|(kind, _)| *kind == 0);
            misplaced && case.millrace_drops()
        },
    },
    Known {
        name: "Queries that are no echoes are not translated",
        is_it: |case| !case.packet().v6 && case.is_query(&[13, 14, 15, 17]) && case.millrace_drops(),
    },
    Known {
        name: "ICMPv6 messages that are no echoes go by the rules",
        is_it: |case| {
            let other = case.packet().body.protocol(true) == ICMPV6 && case.is_query(&[139, 140, 150, 200]);
            other && (case.linux_drops() || case.millrace_drops())
        },
    },
    Known {
        name: "Unknown ICMPv6 errors are dropped",
        is_it: |case| {
            let unknown = matches!(&case.packet().body, Body::Error { kind: 5.., .. });
            case.packet().v6 && unknown && case.millrace_drops()
        },
    },
    Known {
        name: "SCTP is not tracked",
        is_it: |case| matches!(case.packet().body, Body::Other { protocol: 132, .. }) && case.linux_drops(),
    },
    Known {
        name: "Errors are told as long as a connection is remembered",
        is_it: |case| {
            let reset = |step: &Step| Segment::of(step).is_some_and(|segment| segment.has(RST));
            let same = |step: &Step| step.flow == case.step.flow;
            let over = case.before.iter().any(|(step, passed)| *passed && same(step) && reset(step));
            matches!(case.packet().body, Body::Error { .. }) && over && case.linux_drops()
        },
    },
    Known {
        name: "Pings of the router come whole",
        is_it: |case| {
            let own = matches!(case.packet().destination, Host::External | Host::Gateway);
            let pieces = case.step.pieces.as_ref().map_or(1, Vec::len);
            own && pieces > 1 && case.is_query(&[8, 128]) && case.millrace_drops()
        },
    },
    Known {
        name: "An identifier is one flow of echoes",
        is_it: |case| {
            // There is a flow that began at the other end, which may not be asked with its own identifier.
            let other = |step: &Step| step.flow == case.step.flow && step.from != case.step.from;
            let began = case.before.iter().any(|(step, passed)| *passed && other(step));
            case.is_query(&[8, 128]) && began && case.millrace_drops()
        },
    },
    Known {
        name: "A checksum in a quote is translated with its addresses",
        is_it: |case| {
            let without = |text: &str| {
                let rest = text.split_once(" sum=").map(|(front, rest)| (front, rest.split_once(' ')));
                rest.map_or(text.to_owned(), |(front, rest)| {
                    format!("{front} {}", rest.map_or("", |it| it.1))
                })
            };
            let Body::Error { about, quoted, .. } = &case.packet().body else { return false };
            let shortened = matches!(case.packet().damage, Damage::CutOff(_)) || *quoted < 40;
            matches!(about.body, Body::Tcp { .. }) && shortened && case.equal_without(without)
        },
    },
    Known {
        name: "The type of a quoted echo names no flow",
        is_it: |case| {
            let Body::Error { about, .. } = &case.packet().body else { return false };
            matches!(about.body, Body::Query { .. }) && case.linux_drops()
        },
    },
    Known {
        name: "The code of an echo names no flow",
        is_it: |case| {
            let coded = |step: &Step| matches!(&step.packet.body, Body::Query { code: 1.., .. });
            let flow = case.before.iter().filter(|(step, _)| step.flow == case.step.flow);
            let is_echo = matches!(&case.packet().body, Body::Query { .. });
            is_echo
                && case.linux_drops()
                && (coded(case.step) || flow.into_iter().any(|(step, _)| coded(step)))
        },
    },
    Known {
        name: "Refusals speak for the destination",
        is_it: |case| {
            let refused = |seen: &[Seen]| {
                seen.len() == 1
                    && seen[0].text.contains(if case.packet().v6 { " error 1/1 " } else { " error 3/13 " })
            };
            let behind = |seen: &[Seen]| {
                seen[0]
                    .text
                    .split(" error ")
                    .nth(1)
                    .map(|text| text.split(']').next().unwrap_or_default().to_owned())
            };
            refused(case.kernel) && refused(case.millrace) && behind(case.kernel) == behind(case.millrace)
        },
    },
    Known {
        name: "The router answers in the name of the interface",
        is_it: |case| {
            let host = |text: &str| text.replace("External > ", "Gateway > ");
            case.packet().destination == Host::External && case.equal_without(host)
        },
    },
    Known {
        name: "IPv4 packets are not fragmented on the way",
        is_it: |case| {
            let free = !case.packet().v6 && !case.packet().dont_fragment && case.is_whole();
            free && case.step.what.contains("too big") && case.millrace_drops()
        },
    },
    Known {
        name: "The router answers before the state of TCP is looked at",
        is_it: |case| {
            let answers =
                case.millrace.iter().all(|seen| matches!(seen.kind, Kind::Answer(..) | Kind::Reset));
            case.linux_drops() && answers && case.segment().is_some()
        },
    },
    Known {
        name: "Resets count where their receiver believes them",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            // In SYN-SENT a reset must acknowledge the SYN (RFC 9293 section 3.10.7.3).
            let unacknowledged = view.receiver.acknowledged.is_none()
                && !(segment.has(ACK) && view.receiver.end == Some(segment.acknowledgment));
            let elsewhere = view.receiver.acknowledged != Some(segment.sequence);
            segment.has(RST) && case.millrace_drops() && (unacknowledged || elsewhere)
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
            let refusal =
                case.segment().is_some_and(|(segment, _)| segment.has(RST | ACK) && segment.sequence == 0);
            refusal && case.linux_drops()
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
            segment.has(ACK) && !segment.has(RST) && case.linux_drops() && waits
        },
    },
    Known {
        name: "A reset connection is over",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            segment.has(ACK) && case.millrace_drops() && view.is_over
        },
    },
    Known {
        name: "A connection is open when its SYN is acknowledged",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            segment.flags & (SYN | RST) == 0 && case.millrace_drops() && !view.is_answered
        },
    },
    Known {
        name: "A connection is over when both FINs are acknowledged",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            segment.has(SYN) && !segment.has(ACK) && view.closes && case.millrace_drops()
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
            // Linux forgot the connection by a SYN that it then refused.
            let refused = |step: &Step, passed: bool| {
                let syn = Segment::of(step).is_some_and(|segment| segment.has(SYN) && !segment.has(ACK));
                !passed && syn && step.flow == case.step.flow
            };
            let forgot = case.before.iter().any(|(step, passed)| refused(step, *passed));
            case.segment().is_some_and(|(_, view)| view.closes) && forgot && case.linux_drops()
        },
    },
    Known {
        name: "What lies at the edge of a window passes",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            case.linux_drops() && view.receiver.edge == Some(segment.sequence)
        },
    },
    Known {
        name: "An unanswered SYN may be replaced",
        is_it: |case| case.segment().is_some_and(|(_, view)| view.began_anew) && case.linux_drops(),
    },
    Known {
        name: "Segments outside the window are dropped",
        is_it: |case| {
            let Some((segment, view)) = case.segment() else { return false };
            let another = view.sender.first.is_some_and(|first| first != segment.sequence);
            let outside = view.is_outside(&segment) || segment.has(SYN) && another;
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
