//! All state of the NAT, behind a staged interface.
//!
//! What. `outbound` and `inbound` only look: they find a mapping, or propose one. `commit` makes the proposed
//! mapping, with its first session; `acquire` adds a session to one that exists; `release` ends a session, and
//! with its last session the mapping. Between a look and its commit nothing else may change the state, so what
//! was free is still free; should it not be, `commit` refuses and changes nothing (R6).
//!
//! Changes of configuration. [`NatState::reconfigure`] brings a new plan into force at once: look-ups no longer
//! find a mapping that the plan would make differently, and nothing else is touched (R8).
//! [`NatState::sweep`] then visits the mappings in slices and names those that fall, so that their sessions can
//! be ended; their ports are used by nobody else before that.
//!
//! Memory comes from the arena and is sized once by [`Capacity`], but for the port states (16 KiB for each external
//! address and protocol in use), which go to the heap when the arena is full.

use super::filter::{Contact, Contacts, Filtering};
use super::mapping::{Faces, Hashes, Mapping, MappingId, MappingTable};
use super::plan::NatPlan;
use super::pool::{Choice, ExternalPool};
use super::refusal::{Refusal, RefusalCounters};
use super::secret::Secret;
use super::subscriber::{Host, Subscribers};
use super::tuple::{Inside, Protocol};
use millrace_dataplane::memory::{Arena, ArenaError};
use millrace_dataplane::time::Time;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

/// What the tables hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Mappings, static ones in use included; at most 2^24. 29 bytes each.
    pub mappings: usize,
    /// Of these, how many only static mappings may use.
    pub mappings_static: usize,
    /// Inside hosts with a dynamic mapping. 19 bytes each.
    pub subscribers: usize,
    /// Pairs of mapping and remote address, 19 bytes each. With address-dependent filtering alone: else they take no
    /// memory.
    pub contacts: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { mappings: 1_000_000, mappings_static: 4_096, subscribers: 65_536, contacts: 65_536 }
    }
}

/// A mapping to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Whose it will be.
    pub inside: Inside,
    /// What it will appear as.
    pub external: SocketAddrV4,
    /// The slot of the external address in the pool, or [`STATIC`].
    slot: u32,
    host: Host,
    hashes: Hashes,
}

/// In place of a slot of the pool: the mapping is made by a rule.
const STATIC: u32 = u32::MAX;

impl Proposal {
    /// Is it made by a rule, not from the pool?
    pub fn is_static(&self) -> bool {
        self.slot == STATIC
    }
}

/// The hashes of what the end of a mapping looks for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReleaseHashes {
    mapping: Hashes,
    host: u64,
}

/// What an outbound packet without a session gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// Its inside endpoint has a mapping.
    Existing {
        /// The mapping.
        mapping: MappingId,
        /// Its external endpoint.
        external: SocketAddrV4,
    },
    /// It needs this one.
    New(Proposal),
}

/// What an inbound packet without a session finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// A mapping. Ask [`NatState::admits`] whether the sender may use it.
    Existing {
        /// The mapping.
        mapping: MappingId,
        /// Its inside tuple.
        inside: Inside,
    },
    /// A static rule. The rule itself admits any sender.
    New(Proposal),
    /// Nothing: the endpoint is not mapped.
    Unmapped,
}

/// One session's hold on its mapping: keep it in the session, and release it once when the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The mapping.
    pub mapping: MappingId,
    /// The remote address of the session.
    pub remote: Ipv4Addr,
    /// Is the remote address recorded for filtering?
    pub recorded: bool,
}

/// A change of configuration whose mappings are not all swept yet.
#[derive(Debug)]
struct Sweep {
    previous: Arc<NatPlan>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Reserving ports that the plan before did not reserve, and letting go of addresses that left.
    Reserving,
    /// Naming the mappings that fall, from this slot on.
    Mappings(usize),
    /// Waiting until their sessions have ended.
    Sessions,
    /// Giving back ports that are no longer reserved, from this address on.
    Addresses(usize),
    /// Bringing the hosts' pairings into the numbering of the addresses that is in force, from this row on.
    Hosts(usize),
}

/// The earlier change has not been swept to its end; try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an earlier change of the NAT's configuration is still being swept")]
pub struct SweepPending;

/// Sizes and use of the NAT's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatUse {
    /// Mappings now, and at most.
    pub mappings: (usize, usize),
    /// Inside hosts with dynamic mappings.
    pub subscribers: usize,
    /// Recorded contacts, and sessions that found no room to be recorded.
    pub contacts: (usize, u64),
    /// Memory in bytes.
    pub memory_bytes: usize,
}

/// All state of one NAT function. One worker owns it.
#[derive(Debug)]
pub struct NatState {
    plan: Arc<NatPlan>,
    sweep: Option<Sweep>,
    pool: ExternalPool,
    mappings: MappingTable,
    mappings_static: usize,
    subscribers: Subscribers,
    /// Made when filtering first asks for it.
    contacts: Option<Contacts>,
    contacts_max: usize,
    refusals: RefusalCounters,
    /// Shares in mappings that sessions hold.
    shares: usize,
    secret: Secret,
}

impl NatState {
    /// The state of a NAT that has seen no packet.
    ///
    /// # Errors
    /// The arena has no room for the tables.
    pub fn new(
        plan: Arc<NatPlan>,
        capacity: &Capacity,
        secret: &Secret,
        arena: &Arena,
    ) -> Result<Self, ArenaError> {
        let mappings = MappingTable::new(arena, capacity.mappings, secret.clone())?;
        let subscribers = Subscribers::new(arena, capacity.subscribers, secret.clone())?;
        let contacts = contacts_for(&plan, capacity.contacts, secret, arena)?;
        Ok(Self {
            sweep: None,
            // After the tables, which have nowhere else to lie.
            pool: ExternalPool::new(&plan, secret.clone(), Some(arena)),
            mappings,
            mappings_static: capacity.mappings_static,
            subscribers,
            contacts,
            contacts_max: capacity.contacts,
            refusals: RefusalCounters::default(),
            shares: 0,
            secret: secret.clone(),
            plan,
        })
    }

    /// Bytes that a state of this size takes from the arena, with this filtering and this many addresses in the pool.
    pub fn bytes_for(capacity: &Capacity, filtering: Filtering, addresses: u64) -> usize {
        let contacts = match filtering {
            Filtering::AddressDependent => Contacts::bytes_for(capacity.contacts),
            _ => 0,
        };
        let tables =
            MappingTable::bytes_for(capacity.mappings) + Subscribers::bytes_for(capacity.subscribers);
        tables + contacts + ExternalPool::bytes_for(addresses)
    }

    /// Gets the memory of contacts when it is needed for the first time.
    fn make_contacts(&mut self, arena: &Arena) -> Result<(), ArenaError> {
        if self.contacts.is_none() {
            self.contacts = contacts_for(&self.plan, self.contacts_max, &self.secret, arena)?;
        }
        Ok(())
    }

    fn records_contacts(&self) -> bool {
        self.plan.settings().filtering == Filtering::AddressDependent
    }

    /// The plan in force.
    pub fn plan(&self) -> &Arc<NatPlan> {
        &self.plan
    }

    /// The mapping that an outbound packet of this inside tuple uses. One inside endpoint has one, whatever
    /// the destination: endpoint-independent mapping (RFC 4787 section 4.1 REQ-1, RFC 5382 section 4.1 REQ-1).
    pub fn outbound(&self, inside: &Inside) -> Result<Outbound, Refusal> {
        if let Some(external) = self.plan.rules().external_of(inside) {
            return match self.in_force(self.mappings.find_external(inside.protocol, external)) {
                Some((mapping, found)) if found.inside == *inside => {
                    Ok(Outbound::Existing { mapping, external })
                }
                _ => self.propose_static(inside, external).map(Outbound::New),
            };
        }
        let hash = self.mappings.inside_hash(inside);
        match self.in_force(self.mappings.find_inside_at(hash, inside)) {
            Some((mapping, found)) => Ok(Outbound::Existing { mapping, external: found.external }),
            None => self.propose_dynamic(hash, inside).map(Outbound::New),
        }
    }

    /// What an inbound packet to this external endpoint finds.
    pub fn inbound(&self, protocol: Protocol, external: SocketAddrV4) -> Result<Inbound, Refusal> {
        if let Some((mapping, found)) = self.in_force(self.mappings.find_external(protocol, external)) {
            return Ok(Inbound::Existing { mapping, inside: found.inside });
        }
        match self.plan.rules().inside_of(protocol, external) {
            Some(inside) => self.propose_static(&inside, external).map(Inbound::New),
            None => Ok(Inbound::Unmapped),
        }
    }

    /// May a remote address begin a session with this mapping from outside? A packet of a session that exists
    /// needs no such leave; with address-and-port-dependent filtering nothing else is admitted. Static
    /// mappings admit everyone: that is what they are made for.
    pub fn admits(&self, id: MappingId, remote: Ipv4Addr) -> bool {
        let Some(mapping) = self.mappings.get(id) else { return false };
        let filtering = self.plan.settings().filtering;
        let contact = match filtering {
            Filtering::AddressDependent if self.contacts.as_ref().is_some_and(|c| c.knows(id, remote)) => {
                Contact::Address
            }
            _ => Contact::None,
        };
        mapping.is_static || filtering.admits(contact)
    }

    /// The mapping, unless a new plan would make it differently.
    fn in_force(&self, id: Option<MappingId>) -> Option<(MappingId, Mapping)> {
        let id = id?;
        let mapping = self.mappings.get(id)?;
        (self.sweep.is_none() || self.plan.keeps(&mapping)).then_some((id, mapping))
    }

    fn propose_static(&self, inside: &Inside, external: SocketAddrV4) -> Result<Proposal, Refusal> {
        if self.mappings.is_held(inside.protocol, external) {
            return Err(Refusal::ExternalBusy);
        }
        if !self.mappings.has_room(0) {
            return Err(Refusal::MappingsFull);
        }
        let (host, hashes) = (Host::default(), Hashes::default());
        Ok(Proposal { inside: *inside, external, slot: STATIC, host, hashes })
    }

    fn propose_dynamic(&self, hash: u64, inside: &Inside) -> Result<Proposal, Refusal> {
        let (host, paired) = self.subscribers.check(inside, &self.plan.settings().limits)?;
        let Choice { external, slot } = self.pool.peek(inside, paired).ok_or(Refusal::PortsExhausted)?;
        if !self.mappings.has_room(self.mappings_static) {
            return Err(Refusal::MappingsFull);
        }
        let hashes =
            Hashes { inside: hash, external: self.mappings.external_hash(inside.protocol, external) };
        // The commit will need it.
        self.mappings.prefetch_external_hash(hashes.external);
        Ok(Proposal { inside: *inside, external, slot, host, hashes })
    }

    /// Makes a proposed mapping, with its first session to `remote`. On an error nothing has changed.
    ///
    /// # Errors
    /// Something has changed since the proposal; or, by a chance that the size of the indices makes vanish, they have no
    /// place for it.
    pub fn commit(&mut self, proposal: &Proposal, remote: Ipv4Addr) -> Result<Hold, Refusal> {
        let Proposal { inside, external, slot, host, hashes } = proposal;
        if proposal.is_static() {
            let has_room = self.mappings.has_room(0);
            let refusal = if has_room { Refusal::ExternalBusy } else { Refusal::MappingsFull };
            let id = self.mappings.insert(inside, *external, true).ok_or(refusal)?;
            return Ok(self.hold(id, remote));
        }
        let choice = &Choice { external: *external, slot: *slot };
        debug_assert!(self.in_force(self.mappings.find_inside(inside)).is_none(), "one mapping an endpoint");
        if !self.pool.take(inside.protocol, choice) {
            return Err(Refusal::ExternalBusy);
        }
        let pool = &self.pool;
        if !self.subscribers.add(host, inside, pool.pairing(choice), |paired| pool.keeps(paired)) {
            self.pool.release(inside.protocol, *external, &self.plan);
            return Err(Refusal::SubscribersFull);
        }
        // Who holds a port of the pool has taken it there, so nobody holds this one.
        match self.mappings.insert_at(*hashes, inside, *external, false) {
            Some(id) => Ok(self.hold(id, remote)),
            None => {
                self.subscribers.remove(inside);
                self.pool.release(inside.protocol, *external, &self.plan);
                Err(Refusal::MappingsFull)
            }
        }
    }

    /// Adds a session to `remote` to a mapping.
    ///
    /// # Errors
    /// The mapping is gone or doomed, or has as many sessions as it can count.
    pub fn acquire(&mut self, id: MappingId, remote: Ipv4Addr) -> Result<Hold, Refusal> {
        if !self.mappings.acquire(id) {
            return Err(Refusal::MappingUnavailable);
        }
        Ok(self.hold(id, remote))
    }

    /// Makes a mapping of whole addresses for one session.
    ///
    /// # Errors
    /// The table is full.
    pub fn hold_addresses(&mut self, inside: Ipv4Addr, external: Ipv4Addr) -> Result<Hold, Refusal> {
        let mapping = self.mappings.insert_addresses(inside, external).ok_or(Refusal::MappingsFull)?;
        self.shares += 1;
        Ok(Hold { mapping, remote: Ipv4Addr::UNSPECIFIED, recorded: false })
    }

    fn hold(&mut self, mapping: MappingId, remote: Ipv4Addr) -> Hold {
        self.shares += 1;
        let records = self.records_contacts();
        let contacts = self.contacts.as_mut().filter(|_| records);
        Hold { mapping, remote, recorded: contacts.is_some_and(|contacts| contacts.record(mapping, remote)) }
    }

    /// Ends a session. If it was the last of its mapping, the mapping ends, its port rests, and it is returned.
    pub fn release(&mut self, hold: &Hold) -> Option<Mapping> {
        let hashes = self.release_hashes(hold.mapping);
        self.release_at(&hashes, hold)
    }

    /// Where the end of a mapping will look; its port is asked for.
    pub(super) fn release_hashes(&self, id: MappingId) -> ReleaseHashes {
        match self.mappings.get(id) {
            Some(Mapping { inside, external, .. }) => {
                self.pool.prefetch_port(inside.protocol, external);
                ReleaseHashes {
                    mapping: self.mappings.hashes(&inside, external),
                    host: self.subscribers.hash(&inside),
                }
            }
            None => ReleaseHashes::default(),
        }
    }

    /// Asks for the memory there.
    pub(super) fn prefetch_release(&self, hashes: &ReleaseHashes) {
        self.mappings.prefetch_hashes(hashes.mapping);
        self.subscribers.prefetch(hashes.host);
    }

    /// [`NatState::release`], with what [`NatState::release_hashes`] answers now.
    pub(super) fn release_at(&mut self, hashes: &ReleaseHashes, hold: &Hold) -> Option<Mapping> {
        if let Some(contacts) = self.contacts.as_mut().filter(|_| hold.recorded) {
            contacts.forget(hold.mapping, hold.remote);
        }
        self.shares = self.shares.saturating_sub(1);
        let ended = self.mappings.release_at(hashes.mapping, hold.mapping)?;
        if !ended.is_static {
            self.subscribers.remove_at(hashes.host, &ended.inside);
            self.pool.release(ended.inside.protocol, ended.external, &self.plan);
        }
        Some(ended)
    }

    /// Asks for the memory that [`NatState::outbound`] will read.
    pub fn prefetch_outbound(&self, inside: &Inside) {
        self.mappings.prefetch_inside(inside);
        self.subscribers.prefetch(self.subscribers.hash(inside));
        self.pool.prefetch(inside);
    }

    /// Asks for the memory that the mapping of an inside tuple without one will take. The external endpoint that it would get now, if
    /// its host is paired as its hash says.
    pub fn prefetch_external(&self, inside: &Inside) -> Option<SocketAddrV4> {
        let external = self.pool.peek_at_home(inside)?.external;
        self.mappings.prefetch_external(inside.protocol, external);
        Some(external)
    }

    /// Asks for the memory that [`NatState::inbound`] will read.
    pub fn prefetch_inbound(&self, protocol: Protocol, external: SocketAddrV4) {
        self.mappings.prefetch_external(protocol, external);
    }

    /// Asks for the mapping's own memory.
    pub fn prefetch_mapping(&self, id: MappingId) {
        self.mappings.prefetch(id);
    }

    /// Counts a refusal; call it when the packet's drop is final.
    pub fn count_refusal(&mut self, refusal: Refusal, protocol: Protocol) {
        self.count_failure(refusal);
        if refusal == Refusal::PortsExhausted {
            self.pool.count_exhausted(protocol);
        }
    }

    /// Counts a commit that failed.
    pub fn count_failure(&mut self, refusal: Refusal) {
        self.refusals.count(refusal);
    }

    /// Brings a new plan into force; see the module's text. Refused while an earlier one is being swept.
    pub fn reconfigure(&mut self, plan: Arc<NatPlan>) -> Result<(), SweepPending> {
        if self.sweep.is_some() {
            return Err(SweepPending);
        }
        self.pool.reconfigure(&self.plan, &plan);
        let previous = std::mem::replace(&mut self.plan, plan);
        self.sweep = Some(Sweep { previous, stage: Stage::Reserving });
        // The arena was sized without them, so they lie on plain pages. Without memory nobody begins a session from outside.
        let _ =
            Arena::anonymous(Contacts::bytes_for(self.contacts_max)).and_then(|own| self.make_contacts(&own));
        Ok(())
    }

    /// Continues the sweep of a change: visits `slots_max` slots of mappings, or a sixteenth as many addresses.
    /// Appends the mappings that fall to `falling`: end their sessions, each with [`NatState::release`].
    /// True when nothing is left to do.
    pub fn sweep(&mut self, slots_max: usize, falling: &mut Vec<MappingId>) -> bool {
        let Some(Sweep { previous, stage }) = self.sweep.take() else { return true };
        let next = match stage {
            Stage::Reserving => {
                let done = self.pool.reserve(slots_max / 16);
                Some(if done { Stage::Mappings(0) } else { Stage::Reserving })
            }
            Stage::Mappings(slot) => {
                let first = falling.len();
                let (rows, next) = self.mappings.page(slot, slots_max);
                falling.extend(rows.filter(|(_, mapping)| !self.plan.keeps(mapping)).map(|(id, _)| id));
                for &id in &falling[first..] {
                    self.mappings.doom(id);
                }
                Some(next.map_or(Stage::Sessions, Stage::Mappings))
            }
            Stage::Sessions if self.mappings.doomed() > 0 => Some(Stage::Sessions),
            Stage::Sessions => Some(Stage::Addresses(0)),
            Stage::Addresses(slot) => {
                let next = self.pool.unreserve(&previous, &self.plan, slot, slots_max / 16);
                Some(next.map_or(Stage::Hosts(0), Stage::Addresses))
            }
            Stage::Hosts(row) => {
                let pool = &self.pool;
                let next = self.subscribers.pair_anew(row, slots_max, |paired| pool.renumber(paired));
                next.map(Stage::Hosts)
            }
        };
        self.sweep = next.map(|stage| Sweep { previous, stage });
        self.sweep.is_none()
    }

    /// Housekeeping: ends the rest of released ports, on at most `addresses_max` addresses.
    pub fn advance(&mut self, now: Time, addresses_max: usize) {
        self.pool.advance(now, addresses_max);
    }

    /// Shares in mappings that sessions hold.
    pub fn shares(&self) -> usize {
        self.shares
    }

    /// What the mapping of this name translates.
    pub fn faces(&self, id: MappingId) -> Option<Faces> {
        self.mappings.faces(id)
    }

    /// The mapping of this name.
    pub fn mapping(&self, id: MappingId) -> Option<Mapping> {
        self.mappings.get(id)
    }

    /// The table of mappings, for display.
    pub fn mappings(&self) -> &MappingTable {
        &self.mappings
    }

    /// The pool, for display.
    pub fn pool(&self) -> &ExternalPool {
        &self.pool
    }

    /// The inside hosts, for display.
    pub fn subscribers(&self) -> &Subscribers {
        &self.subscribers
    }

    /// Refusals by reason.
    pub fn refusals(&self) -> &RefusalCounters {
        &self.refusals
    }

    /// Sizes and use.
    pub fn used(&self) -> NatUse {
        let contacts = self.contacts.as_ref();
        let tables = self.mappings.memory_bytes()
            + self.subscribers.memory_bytes()
            + contacts.map_or(0, Contacts::memory_bytes);
        NatUse {
            mappings: (self.mappings.len(), self.mappings.capacity()),
            subscribers: self.subscribers.len(),
            contacts: contacts.map_or((0, 0), |contacts| (contacts.len(), contacts.refused())),
            memory_bytes: tables + self.pool.memory_bytes(),
        }
    }
}

/// The table of contacts, if the plan's filtering asks for one.
fn contacts_for(
    plan: &NatPlan,
    capacity: usize,
    secret: &Secret,
    arena: &Arena,
) -> Result<Option<Contacts>, ArenaError> {
    match plan.settings().filtering {
        Filtering::AddressDependent => Contacts::new(arena, capacity, secret.clone()).map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
