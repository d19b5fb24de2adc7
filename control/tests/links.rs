//! Links that go down, vanish and change under a running instance: seen, told, and come through, by each kind of port.

mod common;

use std::process::{Command, Stdio};

use common::accounting;
use common::edge::{Edge, Kind};
use common::killed::Killed;
use common::net::may_make_namespaces;
use common::wait::wait_until;
use serde_json::Value;

fn edge(kind: Kind) -> Edge {
    Edge { keeps_tap: kind == Kind::Tap, ..Edge::new(kind) }
}

fn drops(account: &Value, place: &str, reason: &str) -> u64 {
    let rows = account["drops"].as_array().unwrap().iter();
    let of_reason = rows.filter(|row| row["where"] == place && row["reason"] == reason);
    of_reason.map(|row| row["packets"].as_u64().unwrap()).sum()
}

/// A metric of a port.
fn metric(edge: &Edge, name: &str, port: &str) -> String {
    let text = edge.router.output("curl -sS --fail --max-time 20 http://127.0.0.1:9469/metrics");
    let start = format!("{name}{{port=\"{port}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// The link of a port as the live view shows it.
fn shown(edge: &Edge, port: &str) -> String {
    let text = String::from_utf8(edge.site.ask(&["top", "--once", "--interval", "200ms"]).stdout).unwrap();
    let row = text.lines().find(|line| line.starts_with(port)).unwrap_or_else(|| panic!("{text}"));
    row.split_whitespace().nth(1).unwrap().to_owned()
}

fn link_is(edge: &Edge, port: usize, state: &str) {
    wait_until(&format!("{:?}: port {port} is {state}", edge.kind), || edge.port(port, "link") == state);
}

/// What leads to the outside goes down, and comes back.
fn a_link_goes_down_and_comes_back(kind: Kind) {
    let edge = edge(kind);
    let text = edge.text("", "").replace("listen = \"off\"", "listen = \"127.0.0.1:9469\"");
    let mut running = edge.start(&text);
    edge.ping("10.2.0.2", 20);
    edge.ping("fd00:2::2", 20);
    assert_eq!((edge.port(1, "link"), edge.port(1, "link_losses")), ("up".into(), 0.into()));
    assert_eq!(metric(&edge, "millrace_port_link_up", "wan"), "1");

    // The other end loses its carrier: what goes there is dropped, and counted as what it is.
    let interface = kind.host_interface("mr-wan");
    edge.far().run(&format!("ip link set dev {interface} down"));
    link_is(&edge, 1, "down");
    assert_eq!(edge.port(0, "link"), "up");
    assert_eq!(shown(&edge, "wan"), "down");
    assert_eq!(metric(&edge, "millrace_port_link_up", "wan"), "0");
    assert_eq!(metric(&edge, "millrace_port_link_losses_total", "wan"), "1");
    let mut ping = Command::new("ping");
    let mut ping = edge.client.enter(ping.args(["-q", "-c", "50", "-i", "0.01", "-W", "1", "10.2.0.2"]));
    assert!(!ping.stdout(Stdio::null()).status().unwrap().success());
    // The other port works on.
    edge.ping("10.1.0.1", 20);

    edge.far().run(&format!("ip link set dev {interface} up"));
    edge.address("mr-wan", interface);
    link_is(&edge, 1, "up");
    edge.ping("10.2.0.2", 20);
    edge.ping("fd00:2::2", 20);
    assert_eq!(edge.port(1, "link_losses"), 1);
    running.signal("TERM");
    let output = running.end();
    let account = accounting(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.matches("link changed").count(), 2, "{said}");
    // Those that waited for the neighbour, those that found no room to wait, and what was sent to it; the last may wait until it is back.
    let lost = drops(&account, "wan tx", "link_down");
    let unresolved = ["neighbour_unreachable", "hold_full"].map(|reason| drops(&account, "chains", reason));
    assert!(lost > 0 && lost + unresolved.iter().sum::<u64>() >= 25, "{kind:?}: {account}");
}

/// Behind the interface that comes back is another station with the same addresses: nobody waits until the old one times out.
fn an_interface_is_made_again_with_another_neighbour(kind: Kind) {
    let edge = edge(kind);
    let mut running = edge.start(&edge.text("", ""));
    edge.ping("10.2.0.2", 20);
    edge.ping("fd00:2::2", 20);
    let mac = edge.port(1, "mac");
    let neighbours = || -> Vec<Value> {
        let rows = edge.site.show("neighbours").unwrap();
        rows.into_iter().filter(|row| row["address"] == "10.2.0.2").collect()
    };
    let before = neighbours()[0]["mac"].clone();
    // Traffic goes on meanwhile, however long it takes.
    let mut ping = Command::new("ping");
    let mut ping = edge.client.enter(ping.args(["-q", "-w", "60", "-i", "0.01", "10.2.0.2"]));
    let ping = Killed(ping.stdout(Stdio::null()).spawn().unwrap());
    edge.router.run("ip link delete mr-wan");
    // A tap device is made again in less time than it takes to ask.
    wait_until("its loss is seen", || edge.port(1, "link_losses") == 1);
    // Changes that do not concern it do not wait for it either.
    let changed = edge.text("", "").replace("name = \"out\"", "name = \"outwards\"");
    let file = edge.site.write("changed.toml", &changed);
    let applied = edge.router.enter(common::millrace().arg("apply").arg(file)).output().unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    edge.plug("mr-wan");
    link_is(&edge, 1, "up");
    wait_until("the neighbour is found anew", || {
        neighbours().iter().any(|row| row["mac"] != before && !row["mac"].is_null())
    });
    drop(ping);
    edge.ping("10.2.0.2", 20);
    edge.ping("fd00:2::2", 20);
    assert_eq!(edge.port(1, "mac"), mac, "the port keeps its address");
    running.signal("TERM");
    let output = running.end();
    let account = accounting(&output);
    let lost = drops(&account, "wan tx", "link_down") + drops(&account, "chains", "hold_full");
    assert!(lost > 0, "{account}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the interface is gone") && said.contains("the interface is back"), "{said}");
}

/// The MTU and the address of an interface change while packets flow.
fn mtu_and_address_change(kind: Kind) {
    let edge = edge(kind);
    let mut running = edge.start(&edge.text("", ""));
    edge.ping("10.2.0.2", 20);
    let (mac, interface) = (edge.port(1, "mac"), kind.host_interface("mr-wan"));
    let ping_of = |size: usize| {
        let mut ping = Command::new("ping");
        ping.args(["-c", "1", "-W", "1", "-M", "do", "-s", &(size - 28).to_string(), "10.2.0.2"]);
        let output = edge.client.enter(&ping).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let set_mtu = |mtu: u16| {
        edge.router.run(&format!("ip link set dev mr-wan mtu {mtu}"));
        edge.far().run(&format!("ip link set dev {interface} mtu {mtu}"));
    };
    assert!(ping_of(1_500).0);
    // Senders are told of the MTU that the link has.
    set_mtu(1_300);
    wait_until("the port knows its MTU", || edge.port(1, "mtu") == 1_300);
    wait_until("the router tells of it", || ping_of(1_400).1.contains("mtu = 1300"));
    assert!(ping_of(1_300).0);
    set_mtu(1_500);
    wait_until("the router carries what fits again", || {
        edge.client.run("ip route flush cache");
        ping_of(1_500).0
    });
    // The interface's address is no business of those who know the port by another. A tap port has one of its own anyway.
    edge.router.run("sysctl -qw net.ipv4.conf.mr-wan.arp_notify=1");
    edge.router.run("ip link set dev mr-wan address 02:00:00:00:77:01");
    if kind != Kind::Tap {
        wait_until("the interface is promiscuous", || {
            edge.router.output("ip -d link show dev mr-wan").contains("promiscuity 1")
        });
        edge.ping("10.2.0.2", 50);
    }
    edge.far().run("ip neigh flush all");
    wait_until("the neighbours know each other again", || ping_of(100).0);
    edge.ping("10.2.0.2", 50);
    assert_eq!(edge.port(1, "mac"), mac);
    running.signal("TERM");
    let output = running.end();
    accounting(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the MTU changed"), "{said}");
    assert!(said.contains("the interface got another address") || kind == Kind::Tap, "{said}");
}

macro_rules! for_each_kind {
    ($($test:ident = $what:ident($kind:ident);)+) => {
        $(
            #[test]
            fn $test() {
                if may_make_namespaces(stringify!($test)) {
                    $what(Kind::$kind);
                }
            }
        )+
    };
}

for_each_kind! {
    an_af_xdp_link_goes_down_and_comes_back = a_link_goes_down_and_comes_back(AfXdp);
    an_af_packet_link_goes_down_and_comes_back = a_link_goes_down_and_comes_back(AfPacket);
    a_tap_goes_down_and_comes_back = a_link_goes_down_and_comes_back(Tap);
    an_af_xdp_interface_is_made_again = an_interface_is_made_again_with_another_neighbour(AfXdp);
    an_af_packet_interface_is_made_again = an_interface_is_made_again_with_another_neighbour(AfPacket);
    a_tap_is_made_again = an_interface_is_made_again_with_another_neighbour(Tap);
    mtu_and_address_of_an_af_xdp_interface_change = mtu_and_address_change(AfXdp);
    mtu_and_address_of_an_af_packet_interface_change = mtu_and_address_change(AfPacket);
    mtu_and_address_of_a_tap_change = mtu_and_address_change(Tap);
}
