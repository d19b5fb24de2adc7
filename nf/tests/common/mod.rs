//! A chain in a real engine with two ports, and frames made by etherparse: the harness of the functions' tests.
#![allow(dead_code, reason = "each test binary uses its part")]

use etherparse::{Icmpv4Type, Icmpv6Type, IpNumber, PacketBuilder};
use ipnet::IpNet;
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Engine, EngineConfig, EngineCounters};
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::session::{SessionConfig, SessionId, Timeouts, Tuple};
use millrace_dataplane::flow::state::{FlowConfig, FlowState};
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::PortId;
use millrace_dataplane::time::Time;
use millrace_nf::chain::{Chain, Chains};
use millrace_nf::function::{FlowFunction, Forwarder, Verdict};
use millrace_nf::walk::Walk;
use millrace_nf::zone::ZoneId;
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The port and zone of the inside.
pub const INSIDE: u16 = 0;
/// The port and zone of the outside.
pub const OUTSIDE: u16 = 1;
/// The station that sends the frames of the builders.
pub const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The station to which they are sent: the data plane.
pub const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The station to which [`Wire`] sends what it forwards.
pub const NEXT: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A forwarder without neighbours: inside prefixes to port 0, everything else to port 1; its own addresses end here.
pub struct Wire {
    /// What is inside.
    pub inside: Vec<IpNet>,
    /// The data plane's own addresses.
    pub local: Vec<IpAddr>,
}

impl Default for Wire {
    /// 10.0.0.0/8 and 2001:db8:1::/48 inside; 10.0.0.254 and 192.0.2.254 its own.
    fn default() -> Self {
        Self {
            inside: ["10.0.0.0/8", "2001:db8:1::/48"].map(|net| net.parse().unwrap()).to_vec(),
            local: ["10.0.0.254", "192.0.2.254"].map(|address| address.parse().unwrap()).to_vec(),
        }
    }
}

impl FlowFunction for Wire {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "wire"
    }
    fn reads(&self) -> Reads {
        Reads::none().with(&[Field::Ipv4Destination, Field::Ipv6Destination])
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        let port = match self.destination_zone(walk) {
            Some(ZoneId::LOCAL) => return (Verdict::Consume, None),
            Some(zone) => PortId(u16::from(zone.0)),
            None => return (Verdict::Drop(DropReason::NoRoute), None),
        };
        if !walk.headers.may_be_forwarded() {
            return (Verdict::Drop(DropReason::TtlExceeded), None);
        }
        walk.headers.decrement_ttl();
        walk.headers.set_ethernet_source(OWN);
        walk.headers.set_ethernet_destination(NEXT);
        if !walk.fits(1500) {
            return (Verdict::Drop(DropReason::MtuExceeded), None);
        }
        (Verdict::Forward(port), None)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Forwarder for Wire {
    fn destination_zone(&self, walk: &mut Walk<'_>) -> Option<ZoneId> {
        let destination = walk.headers.destination()?;
        if self.local.contains(&destination) {
            return Some(ZoneId::LOCAL);
        }
        let inside = self.inside.iter().any(|net| net.contains(&destination));
        Some(ZoneId(u8::from(!inside)))
    }
}

/// What left, with the port that it left by.
pub type Sent = Vec<(u16, Vec<u8>)>;

/// One chain between port 0 (zone 0) and port 1 (zone 1).
pub struct Harness {
    /// The engine under the chain.
    pub engine: Engine<Chains>,
    /// The frames.
    pub pool: Pool,
    /// The clock.
    pub now: Time,
    /// How many ports are looked at for what left.
    pub ports: u16,
    name: String,
}

impl Harness {
    /// With a flow cache of 4,096 entries.
    pub fn new(chain: Chain) -> Self {
        Self::with_cache(chain, 4096)
    }

    /// With a flow cache of so many entries; 0 is none.
    pub fn with_cache(chain: Chain, cache_entries: usize) -> Self {
        // The budget goes by real time: a slow machine would drop misses.
        let config = EngineConfig { budget: BudgetConfig::UNLIMITED, ..EngineConfig::default() };
        Self::with_engine(chain, cache_entries, config)
    }

    /// With an engine that is set so.
    pub fn with_engine(chain: Chain, cache_entries: usize, engine: EngineConfig) -> Self {
        let arena = Arena::anonymous(64 << 20).unwrap();
        let name = chain.name().to_owned();
        let mut chains = Chains::new();
        let at = chains.insert(chain);
        chains.attach(PortId(INSIDE), at, ZoneId(0));
        chains.attach(PortId(OUTSIDE), at, ZoneId(1));
        let config = FlowConfig {
            sessions: SessionConfig { capacity: 4096, parts: chains.parts(), timeouts: Timeouts::default() },
            cache_entries,
            key_words: 16,
            operand_words: 16,
        };
        let state = FlowState::new(&arena, &config, Some(1)).unwrap();
        let engine = Engine::new(chains, state, 2, engine);
        let pool = Pool::new(&arena, PoolConfig::new(1280)).unwrap();
        Self { engine, pool, now: Time::from_secs(1), ports: 2, name }
    }

    /// Frames arrive at a port as one burst (at most 64). What left, port 0 first.
    pub fn send(&mut self, port: u16, frames: &[Vec<u8>]) -> Sent {
        let mut burst = Burst::new();
        for frame in frames {
            let mut packet = self.pool.take().unwrap();
            packet.set_contents(frame).unwrap();
            burst.push(packet).unwrap();
        }
        self.engine.process(PortId(port), &mut burst, &mut self.pool, self.now);
        self.collect()
    }

    /// One frame arrives.
    pub fn send_one(&mut self, port: u16, frame: &[u8]) -> Sent {
        self.send(port, &[frame.to_vec()])
    }

    /// True if the frame, and nothing else, leaves by the other port.
    pub fn passes(&mut self, port: u16, frame: &[u8]) -> bool {
        let sent = self.send_one(port, frame);
        sent.len() == 1 && sent[0].0 == 1 - port
    }

    /// What waits at the outputs, port 0 first.
    pub fn collect(&mut self) -> Sent {
        self.engine.run_stages(&mut self.pool, self.now);
        let mut sent = Sent::new();
        for port in 0..self.ports {
            let burst = self.engine.outputs.burst(PortId(port)).unwrap();
            sent.extend(burst.iter().map(|packet| (port, packet.bytes().to_vec())));
            self.pool.put_all(burst);
        }
        sent
    }

    /// Time passes; timers run.
    pub fn advance(&mut self, seconds: u64) -> Sent {
        for _ in 0..seconds {
            self.now = Time(self.now.0 + Time::from_secs(1).0);
            self.engine.housekeeping(&mut self.pool, self.now, 10_000);
        }
        self.collect()
    }

    /// Folds the counters of all entries, so that the functions know all traffic.
    pub fn fold(&mut self) {
        self.engine.state.fold_all();
        self.engine.settle();
    }

    /// A function of the chain.
    pub fn function<F: 'static>(&mut self, name: &str) -> &mut F {
        self.engine.slow.chain_named(&self.name).unwrap().function(name).unwrap()
    }

    /// Packets that were dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.engine.outputs.sums.drops.get(reason)
    }

    /// Hits, misses and walks alone.
    pub fn counters(&self) -> EngineCounters {
        self.engine.counters()
    }

    /// Walks of the chain.
    pub fn walks(&self) -> u64 {
        self.engine.slow.get(0).unwrap().counters().walks
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.engine.state.sessions.count()
    }

    /// The session of a TCP connection from port 1000 to port 80.
    pub fn session_of(&self, client: &str, server: &str) -> (SessionId, bool) {
        let (client, server) = pair(client, server);
        self.engine.state.sessions.find(&Tuple::new(0, 6, (client, 1000), (server, 80))).unwrap()
    }

    /// Entries of the flow cache now.
    pub fn entries(&self) -> usize {
        self.engine.state.cache.count()
    }

    /// The end of a test: every packet is accounted for (R13), every frame is back, every read was declared (R2).
    pub fn finish(mut self) {
        self.engine.drain(&mut self.pool);
        self.collect();
        assert_eq!(self.engine.outputs.sums.balance(), 0, "R13");
        assert_eq!(self.pool.available(), self.pool.capacity(), "frames are missing");
        assert_eq!(self.engine.slow.get(0).unwrap().counters().undeclared_reads, 0, "R2");
    }
}

fn pair(source: &str, destination: &str) -> (IpAddr, IpAddr) {
    (source.parse().unwrap(), destination.parse().unwrap())
}

macro_rules! from_ip {
    ($source:expr, $destination:expr) => {{
        let start = PacketBuilder::ethernet2(SENDER, OWN);
        match pair($source, $destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => start.ipv4(s.octets(), d.octets(), 64),
            (IpAddr::V6(s), IpAddr::V6(d)) => start.ipv6(s.octets(), d.octets(), 64),
            _ => panic!("addresses of two versions"),
        }
    }};
}

macro_rules! written {
    ($builder:expr, $payload:expr) => {{
        let mut frame = Vec::new();
        $builder.write(&mut frame, $payload).unwrap();
        frame
    }};
}

/// A UDP datagram; ports are source and destination.
pub fn udp(source: &str, destination: &str, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    written!(from_ip!(source, destination).udp(ports.0, ports.1), payload)
}

/// What a TCP segment says: any of `S`, `A`, `F`, `R`, `P`.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    /// Its flags.
    pub flags: &'a str,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Data.
    pub payload: &'a [u8],
}

/// A segment without data.
pub fn segment(flags: &str, sequence: u32, acknowledgment: u32) -> Segment<'_> {
    Segment { flags, sequence, acknowledgment, payload: &[] }
}

/// A TCP segment with a window of 65,535.
pub fn tcp(source: &str, destination: &str, ports: (u16, u16), segment: Segment<'_>) -> Vec<u8> {
    let mut builder = from_ip!(source, destination).tcp(ports.0, ports.1, segment.sequence, 65_535);
    for flag in segment.flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(segment.acknowledgment),
            'F' => builder.fin(),
            'R' => builder.rst(),
            'P' => builder.psh(),
            _ => panic!("no such flag: {flag}"),
        };
    }
    written!(builder, segment.payload)
}

/// An ICMPv4 message.
pub fn icmpv4(source: &str, destination: &str, message: Icmpv4Type, payload: &[u8]) -> Vec<u8> {
    written!(from_ip!(source, destination).icmpv4(message), payload)
}

/// An ICMPv6 message.
pub fn icmpv6(source: &str, destination: &str, message: Icmpv6Type, payload: &[u8]) -> Vec<u8> {
    written!(from_ip!(source, destination).icmpv6(message), payload)
}

/// An echo request (or reply) of the addresses' IP version.
pub fn echo(source: &str, destination: &str, is_reply: bool, id: u16, seq: u16) -> Vec<u8> {
    let header = etherparse::IcmpEchoHeader { id, seq };
    let payload = b"0123456789abcdef";
    match (source.contains(':'), is_reply) {
        (false, false) => icmpv4(source, destination, Icmpv4Type::EchoRequest(header), payload),
        (false, true) => icmpv4(source, destination, Icmpv4Type::EchoReply(header), payload),
        (true, false) => icmpv6(source, destination, Icmpv6Type::EchoRequest(header), payload),
        (true, true) => icmpv6(source, destination, Icmpv6Type::EchoReply(header), payload),
    }
}

/// A packet of another protocol.
pub fn other(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    from_ip!(source, destination).write(&mut frame, IpNumber(protocol), payload).unwrap();
    frame
}

/// The packet in a frame: what follows the Ethernet header.
pub fn packet_of(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

/// "Port unreachable" from `source` to `destination` about the packet in `frame`.
pub fn port_unreachable(source: &str, destination: &str, frame: &[u8]) -> Vec<u8> {
    let quote = &packet_of(frame)[..packet_of(frame).len().min(200)];
    if source.contains(':') {
        let message = Icmpv6Type::DestinationUnreachable(etherparse::icmpv6::DestUnreachableCode::Port);
        icmpv6(source, destination, message, quote)
    } else {
        let message = Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
        icmpv4(source, destination, message, quote)
    }
}

/// The addresses in an IPv4 or IPv6 frame.
pub fn addresses(frame: &[u8]) -> (IpAddr, IpAddr) {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    match sliced.net.unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (Ipv4Addr::from(header.source()).into(), Ipv4Addr::from(header.destination()).into())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (Ipv6Addr::from(header.source()).into(), Ipv6Addr::from(header.destination()).into())
        }
        other => panic!("no IP: {other:?}"),
    }
}
