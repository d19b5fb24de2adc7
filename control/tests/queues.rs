//! A queue of each port for each worker: all queues receive, and what leaves is what leaves one worker, in the same order flow by
//! flow, in both directions.

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use common::cores::has_two_cores;
use common::net::{Namespace, may_make_namespaces};
use common::{Running, Site, millrace};

/// Numbers of many flows there and back. Both ends print what they got, by flow and in order.
const PROGRAM: &str = "
import socket, struct, sys, json, time, collections
mode, flows, numbers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
got = collections.defaultdict(list)
if mode == 'echo':
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)
    s.bind(('10.2.0.2', 7000)); s.settimeout(30)
    print('ready', flush=True)
    while True:
        data, who = s.recvfrom(2048)
        flow, number = struct.unpack('!II', data[:8])
        if flow == 0xffffffff: break
        got[flow].append(number); s.sendto(data, who)
else:
    all = []
    for flow in range(flows):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(('10.1.0.%d' % (2 + flow % 16), 20000 + flow)); s.setblocking(False); all.append(s)
    def take(s, flow):
        try:
            while True: got[flow].append(struct.unpack('!II', s.recv(2048)[:8])[1])
        except BlockingIOError: pass
    for number in range(numbers):
        for flow, s in enumerate(all): s.sendto(struct.pack('!II', flow, number) + bytes(40), ('10.2.0.2', 7000))
        time.sleep(0.003)
        for flow, s in enumerate(all): take(s, flow)
    end = time.time() + 5
    while sum(map(len, got.values())) < flows * numbers and time.time() < end:
        time.sleep(0.01)
        for flow, s in enumerate(all): take(s, flow)
    all[0].sendto(struct.pack('!II', 0xffffffff, 0), ('10.2.0.2', 7000))
print(json.dumps(got, sort_keys=True), flush=True)
";
const FLOWS: usize = 96;
const NUMBERS: usize = 25;

/// A client and a server, and an instance between them in a namespace of its own.
struct Edge {
    site: Site,
    client: Namespace,
    router: Namespace,
    server: Namespace,
}

impl Edge {
    fn new() -> Self {
        let edge = Self {
            site: Site::new(),
            client: Namespace::new(),
            router: Namespace::new(),
            server: Namespace::new(),
        };
        for (host, interface, number) in edge.links() {
            edge.router.connect(host, interface, &format!("10.{number}.0.2/24"), 2);
            edge.router.run(&format!("ip link set dev {interface} address 02:00:00:00:0{number}:01"));
        }
        edge.set_up();
        edge
    }

    /// Each host with the interface that it is behind, and its number in addresses.
    fn links(&self) -> [(&Namespace, &'static str, u8); 2] {
        [(&self.client, "mr-lan", 1), (&self.server, "mr-wan", 2)]
    }

    /// Gives the hosts their addresses, and what they know of their neighbour.
    fn set_up(&self) {
        for (host, _, number) in self.links() {
            host.run(&format!("ip link set dev eth0 address 02:00:00:00:0{number}:02"));
            let gateway = format!("10.{number}.0.1 lladdr 02:00:00:00:0{number}:01");
            host.run(&format!("ip neighbour replace {gateway} dev eth0"));
            host.run(&format!("ip route replace default via 10.{number}.0.1"));
        }
        for host in 3..18 {
            self.client.run(&format!("ip address replace 10.1.0.{host}/24 dev eth0"));
        }
    }

    /// Gives the hosts the tap devices that the instance made, in place of what joined them before.
    fn take_taps(&self) {
        for (host, interface, number) in self.links() {
            self.router.run(&format!("ip link set dev {interface} netns {} name eth0", host.pid()));
            host.run(&format!("ip address replace 10.{number}.0.2/24 dev eth0"));
            host.run("ip link set dev eth0 up");
        }
        self.set_up();
    }

    fn start(&self, port: &str, workers: &str) -> Running {
        let interface = |name: &str, number: u8| match port.contains("tap") {
            true => format!("name = \"{name}\"\nmac = \"02:00:00:00:0{number}:01\""),
            false => format!("interface = \"{name}\""),
        };
        let hosts: Vec<_> = (2..18)
            .map(|host| format!("{{ address = \"10.1.0.{host}\", mac = \"02:00:00:00:01:02\" }}"))
            .collect();
        let text = format!(
            r#"
[workers]
{workers}
[management]
socket = "{}"
[metrics]
listen = "off"
[memory]
hugepages = "off"
reserve_hugepages = false
[sessions]
capacity = 4096
[ports.lan]
{port}
{}
[ports.wan]
{port}
{}
[chains.edge]
functions = ["firewall", "nat", "router"]
zones.inside = ["lan"]
zones.outside = ["wan"]
[functions.firewall]
kind = "firewall"
[[functions.firewall.rules]]
action = "allow"
from = "inside"
[functions.nat]
kind = "nat"
pool = ["10.2.0.100"]
filtering = "endpoint-independent"
forward = [{{ protocol = "tcp", external = "10.2.0.100:80", internal = "10.1.0.5:8000" }}]
[functions.router]
kind = "router"
[functions.router.interfaces.lan]
addresses = ["10.1.0.1/24"]
neighbours = [{}]
[functions.router.interfaces.wan]
addresses = ["10.2.0.1/24"]
neighbours = [{{ address = "10.2.0.2", mac = "02:00:00:00:02:02" }}]
"#,
            self.site.path("m.sock").display(),
            interface("mr-lan", 1),
            interface("mr-wan", 2),
            hosts.join(", "),
        );
        self.site.write("run.toml", &text);
        let running = self.site.start_in(&self.router);
        if port.contains("tap") {
            self.take_taps();
        }
        running
    }

    fn python(host: &Namespace, mode: &str) -> std::process::Child {
        let mut python = host.enter(&Command::new("python3"));
        python.args(["-c", PROGRAM, mode, &FLOWS.to_string(), &NUMBERS.to_string()]);
        python.stdout(Stdio::piped()).spawn().unwrap()
    }

    /// What the server got, and what came back.
    fn numbers(&self) -> [Value; 2] {
        let server = Self::python(&self.server, "echo");
        let start = Instant::now();
        while !self.server.output("ss -lun").contains(":7000") {
            assert!(start.elapsed() < Duration::from_secs(10), "the server does not listen");
        }
        let client = Self::python(&self.client, "ask");
        [server, client].map(|end| {
            let output = end.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            serde_json::from_str(text.lines().last().unwrap()).unwrap()
        })
    }
}

/// All inside hosts learn their external ends from a server outside, and then call each other by them; and all fetch from one of them
/// by a forward.
const HAIRPINS: &str = "
import socket, sys, threading
if sys.argv[1] == 'mirror':
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.2.0.2', 7000)); s.settimeout(30)
    while True:
        data, who = s.recvfrom(2048)
        if data == b'end': break
        s.sendto(('%s %d' % who).encode(), who)
    sys.exit()
hosts = ['10.1.0.%d' % host for host in range(2, 18)]
def ask(s, data, to):
    for _ in range(3):
        s.sendto(data, to)
        try: return s.recvfrom(2048)
        except TimeoutError: pass
    raise SystemExit('no answer from %s' % (to,))
sockets, ends = {}, {}
for host in hosts:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((host, 5000)); s.settimeout(5)
    address, port = ask(s, b'who am I', ('10.2.0.2', 7000))[0].decode().split()
    sockets[host], ends[host] = s, (address, int(port))
calls = 0
for caller in hosts:
    for callee in hosts:
        if caller == callee: continue
        said = ('%s calls %s' % (caller, callee)).encode()
        sockets[caller].sendto(said, ends[callee])
        data, seen = sockets[callee].recvfrom(2048)
        assert (data, seen) == (said, ends[caller]), (data, seen, ends[caller])
        sockets[callee].sendto(b'yes, ' + said, seen)
        data, seen = sockets[caller].recvfrom(2048)
        assert (data, seen) == (b'yes, ' + said, ends[callee]), (data, seen)
        calls += 1
block = bytes(i * 31 % 251 for i in range(300000))
server = socket.socket(); server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); server.bind(('10.1.0.5', 8000)); server.listen(32)
def serve():
    for host in hosts:
        c, who = server.accept(); assert who[0] == '10.2.0.100', who
        c.sendall(block); c.close()
thread = threading.Thread(target=serve, daemon=True); thread.start()
for host in hosts:
    c = socket.create_connection(('10.2.0.100', 80), timeout=10, source_address=(host, 0)); got = b''
    while data := c.recv(1 << 16): got += data
    assert got == block, (host, len(got)); calls += 1
sockets[hosts[0]].sendto(b'end', ('10.2.0.2', 7000))
print(calls, flush=True)
";

/// RFC 4787 section 6 REQ-9: with sockets, by datagrams and streams, with one share and with several.
#[test]
fn inside_hosts_reach_each_other_whoever_owns_them() {
    const TEST: &str = "inside_hosts_reach_each_other_whoever_owns_them";
    if !may_make_namespaces(TEST) || !has_two_cores(TEST) {
        return;
    }
    let edge = Edge::new();
    for (queues, workers) in [(1, "cores = [0]"), (1, "cores = [0, 1]"), (2, "cores = [0]\nshares = 3")] {
        let running = edge.start(&format!("kind = \"af_packet\"\nqueues = {queues}"), workers);
        let run = |host: &Namespace, mode: &str| {
            let mut python = host.enter(&Command::new("python3"));
            python.args(["-c", HAIRPINS, mode]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mirror = run(&edge.server, "mirror");
        let start = Instant::now();
        while !edge.server.output("ss -lun").contains(":7000") {
            assert!(start.elapsed() < Duration::from_secs(10), "the server does not listen");
        }
        let output = run(&edge.client, "call").wait_with_output().unwrap();
        assert!(output.status.success(), "{workers}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "256\n");
        assert!(mirror.wait_with_output().unwrap().status.success());
        let ports = edge.site.show("ports").unwrap();
        let hairpins = ports.iter().find(|port| port["port"] == "(hairpins of nat)");
        assert_eq!(hairpins.is_some(), workers != "cores = [0]");
        if let Some(port) = hairpins {
            assert!(count(port, "rx_packets") > 200, "{port}");
            assert_eq!((count(port, "rx_drops"), count(port, "tx_drops")), (0, 0), "{port}");
        }
        running.stop();
    }
}

/// The numbers of each flow in their order.
fn sort(got: &mut Value) {
    for numbers in got.as_object_mut().unwrap().values_mut() {
        numbers.as_array_mut().unwrap().sort_by_key(Value::as_u64);
    }
}

/// The first flow whose numbers differ.
fn difference(one: &[Value; 2], two: &[Value; 2]) -> String {
    let flows = one.iter().zip(two).flat_map(|(one, two)| {
        one.as_object().unwrap().iter().map(move |(flow, numbers)| (flow, numbers, &two[flow]))
    });
    let mut different = flows.filter(|(_, one, two)| one != two);
    different.next().map_or("other flows".into(), |(flow, one, two)| format!("flow {flow}: {two}, not {one}"))
}

fn count(row: &Value, column: &str) -> u64 {
    row[column].as_u64().unwrap()
}

#[test]
fn every_worker_polls_a_queue_and_flows_keep_their_order() {
    const TEST: &str = "every_worker_polls_a_queue_and_flows_keep_their_order";
    if !may_make_namespaces(TEST) || !has_two_cores(TEST) {
        return;
    }
    let edge = Edge::new();
    for kind in ["af_packet", "af_xdp", "tap"] {
        if kind == "tap" {
            edge.router.run("ip link delete mr-lan");
            edge.router.run("ip link delete mr-wan");
        }
        let port = format!("kind = \"{kind}\"\nqueues = 2");
        let running = edge.start(&port, "cores = [0]");
        let one = edge.numbers();
        running.stop();
        let whole: Vec<u64> = (0..NUMBERS as u64).collect();
        for got in &one {
            let flows = got.as_object().unwrap();
            assert_eq!(flows.len(), FLOWS, "{kind}");
            assert!(flows.values().all(|numbers| *numbers == Value::from(whole.clone())), "{kind}: {got}");
        }
        let running = edge.start(&port, "cores = [0, 1]");
        let checked = millrace().arg("check").arg(edge.site.path("run.toml")).output().unwrap();
        let plan = String::from_utf8_lossy(&checked.stdout).into_owned();
        for worker in 0..2 {
            let polls =
                format!("worker {worker} on core {worker}: lan queue {worker}, wan queue {worker}, 18 rings");
            assert!(plan.contains(&polls), "{plan}");
        }
        let mut two = edge.numbers();
        if kind == "tap" {
            // A flow that the kernel gives to another queue may be overtaken at that moment.
            two.iter_mut().for_each(sort);
        }
        assert!(two == one, "{kind}: {}", difference(&one, &two));
        let workers = edge.site.show("workers").unwrap();
        // Each received by its queue what is the other's, and sent what is its own: nothing went back by rings. The kernel gives a
        // flow to the queue of a tap device that its answers came from, so that only the first of each are another's.
        let least = if kind == "tap" { 0 } else { 100 };
        for worker in &workers {
            assert!(
                count(worker, "handed_out") > least && count(worker, "sessions") > 10,
                "{kind}: {workers:?}"
            );
            assert!(worker["sums_hold"] == true, "{worker}");
        }
        let ports = edge.site.show("ports").unwrap();
        let most = (FLOWS * NUMBERS * 3 / 2) as u64;
        for port in ports.iter().filter(|port| port["port"] != "(hairpins of nat)") {
            let moved = count(port, "rx_packets") + count(port, "tx_packets");
            assert!(moved > 2 * (FLOWS * NUMBERS) as u64 && count(port, "rx_packets") < most, "{port}");
            let description = port["description"].as_str().unwrap();
            assert!(description.contains("queue 0") && description.contains("2 workers poll"), "{port}");
        }
        // Checks the sums and the frames of all.
        running.stop();
    }
}
