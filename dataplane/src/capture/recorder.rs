//! Makes copies on the worker, within an allowance of its time, and hands them to another thread.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::allowance::Allowance;
use super::record::{Chunk, Moment, Record};
use crate::cpu::cycles;
use crate::drops::{DROP_REASONS, DropReason};
use crate::limits::FRAME_BYTES_MAX;
use crate::packet::Packet;
use crate::port::PortId;
use crate::ring::{Consumer, Producer, ring};
use crate::time::Time;

/// Chunks of a recorder: what is on its way while nobody writes, 4 MiB.
const CHUNKS: usize = 64;
/// What was recorded waits so long at most while packets flow.
const FLUSH_AFTER: Duration = Duration::from_millis(5);

/// How many times as long as it takes to copy packets all packets take longer for it.
const AFTERMATH: u64 = 5;

/// Which packets are wanted.
pub trait Filter: Send {
    /// True if a frame is. `input` is the port that it came from, if that is known.
    fn wants(&self, input: Option<PortId>, bytes: &[u8]) -> bool;
}

/// Where packets are looked at; points are numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Points {
    /// By port, the point of what it receives.
    received: Vec<Option<u16>>,
    /// By port, the point of what it is given to send.
    sent: Vec<Option<u16>>,
    /// By reason, the point of what is dropped for it.
    dropped: Vec<Option<u16>>,
    count: u16,
}

fn put(points: &mut Vec<Option<u16>>, at: usize, point: u16) {
    if points.len() <= at {
        points.resize(at + 1, None);
    }
    points[at] = Some(point);
}

impl Points {
    /// What `port` receives is point `point`.
    pub fn add_received(&mut self, port: PortId, point: u16) {
        put(&mut self.received, usize::from(port.0), point);
        self.count = self.count.max(point + 1);
    }

    /// What `port` is given to send is point `point`.
    pub fn add_sent(&mut self, port: PortId, point: u16) {
        put(&mut self.sent, usize::from(port.0), point);
        self.count = self.count.max(point + 1);
    }

    /// What is dropped for `reason` is point `point`.
    pub fn add_dropped(&mut self, reason: DropReason, point: u16) {
        debug_assert!((reason as usize) < DROP_REASONS);
        put(&mut self.dropped, reason as usize, point);
        self.count = self.count.max(point + 1);
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

fn point(points: &[Option<u16>], at: usize) -> Option<u16> {
    points.get(at).copied().flatten()
}

/// What passed a point. One thread writes, any reads.
#[derive(Debug, Default)]
pub struct Counts {
    /// Packets that passed.
    pub passed: AtomicU64,
    /// Packets that were copied.
    pub copied: AtomicU64,
    /// Packets that were not looked at, for want of time.
    pub no_time: AtomicU64,
    /// Packets that were wanted and not copied, for want of room.
    pub no_room: AtomicU64,
}

/// Adds to a counter that no other thread writes.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

/// How packets are recorded.
pub struct RecorderConfig {
    /// Where.
    pub points: Points,
    /// Bytes of a frame at most.
    pub snap_bytes: usize,
    /// One packet in so many at each point.
    pub every: u64,
    /// The time that it may take.
    pub allowance: Allowance,
    /// Which packets; none wants all.
    pub filter: Option<Box<dyn Filter>>,
}

/// What a recorder made: the other end of its ring.
pub struct Records {
    full: Consumer<Chunk>,
    empty: Producer<Chunk>,
    counts: Arc<[Counts]>,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Records {
    /// The next chunk of records, if there is one. Bring it back with [`Self::give_back`].
    pub fn take(&mut self) -> Option<Chunk> {
        self.full.pop()
    }

    /// True when the recorder is gone: nothing comes behind what is there.
    pub fn is_over(&self) -> bool {
        self.full.is_abandoned()
    }

    /// The worker may use it again.
    pub fn give_back(&mut self, mut chunk: Chunk) {
        chunk.clear();
        // As many chunks go round as the ring has room for.
        let _ = self.empty.push(chunk);
    }

    /// What passed each point.
    pub fn counts(&self) -> &[Counts] {
        &self.counts
    }
}

/// Copies packets of one worker at some points.
pub struct Recorder {
    config: RecorderConfig,
    /// By point, packets before the next one that is looked at.
    until: Vec<u64>,
    counts: Arc<[Counts]>,
    full: Producer<Chunk>,
    empty: Consumer<Chunk>,
    chunk: Option<Chunk>,
    /// When the first record of the chunk was made.
    since: Time,
    now: Time,
    moment: Moment,
    port: Option<PortId>,
    /// Why the next packet is dropped.
    comment: String,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("points", &self.config.points).finish_non_exhaustive()
    }
}

impl Recorder {
    /// A recorder, and what it makes.
    pub fn new(config: RecorderConfig) -> (Self, Records) {
        let (full, to_read) = ring(CHUNKS);
        let (mut given, empty) = ring(CHUNKS);
        (0..CHUNKS).for_each(|_| drop(given.push(Chunk::default())));
        let points = usize::from(config.points.count);
        let counts: Arc<[Counts]> = (0..points).map(|_| Counts::default()).collect();
        let recorder = Self {
            config,
            until: vec![0; points],
            counts: Arc::clone(&counts),
            full,
            empty,
            chunk: None,
            since: Time(0),
            now: Time(0),
            moment: Moment::Inside,
            port: None,
            comment: String::new(),
        };
        (recorder, Records { full: to_read, empty: given, counts })
    }

    /// What is dropped from now on is dropped there.
    pub fn enter(&mut self, moment: Moment, port: Option<PortId>, now: Time) {
        (self.moment, self.port, self.now) = (moment, port, now);
    }

    /// `port` received these packets. What is dropped from now on is dropped inside.
    pub fn received(&mut self, port: PortId, packets: &[Packet], now: Time) {
        self.enter(Moment::Received, Some(port), now);
        if let Some(point) = point(&self.config.points.received, usize::from(port.0)) {
            self.copy(point, packets);
        }
        self.moment = Moment::Inside;
    }

    /// `port` is given these packets to send. What is dropped from now on is dropped there.
    pub fn sends(&mut self, port: PortId, packets: &[Packet], now: Time) {
        self.enter(Moment::Sent, Some(port), now);
        if let Some(point) = point(&self.config.points.sent, usize::from(port.0)) {
            self.copy(point, packets);
        }
    }

    /// Whether a packet that is dropped for `reason` is to be explained: it will be copied, and there is time.
    pub fn explains(&mut self, bytes: &[u8], reason: DropReason) -> bool {
        let point = point(&self.config.points.dropped, reason as usize);
        point.is_some_and(|point| self.until[usize::from(point)] == 0)
            && self.config.allowance.allows(self.now)
            && self.wants(bytes)
    }

    fn wants(&self, bytes: &[u8]) -> bool {
        let input = self.port.filter(|_| self.moment != Moment::Sent);
        self.config.filter.as_ref().is_none_or(|filter| filter.wants(input, bytes))
    }

    /// `say` tells why the next packet is dropped.
    pub fn explain(&mut self, say: impl FnOnce(&mut String)) {
        let start = cycles();
        self.comment.clear();
        say(&mut self.comment);
        self.config.allowance.spend_since(start, AFTERMATH);
    }

    /// A packet is dropped.
    pub fn dropped(&mut self, bytes: &[u8], reason: DropReason) {
        if let Some(point) = point(&self.config.points.dropped, reason as usize) {
            self.look(point, 1, |recorder, _| recorder.write(point, bytes, Some(reason)));
        }
        self.comment.clear();
    }

    fn copy(&mut self, point: u16, packets: &[Packet]) {
        self.look(point, packets.len(), |recorder, at| {
            if let Some(packet) = packets.get(at) {
                recorder.write(point, packet.bytes(), None);
            }
        });
    }

    /// Of `count` packets that pass a point, those whose turn it is.
    fn look(&mut self, point: u16, count: usize, mut each: impl FnMut(&mut Self, usize)) {
        let at = usize::from(point);
        let (passed, mut next) = (count as u64, self.until[at]);
        add(&self.counts[at].passed, passed);
        if next < passed {
            if self.config.allowance.allows(self.now) {
                let start = cycles();
                while next < passed {
                    each(self, next as usize);
                    next = next.saturating_add(self.config.every);
                }
                self.config.allowance.spend_since(start, AFTERMATH);
            } else {
                let left_out = self.turns(passed - next);
                next = next.saturating_add(left_out.saturating_mul(self.config.every));
                add(&self.counts[at].no_time, left_out);
            }
        }
        self.until[at] = next - passed;
    }

    /// How many of `count` packets have their turn, the first of them among these. Nothing is divided when all have.
    fn turns(&self, count: u64) -> u64 {
        if self.config.every <= 1 { count } else { count.div_ceil(self.config.every) }
    }

    fn write(&mut self, point: u16, bytes: &[u8], reason: Option<DropReason>) {
        if !self.wants(bytes) {
            return;
        }
        let Self { chunk, empty, full, config, counts, comment, .. } = self;
        let record = Record {
            time: self.now,
            interface: point,
            moment: self.moment,
            port: self.port,
            reason,
            comment,
            bytes: &bytes[..bytes.len().min(config.snap_bytes).min(FRAME_BYTES_MAX)],
            length: u16::try_from(bytes.len()).unwrap_or(u16::MAX),
        };
        let counts = &counts[usize::from(point)];
        if chunk.as_mut().is_some_and(|chunk| chunk.push(&record)) {
            return add(&counts.copied, 1);
        }
        // As many chunks go round as the ring has room for.
        chunk.take().into_iter().for_each(|chunk| drop(full.push(chunk)));
        *chunk = empty.pop();
        self.since = self.now;
        let is_copied = chunk.as_mut().is_some_and(|chunk| chunk.push(&record));
        add(if is_copied { &counts.copied } else { &counts.no_room }, 1);
    }

    /// Hands over what was recorded if that has waited long enough, or `at_once`.
    pub fn flush(&mut self, now: Time, at_once: bool) {
        let is_due = at_once || now >= self.since + FLUSH_AFTER;
        if is_due && let Some(chunk) = self.chunk.take_if(|chunk| !chunk.is_empty()) {
            let _ = self.full.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, Pool, PoolConfig};
    use crate::packet::Burst;

    const PORT: PortId = PortId(3);

    struct Long;

    impl Filter for Long {
        fn wants(&self, input: Option<PortId>, bytes: &[u8]) -> bool {
            input == Some(PORT) && bytes.len() > 100
        }
    }

    fn made(every: u64, share: f64, filter: Option<Box<dyn Filter>>) -> (Recorder, Records) {
        let mut points = Points::default();
        points.add_received(PORT, 0);
        points.add_sent(PORT, 1);
        points.add_dropped(DropReason::NoRoute, 2);
        let allowance = Allowance::new(share);
        Recorder::new(RecorderConfig { points, snap_bytes: 80, every, allowance, filter })
    }

    fn counts(records: &Records, point: usize) -> [u64; 4] {
        let Counts { passed, copied, no_time, no_room } = &records.counts()[point];
        [passed, copied, no_time, no_room].map(|count| count.load(Ordering::Relaxed))
    }

    fn burst(pool: &mut Pool, lengths: &[usize]) -> Burst {
        let mut burst = Burst::new();
        for &length in lengths {
            let mut packet = pool.take().unwrap();
            packet.set_contents(&vec![length as u8; length]).unwrap();
            burst.push(packet).unwrap();
        }
        burst
    }

    fn pool() -> Pool {
        Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig::new(64)).unwrap()
    }

    #[test]
    fn what_passes_is_copied_with_where_it_was() {
        let (mut recorder, mut records) = made(1, 1.0, None);
        let mut pool = pool();
        let packets = burst(&mut pool, &[60, 200]);
        recorder.received(PORT, packets.as_slice(), Time(1));
        assert!(
            recorder.explains(&[7; 90], DropReason::NoRoute)
                && !recorder.explains(&[7; 90], DropReason::MtuExceeded)
        );
        recorder.explain(|text| text.push_str("router: drop"));
        recorder.dropped(&[7; 90], DropReason::NoRoute);
        recorder.dropped(&[8; 90], DropReason::MtuExceeded);
        recorder.sends(PortId(1), packets.as_slice(), Time(2));
        recorder.sends(PORT, packets.as_slice(), Time(3));
        recorder.flush(Time(3), false);
        assert!(records.take().is_none());
        recorder.flush(Time(3), true);
        let chunk = records.take().unwrap();
        let got: Vec<_> = chunk.records().map(|r| (r.time.0, r.interface, r.moment, r.length)).collect();
        use Moment::{Inside, Received, Sent};
        assert_eq!(
            got,
            [
                (1, 0, Received, 60),
                (1, 0, Received, 200),
                (1, 2, Inside, 90),
                (3, 1, Sent, 60),
                (3, 1, Sent, 200)
            ]
        );
        let dropped = chunk.records().nth(2).unwrap();
        assert_eq!((dropped.comment, dropped.reason), ("router: drop", Some(DropReason::NoRoute)));
        assert_eq!((dropped.port, dropped.bytes), (Some(PORT), &[7; 80][..]));
        assert_eq!((counts(&records, 0), counts(&records, 2)), ([2, 2, 0, 0], [1, 1, 0, 0]));
        records.give_back(chunk);
    }

    #[test]
    fn a_filter_and_a_sample_choose() {
        let (mut recorder, mut records) = made(1, 1.0, Some(Box::new(Long)));
        let mut pool = pool();
        let packets = burst(&mut pool, &[60, 200, 70, 300]);
        recorder.received(PORT, packets.as_slice(), Time(1));
        // Nobody knows where what is sent came from.
        recorder.sends(PORT, packets.as_slice(), Time(1));
        recorder.flush(Time(1), true);
        assert_eq!(records.take().unwrap().records().count(), 2);
        let (mut recorder, mut records) = made(3, 1.0, None);
        for _ in 0..6 {
            recorder.received(PORT, packets.as_slice(), Time(1));
        }
        recorder.flush(Time(1), true);
        assert_eq!(records.take().unwrap().records().count(), 8);
        assert_eq!(counts(&records, 0), [24, 8, 0, 0]);
    }

    #[test]
    fn without_time_or_room_packets_are_counted_and_go_on() {
        let mut pool = pool();
        let packets = burst(&mut pool, &[60; 32]);
        let (mut recorder, records) = made(1, 0.0, None);
        // The first burst is begun before anything is spent.
        recorder.received(PORT, packets.as_slice(), Time(1));
        recorder.received(PORT, packets.as_slice(), Time(1));
        assert_eq!(counts(&records, 0), [64, 32, 32, 0]);
        let (mut recorder, mut records) = made(1, 1.0, None);
        for now in 0..10_000 {
            recorder.received(PORT, packets.as_slice(), Time::from_secs(now));
        }
        let [passed, copied, no_time, no_room] = counts(&records, 0);
        assert_eq!((passed, copied + no_room), (320_000, 320_000 - no_time));
        assert!(no_room > 200_000 && copied > 30_000, "{copied} {no_room}");
        let mut read = 0;
        while let Some(chunk) = records.take() {
            read += chunk.records().count() as u64;
            records.give_back(chunk);
        }
        assert_eq!(read, copied, "the last chunk was handed over when it was full");
        recorder.received(PORT, packets.as_slice(), Time::from_secs(10_000));
        assert_eq!(counts(&records, 0)[1], copied + 32);
    }
}
