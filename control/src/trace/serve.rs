//! A trace for a client of the management socket: an answer a packet, as they come, and one at the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use millrace_dataplane::capture::Allowance;
use millrace_nf::follow::{Followed, Follower};

use super::filter::PacketFilter;
use super::tracer::{Shared, Tracer};
use super::{COUNT, EVERY, SECONDS};
use crate::explain::{Report, look};
use crate::instance::Control;
use crate::management::Answer;

/// Packets that were followed and are not told of yet.
const QUEUE: usize = 256;
/// How much of a worker's time following packets may take.
const SHARE: f64 = 0.03;
/// A client is told this often that the trace goes on, which finds out whether it is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// What a trace is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Terms `key=value`, all of which a packet must match.
    pub filter: Vec<String>,
    /// How many packets are followed.
    pub count: usize,
    /// One packet in so many is looked at.
    pub every: usize,
    /// The trace ends after so many seconds.
    pub seconds: usize,
}

/// Takes the tracer off, however the trace ends.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// Follows packets until enough were, or time is over, or `tell` fails.
///
/// # Errors
/// What `tell` answers.
pub fn serve(
    control: &Control,
    wanted: &Wanted,
    mut tell: impl FnMut(&Answer) -> io::Result<()>,
) -> io::Result<()> {
    match start(control, wanted) {
        Ok((receiver, shared)) => {
            let _ends = Ends(Arc::clone(&shared));
            let deadline = Instant::now() + Duration::from_secs(wanted.seconds as u64);
            let followed = relay(control, wanted.count, &receiver, deadline, &mut tell)?;
            // What is on its way has nobody to wait for it.
            shared.ended.store(true, Ordering::Relaxed);
            let left_out = shared.left_out.load(Ordering::Relaxed);
            tell(&Answer::TraceEnded { followed: followed as u64, left_out })
        }
        Err(why) => tell(&Answer::Refused(why)),
    }
}

fn start(control: &Control, wanted: &Wanted) -> Result<(Receiver<Followed>, Arc<Shared>), String> {
    for (what, value, range) in
        [("count", wanted.count, COUNT), ("every", wanted.every, EVERY), ("seconds", wanted.seconds, SECONDS)]
    {
        if !range.contains(&value) {
            return Err(format!("`{what}` is {value}: expected {} to {}", range.start(), range.end()));
        }
    }
    let filter = PacketFilter::parse(&wanted.filter, &control.ports())?;
    let (sender, receiver) = sync_channel(QUEUE);
    let shared = Arc::new(Shared::default());
    for (_, worker) in control.owners() {
        // Each follows as many as are wanted at most, and who tells of them stops in time.
        let (count, every) = (wanted.count as u64, wanted.every as u64);
        let tracer = Tracer::new(filter.clone(), count, sender.clone(), Arc::clone(&shared));
        let follower = Follower::new(tracer, every, Allowance::new(SHARE)).finding_all();
        let started = worker.call(move |worker| {
            let is_free = !worker.engine.is_observed();
            if is_free {
                worker.engine.observe(Some(Box::new(follower)));
            }
            is_free
        });
        let failed = match started {
            Ok(true) => continue,
            Ok(false) => "another trace is under way: one at a time".to_owned(),
            Err(error) => error.to_string(),
        };
        // Those that follow already stop.
        shared.ended.store(true, Ordering::Relaxed);
        return Err(failed);
    }
    Ok((receiver, shared))
}

/// Tells of packets as they come; how many those were.
fn relay(
    control: &Control,
    count: usize,
    receiver: &Receiver<Followed>,
    deadline: Instant,
    tell: &mut impl FnMut(&Answer) -> io::Result<()>,
) -> io::Result<usize> {
    let mut followed = 0;
    while followed < count {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match receiver.recv_timeout(left.min(SIGN_OF_LIFE)) {
            Ok(packet) => {
                followed += 1;
                tell(&Answer::Explained(Box::new(report(control, packet))))?;
            }
            Err(RecvTimeoutError::Timeout) => tell(&Answer::Tracing)?,
            // The worker is gone, or has seen enough.
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(followed)
}

fn report(control: &Control, packet: Followed) -> Report {
    let Followed { port, frame, foreseen, outcome, .. } = packet;
    let mut report = look::report(&control.ports(), port, &frame, &foreseen);
    report.correct(&outcome);
    report
}
