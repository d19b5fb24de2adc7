//! From a configuration to an instance that is ready to run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use millrace_dataplane::affinity;
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::engine::{Engine, EngineConfig};
use millrace_dataplane::flow::state::FlowState;
use millrace_dataplane::idle::IdlePolicy;
use millrace_dataplane::memory::Arena;
use millrace_dataplane::packet::Verify;
use millrace_dataplane::time::{Clock, SystemClock};
use millrace_dataplane::worker::Worker;
use millrace_nf::chain::Chains;
use millrace_nf::firewall::Policy;

use super::control::{Control, Running};
use super::functions::{self, Context, PortFacts, firewall};
use super::handle::{NfWorker, WorkerHandle};
use super::numbers::PortNumbers;
use super::ports::{OpenPort, Opener};
use super::rule_logs::RuleLogs;
use super::timings::Timings;
use super::{InstanceError, memory};
use crate::config::settings::Idle;
use crate::config::{Config, FunctionKind, VerifyChecksums};

/// How an instance runs beside its configuration.
pub struct Options {
    /// What the worker asks for the time.
    pub clock: Box<dyn Clock>,
    /// Makes all hashes repeat; none takes random secrets.
    pub seed: Option<u64>,
    /// How much time misses may take.
    pub budget: BudgetConfig,
    /// Captures follow the clock, which is this many nanoseconds behind them: see `replay`.
    pub captures_ahead_ns: Option<u64>,
    /// The worker gets a core of its own.
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
    /// Moves packets; to be run on a thread of its own, on [`Control::core`].
    pub worker: NfWorker,
    /// For the other threads.
    pub control: Control,
}

impl Instance {
    /// Opens everything that `config` names.
    ///
    /// # Errors
    /// The first thing that can't be had. Nothing stays open then.
    pub fn build(config: Config, options: Options) -> Result<Self, InstanceError> {
        let core = if options.pinned { choose_core(&config)? } else { None };
        let arena = memory::arena(&config)?;
        let pool = memory::pool(&config, &arena)?;
        let opener = Opener::new(&pool, options.captures_ahead_ns);
        let numbers = PortNumbers::of(&config);
        let mut open = Vec::new();
        let mut pool = pool;
        for port in &config.ports {
            let Some(id) = numbers.get(&port.name) else { continue };
            match opener.open(port, id) {
                Ok(port) => open.push(port),
                Err(error) => {
                    open.iter_mut().for_each(|port: &mut OpenPort| port.port.close(Some(&mut pool)));
                    return Err(error);
                }
            }
        }
        let facts: Vec<PortFacts> = open.iter().map(OpenPort::facts).collect();
        let logs = RuleLogs::default();
        let mut made = chains(&config, &facts, &arena, options.seed, &logs);
        let state = memory::flow_config(&config);
        let state = FlowState::new(&arena, &state, options.seed).map_err(InstanceError::from);
        let (chains, state, policies) = match (&mut made, state) {
            (Ok(_), Ok(state)) => {
                let (chains, policies) = made?;
                (chains, state, policies)
            }
            (_, state) => {
                open.iter_mut().for_each(|port| port.port.close(Some(&mut pool)));
                made?;
                return Err(state.err().unwrap_or(InstanceError::WorkerGone));
            }
        };
        let engine_config =
            EngineConfig { verify: verify(&config), budget: options.budget, ..EngineConfig::default() };
        let engine = Engine::new(chains, state, numbers.span(), engine_config);
        let (mut worker, sender) = Worker::new(engine, pool, options.clock, idle(&config));
        worker.set_burst_packets(config.workers.burst_packets);
        open.into_iter().for_each(|port| worker.add_port(port.id, port.port));
        let timings = Timings::of(&worker);
        let links = timings.links(&config, &numbers);
        links.into_iter().for_each(|(port, histogram)| worker.timing.set_latency(port, histogram));
        let facts_of_memory = memory::Facts::of(&config, &arena);
        let running = Running { config, numbers, facts, policies };
        let control = Control {
            worker: WorkerHandle::new(sender),
            core,
            memory: Arc::new(facts_of_memory),
            arena,
            opener,
            seed: options.seed,
            logs,
            timings,
            notifier: OnceLock::new(),
            changing: Mutex::new(()),
            running: Mutex::new(Arc::new(running)),
        };
        Ok(Self { worker, control })
    }
}

/// Builds all chains and attaches their ports; also the rules of the firewalls, to compare changes with.
fn chains(
    config: &Config,
    facts: &[PortFacts],
    arena: &Arena,
    seed: Option<u64>,
    logs: &RuleLogs,
) -> Result<(Chains, HashMap<String, Policy>), InstanceError> {
    let mut chains = Chains::new();
    let mut policies = HashMap::new();
    for chain in &config.chains {
        let context = Context { config, chain, ports: facts, arena, seed, logs: Some(logs) };
        let at = chains.insert(functions::build_chain(&context, &[])?);
        for port in chain.ports() {
            if let (Some(zone), Some(port)) = (context.zone_of(port), context.port(port)) {
                chains.attach(port.id, at, zone);
            }
        }
        for name in &chain.functions {
            if let Some(FunctionKind::Firewall(settings)) = config.function(name).map(|found| &found.kind) {
                policies.insert(name.clone(), firewall::policy(&context, name, settings)?);
            }
        }
    }
    Ok((chains, policies))
}

fn choose_core(config: &Config) -> Result<Option<usize>, InstanceError> {
    match config.workers.cores.as_deref() {
        Some([core]) => Ok(Some(*core)),
        Some(cores) if cores.len() > 1 => {
            Err(InstanceError::unsupported("workers.cores", "one worker in this version: name one core"))
        }
        _ => Ok(affinity::allowed_cores().ok().and_then(|cores| cores.last().copied())),
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
