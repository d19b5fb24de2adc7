//! Rows about a whole instance: what `show` lists and what the accounting ends with.

use millrace_dataplane::engine::Sums;
use millrace_dataplane::limits::LARGE_FRAME_BYTES;
use millrace_dataplane::memory::{HeapUse, heap_use};
use millrace_dataplane::port::{Handed, PortCounters};
use millrace_dataplane::worker::WorkerReport;
use serde_json::Value;

use super::memory::Facts;
use super::thread::Seat;
use super::{NfWorker, functions};
use crate::listing::{Listing, Row, show_mac};

/// Ports with their counters.
pub fn ports(report: &WorkerReport) -> Listing {
    let mut listing = Listing::new(&[
        "port",
        "rx_packets",
        "rx_bytes",
        "rx_drops",
        "rx_copied",
        "tx_packets",
        "tx_bytes",
        "tx_drops",
        "tx_copied",
        "buffered",
        "missed",
        "mac",
        "mtu",
        "link",
        "link_losses",
        "description",
    ]);
    for port in &report.ports {
        let counters = &port.counters;
        let PortCounters { rx_packets, rx_bytes, rx_drops, rx_copied, .. } = counters;
        let PortCounters { tx_packets, tx_bytes, tx_drops, tx_copied, rx_missed, link_losses, .. } = counters;
        listing.push([
            port.info.name.clone().into(),
            (*rx_packets).into(),
            (*rx_bytes).into(),
            rx_drops.total().into(),
            (*rx_copied).into(),
            (*tx_packets).into(),
            (*tx_bytes).into(),
            tx_drops.total().into(),
            (*tx_copied).into(),
            port.buffered.into(),
            (*rx_missed).into(),
            show_mac(port.info.mac).into(),
            port.info.mtu.into(),
            if port.info.link_up { "up" } else { "down" }.into(),
            (*link_losses).into(),
            port.info.description.clone().into(),
        ]);
    }
    listing
}

/// Dropped packets by place and reason.
pub fn drops(report: &WorkerReport) -> Listing {
    let mut listing = Listing::new(&["where", "reason", "packets", "meaning"]);
    let mut rows = |place: &str, drops: &millrace_dataplane::drops::DropCounters| {
        for (reason, packets) in drops.iter() {
            let meaning = reason.meaning().trim();
            listing.push([place.into(), reason.name().into(), packets.into(), meaning.into()]);
        }
    };
    rows("chains", &report.sums.drops);
    for port in &report.ports {
        rows(&format!("{} rx", port.info.name), &port.counters.rx_drops);
        rows(&format!("{} tx", port.info.name), &port.counters.tx_drops);
    }
    listing
}

/// Chains: zones, functions, key and counters.
pub fn chains(worker: &mut NfWorker) -> Listing {
    let mut listing = Listing::new(&[
        "chain",
        "zones",
        "functions",
        "key_words",
        "walks",
        "sessions_opened",
        "sessions_refused",
        "undeclared_reads",
    ]);
    for (_, chain) in worker.engine.slow.iter() {
        let functions: Vec<_> = chain.functions().iter().map(|(name, _)| (*name).to_owned()).collect();
        let counters = chain.counters();
        let key = millrace_dataplane::flow::key::KeySchema::new(Default::default(), 0, chain.reads());
        listing.push([
            chain.name().into(),
            chain.zones().join(" ").into(),
            functions.join(" ").into(),
            key.words_max().into(),
            counters.walks.into(),
            counters.sessions_opened.into(),
            counters.sessions_refused.into(),
            counters.undeclared_reads.into(),
        ]);
    }
    listing
}

/// Columns of [`chains`] that name a row; the others are counts.
pub const CHAIN_NAMES: &[&str] = &["chain", "zones", "functions", "key_words"];

/// Adds another worker's rows: those whose columns `names` are the same are one, with the sum of all other columns.
pub fn add(all: &mut Listing, other: Listing, names: &[&str]) {
    if all.columns.is_empty() {
        all.columns = other.columns;
    }
    for row in other.rows {
        let same = |mine: &&mut Row| names.iter().all(|name| mine.get(*name) == row.get(*name));
        let Some(mine) = all.rows.iter_mut().find(same) else {
            all.rows.push(row);
            continue;
        };
        for (column, value) in mine.iter_mut().filter(|(column, _)| !names.contains(&column.as_str())) {
            let more = row.get(column).and_then(Value::as_u64);
            if let (Some(one), Some(more)) = (value.as_u64(), more) {
                *value = (one + more).into();
            }
        }
    }
}

/// What became of the packets of a share of the work.
pub fn share(worker: &mut NfWorker) -> Listing {
    let mut listing = Listing::new(&[
        "busy_turns",
        "busy_ms",
        "hits",
        "misses",
        "alone",
        "sessions",
        "flows",
        "buffered",
        "sums_hold",
        "handed_in",
        "handed_out",
    ]);
    let report = worker.report();
    let state = &worker.engine.state;
    let handed = |of: fn(&Handed) -> u64| report.ports.iter().map(|port| of(&port.handed)).sum::<u64>();
    listing.push([
        report.worker.busy_turns.into(),
        (report.worker.busy_nanos / 1_000_000).into(),
        report.engine.hits.into(),
        report.engine.misses.into(),
        report.engine.alone.into(),
        state.sessions.count().into(),
        state.cache.count().into(),
        report.buffered.into(),
        report.sums_hold().into(),
        handed(|handed| handed.rx_taken + handed.tx_taken).into(),
        handed(|handed| handed.rx_given + handed.tx_given).into(),
    ]);
    listing
}

/// All shares, each with its worker of `seats`.
pub fn shares(shares: Vec<Listing>, seats: &[Seat]) -> Listing {
    let mut all = Listing::default();
    for (number, listing) in shares.into_iter().enumerate() {
        // Of a share that moves at this moment, neither worker is told.
        let at = seats.iter().position(|seat| seat.shares.contains(&number));
        let core = at.and_then(|at| seats[at].core);
        all.columns = listing.columns;
        all.columns.splice(0..0, ["share", "worker", "core"].map(str::to_owned));
        all.rows.extend(listing.rows.into_iter().map(|mut row| {
            row.insert("share".to_owned(), number.into());
            row.insert("worker".to_owned(), at.map_or(Value::Null, Value::from));
            row.insert("core".to_owned(), core.map_or(Value::Null, Value::from));
            row
        }));
    }
    all
}

/// The workers of `seats` and what they do with their time, with the sums of what `shares` say of those that each has.
pub fn workers(seats: &[Seat], shares: &[Listing]) -> Listing {
    let time = ["worker", "core", "shares", "turns", "busy_turns", "sleeps", "busy_ms"];
    let mut listing = Listing::new(&time);
    // What shares count of their turns is part of what their worker counts.
    let figures = |name: &&String| !["busy_turns", "busy_ms"].contains(&name.as_str());
    let columns = shares.first().map_or_else(Vec::new, |share| share.columns.clone());
    listing.columns.extend(columns.iter().filter(figures).cloned());
    for (number, seat) in seats.iter().enumerate() {
        let of_seat = || seat.shares.iter().filter_map(|share| shares.get(*share)?.rows.first());
        let numbers: Vec<String> = seat.shares.iter().map(ToString::to_string).collect();
        let time: [Value; 7] = [
            number.into(),
            seat.core.map_or(Value::Null, Value::from),
            numbers.join(" ").into(),
            seat.time.turns.into(),
            seat.time.busy_turns.into(),
            seat.time.sleeps.into(),
            (seat.time.busy_nanos / 1_000_000).into(),
        ];
        let mut row: Row = listing.columns.iter().cloned().zip(time).collect();
        for name in columns.iter().filter(figures) {
            let values = || of_seat().filter_map(|share| share.get(name));
            let value = match name.as_str() {
                "sums_hold" => values().all(|value| *value == Value::Bool(true)).into(),
                _ => values().filter_map(Value::as_u64).sum::<u64>().into(),
            };
            row.insert(name.clone(), value);
        }
        listing.rows.push(row);
    }
    listing
}

/// Columns of [`memory`] that name a row.
pub const MEMORY_NAMES: &[&str] = &["what", "note"];

/// A worker's memory: packet buffers, tables.
pub fn memory(worker: &mut NfWorker, memory: &Facts) -> Listing {
    let mut listing = Listing::new(&["what", "used", "configured", "places", "bytes", "note"]);
    let nats = functions::nat_tables(worker);
    let (state, pool) = (&worker.engine.state, &worker.pool);
    let (frames, frame_bytes) = (pool.capacity(), memory.frame_bytes);
    let note = format!("{frame_bytes} bytes each");
    // Configured is what the file says or what was computed; places are what the table has for it.
    let mut table = |what: &str, used: usize, configured: usize, places: usize, bytes: usize, note: &str| {
        listing.push([what.into(), used.into(), configured.into(), places.into(), bytes.into(), note.into()]);
    };
    table("frames", frames - pool.available(), frames, frames, frames * frame_bytes, &note);
    let (large_free, large) = pool.large_frames();
    if large > 0 {
        let note = format!("{LARGE_FRAME_BYTES} bytes each, for frames that are carried whole");
        table("large frames", large - large_free, large, large, large * LARGE_FRAME_BYTES, &note);
    }
    if worker.engine.slow.iter().next().is_none() {
        // It owns no connections.
        return listing;
    }
    let (sessions, entries) = (memory.sessions, memory.flow_cache_entries);
    let (count, places) = (state.sessions.count(), state.sessions.capacity());
    table("sessions", count, sessions, places, memory.session_bytes, "");
    let (count, places) = (state.cache.count(), state.cache.places());
    let note = "spare places keep look-ups short";
    table("flow cache entries", count, entries, places, memory.flow_cache_bytes, note);
    for (name, used) in nats {
        let (count, places) = used.mappings;
        let note = "with inside hosts and external ports";
        table(&format!("mappings of {name}"), count, sessions, places, used.memory_bytes, note);
    }
    listing
}

/// The memory of an instance: the arena, and what its workers have of it.
pub fn all_memory(memory: &Facts, workers: Vec<Listing>) -> Listing {
    let mut listing = Listing::default();
    for worker in workers {
        add(&mut listing, worker, MEMORY_NAMES);
    }
    let arena_used = memory.arena.bytes - memory.arena_free_bytes;
    let arena: [Value; 6] = [
        "arena bytes".into(),
        arena_used.into(),
        Value::Null,
        Value::Null,
        memory.arena.bytes.into(),
        memory.pages().into(),
    ];
    listing.rows.insert(0, listing.columns.iter().cloned().zip(arena).collect());
    if let Some(HeapUse { used, held }) = heap_use() {
        let heap = [
            "heap bytes".into(),
            used.into(),
            Value::Null,
            Value::Null,
            held.into(),
            "what is no packet and no table; free pages go back every minute".into(),
        ];
        listing.push(heap);
    }
    for step in memory.failed_steps() {
        let none = || Value::Null;
        listing.push(["not possible".into(), none(), none(), none(), none(), step.into()]);
    }
    listing
}

/// What came in and what became of it.
pub fn sums(sums: &Sums, buffered: u64) -> Listing {
    let mut listing =
        Listing::new(&["received", "originated", "copied", "sent", "consumed", "dropped", "buffered"]);
    listing.push([
        sums.received.into(),
        sums.originated.into(),
        sums.copied.into(),
        sums.sent.into(),
        sums.consumed.into(),
        sums.drops.total().into(),
        buffered.into(),
    ]);
    listing
}
