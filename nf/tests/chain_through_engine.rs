//! A small chain through the real engine: first packet walks, later ones hit, both leave alike.

use etherparse::PacketBuilder;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::session::{SessionConfig, Timeouts};
use millrace_dataplane::flow::state::{FlowConfig, FlowState};
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::PortId;
use millrace_dataplane::time::Time;
use millrace_nf::chain::{ChainBuilder, Chains};
use millrace_nf::function::{FlowFunction, Forwarder, Verdict};
use millrace_nf::walk::Walk;
use millrace_nf::zone::ZoneId;
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr};

/// Rewrites the source address of what goes forward, and wants a session.
struct Masquerade(Ipv4Addr);

impl FlowFunction for Masquerade {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "masquerade"
    }
    fn reads(&self) -> Reads {
        Reads::none().with(&[Field::Ipv4Source])
    }
    fn keeps_part(&self) -> bool {
        true
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        walk.want_session();
        walk.track_tcp();
        match walk.session {
            Some(session) if session.reply => {
                let inside = session.tuples[0].source_address();
                walk.headers.set_destination(inside);
            }
            _ => walk.headers.set_source(IpAddr::V4(self.0)),
        }
        (Verdict::Continue, None)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// Port 0 to port 1 and back.
struct Wire;

impl FlowFunction for Wire {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "wire"
    }
    fn reads(&self) -> Reads {
        Reads::none()
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        if !walk.headers.may_be_forwarded() {
            return (Verdict::Drop(millrace_dataplane::drops::DropReason::TtlExceeded), None);
        }
        walk.headers.decrement_ttl();
        walk.headers.set_ethernet_destination([2, 0, 0, 0, 0, 9]);
        walk.fits(1500);
        (Verdict::Forward(PortId(1 - walk.port.0)), None)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Forwarder for Wire {
    fn destination_zone(&self, _walk: &mut Walk<'_>) -> Option<ZoneId> {
        None
    }
}

struct Bench {
    engine: Engine<Chains>,
    pool: Pool,
}

impl Bench {
    fn new(cache_entries: usize) -> Self {
        let arena = Arena::anonymous(64 << 20).unwrap();
        let mut chains = Chains::new();
        let chain = ChainBuilder::new("test", &["inside", "outside"])
            .function("nat", Masquerade(Ipv4Addr::new(198, 51, 100, 1)))
            .forwarder("wire", Wire);
        let at = chains.insert(chain);
        chains.attach(PortId(0), at, ZoneId(0));
        chains.attach(PortId(1), at, ZoneId(1));
        let config = FlowConfig {
            sessions: SessionConfig { capacity: 1000, parts: chains.parts(), timeouts: Timeouts::default() },
            cache_entries,
            key_words: 8,
            operand_words: 12,
        };
        let state = FlowState::new(&arena, &config, Some(1)).unwrap();
        let engine = Engine::new(chains, state, 2, EngineConfig::default());
        let pool = Pool::new(&arena, PoolConfig::new(256)).unwrap();
        Self { engine, pool }
    }

    fn send(&mut self, port: u16, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut burst = Burst::new();
        for frame in frames {
            let mut packet = self.pool.take().unwrap();
            packet.set_contents(frame).unwrap();
            burst.push(packet).unwrap();
        }
        self.engine.process(PortId(port), &mut burst, &mut self.pool, Time::from_secs(1));
        let mut out = Vec::new();
        let burst = self.engine.outputs.burst(PortId(1 - port)).unwrap();
        for packet in burst.iter() {
            out.push(packet.bytes().to_vec());
        }
        self.pool.put_all(burst);
        out
    }
}

fn udp(source: [u8; 4], destination: [u8; 4], ports: (u16, u16), ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(source, destination, ttl)
        .udp(ports.0, ports.1)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

#[test]
fn first_and_later_packets_leave_alike_and_replies_return() {
    let mut bench = Bench::new(1024);
    let out = |ttl, payload: &[u8]| udp([10, 0, 0, 5], [8, 8, 8, 8], (1000, 53), ttl, payload);
    let expected = |ttl, payload: &[u8]| {
        let mut frame = udp([198, 51, 100, 1], [8, 8, 8, 8], (1000, 53), ttl, payload);
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        frame
    };
    // Miss, and in the same burst a hit that differs in all that the key does not hold.
    let sent = bench.send(0, &[out(64, b"first"), out(17, b"second, longer")]);
    assert_eq!(sent, vec![expected(63, b"first"), expected(16, b"second, longer")]);
    assert_eq!((bench.engine.counters().misses, bench.engine.counters().hits), (1, 1));
    // The reply finds the session and goes back.
    let reply = udp([8, 8, 8, 8], [198, 51, 100, 1], (53, 1000), 60, b"answer");
    let back = bench.send(1, &[reply.clone(), reply]);
    let mut expected = udp([8, 8, 8, 8], [10, 0, 0, 5], (53, 1000), 59, b"answer");
    expected[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    assert_eq!(back, vec![expected.clone(), expected]);
    assert_eq!(bench.engine.state.sessions.count(), 1);
    // A TTL of one fails the guard and is dropped; the entry stays.
    assert!(bench.send(0, &[out(1, b"late")]).is_empty());
    assert_eq!(bench.engine.counters().alone, 1);
    bench.send(0, &[out(64, b"again")]);
    assert_eq!(bench.engine.counters().hits, 3);
    assert_eq!(bench.pool.available(), bench.pool.capacity());
    assert_eq!(bench.engine.outputs.sums.balance(), 0);
}

#[test]
fn without_a_cache_nothing_differs() {
    let (mut with, mut without) = (Bench::new(1024), Bench::new(0));
    for i in 0..2000u16 {
        let frame = udp(
            [10, 0, 0, (i % 7) as u8],
            [8, 8, 8, 8],
            (1000 + i % 35, 53),
            60 + (i % 4) as u8,
            &[3; 30][..(i % 30) as usize],
        );
        assert_eq!(with.send(0, std::slice::from_ref(&frame)), without.send(0, std::slice::from_ref(&frame)));
    }
    assert!(with.engine.counters().hits > 1900);
    assert_eq!(without.engine.counters().hits, 0);
}
