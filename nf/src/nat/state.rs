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
//! Memory is sized once by [`Capacity`], but for the port states (16 KiB for each external address and
//! protocol in use).

use super::filter::{Contact, Contacts, Filtering};
use super::mapping::{Mapping, MappingId, MappingTable};
use super::plan::NatPlan;
use super::pool::ExternalPool;
use super::refusal::{Refusal, RefusalCounters};
use super::secret::Secret;
use super::subscriber::Subscribers;
use super::tuple::{Inside, Protocol};
use millrace_dataplane::time::Time;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

/// What the tables hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Mappings, static ones in use included; at most 2^24. 40 bytes each.
    pub mappings: usize,
    /// Of these, how many only static mappings may use.
    pub mappings_static: usize,
    /// Inside hosts with a dynamic mapping. 40 bytes each.
    pub subscribers: usize,
    /// Pairs of mapping and remote address, for address-dependent filtering alone. 24 bytes each.
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
    /// Made by a rule, not from the pool?
    pub is_static: bool,
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
    /// Naming the mappings that fall, from this slot on.
    Mappings(usize),
    /// Waiting until their sessions have ended.
    Sessions,
    /// Giving back ports that are no longer reserved, from this address on.
    Addresses(usize),
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
    contacts: Contacts,
    refusals: RefusalCounters,
}

impl NatState {
    /// The state of a NAT that has seen no packet.
    pub fn new(plan: Arc<NatPlan>, capacity: &Capacity, secret: &Secret) -> Self {
        Self {
            pool: ExternalPool::new(&plan, secret.clone()),
            sweep: None,
            mappings: MappingTable::new(capacity.mappings, secret.clone()),
            mappings_static: capacity.mappings_static,
            subscribers: Subscribers::new(capacity.subscribers, secret.clone()),
            contacts: Contacts::new(capacity.contacts, secret.clone()),
            refusals: RefusalCounters::default(),
            plan,
        }
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
        match self.in_force(self.mappings.find_inside(inside)) {
            Some((mapping, found)) => Ok(Outbound::Existing { mapping, external: found.external }),
            None => self.propose_dynamic(inside).map(Outbound::New),
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
            Filtering::AddressDependent if self.contacts.knows(id, remote) => Contact::Address,
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
        if !self.mappings.has_room(inside, external, true, 0) {
            return Err(Refusal::MappingsFull);
        }
        Ok(Proposal { inside: *inside, external, is_static: true })
    }

    fn propose_dynamic(&self, inside: &Inside) -> Result<Proposal, Refusal> {
        let paired = self.subscribers.check(inside, &self.plan.settings().limits)?;
        let external = self.pool.peek(inside, paired).ok_or(Refusal::PortsExhausted)?;
        if !self.mappings.has_room(inside, external, false, self.mappings_static) {
            return Err(Refusal::MappingsFull);
        }
        Ok(Proposal { inside: *inside, external, is_static: false })
    }

    /// Makes a proposed mapping, with its first session to `remote`. On an error nothing has changed.
    pub fn commit(&mut self, proposal: &Proposal, remote: Ipv4Addr, now: Time) -> Result<Hold, Refusal> {
        let Proposal { inside, external, is_static } = proposal;
        if *is_static {
            let id = self.mappings.insert(inside, *external, true, now).ok_or(Refusal::ExternalBusy)?;
            return Ok(self.hold(id, remote));
        }
        debug_assert!(self.in_force(self.mappings.find_inside(inside)).is_none(), "one mapping an endpoint");
        if !self.pool.take(inside.protocol, *external) {
            return Err(Refusal::ExternalBusy);
        }
        let pool = &self.pool;
        if !self.subscribers.add(inside, *external.ip(), |address| pool.contains(address)) {
            self.pool.release(inside.protocol, *external, &self.plan);
            return Err(Refusal::SubscribersFull);
        }
        match self.mappings.insert(inside, *external, false, now) {
            Some(id) => Ok(self.hold(id, remote)),
            None => {
                self.subscribers.remove(inside);
                self.pool.release(inside.protocol, *external, &self.plan);
                Err(Refusal::MappingsFull)
            }
        }
    }

    /// Adds a session to `remote` to a mapping.
    pub fn acquire(&mut self, id: MappingId, remote: Ipv4Addr) -> Result<Hold, Refusal> {
        if !self.mappings.acquire(id) {
            return Err(Refusal::MappingUnavailable);
        }
        Ok(self.hold(id, remote))
    }

    fn hold(&mut self, mapping: MappingId, remote: Ipv4Addr) -> Hold {
        let wanted = self.plan.settings().filtering == Filtering::AddressDependent;
        Hold { mapping, remote, recorded: wanted && self.contacts.record(mapping, remote) }
    }

    /// Ends a session. If it was the last of its mapping, the mapping ends, its port rests, and it is returned.
    pub fn release(&mut self, hold: &Hold) -> Option<Mapping> {
        if hold.recorded {
            self.contacts.forget(hold.mapping, hold.remote);
        }
        let ended = self.mappings.release(hold.mapping)?;
        if !ended.is_static {
            self.subscribers.remove(&ended.inside);
            self.pool.release(ended.inside.protocol, ended.external, &self.plan);
        }
        Some(ended)
    }

    /// Counts a refusal; call it when the packet's drop is final.
    pub fn count_refusal(&mut self, refusal: Refusal, protocol: Protocol) {
        self.refusals.count(refusal);
        if refusal == Refusal::PortsExhausted {
            self.pool.count_exhausted(protocol);
        }
    }

    /// Brings a new plan into force; see the module's text. Refused while an earlier one is being swept.
    pub fn reconfigure(&mut self, plan: Arc<NatPlan>) -> Result<(), SweepPending> {
        if self.sweep.is_some() {
            return Err(SweepPending);
        }
        self.pool.reconfigure(&self.plan, &plan);
        let previous = std::mem::replace(&mut self.plan, plan);
        self.sweep = Some(Sweep { previous, stage: Stage::Mappings(0) });
        Ok(())
    }

    /// Continues the sweep of a change: visits `slots_max` slots of mappings, or a sixteenth as many addresses.
    /// Appends the mappings that fall to `falling`: end their sessions, each with [`NatState::release`].
    /// True when nothing is left to do.
    pub fn sweep(&mut self, slots_max: usize, falling: &mut Vec<MappingId>) -> bool {
        let Some(Sweep { previous, stage }) = self.sweep.take() else { return true };
        let next = match stage {
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
                self.pool.unreserve(&previous, &self.plan, slot, slots_max / 16).map(Stage::Addresses)
            }
        };
        self.sweep = next.map(|stage| Sweep { previous, stage });
        self.sweep.is_none()
    }

    /// Housekeeping: ends the rest of released ports, on at most `addresses_max` addresses.
    pub fn advance(&mut self, now: Time, addresses_max: usize) {
        self.pool.advance(now, addresses_max);
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
        let tables =
            self.mappings.memory_bytes() + self.subscribers.memory_bytes() + self.contacts.memory_bytes();
        NatUse {
            mappings: (self.mappings.len(), self.mappings.capacity()),
            subscribers: self.subscribers.len(),
            contacts: (self.contacts.len(), self.contacts.refused()),
            memory_bytes: tables + self.pool.memory_bytes(),
        }
    }
}

#[cfg(test)]
mod tests;
