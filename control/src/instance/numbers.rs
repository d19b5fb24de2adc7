//! Which port has which number.

use std::collections::BTreeMap;

use millrace_dataplane::limits::PORTS_MAX;
use millrace_dataplane::port::PortId;

use super::hairpins;
use crate::config::Config;

/// The numbers of an instance's ports, by name. A port keeps its number for as long as it is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortNumbers(BTreeMap<String, PortId>);

impl PortNumbers {
    /// Numbers the ports of `config` in its order, and then those for hairpins.
    pub fn of(config: &Config) -> Self {
        let ports = config.ports.iter().map(|port| port.name.clone());
        let ports = ports.chain(hairpins::ports(config).map(|(_, name)| name));
        Self(ports.enumerate().map(|(at, name)| (name, PortId(at as u16))).collect())
    }

    /// The number of a port.
    pub fn get(&self, name: &str) -> Option<PortId> {
        self.0.get(name).copied()
    }

    /// The name of a number.
    pub fn name(&self, id: PortId) -> Option<&str> {
        self.0.iter().find(|(_, number)| **number == id).map(|(name, _)| name.as_str())
    }

    /// Gives a new port the lowest free number; none if a worker can't serve more.
    pub fn add(&mut self, name: &str) -> Option<PortId> {
        let free = (0..PORTS_MAX as u16).map(PortId).find(|id| self.name(*id).is_none())?;
        self.0.insert(name.to_owned(), free);
        Some(free)
    }

    /// Frees a port's number.
    pub fn remove(&mut self, name: &str) -> Option<PortId> {
        self.0.remove(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, PortId)> {
        self.0.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// One more than the highest number.
    pub fn span(&self) -> usize {
        self.0.values().map(|id| usize::from(id.0) + 1).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_are_used_again() {
        let mut numbers = PortNumbers::default();
        assert_eq!(numbers.add("a"), Some(PortId(0)));
        assert_eq!(numbers.add("b"), Some(PortId(1)));
        assert_eq!(numbers.remove("a"), Some(PortId(0)));
        assert_eq!(numbers.get("b"), Some(PortId(1)));
        assert_eq!(numbers.add("c"), Some(PortId(0)));
        assert_eq!(numbers.name(PortId(0)), Some("c"));
        assert_eq!(numbers.span(), 2);
        (0..PORTS_MAX - 2).for_each(|i| assert!(numbers.add(&format!("p{i}")).is_some()));
        assert_eq!(numbers.add("one too many"), None);
    }
}
