use std::sync::mpsc::channel;

use super::*;
use crate::instance::thread::WorkerThreads;
use crate::instance::{Instance, Options};
use millrace_dataplane::handoff::Waker;
use millrace_dataplane::limits::{LOGICAL_PORTS_MAX, PORTS_MAX};
use millrace_dataplane::port::PortId;

fn text(chain: &str) -> String {
    let text = include_str!("../../../../configs/generator.toml").replace("[chains.measured]", chain);
    text.replace("packets = 10000000", "rate = \"1 kpps\"")
        .replace("pool = [\"203.0.113.16/28\"]", "pool = [\"203.0.113.16/28\"]\nhairpinning = false")
        + "\n[memory]\nhugepages = \"off\"\n[workers]\ncores = [0, 1]\n[metrics]\nlisten = \"off\"\n"
}

/// A worker that is late by more than anybody waits has the change when it goes on, and the next change starts from there.
#[test]
fn a_worker_that_is_late_has_the_change_when_it_goes_on() {
    let path = Path::new("workers.toml");
    let with_spare = text("[chains.one]") + "[ports.spare]\nkind = \"sink\"\n";
    let config = config::parse(path, &with_spare, &Host::default()).config.unwrap();
    let Instance { workers, mut control } =
        Instance::build(config, Options { pinned: false, ..Options::default() }).unwrap();
    let threads = WorkerThreads::start(workers, &control, false).unwrap();
    // Commands for the second worker go by here: the first one, which asks whether it is busy, at once; what comes behind when it
    // is told.
    let (sender, commands) = channel();
    let (release, held) = channel::<()>();
    let real = std::mem::replace(&mut control.workers[1], WorkerHandle::new(sender, Waker::new().unwrap()));
    let way = std::thread::spawn(move || {
        for (at, command) in commands.into_iter().enumerate() {
            if at == 1 {
                held.recv().unwrap();
            }
            real.call(move |worker| command(worker)).unwrap();
        }
    });
    let is_two = |worker: &mut NfWorker| worker.engine.slow.place_of("two").is_some();
    let error = control.apply(path, &text("[chains.two]")).unwrap_err();
    assert!(matches!(&error, InstanceError::Late { shares, .. } if *shares == [1]), "{error}");
    assert!(error.to_string().contains("in force, but share 1 did not answer"), "{error}");
    assert!(control.workers[0].ask(is_two).unwrap());
    let is_left = |worker: &mut NfWorker| worker.retiring() > 0;
    assert!(control.workers[0].ask(is_left).unwrap(), "the port that is gone");
    release.send(()).unwrap();
    assert!(control.workers[1].ask(is_two).unwrap());
    // It is what runs.
    assert!(control.apply(path, &text("[chains.two]")).unwrap().is_empty());
    assert_eq!(control.ask_all(is_left).unwrap(), [false; 2]);
    let applied = control.apply(path, &text("[chains.three]")).unwrap();
    assert!(applied.summary.contains("chains 1 changed"), "{}", applied.summary);
    drop(control);
    way.join().unwrap();
    assert_eq!(threads.finish().unwrap().problems(), Vec::<String>::new());
}

/// Packet functions come and go, each time with other numbers; what is kept for these goes with them.
#[test]
fn what_packet_functions_had_goes_with_them() {
    let path = Path::new("workers.toml");
    let without = text("[chains.one]");
    let with = without.replace("functions = [", "functions = [\"look\", ")
        + "[functions.look]\nkind = \"inspect\"\n";
    let Instance { workers, control } =
        Instance::build(checked(&without), Options { pinned: false, ..Options::default() }).unwrap();
    let threads = WorkerThreads::start(workers, &control, false).unwrap();
    let keys = |worker: &mut NfWorker| {
        let numbers = PORTS_MAX..PORTS_MAX + LOGICAL_PORTS_MAX;
        numbers.filter(|at| worker.engine.schema(PortId(*at as u16)).is_some()).count()
    };
    for round in 0..3 {
        control.apply(path, &with).unwrap();
        let kept = control.ask_all(keys).unwrap();
        assert!(kept.iter().all(|count| (1..10).contains(count)), "{round}: {kept:?}");
        control.apply(path, &without).unwrap();
        assert_eq!(control.ask_all(keys).unwrap(), [0, 0], "{round}");
    }
    assert_eq!(threads.finish().unwrap().problems(), Vec::<String>::new());
}

fn checked(text: &str) -> Config {
    let checked = config::parse(Path::new("workers.toml"), text, &Host::default());
    checked.config.unwrap_or_else(|| panic!("{}", checked.report))
}

/// The name is no more what tells one chain from another than elsewhere: sessions go on under another name.
#[test]
fn a_nat_goes_by_no_other_name_either() {
    let old = checked(&text("[chains.one]"));
    let without = |name: &str| checked(&text(name).replace("\"nat\", ", ""));
    for name in ["[chains.one]", "[chains.two]"] {
        let problems = fixed::check(&old, &without(name));
        let said = format!("{problems:?}");
        assert!(
            problems.len() == 1 && said.contains("a NAT can't come or go while several shares run"),
            "{said}"
        );
        assert!(fixed::check(&without(name), &without("[chains.two]")).is_empty());
    }
}

#[test]
fn connections_that_move_are_named() {
    let path = Path::new("workers.toml");
    let before = text("[chains.one]");
    let Instance { workers, control } =
        Instance::build(checked(&before), Options { pinned: false, ..Options::default() }).unwrap();
    let threads = WorkerThreads::start(workers, &control, false).unwrap();
    // A forward to an inside host moves nothing; a network that becomes inside does.
    let forward = |external: &str, internal: &str| {
        format!(
            "\n[[functions.nat.forward]]\nprotocol = \"tcp\"\nexternal = \"{external}\"\ninternal = \"{internal}\"\n"
        )
    };
    let inside = before.clone() + &forward("203.0.113.17:80", "192.0.2.80:80");
    let applied = control.apply(path, &inside).unwrap();
    assert!(applied.changes.rows.iter().all(|row| row["what"] != "connections"), "{}", applied.summary);
    let beyond =
        inside.replace("routes = [", "routes = [{ prefix = \"198.18.0.0/16\", via = \"192.0.2.9\" }, ");
    let moved = ["198.18.0.0/16"];
    for (text, what) in [(&beyond, "came"), (&inside, "went")] {
        let applied = control.apply(path, text).unwrap();
        let rows: Vec<_> = applied.changes.rows.iter().filter(|row| row["what"] == "connections").collect();
        assert_eq!(rows.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), moved, "{what}");
        assert!(rows.iter().all(|row| row["change"] == "moved"), "{rows:?}");
        assert!(applied.summary.ends_with("connections '198.18.0.0/16' moved"), "{}", applied.summary);
    }
    assert_eq!(threads.finish().unwrap().problems(), Vec::<String>::new());
}

/// What is new opens before what goes is closed, so an interface can't change its port's name in one step. It is said so.
#[test]
fn a_port_keeps_its_name_while_it_is_open() {
    let text = include_str!("../../../../configs/edge-ipv4-only.toml");
    let old = checked(text);
    let problems = fixed::check(
        &old,
        &checked(
            &text
                .replace("[ports.lan]", "[ports.inner]")
                .replace("\"lan\"", "\"inner\"")
                .replace("interfaces.lan", "interfaces.inner"),
        ),
    );
    let said = format!("{problems:?}");
    assert!(problems.len() == 1 && said.contains("`mr-lan` is open as the port `lan`"), "{said}");
    assert!(
        said.contains("key: \"ports.inner.interface\"") && said.contains("take `lan` out by one change"),
        "{said}"
    );
}
