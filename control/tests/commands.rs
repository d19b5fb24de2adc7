//! The command as people use it: run, show, clear, apply and replay, as processes.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, TsResolution};
use serde_json::Value;

use common::{Site, accounting, millrace};

#[test]
fn run_ends_by_duration_with_sums_that_hold() {
    let site = Site::new();
    let output = millrace()
        .args(["run", "--json", "--duration", "2", "--interval", "1"])
        .arg(site.path("run.toml"))
        .output();
    let accounting = accounting(&output.unwrap());
    let received = accounting["sums"]["received"].as_u64().unwrap();
    assert!(received > 10_000, "{accounting}");
    assert_eq!(accounting["sums"]["sent"], received);
    assert!(accounting["hits"].as_u64().unwrap() >= received - 2 * 3_000);
    let rule =
        accounting["functions"].as_array().unwrap().iter().find(|row| row["item"] == "rule all").unwrap();
    assert_eq!(rule["packets"], received);
    assert!(!site.path("m.sock").exists());
}

#[test]
fn a_running_instance_is_shown_cleared_and_changed() {
    let site = Site::new();
    let running = site.start();
    let mode = fs::metadata(site.path("m.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.show("sessions").unwrap().len() < 3_000 {
        assert!(Instant::now() < deadline);
    }
    for topic in [
        "ports",
        "functions",
        "flows",
        "chains",
        "workers",
        "shares",
        "memory",
        "latency",
        "neighbours",
        "routes",
        "nat",
    ] {
        assert!(!site.show(topic).unwrap().is_empty(), "{topic}");
    }
    let page = site.ask(&["show", "sessions", "--json", "--limit", "2", "--offset", "2999"]);
    let page: Value = serde_json::from_slice(&page.stdout).unwrap();
    assert_eq!(page["rows"].as_array().unwrap().len(), 1);
    let none = site.ask(&["show", "sessions", "--json", "--filter", "protocol=tcp"]);
    assert_eq!(serde_json::from_slice::<Value>(&none.stdout).unwrap()["rows"], Value::Array(Vec::new()));
    assert!(!site.ask(&["show", "sessions", "--filter", "colour=red"]).status.success());
    let cleared = site.ask(&["clear", "sessions", "source=198.18.0.0/16", "protocol=udp"]);
    assert_eq!(String::from_utf8_lossy(&cleared.stdout), "sessions ended: 3000\n");

    // A second instance is refused, and the first goes on.
    let second = millrace().arg("run").arg(site.path("run.toml")).output().unwrap();
    assert!(!second.status.success());
    // A change as a whole: no rule lets packets pass any more.
    let denied = site.write("denied.toml", &site.text().replace("\"allow\"", "\"deny\""));
    let applied = millrace().arg("apply").arg(denied).output().unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    std::thread::sleep(Duration::from_millis(500));
    let sent = |site: &Site| site.show("ports").unwrap()[1]["tx_packets"].as_u64().unwrap();
    let before = sent(&site);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(sent(&site), before);
    let accounting = running.stop();
    assert!(accounting["sums"]["dropped"].as_u64().unwrap() > 0);
}

#[test]
fn a_change_is_refused_whole() {
    let site = Site::new();
    let running = site.start();
    let half = site.text().replace("\"allow\"", "\"deny\"").replace("capacity = 4096", "capacity = 8192");
    let broken =
        site.text().replace("\"allow\"", "\"deny\"").replace("via = \"203.0.113.2\"", "via = \"9.9.9.9\"");
    let port = site.text().replace("\"allow\"", "\"deny\"").replace("flows = 3000", "flows = 30");
    for (text, key) in [(half, "sessions.capacity"), (broken, "routes"), (port, "ports.source")] {
        let file = site.write("other.toml", &text);
        let output = millrace().arg("apply").arg(file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(key), "{said}");
    }
    let accounting = running.stop();
    assert_eq!(accounting["sums"]["dropped"], 0);
}

#[test]
fn garbage_slow_and_too_many_clients_harm_nobody() {
    let site = Site::new();
    let running = site.start();
    let connect = || UnixStream::connect(site.path("m.sock")).unwrap();
    let mut random = 0x2545_f491_4f6c_dd1du64;
    for round in 0..50 {
        let mut bytes: Vec<u8> = (0..200)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as u8
            })
            .collect();
        if round % 3 == 0 {
            bytes = br#"{"request":"show","topic":"#.to_vec();
        }
        bytes.push(b'\n');
        let mut client = connect();
        client.write_all(&bytes).unwrap();
        let mut answer = [0; 64];
        let count = client.read(&mut answer).unwrap_or(0);
        assert!(answer[..count].starts_with(br#"{"refused":"#), "{round}: {:?}", &answer[..count]);
        drop(client);
        std::thread::sleep(Duration::from_millis(5));
    }
    // Longer than any request may be.
    let mut client = connect();
    let chunk = vec![b'x'; 1 << 20];
    let sent = (0..80).take_while(|_| client.write_all(&chunk).is_ok()).count();
    assert!(sent < 80);
    drop(client);
    // Eight who say nothing; the ninth is told so, and is served when they time out.
    let silent: Vec<UnixStream> = (0..8).map(|_| connect()).collect();
    std::thread::sleep(Duration::from_millis(200));
    assert!(!site.ask(&["show", "ports"]).status.success());
    let served = (0..40).any(|_| {
        std::thread::sleep(Duration::from_millis(500));
        site.ask(&["show", "ports"]).status.success()
    });
    assert!(served);
    drop(silent);
    running.stop();
}

#[test]
fn a_configuration_that_may_be_read_may_be_applied() {
    let site = Site::new();
    let running = site.start();
    let apply = |bytes: usize| {
        let remark = "# \"a remark\"\n";
        let path = site.write("large.toml", &(site.text() + &remark.repeat(bytes / remark.len())));
        millrace().arg("apply").arg(path).output().unwrap()
    };
    let output = apply((16 << 20) - 4_096);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && output.stdout.starts_with(b"nothing has changed"), "{said}");
    let said = String::from_utf8(apply(17 << 20).stderr).unwrap();
    assert!(said.contains("the file is larger than 16 MiB"), "{said}");
    running.stop();
}

#[test]
fn signals_drain_or_do_nothing() {
    let site = Site::new();
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(words[0]);
        command.args(&words[1..]).arg(millrace().get_program()).args(["run", "--json", "--interval", "0"]);
        command.arg(site.path("run.toml")).stdout(std::process::Stdio::piped());
        site.start_as(command)
    };
    // As from a terminal, however the tests were started.
    let mut running = run(&["env", "--default-signal=HUP"]);
    for signal in ["USR1", "USR2"] {
        running.signal(signal);
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(site.show("ports").is_some(), "signals without a meaning end nothing");
    // A terminal that closes tells more than once.
    running.signal("HUP");
    running.signal("HUP");
    accounting(&running.end());
    // As nohup(1) starts it.
    let mut running = run(&["env", "--ignore-signal=HUP"]);
    running.signal("HUP");
    std::thread::sleep(Duration::from_millis(500));
    assert!(site.show("ports").is_some(), "it outlives its terminal");
    running.stop();
}

/// Where nobody can be told anything, the status says it.
#[test]
fn a_full_disk_is_no_panic() {
    let site = Site::new();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let run = site.path("run.toml").display().to_string();
    for arguments in [
        &["run", "--duration", "1", "--interval", "0", &run][..],
        &["show", "ports", "--socket", "/none"],
        &["check", "/none"],
    ] {
        let status = millrace().args(arguments).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}");
    }
}

#[test]
fn after_a_kill_the_next_start_works() {
    let site = Site::new();
    let mut running = site.start();
    let child = running.child();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(site.path("m.sock").exists());
    site.start().stop();
    assert!(!site.path("m.sock").exists());
}

const EDGE: &str = r#"
[ports.lan]
kind = "af_xdp"
interface = "none-such-0"
[ports.wan]
kind = "af_xdp"
interface = "none-such-1"
[chains.edge]
functions = ["firewall", "nat", "router"]
zones.inside = ["lan"]
zones.outside = ["wan"]
[functions.firewall]
kind = "firewall"
[[functions.firewall.rules]]
action = "allow"
from = "inside"
to = "outside"
[[functions.firewall.rules]]
action = "allow"
to = "inside"
protocol = "udp"
destination_ports = 80
[functions.nat]
kind = "nat"
pool = ["198.51.100.10"]
[[functions.nat.forward]]
protocol = "udp"
external = "198.51.100.10:8080"
internal = "10.0.0.3:80"
[functions.router]
kind = "router"
routes = [{ prefix = "0.0.0.0/0", via = "198.51.100.2" }]
[functions.router.interfaces.lan]
addresses = ["10.0.0.1/24"]
[functions.router.interfaces.wan]
addresses = ["198.51.100.1/24"]
"#;
const LAN: [u8; 6] = [2, 0, 0, 0, 1, 1];
const WAN: [u8; 6] = [2, 0, 0, 0, 2, 1];
const INSIDE: [u8; 6] = [2, 0, 0, 0, 1, 2];
const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 2, 2];

fn udp(macs: ([u8; 6], [u8; 6]), from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from.0, to.0, 64).udp(from.1, to.1);
    builder.write(&mut frame, b"some payload").unwrap();
    frame
}

fn arp(operation: u8, (mac, sender): ([u8; 6], [u8; 4]), (to, target): ([u8; 6], [u8; 4])) -> Vec<u8> {
    let ethernet_to = if operation == 1 { [0xff; 6] } else { to };
    let fixed = [8, 6, 0, 1, 8, 0, 6, 4, 0, operation];
    [&ethernet_to[..], &mac, &fixed, &mac, &sender, &to, &target].concat()
}

fn capture(path: &Path, frames: &[(u64, Vec<u8>)]) {
    let header = PcapHeader {
        ts_resolution: TsResolution::NanoSecond,
        datalink: DataLink::ETHERNET,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(File::create(path).unwrap(), header).unwrap();
    for (millis, frame) in frames {
        let time = Duration::from_secs(1_700_000_000) + Duration::from_millis(*millis);
        writer.write_packet(&PcapPacket::new(time, frame.len() as u32, frame)).unwrap();
    }
}

fn frames(path: &Path) -> Vec<(Duration, Vec<u8>)> {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        frames.push((packet.timestamp - Duration::from_secs(1_700_000_000), packet.data.into_owned()));
    }
    frames
}

#[test]
fn replay_resolves_neighbours_translates_and_repeats() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("edge.toml"), EDGE).unwrap();
    let (client, server, gateway) = ([10, 0, 0, 2], [10, 0, 0, 3], [198, 51, 100, 2]);
    let dns = ([8, 8, 8, 8], 53);
    capture(
        &path("lan.pcap"),
        &[
            (0, arp(1, (INSIDE, client), ([0; 6], [10, 0, 0, 1]))),
            (10, udp((INSIDE, LAN), (client, 1000), dns)),
            (20, udp((INSIDE, LAN), (client, 1000), dns)),
            (330, arp(2, (INSIDE, server), (LAN, [10, 0, 0, 1]))),
            (400, udp((INSIDE, LAN), (client, 1000), dns)),
        ],
    );
    capture(
        &path("wan.pcap"),
        &[
            (50, arp(2, (OUTSIDE, gateway), (WAN, [198, 51, 100, 1]))),
            (300, udp((OUTSIDE, WAN), (gateway, 5000), ([198, 51, 100, 10], 8080))),
            (310, udp((OUTSIDE, WAN), (gateway, 5000), ([198, 51, 100, 10], 9))),
            (5_000, arp(1, (OUTSIDE, gateway), ([0; 6], [198, 51, 100, 10]))),
        ],
    );
    let replay = |lan: &str, wan: &str| {
        let assign = |port: &str, file: &str| format!("{port}={}", path(file).display());
        let output = millrace()
            .args(["replay", "--json", "--mac", "lan=02:00:00:00:01:01", "--mac", "wan=02:00:00:00:02:01"])
            .args(["--input", &assign("lan", "lan.pcap"), "--input", &assign("wan", "wan.pcap")])
            .args(["--output", &assign("lan", lan), "--output", &assign("wan", wan)])
            .arg(path("edge.toml"))
            .output()
            .unwrap();
        accounting(&output)
    };
    let accounting = replay("lan1.out", "wan1.out");
    let again = replay("lan2.out", "wan2.out");
    for part in ["sums", "functions", "chains", "drops", "hits"] {
        assert_eq!(accounting[part], again[part], "{part}");
    }
    for side in ["lan", "wan"] {
        let read = |run: u8| fs::read(path(&format!("{side}{run}.out"))).unwrap();
        assert_eq!(read(1), read(2), "{side}");
    }
    assert_eq!(accounting["sums"]["received"], 9, "{accounting}");
    assert_eq!(accounting["sums"]["dropped"], 1, "{accounting}");

    let wan = frames(&path("wan1.out"));
    let lan = frames(&path("lan1.out"));
    // The router asks for its gateway; what it held leaves when the answer comes; the pool's address is answered for.
    assert_eq!(wan[0].1, arp(1, (WAN, [198, 51, 100, 1]), ([0; 6], gateway)));
    assert_eq!(wan[0].0, Duration::from_millis(10));
    let port = u16::from_be_bytes([wan[1].1[34], wan[1].1[35]]);
    let translated = |ttl: u8| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(WAN, OUTSIDE).ipv4([198, 51, 100, 10], [8, 8, 8, 8], ttl);
        builder.udp(port, 53).write(&mut frame, b"some payload").unwrap();
        frame
    };
    let expected = [(50, translated(63)), (50, translated(63)), (400, translated(63))];
    for ((time, frame), (millis, expected)) in wan[1..4].iter().zip(&expected) {
        assert_eq!((*time, frame), (Duration::from_millis(*millis), expected));
    }
    let proxy = arp(2, (WAN, [198, 51, 100, 10]), (OUTSIDE, gateway));
    assert!(wan[4..].iter().any(|(_, frame)| frame[..42] == proxy[..]), "{wan:?}");
    // ARP is answered inside, the server is asked for, and the forward reaches it.
    assert_eq!(lan[0].1[..42], arp(2, (LAN, [10, 0, 0, 1]), (INSIDE, client))[..]);
    assert_eq!(lan[1].1[..42], arp(1, (LAN, [10, 0, 0, 1]), ([0; 6], server))[..]);
    let forwarded = {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(LAN, INSIDE).ipv4(gateway, server, 63).udp(5000, 80);
        builder.write(&mut frame, b"some payload").unwrap();
        frame
    };
    assert_eq!(lan[2], (Duration::from_millis(330), forwarded));
}

/// Nothing of the machine's time is in a replay: flows that hit and more new ones than any budget of time would walk, on an idle
/// machine and on a busy one.
#[test]
fn replay_is_the_same_under_load() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("edge.toml"), EDGE).unwrap();
    let gateway = [198, 51, 100, 2];
    let host = |n: u64| [10, 0, 0, 2 + (n % 200) as u8];
    let mut lan = vec![(5, udp((INSIDE, LAN), (host(0), 999), ([8, 8, 8, 8], 53)))];
    for n in 0..30_000u64 {
        // Of four packets three are of one flow; all come in the same few milliseconds.
        let port = if n % 4 == 0 { 1000 + (n / 800) as u16 } else { 999 };
        let from = if n % 4 == 0 { host(n / 4) } else { host(0) };
        lan.push((100 + n / 10_000, udp((INSIDE, LAN), (from, port), ([8, 8, 8, 8], 53))));
    }
    capture(&path("lan.pcap"), &lan);
    capture(&path("wan.pcap"), &[(50, arp(2, (OUTSIDE, gateway), (WAN, [198, 51, 100, 1])))]);
    let replay = |run: u8| {
        let assign = |port: &str, file: &str| format!("{port}={}", path(file).display());
        let output = millrace()
            .args(["replay", "--json", "--mac", "lan=02:00:00:00:01:01", "--mac", "wan=02:00:00:00:02:01"])
            .args(["--input", &assign("lan", "lan.pcap"), "--input", &assign("wan", "wan.pcap")])
            .args([
                "--output",
                &assign("lan", &format!("lan{run}")),
                "--output",
                &assign("wan", &format!("wan{run}")),
            ])
            .arg(path("edge.toml"))
            .output()
            .unwrap();
        accounting(&output)
    };
    let idle = replay(1);
    let stop = AtomicBool::new(false);
    let busy = std::thread::scope(|scope| {
        for _ in 0..4 * std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let busy = replay(2);
        stop.store(true, Ordering::Relaxed);
        busy
    });
    assert!(idle["drops"].to_string().find("miss_budget").is_none(), "{}", idle["drops"]);
    assert!(idle["hits"].as_u64().unwrap() > 15_000, "{idle}");
    for part in ["sums", "functions", "chains", "drops", "hits"] {
        assert_eq!(idle[part], busy[part], "{part}");
    }
    for side in ["lan", "wan"] {
        let read = |run: u8| fs::read(path(&format!("{side}{run}"))).unwrap();
        assert!(read(1) == read(2), "{side}");
    }
}

#[test]
fn replay_fails_when_a_capture_is_not_read_or_written_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("edge.toml"), EDGE).unwrap();
    capture(&path("lan.pcap"), &[(0, arp(1, (INSIDE, [10, 0, 0, 2]), ([0; 6], [10, 0, 0, 1])))]);
    let replay = |input: &str, output: &str| {
        let (input, output) = (format!("lan={}", path(input).display()), format!("lan={output}"));
        let arguments =
            ["replay", "--json", "--mac", "lan=02:00:00:00:01:01", "--input", &input, "--output", &output];
        millrace().args(arguments).arg(path("edge.toml")).output().unwrap()
    };
    let whole = path("whole.pcap").display().to_string();
    accounting(&replay("lan.pcap", &whole));
    // A disk without room, and a capture that ends in the middle of a packet.
    let bytes = fs::read(path("lan.pcap")).unwrap();
    fs::write(path("cut.pcap"), &bytes[..bytes.len() - 5]).unwrap();
    for (input, output, said) in [
        ("lan.pcap", "/dev/full", "port lan: /dev/full could not be written whole: No space left on device"),
        ("cut.pcap", whole.as_str(), "cut.pcap could not be read to its end: the file ends at byte"),
    ] {
        let ended = replay(input, output);
        let error = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{error}");
        assert!(error.contains(said), "{error}");
        let accounting: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!(
            (&accounting["sums_hold"], accounting["failures"].as_array().unwrap().len()),
            (&true.into(), 1)
        );
    }
}

#[test]
fn memory_is_shown_as_configured_and_as_it_is() {
    let site = Site::new();
    let running = site.start();
    let rows = site.show("memory").unwrap();
    let row = |what: &str| rows.iter().find(|row| row["what"] == what).unwrap();
    assert_eq!(row("sessions")["configured"], 4_096);
    assert_eq!(row("flow cache entries")["configured"], 8_192);
    assert!(row("flow cache entries")["places"].as_u64().unwrap() >= 8_192 * 4 / 3);
    assert_eq!(row("arena bytes")["note"], "plain pages of 4 KiB");
    running.stop();
}

/// The columns of a topic, as the instance says them also when there are no rows.
fn columns(site: &Site, topic: &str) -> Vec<String> {
    let mut client = UnixStream::connect(site.path("m.sock")).unwrap();
    client.write_all(format!("{{\"request\":\"show\",\"topic\":\"{topic}\"}}\n").as_bytes()).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    serde_json::from_value(answer["rows"]["columns"].clone()).unwrap()
}

#[test]
fn every_column_and_key_is_documented() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md")).unwrap();
    let section = |heading: &str| {
        let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
        let rest = &text[start + heading.len()..];
        rest.split("\n##").next().unwrap().to_owned()
    };
    let site = Site::new();
    let mut running = site.start();
    for topic in [
        "ports",
        "functions",
        "flows",
        "sessions",
        "chains",
        "workers",
        "shares",
        "memory",
        "drops",
        "latency",
        "neighbours",
        "probes",
        "routes",
        "nat",
    ] {
        let section = section(&format!("### `show {topic}`"));
        let columns = columns(&site, topic);
        for column in &columns {
            assert!(section.contains(&format!("`{column}`")), "show {topic}: {column}");
        }
        // Nor is there a column that no longer exists: the first cells of the table hold nothing else.
        for cell in section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next()) {
            for name in cell.trim_end_matches('`').split("`, `") {
                assert!(columns.iter().any(|column| column == name), "show {topic}: {name}");
            }
        }
    }
    running.signal("TERM");
    let accounting = accounting(&running.end());
    let section = section("## The accounting");
    let sums = accounting["sums"].as_object().unwrap();
    for key in accounting.as_object().unwrap().keys().chain(sums.keys()) {
        assert!(section.contains(&format!("`{key}`")), "{key}");
    }
}
