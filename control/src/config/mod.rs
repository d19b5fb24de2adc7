//! The configuration: TOML in, plain types out, and every error at once.
//!
//! 1. `syntax` explains what is no TOML; `places` notes where each key stands, so that later steps speak of keys by path alone.
//! 2. `section` reads typed values table by table and collects what is wrong; `schema` lists the keys.
//! 3. `settings`, `ports`, `chains` and `functions` with a file a kind make the types below.
//! 4. `references`, `addressing`, `shadow`, `shares` and `sizing` check what no single key can show.
//! 5. `host` compares it with the machine (`host_stack` is `[host]`); `plan` says what would run.
//!
//! [`Config`] holds nothing of TOML and is compared with `==`: `apply` finds changes by names.

mod addressing;
pub mod chains;
mod context;
pub(crate) mod deal;
pub mod diagnostic;
mod fault;
pub mod firewall;
pub mod functions;
pub mod generator;
pub mod host;
pub mod host_stack;
pub mod inspect;
pub mod kernel_ports;
mod kind;
mod link;
mod names;
pub mod nat;
pub mod network;
mod places;
pub mod plan;
pub mod ports;
pub mod probe;
mod references;
pub mod router;
pub mod rule_set;
pub mod schema;
mod section;
pub mod settings;
mod shadow;
mod shares;
pub mod sizing;
mod suggest;
mod syntax;
pub mod units;

use std::io::Read;
use std::path::Path;

use toml::de::DeTable;

pub use self::chains::{Chain, Zone};
pub use self::diagnostic::{Diagnostic, LeftOut, Report, Severity};
pub use self::functions::{Function, FunctionKind};
pub use self::host::Host;
pub use self::host_stack::HostStack;
pub use self::plan::Plan;
pub use self::ports::{Port, PortKind};
pub use self::router::Router;
pub use self::settings::{Log, Management, Memory, Metrics, Sessions, VerifyChecksums, Workers};

use self::context::{Context, Finding};
use self::places::{Places, join};
use self::section::Section;

/// A whole configuration, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Packet memory.
    pub memory: Memory,
    /// Threads.
    pub workers: Workers,
    /// Session table, flow cache and timeouts.
    pub sessions: Sessions,
    /// Which received checksums are verified.
    pub verify_checksums: VerifyChecksums,
    /// The management socket.
    pub management: Management,
    /// Where metrics are served.
    pub metrics: Metrics,
    /// What is logged.
    pub log: Log,
    /// What is served on our own addresses.
    pub host: HostStack,
    /// Ports in the order of the file, then those to the host stack.
    pub ports: Vec<Port>,
    /// Chains in the order of the file.
    pub chains: Vec<Chain>,
    /// Functions in the order of the file.
    pub functions: Vec<Function>,
}

impl Config {
    /// The port with this name.
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }

    /// Functions of chains that have a core of their own, with it.
    pub fn stages(&self) -> impl Iterator<Item = (&str, usize)> {
        let functions = self.chains.iter().flat_map(|chain| &chain.functions);
        functions.filter_map(|name| match &self.function(name)?.kind {
            FunctionKind::Inspect(inspect) => Some((name.as_str(), inspect.core?)),
            _ => None,
        })
    }

    /// Chains whose NAT turns hairpins round from share to share, with its name: where several shares own connections, and its
    /// `hairpinning` is on.
    pub fn hairpins(&self) -> impl Iterator<Item = (&Chain, &str)> {
        let chains = self.chains.iter().filter(|_| self.workers.owners() > 1);
        chains.filter_map(|chain| {
            let name = chain.functions.iter().find(|name| self.nat(name).is_some())?;
            self.nat(name)?.hairpinning.then_some((chain, name.as_str()))
        })
    }

    /// The NAT with this name.
    pub fn nat(&self, name: &str) -> Option<&nat::Nat> {
        match &self.function(name)?.kind {
            FunctionKind::Nat(nat) => Some(nat),
            _ => None,
        }
    }

    /// Leaves one worker that does all, for runs in which nothing happens at the same time.
    pub fn keep_one_worker(&mut self) {
        self.workers.keep_one();
        for function in &mut self.functions {
            if let FunctionKind::Inspect(inspect) = &mut function.kind {
                inspect.core = None;
            }
        }
    }

    /// The function with this name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|function| function.name == name)
    }

    /// The chain that uses this function.
    pub fn chain_of(&self, function: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.functions.iter().any(|name| name == function))
    }

    /// The chain that this port belongs to.
    pub fn chain_of_port(&self, port: &str) -> Option<&Chain> {
        let leads_to_host = |chain: &Chain| self.host_port_of(chain).is_some_and(|host| host.name == port);
        self.chains.iter().find(|chain| chain.zone_of(port).is_some() || leads_to_host(chain))
    }

    /// The port to the host stack of a chain, if it has one.
    pub fn host_port_of(&self, chain: &Chain) -> Option<&Port> {
        self.port(&host_stack::port_name(&chain.name))
    }

    /// The router that ends a chain.
    pub fn router_of(&self, chain: &Chain) -> Option<&Router> {
        chain.functions.last().and_then(|name| self.function(name)).and_then(|function| {
            match &function.kind {
                FunctionKind::Router(router) => Some(router),
                _ => None,
            }
        })
    }
}

/// What came of reading a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The configuration, unless there are errors.
    pub config: Option<Config>,
    /// Errors and warnings.
    pub report: Report,
}

/// Largest file that is read, in bytes: far above any sensible configuration.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads and checks the file at `path` for `host`.
pub fn load(path: &Path, host: &Host) -> Checked {
    let whole_file = |message: String| {
        let context = Context::new(path, "", Places::default());
        context.push(Finding::error("", message));
        Checked { config: None, report: context.report() }
    };
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return whole_file(format!("cannot read the configuration: {error}"));
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return whole_file(format!("the file is larger than {}", units::show_size(FILE_BYTES_MAX)));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(path, &text, host),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            whole_file(format!("the file is not UTF-8: line {line} holds a byte that is no character"))
        }
    }
}

/// Checks the text of a configuration for `host`. `path` names it in messages, and relative paths of
/// captures start at its directory. Never panics, whatever the text.
pub fn parse(path: &Path, text: &str, host: &Host) -> Checked {
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    let context = Context::new(path, text, Places::of(document.get_ref()));
    let lines = syntax::note(&context, &syntax_errors);
    let config = match lines {
        // The damage may reach beyond a line: what could be read of the rest would mislead.
        None => None,
        Some(lines) => {
            context.note_damage(&lines);
            let config = read(&context, document.get_ref(), host, lines.is_empty());
            context.forgive();
            Some(config)
        }
    };
    let config = config.filter(|_| !context.has_errors());
    Checked { config, report: context.report() }
}

fn read<'a>(context: &'a Context<'a>, document: &'a DeTable<'a>, host: &Host, whole: bool) -> Config {
    let root = Section::root(context, &schema::ROOT, document);
    let (mut ports, port_names) = ports::read_ports(&root);
    let function_names = functions::declared(&root);
    let chains = chains::read_chains(&root, &port_names, &function_names);
    let functions = functions::read_functions(&root, &chains, &port_names);
    let host_stack = host_stack::read_host(&root, &chains);
    ports.extend(host_stack.ports());
    let config = Config {
        memory: settings::read_memory(&root),
        workers: settings::read_workers(&root, host.shares),
        sessions: settings::read_sessions(&root),
        verify_checksums: settings::read_checksums(&root),
        management: settings::read_management(&root),
        metrics: settings::read_metrics(&root),
        log: settings::read_log(&root),
        host: host_stack,
        ports,
        chains,
        functions,
    };
    if whole && !root.has_mistyped_tables() {
        references::check(context, &config);
        addressing::check(context, &config);
        sizing::check(context, &config);
        shares::check(context, &config);
        host_stack::check(context, &config);
        host::check(context, &config, host);
        inspect::check_cores(context, &config, host);
    }
    if !context.has_errors() {
        rule_set::check(context, &config);
        inspect::check(context, &config);
    }
    // Warnings beside errors would often be their consequences.
    if !context.has_errors() {
        references::check_unused(context, &config);
        host_stack::check_reach(context, &config);
        for function in &config.functions {
            if let FunctionKind::Firewall(firewall) = &function.kind {
                shadow::check(context, &join("functions", &function.name), firewall);
            }
        }
    }
    config
}

/// Something that is wrong with a configuration as the instance sees it, beyond what its text shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    key: String,
    message: String,
    valid: Option<String>,
    help: Option<String>,
}

impl Problem {
    /// What is wrong with the value of `key`, a path such as `functions.nat.pool`.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into(), valid: None, help: None }
    }

    /// What is wrong, without its place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Says what may stand there.
    #[must_use]
    pub fn valid(self, valid: impl Into<String>) -> Self {
        Self { valid: Some(valid.into()), ..self }
    }

    /// Says what to do.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// Problems of the configuration in `text` with their places in it, like those that [`parse`] reports.
pub fn report(path: &Path, text: &str, problems: &[Problem]) -> Report {
    let (document, _) = DeTable::parse_recoverable(text);
    let context = Context::new(path, text, Places::of(document.get_ref()));
    for Problem { key, message, valid, help } in problems {
        let mut finding = Finding::error(key.as_str(), message.as_str()).maybe_help(help.clone());
        finding = match context.found(key) {
            Some(found) => finding.found(found),
            None => finding.found("no such key: the default").at_key(),
        };
        context.push(match valid {
            Some(valid) => finding.valid(valid.as_str()),
            None => finding,
        });
    }
    context.report()
}

#[cfg(test)]
mod tests;
