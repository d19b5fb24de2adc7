//! Frames of several packets that are received and sent as they are.

use std::time::Instant;

use etherparse::PacketBuilder;
use millrace_dataplane::limits::LARGE_FRAMES_POSTED;
use millrace_dataplane::packet::{Burst, Gso, Packet};
use millrace_dataplane::port::af_packet::{self, AfPacketConfig};
use millrace_dataplane::port::offload::Pieces;
use millrace_dataplane::port::tap::{self, TapConfig};
use millrace_dataplane::port::verify::{ChecksumVerdict, verify_checksums};
use millrace_dataplane::port::{Port, PortCounters};

use crate::bench::{Bench, LARGE_FRAMES, PATIENCE};
use crate::net::{Host, in_namespace, veth_pair};
use crate::streams::{STREAM_BYTES, connect, with_stream};
use crate::{packet_sockets, taps};

const TCP4: u8 = 1;
const TCP6: u8 = 4;
const UDP: u8 = 5;

fn socket(interface: &str, carries_whole: bool) -> Box<dyn Port> {
    let config = AfPacketConfig { carries_whole, ..packet_sockets::config(interface) };
    af_packet::open(&config).unwrap().remove(0)
}

fn tap(interface: &str) -> Box<dyn Port> {
    tap::open(&TapConfig { carries_whole: true, ..taps::config(interface) }).unwrap().remove(0)
}

/// A frame of a kind with so much payload, of either family, and tagged or not; its checksum is right, as the builder made it.
fn frame(kind: u8, is_ipv6: bool, is_tagged: bool, payload: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload).map(|at| (at * 7 + at / 256) as u8).collect();
    let (mut ip, mut frame) = (Vec::new(), Vec::new());
    let start = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let start = if is_ipv6 { start.ipv6([0xfd; 16], [0xfe; 16], 9) } else { start.ipv4([10; 4], [11; 4], 9) };
    match kind {
        UDP => start.udp(1_000, 53).write(&mut ip, &payload).unwrap(),
        _ => start.tcp(1_000, 80, 77, 500).psh().ack(5).write(&mut ip, &payload).unwrap(),
    }
    frame.extend_from_slice(&ip[..12]);
    if is_tagged {
        frame.extend_from_slice(&[0x81, 0, 0x60, 7]);
    }
    frame.extend_from_slice(&ip[12..]);
    frame
}

fn whole(bench: &mut Bench, bytes: &[u8], kind: u8, size: u16) -> Packet {
    let mut packet = bench.pool.take_large().unwrap();
    packet.extend(bytes.len()).unwrap().copy_from_slice(bytes);
    packet.set_gso(Gso { kind, size });
    packet
}

/// What arrives until there are `count` packets.
fn arrived(bench: &mut Bench, port: usize, count: usize) -> Vec<(Vec<u8>, Gso)> {
    let (mut all, start) = (Vec::new(), Instant::now());
    while all.len() < count {
        assert!(start.elapsed() < PATIENCE, "{} of {count} packets arrived", all.len());
        let mut burst = bench.receive(port);
        all.extend(burst.iter().map(|packet| (packet.bytes().to_vec(), packet.gso())));
        bench.pool.put_all(&mut burst);
    }
    all
}

/// Sent whole, a frame arrives whole where that is wanted, and at another port on the same link as the packets that we would cut.
#[test]
fn a_frame_crosses_a_link_whole_or_cut_as_the_receiver_wants() {
    in_namespace("whole_link", || {
        veth_pair("pa", "pb", 1);
        let mut bench = Bench::new(vec![socket("pa", true), socket("pb", true), socket("pb", false)]);
        for (at, bytes) in [60_000, 65_100, 3_000, 1_401].into_iter().enumerate() {
            let kinds = [(TCP4, false), (TCP6, true), (UDP, false), (UDP, true)];
            for ((kind, is_ipv6), is_tagged) in kinds.into_iter().flat_map(|it| [(it, false), (it, true)]) {
                let bytes = frame(kind, is_ipv6, is_tagged, bytes);
                let size = 1_300 + at as u16 * 20;
                let sent = whole(&mut bench, &bytes, kind, size);
                let mut pieces = Pieces::of(whole(&mut bench, &bytes, kind, size)).unwrap();
                let mut expected = Vec::new();
                while let Some(piece) = pieces.next(&mut bench.pool) {
                    let piece = piece.unwrap();
                    assert_eq!(verify_checksums(piece.bytes()), ChecksumVerdict::Good);
                    expected.push(piece.bytes().to_vec());
                    bench.pool.put(piece);
                }
                bench.pool.put(pieces.into_frame());
                let mut burst = Burst::new();
                burst.push(sent).unwrap();
                bench.send(0, &mut burst);

                let (got, gso) = arrived(&mut bench, 1, 1).remove(0);
                let field = checksum_offset(&bytes, kind, is_ipv6);
                let mut with_other_checksum = bytes.clone();
                with_other_checksum[field..field + 2].copy_from_slice(&got[field..field + 2]);
                assert_eq!(got, with_other_checksum);
                assert_eq!(gso, Gso { kind, size });
                let cut: Vec<_> =
                    arrived(&mut bench, 2, expected.len()).into_iter().map(|(bytes, _)| bytes).collect();
                assert_eq!(cut, expected);
            }
        }
        let counters = bench.finish();
        assert_eq!((counters[0].tx_packets, counters[1].rx_packets), (32, 32));
        assert_eq!((counters[0].tx_bytes, counters[0].tx_drops.total()), (counters[1].rx_bytes, 0));
    });
}

fn checksum_offset(frame: &[u8], kind: u8, is_ipv6: bool) -> usize {
    let link = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    link + if is_ipv6 { 40 } else { 20 } + if kind == UDP { 6 } else { 16 }
}

#[test]
fn what_a_link_cannot_carry_is_dropped_and_counted() {
    in_namespace("whole_drops", || {
        veth_pair("pa", "pb", 1);
        let mut bench = Bench::new(vec![socket("pa", true), socket("pa", false)]);
        let bytes = frame(TCP4, false, false, 20_000);
        // Packets of 1,501 bytes; of 1,500, where whole frames are not taken; and a frame whose headers nobody knows.
        let long = whole(&mut bench, &bytes, TCP4, 1_461);
        let unwanted = whole(&mut bench, &bytes, TCP4, 1_460);
        let mut broken = whole(&mut bench, &bytes, TCP4, 1_460);
        broken.bytes_mut()[23] = 132;
        for (port, packet) in [(0, long), (1, unwanted), (0, broken)] {
            let mut burst = Burst::new();
            burst.push(packet).unwrap();
            bench.send(port, &mut burst);
        }
        let counters = bench.finish();
        assert_eq!((counters[0].tx_drops.total(), counters[1].tx_drops.total()), (2, 1));
        assert_eq!(counters[0].tx_packets + counters[1].tx_packets, 0);
    });
}

/// A relay between two kernels that both leave segmentation to it.
fn streams(mut bench: Bench, one: &Host, other: &Host) -> Vec<PortCounters> {
    let (mut frames, mut bytes, mut largest) = (0, 0, 0);
    for (from, to, address) in [(one, other, "10.9.0.2"), (other, one, "fd09::1")] {
        with_stream(from, to, address, |done| {
            bench.relay(done, |packet| {
                frames += usize::from(packet.is_whole());
                bytes += if packet.is_whole() { packet.len() } else { 0 };
                largest = largest.max(packet.len());
            });
        });
    }
    assert!(bytes > STREAM_BYTES, "{bytes} of {} bytes came whole", 2 * STREAM_BYTES);
    assert!(
        bytes / frames > 4_000 && largest > 30_000,
        "{frames} frames of {bytes} bytes, at most {largest}"
    );
    bench.finish()
}

#[test]
fn streams_through_packet_sockets_stay_whole() {
    in_namespace("whole_sockets", || {
        let (one, other) = (Host::new(), Host::new());
        connect(&one, "pa", &["10.9.0.1/24", "fd09::1/64"]);
        connect(&other, "pb", &["10.9.0.2/24", "fd09::2/64"]);
        let bench = Bench::new(vec![socket("pa", true), socket("pb", true)]);
        for counters in streams(bench, &one, &other) {
            assert_eq!(counters.rx_drops.total(), 0, "{:?}", counters.rx_drops);
        }
    });
}

#[test]
fn streams_through_taps_stay_whole() {
    in_namespace("whole_taps", || {
        let (one, other) = (Host::new(), Host::new());
        let bench = Bench::new(vec![tap("ta"), tap("tb")]);
        taps::give(&one, "ta", &["10.9.0.1/24", "fd09::1/64"]);
        taps::give(&other, "tb", &["10.9.0.2/24", "fd09::2/64"]);
        streams(bench, &one, &other);
    });
}

/// A turn takes as many large frames as wait to be filled. When the pool has none, what comes is cut, and nothing is lost.
#[test]
fn what_finds_no_large_frame_is_cut() {
    in_namespace("whole_exhausted", || {
        veth_pair("pa", "pb", 1);
        let mut bench = Bench::new(vec![socket("pa", true), socket("pb", true)]);
        let bytes = frame(TCP4, false, false, 14_000);
        let mut held: Vec<Packet> = (0..2).map(|_| whole(&mut bench, &bytes, TCP4, 1_400)).collect();
        for _ in 0..2 {
            let mut burst = Burst::new();
            burst.push(whole(&mut bench, &bytes, TCP4, 1_400)).unwrap();
            bench.send(0, &mut burst);
        }
        assert_eq!(arrived(&mut bench, 1, 2).iter().filter(|(_, gso)| gso.size > 0).count(), 2);
        // Nothing is there: the port posts what it took last.
        assert!(bench.receive(1).is_empty());
        held.extend(std::iter::from_fn(|| bench.pool.take_large()));
        assert_eq!(held.len(), LARGE_FRAMES - LARGE_FRAMES_POSTED);
        let mut burst = Burst::new();
        for _ in 0..LARGE_FRAMES_POSTED + 2 {
            let mut packet = held.pop().unwrap();
            packet.truncate(0);
            packet.extend(bytes.len()).unwrap().copy_from_slice(&bytes);
            packet.set_gso(Gso { kind: TCP4, size: 1_400 });
            burst.push(packet).unwrap();
        }
        bench.send(0, &mut burst);
        held.extend(std::iter::from_fn(|| bench.pool.take_large()));
        let (mut got, start) = (Vec::new(), Instant::now());
        while got.len() < LARGE_FRAMES_POSTED + 20 {
            assert!(start.elapsed() < PATIENCE, "{} packets arrived", got.len());
            let mut burst = bench.receive(1);
            assert!(burst.iter().filter(|packet| packet.is_whole()).count() <= LARGE_FRAMES_POSTED);
            got.extend(burst.drain_all());
        }
        let (large, cut) = got.split_at(LARGE_FRAMES_POSTED);
        assert!(large.iter().all(|packet| packet.bytes().len() == bytes.len() && packet.is_whole()));
        assert!(cut.iter().all(|packet| packet.len() == 14 + 40 + 1_400 && !packet.is_whole()));
        held.into_iter().chain(got).for_each(|packet| bench.pool.put(packet));
        assert_eq!(bench.finish()[1].rx_drops.total(), 0);
    });
}
