//! What is laid down when the instance starts, and so can't be changed while it runs.

use std::collections::BTreeSet;

use super::plan::predecessor;
use crate::config::{Chain, Config, FunctionKind, Port, Problem};

const START_ANEW: &str = "end the instance and start it with the new configuration";

/// A problem for everything in `new` that would have to change what is fixed.
pub(super) fn check(old: &Config, new: &Config) -> Vec<Problem> {
    let fixed = [
        ("memory", old.memory == new.memory),
        ("workers.io", old.workers.io == new.workers.io),
        ("workers.idle", old.workers.idle == new.workers.idle),
        ("workers.burst", old.workers.burst_packets == new.workers.burst_packets),
        ("sessions.capacity", old.sessions.capacity == new.sessions.capacity),
        ("sessions.flow_cache_entries", old.sessions.flow_cache_entries == new.sessions.flow_cache_entries),
        ("checksums.verify", old.verify_checksums == new.verify_checksums),
        ("management", old.management == new.management),
        ("metrics", old.metrics == new.metrics),
        ("log", old.log == new.log),
    ];
    let problem = |key: String| Problem::new(key, "this can't be changed while the instance runs");
    let mut problems: Vec<_> = (fixed.iter().filter(|(_, same)| !same))
        .map(|(key, _)| {
            problem((*key).to_owned()).valid("what the instance was started with").help(START_ANEW)
        })
        .collect();
    let (shares, others) = (old.workers.shares, new.workers.shares);
    if shares != others {
        let message = "connections are divided once for all: the shares can't change while the instance runs";
        let help = match others > shares {
            true => {
                "workers.cores can change, up to a core for each share: for more, start the instance anew"
            }
            false => "workers.cores can change: fewer cores run the same shares",
        };
        problems.push(
            Problem::new("workers.shares", message).valid(format!("{shares}, or no such key")).help(help),
        );
    }
    let changed = new.ports.iter().filter(|port| old.port(&port.name).is_some_and(|before| before != *port));
    problems.extend(changed.map(|port| {
        problem(format!("ports.{}", port.name))
            .valid("the port as it is open, or no such port")
            .help("remove it by one change and add it by the next, or add it under another name")
    }));
    let names: BTreeSet<&str> = old.stages().chain(new.stages()).map(|(name, _)| name).collect();
    for name in names {
        let core = |config: &Config| config.stages().find(|(of, _)| *of == name).map(|(_, core)| core);
        if core(old) != core(new) {
            let key = format!("functions.{name}.core");
            let valid = match core(old) {
                Some(core) => format!("{core}, and `{name}` in its chain"),
                None => "no such key".to_owned(),
            };
            problems.push(problem(key).valid(valid).help(START_ANEW));
        }
    }
    problems.extend(renamed(old, new));
    if old.workers.owners() > 1 {
        problems.extend(translations(old, new));
    }
    let capacity = |config: &Config, name: &str| match config.function(name).map(|found| &found.kind) {
        Some(FunctionKind::Router(router)) => Some(router.neighbour_capacity),
        _ => None,
    };
    for function in &new.functions {
        let (before, after) = (capacity(old, &function.name), capacity(new, &function.name));
        if let (Some(before), Some(after)) = (before, after)
            && before != after
        {
            let key = format!("functions.{}.neighbour_capacity", function.name);
            problems.push(problem(key).valid(before.to_string()).help(START_ANEW));
        }
    }
    problems
}

/// Ports of other names on interfaces whose ports go with this change: what is new is opened before anything is closed, so that nothing
/// has changed if that fails.
fn renamed(old: &Config, new: &Config) -> Vec<Problem> {
    let added = new.ports.iter().filter(|port| old.port(&port.name).is_none());
    let problem = |port: &Port| {
        let (key, interface) = port.kind.interface()?;
        let has = |before: &&Port| before.kind.interface().is_some_and(|(_, name)| name == interface);
        let before = old.ports.iter().find(has)?;
        let message =
            format!("`{interface}` is open as the port `{}`, which keeps its name and kind", before.name);
        let help = format!(
            "keep its name; or take `{}` out by one change and add `{}` by the next",
            before.name, port.name
        );
        let valid = "an interface that no port of the running instance has";
        Some(Problem::new(format!("ports.{}.{key}", port.name), message).valid(valid).help(help))
    };
    added.filter_map(problem).collect()
}

/// Where connections are divided, a NAT in a chain decides how: it neither comes nor goes. A chain that is built anew has no
/// connections to move.
fn translations(old: &Config, new: &Config) -> Vec<Problem> {
    let translates = |config: &Config, chain: &Chain| {
        let kinds = chain.functions.iter().filter_map(|name| config.function(name));
        kinds.into_iter().any(|function| matches!(function.kind, FunctionKind::Nat(_)))
    };
    let changed = new.chains.iter().filter(|chain| {
        let before = predecessor(old, new, chain);
        before.is_some_and(|before| translates(old, before) != translates(new, chain))
    });
    let problem = |chain: &Chain| {
        let message = "a NAT can't come or go while several shares run: connections would belong to others";
        Problem::new(format!("chains.{}.functions", chain.name), message).help(START_ANEW)
    };
    changed.map(problem).collect()
}
