//! The packet handle.
#![allow(unsafe_code)]
/// No room in front of or behind the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;
/// (being written)
#[derive(Debug)]
pub struct Packet(std::ptr::NonNull<u8>);
