//! Copies of packets at points of a running instance, as pcapng, with what was decided about them.
//!
//! 1. [`points`] says where: ports, chains, functions, drops. [`wanted`] is all that is asked.
//! 2. Ports and drops are copied by the data plane's recorder; [`follower`] explains packets of chains and functions on the worker.
//! 3. [`source`] puts both there and takes them off, and [`serve`] brings what they saw into the order of time ([`window`]), puts it into
//!    words ([`comments`]) and sends it ([`stream`]).
//! 4. [`client`] asks, and [`mod@file`] keeps what comes.

pub mod client;
pub mod comments;
pub mod file;
pub mod follower;
pub mod points;
pub mod serve;
pub mod source;
pub mod stream;
pub mod wanted;
pub mod window;

pub use wanted::Wanted;

use std::ops::RangeInclusive;

/// How many points one capture may have.
pub const POINTS_MAX: usize = 64;
/// How many packets it may write.
pub const COUNT: RangeInclusive<usize> = 1..=usize::MAX >> 1;
/// Of how many packets one may be looked at.
pub const EVERY: RangeInclusive<usize> = 1..=1 << 30;
/// How many seconds it may last.
pub const SECONDS: RangeInclusive<usize> = 1..=31_536_000;
/// How many bytes of a frame may be kept.
pub const SNAP: RangeInclusive<usize> = 14..=9_022;
/// How much of a worker's time it may take, in percent.
pub const BUDGET: RangeInclusive<usize> = 1..=100;
