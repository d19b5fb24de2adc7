//! Rules that log: a line of a new flow on standard error, within a bound.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Site, millrace};

/// Lines of a run whose only rule logs, or is made to by `apply`.
fn lines(log_from_the_start: bool) -> Vec<String> {
    let site = Site::new();
    let logging = site.text().replace("name = \"all\"\n", "name = \"all\"\nlog = true\n");
    let logging = logging.replace("rate = 50000", "rate = 2000");
    let silent = logging.replace("log = true\n", "");
    let first = if log_from_the_start { &logging } else { &silent };
    site.write("run.toml", first);
    let log = fs::File::create(site.path("stderr")).unwrap();
    let mut command = millrace();
    command.args(["run", "--interval", "0"]).arg(site.path("run.toml")).stdout(std::process::Stdio::null());
    command.env_remove("RUST_LOG");
    let mut running = site.start_with_stderr(command, log);
    if !log_from_the_start {
        site.applied(&logging);
        assert!(site.ask(&["clear", "sessions", "all"]).status.success());
    }
    let read = || fs::read_to_string(site.path("stderr")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !read().contains("flows without a line of their own") && !read().contains("left_out=") {
        assert!(Instant::now() < deadline, "{}", read());
        std::thread::sleep(Duration::from_millis(20));
    }
    let functions = site.show("functions").unwrap();
    let total =
        |item: &str| functions.iter().find(|row| row["item"] == item).unwrap()["count"].as_u64().unwrap();
    assert!(total("log lines") >= 10 && total("log lines left out") > 0);
    running.signal("TERM");
    assert!(running.end().status.success());
    read().lines().filter(|line| line.contains("flow")).map(ToOwned::to_owned).collect()
}

#[test]
fn a_logging_rule_tells_of_new_flows_within_its_bound() {
    for log_from_the_start in [true, false] {
        let lines = lines(log_from_the_start);
        let flows: Vec<_> = lines.iter().filter(|line| line.contains("new flow")).collect();
        assert!(flows.len() >= 10, "{lines:?}");
        let wanted = [
            "function=\"firewall\"",
            "rule=\"all\"",
            "verdict=\"allow\"",
            "protocol=\"udp\"",
            "source=\"",
            "destination=\"198.19.",
            "in_port=\"source\"",
            "out_port=\"drain\"",
        ];
        for line in &flows {
            assert!(wanted.iter().all(|field| line.contains(field)), "{line}");
        }
    }
}
