//! Network address and port translation, NAPT44 (RFC 4787, 5382, 5508, 7857, 6888).
//!
//! [`function`] is the function of a chain, with [`scope`] (who is translated), `translate` (what is done to a packet),
//! [`word`] (what a session holds) and [`mss`]. The rest is its state and knows no packets. By file, in the order a
//! new flow meets it:
//!
//! 1. [`plan`]: the checked configuration: pools, reserved ports, and the [`forward`]s and 1:1 prefixes.
//! 2. [`state`]: joins all below. Looking (`outbound`, `inbound`) takes `&self` and yields a proposal;
//!    `commit` takes `&mut self` and makes it true (R6).
//! 3. [`subscriber`]: what one inside host holds, its limits and its paired external address.
//! 4. [`pool`] over [`ports`]: picks a free port that an outsider cannot predict.
//! 5. [`mapping`]: the table of mappings, found by inside or by external tuple.
//! 6. [`filter`]: who may send to a mapping from outside.
//!
//! Left out, with the reason. RFC 5508 section 6 REQ-8 would answer a packet for which no mapping can be made with an
//! ICMP error: it is only counted, because an exhausted NAT should not send as many packets as it drops. ICMP queries
//! other than echo are translated between 1:1 addresses alone, without a session.
//!
//! All tables are sized once and lie in the arena: [`rows`] of a few words, found by an [`index`] with a keyed hash
//! ([`secret`], R16). A flow that is new in all respects touches a line of each index, as does its end; what it will touch
//! is known beforehand and asked for ([`crate::function::FlowFunction::prefetch`]).

mod explain;
pub mod filter;
pub mod forward;
pub mod function;
pub mod hairpin;
pub mod index;
pub mod mapping;
pub mod mss;
pub mod plan;
pub mod plan_error;
pub mod pool;
pub mod ports;
pub mod refusal;
pub mod rows;
pub mod scope;
pub mod secret;
pub mod segments;
pub mod share;
pub mod state;
pub mod subscriber;
mod translate;
pub mod tuple;
pub mod word;

pub use filter::{Contact, Filtering};
pub use forward::{Forward, OneToOne};
pub use function::Nat;
pub use hairpin::Hairpins;
pub use mapping::{Mapping, MappingId};
pub use mss::MssClamp;
pub use plan::{ExternalEnd, NatPlan, NatSettings, PoolRange, Reservation};
pub use plan_error::PlanError;
pub use refusal::{Refusal, RefusalCounters};
pub use scope::NatConfig;
pub use secret::Secret;
pub use share::PortShare;
pub use state::{Capacity, Hold, Inbound, NatState, NatUse, Outbound, Proposal};
pub use subscriber::SubscriberLimits;
pub use tuple::{Inside, Protocol};
