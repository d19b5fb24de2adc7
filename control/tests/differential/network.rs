//! The two networks: a middle in a namespace, once the kernel's own stack with nftables and once Millrace, and a namespace with
//! both ends, where packet sockets send and receive and no host answers.
//!
//! ```text
//! [inside] -- 10.0.0.1 lan, middle, wan 198.51.100.1 -- [outside]
//!             fd00:1::1                 2001:db8:ffff::1
//! ```

use std::thread;
use std::time::{Duration, Instant};

use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::Burst;
use millrace_dataplane::port::Port as DataplanePort;
use millrace_dataplane::port::af_packet::{self, AfPacketConfig};
use millrace_dataplane::time::{Clock, SystemClock};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::common::net::Namespace;
use super::common::{Running, Site};
use super::packet::{Body, End, Host, Packet, Port, Resolve, fragment};
use super::seen::{Cause, Names, Seen, tell};

const FRAME_BYTES: usize = 2048;
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest packet of the outside; that of the inside is 1,500 bytes.
pub const OUTSIDE_MTU: usize = 1400;

/// Rules of both: what begins inside may go out, but for port 25, which is refused; from outside, what the port forwards
/// lead to, and over IPv6 the server's same ports and pings; pings to the middle.
///
/// They hang on prerouting, so that they decide, as Millrace's firewall does, before routing looks at TTL and length.
const NFTABLES: &str = r#"
table inet edge {
    chain filter {
        type filter hook prerouting priority 0; policy drop;
        icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
        ct state invalid drop
        ct state established,related accept
        iifname lan tcp dport 25 reject with tcp reset
        iifname lan udp dport 25 reject with icmpx admin-prohibited
        fib daddr type local icmp type echo-request accept
        fib daddr type local icmpv6 type echo-request accept
        fib daddr type local drop
        iifname lan accept
        iifname wan ip daddr 10.1.0.3 tcp dport 80 accept
        iifname wan ip daddr 10.1.0.3 udp dport 53 accept
        iifname wan ip6 daddr fd01:0:2::3 tcp dport 80 accept
        iifname wan ip6 daddr fd01:0:2::3 udp dport 53 accept
        iifname wan ip6 daddr fd01:0:2::3 icmpv6 type echo-request accept
    }
    chain before {
        type nat hook prerouting priority -100;
        ip daddr 198.51.100.1 tcp dport 8080 dnat ip to 10.1.0.3:80
        ip daddr 198.51.100.1 udp dport 5353 dnat ip to 10.1.0.3:53
    }
    chain behind {
        type nat hook postrouting priority 100;
        oifname wan ip saddr 10.0.0.0/8 masquerade
        iifname lan oifname lan ct status dnat snat ip to 198.51.100.1
    }
}
"#;

const MILLRACE: &str = r#"
[memory]
hugepages = "off"
[management]
socket = "SOCKET"
[metrics]
listen = "off"
[sessions]
capacity = 65536
[checksums]
verify = "all"
[ports.lan]
kind = "af_packet"
interface = "lan"
[ports.wan]
kind = "af_packet"
interface = "wan"
[chains.edge]
functions = ["firewall", "nat", "router"]
zones.inside = ["lan"]
zones.outside = ["wan"]
[functions.firewall]
kind = "firewall"
[[functions.firewall.rules]]
name = "refused"
action = "reject"
from = "inside"
protocol = ["tcp", "udp"]
destination_ports = 25
[[functions.firewall.rules]]
name = "inside-to-outside"
action = "allow"
from = "inside"
to = ["inside", "outside"]
[[functions.firewall.rules]]
name = "hairpin"
action = "allow"
from = "inside"
to = "local"
destination = "198.51.100.1"
protocol = "tcp"
destination_ports = 8080
[[functions.firewall.rules]]
name = "hairpin-names"
action = "allow"
from = "inside"
to = "local"
destination = "198.51.100.1"
protocol = "udp"
destination_ports = 5353
[[functions.firewall.rules]]
name = "ping-router"
action = "allow"
to = "local"
protocol = "icmp"
icmp_type = "echo-request"
[[functions.firewall.rules]]
name = "ping-router-ipv6"
action = "allow"
to = "local"
protocol = "icmpv6"
icmp_type = "echo-request"
[[functions.firewall.rules]]
name = "web"
action = "allow"
from = "outside"
to = "inside"
destination = ["10.1.0.3", "fd01:0:2::3"]
protocol = "tcp"
destination_ports = 80
[[functions.firewall.rules]]
name = "names"
action = "allow"
from = "outside"
to = "inside"
destination = ["10.1.0.3", "fd01:0:2::3"]
protocol = "udp"
destination_ports = 53
[[functions.firewall.rules]]
name = "ping-server"
action = "allow"
from = "outside"
to = "inside"
destination = "fd01:0:2::3"
protocol = "icmpv6"
icmp_type = "echo-request"
[functions.nat]
kind = "nat"
pool = ["198.51.100.1"]
forward = [
    { protocol = "tcp", external = "198.51.100.1:8080", internal = "10.1.0.3:80" },
    { protocol = "udp", external = "198.51.100.1:5353", internal = "10.1.0.3:53" },
]
[functions.router]
kind = "router"
icmp_errors_per_second = 1000000
icmp_source_errors_per_second = 100000
routes = [
    { prefix = "0.0.0.0/0", via = "198.51.100.2" },
    { prefix = "::/0", via = "2001:db8:ffff::2" },
    { prefix = "10.0.0.0/8", via = "10.0.0.2" },
    { prefix = "fd01::/16", via = "fd00:1::2" },
]
[functions.router.interfaces.lan]
addresses = ["10.0.0.1/24", "fd00:1::1/64"]
neighbours = [
    { address = "10.0.0.2", mac = "02:00:00:00:00:21" },
    { address = "fd00:1::2", mac = "02:00:00:00:00:21" },
]
[functions.router.interfaces.wan]
addresses = ["198.51.100.1/24", "2001:db8:ffff::1/64"]
neighbours = [
    { address = "198.51.100.2", mac = "02:00:00:00:00:22" },
    { address = "2001:db8:ffff::2", mac = "02:00:00:00:00:22" },
]
"#;

const MIDDLE_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0x11], [2, 0, 0, 0, 0, 0x12]];
const HOP_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0x21], [2, 0, 0, 0, 0, 0x22]];
const FENCE: &[u8] = b"fence";
const FENCE_PORT: u16 = 9;

/// A middle with both its ends.
pub struct Network {
    pub name: &'static str,
    pool: Pool,
    ports: [Box<dyn DataplanePort>; 2],
    clock: SystemClock,
    pub names: Names,
    fences: u32,
    /// The external port of fences from outside.
    fence_port: u16,
    instance: Option<(Site, Running)>,
    middle: Namespace,
    _ends: Namespace,
}

impl Network {
    /// The kernel's stack with nftables' connection tracking and masquerade.
    pub fn kernel() -> Self {
        let (middle, ends) = links();
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv4.conf.lan.rp_filter=0",
            "net.ipv4.conf.wan.rp_filter=0",
            "net.ipv4.conf.all.send_redirects=0",
            "net.ipv4.conf.lan.send_redirects=0",
            "net.ipv4.conf.wan.send_redirects=0",
            "net.ipv4.icmp_ratelimit=0",
            "net.ipv6.icmp.ratelimit=0",
            // No script waits for what follows when fragments are not completed.
            "net.ipv4.ipfrag_time=3600",
            "net.ipv6.ip6frag_time=3600",
            "net.netfilter.nf_conntrack_frag6_timeout=3600",
            "net.netfilter.nf_conntrack_tcp_loose=0",
            "net.netfilter.nf_conntrack_tcp_be_liberal=0",
        ] {
            middle.run(&format!("sysctl -qw {setting}"));
        }
        for (interface, four, six, hop) in [
            ("lan", "10.0.0.1/24", "fd00:1::1/64", ["10.0.0.2", "fd00:1::2", "02:00:00:00:00:21"]),
            (
                "wan",
                "198.51.100.1/24",
                "2001:db8:ffff::1/64",
                ["198.51.100.2", "2001:db8:ffff::2", "02:00:00:00:00:22"],
            ),
        ] {
            middle.run(&format!(
                "sysctl -qw net.ipv6.conf.{interface}.disable_ipv6=0 net.ipv6.conf.{interface}.accept_dad=0"
            ));
            middle.run(&format!("ip address add {four} dev {interface}"));
            middle.run(&format!("ip address add {six} dev {interface} nodad"));
            for address in &hop[..2] {
                middle.run(&format!(
                    "ip neighbour replace {address} lladdr {} dev {interface} nud permanent",
                    hop[2]
                ));
            }
        }
        middle.run("ip route add default via 198.51.100.2");
        middle.run("ip route add 10.0.0.0/8 via 10.0.0.2");
        middle.run("ip -6 route add default via 2001:db8:ffff::2");
        middle.run("ip -6 route add fd01::/16 via fd00:1::2");
        middle.bash(&format!("nft -f - <<'RULES'\n{NFTABLES}\nRULES"));
        Self::open("kernel", middle, ends, None)
    }

    /// Millrace; `change` may alter its configuration.
    pub fn millrace(change: impl FnOnce(String) -> String) -> Self {
        let (middle, ends) = links();
        let site = Site::new();
        let text = MILLRACE.replace("SOCKET", &site.path("m.sock").display().to_string());
        site.write("run.toml", &change(text));
        let running = site.start_in(&middle);
        Self::open("millrace", middle, ends, Some((site, running)))
    }

    fn open(
        name: &'static str,
        middle: Namespace,
        ends: Namespace,
        instance: Option<(Site, Running)>,
    ) -> Self {
        let arena = Arena::anonymous(1_024 * FRAME_BYTES + (1 << 20)).expect("an arena");
        let pool = Pool::new(&arena, PoolConfig { frames: 1_024, frame_bytes: FRAME_BYTES }).expect("a pool");
        let ports = ["inside", "outside"].map(|interface| open_in(&ends, interface));
        let (clock, names) = (SystemClock::default(), Names::default());
        let mut it = Self {
            name,
            pool,
            ports,
            clock,
            names,
            fences: 0,
            fence_port: FENCE_PORT,
            instance,
            middle,
            _ends: ends,
        };
        let frames = it.fence(End::Inside, &mut Vec::new());
        it.fence_port = u16::from_be_bytes([frames[20], frames[21]]);
        it
    }

    /// What the middle knows, for people.
    pub fn state(&self) -> String {
        match &self.instance {
            None => self.middle.output("cat /proc/net/nf_conntrack"),
            Some((site, _)) => {
                let rows = ["sessions", "nat", "drops"]
                    .map(|topic| String::from_utf8_lossy(&site.ask(&["show", topic]).stdout).into_owned());
                rows.concat()
            }
        }
    }

    /// Packets that Millrace left out because a burst's misses took too long (R12): a busy machine has some.
    pub fn over_budget(&self) -> u64 {
        let Some((site, _)) = &self.instance else { return 0 };
        let rows = site.show("drops").expect("the instance answers");
        rows.iter()
            .filter(|row| row["reason"] == "miss_budget")
            .filter_map(|row| row["packets"].as_u64())
            .sum()
    }

    /// Sends a packet, or pieces of it, from an end, and tells what comes out anywhere.
    pub fn pass(&mut self, run: u16, step: &super::script::Step) -> Vec<Seen> {
        let packet = &step.packet;
        let bytes = packet.bytes(run, &self.names);
        let frames: Vec<Vec<u8>> = match &step.pieces {
            None => vec![bytes],
            Some(pieces) => {
                pieces.iter().map(|piece| fragment(&bytes, packet.identification, *piece)).collect()
            }
        };
        frames.iter().for_each(|frame| self.send(step.from, frame));
        let mut seen = Vec::new();
        self.fence(step.from, &mut seen);
        self.fence(step.from.other(), &mut seen);
        let cause =
            Cause { from: step.from, source: packet.source.address(packet.v6, run), inner: packet.inner() };
        tell(run, &seen, &cause, &mut self.names)
    }

    fn send(&mut self, from: End, packet: &[u8]) {
        let mut frame = [MIDDLE_MACS[from as usize], HOP_MACS[from as usize]].concat();
        frame.extend(if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        frame.extend(packet);
        let mut buffer = self.pool.take().expect("the pool is large enough");
        buffer.set_contents(&frame).expect("frames are short");
        let mut burst = Burst::new();
        assert!(burst.push(buffer).is_ok());
        self.ports[from as usize].tx(&mut self.pool, self.clock.now(), &mut burst);
    }

    /// Sends a packet of a known flow from an end and waits until it comes out at the other: all that was sent before it is
    /// through. What comes out meanwhile is added to `seen`. Returns the packet that came out.
    fn fence(&mut self, from: End, seen: &mut Vec<(End, Vec<u8>)>) -> Vec<u8> {
        self.fences += 1;
        let mut payload = FENCE.to_vec();
        payload.extend(self.fences.to_be_bytes());
        let (here, there) =
            (Host::Hop(from), if from == End::Inside { Host::Hop(End::Outside) } else { Host::External });
        let to = if from == End::Inside { FENCE_PORT } else { self.fence_port };
        let body = Body::Udp { ports: (Port::Is(FENCE_PORT), Port::Is(to)), payload: payload.clone() };
        let fence = Packet::new(false, here, there, body).bytes(0, &self.names);
        self.send(from, &fence);
        let begun = Instant::now();
        loop {
            let mut found = None;
            for end in End::BOTH {
                for packet in self.receive(end) {
                    if packet.ends_with(&payload) && packet.len() == fence.len() {
                        assert_eq!(end, from.other(), "a fence comes out at the other end");
                        found = Some(packet);
                    } else {
                        seen.push((end, packet));
                    }
                }
            }
            if let Some(packet) = found {
                return packet;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{}: nothing comes from {from:?} any more\n{}",
                self.name,
                self.state()
            );
            if begun.elapsed() > Duration::from_millis(1) {
                thread::sleep(Duration::from_micros(50));
            } else {
                thread::yield_now();
            }
        }
    }

    /// IP packets that arrived at an end, but for what routers say of themselves.
    fn receive(&mut self, end: End) -> Vec<Vec<u8>> {
        let mut burst = Burst::new();
        self.ports[end as usize].rx(&mut self.pool, self.clock.now(), &mut burst);
        let frames: Vec<Vec<u8>> = burst.iter().map(|packet| packet.bytes().to_vec()).collect();
        self.pool.put_all(&mut burst);
        let ip = |frame: &Vec<u8>| {
            let v6 = frame[12..14] == [0x86, 0xdd];
            let chatter = v6
                && frame.len() > 54
                && (frame[20] == 58 && (130..=137).contains(&frame[54])
                    || frame[20] == 0 && frame[0] & 1 != 0);
            (v6 || frame[12..14] == [0x08, 0x00]) && !chatter
        };
        let packets = frames.into_iter().filter(ip).map(|frame| {
            assert_eq!(frame[..6], HOP_MACS[end as usize], "{}: the next hop of {end:?}", self.name);
            frame[14..].to_vec()
        });
        packets.collect()
    }

    /// Ends it; Millrace gives its account, in which all sums must hold.
    pub fn finish(mut self) -> Option<serde_json::Value> {
        for port in &mut self.ports {
            port.close(Some(&mut self.pool));
        }
        self.instance.take().map(|(_site, running)| running.stop())
    }
}

/// Two namespaces, joined by two links.
fn links() -> (Namespace, Namespace) {
    let (middle, ends) = (Namespace::new(), Namespace::new());
    for (at, (here, there)) in [("lan", "inside"), ("wan", "outside")].into_iter().enumerate() {
        let mac = |macs: [[u8; 6]; 2]| macs[at].map(|byte| format!("{byte:02x}")).join(":");
        let (own, hop) = (mac(MIDDLE_MACS), mac(HOP_MACS));
        let peer = format!("peer name {there} address {hop} netns {}", ends.pid());
        middle.run(&format!("ip link add {here} address {own} type veth {peer}"));
        middle.run(&format!("ethtool -K {here} tx off"));
        ends.run(&format!("ethtool -K {there} tx off"));
        middle.run(&format!("ip link set dev {here} up"));
        ends.run(&format!("ip link set dev {there} up"));
    }
    middle.run(&format!("ip link set dev wan mtu {OUTSIDE_MTU}"));
    (middle, ends)
}

/// A packet socket in another namespace, on a thread of its own: a thread that has moved stays there.
fn open_in(namespace: &Namespace, interface: &str) -> Box<dyn DataplanePort> {
    let path = format!("/proc/{}/ns/net", namespace.pid());
    let config = AfPacketConfig {
        name: interface.to_owned(),
        interface: interface.to_owned(),
        queues: 1,
        promiscuous: true,
        carries_whole: false,
        frame_bytes: FRAME_BYTES,
    };
    let open = move || {
        let file = std::fs::File::open(path).expect("the namespace is there");
        use std::os::fd::AsFd;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("we may move");
        af_packet::open(&config).expect("the interface is up").remove(0)
    };
    thread::spawn(open).join().expect("a port")
}

/// What the resolver is asked for by packets without mappings.
pub struct Plain;

impl Resolve for Plain {
    fn port(&self, port: Port) -> u16 {
        match port {
            Port::Is(number) | Port::Mapped((_, _, number), ..) => number,
        }
    }
}
