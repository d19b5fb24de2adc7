//! The `af_xdp` port against the kernel: veth pairs, other hosts' real stacks, and processes that are killed.

mod foreign;
mod net;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use millrace_dataplane::drops::DropReason;
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::af_xdp::{
    AfXdpConfig, AfXdpDevice, AfXdpPort, AttachMode, CopyMode, ProgramHolder, Queues, Umem,
};
use millrace_dataplane::port::{Port, PortCounters};
use millrace_dataplane::time::{Clock, SystemClock};
use net::{Host, has_program, in_namespace, loses_program, output, run, veth_pair, wait_for_line};

const PATIENCE: Duration = Duration::from_secs(20);

/// A pool with ports, all of which are closed and counted at the end.
struct Bench {
    pool: Pool,
    umem: Umem,
    clock: SystemClock,
    ports: Vec<AfXdpPort>,
}

impl Bench {
    fn new(frames: usize, frame_bytes: usize) -> Self {
        let arena = Arena::anonymous(frames * frame_bytes + (1 << 20)).unwrap();
        let pool = Pool::new(&arena, PoolConfig { frames, frame_bytes }).unwrap();
        let umem = Umem::new(&pool).unwrap();
        Self { pool, umem, clock: SystemClock::default(), ports: Vec::new() }
    }

    /// Opens a device; its ports follow those that are there.
    fn open(&mut self, config: &AfXdpConfig) {
        let device = AfXdpDevice::open(config).unwrap();
        self.ports.extend(device.ports(&self.umem).unwrap());
        // The rings need frames before anything can arrive.
        self.receive(self.ports.len() - 1);
    }

    fn receive(&mut self, port: usize) -> Burst {
        let mut burst = Burst::new();
        let now = self.clock.now();
        self.ports[port].rx(&mut self.pool, now, &mut burst);
        burst
    }

    fn send(&mut self, port: usize, burst: &mut Burst) {
        let now = self.clock.now();
        self.ports[port].tx(&mut self.pool, now, burst);
        assert!(burst.is_empty(), "a port takes all packets");
    }

    /// A burst of numbered frames that no stack answers.
    fn frames(&mut self, first: u32, count: usize, bytes: usize) -> Burst {
        let mut burst = Burst::new();
        for number in first..first + count as u32 {
            let mut packet = self.pool.take().expect("the pool is large enough");
            packet.set_contents(&frame(number, bytes)).unwrap();
            burst.push(packet).unwrap();
        }
        burst
    }

    /// Sends numbered frames from one port to another, a burst at a time, and checks that each arrives once, in order
    /// and unchanged.
    fn transfer(&mut self, from: usize, to: usize, count: u32, bytes: usize) {
        let (mut sent, mut received) = (0, 0);
        let start = Instant::now();
        while received < count {
            let size = (count - sent).min(64);
            let mut burst = self.frames(sent, size as usize, bytes);
            self.send(from, &mut burst);
            sent += size;
            while received < sent {
                assert!(start.elapsed() < PATIENCE, "{received} of {sent} frames arrived");
                let mut burst = self.receive(to);
                for packet in burst.iter() {
                    assert_eq!(packet.bytes(), frame(received, bytes), "frame {received}");
                    received += 1;
                }
                self.pool.put_all(&mut burst);
                self.send(from, &mut Burst::new());
            }
        }
    }

    /// Calls `rx` and an empty `tx` of a port until `done` says so.
    fn turn_until(&mut self, port: usize, done: impl Fn(&AfXdpPort) -> bool) {
        let start = Instant::now();
        while !done(&self.ports[port]) {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.ports[port].info());
            let mut burst = self.receive(port);
            self.pool.put_all(&mut burst);
            self.send(port, &mut Burst::new());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Closes all ports. Returns their counters. Every frame must be back, and no program left.
    fn finish(mut self) -> Vec<PortCounters> {
        let mut counters = Vec::new();
        for mut port in self.ports.drain(..) {
            port.close(Some(&mut self.pool));
            assert_eq!(port.buffered(), 0);
            assert_eq!(port.wait_fd(), None);
            assert_eq!(port.broken_descriptors(), 0);
            counters.push(port.counters());
        }
        assert_eq!(self.pool.available(), self.pool.capacity(), "frames are missing");
        counters
    }
}

/// A frame of an experimental EtherType (RFC 7042 appendix B.2) with a number and a pattern.
fn frame(number: u32, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; bytes];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    for (at, byte) in frame[18..].iter_mut().enumerate() {
        *byte = (at as u32).wrapping_mul(31).wrapping_add(number) as u8;
    }
    frame
}

fn dropped(counters: &PortCounters, reason: DropReason) -> u64 {
    counters.tx_drops.get(reason)
}

#[test]
fn a_hundred_thousand_frames_both_ways_are_counted_exactly() {
    in_namespace("both_ways", || {
        veth_pair("p0", "p1", 1);
        let mut bench = Bench::new(8_192, 2_048);
        bench.open(&AfXdpConfig::new("a", "p0"));
        bench.open(&AfXdpConfig::new("b", "p1"));
        assert_eq!(bench.ports[0].info().description, "af_xdp p0 queue 0 (native, copy mode)");
        assert!(bench.ports[0].info().link_up);
        assert_eq!(bench.ports[0].info().mtu, 1_500);
        assert!(has_program("p0") && has_program("p1"));
        bench.transfer(0, 1, 100_000, 60);
        bench.transfer(1, 0, 100_000, 60);
        bench.transfer(0, 1, 1_000, 1_514);
        bench.turn_until(0, |port| port.buffered() == 0);
        bench.turn_until(1, |port| port.buffered() == 0);
        let counters = bench.finish();
        assert_eq!((counters[0].tx_packets, counters[0].rx_packets), (101_000, 100_000));
        assert_eq!((counters[1].tx_packets, counters[1].rx_packets), (100_000, 101_000));
        assert_eq!(counters[0].tx_bytes, 100_000 * 60 + 1_000 * 1_514);
        assert_eq!(counters[1].rx_bytes, counters[0].tx_bytes);
        for counters in counters {
            assert_eq!((counters.tx_drops.total(), counters.rx_drops.total(), counters.rx_missed), (0, 0, 0));
        }
        assert!(loses_program("p0") && loses_program("p1"));
    });
}

#[test]
fn skb_mode_and_large_frames_work_too() {
    in_namespace("skb_mode", || {
        veth_pair("p0", "p1", 1);
        for interface in ["p0", "p1"] {
            run(&format!("ip link set dev {interface} mtu 3498"));
        }
        let mut bench = Bench::new(2_048, 4_096);
        for interface in ["p0", "p1"] {
            let mut config = AfXdpConfig::new(interface, interface);
            config.attach = AttachMode::Skb;
            config.mode = CopyMode::Copy;
            config.promiscuous = true;
            (config.rx_ring, config.tx_ring, config.fill_ring) = (512, 256, 512);
            bench.open(&config);
        }
        assert_eq!(bench.ports[0].info().description, "af_xdp p0 queue 0 (skb, copy mode)");
        assert!(output("ip -d link show dev p0").contains("promiscuity 1"));
        bench.transfer(0, 1, 5_000, 3_512);
        bench.transfer(1, 0, 5_000, 14 + 46);
        bench.finish();
        assert!(output("ip -d link show dev p0").contains("promiscuity 0"));
    });
}

#[test]
fn a_driver_without_xdp_gets_skb_mode() {
    in_namespace("fallback", || {
        run("ip link add d0 mtu 1500 type vxlan id 1 dev lo dstport 4789");
        run("ip link set dev d0 up");
        let mut bench = Bench::new(4_096, 2_048);
        bench.open(&AfXdpConfig::new("a", "d0"));
        assert_eq!(bench.ports[0].info().description, "af_xdp d0 queue 0 (skb, copy mode)");
        let mut burst = bench.frames(0, 64, 60);
        bench.send(0, &mut burst);
        bench.turn_until(0, |port| port.buffered() == 0);
        assert_eq!(bench.finish()[0].tx_packets, 64);
        let config = AfXdpConfig { attach: AttachMode::Native, ..AfXdpConfig::new("a", "d0") };
        let error = AfXdpDevice::open(&config).unwrap_err().to_string();
        assert!(error.contains("(tried xdpdrv: "), "{error}");
    });
}

#[test]
fn missing_privileges_are_named() {
    in_namespace("privileges", || {
        veth_pair("p0", "p1", 1);
        let mut command = Command::new("setpriv");
        command.args(["--inh-caps=-all", "--bounding-set=-all", &own_path()]);
        let mut child = role(command, "open");
        let text = net::rest_of_output(&mut child);
        child.wait().unwrap();
        assert!(text.contains("CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF, or root"), "{text}");
        assert!(loses_program("p0"));
    });
}

#[test]
fn each_queue_has_its_port() {
    in_namespace("queues", || {
        veth_pair("p0", "p1", 2);
        let mut bench = Bench::new(8_192, 2_048);
        let mut config = AfXdpConfig::new("a", "p0");
        (config.fill_ring, config.rx_ring) = (512, 512);
        bench.open(&config);
        (config.name, config.interface) = ("b".to_owned(), "p1".to_owned());
        bench.open(&config);
        assert_eq!(bench.ports.len(), 4);
        for port in 0..4 {
            bench.receive(port);
        }
        // A veth hands a packet from a queue to the queue of the same number.
        bench.transfer(0, 2, 3_000, 60);
        bench.transfer(1, 3, 4_000, 60);
        bench.transfer(3, 1, 5_000, 60);
        let counters = bench.finish();
        let received: Vec<u64> = counters.iter().map(|counters| counters.rx_packets).collect();
        assert_eq!(received, [0, 5_000, 3_000, 4_000]);
    });
}

#[test]
fn queues_can_have_pools_of_their_own() {
    in_namespace("pools", || {
        veth_pair("p0", "p1", 2);
        let device = AfXdpDevice::open(&AfXdpConfig::new("a", "p0")).unwrap();
        let (mut first, mut second) = (Bench::new(4_096, 2_048), Bench::new(4_096, 2_048));
        first.ports.push(device.port(0, &first.umem).unwrap());
        second.ports.push(device.port(1, &second.umem).unwrap());
        drop(device);
        for bench in [&mut first, &mut second] {
            bench.receive(0);
        }
        // A packet of the other pool is copied.
        let mut burst = second.frames(7, 3, 60);
        first.send(0, &mut burst);
        first.turn_until(0, |port| port.buffered() == 0);
        assert_eq!(first.ports[0].copied_packets(), 3);
        // With the wrong pool the port takes nothing from it, and drops what it is to send.
        let mut burst = second.frames(7, 2, 60);
        let now = first.clock.now();
        first.ports[0].tx(&mut second.pool, now, &mut burst);
        first.ports[0].rx(&mut second.pool, now, &mut burst);
        assert_eq!(second.pool.outstanding(), 2_048);
        assert!(has_program("p0"));
        let counters = first.finish();
        assert_eq!((counters[0].tx_packets, dropped(&counters[0], DropReason::TxFailed)), (3, 2));
        assert!(has_program("p0"), "the other queue's port needs the program");
        second.finish();
        assert!(loses_program("p0"));
    });
}

/// Two hosts whose frames the ports carry from one to the other.
struct Wire {
    bench: Bench,
    client: Host,
    server: Host,
}

impl Wire {
    fn new() -> Self {
        let (client, server) = (Host::new(), Host::new());
        client.connect("client", "192.0.2.1/24");
        server.connect("server", "192.0.2.2/24");
        let mut bench = Bench::new(8_192, 2_048);
        bench.open(&AfXdpConfig::new("client", "client"));
        bench.open(&AfXdpConfig::new("server", "server"));
        Self { bench, client, server }
    }

    /// Forwards until the process ends, which it must do well.
    fn forward_until_end(&mut self, mut child: Child) -> String {
        let start = Instant::now();
        loop {
            for (from, to) in [(0, 1), (1, 0)] {
                let mut burst = self.bench.receive(from);
                self.bench.send(to, &mut burst);
            }
            assert!(start.elapsed() < PATIENCE, "the process does not end");
            if let Some(status) = child.try_wait().unwrap() {
                let text = net::rest_of_output(&mut child);
                assert!(status.success(), "{text}");
                return text;
            }
        }
    }

    fn finish(mut self) {
        for port in 0..2 {
            self.bench.turn_until(port, |port| port.buffered() == 0);
        }
        let counters = self.bench.finish();
        let received: u64 = counters.iter().map(|counters| counters.rx_packets).sum();
        let out: u64 = counters.iter().map(|counters| counters.tx_packets + counters.tx_drops.total()).sum();
        // `turn_until` takes what comes at the end without forwarding it: a few, if any.
        assert!(out <= received && received - out < 10, "received {received}, sent or dropped {out}");
    }
}

#[test]
fn hosts_ping_each_other_through_the_ports() {
    in_namespace("ping", || {
        let mut wire = Wire::new();
        let child = wire
            .client
            .command("ping")
            .args(["-c", "50", "-i", "0.01", "-s", "1400", "-w", "10", "192.0.2.2"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let text = wire.forward_until_end(child);
        assert!(text.contains("50 received"), "{text}");
        wire.finish();
    });
}

const STREAM_BYTES: usize = 32 << 20;

/// The stream that the TCP test sends, and its sum.
fn stream() -> (Vec<u8>, u64) {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(STREAM_BYTES);
    while bytes.len() < STREAM_BYTES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    let sum = sum(&bytes);
    (bytes, sum)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn a_tcp_stream_arrives_whole_through_the_ports() {
    in_namespace("tcp", || {
        let mut wire = Wire::new();
        let mut server = role(wire.server.command(&own_path()), "tcp-server");
        wait_for_line(&mut server, "ready");
        let mut client = role(wire.client.command(&own_path()), "tcp-client");
        let text = wire.forward_until_end(server);
        assert!(text.contains(&format!("sum {}", stream().1)), "{text}");
        let _ = client.wait();
        wire.finish();
    });
}

#[test]
fn nothing_is_left_after_kill_9_and_the_port_opens_again_at_once() {
    in_namespace("kill", || {
        veth_pair("p0", "p1", 1);
        for (holder, stays) in [(ProgramHolder::Auto, false), (ProgramHolder::Netlink, true)] {
            let mut config = AfXdpConfig::new("a", "p0");
            config.holder = holder;
            let mut child = role(Command::new(own_path()), &format!("hold-{holder:?}"));
            wait_for_line(&mut child, "ready");
            assert!(has_program("p0"));
            let error = AfXdpDevice::open(&config).unwrap_err().to_string();
            assert!(error.contains("another process of Millrace"), "{error}");
            child.kill().unwrap();
            child.wait().unwrap();
            let mut bench = Bench::new(8_192, 2_048);
            bench.open(&config);
            bench.open(&AfXdpConfig::new("b", "p1"));
            bench.transfer(1, 0, 1_000, 60);
            bench.finish();
            assert!(loses_program("p0"));

            let mut child = role(Command::new(own_path()), &format!("hold-{holder:?}"));
            wait_for_line(&mut child, "ready");
            child.kill().unwrap();
            child.wait().unwrap();
            let start = Instant::now();
            while !stays && has_program("p0") {
                assert!(start.elapsed() < PATIENCE, "the program outlives its process");
            }
            assert_eq!(has_program("p0"), stays);
        }
        // The next start, by whatever holder, removes what was left.
        drop(AfXdpDevice::open(&AfXdpConfig::new("a", "p0")).unwrap());
        assert!(loses_program("p0"));
    });
}

#[test]
fn somebody_elses_program_is_left_alone() {
    in_namespace("foreign", || {
        veth_pair("p0", "p1", 1);
        let program = foreign::attach("p0");
        let error = AfXdpDevice::open(&AfXdpConfig::new("a", "p0")).unwrap_err().to_string();
        assert!(error.contains("\"stranger\""), "{error}");
        assert!(error.contains("ip link set dev p0 xdpdrv off"), "{error}");
        assert!(has_program("p0"));
        drop(program);
        let mut bench = Bench::new(4_096, 2_048);
        bench.open(&AfXdpConfig::new("a", "p0"));
        bench.finish();
    });
}

#[test]
fn a_link_that_goes_down_and_comes_back_is_noticed() {
    in_namespace("down", || {
        veth_pair("p0", "p1", 1);
        let mut bench = Bench::new(8_192, 2_048);
        bench.open(&AfXdpConfig::new("a", "p0"));
        bench.open(&AfXdpConfig::new("b", "p1"));
        run("ip link set dev p1 down");
        bench.turn_until(0, |port| !port.info().link_up);
        bench.turn_until(1, |port| !port.info().link_up);
        for port in [0, 1] {
            let mut burst = bench.frames(0, 10, 60);
            bench.send(port, &mut burst);
        }
        run("ip link set dev p1 up");
        bench.turn_until(0, |port| port.info().link_up);
        bench.turn_until(1, |port| port.info().link_up);
        bench.transfer(0, 1, 1_000, 60);
        bench.transfer(1, 0, 1_000, 60);
        run("ip link set dev p1 mtu 1400");
        bench.turn_until(1, |port| port.info().mtu == 1_400);
        let mut burst = bench.frames(0, 1, 1_423);
        bench.send(1, &mut burst);
        let counters = bench.finish();
        assert_eq!(counters[0].tx_packets, 1_000);
        assert_eq!(dropped(&counters[0], DropReason::LinkDown), 10);
        assert_eq!(dropped(&counters[1], DropReason::LinkDown), 10);
        assert_eq!(dropped(&counters[1], DropReason::TxFailed), 1);
        assert_eq!((counters[0].link_losses, counters[1].link_losses), (1, 1));
    });
}

#[test]
fn a_kick_on_a_link_that_just_went_down_does_no_harm() {
    in_namespace("kick_down", || {
        veth_pair("p0", "p1", 1);
        let mut bench = Bench::new(4_096, 2_048);
        bench.open(&AfXdpConfig::new("a", "p0"));
        run("ip link set dev p0 down");
        // The port has not looked at the link since: the kernel's answer is the first it hears of it.
        let mut burst = bench.frames(0, 64, 60);
        let now = millrace_dataplane::time::Time(0);
        bench.ports[0].tx(&mut bench.pool, now, &mut burst);
        assert!(!bench.ports[0].info().link_up);
        assert_eq!(bench.ports[0].buffered(), 64);
        let counters = bench.finish();
        assert_eq!((counters[0].tx_packets, dropped(&counters[0], DropReason::Shutdown)), (0, 64));
    });
}

#[test]
fn a_port_whose_interface_vanishes_comes_back_with_it() {
    in_namespace("vanish", || {
        veth_pair("p0", "p1", 1);
        let mut bench = Bench::new(8_192, 2_048);
        bench.open(&AfXdpConfig::new("a", "p0"));
        bench.open(&AfXdpConfig::new("b", "p1"));
        bench.transfer(0, 1, 1_000, 60);
        run("ip link del dev p0");
        bench.turn_until(0, |port| port.wait_fd().is_none());
        bench.turn_until(1, |port| port.wait_fd().is_none());
        let mut burst = bench.frames(0, 5, 60);
        bench.send(0, &mut burst);
        assert!(bench.receive(0).is_empty() && !bench.ports[0].info().link_up);
        assert_eq!(bench.pool.available(), bench.pool.capacity(), "a quiet port holds no frame");

        let mac = bench.ports[0].info().mac;
        veth_pair("p0", "p1", 1);
        for port in 0..2 {
            bench.turn_until(port, |port| port.wait_fd().is_some() && port.info().link_up);
            bench.receive(port);
        }
        // The interface is another, with another address; the port's own is what the others know.
        assert_eq!(bench.ports[0].info().mac, mac);
        bench.transfer(0, 1, 1_000, 60);
        bench.transfer(1, 0, 1_000, 60);
        let counters = bench.finish();
        assert_eq!((counters[0].tx_packets, counters[1].rx_packets), (2_000, 2_000));
        assert_eq!((dropped(&counters[0], DropReason::LinkDown), counters[0].link_losses), (5, 1));
        assert!(loses_program("p0"), "a port that came back takes its program with it, too");
    });
}

#[test]
fn a_full_transmit_queue_is_a_counted_drop() {
    in_namespace("tx_full", || {
        veth_pair("p0", "p1", 1);
        veth_pair("d0", "d1", 1);
        // A bridge keeps the sender's claim on its buffers; the slow queue behind it holds them.
        run("ip link add bridge type bridge");
        for interface in ["p1", "d0"] {
            run(&format!("ip link set dev {interface} master bridge"));
        }
        run("ip link set dev bridge up");
        run("tc qdisc add dev d0 root tbf rate 8kbit burst 1600 limit 1000000");
        let mut bench = Bench::new(4_096, 2_048);
        let mut config = AfXdpConfig::new("a", "p0");
        config.tx_ring = 64;
        bench.open(&config);
        for _ in 0..4 {
            let mut burst = bench.frames(0, 64, 1_000);
            bench.send(0, &mut burst);
        }
        let buffered = bench.ports[0].buffered();
        let counters = bench.ports[0].counters();
        let full = dropped(&counters, DropReason::TxQueueFull);
        assert!(full >= 128 && buffered > 0, "{full} dropped, {buffered} buffered");
        assert_eq!(counters.tx_packets + full + buffered, 256);
        let counters = bench.finish();
        assert_eq!(counters[0].tx_packets + counters[0].tx_drops.total(), 256);
    });
}

#[test]
fn frames_that_nobody_takes_are_missed_not_lost() {
    in_namespace("missed", || {
        veth_pair("p0", "p1", 1);
        let mut bench = Bench::new(4_096, 2_048);
        bench.open(&AfXdpConfig::new("a", "p0"));
        let mut config = AfXdpConfig::new("b", "p1");
        (config.rx_ring, config.fill_ring) = (64, 64);
        bench.open(&config);
        for first in 0..4 {
            let mut burst = bench.frames(first * 64, 64, 60);
            bench.send(0, &mut burst);
        }
        bench.turn_until(0, |port| port.buffered() == 0);
        let mut burst = bench.receive(1);
        assert_eq!(burst.len(), 64);
        bench.pool.put_all(&mut burst);
        assert_eq!(bench.ports[1].counters().rx_missed, 192);
        let counters = bench.finish();
        assert_eq!((counters[1].rx_packets, counters[1].rx_missed), (64, 192));
    });
}

#[test]
fn a_waiting_worker_is_woken_by_a_packet() {
    in_namespace("wait", || {
        veth_pair("p0", "p1", 1);
        let mut bench = Bench::new(8_192, 2_048);
        bench.open(&AfXdpConfig::new("a", "p0"));
        bench.open(&AfXdpConfig::new("b", "p1"));
        let readable = |port: &AfXdpPort| {
            let mut wait = libc::pollfd { fd: port.wait_fd().unwrap(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one `pollfd`, alive during the call.
            unsafe { libc::poll(&mut wait, 1, 200) == 1 && wait.revents == libc::POLLIN }
        };
        assert!(!readable(&bench.ports[1]));
        let mut burst = bench.frames(0, 1, 60);
        bench.send(0, &mut burst);
        assert!(readable(&bench.ports[1]));
        bench.finish();
    });
}

#[test]
fn a_port_that_is_only_dropped_gives_its_frames_back_too() {
    in_namespace("dropped", || {
        veth_pair("p0", "p1", 1);
        let mut bench = Bench::new(4_096, 2_048);
        bench.open(&AfXdpConfig::new("a", "p0"));
        assert_eq!(bench.pool.outstanding(), 2_048);
        bench.ports.clear();
        bench.finish();
        assert!(loses_program("p0"));
    });
}

#[test]
fn errors_name_the_object_and_the_remedy() {
    in_namespace("errors", || {
        veth_pair("p0", "p1", 1);
        let open = |config: &AfXdpConfig| AfXdpDevice::open(config).unwrap_err().to_string();
        let mut config = AfXdpConfig::new("wan", "p9");
        assert!(open(&config).starts_with("port wan: find the interface p9: there is none"));
        config.interface = "p0".to_owned();
        config.queues = Queues::List(vec![1]);
        assert!(open(&config).contains("queue 1 of p0"), "{}", open(&config));
        config.queues = Queues::All;
        config.mode = CopyMode::ZeroCopy;
        let bench = Bench::new(64, 2_048);
        let device = AfXdpDevice::open(&config).unwrap();
        let error = device.port(0, &bench.umem).unwrap_err().to_string();
        assert!(error.contains("p0 queue 0 (tried zero-copy: "), "{error}");
        let _first = AfXdpDevice::open(&AfXdpConfig::new("b", "p1")).unwrap();
        drop(device);
        config.mode = CopyMode::Auto;
        let device = AfXdpDevice::open(&config).unwrap();
        let _port = device.port(0, &bench.umem).unwrap();
        let error = device.port(0, &bench.umem).unwrap_err().to_string();
        assert!(error.contains("another socket uses this queue"), "{error}");
        let error = device.port(1, &bench.umem).unwrap_err().to_string();
        assert!(error.contains("no such receive queue"), "{error}");
        drop((device, _port));
        run("ip link set dev p0 mtu 3000");
        let device = AfXdpDevice::open(&AfXdpConfig { attach: AttachMode::Skb, ..config.clone() }).unwrap();
        let error = device.port(0, &bench.umem).unwrap_err().to_string();
        assert!(error.contains("ip link set dev p0 mtu 1774"), "{error}");
        drop(device);
        run("ip link set dev p0 down");
        assert!(open(&config).contains("ip link set dev p0 up"), "{}", open(&config));
    });
}

fn own_path() -> String {
    std::env::current_exe().unwrap().to_str().unwrap().to_owned()
}

const ROLE: &str = "MILLRACE_TEST_ROLE";

/// Starts this program again as a child that plays a role.
fn role(mut command: Command, role: &str) -> Child {
    command.args(["--exact", "--nocapture", "child_process"]).env(ROLE, role);
    command.stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap()
}

/// The other tests start it as a child process with a role; by itself it sees that a child plays none but those.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(ROLE) else {
        let child = role(Command::new(std::env::current_exe().unwrap()), "none");
        assert!(!child.wait_with_output().unwrap().status.success());
        return;
    };
    match role.as_str() {
        "tcp-server" => {
            let listener = TcpListener::bind("0.0.0.0:5000").unwrap();
            println!("ready");
            let mut bytes = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
            println!("sum {}", sum(&bytes));
        }
        "tcp-client" => TcpStream::connect("192.0.2.2:5000").unwrap().write_all(&stream().0).unwrap(),
        "open" => match AfXdpDevice::open(&AfXdpConfig::new("a", "p0")) {
            Ok(_) => println!("it opened"),
            Err(error) => println!("{error}"),
        },
        "hold-Auto" | "hold-Netlink" => {
            let mut config = AfXdpConfig::new("held", "p0");
            if role == "hold-Netlink" {
                config.holder = ProgramHolder::Netlink;
            }
            let mut bench = Bench::new(4_096, 2_048);
            bench.open(&config);
            println!("ready");
            // Ends with its parent, should that not kill it.
            let _ = std::io::stdin().read(&mut [0]);
            bench.finish();
        }
        other => panic!("`{other}` is no role"),
    }
}
