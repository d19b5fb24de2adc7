//! The thread of the host stack.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use millrace_dataplane::handoff::Waker;

use super::page::Pages;
use super::stack::{Stack, StackPlan};
use crate::instance::Control;
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
    while pulse.goes_on() {
        let version = control.hosts().version();
        let now = Instant::now();
        if seen != Some(version) {
            seen = Some(version);
            reconcile(&mut stacks, control, waker, now);
        }
        let mut busy = false;
        stacks.iter_mut().for_each(|stack| busy |= stack.turn(now, &pages));
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
}
