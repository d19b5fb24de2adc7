//! What several workers share: ports, whose queues they poll, and the rules by which packets find their owner.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use millrace_dataplane::flow::hash::KeyedHash;
use millrace_dataplane::handoff::{Datagram, Member, Place, Placed, Queue, Told, Waker, WorkerId, share};
use millrace_dataplane::port::{Port, PortId};
use millrace_dataplane::time::Time;
use millrace_nf::nat::Hairpins;
use millrace_nf::placing::{Owners, Placing, PortRule, Translation};

use super::InstanceError;
use super::functions::{self, Context, Part};
use crate::config::{Config, FunctionKind};

/// The workers of an instance, if there are several, and how packets are shared out among them.
#[derive(Debug)]
pub(crate) struct Sharing {
    members: Vec<Member>,
    owners: Owners,
    hash: KeyedHash,
    rules: Arc<Published>,
}

/// The rules in force, by port. The pollers look at the version for each packet, and take the lock when it has changed.
#[derive(Debug, Default)]
struct Published {
    version: AtomicU64,
    rules: Mutex<Rules>,
}

#[derive(Debug, Default)]
struct Rules {
    in_force: Vec<PortRule>,
    /// Those before, for as long as a poller has them: nothing is freed where packets wait for it.
    before: Vec<Arc<Translation>>,
}

impl Published {
    fn rule_of(&self, port: PortId) -> PortRule {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let known = rules.in_force.iter().find(|rule| rule.port == port);
        known.cloned().unwrap_or(PortRule { port, zone: None, translation: None })
    }

    fn replace(&self, with: Vec<PortRule>) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut rules.in_force, with);
        for translation in old.into_iter().filter_map(|rule| rule.translation) {
            if !rules.before.iter().any(|known| Arc::ptr_eq(known, &translation)) {
                rules.before.push(translation);
            }
        }
        let (kept, free) = rules.before.drain(..).partition(|old| Arc::strong_count(old) > 1);
        rules.before = kept;
        drop(rules);
        self.version.fetch_add(1, Ordering::Release);
        drop::<Vec<_>>(free);
    }
}

/// Places a port's packets by the rules that were published last.
struct ByRules {
    port: PortId,
    placing: Placing,
    rules: Arc<Published>,
    seen: u64,
}

impl Place for ByRules {
    fn place(&mut self, frame: &[u8], now: Time) -> Placed {
        let version = self.rules.version.load(Ordering::Acquire);
        if version != self.seen {
            self.seen = version;
            self.placing.set_rule(self.rules.rule_of(self.port));
        }
        self.placing.place(frame, now)
    }

    fn datagram(&self) -> Datagram {
        self.placing.datagram()
    }

    fn told(&self) -> Told {
        self.placing.told()
    }

    fn learn(&mut self, told: Told, now: Time) {
        self.placing.learn(told, now);
    }
}

/// A port as each worker has it, in the order of their numbers.
pub(crate) type Shares = Vec<Box<dyn Port>>;

impl Sharing {
    /// Of an instance as configured; none if it has one worker.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub(crate) fn of(config: &Config, seed: Option<u64>) -> Result<Option<Self>, InstanceError> {
        let workers = config.workers.count();
        if workers == 1 {
            return Ok(None);
        }
        let first = config.workers.first_owner();
        let member = |worker: usize| {
            Ok(Member { worker: WorkerId(worker as u8), is_owner: worker >= first, waker: new_waker()? })
        };
        Ok(Some(Self {
            members: (0..workers).map(member).collect::<Result<_, InstanceError>>()?,
            owners: Owners { first: WorkerId(first as u8), count: (workers - first) as u8 },
            hash: seed.map_or_else(KeyedHash::random, KeyedHash::seeded),
            rules: Arc::default(),
        }))
    }

    /// How a worker is woken.
    pub(crate) fn waker(&self, worker: usize) -> Option<Waker> {
        self.members.get(worker).map(|member| member.waker.clone())
    }

    /// The part of each worker in a port with these queues, of which the first workers poll one each.
    pub(crate) fn share(&self, id: PortId, queues: Vec<Box<dyn Port>>) -> Shares {
        let queue = |device| {
            let rules = Arc::clone(&self.rules);
            // Read before the rule is, so that a change in between is seen by the next packet.
            let seen = rules.version.load(Ordering::Acquire);
            let placing = Placing::new(rules.rule_of(id), self.owners, self.hash.clone());
            Queue { device, place: Box::new(ByRules { port: id, placing, rules, seen }) }
        };
        let parts = share(queues.into_iter().map(queue).collect(), &self.members);
        parts.into_iter().map(|part| Box::new(part) as Box<dyn Port>).collect()
    }

    /// What the NAT of a part of the connections knows of the others, with the port that leads to them.
    pub(crate) fn hairpins(&self, part: u8, port: PortId) -> Hairpins {
        let (owners, hash) = (self.owners, self.hash.clone());
        Hairpins { owners, hash, worker: WorkerId(owners.first.0 + part), port }
    }

    /// Packets are placed by these rules from now on.
    pub(crate) fn publish(&self, rules: Vec<PortRule>) {
        self.rules.replace(rules);
    }

    /// The worker that would get a frame that `port` received now; none if it is not one alone.
    pub(crate) fn owner(&self, port: PortId, frame: &[u8]) -> Option<usize> {
        let rule = self.rules.rule_of(port);
        match Placing::new(rule, self.owners, self.hash.clone()).place(frame, Time(0)) {
            Placed::Owner(worker) | Placed::First(worker) => Some(usize::from(worker.0)),
            Placed::Everyone | Placed::Waits => None,
        }
    }
}

/// What wakes a worker.
///
/// # Errors
/// The system has no descriptors left.
pub(crate) fn new_waker() -> Result<Waker, InstanceError> {
    let action = || "make a worker's waker".to_owned();
    Waker::new().map_err(|source| InstanceError::System { action: action(), source })
}

/// The part of worker `worker` in the functions of `config`; none if it owns no connections.
pub(crate) fn part_of(config: &Config, worker: usize) -> Option<Part> {
    let first = config.workers.first_owner();
    let owners = config.workers.owners();
    worker.checked_sub(first).map(|at| Part { at: at as u8, of: owners as u8 })
}

/// The rules by which packets are placed. The chain of `context` does not matter.
///
/// # Errors
/// What a NAT or a router finds wrong with its settings.
pub(crate) fn rules(context: &Context<'_>) -> Result<Vec<PortRule>, InstanceError> {
    let mut rules = Vec::new();
    for chain in &context.config.chains {
        let translation = translation(&Context { chain, ..*context })?.map(Arc::new);
        let attached = Context { chain, ..*context };
        let rule = |(port, zone)| PortRule { port, zone: Some(zone), translation: translation.clone() };
        rules.extend(attached.attached().map(rule));
        let Some(nat) = super::hairpins::nat_of(context.config, chain) else { continue };
        if let Some(port) = context.hairpin_port(nat) {
            // To who has the external end, as if it came from outside.
            let zone = context.config.function(nat).and_then(|function| match &function.kind {
                FunctionKind::Nat(nat) => Context { chain, ..*context }.zone(&nat.outside),
                _ => None,
            });
            rules.push(PortRule { port, zone, translation });
        }
    }
    Ok(rules)
}

/// What translates in a chain.
///
/// # Errors
/// What its NAT or its router finds wrong with its settings.
pub(crate) fn translation(context: &Context<'_>) -> Result<Option<Translation>, InstanceError> {
    let kinds = || {
        context.chain.functions.iter().filter_map(|name| Some((name, &context.config.function(name)?.kind)))
    };
    let nat = kinds().find_map(|(name, kind)| match kind {
        FunctionKind::Nat(nat) => Some((name, nat)),
        _ => None,
    });
    let router = kinds().find_map(|(name, kind)| match kind {
        FunctionKind::Router(router) => Some((name, router)),
        _ => None,
    });
    let (Some((name, nat)), Some((router_name, router))) = (nat, router) else { return Ok(None) };
    let nat = functions::nat::config(context, name, nat)?;
    let router = functions::router::config(context, router);
    let translation = Translation::new(&nat, &router).map_err(|errors| {
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        InstanceError::function(router_name, errors.join("; "))
    })?;
    Ok(Some(translation))
}
