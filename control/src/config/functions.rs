//! `[functions.NAME]`: instances of network functions.

use super::chains::Chain;
use super::firewall::{Firewall, read_firewall};
use super::inspect::{Inspect, read_inspect};
use super::kind;
use super::names::check_name;
use super::nat::{Nat, read_nat};
use super::places::join;
use super::router::{Router, read_router};
use super::schema::{self, Schema};
use super::section::Section;

/// A function with its own state, used by one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its kind with the settings of that kind.
    pub kind: FunctionKind,
}

/// The kinds of functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// Lets connections through by rules.
    Firewall(Firewall),
    /// Translates addresses and ports.
    Nat(Nat),
    /// Looks for patterns in payloads.
    Inspect(Inspect),
    /// Forwards by destination.
    Router(Router),
}

impl FunctionKind {
    /// The word for it in `kind`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Firewall(_) => "firewall",
            Self::Nat(_) => "nat",
            Self::Inspect(_) => "inspect",
            Self::Router(_) => "router",
        }
    }

    /// Whether it decides where packets leave: such a function ends a chain.
    pub fn forwards(&self) -> bool {
        matches!(self, Self::Router(_))
    }

    /// Whether it works on payloads: such a function splits its chain into segments.
    pub fn splits(&self) -> bool {
        matches!(self, Self::Inspect(_))
    }

    /// Whether connections depend on what it keeps of them.
    pub fn keeps_connections(&self) -> bool {
        matches!(self, Self::Firewall(_) | Self::Nat(_))
    }
}

const KINDS: [(&str, &Schema); 4] = [
    ("firewall", &schema::FIREWALL),
    ("nat", &schema::NAT),
    ("inspect", &schema::INSPECT),
    ("router", &schema::ROUTER),
];

/// The names of all functions, broken ones included.
pub(crate) fn declared(root: &Section<'_>) -> Vec<String> {
    root.named("functions").into_iter().map(|(name, ..)| name.to_owned()).collect()
}

/// Reads all functions; what they refer to is looked up in the chain that uses them.
pub(crate) fn read_functions(root: &Section<'_>, chains: &[Chain], ports: &[String]) -> Vec<Function> {
    let mut functions = Vec::new();
    let names = declared(root);
    for (name, path, value) in root.named("functions") {
        check_name(root.context, &path, name);
        let Some(section) = kind::read(root.context, &path, value, &KINDS, &names) else { continue };
        let chain = chains.iter().find(|chain| chain.functions.iter().any(|function| function == name));
        let word = section.choice("kind", &[("firewall", 0), ("nat", 1), ("inspect", 2), ("router", 3)]);
        let kind = match word {
            Some(0) => FunctionKind::Firewall(read_firewall(&section, chain)),
            Some(1) => FunctionKind::Nat(read_nat(&section, chain)),
            Some(2) => FunctionKind::Inspect(read_inspect(&section)),
            Some(_) => {
                // A zone that names no port, or the wrong one, would accuse the router of its own error.
                let zones = |chain: &Chain| format!("{}.zones", join("chains", &chain.name));
                match chain.filter(|chain| root.context.has_errors_under(&zones(chain))) {
                    Some(broken) => {
                        let named = ports.iter().map(String::as_str).chain(broken.ports());
                        let named: Vec<String> = named.map(str::to_owned).collect();
                        FunctionKind::Router(read_router(&section, None, &named))
                    }
                    None => FunctionKind::Router(read_router(&section, chain, ports)),
                }
            }
            None => continue,
        };
        functions.push(Function { name: name.to_owned(), kind });
    }
    functions
}
