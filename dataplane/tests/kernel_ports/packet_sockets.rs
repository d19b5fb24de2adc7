use std::thread;
use std::time::Duration;

use millrace_dataplane::drops::DropReason;
use millrace_dataplane::port::af_packet::{self, AfPacketConfig};
use millrace_dataplane::port::{Port, PortCounters};

use crate::bench::{Bench, FRAME_BYTES, frame};
use crate::net::{Host, in_namespace, output, run, veth_pair};
use crate::streams::{Seen, connect, with_stream};

pub fn config(interface: &str) -> AfPacketConfig {
    AfPacketConfig {
        name: interface.to_owned(),
        interface: interface.to_owned(),
        queues: 1,
        promiscuous: true,
        frame_bytes: FRAME_BYTES,
        carries_whole: false,
    }
}

fn open(interface: &str) -> Box<dyn Port> {
    af_packet::open(&config(interface)).unwrap().remove(0)
}

fn nothing_lost(counters: &[PortCounters]) {
    for counters in counters {
        assert_eq!((counters.rx_drops.total(), counters.tx_drops.total(), counters.rx_missed), (0, 0, 0));
    }
}

#[test]
fn frames_arrive_once_in_order_and_with_their_tags() {
    in_namespace("af_packet_frames", || {
        veth_pair("pa", "pb", 1);
        let mut bench = Bench::new(vec![open("pa"), open("pb")]);
        let tags = [None, Some((0x8100, 0x6007)), Some((0x88a8, 0x0fff)), Some((0x8100, 0))];
        let make = |number: u32| frame(number, 60 + number as usize % 1_400, tags[number as usize % 4]);
        bench.transfer(0, 1, 20_000, make);
        bench.transfer(1, 0, 20_000, make);
        let counters = bench.finish();
        nothing_lost(&counters);
        assert_eq!((counters[0].tx_packets, counters[1].rx_packets), (20_000, 20_000));
        assert_eq!(counters[0].tx_bytes, counters[1].rx_bytes);
    });
}

/// The largest frames of a kernel, with partial checksums, through a relay that passes packets of the MTU on.
fn streams_through(mut bench: Bench, one: &Host, other: &Host) -> Vec<PortCounters> {
    for (from, to, address) in [(one, other, "10.9.0.2"), (other, one, "fd09::1"), (one, other, "fd09::2")] {
        let mut seen = Seen::default();
        with_stream(from, to, address, |done| bench.relay(done, |packet| seen.check(packet.bytes())));
        seen.judge();
    }
    bench.finish()
}

#[test]
fn streams_of_kernels_that_leave_work_to_devices_arrive_whole() {
    in_namespace("af_packet_streams", || {
        let (one, other) = (Host::new(), Host::new());
        connect(&one, "pa", &["10.9.0.1/24", "fd09::1/64"]);
        connect(&other, "pb", &["10.9.0.2/24", "fd09::2/64"]);
        let counters = streams_through(Bench::new(vec![open("pa"), open("pb")]), &one, &other);
        for counters in counters {
            assert_eq!(counters.rx_drops.total(), 0, "{:?}", counters.rx_drops);
        }
    });
}

#[test]
fn queues_share_what_arrives() {
    in_namespace("af_packet_queues", || {
        veth_pair("pa", "pb", 1);
        let shared = AfPacketConfig { queues: 4, ..config("pb") };
        let mut ports = vec![open("pa")];
        ports.extend(af_packet::open(&shared).unwrap());
        let mut bench = Bench::new(ports);
        // Flows differ in their ports; a queue has all packets of a flow, so that each has its order.
        let flows: u16 = 64;
        for number in 0..flows * 4 {
            let mut bytes = Vec::new();
            let builder =
                etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 0, 1], [10, 9, 0, 2], 9);
            builder.udp(1_000 + number % flows, 9).write(&mut bytes, &number.to_be_bytes()).unwrap();
            bench.send_one(0, &bytes);
        }
        let mut seen = vec![Vec::new(); usize::from(flows)];
        let mut by_queue = [0; 5];
        let mut total = 0;
        while total < usize::from(flows) * 4 {
            for (port, count) in by_queue.iter_mut().enumerate().skip(1) {
                let mut burst = bench.receive(port);
                for packet in burst.iter() {
                    let bytes = packet.bytes();
                    let flow = usize::from(u16::from_be_bytes([bytes[34], bytes[35]]) - 1_000);
                    seen[flow].push((port, u16::from_be_bytes([bytes[42], bytes[43]])));
                    *count += 1;
                    total += 1;
                }
                bench.pool.put_all(&mut burst);
            }
        }
        for (flow, seen) in seen.iter().enumerate() {
            let expected: Vec<_> = (0..4).map(|lap| (seen[0].0, lap * flows + flow as u16)).collect();
            assert_eq!(*seen, expected);
        }
        assert!(by_queue[1..].iter().all(|&count| count > 0), "{by_queue:?}");
        bench.finish();
    });
}

#[test]
fn a_port_whose_interface_went_comes_back_with_it() {
    in_namespace("af_packet_returns", || {
        veth_pair("pa", "pb", 1);
        let queues = AfPacketConfig { queues: 2, ..config("pa") };
        let mut ports = af_packet::open(&queues).unwrap();
        ports.push(open("pb"));
        let mut bench = Bench::new(ports);
        let mac = bench.ports[0].info().mac;
        bench.transfer(0, 2, 100, |number| frame(number, 100, None));
        run("ip link set dev pb down");
        bench.turn_until(0, |port| !port.info().link_up);
        bench.send_one(0, &frame(0, 100, None));
        run("ip link set dev pb up");
        bench.turn_until(0, |port| port.info().link_up);
        bench.turn_until(2, |port| port.info().link_up);
        bench.transfer(0, 2, 100, |number| frame(number, 100, None));

        run("ip link delete pa");
        for port in 0..3 {
            bench.turn_until(port, |port| port.wait_fd().is_none());
        }
        bench.send_one(0, &frame(0, 100, None));
        thread::sleep(Duration::from_millis(20));
        veth_pair("pa", "pb", 1);
        for port in 0..3 {
            bench.turn_until(port, |port| port.wait_fd().is_some() && port.info().link_up);
        }
        // The interface is another, with another address; the port's own is what the others know.
        assert_eq!(bench.ports[0].info().mac, mac);
        assert!(output("ip -d link show dev pa").contains("promiscuity 2"));
        bench.transfer(0, 2, 100, |number| frame(number, 100, None));
        let counters = bench.finish();
        assert_eq!(counters[0].tx_drops.get(DropReason::LinkDown), 2);
        // A new interface may be up for a moment before its peer is made ready.
        assert!((2..=3).contains(&counters[0].link_losses), "{}", counters[0].link_losses);
        assert_eq!((counters[0].tx_packets, counters[2].rx_packets), (300, 300));
    });
}

#[test]
fn errors_name_what_would_help() {
    in_namespace("af_packet_errors", || {
        let missing = af_packet::open(&config("nowhere")).err().unwrap().to_string();
        assert!(missing.contains("find the interface nowhere") && missing.contains("ip link"), "{missing}");
        run("ip link add pa type veth peer name pb");
        let down = af_packet::open(&config("pa")).err().unwrap().to_string();
        assert!(down.contains("ip link set dev pa up"), "{down}");
        run("ip link set dev pa mtu 9000 up");
        let large = af_packet::open(&config("pa")).err().unwrap().to_string();
        assert!(large.contains("MTU of 9000 does not fit"), "{large}");
    });
}
