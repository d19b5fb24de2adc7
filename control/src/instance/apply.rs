//! `apply`: from the configuration in force to another, whole or not at all.
//!
//! Everything that can fail happens first, away from the packet path: the check, new ports, new rules, plans and chains. Then one
//! command on the worker brings all of it into force between two bursts (R8).

use std::collections::HashMap;
use std::path::Path;
use std::sync::PoisonError;

use millrace_dataplane::port::PortId;
use millrace_nf::chain::Chain;
use millrace_nf::firewall::{Change, Firewall, Policy};
use millrace_nf::nat::{Nat, NatConfig};
use millrace_nf::router::{Router, RouterConfig};
use millrace_nf::zone::ZoneId;

use super::control::{Control, Running};
use super::functions::{self, Context, PortFacts, firewall, nat, router};
use super::numbers::PortNumbers;
use super::ports::OpenPort;
use super::{InstanceError, NfWorker, memory};
use crate::config::rule_set::action;
use crate::config::{self, Config, FunctionKind, Host};

/// A change of one function that stays.
enum FunctionChange {
    Firewall(Box<Change>),
    Nat(NatConfig),
    Router(Box<RouterConfig>),
}

/// All that one command brings into force.
#[derive(Default)]
struct Plan {
    opened: Vec<OpenPort>,
    closed: Vec<(String, PortId)>,
    changes: Vec<(String, String, FunctionChange)>,
    rebuilt: Vec<Chain>,
    removed_chains: Vec<String>,
    attachments: Vec<(PortId, String, ZoneId)>,
    detached: Vec<PortId>,
    timeouts: Option<millrace_dataplane::flow::session::Timeouts>,
    /// What the worker was told to do, for people.
    said: Vec<String>,
}

impl Control {
    /// Changes the instance to the configuration in `text`, a file's content at `path`. Says what it did.
    ///
    /// # Errors
    /// All that is wrong with it, or that can't be changed while the instance runs; nothing has changed then.
    pub fn apply(&self, path: &Path, text: &str) -> Result<Vec<String>, InstanceError> {
        let checked = config::parse(path, text, &Host::probe().running_now());
        let Some(new) = checked.config else {
            return Err(InstanceError::Invalid(checked.report.to_string()));
        };
        // One change at a time. A change that panicked left nothing half done in `Running`: it is replaced at the end.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.config == new {
            return Ok(vec!["nothing has changed".to_owned()]);
        }
        check_fixed(&running.config, &new)?;
        let (numbers, facts, mut plan) = self.plan_ports(&running, &new)?;
        let policies = self.plan_chains(&running, &new, &facts, &mut plan)?;
        self.check_nats(&plan)?;
        if running.config.sessions.timeouts != new.sessions.timeouts {
            plan.timeouts = Some(memory::timeouts(&new.sessions.timeouts));
            plan.said.push("sessions.timeouts: changed".to_owned());
        }
        let said = self.worker.call(move |worker| commit(worker, plan))?;
        *running = Running { config: new, numbers, facts, policies };
        Ok(said)
    }

    fn plan_ports(
        &self,
        running: &Running,
        new: &Config,
    ) -> Result<(PortNumbers, Vec<PortFacts>, Plan), InstanceError> {
        let mut plan = Plan::default();
        let mut numbers = running.numbers.clone();
        for port in running.config.ports.iter().filter(|port| new.port(&port.name).is_none()) {
            if let Some(id) = numbers.get(&port.name) {
                plan.said.push(format!("ports.{}: removed", port.name));
                plan.closed.push((port.name.clone(), id));
            }
        }
        // Numbers of ports that go are not used again at once: their last packets are still on the way.
        let mut facts: Vec<PortFacts> = running.facts.clone();
        for port in new.ports.iter().filter(|port| running.config.port(&port.name).is_none()) {
            let limit = || InstanceError::port(&port.name, "a worker serves no more ports");
            let id = numbers.add(&port.name).ok_or_else(limit)?;
            let open = self.opener.open(port, id)?;
            facts.push(open.facts());
            plan.said.push(format!("ports.{}: added", port.name));
            plan.opened.push(open);
        }
        for (name, _) in &plan.closed {
            numbers.remove(name);
            facts.retain(|port| port.name != *name);
        }
        Ok((numbers, facts, plan))
    }

    fn plan_chains(
        &self,
        running: &Running,
        new: &Config,
        facts: &[PortFacts],
        plan: &mut Plan,
    ) -> Result<HashMap<String, Policy>, InstanceError> {
        let mut policies = HashMap::new();
        let parts = memory::flow_config(&running.config).sessions.parts;
        for chain in &new.chains {
            let (arena, logs) = (&self.arena, Some(&self.logs));
            let context = Context { config: new, chain, ports: facts, arena, seed: self.seed, logs };
            let old = running.config.chains.iter().find(|old| old.name == chain.name);
            let stays = old.is_some_and(|old| same_shape(&running.config, old, new, chain));
            if !stays {
                let built = functions::build_chain(&context)?;
                if built.parts() > parts {
                    let key = format!("chains.{}.functions", chain.name);
                    let message =
                        format!("sessions have room for {parts} words of functions; start anew for more");
                    return Err(InstanceError::unsupported(key, message));
                }
                plan.rebuilt.push(built);
                let how = if old.is_some() { "built anew; its sessions end" } else { "added" };
                plan.said.push(format!("chains.{}: {how}", chain.name));
            }
            for name in &chain.functions {
                plan_function(running, &context, name, stays, plan, &mut policies)?;
            }
            for port in chain.ports() {
                if let (Some(zone), Some(facts)) = (context.zone_of(port), context.port(port)) {
                    plan.attachments.push((facts.id, chain.name.clone(), zone));
                }
            }
        }
        let gone = running.config.chains.iter().filter(|old| !new.chains.iter().any(|c| c.name == old.name));
        for chain in gone {
            plan.said.push(format!("chains.{}: removed; its sessions end", chain.name));
            plan.removed_chains.push(chain.name.clone());
        }
        let attached = |port: &&PortFacts| !plan.attachments.iter().any(|(id, ..)| *id == port.id);
        plan.detached = facts.iter().filter(attached).map(|port| port.id).collect();
        Ok(policies)
    }

    /// A NAT takes a change only when the one before is through.
    fn check_nats(&self, plan: &Plan) -> Result<(), InstanceError> {
        let nats = plan.changes.iter().filter(|(.., change)| matches!(change, FunctionChange::Nat(_)));
        let nats: Vec<_> = nats.map(|(chain, name, _)| (chain.clone(), name.clone())).collect();
        let busy = self.worker.call(move |worker: &mut NfWorker| {
            nats.into_iter().find(|(chain, name)| {
                let chain = worker.engine.slow.chain_named(chain);
                chain.and_then(|chain| chain.function::<Nat>(name)).is_some_and(|nat| nat.is_changing())
            })
        })?;
        match busy {
            Some((_, name)) => Err(InstanceError::function(
                &name,
                "an earlier change is still under way; try again in a moment",
            )),
            None => Ok(()),
        }
    }
}

/// Refuses changes of what is laid down when the instance starts.
fn check_fixed(old: &Config, new: &Config) -> Result<(), InstanceError> {
    let fixed = [
        ("memory", old.memory == new.memory),
        ("workers", old.workers == new.workers),
        ("sessions.capacity", old.sessions.capacity == new.sessions.capacity),
        ("sessions.flow_cache_entries", old.sessions.flow_cache_entries == new.sessions.flow_cache_entries),
        ("checksums.verify", old.verify_checksums == new.verify_checksums),
        ("management", old.management == new.management),
    ];
    let mut keys: Vec<String> =
        fixed.iter().filter(|(_, same)| !same).map(|(key, _)| (*key).to_owned()).collect();
    let changed = new.ports.iter().filter(|port| old.port(&port.name).is_some_and(|before| before != *port));
    let ports: Vec<String> = changed.map(|port| format!("ports.{}", port.name)).collect();
    let message = if ports.is_empty() {
        "can't be changed while the instance runs: end it and start it with the new configuration"
    } else {
        "can't be changed while the instance runs (a port can be removed and added under another name)"
    };
    keys.extend(ports);
    if keys.is_empty() {
        return Ok(());
    }
    Err(InstanceError::unsupported(keys.join(", "), message))
}

/// True if a chain keeps its functions and zones, so that its sessions can go on.
fn same_shape(old: &Config, before: &config::Chain, new: &Config, after: &config::Chain) -> bool {
    let kinds = |config: &Config, chain: &config::Chain| -> Vec<_> {
        chain
            .functions
            .iter()
            .map(|name| config.function(name).map(|function| function.kind.name()))
            .collect()
    };
    let zones =
        |chain: &config::Chain| -> Vec<String> { chain.zones.iter().map(|zone| zone.name.clone()).collect() };
    before.functions == after.functions
        && kinds(old, before) == kinds(new, after)
        && zones(before) == zones(after)
}

fn plan_function(
    running: &Running,
    context: &Context<'_>,
    name: &str,
    stays: bool,
    plan: &mut Plan,
    policies: &mut HashMap<String, Policy>,
) -> Result<(), InstanceError> {
    let Some(function) = context.config.function(name) else { return Ok(()) };
    let change = |change: FunctionChange, plan: &mut Plan| {
        plan.said.push(format!("functions.{name}: changed"));
        plan.changes.push((context.chain.name.clone(), name.to_owned(), change));
    };
    let same = running.config.function(name) == Some(function);
    match &function.kind {
        FunctionKind::Firewall(settings) => {
            let policy = match running.policies.get(name).filter(|_| stays) {
                Some(old) if same => old.clone(),
                Some(old) => {
                    let rules = firewall::rules(context, name, settings)?;
                    let between = Change::between(old, &rules, action(settings.default))
                        .map_err(|error| InstanceError::function(name, error.to_string()))?;
                    let policy = between.policy().clone();
                    change(FunctionChange::Firewall(Box::new(between)), plan);
                    policy
                }
                None => firewall::policy(context, name, settings)?,
            };
            policies.insert(name.to_owned(), policy);
        }
        FunctionKind::Nat(settings) => {
            let new = nat::config(context, name, settings)?;
            if stays && !same {
                change(FunctionChange::Nat(new), plan);
            }
        }
        FunctionKind::Router(settings) => {
            // Its interfaces also depend on ports and zones, and what it answers for on the NAT.
            router::build(context, name, settings)?;
            let old_chain = running.config.chain_of(name);
            let old = old_chain.map(|chain| Context {
                config: &running.config,
                chain,
                ports: &running.facts,
                arena: context.arena,
                seed: context.seed,
                logs: None,
            });
            let old =
                old.zip(running.config.function(name)).and_then(|(old, function)| match &function.kind {
                    FunctionKind::Router(settings) => Some(router::config(&old, settings)),
                    _ => None,
                });
            let new = router::config(context, settings);
            if stays && old.as_ref() != Some(&new) {
                change(FunctionChange::Router(Box::new(new)), plan);
            }
        }
    }
    Ok(())
}

/// Brings the plan into force. Nothing in here can fail.
fn commit(worker: &mut NfWorker, plan: Plan) -> Vec<String> {
    let now = worker.now();
    let replaces = !plan.rebuilt.is_empty() || !plan.removed_chains.is_empty();
    let rebuilt = plan.rebuilt.iter().map(|chain| chain.name().to_owned());
    let ending: Vec<String> = rebuilt.chain(plan.removed_chains).collect();
    end_sessions(worker, &ending);
    for chain in plan.rebuilt {
        worker.engine.slow.insert(chain);
    }
    if replaces {
        worker.engine.state.flush();
        worker.engine.settle();
    }
    for (chain, name, change) in plan.changes {
        let state = &mut worker.engine.state;
        let Some(chain) = worker.engine.slow.chain_named(&chain) else { continue };
        match change {
            FunctionChange::Firewall(change) => {
                if let Some(firewall) = chain.function::<Firewall>(&name) {
                    firewall.apply(*change, &mut state.validity);
                }
            }
            FunctionChange::Nat(config) => {
                // Checked before: no change is under way, and commands run one by one.
                if let Some(Err(error)) = chain.function::<Nat>(&name).map(|nat| nat.reconfigure(config)) {
                    tracing::error!(function = name, ?error, "the NAT kept its configuration");
                }
            }
            FunctionChange::Router(config) => {
                match chain.function::<Router>(&name).map(|r| r.apply(*config, now)) {
                    Some(Ok(watches)) => watches.into_iter().for_each(|watch| state.validity.change(watch)),
                    // Checked before with the same rules.
                    Some(Err(errors)) => {
                        tracing::error!(function = name, ?errors, "the router kept its configuration");
                    }
                    None => {}
                }
            }
        }
    }
    attach(worker, &plan.attachments, &plan.detached);
    for port in plan.opened {
        worker.add_port(port.id, port.port);
    }
    for (_, id) in plan.closed {
        worker.engine.slow.detach(id);
        worker.remove_port(id);
    }
    if let Some(timeouts) = plan.timeouts {
        worker.engine.state.sessions.set_timeouts(timeouts);
    }
    plan.said
}

/// Chains and zones of ports, and their keys.
fn attach(worker: &mut NfWorker, attachments: &[(PortId, String, ZoneId)], detached: &[PortId]) {
    let slow = &mut worker.engine.slow;
    for (port, chain, zone) in attachments {
        if let Some(at) = slow.chains().iter().position(|found| found.name() == chain) {
            slow.attach(*port, at, *zone);
        }
    }
    detached.iter().for_each(|port| slow.detach(*port));
    slow.declare();
    let ports = attachments.iter().map(|(port, ..)| port).chain(detached);
    ports.for_each(|port| worker.engine.compile_schema(*port));
}

/// Ends the sessions of chains, so that their functions can go.
fn end_sessions(worker: &mut NfWorker, chains: &[String]) {
    let places: Vec<usize> = (worker.engine.slow.chains().iter().enumerate())
        .filter(|(_, chain)| chains.iter().any(|name| name == chain.name()))
        .map(|(at, _)| at)
        .collect();
    if places.is_empty() {
        return;
    }
    let state = &mut worker.engine.state;
    for number in 0..state.sessions.high_water() {
        if let Some(id) = state.sessions.get(number) {
            // The low byte of a domain is the chain's place.
            let place = usize::from(state.sessions.tuples(id)[0].domain & 0xff);
            if places.contains(&place) {
                state.end_session(id);
            }
        }
    }
    worker.engine.settle();
}
