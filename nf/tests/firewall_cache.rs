//! The cache is only a cache: random packets and rule changes, with cache, with flushes at random points, and without.

mod common;

use common::*;
use millrace_nf::chain::ChainBuilder;
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::zone::ZoneId;

const STEPS: usize = 20_000;
const RULES: usize = 12;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

/// Identities are used once, so that what an old rule admitted is never counted for a new one.
fn random_rule(random: &mut Random, id: u32) -> Rule {
    let nets = |text: &str| text.split_whitespace().map(|net| net.parse().unwrap()).collect();
    Rule {
        order: random.below(1000),
        from_zone: *random.pick(&[None, Some(ZoneId(0)), Some(ZoneId(1))]),
        to_zone: *random.pick(&[None, None, Some(ZoneId(0)), Some(ZoneId(1))]),
        sources: nets(random.pick::<&str>(&["", "10.0.0.0/24", "10.0.1.0/30", "0.0.0.0/0"])),
        destinations: nets(random.pick::<&str>(&["", "203.0.113.0/24", "203.0.113.2/32", "203.0.0.0/12"])),
        protocols: random.pick(&[vec![], vec![6], vec![17]]).clone(),
        destination_ports: random.pick(&[vec![], vec![80..=80], vec![53..=60], vec![1..=60_000]]).clone(),
        ..Rule::any(
            RuleId(id),
            0,
            format!("rule {id}"),
            *random.pick(&[Action::Allow, Action::Allow, Action::Deny, Action::Reject]),
        )
    }
}

fn valid_rule(random: &mut Random, id: u32) -> Rule {
    loop {
        let rule = random_rule(random, id);
        if rule.matches().is_ok() {
            return rule;
        }
    }
}

fn random_frame(random: &mut Random) -> (u16, Vec<u8>) {
    let inside = *random.pick(&["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.9"]);
    let outside = *random.pick(&["203.0.113.1", "203.0.113.2", "198.51.100.1"]);
    let ports = (1000 + random.below(3) as u16, *random.pick(&[80, 53, 55]));
    let port = *random.pick(&[INSIDE, OUTSIDE]);
    let (from, to, ports) = match (port, random.below(8)) {
        (INSIDE, 0) => (inside, outside, (ports.1, ports.0)),
        (INSIDE, _) => (inside, outside, ports),
        (_, 0) => (outside, inside, ports),
        _ => (outside, inside, (ports.1, ports.0)),
    };
    let payload = &[7; 40][..random.below(40) as usize];
    let frame = match random.below(10) {
        0..4 => udp(from, to, ports, payload),
        4..9 => {
            let flags = *random.pick(&["S", "SA", "A", "A", "A", "PA", "FA", "R"]);
            let payload = if flags.contains('S') { &[] } else { payload };
            tcp(from, to, ports, Segment { flags, sequence: 100, acknowledgment: 101, payload })
        }
        _ => echo(from, to, random.below(2) == 0, 7, 1),
    };
    (port, frame)
}

fn harness(rules: &[Rule], default: Action, cache_entries: usize) -> Harness {
    let policy = Policy::new(&RuleSet::new(rules.to_vec()).unwrap(), default).unwrap();
    let firewall = Firewall::new(policy, IcmpLimitConfig::default());
    let chain = ChainBuilder::new("edge", &["inside", "outside"]).function("firewall", firewall);
    Harness::with_cache(chain.forwarder("wire", Wire::default()), cache_entries)
}

fn exchange(harness: &mut Harness, remove: RuleId, insert: &Rule) {
    let engine = &mut harness.engine;
    let firewall: &mut Firewall = engine.slow.chain_named("edge").unwrap().function("firewall").unwrap();
    assert!(firewall.remove(remove, &mut engine.state.validity.within(0)).is_some());
    firewall.insert(insert.clone(), &mut engine.state.validity.within(0)).unwrap();
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut rules: Vec<Rule> = (0..RULES as u32).map(|id| valid_rule(&mut random, id)).collect();
    let default = *random.pick(&[Action::Deny, Action::Allow]);
    let mut harnesses = [4096, 4096, 64, 0].map(|entries| harness(&rules, default, entries));
    for step in 0..STEPS {
        if random.below(100) == 0 {
            let (gone, come) =
                (random.below(RULES as u64) as usize, valid_rule(&mut random, (RULES + step) as u32));
            let id = std::mem::replace(&mut rules[gone], come.clone()).id;
            harnesses.iter_mut().for_each(|harness| exchange(harness, id, &come));
        }
        if random.below(20) == 0 {
            harnesses[1].engine.state.flush();
        }
        if random.below(100) == 0 {
            harnesses.iter_mut().for_each(|harness| drop(harness.advance(1)));
        }
        let (port, frame) = random_frame(&mut random);
        let burst = vec![frame; 1 + random.below(4) as usize];
        let sent = harnesses.each_mut().map(|harness| harness.send(port, &burst));
        assert!(sent.iter().all(|one| *one == sent[0]), "seed {seed}, step {step}: {sent:?}");
    }
    let reports = harnesses.each_mut().map(|harness| {
        harness.fold();
        let firewall = harness.function::<Firewall>("firewall");
        (firewall.rules_report(), firewall.removed_counters())
    });
    assert!(reports.iter().all(|report| *report == reports[0]), "seed {seed}");
    assert!(harnesses[0].counters().hits > STEPS as u64 / 20, "seed {seed}: the cache was hardly used");
    assert_eq!(harnesses[3].counters().hits, 0);
    harnesses.into_iter().for_each(Harness::finish);
}

#[test]
fn with_and_without_a_cache_the_same_leaves_and_the_same_is_counted() {
    for seed in 1..=8 {
        run(seed);
    }
}
