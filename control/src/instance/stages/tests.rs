use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::*;
use crate::config::{self, Host};
use crate::instance::thread::WorkerThreads;
use crate::instance::{Control, Instance, Options};

/// A generator that goes on, firewall, `ids` on a thread of its own, NAT, router, and a sink.
fn text(pattern: &str, shares: usize) -> String {
    let text = include_str!("../../../../configs/generator.toml")
        .replace("\"firewall\", \"nat\"", "\"firewall\", \"ids\", \"nat\"")
        .replace("packets = 10000000", "rate = \"50 kpps\"");
    text + &format!(
        "[functions.ids]\nkind = \"inspect\"\ncore = 1\n[[functions.ids.patterns]]\nname = \"{pattern}\"\nhex = \"00\"\naction = \"count\"\n\
         [memory]\nhugepages = \"off\"\n[workers]\ncores = [0]\nshares = {shares}\n[metrics]\nlisten = \"off\"\n"
    )
}

fn started(shares: usize) -> (Control, WorkerThreads) {
    let parsed = config::parse(Path::new("stages.toml"), &text("any", shares), &Host::default());
    let config = parsed.config.unwrap_or_else(|| panic!("{}", parsed.report));
    let options = Options { pinned: false, ..Options::default() };
    let Instance { workers, control } = Instance::build(config, options).unwrap();
    let threads = WorkerThreads::start(workers, &control, false).unwrap();
    (control, threads)
}

fn wait(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first packet that a command of the stage's own sees under way.
fn wait_for_packets(control: &Control) {
    let taken = || control.stages.handles[0].ask(|worker| worker.report().taken).unwrap();
    wait("packets pass the stage", || taken() > 1_000);
}

/// Keeps the thread busy until the sender of the answer is used or dropped.
fn hold_up(control: &Control) -> Sender<()> {
    let (release, held) = channel::<()>();
    drop(control.stages.handles[0].send(move |_| held.recv().is_ok()).unwrap());
    release
}

#[test]
fn a_packet_function_that_panics_ends_the_instance_with_all_packets_accounted_for() {
    for shares in [1, 2] {
        let (control, threads) = started(shares);
        wait_for_packets(&control);
        drop(control.stages.handles[0].send(|_| panic!("as the test wants it")).unwrap());
        wait("the instance ends", || threads.has_ended());
        let accounting = threads.finish().unwrap();
        assert!(accounting.is_complete(), "{accounting}");
        let said = "functions.ids: it panicked, and its counters are lost: as the test wants it";
        assert_eq!(accounting.problems(), [said]);
    }
}

#[test]
fn a_packet_function_that_is_late_has_the_change_when_it_goes_on() {
    let (control, threads) = started(1);
    wait_for_packets(&control);
    let release = hold_up(&control);
    let path = Path::new("stages.toml");
    let error = control.apply(path, &text("other", 1)).unwrap_err();
    assert!(
        matches!(&error, InstanceError::Late { shares, functions } if shares.is_empty() && functions == &["ids"]),
        "{error}"
    );
    assert!(error.to_string().contains("in force, but function ids did not answer"), "{error}");
    release.send(()).unwrap();
    let rows = control.stages.handles[0].ask(counters).unwrap();
    assert!(rows.iter().any(|(item, ..)| item == "pattern other"), "{rows:?}");
    // It is what runs.
    assert!(control.apply(path, &text("other", 1)).unwrap().is_empty());
    assert_eq!(threads.finish().unwrap().problems(), Vec::<String>::new());
}

#[test]
fn a_packet_function_that_ends_late_costs_what_it_has() {
    let (control, threads) = started(1);
    wait_for_packets(&control);
    let release = hold_up(&control);
    let worker = &control.workers[0];
    wait("packets wait for it", || worker.ask(|worker| worker.report().buffered > 100).unwrap());
    // Workers wait a second for what is under way.
    let releases = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(4));
        drop(release);
    });
    let accounting = threads.finish().unwrap();
    releases.join().unwrap();
    assert_eq!(accounting.problems(), Vec::<String>::new());
    let lost = accounting.drops.rows.iter().find(|row| row["reason"] == "shutdown");
    assert!(lost.is_some_and(|row| row["packets"].as_u64() > Some(100)), "{accounting}");
}
