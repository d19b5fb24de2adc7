//! `millrace capture` on running instances, read by tshark.

mod common;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use common::hosts::Hosts;
use common::net::{Namespace, may_make_namespaces};
use common::{Running, Site, millrace};

/// Fields of all packets of a file, as tshark reads them; fails if it finds anything wrong with the file.
fn read(path: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    // Behind a rewrite that goes wrong, checksums are what is wrong first.
    command.args([
        "-o",
        "ip.check_checksum:TRUE",
        "-o",
        "udp.check_checksum:TRUE",
        "-o",
        "tcp.check_checksum:TRUE",
    ]);
    command
        .args(["-n", "-T", "fields", "-E", "separator=|", "-E", "aggregator=#", "-Y", filter, "-r"])
        .arg(path);
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !error.contains("cut short"), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

fn count(path: &Path, filter: &str) -> usize {
    read(path, filter, &["frame.number"]).len()
}

/// What the statistics at the end of a file say of each interface: received, left out for want of time and of room, delivered.
fn statistics(path: &Path) -> BTreeMap<String, [u64; 4]> {
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
    use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption as Counted;
    use pcap_file::pcapng::{Block, PcapNgReader};
    let bytes = std::fs::read(path).unwrap();
    let mut reader = PcapNgReader::new(bytes.as_slice()).unwrap();
    let (mut names, mut found) = (Vec::new(), BTreeMap::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(interface) => {
                names.extend(interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                }));
            }
            Block::InterfaceStatistics(block) => {
                let mut counts = [0; 4];
                for option in &block.options {
                    match option {
                        Counted::IsbIfRecv(count) => counts[0] = *count,
                        Counted::IsbIfDrop(count) => counts[1] = *count,
                        Counted::IsbOsDrop(count) => counts[2] = *count,
                        Counted::IsbUsrDeliv(count) => counts[3] = *count,
                        _ => {}
                    }
                }
                found.insert(names[block.interface_id as usize].clone(), counts);
            }
            _ => {}
        }
    }
    found
}

/// What a capture said at its end: packets, left out.
fn totals(output: &Output) -> (u64, u64) {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let said: Value =
        serde_json::from_str(error.lines().last().unwrap()).unwrap_or_else(|_| panic!("{error}"));
    (said["packets"].as_u64().unwrap(), said["left_out"].as_u64().unwrap())
}

/// A capture that runs beside the test.
struct Beside(Option<Child>);

impl Beside {
    /// Returns when the file has its head, so that what comes now is captured.
    fn start(site: &Site, output: &Path, arguments: &[&str]) -> Self {
        let mut command = millrace();
        command.arg("capture").args(arguments).arg("--json").arg("--output").arg(output);
        command.arg("--socket").arg(site.path("m.sock")).stderr(Stdio::piped());
        let mut beside = Self(Some(command.spawn().unwrap()));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !std::fs::metadata(output).is_ok_and(|file| file.len() > 0) {
            let child = beside.0.as_mut().unwrap();
            if child.try_wait().unwrap().is_some() {
                panic!(
                    "{}",
                    String::from_utf8_lossy(&beside.0.take().unwrap().wait_with_output().unwrap().stderr)
                );
            }
            assert!(Instant::now() < deadline, "the capture does not begin");
            std::thread::sleep(Duration::from_millis(10));
        }
        beside
    }

    /// Interrupts it.
    fn stop(mut self) -> Output {
        let child = self.0.take().unwrap();
        let status = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
        assert!(status.success());
        child.wait_with_output().unwrap()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A client and a server; between them an instance with a firewall, a NAT and a router.
struct Edge {
    site: Site,
    client: Namespace,
    router: Namespace,
    server: Namespace,
}

impl Edge {
    fn start(workers: &str) -> (Self, Running) {
        let Hosts { client, outside: server, router } = Hosts::new(1);
        let site = Site::new();
        let text = format!(
            r#"
{workers}
[management]
socket = "{}"
[memory]
hugepages = "off"
reserve_hugepages = false
[metrics]
listen = "off"
[sessions]
capacity = 4096
[ports.lan]
kind = "af_packet"
interface = "mr-lan"
[ports.wan]
kind = "af_packet"
interface = "mr-wan"
[chains.edge]
functions = ["firewall", "nat", "router"]
zones.inside = ["lan"]
zones.outside = ["wan"]
[functions.firewall]
kind = "firewall"
[[functions.firewall.rules]]
name = "no-telnet"
action = "deny"
protocol = ["udp"]
destination_ports = [23]
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
        );
        site.write("run.toml", &text);
        let running = site.start_in(&router);
        let edge = Self { site, client, router, server };
        // Neighbours are known from here on.
        edge.client.run("ping -c 2 -i 0.1 -w 20 198.51.100.2");
        (edge, running)
    }

    /// Sends UDP datagrams from the client, some milliseconds apart.
    fn send(&self, port: u16, count: usize) {
        let program = "import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 5000))
for i in range(int(sys.argv[2])):
    s.sendto(b'number %d' % i, ('198.51.100.2', int(sys.argv[1]))); time.sleep(0.005)";
        let mut python = Command::new("python3");
        python.args(["-c", program, &port.to_string(), &count.to_string()]);
        assert!(self.client.enter(&python).status().unwrap().success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.path(name)
    }
}

#[test]
fn every_point_shows_what_passes_it_and_what_is_decided() {
    if !may_make_namespaces("every_point_shows_what_passes_it_and_what_is_decided") {
        return;
    }
    for workers in ["", "[workers]\ncores = [0, 1]"] {
        if !workers.is_empty() && std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
            continue;
        }
        let (edge, running) = Edge::start(workers);
        let path = edge.path("all.pcapng");
        let points = [
            "port:lan",
            "port:wan/tx",
            "chain:edge",
            "function:nat",
            "function:router",
            "drops",
            "protocol=udp",
        ];
        let capture = Beside::start(&edge.site, &path, &[&points[..], &["--budget", "100"]].concat());
        edge.send(9, 40);
        edge.send(23, 10);
        let (packets, left_out) = totals(&capture.stop());
        let of = |interface: &str, more: &str| {
            count(&path, &format!("frame.interface_name == \"{interface}\" && udp && !icmp{more}"))
        };
        assert_eq!(left_out, 0);
        assert_eq!((of("port:lan/rx", ""), of("port:wan/tx", "")), (50, 40));
        assert_eq!((of("chain:edge", ""), of("drops", "")), (50, 10));
        // What is denied comes to no further function.
        assert_eq!((of("function:nat", ""), of("function:router", "")), (40, 40));
        // The packet as it comes to each: the NAT sees the inside address, the router the external one.
        assert_eq!(of("function:nat", " && ip.src == 10.0.0.2"), 40);
        assert_eq!(of("function:router", " && ip.src == 198.51.100.1"), 40);
        assert_eq!(of("function:router", " && udp.checksum.status == 1 && ip.checksum.status == 1"), 40);
        assert_eq!(of("port:wan/tx", " && ip.src == 198.51.100.1"), 40);
        let comments = |filter: &str| -> Vec<String> {
            read(&path, filter, &["frame.comment"]).into_iter().map(|fields| fields.join("|")).collect()
        };
        for comment in comments("frame.interface_name == \"drops\" && udp.dstport == 23 && !icmp") {
            let said = "firewall: drop firewall_denied by rule \"no-telnet\", action deny";
            assert!(comment.contains(said), "{comment}");
            assert!(
                comment.contains("dropped from lan: firewall_denied, A firewall rule, or the default"),
                "{comment}"
            );
        }
        let nat = comments("frame.interface_name == \"function:nat\" && udp.dstport == 9 && !icmp");
        assert!(nat[0].contains("nat: continue by mapping new"), "{}", nat[0]);
        assert!(nat.iter().all(|said| said.contains("; source 10.0.0.2:5000 -> 198.51.100.1:")), "{nat:?}");
        assert!(nat[0].contains("flow cache: miss; sent to wan"), "{}", nat[0]);
        assert!(nat[39].contains("flow cache: hit; sent to wan"), "{}", nat[39]);
        let chain = comments("frame.interface_name == \"chain:edge\" && udp.dstport == 9 && !icmp");
        for said in [
            "firewall: continue by ",
            "nat: continue",
            "router: forward by route 198.51.100.0/24",
            "sent to wan",
        ] {
            assert!(chain.iter().all(|comment| comment.contains(said)), "{said}: {}", chain[0]);
        }
        // Which way, with the times in order; what was counted is what was written.
        let flagged =
            |interface: &str, way: u8| of(interface, &format!(" && frame.packet_flags_direction == {way}"));
        assert_eq!((flagged("port:lan/rx", 1), flagged("port:wan/tx", 2)), (50, 40));
        let times = read(&path, "frame", &["frame.time_epoch"]);
        assert!(times.is_sorted_by(|a, b| a[0] <= b[0]));
        assert_eq!(times.len() as u64, packets);
        let statistics = statistics(&path);
        assert_eq!(statistics.values().map(|counts| counts[3]).sum::<u64>(), packets);
        assert_eq!(statistics["drops"][3], of("drops", "") as u64);
        assert!(statistics["port:lan/rx"][0] >= 50);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600, "nobody else reads the packets");
        running.stop();
    }
}

#[test]
fn tshark_reads_a_capture_from_a_pipe() {
    if !may_make_namespaces("tshark_reads_a_capture_from_a_pipe") {
        return;
    }
    let (edge, running) = Edge::start("");
    let mut capture = millrace();
    capture.args(["capture", "port:lan/rx", "protocol=udp", "--count", "20", "--snap", "42", "--socket"]);
    capture.arg(edge.path("m.sock")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut capture = capture.spawn().unwrap();
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-l", "-i", "-", "-T", "fields", "-e", "udp.dstport", "-e", "frame.cap_len"]);
    tshark.stdin(capture.stdout.take().unwrap()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut tshark = tshark.spawn().unwrap();
    // More than are wanted, for the capture takes its time to begin.
    let deadline = Instant::now() + Duration::from_secs(60);
    while capture.try_wait().unwrap().is_none() {
        edge.send(9, 20);
        assert!(Instant::now() < deadline, "the capture does not end");
    }
    let mut text = String::new();
    tshark.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    tshark.wait().unwrap();
    assert_eq!(text.lines().filter(|line| *line == "9\t42").count(), 20, "{text}");
    running.stop();
}

#[test]
fn drops_of_ports_are_captured_with_their_place() {
    if !may_make_namespaces("drops_of_ports_are_captured_with_their_place") {
        return;
    }
    let (edge, running) = Edge::start("");
    let text = std::fs::read_to_string(edge.path("run.toml")).unwrap();
    running.stop();
    let faulty = text.replace(
        "interface = \"mr-lan\"",
        "interface = \"mr-lan\"\nfault = { loss = 1.0, direction = \"rx\" }",
    );
    edge.site.write("run.toml", &faulty);
    let running = edge.site.start_in(&edge.router);
    edge.client.run("ip neighbour replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0");
    let path = edge.path("drops.pcapng");
    let points = ["drops:fault_injected", "protocol=udp", "--budget", "100"];
    let capture = Beside::start(&edge.site, &path, &points);
    edge.send(9, 30);
    assert_eq!(totals(&capture.stop()), (30, 0));
    let said = "dropped at reception by lan: fault_injected";
    assert_eq!(count(&path, &format!("frame.comment contains \"{said}\" && udp.dstport == 9")), 30);
    let _ = &edge.server;
    running.stop();
}

#[test]
fn what_a_capture_takes_is_bounded_and_what_it_left_out_is_counted() {
    let site = Site::new();
    // As fast as it goes.
    site.write("run.toml", &site.text().replace("rate = 50000", "rate = \"max\""));
    let running = site.start();
    let path = site.path("flood.pcapng");
    let output = site.path("flood.pcapng").display().to_string();
    let arguments =
        ["capture", "port:source/rx", "chain:measured", "--seconds", "2", "--json", "--output", &output];
    let done = site.ask(&arguments);
    let (packets, left_out) = totals(&done);
    let counted = statistics(&path);
    assert_eq!(counted.values().map(|counts| counts[3]).sum::<u64>(), packets);
    assert_eq!(counted.values().map(|counts| counts[1] + counts[2]).sum::<u64>(), left_out);
    assert!(packets > 1_000 && left_out > packets, "{packets} {left_out}");
    for (name, [passed, no_time, no_room, delivered]) in &counted {
        // Everything that passed was written or counted.
        assert_eq!(*passed, no_time + no_room + delivered, "{name}");
    }
    // One in 1,024 of what passes.
    let output = site.path("sample.pcapng").display().to_string();
    let sampled = site.ask(&[
        "capture",
        "port:source/rx",
        "--sample",
        "1/1024",
        "--count",
        "500",
        "--json",
        "-o",
        &output,
    ]);
    assert_eq!(totals(&sampled).0, 500);
    let [passed, ..] = statistics(&site.path("sample.pcapng"))["port:source/rx"];
    assert!(passed >= 499 * 1_024, "{passed}");
    running.stop();
}

#[test]
fn a_capture_ends_when_its_file_or_its_client_does() {
    let site = Site::new();
    let running = site.start();
    // A limit of bytes, and a row of files.
    let output = site.path("small.pcapng").display().to_string();
    let done = site.ask(&["capture", "ports", "--max-bytes", "64KiB", "--json", "--output", &output]);
    let small = site.path("small.pcapng");
    assert_eq!(totals(&done).0, count(&small, "frame") as u64);
    assert!((50_000..=65_536).contains(&std::fs::metadata(&small).unwrap().len()));
    assert!(String::from_utf8_lossy(&done.stderr).contains("the limit of bytes is reached"));
    let output = site.path("row.pcapng").display().to_string();
    let row = ["--rotate", "64KiB", "--files", "2", "--count", "3000", "--json", "--output", &output];
    assert_eq!(totals(&site.ask(&[&["capture", "ports"][..], &row].concat())).0, 3_000);
    let files: Vec<_> = std::fs::read_dir(site.path("")).unwrap().map(|file| file.unwrap().path()).collect();
    let files: Vec<_> = files.iter().filter(|path| path.to_string_lossy().contains("/row.0")).collect();
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|file| std::fs::metadata(file).unwrap().len() <= 65_536));
    // The last one may have just begun; the one before it is full.
    let kept: Vec<_> = files.iter().map(|file| count(file, "udp")).collect();
    assert!(kept.iter().all(|kept| *kept > 0) && kept.iter().sum::<usize>() > 100, "{kept:?}");
    // One at a time; one whose client is killed is over.
    let first = Beside::start(&site, &site.path("first.pcapng"), &["port:source/rx", "port=1"]);
    let again = || site.ask(&["capture", "drops", "--count", "1", "--seconds", "1", "--output", "/dev/null"]);
    let refused = String::from_utf8_lossy(&again().stderr).into_owned();
    assert!(refused.contains("another capture is under way: one at a time"), "{refused}");
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !again().status.success() {
        assert!(Instant::now() < deadline, "the first capture does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    for (points, said) in [
        (&["lan"][..], "`lan` is no point: expected port:NAME"),
        (&["port:nowhere"], "there is no port `nowhere`; there are source, drain"),
        (&["drops", "color=red"], "`color` is no key of packets"),
        (&["input=source"], "a capture has 1 to 64 points"),
    ] {
        let refused = site.ask(&[&["capture", "--output", "/dev/null"], points].concat());
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && error.contains(said), "{error}");
    }
    running.stop();
}

#[test]
fn a_full_disk_ends_a_capture_and_costs_no_packet() {
    if !may_make_namespaces("a_full_disk_ends_a_capture_and_costs_no_packet") {
        return;
    }
    let site = Site::new();
    let running = site.start();
    // A disk of 64 KiB in a mount namespace of its own, from which the file is copied out.
    let script = format!(
        "mount -t tmpfs -o size=64k tmpfs /mnt && {} capture ports --output /mnt/full.pcapng --socket {}; status=$?; \
         cp /mnt/full.pcapng {}; exit $status",
        env!("CARGO_BIN_EXE_millrace"),
        site.path("m.sock").display(),
        site.path("full.pcapng").display()
    );
    let done = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{error}");
    assert!(error.contains("/mnt/full.pcapng: No space left on device"), "{error}");
    // What is in the file is whole.
    let kept = count(&site.path("full.pcapng"), "frame");
    assert!(error.contains(&format!("; {kept} packets were captured before")), "{kept}: {error}");
    assert!(kept > 100);
    // Checks the sums and the frames.
    running.stop();
}
