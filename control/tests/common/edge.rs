//! A client and an outside host with an instance between them: firewall, NAT and router, over one kind of port.

use std::process::{Child, Command, Stdio};

use super::net::Namespace;
use super::wait::wait_until;
use super::{Running, Site};

/// The kinds of port that a kernel is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    AfXdp,
    AfPacket,
    Tap,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::AfXdp, Self::AfPacket, Self::Tap];

    pub fn name(self) -> &'static str {
        match self {
            Self::AfXdp => "af_xdp",
            Self::AfPacket => "af_packet",
            Self::Tap => "tap",
        }
    }

    /// Settings of a port of this kind.
    pub fn port(self, interface: &str) -> String {
        match self {
            // Small rings: tests share the machine.
            Self::AfXdp => {
                format!("kind = \"af_xdp\"\ninterface = \"{interface}\"\nrx_ring = 1024\ntx_ring = 1024\n")
            }
            Self::AfPacket => format!("kind = \"af_packet\"\ninterface = \"{interface}\"\n"),
            Self::Tap => format!("kind = \"tap\"\nname = \"{interface}\"\n"),
        }
    }

    /// What the hosts call their interface to the port `mr-...`.
    pub fn host_interface(self, port: &'static str) -> &'static str {
        if self == Self::Tap { port } else { "eth0" }
    }
}

/// Interface `mr-lan` leads to the client (10.1.0.2, fd00:1::2), `mr-wan` to the outside host (10.2.0.2, fd00:2::2).
pub struct Edge {
    pub kind: Kind,
    /// Whether the tap device to the outside stays in the router's namespace, which then is the outside host.
    pub keeps_tap: bool,
    pub site: Site,
    pub client: Namespace,
    pub router: Namespace,
    pub outside: Namespace,
}

impl Edge {
    /// The network, but for what an instance makes itself.
    pub fn new(kind: Kind) -> Self {
        let (client, router, outside) = (Namespace::new(), Namespace::new(), Namespace::new());
        let edge = Self { kind, keeps_tap: false, site: Site::new(), client, router, outside };
        if kind != Kind::Tap {
            edge.plug("mr-lan");
            edge.plug("mr-wan");
        }
        edge
    }

    /// The outside host.
    pub fn far(&self) -> &Namespace {
        if self.keeps_tap { &self.router } else { &self.outside }
    }

    /// The host behind an interface, and its number in addresses.
    fn host(&self, interface: &str) -> (&Namespace, u8) {
        if interface == "mr-lan" { (&self.client, 1) } else { (self.far(), 2) }
    }

    /// Joins a host by a veth pair, or takes the tap device that the instance makes. Only AF_XDP needs a kernel that finishes its checksums.
    pub fn plug(&self, interface: &str) {
        if self.kind == Kind::Tap {
            return self.take_tap(interface);
        }
        let (host, _) = self.host(interface);
        self.router.run(&format!("ip link add {interface} type veth peer name eth0 netns {}", host.pid()));
        self.router.run(&format!("ip link set dev {interface} up"));
        host.run("ip link set dev eth0 up");
        if self.kind == Kind::AfXdp {
            host.run("ethtool -K eth0 tx off");
        }
        self.address(interface, "eth0");
    }

    /// Gives a host the tap device that the instance made.
    pub fn take_tap(&self, interface: &str) {
        let (host, _) = self.host(interface);
        wait_until("the instance makes its tap device", || {
            self.router.output("ip -o link show").contains(&format!(" {interface}: "))
        });
        if host.pid() != self.router.pid() {
            self.router.run(&format!("ip link set dev {interface} netns {}", host.pid()));
        }
        host.run(&format!("ip link set dev {interface} up"));
        self.address(interface, interface);
    }

    /// Gives a host its addresses, again if they went with a link.
    pub fn address(&self, interface: &str, of_host: &str) {
        let (host, number) = self.host(interface);
        host.run(&format!("sysctl -qw net.ipv6.conf.{of_host}.disable_ipv6=0"));
        host.run(&format!("ip address replace 10.{number}.0.2/24 dev {of_host}"));
        host.run(&format!("ip address replace fd00:{number}::2/64 dev {of_host} nodad"));
        host.run(&format!("ip route replace default via 10.{number}.0.1"));
        host.run(&format!("ip route replace default via fd00:{number}::1"));
    }

    /// A configuration. `port` is added to both ports, `settings` stands before all.
    pub fn text(&self, port: &str, settings: &str) -> String {
        format!(
            r#"
{settings}
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
{}{port}
[ports.wan]
{}{port}
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
[[functions.firewall.rules]]
name = "ping-router"
action = "allow"
to = "local"
protocol = "icmp"
icmp_type = "echo-request"
[functions.nat]
kind = "nat"
pool = ["10.2.0.100"]
[functions.router]
kind = "router"
interfaces.lan.addresses = ["10.1.0.1/24", "fd00:1::1/64"]
interfaces.wan.addresses = ["10.2.0.1/24", "fd00:2::1/64"]
"#,
            self.site.path("m.sock").display(),
            self.kind.port("mr-lan"),
            self.kind.port("mr-wan"),
        )
    }

    /// The command that runs the configuration `run.toml` of the site, in the router's namespace.
    pub fn command(&self) -> Command {
        self.site.command_in(&self.router)
    }

    /// Runs a configuration.
    pub fn start(&self, text: &str) -> Running {
        self.site.write("run.toml", text);
        let running = self.site.start_as(self.command());
        if self.kind == Kind::Tap {
            self.take_tap("mr-lan");
            self.take_tap("mr-wan");
        }
        running
    }

    /// A column of `show ports`.
    pub fn port(&self, at: usize, column: &str) -> serde_json::Value {
        self.site.show("ports").unwrap()[at][column].clone()
    }

    /// So many pings must be answered.
    pub fn ping(&self, target: &str, count: u32) {
        let text = self.client.output(&format!("ping -c {count} -i 0.01 -w 20 {target}"));
        assert!(received(&text) >= count, "{text}");
    }
}

/// How many answers a ping says that it received.
pub fn received(text: &str) -> u32 {
    let (before, _) = text.split_once(" received").unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Starts a Python program in a host.
pub fn python(host: &Namespace, program: &str, arguments: &[&str]) -> Child {
    let mut python = host.enter(Command::new("python3").args(["-c", program]).args(arguments));
    python.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}
