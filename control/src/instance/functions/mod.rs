//! From the settings of functions to the functions, and what `show` tells of them.

pub mod firewall;
pub mod inspect;
pub mod nat;
pub mod router;

use millrace_dataplane::memory::Arena;
use millrace_dataplane::port::{MacAddress, PortId};
use millrace_nf::chain::{Chain, ChainBuilder};
use millrace_nf::nat::{Nat, NatUse};
use millrace_nf::router::icmp_limit::Rate;
use millrace_nf::zone::ZoneId;
use serde_json::Value;

use super::numbers::PortNumbers;
use super::rule_logs::RuleLogs;
use super::sharing::Sharing;
use super::stages::Stages;
use super::{InstanceError, NfWorker, hairpins};
use crate::config::{self, Config, FunctionKind};
use crate::listing::{Listing, SLICE, Slice, show_mac};

/// What functions know of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Its number.
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: MacAddress,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// What the port itself said of that when functions were told last: another number where the configuration gives it.
    pub device_mtu: u16,
}

/// A worker's part in functions of which each worker that owns connections has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which of these workers it is, from zero.
    pub at: u8,
    /// How many they are.
    pub of: u8,
}

impl Part {
    /// All of them, where one worker owns all connections.
    pub const WHOLE: Self = Self { at: 0, of: 1 };

    /// Its part of a limit that is for all of them together: an equal one, and at least 1 of what is not zero.
    pub fn share(self, limit: u32) -> u32 {
        limit.div_ceil(u32::from(self.of))
    }

    /// Its part of a rate that is for all of them together.
    pub fn share_rate(self, rate: Rate) -> Rate {
        Rate { per_second: self.share(rate.per_second), burst: self.share(rate.burst) }
    }
}

/// What functions are made from beside their own settings.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The whole configuration.
    pub config: &'a Config,
    /// The chain that uses the function.
    pub chain: &'a config::Chain,
    /// The open ports.
    pub ports: &'a [PortFacts],
    /// Where large tables lie.
    pub arena: &'a Arena,
    /// Makes hashes repeat; none takes random secrets.
    pub seed: Option<u64>,
    /// Takes what logging rules tell; none if nobody will ask.
    pub logs: Option<&'a RuleLogs>,
    /// Which part of the connections they are for.
    pub part: Part,
    /// The other parts, if there are any and packets may go between them.
    pub others: Option<Others<'a>>,
    /// The ways to packet functions on cores of their own; none if all work in the turns of the workers.
    pub(crate) stages: Option<&'a Stages>,
}

/// What functions know of others of their kind in other parts.
#[derive(Clone, Copy, Debug)]
pub struct Others<'a> {
    /// How packets are shared out.
    pub(crate) sharing: &'a Sharing,
    /// The ports by which hairpins change over are among them.
    pub(crate) numbers: &'a PortNumbers,
}

impl Context<'_> {
    /// The port by which hairpins of this NAT change over.
    pub fn hairpin_port(&self, nat: &str) -> Option<PortId> {
        self.others?.numbers.get(&hairpins::port_name(nat))
    }

    /// The number of a zone of the chain.
    pub fn zone(&self, name: &str) -> Option<ZoneId> {
        self.chain.zones.iter().position(|zone| zone.name == name).map(|at| ZoneId(at as u8))
    }

    /// The zone of a port of the chain.
    pub fn zone_of(&self, port: &str) -> Option<ZoneId> {
        self.chain.zone_of(port).and_then(|zone| self.zone(&zone.name))
    }

    /// The ports that lead to the chain, with their zones: its own, and that of its host stack.
    pub fn attached(&self) -> impl Iterator<Item = (PortId, ZoneId)> + '_ {
        let own = self.chain.ports().filter_map(|port| Some((self.port(port)?.id, self.zone_of(port)?)));
        own.chain(self.host().map(|port| (port.id, ZoneId::LOCAL)))
    }

    /// The port to the chain's host stack, if it has one.
    pub fn host(&self) -> Option<&PortFacts> {
        self.port(&self.config.host_port_of(self.chain)?.name)
    }

    /// What is known of a port.
    pub fn port(&self, name: &str) -> Option<&PortFacts> {
        self.ports.iter().find(|port| port.name == name)
    }
}

/// Builds a chain with its functions. Those in `kept` stay as they are in the chain that it replaces.
///
/// # Errors
/// What a function finds wrong with its settings.
pub fn build_chain(context: &Context<'_>, kept: &[String]) -> Result<Chain, InstanceError> {
    let zones: Vec<&str> = context.chain.zones.iter().map(|zone| zone.name.as_str()).collect();
    let mut builder = ChainBuilder::new(context.chain.name.as_str(), &zones);
    for name in &context.chain.functions {
        let Some(function) = context.config.function(name) else { continue };
        let stays = kept.contains(name);
        if stays && function.kind.forwards() {
            return Ok(builder.keep_forwarder(name.as_str()));
        }
        builder = match &function.kind {
            kind if stays && kind.splits() => builder.keep_packet_function(name.as_str()),
            _ if stays => builder.keep(name.as_str()),
            FunctionKind::Firewall(settings) => {
                builder.function(name.as_str(), firewall::build(context, name, settings)?)
            }
            FunctionKind::Nat(settings) => {
                builder.function(name.as_str(), nat::build(context, name, settings)?)
            }
            FunctionKind::Inspect(settings) => match context.stages.filter(|_| settings.core.is_some()) {
                Some(stages) => {
                    let (link, likeness) =
                        (stages.link(name, context.part.at)?, inspect::build(name, settings)?);
                    builder.packet_function_apart(name.as_str(), link, Box::new(likeness))
                }
                None => builder.packet_function(name.as_str(), Box::new(inspect::build(name, settings)?)),
            },
            FunctionKind::Router(settings) => {
                return Ok(builder.forwarder(name.as_str(), router::build(context, name, settings)?));
            }
        };
    }
    let key = format!("chains.{}.functions", context.chain.name);
    Err(InstanceError::unsupported(key, "the last function must forward"))
}

/// A line of a function's counters: item, hits, packets and bytes.
pub(crate) type Counter = (String, u64, Option<u64>, Option<u64>);

/// Columns of [`counters`] that name a row; the others are counts.
pub const NAMES: &[&str] = &["chain", "function", "kind", "item"];

/// A listing for [`counters`].
pub(crate) fn listing() -> Listing {
    Listing::new(&["chain", "function", "kind", "item", "count", "packets", "bytes"])
}

/// Adds the counters of a function.
pub(crate) fn tell(listing: &mut Listing, chain: &str, name: &str, kind: &str, rows: Vec<Counter>) {
    for (item, count, packets, bytes) in rows {
        listing.push([
            chain.into(),
            name.into(),
            kind.into(),
            item.into(),
            count.into(),
            packets.map_or(Value::Null, Value::from),
            bytes.map_or(Value::Null, Value::from),
        ]);
    }
}

/// The name of the chain that has a function.
pub(crate) fn chain_of(worker: &NfWorker, function: &str) -> Option<String> {
    let mut chains = worker.engine.slow.iter().map(|(_, chain)| chain);
    let chain = chains.find(|chain| chain.functions().iter().any(|(name, _)| *name == function))?;
    Some(chain.name().to_owned())
}

/// Counters of all functions that the worker has, those of firewalls by rule. One function a slice.
pub fn counters(worker: &mut NfWorker, from: usize) -> Slice {
    let mut listing = listing();
    let chains = &mut worker.engine.slow;
    let places: Vec<(usize, String, &'static str)> = chains
        .iter()
        .flat_map(|(at, chain)| {
            chain
                .functions()
                .into_iter()
                .map(move |(name, kind)| (at, name.to_owned(), kind))
                .collect::<Vec<_>>()
        })
        .collect();
    if let Some((at, name, kind)) = places.get(from)
        && let Some(chain) = chains.chain(*at)
    {
        let chain_name = chain.name().to_owned();
        let rows = match *kind {
            "firewall" => firewall::counters(chain, name),
            "nat" => nat::counters(chain, name),
            "inspect" => inspect::counters(chain, name),
            _ => router::counters(chain, name),
        };
        tell(&mut listing, &chain_name, name, kind, rows);
    }
    (listing, (from + 1 < places.len()).then_some(from + 1))
}

/// The NATs' names with what their tables hold and take.
pub fn nat_tables(worker: &mut NfWorker) -> Vec<(String, NatUse)> {
    let tables = of_kind(worker, "nat").into_iter().filter_map(|(at, name)| {
        let chain = worker.engine.slow.chain(at)?;
        let used = chain.function::<Nat>(&name)?.state().used();
        Some((name, used))
    });
    tables.collect()
}

/// The names of all functions of a kind with the place of their chain.
fn of_kind(worker: &NfWorker, kind: &str) -> Vec<(usize, String)> {
    let chains = worker.engine.slow.iter();
    let functions =
        chains.flat_map(|(at, chain)| chain.functions().into_iter().map(move |found| (at, found)));
    functions.filter(|(_, found)| found.1 == kind).map(|(at, (name, _))| (at, name.to_owned())).collect()
}

/// A page of what all functions of `kind` hold together: `rows` gets a function and how many of its objects to skip, and says
/// how many it looked at.
fn page(
    worker: &mut NfWorker,
    kind: &str,
    from: usize,
    mut rows: impl FnMut(&mut NfWorker, usize, &str, usize) -> usize,
) -> Option<usize> {
    let functions = of_kind(worker, kind);
    // The function's place is in the upper half of the position.
    let (place, skip) = (from >> 32, from & 0xffff_ffff);
    let (at, name) = functions.get(place)?;
    let seen = rows(worker, *at, name, skip);
    if seen == SLICE {
        Some(place << 32 | (skip + seen))
    } else {
        (place + 1 < functions.len()).then_some((place + 1) << 32)
    }
}

fn port_name(worker: &mut NfWorker, port: PortId) -> String {
    worker.port(port).map_or_else(|| port.0.to_string(), |port| port.info().name.clone())
}

/// Neighbours of all routers.
pub fn neighbours(worker: &mut NfWorker, from: usize) -> Slice {
    let mut listing = Listing::new(&["router", "port", "address", "mac", "state", "is_router"]);
    let next = page(worker, "router", from, |worker, at, name, skip| {
        let found = router::neighbours(worker, at, name, skip);
        let seen = found.len();
        for (port, info) in found {
            let port = port.map_or_else(String::new, |port| port_name(worker, port));
            listing.push([
                name.into(),
                port.into(),
                info.address.to_string().into(),
                info.mac.map_or(Value::Null, |mac| show_mac(mac).into()),
                format!("{:?}", info.state).to_lowercase().into(),
                info.is_router.into(),
            ]);
        }
        seen
    });
    (listing, next)
}

/// Routes of all routers.
pub fn routes(worker: &mut NfWorker, from: usize) -> Slice {
    let mut listing = Listing::new(&["router", "prefix", "kind", "via", "port", "origin", "metric"]);
    let next = page(worker, "router", from, |worker, at, name, skip| {
        let found = router::routes(worker, at, name, skip);
        let seen = found.len();
        for (route, hops) in found {
            let gateways = hops.iter().filter_map(|(gateway, _)| gateway.map(|gateway| gateway.to_string()));
            let gateways = gateways.collect::<Vec<_>>().join(" ");
            let ports = hops.iter().filter_map(|(_, port)| *port).map(|port| port_name(worker, port));
            let ports = ports.collect::<Vec<_>>().join(" ");
            listing.push([
                name.into(),
                route.prefix.to_string().into(),
                format!("{:?}", route.kind).to_lowercase().into(),
                gateways.into(),
                ports.into(),
                format!("{:?}", route.origin).to_lowercase().into(),
                route.metric.into(),
            ]);
        }
        seen
    });
    (listing, next)
}

/// Mappings of all NATs.
pub fn mappings(worker: &mut NfWorker, from: usize) -> Slice {
    let mut listing = Listing::new(&["nat", "protocol", "inside", "external", "static", "sessions"]);
    let next = page(worker, "nat", from, |worker, at, name, skip| {
        nat::mappings(worker, at, name, skip, &mut listing)
    });
    (listing, next)
}
