//! NATs.

use std::net::SocketAddrV4;
use std::sync::Arc;

use millrace_dataplane::memory::ArenaError;
use millrace_nf::chain::Chain;
use millrace_nf::nat::forward::Forward;
use millrace_nf::nat::mss::MssClamp;
use millrace_nf::nat::plan::{NatPlan, NatSettings, PoolRange};
use millrace_nf::nat::secret::Secret;
use millrace_nf::nat::tuple::Protocol;
use millrace_nf::nat::{Nat, NatConfig, PortShare};

use super::{Context, Counter};
use crate::config::nat::{self as settings};
use crate::config::network::TCP;
use crate::config::sizing;
use crate::instance::{InstanceError, NfWorker, memory};
use crate::listing::{Listing, SLICE};

/// What the tables of a NAT may lose to their alignment.
const ALIGNMENT_BYTES: usize = 4 << 10;

/// Makes a NAT with room for as many mappings as there can be sessions. One that finds no room in the arena, because it
/// came with a change, gets memory of its own.
///
/// # Errors
/// All that the plan finds wrong, in a line; or that there is no memory.
pub fn build(context: &Context<'_>, name: &str, settings: &settings::Nat) -> Result<Nat, InstanceError> {
    let capacity = sizing::nat_capacity(context.config);
    let secret = context.seed.map_or_else(Secret::random, |seed| Secret::from_key([seed, !seed]));
    let config = config(context, name, settings)?;
    match Nat::new(config.clone(), &capacity, &secret, context.arena) {
        Err(ArenaError::Full { .. }) => {
            let bytes = sizing::nat_table_bytes(context.config, settings) as usize;
            let own = memory::arena_of(context.config, bytes + ALIGNMENT_BYTES)?;
            Ok(Nat::new(config, &capacity, &secret, &own)?)
        }
        made => Ok(made?),
    }
}

/// The settings as the NAT takes them.
///
/// # Errors
/// All that the plan finds wrong, in a line.
pub fn config(
    context: &Context<'_>,
    name: &str,
    settings: &settings::Nat,
) -> Result<NatConfig, InstanceError> {
    let pool = settings.pool.iter().map(|range| PoolRange { first: range.first, last: range.last });
    let forward = |forward: &settings::Forward| {
        let (external, internal) = (&forward.external, &forward.internal);
        Forward {
            protocol: if forward.protocol == TCP { Protocol::Tcp } else { Protocol::Udp },
            external: SocketAddrV4::new(external.address, *external.ports.start()),
            // All 65,536 ports can't be forwarded: port 0 is none.
            ports: (external.ports.end() - external.ports.start()).saturating_add(1),
            inside: SocketAddrV4::new(internal.address, *internal.ports.start()),
        }
    };
    let plan = NatPlan::new(NatSettings {
        pool: pool.collect(),
        ports: (*settings.port_range.start(), *settings.port_range.end()),
        filtering: settings.filtering.into(),
        share: PortShare::new(context.part.at, context.part.of),
        forwards: settings.forwards.iter().map(forward).collect(),
        ..NatSettings::default()
    });
    let plan = plan.map_err(|errors| {
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        InstanceError::function(name, errors.join("; "))
    })?;
    Ok(NatConfig {
        sources: settings.sources.clone(),
        outside: context.zone(&settings.outside),
        hairpinning: settings.hairpinning,
        mss_clamp: match settings.mss_clamp {
            settings::MssClamp::Off => None,
            settings::MssClamp::Auto => Some(MssClamp::Auto { mtu: mtu_outside(context, settings) }),
            settings::MssClamp::Bytes(bytes) => Some(MssClamp::Fixed(bytes)),
        },
        hairpins: context
            .others
            .zip(context.hairpin_port(name))
            .map(|(others, port)| others.sharing.hairpins(context.part.at, port)),
        ..NatConfig::new(Arc::new(plan))
    })
}

/// The least MTU of the ports of the outside zone.
fn mtu_outside(context: &Context<'_>, settings: &settings::Nat) -> u16 {
    let ports = context.chain.zone(&settings.outside).into_iter().flat_map(|zone| &zone.ports);
    let router = context.config.router_of(context.chain);
    let mtu = |port: &String| {
        let own = context.port(port)?.mtu;
        Some(
            router
                .and_then(|router| router.interface(port))
                .and_then(|side| side.mtu)
                .unwrap_or(own)
                .min(own),
        )
    };
    ports.filter_map(mtu).min().unwrap_or(1_500)
}

/// Counters of a NAT.
pub fn counters(chain: &mut Chain, name: &str) -> Vec<Counter> {
    let Some(nat) = chain.function::<Nat>(name) else { return Vec::new() };
    let used = nat.state().used();
    let mut rows = vec![
        ("mappings".to_owned(), used.mappings.0 as u64, None, None),
        ("subscribers".to_owned(), used.subscribers as u64, None, None),
        ("bindings".to_owned(), nat.bindings() as u64, None, None),
    ];
    for refusal in millrace_nf::nat::refusal::Refusal::ALL {
        let count = nat.state().refusals().get(refusal);
        if count > 0 {
            rows.push((format!("refused: {}", refusal.name()), count, None, None));
        }
    }
    rows
}

/// Lists the mappings of a slice of slots from `skip` on; how many slots were looked at.
pub fn mappings(
    worker: &mut NfWorker,
    chain: usize,
    name: &str,
    skip: usize,
    listing: &mut Listing,
) -> usize {
    let Some(nat) = worker.engine.slow.chain(chain).and_then(|chain| chain.function::<Nat>(name)) else {
        return 0;
    };
    let (mappings, next) = nat.mappings(skip, SLICE);
    for mapping in mappings {
        listing.push([
            name.into(),
            mapping.inside.protocol.name().into(),
            mapping.inside.endpoint.to_string().into(),
            mapping.external.to_string().into(),
            mapping.is_static.into(),
            mapping.sessions.into(),
        ]);
    }
    if next.is_some() { SLICE } else { 0 }
}
