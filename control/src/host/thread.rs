//! The thread of the host stack.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use millrace_dataplane::handoff::Waker;

use millrace_nf::router::Ways;

use super::page::Pages;
use super::probe::run::Sourced;
use super::stack::{Stack, StackPlan};
use crate::config::probe::Probe;
use crate::instance::Control;
use crate::instance::control::Running;
use crate::instance::functions::{Context, Part, router};
use crate::supervised::{Pulse, Supervised};

/// Longest time between two signs of life, before another thread takes over.
const STALL_TIME: Duration = Duration::from_secs(5);
/// Longest sleep: so late it learns of another configuration.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Runs the host stacks of an instance, those that its configuration has at any time.
///
/// # Errors
/// No thread can be made, or the system has no descriptor left.
pub fn start(control: Arc<Control>) -> io::Result<Supervised> {
    let waker = Waker::new()?;
    Supervised::start("host", STALL_TIME, move |pulse| run(pulse, &control, &waker))
}

fn run(pulse: &Pulse, control: &Arc<Control>, waker: &Waker) {
    let pages = Pages::new(Arc::clone(control), waker.clone());
    let mut stacks: Vec<Stack> = Vec::new();
    let mut seen = None;
    let board = control.hosts().board();
    #[cfg(debug_assertions)]
    let panics = std::env::var_os("MILLRACE_TEST_HOST_PANICS");
    while pulse.goes_on() {
        // For tests: how others fare then can't be seen any other way.
        #[cfg(debug_assertions)]
        if let Some(file) = &panics {
            assert!(std::fs::remove_file(file).is_err(), "a test asked for it");
        }
        let version = control.hosts().version();
        let now = Instant::now();
        if seen != Some(version) {
            seen = Some(version);
            reconcile(&mut stacks, control, waker, now);
        }
        let mut busy = false;
        stacks.iter_mut().for_each(|stack| busy |= stack.turn(now, &pages, board));
        if busy {
            continue;
        }
        let delay = stacks.iter_mut().map(|stack| stack.delay(now)).min().unwrap_or(Duration::MAX);
        waker.sleep(delay.min(SLEEP_MAX), || stacks.iter().any(Stack::has_arrived));
    }
}

/// Makes the stacks that the configuration has; those that stay as they are keep their connections.
fn reconcile(stacks: &mut Vec<Stack>, control: &Control, waker: &Waker, now: Instant) {
    let running = Arc::clone(&control.running.lock().unwrap_or_else(PoisonError::into_inner));
    let mut before = std::mem::take(stacks);
    for plan in StackPlan::of(&running.config, &running.facts) {
        // Without its port it is opened by a change that is not in force yet.
        let Some(access) = control.hosts().access(&plan.chain) else { continue };
        match before.iter().position(|stack| stack.is(&plan, &access)) {
            Some(at) => stacks.push(before.swap_remove(at)),
            None => stacks.push(Stack::new(plan, access, waker.clone(), now)),
        }
    }
    control.hosts().board().keep(&running.config.host.probes, now);
    for stack in stacks {
        stack.set_probes(probes_of(&running, control, stack.chain()), now);
    }
}

/// The probes that go through a chain, each with the address that its router speaks to the target from.
fn probes_of(running: &Running, control: &Control, chain: &str) -> Vec<Sourced> {
    let config = &running.config;
    let ways = ways_of(running, control, chain);
    let probes = config.host.probes.iter().filter(|probe| probe.chain == chain);
    let sourced = |probe: &Probe| Sourced {
        source: ways.as_ref().and_then(|ways| ways.source_for(probe.target)),
        probe: probe.clone(),
    };
    probes.map(sourced).collect()
}

fn ways_of(running: &Running, control: &Control, chain: &str) -> Option<Ways> {
    let config = &running.config;
    let chain = config.chains.iter().find(|it| it.name == chain)?;
    let router = config.router_of(chain)?;
    let Control { arena, seed, .. } = control;
    let (ports, seed, logs, part) = (&running.facts[..], *seed, None, Part::WHOLE);
    let context = Context { config, chain, ports, arena, seed, logs, part, others: None, stages: None };
    // It runs, so it was checked.
    Ways::new(&router::config(&context, router)).ok()
}
