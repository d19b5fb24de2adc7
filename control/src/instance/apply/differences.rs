//! How the settings of one function differ from those before, in words.

use std::collections::HashMap;
use std::hash::Hash;

use super::said::signed;
use crate::config::firewall::{Firewall, Rule};
use crate::config::nat::Nat;
use crate::config::router::{Interface, Router};
use crate::config::{FunctionKind, HostStack};

/// What differs, such as `rules +1 2 changed, default`; empty if nothing does, or the kinds differ.
pub(super) fn between(old: &FunctionKind, new: &FunctionKind) -> String {
    let words = match (old, new) {
        (FunctionKind::Firewall(old), FunctionKind::Firewall(new)) => firewall(old, new),
        (FunctionKind::Nat(old), FunctionKind::Nat(new)) => nat(old, new),
        (FunctionKind::Inspect(old), FunctionKind::Inspect(new)) => {
            counted("patterns", &old.patterns, &new.patterns, |it| it.name.clone()).into_iter().collect()
        }
        (FunctionKind::Router(old), FunctionKind::Router(new)) => router(old, new),
        _ => Vec::new(),
    };
    words.join(", ")
}

/// What differs in what the data plane serves and asks itself.
pub(super) fn of_host(old: &HostStack, new: &HostStack) -> String {
    let words = [
        counted("probes", &old.probes, &new.probes, |it| it.name.clone()),
        named("status page", old.status == new.status),
        named("echo", old.echo == new.echo),
        named("chains", old.chains == new.chains),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Counts what came, went and changed among things that `key` names.
fn counted<'a, T: PartialEq, K: Eq + Hash>(
    what: &str,
    old: &'a [T],
    new: &'a [T],
    key: impl Fn(&'a T) -> K,
) -> Option<String> {
    let before: HashMap<K, &T> = old.iter().map(|it| (key(it), it)).collect();
    let after: HashMap<K, &T> = new.iter().map(|it| (key(it), it)).collect();
    let added = after.keys().filter(|key| !before.contains_key(key)).count();
    let removed = before.keys().filter(|key| !after.contains_key(key)).count();
    let changed =
        after.iter().filter(|(key, it)| before.get(key).is_some_and(|before| before != *it)).count();
    let words = signed(added, removed, changed);
    (!words.is_empty()).then(|| format!("{what} {words}"))
}

fn named(name: &str, same: bool) -> Option<String> {
    (!same).then(|| name.to_owned())
}

fn firewall(old: &Firewall, new: &Firewall) -> Vec<String> {
    let name = |rule: &'_ Rule| rule.name.clone();
    let rules = counted("rules", &old.rules, &new.rules, name);
    let order = |rules: &[Rule], others: &[Rule]| -> Vec<String> {
        let both = |rule: &&Rule| others.iter().any(|other| other.name == rule.name);
        rules.iter().filter(both).map(name).collect()
    };
    let moved = order(&old.rules, &new.rules) != order(&new.rules, &old.rules);
    [rules, named("order of rules", !moved), named("default", old.default == new.default)]
        .into_iter()
        .flatten()
        .collect()
}

fn nat(old: &Nat, new: &Nat) -> Vec<String> {
    [
        named("pool", old.pool == new.pool),
        counted("forwards", &old.forwards, &new.forwards, |it| (it.protocol, it.external.to_string())),
        named("filtering", old.filtering == new.filtering),
        named("sources", old.sources == new.sources),
        named("port range", old.port_range == new.port_range),
        named("zones", (&old.inside, &old.outside) == (&new.inside, &new.outside)),
        named("hairpinning", old.hairpinning == new.hairpinning),
        named("MSS clamp", old.mss_clamp == new.mss_clamp),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn router(old: &Router, new: &Router) -> Vec<String> {
    let neighbours = |interfaces: &[Interface]| -> Vec<_> {
        let of = |it: &Interface| {
            it.neighbours.iter().map(|known| (it.port.clone(), known.address, known.mac)).collect::<Vec<_>>()
        };
        interfaces.iter().flat_map(of).collect()
    };
    let plain = |interfaces: &[Interface]| -> Vec<_> {
        interfaces.iter().map(|it| Interface { neighbours: Vec::new(), ..it.clone() }).collect()
    };
    let (before, after) = (neighbours(&old.interfaces), neighbours(&new.interfaces));
    let (plain_before, plain_after) = (plain(&old.interfaces), plain(&new.interfaces));
    let limits = |it: &Router| (it.icmp_errors_per_second, it.icmp_source_errors_per_second);
    [
        counted("routes", &old.routes, &new.routes, |route| route.prefix),
        counted("interfaces", &plain_before, &plain_after, |it| it.port.clone()),
        counted("neighbours", &before, &after, |(port, address, _)| (port.clone(), *address)),
        named("ICMP limits", limits(old) == limits(new)),
    ]
    .into_iter()
    .flatten()
    .collect()
}
