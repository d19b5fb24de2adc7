//! What all ports over the kernel's network share: the interface under a port, news about its link, and the
//! system calls of sockets.

pub(super) mod interface;
pub(super) mod netlink;
pub(super) mod sys;

/// What was tried, with its object, and what the system answered.
pub(super) type Failure = (String, std::io::Error);
