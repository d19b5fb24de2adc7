//! `millrace explain` as people use it: of a configuration, and of a running instance that it does not change.

mod common;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Output;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use serde_json::Value;

use common::{Site, millrace};

/// An inside and an outside with both IP versions, over ports without devices.
const EDGE: &str = r#"
[memory]
hugepages = "off"
[management]
socket = "SOCKET"
[metrics]
listen = "off"
[ports.lan]
kind = "sink"
mac = "02:00:00:00:01:01"
[ports.wan]
kind = "sink"
mac = "02:00:00:00:02:01"
[chains.edge]
functions = ["firewall", "nat", "router"]
zones.inside = ["lan"]
zones.outside = ["wan"]
[functions.firewall]
kind = "firewall"
[[functions.firewall.rules]]
name = "no-telnet"
action = "reject"
protocol = "tcp"
destination_ports = [23]
[[functions.firewall.rules]]
name = "outwards"
action = "allow"
from = "inside"
[functions.nat]
kind = "nat"
pool = ["198.51.100.1"]
[functions.router]
kind = "router"
interfaces.lan.addresses = ["10.0.0.1/24", "fd00::1/64"]
routes = [{ prefix = "0.0.0.0/0", via = "198.51.100.2" }, { prefix = "::/0", via = "2001:db8::2" }]
[functions.router.interfaces.wan]
addresses = ["198.51.100.1/24", "2001:db8::1/64"]
neighbours = [
    { address = "198.51.100.2", mac = "02:00:00:00:02:02" },
    { address = "2001:db8::2", mac = "02:00:00:00:02:02" },
]
"#;

const WEB: &str = "tcp 10.0.0.2:4000 > 203.0.113.7:443 syn";

struct Edge {
    site: Site,
    config: PathBuf,
}

impl Edge {
    fn new() -> Self {
        let site = Site::new();
        let socket = site.path("m.sock").display().to_string();
        let config = site.write("run.toml", &EDGE.replace("SOCKET", &socket));
        Self { site, config }
    }

    fn explain(&self, arguments: &[&str]) -> Output {
        millrace().arg("explain").arg(&self.config).args(arguments).output().unwrap()
    }

    fn packet(&self, input: &str, packet: &str) -> Value {
        json(&self.explain(&["--json", "--input", input, "--packet", packet]))
    }
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn by<'a>(step: &'a Value, what: &str) -> Option<&'a str> {
    let notes = step["by"].as_array().unwrap();
    notes.iter().find(|note| note["what"] == what).and_then(|note| note["value"].as_str())
}

#[test]
fn a_packet_that_leaves_is_explained_step_by_step() {
    let edge = Edge::new();
    let said = edge.packet("lan", WEB);
    assert_eq!((&said["verdict"], &said["outputs"][0]), (&"sent".into(), &"wan".into()), "{said}");
    assert_eq!(
        (&said["chain"], &said["zone"], &said["look_up"]),
        (&"edge".into(), &"inside".into(), &"miss".into())
    );
    assert_eq!(said["received"]["packet"], WEB);
    let steps = said["steps"].as_array().unwrap();
    let names: Vec<_> = steps.iter().map(|step| step["function"].as_str().unwrap()).collect();
    assert_eq!(names, ["firewall", "nat", "router"]);
    assert_eq!((by(&steps[0], "rule"), by(&steps[0], "action")), (Some("outwards"), Some("allow")));
    assert_eq!((by(&steps[1], "mapping"), by(&steps[1], "inside")), (Some("new"), Some("10.0.0.2:4000")));
    let external = by(&steps[1], "external").unwrap();
    let port = external.strip_prefix("198.51.100.1:").unwrap();
    let edits = ["set ipv4_source 198.51.100.1".to_owned(), format!("set source_port {port}")];
    assert_eq!(steps[1]["edits"], serde_json::json!(edits));
    assert_eq!(
        (by(&steps[2], "route"), by(&steps[2], "next_hop")),
        (Some("0.0.0.0/0"), Some("198.51.100.2"))
    );
    assert_eq!(by(&steps[2], "neighbour"), Some("permanent"));
    assert_eq!((&steps[2]["verdict"], &steps[2]["outputs"][0]), (&"forward".into(), &"wan".into()));
    let sent = &said["sent"];
    assert_eq!(sent["packet"], format!("tcp {external} > 203.0.113.7:443 syn"));
    assert_eq!((&sent["ethernet_destination"], &sent["ttl"]), (&"02:00:00:00:02:02".into(), &63.into()));
    assert_eq!(said["opens"]["responder"], format!("203.0.113.7:443 > {external}"));
    let program = &said["program"];
    assert_eq!((&program["tracks_tcp"], &program["cacheable"]), (&true.into(), &true.into()), "{program}");
    let udp = edge.packet("lan", "udp [fd00::2]:53 > [2001:db8:1::7]:53");
    let program = &udp["program"];
    assert_eq!((&udp["verdict"], &udp["sent"]["ttl"]), (&"sent".into(), &63.into()), "{udp}");
    assert_eq!(
        (&program["cacheable"], &program["ttl_min"], &program["length_max"]),
        (&true.into(), &2.into(), &1500.into())
    );
    assert!(program["guards"].to_string().contains("fragment"), "{program}");
    let text = edge.explain(&["--input", "lan", "--packet", WEB]);
    let text = String::from_utf8(text.stdout).unwrap();
    for line in [
        format!("packet    {WEB}, ttl 64, 40 bytes\n"),
        "input     lan, zone inside of chain edge, 02:00:00:00:00:fe > 02:00:00:00:01:01\n".to_owned(),
        "firewall  (firewall, forward) continue\n            by rule outwards, action allow\n".to_owned(),
        format!("            set source_port {port}\n"),
        "router    (router, forward) forward to wan\n".to_owned(),
        "verdict   sent to wan\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[test]
fn what_does_not_leave_says_why_and_what_its_sender_is_told() {
    let edge = Edge::new();
    for (input, packet, verdict, reason, by_function, told) in [
        (
            "lan",
            "tcp 10.0.0.2:4000 > 203.0.113.7:23 syn",
            "dropped",
            "firewall_denied",
            "firewall",
            Some("tcp 203.0.113.7:23 > 10.0.0.2:4000 ack rst"),
        ),
        (
            "lan",
            "icmp 10.0.0.2 > 203.0.113.7 ttl 1",
            "dropped",
            "ttl_exceeded",
            "router",
            Some("icmp 10.0.0.1 > 10.0.0.2 type 11 code 0"),
        ),
        (
            "lan",
            "udp 10.0.0.2:1 > 203.0.113.7:2 length 1501",
            "dropped",
            "mtu_exceeded",
            "router",
            Some("icmp 10.0.0.1 > 10.0.0.2 type 3 code 4"),
        ),
        ("wan", "tcp 203.0.113.7:4000 > 198.51.100.1:22 syn", "dropped", "firewall_denied", "firewall", None),
        ("wan", "udp [2001:db8:1::7]:1 > [fd00::2]:2", "dropped", "firewall_denied", "firewall", None),
        ("lan", "tcp 10.0.0.2:4000 > 203.0.113.7:443 ack", "dropped", "tcp_invalid", "", None),
        ("lan", "udp 10.0.0.2:1 > 10.0.0.9:2", "held", "", "router", None),
        (
            "lan",
            "icmp fd00::2 > fd00::1",
            "consumed",
            "",
            "router",
            Some("icmp fd00::1 > fd00::2 reply id 1"),
        ),
    ] {
        let said = edge.packet(input, packet);
        assert_eq!(said["verdict"], verdict, "{packet}: {said}");
        assert_eq!(said["reason"].as_str().unwrap_or_default(), reason, "{packet}: {said}");
        assert_eq!(said["meaning"].is_null(), reason.is_empty(), "{said}");
        assert!(said["sent"].is_null() && said["outputs"].as_array().unwrap().is_empty(), "{said}");
        let last = said["steps"].as_array().unwrap().last().unwrap();
        if !by_function.is_empty() {
            assert_eq!(last["function"], by_function, "{packet}: {said}");
        }
        assert_eq!(last["frames"][0]["packet"].as_str(), told, "{packet}: {said}");
    }
}

#[test]
fn frames_of_captures_are_taken_by_number() {
    let edge = Edge::new();
    let udp = {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 1, 1])
            .ipv4([10, 0, 0, 2], [203, 0, 113, 7], 9)
            .udp(1_000, 53)
            .write(&mut frame, b"question")
            .unwrap();
        frame
    };
    let path = edge.site.path("two.pcap");
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
    for frame in [&udp[..20], &udp] {
        let packet = PcapPacket::new(std::time::Duration::ZERO, frame.len() as u32, frame);
        writer.write_packet(&packet).unwrap();
    }
    drop(writer);
    let path = path.display().to_string();
    let frame = |arguments: &[&str]| {
        edge.explain(&[&["--json", "--input", "lan", "--capture", &path], arguments].concat())
    };
    let cut = json(&frame(&[]));
    assert_eq!(
        (&cut["verdict"], &cut["reason"], &cut["received"]),
        (&"dropped".into(), &"truncated".into(), &Value::Null)
    );
    let whole = json(&frame(&["--frame", "2"]));
    assert_eq!((&whole["verdict"], &whole["sent"]["ttl"]), (&"sent".into(), &8.into()), "{whole}");
    assert_eq!(whole["received"]["packet"], "udp 10.0.0.2:1000 > 203.0.113.7:53");
    let elsewhere = json(&frame(&["--frame", "2", "--mac", "lan=02:00:00:00:01:02"]));
    assert_eq!(elsewhere["reason"], "not_for_us", "{elsewhere}");
    let beyond = frame(&["--frame", "3"]);
    let error = String::from_utf8_lossy(&beyond.stderr).into_owned();
    assert!(beyond.status.code() == Some(1) && error.contains("there is no frame 3; it has 2"), "{error}");
}

#[test]
fn a_running_instance_is_asked_and_stays_as_it_is() {
    let edge = Edge::new();
    let running = edge.site.start();
    let ask =
        |packet: &str| json(&edge.site.ask(&["explain", "--json", "--input", "lan", "--packet", packet]));
    let state = || {
        let topics = ["functions", "sessions", "flows", "chains", "drops", "neighbours", "nat"];
        topics.map(|topic| edge.site.show(topic).unwrap())
    };
    let before = state();
    for packet in [
        WEB,
        WEB,
        "udp 10.0.0.2:1 > 10.0.0.9:2",
        "tcp 10.0.0.2:4000 > 203.0.113.7:23 syn",
        "icmp 10.0.0.2 > 10.0.0.1",
    ] {
        assert_eq!(
            ask(packet)["received"]["packet"].as_str(),
            packet
                .split(" id")
                .next()
                .map(|text| text.to_owned() + if text.starts_with("icmp") { " id 1" } else { "" })
                .as_deref()
        );
    }
    assert_eq!(ask(WEB)["look_up"], "miss");
    assert_eq!(state(), before);
    let refused = edge.site.ask(&["explain", "--input", "dmz", "--packet", WEB]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(1) && error.contains("there is no port `dmz`; there are lan, wan"),
        "{error}"
    );
    let refused = edge.site.ask(&["explain", "--input", "lan", "--packet", "tcp 10.0.0.2 > 1.1.1.1:1"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("`10.0.0.2` is no source with a port; a packet is described as"), "{error}");
    let sums = running.stop();
    assert_eq!((&sums["sums"]["received"], &sums["sums"]["originated"]), (&0.into(), &0.into()));
}

#[test]
fn packets_of_sessions_that_exist_are_known_as_theirs() {
    let site = Site::new();
    let running = site.start();
    let session = loop {
        let sessions = site.show("sessions").unwrap();
        // Two laps of the generator: the first one opened them all.
        if let Some(found) = sessions.iter().find(|session| session["packets"].as_u64() > Some(1)) {
            break found.clone();
        }
    };
    let packet = format!("udp {}", session["initiator"].as_str().unwrap());
    let said = json(&site.ask(&["explain", "--json", "--input", "source", "--packet", &packet]));
    assert_eq!(said["session"]["session"], session["session"], "{said}");
    assert_eq!(said["session"]["direction"], "original");
    assert_eq!(by(&said["steps"][0], "session_of"), Some("all"), "{said}");
    assert_eq!(by(&said["steps"][1], "mapping"), Some("known"), "{said}");
    assert_eq!((&said["look_up"], &said["opens"]), (&"hit".into(), &Value::Null), "{said}");
    let reply = session["responder"].as_str().unwrap();
    let said =
        json(&site.ask(&["explain", "--json", "--input", "drain", "--packet", &format!("udp {reply}")]));
    assert_eq!(
        (&said["session"]["direction"], &said["zone"]),
        (&"reply".into(), &"outside".into()),
        "{said}"
    );
    let functions: Vec<_> = said["steps"].as_array().unwrap().iter().map(|step| &step["function"]).collect();
    assert_eq!(functions, ["nat", "firewall", "router"]);
    running.stop();
}

#[test]
fn every_key_is_documented() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md")).unwrap();
    let section = text.split("\n## `millrace explain`\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let edge = Edge::new();
    let said = edge.packet("lan", "icmp 10.0.0.2 > 203.0.113.7 ttl 1");
    let sent = edge.packet("lan", WEB);
    let objects = [
        &said,
        &said["received"],
        &said["steps"][2],
        &said["steps"][2]["frames"][0],
        &sent["program"],
        &sent["opens"],
    ];
    let note = &sent["steps"][0]["by"][0];
    for key in objects.into_iter().chain([note]).flat_map(|object| object.as_object().unwrap().keys()) {
        assert!(section.contains(&format!("`{key}`")), "{key}");
    }
}
