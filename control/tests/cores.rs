//! Workers are added and removed while packets flow: shares of the connections move from core to core, and nobody notices.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use common::cores::has_two_cores;
use common::edge::{Edge, Kind};
use common::hosts::Hosts;
use common::killed::Killed;
use common::net::{Namespace, may_make_namespaces};
use common::wait::wait_until;
use common::{Site, millrace};

/// Answers each chunk of each stream, and each datagram, with itself.
const SERVER: &str = r#"
import selectors, socket
ready = selectors.DefaultSelector()
tcp = socket.create_server(("198.51.100.2", 7))
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind(("198.51.100.2", 7))
ready.register(tcp, selectors.EVENT_READ)
ready.register(udp, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in ready.select():
        if key.fileobj is tcp:
            ready.register(tcp.accept()[0], selectors.EVENT_READ)
        elif key.fileobj is udp:
            udp.sendto(*udp.recvfrom(2048))
        else:
            chunk = key.fileobj.recv(65536)
            key.fileobj.sendall(chunk) if chunk else ready.unregister(key.fileobj)
"#;

/// From forty hosts, a stream and a socket for datagrams each. Both send a number and wait for it to come back, round after
/// round, until standard input ends. A datagram that does not come back is an error.
const CLIENT: &str = r#"
import select, socket, sys
streams, datagrams = [], []
for host in range(40):
    source = "10.0.0.%d" % (10 + host)
    streams.append(socket.create_connection(("198.51.100.2", 7), 20, (source, 4000)))
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.bind((source, 4000))
    udp.connect(("198.51.100.2", 7))
    udp.settimeout(20)
    datagrams.append(udp)
rounds = 0
while True:
    chunk = rounds.to_bytes(8, "big") * 100
    for it in streams + datagrams:
        it.sendall(chunk)
    for it in datagrams:
        assert it.recv(2048) == chunk
    for it in streams:
        got = b""
        while len(got) < len(chunk):
            more = it.recv(len(chunk) - len(got))
            assert more
            got += more
        assert got == chunk
    rounds += 1
    if rounds == 10:
        print("ready", flush=True)
    if rounds > 10 and select.select([sys.stdin], [], [], 0)[0]:
        break
print("rounds", rounds, flush=True)
"#;

/// A script in a namespace, killed if the test fails.
struct Script(Killed, BufReader<std::process::ChildStdout>);

impl Script {
    fn start(host: &Namespace, text: &str) -> Self {
        let mut python = host.enter(Command::new("python3").args(["-c", text]));
        let mut child = Killed(python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child, lines)
    }

    /// Tells it to end; the number that it prints last.
    fn end(mut self) -> u64 {
        self.0.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        assert!(self.0.0.wait().unwrap().success(), "{line}");
        line.trim_end().rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

fn edge(site: &Site, workers: &str) -> String {
    format!(
        r#"
[workers]
{workers}
[memory]
hugepages = "off"
[management]
socket = "{}"
[metrics]
listen = "off"
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
hairpinning = false
[functions.router]
kind = "router"
interfaces.lan.addresses = ["10.0.0.1/24"]
interfaces.wan.addresses = ["198.51.100.1/24"]
"#,
        site.path("m.sock").display()
    )
}

/// Each worker's core and shares.
fn seats(site: &Site) -> Vec<(u64, String)> {
    let rows = site.show("workers").unwrap();
    rows.iter()
        .map(|row| (row["core"].as_u64().unwrap(), row["shares"].as_str().unwrap().to_owned()))
        .collect()
}

/// What may not change of what `topic` shows.
fn rows(site: &Site, topic: &str, columns: &[&str]) -> BTreeSet<Vec<String>> {
    let rows = site.show(topic).unwrap();
    rows.iter().map(|row| columns.iter().map(|column| row[column].to_string()).collect()).collect()
}

fn sessions(site: &Site) -> BTreeSet<Vec<String>> {
    rows(site, "sessions", &["share", "session", "protocol", "initiator", "responder"])
}

#[test]
fn connections_live_on_while_cores_come_and_go() {
    const TEST: &str = "connections_live_on_while_cores_come_and_go";
    if !may_make_namespaces(TEST) || !has_two_cores(TEST) {
        return;
    }
    let Hosts { client, outside, router } = Hosts::new(1);
    (10..50).for_each(|host| client.run(&format!("ip address add 10.0.0.{host}/24 dev eth0")));
    let site = Site::new();
    let text = |cores: &str| edge(&site, &format!("cores = {cores}\nshares = 4"));
    site.write("run.toml", &text("[0]"));
    let running = site.start_in(&router);
    assert_eq!(seats(&site), [(0, "0 1 2 3".to_owned())]);

    let _server = Script::start(&outside, SERVER);
    let traffic = Script::start(&client, CLIENT);
    let ping = ["-q", "-c", "400", "-i", "0.01", "-W", "10", "198.51.100.2"];
    let mut ping = client.enter(Command::new("ping").args(ping)).stdout(Stdio::piped()).spawn().unwrap();
    while sessions(&site).len() < 81 {
        assert!(ping.try_wait().unwrap().is_none(), "{:?}", sessions(&site));
    }
    let mapping = ["share", "protocol", "inside", "external"];
    let (before, mappings) = (sessions(&site), rows(&site, "nat", &mapping));
    let shares: BTreeSet<_> = before.iter().map(|row| row[0].clone()).collect();
    assert_eq!((before.len(), mappings.len()), (81, 81));
    assert_eq!(shares.len(), 4, "each share owns some: {before:?}");

    let (mut rounds, mut longest) = (0, 0);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Shares answer wherever they are.
        let asks = scope.spawn(|| {
            let mut asked = 0;
            while !is_over.load(Ordering::Relaxed) {
                let explained = site.ask(&[
                    "explain",
                    "--json",
                    "--input",
                    "lan",
                    "--packet",
                    "udp 10.0.0.10:4000 > 198.51.100.2:7",
                ]);
                let said: Value = serde_json::from_slice(&explained.stdout)
                    .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&explained.stderr)));
                assert_eq!(said["session"]["direction"], "original", "{said}");
                asked += 1;
            }
            asked
        });
        while ping.try_wait().unwrap().is_none() {
            for cores in ["[0, 1]", "[1]", "[0, 1]", "[0]"] {
                let said = site.applied(&text(cores));
                assert!(said["summary"].as_str().unwrap().starts_with("workers "), "{said}");
                longest = longest.max(said["worker_nanos"].as_u64().unwrap());
                let seats = seats(&site);
                let counts: Vec<usize> = seats.iter().map(|(_, shares)| shares.split(' ').count()).collect();
                let at: Vec<u64> = serde_json::from_str(cores).unwrap();
                assert_eq!(seats.iter().map(|(core, _)| *core).collect::<Vec<_>>(), at, "{seats:?}");
                assert_eq!(counts, vec![4 / at.len(); at.len()], "{seats:?}");
                assert_eq!(sessions(&site), before);
                let rows = site.show("shares").unwrap();
                assert!(rows.len() == 4 && rows.iter().all(|row| row["sums_hold"] == true), "{rows:?}");
            }
            rounds += 1;
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(asks.join().unwrap() > 0);
    });
    println!("{rounds} rounds of 4 changes; a share stood still for {longest} ns at most");
    let output = ping.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("400 packets transmitted, 400 received"), "{said}");
    assert!(rounds > 0);
    assert_eq!(rows(&site, "nat", &mapping), mappings);
    let workers = site.show("workers").unwrap();
    assert!(workers[0]["busy_turns"].as_u64().unwrap() > 0, "{workers:?}");
    println!("{} rounds of traffic", traffic.end());
    // `stop` checks the sums and the frames of all (R13).
    let account = running.stop();
    let drops = account["drops"].as_array().unwrap();
    assert!(!drops.iter().any(|row| row["reason"] == "ring_full"), "{drops:?}");
}

/// As [`Site::text`], with this for its workers.
fn generator(site: &Site, workers: &str) -> String {
    let pool = "pool = [\"203.0.113.16/28\"]";
    let text = site.text().replace(pool, &format!("{pool}\nhairpinning = false"));
    text.replace("[memory]", &format!("[workers]\n{workers}\n[memory]"))
}

#[test]
fn who_only_receives_and_sends_has_the_first_core_alone() {
    if !has_two_cores("who_only_receives_and_sends_has_the_first_core_alone") {
        return;
    }
    let site = Site::new();
    let text = |cores: &str| generator(&site, &format!("cores = {cores}\nshares = 3\nio = \"dedicated\""));
    let file = site.write("run.toml", &text("[0, 1]"));
    let checked = millrace().arg("check").arg(file).output().unwrap();
    let plan = String::from_utf8_lossy(&checked.stdout).into_owned();
    let rings = "source queue 0, drain queue 0, 12 rings, no connections";
    assert!(plan.contains(&format!("worker 0 on core 0: {rings}")), "{plan}");
    assert!(plan.contains("worker 1 on core 1 with shares 1 2 3: nothing, 12 rings;"), "{plan}");
    let running = site.start();
    assert_eq!(seats(&site), [(0, "0".to_owned()), (1, "1 2 3".to_owned())]);
    let said = site.applied(&text("[1, 0]"));
    assert_eq!(said["summary"], "workers 2 changed");
    assert_eq!(seats(&site), [(1, "0".to_owned()), (0, "1 2 3".to_owned())]);
    let rows = site.show("shares").unwrap();
    let of: Vec<_> = rows.iter().map(|row| (row["worker"].as_u64(), row["core"].as_u64())).collect();
    assert_eq!(of, [(Some(0), Some(1)), (Some(1), Some(0)), (Some(1), Some(0)), (Some(1), Some(0))]);
    running.stop();
}

#[test]
fn what_cannot_be_is_refused_before_anything_moves() {
    if !has_two_cores("what_cannot_be_is_refused_before_anything_moves") {
        return;
    }
    let site = Site::new();
    site.write("run.toml", &generator(&site, "cores = [0, 1]"));
    let running = site.start();
    let before = [(0, "0".to_owned()), (1, "1".to_owned())];
    assert_eq!(seats(&site), before);
    for (workers, expected) in [
        ("cores = [0]\nshares = 3", "workers.cores can change, up to a core for each share"),
        ("cores = [0]\nshares = 1", "fewer cores run the same shares"),
        ("cores = [0, 4095]", "there is no core 4095 that this process may use"),
        ("cores = [0, 1, 2]", "3 workers can't divide 2 shares of connections"),
        ("cores = [0, 1]\nio = \"dedicated\"", "key: workers.io"),
        ("cores = [0, 1]\nidle = \"poll\"", "key: workers.idle"),
        ("cores = [0, 0]", "two workers on one core take each other's time"),
    ] {
        let output = site.apply(&generator(&site, workers));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{workers}: {said}");
        assert_eq!(seats(&site), before);
    }
    // Whoever names no shares keeps them.
    let said = site.applied(&generator(&site, "cores = [1]"));
    assert_eq!(said["summary"], "workers -1 1 changed");
    assert_eq!(seats(&site), [(1, "0 1".to_owned())]);
    // Hairpins may come and go.
    let has_port = || site.show("ports").unwrap().iter().any(|port| port["port"] == "(hairpins of nat)");
    assert!(!has_port());
    for _ in 0..3 {
        site.applied(&generator(&site, "cores = [1]").replace("hairpinning = false", ""));
        assert!(has_port());
        site.applied(&generator(&site, "cores = [1]"));
    }
    running.stop();
}

/// Whenever the end comes: every share is with somebody who closes it.
#[test]
fn an_end_amid_changes_loses_nothing() {
    if !has_two_cores("an_end_amid_changes_loses_nothing") {
        return;
    }
    for round in 0..5 {
        let site = Site::new();
        let text = |cores: &str| generator(&site, &format!("cores = {cores}\nshares = 4\nidle = \"sleep\""));
        site.write("run.toml", &text("[0]"));
        let running = site.start();
        std::thread::scope(|scope| {
            let changes = scope.spawn(|| {
                let mut changes = 0;
                while ["[0, 1]", "[1]", "[0, 1]", "[0]"].iter().all(|cores| {
                    changes += 1;
                    site.apply(&text(cores)).status.success()
                }) {}
                changes
            });
            std::thread::sleep(Duration::from_millis(200 + 7 * round));
            // Checks the sums and the frames.
            let account = running.stop();
            assert!(account["sums"]["received"].as_u64().unwrap() > 0, "{account}");
            assert!(changes.join().unwrap() > 1);
        });
    }
}

/// The threads of a process by name, with the cores that each may use.
fn threads(process: u32) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let read = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.ok()?.path();
        let status = std::fs::read_to_string(path.join("status")).ok()?;
        let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        Some((name.trim().to_owned(), cores.trim().to_owned()))
    };
    tasks.filter_map(read).collect()
}

/// A thread that polls has its core for itself, where there are others; also when it moves.
#[test]
fn control_threads_keep_off_the_cores_of_workers() {
    if !has_two_cores("control_threads_keep_off_the_cores_of_workers") {
        return;
    }
    let site = Site::new();
    let text = |core: usize| site.text() + &format!("[workers]\ncores = [{core}]\nshares = 2\n");
    let text = |core: usize| text(core).replace("flows = 3000", "flows = 3000\nsource = \"192.0.2.64/26\"");
    site.write("run.toml", &text(1));
    let mut running = site.start();
    let process = running.child().id();
    let apart = |core: usize| {
        let all = threads(process);
        let worker = format!("worker-{core}");
        assert!(all.contains(&(worker.clone(), core.to_string())), "{all:?}");
        let has = |cores: &str| {
            cores.split(',').any(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                (first.parse().unwrap()..=last.parse().unwrap()).contains(&core)
            })
        };
        let near: Vec<_> = all.iter().filter(|(name, cores)| *name != worker && has(cores)).collect();
        assert!(near.is_empty(), "on core {core}: {near:?}");
        assert!(all.len() > 3, "{all:?}");
    };
    apart(1);
    for core in [0, 1] {
        site.write("run.toml", &text(core));
        let output = millrace().arg("apply").arg(site.path("run.toml")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        apart(core);
    }
    running.stop();
}

/// What a port starts to wait for the kernel, it starts on the worker.
#[test]
fn who_opens_an_interface_anew_keeps_off_the_core_of_the_worker() {
    const TEST: &str = "who_opens_an_interface_anew_keeps_off_the_core_of_the_worker";
    if !may_make_namespaces(TEST) || !has_two_cores(TEST) {
        return;
    }
    let edge = Edge::new(Kind::AfXdp);
    let mut running = edge.start(&edge.text("", "[workers]\ncores = [1]"));
    let process = running.child().id();
    // Where the thread was seen on the worker's core, and elsewhere.
    let (mut with, mut beside) = (0, 0);
    for _ in 0..5 {
        edge.router.run("ip link delete mr-wan");
        wait_until("the port notices", || edge.port(1, "link") == "down");
        std::thread::scope(|scope| {
            let back = scope.spawn(|| {
                edge.plug("mr-wan");
                wait_until("the port is back", || edge.port(1, "link") == "up");
            });
            while !back.is_finished() {
                for (_, cores) in threads(process).into_iter().filter(|(name, _)| name == "af_xdp-return") {
                    *(if cores == "1" { &mut with } else { &mut beside }) += 1;
                }
            }
        });
    }
    println!("on the core of the worker: {with}, elsewhere: {beside}");
    assert!(beside > with, "{with} {beside}");
    running.stop();
}
