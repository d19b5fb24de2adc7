//! Puts recorders and followers on the workers, and takes them off however the capture ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use millrace_dataplane::capture::{Allowance, Filter, Record, Recorder, RecorderConfig, Records};
use millrace_dataplane::port::PortId;
use millrace_nf::follow::{Followed, Follower};

use super::Wanted;
use super::follower::{ChainAudience, Shared};
use super::points::PointSet;
use crate::instance::{Control, WorkerHandle};
use crate::trace::filter::PacketFilter;

/// Packets that were followed and are not told of yet.
const QUEUE: usize = 4_096;

/// What is copied of one worker.
#[derive(Debug)]
struct Part {
    worker: WorkerHandle,
    /// None where nothing is recorded.
    records: Option<Records>,
    /// None where nothing is followed.
    shared: Option<Arc<Shared>>,
    /// Nanoseconds from 1970 to the start of its clock.
    epoch_ns: u64,
}

/// What the workers see of a capture's packets.
#[derive(Debug, Default)]
pub struct Source {
    parts: Vec<Part>,
    followed: Option<Receiver<(usize, Followed)>>,
    is_on: bool,
}

/// A packet that a worker saw.
#[derive(Debug)]
pub enum Seen<'a> {
    /// A copy from a port, or of a drop.
    Recorded(Record<'a>),
    /// One that was explained.
    Followed(&'a Followed),
}

/// Sums over the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Packets that passed.
    pub passed: u64,
    /// Packets that were not looked at for want of time.
    pub no_time: u64,
    /// Packets that found no room.
    pub no_room: u64,
}

impl Filter for PacketFilter {
    fn wants(&self, input: Option<PortId>, bytes: &[u8]) -> bool {
        self.matches_from(input, bytes)
    }
}

impl Source {
    /// Starts on all workers.
    ///
    /// # Errors
    /// A worker is gone, or another capture or trace is under way; nothing is left of this one then.
    pub fn start(control: &Control, wanted: &Wanted, set: &PointSet) -> Result<Self, String> {
        let filter = PacketFilter::parse(&wanted.filter, &control.ports())?;
        let recorded = set.recorded();
        // The budget is for all together.
        let share = wanted.budget as f64 / 100.0;
        let share = if recorded.is_empty() || !set.follows() { share } else { share / 2.0 };
        let (sender, receiver) = sync_channel(QUEUE);
        let mut source = Self { parts: Vec::new(), followed: set.follows().then_some(receiver), is_on: true };
        for (at, worker) in control.workers().iter().enumerate() {
            let (mut recorder, mut records) = (None, None);
            if !recorded.is_empty() {
                let filter = (!wanted.filter.is_empty()).then(|| Box::new(filter.clone()) as Box<dyn Filter>);
                let (made, theirs) = Recorder::new(RecorderConfig {
                    points: recorded.clone(),
                    snap_bytes: wanted.snap,
                    every: wanted.every as u64,
                    allowance: Allowance::new(share),
                    filter,
                });
                (recorder, records) = (Some(Box::new(made)), Some(theirs));
            }
            let owns = control.owners().any(|(owner, _)| owner == at);
            let follower = (owns && set.follows()).then(|| audience(at, set, filter.clone(), &sender));
            let shared = follower.as_ref().map(|audience| Arc::clone(&audience.shared));
            let follower =
                follower.map(|audience| Follower::new(audience, wanted.every as u64, Allowance::new(share)));
            let epoch_ns = put_on(worker, recorder, follower)?;
            source.parts.push(Part { worker: worker.clone(), records, shared, epoch_ns });
        }
        Ok(source)
    }

    /// Hands over what came since, with its time in nanoseconds since 1970. True if there was something.
    pub fn collect(&mut self, mut each: impl FnMut(u64, Seen<'_>)) -> bool {
        let mut any = false;
        for Part { records, epoch_ns, .. } in &mut self.parts {
            let Some(records) = records else { continue };
            while let Some(chunk) = records.take() {
                any = true;
                for record in chunk.records() {
                    each(epoch_ns.saturating_add(record.time.0), Seen::Recorded(record));
                }
                records.give_back(chunk);
            }
        }
        while let Some((worker, followed)) =
            self.followed.as_ref().and_then(|receiver| receiver.try_recv().ok())
        {
            any = true;
            let epoch_ns = self.parts.get(worker).map_or(0, |part| part.epoch_ns);
            each(epoch_ns.saturating_add(followed.time.0), Seen::Followed(&followed));
        }
        any
    }

    /// What passed a point that is recorded.
    pub fn recorded(&self, point: usize) -> Total {
        let mut total = Total::default();
        let records = self.parts.iter().filter_map(|part| part.records.as_ref());
        for counts in records.filter_map(|records| records.counts().get(point)) {
            total.passed += counts.passed.load(Ordering::Relaxed);
            total.no_time += counts.no_time.load(Ordering::Relaxed);
            total.no_room += counts.no_room.load(Ordering::Relaxed);
        }
        total
    }

    /// What passed a chain that is followed, by its place.
    pub fn followed(&self, chain: usize) -> Total {
        let mut total = Total::default();
        let shared = self.parts.iter().filter_map(|part| part.shared.as_ref());
        for passed in shared.filter_map(|shared| shared.chains.get(chain)) {
            total.passed += passed.passed.load(Ordering::Relaxed);
            total.no_time += passed.no_time.load(Ordering::Relaxed);
            total.no_room += passed.no_room.load(Ordering::Relaxed);
        }
        total
    }

    /// Takes all off. What they saw until then can still be collected.
    pub fn stop(&mut self) {
        if !std::mem::take(&mut self.is_on) {
            return;
        }
        for part in &self.parts {
            part.shared.iter().for_each(|shared| shared.ended.store(true, Ordering::Relaxed));
            let records = part.records.is_some();
            // Between two turns, so that no packet is half seen. What comes back is dropped here, where that takes no packet's time. A
            // worker that is gone has nothing.
            let _ = part.worker.call(move |worker| {
                let now = worker.now();
                let mut recorder = if records { worker.pool.record(None) } else { None };
                recorder.iter_mut().for_each(|recorder| recorder.flush(now, true));
                recorder
            });
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop();
    }
}

fn audience(
    worker: usize,
    set: &PointSet,
    filter: PacketFilter,
    sender: &SyncSender<(usize, Followed)>,
) -> ChainAudience {
    let mut shared = Shared::default();
    shared.chains.resize_with(set.chains.len(), Default::default);
    ChainAudience {
        chain_of: set.chain_of.clone(),
        filter,
        worker,
        sender: sender.clone(),
        shared: Arc::new(shared),
    }
}

/// Puts both on a worker; nanoseconds from 1970 to the start of its clock.
fn put_on(
    worker: &WorkerHandle,
    recorder: Option<Box<Recorder>>,
    follower: Option<Follower<ChainAudience>>,
) -> Result<u64, String> {
    let put = worker.call(move |worker| {
        if recorder.is_some() && worker.pool.recorder().is_some() {
            return Err("another capture is under way: one at a time");
        }
        if follower.is_some() && worker.engine.is_observed() {
            return Err("a trace, or a capture of chains or functions, is under way: one at a time");
        }
        if recorder.is_some() {
            worker.pool.record(recorder);
        }
        if let Some(follower) = follower {
            worker.engine.observe(Some(Box::new(follower)));
        }
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let since_1970 = u64::try_from(since_1970).unwrap_or(u64::MAX);
        Ok(since_1970.saturating_sub(worker.now().0))
    });
    match put {
        Ok(put) => put.map_err(str::to_owned),
        Err(error) => Err(error.to_string()),
    }
}
