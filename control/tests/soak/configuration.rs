//! The configurations that take turns.

use std::fmt::Write;
use std::thread::available_parallelism;

use super::common::Site;
use super::random::Random;

const PROBES: &str = r#"
[[host.probes]]
name = "ping"
kind = "icmp"
target = "10.2.0.2"
interval = "200ms"
timeout = "200ms"
[[host.probes]]
name = "port"
kind = "tcp"
target = "10.1.0.2"
port = 5001
interval = "300ms"
timeout = "300ms"
[[host.probes]]
name = "ping-ipv6"
kind = "icmp"
target = "fd00:2::2"
interval = "500ms"
timeout = "500ms"
"#;

/// What varies. All variants serve the same traffic, but for what the third host gets.
#[derive(Clone, Debug)]
pub struct Configuration {
    workers: usize,
    /// Whether the third host has its port.
    pub third: bool,
    /// Whether a second firewall stands in the chain.
    guard: bool,
    pool: &'static str,
    default: &'static str,
    filtering: &'static str,
    rules: u64,
    routes: u64,
    udp_seconds: u64,
    log: bool,
    /// For how many patterns payloads are looked at, if they are.
    patterns: Option<u64>,
    /// Whether the host stack asks others whether they work.
    probes: bool,
    /// Cores of the workers that have the shares now.
    cores: &'static str,
}

/// Payloads are looked at on a core of its own, and all the time: what has a core keeps it.
fn looks_apart(workers: usize) -> bool {
    workers == 1 && available_parallelism().is_ok_and(|cores| cores.get() > 1)
}

impl Configuration {
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            third: false,
            guard: false,
            pool: "10.2.0.100-10.2.0.101",
            default: "deny",
            filtering: "address-and-port-dependent",
            rules: 0,
            routes: 0,
            udp_seconds: 2,
            log: false,
            patterns: looks_apart(workers).then_some(1),
            probes: false,
            cores: "0, 1",
        }
    }

    /// Another one, which differs in one thing; and what that is.
    pub fn change(&self, random: &mut Random) -> (Self, &'static str) {
        let mut new = self.clone();
        let what = match random.below(if self.workers > 1 { 11 } else { 10 }) {
            0 => {
                new.third = !self.third;
                "port"
            }
            1 => {
                new.guard = !self.guard;
                "function"
            }
            2 => {
                new.pool = random.one_of(&["10.2.0.100", "10.2.0.100-10.2.0.101", "10.2.0.100-10.2.0.115"]);
                "pool"
            }
            3 => {
                new.default = random.one_of(&["deny", "reject"]);
                "default"
            }
            4 => {
                new.filtering = random.one_of(&["address-and-port-dependent", "address-dependent"]);
                "filtering"
            }
            5 => {
                new.routes = random.below(40);
                "routes"
            }
            6 => {
                new.udp_seconds = 1 + random.below(4);
                "timeouts"
            }
            7 => {
                new.rules = random.below(300);
                new.log = random.once_in(2);
                "rules"
            }
            8 => {
                let ends = self.patterns.is_some() && !looks_apart(self.workers) && random.once_in(2);
                new.patterns = (!ends).then(|| 1 + random.below(100));
                "inspection"
            }
            9 => {
                new.probes = !self.probes;
                "probes"
            }
            _ => {
                new.cores = random.one_of(&["0", "1", "0, 1", "1, 0"]);
                "workers"
            }
        };
        (new, what)
    }

    pub fn without_probes(&self) -> Self {
        Self { probes: false, ..self.clone() }
    }

    pub fn has_probes(&self) -> bool {
        self.probes
    }

    pub fn text(&self, site: &Site) -> String {
        let workers = if self.workers > 1 {
            format!("[workers]\ncores = [{}]\nshares = {}\n", self.cores, self.workers)
        } else {
            String::new()
        };
        let third = |text: &'static str| if self.third { text } else { "" };
        let guard = if self.guard { "\"guard\", " } else { "" };
        let look = if self.patterns.is_some() { "\"look\", " } else { "" };
        let mut text = format!(
            r#"
{workers}
[management]
socket = "{socket}"
[metrics]
listen = "127.0.0.1:9469"
[memory]
reserve_hugepages = false
[sessions]
capacity = 8192
allow_short_timeouts = true
timeouts = {{ tcp_established = "10s", tcp_transitory = "2s", udp = "{udp}s", icmp = "2s", other = "2s" }}
[ports.lan]
kind = "af_xdp"
interface = "mr-lan"
rx_ring = 1024
tx_ring = 1024
[ports.wan]
kind = "af_packet"
interface = "mr-wan"
segmentation = "whole"
{tap}
[host]
echo = true
[host.status]
[chains.edge]
functions = [{look}{guard}"firewall", "nat", "router"]
zones.inside = ["lan"{inside}]
zones.outside = ["wan"]
[functions.nat]
kind = "nat"
pool = ["{pool}"]
filtering = "{filtering}"
forward = [{{ protocol = "tcp", external = "10.2.0.100:8080", internal = "10.1.0.2:5001" }}]
[functions.router]
kind = "router"
interfaces.lan.addresses = ["10.1.0.1/24", "fd00:1::1/64"]
interfaces.wan.addresses = ["10.2.0.1/24", "fd00:2::1/64"]
{interface}
"#,
            socket = site.path("m.sock").display(),
            udp = self.udp_seconds,
            pool = self.pool,
            filtering = self.filtering,
            tap = third("[ports.third]\nkind = \"tap\"\nname = \"mr-third\"\nsegmentation = \"whole\"\n"),
            inside = third(", \"third\""),
            interface = third("interfaces.third.addresses = [\"10.3.0.1/24\", \"fd00:3::1/64\"]\n"),
        );
        for number in 0..self.routes {
            let kind = if number % 2 == 0 { "via = \"10.2.0.2\"" } else { "kind = \"blackhole\"" };
            let _ = write!(text, "[[functions.router.routes]]\nprefix = \"10.99.{number}.0/24\"\n{kind}\n");
        }
        if self.probes {
            text += PROBES;
        }
        if let Some(patterns) = self.patterns {
            let core = if looks_apart(self.workers) { "core = 0\n" } else { "" };
            let _ = write!(text, "[functions.look]\nkind = \"inspect\"\n{core}");
            for number in 0..patterns {
                let action = if number % 2 == 0 { "count" } else { "drop" };
                let _ = write!(
                    text,
                    "[[functions.look.patterns]]\ntext = \"nobody says this {number}\"\naction = \"{action}\"\n"
                );
            }
        }
        if self.guard {
            text += "[functions.guard]\nkind = \"firewall\"\ndefault = \"allow\"\n";
        }
        let _ = write!(text, "[functions.firewall]\nkind = \"firewall\"\ndefault = \"{}\"\n", self.default);
        let log = if self.log { "log = true\n" } else { "" };
        for number in 0..self.rules {
            let _ = write!(
                text,
                "[[functions.firewall.rules]]\nname = \"refused-{number}\"\naction = \"deny\"\n\
                 destination = \"10.2.{}.0/24\"\nprotocol = \"tcp\"\ndestination_ports = {}\n",
                100 + number % 50,
                1 + number
            );
        }
        let _ = write!(
            text,
            r#"
[[functions.firewall.rules]]
name = "out"
action = "allow"
from = "inside"
to = "outside"
{log}
[[functions.firewall.rules]]
name = "forward"
action = "allow"
from = "outside"
to = "inside"
destination = "10.1.0.2"
protocol = "tcp"
destination_ports = 5001
[[functions.firewall.rules]]
name = "ping-in"
action = "allow"
from = "outside"
to = "inside"
protocol = "icmpv6"
icmp_type = "echo-request"
[[functions.firewall.rules]]
name = "ping-router"
action = "allow"
to = "local"
protocol = "icmp"
icmp_type = "echo-request"
[[functions.firewall.rules]]
name = "to-host"
action = "allow"
from = "inside"
to = "local"
[[functions.firewall.rules]]
name = "from-host"
action = "allow"
from = "local"
"#
        );
        text
    }
}
