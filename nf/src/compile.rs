//! The compiler: from the recorded edits of a walk to a program of the data plane.

use crate::headers::{Edit, Headers};
use millrace_dataplane::flow::key::Gather;
use millrace_dataplane::flow::program::{Program, ProgramBuilder, ProgramTooLarge};
use millrace_dataplane::flow::template::Trackers;
use millrace_dataplane::packet::Flags;
use millrace_dataplane::port::PortId;

/// What a walk decided beside the edits.
#[derive(Clone, Copy, Debug)]
pub struct Exits<'a> {
    /// Where the packet leaves, in this order.
    pub ports: &'a [PortId],
    /// Longest network packet that may take the program.
    pub length_max: u16,
    /// The session's TCP tracker runs.
    pub tracks_tcp: bool,
}

/// Compiles a walk into `program`. With `gather`, it serves each packet of the key; else only this one.
///
/// # Errors
/// If it exceeds the bounds of a program.
pub fn compile(
    program: &mut Program,
    bytes: &[u8],
    headers: &Headers,
    gather: Option<&Gather>,
    exits: Exits<'_>,
) -> Result<(), ProgramTooLarge> {
    let mut builder = ProgramBuilder::new(program, bytes, headers.layout(), gather);
    // R3: what no key holds and any function may care about.
    let always = Flags::FRAGMENT.union(Flags::OPTIONS).union(Flags::EXTENSIONS).union(Flags::ICMP_OTHER);
    if gather.is_some() {
        builder.guard(always.union(headers.guards()));
        if exits.tracks_tcp {
            builder.guard(Flags::TCP_CONTROL);
        }
        builder.guard_length(exits.length_max);
    }
    builder.track(Trackers { tcp: exits.tracks_tcp });
    for edit in headers.edits() {
        match *edit {
            Edit::Set(field, value) => builder.set(field, value),
            Edit::DecrementTtl => builder.decrement_ttl(),
            Edit::Bytes { offset, bytes, count, l4 } => {
                builder.set_bytes(usize::from(offset), &bytes[..usize::from(count)], l4)
            }
        };
    }
    for &port in exits.ports {
        builder.output(port);
    }
    builder.finish().map(|_| ())
}
