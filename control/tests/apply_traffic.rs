//! `millrace apply` over AF_XDP between network namespaces, while real packets flow through a chain that it does not concern.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::Site;
use common::edge::python;
use common::hosts::Hosts;
use common::net::{Namespace, may_make_namespaces};

/// The chain `edge` between `lan` and `wan`, and `side`, which changes: another interface, pool, route, functions.
fn text(site: &Site, side: &str) -> String {
    format!(
        r#"
[management]
socket = "{}"
[sessions]
capacity = 4096
[ports.lan]
kind = "af_xdp"
interface = "mr-lan"
[ports.wan]
kind = "af_xdp"
interface = "mr-wan"
[chains.edge]
functions = ["firewall", "nat", "router"]
zones.inside = ["lan"]
zones.outside = ["wan"]
[functions.firewall]
kind = "firewall"
[[functions.firewall.rules]]
name = "out"
action = "allow"
from = "inside"
to = "outside"
[functions.nat]
kind = "nat"
pool = ["198.51.100.1"]
[functions.router]
kind = "router"
interfaces.lan.addresses = ["10.0.0.1/24"]
interfaces.wan.addresses = ["198.51.100.1/24"]
{side}"#,
        site.path("m.sock").display()
    )
}

/// `side` between an AF_XDP port and a sink, with these functions in front of its router.
fn side(functions: &str, pool: &str, via: &str) -> String {
    let nat = if functions.contains("side-nat") {
        format!("[functions.side-nat]\nkind = \"nat\"\npool = [\"{pool}\"]\n")
    } else {
        String::new()
    };
    format!(
        r#"
[ports.spare]
kind = "af_xdp"
interface = "mr-spare"
[ports.drain]
kind = "sink"
[chains.side]
functions = [{functions}"side-router"]
zones.inside = ["spare"]
zones.outside = ["drain"]
{nat}[functions.side-router]
kind = "router"
routes = [{{ prefix = "0.0.0.0/0", via = "{via}" }}]
interfaces.spare.addresses = ["10.1.0.1/24"]
[functions.side-router.interfaces.drain]
addresses = ["203.0.113.1/24"]
neighbours = [
    {{ address = "203.0.113.2", mac = "02:00:00:00:01:02" }},
    {{ address = "203.0.113.3", mac = "02:00:00:00:01:03" }},
]
"#
    )
}

/// Not one echo is lost while ports, chains, a NAT's pool and routes beside them change, each many times.
#[test]
fn a_chain_that_a_change_does_not_concern_loses_nothing() {
    if !may_make_namespaces("a_chain_that_a_change_does_not_concern_loses_nothing") {
        return;
    }
    let Hosts { client, outside: _outside, router } = Hosts::new(1);
    let spare = Namespace::new();
    router.connect(&spare, "mr-spare", "10.1.0.2/24", 1);
    spare.run("ip route add default via 10.1.0.1");
    let site = Site::new();
    site.write("run.toml", &text(&site, ""));
    let running = site.start_in(&router);
    client.run("ping -c 2 -i 0.1 -W 5 198.51.100.2");

    let changes = [
        text(&site, &side("", "", "203.0.113.2")),
        text(&site, &side("\"side-nat\", ", "203.0.113.16/28", "203.0.113.2")),
        text(&site, &side("\"side-nat\", ", "203.0.113.32/28", "203.0.113.3")),
        text(&site, &side("", "", "203.0.113.3")),
        text(&site, ""),
    ];
    let mut ping = router_ping(&client);
    let mut other =
        spare.enter(std::process::Command::new("ping").args(["-i", "0.01", "-w", "60", "192.0.2.1"]));
    let mut other = other.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut longest = 0;
    let mut rounds = 0;
    while ping.try_wait().unwrap().is_none() {
        for change in &changes {
            let said = site.applied(change);
            assert_eq!(said["applied"], true);
            longest = longest.max(said["worker_nanos"].as_u64().unwrap());
        }
        rounds += 1;
    }
    other.kill().unwrap();
    other.wait().unwrap();
    println!("{rounds} rounds; the worker was held up {longest} ns at most");
    let output = ping.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("600 packets transmitted, 600 received"), "{text}");
    assert!(rounds > 0);
    running.stop();
}

/// 600 echoes from inside, 10 ms apart.
fn router_ping(client: &Namespace) -> std::process::Child {
    let mut ping = std::process::Command::new("ping");
    let mut inside = client.enter(ping.args(["-q", "-c", "600", "-i", "0.01", "-W", "5", "198.51.100.2"]));
    inside.stdout(Stdio::piped()).spawn().unwrap()
}

/// Sends each datagram back.
const SERVER: &str = r#"
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.bind(("10.0.0.2", 53))
print("ready", flush=True)
while True:
    s.sendto(*s.recvfrom(2048))
"#;

/// Says whether somebody answers there, from the address that was asked.
const ASK: &str = r#"
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.settimeout(0.5)
s.connect(("198.51.100.1", 5353))
s.send(b"question")
try:
    print(s.recv(2048).decode())
except OSError:
    print("nobody")
"#;

/// An address that was the router's alone becomes an external one, and ceases to be, while packets of others flow: neither the
/// connections through the NAT's pool nor pings of that address itself notice.
#[test]
fn the_first_forward_of_an_own_address_works_at_once() {
    if !may_make_namespaces("the_first_forward_of_an_own_address_works_at_once") {
        return;
    }
    let Hosts { client, outside, router } = Hosts::new(1);
    let site = Site::new();
    let rules = r#"
[[functions.firewall.rules]]
name = "names"
action = "allow"
from = "outside"
to = "inside"
protocol = "udp"
destination = "10.0.0.2"
destination_ports = 53
[[functions.firewall.rules]]
name = "ping-router"
action = "allow"
to = "local"
protocol = "icmp"
icmp_type = "echo-request"
[functions.nat]
"#;
    let forward =
        "forward = [{ protocol = \"udp\", external = \"198.51.100.1:5353\", internal = \"10.0.0.2:53\" }]\n";
    let with = |forward: &str| {
        let pool = format!("pool = [\"198.51.100.9\"]\n{forward}");
        text(&site, "").replace("[functions.nat]\n", rules).replace("pool = [\"198.51.100.1\"]\n", &pool)
    };
    site.write("run.toml", &with(""));
    let running = site.start_in(&router);
    let mut server = python(&client, SERVER, &[]);
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ask = || {
        let output = python(&outside, ASK, &[]).wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let pinging = |host: &Namespace, target: &str| {
        // Neighbours are known from here on.
        host.run(&format!("ping -c 2 -i 0.1 -W 5 {target}"));
        let ping = ["-q", "-i", "0.01", "-W", "5", "-c", "400", target];
        host.enter(std::process::Command::new("ping").args(ping)).stdout(Stdio::piped()).spawn().unwrap()
    };
    let pings = [pinging(&client, "198.51.100.2"), pinging(&outside, "198.51.100.1")];
    assert_eq!((line.trim(), ask().as_str()), ("ready", "nobody"));
    for (forward, answer) in [(forward, "question"), ("", "nobody"), (forward, "question")] {
        let said = site.applied(&with(forward));
        assert_eq!(said["applied"], true, "{said}");
        assert_eq!(ask(), answer, "after {forward:?}");
    }
    server.kill().unwrap();
    server.wait().unwrap();
    for ping in pings {
        let text = String::from_utf8_lossy(&ping.wait_with_output().unwrap().stdout).into_owned();
        assert!(text.contains("400 packets transmitted, 400 received"), "{text}");
    }
    running.stop();
}
