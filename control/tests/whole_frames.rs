//! Frames of several packets, which kernels leave to devices to cut, through a chain that carries them whole: streams arrive, and all is
//! accounted for, whatever the other side of the chain can take.

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::cores::has_two_cores;
use common::edge::Kind;
use common::net::{Namespace, may_make_namespaces};
use common::streams::PROGRAM;
use common::{Running, Site};
use serde_json::Value;

const STREAM_BYTES: u64 = 16 << 20;
/// Packets of 1,500 bytes that a stream is at least.
const STREAM_PACKETS: u64 = STREAM_BYTES / 1_460;
const WHOLE: &str = "segmentation = \"whole\"\n";
const NAT: &str = "[functions.nat]\nkind = \"nat\"\npool = [\"10.2.0.100\"]\n";

/// A client and an outside host; between them, in a namespace of its own, firewall, NAT and router.
struct Edge {
    site: Site,
    client: Namespace,
    router: Namespace,
    outside: Namespace,
    running: Option<Running>,
}

/// What an edge is made of.
struct Setup<'a> {
    lan: (Kind, &'a str),
    wan: (Kind, &'a str),
    /// Functions in front of the router.
    functions: &'a str,
    /// Their tables and others.
    settings: &'a str,
    /// More of `[memory]`.
    memory: &'a str,
}

impl Edge {
    fn start(setup: &Setup<'_>) -> Self {
        let (client, router, outside) = (Namespace::new(), Namespace::new(), Namespace::new());
        let mut edge = Self { site: Site::new(), client, router, outside, running: None };
        let ends = [("mr-lan", setup.lan.0), ("mr-wan", setup.wan.0)];
        for (interface, kind) in ends {
            if kind != Kind::Tap {
                edge.plug(interface, kind);
            }
        }
        let Setup { functions, settings, memory, .. } = setup;
        let text = format!(
            r#"
{settings}
[memory]
hugepages = "off"
reserve_hugepages = false
{memory}
[management]
socket = "{}"
[metrics]
listen = "off"
[sessions]
capacity = 4096
[ports.lan]
{}{}
[ports.wan]
{}{}
[chains.edge]
functions = ["firewall", {functions} "router"]
zones.inside = ["lan"]
zones.outside = ["wan"]
[functions.firewall]
kind = "firewall"
[[functions.firewall.rules]]
action = "allow"
from = "inside"
to = "outside"
[functions.router]
kind = "router"
interfaces.lan.addresses = ["10.1.0.1/24", "fd00:1::1/64"]
interfaces.wan.addresses = ["10.2.0.1/24", "fd00:2::1/64"]
"#,
            edge.site.path("m.sock").display(),
            setup.lan.0.port("mr-lan"),
            setup.lan.1,
            setup.wan.0.port("mr-wan"),
            setup.wan.1,
        );
        edge.site.write("run.toml", &text);
        edge.running = Some(edge.site.start_in(&edge.router));
        for (interface, kind) in ends {
            if kind == Kind::Tap {
                edge.router
                    .run(&format!("ip link set dev {interface} netns {}", edge.host(interface).0.pid()));
                edge.address(interface, interface);
            }
        }
        edge
    }

    fn host(&self, interface: &str) -> (&Namespace, u8) {
        if interface == "mr-lan" { (&self.client, 1) } else { (&self.outside, 2) }
    }

    /// Joins a host by a veth pair that leaves checksums and segmentation to the device, where the port can finish them.
    fn plug(&self, interface: &str, kind: Kind) {
        let (host, _) = self.host(interface);
        self.router.run(&format!("ip link add {interface} type veth peer name eth0 netns {}", host.pid()));
        self.router.run(&format!("ip link set dev {interface} up"));
        if kind == Kind::AfXdp {
            host.run("ethtool -K eth0 tx off");
        }
        self.address(interface, "eth0");
    }

    fn address(&self, interface: &str, of_host: &str) {
        let (host, number) = self.host(interface);
        host.run(&format!("ip link set dev {of_host} up"));
        host.run(&format!("sysctl -qw net.ipv6.conf.{of_host}.disable_ipv6=0"));
        host.run(&format!("ip address add 10.{number}.0.2/24 dev {of_host}"));
        host.run(&format!("ip address add fd00:{number}::2/64 dev {of_host} nodad"));
        host.run(&format!("ip route add default via 10.{number}.0.1"));
        host.run(&format!("ip route add default via fd00:{number}::1"));
    }

    fn python(host: &Namespace, mode: &str, address: &str) -> Child {
        let mut python = host.enter(&Command::new("python3"));
        python.args(["-c", PROGRAM, mode, address, &STREAM_BYTES.to_string()]);
        python.stdout(Stdio::piped()).spawn().unwrap()
    }

    /// A stream from the client over each family.
    fn streams(&self) {
        for target in ["10.2.0.2", "fd00:2::2"] {
            let server = Self::python(&self.outside, "listen", target);
            let start = Instant::now();
            while !self.outside.output("ss -ltn").contains(":5001") {
                assert!(start.elapsed() < Duration::from_secs(10), "the server does not listen");
            }
            let client = Self::python(&self.client, "connect", target);
            let ends = [client, server].map(|end| end.wait_with_output().unwrap());
            assert!(ends.iter().all(|end| end.status.success()), "{target}: {ends:?}");
            assert!(ends[0].stdout.starts_with(STREAM_BYTES.to_string().as_bytes()));
            assert_eq!(ends[0].stdout, ends[1].stdout, "what arrived is not what was sent");
        }
    }

    /// The accounting at the end, after its sums were checked (R13) and all frames were found in their pools.
    fn stop(mut self) -> Account {
        Account(self.running.take().unwrap().stop())
    }
}

struct Account(Value);

impl Account {
    fn port(&self, name: &str, column: &str) -> u64 {
        let ports = self.0["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["port"] == *name).unwrap_or_else(|| panic!("{ports:?}"));
        port[column].as_u64().unwrap_or_else(|| panic!("{column} of {port}"))
    }

    fn copied(&self) -> u64 {
        self.0["sums"]["copied"].as_u64().unwrap()
    }

    /// Nothing was dropped for want of a buffer, nor between shares.
    fn found_room(&self) {
        let drops = self.0["drops"].as_array().unwrap();
        let is_full = |row: &&Value| row["reason"] == "pool_exhausted" || row["reason"] == "ring_full";
        assert_eq!(drops.iter().find(is_full), None, "{}", self.0);
    }

    /// What the client sent came in as frames, few of which were cut or none.
    fn came_whole(&self) {
        let (packets, bytes) = (self.port("lan", "rx_packets"), self.port("lan", "rx_bytes"));
        assert!(bytes > 2 * STREAM_BYTES, "{bytes} bytes");
        assert!(packets < 2 * STREAM_PACKETS / 2, "{packets} packets are no large frames: {}", self.0);
    }

    fn left_whole(&self) {
        let packets = self.port("wan", "tx_packets");
        assert!(packets < 2 * STREAM_PACKETS / 2, "{packets} packets left: {}", self.0);
    }

    fn left_cut(&self) {
        let packets = self.port("wan", "tx_packets") + self.port("wan", "tx_drops");
        assert!(packets >= 2 * STREAM_PACKETS, "{packets} packets left: {}", self.0);
        assert!(self.copied() > STREAM_PACKETS, "{}", self.0);
    }
}

#[test]
fn frames_pass_whole_where_both_sides_can() {
    if !may_make_namespaces("frames_pass_whole_where_both_sides_can") {
        return;
    }
    for (lan, wan) in [(Kind::AfPacket, Kind::AfPacket), (Kind::Tap, Kind::Tap), (Kind::Tap, Kind::AfPacket)]
    {
        let edge = Edge::start(&Setup {
            lan: (lan, WHOLE),
            wan: (wan, WHOLE),
            functions: "\"nat\",",
            settings: NAT,
            memory: "",
        });
        edge.streams();
        let large = edge.site.show("memory").unwrap();
        assert!(large.iter().any(|row| row["what"] == "large frames"), "{large:?}");
        let account = edge.stop();
        account.came_whole();
        account.left_whole();
    }
}

#[test]
fn frames_are_cut_for_ports_that_take_packets_alone() {
    if !may_make_namespaces("frames_are_cut_for_ports_that_take_packets_alone") {
        return;
    }
    let faults = format!("{WHOLE}fault = {{ duplicate = 0.001, delay = 0.01, delay_us = 100, seed = 3 }}\n");
    for wan in [(Kind::AfPacket, ""), (Kind::AfXdp, ""), (Kind::AfPacket, faults.as_str())] {
        let edge = Edge::start(&Setup {
            lan: (Kind::AfPacket, WHOLE),
            wan,
            functions: "\"nat\",",
            settings: NAT,
            memory: "",
        });
        edge.streams();
        let account = edge.stop();
        account.came_whole();
        account.left_cut();
    }
}

#[test]
fn frames_are_cut_for_functions_that_work_on_payloads() {
    if !may_make_namespaces("frames_are_cut_for_functions_that_work_on_payloads") {
        return;
    }
    let inspect = "[functions.inspect]\nkind = \"inspect\"\npatterns = [{ name = \"no\", text = \"never sent\", action = \"drop\" }]\n";
    let edge = Edge::start(&Setup {
        lan: (Kind::AfPacket, WHOLE),
        wan: (Kind::AfPacket, WHOLE),
        functions: "\"inspect\", \"nat\",",
        settings: &format!("{NAT}{inspect}"),
        memory: "",
    });
    edge.streams();
    let account = edge.stop();
    account.came_whole();
    account.left_cut();
}

#[test]
fn without_large_frames_they_are_cut_when_they_come() {
    if !may_make_namespaces("without_large_frames_they_are_cut_when_they_come") {
        return;
    }
    for frames in [0, 1] {
        let edge = Edge::start(&Setup {
            lan: (Kind::AfPacket, WHOLE),
            wan: (Kind::AfPacket, WHOLE),
            functions: "\"nat\",",
            settings: NAT,
            memory: &format!("large_frames = {frames}"),
        });
        edge.streams();
        let account = edge.stop();
        let packets = account.port("lan", "rx_packets");
        assert!(frames > 0 || packets > 2 * STREAM_PACKETS, "{packets} packets");
    }
}

/// Each share has large frames of its own; they come back to it from others.
#[test]
fn several_workers_carry_frames_whole() {
    let test = "several_workers_carry_frames_whole";
    if !may_make_namespaces(test) || !has_two_cores(test) {
        return;
    }
    for (io, queues) in [("shared", 1), ("dedicated", 1), ("shared", 2)] {
        let port = format!("{WHOLE}queues = {queues}\n");
        let edge = Edge::start(&Setup {
            lan: (Kind::AfPacket, &port),
            wan: (Kind::AfPacket, &port),
            functions: "\"nat\",",
            settings: &format!("[workers]\ncores = [0, 1]\nio = \"{io}\"\n{NAT}"),
            memory: "",
        });
        edge.streams();
        let account = edge.stop();
        account.came_whole();
        account.left_whole();
    }
}

/// A share without a queue cuts what another received, in buffers of its own, and sends the packets by that one.
#[test]
fn a_share_that_polls_nothing_has_room_for_what_it_cuts() {
    if !may_make_namespaces("a_share_that_polls_nothing_has_room_for_what_it_cuts") {
        return;
    }
    let edge = Edge::start(&Setup {
        lan: (Kind::AfPacket, WHOLE),
        wan: (Kind::AfPacket, ""),
        functions: "\"nat\",",
        settings: &format!("[workers]\ncores = [0]\nshares = 2\n{NAT}"),
        memory: "",
    });
    // Of so many, some are the other share's.
    (0..4).for_each(|_| edge.streams());
    let account = edge.stop();
    account.came_whole();
    account.left_cut();
    account.found_room();
}
