//! What a change consists of: found, checked and built by the thread that asked.

use std::collections::HashMap;

use millrace_dataplane::flow::session::Timeouts;
use millrace_dataplane::port::{Port, PortId};
use millrace_nf::chain::Chain;
use millrace_nf::firewall::{self as nf_firewall, Policy};
use millrace_nf::inspect;
use millrace_nf::nat::NatConfig;
use millrace_nf::placing::PortRule;
use millrace_nf::router::RouterChange;
use millrace_nf::zone::ZoneId;

use super::said::{Change, Said};
use super::{differences, moves};
use crate::config::rule_set::action;
use crate::config::{self, Config, FunctionKind, Problem};
use crate::instance::control::{Control, Running};
use crate::instance::functions::{self, Context, Others, Part, PortFacts, firewall, nat, router};
use crate::instance::hairpins;
use crate::instance::memory;
use crate::instance::numbers::PortNumbers;
use crate::instance::ports::OpenPort;
use crate::instance::sharing::{Shares, part_of, rules};

/// A change of one function that stays.
pub(super) enum FunctionChange {
    Firewall(Box<nf_firewall::Change>),
    Nat(Box<NatConfig>),
    Inspect(inspect::Change),
    Router(Box<RouterChange>),
}

/// A chain that gets other functions or zones while those that stay go on.
pub(super) struct Reshape {
    /// Its name before.
    pub(super) old: String,
    /// Functions that stay.
    pub(super) kept: Vec<String>,
    pub(super) chain: Chain,
}

/// All that one command brings into force.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) opened: Vec<(PortId, Box<dyn Port>)>,
    pub(super) closed: Vec<PortId>,
    pub(super) removed: Vec<String>,
    pub(super) reshaped: Vec<Reshape>,
    pub(super) added: Vec<Chain>,
    /// By chain and function.
    pub(super) changes: Vec<(String, String, FunctionChange)>,
    pub(super) attachments: Vec<(PortId, String, ZoneId)>,
    /// Ports of hairpins, with their chains.
    pub(super) turned: Vec<(PortId, String)>,
    pub(super) detached: Vec<PortId>,
    pub(super) timeouts: Option<Timeouts>,
}

/// A plan, and what will be known when it is in force.
pub(super) struct Planned {
    /// By worker.
    pub(super) plans: Vec<Plan>,
    /// By which packets find their worker, where there are several.
    pub(super) rules: Option<Vec<PortRule>>,
    /// Of packet functions with cores of their own, by name.
    pub(super) stages: Vec<(String, inspect::Change)>,
    /// New ports of hairpins, as each worker has them.
    hairpins: Vec<(PortId, Shares)>,
    /// That of the worker at hand.
    plan: Plan,
    pub(super) numbers: PortNumbers,
    pub(super) facts: Vec<PortFacts>,
    pub(super) policies: HashMap<String, Policy>,
    pub(super) said: Said,
}

/// Plans the change from what runs to `new`. `facts` are what is known of the open ports from now on.
///
/// # Errors
/// Everything that is wrong. Ports that were opened are closed again.
pub(super) fn make(
    control: &Control,
    running: &Running,
    new: &Config,
    facts: Vec<PortFacts>,
) -> Result<Planned, Vec<Problem>> {
    let mut planned = Planned {
        plans: Vec::new(),
        rules: None,
        stages: Vec::new(),
        hairpins: Vec::new(),
        plan: Plan::default(),
        numbers: running.numbers.clone(),
        facts,
        policies: HashMap::new(),
        said: Said::default(),
    };
    let opened = plan_ports(control, running, new, &mut planned)?;
    let closed = std::mem::take(&mut planned.plan.closed);
    let facts = planned.facts.clone();
    let timeouts = (running.config.sessions.timeouts != new.sessions.timeouts)
        .then(|| memory::timeouts(&new.sessions.timeouts));
    // What is said of the first worker that owns connections is true of all.
    let mut said = None;
    for worker in 0..control.workers.len() {
        planned.plan.closed.clone_from(&closed);
        planned.plan.timeouts = timeouts;
        if let Some(part) = part_of(new, worker) {
            let mut planner = Planner {
                control,
                running,
                new,
                facts: &facts,
                part,
                planned: &mut planned,
                problems: Vec::new(),
            };
            planner.chains();
            let problems = std::mem::take(&mut planner.problems);
            if !problems.is_empty() {
                return Err(problems);
            }
            said.get_or_insert_with(|| planned.said.clone());
        }
        planned.plans.push(std::mem::take(&mut planned.plan));
    }
    planned.said = said.unwrap_or_default();
    if let (Some(_), Some(chain)) = (&control.sharing, new.chains.first()) {
        let Control { arena, seed, logs, .. } = control;
        let (part, logs) = (Part::WHOLE, Some(logs));
        let others = control.sharing.as_ref().map(|sharing| Others { sharing, numbers: &planned.numbers });
        let stages = Some(&control.stages);
        let context =
            Context { config: new, chain, ports: &facts, arena, seed: *seed, logs, part, others, stages };
        planned.rules = Some(rules(&context).map_err(|error| vec![error.problem()])?);
        for chain in new.chains.iter().filter(|_| new.workers.owners() > 1) {
            let Some(old) = predecessor(&running.config, new, chain) else { continue };
            let was = Context { config: &running.config, chain: old, ports: &running.facts, ..context };
            let noted = moves::note(&was, &Context { chain, ..context }, &mut planned.said);
            noted.map_err(|error| vec![error.problem()])?;
        }
    }
    for port in opened {
        let shares = match &control.sharing {
            Some(sharing) => sharing.share(port.id, port.queues),
            None => port.queues,
        };
        planned.plans.iter_mut().zip(shares).for_each(|(plan, share)| plan.opened.push((port.id, share)));
    }
    for (id, shares) in std::mem::take(&mut planned.hairpins) {
        planned.plans.iter_mut().zip(shares).for_each(|(plan, share)| plan.opened.push((id, share)));
    }
    let words = differences::of_host(&running.config.host, &new.host);
    if !words.is_empty() {
        planned.said.note("host", "services", Change::Changed, words);
    }
    if timeouts.is_some() {
        planned.said.note(
            "sessions",
            "timeouts",
            Change::Changed,
            "for running sessions when their timers come up",
        );
    }
    Ok(planned)
}

fn plan_ports(
    control: &Control,
    running: &Running,
    new: &Config,
    planned: &mut Planned,
) -> Result<Vec<OpenPort>, Vec<Problem>> {
    let (mut problems, mut opened) = (Vec::new(), Vec::new());
    // Numbers of ports that go are not used again at once: their last packets are still on the way.
    for port in new.ports.iter().filter(|port| running.config.port(&port.name).is_none()) {
        let Some(id) = planned.numbers.add(&port.name) else {
            let message = "a worker serves no more ports";
            problems.push(Problem::new(format!("ports.{}", port.name), message));
            continue;
        };
        match control.opener.open(port, id) {
            Ok(open) => {
                planned.facts.push(open.facts());
                planned.said.note("ports", &port.name, Change::Added, device(port));
                opened.push(open);
            }
            Err(error) => problems.push(error.problem()),
        }
    }
    plan_hairpins(control, running, new, planned, &mut problems);
    for port in running.config.ports.iter().filter(|port| new.port(&port.name).is_none()) {
        if let Some(id) = planned.numbers.remove(&port.name) {
            planned.said.note("ports", &port.name, Change::Removed, device(port));
            planned.facts.retain(|facts| facts.name != port.name);
            planned.plan.closed.push(id);
        }
    }
    if problems.is_empty() { Ok(opened) } else { Err(problems) }
}

/// The chain of `running` that `chain` of `new` goes on from: the one of its name, or one of another name that is no more and ended
/// with the same function. Its zones must have kept their numbers, for sessions and rules know them by these.
pub(super) fn predecessor<'a>(
    running: &'a Config,
    new: &Config,
    chain: &config::Chain,
) -> Option<&'a config::Chain> {
    let by_name = running.chains.iter().find(|old| old.name == chain.name);
    let renamed = || {
        let gone = |old: &&config::Chain| !new.chains.iter().any(|new| new.name == old.name);
        running.chains.iter().filter(gone).find(|old| old.functions.last() == chain.functions.last())
    };
    by_name
        .or_else(renamed)
        .filter(|old| old.zones.iter().zip(&chain.zones).all(|(before, after)| before.name == after.name))
}

/// The kind of a port with what it leads to.
fn device(port: &config::Port) -> String {
    let kind = port.kind.name();
    port.kind.interface().map_or_else(|| kind.to_owned(), |(_, interface)| format!("{kind} {interface}"))
}

/// The ports of hairpins that come and go with NATs and their `hairpinning`.
fn plan_hairpins(
    control: &Control,
    running: &Running,
    new: &Config,
    planned: &mut Planned,
    problems: &mut Vec<Problem>,
) {
    let names = |config| hairpins::ports(config).map(|(_, name)| name).collect::<Vec<_>>();
    let (before, after) = (names(&running.config), names(new));
    let Some(sharing) = &control.sharing else { return };
    for name in after.iter().filter(|name| !before.contains(name)) {
        match planned.numbers.add(name) {
            Some(id) => {
                planned.hairpins.push((id, sharing.share(id, hairpins::open(new, name))));
            }
            None => {
                problems.push(Problem::new("chains", "a worker serves no more ports, and a NAT needs one"));
            }
        }
    }
    let gone = before.iter().filter(|name| !after.contains(name));
    planned.plan.closed.extend(gone.filter_map(|name| planned.numbers.remove(name)).collect::<Vec<_>>());
}

struct Planner<'a> {
    control: &'a Control,
    running: &'a Running,
    new: &'a Config,
    facts: &'a [PortFacts],
    part: Part,
    planned: &'a mut Planned,
    problems: Vec<Problem>,
}

impl<'a> Planner<'a> {
    fn chains(&mut self) {
        self.moved_ports();
        for chain in &self.new.chains {
            self.chain(chain);
        }
        for old in &self.running.config.chains {
            if !self
                .new
                .chains
                .iter()
                .any(|chain| self.predecessor(chain).is_some_and(|it| it.name == old.name))
            {
                self.planned.plan.removed.push(old.name.clone());
                if self.new.chains.iter().all(|chain| chain.name != old.name) {
                    self.planned.said.note("chains", &old.name, Change::Removed, "its sessions end");
                }
            }
        }
        let plan = &mut self.planned.plan;
        let led = |port: &&PortFacts| !plan.attachments.iter().any(|(id, ..)| *id == port.id);
        plan.detached =
            self.facts.iter().filter(led).map(|port| port.id).chain(plan.closed.iter().copied()).collect();
    }

    fn predecessor(&self, chain: &config::Chain) -> Option<&'a config::Chain> {
        predecessor(&self.running.config, self.new, chain)
    }

    /// Notes the ports that stay and lead elsewhere.
    fn moved_ports(&mut self) {
        for port in self.new.ports.iter().filter(|port| self.running.config.port(&port.name).is_some()) {
            let old = &self.running.config;
            let zone = |chain: &config::Chain| chain.zone_of(&port.name).map(|zone| zone.name.clone());
            let before = old.chain_of_port(&port.name).map(|chain| (chain.name.clone(), zone(chain)));
            let after = self.new.chain_of_port(&port.name);
            // A chain that only has another name leads where it led.
            let name = |chain: &config::Chain| {
                self.predecessor(chain).map_or_else(|| chain.name.clone(), |old| old.name.clone())
            };
            if before == after.map(|chain| (name(chain), zone(chain))) {
                continue;
            }
            let show = |place: Option<(String, Option<String>)>| match place {
                Some((chain, zone)) => format!("{chain} {}", zone.unwrap_or_default()),
                None => "no chain".to_owned(),
            };
            let (before, after) = (show(before), show(after.map(|chain| (chain.name.clone(), zone(chain)))));
            let detail = format!("from {before} to {after}");
            self.planned.said.note("ports", &port.name, Change::Changed, detail);
        }
    }

    fn others<'b>(&self, numbers: &'b PortNumbers) -> Option<Others<'b>>
    where
        'a: 'b,
    {
        self.control.sharing.as_ref().map(|sharing| Others { sharing, numbers })
    }

    fn chain(&mut self, chain: &'a config::Chain) {
        let Control { arena, seed, logs, .. } = self.control;
        // Ports have their numbers since they were planned.
        let numbers = self.planned.numbers.clone();
        let context = Context {
            config: self.new,
            chain,
            ports: self.facts,
            arena,
            seed: *seed,
            logs: Some(logs),
            part: self.part,
            others: self.others(&numbers),
            stages: Some(&self.control.stages),
        };
        let old = self.predecessor(chain);
        let kind = |config: &Config, name: &str| config.function(name).map(|function| function.kind.name());
        let kept: Vec<String> = match old {
            Some(old) => (chain.functions.iter())
                .filter(|name| old.functions.contains(name))
                .filter(|name| kind(&self.running.config, name) == kind(self.new, name))
                .cloned()
                .collect(),
            None => Vec::new(),
        };
        for name in &chain.functions {
            match old.filter(|_| kept.contains(name)) {
                Some(old) => self.change(&context, old, name),
                None => self.fresh(&context, name),
            }
        }
        self.shape(&context, old, kept);
        let led = context.attached().map(|(port, zone)| (port, chain.name.clone(), zone));
        self.planned.plan.attachments.extend(led);
        if let Some(port) = hairpins::nat_of(self.new, chain).and_then(|nat| context.hairpin_port(nat)) {
            self.planned.plan.turned.push((port, chain.name.clone()));
        }
    }

    /// Builds the chain anew, unless all of it stays.
    fn shape(&mut self, context: &Context<'_>, old: Option<&config::Chain>, kept: Vec<String>) {
        let chain = context.chain;
        let zones =
            |chain: &config::Chain| chain.zones.iter().map(|zone| zone.name.clone()).collect::<Vec<_>>();
        let stays = old.is_some_and(|old| {
            old.name == chain.name
                && kept == old.functions
                && kept == chain.functions
                && zones(old) == zones(chain)
        });
        if stays || !self.problems.is_empty() {
            return;
        }
        if let Some(problem) = old.and_then(|old| self.parted(old, chain, &kept)) {
            return self.problems.push(problem);
        }
        let built = match functions::build_chain(context, &kept) {
            Ok(built) => built,
            Err(error) => return self.problems.push(error.problem()),
        };
        let said = &mut self.planned.said;
        match old {
            Some(old) => {
                let (came, went) = (difference(&chain.functions, &kept), difference(&old.functions, &kept));
                let mut words: Vec<_> = came.map(|name| format!("+{name}")).collect();
                words.extend(went.map(|name| format!("-{name}")));
                let mut detail = Vec::new();
                if old.name != chain.name {
                    detail.push(format!("was {}", old.name));
                }
                if !words.is_empty() {
                    detail.push(format!("functions {}", words.join(" ")));
                } else if old.functions != chain.functions {
                    detail.push("order of functions".to_owned());
                }
                if zones(old) != zones(chain) {
                    detail.push(format!("zones {}", zones(chain).join(" ")));
                }
                said.note("chains", &chain.name, Change::Changed, detail.join(", "));
                self.planned.plan.reshaped.push(Reshape { old: old.name.clone(), kept, chain: built });
            }
            None => {
                let before = self.running.config.chains.iter().any(|old| old.name == chain.name);
                let (change, detail) = match before {
                    true => (Change::Changed, "its zones are others: built anew, its sessions end"),
                    false => (Change::Added, ""),
                };
                said.note("chains", &chain.name, change, detail);
                self.planned.plan.added.push(built);
            }
        }
    }

    /// Sessions belong to a segment. Functions that share theirs can't be parted while the instance runs, nor can those that have
    /// their own be brought together: connections would be cut.
    fn parted(&self, old: &config::Chain, new: &config::Chain, kept: &[String]) -> Option<Problem> {
        let segment_of = |config: &Config, chain: &config::Chain, function: &String| {
            let before = chain.functions.iter().take_while(|name| *name != function);
            before.filter(|name| config.function(name).is_some_and(|it| it.kind.splits())).count()
        };
        let keeps = |name: &&String| {
            kept.contains(name) && self.new.function(name).is_some_and(|it| it.kind.keeps_connections())
        };
        let places: Vec<_> = (new.functions.iter().filter(keeps))
            .map(|name| (name, segment_of(&self.running.config, old, name), segment_of(self.new, new, name)))
            .collect();
        let mut pairs = places.iter().flat_map(|one| places.iter().map(move |other| (one, other)));
        let ((one, ..), (other, ..)) = pairs.find(|((_, a, b), (_, c, d))| (a == c) != (b == d))?;
        let message = format!(
            "a function that works on payloads can't come or go between `{one}` and `{other}` while the instance runs: \
             their connections would be cut"
        );
        let help = "put it in front of both or behind both, or end the instance and start it with the new configuration";
        Some(Problem::new(format!("chains.{}.functions", new.name), message).help(help))
    }

    /// A function that is new.
    fn fresh(&mut self, context: &Context<'_>, name: &str) {
        if let Some(FunctionKind::Firewall(settings)) = context.config.function(name).map(|found| &found.kind)
        {
            match firewall::policy(context, name, settings) {
                Ok(policy) => _ = self.planned.policies.insert(name.to_owned(), policy),
                Err(error) => self.problems.push(error.problem()),
            }
        }
    }

    /// A function that stays, with what differs.
    fn change(&mut self, context: &Context<'_>, old: &config::Chain, name: &str) {
        let running = &self.running.config;
        let (Some(before), Some(after)) = (running.function(name), self.new.function(name)) else { return };
        let others = self.others(&self.running.numbers);
        let was = Context {
            config: running,
            chain: old,
            ports: &self.running.facts,
            logs: None,
            others,
            ..*context
        };
        let change = match (&before.kind, &after.kind) {
            (FunctionKind::Firewall(old), FunctionKind::Firewall(new)) => {
                self.firewall(context, name, new, old == new)
            }
            (FunctionKind::Nat(old), FunctionKind::Nat(new)) => nat_change(&was, context, name, old, new),
            (FunctionKind::Inspect(old), FunctionKind::Inspect(new)) => {
                functions::inspect::change(name, old, new)
                    .map(|change| change.map(FunctionChange::Inspect))
                    .map_err(|error| error.problem())
            }
            (FunctionKind::Router(old), FunctionKind::Router(new)) => {
                // Its interfaces also depend on ports and zones, and what it answers for on the NAT.
                router::change(&was, context, name, old, new)
                    .map(|change| change.map(|change| FunctionChange::Router(Box::new(change))))
                    .map_err(|error| error.problem())
            }
            _ if before == after => Ok(None),
            _ => Err(Problem::new(
                format!("functions.{name}"),
                "a function of this kind can't be changed while the instance runs",
            )
            .help("give it another name: then it begins anew, and the rest of its chain goes on")),
        };
        match change {
            Ok(None) => {}
            Ok(Some(change)) => {
                let words = differences::between(&before.kind, &after.kind);
                let words =
                    if words.is_empty() { "what follows from ports and chains".to_owned() } else { words };
                self.planned.said.note(after.kind.name(), name, Change::Changed, words);
                let chain = context.chain.name.clone();
                self.planned.plan.changes.push((chain, name.to_owned(), change));
                self.change_stage(name, &before.kind, &after.kind);
            }
            Err(problem) => self.problems.push(problem),
        }
    }

    /// A function on a core of its own changes once, beside its likenesses with the shares.
    fn change_stage(&mut self, name: &str, before: &FunctionKind, after: &FunctionKind) {
        let (FunctionKind::Inspect(old), FunctionKind::Inspect(new)) = (before, after) else { return };
        if self.part.at != 0 || !self.control.stages.has(name) {
            return;
        }
        match functions::inspect::change(name, old, new) {
            Ok(change) => self.planned.stages.extend(change.map(|change| (name.to_owned(), change))),
            Err(error) => self.problems.push(error.problem()),
        }
    }

    fn firewall(
        &mut self,
        context: &Context<'_>,
        name: &str,
        settings: &config::firewall::Firewall,
        same: bool,
    ) -> Result<Option<FunctionChange>, Problem> {
        let Some(old) = self.running.policies.get(name) else { return Ok(None) };
        if same {
            self.planned.policies.insert(name.to_owned(), old.clone());
            return Ok(None);
        }
        let key = format!("functions.{name}");
        let rules = firewall::rules(context, name, settings).map_err(|error| error.problem())?;
        let between = nf_firewall::Change::between(old, &rules, action(settings.default))
            .map_err(|error| Problem::new(key, error.to_string()))?;
        self.planned.policies.insert(name.to_owned(), between.policy().clone());
        Ok(Some(FunctionChange::Firewall(Box::new(between))))
    }
}

fn difference<'a>(all: &'a [String], kept: &'a [String]) -> impl Iterator<Item = &'a String> {
    all.iter().filter(|name| !kept.contains(name))
}

fn nat_change(
    was: &Context<'_>,
    context: &Context<'_>,
    name: &str,
    old: &config::nat::Nat,
    new: &config::nat::Nat,
) -> Result<Option<FunctionChange>, Problem> {
    let build = |context: &Context<'_>, settings| {
        nat::config(context, name, settings).map_err(|error| error.problem())
    };
    let (before, after) = (build(was, old)?, build(context, new)?);
    // Also the MTU of what is outside is in it, and the number of that zone.
    Ok((before != after).then_some(FunctionChange::Nat(Box::new(after))))
}
