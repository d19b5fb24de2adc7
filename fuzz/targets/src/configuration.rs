//! Any text as a configuration: it is checked to the end, with messages that can be shown. One that is accepted can be planned and,
//! if it is small, built and run over sinks.

use millrace_control::config::ports::{Link, Sink};
use millrace_control::config::settings::Hugepages;
use millrace_control::config::sizing::{Sizing, mtu};
use millrace_control::config::{Config, Host, Plan, PortKind, parse};
use millrace_control::instance::accounting::{Accounting, close_one};
use millrace_control::instance::{Instance, InstanceError, NfWorker, Options};
use millrace_dataplane::budget::BudgetConfig;
use std::path::Path;

/// Largest arena of an instance that is built here.
const ARENA_BYTES_MAX: u64 = 64 << 20;

/// Takes the bytes as a file.
///
/// # Panics
/// What was accepted can't be planned or run.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("fuzz.toml");
    let checked = parse(path, text, &Host::default());
    assert_eq!(checked, parse(path, text, &Host::default()), "the same text gives the same answer");
    let report = checked.report.to_string();
    let Some(config) = checked.config else {
        assert!(!report.is_empty(), "a refusal says why");
        return;
    };
    let plan = Plan::of(&config, &Host::default());
    assert!(!plan.to_string().is_empty());
    serde_json::to_string(&plan).expect("a plan is JSON");
    if Sizing::of(&config).arena_bytes <= ARENA_BYTES_MAX {
        run_over_sinks(config);
    }
}

/// Devices and files of the configuration are not touched.
fn run_over_sinks(mut config: Config) {
    let mtus: Vec<u16> = config.ports.iter().map(|port| mtu(&config, port)).collect();
    for (port, mtu) in config.ports.iter_mut().zip(mtus) {
        let mac = if let PortKind::Sink(sink) = &port.kind { sink.link.mac } else { None };
        let link = Link { mac, mtu };
        port.kind = PortKind::Sink(Sink { verify_checksums: false, link });
    }
    config.memory.hugepages = Hugepages::Off;
    config.memory.reserve_hugepages = false;
    let options =
        Options { seed: Some(1), budget: BudgetConfig::UNLIMITED, pinned: false, ..Options::default() };
    match Instance::build(config, options) {
        Ok(Instance { workers, .. }) => {
            let run = |number, mut worker: NfWorker| {
                for _ in 0..3 {
                    worker.turn();
                }
                close_one(number, worker)
            };
            // Workers end together: each waits for what others have for it.
            let closed = std::thread::scope(|scope| {
                let workers = workers.into_iter().enumerate();
                let threads: Vec<_> = workers.map(|(at, it)| scope.spawn(move || run(at, it))).collect();
                threads.into_iter().map(|thread| thread.join().expect("a worker runs")).collect()
            });
            let accounting = Accounting::of(closed);
            assert!(accounting.is_complete(), "{:?}", accounting.problems());
        }
        // What no text shows; anything else should have been found by the check.
        Err(InstanceError::System { .. }) => {}
        Err(error) => panic!("the check accepted it, but: {error}"),
    }
}

/// Seeds: a configuration with all functions, and mistakes of all sorts. `scripts/fuzz` adds those of `configs/`.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![("sinks", SINKS.to_owned()), ("empty", String::new())];
    let mistakes = [
        ("unclosed", SINKS.replacen(']', "", 1)),
        ("unknown-key", SINKS.replacen("capacity", "capacty", 1)),
        ("number", SINKS.replacen("1024", "99999999999999999999", 1)),
        ("twice", [SINKS, SINKS].concat()),
    ];
    seeds.extend(mistakes);
    seeds.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes())).collect()
}

/// The smallest instance with all functions; what the management target starts from, too.
pub const SINKS: &str = r#"
[memory]
hugepages = "off"
frames = 1280
[workers]
idle = "sleep"
[sessions]
capacity = 1024
flow_cache_entries = 256
timeouts = { udp = "2m" }
[ports.lan]
kind = "sink"
[ports.wan]
kind = "sink"
[chains.edge]
functions = ["firewall", "nat", "router"]
zones.inside = ["lan"]
zones.outside = ["wan"]
[functions.firewall]
kind = "firewall"
default = "reject"
[[functions.firewall.rules]]
name = "out"
action = "allow"
from = "inside"
to = "outside"
log = true
[[functions.firewall.rules]]
name = "web"
action = "allow"
protocol = "tcp"
destination = ["10.0.0.3", "2001:db8:1::/64"]
destination_ports = [80, "8000-8100"]
[functions.nat]
kind = "nat"
pool = ["198.51.100.1"]
[functions.router]
kind = "router"
routes = [{ prefix = "0.0.0.0/0", via = "198.51.100.2" }]
[functions.router.interfaces.lan]
addresses = ["10.0.0.1/24"]
[functions.router.interfaces.wan]
addresses = ["198.51.100.1/24", "2001:db8:ffff::1/64"]
neighbours = [{ address = "198.51.100.2", mac = "02:00:00:00:01:02" }]
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_that_is_meant_well_is_accepted() {
        for (name, text) in seeds() {
            let text = String::from_utf8(text).unwrap();
            let checked = parse(Path::new("fuzz.toml"), &text, &Host::default());
            let good = name == "sinks";
            assert_eq!(checked.config.is_some(), good, "{name}: {}", checked.report);
        }
    }
}
