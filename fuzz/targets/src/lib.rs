//! Fuzz targets of Millrace: functions of any bytes that must not panic.
//!
//! 1. [`parser`], [`chain`], [`configuration`], [`management`] and [`capture`] are the targets, each with its seeds.
//! 2. [`site`] is a chain in an engine whose account is checked at every step; [`check`] says whether a frame is right, and knows
//!    nothing of Millrace; [`frames`] makes frames with etherparse.
//! 3. Two drivers run them: libFuzzer with coverage (the crate above this one, for `cargo fuzz`), and [`driver`], which mutates seeds
//!    blindly and needs nothing but this workspace. `scripts/fuzz` chooses.
#![forbid(unsafe_code)]

pub mod capture;
pub mod chain;
pub mod check;
pub mod configuration;
pub mod driver;
pub mod frames;
pub mod management;
pub mod parser;
pub mod random;
pub mod site;

/// Something that takes any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, as `scripts/fuzz` and `cargo fuzz` know it.
    pub name: &'static str,
    /// Takes the bytes; panics if something is wrong.
    pub run: fn(&[u8]),
    /// Named inputs to start from.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// All targets.
pub const TARGETS: [Target; 5] = [
    Target { name: "parser", run: parser::run, seeds: parser::seeds },
    Target { name: "chain", run: chain::run, seeds: chain::seeds },
    Target { name: "configuration", run: configuration::run, seeds: configuration::seeds },
    Target { name: "management", run: management::run, seeds: management::seeds },
    Target { name: "capture", run: capture::run, seeds: capture::seeds },
];
