//! `millrace trace` on a running instance through which a generator sends.

mod common;

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use common::{Site, millrace};

fn reports(output: &Output) -> Vec<Value> {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{error}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How many packets were followed, and left out.
fn totals(output: &Output) -> (u64, u64) {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = error
        .lines()
        .find_map(|line| line.strip_prefix("packets followed: "))
        .unwrap_or_else(|| panic!("{error}"));
    let (followed, left_out) = said.split_once(", left out: ").unwrap();
    (followed.parse().unwrap(), left_out.parse().unwrap())
}

#[test]
fn packets_that_match_are_followed_to_where_they_leave() {
    let site = Site::new();
    let running = site.start();
    // The first lap of the generator opens all sessions.
    while site.show("sessions").unwrap().len() < 3_000 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = site.ask(&["trace", "all", "--count", "5", "--json"]);
    assert_eq!(totals(&output).0, 5);
    let followed = reports(&output);
    assert_eq!(followed.len(), 5);
    for packet in &followed {
        assert_eq!((&packet["input"], &packet["verdict"]), (&"source".into(), &"sent".into()), "{packet}");
        assert_eq!((&packet["look_up"], &packet["outputs"][0]), (&"hit".into(), &"drain".into()), "{packet}");
        assert_eq!(packet["session"]["direction"], "original", "{packet}");
        let functions: Vec<_> =
            packet["steps"].as_array().unwrap().iter().map(|step| &step["function"]).collect();
        assert_eq!(functions, ["firewall", "nat", "router"]);
    }
    let wanted = followed[0]["received"]["packet"].as_str().unwrap();
    let (source, port) = wanted.split(' ').nth(1).unwrap().rsplit_once(':').unwrap();
    let terms =
        [format!("source={source}"), format!("port={port}"), "protocol=udp".into(), "input=source".into()];
    let mut arguments = vec!["trace", "--count", "2", "--json"];
    arguments.extend(terms.iter().map(String::as_str));
    for packet in reports(&site.ask(&arguments)) {
        let start = format!("udp {source}:{port} > ");
        assert!(packet["received"]["packet"].as_str().unwrap().starts_with(&start), "{packet}");
    }
    let text = site.ask(&["trace", "input=source", "--count", "2", "--every", "1024"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert_eq!(text.matches("cache     hit: an entry carries it").count(), 2, "{text}");
    assert_eq!(text.matches("verdict   sent to drain\n").count(), 2, "{text}");
    running.stop();
}

#[test]
fn a_packet_that_opens_a_session_is_followed_with_what_decided() {
    let site = Site::new();
    let running = site.start();
    let deadline = Instant::now() + Duration::from_secs(60);
    let packet = loop {
        assert!(Instant::now() < deadline, "no packet that misses is followed");
        let output = std::thread::scope(|scope| {
            let trace =
                scope.spawn(|| site.ask(&["trace", "all", "--count", "10000", "--duration", "1", "--json"]));
            std::thread::sleep(Duration::from_millis(300));
            assert!(site.ask(&["clear", "sessions", "all"]).status.success());
            trace.join().unwrap()
        });
        let missed = |packet: &Value| packet["look_up"] == "miss" && packet["verdict"] == "sent";
        if let Some(packet) = reports(&output).into_iter().find(missed) {
            break packet;
        }
    };
    let by = |step: usize, what: &str| {
        let notes = packet["steps"][step]["by"].as_array().unwrap();
        notes.iter().find(|note| note["what"] == what).and_then(|note| note["value"].as_str())
    };
    assert_eq!((by(0, "rule"), by(0, "action")), (Some("all"), Some("allow")), "{packet}");
    assert_eq!(by(1, "mapping"), Some("new"), "{packet}");
    let external = by(1, "external").unwrap();
    let edits = packet["steps"][1]["edits"].as_array().unwrap();
    let (address, port) = external.rsplit_once(':').unwrap();
    assert_eq!(edits, &[format!("set ipv4_source {address}"), format!("set source_port {port}")], "{packet}");
    assert!(
        packet["sent"]["packet"].as_str().unwrap().starts_with(&format!("udp {external} > ")),
        "{packet}"
    );
    assert!(packet["opens"]["responder"].as_str().unwrap().ends_with(external), "{packet}");
    let guards = packet["program"]["guards"].as_array().unwrap();
    assert!(guards.contains(&"fragment".into()) && guards.contains(&"ip_options".into()), "{packet}");
    running.stop();
}

#[test]
fn what_a_trace_takes_is_bounded_and_what_it_left_out_is_counted() {
    let site = Site::new();
    let running = site.start();
    let output = site.ask(&["trace", "all", "--count", "10000", "--duration", "2", "--json"]);
    let (followed, left_out) = totals(&output);
    assert_eq!(followed, reports(&output).len() as u64);
    // Of 50,000 packets a second it follows those that it has time for.
    assert!(followed > 10 && left_out > 1_000, "{followed} {left_out}");
    let before = Instant::now();
    let output = site.ask(&["trace", "port=1", "protocol=tcp", "--duration", "1"]);
    assert_eq!(totals(&output), (0, 0));
    assert!(before.elapsed() < Duration::from_secs(5));
    // One at a time; one whose client is gone is over.
    let mut arguments = millrace();
    arguments.args(["trace", "protocol=tcp", "--duration", "60", "--socket"]).arg(site.path("m.sock"));
    arguments.stdout(Stdio::null()).stderr(Stdio::null());
    let mut waiting = arguments.spawn().unwrap();
    let trace = || site.ask(&["trace", "all", "--count", "1"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    let refused = loop {
        let output = trace();
        if !output.status.success() {
            break String::from_utf8_lossy(&output.stderr).into_owned();
        }
        assert!(Instant::now() < deadline, "the first trace does not begin");
        // It came while another was under way.
        if waiting.try_wait().unwrap().is_some() {
            waiting = arguments.spawn().unwrap();
        }
    };
    assert!(refused.contains("another trace is under way: one at a time"), "{refused}");
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !trace().status.success() {
        assert!(Instant::now() < deadline, "the first trace does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
    for (terms, said) in
        [(&["color=red"][..], "`color` is no key of packets"), (&["input=dmz"], "there is no port `dmz`")]
    {
        let refused = site.ask(&[&["trace"], terms].concat());
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && error.contains(said), "{error}");
    }
    running.stop();
}
