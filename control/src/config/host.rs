//! What a configuration needs of the machine it runs on.

use std::fs;

use super::Config;
use super::context::{Context, Finding};
use super::diagnostic::Severity;
use super::places::join;
use super::ports::PortKind;
use super::section::words;
use super::suggest::nearest;

/// What is known of a machine. What is `None` is not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Cores that this process may use, in ascending order.
    pub cores: Option<Vec<usize>>,
    /// Network interfaces of this process's network namespace.
    pub interfaces: Option<Vec<String>>,
    /// Groups in `/etc/group`.
    pub groups: Option<Vec<String>>,
    /// Whether a missing interface is an error; else it is a warning, since it may be made later.
    pub needs_interfaces: bool,
    /// Shares of connections that the instance was started with which the configuration is for, if it runs.
    pub shares: Option<usize>,
}

impl Host {
    /// The machine this runs on. What the system does not tell stays unknown.
    pub fn probe() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let devices = fs::read_to_string("/proc/self/net/dev").ok();
        let groups = fs::read_to_string("/etc/group").ok();
        let first = |text: String, skipped: usize| -> Vec<String> {
            let lines = text.lines().skip(skipped);
            lines.filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect()
        };
        Self {
            cores: status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
                .and_then(core_list),
            interfaces: devices.map(|text| first(text, 2)),
            groups: groups.map(|text| first(text, 0)),
            needs_interfaces: false,
            shares: None,
        }
    }

    /// The same machine, for a configuration that is to run now.
    pub fn running_now(self) -> Self {
        Self { needs_interfaces: true, ..self }
    }
}

/// A list of cores as the kernel writes it: `0-3,8`.
fn core_list(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // The kernel's own limit is 8,192 cores: more is not a list of cores.
        if first > last || last > 65_535 {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

/// Compares a configuration with a machine.
pub(crate) fn check(context: &Context<'_>, config: &Config, host: &Host) {
    check_cores(context, config, host);
    for port in &config.ports {
        // A tap device is made if there is none.
        let needed = port.kind.interface().filter(|_| !matches!(port.kind, PortKind::Tap(_)));
        if let (Some((_, name)), Some(interfaces)) = (needed, &host.interfaces)
            && !interfaces.iter().any(|interface| interface == name)
        {
            let severity = if host.needs_interfaces { Severity::Error } else { Severity::Warning };
            let path = format!("{}.interface", join("ports", &port.name));
            let finding = match severity {
                Severity::Error => Finding::error(path, format!("there is no network interface `{name}`")),
                Severity::Warning => Finding::warning(
                    path,
                    format!("there is no network interface `{name}` yet: `run` needs it"),
                ),
            };
            let suggestion = nearest(name, interfaces.iter().map(String::as_str));
            context.push(
                finding
                    .found(format!("\"{name}\""))
                    .valid(words(interfaces))
                    .maybe_help(suggestion.map(|name| format!("did you mean \"{name}\"?"))),
            );
        }
    }
    if let Some(groups) = &host.groups
        && !groups.contains(&config.management.group)
    {
        let group = &config.management.group;
        let finding =
            Finding::warning("management.group", format!("there is no group `{group}` in /etc/group"));
        context.push(finding.found(format!("\"{group}\"")).help("`run` needs it: `groupadd` makes it"));
    }
}

fn check_cores(context: &Context<'_>, config: &Config, host: &Host) {
    let (Some(cores), Some(usable)) = (&config.workers.cores, &host.cores) else { return };
    for (index, core) in cores.iter().enumerate().filter(|(_, core)| !usable.contains(core)) {
        let finding = Finding::error(
            context.item("workers.cores", index),
            format!("there is no core {core} that this process may use"),
        );
        let usable = usable.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        context.push(finding.found(core.to_string()).valid(usable));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores() {
        assert_eq!(core_list("\t0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(core_list("7"), Some(vec![7]));
        assert_eq!(core_list("3-1"), None);
        assert_eq!(core_list("0-99999999999"), None);
        assert_eq!(core_list(""), None);
    }

    #[test]
    fn this_machine_has_cores_and_a_loopback_interface() {
        let host = Host::probe();
        assert!(host.cores.is_some_and(|cores| !cores.is_empty()));
        assert!(host.interfaces.is_some_and(|names| names.iter().any(|name| name == "lo")));
    }
}
