//! Several workers in one instance: the packets, answers and counts of one.

mod common;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use common::cores::has_two_cores;
use common::{Site, accounting, millrace};

/// What [`Site`] runs, with this for its workers.
fn with_workers(site: &Site, workers: &str) -> String {
    // Of many hosts, for a host's connections have one owner.
    let text = site
        .text()
        .replace("flows = 3000", "flows = 3000\nsource = \"192.0.2.64/26\"\nsource_ports = \"2000-2049\"");
    text.replace("[memory]", &format!("[workers]\n{workers}\n[memory]"))
}

fn sum(rows: &[Value], column: &str) -> u64 {
    rows.iter().map(|row| row[column].as_u64().unwrap()).sum()
}

#[test]
fn workers_share_connections_and_are_one_instance_to_who_asks() {
    if !has_two_cores("workers_share_connections_and_are_one_instance_to_who_asks") {
        return;
    }
    for (workers, owners) in [("cores = [0, 1]", 2), ("cores = [0, 1]\nio = \"dedicated\"", 1)] {
        let site = Site::new();
        let text = with_workers(&site, workers);
        site.write("run.toml", &text);
        let checked = millrace().arg("check").arg(site.path("run.toml")).output().unwrap();
        let plan = String::from_utf8_lossy(&checked.stdout).into_owned();
        // Those for hairpins are six.
        let rings = if owners == 2 { 10 } else { 4 };
        let polls = format!("worker 0 on core 0: source queue 0, drain queue 0, {rings} rings");
        assert!(plan.contains(&polls), "{plan}");
        assert!(plan.contains(&format!("worker 1 on core 1: nothing, {rings} rings")), "{plan}");

        let running = site.start();
        let start = Instant::now();
        while site.show("sessions").unwrap().len() < 3_000 {
            assert!(start.elapsed() < Duration::from_secs(30), "{:?}", site.show("workers"));
            std::thread::sleep(Duration::from_millis(20));
        }
        let sessions = site.show("sessions").unwrap();
        assert_eq!(sessions.len(), 3_000);
        let of = |worker: u64| sessions.iter().filter(|row| row["share"] == worker).count();
        if owners == 2 {
            assert!(of(0) > 500 && of(1) > 500, "{} and {}", of(0), of(1));
        } else {
            assert_eq!((of(0), of(1)), (0, 3_000));
        }
        // External ports are the owner's.
        for mapping in site.show("nat").unwrap() {
            let port: u16 =
                mapping["external"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
            let owner = u64::from(millrace_nf::nat::PortShare::owner(port, owners));
            assert_eq!(mapping["share"], owner + 2 - u64::from(owners), "{mapping}");
        }
        let rows = site.show("workers").unwrap();
        assert_eq!((rows.len(), sum(&rows, "sessions")), (2, 3_000));
        assert!(rows[0]["handed_out"].as_u64().unwrap() > 0 && rows[1]["handed_in"].as_u64().unwrap() > 0);
        assert!(rows.iter().all(|row| row["sums_hold"] == true), "{rows:?}");
        let functions = site.show("functions").unwrap();
        let rule: Vec<_> = functions.iter().filter(|row| row["item"] == "rule all").collect();
        assert!(rule.len() == 1 && rule[0]["packets"].as_u64().unwrap() >= 3_000, "{rule:?}");
        assert_eq!(site.show("chains").unwrap().len(), 1);
        // With the port by which hairpins change over.
        assert_eq!(site.show("ports").unwrap().len(), if owners == 2 { 3 } else { 2 });
        assert_eq!(site.show("memory").unwrap().iter().filter(|row| row["what"] == "sessions").count(), 1);

        // Who owns a connection explains its packets.
        let packet = format!("udp {}", sessions[0]["initiator"].as_str().unwrap());
        let said = site.ask(&["explain", "--json", "--input", "source", "--packet", &packet]);
        let said: Value = serde_json::from_slice(&said.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&said.stderr)));
        assert_eq!(said["session"]["direction"], "original", "{said}");
        // Packets of both workers are traced.
        let traced = site.ask(&["trace", "all", "--count", "20", "--json"]);
        assert_eq!(String::from_utf8_lossy(&traced.stdout).lines().count(), 20);

        // A change comes into force with all workers, or with none.
        let changed = text.replace("name = \"all\"\naction = \"allow\"", "name = \"all\"\naction = \"deny\"");
        site.write("changed.toml", &changed);
        site.write("wrong.toml", &changed.replace("198.19.0.0/16", "198.19.0.1/16"));
        let apply = |name: &str| millrace().arg("apply").arg(site.path(name)).output().unwrap();
        assert!(!apply("wrong.toml").status.success());
        let denied = || {
            sum(
                &site
                    .show("drops")
                    .unwrap()
                    .into_iter()
                    .filter(|row| row["reason"] == "firewall_denied")
                    .collect::<Vec<_>>(),
                "packets",
            )
        };
        assert_eq!(denied(), 0);
        let applied = apply("changed.toml");
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        let cleared = site.ask(&["clear", "sessions", "all"]);
        assert!(String::from_utf8_lossy(&cleared.stdout).contains("sessions ended: "), "{cleared:?}");
        let before = denied();
        let start = Instant::now();
        while denied() < before + 10_000 {
            assert!(start.elapsed() < Duration::from_secs(20));
        }
        assert!(site.show("sessions").unwrap().is_empty(), "no worker lets anything pass");
        // Checks the sums and the frames of all.
        running.stop();
    }
}

/// A capture in the format of libpcap, 20 microseconds from packet to packet.
fn write_capture(path: &Path, frames: &[Vec<u8>]) {
    let mut bytes = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_ne_bytes).concat();
    for (at, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        bytes.extend([1_000, 20 * at as u32, length, length].map(u32::to_ne_bytes).concat());
        bytes.extend(frame);
    }
    std::fs::write(path, bytes).unwrap();
}

fn read_capture(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    frames
}

fn udp(stations: ([u8; 6], [u8; 6]), from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), mark: [u32; 2]) -> Vec<u8> {
    let payload = mark.map(u32::to_be_bytes).concat();
    let builder = etherparse::PacketBuilder::ethernet2(stations.0, stations.1);
    let builder = builder.ipv4(from.0.octets(), to.0.octets(), 64).udp(from.1, to.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload).unwrap();
    frame.resize(60, 0);
    frame
}

/// By flow, its packets' numbers as they left, and what of the headers does not depend on a choice of external ports.
type Left = BTreeMap<u32, (Vec<u32>, Vec<u8>)>;

fn left(path: &Path, is_translated: bool) -> Left {
    let mut left = Left::new();
    for frame in read_capture(path) {
        let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        let mut headers = frame[..42].to_vec();
        // The checksum is another for each number.
        headers[40..42].fill(0);
        if is_translated {
            headers[34..36].fill(0);
        }
        let (flow, number) = (word(42), word(46));
        let (numbers, before) = left.entry(flow).or_insert_with(|| (Vec::new(), headers.clone()));
        assert_eq!(*before, headers, "packets of flow {flow} leave alike");
        numbers.push(number);
    }
    left
}

/// From inside, and from outside to forwards: what leaves is what leaves one worker, in the same order flow by flow.
#[test]
fn the_same_packets_leave_whatever_the_number_of_workers() {
    if !has_two_cores("the_same_packets_leave_whatever_the_number_of_workers") {
        return;
    }
    const FLOWS: u32 = 200;
    // Fewer than a ring holds, so that no scheduler makes it overflow.
    const NUMBERS: u32 = 5;
    const CLIENT: [u8; 6] = [2, 0, 0, 0, 9, 1];
    const SERVER: [u8; 6] = [2, 0, 0, 0, 9, 2];
    const LAN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const WAN: [u8; 6] = [2, 0, 0, 0, 0, 2];
    let site = Site::new();
    let (mut out, mut back) = (Vec::new(), Vec::new());
    for number in 0..NUMBERS {
        for flow in 0..FLOWS {
            let host = 10 + (flow % 40) as u8;
            let far = ([198, 51, 100, 7].into(), 2_000 + flow as u16);
            out.push(udp((CLIENT, LAN), ([10, 0, 0, host].into(), 4_000 + flow as u16), far, [flow, number]));
            let external = ([203, 0, 113, 1].into(), 8_000 + (flow % 40) as u16);
            back.push(udp((SERVER, WAN), far, external, [FLOWS + flow, number]));
        }
    }
    write_capture(&site.path("lan.pcap"), &out);
    write_capture(&site.path("wan.pcap"), &back);
    let forwards: Vec<_> = (0..40)
        .map(|host| {
            format!(
                "{{ protocol = \"udp\", external = \"203.0.113.1:{}\", internal = \"10.0.0.{}:53\" }}",
                8_000 + host,
                10 + host
            )
        })
        .collect();
    let neighbours: Vec<_> = (10..50)
        .map(|host| format!("{{ address = \"10.0.0.{host}\", mac = \"02:00:00:00:09:01\" }}"))
        .collect();
    let mut results = Vec::new();
    for workers in ["cores = [0]", "cores = [0, 1]", "cores = [0, 1]\nio = \"dedicated\""] {
        let text = format!(
            r#"
[workers]
{workers}
[management]
socket = "{directory}/m.sock"
[metrics]
listen = "off"
[memory]
hugepages = "off"
[sessions]
capacity = 4096
[ports.lan]
kind = "pcap"
mac = "02:00:00:00:00:01"
input = "{directory}/lan.pcap"
output = "{directory}/lan-out.pcap"
[ports.wan]
kind = "pcap"
mac = "02:00:00:00:00:02"
input = "{directory}/wan.pcap"
output = "{directory}/wan-out.pcap"
[chains.edge]
functions = ["firewall", "nat", "router"]
zones.inside = ["lan"]
zones.outside = ["wan"]
[functions.firewall]
kind = "firewall"
default = "allow"
[functions.nat]
kind = "nat"
pool = ["203.0.113.1"]
forward = [{forwards}]
[functions.router]
kind = "router"
routes = [{{ prefix = "0.0.0.0/0", via = "203.0.113.9" }}]
[functions.router.interfaces.lan]
addresses = ["10.0.0.1/24"]
neighbours = [{neighbours}]
[functions.router.interfaces.wan]
addresses = ["203.0.113.2/24"]
neighbours = [{{ address = "203.0.113.9", mac = "02:00:00:00:09:02" }}]
"#,
            directory = site.path("").display(),
            forwards = forwards.join(", "),
            neighbours = neighbours.join(", "),
        );
        site.write("captures.toml", &text);
        let mut command: Command = millrace();
        let output = command
            .args(["run", "--json", "--interval", "0"])
            .arg(site.path("captures.toml"))
            .output()
            .unwrap();
        let account = accounting(&output);
        assert_eq!(account["sums"]["received"], 2 * FLOWS * NUMBERS, "{account}");
        let dropped = account["sums"]["dropped"].as_u64().unwrap();
        assert_eq!(dropped, 0, "{account}");
        results.push((left(&site.path("wan-out.pcap"), true), left(&site.path("lan-out.pcap"), false)));
    }
    let (wan, lan) = &results[0];
    let all: Vec<u32> = (0..NUMBERS).collect();
    assert_eq!((wan.len(), lan.len()), (FLOWS as usize, FLOWS as usize));
    assert!(
        wan.values().chain(lan.values()).all(|(numbers, _)| *numbers == all),
        "each flow whole and in order"
    );
    assert_eq!(results[1], results[0]);
    assert_eq!(results[2], results[0]);
}
