//! The transitions (RFC 4861 sections 7.2 and 7.3, appendix C).

use super::store::{Displaces, Entry, Store};
use super::unanswered::{Party, Room, Unanswered};
use super::{
    Action, Asker, Event, Needs, NeighbourCounters, NeighbourId, NeighbourInfo, NeighbourLimits,
    NeighbourState, NeighbourTimers, NeighbourView,
};
use crate::router::interface::InterfaceId;
use millrace_dataplane::flow::hash::KeyedHash;
use millrace_dataplane::port::MacAddress;
use millrace_dataplane::slow_path::HoldToken;
use millrace_dataplane::time::Time;
use std::net::IpAddr;
use std::time::Duration;

/// All neighbours of a router.
#[derive(Clone, Debug)]
pub struct NeighbourTable {
    store: Store,
    unanswered: Vec<Unanswered>,
    limits: NeighbourLimits,
    timers: NeighbourTimers,
    counters: NeighbourCounters,
    random: u64,
}

impl NeighbourTable {
    /// An empty table. `hash` keys its index (R16); `seed` spreads the reachable times.
    pub fn new(limits: NeighbourLimits, timers: NeighbourTimers, hash: KeyedHash, seed: u64) -> Self {
        Self {
            store: Store::new(limits.entries_max, hash),
            unanswered: Vec::new(),
            limits,
            timers,
            counters: NeighbourCounters::default(),
            random: seed,
        }
    }

    /// What is known of a neighbour, and what a packet for it needs. Changes nothing.
    /// `asker` is for whom.
    #[inline]
    pub fn lookup(&self, interface: InterfaceId, address: IpAddr, asker: Asker, now: Time) -> NeighbourView {
        let Some(entry) = self.store.find(interface, address) else {
            let token = HoldToken(self.store.hash(interface, address));
            let full = self.room(interface, self.party(asker, address), now) == Room::None;
            let needs = if full { Needs::Refused } else { Needs::Resolve };
            return NeighbourView { id: None, state: None, mac: None, token, needs };
        };
        let needs = match entry.state {
            NeighbourState::Incomplete => Needs::Resolve,
            NeighbourState::Stale => Needs::Used,
            NeighbourState::Failed => Needs::Unreachable,
            _ => Needs::Nothing,
        };
        let mac = entry.state.is_usable().then_some(entry.mac);
        let token = HoldToken(entry.hash);
        NeighbourView { id: Some(entry.id), state: Some(entry.state), mac, token, needs }
    }

    fn party(&self, asker: Asker, target: IpAddr) -> Party {
        Party::of(asker, target, |interface, address| self.store.hash(interface, address))
    }

    /// Whether an interface may have one more unanswered resolution.
    fn room(&self, interface: InterfaceId, party: Party, now: Time) -> Room {
        let (most, retransmit) = (self.limits.incomplete_per_interface_max, self.timers.retransmit);
        let unanswered = self.unanswered.get(usize::from(interface.0));
        unanswered.map_or(Room::Free, |unanswered| unanswered.room(party, most, now, retransmit))
    }

    /// Takes an event. Events of entries that are gone have no effect. At most four actions are appended.
    pub fn apply(&mut self, event: Event, now: Time, actions: &mut Vec<Action>) {
        match event {
            Event::Resolve { interface, address, asker } => {
                self.resolve(interface, address, asker, now, actions);
            }
            Event::Answer { interface, address, mac } => {
                let Some(entry) = self.store.find(interface, address).copied() else { return };
                // Whoever was asked answers, and nobody else: an ARP reply does not say whether it was asked for.
                let solicited = matches!(entry.state, NeighbourState::Incomplete | NeighbourState::Probe);
                let says = Advertised { mac: Some(mac), solicited, overrides: true, router: false };
                self.advertised(&entry, &says, now, actions);
            }
            Event::Used { id } => self.used(id, now),
            Event::Advertisement { interface, address, mac, solicited, overrides, router } => {
                let Some(entry) = self.store.find(interface, address).copied() else {
                    // RFC 4861 section 7.2.5: without an entry, it is silently discarded.
                    return;
                };
                let says = Advertised { mac, solicited, overrides, router };
                self.advertised(&entry, &says, now, actions);
            }
            Event::Solicitation { interface, address, mac } => {
                self.solicited(interface, address, mac, now, actions);
            }
            Event::Confirmed { id } => self.confirmed(id, now),
        }
    }

    /// RFC 4861 section 7.2.2: makes an entry and asks for its address; the packet is held until the answer.
    fn resolve(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        asker: Asker,
        now: Time,
        actions: &mut Vec<Action>,
    ) {
        let token = HoldToken(self.store.hash(interface, address));
        if let Some(entry) = self.store.find(interface, address).copied() {
            match entry.state {
                NeighbourState::Incomplete => self.note_use(entry.id, now),
                NeighbourState::Failed => actions.push(Action::Fail(token)),
                _ => {
                    self.used(entry.id, now);
                    actions.push(Action::Wake(token));
                }
            }
            return;
        }
        let party = self.party(asker, address);
        if !self.admit_resolution(interface, party, now, actions) {
            actions.push(Action::Fail(token));
            return;
        }
        let Some(id) =
            self.create(interface, address, Displaces::Idle, NeighbourState::Incomplete, now, actions)
        else {
            actions.push(Action::Fail(token));
            return;
        };
        self.counters.resolutions += 1;
        self.unanswered[usize::from(interface.0)].push(id, party, now);
        self.note_use(id, now);
        self.solicit(id, None, now, actions);
    }

    /// Whether an interface may have one more unanswered resolution; who gives way for it is gone then.
    fn admit_resolution(
        &mut self,
        interface: InterfaceId,
        party: Party,
        now: Time,
        actions: &mut Vec<Action>,
    ) -> bool {
        let at = usize::from(interface.0);
        if self.unanswered.len() <= at {
            self.unanswered.resize_with(at + 1, Unanswered::default);
        }
        let room = self.room(interface, party, now);
        self.counters.limited += u64::from(room != Room::Free);
        if let Room::Displaces(id) = room {
            self.remove_entry(id, actions);
        }
        room != Room::None
    }

    /// Makes an entry, displacing another if need be.
    fn create(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        displaces: Displaces,
        state: NeighbourState,
        now: Time,
        actions: &mut Vec<Action>,
    ) -> Option<NeighbourId> {
        match self.store.make_room(interface, address, displaces) {
            Ok(None) => {}
            Ok(Some(displaced)) => {
                self.counters.evictions += 1;
                self.remove_entry(displaced, actions);
            }
            Err(()) => {
                self.counters.refusals += 1;
                return None;
            }
        }
        Some(self.store.insert(interface, address, state, now))
    }

    /// Removes an entry with all that hangs on it.
    fn remove_entry(&mut self, id: NeighbourId, actions: &mut Vec<Action>) {
        self.leave_incomplete(id);
        let Some(entry) = self.store.remove(id) else { return };
        match entry.state {
            NeighbourState::Incomplete => {
                actions.push(Action::Fail(HoldToken(self.store.hash(entry.interface, entry.address))));
            }
            NeighbourState::Failed => {}
            _ => actions.push(Action::Invalidate(id)),
        }
    }

    /// Takes an entry off its interface's list of unanswered resolutions, if it is there.
    fn leave_incomplete(&mut self, id: NeighbourId) {
        let Some(entry) = self.store.get(id).filter(|entry| entry.state == NeighbourState::Incomplete) else {
            return;
        };
        if let Some(unanswered) = self.unanswered.get_mut(usize::from(entry.interface.0)) {
            unanswered.remove(id);
        }
    }

    fn note_use(&mut self, id: NeighbourId, at: Time) {
        if let Some(entry) = self.store.get_mut(id) {
            entry.last_used = entry.last_used.max(Some(at));
        }
    }

    /// Enters a state other than INCOMPLETE, with its deadline.
    fn enter(&mut self, id: NeighbourId, state: NeighbourState, now: Time, wait: Option<Duration>) {
        self.leave_incomplete(id);
        if let Some(entry) = self.store.get_mut(id) {
            entry.state = state;
            entry.since = now;
            entry.solicits = 0;
        }
        self.store.schedule(id, wait.map(|wait| now + wait));
    }

    fn enter_reachable(&mut self, id: NeighbourId, now: Time) {
        let wait = self.reachable_time();
        self.enter(id, NeighbourState::Reachable, now, Some(wait));
    }

    fn enter_stale(&mut self, id: NeighbourId, now: Time) {
        self.enter(id, NeighbourState::Stale, now, Some(self.timers.stale_poll));
    }

    /// RFC 4861 section 6.3.2: a random value between 0.5 and 1.5 times the base.
    fn reachable_time(&mut self) -> Duration {
        // splitmix64: well spread for any seed; nothing hangs on its secrecy.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let thousandths = 500 + (mixed >> 32) as u32 % 1_001;
        self.timers.reachable.saturating_mul(thousandths) / 1_000
    }

    /// Sends a solicitation and waits for its answer.
    fn solicit(&mut self, id: NeighbourId, to: Option<MacAddress>, now: Time, actions: &mut Vec<Action>) {
        let Some(entry) = self.store.get_mut(id) else { return };
        entry.solicits = entry.solicits.saturating_add(1);
        actions.push(Action::Solicit { id, interface: entry.interface, address: entry.address, to });
        self.store.schedule(id, Some(now + self.timers.retransmit));
    }

    /// RFC 4861 section 7.3.3: the first packet to a stale neighbour starts the delay.
    fn used(&mut self, id: NeighbourId, now: Time) {
        self.note_use(id, now);
        if self.store.get(id).is_some_and(|entry| entry.state == NeighbourState::Stale) {
            self.enter(id, NeighbourState::Delay, now, Some(self.timers.delay));
        }
    }

    /// RFC 4861 section 7.3.1. Without an address there is nothing to confirm.
    fn confirmed(&mut self, id: NeighbourId, now: Time) {
        let Some(entry) = self.store.get(id) else { return };
        match entry.state {
            NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::Permanent => {}
            _ => self.enter_reachable(id, now),
        }
    }

    /// RFC 4861 section 7.2.5.
    fn advertised(&mut self, entry: &Entry, says: &Advertised, now: Time, actions: &mut Vec<Action>) {
        let id = entry.id;
        match entry.state {
            NeighbourState::Permanent => {}
            // The RFC knows no such entry. The station lives: the next packet may ask for it at once.
            NeighbourState::Failed => self.remove_entry(id, actions),
            NeighbourState::Incomplete => {
                self.set_router(id, says.router);
                if let Some(mac) = says.mac {
                    self.learn(entry, mac, actions);
                    if says.solicited { self.enter_reachable(id, now) } else { self.enter_stale(id, now) }
                }
            }
            state => {
                let different = says.mac.filter(|&mac| mac != entry.mac);
                if !says.overrides && different.is_some() {
                    // I: the cached address stays; a reachable one becomes doubtful.
                    if state == NeighbourState::Reachable {
                        self.enter_stale(id, now);
                    }
                    return;
                }
                self.set_router(id, says.router);
                if let Some(mac) = different {
                    self.learn(entry, mac, actions);
                }
                if says.solicited {
                    self.enter_reachable(id, now);
                } else if different.is_some() {
                    self.enter_stale(id, now);
                }
            }
        }
    }

    fn set_router(&mut self, id: NeighbourId, router: bool) {
        if let Some(entry) = self.store.get_mut(id) {
            entry.is_router = router;
        }
    }

    /// Records a link-layer address; whoever waited for the first one or used another learns of it.
    fn learn(&mut self, before: &Entry, mac: MacAddress, actions: &mut Vec<Action>) {
        if let Some(entry) = self.store.get_mut(before.id) {
            entry.mac = mac;
        }
        match before.state {
            NeighbourState::Incomplete => {
                actions.push(Action::Wake(HoldToken(self.store.hash(before.interface, before.address))));
            }
            _ => actions.push(Action::Invalidate(before.id)),
        }
    }

    /// RFC 4861 section 7.2.3 (and 6.2.6, 6.3.4, 8.3 alike): the sender's address is recorded, and is stale if it is news.
    fn solicited(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        mac: MacAddress,
        now: Time,
        actions: &mut Vec<Action>,
    ) {
        match self.store.find(interface, address).copied() {
            Some(entry) if entry.state == NeighbourState::Permanent => {}
            Some(entry) if entry.state == NeighbourState::Failed => {
                if let Some(it) = self.store.get_mut(entry.id) {
                    it.mac = mac;
                }
                self.enter_stale(entry.id, now);
            }
            Some(entry) if entry.state != NeighbourState::Incomplete && entry.mac == mac => {}
            Some(entry) => {
                self.learn(&entry, mac, actions);
                self.enter_stale(entry.id, now);
            }
            None => {
                let state = NeighbourState::Stale;
                let id = self.create(interface, address, Displaces::NeverUsed, state, now, actions);
                let Some(id) = id else { return };
                if let Some(entry) = self.store.get_mut(id) {
                    entry.mac = mac;
                }
                self.enter_stale(id, now);
            }
        }
    }

    /// Handles at most `budget` timers that are due, and returns how many. `used_since` says when a decision that names the
    /// entry was last replayed, if that is known.
    pub fn tick(
        &mut self,
        now: Time,
        budget: usize,
        used_since: &mut dyn FnMut(NeighbourId) -> Option<Time>,
        actions: &mut Vec<Action>,
    ) -> usize {
        for handled in 0..budget {
            let Some(id) = self.store.due(now) else { return handled };
            self.timeout(id, now, used_since, actions);
        }
        budget
    }

    fn timeout(
        &mut self,
        id: NeighbourId,
        now: Time,
        used_since: &mut dyn FnMut(NeighbourId) -> Option<Time>,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.store.get(id).copied() else { return };
        match entry.state {
            NeighbourState::Incomplete if entry.solicits < self.timers.multicast_solicits_max => {
                self.solicit(id, None, now, actions);
            }
            NeighbourState::Incomplete => {
                self.counters.failures += 1;
                self.enter(id, NeighbourState::Failed, now, Some(self.timers.failed));
                actions.push(Action::Fail(HoldToken(self.store.hash(entry.interface, entry.address))));
            }
            NeighbourState::Reachable => {
                if let Some(at) = used_since(id) {
                    self.note_use(id, at.min(now));
                }
                self.enter_stale(id, now);
            }
            NeighbourState::Stale => self.poll_stale(&entry, now, used_since(id), actions),
            NeighbourState::Delay => {
                self.enter(id, NeighbourState::Probe, now, None);
                self.solicit(id, Some(entry.mac), now, actions);
            }
            NeighbourState::Probe if entry.solicits < self.timers.unicast_solicits_max => {
                self.solicit(id, Some(entry.mac), now, actions);
            }
            // RFC 4861 section 7.3.3: deleted, so that the next packet asks everyone: the address may have moved.
            NeighbourState::Probe => {
                self.counters.lost += 1;
                self.remove_entry(id, actions);
            }
            NeighbourState::Failed => self.remove_entry(id, actions),
            NeighbourState::Permanent => self.store.schedule(id, None),
        }
    }

    /// Was a stale neighbour used through the flow cache? If not for long, it is forgotten.
    fn poll_stale(&mut self, entry: &Entry, now: Time, used: Option<Time>, actions: &mut Vec<Action>) {
        if let Some(at) = used.filter(|&at| at > entry.since) {
            self.note_use(entry.id, at.min(now));
            self.used(entry.id, now);
            return;
        }
        let idle_from = entry.last_used.max(used).unwrap_or(entry.since).max(entry.since);
        if now.since(idle_from) >= self.timers.stale {
            self.remove_entry(entry.id, actions);
        } else {
            self.store.schedule(entry.id, Some(now + self.timers.stale_poll));
        }
    }

    /// Sets a permanent neighbour. `None` if there is no room for it.
    pub fn set_permanent(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        mac: MacAddress,
        now: Time,
        actions: &mut Vec<Action>,
    ) -> Option<NeighbourId> {
        let id = match self.store.find(interface, address).copied() {
            Some(entry) if entry.state == NeighbourState::Failed => entry.id,
            Some(entry) => {
                if entry.state == NeighbourState::Incomplete || entry.mac != mac {
                    self.learn(&entry, mac, actions);
                }
                entry.id
            }
            None => {
                let state = NeighbourState::Permanent;
                self.create(interface, address, Displaces::Idle, state, now, actions)?
            }
        };
        self.enter(id, NeighbourState::Permanent, now, None);
        self.store.get_mut(id)?.mac = mac;
        Some(id)
    }

    /// Forgets a neighbour, permanent or not.
    pub fn remove(&mut self, interface: InterfaceId, address: IpAddr, actions: &mut Vec<Action>) -> bool {
        let Some(id) = self.store.find(interface, address).map(|entry| entry.id) else { return false };
        self.remove_entry(id, actions);
        true
    }

    /// Forgets all neighbours of an interface that went down or away; permanent ones only if `permanent` says so. Costs
    /// one look at each slot.
    pub fn remove_interface(&mut self, interface: InterfaceId, permanent: bool, actions: &mut Vec<Action>) {
        let goes = |entry: &&Entry| {
            entry.interface == interface && (permanent || entry.state != NeighbourState::Permanent)
        };
        let ids: Vec<_> = self.store.iter().filter(goes).map(|entry| entry.id).collect();
        ids.into_iter().for_each(|id| self.remove_entry(id, actions));
    }

    /// Forgets those that do not stay, of `budget` slots from `from` on. Where to go on, or none at the end.
    pub fn retain_some(
        &mut self,
        from: usize,
        budget: usize,
        stays: impl Fn(InterfaceId, IpAddr) -> bool,
        actions: &mut Vec<Action>,
    ) -> Option<usize> {
        let (entries, next) = self.store.page(from, budget);
        let goes: Vec<_> = entries.filter(|it| !stays(it.interface, it.address)).map(|it| it.id).collect();
        goes.into_iter().for_each(|id| self.remove_entry(id, actions));
        next
    }

    /// An entry by its number; `None` if it is gone.
    pub fn get(&self, id: NeighbourId) -> Option<NeighbourInfo> {
        self.store.get(id).map(info)
    }

    /// All entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = NeighbourInfo> {
        self.store.iter().map(info)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the next timer is due.
    pub fn next_deadline(&self) -> Option<Time> {
        self.store.next_deadline()
    }

    /// The counters.
    pub fn counters(&self) -> NeighbourCounters {
        self.counters
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.store.check();
        let incomplete = |it: &&Entry| it.state == NeighbourState::Incomplete;
        let listed: usize = self.unanswered.iter().map(Unanswered::len).sum();
        assert_eq!(self.store.iter().filter(incomplete).count(), listed);
        assert!(self.unanswered.iter().all(|it| it.len() <= self.limits.incomplete_per_interface_max.max(1)));
    }
}

/// What an advertisement says.
struct Advertised {
    mac: Option<MacAddress>,
    solicited: bool,
    overrides: bool,
    router: bool,
}

fn info(entry: &Entry) -> NeighbourInfo {
    NeighbourInfo {
        id: entry.id,
        interface: entry.interface,
        address: entry.address,
        mac: (entry.mac != [0; 6]).then_some(entry.mac),
        state: entry.state,
        since: entry.since,
        is_router: entry.is_router,
        last_used: entry.last_used,
    }
}
