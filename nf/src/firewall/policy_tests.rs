//! What the change from one policy to the next concerns.

use super::*;
use crate::firewall::rules::ORDER_STRIDE;
use std::collections::HashSet;
use std::net::IpAddr;

fn rule(name: &str, destination: &str) -> Rule {
    Rule { destinations: vec![destination.parse().unwrap()], ..Rule::any(RuleId(0), 0, name, Action::Allow) }
}

fn set(rules: &[Rule]) -> RuleSet {
    let numbered = rules.iter().enumerate().map(|(at, rule)| Rule {
        id: RuleId(at as u32),
        order: at as u64 * ORDER_STRIDE,
        ..rule.clone()
    });
    RuleSet::new(numbered.collect()).unwrap()
}

fn change(old: &[Rule], new: &[Rule]) -> Change {
    let old = Policy::new(&set(old), Action::Deny).unwrap();
    Change::between(&old, &set(new), Action::Deny).unwrap()
}

fn cells(rules: &[&Rule]) -> HashSet<Watch> {
    rules.iter().flat_map(|rule| touched_by(rule)).collect()
}

fn touched(change: &Change) -> HashSet<Watch> {
    change.touched.iter().copied().collect()
}

#[test]
fn a_rule_put_in_front_touches_its_own_cells_alone() {
    let (a, b, c) = (rule("a", "10.0.1.0/24"), rule("b", "10.0.2.0/24"), rule("c", "10.0.3.0/24"));
    let change = change(&[a.clone(), b.clone()], &[c.clone(), a, b]);
    assert_eq!(touched(&change), cells(&[&c]));
    let names: Vec<_> = change.policy.rules_after(None).map(|rule| (rule.name.as_str(), rule.id.0)).collect();
    assert_eq!(names, [("c", 2), ("a", 0), ("b", 1)], "known rules keep their identity");
}

#[test]
fn a_changed_rule_touches_what_it_was_and_what_it_is() {
    let (a, b) = (rule("a", "10.0.1.0/24"), rule("b", "10.0.2.0/24"));
    let moved = rule("a", "10.0.9.0/24");
    let change = change(&[a.clone(), b.clone()], &[moved.clone(), b]);
    assert_eq!(touched(&change), cells(&[&a, &moved]));
    assert!(change.removed.is_empty());
}

#[test]
fn of_a_new_order_the_fewest_rules_count_as_moved() {
    let rules: Vec<Rule> = (0..6).map(|i| rule(&format!("r{i}"), &format!("10.0.{i}.0/24"))).collect();
    let mut turned = rules.clone();
    let first = turned.remove(0);
    turned.push(first.clone());
    assert_eq!(touched(&change(&rules, &turned)), cells(&[&first]));
    assert!(change(&rules, &rules).is_empty());
}

#[test]
fn a_removed_rule_and_another_default_are_told() {
    let (a, b) = (rule("a", "10.0.1.0/24"), rule("b", "10.0.2.0/24"));
    let change = change(&[a.clone(), b.clone()], std::slice::from_ref(&b));
    let gone = Policy::new(&set(&[a.clone(), b]), Action::Deny).unwrap().slot(RuleId(0)).unwrap();
    assert_eq!((change.removed.as_slice(), touched(&change)), ([gone].as_slice(), cells(&[&a])));
    let old = Policy::new(&set(std::slice::from_ref(&a)), Action::Deny).unwrap();
    let other = Change::between(&old, &set(&[a]), Action::Reject).unwrap();
    assert_eq!(other.touched, everywhere());
}

#[test]
fn the_defaults_identity_is_nobodys() {
    let mut policy = Policy::new(&RuleSet::default(), Action::Deny).unwrap();
    assert!(policy.insert(Rule::any(DEFAULT_RULE, 1, "all", Action::Allow)).is_err());
    assert!(policy.is_empty());
}

#[test]
fn a_rule_that_comes_back_is_listed_where_it_is() {
    let mut policy = Policy::new(&set(&[rule("a", "10.0.1.0/24")]), Action::Deny).unwrap();
    let (_, gone) = policy.remove(RuleId(0)).unwrap();
    policy.insert(Rule { order: 7, ..Rule::clone(&gone) }).unwrap();
    assert_eq!(policy.rules_after(None).map(|rule| rule.order).collect::<Vec<_>>(), [7]);
}

/// Each of the rules alone is narrow.
#[test]
fn a_change_of_too_many_cells_touches_everything() {
    let hosts = |net: u32| (net..net + TOUCHED_MAX as u32 - 1).map(|host| IpAddr::V4(host.into()).into());
    let wide = |name, net| Rule { destinations: hosts(net).collect(), ..rule(name, "10.0.0.0/24") };
    let rules = [wide("a", 0x0a01_0000), wide("b", 0x0a02_0000)];
    assert!(cells(&[&rules[0]]).len() > 1);
    assert_eq!(change(&[], &rules).touched, everywhere());
}
