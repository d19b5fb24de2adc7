//! Any lines as requests to a running instance: each is answered, none panics inside, and the account is complete at the end.
//! `apply` is asked for configurations over sinks alone: others would open devices and files of this machine.

use crate::configuration::SINKS;
use millrace_control::config::settings::Hugepages;
use millrace_control::config::sizing::Sizing;
use millrace_control::config::{Host, PortKind, parse};
use millrace_control::explain::Subject;
use millrace_control::instance::accounting::{Accounting, close_one};
use millrace_control::instance::{Instance, Options};
use millrace_control::management::protocol::read_line;
use millrace_control::management::{Answer, Request, Topic, server};
use millrace_dataplane::budget::BudgetConfig;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most requests of a run.
const REQUESTS_MAX: usize = 16;
/// Longest line that is read here: the bound of the socket is far above what inputs have.
const LINE_BYTES_MAX: u64 = 1 << 16;
/// Largest arena that an applied configuration may ask for.
const ARENA_BYTES_MAX: u64 = 64 << 20;

/// Asks an instance line by line.
///
/// # Panics
/// A request panicked or was not answered, or something is missing at the end.
pub fn run(data: &[u8]) {
    let path = Path::new("fuzz.toml");
    let config = parse(path, SINKS, &Host::default()).config.expect("it is right");
    let options =
        Options { seed: Some(1), budget: BudgetConfig::UNLIMITED, pinned: false, ..Options::default() };
    let built = Instance::build(config, options).and_then(Instance::into_one);
    let (mut worker, control) = built.expect("it needs little");
    let stop = AtomicBool::new(false);
    let accounting = std::thread::scope(|scope| {
        let stop = &stop;
        let thread = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                worker.turn();
                std::thread::yield_now();
            }
            Accounting::of(vec![close_one(0, worker)])
        });
        let mut rest = data;
        for _ in 0..REQUESTS_MAX {
            let Ok(Some(line)) = read_line(&mut rest, LINE_BYTES_MAX) else { break };
            if is_harmless(&line) {
                check_answer(&line, &server::respond(&control, &line));
            }
        }
        stop.store(true, Ordering::Relaxed);
        thread.join().expect("the worker goes on, whatever is asked")
    });
    assert!(accounting.is_complete(), "{:?}", accounting.problems());
}

fn check_answer(line: &str, answer: &Answer) {
    let text = serde_json::to_string(answer).expect("an answer is JSON");
    assert!(!text.contains('\n'), "an answer is a line");
    if let Answer::Refused(why) = answer {
        assert!(!why.contains("failed inside") && !why.contains("worker has ended"), "{line:?}: {why}");
    }
}

/// Whether a request stays inside this process.
fn is_harmless(line: &str) -> bool {
    let Ok(Request::Apply { path, text }) = serde_json::from_str(line) else { return true };
    let Some(config) = parse(path.as_ref(), &text, &Host::default()).config else { return true };
    let over_sinks = config.ports.iter().all(|port| matches!(port.kind, PortKind::Sink(_)));
    let small = Sizing::of(&config).arena_bytes <= ARENA_BYTES_MAX;
    over_sinks && small && config.memory.hugepages == Hugepages::Off
}

/// Seeds: each request, and changes of each part of the configuration.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let line = |request: &Request| serde_json::to_string(request).expect("a request is JSON") + "\n";
    let apply = |text: String| line(&Request::Apply { path: "fuzz.toml".into(), text });
    let show = |topic, filter: &[&str]| {
        let filter = filter.iter().map(|&term| term.to_owned()).collect();
        line(&Request::Show { topic, filter, limit: Some(3), offset: 1 })
    };
    let explain = |subject| line(&Request::Explain { input: "lan".into(), subject });
    let all = [
        Topic::Ports,
        Topic::Functions,
        Topic::Flows,
        Topic::Sessions,
        Topic::Chains,
        Topic::Workers,
        Topic::Memory,
        Topic::Drops,
        Topic::Neighbours,
        Topic::Routes,
        Topic::Nat,
    ];
    let changed = |from: &str, to: &str| {
        assert!(SINKS.contains(from), "{from}");
        apply(SINKS.replacen(from, to, 1))
    };
    let seeds = [
        ("show-all", all.into_iter().map(|topic| show(topic, &[])).collect()),
        ("show-sessions", show(Topic::Sessions, &["source=10.0.0.0/8", "protocol=tcp", "state=established"])),
        ("show-ports", show(Topic::Ports, &["name=lan"])),
        ("explain-words", explain(Subject::Packet("tcp 10.0.0.2:4000 > 203.0.113.7:443 syn ttl 1".into()))),
        ("explain-frame", explain(Subject::Frame((0..60).collect()))),
        ("clear", line(&Request::ClearSessions { filter: vec!["port=80".into()] })),
        ("apply-same", apply(SINKS.to_owned())),
        ("apply-rule", changed("action = \"allow\"", "action = \"reject\"")),
        ("apply-pool", changed("pool = [\"198.51.100.1\"]", "pool = [\"198.51.100.16/28\"]")),
        ("apply-route", changed("0.0.0.0/0", "203.0.113.0/24")),
        ("apply-timeout", changed("2m", "3m")),
        ("apply-functions", changed("[\"firewall\", \"nat\", \"router\"]", "[\"firewall\", \"router\"]")),
        (
            "apply-and-back",
            changed("ports.wan", "ports.wide")
                .replace("\\\"wan\\\"", "\\\"wide\\\"")
                .replace("interfaces.wan", "interfaces.wide")
                + &apply(SINKS.to_owned()),
        ),
        ("no-json", "{\n[]\n\"\n{\"request\":\"show\"}\n".to_owned()),
    ];
    seeds.into_iter().map(|(name, text): (_, String)| (name.to_owned(), text.into_bytes())).collect()
}
