//! What follows from news of links, which ports notice themselves: neighbours behind a link that was down are asked for anew, and
//! routers and NATs learn the MTU that an interface has now.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use millrace_dataplane::port::{Port, PortId};
use millrace_nf::chain::Chain;
use millrace_nf::router::Router;

use super::{Control, InstanceError, NfWorker};
use crate::supervised::{Pulse, Supervised};

/// How often links are looked at. Ports look at theirs as often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Longest time that a look may take. A change of the MTU waits for changes before it.
const STALL_TIME: Duration = Duration::from_secs(60);

/// What was known of a link at the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    is_up: bool,
    losses: u64,
    mtu: u16,
}

/// Looks at links, and remembers what it saw.
#[derive(Debug, Default)]
pub struct Links(HashMap<PortId, Seen>);

/// Looks at the links of an instance on a thread of its own.
///
/// # Errors
/// No thread can be made.
pub fn start(control: Arc<Control>) -> io::Result<Supervised> {
    Supervised::start("links", STALL_TIME, move |pulse: &Pulse| {
        let mut links = Links::default();
        while pulse.goes_on() {
            let looked = links.look(&control);
            std::thread::sleep(LOOK_EVERY);
            // Workers that have ended answer no more, which is no news.
            if let Err(error) = looked
                && pulse.goes_on()
                && !control.has_ended()
            {
                tracing::warn!(%error, "the links can't be looked at");
            }
        }
    })
}

impl Links {
    /// Looks once, and does what follows from it.
    ///
    /// # Errors
    /// A worker is gone.
    pub fn look(&mut self, control: &Control) -> Result<(), InstanceError> {
        let Some(poller) = control.workers().first() else { return Ok(()) };
        let known = control.ports();
        let ids: Vec<_> = known.iter().map(|port| port.id).collect();
        let now = poller.ask(move |worker: &mut NfWorker| {
            let seen = |port: &mut Box<dyn Port>| {
                let (is_up, mtu) = (port.info().link_up, port.info().mtu);
                Seen { is_up, losses: port.counters().link_losses, mtu }
            };
            ids.into_iter().filter_map(|id| Some((id, seen(worker.port(id)?)))).collect::<HashMap<_, _>>()
        })?;
        let before = std::mem::replace(&mut self.0, now);
        for (&id, seen) in &self.0 {
            let old = before.get(&id).copied().unwrap_or(Seen { is_up: true, losses: 0, mtu: 0 });
            // Who was not found while it was down may be there, too.
            if seen.losses > old.losses || seen.is_up && !old.is_up {
                for (_, owner) in control.owners() {
                    owner.call(move |worker| forget_neighbours(worker, id))?;
                }
            }
        }
        // What a port has when it is seen first is what functions were made with, or less by configuration.
        let is_new = |id: &PortId, seen: &Seen| before.get(id).is_some_and(|before| before.mtu != seen.mtu);
        let differs = known.iter().any(|port| {
            self.0.get(&port.id).is_some_and(|seen| seen.mtu != port.mtu && is_new(&port.id, seen))
        });
        if differs {
            let told = control.tell_ports(|port| {
                if let Some(seen) = self.0.get(&port.id) {
                    port.mtu = seen.mtu;
                }
            });
            // It is said once for each change; what is longer than the link takes is dropped there.
            if let Err(error) = told {
                tracing::error!(%error, "functions go on with the MTU that a port had");
            }
        }
        Ok(())
    }
}

/// Between two turns of a worker: its routers ask anew for the neighbours behind a port.
fn forget_neighbours(worker: &mut NfWorker, port: PortId) {
    let functions = |chain: &Chain| -> Vec<_> {
        chain.functions().into_iter().map(|(name, _)| name.to_owned()).collect()
    };
    let all: Vec<_> = worker.engine.slow.iter().map(|(at, chain)| (at, functions(chain))).collect();
    for (at, names) in all {
        let Some(chain) = worker.engine.slow.chain(at) else { continue };
        for name in names {
            if let Some(router) = chain.function::<Router>(&name) {
                let watches = router.forget_behind(port);
                worker.engine.state.validity.within(chain.scope()).change_all(&watches);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::*;
    use crate::config::{self, Host};
    use crate::instance::thread::WorkerThreads;
    use crate::instance::{Instance, Options};

    #[test]
    fn who_asks_a_worker_that_has_ended_is_not_left_waiting() {
        let text = include_str!("../../../configs/generator.toml")
            .replace("packets = 10000000", "packets = 100")
            + "\n[memory]\nhugepages = \"off\"\n[metrics]\nlisten = \"off\"\n";
        let config = config::parse(Path::new("links.toml"), &text, &Host::default()).config.unwrap();
        let options = Options { pinned: false, ..Options::default() };
        let Instance { workers, control } = Instance::build(config, options).unwrap();
        let control = Arc::new(control);
        let threads = WorkerThreads::start(workers, &control, true).unwrap();
        let start = Instant::now();
        while !control.has_ended() {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = Instant::now();
        assert!(matches!(Links::default().look(&control), Err(InstanceError::WorkerGone)));
        assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
        assert_eq!(threads.finish().unwrap().problems(), Vec::<String>::new());
    }
}
