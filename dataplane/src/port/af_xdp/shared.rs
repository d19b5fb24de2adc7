//! What the ports of one interface share.

use std::os::fd::{AsFd, OwnedFd};

use super::bpf;
use super::program::Program;

/// What the ports of one interface share. The last of them to go detaches the program.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) program: Program,
    interface_index: u32,
    _promiscuous: Option<OwnedFd>,
}

impl Device {
    pub(super) fn new(program: Program, interface_index: u32, promiscuous: Option<OwnedFd>) -> Self {
        Self { program, interface_index, _promiscuous: promiscuous }
    }

    /// The kernel's number of the interface.
    pub(super) const fn interface_index(&self) -> u32 {
        self.interface_index
    }

    /// Lets the kernel have what arrives on a queue again.
    pub(super) fn forget(&self, queue: u32) {
        // Fails if the kernel has done it already, since the interface is gone.
        let _ = bpf::clear_socket(self.program.map().as_fd(), queue);
    }
}
