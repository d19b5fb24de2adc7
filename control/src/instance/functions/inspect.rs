//! Functions that look for patterns in payloads.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use millrace_nf::chain::Chain;
use millrace_nf::inspect::{Change, Inspect, Patterns};

use super::Counter;
use crate::config::inspect::{self as settings, patterns};
use crate::instance::InstanceError;

/// Tables that are in use: workers whose settings are the same share one.
static TABLES: Mutex<Vec<(settings::Inspect, Weak<Patterns>)>> = Mutex::new(Vec::new());

/// Makes an inspecting function.
///
/// # Errors
/// A pattern that can't be looked for.
pub fn build(name: &str, settings: &settings::Inspect) -> Result<Inspect, InstanceError> {
    Ok(Inspect::new(table(name, settings)?))
}

/// The change to other settings.
///
/// # Errors
/// A pattern that can't be looked for.
pub fn change(
    name: &str,
    old: &settings::Inspect,
    new: &settings::Inspect,
) -> Result<Option<Change>, InstanceError> {
    if old == new {
        return Ok(None);
    }
    let before = table(name, old)?;
    Ok(Some(Change::between(before.all(), table(name, new)?)))
}

fn table(name: &str, settings: &settings::Inspect) -> Result<Arc<Patterns>, InstanceError> {
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    tables.retain(|(_, table)| table.strong_count() > 0);
    let known = tables.iter().find(|(of, _)| of == settings);
    if let Some(table) = known.and_then(|(_, table)| table.upgrade()) {
        return Ok(table);
    }
    let table = patterns(settings).map_err(|error| InstanceError::function(name, error.to_string()))?;
    let table = Arc::new(table);
    tables.push((settings.clone(), Arc::downgrade(&table)));
    Ok(table)
}

/// Counters by pattern, then what was not looked at. If the function has a core of its own, its thread counts these; then what passed
/// the way there.
pub fn counters(chain: &mut Chain, name: &str) -> Vec<Counter> {
    let link = chain.stage_link(name);
    let mut all = chain.packet_function::<Inspect>(name).map_or_else(Vec::new, |inspect| rows(inspect));
    if let Some(link) = link {
        let items = [("under way", link.under_way()), ("refused, ring full", link.refused)];
        all.extend(items.map(|(item, count)| (item.to_owned(), count, None, None)));
    }
    all
}

/// Counters by pattern, then what was not looked at, of the function itself.
pub fn rows(inspect: &Inspect) -> Vec<Counter> {
    let totals = inspect.counters();
    let pattern = |report: millrace_nf::inspect::PatternReport| {
        let packets = report.packets;
        (format!("pattern {}", report.name), packets, Some(packets), Some(report.bytes))
    };
    let inspected = ("inspected".to_owned(), totals.inspected, Some(totals.inspected), Some(totals.bytes));
    let others = [
        ("dropped", totals.dropped),
        ("fragments passed", totals.fragments),
        ("other packets passed", totals.other),
    ];
    let others = others.map(|(item, count)| (item.to_owned(), count, None, None));
    inspect.report().map(pattern).chain([inspected]).chain(others).collect()
}
