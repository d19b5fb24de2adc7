//! Typed headers, chains, the compiler to programs, and the network functions.
//!
//! A network function is a small piece of code over typed headers and its own state. It never touches
//! packet bytes, checksums or buffers, does no I/O and has no threads.
#![forbid(unsafe_code)]

pub mod chain;
pub mod compile;
pub mod explain;
pub mod firewall;
pub mod follow;
pub mod fragments;
pub mod function;
pub mod headers;
pub mod inspect;
pub mod nat;
pub mod owners;
pub mod placing;
pub mod router;
pub mod slices;
mod slot;
pub mod verdict;
pub mod walk;
pub mod zone;

/// The guide's code is a test.
#[cfg(doctest)]
#[doc = include_str!("../WRITING-A-FUNCTION.md")]
pub struct Guide;
