//! `apply`: from the configuration in force to another, whole or not at all.
//!
//! Everything that can fail, and everything that takes long, happens first, away from the packet path: the check, new ports,
//! new rules, plans, tables and chains (`plan`). Then one command on the worker brings all of it into force between two
//! bursts (`commit`, R8). What is left to do for it, such as ending the sessions of a chain that is gone, the worker does in
//! slices of its timers; ports that were removed are closed by the thread that asked. Last, if workers come or go, shares move
//! to where they belong.

mod commit;
mod differences;
mod fixed;
mod moves;
mod plan;
mod said;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use millrace_nf::nat::Nat;
use millrace_nf::router::Router;

pub use self::said::Applied;

use super::control::{Control, Running};
use super::functions::PortFacts;
use super::handle::{Answer, answer_deadline};
use super::{InstanceError, NfWorker, WorkerHandle, thread};
use crate::config::{self, Config, Host, Problem, host_stack};

/// Longest wait until an earlier change is through.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(30);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a removed port may go on sending what it has.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(200);

impl Control {
    /// Changes the instance to the configuration in `text`, a file's content at `path`. Says what it did.
    ///
    /// # Errors
    /// All that is wrong with it, or that can't be changed while the instance runs, with its place in the file; nothing has
    /// changed then. [`InstanceError::Late`]: all has changed, and a worker has not said so. [`InstanceError::Unfinished`]: all has
    /// changed but cores and the ports that are to be closed.
    pub fn apply(&self, path: &Path, text: &str) -> Result<Applied, InstanceError> {
        let shares = self.running.lock().unwrap_or_else(PoisonError::into_inner).config.workers.shares;
        let mut host = Host { shares: Some(shares), ..Host::probe().running_now() };
        if !self.cores.is_empty() {
            // This thread keeps off those of the workers.
            host.cores = Some(self.cores.clone());
        }
        if let Some(interfaces) = &mut host.interfaces {
            // A port that waits for its interface to come back does not hold up other changes.
            interfaces.extend(self.interfaces());
        }
        let checked = config::parse(path, text, &host);
        let Some(new) = checked.config else {
            return Err(InstanceError::Invalid(checked.report));
        };
        let refused = |problems: &[Problem]| InstanceError::Invalid(config::report(path, text, problems));
        // A change that panicked left nothing half done in `Running`: it is replaced at the end.
        let mut left_open = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let running = Arc::clone(&self.running.lock().unwrap_or_else(PoisonError::into_inner));
        if std::mem::take(&mut *left_open) {
            self.close_retired().inspect_err(|_| *left_open = true)?;
        }
        if running.config == new {
            return Ok(said::Said::default().finish(Duration::ZERO));
        }
        let problems = fixed::check(&running.config, &new);
        if !problems.is_empty() {
            return Err(refused(&problems));
        }
        let _reloading = self.notifier.get().map(|notifier| notifier.reloading());
        self.bring(&mut left_open, &running, new, running.facts.clone(), refused)
    }

    /// Lets functions know ports by other facts than they were told: their MTU may change while they are open.
    ///
    /// # Errors
    /// Functions can't work with these facts, all that is wrong in a line; or a worker is gone.
    pub(super) fn tell_ports(&self, change: impl Fn(&mut PortFacts)) -> Result<(), InstanceError> {
        let mut left_open = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let running = Arc::clone(&self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let mut facts = running.facts.clone();
        facts.iter_mut().for_each(change);
        if facts == running.facts {
            return Ok(());
        }
        let refused = |problems: &[Problem]| {
            let texts: Vec<_> = problems.iter().map(Problem::message).collect();
            InstanceError::unsupported("ports", texts.join("; "))
        };
        self.bring(&mut left_open, &running, running.config.clone(), facts, refused).map(drop)
    }

    /// Plans the change from what runs to `new`, with what is known of the ports that stay, and brings it into force. `left_open`: removed
    /// ports may be open still.
    fn bring(
        &self,
        left_open: &mut bool,
        running: &Running,
        new: Config,
        facts: Vec<PortFacts>,
        refused: impl Fn(&[Problem]) -> InstanceError,
    ) -> Result<Applied, InstanceError> {
        self.settle()?;
        let planned = plan::make(self, running, &new, facts).map_err(|problems| refused(&problems))?;
        let plan::Planned { plans, rules, stages, numbers, facts, policies, mut said, .. } = planned;
        self.check_room(&plans).map_err(|problem| match problem {
            Ok(problem) => refused(&[problem]),
            Err(gone) => gone,
        })?;
        let prepared = self.prepare_workers(&running.config, &new).map_err(|error| match error {
            InstanceError::Unsupported { .. } => refused(&[error.problem()]),
            other => other,
        })?;
        // First, so that what belongs to what is new goes to its owner from the beginning.
        if let (Some(sharing), Some(rules)) = (&self.sharing, rules) {
            sharing.publish(rules);
        }
        let send = |(at, (worker, plan)): (usize, (&WorkerHandle, _))| {
            let links = self.timings.links(at, &new, &numbers);
            worker.send(move |worker| {
                let done = commit::commit(worker, plan);
                links.into_iter().for_each(|(port, histogram)| worker.timing.set_latency(port, histogram));
                done
            })
        };
        // To all before the first one answers, so that all take it at the same time, as nearly as they can.
        let sent: Vec<_> = self.workers.iter().zip(plans).enumerate().map(send).collect();
        let changed: Vec<_> =
            stages.into_iter().map(|(name, change)| (self.stages.change(&name, change), name)).collect();
        let deadline = answer_deadline();
        let answers: Vec<_> =
            sent.into_iter().map(|sent| sent.and_then(|answer| answer.wait(deadline))).collect();
        let late_stage = |(sent, name): (Result<Answer<_>, _>, _)| {
            let answer = sent.and_then(|answer| answer.wait(deadline));
            answer.is_err().then_some(name)
        };
        let functions: Vec<_> = changed.into_iter().filter_map(late_stage).collect();
        // It is in force whoever is late: who is takes it when it goes on, before anything that is asked of it later.
        self.timings.keep(&new);
        let late_share = |(at, answer): (usize, &Result<_, _>)| answer.is_err().then_some(at);
        let shares: Vec<_> = answers.iter().enumerate().filter_map(late_share).collect();
        let is_late = !shares.is_empty() || !functions.is_empty();
        // Nothing has moved to other cores yet; if nothing does, that is left to the next change.
        let (cores, before) = (new.workers.clone(), running.config.workers.clone());
        let config =
            Config { workers: if prepared.is_some() || is_late { before } else { cores.clone() }, ..new };
        let now = self.keep(Running { config, numbers, facts, policies });
        *left_open = true;
        if is_late {
            return Err(InstanceError::Late { shares, functions });
        }
        let all: Vec<_> = answers.into_iter().flatten().collect();
        let unfinished = |error| InstanceError::Unfinished(Box::new(error));
        self.close_retired().map_err(unfinished)?;
        *left_open = false;
        let mut worker_time = all.iter().map(|done| done.time).max().unwrap_or_default();
        if let Some(prepared) = prepared {
            let moved = prepared.carry_out().map_err(unfinished)?;
            worker_time = worker_time.max(moved.longest);
            said.workers(&moved);
            let mut moved = Running::clone(&now);
            moved.config.workers = cores;
            self.keep(moved);
        }
        // What was replaced goes here, and not where packets wait for it.
        drop(all);
        Ok(said.finish(worker_time))
    }

    /// That is what runs now.
    fn keep(&self, now: Running) -> Arc<Running> {
        self.hosts.keep(|chain| now.config.port(&host_stack::port_name(chain)).is_some());
        let now = Arc::new(now);
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&now);
        now
    }

    /// Makes ready for the workers that `new` asks for, if these are others than `old` has.
    fn prepare_workers(
        &self,
        old: &Config,
        new: &Config,
    ) -> Result<Option<thread::Prepared<'_>>, InstanceError> {
        let cores = self.cores_of(&new.workers);
        if self.cores_of(&old.workers) == cores {
            return Ok(None);
        }
        let threads = self.threads.get().ok_or(InstanceError::WorkerGone)?;
        threads.prepare(&new.workers, &cores).map(Some)
    }

    /// Interfaces of the ports that are open.
    fn interfaces(&self) -> Vec<String> {
        let running = Arc::clone(&self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let names = running.config.ports.iter().filter_map(|port| port.kind.interface());
        names.map(|(_, interface)| interface.to_owned()).collect()
    }

    /// Waits until the worker is through with what earlier changes left it to do.
    ///
    /// # Errors
    /// It takes too long, or the worker is gone.
    pub fn settle(&self) -> Result<(), InstanceError> {
        let deadline = Instant::now() + SETTLE_TIME_MAX;
        while self.ask_busy()? {
            if Instant::now() > deadline {
                let message = "an earlier change is still under way; try again in a moment";
                return Err(InstanceError::unsupported("apply", message));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn ask_busy(&self) -> Result<bool, InstanceError> {
        Ok(self.ask_all(is_busy)?.contains(&true))
    }

    /// Checks what only workers know: that there is room for chains, and in sessions for the words of functions.
    fn check_room(&self, plans: &[plan::Plan]) -> Result<(), Result<Problem, InstanceError>> {
        // Those that own connections are alike.
        let Some((worker, plan)) = self.workers.iter().zip(plans).nth(self.first_owner) else {
            return Ok(());
        };
        let added: Vec<_> = plan.added.iter().map(|chain| (chain.name().to_owned(), chain.parts())).collect();
        let reshaped: Vec<_> = (plan.reshaped.iter())
            .map(|reshape| (reshape.old.clone(), reshape.kept.clone(), reshape.chain.parts()))
            .collect();
        let look = move |worker: &mut NfWorker| {
            let (chains, parts) = (&worker.engine.slow, worker.engine.state.sessions.parts_count());
            let fits = |(_, wanted): &&(String, usize)| *wanted > parts;
            if let Some((name, _)) = added.iter().find(fits) {
                return Some((name.clone(), parts));
            }
            if chains.room() < added.len() {
                return added.first().map(|(name, _)| (name.clone(), 0));
            }
            reshaped.into_iter().find_map(|(name, kept, wanted)| {
                let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
                let free = chains.free_parts(chains.place_of(&name)?, parts, &kept);
                (free < wanted).then_some((name, parts))
            })
        };
        match worker.call(look).map_err(Err)? {
            None => Ok(()),
            Some((name, 0)) => {
                let message = "there are as many chains as an instance can have";
                Err(Ok(Problem::new(format!("chains.{name}"), message)))
            }
            Some((name, parts)) => {
                let key = format!("chains.{name}.functions");
                let message = format!("sessions have room for {parts} words of functions, which are too few");
                let help = "remove functions by a change of its own first, or start the instance anew";
                Err(Ok(Problem::new(key, message).help(help)))
            }
        }
    }

    /// Closes the ports that were taken from the workers, once they have sent what they had.
    fn close_retired(&self) -> Result<(), InstanceError> {
        let deadline = Instant::now() + DRAIN_TIME_MAX;
        for worker in &self.workers {
            loop {
                let at_once = Instant::now() > deadline;
                let look = move |worker: &mut NfWorker| (worker.take_retired(at_once), worker.retiring());
                let (taken, left) = worker.call(look)?;
                for (id, mut port) in taken {
                    port.close(None);
                    // It comes back to be dropped here.
                    worker.call(move |worker| {
                        worker.note_closed(id, port.as_mut());
                        port
                    })?;
                }
                if left == 0 {
                    break;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }
}

/// True while the worker has work left from an earlier change.
fn is_busy(worker: &mut NfWorker) -> bool {
    if worker.engine.slow.is_sweeping() {
        return true;
    }
    let functions = |(at, chain): (usize, &millrace_nf::chain::Chain)| {
        let names = chain.functions().into_iter().map(|(name, _)| (at, name.to_owned()));
        names.collect::<Vec<_>>()
    };
    let all: Vec<_> = worker.engine.slow.iter().flat_map(functions).collect();
    all.into_iter().any(|(at, name)| {
        let Some(chain) = worker.engine.slow.chain(at) else { return false };
        chain.function::<Nat>(&name).is_some_and(|nat| nat.is_changing())
            || chain.function::<Router>(&name).is_some_and(|router| router.is_changing())
    })
}
