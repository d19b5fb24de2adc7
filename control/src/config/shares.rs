//! What several shares of connections ask of the functions that they have in common.

use millrace_nf::nat::PortShare;

use super::Config;
use super::context::{Context, Finding};
use super::functions::FunctionKind;
use super::places::join;

/// Checks that every share of connections can do its part.
pub(crate) fn check(context: &Context<'_>, config: &Config) {
    let owners = config.workers.owners();
    if owners == 1 {
        return;
    }
    for chain in &config.chains {
        let nats = chain.functions.iter().filter_map(|name| match &config.function(name)?.kind {
            FunctionKind::Nat(nat) => Some((name, nat)),
            _ => None,
        });
        for (at, (name, nat)) in nats.enumerate() {
            let path = join("functions", name);
            if at > 0 {
                let message = "several shares find their packets by one NAT of a chain";
                let finding = Finding::error(&path, message).at_key();
                context.push(finding.valid("one NAT in each chain, or workers.shares = 1"));
            }
            let (first, last) = (*nat.port_range.start(), *nat.port_range.end());
            let has_ports = |share| PortShare::new(share as u8, owners as u8).has_any(first, last);
            if !(0..owners).all(has_ports) {
                let message = format!("the ports are too few for {owners} shares");
                let finding = Finding::error(join(&path, "port_range"), message);
                context.push(
                    finding.found(format!("{first}-{last}")).valid("a block of 64 ports for each share"),
                );
            }
        }
    }
}
