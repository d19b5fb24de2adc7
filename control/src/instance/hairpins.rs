//! The ports by which hairpins go from one share of the connections to another: one for each NAT with `hairpinning`, with a queue for
//! each share.

use millrace_dataplane::port::Port;
use millrace_dataplane::port::loopback::LoopbackPort;

use crate::config::{Chain, Config};

/// The name of the port for a NAT, which no configured port can have.
pub(crate) fn port_name(nat: &str) -> String {
    format!("(hairpins of {nat})")
}

/// The NAT of a chain.
pub(crate) fn nat_of<'a>(config: &Config, chain: &'a Chain) -> Option<&'a str> {
    chain.functions.iter().find(|name| config.nat(name).is_some()).map(String::as_str)
}

/// The chains whose NAT has such a port, with the port's name.
pub(crate) fn ports(config: &Config) -> impl Iterator<Item = (&Chain, String)> {
    config.hairpins().map(|(chain, nat)| (chain, port_name(nat)))
}

/// Opens one.
pub(crate) fn open(config: &Config, name: &str) -> Vec<Box<dyn Port>> {
    let queue = |_| Box::new(LoopbackPort::new(name, "between shares")) as Box<dyn Port>;
    (0..config.workers.count()).map(queue).collect()
}
