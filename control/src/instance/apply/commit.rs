//! Brings a plan into force, on its worker, between two bursts. Nothing in here can fail, waits or frees much: what is
//! replaced goes back to the thread that asked.

use std::any::Any;
use std::time::{Duration, Instant};

use millrace_dataplane::port::PortId;
use millrace_nf::chain::Chain;
use millrace_nf::firewall::Firewall;
use millrace_nf::inspect::Inspect;
use millrace_nf::nat::Nat;
use millrace_nf::router::Router;

use super::plan::{FunctionChange, Plan};
use crate::instance::NfWorker;

/// What a change leaves, and how long it held up packets.
pub(super) struct Done {
    /// Old chains, functions and tables, to be dropped.
    _replaced: Vec<Box<dyn Any + Send>>,
    /// Time of the worker.
    pub(super) time: Duration,
}

/// Brings the plan into force.
pub(super) fn commit(worker: &mut NfWorker, plan: Plan) -> Done {
    let started = Instant::now();
    let mut replaced: Vec<Box<dyn Any + Send>> = Vec::new();
    // Ports whose packets may wait for something that will not come any more.
    let mut touched: Vec<PortId> = plan.closed.clone();
    for name in &plan.removed {
        if let Some(at) = worker.engine.slow.place_of(name) {
            touched.extend(worker.engine.slow.ports_of(at));
            replaced.extend(worker.engine.slow.remove(at, &mut worker.engine.state).map(boxed));
        }
    }
    for reshape in plan.reshaped {
        if let Some(at) = worker.engine.slow.place_of(&reshape.old) {
            touched.extend(worker.engine.slow.ports_of(at));
            match worker.engine.slow.replace(at, reshape.chain, &mut worker.engine.state) {
                Ok(old) => replaced.push(boxed(old)),
                // Planned from what runs: all that it keeps is there.
                Err(_) => tracing::error!(chain = reshape.old, "the chain kept its functions"),
            }
        }
    }
    for chain in plan.added {
        worker.engine.slow.insert(chain);
    }
    for (chain, function, change) in plan.changes {
        bring(worker, &chain, &function, change, &mut replaced);
    }
    for (id, port) in plan.opened {
        worker.add_port(id, port);
    }
    attach(worker, &plan.attachments, &plan.detached, &mut touched);
    for (port, chain) in &plan.turned {
        if let Some(at) = worker.engine.slow.place_of(chain) {
            worker.engine.slow.reattach_turned(*port, at, &mut worker.engine.state.validity);
            worker.engine.compile_schema(*port);
        }
    }
    for id in plan.closed {
        worker.retire_port(id);
    }
    if let Some(timeouts) = plan.timeouts {
        worker.engine.state.sessions.set_timeouts(timeouts);
    }
    let now = worker.now();
    worker.engine.release_held(&touched, &mut worker.pool, now);
    Done { _replaced: replaced, time: started.elapsed() }
}

fn boxed(chain: Chain) -> Box<dyn Any + Send> {
    Box::new(chain)
}

/// Changes one function that stays.
fn bring(
    worker: &mut NfWorker,
    chain: &str,
    name: &str,
    change: FunctionChange,
    replaced: &mut Vec<Box<dyn Any + Send>>,
) {
    let now = worker.now();
    let Some(chain) = worker.engine.slow.chain_named(chain) else { return };
    let mut validity = worker.engine.state.validity.within(chain.scope());
    match change {
        FunctionChange::Firewall(change) => {
            if let Some(firewall) = chain.function::<Firewall>(name) {
                replaced.push(Box::new(firewall.apply(*change, &mut validity)));
            }
        }
        FunctionChange::Nat(config) => {
            let Some(nat) = chain.function::<Nat>(name) else { return };
            // No change is under way: all of an earlier one has settled, and changes come one by one.
            if let Err(error) = nat.reconfigure(*config) {
                tracing::error!(function = name, ?error, "the NAT kept its configuration");
            }
            if let Some(watch) = nat.take_scope_change() {
                validity.change(watch);
            }
        }
        FunctionChange::Inspect(change) => {
            if let Some(inspect) = chain.packet_function::<Inspect>(name) {
                replaced.push(Box::new(inspect.apply(change)));
            }
        }
        FunctionChange::Router(change) => {
            let Some(router) = chain.function::<Router>(name) else { return };
            let (watches, old) = router.bring(*change, now);
            validity.change_all(&watches);
            replaced.push(Box::new(old));
        }
    }
}

/// Chains and zones of ports, and their keys.
fn attach(
    worker: &mut NfWorker,
    attachments: &[(PortId, String, millrace_nf::zone::ZoneId)],
    detached: &[PortId],
    touched: &mut Vec<PortId>,
) {
    let engine = &mut worker.engine;
    let led = attachments.iter().map(|(port, chain, zone)| (*port, Some((chain, *zone))));
    for (port, to) in led.chain(detached.iter().map(|port| (*port, None))) {
        let to = to.and_then(|(chain, zone)| Some((engine.slow.place_of(chain)?, zone)));
        let logical: Vec<PortId> = engine.slow.logical_ports_of(port).collect();
        if engine.slow.reattach(port, to, &mut engine.state.validity) {
            touched.push(port);
            touched.extend(logical);
        }
    }
    engine.slow.declare();
    engine.connect_stages();
    let ports = attachments.iter().map(|(port, ..)| port).chain(detached);
    ports.for_each(|port| engine.compile_schema(*port));
}
