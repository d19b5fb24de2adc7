//! `[functions.NAME]` of kind `inspect`: patterns that are looked for in payloads.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use millrace_nf::inspect::{self as nf, PATTERN_BYTES_MAX, PATTERNS_MAX, PatternError};

use super::context::{Context, Finding};
use super::names::name;
use super::network::{ICMP, ICMPV6, TCP, UDP, protocol, show_protocol};
use super::places::join;
use super::schema;
use super::section::{Invalid, Scalar, Section, narrow};
use super::units::ports;
use super::{Config, FunctionKind, Host};

/// What becomes of a packet that holds a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is dropped.
    Drop,
    /// It passes, and is counted.
    Count,
}

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Its name, unique in the function; `pattern-N` by position (from 1) when none was given.
    pub name: String,
    /// What is looked for: the bytes of `text`, or those that `hex` spells.
    pub bytes: Vec<u8>,
    /// ASCII letters of either case are taken as one.
    pub ignore_case: bool,
    /// IANA numbers of the protocols in whose packets it is looked for; all of TCP, UDP, ICMP and ICMPv6 when empty.
    pub protocols: Vec<u8>,
    /// The source or the destination port is in one of these ranges (TCP and UDP); any when empty.
    pub ports: Vec<RangeInclusive<u16>>,
    /// What becomes of packets that hold it.
    pub action: Action,
}

/// An inspecting function's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspect {
    /// The patterns.
    pub patterns: Vec<Pattern>,
    /// The core that it works on, where no worker is; `None`: in the turns of the workers.
    pub core: Option<usize>,
}

const ACTIONS: [(&str, Action); 2] = [("drop", Action::Drop), ("count", Action::Count)];
const TEXT: &str = "text = \"STRING\" or hex = \"0a 1b ...\"";

/// Reads an inspecting function.
pub(crate) fn read_inspect(section: &Section<'_>) -> Inspect {
    let patterns = section
        .tables("patterns", &schema::PATTERN, |pattern, position| Some(read_pattern(pattern, position)));
    check_names(section, &patterns);
    let core = section.integer("core", 0..=4_095).map(narrow);
    Inspect { patterns, core }
}

fn check_names(section: &Section<'_>, patterns: &[Pattern]) {
    let mut seen = HashMap::new();
    for (index, pattern) in patterns.iter().enumerate() {
        if let Some(first) = seen.insert(pattern.name.as_str(), index) {
            let path = section.context.item(&section.key("patterns"), index);
            let message = format!("two patterns are named `{}`", pattern.name);
            let finding =
                Finding::error(format!("{path}.name"), message).found(format!("\"{}\"", pattern.name));
            let first = section.context.item(&section.key("patterns"), first);
            section.context.push(finding.valid("a name of its own").help(format!("the other is {first}")));
        }
    }
}

fn read_pattern(section: &Section<'_>, position: usize) -> Pattern {
    section.require("action", "action = \"drop\" or \"count\"");
    let protocols = section.list("protocol", inspected_protocol).unwrap_or_default();
    let pattern = Pattern {
        name: section.parsed("name", name).unwrap_or_else(|| format!("pattern-{}", position + 1)),
        bytes: read_bytes(section),
        ignore_case: section.boolean("ignore_case").unwrap_or(false),
        ports: section.list("ports", ports).unwrap_or_default(),
        protocols,
        action: section.choice("action", &ACTIONS).unwrap_or(Action::Count),
    };
    let have_ports = pattern.protocols.iter().all(|it| matches!(*it, TCP | UDP));
    if section.has("ports") && !have_ports {
        let finding = Finding::error(section.key("ports"), "only TCP and UDP have ports").at_key();
        let found = pattern.protocols.iter().map(|&it| show_protocol(it)).collect::<Vec<_>>().join(", ");
        section.context.push(finding.found(found).valid("protocol = \"tcp\", \"udp\" or both, or none"));
    }
    pattern
}

fn inspected_protocol(scalar: Scalar<'_>) -> Result<u8, Invalid> {
    let valid = "\"tcp\", \"udp\", \"icmp\", \"icmpv6\"";
    match protocol(scalar) {
        Ok(number @ (TCP | UDP | ICMP | ICMPV6)) => Ok(number),
        Ok(_) => Err(Invalid::new("payloads of this protocol are not looked at", valid)),
        Err(invalid) => Err(Invalid { valid: valid.to_owned(), ..invalid }),
    }
}

/// What is looked for: one of `text` and `hex`.
fn read_bytes(section: &Section<'_>) -> Vec<u8> {
    let text = section.parsed("text", |scalar| match scalar {
        Scalar::Text(text) => bounded(text.as_bytes().to_vec()),
        Scalar::Number(_) => Err(Invalid::new("expected a string, found a number", TEXT)),
    });
    let hex = section.parsed("hex", hex);
    match (section.has("text"), section.has("hex")) {
        (false, false) => section.require("text", TEXT),
        (true, true) => {
            let finding = Finding::error(section.key("hex"), "a pattern is either `text` or `hex`").at_key();
            section.context.push(finding.found("both").valid(TEXT));
        }
        _ => {}
    }
    text.or(hex).unwrap_or_default()
}

fn bounded(bytes: Vec<u8>) -> Result<Vec<u8>, Invalid> {
    match bytes.len() {
        1..=PATTERN_BYTES_MAX => Ok(bytes),
        found => Err(Invalid::new(
            format!("the pattern has {found} bytes"),
            format!("1 to {PATTERN_BYTES_MAX} bytes: {TEXT}"),
        )),
    }
}

/// Bytes in hexadecimal digits, two each, with or without spaces between them.
fn hex(scalar: Scalar<'_>) -> Result<Vec<u8>, Invalid> {
    let valid = "pairs of hexadecimal digits, as \"de ad be ef\" or \"deadbeef\"";
    let Scalar::Text(text) = scalar else {
        return Err(Invalid::new("expected a string, found a number", valid).help("put it in quotes"));
    };
    let digits: Option<Vec<u8>> = (text.chars().filter(|letter| !letter.is_whitespace()))
        .map(|letter| letter.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => bounded(
            digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect(),
        ),
        Some(digits) => Err(Invalid::new(format!("{} digits make no whole bytes", digits.len()), valid)),
        None => Err(Invalid::new("these are no hexadecimal digits", valid)),
    }
}

/// The patterns, ready to be looked for.
///
/// # Errors
/// The first that can't be.
pub fn patterns(inspect: &Inspect) -> Result<nf::Patterns, PatternError> {
    let action = |action| match action {
        Action::Drop => nf::Action::Drop,
        Action::Count => nf::Action::Count,
    };
    let convert = |it: &Pattern| nf::Pattern {
        name: it.name.clone(),
        bytes: it.bytes.clone(),
        ignore_case: it.ignore_case,
        protocols: it.protocols.clone(),
        ports: it.ports.clone(),
        action: action(it.action),
    };
    nf::Patterns::new(inspect.patterns.iter().map(convert).collect())
}

/// Notes the first pattern of each function that its table has no room for, or that costs too much.
pub(super) fn check(context: &Context<'_>, config: &Config) {
    for function in &config.functions {
        let FunctionKind::Inspect(inspect) = &function.kind else { continue };
        let Err(error) = patterns(inspect) else { continue };
        let list = format!("{}.patterns", join("functions", &function.name));
        let path = error.at().map_or_else(|| list.clone(), |at| context.item(&list, at));
        let finding = Finding::error(path, error.to_string()).at_key();
        let found = format!("{} patterns", inspect.patterns.len());
        context.push(finding.found(found).valid(format!(
            "at most {PATTERNS_MAX} patterns, {} in all, of which at most {} end alike",
            super::units::show_size(nf::PATTERNS_BYTES_MAX as u64),
            nf::PATTERNS_ENDING_ALIKE_MAX
        )));
    }
}

/// Checks that functions with a core have it for themselves.
pub(super) fn check_cores(context: &Context<'_>, config: &Config, host: &Host) {
    let show = |cores: &[usize]| cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let usable = host.cores.as_deref();
    let (workers, unsaid) = match &config.workers.cores {
        Some(cores) => (cores.clone(), ""),
        // Where it is then: see `workers.cores`.
        None => (
            usable.and_then(|cores| cores.last().copied()).into_iter().collect(),
            ", as workers.cores is not given",
        ),
    };
    let mut others: Vec<(usize, &str)> = Vec::new();
    for function in &config.functions {
        let FunctionKind::Inspect(Inspect { core: Some(core), .. }) = function.kind else { continue };
        let path = format!("{}.core", join("functions", &function.name));
        let taken: Vec<usize> = workers.iter().copied().chain(others.iter().map(|(core, _)| *core)).collect();
        let message = if usable.is_some_and(|cores| !cores.contains(&core)) {
            format!("there is no core {core} that this process may use")
        } else if workers.contains(&core) {
            format!("a worker is on core {core}{unsaid}: each would take the other's time")
        } else if let Some((_, other)) = others.iter().find(|(of, _)| *of == core) {
            format!("`{other}` is on core {core}: each would take the other's time")
        } else {
            others.push((core, &function.name));
            continue;
        };
        let finding = Finding::error(path, message).found(core.to_string());
        let free =
            usable.map(|cores| cores.iter().copied().filter(|it| !taken.contains(it)).collect::<Vec<_>>());
        context.push(match free.as_deref() {
            None => finding.valid("a core of its own, or no such key"),
            Some([]) => finding.valid("no such key: no core is free"),
            Some(free) => finding.valid(format!("{}, or no such key", show(free))),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelt_in_hexadecimal() {
        let read = |text: &'static str| hex(Scalar::Text(text));
        assert_eq!(read("de ad BE ef").unwrap(), [0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(read("00").unwrap(), [0]);
        for text in ["", "0", "0g", "0x00", "--"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(hex(Scalar::Number(10)).is_err());
        assert!(
            bounded(vec![0; PATTERN_BYTES_MAX]).is_ok() && bounded(vec![0; PATTERN_BYTES_MAX + 1]).is_err()
        );
    }

    /// Text of what is wrong with functions on these cores, of a machine with so many.
    fn cores(machine: usize, workers: &str, of: &[usize]) -> String {
        let names: Vec<String> = (0..of.len()).map(|at| format!("ids{at}")).collect();
        let list: String = names.iter().map(|name| format!("\"{name}\", ")).collect();
        let mut text =
            include_str!("../../../configs/generator.toml").replace("\"nat\", ", &format!("{list}\"nat\", "));
        text += workers;
        for (name, core) in names.iter().zip(of) {
            text += &format!("\n[functions.{name}]\nkind = \"inspect\"\ncore = {core}\n");
        }
        let host = Host { cores: Some((0..machine).collect()), ..Host::default() };
        crate::config::parse("cores.toml".as_ref(), &text, &host).report.to_string()
    }

    #[test]
    fn more_functions_than_cores_are_refused_and_said() {
        let one = "\n[workers]\ncores = [0]\n";
        assert_eq!(cores(4, one, &[1, 2, 3]), "cores.toml: 0 errors, 0 warnings");
        let said = cores(2, one, &[1, 2]);
        assert!(said.contains("functions.ids1.core") && said.contains("there is no core 2"), "{said}");
        assert!(said.contains("no such key: no core is free"), "{said}");
        let said = cores(3, one, &[1, 1]);
        assert!(said.contains("`ids0` is on core 1") && said.contains("2, or no such key"), "{said}");
        // Without `workers.cores` the worker is on the last one.
        let said = cores(2, "", &[1]);
        assert!(said.contains("a worker is on core 1, as workers.cores is not given"), "{said}");
        assert!(said.contains("0, or no such key"), "{said}");
    }
}
