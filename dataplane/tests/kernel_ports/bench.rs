//! A pool with ports, and what tests do with them.

use std::time::{Duration, Instant};

use millrace_dataplane::limits::LARGE_FRAME_BYTES;
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::{Burst, Packet};
use millrace_dataplane::port::{Port, PortCounters};
use millrace_dataplane::time::{Clock, SystemClock};

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const FRAME_BYTES: usize = 2_048;
/// For ports that carry frames whole.
pub const LARGE_FRAMES: usize = 48;

/// A pool with ports, all of which are closed and counted at the end.
pub struct Bench {
    pub pool: Pool,
    clock: SystemClock,
    pub ports: Vec<Box<dyn Port>>,
}

impl Bench {
    pub fn new(ports: Vec<Box<dyn Port>>) -> Self {
        let arena =
            Arena::anonymous(1_024 * FRAME_BYTES + LARGE_FRAMES * LARGE_FRAME_BYTES + (1 << 20)).unwrap();
        let mut pool = Pool::new(&arena, PoolConfig { frames: 1_024, frame_bytes: FRAME_BYTES }).unwrap();
        pool.add_large(&arena, LARGE_FRAMES).unwrap();
        Self { pool, clock: SystemClock::default(), ports }
    }

    pub fn receive(&mut self, port: usize) -> Burst {
        let mut burst = Burst::new();
        let now = self.clock.now();
        self.ports[port].rx(&mut self.pool, now, &mut burst);
        burst
    }

    pub fn send(&mut self, port: usize, burst: &mut Burst) {
        let now = self.clock.now();
        self.ports[port].tx(&mut self.pool, now, burst);
        assert!(burst.is_empty(), "a port takes all packets");
    }

    /// Sends one frame.
    pub fn send_one(&mut self, port: usize, bytes: &[u8]) {
        let mut packet = self.pool.take().unwrap();
        packet.set_contents(bytes).unwrap();
        let mut burst = Burst::new();
        burst.push(packet).unwrap();
        self.send(port, &mut burst);
    }

    /// Sends frames from one port to another and checks that each arrives once, in order and unchanged.
    pub fn transfer(&mut self, from: usize, to: usize, count: u32, make: impl Fn(u32) -> Vec<u8>) {
        let (mut sent, mut received) = (0, 0);
        let start = Instant::now();
        while received < count {
            let mut burst = Burst::new();
            while !burst.is_full() && sent < count {
                let mut packet = self.pool.take().expect("the pool is large enough");
                packet.set_contents(&make(sent)).unwrap();
                burst.push(packet).unwrap();
                sent += 1;
            }
            self.send(from, &mut burst);
            while received < sent {
                assert!(start.elapsed() < PATIENCE, "{received} of {sent} frames arrived");
                let mut burst = self.receive(to);
                for packet in burst.iter() {
                    assert_eq!(packet.bytes(), make(received), "frame {received}");
                    received += 1;
                }
                self.pool.put_all(&mut burst);
            }
        }
    }

    /// Moves what arrives at each of the first two ports to the other, until `done`. `check` sees each packet.
    pub fn relay(&mut self, done: impl Fn() -> bool, mut check: impl FnMut(&Packet)) {
        while !done() {
            let mut moved = false;
            for from in 0..2 {
                let mut burst = self.receive(from);
                moved |= !burst.is_empty();
                burst.iter().for_each(&mut check);
                self.send(1 - from, &mut burst);
            }
            if !moved {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// Calls `rx` and an empty `tx` of a port until `done` says so.
    pub fn turn_until(&mut self, port: usize, done: impl Fn(&dyn Port) -> bool) {
        let start = Instant::now();
        while !done(self.ports[port].as_ref()) {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.ports[port].info());
            let mut burst = self.receive(port);
            self.pool.put_all(&mut burst);
            self.send(port, &mut Burst::new());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Closes all ports. Returns their counters. Every frame must be back.
    pub fn finish(mut self) -> Vec<PortCounters> {
        let mut counters = Vec::new();
        for mut port in self.ports.drain(..) {
            port.close(Some(&mut self.pool));
            assert_eq!(port.buffered(), 0);
            assert_eq!(port.wait_fd(), None);
            counters.push(port.counters());
        }
        assert_eq!(self.pool.available(), self.pool.capacity(), "frames are missing");
        assert_eq!(self.pool.large_frames(), (LARGE_FRAMES, LARGE_FRAMES), "large frames are missing");
        counters
    }
}

/// A frame of an experimental EtherType (RFC 7042 appendix B.2) with a number, behind a VLAN tag if one is given.
pub fn frame(number: u32, bytes: usize, tag: Option<(u16, u16)>) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if let Some((tpid, tci)) = tag {
        frame.extend_from_slice(&tpid.to_be_bytes());
        frame.extend_from_slice(&tci.to_be_bytes());
    }
    frame.extend_from_slice(&[0x88, 0xb5]);
    frame.extend_from_slice(&number.to_be_bytes());
    let start = frame.len();
    frame.resize(bytes.max(start), 0);
    for (at, byte) in frame[start..].iter_mut().enumerate() {
        *byte = (at as u32).wrapping_mul(31).wrapping_add(number) as u8;
    }
    frame
}
