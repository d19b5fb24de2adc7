//! `apply` on an instance in this process, with generators and sinks, while packets flow: what a change does, and what it
//! leaves alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_control::config::{self, Host};
use millrace_control::instance::accounting::{Accounting, close_one};
use millrace_control::instance::{Applied, Control, Instance, InstanceError, NfWorker, Options};
use millrace_control::management::{Topic, show};
use millrace_dataplane::budget::BudgetConfig;
use millrace_nf::nat::Nat;
use serde_json::Value;

/// Flows of each generator.
const FLOWS: usize = 200;

/// A configuration that tests change piece by piece.
#[derive(Clone)]
struct Site {
    /// What `moving` consists of.
    functions: Vec<&'static str>,
    rules: Vec<String>,
    pool: &'static str,
    nat: String,
    routes: Vec<String>,
    /// Of the interface `out`, beside its own.
    addresses: Vec<&'static str>,
    gateway_mac: &'static str,
    chain: &'static str,
    /// Another port in the outside zone of `moving`.
    spare: bool,
    /// A chain of its own with two ports.
    third: bool,
    rest: String,
}

impl Site {
    fn new() -> Self {
        Self {
            functions: vec!["fw", "nat", "router"],
            rules: vec![rule("all", "allow", "from = \"inside\"")],
            pool: "203.0.113.16/28",
            nat: String::new(),
            routes: vec![route("198.19.0.0/16", "203.0.113.2")],
            addresses: Vec::new(),
            gateway_mac: "02:00:00:00:01:02",
            chain: "moving",
            spare: false,
            third: false,
            rest: String::new(),
        }
    }

    /// `steady` has the same functions and the same addresses as `moving`, and never changes.
    fn text(&self) -> String {
        let port = |name: &str| {
            format!(
                "[ports.{name}]\nkind = \"generator\"\nflows = {FLOWS}\nrate = 4000\n[ports.{name}-out]\nkind = \"sink\"\n"
            )
        };
        let mut text = String::from(
            "[memory]\nhugepages = \"off\"\n[sessions]\ncapacity = 4096\nflow_cache_entries = 4096\n",
        );
        text += &port("quiet");
        text += &port("busy");
        text += &chain("steady", &["steady-fw", "steady-nat", "steady-router"], "quiet", "\"quiet-out\"");
        text += "[functions.steady-fw]\nkind = \"firewall\"\n";
        text += &rule("all", "allow", "from = \"inside\"").replace("RULES", "steady-fw");
        text += "[functions.steady-nat]\nkind = \"nat\"\npool = [\"203.0.113.16/28\"]\n";
        text += &router(
            "steady-router",
            "quiet",
            &[route("198.19.0.0/16", "203.0.113.2")],
            &[],
            "02:00:00:00:01:02",
            "",
        );
        let (mut outs, mut more) = ("\"busy-out\"".to_owned(), String::new());
        if self.spare {
            text += "[ports.spare-out]\nkind = \"sink\"\n";
            outs += ", \"spare-out\"";
            more = interface(
                "moving-router",
                "spare-out",
                "\"203.0.114.1/24\"",
                "203.0.114.2",
                "02:00:00:00:01:03",
            );
        }
        text += &chain(self.chain, &self.functions, "busy", &outs);
        for function in &self.functions {
            text += &match *function {
                "nat" => {
                    format!("[functions.nat]\nkind = \"nat\"\npool = [\"{}\"]\n{}\n", self.pool, self.nat)
                }
                "router" => String::new(),
                "fw" => {
                    let rules: String = self.rules.iter().map(|rule| rule.replace("RULES", "fw")).collect();
                    format!("[functions.fw]\nkind = \"firewall\"\n{rules}")
                }
                other => {
                    let rules = rule("all", "allow", "").replace("RULES", other);
                    format!("[functions.{other}]\nkind = \"firewall\"\n{rules}")
                }
            };
        }
        let text = text.replace("\"router\"]", "\"moving-router\"]");
        let mut text =
            text + &router("moving-router", "busy", &self.routes, &self.addresses, self.gateway_mac, &more);
        if self.third {
            text += &port("third");
            text += &chain("third", &["third-router"], "third", "\"third-out\"");
            text += &router(
                "third-router",
                "third",
                &[route("198.19.0.0/16", "203.0.113.2")],
                &[],
                "02:00:00:00:01:02",
                "",
            );
        }
        text + &self.rest
    }
}

fn chain(name: &str, functions: &[&str], inside: &str, outside: &str) -> String {
    let functions = functions.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    format!(
        "[chains.{name}]\nfunctions = [{functions}]\nzones.inside = [\"{inside}\"]\nzones.outside = [{outside}]\n"
    )
}

fn rule(name: &str, action: &str, more: &str) -> String {
    format!("[[functions.RULES.rules]]\nname = \"{name}\"\naction = \"{action}\"\n{more}\n")
}

fn route(prefix: &str, via: &str) -> String {
    format!("{{ prefix = \"{prefix}\", via = \"{via}\" }}")
}

fn interface(router: &str, port: &str, addresses: &str, neighbour: &str, mac: &str) -> String {
    format!(
        "[functions.{router}.interfaces.{port}]\naddresses = [{addresses}]\n\
         neighbours = [{{ address = \"{neighbour}\", mac = \"{mac}\" }}]\n"
    )
}

fn router(name: &str, port: &str, routes: &[String], addresses: &[&str], mac: &str, more: &str) -> String {
    let mut own = "\"203.0.113.1/24\"".to_owned();
    addresses.iter().for_each(|address| own += &format!(", \"{address}\""));
    format!(
        "[functions.{name}]\nkind = \"router\"\nroutes = [{}]\n[functions.{name}.interfaces.{port}]\n\
         addresses = [\"192.0.2.1/24\"]\n{}{more}",
        routes.join(", "),
        interface(name, &format!("{port}-out"), &own, "203.0.113.2", mac)
    )
}

/// A running instance.
struct Running {
    control: Control,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Accounting>>,
}

const PATH: &str = "/etc/millrace/edge.toml";

impl Running {
    fn start(text: &str) -> Self {
        let checked = config::parse(Path::new(PATH), text, &Host::default());
        let config = checked.config.unwrap_or_else(|| panic!("{}", checked.report));
        // The budget goes by real time: a busy machine would drop misses.
        let options = Options { pinned: false, budget: BudgetConfig::UNLIMITED, ..Options::default() };
        let (mut worker, control) = Instance::build(config, options).unwrap().into_one().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            worker.run(&stopped, false);
            Accounting::of(vec![close_one(0, worker)])
        });
        Self { control, stop, thread: Some(thread) }
    }

    fn apply(&self, text: &str) -> Result<Applied, InstanceError> {
        self.control.apply(Path::new(PATH), text)
    }

    /// Applies, and waits until the worker is through with it.
    fn change(&self, site: &Site) -> String {
        let applied = self.apply(&site.text()).unwrap_or_else(|error| panic!("{error}\n{}", site.text()));
        self.control.settle().unwrap();
        applied.summary
    }

    fn look<T: Send + 'static>(&self, look: impl FnOnce(&mut NfWorker) -> T + Send + 'static) -> T {
        self.control.workers()[0].call(look).unwrap()
    }

    fn rows(&self, topic: Topic) -> Vec<serde_json::Map<String, Value>> {
        show::show(&self.control, topic, &[], Some(10_000), 0).unwrap().rows
    }

    /// Walks of a chain, and packets that its port sent.
    fn walks(&self, chain: &'static str) -> u64 {
        self.look(move |worker| {
            let at = worker.engine.slow.place_of(chain).unwrap();
            worker.engine.slow.get(at).unwrap().counters().walks
        })
    }

    fn port(&self, name: &str, column: &str) -> u64 {
        let rows = self.rows(Topic::Ports);
        let row = rows.iter().find(|row| row["port"] == name);
        row.map_or(0, |row| row[column].as_u64().unwrap())
    }

    /// Waits until a port has sent so many more packets: all flows passed several times.
    fn pass(&self, port: &str, packets: usize) {
        let (before, deadline) = (self.port(port, "tx_packets"), Instant::now() + Duration::from_secs(20));
        while self.port(port, "tx_packets") < before + packets as u64 {
            assert!(Instant::now() < deadline, "no packets leave by {port}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Packets that left by a port within a while, once what was under way is through.
    fn sent(&self, port: &str) -> u64 {
        std::thread::sleep(Duration::from_millis(50));
        let before = self.port(port, "tx_packets");
        std::thread::sleep(Duration::from_millis(100));
        self.port(port, "tx_packets") - before
    }

    /// External addresses of the mappings of a NAT.
    fn externals(&self, nat: &str) -> Vec<String> {
        let rows = self.rows(Topic::Nat);
        rows.iter()
            .filter(|row| row["nat"] == nat)
            .map(|row| row["external"].as_str().unwrap().to_owned())
            .collect()
    }

    fn finish(mut self) -> Accounting {
        self.stop.store(true, Ordering::Relaxed);
        let accounting = self.thread.take().unwrap().join().unwrap();
        assert!(accounting.is_complete(), "R13: {accounting}");
        accounting
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// An instance whose flows have all passed, and what must not change of `steady`.
fn warm(site: &Site) -> (Running, u64) {
    let running = Running::start(&site.text());
    running.pass("quiet-out", 3 * FLOWS);
    running.pass("busy-out", 3 * FLOWS);
    let walks = running.walks("steady");
    assert_eq!(walks, FLOWS as u64, "one walk a flow");
    (running, walks)
}

/// R8: `steady` did not walk since, and lost nothing.
fn undisturbed(running: Running, walks: u64) {
    running.pass("quiet-out", 2 * FLOWS);
    assert_eq!(running.walks("steady"), walks, "R8: what a change does not concern does not walk");
    let accounting = running.finish();
    let of = |name: &str, column: &str| {
        let row = accounting.ports.rows.iter().find(|row| row["port"] == name).unwrap();
        row[column].as_u64().unwrap()
    };
    assert_eq!(of("quiet", "rx_packets"), of("quiet-out", "tx_packets"), "not one packet is lost");
}

#[test]
fn rules_take_effect_for_what_they_concern() {
    let mut site = Site::new();
    let (running, walks) = warm(&site);
    // The flows have ports from 1024 on: half of them are denied.
    site.rules.insert(0, rule("half", "deny", "protocol = \"udp\"\nsource_ports = \"1024-1123\""));
    assert_eq!(running.change(&site), "firewall 'fw' rules +1");
    let sent = running.sent("busy-out");
    assert!(sent > 0);
    site.rules[0] = rule("half", "deny", "source = \"198.18.0.0/15\"");
    assert_eq!(running.change(&site), "firewall 'fw' rules 1 changed");
    assert_eq!(running.sent("busy-out"), 0);
    site.rules.remove(0);
    assert_eq!(running.change(&site), "firewall 'fw' rules -1");
    running.pass("busy-out", 2 * FLOWS);
    undisturbed(running, walks);
}

#[test]
fn a_nat_takes_other_pools_forwards_and_filtering() {
    let mut site = Site::new();
    let (running, walks) = warm(&site);
    let within = |running: &Running, prefix: &str| {
        let all = running.externals("nat");
        assert_eq!(all.len(), FLOWS);
        all.iter().all(|external| external.starts_with(prefix))
    };
    assert!(within(&running, "203.0.113."));
    site.pool = "198.51.100.0/28";
    assert_eq!(
        running.change(&site),
        "nat 'nat' pool, router 'moving-router' what follows from ports and chains"
    );
    running.pass("busy-out", 2 * FLOWS);
    assert!(within(&running, "198.51.100."), "existing flows have moved too");
    let moved = running.walks("moving");
    // What concerns no flow that exists: they don't walk.
    site.nat = "filtering = \"address-dependent\"\n".into();
    assert_eq!(running.change(&site), "nat 'nat' filtering");
    site.nat += "[[functions.nat.forward]]\nprotocol = \"udp\"\nexternal = \"198.51.100.1:80\"\ninternal = \"192.0.2.9:80\"\n";
    assert_eq!(running.change(&site), "nat 'nat' forwards +1");
    running.pass("busy-out", 2 * FLOWS);
    assert_eq!(running.walks("moving"), moved);
    site.nat.clear();
    assert_eq!(running.change(&site), "nat 'nat' forwards -1, filtering");
    running.pass("busy-out", 2 * FLOWS);
    assert_eq!(running.walks("moving"), moved);
    assert_eq!(running.externals("steady-nat").len(), FLOWS);
    undisturbed(running, walks);
}

#[test]
fn routes_addresses_and_neighbours_come_and_go() {
    let mut site = Site::new();
    site.spare = true;
    let (running, walks) = warm(&site);
    let moving = running.walks("moving");
    // A route, an address and a network that no flow uses.
    site.routes.push(route("10.99.0.0/16", "203.0.113.2"));
    assert_eq!(running.change(&site), "router 'moving-router' routes +1");
    site.routes.push(route("0.0.0.0/0", "203.0.114.2"));
    assert_eq!(running.change(&site), "router 'moving-router' routes +1");
    running.pass("busy-out", 2 * FLOWS);
    assert_eq!(running.walks("moving"), moving, "the default route is not theirs");
    // The flows' own route leads elsewhere now; their sessions and mappings stay.
    let externals = running.externals("nat");
    site.routes[0] = route("198.19.0.0/16", "203.0.114.2");
    assert_eq!(running.change(&site), "router 'moving-router' routes 1 changed");
    assert_eq!(running.sent("busy-out"), 0);
    running.pass("spare-out", 2 * FLOWS);
    assert_eq!(running.externals("nat"), externals);
    // And the default route takes them when theirs is gone.
    site.routes.remove(0);
    assert_eq!(running.change(&site), "router 'moving-router' routes -1");
    running.pass("spare-out", 2 * FLOWS);
    site.routes.insert(0, route("198.19.0.0/16", "203.0.113.2"));
    running.change(&site);
    running.pass("busy-out", 2 * FLOWS);
    assert_eq!(running.externals("nat"), externals);
    site.gateway_mac = "02:00:00:00:01:77";
    assert_eq!(running.change(&site), "router 'moving-router' neighbours 1 changed");
    let rows = running.rows(Topic::Neighbours);
    let of = |router: &str| {
        rows.iter()
            .filter(|row| row["router"] == router && row["address"] == "203.0.113.2")
            .map(|row| row["mac"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("moving-router"), ["02:00:00:00:01:77"]);
    assert_eq!(of("steady-router"), ["02:00:00:00:01:02"]);
    site.addresses.push("203.0.115.1/24");
    assert_eq!(running.change(&site), "router 'moving-router' interfaces 1 changed");
    running.pass("busy-out", 2 * FLOWS);
    assert!(running.rows(Topic::Routes).iter().any(|row| row["prefix"] == "203.0.115.0/24"));
    undisturbed(running, walks);
}

#[test]
fn ports_come_and_go() {
    let mut site = Site::new();
    let (running, walks) = warm(&site);
    let before = running.walks("moving");
    site.spare = true;
    let said = running.change(&site);
    assert!(said.starts_with("ports +1, router 'moving-router' interfaces +1"), "{said}");
    running.pass("busy-out", 2 * FLOWS);
    assert_eq!(running.walks("moving"), before, "a port more is no other way");
    site.routes[0] = route("198.19.0.0/16", "203.0.114.2");
    running.change(&site);
    running.pass("spare-out", 2 * FLOWS);
    // It goes while packets leave by it.
    site.spare = false;
    site.routes[0] = route("198.19.0.0/16", "203.0.113.2");
    let said = running.change(&site);
    assert!(said.starts_with("ports -1, router"), "{said}");
    running.pass("busy-out", 2 * FLOWS);
    assert!(running.rows(Topic::Ports).iter().any(|row| row["port"] == "spare-out"), "its counts stay");
    undisturbed(running, walks);
}

#[test]
fn chains_and_their_functions_come_and_go() {
    let mut site = Site::new();
    let (running, walks) = warm(&site);
    let externals = running.externals("nat");
    site.third = true;
    let said = running.change(&site);
    assert_eq!(said, "ports +2, chains +1");
    running.pass("third-out", 2 * FLOWS);
    let before = running.walks("moving");
    site.third = false;
    assert_eq!(running.change(&site), "ports -2, chains -1");
    running.pass("busy-out", 2 * FLOWS);
    assert_eq!(running.walks("moving"), before);
    // A firewall more: sessions and mappings go on.
    let sessions = |running: &Running| running.look(|worker| worker.engine.state.sessions.count());
    let count = sessions(&running);
    site.functions = vec!["fw", "second", "nat", "router"];
    assert_eq!(running.change(&site), "chains 1 changed");
    running.pass("busy-out", 2 * FLOWS);
    assert_eq!((running.externals("nat"), sessions(&running)), (externals.clone(), count));
    site.functions = vec!["second", "fw", "nat", "router"];
    site.chain = "renamed";
    assert_eq!(running.change(&site), "chains 1 changed");
    running.pass("busy-out", 2 * FLOWS);
    assert_eq!((running.externals("nat"), sessions(&running)), (externals.clone(), count));
    // The NAT goes: its sessions end, and packets leave as they came.
    site.functions = vec!["fw", "router"];
    running.change(&site);
    running.pass("busy-out", 2 * FLOWS);
    assert_eq!((running.externals("nat").len(), sessions(&running)), (0, count));
    site.functions = vec!["fw", "nat", "router"];
    site.chain = "moving";
    running.change(&site);
    running.pass("busy-out", 2 * FLOWS);
    undisturbed(running, walks);
}

#[test]
fn the_same_again_changes_nothing() {
    let site = Site::new();
    let (running, walks) = warm(&site);
    for text in [site.text(), format!("# a remark\n{}", site.text())] {
        let applied = running.apply(&text).unwrap();
        assert!(applied.is_empty());
        assert_eq!(applied.summary, "nothing has changed");
    }
    let moving = running.walks("moving");
    running.pass("busy-out", 2 * FLOWS);
    assert_eq!(running.walks("moving"), moving);
    undisturbed(running, walks);
}

/// Also what changes nothing for packets is said.
#[test]
fn probes_come_and_go() {
    let mut site = Site::new();
    let (running, walks) = warm(&site);
    let probe = |interval: &str| {
        format!(
            "[host]\nchains = [\"moving\"]\n[[host.probes]]\nname = \"far\"\nkind = \"icmp\"\ntarget = \"198.19.0.1\"\ninterval = \"{interval}\"\n"
        )
    };
    site.rest = probe("2s");
    let said = running.change(&site);
    assert!(said.starts_with("ports +1") && said.ends_with("host 'services' probes +1, chains"), "{said}");
    site.rest = probe("3s");
    assert_eq!(running.change(&site), "host 'services' probes 1 changed");
    site.rest.clear();
    let said = running.change(&site);
    assert!(said.ends_with("host 'services' probes -1, chains"), "{said}");
    undisturbed(running, walks);
}

#[test]
fn what_is_wrong_is_refused_whole_with_its_place() {
    let site = Site::new();
    let (running, walks) = warm(&site);
    let moving = running.walks("moving");
    let objects = |running: &Running| {
        running.look(|worker| {
            (
                worker.report().ports.len(),
                worker.engine.slow.iter().count(),
                worker.engine.state.sessions.count(),
            )
        })
    };
    let before = objects(&running);
    // Each comes with a good change, which must not happen either.
    let good = |text: String| {
        text.replace("name = \"all\"\naction = \"allow\"", "name = \"all\"\naction = \"deny\"")
    };
    let text = site.text();
    let mut full = Site { third: true, ..site.clone() };
    full.functions = ["fw", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "router"].to_vec();
    let missing = format!("{text}[ports.new]\nkind = \"af_xdp\"\ninterface = \"none-such-0\"\n");
    let cases = [
        (text.replace("capacity = 4096\nflow", "capacity = 8192\nflow"), "sessions.capacity", "8192"),
        (text.replace("flows = 200", "flows = 300"), "ports.quiet", ""),
        (
            text.replace("via = \"203.0.113.2\"", "via = \"9.9.9.9\""),
            "functions.steady-router.routes[0].via",
            "9.9.9.9",
        ),
        (full.text(), "chains.moving.functions", ""),
        (missing, "ports.new", ""),
        (text.replace("kind = \"sink\"", "kind = \"sinc\""), "ports.quiet-out.kind", "sinc"),
    ];
    for (text, key, found) in cases {
        let error = running.apply(&good(text)).unwrap_err();
        let InstanceError::Invalid(report) = &error else { panic!("{key}: {error}") };
        let of = |it: &&config::Diagnostic| it.key.starts_with(key);
        let diagnostic = report.diagnostics.iter().find(of).unwrap_or_else(|| panic!("{key}: {error}"));
        assert!(diagnostic.line > 0, "{error}");
        assert!(diagnostic.found.as_ref().is_some_and(|it| it.contains(found)), "{error}");
        assert!(error.to_string().contains(&format!("{PATH}:{}:", diagnostic.line)), "{error}");
    }
    assert_eq!(objects(&running), before);
    assert!(running.apply(&site.text()).unwrap().is_empty(), "the configuration in force is the old one");
    running.pass("busy-out", 2 * FLOWS);
    assert_eq!(running.walks("moving"), moving);
    undisturbed(running, walks);
}

/// A small generator of numbers: the seed is printed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn site(&mut self) -> Site {
        let mut site = Site::new();
        if self.below(2) == 0 {
            site.rules.insert(
                0,
                rule(
                    "extra",
                    "deny",
                    &format!(
                        "protocol = \"udp\"
source_ports = \"{}-1123\"",
                        1024 + self.below(50)
                    ),
                ),
            );
        }
        site.pool = ["203.0.113.16/28", "198.51.100.0/28", "203.0.113.16/29"][self.below(3) as usize];
        if self.below(3) == 0 {
            site.nat = "filtering = \"endpoint-independent\"\nport_range = \"2000-60000\"\n".into();
        }
        site.spare = self.below(2) == 0;
        if site.spare && self.below(2) == 0 {
            site.routes[0] = route("198.19.0.0/16", "203.0.114.2");
        }
        if self.below(3) == 0 {
            site.addresses.push("203.0.115.1/24");
        }
        site.third = self.below(2) == 0;
        site.functions = match self.below(5) {
            0 => vec!["fw", "router"],
            1 => vec!["fw", "second", "nat", "router"],
            2 => vec!["nat", "fw", "router"],
            _ => site.functions,
        };
        site.chain = if self.below(3) == 0 { "renamed" } else { "moving" };
        site
    }
}

/// Back and forth, a hundred times, under traffic: nothing is left behind.
#[test]
fn a_hundred_changes_leave_nothing_behind() {
    let seed = u64::from(std::process::id()) << 20 | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    let base = Site::new();
    let (running, walks) = warm(&base);
    let count = |running: &Running| {
        running.look(|worker| {
            let nat = worker.engine.slow.chain_named("moving").unwrap().function::<Nat>("nat").unwrap();
            let held = (nat.bindings(), nat.state().used().mappings.0, nat.state().pool().addresses());
            let state = &worker.engine.state;
            let numbers = (state.sessions.count(), state.cache.count(), state.validity.objects_in_use());
            (held, numbers, worker.engine.slow.iter().count(), worker.engine.slow.room(), worker.retiring())
        })
    };
    // A whole round of the cache, so that what is void is gone.
    let sweep = |running: &Running| {
        running.look(|worker| {
            let places = worker.engine.state.cache.places() + 1;
            worker.engine.state.fold_some(places);
            worker.engine.state.fold_some(places);
            worker.engine.settle();
        });
    };
    sweep(&running);
    let before = count(&running);
    for round in 0..50 {
        let site = random.site();
        let applied = running.apply(&site.text());
        applied.unwrap_or_else(|error| panic!("round {round}: {error}\n{}", site.text()));
        if round % 3 == 0 {
            std::thread::sleep(Duration::from_millis(random.below(30)));
        }
        running.apply(&base.text()).unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    running.control.settle().unwrap();
    // Sessions that began without the NAT go on without it: all of `moving` begin anew, to be counted.
    running.look(|worker| {
        let domain = worker.engine.slow.chain_named("moving").unwrap().scope();
        let state = &mut worker.engine.state;
        for id in (0..state.sessions.high_water())
            .filter_map(|number| state.sessions.get(number))
            .collect::<Vec<_>>()
        {
            if state.sessions.tuples(id)[0].domain == u16::from(domain) {
                state.end_session(id);
            }
        }
        worker.engine.settle();
    });
    running.pass("busy-out", 4 * FLOWS);
    sweep(&running);
    assert_eq!(count(&running), before);
    assert!(running.rows(Topic::Ports).len() <= 4 + 3, "one row for each port that was");
    undisturbed(running, walks);
}
