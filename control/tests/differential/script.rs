//! Random scripts: a few flows whose packets are mostly what hosts would send next, and often what they would not.

use super::icmp;
use super::packet::{Body, Damage, End, Host, ICMP, ICMPV6, Inner, Packet, Piece, Port, RST, SYN, TCP, UDP};
use super::random::Random;
use super::tcp;

/// One packet, or some pieces of one, from an end.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is meant to be, for people.
    pub what: String,
    pub from: End,
    /// The flow that it belongs to: after a difference in state, no more of it is compared.
    pub flow: usize,
    pub packet: Packet,
    pub pieces: Option<Vec<Piece>>,
}

/// Where a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A client to a remote host, through the masquerade.
    Out,
    Out6,
    /// A remote host to the server, by the port forward.
    Forward,
    In6,
    /// A client to the server, by the port forward.
    Hairpin,
}

/// The ends of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub way: Way,
    pub protocol: u8,
    pub client: Host,
    pub remote: Host,
    /// Ports of who begins and of who answers, as those know them; the identifier of echoes is the first.
    pub ports: (u16, u16),
}

impl Link {
    pub fn v6(&self) -> bool {
        matches!(self.way, Way::Out6 | Way::In6)
    }

    fn inner(&self) -> Inner {
        (self.protocol, self.client, self.ports.0)
    }

    /// Which port of the external address is forwarded, and whereto.
    fn forward(&self) -> (u16, u16) {
        if self.protocol == UDP { (5353, 53) } else { (8080, 80) }
    }

    /// Ends and ports of a packet as its sender knows them, and where it is sent.
    pub fn ends(&self, reply: bool) -> (End, (Host, Port), (Host, Port)) {
        use End::{Inside, Outside};
        let (begin, answer) = (Port::Is(self.ports.0), Port::Is(self.ports.1));
        let mapped = |peer, port| Port::Mapped(self.inner(), peer, port);
        let (external, internal) = self.forward();
        match (self.way, reply) {
            (Way::Out | Way::Out6, false) => (Inside, (self.client, begin), (self.remote, answer)),
            (Way::Out, true) => {
                let peer_port = if self.protocol == ICMP { 0 } else { self.ports.1 };
                (Outside, (self.remote, answer), (Host::External, mapped(self.remote, peer_port)))
            }
            (Way::Out6, true) => (Outside, (self.remote, answer), (self.client, begin)),
            (Way::Forward, false) => (Outside, (self.remote, begin), (Host::External, Port::Is(external))),
            (Way::Forward, true) => (Inside, (Host::Server, Port::Is(internal)), (self.remote, begin)),
            (Way::In6, false) => (Outside, (self.remote, begin), (Host::Server, Port::Is(internal))),
            (Way::In6, true) => (Inside, (Host::Server, Port::Is(internal)), (self.remote, begin)),
            (Way::Hairpin, false) => (Inside, (self.client, begin), (Host::External, Port::Is(external))),
            (Way::Hairpin, true) => {
                (Inside, (Host::Server, Port::Is(internal)), (Host::External, mapped(Host::Server, internal)))
            }
        }
    }

    /// The same packet behind the middle: as its receiver sees it.
    pub fn beyond(&self, reply: bool) -> ((Host, Port), (Host, Port)) {
        let (_, source, destination) = self.ends(!reply);
        (destination, source)
    }

    pub fn packet(&self, reply: bool, body: impl FnOnce((Port, Port)) -> Body) -> (End, Packet) {
        let (end, source, destination) = self.ends(reply);
        (end, Packet::new(self.v6(), source.0, destination.0, body((source.1, destination.1))))
    }
}

impl Packet {
    /// Which inside end sends it, if one does and it has ports.
    pub fn inner(&self) -> Option<Inner> {
        let port = match &self.body {
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } => ports.0,
            Body::Query { identifier, .. } => *identifier,
            Body::Error { .. } | Body::Other { .. } => return None,
        };
        let is_inside = matches!(self.source, Host::Client(_) | Host::Server | Host::Hop(End::Inside));
        match port {
            Port::Is(number) if is_inside && !self.v6 => {
                Some((self.body.protocol(false), self.source, number))
            }
            _ => None,
        }
    }
}

/// A whole script.
#[derive(Clone, Debug)]
pub struct Script {
    pub steps: Vec<Step>,
}

impl Script {
    /// The script of a seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let flows = 1 + random.below(3);
        let mut queues: Vec<Vec<Step>> = (0..flows).map(|flow| flow_steps(&mut random, flow)).collect();
        queues.iter_mut().for_each(|queue| queue.reverse());
        let mut steps = Vec::new();
        while queues.iter().any(|queue| !queue.is_empty()) {
            let at = random.below(queues.len());
            steps.extend(queues[at].pop());
        }
        Self { steps }
    }
}

fn link(random: &mut Random, flow: usize, protocol: u8) -> Link {
    let ways = [Way::Out, Way::Out, Way::Out, Way::Out6, Way::Out6, Way::Forward, Way::In6, Way::Hairpin];
    let mut way = random.pick(&ways);
    if matches!(protocol, ICMP) && matches!(way, Way::Forward | Way::Hairpin) {
        way = Way::Out;
    }
    let own = flow as u16 * 100;
    let to = if random.chance(4) { 25 } else { random.pick(&[80u16, 443, 53, 7000]) };
    let remote = Host::Remote(random.below(2) as u8);
    // Some flows share one inside end, and some differ in the port of the outside end alone.
    let shared = matches!(way, Way::Out | Way::Out6) && random.chance(40);
    let begin = if shared { 40_000 } else { 40_000 + own };
    Link { way, protocol, client: Host::Client(random.below(2) as u8), remote, ports: (begin, to + own) }
}

fn flow_steps(random: &mut Random, flow: usize) -> Vec<Step> {
    let mut steps = match random.below(10) {
        0..=4 => {
            let link = link(random, flow, TCP);
            tcp::steps(random, flow, link)
        }
        5..=6 => {
            let link = link(random, flow, UDP);
            udp(random, flow, link)
        }
        7 => {
            let mut link = link(random, flow, ICMP);
            if link.v6() {
                link.protocol = ICMPV6;
            }
            echoes(random, flow, link)
        }
        8 => icmp::other_queries(random, flow),
        _ => others(random, flow),
    };
    for step in &mut steps {
        disturb(random, step);
    }
    steps
}

pub fn payload(random: &mut Random, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| random.next() as u8).collect()
}

fn udp(random: &mut Random, flow: usize, link: Link) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for at in 0..2 + random.below(7) {
        let reply = if at == 0 { random.chance(15) } else { random.chance(45) };
        let bytes = random.pick(&[0, 1, 8, 60, 1000]);
        let payload = payload(random, bytes);
        let mut what = if reply { "a reply" } else { "a request" };
        let mut link = link;
        if random.chance(15) {
            (link, what) = stranger(random, link);
        }
        let (from, mut packet) = link.packet(reply, |ports| Body::Udp { ports, payload });
        if what == "from another remote port" || what == "from another remote" {
            // To the mapping of the flow that is there.
            packet.destination = steps.last().map_or(packet.destination, |_| packet.destination);
        }
        steps.push(Step { what: format!("UDP {what}"), from, flow, packet, pieces: None });
        if random.chance(20) {
            let of = random.below(steps.len());
            let about = steps[of].clone();
            steps.extend(icmp::error(random, flow, &link, &about));
        }
    }
    steps
}

/// Somebody else at one of the ends: what filters are for.
fn stranger(random: &mut Random, link: Link) -> (Link, &'static str) {
    match random.below(3) {
        0 => (Link { ports: (link.ports.0, link.ports.1 ^ 1), ..link }, "of another remote port"),
        1 => {
            let remote = if link.remote == Host::Remote(0) { Host::Remote(1) } else { Host::Remote(0) };
            (Link { remote, ..link }, "of another remote")
        }
        _ => (Link { ports: (link.ports.0 ^ 1, link.ports.1), ..link }, "of another port"),
    }
}

fn echoes(random: &mut Random, flow: usize, link: Link) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let v6 = link.v6();
    let (request, answer) = if v6 { (128, 129) } else { (8, 0) };
    for at in 0..2 + random.below(5) {
        let reply = if at == 0 { random.chance(15) } else { random.chance(50) };
        let is_answer = reply != random.chance(6);
        let bytes = random.pick(&[0, 8, 56]);
        let payload = payload(random, bytes);
        let (from, source, destination) = link.ends(reply);
        let identifier = if reply && link.way == Way::Out { destination.1 } else { Port::Is(link.ports.0) };
        let other = if reply { 9 } else { link.ports.0 ^ 3 };
        let identifier = if random.chance(8) { Port::Is(other) } else { identifier };
        let kind = if is_answer { answer } else { request };
        let code = u8::from(random.chance(4));
        let body = Body::Query { kind, code, identifier, sequence: at as u16, payload };
        let packet = Packet::new(v6, source.0, destination.0, body);
        let what = format!(
            "echo {} {}",
            if is_answer { "reply" } else { "request" },
            if reply { "back" } else { "forth" }
        );
        steps.push(Step { what, from, flow, packet, pieces: None });
        if random.chance(15) {
            let of = random.below(steps.len());
            let about = steps[of].clone();
            steps.extend(icmp::error(random, flow, &link, &about));
        }
    }
    if random.chance(30) {
        let own = if random.chance(50) { Host::Gateway } else { Host::External };
        let from = random.pick(&End::BOTH);
        let source = if from == End::Inside { link.client } else { link.remote };
        let payload = payload(random, 24);
        let body = Body::Query { kind: request, code: 0, identifier: Port::Is(7), sequence: 1, payload };
        let packet = Packet::new(v6, source, own, body);
        steps.push(Step { what: "echo request to the middle".to_owned(), from, flow, packet, pieces: None });
    }
    steps
}

/// Packets that belong to nothing.
fn others(random: &mut Random, flow: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..1 + random.below(4) {
        let v6 = random.chance(40);
        let from = random.pick(&End::BOTH);
        let inside = random.pick(&[Host::Client(0), Host::Client(1), Host::Server]);
        let outside = Host::Remote(random.below(2) as u8);
        let middle = random.pick(&[Host::External, Host::External, Host::Gateway]);
        let to_middle = random.chance(50);
        let (source, destination) = match from {
            End::Inside => (inside, if to_middle { middle } else { outside }),
            End::Outside => (outside, if to_middle || !v6 { middle } else { inside }),
        };
        let ports = (Port::Is(50_000), Port::Is(random.pick(&[22, 25, 53, 80, 5353, 8080, 40_000, 50_001])));
        let bytes = random.pick(&[0, 20, 100]);
        let payload = payload(random, bytes);
        let body = match random.below(4) {
            0 => Body::Udp { ports, payload },
            1 => {
                let protocol = random.pick(&[2, 4, 41, 47, 50, 89, 103, 132, 255]);
                Body::Other { protocol, bytes: payload }
            }
            _ => Body::Tcp {
                ports,
                sequence: 1,
                acknowledgment: random.pick(&[0, 9]),
                flags: random.next() as u8,
                window: 1000,
                urgent: 0,
                options: Vec::new(),
                payload,
            },
        };
        let packet = Packet::new(v6, source, destination, body);
        steps.push(Step { what: "out of the blue".to_owned(), from, flow, packet, pieces: None });
    }
    steps
}

/// What networks and attackers do to any packet.
fn disturb(random: &mut Random, step: &mut Step) {
    let packet = &mut step.packet;
    packet.identification = random.next() as u16 | 1;
    packet.tos = random.pick(&[0, 0, 0, 0x20, 0xb8, 1]);
    if random.chance(82) {
        return;
    }
    let grow = |packet: &mut Packet, by: Vec<u8>| match &mut packet.body {
        Body::Tcp { payload, .. } | Body::Udp { payload, .. } | Body::Query { payload, .. } => *payload = by,
        Body::Error { .. } | Body::Other { .. } => {}
    };
    let disturbance = match random.below(14) {
        0 => {
            packet.ttl = random.pick(&[0, 1, 1, 2]);
            format!("TTL {}", packet.ttl)
        }
        1 => {
            packet.damage = Damage::Checksum;
            "bad checksum".to_owned()
        }
        2 => {
            packet.damage = Damage::HeaderChecksum;
            "bad header checksum".to_owned()
        }
        3 => {
            packet.damage = Damage::NoChecksum;
            "no UDP checksum".to_owned()
        }
        4 => {
            packet.damage = Damage::Length(random.pick(&[1, 8, 40]));
            "bad length".to_owned()
        }
        5 => {
            packet.damage = Damage::CutOff(random.pick(&[1, 4, 12, 30]));
            "cut off".to_owned()
        }
        6 if step.from == End::Inside => {
            let by = payload(random, 1400);
            grow(packet, by);
            packet.dont_fragment = random.chance(70);
            format!("too big, DF {}", packet.dont_fragment)
        }
        7 => extend(random, packet),
        _ => {
            let bytes = random.pick(&[40, 200, 1300, 2600]);
            let by = payload(random, bytes);
            let control = matches!(packet.body, Body::Tcp { flags, .. } if flags & (SYN | RST) != 0);
            if !control || random.chance(10) {
                grow(packet, by);
            }
            packet.dont_fragment = false;
            let (pieces, how) = cut(random, packet);
            step.pieces = Some(pieces);
            how
        }
    };
    step.what = format!("{}, {disturbance}", step.what);
}

/// Options of IPv4, extension headers of IPv6.
fn extend(random: &mut Random, packet: &mut Packet) -> String {
    if packet.v6 {
        // Padding of six bytes fills a header of eight.
        let pad = vec![1, 4, 0, 0, 0, 0];
        let (kinds, what): (Vec<(u8, Vec<u8>)>, _) = match random.below(6) {
            0 => (vec![(0, pad)], "hop-by-hop options"),
            1 => (vec![(60, pad)], "destination options"),
            2 => (vec![(0, pad.clone()), (60, pad)], "two extension headers"),
            3 => (vec![(43, vec![0, 0, 0, 0, 0, 0])], "routing header, nothing left"),
            4 => (vec![(60, pad.clone()), (0, pad)], "hop-by-hop options in the wrong place"),
            _ => (vec![(60, vec![0xc2, 4, 0, 0, 0, 0])], "an unknown destination option"),
        };
        packet.extensions = kinds;
        what.to_owned()
    } else {
        let (options, what) = match random.below(5) {
            0 => (vec![1, 1, 1, 1], "no-operation options"),
            1 => (vec![7, 7, 4, 0, 0, 0, 0, 0], "record route"),
            2 => (vec![131, 7, 4, 203, 0, 113, 9, 0], "source route"),
            3 => (vec![148, 4, 0, 0], "router alert"),
            _ => (vec![7, 40, 4, 0], "an option that is too long"),
        };
        packet.options = options;
        what.to_owned()
    }
}

/// Pieces of a packet, in some order, with some missing, repeated, or overlapping.
fn cut(random: &mut Random, packet: &Packet) -> (Vec<Piece>, String) {
    let total = packet.bytes(0, &super::network::Plain).len()
        - 20
        - if packet.v6 { 20 } else { packet.options.len() };
    let largest = if packet.v6 { 1200 } else { 1352 };
    // Sixteen pieces are as many as Millrace lets wait for a first one.
    let least = if random.chance(90) { total.div_ceil(14).next_multiple_of(8) } else { 8 };
    let size = random.pick(&[8, 24, 64, 504, largest]).max(least).min(largest);
    let mut pieces: Vec<Piece> = (0..total.max(1))
        .step_by(size)
        .map(|start| (start, (start + size).min(total), start + size < total))
        .collect();
    if pieces.len() == 1 {
        return (pieces, "one fragment, whole".to_owned());
    }
    let at = random.below(pieces.len());
    let how = match random.below(12) {
        0..=2 => "in order",
        3 => {
            pieces.reverse();
            "in reverse"
        }
        4 => {
            for last in (1..pieces.len()).rev() {
                pieces.swap(last, random.below(last + 1));
            }
            "shuffled"
        }
        5 => {
            pieces.insert(random.below(pieces.len() + 1), pieces[at]);
            "one repeated"
        }
        6 => {
            pieces.remove(at);
            "one missing"
        }
        7 if pieces[at].0 > 0 => {
            pieces[at].0 -= 8;
            "one overlaps the one before"
        }
        8 => {
            pieces[at].2 = !pieces[at].2;
            "one errs about what follows"
        }
        9 => {
            let (start, end, more) = pieces[at];
            pieces
                .insert(random.below(pieces.len() + 1), (start, end.saturating_sub(8).max(start + 1), more));
            "one comes shorter, too"
        }
        10 => {
            pieces.truncate(1);
            "the first alone"
        }
        _ => {
            pieces.remove(0);
            "without the first"
        }
    };
    (pieces, format!("fragments of {size} {how}"))
}
