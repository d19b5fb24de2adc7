//! `[[host.probes]]`: what is asked of hosts to know whether they work.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::context::Finding;
use super::names::{name, reference};
use super::network::address;
use super::schema;
use super::section::{Invalid, Scalar, Section, narrow};
use super::units::{duration, show_duration};

/// What is asked of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// An echo request is to be answered.
    Icmp,
    /// A TCP connection is to be opened; it is reset then.
    Tcp {
        /// The port.
        port: u16,
    },
    /// An HTTP request is to be answered with a status that is expected.
    Http {
        /// The port.
        port: u16,
        /// The path that is asked for.
        path: String,
        /// What the `Host` header says.
        host: String,
        /// The statuses that are right.
        statuses: RangeInclusive<u16>,
    },
}

impl Check {
    /// Its kind, as the configuration names it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Tcp { .. } => "tcp",
            Self::Http { .. } => "http",
        }
    }

    /// The port that it calls.
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Icmp => None,
            Self::Tcp { port } | Self::Http { port, .. } => Some(*port),
        }
    }
}

/// A probe: whom it asks, what, and how answers are judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its name, unique in the configuration.
    pub name: String,
    /// The chain that it goes through.
    pub chain: String,
    /// Who is asked.
    pub target: IpAddr,
    /// What is asked.
    pub check: Check,
    /// From the beginning of a check to that of the next.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// So many good checks in a row make what is down come up.
    pub rise: u32,
    /// So many bad checks in a row make what is up go down.
    pub fall: u32,
}

/// Most probes.
const PROBES_MAX: usize = 256;
/// Longest path and host of a request, in bytes.
const TEXT_BYTES_MAX: usize = 256;

const KINDS: [(&str, u8); 3] = [("icmp", 0), ("tcp", 1), ("http", 2)];

/// Reads all probes of `[host]`, which go through one of `chains`.
pub(crate) fn read_probes(host: &Section<'_>, chains: &[String]) -> Vec<Probe> {
    let mut names: Vec<String> = Vec::new();
    host.tables("probes", &schema::PROBE, |section, index| {
        let probe = read_probe(section, chains);
        if index == PROBES_MAX {
            let finding = Finding::error(&section.path, "there are too many probes").at_key();
            section.context.push(finding.valid(format!("at most {PROBES_MAX}")));
        }
        if let Some(probe) = &probe {
            if names.contains(&probe.name) {
                let message = format!("the probe `{}` is there twice", probe.name);
                let finding = Finding::error(section.key("name"), message);
                section.context.push(finding.found(format!("\"{}\"", probe.name)).valid("a name of its own"));
            }
            names.push(probe.name.clone());
        }
        probe
    })
}

fn read_probe(section: &Section<'_>, chains: &[String]) -> Option<Probe> {
    section.require("name", "name = \"web\": what `show probes` calls it");
    section.require("target", "target = \"10.0.0.3\": the address of who is asked");
    section.require("kind", "kind = \"icmp\", \"tcp\" or \"http\"");
    let name = section.parsed("name", name);
    let target = section.parsed("target", |scalar| unicast(address(scalar)?));
    let check = read_check(section, target);
    let chain = read_chain(section, chains);
    let interval = section.parsed("interval", |scalar| within(duration(scalar)?, 100, 3_600_000));
    let interval = interval.unwrap_or(Duration::from_secs(5));
    let timeout = section.parsed("timeout", |scalar| within(duration(scalar)?, 10, 60_000));
    let usual = Duration::from_secs(1).min(interval);
    if let Some(timeout) = timeout.filter(|timeout| *timeout > interval) {
        let finding = Finding::error(section.key("timeout"), "a check must be over when the next one begins");
        let valid = format!("at most the interval, {}", show_duration(interval));
        section.context.push(finding.found(show_duration(timeout)).valid(valid));
    }
    let times = |key| section.integer(key, 1..=100).map(narrow);
    let (rise, fall) = (times("rise").unwrap_or(2), times("fall").unwrap_or(3));
    Some(Probe {
        name: name?,
        chain: chain?,
        target: target?,
        check: check?,
        interval,
        timeout: timeout.unwrap_or(usual),
        rise,
        fall,
    })
}

fn read_check(section: &Section<'_>, target: Option<IpAddr>) -> Option<Check> {
    let kind = section.choice("kind", &KINDS);
    let port = section.integer("port", 1..=65_535).map(narrow);
    let path =
        section.parsed("path", |scalar| text(scalar, "a path, as \"/health\"", |it| it.starts_with('/')));
    let host = section.parsed("host", |scalar| text(scalar, "a name, as \"www.example.org\"", |_| true));
    let statuses = section.parsed("status", status);
    let kind = kind?;
    let spare: &[&'static str] = match kind {
        0 => &["port", "path", "host", "status"],
        1 => &["path", "host", "status"],
        _ => &[],
    };
    for key in spare.iter().filter(|key| section.has(key)) {
        let word = KINDS.iter().find(|(_, of)| *of == kind).map_or("", |(word, _)| word);
        let finding = Finding::error(section.key(key), format!("a probe of kind \"{word}\" has no {key}"));
        section.context.push(finding.at_key().valid(format!("no `{key}`, or kind = \"http\"")));
    }
    match kind {
        0 => Some(Check::Icmp),
        1 => {
            section.require("port", "port = 443: the port that is called");
            Some(Check::Tcp { port: port? })
        }
        _ => {
            let port = port.unwrap_or(80);
            let host = host.or_else(|| Some(host_of(target?, port)));
            let path = path.unwrap_or_else(|| "/".to_owned());
            Some(Check::Http { port, path, host: host?, statuses: statuses.unwrap_or(200..=299) })
        }
    }
}

/// What a client says that was given the address (RFC 9112 section 3.2).
fn host_of(target: IpAddr, port: u16) -> String {
    match (target, port) {
        (IpAddr::V4(address), 80) => address.to_string(),
        (IpAddr::V6(address), 80) => format!("[{address}]"),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
    }
}

fn read_chain(section: &Section<'_>, chains: &[String]) -> Option<String> {
    let named = section.parsed("chain", reference);
    if let Some(name) = &named {
        let known =
            super::names::check_reference(section.context, &section.key("chain"), "chain", name, chains);
        return named.filter(|_| known);
    }
    if let ([chain], false) = (chains, section.has("chain")) {
        return Some(chain.clone());
    }
    if chains.len() > 1 {
        section.require("chain", "chain = \"NAME\": there are several that it may go through");
    }
    None
}

fn unicast(address: IpAddr) -> Result<IpAddr, Invalid> {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if is_link_local || address.is_multicast() || address.is_unspecified() || address.is_loopback() {
        return Err(Invalid::new(format!("{address} is no host that a route leads to"), "a host's address"));
    }
    Ok(address)
}

fn text(scalar: Scalar<'_>, valid: &str, right: impl Fn(&str) -> bool) -> Result<String, Invalid> {
    let plain = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_graphic());
    match scalar {
        Scalar::Text(it) if plain(it) && it.len() <= TEXT_BYTES_MAX && right(it) => Ok(it.to_owned()),
        _ => Err(Invalid::new(
            "no request can say so",
            format!("{valid}: at most {TEXT_BYTES_MAX} visible characters"),
        )),
    }
}

/// A status, or a range of them.
fn status(scalar: Scalar<'_>) -> Result<RangeInclusive<u16>, Invalid> {
    let known = |number: u64| (100..=599).contains(&number).then_some(number as u16);
    let range = match scalar {
        Scalar::Number(number) => known(number).map(|status| status..=status),
        Scalar::Text(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let number = |text: &str| text.parse().ok().and_then(known);
            number(first)
                .zip(number(last))
                .filter(|(first, last)| first <= last)
                .map(|(first, last)| first..=last)
        }
    };
    range.ok_or_else(|| {
        Invalid::new("there is no such status", "a status from 100 to 599 or a range, as 200 or \"200-399\"")
    })
}

fn within(time: Duration, least_ms: u64, most_ms: u64) -> Result<Duration, Invalid> {
    let (least, most) = (Duration::from_millis(least_ms), Duration::from_millis(most_ms));
    if (least..=most).contains(&time) {
        return Ok(time);
    }
    let valid = format!("a duration from {} to {}", show_duration(least), show_duration(most));
    Err(Invalid::new("the duration is out of range", valid))
}
