//! The host stack: real clients in namespaces reach the data plane's own addresses through a chain.

mod common;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::cores::has_two_cores;
use common::hosts::Hosts;
use common::killed::Killed;
use common::net::{Namespace, may_make_namespaces};
use common::wait::wait_until;
use common::{Running, Site};
use serde_json::Value;

const STREAM_BYTES: usize = 10 << 20;

/// Sends `size` bytes to the echo service of an address, and compares what comes back.
const ECHO: &str = "
import socket, sys, threading
kind, address, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ':' in address else socket.AF_INET
def block(n, start=0): return bytes((i * 31 + i // 251) % 256 for i in range(start, start + n))
if kind == 'tcp':
    data = block(65521) * (size // 65521 + 1)
    data = data[:size]
    s = socket.create_connection((address, 7), timeout=60)
    def send():
        s.sendall(data); s.shutdown(socket.SHUT_WR)
    t = threading.Thread(target=send); t.start()
    got = bytearray()
    while True:
        piece = s.recv(1 << 20)
        if not piece: break
        got += piece
    t.join()
    assert got == data, (len(got), len(data))
else:
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(5); s.connect((address, 7))
    for n in list(range(0, size, 97)) + [size]:
        s.send(block(n, n)); assert s.recv(65535) == block(n, n), n
print('same', flush=True)
";

/// A client and an outside host; between them, in a namespace of its own, an instance.
struct Edge {
    site: Site,
    client: Namespace,
    outside: Namespace,
    router: Namespace,
}

/// Lets the inside reach everything, and the data plane everybody.
const RULES: &str = r#"
[[functions.firewall.rules]]
name = "inside"
action = "allow"
from = "inside"
[[functions.firewall.rules]]
name = "own"
action = "allow"
from = "local"
"#;

impl Edge {
    fn new() -> Self {
        let Hosts { client, outside, router } = Hosts::new(1);
        for (host, address, own) in
            [(&client, "fd00:1::2", "fd00:1::1"), (&outside, "2001:db8:ffff::2", "2001:db8:ffff::1")]
        {
            host.run("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0");
            host.run(&format!("ip address add {address}/64 dev eth0 nodad"));
            host.run(&format!("ip route add default via {own}"));
        }
        outside.run("ip route add default via 198.51.100.1");
        Self { site: Site::new(), client, outside, router }
    }

    /// The configuration with these settings at the top, and these rules.
    fn text(&self, settings: &str, rules: &str) -> String {
        format!(
            r#"
{settings}
[management]
socket = "{}"
[memory]
hugepages = "off"
reserve_hugepages = false
[metrics]
listen = "off"
[sessions]
capacity = 4096
[ports.lan]
kind = "af_packet"
interface = "mr-lan"
[ports.wan]
kind = "af_packet"
interface = "mr-wan"
[chains.edge]
functions = ["firewall", "nat", "router"]
zones.inside = ["lan"]
zones.outside = ["wan"]
[functions.firewall]
kind = "firewall"
{rules}
[functions.nat]
kind = "nat"
pool = ["198.51.100.1"]
hairpinning = false
[functions.router]
kind = "router"
interfaces.lan.addresses = ["10.0.0.1/24", "fd00:1::1/64"]
interfaces.wan.addresses = ["198.51.100.1/24", "2001:db8:ffff::1/64"]
"#,
            self.site.path("m.sock").display()
        )
    }

    fn start(&self, settings: &str, rules: &str) -> Running {
        self.site.write("run.toml", &self.text(settings, rules));
        self.site.start_in(&self.router)
    }

    fn apply(&self, settings: &str, rules: &str) -> String {
        let command = self.site.apply_command(&self.text(settings, rules));
        let output = self.router.enter(&command).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    fn drops(&self, reason: &str) -> u64 {
        let rows = self.site.show("drops").unwrap();
        let rows = rows.iter().filter(|row| row["reason"] == reason);
        rows.map(|row| row["packets"].as_u64().unwrap()).sum()
    }
}

fn curl(host: &Namespace, arguments: &[&str]) -> Output {
    host.enter(Command::new("curl").args(["-sS", "--max-time", "10", "-g"]).args(arguments)).output().unwrap()
}

/// What curl got; it must get something.
fn got(host: &Namespace, arguments: &[&str]) -> String {
    let output = curl(host, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn echo(host: &Namespace, kind: &str, address: &str, bytes: usize) -> Command {
    let mut python = Command::new("python3");
    python.args(["-c", ECHO, kind, address, &bytes.to_string()]);
    host.enter(&python)
}

fn echoes(host: &Namespace, kind: &str, address: &str, bytes: usize) {
    let output = echo(host, kind, address, bytes).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("same"), "{kind} {address}: {said}{}", String::from_utf8_lossy(&output.stderr));
}

const STATUS: &str = "[host.status]";

#[test]
fn the_status_page_is_reached_as_the_rules_say() {
    if !may_make_namespaces("the_status_page_is_reached_as_the_rules_say") {
        return;
    }
    let edge = Edge::new();
    let running = edge.start(STATUS, RULES);
    for url in ["http://10.0.0.1:8080/", "http://198.51.100.1:8080/", "http://[fd00:1::1]:8080/"] {
        let page = got(&edge.client, &[url]);
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"), "{page}");
        assert!(page.contains("<td>host@edge</td>"), "{page}");
    }
    let json = got(&edge.client, &["http://[2001:db8:ffff::1]:8080/status.json?x=1"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let ports = edge.site.show("ports").unwrap();
    let names = |rows: &[Value]| rows.iter().map(|row| row["port"].clone()).collect::<Vec<_>>();
    assert_eq!(names(json["ports"].as_array().unwrap()), names(&ports));
    let columns = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(columns(&json["ports"][0]), columns(&ports[0]), "the rows of show");
    assert_eq!(json["chains"][0]["chain"], "edge");
    assert!(json["workers"][0]["turns"].as_u64().unwrap() > 0);

    // What else may be asked.
    let base = "http://10.0.0.1:8080";
    let head = got(&edge.client, &["-I", &format!("{base}/")]);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Length: "), "{head}");
    let status = |arguments: &[&str]| {
        got(&edge.client, &[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat())
    };
    assert_eq!(status(&[&format!("{base}/other")]), "404");
    assert_eq!(status(&["-X", "POST", "-d", "x", &format!("{base}/")]), "405");
    let long = format!("X-Long: {}", "y".repeat(9_000));
    assert_eq!(status(&["-H", &long, &format!("{base}/")]), "431");

    // Nobody outside, unless a rule says so.
    let denied = edge.drops("firewall_denied");
    for url in ["http://198.51.100.1:8080/", "http://[2001:db8:ffff::1]:8080/", "http://[fd00:1::1]:8080/"] {
        let refused = curl(&edge.outside, &["--max-time", "1", url]);
        assert!(!refused.status.success(), "{url}");
    }
    assert!(edge.drops("firewall_denied") >= denied + 3);
    let opened = format!(
        "{RULES}[[functions.firewall.rules]]\naction = \"allow\"\nfrom = \"outside\"\nto = \"local\"\nprotocol = \"tcp\"\ndestination_ports = 8080\n"
    );
    edge.apply(STATUS, &opened);
    for url in ["http://198.51.100.1:8080/", "http://[2001:db8:ffff::1]:8080/"] {
        assert!(got(&edge.outside, &[url]).contains("host@edge"));
    }
    // Another port and one address; then none.
    edge.apply("[host.status]\nport = 81\naddresses = \"10.0.0.1\"", &opened);
    wait_until("the page moves", || curl(&edge.client, &["http://10.0.0.1:81/"]).status.success());
    let closed = [(&edge.client, "http://10.0.0.1:8080/"), (&edge.client, "http://198.51.100.1:81/")];
    for (host, url) in closed {
        assert_eq!(curl(host, &[url]).status.code(), Some(7), "refused by a reset: {url}");
    }
    edge.apply("", &opened);
    assert_eq!(curl(&edge.client, &["http://10.0.0.1:81/"]).status.code(), Some(7));
    edge.apply(STATUS, &opened);
    wait_until("the page is back", || curl(&edge.client, &["http://10.0.0.1:8080/"]).status.success());
    // Many at once: more than there are places, so some may be refused, and none is forgotten.
    let many = "for i in $(seq 60); do curl -s --max-time 20 http://10.0.0.1:8080/status.json -o /dev/null -w '%{http_code} ' & done; wait";
    let output = edge.client.enter(Command::new("bash").args(["-c", many])).output().unwrap();
    let codes = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(codes.matches("200").count() >= 30, "{codes}");
    running.stop();
}

#[test]
fn streams_and_datagrams_come_back_whole() {
    if !may_make_namespaces("streams_and_datagrams_come_back_whole") {
        return;
    }
    let workers = ["", "[workers]\ncores = [0, 1]\n"];
    for workers in workers
        .iter()
        .filter(|workers| workers.is_empty() || has_two_cores("streams_and_datagrams_come_back_whole"))
    {
        let edge = Edge::new();
        let running = edge.start(&format!("{workers}[host]\necho = true"), RULES);
        for address in ["10.0.0.1", "fd00:1::1", "198.51.100.1"] {
            echoes(&edge.client, "tcp", address, STREAM_BYTES);
            let longest = if address.contains(':') { 1_452 } else { 1_472 };
            echoes(&edge.client, "udp", address, longest);
        }
        let rows = edge.site.show("workers").unwrap();
        assert!(rows.iter().all(|row| row["sums_hold"] == true), "{rows:?}");
        if !workers.is_empty() {
            // Many connections, so that each worker has some.
            for _ in 0..8 {
                echoes(&edge.client, "tcp", "fd00:1::1", 100_000);
            }
            assert!(rows[0]["handed_out"].as_u64().unwrap() > 0);
        }
        let accounting = running.stop();
        let host = accounting["ports"].as_array().unwrap().iter().find(|row| row["port"] == "host@edge");
        let host = host.unwrap();
        assert!(host["tx_bytes"].as_u64().unwrap() as usize > 3 * STREAM_BYTES, "{host}");
        assert_eq!(host["tx_drops"], 0, "{host}");
    }
}

/// Serves each connection with this status until it is killed.
const SERVER: &str = "
import http.server, sys, socket
class S(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200 if self.path == '/health' else 503
        self.send_response(status); self.send_header('Content-Length', '2'); self.end_headers(); self.wfile.write(b'ok')
    def log_message(self, *a): pass
S((sys.argv[1], 80), H).serve_forever()
";

fn serve(host: &Namespace, address: &str) -> Killed {
    let mut python = Command::new("python3");
    Killed(host.enter(python.args(["-c", SERVER, address])).spawn().unwrap())
}

const PROBES: &str = r#"
[[host.probes]]
name = "ping"
kind = "icmp"
target = "198.51.100.2"
interval = "200ms"
timeout = "200ms"
[[host.probes]]
name = "ping6"
kind = "icmp"
target = "fd00:1::2"
interval = "200ms"
timeout = "200ms"
[[host.probes]]
name = "web"
kind = "http"
target = "10.0.0.2"
path = "/health"
interval = "200ms"
timeout = "200ms"
rise = 3
[[host.probes]]
name = "busy"
kind = "http"
target = "10.0.0.2"
interval = "200ms"
timeout = "200ms"
[[host.probes]]
name = "port"
kind = "tcp"
target = "10.0.0.2"
port = 80
interval = "200ms"
timeout = "200ms"
[[host.probes]]
name = "nobody"
kind = "icmp"
target = "10.0.0.99"
interval = "200ms"
timeout = "200ms"
"#;

#[test]
fn probes_follow_what_hosts_do() {
    if !may_make_namespaces("probes_follow_what_hosts_do") {
        return;
    }
    let edge = Edge::new();
    let running = edge.start(PROBES, RULES);
    let row = |name: &str| {
        let rows = edge.site.show("probes").unwrap();
        rows.into_iter().find(|row| row["probe"] == name).unwrap()
    };
    let reaches =
        |name: &str, state: &str| wait_until(&format!("{name} is {state}"), || row(name)["state"] == state);
    for name in ["ping", "ping6"] {
        reaches(name, "up");
        assert!(row(name)["latency_us"].as_u64().unwrap() < 200_000, "{}", row(name));
    }
    for (name, error) in [
        ("web", "the connection is refused"),
        ("port", "the connection is refused"),
        ("nobody", "no answer in time"),
    ] {
        reaches(name, "down");
        wait_until(name, || row(name)["error"] == error);
    }
    let server = serve(&edge.client, "10.0.0.2");
    reaches("web", "up");
    reaches("port", "up");
    wait_until("busy", || row("busy")["error"] == "the status is 503");
    assert_eq!((&row("busy")["state"], &row("web")["error"]), (&"down".into(), &Value::Null));
    drop(server);
    reaches("web", "down");
    reaches("port", "down");
    // A host that is gone without a word.
    edge.outside.run("ip link set dev eth0 down");
    reaches("ping", "down");
    let good = row("ping6")["good"].as_u64().unwrap();
    edge.outside.run("ip link set dev eth0 up");
    reaches("ping", "up");
    // What stays as it is stays known; the others are asked anew, or no more.
    let fewer = PROBES.split("[[host.probes]]\nname = \"web\"").next().unwrap();
    edge.apply(fewer, RULES);
    wait_until("fewer are asked", || edge.site.show("probes").unwrap().len() == 2);
    assert!(row("ping6")["good"].as_u64().unwrap() >= good && row("ping6")["state"] == "up");
    running.stop();
}

#[test]
fn a_thread_that_panics_comes_back_and_nobody_else_notices() {
    if !may_make_namespaces("a_thread_that_panics_comes_back_and_nobody_else_notices") {
        return;
    }
    let edge = Edge::new();
    let switch = edge.site.path("panics");
    edge.site.write("run.toml", &edge.text(&format!("[host]\necho = true\n[host.status]\n{PROBES}"), RULES));
    let mut inside = edge.site.command_in(&edge.router);
    inside.env("MILLRACE_TEST_HOST_PANICS", &switch);
    let running = edge.site.start_as(inside);
    wait_until("it serves", || curl(&edge.client, &["http://10.0.0.1:8080/"]).status.success());
    edge.client.run("ping -c 1 -W 5 198.51.100.2");
    let mut ping = Command::new("ping");
    let mut ping = edge.client.enter(ping.args(["-q", "-c", "300", "-i", "0.01", "-W", "5", "198.51.100.2"]));
    let ping = ping.stdout(Stdio::piped()).spawn().unwrap();
    for _ in 0..2 {
        edge.site.write("panics", "");
        wait_until("it panics", || !switch.exists());
        wait_until("it comes back", || {
            curl(&edge.client, &["--max-time", "2", "http://10.0.0.1:8080/"]).status.success()
        });
    }
    echoes(&edge.client, "tcp", "10.0.0.1", 100_000);
    let rows = edge.site.show("probes").unwrap();
    assert!(rows.iter().any(|row| row["probe"] == "ping6" && row["state"] == "up"), "{rows:?}");
    let output = ping.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("300 packets transmitted, 300 received"), "{text}");
    running.stop();
}

/// SYNs from many ports and addresses, and datagrams, as fast as a process can.
const FLOOD: &str = "
import socket, sys, time, struct, random
def checksum(b):
    if len(b) % 2: b += b'\\0'
    s = sum(struct.unpack('!%dH' % (len(b) // 2), b))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
target = socket.inet_aton('10.0.0.1'); end = time.time() + float(sys.argv[1]); sent = 0
while time.time() < end:
    source = bytes([10, 0, 0, random.randrange(3, 250)])
    tcp = struct.pack('!HHIIBBHHH', random.randrange(1024, 65535), 8080, random.randrange(1 << 32), 0, 0x50, 2, 1024, 0, 0)
    sum_ = checksum(source + target + struct.pack('!BBH', 0, 6, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack('!H', sum_) + tcp[18:]
    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 40, random.randrange(65536), 0, 64, 6, 0, source, target)
    try:
        raw.sendto(ip + tcp, ('10.0.0.1', 0)); udp.sendto(b'x' * 1000, ('10.0.0.1', 7)); sent += 2
    except OSError: pass
print(sent, flush=True)
";

#[test]
fn a_flood_of_the_own_address_stops_no_transfer_and_takes_no_memory() {
    if !may_make_namespaces("a_flood_of_the_own_address_stops_no_transfer_and_takes_no_memory") {
        return;
    }
    let edge = Edge::new();
    let mut running = edge.start("[host]\necho = true\n[host.status]", RULES);
    wait_until("it serves", || curl(&edge.client, &["http://10.0.0.1:8080/"]).status.success());
    echoes(&edge.client, "udp", "10.0.0.1", 1_000);
    let mut listen = Command::new("python3");
    listen.args(["-c", "import socket\ns=socket.create_server(('198.51.100.2',5001)); c,_=s.accept(); n=0\nwhile d:=c.recv(1<<20): n+=len(d)\nprint(n, flush=True)"]);
    let mut listener = edge.outside.enter(&listen);
    let listener = listener.stdout(Stdio::piped()).spawn().unwrap();
    let millrace_pid = running.child().id();
    let before = resident_kib(millrace_pid);
    let mut flood = Command::new("python3");
    let mut flood = edge.client.enter(flood.args(["-c", FLOOD, "6"]));
    let flood = flood.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let send = "import socket,time\nfor i in range(50):\n  try: s=socket.create_connection(('198.51.100.2',5001)); break\n  except OSError: time.sleep(.1)\nfor i in range(80): s.sendall(b'y'*65536)\ns.close()";
    let mut sender = Command::new("python3");
    let sent = edge.client.enter(sender.args(["-c", send])).status().unwrap();
    assert!(sent.success());
    let received = listener.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&received.stdout).trim(), (80 * 65_536).to_string());
    let flooded = String::from_utf8_lossy(&flood.wait_with_output().unwrap().stdout).into_owned();
    assert!(flooded.trim().parse::<u64>().unwrap() > 1_000, "{flooded}");
    let after = resident_kib(millrace_pid);
    assert!(after < before + 32 * 1_024, "{before} KiB before, {after} KiB after");
    // It serves as before.
    wait_until("it serves again", || curl(&edge.client, &["http://10.0.0.1:8080/"]).status.success());
    let rows = edge.site.show("workers").unwrap();
    println!("{} packets of the flood, memory {before} to {after} KiB, {rows:?}", flooded.trim());
    running.stop();
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
