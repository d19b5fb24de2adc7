//! `clear sessions`: ends sessions slice by slice.

use super::filter::SessionFilter;
use crate::instance::{Control, NfWorker};

/// Sessions that one command looks at.
const SLICE: u32 = 1_024;

/// Ends the sessions that match all terms, and says how many those were.
///
/// # Errors
/// A bad term, or the worker is gone.
pub fn sessions(control: &Control, terms: &[String]) -> Result<Vec<String>, String> {
    let filter = SessionFilter::parse(terms)?;
    let mut ended = 0;
    for (_, worker) in control.owners() {
        let mut from = Some(0);
        while let Some(at) = from {
            let filter = filter.clone();
            let slice = move |worker: &mut NfWorker| clear_slice(worker, &filter, at);
            let (count, more) = worker.call(slice).map_err(|error| error.to_string())?;
            ended += count;
            from = more;
        }
    }
    Ok(vec![format!("sessions ended: {ended}")])
}

fn clear_slice(worker: &mut NfWorker, filter: &SessionFilter, from: u32) -> (u64, Option<u32>) {
    let state = &mut worker.engine.state;
    let end = state.sessions.high_water();
    let to = from.saturating_add(SLICE).min(end);
    let mut ended = 0;
    for number in from..to {
        if let Some(id) = state.sessions.get(number)
            && filter.matches(&state.sessions, id)
        {
            state.end_session(id);
            ended += 1;
        }
    }
    worker.engine.settle();
    (ended, (to < end).then_some(to))
}
