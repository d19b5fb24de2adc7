//! People and programs that look at the instance all the time.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::network::Network;
use super::random::Random;

/// Looks that may be under way at a time.
const AT_ONCE: usize = 3;
/// Longest that one may take.
const PATIENCE: Duration = Duration::from_secs(30);

const TOPICS: &[&str] = &[
    "ports",
    "functions",
    "flows",
    "sessions",
    "chains",
    "workers",
    "memory",
    "drops",
    "latency",
    "neighbours",
    "routes",
    "nat",
];

pub struct Readers<'a> {
    network: &'a Network,
    looks: Vec<(String, Instant, Child)>,
    next: Instant,
    /// How often what was looked at.
    pub counts: BTreeMap<String, u64>,
}

impl<'a> Readers<'a> {
    pub fn new(network: &'a Network) -> Self {
        Self { network, looks: Vec::new(), next: Instant::now(), counts: BTreeMap::new() }
    }

    /// Begins a look now and then. Each must succeed.
    pub fn look(&mut self, random: &mut Random) {
        let mut looks = Vec::new();
        for (what, start, mut child) in self.looks.drain(..) {
            match child.try_wait().unwrap() {
                Some(status) => {
                    assert!(status.success(), "{what}: {status}");
                    *self.counts.entry(what).or_default() += 1;
                }
                None if start.elapsed() > PATIENCE => panic!("{what} does not end"),
                None => looks.push((what, start, child)),
            }
        }
        self.looks = looks;
        if Instant::now() < self.next || self.looks.len() >= AT_ONCE {
            return;
        }
        self.next = Instant::now() + Duration::from_millis(100 + random.below(600));
        let (what, mut command) = self.choose(random);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        self.looks.push((what.to_owned(), Instant::now(), child));
    }

    fn choose(&self, random: &mut Random) -> (&'static str, Command) {
        match random.below(6) {
            0 => ("top", self.network.ask(&["top", "--once", "--interval", "300ms"])),
            1 if self.looks.iter().all(|(what, ..)| what != "trace") => {
                let filter = random.one_of(&["all", "protocol=tcp", "source=fd00:1::2", "input=wan"]);
                ("trace", self.network.ask(&["trace", filter, "--count", "20", "--duration", "2", "--json"]))
            }
            2 => {
                let packet = random.one_of(&[
                    "tcp 10.1.0.3:4000 > 10.2.0.2:443 syn",
                    "udp [fd00:1::2]:4000 > [fd00:2::2]:53",
                    "icmp 10.1.0.4 > 10.2.0.2 ttl 1",
                ]);
                ("explain", self.network.ask(&["explain", "--input", "lan", "--packet", packet]))
            }
            3 => {
                let mut curl = Command::new("curl");
                curl.args(["-sS", "--fail", "--max-time", "20", "http://127.0.0.1:9469/metrics"]);
                ("metrics", self.network.router.enter(&curl))
            }
            _ => ("show", self.network.ask(&["show", random.one_of(TOPICS), "--json"])),
        }
    }
}

impl Drop for Readers<'_> {
    fn drop(&mut self) {
        for (_, _, child) in &mut self.looks {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
