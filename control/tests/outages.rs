//! What goes wrong around a running instance: no memory, no room or no reader for its log, a wall clock that jumps, a process
//! that is stopped. Packets flow on, or there is a clear word at the start.

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::edge::{Edge, Kind, python};
use common::killed::Killed;
use common::net::may_make_namespaces;
use common::wait::wait_until;
use common::{Site, accounting, millrace};

/// Packets that the generator's instance has sent.
fn sent(site: &Site) -> u64 {
    site.show("ports").unwrap().iter().map(|port| port["tx_packets"].as_u64().unwrap()).sum()
}

fn flows_on(site: &Site, what: &str) {
    let before = sent(site);
    wait_until(what, || sent(site) > before + 5_000);
}

/// Who may map too little gets a clear word, and nothing is left behind.
#[test]
fn too_little_memory_is_a_clear_error() {
    let site = Site::new();
    site.write("run.toml", &site.text().replace("capacity = 4096", "capacity = 4000000"));
    let mut command = Command::new("prlimit");
    command.args(["--as=600000000"]).arg(millrace().get_program());
    command.args(["run", "--interval", "0"]).arg(site.path("run.toml"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("arena") && said.contains("annot allocate memory"), "{said}");
    assert!(!site.path("m.sock").exists());
}

/// A limit on addresses that leaves none for an allocator ends a process without a word, unless it is looked at first.
#[test]
fn too_little_address_space_is_a_clear_error() {
    let site = Site::new();
    let mut command = Command::new("prlimit");
    command.args(["--as=100000000"]).arg(millrace().get_program());
    command.args(["run", "--interval", "0"]).arg(site.path("run.toml"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("100000000 (`ulimit -v`)"), "{said}");
}

#[test]
fn who_insists_on_huge_pages_gets_no_others() {
    let site = Site::new();
    let text = site.text().replace(
        "hugepages = \"off\"",
        "hugepages = \"2MiB\"\nreserve_hugepages = false\nsize = \"512 GiB\"",
    );
    site.write("run.toml", &text);
    let mut command = millrace();
    let output = command.args(["run", "--interval", "0"]).arg(site.path("run.toml")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("memory.hugepages") && said.contains("\"auto\" takes the best"), "{said}");
}

/// A control group for memory below that of this process; it goes when this is dropped.
struct Group(PathBuf);

impl Group {
    /// None where no group can be made.
    fn new(limit: &str) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let place = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let path = path.trim_start_matches('/');
            match controllers {
                "memory" => Some((Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes")),
                "" if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() => {
                    Some((Path::new("/sys/fs/cgroup").join(path), "memory.max"))
                }
                _ => None,
            }
        });
        let (parent, file) = place?;
        let group = Self(parent.join(format!("millrace-test-{}", std::process::id())));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(file), limit).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Who takes more than its control group may have would be killed without a word, now or later.
#[test]
fn a_control_group_with_too_little_memory_is_a_clear_error() {
    let Some(group) = Group::new("67108864") else {
        println!(
            "SKIPPED a_control_group_with_too_little_memory_is_a_clear_error: no control group can be made"
        );
        return;
    };
    let site = Site::new();
    site.write(
        "run.toml",
        &site.text().replace("hugepages = \"off\"", "hugepages = \"off\"\nsize = \"256 MiB\""),
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", "echo $$ > \"$0\"/cgroup.procs; exec \"$@\""])
        .arg(&group.0)
        .arg(millrace().get_program());
    let output = command.args(["run", "--interval", "0"]).arg(site.path("run.toml")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{:?} {said}", output.status);
    assert!(said.contains("the control group") && said.contains("allows 67108864"), "{said}");
}

/// Descriptors run out: connections wait, the log is told once, packets flow, and all is well when there are some again.
#[test]
fn a_want_of_descriptors_is_told_once() {
    let site = Site::new();
    let mut running = site.start();
    let pid = running.child().id().to_string();
    let limit = |count: &str| {
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={count}:")]).status();
        assert!(status.unwrap().success());
    };
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    limit(&open.to_string());
    let waiting: Vec<_> =
        (0..4).map(|_| std::os::unix::net::UnixStream::connect(site.path("m.sock")).unwrap()).collect();
    std::thread::sleep(Duration::from_secs(3));
    limit("1024");
    drop(waiting);
    flows_on(&site, "packets flow");
    running.signal("TERM");
    let output = running.end();
    accounting(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = said.lines().filter(|line| line.contains("could not be accepted")).count();
    assert!((1..=2).contains(&told), "{said}");
}

/// Control threads panic and stall while packets flow: none is lost, and what they serve is there again.
#[test]
fn control_threads_that_panic_or_stall_cost_no_packet() {
    if !may_make_namespaces("control_threads_that_panic_or_stall_cost_no_packet") {
        return;
    }
    if !cfg!(debug_assertions) || std::env::var_os("MILLRACE").is_some() {
        println!(
            "SKIPPED control_threads_that_panic_or_stall_cost_no_packet: only a debug build can be sabotaged"
        );
        return;
    }
    let edge = Edge::new(Kind::AfPacket);
    let host = "[host]\nchains = [\"edge\"]\necho = true\n";
    let text = edge.text("", host).replace("listen = \"off\"", "listen = \"127.0.0.1:9469\"");
    edge.site.write("run.toml", &text);
    let mut command = edge.command();
    command.env("MILLRACE_SABOTAGE", edge.site.path(""));
    let mut running = edge.site.start_as(command);
    edge.ping("10.2.0.2", 5);
    let mut ping =
        edge.client.enter(Command::new("ping").args(["-q", "-i", "0.02", "-w", "120", "10.2.0.2"]));
    let mut ping = Killed(ping.stdout(Stdio::piped()).spawn().unwrap());
    let threads = ["management", "rule-log", "host", "links", "metrics"];
    for thread in threads {
        edge.site.write(thread, "panic");
        wait_until("it panics", || !edge.site.path(thread).exists());
        wait_until("it serves again", || edge.site.show("ports").is_some());
    }
    // Longer than the five seconds that they are given.
    let stalled = ["management", "host", "metrics"];
    for thread in stalled {
        edge.site.write(thread, "8");
        wait_until("it stalls", || !edge.site.path(thread).exists());
    }
    wait_until("another takes its place", || edge.site.show("ports").is_some());
    let metrics = "curl -sS --fail --max-time 20 http://127.0.0.1:9469/metrics";
    wait_until("metrics are told", || edge.router.output(metrics).contains("millrace_port_link_up"));
    let status = Command::new("kill").args(["-s", "INT", &ping.0.id().to_string()]).status().unwrap();
    assert!(status.success());
    let mut text = String::new();
    ping.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains(" 0% packet loss"), "{text}");
    // The host stack answers, with the ports that it had.
    edge.ping("10.1.0.1", 5);
    assert_eq!(edge.site.show("workers").unwrap()[0]["sums_hold"], true);
    running.signal("TERM");
    let output = running.end();
    accounting(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for thread in threads {
        let panicked = said.lines().filter(|line| line.contains("panicked; it is started again"));
        assert_eq!(panicked.filter(|line| line.contains(thread)).count(), 1, "{thread}: {said}");
    }
    for thread in stalled {
        let replaced = said.lines().filter(|line| line.contains("another takes its place"));
        assert_eq!(replaced.filter(|line| line.contains(thread)).count(), 1, "{thread}: {said}");
    }
}

/// A file system of 64 KiB, for as long as this lives.
struct Small(PathBuf);

impl Small {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"];
        assert!(Command::new("mount").args(mount).arg(&path).status().unwrap().success());
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn lines_lost(site: &Site) -> u64 {
    let address = fs::read_to_string(site.path("address")).unwrap();
    let output = Command::new("curl").args(["-sS", "--fail", "--max-time", "20", &address]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let name = "millrace_log_lines_left_out_total{reason=\"full\"} ";
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

/// An instance that logs each new flow, up to ten a second, and has metrics at an address of its own.
fn logging(site: &Site, port: u16) -> Command {
    let rules = (0..40).map(|number| {
        format!(
            "[[functions.firewall.rules]]\nname = \"some-{number}\"\naction = \"allow\"\nfrom = \"inside\"\nprotocol = \"udp\"\n\
             source_ports = \"{}-{}\"\nlog = true\n",
            1_024 + number * 100,
            1_123 + number * 100
        )
    });
    let text = site.text();
    let (before, after) = text.split_once("[[functions.firewall.rules]]").unwrap();
    let text = format!("{before}{}[[functions.firewall.rules]]{after}", rules.collect::<String>());
    let text = text.replace("listen = \"off\"", &format!("listen = \"127.0.0.1:{port}\""));
    site.write("run.toml", &text);
    site.write("address", &format!("http://127.0.0.1:{port}/metrics"));
    let mut command = site.command();
    command.args(["--log", "info"]);
    command
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_log_on_a_full_disk_costs_lines_and_no_packet() {
    if !may_make_namespaces("a_log_on_a_full_disk_costs_lines_and_no_packet") {
        return;
    }
    let site = Site::new();
    let small = Small::new(site.path("small"));
    // Nearly full from the start.
    fs::write(small.0.join("others"), vec![b'x'; 60_000]).unwrap();
    let log = small.0.join("log");
    let running = site.start_with_stderr(logging(&site, free_port()), File::create(&log).unwrap());
    // New flows all the time.
    let clear = || assert!(site.ask(&["clear", "sessions", "all"]).status.success());
    let start = Instant::now();
    while lines_lost(&site) == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "lines that could not be written are counted");
        clear();
        std::thread::sleep(Duration::from_millis(200));
    }
    flows_on(&site, "packets flow");
    // Room again: the log goes on, says what is missing, and begins a line of its own.
    fs::remove_file(small.0.join("others")).unwrap();
    wait_until("the loss is told of", || {
        clear();
        fs::read_to_string(&log).unwrap().contains("lost")
    });
    running.stop();
    let text = fs::read_to_string(&log).unwrap();
    let torn = text.lines().filter(|line| line.matches("INFO").count() > 1).count();
    assert_eq!(torn, 0, "{text}");
}

#[test]
fn a_log_that_nobody_holds_any_more_costs_lines_and_no_packet() {
    let site = Site::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let running = site.start_with_stderr(logging(&site, free_port()), Stdio::from(writer));
    drop(reader);
    wait_until("lines that could not be written are counted", || {
        assert!(site.ask(&["clear", "sessions", "all"]).status.success());
        lines_lost(&site) > 0
    });
    flows_on(&site, "packets flow");
    running.stop();
}

/// Adds to the wall clock what a file says, in seconds.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <fcntl.h>
#include <unistd.h>
#include <time.h>
#include <sys/time.h>
static long offset(void) {
    char text[32] = {0};
    int file = open(getenv("OFFSET_FILE"), O_RDONLY);
    if (file < 0) return 0;
    if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
    close(file);
    return atol(text);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec += offset();
    return result;
}
"#;

fn build_shim(directory: &Path) -> PathBuf {
    let (source, library) = (directory.join("shim.c"), directory.join("shim.so"));
    fs::write(&source, SHIM).unwrap();
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.unwrap().success());
    library
}

/// The clock of the wall goes hours forwards and days back: sessions live as long as they should, and flows expire as they should.
#[test]
fn steps_of_the_wall_clock_move_nothing_but_timestamps() {
    if !may_make_namespaces("steps_of_the_wall_clock_move_nothing_but_timestamps") {
        return;
    }
    let edge = Edge::new(Kind::AfPacket);
    let shim = build_shim(&edge.site.path(""));
    let offset = edge.site.write("offset", "0");
    let timeouts = "[sessions]\nallow_short_timeouts = true\ntimeouts = { udp = \"3s\", icmp = \"3s\" }";
    edge.site.write("run.toml", &edge.text("", "").replace("[sessions]", timeouts));
    let mut command = edge.command();
    command.env("LD_PRELOAD", &shim).env("OFFSET_FILE", &offset);
    let mut running = edge.site.start_as(command);
    let stream = "
import socket, sys, time
s = socket.create_server(('10.2.0.2', 5001))
print('ready', flush=True)
c, _ = s.accept()
while data := c.recv(100): c.sendall(data)
";
    let server = python(&edge.outside, stream, &[]);
    wait_until("the server listens", || edge.outside.output("ss -Hltn sport = :5001").contains("5001"));
    let talk = "
import socket, sys
s = socket.create_connection(('10.2.0.2', 5001), 10)
for line in sys.stdin:
    s.sendall(line.encode()); print(s.recv(100).decode(), end='', flush=True)
";
    let mut client = edge.client.enter(Command::new("python3").args(["-c", talk]));
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut say = client.stdin.take().unwrap();
    let mut hear = std::io::BufReader::new(client.stdout.take().unwrap());
    let mut echo = |word: &str| {
        use std::io::{BufRead, Write};
        writeln!(say, "{word}").unwrap();
        let mut line = String::new();
        hear.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), word);
    };
    let sessions = |protocol: &str| {
        let rows = edge.site.show("sessions").unwrap();
        rows.into_iter().filter(|row| row["protocol"] == protocol).collect::<Vec<_>>()
    };
    echo("before");
    for step in ["36000", "-864000", "0"] {
        fs::write(&offset, step).unwrap();
        edge.ping("10.2.0.2", 5);
        echo(step);
        let tcp = sessions("tcp");
        assert_eq!(tcp.len(), 1, "the connection is the same: {tcp:?}");
        let expires = tcp[0]["expires_s"].as_f64().unwrap();
        assert!((7_000.0..=7_440.0).contains(&expires), "{tcp:?}");
        assert!(!sessions("icmp").is_empty());
        wait_until("pings are forgotten in their time", || sessions("icmp").is_empty());
    }
    fs::write(&offset, "36000").unwrap();
    echo("after");
    drop(say);
    client.wait().unwrap();
    server.wait_with_output().unwrap();
    running.signal("TERM");
    accounting(&running.end());
}

/// The process stands still for ten seconds and goes on.
fn stopped_and_continued(kind: Kind) {
    let edge = Edge::new(kind);
    let mut running = edge.start(&edge.text("", ""));
    edge.ping("10.2.0.2", 20);
    running.signal("STOP");
    let flood = "
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.monotonic() + 10
sent = 0
while time.monotonic() < end:
    for _ in range(200): s.sendto(b'x' * 1000, ('10.2.0.2', 9)); sent += 1
    time.sleep(0.1)
print(sent)
";
    let flood = python(&edge.client, flood, &[]).wait_with_output().unwrap();
    let flooded: u64 = String::from_utf8(flood.stdout).unwrap().trim().parse().unwrap();
    running.signal("CONT");
    wait_until("it answers again", || edge.site.show("ports").is_some());
    edge.ping("10.2.0.2", 20);
    edge.ping("fd00:2::2", 20);
    // What found no room with the kernel is counted there; what did was carried.
    let (received, missed) =
        (edge.port(0, "rx_packets").as_u64().unwrap(), edge.port(0, "missed").as_u64().unwrap());
    assert!(missed > 0 && received + missed >= flooded, "{kind:?}: {received} + {missed} of {flooded}");
    assert_eq!(edge.site.show("workers").unwrap()[0]["sums_hold"], true);
    running.signal("TERM");
    let output = running.end();
    accounting(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("stalls"), "who did not run did not stall: {said}");
}

#[test]
fn a_process_that_was_stopped_goes_on_over_af_xdp() {
    if may_make_namespaces("a_process_that_was_stopped_goes_on_over_af_xdp") {
        stopped_and_continued(Kind::AfXdp);
    }
}

#[test]
fn a_process_that_was_stopped_goes_on_over_packet_sockets() {
    if may_make_namespaces("a_process_that_was_stopped_goes_on_over_packet_sockets") {
        stopped_and_continued(Kind::AfPacket);
    }
}
