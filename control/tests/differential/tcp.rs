//! TCP connections of scripts: two hosts that mostly behave, and segments that do not belong.

use super::icmp;
use super::packet::{ACK, Body, FIN, PSH, RST, SYN, URG};
use super::random::Random;
use super::script::{Link, Step, payload};

/// What a host has sent and received, by its own account.
#[derive(Clone, Copy, Debug)]
struct Peer {
    first: u32,
    next: u32,
    window: u16,
    scale: Option<u8>,
    finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Closed,
    SynSent,
    SynReceived,
    Established,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    reply: bool,
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    bytes: usize,
}

struct Connection {
    link: Link,
    flow: usize,
    peers: [Peer; 2],
    stage: Stage,
    steps: Vec<Step>,
}

fn peer(random: &mut Random) -> Peer {
    // Some begin where the sequence space wraps.
    let first = if random.chance(20) { u32::MAX - random.below(2000) as u32 } else { random.next() as u32 };
    let window = random.pick(&[0, 1, 1000, 8192, 65_535]);
    let scale = random.pick(&[None, Some(0), Some(3), Some(7), Some(14)]);
    Peer { first, next: first, window, scale, finished: false }
}

pub fn steps(random: &mut Random, flow: usize, link: Link) -> Vec<Step> {
    let peers = [peer(random), peer(random)];
    let mut it = Connection { link, flow, peers, stage: Stage::Closed, steps: Vec::new() };
    if random.chance(4) {
        // No SYN at all.
        it.stage = Stage::Established;
    }
    for _ in 0..3 + random.below(12) {
        if random.chance(70) {
            it.behave(random);
        } else {
            it.misbehave(random);
        }
        if random.chance(5) && !it.steps.is_empty() {
            let of = random.below(it.steps.len());
            let about = it.steps[of].clone();
            it.steps.extend(icmp::error(random, flow, &link, &about));
        }
    }
    it.steps
}

impl Connection {
    /// What a host would send next.
    fn behave(&mut self, random: &mut Random) {
        let [a, b] = self.peers;
        let (reply, flags, bytes, what) = match self.stage {
            Stage::Closed => (false, SYN, if random.chance(10) { 40 } else { 0 }, "SYN"),
            Stage::SynSent => (true, SYN | ACK, 0, "SYN-ACK"),
            Stage::SynReceived => (false, ACK, 0, "ACK of the handshake"),
            Stage::Established => {
                let reply = random.chance(50);
                let me = if reply { b } else { a };
                match random.below(10) {
                    0..=4 if !me.finished => (reply, ACK | PSH, random.pick(&[1, 100, 500, 1300]), "data"),
                    5..=6 if !me.finished => (reply, ACK | FIN, random.pick(&[0, 0, 10]), "FIN"),
                    _ => (reply, ACK, 0, "ACK"),
                }
            }
        };
        let mut segment = self.segment(reply, flags, bytes);
        match self.stage {
            Stage::Closed => {
                segment.acknowledgment = 0;
                self.stage = Stage::SynSent;
            }
            Stage::SynSent => self.stage = Stage::SynReceived,
            Stage::SynReceived => self.stage = Stage::Established,
            Stage::Established => {}
        }
        if flags & SYN != 0 {
            segment.sequence = self.peers[usize::from(reply)].first;
        }
        let me = &mut self.peers[usize::from(reply)];
        me.next = segment.sequence.wrapping_add(bytes as u32 + u32::from(flags & (SYN | FIN) != 0));
        me.finished |= flags & FIN != 0;
        self.push(random, segment, what);
    }

    /// The segment that fits.
    fn segment(&self, reply: bool, flags: u8, bytes: usize) -> Segment {
        let (me, other) = (self.peers[usize::from(reply)], self.peers[usize::from(!reply)]);
        Segment { reply, flags, sequence: me.next, acknowledgment: other.next, bytes }
    }

    fn misbehave(&mut self, random: &mut Random) {
        let reply = random.chance(50);
        let fits = self.segment(reply, ACK, 0);
        let window = u32::from(self.peers[usize::from(!reply)].window);
        let offset = random.pick(&[1, 10, 1000, window, window + 1, 66_000, 70_000, 5_000_000, 1 << 31]);
        let offset = if random.chance(50) { offset } else { offset.wrapping_neg() };
        match random.below(16) {
            0 => {
                if let Some(last) = self.steps.last().cloned() {
                    self.steps.push(Step { what: format!("again: {}", last.what), ..last });
                }
            }
            1 => {
                if !self.steps.is_empty() {
                    let old = self.steps[random.below(self.steps.len())].clone();
                    self.steps.push(Step { what: format!("once more: {}", old.what), ..old });
                }
            }
            2 => self.push(
                random,
                Segment { sequence: fits.sequence.wrapping_add(offset), bytes: 10, ..fits },
                "data elsewhere",
            ),
            3 => self.push(
                random,
                Segment { acknowledgment: fits.acknowledgment.wrapping_add(offset), ..fits },
                "ACK of something else",
            ),
            4 => self.push(random, Segment { flags: RST, ..fits }, "RST"),
            5 => self.push(random, Segment { flags: RST | ACK, ..fits }, "RST-ACK"),
            6 => {
                let flags = if random.chance(50) { RST } else { RST | ACK };
                self.push(
                    random,
                    Segment { flags, sequence: fits.sequence.wrapping_add(offset), ..fits },
                    "RST elsewhere",
                );
            }
            7 => {
                let flags = random.next() as u8 & !(if random.chance(50) { RST } else { 0 });
                self.push(random, Segment { flags, ..fits }, "random flags");
            }
            8 => {
                let flags = random.pick(&[
                    0,
                    SYN | FIN,
                    SYN | RST,
                    FIN,
                    FIN | PSH | URG,
                    FIN | RST,
                    PSH,
                    SYN | FIN | ACK,
                    SYN | RST | ACK,
                    URG | ACK,
                    SYN | URG,
                    SYN | PSH,
                ]);
                self.push(random, Segment { flags, ..fits }, "odd flags");
            }
            9 => {
                // The initiator begins anew on the same ports, or again.
                if random.chance(60) {
                    self.peers[0] = peer(random);
                }
                let first = self.peers[0].first;
                self.peers[0].next = first.wrapping_add(1);
                self.peers[0].finished = false;
                self.stage = Stage::SynSent;
                self.push(
                    random,
                    Segment { reply: false, flags: SYN, sequence: first, acknowledgment: 0, bytes: 0 },
                    "SYN anew",
                );
            }
            10 => {
                let first = self.peers[1].first;
                self.push(
                    random,
                    Segment { reply: true, flags: SYN, sequence: first, acknowledgment: 0, bytes: 0 },
                    "SYN from the other side",
                );
                if self.stage == Stage::SynSent {
                    // Simultaneous open (RFC 9293 section 3.5).
                    self.peers[1].next = first.wrapping_add(1);
                    let acknowledgment = first.wrapping_add(1);
                    let sequence = self.peers[0].first;
                    let answer =
                        Segment { reply: false, flags: SYN | ACK, sequence, acknowledgment, bytes: 0 };
                    self.push(random, answer, "SYN-ACK of a simultaneous open");
                    if random.chance(70) {
                        let acknowledgment = sequence.wrapping_add(1);
                        let answer = Segment {
                            reply: true,
                            flags: SYN | ACK,
                            sequence: first,
                            acknowledgment,
                            bytes: 0,
                        };
                        self.push(random, answer, "the other SYN-ACK of a simultaneous open");
                        self.stage = Stage::Established;
                    }
                }
            }
            11 => {
                let sequence = self.peers[usize::from(reply)].first;
                let acknowledgment =
                    fits.acknowledgment.wrapping_add(random.pick(&[0, 0, 1, u32::MAX, 5_000_000]));
                self.push(
                    random,
                    Segment { flags: SYN | ACK, sequence, acknowledgment, ..fits },
                    "a SYN-ACK at this moment",
                );
            }
            12 => self.push(random, Segment { flags: RST | ACK, sequence: 0, ..fits }, "a refusal"),
            13 => {
                self.push(random, Segment { sequence: fits.sequence.wrapping_sub(1), ..fits }, "keep-alive");
            }
            14 => self.push(random, Segment { flags: ACK | URG, bytes: 5, ..fits }, "urgent data"),
            _ => {
                let bytes = random.pick(&[1, 1300]);
                self.push(random, Segment { flags: ACK | FIN, bytes, ..fits }, "FIN out of the model");
            }
        }
    }

    fn push(&mut self, random: &mut Random, segment: Segment, what: &str) {
        let me = self.peers[usize::from(segment.reply)];
        let mut options = Vec::new();
        if segment.flags & SYN != 0 {
            options.extend([2, 4, 5, 0xb4]);
            if let Some(scale) = me.scale {
                options.extend([1, 3, 3, scale]);
            }
            if random.chance(10) {
                options.extend([4, 2, 1, 1]);
            }
        }
        let payload = payload(random, segment.bytes);
        let urgent = if segment.flags & URG != 0 { 3 } else { 0 };
        let Segment { reply, flags, sequence, acknowledgment, .. } = segment;
        let window = me.window;
        let body =
            |ports| Body::Tcp { ports, sequence, acknowledgment, flags, window, urgent, options, payload };
        let (from, packet) = self.link.packet(reply, body);
        let side = if reply { "responder" } else { "initiator" };
        self.steps.push(Step {
            what: format!("{side}: {what}"),
            from,
            flow: self.flow,
            packet,
            pieces: None,
        });
    }
}
