use millrace_dataplane::port::Port;
use millrace_dataplane::port::tap::{self, TapConfig};

use crate::bench::{Bench, FRAME_BYTES, frame};
use crate::net::{Host, in_namespace, output, run};
use crate::streams::{Seen, set_up, with_stream};

pub fn config(interface: &str) -> TapConfig {
    TapConfig {
        name: interface.to_owned(),
        interface: interface.to_owned(),
        queues: 1,
        mac: [2, 0, 0, 0, 0, 9],
        mtu: None,
        frame_bytes: FRAME_BYTES,
        carries_whole: false,
    }
}

fn open(interface: &str) -> Box<dyn Port> {
    tap::open(&config(interface)).unwrap().remove(0)
}

/// Moves the kernel's end of a tap device to a host.
pub fn give(host: &Host, interface: &str, addresses: &[&str]) {
    run(&format!("ip link set dev {interface} netns {}", host.pid()));
    set_up(host, interface, addresses);
}

#[test]
fn streams_through_taps_arrive_whole() {
    in_namespace("tap_streams", || {
        let (one, other) = (Host::new(), Host::new());
        // The descriptors stay here, the interfaces go to where the hosts are: the news of links go with them.
        let mut bench = Bench::new(vec![open("ta"), open("tb")]);
        give(&one, "ta", &["10.9.0.1/24", "fd09::1/64"]);
        give(&other, "tb", &["10.9.0.2/24", "fd09::2/64"]);
        for (from, to, address) in [(&one, &other, "10.9.0.2"), (&other, &one, "fd09::1")] {
            let mut seen = Seen::default();
            with_stream(from, to, address, |done| bench.relay(done, |packet| seen.check(packet.bytes())));
            seen.judge();
        }
        bench.finish();
    });
}

#[test]
fn a_tap_that_was_deleted_is_made_again() {
    in_namespace("tap_returns", || {
        let config = TapConfig { queues: 2, mtu: Some(1_400), ..config("ta") };
        let mut bench = Bench::new(tap::open(&config).unwrap());
        assert_eq!((bench.ports[0].info().mtu, bench.ports[0].info().mac), (1_400, config.mac));
        bench.turn_until(0, |port| port.info().link_up);
        bench.send_one(0, &frame(1, 100, None));
        run("ip link set dev ta down");
        bench.turn_until(0, |port| !port.info().link_up);
        run("ip link set dev ta up");
        bench.turn_until(0, |port| port.info().link_up);

        run("ip link delete ta");
        bench.turn_until(0, |port| port.wait_fd().is_none());
        bench.send_one(0, &frame(2, 100, None));
        for port in 0..2 {
            bench.turn_until(port, |port| port.wait_fd().is_some() && port.info().link_up);
        }
        assert!(output("ip link show dev ta").contains("mtu 1400"));
        bench.send_one(0, &frame(3, 100, None));
        let received = || {
            output("cat /proc/net/dev").lines().any(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some("ta:") && words.nth(1) == Some("1")
            })
        };
        assert!(received(), "{}", output("cat /proc/net/dev"));
        let counters = bench.finish();
        assert_eq!((counters[0].tx_packets, counters[0].tx_drops.total()), (2, 1));
        assert!(!output("ip link").contains("ta:"), "a device that the port made goes with it");
    });
}

#[test]
fn errors_name_what_would_help() {
    in_namespace("tap_errors", || {
        run("ip link add ta type veth peer name tb");
        let foreign = tap::open(&config("ta")).err().unwrap().to_string();
        assert!(foreign.contains("open the tap device ta") && foreign.contains("no tap device"), "{foreign}");
        let _held = open("tc");
        let busy = tap::open(&config("tc")).err().unwrap().to_string();
        assert!(busy.contains("another process has it"), "{busy}");
        let large = tap::open(&TapConfig { mtu: Some(9_000), ..config("td") }).err().unwrap().to_string();
        assert!(large.contains("MTU of 9000 does not fit"), "{large}");
    });
}
