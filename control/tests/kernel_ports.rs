//! Real traffic through a chain over `af_packet` and `tap`, with kernels that leave work to devices.

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::cores::has_two_cores;
use common::net::{Namespace, may_make_namespaces};
use common::streams::PROGRAM;
use common::{Running, Site, accounting};

const STREAM_BYTES: usize = 8 << 20;

/// A client and an outside host; between them, in a namespace of its own, an instance.
struct Edge {
    site: Site,
    client: Namespace,
    router: Namespace,
    outside: Namespace,
}

/// Joins a host by a veth pair that leaves checksums and segmentation to the device.
fn connect(router: &Namespace, host: &Namespace, interface: &str) {
    router.run(&format!("ip link add {interface} type veth peer name eth0 netns {}", host.pid()));
    router.run(&format!("ip link set dev {interface} up"));
    host.run("ip link set dev eth0 up");
}

fn address(host: &Namespace, interface: &str, number: u8) {
    host.run(&format!("sysctl -qw net.ipv6.conf.{interface}.disable_ipv6=0"));
    host.run(&format!("ip address add 10.{number}.0.2/24 dev {interface}"));
    host.run(&format!("ip address add fd00:{number}::2/64 dev {interface} nodad"));
    host.run(&format!("ip route add default via 10.{number}.0.1"));
    host.run(&format!("ip route add default via fd00:{number}::1"));
}

impl Edge {
    fn new() -> Self {
        let (client, router, outside) = (Namespace::new(), Namespace::new(), Namespace::new());
        Self { site: Site::new(), client, router, outside }
    }

    fn start(&self, lan: &str, wan: &str) -> Running {
        self.start_with(lan, wan, "", "")
    }

    /// With other settings, and with a NAT if there are settings for one.
    fn start_with(&self, lan: &str, wan: &str, settings: &str, nat: &str) -> Running {
        let functions = if nat.is_empty() { "" } else { "\"nat\", " };
        let text = format!(
            r#"
{settings}
[management]
socket = "{}"
[memory]
hugepages = "off"
reserve_hugepages = false
[sessions]
capacity = 4096
[ports.lan]
{lan}
[ports.wan]
{wan}
[chains.edge]
functions = ["firewall", {functions}"router"]
zones.inside = ["lan"]
zones.outside = ["wan"]
[functions.firewall]
kind = "firewall"
[[functions.firewall.rules]]
action = "allow"
from = "inside"
to = "outside"
{nat}
[functions.router]
kind = "router"
interfaces.lan.addresses = ["10.1.0.1/24", "fd00:1::1/64"]
interfaces.wan.addresses = ["10.2.0.1/24", "fd00:2::1/64"]
"#,
            self.site.path("m.sock").display()
        );
        self.site.write("run.toml", &text);
        self.site.start_in(&self.router)
    }

    fn python(host: &Namespace, mode: &str, address: &str) -> Child {
        let mut python = host.enter(&Command::new("python3"));
        python.args(["-c", PROGRAM, mode, address, &STREAM_BYTES.to_string()]);
        python.stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Pings and a stream from the client, over both families.
    fn traffic(&self) {
        for target in ["10.2.0.2", "fd00:2::2"] {
            let text = self.client.output(&format!("ping -c 20 -i 0.01 -W 20 {target}"));
            assert!(text.contains(" 20 received"), "{text}");
        }
        self.streams();
    }

    fn streams(&self) {
        for target in ["10.2.0.2", "fd00:2::2"] {
            let server = Self::python(&self.outside, "listen", target);
            let start = Instant::now();
            while !self.outside.output("ss -ltn").contains(":5001") {
                assert!(start.elapsed() < Duration::from_secs(10), "the server does not listen");
            }
            let client = Self::python(&self.client, "connect", target);
            let ends = [client, server].map(|end| end.wait_with_output().unwrap());
            assert!(ends.iter().all(|end| end.status.success()), "{ends:?}");
            assert!(ends[0].stdout.starts_with(STREAM_BYTES.to_string().as_bytes()));
            assert_eq!(ends[0].stdout, ends[1].stdout, "what arrived is not what was sent");
        }
    }
}

#[test]
fn a_chain_over_packet_sockets_carries_streams_and_survives_its_interface() {
    if !may_make_namespaces("a_chain_over_packet_sockets_carries_streams_and_survives_its_interface") {
        return;
    }
    let edge = Edge::new();
    connect(&edge.router, &edge.client, "mr-lan");
    connect(&edge.router, &edge.outside, "mr-wan");
    address(&edge.client, "eth0", 1);
    address(&edge.outside, "eth0", 2);
    let port = |interface: &str| format!("kind = \"af_packet\"\ninterface = \"{interface}\"\nqueues = 2");
    let mut running = edge.start(&port("mr-lan"), &port("mr-wan"));
    edge.traffic();

    edge.router.run("ip link delete mr-lan");
    let link = |wanted: &str| {
        let start = Instant::now();
        while edge.site.show("ports").unwrap()[0]["link"] != *wanted {
            assert!(start.elapsed() < Duration::from_secs(20), "the link is not {wanted}");
        }
    };
    link("down");
    connect(&edge.router, &edge.client, "mr-lan");
    address(&edge.client, "eth0", 1);
    link("up");
    edge.traffic();
    running.signal("TERM");
    let output = running.end();
    accounting(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the interface is gone") && said.contains("the interface is back"), "{said}");
}

/// Both families, one of them translated; ARP and neighbour discovery are heard by all workers.
#[test]
fn two_workers_carry_streams() {
    const TEST: &str = "two_workers_carry_streams";
    if !may_make_namespaces(TEST) || !has_two_cores(TEST) {
        return;
    }
    for (io, queues) in [("shared", 1), ("dedicated", 1), ("shared", 2)] {
        let edge = Edge::new();
        connect(&edge.router, &edge.client, "mr-lan");
        connect(&edge.router, &edge.outside, "mr-wan");
        address(&edge.client, "eth0", 1);
        address(&edge.outside, "eth0", 2);
        let port =
            |interface: &str| format!("kind = \"af_packet\"\ninterface = \"{interface}\"\nqueues = {queues}");
        let workers = format!("[workers]\ncores = [0, 1]\nio = \"{io}\"");
        let nat = "[functions.nat]\nkind = \"nat\"\npool = [\"10.2.0.100\"]";
        let running = edge.start_with(&port("mr-lan"), &port("mr-wan"), &workers, nat);
        edge.traffic();
        let workers = edge.site.show("workers").unwrap();
        assert!(workers[1]["hits"].as_u64().unwrap() > 0 || io == "shared", "{workers:?}");
        // `stop` checks the sums (R13).
        running.stop();
    }
}

#[test]
fn a_chain_between_taps_carries_streams() {
    if !may_make_namespaces("a_chain_between_taps_carries_streams") {
        return;
    }
    let edge = Edge::new();
    let running = edge.start("kind = \"tap\"\nname = \"mr-lan\"", "kind = \"tap\"\nname = \"mr-wan\"");
    // Each host takes one as its interface.
    for (host, interface, number) in [(&edge.client, "mr-lan", 1), (&edge.outside, "mr-wan", 2)] {
        edge.router.run(&format!("ip link set dev {interface} netns {}", host.pid()));
        host.run(&format!("ip link set dev {interface} up"));
        address(host, interface, number);
    }
    edge.traffic();
    running.stop();
}

#[test]
fn streams_survive_faults_and_sums_hold() {
    if !may_make_namespaces("streams_survive_faults_and_sums_hold") {
        return;
    }
    let edge = Edge::new();
    connect(&edge.router, &edge.client, "mr-lan");
    connect(&edge.router, &edge.outside, "mr-wan");
    address(&edge.client, "eth0", 1);
    address(&edge.outside, "eth0", 2);
    let fault =
        "loss = 0.01, duplicate = 0.01, reorder = 0.02, corrupt = 0.002, truncate = 0.002, delay_us = 200";
    let port =
        |name: &str| format!("kind = \"af_packet\"\ninterface = \"{name}\"\nfault = {{ {fault}, seed = 7 }}");
    let running = edge.start(&port("mr-lan"), &port("mr-wan"));
    edge.streams();
    // `stop` checks the sums (R13).
    let account = running.stop();
    for port in account["ports"].as_array().unwrap() {
        for column in ["rx_drops", "tx_drops", "rx_copied", "tx_copied"] {
            assert!(port[column].as_u64().unwrap() > 0, "{column} of {port}");
        }
    }
}
