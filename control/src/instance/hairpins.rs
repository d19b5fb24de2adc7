//! The ports by which hairpins go from one share of the connections to another: one for each NAT, with a queue for each share.

use millrace_dataplane::port::Port;
use millrace_dataplane::port::loopback::LoopbackPort;

use crate::config::{Chain, Config, FunctionKind};

/// The name of the port for a NAT, which no configured port can have.
pub(crate) fn port_name(nat: &str) -> String {
    format!("(hairpins of {nat})")
}

/// The NAT of a chain.
pub(crate) fn nat_of<'a>(config: &Config, chain: &'a Chain) -> Option<&'a str> {
    let is_nat = |name: &&String| {
        matches!(config.function(name).map(|function| &function.kind), Some(FunctionKind::Nat(_)))
    };
    chain.functions.iter().find(is_nat).map(String::as_str)
}

/// The chains whose NAT has such a port, with the port's name: all, where several shares own connections.
pub(crate) fn ports(config: &Config) -> impl Iterator<Item = (&Chain, String)> {
    let chains = config.chains.iter().filter(|_| config.workers.owners() > 1);
    chains.filter_map(|chain| Some((chain, port_name(nat_of(config, chain)?))))
}

/// Opens one.
pub(crate) fn open(config: &Config, name: &str) -> Vec<Box<dyn Port>> {
    let queue = |_| Box::new(LoopbackPort::new(name, "between shares")) as Box<dyn Port>;
    (0..config.workers.count()).map(queue).collect()
}
