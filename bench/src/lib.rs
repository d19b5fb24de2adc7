//! Measurement as a library: traffic profiles and micro-benchmarks.
//!
//! [`rig`] is an engine in memory with frames in front of it, [`frames`] and [`traffic`] are what goes through it, [`chains`] what it
//! goes through. On them stand [`established`] (beside [`limit`], the least that the work can cost), [`new_flows`],
//! [`rule_changes`], [`observed`], [`flood`], [`memory`], [`handoff`] between workers, [`stages`] on cores of their own and [`ring`] (beside [`dpdk_ring`]); [`results`] runs them all and writes the table.
#![forbid(unsafe_code)]

pub mod chains;
mod device;
pub mod dpdk_ring;
pub mod established;
pub mod flood;
pub mod frames;
pub mod handoff;
pub mod hit_path;
pub mod limit;
pub mod memory;
pub mod new_flows;
pub mod observed;
pub mod random;
pub mod results;
pub mod rig;
pub mod ring;
pub mod rule_changes;
pub mod stages;
pub mod statistics;
pub mod traffic;
