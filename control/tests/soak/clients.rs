//! Servers and clients: processes that are started again when they end, and killed at random.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::net::Namespace;
use super::network::{INSIDE_ADDRESSES, Network};
use super::random::Random;

const TRAFFIC: &str = include_str!("traffic.py");
/// From the end of a client to its next start.
const PAUSE: Duration = Duration::from_millis(200);
/// A measurement by iperf3 takes 6 s. One whose server was killed may wait in a busy loop for ever.
const MEASUREMENT_MAX: Duration = Duration::from_secs(30);

/// A client with its counts, which outlive its processes.
struct Client {
    name: String,
    command: Vec<String>,
    /// The namespace's process.
    host: u32,
    /// What it prints.
    output: PathBuf,
    process: Option<Child>,
    /// When the present process was started, or the next one will be.
    start_at: Instant,
    starts: u64,
    /// Counts of its former processes.
    before: Counts,
    is_server: bool,
}

/// What clients count: see `traffic.py`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub ok: u64,
    pub failed: u64,
    pub corrupt: u64,
    pub bytes: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.corrupt += other.corrupt;
        self.bytes += other.bytes;
    }

    fn json(self) -> Value {
        json!({ "ok": self.ok, "failed": self.failed, "corrupt": self.corrupt, "bytes": self.bytes })
    }
}

/// All of them.
pub struct Clients(Vec<Client>);

impl Client {
    fn start(&mut self) {
        let file = File::create(&self.output).unwrap();
        let mut command = Command::new("nsenter");
        // It ends with the test, however that ends.
        command
            .args(["-t", &self.host.to_string(), "-n", "setpriv", "--pdeathsig", "KILL"])
            .args(&self.command);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        self.process = Some(command.spawn().unwrap());
        self.start_at = Instant::now();
        self.starts += 1;
    }

    /// What the present process has counted.
    fn counted(&self) -> Counts {
        let text = fs::read_to_string(&self.output).unwrap_or_default();
        if self.command[0] == "ping" {
            let answers = text.lines().filter(|line| line.contains(" bytes from ")).count() as u64;
            return Counts { ok: answers, ..Counts::default() };
        }
        if self.command[0] == "iperf3" {
            let result: Value = serde_json::from_str(&text).unwrap_or_default();
            let bytes = result["end"]["sum_received"]["bytes"].as_u64();
            let bytes = bytes.or_else(|| result["end"]["sum"]["bytes"].as_u64()).unwrap_or(0);
            return Counts {
                ok: u64::from(bytes > 0),
                failed: u64::from(!result["error"].is_null()),
                bytes,
                ..Counts::default()
            };
        }
        let last = text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let count = |key: &str| last.as_ref().and_then(|last| last[key].as_u64()).unwrap_or(0);
        Counts { ok: count("ok"), failed: count("failed"), corrupt: count("corrupt"), bytes: count("bytes") }
    }

    fn is_stuck(&self) -> bool {
        self.name == "iperf3 TCP" && self.process.is_some() && self.start_at.elapsed() > MEASUREMENT_MAX
    }

    fn total(&self) -> Counts {
        let mut total = self.before;
        if self.process.is_some() {
            total.add(self.counted());
        }
        total
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
            self.before.add(self.counted());
            self.start_at = Instant::now() + PAUSE;
        }
    }
}

impl Clients {
    pub fn start(network: &Network) -> Self {
        let mut clients = Self(Vec::new());
        let sources: Vec<_> = (2..2 + INSIDE_ADDRESSES).map(|last| format!("from=10.1.0.{last}")).collect();
        let mut python = |host: &Namespace, name: &str, words: &str, sources: &[String]| {
            let mut command: Vec<_> = ["python3", "-c", TRAFFIC].map(str::to_owned).into();
            command.extend(words.split(' ').map(str::to_owned));
            command.extend_from_slice(sources);
            clients.push(network, host, name, command);
        };
        let Network { inside, outside, third, .. } = network;
        for (name, host) in [("server inside", inside), ("server outside", outside)] {
            python(host, name, "serve", &[]);
        }
        python(inside, "short connections", "short 10.2.0.2 5001 100", &sources);
        python(inside, "short connections, IPv6", "short fd00:2::2 5001 40", &[]);
        python(outside, "short connections, forwarded", "short 10.2.0.100 8080 30", &[]);
        python(third, "short connections, third host", "short 10.2.0.2 5001 20", &[]);
        python(inside, "transfers", "bulk 10.2.0.2 5001 3000000", &sources);
        python(inside, "transfers, IPv6", "bulk fd00:2::2 5001 2000000", &[]);
        python(outside, "transfers, forwarded", "bulk 10.2.0.100 8080 1000000", &[]);
        python(inside, "datagrams", "datagrams 10.2.0.2 5002 100", &sources);
        python(inside, "datagrams, IPv6", "datagrams fd00:2::2 5002 50", &[]);
        python(third, "datagrams, third host", "datagrams 10.2.0.2 5002 20", &[]);
        python(inside, "status pages", "pages 10.1.0.1 8080 5", &sources);
        python(inside, "datagrams of the router", "datagrams fd00:1::1 7 20", &[]);
        python(outside, "scan", "scan 10.2.0.100 40", &[]);
        python(outside, "scan, IPv6", "scan fd00:1::2 20", &[]);
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        clients.push(network, outside, "server of iperf3", words("iperf3 -s"));
        clients.push(
            network,
            inside,
            "iperf3 TCP",
            words("iperf3 -J -c 10.2.0.2 -t 6 -b 20M --connect-timeout 2000"),
        );
        for (name, host, command) in [
            ("ping", inside, "ping -n -i 0.05 10.2.0.2"),
            ("ping, IPv6", inside, "ping -n -i 0.05 fd00:2::2"),
            ("ping in fragments", inside, "ping -n -i 0.1 -s 4000 10.2.0.2"),
            ("ping in fragments, IPv6", inside, "ping -n -i 0.1 -s 4000 fd00:2::2"),
            ("ping from outside, IPv6", outside, "ping -n -i 0.1 fd00:1::2"),
            ("ping of the router", inside, "ping -n -i 0.1 10.1.0.1"),
        ] {
            clients.push(network, host, name, words(command));
        }
        clients.look(&mut Random::new(0));
        clients
    }

    fn push(&mut self, network: &Network, host: &Namespace, name: &str, command: Vec<String>) {
        let is_server = name.starts_with("server");
        self.0.push(Client {
            name: name.to_owned(),
            command,
            host: host.pid(),
            output: network.site.path(&format!("client-{}", self.0.len())),
            process: None,
            start_at: Instant::now() + if is_server { Duration::ZERO } else { Duration::from_secs(1) },
            starts: 0,
            before: Counts::default(),
            is_server,
        });
    }

    /// Starts those again that have ended.
    pub fn look(&mut self, _random: &mut Random) {
        for client in &mut self.0 {
            if client.is_stuck() {
                client.kill();
            }
            if client.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_some()) {
                client.process = None;
                client.before.add(client.counted());
                client.start_at = Instant::now() + PAUSE;
            }
            if client.process.is_none() && Instant::now() >= client.start_at {
                client.start();
            }
        }
    }

    /// Kills one, of servers seldom one.
    pub fn kill_one(&mut self, random: &mut Random) {
        let at = random.below(self.0.len() as u64) as usize;
        if !self.0[at].is_server || random.once_in(4) {
            self.0[at].kill();
        }
    }

    /// Counts of all, by client, and how often each was started.
    pub fn counts(&self) -> Vec<(String, u64, Counts)> {
        self.0.iter().map(|client| (client.name.clone(), client.starts, client.total())).collect()
    }

    /// Ends all; what they counted.
    pub fn stop(mut self) -> Vec<(String, u64, Counts)> {
        let counts = self.counts();
        self.0.iter_mut().for_each(Client::kill);
        counts
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(Client::kill);
    }
}

/// As JSON.
pub fn json(counts: &[(String, u64, Counts)]) -> Value {
    let one = |(name, starts, counts): &(String, u64, Counts)| {
        let mut value = counts.json();
        value["client"] = json!(name);
        value["starts"] = json!(starts);
        value
    };
    counts.iter().map(one).collect()
}
