//! Broken configurations, one mistake a file, and what `millrace check` says of each: a user must be able
//! to act on it, so the line, the key, what was found, what is valid and the advice are all compared.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// File, severity, line, key, message, found, valid, help; texts are parts of what is said, an empty one of anything.
type Expected =
    (&'static str, &'static str, u64, &'static str, &'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const EXPECTED: &[Expected] = &[
    ("address-twice", "error", 31, "functions.router.interfaces.lan.addresses[1]", "the address 10.0.0.1 is given twice", "\"10.0.0.1/25\"", "an address of its own", "the other is functions.router.interfaces.lan.addresses[0]"),
    ("burst", "error", 41, "workers.burst", "the number is out of range", "65", "an integer from 1 to 64", ""),
    ("capacity", "error", 41, "sessions.capacity", "a session table of 100000000 is out of range", "100000000", "an integer from 1024 to 16777216 (a worker's table then takes", ""),
    ("empty", "error", 0, "ports", "no port is defined", "", "at least one table [ports.NAME] with `kind`", ""),
    ("empty", "error", 0, "chains", "no chain is defined", "", "at least one table [chains.NAME] with `functions` and `zones`", ""),
    ("forward-lengths-differ", "error", 43, "functions.nat.forward[0].internal", "the ranges of ports differ in length", "10 ports to 1 port", "10 ports", ""),
    ("forward-not-inside", "error", 43, "functions.nat.forward[0].internal", "192.0.2.7 is in the zone `outside`, not inside", "\"192.0.2.7:80\"", "a host that is reached through the zone `inside`", ""),
    ("forward-not-ours", "error", 42, "functions.nat.forward[0].external", "203.0.113.7 is not an address of ours", "\"203.0.113.7:8080\"", "one of 198.51.100.10-198.51.100.11, 198.51.100.1", ""),
    ("forward-twice", "error", 47, "functions.nat.forward[1].external", "tcp 198.51.100.10:8080 is forwarded twice", "198.51.100.10:8080", "ports that functions.nat.forward[0] does not forward", ""),
    ("forwarder-not-last", "error", 11, "chains.edge.functions[1]", "`router` forwards, and so must be the last function of the chain", "\"nat\" of kind \"nat\" at the end", "a function of kind \"router\" at the end", "functions = [\"firewall\", \"nat\", \"router\"]"),
    ("function-in-two-chains", "error", 47, "chains.second.functions[0]", "the function `nat` is used twice", "\"nat\"", "each function once: it has its own state", "it is named by chains.edge.functions[1]; a second [functions.NAME] has its own state"),
    ("gateway-not-connected", "error", 38, "functions.router.routes[0].via", "the gateway 192.0.2.1 is on no connected network", "\"192.0.2.1\"", "10.0.0.0/24, 198.51.100.0/24", ""),
    ("generator-flows", "error", 42, "ports.made.flows", "there are not so many addresses and ports", "100000", "at most 64512", "widen `source`, `destination`, `source_ports` or `destination_ports`"),
    ("generator-frames-too-short", "error", 44, "ports.made.frame_bytes", "no such frames are possible", "64", "bytes from 74 to 9014, a range \"74-1514\", or \"imix\"", ""),
    ("header-mistyped", "error", 18, "functions.firewall.kind", "`kind` is missing", "no key `kind` in this table", "\"firewall\", \"nat\", \"inspect\", \"router\"", "there is also [functions.firwall]: are the two meant to be one?"),
    ("host-bits", "error", 22, "functions.firewall.rules[0].source", "`10.0.0.5/24` has bits set beyond its prefix length", "\"10.0.0.5/24\"", "a network, as \"10.0.0.0/8\" or \"2001:db8::/32\", or a single address", "did you mean the network \"10.0.0.0/24\" or the host \"10.0.0.5/32\"?"),
    ("host-services", "error", 41, "host.chains[1]", "there is no chain `edgy`", "\"edgy\"", "`edge`", "did you mean \"edge\"?"),
    ("host-services", "error", 45, "host.status.port", "this is the port of the echo service", "7", "another port, or echo = false", ""),
    ("host-services", "error", 46, "host.status.addresses[1]", "10.0.0.9 is no address of the data plane", "\"10.0.0.9\"", "`10.0.0.1`, `fd00:1::1`, `198.51.100.1`", ""),
    ("host-services", "error", 47, "host.status.path", "unknown key `path`", "`path`", "`port`, `addresses`", ""),
    ("icmp-type-without-protocol", "error", 23, "functions.firewall.rules[0].icmp_type", "ICMP types need one ICMP protocol", "icmp, icmpv6", "`icmp_type` beside protocol = \"icmp\" or protocol = \"icmpv6\"", "the numbers differ: write one rule for each protocol"),
    ("inspect", "error", 46, "functions.ids.patterns[0].action", "`action` is missing", "no key `action` in this table", "action = \"drop\" or \"count\"", ""),
    ("inspect", "error", 46, "functions.ids.patterns[0].text", "`text` is missing", "no key `text` in this table", "text = \"STRING\" or hex = \"0a 1b ...\"", ""),
    ("inspect", "error", 47, "functions.ids.patterns[0].actoin", "unknown key `actoin`", "`actoin`", "`name`, `text`, `hex`, `ignore_case`, `protocol`, `ports`, `action`", "did you mean `action`?"),
    ("inspect", "error", 50, "functions.ids.patterns[1].hex", "these are no hexadecimal digits", "\"0x41\"", "pairs of hexadecimal digits", ""),
    ("inspect", "error", 51, "functions.ids.patterns[1].action", "`deny` is not one of the valid values", "\"deny\"", "\"drop\", \"count\"", ""),
    ("inspect", "error", 55, "functions.ids.patterns[2].hex", "a pattern is either `text` or `hex`", "both", "text = ", ""),
    ("inspect", "error", 56, "functions.ids.patterns[2].protocol", "payloads of this protocol are not looked at", "\"gre\"", "\"tcp\", \"udp\", \"icmp\", \"icmpv6\"", ""),
    ("inspect", "error", 61, "functions.ids.patterns[3].text", "the pattern has 0 bytes", "\"\"", "1 to 256 bytes", ""),
    ("inspect", "error", 63, "functions.ids.patterns[3].ports", "only TCP and UDP have ports", "icmp", "protocol = \"tcp\", \"udp\" or both, or none", ""),
    ("inspect", "error", 66, "functions.ids.patterns[4].name", "two patterns are named `pattern-1`", "\"pattern-1\"", "a name of its own", "the other is functions.ids.patterns[0]"),
    ("inspect-end-alike", "error", 60, "functions.ids.patterns[16]", "17 patterns can end at the same byte of a payload, this one among them: at most 16 may", "17 patterns", "at most 1024 patterns, 32 KiB in all, of which at most 16 end alike", ""),
    ("interface-mistyped", "error", 33, "functions.router.interfaces.wna", "there is no port `wna`", "`wna`", "`lan`, `wan`", "did you mean `wan`?"),
    ("key-twice", "error", 20, "functions.firewall.rules.action", "`functions.firewall.rules.action` is there twice", "action = \"deny\"", "each key once in a table", "the first is in line 19"),
    ("link-local-gateway", "error", 42, "functions.router.routes[1].via", "fe80::1 is link-local: it needs `interface`", "\"fe80::1\"", "interface = \"PORT\" beside it", ""),
    ("memory-too-small", "error", 41, "memory.size", "the memory is too small for what is configured", "16 MiB", " MiB, or no `size` to have it computed", " MiB for 1280 frames of 2368 B, "),
    ("metrics-and-log", "error", 41, "metrics.listen", "not an address with a port", "\"localhost\"", "as \"127.0.0.1:9469\"", ""),
    ("metrics-and-log", "error", 44, "log.levels", "`loud` is no level", "\"info,loud\"", "MODULE=LEVEL", ""),
    ("metrics-and-log", "error", 45, "log.format", "`xml` is not one of the valid values", "\"xml\"", "\"text\", \"json\"", ""),
    ("fault", "error", 44, "ports.a.fault.loss", "not a probability", "2", "a number from 0 to 1, as 0.01 for one packet in a hundred", ""),
    ("fault", "error", 45, "ports.a.fault.corrupt", "not a probability", "-0.5", "a number from 0 to 1, as 0.01 for one packet in a hundred", ""),
    ("fault", "error", 46, "ports.a.fault.duplicate", "not a probability", "\"1 %\"", "a number from 0 to 1, as 0.01 for one packet in a hundred", ""),
    ("fault", "error", 47, "ports.a.fault.delay_us", "the number is out of range", "0", "an integer from 1 to 1000000", ""),
    ("fault", "error", 48, "ports.a.fault.direction", "`in` is not one of the valid values", "\"in\"", "\"both\", \"rx\", \"tx\"", ""),
    ("fault", "error", 49, "ports.a.fault.lose", "unknown key `lose`", "`lose`", "`loss`, `duplicate`, `reorder`, `corrupt`, `truncate`, `delay`, `delay_us`, `seed`, `direction`", "did you mean `loss`?"),
    ("kernel-ports", "error", 46, "ports.b.name", "the interface `lo` already has a port", "\"lo\"", "another interface than that of `a`", ""),
    ("kernel-ports", "error", 48, "ports.c.name", "`name` is missing", "no key `name` in this table", "name = \"NAME\" of the tap device, which is made if there is none", ""),
    ("kernel-ports", "error", 53, "ports.d.interface", "`a b` cannot be an interface", "\"a b\"", "an interface's name of 1 to 15 characters, as \"eth0\" (see `ip link`)", ""),
    ("kernel-ports", "error", 54, "ports.d.queues", "the number is out of range", "65", "an integer from 1 to 64", ""),
    ("kernel-ports", "error", 57, "ports.e.kind", "there is no such kind", "\"af-packet\"", "\"af_xdp\", \"af_packet\", \"tap\", \"pcap\", \"generator\", \"sink\"", "did you mean \"af_packet\"?"),
    ("missing-interface", "error", 30, "functions.router.interfaces", "the port `wan` of the chain has no interface here", "`lan`", "a table [functions.router.interfaces.wan] with `addresses`", ""),
    ("missing-kind", "error", 23, "functions.nat.kind", "`kind` is missing", "no key `kind` in this table", "\"firewall\", \"nat\", \"inspect\", \"router\"", ""),
    ("mixed-families", "error", 18, "functions.firewall.rules[0]", "the rule can match no packet: it mixes IPv4 and IPv6", "", "addresses of one family, with icmp for IPv4 and icmpv6 for IPv6", ""),
    ("mtu-above-the-port", "error", 32, "functions.router.interfaces.lan.mtu", "the MTU is larger than the port can take", "9000", "at most 1500: the port's own `mtu`", ""),
    ("mtu-too-small-for-ipv6", "error", 32, "functions.router.interfaces.lan.mtu", "IPv6 needs an MTU of at least 1280 (RFC 8200 section 5)", "1200", "at least 1280, or no IPv6 address (here fd00:1::1/64)", ""),
    ("name-of-port-mistyped", "error", 13, "chains.edge.zones.outside[0]", "there is no port `wan`", "\"wan\"", "`lan`, `wann`", "did you mean \"wann\"?"),
    ("network-as-address", "error", 31, "functions.router.interfaces.lan.addresses[0]", "10.0.0.0 names the network 10.0.0.0/24, not a host", "\"10.0.0.0/24\"", "an address with its prefix length, as \"10.0.0.1/24\" or \"fd00::1/64\"", "for example \"10.0.0.1/24\""),
    ("no-forwarder", "error", 11, "chains.edge.functions[1]", "the chain `edge` ends without a forwarding function", "\"nat\" of kind \"nat\" at the end", "a function of kind \"router\" at the end", "add \"router\" at the end"),
    ("no-state-checks", "error", 17, "functions.firewall.tcp_state_checks", "this version always checks the state of TCP connections", "false", "true, or no such key", ""),
    ("no-such-core", "error", 41, "workers.cores[0]", "there is no core 4095 that this process may use", "4095", "", ""),
    ("no-such-function", "error", 11, "chains.edge.functions[0]", "there is no function `fierwall`", "\"fierwall\"", "`firewall`, `nat`, `router`", "did you mean \"firewall\"?"),
    ("no-such-port", "error", 12, "chains.edge.zones.inside[0]", "there is no port `lna`", "\"lna\"", "`lan`, `wan`", "did you mean \"lan\"?"),
    ("no-such-zone", "error", 20, "functions.firewall.rules[0].from", "there is no zone `insid`", "\"insid\"", "`inside`, `outside`, `local`", "did you mean \"inside\"?"),
    ("one-zone", "error", 12, "chains.edge.zones", "a chain joins at least two zones", "1 zone", "2 to 16 zones, the innermost first, as zones.inside = [\"lan\"] and zones.outside = [\"wan\"]", ""),
    ("one-zone", "error", 20, "functions.firewall.rules[0].to", "there is no zone `outside`", "\"outside\"", "`inside`, `local`", ""),
    ("one-zone", "error", 22, "functions.nat.outside", "there is no zone `outside`", "\"outside\"", "`inside`", ""),
    ("overlapping-networks", "error", 34, "functions.router.interfaces.wan.addresses[1]", "the network 10.0.0.128/25 overlaps 10.0.0.0/24 of the interface `lan`", "\"10.0.0.129/25\"", "networks that do not overlap: else no one knows where a host is", "the other is functions.router.interfaces.lan.addresses[0]"),
    ("pcap-without-file", "error", 6, "ports.wan", "a pcap port needs a file to read or to write", "neither `input` nor `output`", "`input`, `output` or both", ""),
    ("pool-empty", "error", 25, "functions.nat.pool", "the list is empty", "[]", "at least one element, or no such key at all", ""),
    ("pool-holds-others", "error", 25, "functions.nat.pool[0]", "the pool holds 198.51.100.0, the network address of 198.51.100.0/24", "\"198.51.100.0-198.51.100.3\"", "addresses that no other host has", ""),
    ("pool-holds-others", "error", 25, "functions.nat.pool[0]", "the pool holds 198.51.100.2, the gateway of the route to 0.0.0.0/0", "\"198.51.100.0-198.51.100.3\"", "addresses that no other host has", ""),
    ("pool-holds-others", "error", 25, "functions.nat.pool[1]", "the pool holds 198.51.100.255, the broadcast address of 198.51.100.0/24", "\"198.51.100.255\"", "addresses that no other host has", ""),
    ("pool-missing", "error", 23, "functions.nat.pool", "`pool` is missing", "no key `pool` in this table", "pool = [\"203.0.113.1-203.0.113.4\"]: the addresses that the outside sees", ""),
    ("pool-overlaps-inside", "error", 25, "functions.nat.pool[0]", "the pool overlaps 10.0.0.0/24, the network of the interface `lan`", "\"10.0.0.200-10.0.0.210\"", "addresses that the zone `outside` can reach", ""),
    ("pool-reversed", "error", 25, "functions.nat.pool[0]", "the range of addresses is reversed", "\"198.51.100.11-198.51.100.10\"", "IPv4 addresses, as \"203.0.113.1\", \"203.0.113.1-203.0.113.4\" or \"203.0.113.0/28\"", "did you mean \"198.51.100.10-198.51.100.11\"?"),
    ("pool-too-large", "error", 25, "functions.nat.pool", "the pool is too large", "131072 addresses", "at most 4096 addresses: each gives 64,512 ports a protocol", ""),
    ("port-in-two-zones", "error", 13, "chains.edge.zones.outside[1]", "the port `lan` is already in a zone", "\"lan\"", "each port in one zone of one chain", "it is named by chains.edge.zones.inside[0]"),
    ("port-name", "error", 40, "ports.\"a b\"", "`a b` is not a name", "`a b`", "1 to 32 letters, digits, `-`, `_` or `.`, the first a letter or digit", ""),
    ("ports-reversed", "error", 23, "functions.firewall.rules[0].destination_ports[1]", "the range of ports is reversed", "\"8100-8000\"", "a port from 1 to 65535 or a range, as 80, \"80\" or \"8000-8100\"", "did you mean \"8000-8100\"?"),
    ("ports-without-protocol", "error", 22, "functions.firewall.rules[0].destination_ports", "only TCP and UDP have ports", "no `protocol`", "protocol = \"tcp\", \"udp\" or [\"tcp\", \"udp\"]", ""),
    ("prefix-length-missing", "error", 31, "functions.router.interfaces.lan.addresses[0]", "the prefix length is missing", "\"10.0.0.1\"", "an address with its prefix length, as \"10.0.0.1/24\" or \"fd00::1/64\"", "for example \"10.0.0.1/24\""),
    ("reserved-zone", "error", 13, "chains.edge.zones.local", "`local` is a reserved word in rules", "`local`", "any other name, as `inside`", ""),
    ("reserved-zone", "error", 21, "functions.firewall.rules[0].to", "there is no zone `outside`", "\"outside\"", "`inside`, `local`", ""),
    ("reserved-zone", "error", 23, "functions.nat.outside", "there is no zone `outside`", "\"outside\"", "`inside`, `local`", ""),
    ("ring-size", "error", 43, "ports.a.rx_ring", "no ring has this size", "1000", "a power of two from 64 to 32768", ""),
    ("route-twice", "error", 41, "functions.router.routes[1].prefix", "0.0.0.0/0 has two routes", "\"0.0.0.0/0\"", "one route a prefix", "the other is functions.router.routes[0]"),
    ("rule-name-twice", "error", 25, "functions.firewall.rules[1].name", "two rules are named `web`", "\"web\"", "a name of its own", "the other is functions.firewall.rules[0]"),
    ("rule-shadowed", "warning", 23, "functions.firewall.rules[1]", "the rule `no-telnet` never matches: `rule-1` before it covers it", "", "", "functions.firewall.rules[0] already allows it: move this rule up or remove it"),
    ("rules-in-single-brackets", "error", 22, "functions.firewall.rules", "`functions.firewall.rules` is there twice", "[functions.firewall.rules]", "[[functions.firewall.rules]], in two brackets, before each of several", "the first is in line 18"),
    ("same-interface", "error", 46, "ports.b.interface", "the interface `lo` already has a port", "\"lo\"", "another interface than that of `a`", ""),
    ("same-output", "error", 8, "ports.wan.output", "two ports write to lan-out.pcap", "lan-out.pcap", "another file than that of `lan`", ""),
    ("size-unit", "error", 41, "memory.size", "`MB` is not a unit of memory", "\"256 MB\"", "a size in B, KiB, MiB or GiB, as \"256 MiB\"", "did you mean \"256 MiB\"?"),
    ("socket-path", "error", 41, "management.socket", "not a path of a socket", "\"millrace.sock\"", "an absolute path of at most 107 bytes", ""),
    ("shares-too-few", "error", 43, "workers.shares", "2 workers can't divide 1 share of connections", "1", "at least 2, or fewer cores", ""),
    ("shares-too-many", "error", 43, "workers.shares", "the number is out of range", "65", "an integer from 1 to 64", ""),
    ("syntax", "error", 16, "", "not TOML: invalid boolean", "kind = firewall", "a string in quotes, a number, true, false, a [list] or a {table}", "text stands in quotes: \"firewall\""),
    ("syntax", "error", 24, "", "not TOML: invalid basic string", "kind = \"nat", "`\"`", ""),
    ("table-of-functions-mistyped", "error", 23, "function", "unknown key `function`", "`function`", "`memory`, `workers`, `sessions`, `checksums`, `management`, `metrics`, `log`, `host`, `ports`, `chains`, `functions`", "did you mean `functions`?"),
    ("status-denied", "warning", 40, "host.status", "no rule of `firewall` lets anybody reach the status page", "", "", "to = \"local\", protocol = \"tcp\", destination_ports = 80 }"),
    ("table-of-ports-mistyped", "error", 1, "port", "unknown key `port`", "`port`", "`memory`, `workers`, `sessions`, `checksums`, `management`, `metrics`, `log`, `host`, `ports`, `chains`, `functions`", "did you mean `ports`?"),
    ("table-twice", "error", 6, "ports.lan", "`ports.lan` is there twice", "[ports.lan]", "one table [ports.lan]", "the first is in line 1"),
    ("timeout-below-rfc", "error", 41, "sessions.timeouts.udp", "RFC 4787 REQ-5 asks for at least 2m", "\"30s\"", "a duration from 2m to 7d", "allow_short_timeouts = true in [sessions] accepts it all the same"),
    ("timeout-without-unit", "error", 41, "sessions.timeouts.udp", "a duration needs a unit", "300", "a duration with units d, h, m, s or ms, as \"90s\", \"5m\" or \"2h4m\"", "for seconds write \"300s\""),
    ("two-workers-on-a-core", "error", 42, "workers.cores[1]", "two workers on one core take each other's time", "0", "each core once", ""),
    ("unclosed-header", "error", 10, "", "not TOML: unclosed table", "[chains.edge", "`]`", ""),
    ("unknown-key", "error", 20, "functions.firewall.rules[0].form", "unknown key `form`", "`form`", "`name`, `action`, `from`, `to`, `source`, `destination`, `protocol`, `source_ports`, `destination_ports`, `icmp_type`, `log`", "did you mean `from`?"),
    ("unknown-kind", "error", 24, "functions.nat.kind", "there is no such kind", "\"napt\"", "\"firewall\", \"nat\", \"inspect\", \"router\"", "did you mean \"nat\"?"),
    ("unknown-table", "error", 1, "worker", "unknown key `worker`", "`worker`", "`memory`, `workers`, `sessions`, `checksums`, `management`, `metrics`, `log`, `host`, `ports`, `chains`, `functions`", "did you mean `workers`?"),
    ("unknown-value", "error", 19, "functions.firewall.rules[0].action", "`alow` is not one of the valid values", "\"alow\"", "\"allow\", \"deny\", \"reject\"", "did you mean \"allow\"?"),
    ("unused", "warning", 40, "ports.spare", "no chain uses the port `spare`", "", "", "its packets would be dropped: put it in a zone of a chain, or remove it"),
    ("unused", "warning", 43, "functions.spare", "no chain uses the function `spare`", "", "", "add it to `functions` of a chain, or remove it"),
    ("wrong-type", "error", 22, "functions.firewall.rules[0].log", "`log` is true or false", "\"yes\"", "true, false", ""),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn check(arguments: &[&str], directory: &Path) -> Output {
    let millrace = env!("CARGO_BIN_EXE_millrace");
    Command::new(millrace).arg("check").args(arguments).current_dir(directory).output().unwrap()
}

fn toml_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    files
}

#[test]
fn every_broken_configuration_is_explained() {
    let directory = root().join("tests/broken");
    let files = toml_files(&directory);
    assert!(files.len() >= 20, "{} broken configurations", files.len());
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let output = check(&["--json", file.file_name().unwrap().to_str().unwrap()], &directory);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected: Vec<_> = EXPECTED.iter().filter(|expected| expected.0 == name).collect();
        let found = answer["diagnostics"].as_array().unwrap();
        assert_eq!(found.len(), expected.len(), "{name}: {found:#?}");
        for (expected, found) in expected.iter().zip(found) {
            let (_, severity, line, key, message, what, valid, help) = **expected;
            assert_eq!(
                (found["severity"].as_str(), found["line"].as_u64()),
                (Some(severity), Some(line)),
                "{name}"
            );
            let texts =
                [("key", key), ("message", message), ("found", what), ("valid", valid), ("help", help)];
            for (field, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
                let found = found[*field].as_str().unwrap_or_default();
                assert!(found.contains(text), "{name}: {field}: {found} does not contain {text}");
            }
        }
        let broken = expected.iter().any(|expected| expected.1 == "error");
        assert_eq!(output.status.code(), Some(i32::from(broken)), "{name}");
        assert_eq!(answer["valid"], !broken, "{name}");
        assert_eq!(answer["plan"].is_null(), broken, "{name}: a plan is made of valid configurations only");
    }
}

#[test]
fn every_expectation_has_its_file() {
    for (name, ..) in EXPECTED {
        assert!(root().join(format!("tests/broken/{name}.toml")).exists(), "{name}");
    }
}

#[test]
fn errors_are_shown_with_their_line() {
    let output = check(&["host-bits.toml"], &root().join("tests/broken"));
    let text = String::from_utf8(output.stderr).unwrap();
    let expected = r#"error: `10.0.0.5/24` has bits set beyond its prefix length
  --> host-bits.toml:22:10
   |
22 | source = "10.0.0.5/24"
   |          ^^^^^^^^^^^^^
   = key: functions.firewall.rules[0].source
   = found: "10.0.0.5/24"
   = valid: a network, as "10.0.0.0/8" or "2001:db8::/32", or a single address
   = help: did you mean the network "10.0.0.0/24" or the host "10.0.0.5/32"?

host-bits.toml: 1 error, 0 warnings
"#;
    assert_eq!(text, expected);
    assert!(output.stdout.is_empty(), "no plan of a broken configuration");
}

#[test]
fn every_shipped_configuration_is_valid() {
    let files = toml_files(&root().join("../configs"));
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let output = check(&["--json", file.to_str().unwrap()], &root());
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{answer:#}");
        // Interfaces are made by whoever runs it; nothing else may be doubtful.
        for warning in answer["diagnostics"].as_array().unwrap() {
            assert!(warning["key"].as_str().unwrap().ends_with(".interface"), "{warning:#}");
        }
    }
}

#[test]
fn the_plan_of_the_edge_names_what_would_run() {
    let output = check(&[root().join("../configs/edge.toml").to_str().unwrap()], &root());
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "lan  af_xdp     mr-lan  1 queue, MTU 1500, chain edge, zone inside",
        "lan queue 0, wan queue 0; bursts of 64, idle adaptive",
        "65536 sessions",
        "chain edge: inside (lan) <-> outside (wan)",
        "2  nat       nat       inside -> outside, 2 external addresses, 1 port forward",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn unreadable_files_and_wrong_usage_have_their_status() {
    let missing = check(&["no/such/file.toml"], &root());
    assert_eq!(missing.status.code(), Some(1));
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(text.contains("cannot read the configuration") && text.contains("no/such/file.toml"), "{text}");
    let bytes = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bytes.path(), b"[ports]\n\xff\n").unwrap();
    let text = String::from_utf8(check(&[bytes.path().to_str().unwrap()], &root()).stderr).unwrap();
    assert!(text.contains("not UTF-8: line 2"), "{text}");
    assert_eq!(check(&[], &root()).status.code(), Some(2));
    assert_eq!(check(&["--nonsense", "x.toml"], &root()).status.code(), Some(2));
}

/// A file that says the same wrong thing tens of thousands of times gets an answer, not all of them.
#[test]
fn of_very_many_errors_the_first_are_told_and_all_counted() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(directory.path().join(name), text).unwrap();
    write("tables.toml", "[a.b]\nx = 1\n".repeat(60_000));
    write("keys.toml", format!("[a]\n{}", "k = 1\n".repeat(60_000)));
    write("line.toml", format!("a = {{{}}}\n", "k = 1, ".repeat(60_000)));
    let ports = (0..60_000).map(|number| format!("[ports.p{number}]\nknd = 1\n"));
    write("ports.toml", ports.collect());
    for (name, errors) in [
        ("tables", "119799 errors"),
        ("keys", "59999 errors"),
        ("line", "59999 errors"),
        ("ports", " errors"),
    ] {
        let mut command = Command::new("timeout");
        command.args(["120", env!("CARGO_BIN_EXE_millrace"), "check"]).arg(format!("{name}.toml"));
        let output = command.current_dir(directory.path()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(text.contains(errors) && text.contains("\nand "), "{name}: {text}");
        assert!(text.len() < 200_000, "{name}: {} bytes", text.len());
    }
}
