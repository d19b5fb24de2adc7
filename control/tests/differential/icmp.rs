//! ICMP of scripts: errors about packets that were sent, and about others; queries that are no echoes.

use super::packet::{Body, End, Host, ICMP, Packet, Port};
use super::random::Random;
use super::script::{Link, Step, Way, payload};

/// An error about a step's packet, as somebody behind the middle would send it, or somebody who only pretends.
pub fn error(random: &mut Random, flow: usize, link: &Link, about: &Step) -> Option<Step> {
    let reply = [false, true].into_iter().find(|reply| {
        let (from, source, destination) = link.ends(*reply);
        from == about.from && about.packet.source == source.0 && about.packet.destination == destination.0
    })?;
    let ((source, source_port), (destination, destination_port)) = link.beyond(reply);
    let mut quoted = about.packet.clone();
    (quoted.source, quoted.destination) = (source, destination);
    quoted.ttl = quoted.ttl.saturating_sub(1);
    match &mut quoted.body {
        Body::Tcp { ports, .. } | Body::Udp { ports, .. } => *ports = (source_port, destination_port),
        Body::Query { identifier, .. } => match *identifier {
            Port::Is(number) if !reply && link.way == Way::Out => {
                *identifier = Port::Mapped((link.protocol, link.client, number), link.remote, 0);
            }
            Port::Mapped((.., number), ..) => *identifier = Port::Is(number),
            Port::Is(_) => {}
        },
        Body::Error { .. } | Body::Other { .. } => return None,
    }
    let (from, _, _) = link.ends(!reply);
    let mut sender = if random.chance(50) { Host::Hop(from) } else { destination };
    if matches!(sender, Host::External) {
        sender = Host::Hop(from);
    }
    let mut to = source;
    let mut what = "about a packet";
    if random.chance(35) {
        what = match random.below(7) {
            0 => {
                quoted.destination = Host::Remote(3);
                "about a packet to another host"
            }
            1 => {
                quoted.source = Host::Remote(2);
                "about a packet of another host"
            }
            2 => {
                match &mut quoted.body {
                    Body::Tcp { ports, .. } | Body::Udp { ports, .. } => ports.1 = Port::Is(999),
                    Body::Query { identifier, .. } => *identifier = Port::Is(999),
                    Body::Error { .. } | Body::Other { .. } => {}
                }
                "about a packet to another port"
            }
            3 => {
                match &mut quoted.body {
                    Body::Tcp { ports, .. } | Body::Udp { ports, .. } => ports.0 = Port::Is(998),
                    Body::Query { kind, .. } => *kind ^= 8,
                    Body::Error { .. } | Body::Other { .. } => {}
                }
                "about a packet from another port"
            }
            4 => {
                if let Body::Tcp { sequence, .. } = &mut quoted.body {
                    *sequence = sequence.wrapping_add(1 << 30);
                }
                "about a segment far away"
            }
            5 => {
                (quoted.source, quoted.destination) = (quoted.destination, quoted.source);
                "about a packet the other way"
            }
            _ => {
                to = if to == Host::External { Host::Hop(End::Outside) } else { Host::Client(3) };
                "to somebody else about a packet"
            }
        };
    }
    let (kind, code, rest) = random.pick(if link.v6() {
        &[(1u8, 0u8, 0u32), (1, 4, 0), (2, 0, 1280), (3, 0, 0), (3, 1, 0), (4, 1, 40), (100, 0, 0)]
    } else {
        &[
            (3, 0, 0),
            (3, 1, 0),
            (3, 3, 0),
            (3, 4, 1280),
            (3, 13, 0),
            (4, 0, 0),
            (5, 1, 0x0a00_0002),
            (11, 0, 0),
            (11, 1, 0),
            (12, 0, 20 << 24),
        ]
    });
    let bytes = random.pick(if link.v6() { &[1232, 48, 60, 40, 20] } else { &[548, 28, 28, 48, 24, 20, 10] });
    let body = Body::Error { kind, code, rest, about: Box::new(quoted), quoted: bytes };
    let packet = Packet::new(link.v6(), sender, to, body);
    Some(Step {
        what: format!("ICMP error {kind}/{code} {what}, {bytes} bytes quoted"),
        from,
        flow,
        packet,
        pieces: None,
    })
}

/// Timestamps, masks, information, and what has no meaning.
pub fn other_queries(random: &mut Random, flow: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    for sequence in 0..1 + random.below(3) as u16 {
        let from = random.pick(&End::BOTH);
        let v6 = random.chance(30);
        let kind = random.pick(if v6 {
            &[128u8, 129, 139, 140, 150, 200]
        } else {
            &[0u8, 8, 9, 10, 13, 14, 15, 17, 30, 42, 99]
        });
        let (source, destination) = match from {
            End::Inside => (Host::Client(0), Host::Remote(0)),
            End::Outside => (Host::Remote(0), if v6 { Host::Client(0) } else { Host::External }),
        };
        let payload = payload(random, 12);
        let mapped = Port::Mapped((ICMP, Host::Client(0), 77), Host::Remote(0), 0);
        let identifier = if v6 || from == End::Inside { Port::Is(77) } else { mapped };
        let body = Body::Query { kind, code: 0, identifier, sequence, payload };
        let packet = Packet::new(v6, source, destination, body);
        steps.push(Step { what: format!("ICMP query {kind}"), from, flow, packet, pieces: None });
    }
    steps
}
