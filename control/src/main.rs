//! The `millrace` command.
#![forbid(unsafe_code)]
fn main() {}
