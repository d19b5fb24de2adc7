//! The same random scripts of TCP, UDP, ICMP and fragments through Linux (nftables with connection tracking and masquerade) and through
//! Millrace: what comes out of both is the same, or the difference is one of [`known::all`], each of which has its reason.
//!
//! `scripts/differential` runs more of them; see its `--help`.

#[path = "../common/mod.rs"]
mod common;
mod icmp;
mod known;
mod network;
mod packet;
mod random;
mod run;
mod script;
mod seen;
mod tcp;
mod view;

use run::{Pair, Tally, report};
use script::Script;

/// Scripts of an ordinary run.
const SCRIPTS: u64 = 300;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn scripts_have_the_same_outcome() {
    if !common::net::may_make_namespaces("scripts_have_the_same_outcome") {
        return;
    }
    let first = setting("MILLRACE_DIFFERENTIAL_SEED", 1);
    let scripts = setting("MILLRACE_DIFFERENTIAL_SCRIPTS", SCRIPTS);
    let unexplained_max = setting("MILLRACE_DIFFERENTIAL_FAILURES", 1);
    let same = |text| text;
    let (mut pair, mut tally, mut reports) = (Pair::new(same), Tally::default(), Vec::new());
    for seed in first..first + scripts {
        if pair.is_used_up() {
            std::mem::replace(&mut pair, Pair::new(same)).finish();
        }
        let script = Script::new(seed);
        if let Some(difference) = pair.run(&script.steps, &mut tally) {
            let (steps, difference) = pair.shrink(&script, difference);
            let text = report(seed, &script, &steps, &difference);
            println!("{text}");
            reports.push(text);
            if reports.len() as u64 >= unexplained_max {
                println!("{}", difference.state);
                break;
            }
        }
    }
    pair.finish();
    println!("{tally:#?}");
    assert!(reports.is_empty(), "{} scripts differ", reports.len());
}

/// The comparison sees what differs: here a middle with a rule more than the other.
#[test]
fn a_difference_is_found_and_shrunk() {
    if !common::net::may_make_namespaces("a_difference_is_found_and_shrunk") {
        return;
    }
    let rule = "[[functions.firewall.rules]]\naction = \"deny\"\nprotocol = \"icmp\"\n";
    let mut pair = Pair::new(|text| {
        text.replacen("[[functions.firewall.rules]]", &format!("{rule}[[functions.firewall.rules]]"), 1)
    });
    let found = (1..200).find_map(|seed| {
        let script = Script::new(seed);
        Some((seed, pair.run(&script.steps, &mut Tally::default())?))
    });
    let (seed, difference) = found.expect("pings pass the kernel alone");
    let script = Script::new(seed);
    let (steps, difference) = pair.shrink(&script, difference);
    let text = report(seed, &script, &steps, &difference);
    assert!(text.contains("echo") && text.contains(&format!("--seed {seed} --scripts 1")), "{text}");
    assert!(steps.len() <= 2 && difference.millrace != difference.kernel, "{text}");
    pair.finish();
}

/// Each difference is told to readers, with its reason, and nothing is told that is no difference.
#[test]
fn known_differences_are_documented() {
    let text = include_str!("../../../docs/differences.md");
    let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let names: Vec<&str> = known::all().map(|known| known.name).collect();
    let missing: Vec<_> = names.iter().filter(|name| !headings.contains(name)).collect();
    let surplus: Vec<_> = headings.iter().filter(|heading| !names.contains(heading)).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "not told: {missing:?}; told for nothing: {surplus:?}");
    for section in text.split("\n### ").skip(1) {
        let heading = section.lines().next().unwrap_or_default();
        assert!(
            section.contains("RFC ") || section.contains("ARCHITECTURE.md"),
            "{heading}: no reason is cited"
        );
    }
}
