//! The log: what the command writes, and that the packet path neither waits nor allocates for it.

mod common;

use std::fs::File;
use std::io::{self, Write};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::{Site, millrace};
use millrace_control::logging::{self, Format};
use millrace_dataplane::counting::{CountingAllocator, allocations};
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Takes nothing until it is told to.
struct Stuck(Receiver<()>, std::sync::mpsc::Sender<Vec<u8>>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Who told it may be gone, and then it goes on.
        let _ = self.0.recv();
        let _ = self.1.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log_some(lines: usize) {
    for n in 0..lines {
        tracing::warn!(port = "lan", n, error = %io::ErrorKind::NotConnected, "of the test");
    }
}

/// One test, because a process has one log.
#[test]
fn the_packet_path_neither_waits_nor_allocates() {
    let (release, stuck) = channel();
    let (written, lines) = channel();
    let logging =
        logging::start_to(&"info".parse().unwrap(), Format::Json, false, Box::new(Stuck(stuck, written)))
            .unwrap();
    // A thread of the packet path: a share of each second, however much there is to say.
    let worker = std::thread::spawn(|| {
        logging::on_packet_path();
        // The first use of a place in the code registers it.
        log_some(1);
        let (before, start) = (allocations(), Instant::now());
        log_some(100_000);
        (allocations() - before, start.elapsed())
    });
    let (allocated, time) = worker.join().unwrap();
    assert_eq!(allocated, 0);
    assert!(time < Duration::from_secs(5), "{time:?}");
    let (lost, suppressed) = logging::left_out();
    // At most ten in each second that it took.
    assert!(lost == 0 && suppressed > 99_000 && suppressed < 100_000, "{lost} {suppressed}");
    // Other threads have no share, but nobody waits either: what the ring has no room for is counted.
    std::thread::spawn(|| log_some(5_000)).join().unwrap();
    let (lost, _) = logging::left_out();
    assert!((3_900..5_000).contains(&lost), "{lost}");
    drop(release);
    std::thread::sleep(Duration::from_millis(200));
    drop(logging);
    let text: Vec<u8> = lines.try_iter().flatten().collect();
    let lines: Vec<Value> =
        std::str::from_utf8(&text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: u64 = lines.iter().filter_map(|line| line["fields"]["lost"].as_u64()).sum();
    assert_eq!(told, lost);
    assert_eq!(lines[0]["fields"]["error"], "not connected");
    assert_eq!(
        lines.iter().filter(|line| line["message"] == "of the test").count() as u64,
        1 + 100_000 + 5_000 - suppressed - lost
    );
}

fn logged(options: &[&str], change: impl Fn(String) -> String, environment: Option<&str>) -> String {
    let site = Site::new();
    site.write("run.toml", &change(site.text()));
    let mut command = millrace();
    command.args(["run", "--duration", "0", "--interval", "0"]).args(options).arg(site.path("run.toml"));
    command.env_remove("RUST_LOG");
    if let Some(levels) = environment {
        command.env("RUST_LOG", levels);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_command_line_goes_before_the_environment_and_that_before_the_configuration() {
    let configured = |text: String| text + "[log]\nlevels = \"off\"\n";
    let same = |text: String| text;
    assert!(logged(&[], same, None).contains("INFO millrace_control::commands::run: running\n"));
    assert_eq!(logged(&[], configured, None), "");
    assert!(logged(&[], configured, Some("info")).contains("running"));
    assert_eq!(logged(&["--log", "off"], configured, Some("info")), "");
    assert_eq!(logged(&["--log", "info,millrace_control=warn"], same, None), "");
    assert!(logged(&[], same, Some("nonsense")).starts_with("warning: RUST_LOG is ignored"));
    for text in [
        logged(&["--log-format", "json"], same, None),
        logged(&[], |t| t + "[log]\nformat = \"json\"\n", None),
    ] {
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().any(|line| line["message"] == "running" && line["level"] == "INFO"), "{text}");
    }
    let wrong = millrace().args(["--log", "loud", "show", "ports"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

/// A standard error that takes nothing more holds up neither packets nor the end.
#[test]
fn a_reader_that_takes_nothing_holds_up_nothing() {
    let site = Site::new();
    let logging = site.text().replace("name = \"all\"\n", "name = \"all\"\nlog = true\n");
    site.write("run.toml", &logging);
    // A pipe that is full, and whose reader never reads.
    let (reader, writer) = io::pipe().unwrap();
    let mut full = writer.try_clone().unwrap();
    let filler = std::thread::spawn(move || {
        let _ = full.write_all(&vec![b'x'; 1 << 20]);
    });
    std::thread::sleep(Duration::from_millis(200));
    let mut command = millrace();
    command.args(["run", "--json", "--interval", "0", "--duration", "3"]).arg(site.path("run.toml"));
    command.stdout(File::create(site.path("out")).unwrap()).stderr(Stdio::from(writer));
    let start = Instant::now();
    let status = command.status().unwrap();
    assert!(status.success() && start.elapsed() < Duration::from_secs(15), "{status} {:?}", start.elapsed());
    let text = std::fs::read_to_string(site.path("out")).unwrap();
    let accounting: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(accounting["sums"]["received"].as_u64().unwrap() > 10_000 && accounting["sums_hold"] == true);
    drop(reader);
    filler.join().unwrap();
}
