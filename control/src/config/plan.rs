//! What would run: ports, workers, memory and chains of a configuration on a machine.

use std::fmt;

use millrace_dataplane::limits::LARGE_FRAME_BYTES;
use serde::Serialize;

use super::chains::LOCAL_ZONE;
use super::deal::deal;
use super::diagnostic::count;
use super::firewall::Action;
use super::functions::FunctionKind;
use super::network::Ipv4Range;
use super::settings::{Hugepages, Idle};
use super::sizing::{Sizing, mtu, queues_of};
use super::units::show_size;
use super::{Config, Host, Port, PortKind, inspect, rule_set};

/// A port of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanPort {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// What it leads to: an interface, files, a profile.
    pub device: String,
    /// Its queues.
    pub queues: u16,
    /// Largest IP packet in bytes, as far as the configuration says.
    pub mtu: u16,
    /// The chain it belongs to.
    pub chain: Option<String>,
    /// Its zone in that chain.
    pub zone: Option<String>,
}

/// A worker of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanWorker {
    /// Its core; unknown if the machine's cores are.
    pub core: Option<usize>,
    /// Shares of the work that it has.
    pub shares: Vec<usize>,
    /// The queues it serves, as `lan queue 0`.
    pub queues: Vec<String>,
    /// Whether it owns connections.
    pub owns_connections: bool,
    /// Rings by which its shares get packets from, and give packets to, others.
    pub rings: usize,
    /// What it does when idle.
    pub idle: &'static str,
    /// Most packets in a burst.
    pub burst_packets: usize,
}

/// A part of the memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanMemoryPart {
    /// What it holds.
    pub what: String,
    /// Bytes.
    pub bytes: u64,
}

/// The memory of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanMemory {
    /// Bytes of the arena.
    pub bytes: u64,
    /// Its pages.
    pub hugepages: &'static str,
    /// What is in it.
    pub parts: Vec<PlanMemoryPart>,
}

/// A function of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanFunction {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its settings in a line.
    pub summary: String,
    /// The core that it has for itself; none if it works in the turns of the workers.
    pub core: Option<usize>,
}

/// A zone of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanZone {
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<String>,
}

/// A chain of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanChain {
    /// Its name.
    pub name: String,
    /// Its zones, the innermost first.
    pub zones: Vec<PlanZone>,
    /// Its functions, in the order from inside to outside.
    pub functions: Vec<PlanFunction>,
    /// The functions that are decided together, once a flow; between any two of these segments lies a function that works on
    /// payloads.
    pub segments: Vec<Vec<String>>,
}

/// What would run. [`fmt::Display`] shows it as text, `serde` as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Ports in the order of the file.
    pub ports: Vec<PlanPort>,
    /// Workers.
    pub workers: Vec<PlanWorker>,
    /// Memory.
    pub memory: PlanMemory,
    /// Chains in the order of the file.
    pub chains: Vec<PlanChain>,
}

impl Plan {
    /// The plan of `config` on `host`.
    pub fn of(config: &Config, host: &Host) -> Self {
        Self {
            ports: config.ports.iter().map(|port| plan_port(config, port)).collect(),
            workers: plan_workers(config, host),
            memory: plan_memory(config),
            chains: plan_chains(config),
        }
    }
}

fn plan_port(config: &Config, port: &Port) -> PlanPort {
    let device = match &port.kind {
        PortKind::AfXdp(af_xdp) => af_xdp.interface.clone(),
        PortKind::AfPacket(af_packet) => af_packet.interface.clone(),
        PortKind::Tap(tap) => tap.interface.clone(),
        PortKind::Pcap(pcap) => {
            let show =
                |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
            let input = show(&pcap.input).map(|input| format!("from {input}"));
            let output = show(&pcap.output).map(|output| format!("to {output}"));
            [input, output].into_iter().flatten().collect::<Vec<_>>().join(" ")
        }
        PortKind::Generator(generator) => {
            let rate =
                generator.rate_pps.map_or("as fast as possible".to_owned(), |rate| format!("{rate} pps"));
            format!("{} flows, {rate}", generator.flows)
        }
        PortKind::Sink(_) => "takes and counts".to_owned(),
        PortKind::Host(_) => "own addresses".to_owned(),
    };
    let device = if port.fault.is_some() { device + ", with faults" } else { device };
    let chain = config.chain_of_port(&port.name);
    PlanPort {
        name: port.name.clone(),
        kind: port.kind.name(),
        device,
        queues: port.kind.queues(),
        mtu: mtu(config, port),
        chain: chain.map(|chain| chain.name.clone()),
        zone: chain.map(|chain| {
            chain.zone_of(&port.name).map_or_else(|| LOCAL_ZONE.to_owned(), |zone| zone.name.clone())
        }),
    }
}

/// Rings at which a share is one end, of a port that so many poll.
fn rings(config: &Config, pollers: usize, share: usize) -> usize {
    let shares = config.workers.count();
    if share >= pollers {
        // From each who polls, and to one of them.
        return if shares > 1 { pollers + 1 } else { 0 };
    }
    let others = pollers - 1;
    let clients = (pollers..shares).filter(|client| client % pollers == share).count();
    // To all and from who polls; fragments and their owners both ways; from whom it sends for.
    (shares - 1) + others + 4 * others + clients
}

/// Each share has its queues of the ports; the rest of its packets it gets by rings.
fn plan_workers(config: &Config, host: &Host) -> Vec<PlanWorker> {
    let last = host.cores.as_ref().and_then(|cores| cores.last().copied());
    let cores: Vec<Option<usize>> = match &config.workers.cores {
        Some(cores) => cores.iter().copied().map(Some).collect(),
        None => vec![last],
    };
    let idle = match config.workers.idle {
        Idle::Adaptive => "adaptive",
        Idle::Poll => "poll",
        Idle::Sleep => "sleep",
    };
    let queues = |share: &usize| {
        let of_port =
            |port| queues_of(config, port, *share).map(|queue| format!("{} queue {queue}", port.name));
        config.ports.iter().flat_map(of_port).collect::<Vec<_>>()
    };
    let pollers = |port: &Port| config.workers.pollers(port.kind.queues());
    let rings_of = |share: &usize| -> usize {
        let of_ports: usize = config.ports.iter().map(|port| rings(config, pollers(port), *share)).sum();
        of_ports + config.hairpins().count() * rings(config, config.workers.count(), *share)
    };
    let worker = |(core, shares): (_, Vec<usize>)| PlanWorker {
        core,
        queues: shares.iter().flat_map(queues).collect(),
        owns_connections: shares.iter().any(|share| *share >= config.workers.first_owner()),
        rings: shares.iter().map(rings_of).sum(),
        idle,
        burst_packets: config.workers.burst_packets,
        shares,
    };
    let dealt = deal(&config.workers, &vec![Vec::new(); cores.len()]);
    cores.into_iter().zip(dealt).map(worker).collect()
}

fn plan_memory(config: &Config) -> PlanMemory {
    let sizing = Sizing::of(config);
    let part = |what: String, bytes| PlanMemoryPart { what, bytes };
    let hugepages = match config.memory.hugepages {
        Hugepages::Auto => "auto",
        Hugepages::TwoMebibytes => "2MiB",
        Hugepages::OneGibibyte => "1GiB",
        Hugepages::Off => "off",
    };
    let owners = config.workers.owners() as u64;
    let sessions = owners * u64::from(config.sessions.capacity);
    let entries = owners * u64::from(config.sessions.flow_cache_entries);
    let mut parts = vec![
        part(
            format!("{} frames of {} B", sizing.frames, sizing.frame_bytes),
            sizing.frames * sizing.frame_bytes,
        ),
        part(format!("{sessions} sessions"), sizing.session_bytes),
        part(format!("{entries} flow cache entries"), sizing.flow_cache_bytes),
    ];
    if sizing.large_frames > 0 {
        let what = format!("{} large frames of {LARGE_FRAME_BYTES} B", sizing.large_frames);
        parts.insert(1, part(what, sizing.large_frames * LARGE_FRAME_BYTES as u64));
    }
    if sizing.nat_bytes > 0 {
        parts.push(part("NAT: mappings, inside hosts, ports".to_owned(), sizing.nat_bytes));
    }
    PlanMemory { bytes: sizing.arena_bytes, hugepages, parts }
}

fn plan_chains(config: &Config) -> Vec<PlanChain> {
    let zone = |zone: &super::Zone| PlanZone { name: zone.name.clone(), ports: zone.ports.clone() };
    let function = |name: &String| {
        let function = config.function(name)?;
        let kind = function.kind.name();
        let core = config.stages().find(|(of, _)| of == name).map(|(_, core)| core);
        Some(PlanFunction { name: name.clone(), kind, summary: summary(config, name, &function.kind), core })
    };
    let chain = |chain: &super::Chain| PlanChain {
        name: chain.name.clone(),
        zones: chain.zones.iter().map(zone).collect(),
        functions: chain.functions.iter().filter_map(function).collect(),
        segments: segments(config, chain),
    };
    config.chains.iter().map(chain).collect()
}

fn segments(config: &Config, chain: &super::Chain) -> Vec<Vec<String>> {
    let splits = |name: &String| config.function(name).is_some_and(|function| function.kind.splits());
    chain.functions.split(splits).map(<[String]>::to_vec).collect()
}

fn summary(config: &Config, name: &str, kind: &FunctionKind) -> String {
    match kind {
        FunctionKind::Firewall(firewall) => {
            let default = match firewall.default {
                Action::Allow => "allow",
                Action::Deny => "deny",
                Action::Reject => "reject",
            };
            let cost = rule_set::cost(config, name, firewall).unwrap_or_default();
            let cost = format!("looked up in at most {}", count(cost, "step"));
            format!("{}, default {default}, {cost}", count(firewall.rules.len(), "rule"))
        }
        FunctionKind::Nat(nat) => {
            let addresses: u64 = nat.pool.iter().copied().map(Ipv4Range::count).sum();
            let addresses = count(usize::try_from(addresses).unwrap_or(usize::MAX), "external address");
            let forwards = count(nat.forwards.len(), "port forward");
            format!("{} -> {}, {addresses}, {forwards}", nat.inside, nat.outside)
        }
        FunctionKind::Inspect(inspect) => {
            let drops = inspect.patterns.iter().filter(|it| it.action == inspect::Action::Drop).count();
            let table = inspect::patterns(inspect).map_or(0, |patterns| patterns.memory_bytes());
            let table = show_size(table as u64);
            format!("{}, of which {drops} drop, table of {table}", count(inspect.patterns.len(), "pattern"))
        }
        FunctionKind::Router(router) => {
            let interfaces = count(router.interfaces.len(), "interface");
            format!("{interfaces}, {}", count(router.routes.len(), "static route"))
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ports")?;
        let width =
            |text: fn(&PlanPort) -> &str| self.ports.iter().map(|port| text(port).len()).max().unwrap_or(0);
        let (names, devices) = (width(|port| &port.name), width(|port| &port.device));
        for port in &self.ports {
            let place = match (&port.chain, &port.zone) {
                (Some(chain), Some(zone)) => format!("chain {chain}, zone {zone}"),
                _ => "in no chain".to_owned(),
            };
            let (name, kind, device) = (&port.name, port.kind, &port.device);
            let queues = count(port.queues.into(), "queue");
            writeln!(f, "  {name:names$}  {kind:9}  {device:devices$}  {queues}, MTU {}, {place}", port.mtu)?;
        }
        writeln!(f, "workers")?;
        for (index, worker) in self.workers.iter().enumerate() {
            let core = worker.core.map_or("any core".to_owned(), |core| format!("core {core}"));
            let queues =
                if worker.queues.is_empty() { "nothing".to_owned() } else { worker.queues.join(", ") };
            let (idle, burst) = (worker.idle, worker.burst_packets);
            let rings = match worker.rings {
                0 => String::new(),
                rings => format!(", {}", count(rings, "ring")),
            };
            let owns = if worker.owns_connections { "" } else { ", no connections" };
            let shares = match &worker.shares[..] {
                [share] if *share == index => String::new(),
                shares => {
                    let shares: Vec<String> = shares.iter().map(ToString::to_string).collect();
                    format!(" with shares {}", shares.join(" "))
                }
            };
            writeln!(
                f,
                "  worker {index} on {core}{shares}: {queues}{rings}{owns}; bursts of {burst}, idle {idle}"
            )?;
        }
        writeln!(f, "memory: {}, hugepages {}", show_size(self.memory.bytes), self.memory.hugepages)?;
        for part in &self.memory.parts {
            writeln!(f, "  {:>10}  {}", show_size(part.bytes), part.what)?;
        }
        for chain in &self.chains {
            let zones = chain.zones.iter().map(|zone| format!("{} ({})", zone.name, zone.ports.join(", ")));
            writeln!(f, "chain {}: {}", chain.name, zones.collect::<Vec<_>>().join(" <-> "))?;
            let names = chain.functions.iter().map(|function| function.name.len()).max().unwrap_or(0);
            for (index, function) in chain.functions.iter().enumerate() {
                let (name, kind) = (&function.name, function.kind);
                let place = function.core.map_or_else(String::new, |core| format!(", alone on core {core}"));
                writeln!(f, "  {}  {name:names$}  {kind:8}  {}{place}", index + 1, function.summary)?;
            }
            if chain.segments.len() > 1 {
                let show = |segment: &Vec<String>| match segment.as_slice() {
                    [] => "(nothing)".to_owned(),
                    functions => functions.join(" "),
                };
                let segments = chain.segments.iter().map(show).collect::<Vec<_>>().join(" | ");
                writeln!(f, "  segments, each with a look-up of its own: {segments}")?;
            }
        }
        Ok(())
    }
}
