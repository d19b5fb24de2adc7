//! The flow state of one worker: cache, sessions, validity and templates, with what keeps them consistent.

use super::cache::{FlowCache, NewEntry, Owner, Slot};
use super::hash::KeyedHash;
use super::program::Program;
use super::session::{
    DUE_MAX, InsertError, NONE, PARTS_MAX, SessionConfig, SessionId, SessionTable, Traffic, Tuple,
};
use super::template::Templates;
use super::tuple_index::Homes;
use super::validity::{Validity, Watches};
use crate::memory::{Arena, ArenaError};
use crate::time::Time;
use arrayvec::ArrayVec;

/// Packets that an entry may have counted before housekeeping folds them. It overflows at 2^32, which takes more than
/// a round at any rate of a worker.
const FULL_PACKETS: u64 = 1 << 24;
/// Most places that one slice of [`FlowState::fold_from`] looks at.
pub const PLACES_MAX: usize = 1 << 16;
/// How many sessions the memory of each step is asked for ahead of the next one.
const AHEAD: usize = 6;
/// How long housekeeping takes to go round the cache.
const ROUND_MILLIS: u64 = 60_000;

/// What the functions have to be told, in the order in which it happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Traffic that the cache carried for a session since it was last told; what it carried last comes with its end.
    Traffic {
        /// The session's domain.
        domain: u16,
        /// The functions' words in the session.
        parts: ArrayVec<u64, PARTS_MAX>,
        /// It went in the responder's direction.
        reply: bool,
        /// How much.
        traffic: Traffic,
    },
    /// A session ended; its entries are gone already. What it was is still in the table: its tuples, and the functions' words.
    Ended {
        /// Its number, which no other session gets before all functions were told.
        session: SessionId,
        /// Traffic of both directions of which the functions were not told.
        untold: [Traffic; 2],
    },
}

/// Sizes of the flow state.
#[derive(Clone, Debug)]
pub struct FlowConfig {
    /// The session table.
    pub sessions: SessionConfig,
    /// Entries of the flow cache. 0: no cache at all; every packet walks.
    pub cache_entries: usize,
    /// Most words of a key.
    pub key_words: usize,
    /// Most words of a program's operands.
    pub operand_words: usize,
}

impl FlowConfig {
    /// Bytes that the state takes from the arena.
    pub fn bytes(&self) -> usize {
        SessionTable::bytes_for(self.sessions.capacity, self.sessions.parts)
            + FlowCache::bytes_for(self.cache_entries.max(1), self.key_words + self.operand_words)
    }
}

/// Everything that a worker remembers of flows.
#[derive(Debug)]
pub struct FlowState {
    /// The cache.
    pub cache: FlowCache,
    /// The connections.
    pub sessions: SessionTable,
    /// What changed when.
    pub validity: Validity,
    /// The structures of the programs.
    pub templates: Templates,
    events: Vec<Event>,
    /// Those that are being told; else empty.
    telling: Vec<Event>,
    /// The epoch in which the round of the sweep began.
    round_since: u64,
    caching: bool,
}

impl FlowState {
    /// All memory comes from `arena`. `seed` makes hashes repeat, for deterministic runs; none takes a random secret.
    ///
    /// # Errors
    /// If the arena has not enough memory.
    pub fn new(arena: &Arena, config: &FlowConfig, seed: Option<u64>) -> Result<Self, ArenaError> {
        let hash = || seed.map_or_else(KeyedHash::random, KeyedHash::seeded);
        let words = config.key_words + config.operand_words;
        let cache = FlowCache::new(arena, config.cache_entries.max(1), words, hash())?;
        Ok(Self {
            sessions: SessionTable::new(arena, &config.sessions, hash())?,
            validity: Validity::new(arena, cache.places(), hash())?,
            cache,
            templates: Templates::default(),
            events: Vec::with_capacity(1024),
            telling: Vec::with_capacity(1024),
            round_since: 1,
            caching: config.cache_entries > 0,
        })
    }

    /// Adds a session. It takes the place of `replaces`, an ended connection on the same tuples; otherwise, if the table is full, one
    /// that is not assured gives way. Neither ends unless the new one is certain (R6).
    ///
    /// # Errors
    /// If there is no room, or a tuple is taken. Nothing has changed then.
    pub fn open_session(
        &mut self,
        initiator: &Tuple,
        responder: &Tuple,
        replaces: Option<SessionId>,
        now: Time,
    ) -> Result<SessionId, InsertError> {
        if replaces.is_none() {
            match self.sessions.insert(initiator, responder, now) {
                Err(InsertError::Full) => {}
                result => return result,
            }
        }
        let leaves = match self.sessions.may_insert(initiator, responder, replaces) {
            Ok(()) => replaces,
            Err(InsertError::Full) => Some(self.sessions.victim().ok_or(InsertError::Full)?),
            Err(error) => return Err(error),
        };
        if let Some(id) = leaves {
            self.end_session(id);
        }
        self.sessions.insert(initiator, responder, now)
    }

    /// Ends a session: its entries fall first, then its tuples are free; its number is when the functions were told (R8).
    pub fn end_session(&mut self, id: SessionId) {
        let untold = self.fold(id);
        let homes = self.sessions.homes_of(id);
        self.end(id, homes, untold);
    }

    /// The same for a session that was just folded.
    fn end(&mut self, session: SessionId, homes: [Homes; 2], untold: [Traffic; 2]) {
        self.drop_entries(session);
        self.sessions.remove(session, homes);
        self.events.push(Event::Ended { session, untold });
    }

    /// Invalidates the entries of a session; it stays, and its next packet walks.
    pub fn kill_entries(&mut self, id: SessionId) {
        self.fold_session(id);
        self.drop_entries(id);
    }

    /// Takes all entries of a session away, which were folded.
    fn drop_entries(&mut self, id: SessionId) {
        let Self { cache, sessions, validity, .. } = self;
        let first = std::mem::replace(&mut sessions.hot(id).entries, NONE);
        cache.drop_list(first, |named| validity.release(named));
    }

    /// Brings a session's counters and last-seen up to date.
    pub fn fold_session(&mut self, id: SessionId) {
        let counted = self.fold(id);
        self.tell(id, counted);
    }

    /// What a session's entries counted goes to its counters: how much that was, of both directions.
    fn fold(&mut self, id: SessionId) -> [Traffic; 2] {
        let mut counted = [Traffic::default(); 2];
        let mut at = self.sessions.hot(id).entries;
        while at != NONE {
            let slot = Slot(at);
            at = self.cache.next(slot);
            if let Some((owner, traffic)) = self.cache.fold(slot, &mut self.sessions) {
                counted[usize::from(owner.reply)] += traffic;
            }
        }
        counted
    }

    /// The functions are to be told of traffic of both directions.
    fn tell(&mut self, session: SessionId, counted: [Traffic; 2]) {
        for (reply, traffic) in [false, true].into_iter().zip(counted) {
            if traffic.packets > 0 {
                self.push_traffic(Owner { session, reply }, traffic);
            }
        }
    }

    /// After entries may have fallen: gives back what they named, and notes what they had counted.
    fn report(&mut self, folded: Option<(Owner, Traffic)>) {
        release_watches(&mut self.cache, &mut self.validity);
        if let Some((owner, traffic)) = folded {
            self.push_traffic(owner, traffic);
        }
    }

    fn push_traffic(&mut self, owner: Owner, traffic: Traffic) {
        let event = traffic_event(&self.sessions, owner, traffic);
        self.events.push(event);
    }

    /// Credits a packet that walked without an entry.
    pub fn credit(&mut self, owner: Owner, bytes: usize, now: Time) {
        let traffic = Traffic { packets: 1, bytes: bytes as u64 };
        self.sessions.credit(owner.session, owner.reply, traffic, now.as_millis() as u32);
        self.push_traffic(owner, traffic);
    }

    /// Stores a decision under a key with its hash. None if it can't be.
    pub fn remember(
        &mut self,
        (key, hash): (&[u64], u64),
        program: &mut Program,
        owner: Option<Owner>,
        watches: &Watches,
        now: Time,
    ) -> Option<Slot> {
        if !self.caching {
            return None;
        }
        program.interned = program.interned.or_else(|| self.templates.intern(&program.template));
        let Some(template) = program.interned else {
            self.cache.refuse();
            return None;
        };
        let Some(watches) = self.validity.hold(watches) else {
            self.cache.refuse();
            return None;
        };
        let entry = NewEntry {
            key,
            program,
            template,
            narrow: self.templates.usual(template).is_some_and(|usual| usual.narrow),
            owner,
            stamp: self.validity.epoch(),
            watches,
            now_millis: now.as_millis() as u32,
        };
        let Some((slot, evicted)) = self.cache.insert(hash, &entry, &mut self.sessions) else {
            self.validity.release(entry.watches);
            return None;
        };
        self.report(evicted);
        Some(slot)
    }

    /// Removes the entry of a key whose validity was refuted.
    pub fn invalidate(&mut self, slot: Slot) {
        let folded = self.cache.invalidate(slot, &mut self.sessions);
        self.report(folded);
    }

    /// Ends sessions whose time ran out: at most `budget` timers are looked at. True if nothing more is due.
    pub fn expire(&mut self, now: Time, budget: usize) -> bool {
        let mut left = budget;
        while left > 0 {
            let due = self.sessions.take_due(now, left.min(DUE_MAX));
            self.sessions.prefetch_due(now);
            self.expire_all(&due, now);
            if due.len() < left.min(DUE_MAX) {
                return true;
            }
            left -= due.len();
        }
        false
    }

    /// Looks at sessions whose timers came up, while the memory comes that those behind them need: first the records, then the entries
    /// to which these lead, then the index and what the entries lead to. Little by little: all at once would be waited for.
    fn expire_all(&mut self, due: &[u32], now: Time) {
        let session = |at: usize, step: usize| {
            at.checked_sub(step * AHEAD).and_then(|at| due.get(at)).map(|&id| SessionId(id))
        };
        let mut homes = ArrayVec::<[Homes; 2], DUE_MAX>::new();
        for at in 0..due.len() + 3 * AHEAD {
            if let Some(id) = session(at, 1) {
                self.prefetch_entry(id);
            }
            if let Some(id) = session(at, 3) {
                self.expire_one(id, homes[at - 3 * AHEAD], now);
            }
            if let Some(id) = session(at, 2) {
                homes.push(self.sessions.homes_of(id));
                homes.last().into_iter().for_each(|homes| self.sessions.prefetch_homes(homes));
                self.prefetch_behind_entry(id);
            }
            if let Some(id) = session(at, 0) {
                self.sessions.prefetch_record(id.0);
            }
        }
    }

    fn first_entry(&mut self, id: SessionId) -> Option<Slot> {
        let first = self.sessions.hot(id).entries;
        (first != NONE).then_some(Slot(first))
    }

    /// Asks for a session's first entry.
    fn prefetch_entry(&mut self, id: SessionId) {
        if let Some(first) = self.first_entry(id) {
            self.cache.prefetch_entry(first);
        }
    }

    /// Asks for what that leads to: what the decision had used, and the next entry.
    fn prefetch_behind_entry(&mut self, id: SessionId) {
        let Some(first) = self.first_entry(id) else { return };
        self.validity.prefetch(self.cache.watches(first));
        let next = self.cache.next(first);
        if next != NONE {
            self.cache.prefetch_entry(Slot(next));
        }
    }

    /// Ends a session whose time ran out, or puts its timer back.
    fn expire_one(&mut self, id: SessionId, homes: [Homes; 2], now: Time) {
        let folded = self.fold(id);
        if self.sessions.rearm(id, now) {
            self.tell(id, folded);
        } else {
            self.end(id, homes, folded);
        }
    }

    /// Folds the counters of entries from place `from` on: of at most `entries`, and over at most [`PLACES_MAX`] places. Where to go on;
    /// none at the end of the cache.
    pub fn fold_from(&mut self, from: usize, entries: usize) -> Option<usize> {
        let Self { cache, sessions, events, .. } = self;
        let (mut left, end) = (entries, cache.places().min(from + PLACES_MAX));
        for place in from..end {
            let slot = Slot(place as u32);
            if !cache.is_occupied(slot) {
                continue;
            }
            if left == 0 {
                return Some(place);
            }
            left -= 1;
            if let Some((owner, traffic)) = cache.fold(slot, sessions) {
                events.push(traffic_event(sessions, owner, traffic));
            }
        }
        (end < cache.places()).then_some(end)
    }

    /// Folds the counters of all entries: at the end of a run, where nothing else waits.
    pub fn fold_all(&mut self) {
        let mut from = Some(0);
        while let Some(place) = from {
            from = self.fold_from(place, usize::MAX);
        }
    }

    /// Goes on with the round of the cache: at most `budget` places. Counters fold, and entries that are void go. True at the
    /// end of a round.
    pub fn fold_some(&mut self, budget: usize) -> bool {
        self.sweep(budget, 1)
    }

    /// Folds those that counted so much that they could overflow one day: a round of the whole cache a minute, and at most
    /// `budget` places at a time.
    pub fn fold_full(&mut self, now: Time, budget: usize) {
        let behind = self.cache.behind_sweep(now.as_millis() % ROUND_MILLIS, ROUND_MILLIS);
        self.sweep(behind.min(budget), FULL_PACKETS);
    }

    /// Stamps are renewed on the way, unless something that the entry used has changed: then it falls.
    fn sweep(&mut self, budget: usize, packets: u64) -> bool {
        let Self { cache, sessions, events, validity, .. } = self;
        let epoch = validity.epoch();
        let round_over = cache.sweep(budget, |cache, slot| {
            let stamp = cache.header(slot).stamp;
            let folded = if stamp == epoch || validity.holds(stamp, cache.watches(slot)) {
                if stamp != epoch {
                    cache.restamp(slot, epoch);
                }
                if cache.unfolded(slot).packets < packets { None } else { cache.fold(slot, sessions) }
            } else {
                let folded = cache.invalidate(slot, sessions);
                release_watches(cache, validity);
                folded
            };
            if let Some((owner, traffic)) = folded {
                events.push(traffic_event(sessions, owner, traffic));
            }
        });
        if round_over {
            self.validity.all_stamped_since(self.round_since);
            self.round_since = self.validity.full_epoch();
        } else if self.validity.is_overdue() {
            // More changes than a round takes: no stamp is to be trusted any longer.
            self.flush();
            self.validity.all_stamped_since(self.validity.full_epoch());
        }
        round_over
    }

    /// Drops all entries. Nothing but speed changes.
    pub fn flush(&mut self) {
        for at in 0..self.cache.places() as u32 {
            if self.cache.is_occupied(Slot(at)) {
                self.invalidate(Slot(at));
            }
        }
    }

    /// Tells what happened to sessions, in the order in which it did; called after each walk and each slice of housekeeping. The
    /// numbers of those that ended are free then.
    #[inline]
    pub fn tell_events(&mut self, mut tell: impl FnMut(&[Event], &mut Self)) {
        // Telling a function may end further sessions; the bound is the number of sessions.
        while !self.events.is_empty() {
            let telling = std::mem::take(&mut self.telling);
            let mut telling = std::mem::replace(&mut self.events, telling);
            tell(&telling, self);
            for event in telling.drain(..) {
                if let Event::Ended { session, .. } = event {
                    self.sessions.free(session);
                }
            }
            self.telling = telling;
        }
    }

    /// True if functions have to be told something.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }
}

/// After entries fell: gives back what they had named.
fn release_watches(cache: &mut FlowCache, validity: &mut Validity) {
    while let Some(watches) = cache.take_released() {
        validity.release(watches);
    }
}

fn traffic_event(sessions: &SessionTable, owner: Owner, traffic: Traffic) -> Event {
    Event::Traffic {
        domain: sessions.domain(owner.session),
        parts: sessions.parts_of(owner.session),
        reply: owner.reply,
        traffic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::session::Timeouts;
    use crate::flow::validity::{ObjectKind, Watch};
    use crate::memory::ArenaSlice;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    fn state(capacity: usize) -> FlowState {
        let arena = Arena::anonymous(16 << 20).unwrap();
        let sessions = SessionConfig { capacity, parts: 0, timeouts: Timeouts::default() };
        let config = FlowConfig { sessions, cache_entries: 64, key_words: 8, operand_words: 8 };
        FlowState::new(&arena, &config, Some(7)).unwrap()
    }

    fn tuple(n: u32) -> Tuple {
        let source = (Ipv4Addr::from(0x0a00_0000 | n >> 12).into(), n as u16 & 0xfff);
        Tuple::new(0, 17, source, (Ipv4Addr::new(192, 0, 2, 1).into(), 53))
    }

    fn open(state: &mut FlowState, tuple: &Tuple) -> Result<SessionId, InsertError> {
        state.open_session(tuple, &tuple.inverse(), None, Time(0))
    }

    fn events(state: &mut FlowState) -> Vec<Event> {
        let mut events = Vec::new();
        state.tell_events(|told, _| events.extend_from_slice(told));
        events
    }

    /// R6: a connection that is opened anew ends the old one only if there will be a new one.
    #[test]
    fn the_old_session_ends_when_the_new_one_is_certain() {
        let mut state = state(16);
        let old = open(&mut state, &tuple(1)).unwrap();
        let other = open(&mut state, &tuple(2)).unwrap();
        let taken = tuple(2).inverse();
        assert_eq!(state.open_session(&tuple(1), &taken, Some(old), Time(0)), Err(InsertError::Taken));
        assert_eq!(state.sessions.find(&tuple(1)), Some((old, false)), "it lives");
        assert!(!state.has_events());
        state.open_session(&tuple(1), &tuple(1).inverse(), Some(old), Time(0)).unwrap();
        assert!(matches!(&events(&mut state)[..], [Event::Ended { session, .. }] if *session == old));
        assert_eq!(state.sessions.count(), 2);
        assert!(state.sessions.get(other.0).is_some());
    }

    /// In a full table, the place of the old session is the new one's: nobody else gives way.
    #[test]
    fn a_reopened_connection_displaces_nobody_else() {
        let mut state = state(3);
        let ids = [1, 2, 3].map(|n| open(&mut state, &tuple(n)).unwrap());
        state.open_session(&tuple(2), &tuple(2).inverse(), Some(ids[1]), Time(0)).unwrap();
        let ended = events(&mut state);
        assert!(matches!(&ended[..], [Event::Ended { session, .. }] if *session == ids[1]));
        open(&mut state, &tuple(4)).unwrap();
        assert_eq!((events(&mut state).len(), state.sessions.count()), (1, 3));
    }

    /// Functions are told once of all that the cache carried: before the end, or with it.
    #[test]
    fn the_last_traffic_comes_with_the_end() {
        let mut state = state(16);
        let session = open(&mut state, &tuple(1)).unwrap();
        let slots = [false, true].map(|reply| {
            let key = [u64::from(reply), 7];
            let hash = state.cache.hash(&key);
            let owner = Some(Owner { session, reply });
            let watches = Watches::default();
            state.remember((&key, hash), &mut Program::default(), owner, &watches, Time(0)).unwrap()
        });
        state.cache.count_packet(slots[0], 60, 0);
        state.fold_session(session);
        assert!(matches!(events(&mut state)[..], [Event::Traffic { reply: false, traffic, .. }]
            if traffic == Traffic { packets: 1, bytes: 60 }));
        state.cache.count_packet(slots[1], 70, 0);
        state.cache.count_packet(slots[1], 70, 0);
        assert!(state.expire(Time::from_secs(1000), 10));
        let ended = events(&mut state);
        let [Event::Ended { untold, .. }] = &ended[..] else { panic!("{ended:?}") };
        assert_eq!(*untold, [Traffic::default(), Traffic { packets: 2, bytes: 140 }]);
        assert_eq!(state.cache.count(), 0);
    }

    /// Stores a decision that used `watch`.
    fn remember(state: &mut FlowState, key: u64, watch: Watch) -> Slot {
        remember_at(state, key, watch, Time(0))
    }

    fn remember_at(state: &mut FlowState, key: u64, watch: Watch, now: Time) -> Slot {
        let mut watches = Watches::default();
        watches.add(watch);
        let key = [key, key];
        let hash = state.cache.hash(&key);
        state.remember((&key, hash), &mut Program::default(), None, &watches, now).unwrap()
    }

    fn is_valid(state: &FlowState, slot: Slot) -> bool {
        state.cache.is_occupied(slot)
            && state.validity.holds(state.cache.header(slot).stamp, state.cache.watches(slot))
    }

    /// The cache is full of flows that are quiet after many packets; a few that come round slowly find their places all the same.
    #[test]
    fn quiet_flows_give_way_to_slow_ones() {
        let mut state = state(16);
        let places = state.cache.places() as u64;
        let watch = Watch::of(ObjectKind::Neighbour, 1);
        for key in 1..=4 * places {
            let slot = remember(&mut state, key, watch);
            (0..3).for_each(|_| state.cache.count_packet(slot, 60, 0));
        }
        assert!(state.cache.count() as u64 > places * 3 / 4);
        let laps = (1..).take(50).map(|lap| {
            let missing = (1_000_000..1_000_000 + places / 3).filter(|&key| {
                let words = [key, key];
                let found = state.cache.find(state.cache.hash(&words), &words);
                let now = Time::from_millis(u64::from(lap));
                let slot = found.unwrap_or_else(|| remember_at(&mut state, key, watch, now));
                state.cache.count_packet(slot, 60, lap);
                found.is_none()
            });
            missing.count()
        });
        let missing: Vec<_> = laps.collect();
        assert_eq!(missing.last(), Some(&0), "{missing:?}");
    }

    /// The clock's milliseconds wrap after 49 days: what was seen before that is older than what was seen after.
    #[test]
    fn the_longest_unseen_gives_way_also_when_the_clock_wraps() {
        let mut state = state(16);
        let places = state.cache.places() as u64;
        let watch = Watch::of(ObjectKind::Neighbour, 1);
        let mut store = |key, millis| {
            let slot = remember_at(&mut state, key, watch, Time::from_millis(millis));
            state.cache.count_packet(slot, 60, millis as u32);
        };
        let wrap = 1 << 32;
        (0..4 * places).for_each(|key| store(key, wrap - 1000 + key));
        let later = 4 * places..4 * places + places / 3;
        later.clone().for_each(|key| store(key, wrap + key));
        let lost =
            later.filter(|&key| state.cache.find(state.cache.hash(&[key, key]), &[key, key]).is_none());
        assert_eq!(lost.count(), 0);
    }

    /// R8: an entry that nobody hit for ages is as old as it is, however often the stamp's range was passed.
    #[test]
    fn stamps_do_not_come_round() {
        let (mine, other) = (Watch::of(ObjectKind::Neighbour, 1), Watch::of(ObjectKind::Neighbour, 2));
        for pause in [1, 1 << 29, 1 << 30, 5 << 28] {
            let mut state = state(16);
            let (stale, good) = (remember(&mut state, 1, mine), remember(&mut state, 2, other));
            state.validity.change(mine);
            for _ in 0..20 {
                state.validity.pass(pause);
                assert!(!is_valid(&state, stale));
                assert!(is_valid(&state, good), "what it used has not changed");
                while !state.fold_some(64) {}
            }
            assert!(!state.cache.is_occupied(stale), "it fell without a hit");
        }
    }

    /// Whoever changes more than a round of the sweep can follow loses the cache, never its truth.
    #[test]
    fn without_a_whole_round_the_entries_go() {
        let mut state = state(16);
        let watch = Watch::of(ObjectKind::Neighbour, 1);
        let entry = remember(&mut state, 1, watch);
        state.validity.change(watch);
        state.fold_some(0);
        assert!(state.cache.is_occupied(entry));
        state.validity.pass(u64::from(u32::MAX));
        state.fold_some(0);
        assert!(!state.cache.is_occupied(entry));
        assert!(!state.validity.is_overdue());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// R8: whatever comes, goes, is evicted, swept or flushed, an entry is valid exactly while nothing that it named changed, and
        /// what no entry names is in use by none.
        #[test]
        fn entries_and_their_names_agree(steps in proptest::collection::vec((0u8..8, 0u64..400, any::<u64>()), 1..600)) {
            let mut state = state(16);
            let mut model: HashMap<u64, (Slot, u64, Vec<u64>, bool)> = HashMap::new();
            let mut number = 0;
            for (step, a, b) in steps {
                match step {
                    0..4 => {
                        number += 1;
                        let ids: Vec<u64> = match a % 8 {
                            0 => (0..b % 20).collect(),
                            _ => vec![a % 6, b % 6, 6 + b % 3],
                        };
                        let mut watches = Watches::default();
                        ids.iter().for_each(|&id| watches.add(Watch::of(ObjectKind::Neighbour, id)));
                        let (key, overflows) = ([number, a], watches.overflows());
                        let hash = state.cache.hash(&key);
                        let slot = state.remember((&key, hash), &mut Program::default(), None, &watches, Time(number)).unwrap();
                        // Some other gave way for it, if any did.
                        model.retain(|_, (other, ..)| *other != slot);
                        model.insert(number, (slot, a, ids, overflows));
                    }
                    4 | 5 => {
                        let changed = b % 12;
                        state.validity.change(Watch::of(ObjectKind::Neighbour, changed));
                        let falls = |ids: &[u64], overflows| overflows || ids.contains(&changed);
                        model.retain(|&number, (slot, a, ids, overflows)| {
                            let falls = falls(ids, *overflows);
                            assert!(!(falls && is_valid(&state, *slot)), "{number} {a} {ids:?} {changed}");
                            if falls && b % 2 == 0 {
                                state.invalidate(*slot);
                            }
                            !falls
                        });
                    }
                    6 => {
                        state.fold_some(b as usize % 100);
                        // Who names too much falls with any epoch.
                        model.retain(|_, (slot, _, _, overflows)| !*overflows || state.cache.is_occupied(*slot));
                    }
                    _ if b % 10 == 0 => {
                        state.flush();
                        model.clear();
                        prop_assert_eq!((state.cache.count(), state.validity.objects_in_use()), (0, 0));
                    }
                    _ => state.validity.pass(b % (1 << 20)),
                }
                for (number, (slot, a, _, overflows)) in &model {
                    let key = [*number, *a];
                    prop_assert_eq!(state.cache.find(state.cache.hash(&key), &key), Some(*slot));
                    prop_assert!(*overflows || is_valid(&state, *slot));
                }
            }
            state.flush();
            prop_assert_eq!((state.cache.count(), state.validity.objects_in_use()), (0, 0));
            let epoch = state.validity.epoch();
            (0..30).for_each(|id| state.validity.change(Watch::of(ObjectKind::Neighbour, id)));
            prop_assert_eq!(state.validity.epoch(), epoch, "nobody is concerned");
        }
    }

    /// What is planned is what is taken, whatever the sizes.
    #[test]
    fn the_state_fits_into_what_was_planned() {
        for cache_entries in [0, 1, 5, 6, 7, 100, 1000, 1001, 1027, 10_000, 12_345, 65_536] {
            for capacity in [1, 16, 1000, 12_347] {
                let sessions = SessionConfig { capacity, parts: 3, timeouts: Timeouts::default() };
                let config = FlowConfig { sessions, cache_entries, key_words: 12, operand_words: 16 };
                let arena = Arena::anonymous(config.bytes()).unwrap();
                let filler = ArenaSlice::<u8>::zeroed(&arena, arena.len() - config.bytes()).unwrap();
                let state = FlowState::new(&arena, &config, Some(1));
                assert!(
                    state.is_ok(),
                    "{cache_entries} {capacity}: {:?}, {} left out",
                    state.err(),
                    filler.len()
                );
            }
        }
    }

    /// Where the index has no room for a tuple, no session ends in vain.
    #[test]
    fn nobody_gives_way_in_vain() {
        let mut state = state(64);
        // All tuples of one bucket: both homes of both directions.
        let bucket = |state: &FlowState, tuple: &Tuple| state.sessions.homes(tuple).first;
        let alone = |state: &FlowState, tuple: &Tuple| {
            let homes = state.sessions.homes(tuple);
            homes.first == 0 && homes.second == 0
        };
        let full: Vec<_> =
            (0..).map(tuple).filter(|t| alone(&state, t) && alone(&state, &t.inverse())).take(6).collect();
        for tuple in &full[..5] {
            open(&mut state, tuple).unwrap();
        }
        assert_eq!(open(&mut state, &full[5]), Err(InsertError::Crowded));
        let rest = (1 << 30..).map(tuple).filter(|t| bucket(&state, t) != 0);
        for tuple in rest.take(59).collect::<Vec<_>>() {
            open(&mut state, &tuple).unwrap();
        }
        assert_eq!(state.sessions.count(), state.sessions.capacity());
        assert_eq!(open(&mut state, &full[5]), Err(InsertError::Crowded));
        assert!(!state.has_events());
        assert_eq!(state.sessions.count(), state.sessions.capacity());
    }
}
