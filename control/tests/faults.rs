//! Panics inside the process: what control threads do costs no packet, and a worker's end is an error.

use std::path::Path;
use std::time::{Duration, Instant};

use millrace_control::config::{self, Host};
use millrace_control::instance::thread::WorkerThreads;
use millrace_control::instance::{Control, Instance, InstanceError, NfWorker, Options};

const GENERATOR: &str = include_str!("../../configs/generator.toml");

fn start() -> (WorkerThreads, Control) {
    let text =
        GENERATOR.replace("packets = 10000000", "rate = \"100 kpps\"") + "\n[memory]\nhugepages = \"off\"\n";
    let config = config::parse(Path::new("generator.toml"), &text, &Host::default()).config.unwrap();
    let Instance { workers, control } = Instance::build(config, Options::default()).unwrap();
    let threads = WorkerThreads::start(workers, &control, false).unwrap();
    (threads, control)
}

fn received(control: &Control) -> u64 {
    control.workers()[0].ask(|worker: &mut NfWorker| worker.report().sums.received).unwrap()
}

#[test]
fn a_look_that_panics_costs_no_packet() {
    let (thread, control) = start();
    let look = |_: &mut NfWorker| -> u64 { panic!("of the test") };
    let error = control.workers()[0].ask(look).unwrap_err();
    assert_eq!(error.to_string(), "a look at the worker panicked: of the test");
    let (before, start) = (received(&control), Instant::now());
    while received(&control) < before + 10_000 {
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    let accounting = thread.finish().unwrap();
    assert_eq!(accounting.problems(), Vec::<String>::new());
}

#[test]
fn a_worker_that_panics_is_an_error_and_nobody_waits_for_it() {
    let (thread, control) = start();
    let start = Instant::now();
    let change = |_: &mut NfWorker| panic!("of the test");
    assert!(matches!(control.workers()[0].call(change), Err(InstanceError::WorkerGone)));
    while !thread.has_ended() {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert!(matches!(control.workers()[0].ask(|_| ()), Err(InstanceError::WorkerGone)));
    let error = thread.finish().unwrap_err().to_string();
    assert_eq!(error, "a worker, whose accounting is lost, panicked: of the test");
    assert!(start.elapsed() < Duration::from_secs(5));
}
