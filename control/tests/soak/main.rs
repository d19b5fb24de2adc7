//! A soak: mixed traffic through a running instance while its configuration changes, links fail, clients are killed and people
//! look; at the end every packet is accounted for, every buffer is back, and the process is as large as it was.
//!
//! The short form is a test like others. `scripts/soak` runs it as long as one likes, by these variables:
//! `MILLRACE_SOAK_SECONDS`, `MILLRACE_SOAK_WORKERS`, `MILLRACE_SOAK_SEED`, and `MILLRACE_SOAK_REPORT`, a file for the figures as
//! JSON.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod configuration;
mod disturbance;
mod network;
mod random;
mod readers;
mod samples;
mod verdict;

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clients::Clients;
use common::accounting;
use common::net::may_make_namespaces;
use configuration::Configuration;
use disturbance::Disturber;
use network::Network;
use random::Random;
use readers::Readers;
use samples::Samples;
use verdict::Report;

/// How long the traffic goes on undisturbed at the end, so that it has to recover.
const CALM: Duration = Duration::from_secs(5);
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// What to run.
struct Settings {
    time: Duration,
    workers: usize,
    seed: u64,
    report: Option<PathBuf>,
}

impl Settings {
    /// From the environment, else as given.
    fn new(seconds: u64, workers: usize) -> Self {
        let number = |name: &str, usual: u64| -> u64 {
            let text = std::env::var(format!("MILLRACE_SOAK_{name}"));
            text.map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text} is no number")))
        };
        Self {
            time: Duration::from_secs(number("SECONDS", seconds)),
            workers: number("WORKERS", workers as u64) as usize,
            seed: number("SEED", 1),
            report: std::env::var_os("MILLRACE_SOAK_REPORT").map(PathBuf::from),
        }
    }
}

fn soak(settings: &Settings) -> Report {
    let mut random = Random::new(settings.seed);
    let network = Network::new();
    let configuration = Configuration::new(settings.workers);
    network.site.write("run.toml", &configuration.text(&network.site));
    let mut inside = network.site.command_in(&network.router);
    inside.args(["--log-format", "json"]);
    let log = network.site.path("log");
    let mut running = network.site.start_with_stderr(inside, File::create(&log).unwrap());
    let pid = running.child().id();

    let mut clients = Clients::start(&network);
    let mut disturber = Disturber::new(&network, configuration);
    let mut readers = Readers::new(&network);
    let mut samples = Samples::new(pid, settings.time);
    let start = Instant::now();
    let mut next_sample = start;
    while start.elapsed() < settings.time {
        assert_eq!(running.child().try_wait().unwrap(), None, "the instance ended by itself");
        clients.look(&mut random);
        if settings.time - start.elapsed() > CALM {
            disturber.look(&mut random, &mut clients);
        } else {
            disturber.calm();
        }
        readers.look(&mut random);
        if Instant::now() >= next_sample {
            samples.take(&network, &clients);
            next_sample += SAMPLE_EVERY;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    network.prove_that_all_works();
    let traffic = clients.stop();
    let expired = network.wait_for_expiry();
    running.signal("TERM");
    let output = running.end();
    Report {
        account: accounting(&output),
        log: std::fs::read_to_string(&log).unwrap(),
        traffic,
        disturbances: disturber.counts,
        looks: std::mem::take(&mut readers.counts),
        samples,
        expired,
        time: settings.time,
        workers: settings.workers,
        seed: settings.seed,
    }
}

fn run(name: &str, settings: &Settings) {
    if !may_make_namespaces(name) {
        return;
    }
    let report = soak(settings);
    println!("{}", report.text());
    if let Some(file) = &settings.report {
        std::fs::write(file, report.json().to_string()).unwrap();
    }
    let problems = report.problems();
    assert!(problems.is_empty(), "seed {}:\n{}", settings.seed, problems.join("\n"));
}

#[test]
fn a_soak_with_one_worker() {
    run("a_soak_with_one_worker", &Settings::new(60, 1));
}

#[test]
fn a_soak_with_two_workers() {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
        println!("SKIPPED a_soak_with_two_workers: this machine has one core");
        return;
    }
    run("a_soak_with_two_workers", &Settings::new(30, 2));
}
