//! The command over AF_XDP as people leave it running: signals, crashes, queues; and what is left behind.

mod common;

use std::fs::{self, File, TryLockError};
use std::io::{Read, Write, pipe};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::hosts::Hosts;
use common::net::{Namespace, may_make_namespaces};
use common::wait::wait_until;
use common::{Running, Site, accounting, millrace};

/// A client and an outside host around a router namespace, in which an instance can run over AF_XDP.
struct Edge {
    site: Site,
    client: Namespace,
    router: Namespace,
    _outside: Namespace,
}

impl Edge {
    fn new(queues: u32) -> Self {
        let Hosts { client, outside, router } = Hosts::new(queues);
        let edge = Self { site: Site::new(), client, router, _outside: outside };
        edge.site.write("run.toml", &edge.text(queues));
        edge
    }

    fn text(&self, queues: u32) -> String {
        format!(
            r#"
[management]
socket = "{}"
[sessions]
capacity = 4096
[ports.lan]
kind = "af_xdp"
interface = "mr-lan"
queues = {queues}
promiscuous = true
rx_ring = 512
tx_ring = 512
[ports.wan]
kind = "af_xdp"
interface = "mr-wan"
queues = {queues}
rx_ring = 512
tx_ring = 512
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
"#,
            self.site.path("m.sock").display()
        )
    }

    fn start(&self) -> Running {
        self.site.start_in(&self.router)
    }

    fn ping(&self, count: u32) {
        let text = self.client.output(&format!("ping -c {count} -i 0.01 -W 20 198.51.100.2"));
        // One more than asked for is sent where the first answer takes longer than the interval.
        assert!(text.contains(", 0% packet loss"), "{text}");
    }

    /// All that the system says of the two interfaces: flags, promiscuity, programs.
    fn interfaces(&self) -> String {
        self.router.output("ip -d link show dev mr-lan") + &self.router.output("ip -d link show dev mr-wan")
    }

    /// The identifier of the XDP program on an interface.
    fn program(&self, interface: &str) -> Option<String> {
        let text = self.router.output(&format!("ip -d link show dev {interface}"));
        let (_, rest) = text.split_once("prog/xdp id ")?;
        rest.split_whitespace().next().map(str::to_owned)
    }

    /// Fails unless everything is as it was: interfaces, socket, ledgers, huge pages.
    fn assert_nothing_is_left(&self, interfaces: &str, pages: (u64, u64)) {
        wait_until("an XDP program outlives its process", || self.program("mr-lan").is_none());
        assert_eq!(self.interfaces(), interfaces);
        let left: Vec<_> =
            fs::read_dir(self.site.path("")).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left, ["run.toml"]);
        assert_eq!(orphaned_ledgers(), Vec::<String>::new());
        wait_until("huge pages are missing (or another program took some meanwhile)", || {
            let (all, free) = huge_pages();
            all == pages.0 && free >= pages.1
        });
    }
}

/// Huge pages of 2 MiB: in all, and free.
fn huge_pages() -> (u64, u64) {
    let number = |name: &str| {
        let text = fs::read_to_string(format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}"));
        text.unwrap_or_default().trim().parse().unwrap_or(0)
    };
    (number("nr_hugepages"), number("free_hugepages"))
}

/// Ledgers of reserved pages that nobody holds any more.
fn orphaned_ledgers() -> Vec<String> {
    let Ok(files) = fs::read_dir("/run/millrace") else { return Vec::new() };
    let ledgers = files.map(|file| file.unwrap().path()).filter(|path| {
        let held =
            || File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("hugepages-")) && !held()
    });
    ledgers.map(|path| path.display().to_string()).collect()
}

#[test]
fn signals_drain_and_kill_9_is_cleaned_up_after() {
    if !may_make_namespaces("signals_drain_and_kill_9_is_cleaned_up_after") {
        return;
    }
    let edge = Edge::new(1);
    let (interfaces, pages) = (edge.interfaces(), huge_pages());
    for signal in ["INT", "TERM"] {
        let mut running = edge.start();
        assert!(edge.interfaces().contains("promiscuity 1"));
        edge.ping(50);
        // Packets are on their way when it comes.
        let ping = Command::new("ping");
        let mut ping = edge.client.enter(&ping);
        let mut ping = ping
            .args(["-q", "-c", "100", "-i", "0.002", "198.51.100.2"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(50));
        running.signal(signal);
        let accounting = accounting(&running.end());
        assert!(accounting["sums"]["received"].as_u64().unwrap() >= 100, "{accounting}");
        assert_eq!(accounting["ports"][0]["link"], "up", "as it was while it ran");
        edge.assert_nothing_is_left(&interfaces, pages);
        ping.wait().unwrap();
    }

    let mut running = edge.start();
    edge.ping(5);
    let program = edge.program("mr-lan");
    running.signal("KILL");
    assert_eq!(running.end().status.signal(), Some(9));
    assert!(edge.site.path("m.sock").exists());
    // Pages that it had added to the system's pool; the pool is a directory of ours.
    let pool = edge.site.path("pool");
    fs::create_dir(&pool).unwrap();
    fs::write(pool.join("nr_hugepages"), "15\n").unwrap();
    let ledger = format!("/run/millrace/hugepages-of-a-test-{}", std::process::id());
    fs::create_dir_all("/run/millrace").unwrap();
    fs::write(&ledger, format!("added 5 10 {}\n", pool.display())).unwrap();
    let running = edge.start();
    assert_ne!(edge.program("mr-lan"), program);
    edge.ping(50);
    let mut running = running;
    running.signal("TERM");
    let output = running.end();
    accounting(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("left by an instance that was killed"), "{said}");
    assert_eq!(fs::read_to_string(pool.join("nr_hugepages")).unwrap().trim(), "10", "{said}");
    assert!(!fs::exists(ledger).unwrap());
    fs::remove_dir_all(pool).unwrap();
    edge.assert_nothing_is_left(&interfaces, pages);
}

#[test]
fn a_second_signal_ends_a_run_whose_reader_takes_nothing() {
    let site = Site::new();
    let (mut reader, mut writer) = pipe().unwrap();
    // The pipe is full: neither a line nor the accounting can be printed.
    writer.write_all(&[b'.'; 65_536]).unwrap();
    let mut command = millrace();
    command.args(["run", "--interval", "50ms"]).arg(site.path("run.toml")).stdout(writer);
    let mut running = site.start_as(command);
    std::thread::sleep(Duration::from_millis(300));
    let sent = |site: &Site| site.show("ports").unwrap()[1]["tx_packets"].as_u64().unwrap();
    let before = sent(&site);
    wait_until("packets flow on", || sent(&site) > before + 1_000);
    running.signal("TERM");
    wait_until("the first signal drains", || !site.path("m.sock").exists());
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(running.child().try_wait().unwrap(), None, "the accounting waits to be read");
    running.signal("TERM");
    let start = Instant::now();
    assert_eq!(running.end().status.signal(), Some(15));
    assert!(start.elapsed() < Duration::from_secs(1));
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    assert_eq!(text.len(), 65_536);
}

/// Packets that each receive queue of an interface handed to an XDP program.
fn packets_by_queue(namespace: &Namespace, interface: &str) -> Vec<u64> {
    let text = namespace.output(&format!("ethtool -S {interface}"));
    let counters = text.lines().filter_map(|line| line.trim().split_once(": "));
    let queues = counters.filter(|(name, _)| name.starts_with("rx_queue_") && name.ends_with("_xdp_packets"));
    queues.map(|(_, count)| count.parse().unwrap()).collect()
}

#[test]
fn several_queues_of_an_interface_are_one_port() {
    if !may_make_namespaces("several_queues_of_an_interface_are_one_port") {
        return;
    }
    let edge = Edge::new(4);
    for interface in ["mr-lan", "mr-wan"] {
        edge.router.run(&format!("ethtool -L {interface} rx 4 tx 4"));
    }
    let interfaces = edge.interfaces();
    edge.site.write("run.toml", &edge.text(8));
    let mut command = millrace();
    let refused = edge.router.enter(command.arg("run").arg(edge.site.path("run.toml"))).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("ethtool -L mr-lan"), "{said}");

    edge.site.write("run.toml", &edge.text(4));
    let running = edge.start();
    // Resolves the neighbours.
    edge.ping(1);
    // The kernel spreads flows over the queues by their hash. Nearly each of these packets is a flow of its own.
    edge.client.bash("for i in $(seq 400); do echo x > /dev/udp/198.51.100.2/9; done");
    let received = |port: usize| edge.site.show("ports").unwrap()[port]["rx_packets"].as_u64().unwrap();
    wait_until("all packets are received", || received(0) >= 400 + 2);
    let queues = packets_by_queue(&edge.router, "mr-lan");
    assert!(queues.len() == 4 && queues.iter().all(|&packets| packets > 20), "{queues:?}");
    let ports = edge.site.show("ports").unwrap();
    let description = ports[0]["description"].as_str().unwrap();
    assert!(description.contains("and 3 more"), "{description}");
    assert_eq!(received(0), packets_by_queue(&edge.router, "mr-lan").iter().sum::<u64>());
    let accounting = running.stop();
    let drops = accounting["drops"].as_array().unwrap();
    assert!(drops.is_empty(), "a worker that keeps up has time for new flows (R12): {drops:?}");
    let rule =
        accounting["functions"].as_array().unwrap().iter().find(|row| row["item"] == "rule out").unwrap();
    assert!(rule["count"].as_u64().unwrap() > 390, "{rule}");
    assert_eq!(edge.interfaces(), interfaces);
}

#[test]
fn of_two_instances_on_an_interface_the_second_is_refused() {
    if !may_make_namespaces("of_two_instances_on_an_interface_the_second_is_refused") {
        return;
    }
    let edge = Edge::new(1);
    let running = edge.start();
    edge.ping(2);
    let other = edge.site.write("other.toml", &edge.text(1).replace("m.sock", "other.sock"));
    let mut command = millrace();
    let refused = edge.router.enter(command.arg("run").arg(other)).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("another process of Millrace uses it"), "{said}");
    assert!(!edge.site.path("other.sock").exists());
    edge.ping(20);
    running.stop();
}
