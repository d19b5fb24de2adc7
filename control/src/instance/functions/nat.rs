//! NATs.

use std::net::SocketAddrV4;
use std::sync::Arc;

use millrace_nf::chain::Chain;
use millrace_nf::nat::filter::Filtering;
use millrace_nf::nat::forward::Forward;
use millrace_nf::nat::mss::MssClamp;
use millrace_nf::nat::plan::{NatPlan, NatSettings, PoolRange};
use millrace_nf::nat::secret::Secret;
use millrace_nf::nat::state::Capacity;
use millrace_nf::nat::tuple::Protocol;
use millrace_nf::nat::{Nat, NatConfig};

use super::{Context, Counter};
use crate::config::nat::{self as settings};
use crate::config::network::TCP;
use crate::instance::{InstanceError, NfWorker};
use crate::management::Listing;
use crate::management::show::SLICE;

/// Mappings that only static forwards may use.
const MAPPINGS_STATIC: usize = 4_096;

/// Makes a NAT with room for as many mappings as there can be sessions.
///
/// # Errors
/// All that the plan finds wrong, in a line.
pub fn build(context: &Context<'_>, name: &str, settings: &settings::Nat) -> Result<Nat, InstanceError> {
    let sessions = context.config.sessions.capacity as usize;
    let capacity = Capacity {
        // More than sessions, so that a full session table makes room before the NAT refuses.
        mappings: (sessions + sessions / 64 + 64 + MAPPINGS_STATIC).min(1 << 24),
        mappings_static: MAPPINGS_STATIC,
        subscribers: sessions.min(Capacity::default().subscribers),
        contacts: sessions,
    };
    let secret = context.seed.map_or_else(Secret::random, |seed| Secret::from_key([seed, !seed]));
    Ok(Nat::new(config(context, name, settings)?, &capacity, &secret))
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
            domain: 0,
            inside: SocketAddrV4::new(internal.address, *internal.ports.start()),
        }
    };
    let plan = NatPlan::new(NatSettings {
        pool: pool.collect(),
        ports: (*settings.port_range.start(), *settings.port_range.end()),
        filtering: match settings.filtering {
            settings::Filtering::EndpointIndependent => Filtering::EndpointIndependent,
            settings::Filtering::AddressDependent => Filtering::AddressDependent,
            settings::Filtering::AddressAndPortDependent => Filtering::AddressAndPortDependent,
        },
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
