//! Measurement as a library: traffic profiles and micro-benchmarks.
#![forbid(unsafe_code)]
