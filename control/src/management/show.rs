//! `show`: rows about a running instance, made on the worker slice by slice.

use millrace_dataplane::engine::Sums;
use millrace_dataplane::flow::cache::Slot;
use millrace_dataplane::flow::session::SessionId;
use millrace_dataplane::port::{MacAddress, PortCounters};
use millrace_dataplane::worker::WorkerReport;
use serde_json::Value;

use super::Topic;
use super::filter::{RowFilter, SessionFilter, state_of};
use super::protocol::{Listing, ROWS_DEFAULT, ROWS_MAX};
use crate::config::network::show_protocol;
use crate::instance::{Control, NfWorker, functions, memory};

/// Objects that one command looks at.
pub const SLICE: usize = 1_024;

/// A slice of rows, and where the next one begins.
pub type Slice = (Listing, Option<usize>);

/// Rows about `topic` that match all terms of `filter`: at most `limit` after the first `offset`.
///
/// # Errors
/// A bad term, or the worker is gone.
pub fn show(
    control: &Control,
    topic: Topic,
    filter: &[String],
    limit: Option<usize>,
    offset: usize,
) -> Result<Listing, String> {
    let limit = limit.unwrap_or(ROWS_DEFAULT).min(ROWS_MAX);
    let by_session = matches!(topic, Topic::Sessions | Topic::Flows);
    let sessions = if by_session { SessionFilter::parse(filter)? } else { SessionFilter::default() };
    let (mut skip, mut from) = (offset, 0);
    let mut all: Option<Listing> = None;
    loop {
        let sessions = sessions.clone();
        let memory = control.memory().clone();
        let core = control.core();
        let slice = move |worker: &mut NfWorker| match topic {
            Topic::Ports => (ports(&worker.report()), None),
            Topic::Functions => functions::counters(worker, from),
            Topic::Flows => flows(worker, &sessions, from),
            Topic::Sessions => sessions_slice(worker, &sessions, from),
            Topic::Chains => (chains(worker), None),
            Topic::Workers => (workers(worker, core), None),
            Topic::Memory => (memory_rows(worker, &memory), None),
            Topic::Drops => (drops(&worker.report()), None),
            Topic::Neighbours => functions::neighbours(worker, from),
            Topic::Routes => functions::routes(worker, from),
            Topic::Nat => functions::mappings(worker, from),
        };
        let (rows, next) = control.worker().ask(slice).map_err(|error| error.to_string())?;
        let terms = if by_session { &[] } else { filter };
        let matching = RowFilter::parse(terms, &rows.columns)?;
        let all = all.get_or_insert_with(|| Listing { columns: rows.columns, ..Listing::default() });
        for row in rows.rows.into_iter().filter(|row| matching.matches(row)) {
            if skip > 0 {
                skip -= 1;
            } else if all.rows.len() < limit {
                all.rows.push(row);
            } else {
                all.next_offset = Some(offset.saturating_add(limit));
                return Ok(std::mem::take(all));
            }
        }
        match next {
            Some(next) => from = next,
            None => return Ok(std::mem::take(all)),
        }
    }
}

/// A MAC address as people write it.
pub fn show_mac(mac: MacAddress) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Ports with their counters.
pub fn ports(report: &WorkerReport) -> Listing {
    let mut listing = Listing::new(&[
        "port",
        "rx_packets",
        "rx_bytes",
        "rx_drops",
        "tx_packets",
        "tx_bytes",
        "tx_drops",
        "buffered",
        "missed",
        "mac",
        "mtu",
        "link",
        "description",
    ]);
    for port in &report.ports {
        let PortCounters { rx_packets, rx_bytes, tx_packets, tx_bytes, rx_drops, tx_drops, rx_missed } =
            &port.counters;
        listing.push([
            port.info.name.clone().into(),
            (*rx_packets).into(),
            (*rx_bytes).into(),
            rx_drops.total().into(),
            (*tx_packets).into(),
            (*tx_bytes).into(),
            tx_drops.total().into(),
            port.buffered.into(),
            (*rx_missed).into(),
            show_mac(port.info.mac).into(),
            port.info.mtu.into(),
            if port.info.link_up { "up" } else { "down" }.into(),
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
    for chain in worker.engine.slow.chains() {
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

fn workers(worker: &mut NfWorker, core: Option<usize>) -> Listing {
    let mut listing = Listing::new(&[
        "worker",
        "core",
        "turns",
        "busy_turns",
        "sleeps",
        "busy_ms",
        "hits",
        "misses",
        "alone",
        "sessions",
        "flows",
        "buffered",
        "sums_hold",
    ]);
    let report = worker.report();
    let state = &worker.engine.state;
    listing.push([
        0.into(),
        core.map_or(Value::Null, Value::from),
        report.worker.turns.into(),
        report.worker.busy_turns.into(),
        report.worker.sleeps.into(),
        (report.worker.busy_nanos / 1_000_000).into(),
        report.engine.hits.into(),
        report.engine.misses.into(),
        report.engine.alone.into(),
        state.sessions.count().into(),
        state.cache.count().into(),
        report.buffered.into(),
        report.sums_hold().into(),
    ]);
    listing
}

fn memory_rows(worker: &mut NfWorker, memory: &memory::Facts) -> Listing {
    let mut listing = Listing::new(&["what", "used", "configured", "places", "bytes", "note"]);
    let nats = functions::nat_tables(worker);
    let (state, pool) = (&worker.engine.state, &worker.pool);
    let arena_used = memory.arena.bytes - memory.arena_free_bytes;
    let (frames, frame_bytes) = (pool.capacity(), memory.frame_bytes);
    let note = format!("{frame_bytes} bytes each");
    let (sessions, entries) = (memory.sessions, memory.flow_cache_entries);
    listing.push([
        "arena bytes".into(),
        arena_used.into(),
        Value::Null,
        Value::Null,
        memory.arena.bytes.into(),
        memory.pages().into(),
    ]);
    // Configured is what the file says or what was computed; places are what the table has for it.
    let mut table = |what: &str, used: usize, configured: usize, places: usize, bytes: usize, note: &str| {
        listing.push([what.into(), used.into(), configured.into(), places.into(), bytes.into(), note.into()]);
    };
    table("frames", frames - pool.available(), frames, frames, frames * frame_bytes, &note);
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

fn sessions_slice(worker: &mut NfWorker, filter: &SessionFilter, from: usize) -> Slice {
    let now = worker.now();
    let mut listing = Listing::new(&[
        "session",
        "chain",
        "protocol",
        "initiator",
        "responder",
        "state",
        "packets",
        "bytes",
        "reply_packets",
        "reply_bytes",
        "age_s",
        "idle_s",
        "expires_s",
    ]);
    let end = worker.engine.state.sessions.high_water() as usize;
    let to = from.saturating_add(SLICE).min(end);
    for number in from..to {
        let state = &mut worker.engine.state;
        let Some(id) = state.sessions.get(number as u32) else { continue };
        if !filter.matches(&state.sessions, id) {
            continue;
        }
        state.fold_session(id);
        let sessions = &worker.engine.state.sessions;
        let [initiator, responder] = sessions.tuples(id);
        let [out, back] = sessions.traffic(id);
        let idle = sessions.idle(id, now);
        let age_ms = (now.as_millis() as u32).wrapping_sub(sessions.created_millis(id));
        listing.push([
            number.into(),
            chain_name(worker, initiator.domain).into(),
            show_protocol(initiator.protocol).into(),
            initiator.to_string().into(),
            responder.to_string().into(),
            state_of(sessions, id).into(),
            out.packets.into(),
            out.bytes.into(),
            back.packets.into(),
            back.bytes.into(),
            (age_ms / 1_000).into(),
            idle.as_secs().into(),
            sessions.timeout(id).saturating_sub(idle).as_secs().into(),
        ]);
    }
    worker.engine.settle();
    (listing, (to < end).then_some(to))
}

fn chain_name(worker: &NfWorker, domain: u16) -> String {
    // The low byte of a domain is the chain's place.
    let chain = worker.engine.slow.chains().get(usize::from(domain & 0xff));
    chain.map_or_else(String::new, |chain| chain.name().to_owned())
}

fn flows(worker: &mut NfWorker, filter: &SessionFilter, from: usize) -> Slice {
    let mut listing =
        Listing::new(&["flow", "session", "direction", "protocol", "packet", "state", "length_max"]);
    let state = &worker.engine.state;
    let end = state.cache.places();
    let to = from.saturating_add(SLICE).min(end);
    for place in from..to {
        let slot = Slot(place as u32);
        if !state.cache.is_occupied(slot) {
            continue;
        }
        let header = state.cache.header(slot);
        let owner = header.owner().filter(|owner| state.sessions.get(owner.session.0).is_some());
        let matches = |id: SessionId| filter.matches(&state.sessions, id);
        match owner {
            Some(owner) if matches(owner.session) => {
                let tuple = state.sessions.tuples(owner.session)[usize::from(owner.reply)];
                listing.push([
                    place.into(),
                    owner.session.0.into(),
                    if owner.reply { "reply" } else { "original" }.into(),
                    show_protocol(tuple.protocol).into(),
                    tuple.to_string().into(),
                    state_of(&state.sessions, owner.session).into(),
                    header.length_max.into(),
                ]);
            }
            None if *filter == SessionFilter::default() => listing.push([
                place.into(),
                Value::Null,
                "".into(),
                "".into(),
                "".into(),
                "stateless".into(),
                header.length_max.into(),
            ]),
            _ => {}
        }
    }
    (listing, (to < end).then_some(to))
}
