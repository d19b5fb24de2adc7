//! The compiler: from the recorded edits of a walk to a program of the data plane.

use crate::headers::{Edit, Headers};
use millrace_dataplane::flow::key::Gather;
use millrace_dataplane::flow::program::{Program, ProgramBuilder, ProgramTooLarge, RecipeKey};
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
    let key = gather.and_then(|gather| recipe_key(headers, gather, exits));
    if let Some(key) = &key {
        let values = headers.edits().iter().filter_map(|edit| match edit {
            Edit::Set(_, value) => Some(*value),
            _ => None,
        });
        if program.refill(key, bytes, values) {
            program.length_max = exits.length_max;
            program.set_tracks_tcp(exits.tracks_tcp);
            return Ok(());
        }
    }
    build(program, bytes, headers, gather, exits, key)
}

/// The same where no program of the same structure was just made.
#[inline(never)]
fn build(
    program: &mut Program,
    bytes: &[u8],
    headers: &Headers,
    gather: Option<&Gather>,
    exits: Exits<'_>,
    key: Option<RecipeKey>,
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
    builder.finish_as(key)
}

/// What the program's structure follows from; none if it takes more to tell.
fn recipe_key(headers: &Headers, gather: &Gather, exits: Exits<'_>) -> Option<RecipeKey> {
    let &[port] = exits.ports else { return None };
    let edits = headers.edit_kinds()?;
    let rest = u64::from(port.0) | u64::from(headers.guards().0) << 16 | u64::from(exits.tracks_tcp) << 32;
    Some(RecipeKey { gather: gather.identity(), edits, rest })
}
