//! Several workers inside the process: how they are asked, changed and ended.

use std::path::Path;
use std::sync::{Arc, Barrier};

use millrace_control::config::{self, Config, Host};
use millrace_control::instance::accounting::{Accounting, close_one};
use millrace_control::instance::thread::WorkerThreads;
use millrace_control::instance::{Control, Instance, NfWorker, Options};

fn text(chain: &str) -> String {
    let text = r#"
[memory]
hugepages = "off"
[workers]
cores = [0, 1]
[metrics]
listen = "off"
[sessions]
capacity = 4096
[ports.source]
kind = "generator"
flows = 100
source = "192.0.2.64/26"
[ports.drain]
kind = "sink"
[chains.CHAIN]
functions = ["firewall", "nat", "router"]
zones.inside = ["source"]
zones.outside = ["drain"]
[functions.firewall]
kind = "firewall"
[[functions.firewall.rules]]
name = "all"
action = "allow"
from = "inside"
[functions.nat]
kind = "nat"
pool = ["203.0.113.16/28"]
hairpinning = false
[functions.router]
kind = "router"
routes = [{ prefix = "198.19.0.0/16", via = "203.0.113.2" }]
[functions.router.interfaces.source]
addresses = ["192.0.2.1/24"]
[functions.router.interfaces.drain]
addresses = ["203.0.113.1/24"]
neighbours = [{ address = "203.0.113.2", mac = "02:00:00:00:01:02" }]
"#;
    text.replace("CHAIN", chain)
}

fn config(text: &str) -> Config {
    let parsed = config::parse(Path::new("workers.toml"), text, &Host::default());
    parsed.config.unwrap_or_else(|| panic!("{}", parsed.report))
}

fn start() -> (WorkerThreads, Control) {
    let Instance { workers, control } =
        Instance::build(config(&text("one")), Options { pinned: false, ..Options::default() }).unwrap();
    (WorkerThreads::start(workers, &control, false).unwrap(), control)
}

/// Each waits for the other, which one that is asked after the other would do in vain.
#[test]
fn all_workers_are_asked_at_once() {
    let (threads, control) = start();
    let all_look = Arc::new(Barrier::new(2));
    control.ask_all(move |_: &mut NfWorker| _ = all_look.wait()).unwrap();
    assert_eq!(threads.finish().unwrap().problems(), Vec::<String>::new());
}

/// Packets that are on their way between workers when the end comes are counted with their rule, as all others.
#[test]
fn what_an_owner_finds_in_its_ring_at_the_end_is_counted() {
    let text = text("one").replace("cores = [0, 1]", "cores = [0, 1]\nio = \"dedicated\"");
    let built = Instance::build(config(&text), Options { pinned: false, ..Options::default() }).unwrap();
    let [mut poller, mut owner] = <[NfWorker; 2]>::try_from(built.workers).unwrap();
    // So many turns that each flow has its entry.
    for _ in 0..100 {
        poller.turn();
        owner.turn();
    }
    // And now some that the owner only finds when it ends.
    (0..5).for_each(|_| _ = poller.turn());
    let before = owner.report().sums.sent;
    let poller = std::thread::spawn(move || close_one(0, poller));
    let owner = close_one(1, owner);
    assert!(owner.2.sums.sent > before, "it found some");
    let accounting = Accounting::of(vec![poller.join().unwrap(), owner]);
    assert_eq!(accounting.problems(), Vec::<String>::new());
    let rule = accounting.functions.rows.iter().find(|row| row["item"] == "rule all").unwrap();
    assert_eq!(rule["packets"], accounting.sums.rows[0]["sent"]);
}
