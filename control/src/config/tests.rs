//! Tests of the whole configuration: documentation, defaults, all errors at once, any input.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;

use super::*;

const DOCUMENTATION: &str = include_str!("../../../docs/configuration.md");
const EDGE: &str = include_str!("../../../configs/edge.toml");

/// One table of each kind, with what is required and nothing else.
const BASE: &str = r#"
[memory]
[workers]
[sessions.timeouts]
[checksums]
[management]
[metrics]
[log]
[host.status]
[[host.probes]]
name = "web"
target = "10.0.0.9"
kind = "http"
[ports.lan]
kind = "af_xdp"
interface = "lo"
[ports.lan.fault]
[ports.raw]
kind = "af_packet"
interface = "raw0"
[ports.host]
kind = "tap"
name = "mr-host"
[ports.wan]
kind = "pcap"
output = "wan.pcap"
[ports.made]
kind = "generator"
[ports.drain]
kind = "sink"
[chains.edge]
functions = ["firewall", "nat", "ids", "router"]
zones.inside = ["lan", "made", "host"]
zones.outside = ["wan", "drain", "raw"]
[functions.firewall]
kind = "firewall"
[[functions.firewall.rules]]
action = "allow"
protocol = "tcp"
[functions.nat]
kind = "nat"
pool = ["203.0.113.1"]
[[functions.nat.forward]]
protocol = "tcp"
external = "203.0.113.1:8080"
internal = "10.0.0.2:80"
[functions.ids]
kind = "inspect"
[[functions.ids.patterns]]
text = "evil"
action = "drop"
[functions.router]
kind = "router"
[functions.router.interfaces.made]
addresses = ["10.1.0.1/24"]
[functions.router.interfaces.wan]
addresses = ["198.51.100.1/24"]
[functions.router.interfaces.drain]
addresses = ["10.2.0.1/24"]
[functions.router.interfaces.raw]
addresses = ["10.3.0.1/24"]
[functions.router.interfaces.host]
addresses = ["10.4.0.1/24"]
[functions.router.interfaces.lan]
addresses = ["10.0.0.1/24", "fd00::1/64"]
neighbours = [{ address = "10.0.0.9", mac = "02:00:00:00:00:09" }]
[[functions.router.routes]]
prefix = "0.0.0.0/0"
via = "198.51.100.2"
"#;

/// Where each table of the schemas stands in [`BASE`].
const TABLES: &[(&str, &[&str])] = &[
    ("top level", &[]),
    ("memory", &["memory"]),
    ("workers", &["workers"]),
    ("sessions", &["sessions"]),
    ("sessions.timeouts", &["sessions", "timeouts"]),
    ("checksums", &["checksums"]),
    ("management", &["management"]),
    ("metrics", &["metrics"]),
    ("log", &["log"]),
    ("host", &["host"]),
    ("host.status", &["host", "status"]),
    ("host.probes", &["host", "probes", "0"]),
    ("ports.NAME, af_xdp", &["ports", "lan"]),
    ("ports.NAME, af_packet", &["ports", "raw"]),
    ("ports.NAME, tap", &["ports", "host"]),
    ("ports.NAME, pcap", &["ports", "wan"]),
    ("ports.NAME, generator", &["ports", "made"]),
    ("ports.NAME, sink", &["ports", "drain"]),
    ("ports.NAME.fault", &["ports", "lan", "fault"]),
    ("chains.NAME", &["chains", "edge"]),
    ("functions.NAME, firewall", &["functions", "firewall"]),
    ("functions.NAME.rules", &["functions", "firewall", "rules", "0"]),
    ("functions.NAME, nat", &["functions", "nat"]),
    ("functions.NAME.forward", &["functions", "nat", "forward", "0"]),
    ("functions.NAME, inspect", &["functions", "ids"]),
    ("functions.NAME.patterns", &["functions", "ids", "patterns", "0"]),
    ("functions.NAME, router", &["functions", "router"]),
    ("functions.NAME.interfaces.PORT", &["functions", "router", "interfaces", "lan"]),
    (
        "functions.NAME.interfaces.PORT.neighbours",
        &["functions", "router", "interfaces", "lan", "neighbours", "0"],
    ),
    ("functions.NAME.routes", &["functions", "router", "routes", "0"]),
];

fn parse_text(text: &str) -> Checked {
    parse(Path::new("test.toml"), text, &Host::default())
}

fn valid(text: &str) -> Config {
    let checked = parse_text(text);
    assert!(checked.report.diagnostics.is_empty(), "{}\n{text}", checked.report);
    checked.config.unwrap()
}

/// [`BASE`] with one key of one table set.
fn base_with(steps: &[&str], key: &str, value: toml::Value) -> String {
    let mut document: toml::Value = toml::from_str(BASE).unwrap();
    let mut table = &mut document;
    for step in steps {
        table = match step.parse::<usize>() {
            Ok(position) => &mut table.as_array_mut().unwrap()[position],
            Err(_) => table.get_mut(step).unwrap(),
        };
    }
    table.as_table_mut().unwrap().insert(key.to_owned(), value);
    toml::to_string(&document).unwrap()
}

/// A row of a table in the documentation.
#[derive(Debug)]
struct Row {
    default: Option<String>,
    example: Option<String>,
}

/// The documented keys by table and key.
fn documented() -> BTreeMap<(String, String), Row> {
    let code =
        |cell: &str| cell.trim().strip_prefix('`').and_then(|c| c.strip_suffix('`')).map(str::to_owned);
    let mut rows = BTreeMap::new();
    let mut title = String::new();
    for line in DOCUMENTATION.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            // Kinds share a table: `[ports.NAME]`, `pcap` is "ports.NAME, pcap".
            title = heading.replace(['`', '[', ']'], "");
        }
        let cells: Vec<&str> = line.split('|').collect();
        if let [_, key, default, _, example, _] = cells[..]
            && let Some(key) = code(key)
        {
            let row = Row { default: code(default), example: code(example) };
            assert!(
                rows.insert((title.clone(), key.clone()), row).is_none(),
                "{title} {key} is documented twice"
            );
        }
    }
    rows
}

fn value_of(text: &str) -> toml::Value {
    toml::from_str::<toml::Table>(&format!("value = {text}")).unwrap().remove("value").unwrap()
}

#[test]
fn every_key_is_documented_and_no_other() {
    let documented: BTreeSet<_> = documented().into_keys().collect();
    let known: BTreeSet<_> = schema::ALL
        .iter()
        .flat_map(|table| table.keys.iter().map(|key| (table.title.to_owned(), (*key).to_owned())))
        .collect();
    let missing: Vec<_> = known.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not documented: {missing:?}; unknown: {unknown:?}");
}

#[test]
fn readers_ask_for_every_key_of_the_schemas() {
    let document = DeTable::parse(BASE).unwrap();
    let context = Context::new(Path::new("test.toml"), BASE, Places::of(document.get_ref()));
    read(&context, document.get_ref(), &Host::default(), true);
    assert!(!context.has_errors(), "{}", context.report());
    let known: BTreeSet<_> =
        schema::ALL.iter().flat_map(|table| table.keys.iter().map(|key| (table.title, *key))).collect();
    assert_eq!(context.asked(), known);
}

#[test]
fn documented_defaults_are_the_defaults() {
    // Written by the same serialiser as the variants, so that tables stand in the same order.
    let base = valid(&base_with(&[], "memory", toml::Value::Table(toml::Table::new())));
    let mut compared = 0;
    for ((title, key), row) in documented() {
        let steps = TABLES.iter().find(|(name, _)| *name == title).unwrap().1;
        if let Some(default) = row.default {
            assert_eq!(valid(&base_with(steps, &key, value_of(&default))), base, "{title} {key} = {default}");
            compared += 1;
        }
    }
    assert!(compared > 40, "{compared} defaults are documented");
}

#[test]
fn documented_examples_are_accepted() {
    for ((title, key), row) in documented() {
        let steps = TABLES.iter().find(|(name, _)| *name == title).unwrap().1;
        let Some(example) = row.example else {
            let apart = [
                ("functions.NAME.rules", "icmp_type"),
                ("functions.NAME.patterns", "hex"),
                ("functions.NAME, router", "interfaces"),
            ];
            let shown_apart = title == "top level" || apart.contains(&(title.as_str(), key.as_str()));
            assert!(shown_apart, "{title} {key} has no example");
            continue;
        };
        let text = base_with(steps, &key, value_of(&example));
        let path = steps.iter().fold(String::new(), |path, step| match step.parse::<usize>() {
            Ok(position) => places::item(&path, position),
            Err(_) => join(&path, step),
        });
        let path = join(&path, &key);
        let report = parse_text(&text).report;
        let wrong =
            report.diagnostics.iter().find(|d| d.severity == Severity::Error && d.key.starts_with(&path));
        assert!(wrong.is_none(), "{title} {key} = {example}: {report}");
    }
}

#[test]
fn the_edge_means_what_it_says() {
    let config = valid(EDGE);
    let names: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["lan", "wan"]);
    let chain = config.chain_of_port("wan").unwrap();
    assert_eq!(chain.zone_of("wan").unwrap().name, "outside");
    let router = config.router_of(chain).unwrap();
    assert_eq!(router.port_to("10.0.0.3".parse().unwrap()), Some("lan"));
    assert_eq!(router.port_to("8.8.8.8".parse().unwrap()), Some("wan"));
    assert_eq!(router.port_to("2001:db8::1".parse().unwrap()), Some("wan"));
    let FunctionKind::Nat(nat) = &config.function("nat").unwrap().kind else { panic!("not a NAT") };
    assert_eq!(nat.forwards[0].external.to_string(), "198.51.100.10:8080");
    let FunctionKind::Firewall(firewall) = &config.function("firewall").unwrap().kind else {
        panic!("no firewall")
    };
    assert_eq!(firewall.rules[3].destination, ["10.0.0.3/32".parse().unwrap()]);
    assert_eq!(firewall.rules[1].to, [firewall::ZoneRef::Local]);
}

#[test]
fn a_changed_rule_is_found_by_its_name() {
    let rules = |text: &str| match valid(text).function("firewall").unwrap().kind.clone() {
        FunctionKind::Firewall(firewall) => firewall.rules,
        _ => unreachable!("it is a firewall"),
    };
    let (before, after) =
        (rules(EDGE), rules(&EDGE.replace("destination_ports = 80", "destination_ports = 81")));
    let changed: Vec<_> =
        after.iter().filter(|rule| !before.contains(rule)).map(|rule| rule.name.as_str()).collect();
    assert_eq!(changed, ["web-server"]);
}

#[test]
fn a_host_without_the_interface_is_warned_or_refused() {
    let host = Host { interfaces: Some(vec!["mr-lan".into()]), ..Host::default() };
    let checked = parse(Path::new("edge.toml"), EDGE, &host);
    assert!(checked.config.is_some());
    assert_eq!((checked.report.errors(), checked.report.warnings()), (0, 1));
    let checked = parse(Path::new("edge.toml"), EDGE, &host.running_now());
    assert!(checked.config.is_none());
    assert_eq!(checked.report.diagnostics[0].key, "ports.wan.interface");
    assert_eq!(checked.report.diagnostics[0].help.as_deref(), Some("did you mean \"mr-lan\"?"));
}

#[test]
fn all_errors_come_at_once() {
    let text = EDGE
        .replace("kind = \"af_xdp\"\ninterface = \"mr-lan\"", "kind = \"af_xdp\"\ninterface = 7\nqueues = 0")
        .replace(
            "action = \"allow\"\nto = \"local\"\nprotocol = \"icmp\"",
            "action = 1\nto = \"locl\"\nprotocol = \"icm\"",
        )
        .replace("198.51.100.10-198.51.100.11", "198.51.100.10-198.51.100.300")
        .replace("via = \"2001:db8:ffff::2\"", "via = \"2001:db8:fff::2\"");
    let report = parse_text(&text).report;
    let keys: Vec<_> = report.diagnostics.iter().map(|d| d.key.as_str()).collect();
    let expected = [
        "ports.lan.interface",
        "ports.lan.queues",
        "functions.firewall.rules[1].action",
        "functions.firewall.rules[1].to",
        "functions.firewall.rules[1].protocol",
        "functions.nat.pool[0]",
        "functions.router.routes[1].via",
    ];
    for key in expected {
        assert!(keys.contains(&key), "{key} is missing: {report}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Cut, doubled and overwritten anywhere, a configuration gives an answer: never a panic, and never a
    /// configuration together with errors.
    #[test]
    fn damaged_configurations_are_answered(
        (from, length, to) in (0..EDGE.len(), 0..200usize, 0..EDGE.len()),
        insert in r#"[\[\]{}"'=.,#0-9a-z\n -]{0,12}|\PC{0,4}"#,
        base in any::<bool>(),
    ) {
        let characters: Vec<char> = if base { BASE } else { EDGE }.chars().collect();
        let (from, to) = (from % characters.len(), to % characters.len());
        let piece = &characters[from..(from + length).min(characters.len())];
        let text: String =
            characters[..to].iter().chain(piece).copied().chain(insert.chars()).chain(characters[to..].iter().copied()).collect();
        let checked = parse_text(&text);
        prop_assert_eq!(checked.config.is_some(), checked.report.errors() == 0);
        let shown = checked.report.to_string();
        prop_assert!(shown.lines().all(|line| line.chars().count() < 4_000));
        if let Some(config) = checked.config {
            let plan = Plan::of(&config, &Host::probe());
            prop_assert!(plan.to_string().contains("memory:"));
        }
    }

    /// Any text whatever is answered.
    #[test]
    fn any_text_is_answered(text in r"(\PC|\n){0,300}") {
        let checked = parse_text(&text);
        prop_assert!(checked.config.is_none() && checked.report.errors() > 0);
    }
}

/// R15: the plan says what looking the rules up may cost, and what costs too much is refused where it stands.
#[test]
fn the_cost_of_rules_is_told_and_bounded() {
    let with_rules = |count: u32| {
        let rule = |n: u32| {
            format!(
                "[[functions.firewall.rules]]\nname = \"range-{n}\"\naction = \"allow\"\nprotocol = \"tcp\"\n\
                 source_ports = \"{}-{}\"\ndestination_ports = \"{}-{}\"\n",
                1 + n % 80 * 97,
                20_000 + n % 97 * 100,
                1 + n % 61 * 150,
                30_000 + n % 89 * 200
            )
        };
        let rules: String = (0..count).map(rule).collect();
        EDGE.split("[[functions.firewall.rules]]").next().unwrap().to_owned()
            + &rules
            + &EDGE[EDGE.find("[functions.nat]").unwrap()..]
    };
    let host = Host::default();
    let checked = parse(Path::new("edge.toml"), &with_rules(3_000), &host);
    let plan = Plan::of(&checked.config.unwrap(), &host);
    let summary = &plan.chains[0].functions[0].summary;
    let steps = summary.rsplit("looked up in at most ").next().unwrap().strip_suffix(" steps").unwrap();
    assert!((50..512).contains(&steps.parse::<u32>().unwrap()), "{summary}");

    let text = with_rules(5_000);
    let refused = parse(Path::new("edge.toml"), &text, &host);
    assert!(refused.config.is_none());
    let [found] = &refused.report.diagnostics[..] else { panic!("{}", refused.report) };
    let name = text.lines().nth(found.line).unwrap().split('"').nth(1).unwrap();
    assert!(found.message.contains(&format!("rule \"{name}\": ")), "{found:?}");
    assert!(found.message.contains("merge rules") && found.key.starts_with("functions.firewall.rules["));
    assert!(found.found.as_ref().unwrap().contains("rules before it"), "{found:?}");
}
