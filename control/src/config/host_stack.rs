//! `[host]`: what the data plane serves on its own addresses.

use std::net::IpAddr;

use millrace_dataplane::limits::PORTS_MAX;
use millrace_nf::router::HostService;

use super::chains::Chain;
use super::context::{Context, Finding};
use super::firewall::{Action, Firewall, Rule, ZoneRef};
use super::names::{check_reference, reference};
use super::network::{TCP, UDP, address};
use super::ports::{Port, PortKind};
use super::probe::{Probe, read_probes};
use super::schema;
use super::section::{Section, narrow, words};
use super::{Config, FunctionKind, Router};

/// The port of the echo service (RFC 862).
pub const ECHO_PORT: u16 = 7;

/// The status page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its TCP port.
    pub port: u16,
    /// The own addresses that it is at; all if empty.
    pub addresses: Vec<IpAddr>,
}

/// `[host]`: the host stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostStack {
    /// The chains that have one.
    pub chains: Vec<String>,
    /// Whether TCP and UDP are echoed (RFC 862).
    pub echo: bool,
    /// The status page.
    pub status: Option<Status>,
    /// What is asked of hosts, through the chains.
    pub probes: Vec<Probe>,
}

impl HostStack {
    /// What is served; the router refuses all else.
    pub fn services(&self) -> Vec<HostService> {
        let echo = self.echo.then_some([TCP, UDP]).into_iter().flatten();
        let mut services: Vec<_> =
            echo.map(|protocol| HostService { protocol, port: ECHO_PORT, address: None }).collect();
        if let Some(Status { port, addresses }) = &self.status {
            let at = |address| HostService { protocol: TCP, port: *port, address };
            services.extend(addresses.iter().map(|address| at(Some(*address))));
            services.extend(addresses.is_empty().then(|| at(None)));
        }
        services
    }

    /// Whether it does anything.
    pub fn is_used(&self) -> bool {
        self.echo || self.status.is_some() || !self.probes.is_empty()
    }

    /// The ports that it needs: one for each of its chains.
    pub(crate) fn ports(&self) -> impl Iterator<Item = Port> + '_ {
        let chains = self.chains.iter().filter(|_| self.is_used());
        chains.map(|chain| Port { name: port_name(chain), kind: PortKind::Host(chain.clone()), fault: None })
    }
}

/// The name of the port that leads to the host stack of a chain: none that a configuration can have.
pub fn port_name(chain: &str) -> String {
    format!("host@{chain}")
}

/// Reads it; references to chains are checked.
pub(crate) fn read_host(root: &Section<'_>, chains: &[Chain]) -> HostStack {
    let Some(section) = root.section("host", &schema::HOST) else { return HostStack::default() };
    let known: Vec<&str> = chains.iter().map(|chain| chain.name.as_str()).collect();
    let named = section.list("chains", reference);
    for (index, name) in named.iter().flatten().enumerate() {
        let path = section.context.item(&section.key("chains"), index);
        check_reference(section.context, &path, "chain", name, &known);
    }
    let all = || known.iter().map(|&name| name.to_owned()).collect();
    let chains: Vec<String> = named.unwrap_or_else(all);
    HostStack {
        probes: read_probes(&section, &chains),
        chains,
        echo: section.boolean("echo").unwrap_or(false),
        status: section.section("status", &schema::STATUS).map(|status| read_status(&status)),
    }
}

fn read_status(section: &Section<'_>) -> Status {
    Status {
        port: section.integer("port", 1..=65_535).map_or(8_080, narrow),
        addresses: section.list("addresses", address).unwrap_or_default(),
    }
}

/// Checks it against ports, chains and routers.
pub(crate) fn check(context: &Context<'_>, config: &Config) {
    let host = &config.host;
    if config.ports.len() > PORTS_MAX && host.is_used() {
        let message =
            format!("a worker serves at most {PORTS_MAX} ports, and each chain here needs one more");
        context.push(
            Finding::error("host", message)
                .at_key()
                .found(format!("{} ports", config.ports.len()))
                .valid("fewer ports, or `chains` with fewer names"),
        );
    }
    let Some(status) = &host.status else { return };
    if host.echo && status.port == ECHO_PORT {
        let finding = Finding::error("host.status.port", "this is the port of the echo service");
        context.push(finding.found(ECHO_PORT.to_string()).valid("another port, or echo = false"));
    }
    let own: Vec<IpAddr> = routers(config).flat_map(|(_, router)| own_addresses(router)).collect();
    for (index, address) in status.addresses.iter().enumerate().filter(|(_, it)| !own.contains(it)) {
        let path = context.item("host.status.addresses", index);
        let finding = Finding::error(path, format!("{address} is no address of the data plane"));
        let own: Vec<_> = own.iter().map(ToString::to_string).collect();
        context.push(finding.found(format!("\"{address}\"")).valid(words(&own)));
    }
}

/// Notes what would never be reached because of a firewall, or for want of a route.
pub(crate) fn check_reach(context: &Context<'_>, config: &Config) {
    for (at, probe) in config.host.probes.iter().enumerate() {
        check_probe(context, config, &context.item("host.probes", at), probe);
    }
    let Some(status) = &config.host.status else { return };
    for chain in config.chains.iter().filter(|chain| config.host.chains.contains(&chain.name)) {
        let firewalls = chain.functions.iter().filter_map(|name| match &config.function(name)?.kind {
            FunctionKind::Firewall(firewall) => Some((name, firewall)),
            _ => None,
        });
        for (name, _) in firewalls.filter(|(_, firewall)| !admits(firewall, status.port)) {
            let message = format!("no rule of `{name}` lets anybody reach the status page");
            let finding = Finding::warning("host.status", message).at_key();
            let port = status.port;
            context.push(finding.help(format!(
                "add a rule to it, as {{ action = \"allow\", from = \"inside\", to = \"local\", protocol = \"tcp\", destination_ports = {port} }}"
            )));
        }
    }
}

fn check_probe(context: &Context<'_>, config: &Config, path: &str, probe: &Probe) {
    let Some(chain) = config.chains.iter().find(|chain| chain.name == probe.chain) else { return };
    let own =
        config.router_of(chain).is_some_and(|router| own_addresses(router).any(|it| it == probe.target));
    let reached = own || config.router_of(chain).is_some_and(|router| router.port_to(probe.target).is_some());
    if !reached {
        let message = format!("no way leads to {} in the chain `{}`", probe.target, chain.name);
        let finding = Finding::warning(format!("{path}.target"), message);
        context.push(finding.found(format!("\"{}\"", probe.target)).help("add a route to it"));
    }
    for name in &chain.functions {
        let Some(FunctionKind::Firewall(firewall)) = config.function(name).map(|it| &it.kind) else {
            continue;
        };
        let may = |rule: &Rule| {
            rule.action == Action::Allow && (rule.from.is_empty() || rule.from.contains(&ZoneRef::Local))
        };
        if firewall.default != Action::Allow && !firewall.rules.iter().any(may) {
            let message = format!("no rule of `{name}` lets the probe `{}` out", probe.name);
            let help = "add a rule to it, as { action = \"allow\", from = \"local\" }";
            context.push(Finding::warning(path, message).at_key().help(help));
        }
    }
}

fn admits(firewall: &Firewall, port: u16) -> bool {
    let may = |rule: &Rule| {
        rule.action == Action::Allow
            && (rule.to.is_empty() || rule.to.contains(&ZoneRef::Local))
            && (rule.protocols.is_empty() || rule.protocols.contains(&TCP))
            && (rule.destination_ports.is_empty()
                || rule.destination_ports.iter().any(|it| it.contains(&port)))
    };
    firewall.default == Action::Allow || firewall.rules.iter().any(may)
}

fn routers(config: &Config) -> impl Iterator<Item = (&Chain, &Router)> {
    let chains = config.chains.iter().filter(|chain| config.host.chains.contains(&chain.name));
    chains.filter_map(|chain| Some((chain, config.router_of(chain)?)))
}

fn own_addresses(router: &Router) -> impl Iterator<Item = IpAddr> + '_ {
    router.interfaces.iter().flat_map(|interface| interface.addresses.iter().map(|network| network.addr()))
}
