//! An instance as a service: what it tells its manager, and the unit for systemd.

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Site, millrace};
use millrace_control::config::{self, Host};
use millrace_control::instance::thread::WorkerThreads;
use millrace_control::instance::{Instance, Options};
use millrace_control::notify::{Notifier, Watchdog};

const PATIENCE: Duration = Duration::from_secs(20);
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/millrace.service");

/// The socket of a manager, which fails the test if it waits in vain.
fn manager(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn next(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 512];
    let length = socket.recv(&mut bytes).expect("the manager is told");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// The next message other than food for the watchdog.
fn next_state(socket: &UnixDatagram) -> String {
    std::iter::repeat_with(|| next(socket)).find(|state| state != "WATCHDOG=1").unwrap()
}

#[test]
fn a_manager_is_told_of_the_whole_life() {
    let site = Site::new();
    let socket = manager(&site.path("notify"));
    let mut command = site.command();
    command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "400000");
    let mut running = site.start_as(command);
    assert_eq!(next(&socket), "READY=1\nSTATUS=running: 2 ports, 1 chains");
    let start = Instant::now();
    for _ in 0..5 {
        assert_eq!(next(&socket), "WATCHDOG=1");
    }
    assert!(start.elapsed() >= Duration::from_millis(700), "it is fed twice in its time, not all the time");
    site.applied(&site.text().replace("name = \"all\"", "name = \"every\""));
    let reloading = next_state(&socket);
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(next_state(&socket), "READY=1");
    running.signal("TERM");
    assert_eq!(next_state(&socket), "STOPPING=1");
    assert!(running.end().status.success());
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let site = Site::new();
    let socket = manager(&site.path("notify"));
    let mut command = millrace();
    command.args(["run", "--duration", "1", "--interval", "0"]).arg(site.path("run.toml"));
    command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "100000").env("WATCHDOG_PID", "1");
    assert!(command.output().unwrap().status.success());
    assert!(next(&socket).starts_with("READY=1\n"));
    assert_eq!(next(&socket), "STOPPING=1");
}

/// The watchdog starves while the worker is held up, and is fed when it goes on.
#[test]
fn a_worker_that_stalls_starves_the_watchdog() {
    let directory = tempfile::tempdir().unwrap();
    let socket = manager(&directory.path().join("notify"));
    socket.set_nonblocking(true).unwrap();
    let text =
        include_str!("../../configs/generator.toml").replace("packets = 10000000", "rate = \"100 kpps\"");
    let text = text + "\n[memory]\nhugepages = \"off\"\n";
    let config = config::parse(Path::new("generator.toml"), &text, &Host::default()).config.unwrap();
    let Instance { workers, control } = Instance::build(config, Options::default()).unwrap();
    let thread = WorkerThreads::start(workers, &control, false).unwrap();
    let notifier = Notifier::to(directory.path().join("notify").as_os_str()).unwrap();
    let mut watchdog = Watchdog::new(Some(Duration::from_millis(20)));
    let mut fed = |time: Duration| {
        let (start, mut fed) = (Instant::now(), 0);
        while start.elapsed() < time {
            watchdog.look(&notifier, Instant::now(), control.timings().turns(), true);
            fed += usize::from(socket.recv(&mut [0; 64]).is_ok());
            std::thread::sleep(Duration::from_millis(5));
        }
        fed
    };
    assert!(fed(Duration::from_millis(500)) > 1);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (begun, begins) = std::sync::mpsc::channel();
    let handle = control.workers()[0].clone();
    let stall = std::thread::spawn(move || {
        handle.call(move |_| {
            begun.send(()).unwrap();
            let _ = held.recv_timeout(PATIENCE);
        })
    });
    begins.recv_timeout(PATIENCE).unwrap();
    // What it did before the stall may still be worth one meal.
    fed(Duration::from_millis(50));
    assert_eq!(fed(Duration::from_millis(500)), 0);
    release.send(()).unwrap();
    stall.join().unwrap().unwrap();
    assert!(fed(Duration::from_millis(500)) > 1);
    assert_eq!(thread.finish().unwrap().problems(), Vec::<String>::new());
}

#[test]
fn systemd_takes_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("SKIPPED systemd_takes_the_unit: there is no systemd-analyze");
        return;
    }
    let text = fs::read_to_string(UNIT).unwrap();
    assert!(text.contains("Type=notify") && text.contains("WatchdogSec="));
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("millrace.service");
    // The command of this build stands for the one that is installed.
    fs::write(&unit, text.replace("/usr/bin/millrace", env!("CARGO_BIN_EXE_millrace"))).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // It warns of other units of the machine, too.
    assert!(output.status.success() && !said.contains("millrace"), "{said}");
}
