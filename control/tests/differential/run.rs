//! Runs scripts through both networks, and judges what differs.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use super::known::{self, Case, Known};
use super::network::Network;
use super::packet::{Body, Packet};
use super::script::{Script, Step};
use super::seen::{Kind, Seen};

/// Scripts after which both networks are made anew: addresses of runs come again, and mappings fill the external ports.
const RUNS_MAX: u16 = 2_000;

/// Both networks.
pub struct Pair {
    kernel: Network,
    millrace: Network,
    runs: u16,
    over_budget: u64,
}

/// What was compared.
#[derive(Debug, Default)]
pub struct Tally {
    pub scripts: u64,
    pub steps: u64,
    /// Steps of flows whose state differs for a known reason.
    pub left_out: u64,
    /// Steps after which something came out of both.
    pub passed: u64,
    /// Steps that say nothing because Millrace had no time for all misses of a burst (R12).
    pub over_budget: u64,
    pub known: BTreeMap<&'static str, u64>,
}

/// A difference that nothing explains.
#[derive(Debug)]
pub struct Difference {
    pub at: usize,
    pub kernel: Vec<Seen>,
    pub millrace: Vec<Seen>,
    pub state: String,
}

impl Pair {
    pub fn new(change: impl FnOnce(String) -> String) -> Self {
        Self { kernel: Network::kernel(), millrace: Network::millrace(change), runs: 0, over_budget: 0 }
    }

    pub fn is_used_up(&self) -> bool {
        self.runs >= RUNS_MAX
    }

    /// Ends both. Every packet and every frame of Millrace must be accounted for.
    pub fn finish(self) {
        self.kernel.finish();
        let account = self.millrace.finish().expect("Millrace gives its account");
        assert_eq!(account["failures"].as_array().map(Vec::len), Some(0), "{account}");
    }

    /// Runs a script; ends at the first difference that nothing explains.
    pub fn run(&mut self, steps: &[Step], tally: &mut Tally) -> Option<Difference> {
        self.runs += 1;
        let run = self.runs;
        self.kernel.names.clear();
        self.millrace.names.clear();
        let (mut apart, mut before) = (HashSet::new(), Vec::new());
        tally.scripts += 1;
        for (at, step) in steps.iter().enumerate() {
            if apart.contains(&step.flow) {
                tally.left_out += 1;
                continue;
            }
            tally.steps += 1;
            let (kernel, millrace) = (self.kernel.pass(run, step), self.millrace.pass(run, step));
            tally.passed += u64::from(!kernel.is_empty() && !millrace.is_empty());
            if kernel == millrace {
                before.push((
                    step,
                    kernel.iter().any(|seen| matches!(seen.kind, Kind::Packet | Kind::Fragment)),
                ));
                continue;
            }
            let over_budget = self.millrace.over_budget();
            if over_budget > self.over_budget {
                self.over_budget = over_budget;
                tally.over_budget += 1;
                apart.insert(step.flow);
                continue;
            }
            let case = Case { step, before: &before, kernel: &kernel, millrace: &millrace };
            match known::all().find(|known| (known.is_it)(&case)) {
                Some(Known { name, .. }) => {
                    *tally.known.entry(name).or_default() += 1;
                    // From here on their states may differ, too.
                    apart.insert(step.flow);
                }
                None => {
                    let state =
                        format!("kernel\n{}\nmillrace\n{}", self.kernel.state(), self.millrace.state());
                    return Some(Difference { at, kernel, millrace, state });
                }
            }
        }
        None
    }

    /// Fewer steps that still end in a difference that nothing explains.
    pub fn shrink(&mut self, script: &Script, difference: Difference) -> (Vec<Step>, Difference) {
        let mut steps = script.steps[..=difference.at].to_vec();
        let mut found = difference;
        let mut at = steps.len().saturating_sub(1);
        while at > 0 && self.runs < u16::MAX {
            at -= 1;
            let mut fewer = steps.clone();
            fewer.remove(at);
            if let Some(difference) = self.run(&fewer, &mut Tally::default()) {
                fewer.truncate(difference.at + 1);
                at = at.min(fewer.len() - 1);
                (steps, found) = (fewer, difference);
            }
        }
        (steps, found)
    }
}

/// A difference in words.
pub fn report(seed: u64, script: &Script, steps: &[Step], difference: &Difference) -> String {
    let mut text = format!(
        "seed {seed}: a difference that nothing explains, in {} of {} steps\n",
        steps.len(),
        script.steps.len()
    );
    for step in steps {
        let _ = writeln!(
            text,
            "  {:?} flow {}: {}\n      {:?} {:?}",
            step.from,
            step.flow,
            step.what,
            brief(&step.packet),
            step.pieces
        );
    }
    for (name, seen) in [("kernel", &difference.kernel), ("millrace", &difference.millrace)] {
        let _ = writeln!(text, "  {name}: {}", if seen.is_empty() { "nothing" } else { "" });
        for it in seen {
            let _ = writeln!(text, "      {:?} {:?} {}", it.at, it.kind, it.text);
        }
    }
    let _ = writeln!(text, "to see it again: scripts/differential --seed {seed} --scripts 1");
    text
}

/// A packet for reading: of its payload only the length.
fn brief(packet: &Packet) -> String {
    let mut packet = packet.clone();
    let bytes = match &mut packet.body {
        Body::Tcp { payload, .. } | Body::Udp { payload, .. } | Body::Query { payload, .. } => {
            std::mem::take(payload).len()
        }
        Body::Error { about, .. } => {
            let about = brief(about);
            let Packet { source, destination, ttl, damage, .. } = packet;
            return format!("{source:?} > {destination:?} ttl {ttl} {damage:?} about {about}");
        }
        Body::Other { bytes, .. } => std::mem::take(bytes).len(),
    };
    format!("{packet:?} with {bytes} bytes")
}
