//! The hosts: a client and server inside, one outside, and a third that comes and goes.

use std::process::Command;
use std::time::{Duration, Instant};

use super::common::edge::received;
use super::common::net::Namespace;
use super::common::{Site, millrace};

/// Addresses of the inside host, each a host of its own for the NAT: 10.1.0.2 and on.
pub const INSIDE_ADDRESSES: u8 = 8;

pub struct Network {
    pub site: Site,
    pub inside: Namespace,
    pub router: Namespace,
    pub outside: Namespace,
    pub third: Namespace,
}

impl Network {
    pub fn new() -> Self {
        let network = Self {
            site: Site::new(),
            inside: Namespace::new(),
            router: Namespace::new(),
            outside: Namespace::new(),
            third: Namespace::new(),
        };
        for host in [&network.inside, &network.outside, &network.third] {
            // What is left of killed clients shall not take the ports of the next.
            host.run("sysctl -qw net.ipv4.tcp_fin_timeout=1");
            host.bash("sysctl -qw 'net.ipv4.ip_local_port_range=10000 65000'");
        }
        network.plug("mr-lan");
        network.plug("mr-wan");
        network
    }

    /// Joins a host by a veth pair.
    pub fn plug(&self, interface: &str) {
        let host = if interface == "mr-lan" { &self.inside } else { &self.outside };
        self.router.run(&format!("ip link add {interface} type veth peer name eth0 netns {}", host.pid()));
        self.router.run(&format!("ip link set dev {interface} up"));
        self.address(interface);
    }

    /// Brings a host's end up, with its addresses and routes.
    pub fn address(&self, interface: &str) {
        if interface == "mr-lan" {
            self.inside.run("ethtool -K eth0 tx off");
            up(&self.inside, "eth0", 1, INSIDE_ADDRESSES);
        } else {
            up(&self.outside, "eth0", 2, 1);
        }
    }

    /// Takes the tap device of the third host, which the instance just made.
    pub fn take_third(&self) {
        self.router.run(&format!("ip link set dev mr-third netns {}", self.third.pid()));
        up(&self.third, "mr-third", 3, 1);
    }

    /// A command of Millrace that concerns the instance.
    pub fn ask(&self, arguments: &[&str]) -> Command {
        let mut command = millrace();
        command.args(arguments).arg("--socket").arg(self.site.path("m.sock"));
        command
    }

    /// Applies a configuration in the namespace of the interfaces. Returns whether it was accepted, and what was said.
    pub fn apply(&self, text: &str) -> (bool, String) {
        let output = self.router.enter(&self.site.apply_command(text)).output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    }

    /// When all is calm, everything that shall pass does.
    pub fn prove_that_all_works(&self) {
        let all_answered = |host: &Namespace, target: &str| {
            let text = host.output(&format!("ping -n -q -c 20 -i 0.05 -w 20 {target}"));
            assert!(received(&text) >= 20, "at the end, ping of {target}: {text}");
        };
        for target in ["10.2.0.2", "fd00:2::2", "10.1.0.1"] {
            all_answered(&self.inside, target);
        }
        all_answered(&self.outside, "fd00:1::2");
    }

    /// Waits until no session is left, and says how many there were.
    pub fn wait_for_expiry(&self) -> usize {
        let start = Instant::now();
        let before = self.site.show("sessions").unwrap().len();
        loop {
            let left = self.site.show("sessions").unwrap();
            if left.is_empty() {
                return before;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "sessions that do not expire: {left:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn up(host: &Namespace, interface: &str, number: u8, addresses: u8) {
    host.run(&format!("sysctl -qw net.ipv6.conf.{interface}.disable_ipv6=0"));
    host.run(&format!("ip link set dev {interface} up"));
    for last in 2..2 + addresses {
        host.run(&format!("ip address replace 10.{number}.0.{last}/24 dev {interface}"));
    }
    host.run(&format!("ip address replace fd00:{number}::2/64 dev {interface} nodad"));
    host.run(&format!("ip route replace default via 10.{number}.0.1"));
    host.run(&format!("ip route replace default via fd00:{number}::1"));
}
