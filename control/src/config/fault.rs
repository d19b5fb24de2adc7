//! `[ports.NAME.fault]`: what happens to packets of a port as on a bad link.

use std::time::Duration;

use millrace_dataplane::port::fault::{Direction, FaultConfig, Probability};
use toml::de::DeValue;

use super::context::Finding;
use super::schema;
use super::section::{Section, describe};

/// Longest delay: what is held meanwhile takes frames.
const DELAY_US_MAX: u64 = 1_000_000;
/// What a delay is when only its probability is given.
const DELAY_US_DEFAULT: u64 = 1_000;
const SEED_MAX: u64 = i64::MAX as u64;

/// Reads the faults of a port, if it shall have any.
pub(crate) fn read_fault(port: &Section<'_>) -> Option<FaultConfig> {
    let section = port.section("fault", &schema::FAULT)?;
    let read = |key| probability(&section, key);
    let delay_us = section.integer("delay_us", 1..=DELAY_US_MAX);
    let directions = [("both", Direction::Both), ("rx", Direction::Rx), ("tx", Direction::Tx)];
    Some(FaultConfig {
        loss: read("loss").unwrap_or_default(),
        duplicate: read("duplicate").unwrap_or_default(),
        reorder: read("reorder").unwrap_or_default(),
        corrupt: read("corrupt").unwrap_or_default(),
        truncate: read("truncate").unwrap_or_default(),
        delay: read("delay").unwrap_or(if delay_us.is_some() {
            Probability::ONE
        } else {
            Probability::default()
        }),
        delay_time: Duration::from_micros(delay_us.unwrap_or(DELAY_US_DEFAULT)),
        seed: section.integer("seed", 0..=SEED_MAX).unwrap_or(1),
        direction: section.choice("direction", &directions).unwrap_or_default(),
    })
}

fn probability(section: &Section<'_>, key: &'static str) -> Option<Probability> {
    let value = section.value(key)?;
    let number = match value.get_ref() {
        DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
        DeValue::Integer(integer) => integer.as_str().parse().ok(),
        _ => None,
    };
    let fraction = number.filter(|number| (0.0..=1.0).contains(number));
    if fraction.is_none() {
        let finding = Finding::error(section.key(key), "not a probability");
        let finding = finding.found(describe(section.context, value));
        section.context.push(finding.valid("a number from 0 to 1, as 0.01 for one packet in a hundred"));
    }
    fraction.map(Probability::new)
}
