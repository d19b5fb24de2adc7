//! `[chains.NAME]`: which functions the packets between groups of ports pass.

use super::context::Finding;
use super::diagnostic::count;
use super::names::{check_name, check_reference, reference};
use super::schema;
use super::section::Section;

/// The zone that stands for the data plane's own addresses in rules.
pub const LOCAL_ZONE: &str = "local";
/// Most zones of a chain.
const ZONES_MAX: usize = 16;

/// A group of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<String>,
}

/// A chain of functions between zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Instances of functions, in the order in which packets from inside to outside pass them; the last forwards.
    pub functions: Vec<String>,
    /// Its zones from the innermost to the outermost.
    pub zones: Vec<Zone>,
}

impl Chain {
    /// The zone with this name.
    pub fn zone(&self, name: &str) -> Option<&Zone> {
        self.zones.iter().find(|zone| zone.name == name)
    }

    /// All ports of the chain.
    pub fn ports(&self) -> impl Iterator<Item = &str> {
        self.zones.iter().flat_map(|zone| zone.ports.iter().map(String::as_str))
    }

    /// The zone that a port is in.
    pub fn zone_of(&self, port: &str) -> Option<&Zone> {
        self.zones.iter().find(|zone| zone.ports.iter().any(|name| name == port))
    }
}

/// Reads all chains; references to ports and functions are checked against the declared names.
pub(crate) fn read_chains(root: &Section<'_>, ports: &[String], functions: &[String]) -> Vec<Chain> {
    let context = root.context;
    let mut chains = Vec::new();
    for (name, path, value) in root.named("chains") {
        check_name(context, &path, name);
        let Some(section) = Section::open(context, path, &schema::CHAIN, value) else { continue };
        section.require("functions", "functions = [\"NAME\", ...], the last one a router");
        section.require("zones", "zones.inside = [\"PORT\"] and zones.outside = [\"PORT\"]");
        let functions_read = section.list("functions", reference).unwrap_or_default();
        for (index, function) in functions_read.iter().enumerate() {
            let path = context.item(&section.key("functions"), index);
            check_reference(context, &path, "function", function, functions);
        }
        let zones = read_zones(&section, ports);
        chains.push(Chain { name: name.to_owned(), functions: functions_read, zones });
    }
    if chains.is_empty() && !root.has("chains") {
        let finding = Finding::error("chains", "no chain is defined").at_key();
        context.push(finding.valid("at least one table [chains.NAME] with `functions` and `zones`"));
    }
    chains
}

fn read_zones(chain: &Section<'_>, ports: &[String]) -> Vec<Zone> {
    let context = chain.context;
    let mut zones: Vec<Zone> = Vec::new();
    for (name, path, value) in chain.named("zones") {
        check_name(context, &path, name);
        if matches!(name, LOCAL_ZONE | "any") {
            let finding = Finding::error(&path, format!("`{name}` is a reserved word in rules")).at_key();
            context.push(finding.found(format!("`{name}`")).valid("any other name, as `inside`"));
        }
        let members = Section::list_of(context, &path, value, reference);
        for (index, port) in members.iter().enumerate() {
            check_reference(context, &context.item(&path, index), "port", port, ports);
        }
        zones.push(Zone { name: name.to_owned(), ports: members });
    }
    check_zones(chain, &zones);
    zones
}

fn check_zones(chain: &Section<'_>, zones: &[Zone]) {
    if !chain.has("zones") {
        return;
    }
    let path = chain.key("zones");
    if !(2..=ZONES_MAX).contains(&zones.len()) {
        let found = count(zones.len(), "zone");
        let finding = Finding::error(&path, "a chain joins at least two zones").at_key();
        chain.context.push(finding.found(found).valid(format!(
            "2 to {ZONES_MAX} zones, the innermost first, as zones.inside = [\"lan\"] and zones.outside = [\"wan\"]"
        )));
    }
    let position = |name: &str| zones.iter().position(|zone| zone.name == name);
    if let (Some(inside), Some(outside)) = (position("inside"), position("outside"))
        && outside < inside
    {
        let message = "`outside` stands before `inside`: packets would pass the chain the wrong way round";
        let finding = Finding::warning(super::places::join(&path, "outside"), message).at_key();
        chain.context.push(finding.valid("the innermost zone first, the outermost last"));
    }
}
