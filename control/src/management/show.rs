//! `show`: rows about a running instance, made on the worker slice by slice.

use millrace_dataplane::flow::cache::Slot;
use millrace_dataplane::flow::session::SessionId;
use serde_json::Value;

use super::Topic;
use super::filter::{RowFilter, SessionFilter, state_of};
use super::protocol::{ROWS_DEFAULT, ROWS_MAX};
use crate::config::network::show_protocol;
use crate::instance::{Control, InstanceError, NfWorker, functions, rows};
use crate::listing::{Listing, SLICE, Slice};

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
    if topic == Topic::Functions {
        fold(control)?;
    }
    if let Some(listing) = whole(control, topic)? {
        return page(listing, filter, limit, offset);
    }
    // Routes are the same with all workers.
    let owners: Vec<_> = control.owners().take(if topic == Topic::Routes { 1 } else { usize::MAX }).collect();
    let mut skip = offset;
    let mut all = Listing::default();
    for (number, worker) in owners {
        let mut from = Some(0);
        while let Some(at) = from {
            let sessions = sessions.clone();
            let slice = move |worker: &mut NfWorker| match topic {
                Topic::Flows => flows(worker, &sessions, at),
                Topic::Sessions => sessions_slice(worker, &sessions, at),
                Topic::Neighbours => functions::neighbours(worker, at),
                Topic::Routes => functions::routes(worker, at),
                Topic::Nat => functions::mappings(worker, at),
                // They are whole.
                _ => (Listing::default(), None),
            };
            let (mut rows, next) = worker.ask(slice).map_err(|error| error.to_string())?;
            if topic != Topic::Routes {
                tell_share(&mut rows, number);
            }
            from = next;
            let terms = if by_session { &[] } else { filter };
            let matching = RowFilter::parse(terms, &rows.columns)?;
            all.columns = rows.columns;
            for row in rows.rows.into_iter().filter(|row| matching.matches(row)) {
                if skip > 0 {
                    skip -= 1;
                } else if all.rows.len() < limit {
                    all.rows.push(row);
                } else {
                    all.next_offset = Some(offset.saturating_add(limit));
                    return Ok(all);
                }
            }
        }
    }
    Ok(all)
}

/// Rows about objects that each share has its own of say whose they are.
fn tell_share(listing: &mut Listing, share: usize) {
    listing.columns.push("share".to_owned());
    for row in &mut listing.rows {
        row.insert("share".to_owned(), share.into());
    }
}

/// What is told at once, of all workers together; none if the topic goes slice by slice.
fn whole(control: &Control, topic: Topic) -> Result<Option<Listing>, String> {
    let said = |error: InstanceError| error.to_string();
    let listing = match topic {
        Topic::Ports => rows::ports(&control.report().map_err(said)?),
        Topic::Drops => rows::drops(&control.report().map_err(said)?),
        Topic::Chains => {
            let mut all = Listing::default();
            for chains in control.ask_all(rows::chains).map_err(said)? {
                rows::add(&mut all, chains, rows::CHAIN_NAMES);
            }
            all
        }
        Topic::Workers => {
            let mut all = rows::workers(&control.seats(), &control.ask_all(rows::share).map_err(said)?);
            control.stages.add_rows(&mut all).map_err(said)?;
            all
        }
        Topic::Shares => rows::shares(control.ask_all(rows::share).map_err(said)?, &control.seats()),
        Topic::Memory => {
            let memory = control.memory();
            let asked = memory.clone();
            let of_workers = control.ask_all(move |worker| rows::memory(worker, &asked)).map_err(said)?;
            rows::all_memory(memory, of_workers)
        }
        Topic::Functions => {
            let mut all = Listing::default();
            for (_, worker) in control.owners() {
                let mut from = Some(0);
                while let Some(at) = from {
                    let slice = move |worker: &mut NfWorker| functions::counters(worker, at);
                    let (rows, next) = worker.ask(slice).map_err(said)?;
                    rows::add(&mut all, rows, functions::NAMES);
                    from = next;
                }
            }
            rows::add(&mut all, control.stages.counters(&control.config()).map_err(said)?, functions::NAMES);
            all
        }
        Topic::Latency => control.timings().rows(),
        Topic::Probes => control.hosts().board().rows(),
        Topic::Flows | Topic::Sessions | Topic::Neighbours | Topic::Routes | Topic::Nat => return Ok(None),
    };
    Ok(Some(listing))
}

/// A page of rows that are all there.
fn page(listing: Listing, filter: &[String], limit: usize, offset: usize) -> Result<Listing, String> {
    let matching = RowFilter::parse(filter, &listing.columns)?;
    let mut rows = listing.rows.into_iter().filter(|row| matching.matches(row)).skip(offset);
    let taken = rows.by_ref().take(limit).collect();
    let next_offset = rows.next().map(|_| offset.saturating_add(limit));
    Ok(Listing { columns: listing.columns, rows: taken, next_offset })
}

/// What the cache counted goes to the rules and mappings that it belongs to.
fn fold(control: &Control) -> Result<(), String> {
    for (_, worker) in control.owners() {
        let mut from = Some(0);
        while let Some(place) = from {
            let slice = move |worker: &mut NfWorker| {
                let next = worker.engine.state.fold_from(place, SLICE);
                worker.engine.settle();
                next
            };
            from = worker.ask(slice).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
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
    let chain = worker.engine.slow.get(usize::from(domain & 0xff));
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
