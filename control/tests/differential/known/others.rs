//! What differs about UDP, ICMP, addresses and options.

use super::Known;
use crate::packet::{Body, Damage, End, Host, ICMPV6, Packet, Port};
use crate::script::Step;
use crate::seen::{Kind, Seen};

pub const KNOWN: &[Known] = &[
    Known {
        name: "A port forward is a mapping in both directions",
        is_it: |case| {
            let to_forward = case.packet().destination == Host::External && case.step.from == End::Outside;
            // For Linux it is another connection, whose remote port it changes where both would meet.
            let without = |text: &str| match without_forward(&without_records(text)).split_once("Remote(") {
                Some((front, rest)) => {
                    let behind = rest.split_once(' ').map_or("", |(_, rest)| rest);
                    format!("{front}Remote {behind}")
                }
                None => text.to_owned(),
            };
            let apart = case.linux_drops() || case.equal_without(without);
            to_forward && case.server_began() && !case.millrace_drops() && apart
        },
    },
    Known {
        name: "Protocols without ports are not translated",
        is_it: |case| {
            let out = case.step.from == End::Inside && matches!(case.packet().destination, Host::Remote(_));
            let other = !case.packet().v6 && matches!(case.packet().body, Body::Other { .. });
            let back = case.step.from == End::Outside && case.packet().destination == Host::External;
            (out || back) && other && case.millrace_drops()
        },
    },
    Known {
        name: "IPv6 datagrams over UDP have a checksum",
        is_it: |case| {
            let unchecked = case.packet().damage == Damage::NoChecksum;
            let udp = case.packet().v6 && matches!(case.packet().body, Body::Udp { .. });
            udp && unchecked && case.millrace_drops()
        },
    },
    Known {
        name: "Options of pings to the router are not read",
        is_it: |case| {
            let own = matches!(case.packet().destination, Host::External | Host::Gateway);
            let unknown = |(kind, body): &(u8, Vec<u8>)| *kind == 60 && body.first() == Some(&0xc2);
            let unknown = case.packet().extensions.iter().any(unknown);
            let refused = case.kernel.iter().all(|seen| seen.kind == Kind::Answer(4, 2));
            let answered = case.millrace.iter().all(|seen| seen.text.contains(" query 129/0 "));
            own && unknown
                && case.is_query(&[128])
                && !case.linux_drops()
                && refused
                && !case.millrace_drops()
                && answered
        },
    },
    Known {
        name: "Routers leave IP options alone",
        is_it: |case| {
            let complains = |seen: &Seen| seen.kind == Kind::Answer(12, 0);
            let malformed = case.packet().options.starts_with(&[7, 40]);
            let refused = malformed && case.kernel.iter().all(complains);
            case.packet().options.first() == Some(&7) && (case.equal_without(without_records) || refused)
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
        is_it: |case| {
            // Where Linux has a mapping by such a query, a ping from outside has its identifier there.
            let named = |text: &str| text.replace("External<Client(0):77>", "External:7");
            let pings = case.is_query(&[8]) && case.packet().destination == Host::External;
            let queries = case.is_query(&[13, 14, 15, 17]) && case.millrace_drops();
            !case.packet().v6 && (queries || pings && case.equal_without(named))
        },
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
        is_it: |case| {
            let sctp = matches!(case.packet().body, Body::Other { protocol: 132, .. });
            sctp && case.packet().v6 && case.linux_drops()
        },
    },
    Known {
        name: "GRE is not looked into",
        is_it: |case| {
            // Enhanced GRE that carries no PPP: version 1, another protocol type.
            let odd = |bytes: &[u8]| {
                bytes.get(1).is_some_and(|it| it & 7 == 1) && bytes.get(2..4) != Some(&[0x88, 0x0b])
            };
            let gre = matches!(&case.packet().body, Body::Other { protocol: 47, bytes } if odd(bytes));
            gre && case.packet().v6 && case.linux_drops()
        },
    },
    Known {
        name: "Errors are told as long as a connection is remembered",
        is_it: |case| {
            matches!(case.packet().body, Body::Error { .. }) && case.was_refused() && case.linux_drops()
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
            // A mapping by such a flow has its identifier, whoever asks.
            let named = |step: &Step| named(&case.step.packet) && step.from != case.step.from;
            let began = case.before.iter().any(|(step, passed)| *passed && (other(step) || named(step)));
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
            // Nobody at that end sent such a one.
            let kind = |packet: &Packet| match packet.body {
                Body::Query { kind: kind @ (0 | 8 | 128 | 129), .. } => Some(kind),
                _ => None,
            };
            let of_flow = |(step, passed): &(&Step, bool)| *passed && step.flow == case.step.flow;
            let same = |(at, it): (usize, &(&Step, bool))| {
                let (step, _) = it;
                // Without a mapping, the router itself answered.
                let translated = |(earlier, _): &(&Step, bool)| earlier.from != step.from;
                let reached = step.packet.destination != Host::External
                    || case.before[..at].iter().any(|it| of_flow(it) && translated(it));
                let is_other = of_flow(it) && step.from != case.step.from;
                is_other && reached && kind(&step.packet) == kind(about)
            };
            kind(about).is_some() && !case.before.iter().enumerate().any(same) && case.linux_drops()
        },
    },
    Known {
        name: "The code of an echo names no flow",
        is_it: |case| {
            let is_echo = |packet: &Packet| matches!(packet.body, Body::Query { .. });
            let coded = |packet: &Packet| matches!(packet.body, Body::Query { code: 1.., .. });
            let packet = case.packet();
            // The echo at hand, or the one that an error quotes.
            let echo = if let Body::Error { about, .. } = &packet.body { about } else { packet };
            let flow = case.before.iter().filter(|(step, _)| step.flow == case.step.flow);
            // Those that differ in the code alone may have one external identifier in Linux.
            let host = |text: &str| text.replace("Client(0)", "Client").replace("Client(1)", "Client");
            let own = matches!(packet.destination, Host::External | Host::Gateway);
            let unanswered = own && case.is_query(&[8, 128]) && coded(packet) && case.millrace_drops();
            let apart = case.linux_drops() || case.equal_without(host);
            let is_coded = coded(echo) || flow.into_iter().any(|(step, _)| coded(&step.packet));
            unanswered || is_echo(echo) && apart && is_coded
        },
    },
    Known {
        name: "Refusals speak for the destination",
        is_it: |case| {
            let refused = |seen: &[Seen]| seen.len() == 1 && case.is_refusal(&seen[0]);
            let behind = |seen: &[Seen]| {
                seen[0]
                    .text
                    .split(" error ")
                    .nth(1)
                    .map(|text| text.split(']').next().unwrap_or_default().replace(" atomic", ""))
            };
            case.is_refused()
                && refused(case.kernel)
                && refused(case.millrace)
                && behind(case.kernel) == behind(case.millrace)
        },
    },
    Known {
        name: "The router answers in the name of the interface",
        is_it: |case| {
            let host = |text: &str| text.replace("External > ", "Gateway > ");
            case.packet().destination == Host::External && case.equal_without(host)
        },
    },
];

/// An echo by the identifier that a mapping has.
fn named(packet: &Packet) -> bool {
    matches!(packet.body, Body::Query { identifier: Port::Mapped(..), .. })
}

/// Without the options in which routers may have written.
fn without_records(text: &str) -> String {
    let is_other = |word: &&str| !word.starts_with("options=07");
    text.split(' ').filter(is_other).collect::<Vec<_>>().join(" ")
}

/// With the external ports of the forwards as they are in Linux, where they name no mapping of the server's.
fn without_forward(text: &str) -> String {
    let tcp = text.replace("External<Server:80>", "External:8080");
    tcp.replace("External<Server:53>", "External:5353")
}
