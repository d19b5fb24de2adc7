//! Control threads keep off the cores of the workers, where there are others: a thread that serves somebody would else take its turn
//! on a core that polls, and packets would wait for it.

use std::collections::HashSet;

use millrace_dataplane::affinity;

/// Passes over the threads at most. Whoever is made meanwhile has the cores of who made it, so the second one mostly finds nothing.
const PASSES_MAX: usize = 8;

/// The cores of `all` that `workers` leave; all if they leave none.
fn beside(all: &[usize], workers: &[Option<usize>]) -> Vec<usize> {
    let free: Vec<usize> = all.iter().copied().filter(|core| !workers.contains(&Some(*core))).collect();
    if free.is_empty() { all.to_vec() } else { free }
}

/// Lets all threads of this process but those of `workers` (their numbers and cores) run on the cores of `all` that these leave. What can't
/// be had is left as it is: it costs time, and no packet is wrong for it.
pub(super) fn keep(all: &[usize], workers: &[(i32, Option<usize>)]) {
    let cores = beside(all, &workers.iter().map(|(_, core)| *core).collect::<Vec<_>>());
    // Before the threads are looked at: one that a worker makes meanwhile goes by it, or is among them.
    affinity::set_control_cores(&cores);
    let mut done: HashSet<i32> = workers.iter().map(|(thread, _)| *thread).collect();
    for _ in 0..PASSES_MAX {
        let threads = affinity::thread_numbers().unwrap_or_default();
        let before = done.len();
        for thread in threads {
            // One that has ended meanwhile needs no core.
            if done.insert(thread)
                && let Err(error) = affinity::allow_cores(thread, &cores)
            {
                tracing::debug!(thread, %error, "a control thread stays on its cores");
            }
        }
        if done.len() == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_leave_what_they_do_not_have() {
        assert_eq!(beside(&[0, 1, 2, 3], &[Some(3), Some(1)]), [0, 2]);
        assert_eq!(beside(&[0, 1], &[Some(0), Some(1)]), [0, 1], "nothing is left: they share");
        assert_eq!(beside(&[0, 1], &[None]), [0, 1], "those without a core run where they may");
    }
}
