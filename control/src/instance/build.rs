//! From a configuration to an instance that is ready to run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use millrace_dataplane::affinity;
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::state::FlowState;
use millrace_dataplane::handoff::Waker;
use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::memory::Arena;
use millrace_dataplane::packet::Verify;
use millrace_dataplane::time::{Clock, SystemClock};
use millrace_dataplane::worker::Worker;
use millrace_nf::chain::Chains;
use millrace_nf::firewall::Policy;

use super::control::{Control, Running};
use super::functions::{self, Context, Others, Part, PortFacts, firewall};
use super::hairpins;
use super::handle::{NfWorker, WorkerHandle};
use super::hosts::Hosts;
use super::numbers::PortNumbers;
use super::ports::{OpenPort, Opener};
use super::rule_logs::RuleLogs;
use super::sharing::{Sharing, new_waker, part_of, rules};
use super::stages::Stages;
use super::timings::Timings;
use super::{InstanceError, memory};
use crate::config::settings::Idle;
use crate::config::{self, Config, FunctionKind, VerifyChecksums};

/// How an instance runs beside its configuration.
pub struct Options {
    /// What the first worker asks for the time; the others ask the system.
    pub clock: Box<dyn Clock>,
    /// Makes all hashes repeat; none takes random secrets.
    pub seed: Option<u64>,
    /// How much time misses may take.
    pub budget: BudgetConfig,
    /// Captures follow the clock, which is this many nanoseconds behind them: see `replay`.
    pub captures_ahead_ns: Option<u64>,
    /// Workers get cores of their own.
    pub pinned: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Box::<SystemClock>::default(),
            seed: None,
            budget: BudgetConfig::default(),
            captures_ahead_ns: None,
            pinned: true,
        }
    }
}

/// An instance that is ready to run.
pub struct Instance {
    /// Move packets: those of each of [`Control::seats`] on one thread.
    pub workers: Vec<NfWorker>,
    /// For the other threads.
    pub control: Control,
}

impl Instance {
    /// Opens everything that `config` names.
    ///
    /// # Errors
    /// The first thing that can't be had. Nothing stays open then.
    pub fn build(config: Config, options: Options) -> Result<Self, InstanceError> {
        let arena = memory::arena(&config)?;
        let pools = (0..config.workers.count()).map(|worker| memory::pool(&config, worker, &arena));
        let mut pools = pools.collect::<Result<Vec<_>, _>>()?;
        let hosts = Hosts::default();
        let opener = Opener::new(&config.workers, &pools, options.captures_ahead_ns, hosts.clone());
        let sharing = Sharing::of(&config, options.seed)?;
        let numbers = PortNumbers::of(&config);
        let mut open = Vec::new();
        for port in &config.ports {
            let Some(id) = numbers.get(&port.name) else { continue };
            match opener.open(port, id) {
                Ok(port) => open.push(port),
                Err(error) => {
                    open.iter_mut().for_each(|port: &mut OpenPort| port.close(&mut pools));
                    return Err(error);
                }
            }
        }
        let logs = RuleLogs::default();
        let making = Making {
            config: &config,
            options: &options,
            arena: &arena,
            numbers: &numbers,
            logs: &logs,
            sharing: sharing.as_ref(),
        };
        let facts: Vec<PortFacts> = open.iter().map(OpenPort::facts).collect();
        let made = making.all(&facts);
        let Made { wakers, engines, policies, stages } = match made {
            Ok(made) => made,
            Err(error) => {
                open.iter_mut().for_each(|port| port.close(&mut pools));
                return Err(error);
            }
        };
        let (seed, pinned, idle) = (options.seed, options.pinned, idle(&config));
        let burst_packets = config.workers.burst_packets;
        let mut clock = Some(options.clock);
        let (mut workers, mut handles) = (Vec::new(), Vec::new());
        for ((engine, pool), waker) in engines.into_iter().zip(pools).zip(wakers) {
            // A clock that somebody else sets is for one worker.
            let clock = clock.take().unwrap_or_else(|| Box::<SystemClock>::default());
            let (mut worker, sender) = Worker::new(engine, pool, clock, idle);
            worker.set_burst_packets(burst_packets);
            worker.set_waker(waker.clone());
            workers.push(worker);
            handles.push(WorkerHandle::new(sender, waker));
        }
        for OpenPort { id, queues, .. } in open {
            let shares = match &sharing {
                Some(sharing) => sharing.share(id, queues),
                None => queues,
            };
            workers.iter_mut().zip(shares).for_each(|(worker, share)| worker.add_port(id, share));
        }
        for (_, name) in hairpins::ports(&config) {
            if let (Some(sharing), Some(id)) = (&sharing, numbers.get(&name)) {
                let shares = sharing.share(id, hairpins::open(&config, &name));
                workers.iter_mut().zip(shares).for_each(|(worker, share)| worker.add_port(id, share));
            }
        }
        let timings = Timings::of(&workers, stages.turns());
        for (at, worker) in workers.iter_mut().enumerate() {
            let links = timings.links(at, &config, &numbers);
            links.into_iter().for_each(|(port, histogram)| worker.timing.set_latency(port, histogram));
        }
        let facts_of_memory = memory::Facts::of(&config, &arena);
        let first_owner = config.workers.first_owner();
        let running = Running { config, numbers, facts, policies };
        let control = Control {
            workers: handles,
            first_owner,
            pinned,
            cores: affinity::allowed_cores().unwrap_or_default(),
            idle,
            threads: OnceLock::new(),
            sharing,
            stages,
            memory: Arc::new(facts_of_memory),
            arena,
            opener,
            seed,
            logs,
            hosts,
            timings,
            notifier: OnceLock::new(),
            changing: Mutex::new(false),
            running: Mutex::new(Arc::new(running)),
        };
        Ok(Self { workers, control })
    }
}

impl Instance {
    /// Its worker, where it has only one.
    ///
    /// # Errors
    /// It has several.
    pub fn into_one(self) -> Result<(NfWorker, Control), InstanceError> {
        let Self { workers, control } = self;
        let one: Result<[NfWorker; 1], _> = workers.try_into();
        let [worker] =
            one.map_err(|_| InstanceError::unsupported("workers.cores", "one worker is asked for"))?;
        Ok((worker, control))
    }
}

/// What workers are made from.
struct Making<'a> {
    config: &'a Config,
    options: &'a Options,
    arena: &'a Arena,
    numbers: &'a PortNumbers,
    logs: &'a RuleLogs,
    sharing: Option<&'a Sharing>,
}

/// What they are made of, beside their ports and pools.
struct Made {
    /// By worker.
    wakers: Vec<Waker>,
    engines: Vec<Engine<Chains>>,
    /// The rules of the firewalls, to compare changes with.
    policies: HashMap<String, Policy>,
    stages: Stages,
}

impl Making<'_> {
    fn all(&self, facts: &[PortFacts]) -> Result<Made, InstanceError> {
        let waker = |worker| match self.sharing.and_then(|sharing| sharing.waker(worker)) {
            Some(waker) => Ok(waker),
            None => new_waker(),
        };
        let wakers: Vec<Waker> =
            (0..self.config.workers.count()).map(waker).collect::<Result<_, InstanceError>>()?;
        let owners = wakers.get(self.config.workers.first_owner()..).unwrap_or_default();
        let stages = Stages::of(self.config, owners, idle(self.config), self.options.pinned)?;
        let mut policies = HashMap::new();
        let mut engines = Vec::new();
        for worker in 0..self.config.workers.count() {
            let chains = match part_of(self.config, worker) {
                Some(part) => self.chains(facts, part, &stages, &mut policies)?,
                None => Chains::new(),
            };
            let state = memory::flow_config(self.config, worker);
            let state = FlowState::new(self.arena, &state, self.options.seed)?;
            let engine_config = EngineConfig {
                verify: verify(self.config),
                budget: self.options.budget,
                ..EngineConfig::default()
            };
            engines.push(Engine::new(chains, state, self.numbers.span(), engine_config));
        }
        if let (Some(sharing), Some(chain)) = (self.sharing, self.config.chains.first()) {
            sharing.publish(rules(&self.context(chain, facts, Part::WHOLE, &stages))?);
        }
        Ok(Made { wakers, engines, policies, stages })
    }

    fn context<'a>(
        &'a self,
        chain: &'a config::Chain,
        ports: &'a [PortFacts],
        part: Part,
        stages: &'a Stages,
    ) -> Context<'a> {
        let Self { config, arena, options, logs, .. } = self;
        let others = self.sharing.map(|sharing| Others { sharing, numbers: self.numbers });
        let (seed, logs, stages) = (options.seed, Some(*logs), Some(stages));
        Context { config, chain, ports, arena, seed, logs, part, others, stages }
    }

    /// Builds all chains of a worker and attaches their ports.
    fn chains(
        &self,
        facts: &[PortFacts],
        part: Part,
        stages: &Stages,
        policies: &mut HashMap<String, Policy>,
    ) -> Result<Chains, InstanceError> {
        let mut chains = Chains::new();
        for chain in &self.config.chains {
            let context = self.context(chain, facts, part, stages);
            let at = chains.insert(functions::build_chain(&context, &[])?);
            context.attached().for_each(|(port, zone)| chains.attach(port, at, zone));
            if let Some(port) = hairpins::nat_of(self.config, chain).and_then(|nat| context.hairpin_port(nat))
            {
                chains.attach_turned(port, at);
            }
            for name in &chain.functions {
                let kind = self.config.function(name).map(|found| &found.kind);
                if let (Some(FunctionKind::Firewall(settings)), 0) = (kind, part.at) {
                    policies.insert(name.clone(), firewall::policy(&context, name, settings)?);
                }
            }
        }
        Ok(chains)
    }
}

fn verify(config: &Config) -> Verify {
    match config.verify_checksums {
        VerifyChecksums::None => Verify::None,
        VerifyChecksums::Ip => Verify::Ipv4,
        VerifyChecksums::All => Verify::All,
    }
}

fn idle(config: &Config) -> IdlePolicy {
    match config.workers.idle {
        Idle::Adaptive => IdlePolicy::Adaptive,
        Idle::Poll => IdlePolicy::Poll,
        Idle::Sleep => IdlePolicy::Sleep,
    }
}
