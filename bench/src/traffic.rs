//! The flows of a benchmark: opened through the chain, then sent in a fixed random order.

use crate::frames::{FlowTuple, Segment, flags};
use crate::random::Random;
use crate::rig::{BenchResult, INSIDE, OUTSIDE, PEER_MACS, PORT_MACS, Rig, Templates};
use millrace_dataplane::limits::BURST_PACKETS_MAX;
use millrace_dataplane::port::PortId;

/// What kind of traffic.
#[derive(Clone, Copy, Debug)]
pub struct TrafficConfig {
    /// Flows: packets with keys of their own.
    pub flows: usize,
    /// Flows from each inside host, at most 65,536.
    pub flows_per_host: u32,
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// 6 or 17.
    pub protocol: u8,
    /// IPv6.
    pub v6: bool,
    /// Half of the flows are answers.
    pub both_directions: bool,
}

impl TrafficConfig {
    /// What the first packet of a flow says.
    pub fn first_segment(&self) -> Segment {
        Segment { flags: flags::SYN, sequence: CLIENT_ISN, acknowledgment: 0 }
    }
}

/// One direction: its frames, and the order in which they are sent.
#[derive(Debug)]
struct Lane {
    port: PortId,
    templates: Templates,
    order: Vec<u32>,
    turn: usize,
}

impl Lane {
    fn next_burst(&mut self) -> impl Iterator<Item = usize> + '_ {
        (0..BURST_PACKETS_MAX).map(|_| {
            let index = self.order[self.turn] as usize;
            self.turn = if self.turn + 1 == self.order.len() { 0 } else { self.turn + 1 };
            index
        })
    }
}

/// Established flows.
#[derive(Debug)]
pub struct Traffic {
    lanes: Vec<Lane>,
    turn: usize,
}

const CLIENT_ISN: u32 = 1000;
const SERVER_ISN: u32 = 5000;
/// The first flow numbers are kept for opening the way: neighbours are resolved with them.
const PRIMERS: u32 = 64;

/// The segments of a connection that was just opened, from the initiator and from the responder.
const DATA: [Segment; 2] = [
    Segment { flags: flags::ACK, sequence: CLIENT_ISN + 1, acknowledgment: SERVER_ISN + 1 },
    Segment { flags: flags::ACK, sequence: SERVER_ISN + 1, acknowledgment: CLIENT_ISN + 1 },
];

/// The frame that an inside host sends for the `index`-th flow.
pub fn inside_frame(config: &TrafficConfig, index: u32, segment: Segment, target: &mut [u8]) {
    let tuple = FlowTuple::nth(index, config.flows_per_host, config.protocol, config.v6);
    tuple.write(config.frame_bytes, (PORT_MACS[0], PEER_MACS[0]), segment, target);
}

impl Traffic {
    /// Opens the flows through `rig`: for TCP with a whole handshake each, and the first packet of each direction.
    ///
    /// # Errors
    /// If a packet of a flow did not leave: the chain does not carry this traffic.
    pub fn open(rig: &mut Rig, config: &TrafficConfig) -> BenchResult<Self> {
        let prime = Opening { config, first: 0, count: PRIMERS };
        for _ in 0..8 {
            if prime.run(rig).is_ok() {
                break;
            }
        }
        let connections = if config.both_directions { config.flows.div_ceil(2) } else { config.flows };
        let count = connections as u32;
        let mut replies =
            Templates::new(config.frame_bytes, if config.both_directions { connections } else { 0 });
        let mut requests = Templates::new(config.frame_bytes, connections);
        for first in (0..count).step_by(BURST_PACKETS_MAX) {
            let opening = Opening {
                config,
                first: first + PRIMERS,
                count: (count - first).min(BURST_PACKETS_MAX as u32),
            };
            let answers = opening.run(rig)?;
            for (i, answer) in answers.iter().enumerate() {
                requests.push(|target| {
                    inside_frame(config, opening.first + i as u32, DATA[0], target);
                });
                if config.both_directions {
                    replies.push(|target| {
                        answer.write(config.frame_bytes, (PORT_MACS[1], PEER_MACS[1]), DATA[1], target);
                    });
                }
            }
        }
        let mut random = Random::new(0x2545_f491_4f6c_dd1d);
        let mut lanes = vec![lane(INSIDE, requests, &mut random)];
        if config.both_directions {
            lanes.push(lane(OUTSIDE, replies, &mut random));
        }
        Ok(Self { lanes, turn: 0 })
    }

    /// Prepares the next burst in `rig`; the port that it comes from.
    pub fn prepare(&mut self, rig: &mut Rig) -> PortId {
        let count = self.lanes.len();
        let lane = &mut self.lanes[self.turn % count];
        self.turn += 1;
        let port = lane.port;
        let indices: arrayvec::ArrayVec<usize, BURST_PACKETS_MAX> = lane.next_burst().collect();
        rig.prepare(&lane.templates, indices.into_iter());
        port
    }

    /// Packets of a whole lap.
    pub fn flows(&self) -> usize {
        self.lanes.iter().map(|lane| lane.order.len()).sum()
    }

    /// Length of the frames in bytes.
    pub fn frame_bytes(&self) -> usize {
        self.lanes[0].templates.frame_bytes()
    }
}

fn lane(port: PortId, templates: Templates, random: &mut Random) -> Lane {
    let order = random.permutation(templates.len());
    Lane { port, templates, order, turn: 0 }
}

/// A burst of flows that are opened together.
struct Opening<'a> {
    config: &'a TrafficConfig,
    first: u32,
    count: u32,
}

impl Opening<'_> {
    /// Opens them; the tuples of their answers as received.
    fn run(&self, rig: &mut Rig) -> BenchResult<Vec<FlowTuple>> {
        if self.config.protocol != 6 {
            let answers = self.forward(rig, DATA[0])?;
            if self.config.both_directions {
                self.backward(rig, &answers, DATA[1])?;
            }
            return Ok(answers);
        }
        let syn = self.config.first_segment();
        let syn_ack =
            Segment { flags: flags::SYN | flags::ACK, sequence: SERVER_ISN, acknowledgment: CLIENT_ISN + 1 };
        let answers = self.forward(rig, syn)?;
        self.backward(rig, &answers, syn_ack)?;
        self.forward(rig, DATA[0])?;
        self.backward(rig, &answers, DATA[1])?;
        Ok(answers)
    }

    fn forward(&self, rig: &mut Rig, segment: Segment) -> BenchResult<Vec<FlowTuple>> {
        let mut templates = Templates::new(self.config.frame_bytes, self.count as usize);
        for index in self.first..self.first + self.count {
            templates.push(|target| inside_frame(self.config, index, segment, target));
        }
        self.exchange(rig, &templates, INSIDE)
    }

    fn backward(&self, rig: &mut Rig, answers: &[FlowTuple], segment: Segment) -> BenchResult<()> {
        let mut templates = Templates::new(self.config.frame_bytes, self.count as usize);
        for answer in answers {
            templates.push(|target| {
                answer.write(self.config.frame_bytes, (PORT_MACS[1], PEER_MACS[1]), segment, target);
            });
        }
        self.exchange(rig, &templates, OUTSIDE).map(|_| ())
    }

    /// Sends all frames and takes what leaves: the tuples of the answers to it.
    fn exchange(&self, rig: &mut Rig, templates: &Templates, port: PortId) -> BenchResult<Vec<FlowTuple>> {
        let mut answers = Vec::with_capacity(self.count as usize);
        rig.prepare(templates, 0..templates.len());
        rig.process(port);
        rig.collect(|_, frame| answers.extend(FlowTuple::of(frame).map(|tuple| tuple.inverse())));
        if answers.len() != templates.len() {
            let sums = &rig.engine.outputs.sums;
            return Err(format!(
                "{} of {} packets from port {} of flow {} on left the chain; drops so far: {:?}",
                answers.len(),
                templates.len(),
                port.0,
                self.first,
                sums.drops
            )
            .into());
        }
        Ok(answers)
    }
}
