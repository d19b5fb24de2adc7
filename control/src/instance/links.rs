//! What follows from news of links, which ports notice themselves: neighbours behind a link that was down are asked for anew, and
//! routers and NATs learn the MTU that an interface has now.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_dataplane::port::{Port, PortId};
use millrace_nf::chain::Chain;
use millrace_nf::router::Router;

use super::functions::PortFacts;
use super::handle::answer_deadline;
use super::{Control, InstanceError, NfWorker, WorkerHandle};
use crate::supervised::{Pulse, Supervised};

/// How often links are looked at. Ports look at theirs as often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Longest time that a look may take. A change of the MTU waits for changes before it.
const STALL_TIME: Duration = Duration::from_secs(60);

/// Shortest time until functions are told again of an MTU that they could not take: they may have changed meanwhile.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What was known of a link at the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    is_up: bool,
    losses: u64,
    mtu: u16,
}

/// An MTU that functions could not take.
#[derive(Debug)]
struct Refused {
    mtu: u16,
    why: String,
    at: Instant,
}

/// Looks at links, and remembers what it saw. The MTUs that functions were told of are among the facts of ports, so that none is missed
/// between what opened a port, one who looked, and the next.
#[derive(Debug, Default)]
pub struct Links {
    seen: HashMap<PortId, Seen>,
    refused: HashMap<PortId, Refused>,
}

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
        let forgotten = self.follow_links(control, &now);
        self.follow_mtus(control, &known, &now);
        self.seen = now;
        forgotten
    }

    /// Behind a link that is back, or was away between two looks, neighbours are asked for anew.
    fn follow_links(&self, control: &Control, now: &HashMap<PortId, Seen>) -> Result<(), InstanceError> {
        let is_news = |(id, seen): &(&PortId, &Seen)| {
            let old = self.seen.get(id).copied().unwrap_or(Seen { is_up: true, losses: 0, mtu: 0 });
            // Who was not found while it was down may be there, too.
            seen.losses > old.losses || seen.is_up && !old.is_up
        };
        let news: Vec<_> = now.iter().filter(is_news).map(|(&id, _)| id).collect();
        if news.is_empty() {
            return Ok(());
        }
        let send = |(_, owner): (usize, &WorkerHandle)| {
            let news = news.clone();
            owner.send(move |worker| news.into_iter().for_each(|id| forget_neighbours(worker, id)))
        };
        // To all before the first one answers: who is late takes it when it goes on, and nobody else waits for that.
        let sent: Vec<_> = control.owners().map(send).collect();
        let deadline = answer_deadline();
        let answers: Vec<_> =
            sent.into_iter().map(|sent| sent.and_then(|answer| answer.wait(deadline))).collect();
        answers.into_iter().collect()
    }

    /// Tells functions of the MTUs that they were not told of: of each by itself, so that one which they can't take keeps back no other.
    fn follow_mtus(&mut self, control: &Control, known: &[PortFacts], now: &HashMap<PortId, Seen>) {
        // What a port has when it is opened is what functions were made with, or less by configuration.
        let news = |port: &PortFacts| Some(now.get(&port.id)?.mtu).filter(|mtu| *mtu != port.device_mtu);
        let news: Vec<_> = known.iter().filter_map(|port| Some((port, news(port)?))).collect();
        self.refused
            .retain(|id, refused| news.iter().any(|(port, mtu)| (port.id, *mtu) == (*id, refused.mtu)));
        for (port, mtu) in news {
            if self.refused.get(&port.id).is_some_and(|refused| refused.at.elapsed() < RETRY_AFTER) {
                continue;
            }
            let told = control.tell_ports(|it| {
                if it.id == port.id {
                    (it.mtu, it.device_mtu) = (mtu, mtu);
                }
            });
            if let Err(error) = told {
                self.not_told(control, port, mtu, &error);
                // Others have their turn at the next look: this one may have taken long.
                return;
            }
        }
    }

    fn not_told(&mut self, control: &Control, port: &PortFacts, mtu: u16, error: &InstanceError) {
        let name = &port.name;
        if control.ports().iter().any(|it| it.id == port.id && it.device_mtu == mtu) {
            tracing::warn!(port = name, mtu, %error, "not all functions go by the new MTU of a port yet");
            return;
        }
        let why = error.to_string();
        let is_said = self.refused.get(&port.id).is_some_and(|before| before.why == why);
        self.refused.insert(port.id, Refused { mtu, why, at: Instant::now() });
        // It is said once for each reason; what is longer than the link takes is dropped there.
        if !is_said {
            tracing::error!(port = name, mtu, %error, "functions go on with the MTU that a port had");
        }
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
mod tests;
