//! Metrics as they are scraped: by Prometheus itself, by its promtool, and by clients that mean no good.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::killed::Killed;
use common::{Running, Site, millrace};
use millrace_control::metrics::families;

const PATIENCE: Duration = Duration::from_secs(30);

/// An address of the loopback interface that nobody listened at a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A running instance with metrics.
struct Scraped {
    site: Site,
    running: Running,
    address: SocketAddr,
}

impl Scraped {
    fn start() -> Self {
        Self::start_with(|text| text)
    }

    fn start_with(change: impl Fn(String) -> String) -> Self {
        let (site, address) = (Site::new(), free_address());
        let text = change(site.text());
        site.write("run.toml", &text.replace("listen = \"off\"", &format!("listen = \"{address}\"")));
        let running = site.start();
        Self { site, running, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What comes back for a request, if it is taken.
    fn try_to_ask(&self, request: &str) -> std::io::Result<String> {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// What comes back for a whole request: head and body.
    fn ask(&self, request: &str) -> (String, String) {
        let text = self.try_to_ask(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
        (head.to_owned(), body.to_owned())
    }

    fn scrape(&self, accept: &str) -> (String, String) {
        self.ask(&format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"))
    }

    fn samples(&self) -> BTreeMap<String, f64> {
        let (_, body) = self.scrape("application/openmetrics-text");
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(k, v)| (k.to_owned(), v.parse().unwrap()))
            .collect()
    }
}

/// Whether a program is installed; says so if not.
fn has(program: &str, test: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("SKIPPED {test}: there is no {program} (apt-get install prometheus)");
    }
    found
}

#[test]
fn a_scrape_is_openmetrics_and_adds_up() {
    let scraped = Scraped::start();
    let start = Instant::now();
    while scraped.samples()["millrace_port_sent_packets_total{port=\"drain\"}"] < 10_000.0 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(300));
    }
    let (head, body) = scraped.scrape("application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let kind = "\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(head.contains(kind), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    assert!(body.ends_with("\n# EOF\n"), "{body}");
    for family in families::ALL {
        assert!(
            body.contains(&format!("# TYPE {} {}\n", family.name, family.kind.name())),
            "{}",
            family.name
        );
    }
    std::thread::sleep(Duration::from_millis(300));
    let samples = scraped.samples();
    let share = |name: &str| samples[&format!("{name}{{share=\"0\"}}")];
    let packets = |name: &str| share(&format!("millrace_{name}_packets_total"));
    let dropped: f64 =
        samples.iter().filter(|(k, _)| k.starts_with("millrace_dropped_packets_total")).map(|(_, v)| v).sum();
    let left = packets("sent") + packets("consumed") + dropped + share("millrace_buffered_packets");
    assert_eq!(packets("received") + packets("originated") + packets("copied"), left);
    assert_eq!(share("millrace_sums_hold"), 1.0);
    let core = share("millrace_share_core");
    let busy = samples[&format!("millrace_worker_busy_seconds_total{{core=\"{core}\"}}")];
    assert!(share("millrace_share_busy_seconds_total") > 0.0 && busy > 0.0, "{busy}");
    assert_eq!(samples["millrace_port_received_packets_total{port=\"source\"}"], packets("received"));
    assert!(share("millrace_sessions") > 0.0 && share("millrace_flow_cache_hits_total") > 0.0);
    // Bursts are at most of 64 packets, so there are as many at least.
    let bursts = share("millrace_burst_seconds_count");
    assert!(bursts * 64.0 >= packets("received"), "{bursts}");
    // Sent at the end of the same turn, so never far apart.
    let sent = samples["millrace_chain_latency_seconds_count{chain=\"measured\"}"];
    assert!((bursts - sent).abs() <= 1000.0, "{bursts} {sent}");
    let sum = samples["millrace_chain_latency_seconds_sum{chain=\"measured\"}"];
    assert!(sum > 0.0 && sum / sent < 0.1, "{sum} s for {sent} bursts");
    assert!(share("millrace_burst_seconds_sum") <= sum * 1.1, "a burst is rewritten before it is sent");
    scraped.running.stop();
}

#[test]
fn functions_on_cores_of_their_own_are_told() {
    let scraped = Scraped::start_with(|text| {
        let text = text.replace("[\"firewall\", \"nat\"", "[\"firewall\", \"ids\", \"nat\"");
        text + "[functions.ids]\nkind = \"inspect\"\ncore = 1\n[workers]\ncores = [0]\nshares = 2\n"
    });
    let of = |samples: &BTreeMap<String, f64>, name: &str| samples[&format!("millrace_stage_{name}")];
    let start = Instant::now();
    while of(&scraped.samples(), "packets_total{function=\"ids\"}") < 10_000.0 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(300));
    }
    let samples = scraped.samples();
    let stage = |name: &str| of(&samples, &format!("{name}{{function=\"ids\"}}"));
    assert!(stage("turns_total") >= stage("busy_turns_total") && stage("busy_turns_total") > 0.0);
    assert!(stage("busy_seconds_total") > 0.0 && stage("sleeps_total") >= 0.0);
    for share in 0..2 {
        let link = |name: &str| of(&samples, &format!("{name}{{function=\"ids\",share=\"{share}\"}}"));
        assert!(link("under_way_packets") <= 1_024.0 && link("refused_packets_total") >= 0.0);
        assert!(
            samples[&format!("millrace_buffered_packets{{share=\"{share}\"}}")] >= link("under_way_packets")
        );
    }
    assert!(stage("waiting_packets") <= 2_048.0);
    scraped.running.stop();
}

#[test]
fn promtool_finds_nothing_wrong() {
    if !has("promtool", "promtool_finds_nothing_wrong") {
        return;
    }
    let scraped = Scraped::start();
    std::thread::sleep(Duration::from_millis(500));
    let (head, body) = scraped.scrape("text/plain;version=0.0.4");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    scraped.running.stop();
}

#[test]
fn prometheus_scrapes_it() {
    if !has("prometheus", "prometheus_scrapes_it") || !has("promtool", "prometheus_scrapes_it") {
        return;
    }
    let scraped = Scraped::start();
    let address = free_address();
    let config = format!(
        "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n  - job_name: millrace\n    static_configs:\n      - targets: [\"{}\"]\n",
        scraped.address
    );
    let file = scraped.site.write("prometheus.yml", &config);
    let checked = Command::new("promtool").args(["check", "config"]).arg(&file).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let log = std::fs::File::create(scraped.site.path("prometheus.log")).unwrap();
    let _prometheus = Killed(
        Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", scraped.site.path("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    let query = |expression: &str| {
        let server = format!("http://{address}");
        let output =
            Command::new("promtool").args(["query", "instant", &server, expression]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let start = Instant::now();
    let wanted = [
        ("up == 1", "job=\"millrace\""),
        ("rate(millrace_port_sent_packets_total{port=\"drain\"}[10s]) > 0", "port=\"drain\""),
        (
            "histogram_quantile(0.99, sum by (chain, le) (rate(millrace_chain_latency_seconds_bucket[10s]))) > 0",
            "chain=\"measured\"",
        ),
        ("millrace_build_info", "version=\""),
    ];
    for (expression, label) in wanted {
        while !query(expression).contains(label) {
            let log = std::fs::read_to_string(scraped.site.path("prometheus.log")).unwrap();
            assert!(start.elapsed() < PATIENCE, "{expression}: {}\n{log}", query(expression));
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    scraped.running.stop();
}

#[test]
fn clients_can_do_no_harm() {
    let scraped = Scraped::start();
    let status = |request: &str| scraped.ask(request).0.split("\r\n").next().unwrap().to_owned();
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(
        status("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
        "HTTP/1.1 405 Method Not Allowed"
    );
    assert_eq!(status("\x00\x01\x02\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    assert_eq!(status(&long), "HTTP/1.1 431 Request Header Fields Too Large");
    let (head, body) = scraped.ask("HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.is_empty(), "{head}");
    // Some that say nothing, or a byte a second, take all places; others are told so, and they are thrown out in time.
    let start = Instant::now();
    let mut silent: Vec<_> = (0..8).map(|_| scraped.connect()).collect();
    let mut busy = String::new();
    while !busy.starts_with("HTTP/1.1 503") {
        assert!(start.elapsed() < PATIENCE);
        busy.clear();
        let mut ninth = scraped.connect();
        // Whoever is refused may find the connection closed before all was read.
        let _ = ninth.read_to_string(&mut busy);
    }
    let served = || {
        // Whoever is refused may find the connection reset, because its request was not read.
        scraped
            .try_to_ask("GET /metrics HTTP/1.1\r\n\r\n")
            .is_ok_and(|text| text.starts_with("HTTP/1.1 200 OK"))
    };
    while !served() {
        let _ = silent[0].write_all(b"G");
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    drop(silent);
    // Whoever takes nothing of its answer holds up nobody else.
    let mut greedy = scraped.connect();
    greedy.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(status("GET /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 200 OK");
    let accounting = scraped.running.stop();
    assert!(accounting["sums"]["received"].as_u64().unwrap() > 0);
}

#[test]
fn a_change_of_chains_changes_what_is_told() {
    let scraped = Scraped::start();
    let text = std::fs::read_to_string(scraped.site.path("run.toml")).unwrap();
    let renamed = scraped.site.write("renamed.toml", &text.replace("[chains.measured]", "[chains.other]"));
    let count = |chain: &str| {
        scraped.samples().get(&format!("millrace_chain_latency_seconds_count{{chain=\"{chain}\"}}")).copied()
    };
    let wait_for = |chain: &str| {
        let start = Instant::now();
        while count(chain).is_none_or(|count| count == 0.0) {
            assert!(start.elapsed() < PATIENCE, "{chain}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait_for("measured");
    let applied = millrace().arg("apply").arg(&renamed).output().unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    wait_for("other");
    assert_eq!(count("measured"), None);
    scraped.running.stop();
}

#[test]
fn an_address_that_is_taken_is_an_error_if_it_was_asked_for() {
    let site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("listen = \"{}\"", listener.local_addr().unwrap());
    site.write("run.toml", &site.text().replace("listen = \"off\"", &listen));
    let output = millrace().args(["run", "--duration", "5"]).arg(site.path("run.toml")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("metrics.listen"), "{said}");
}
