//! What all ports over the kernel's network share: the interface under a port, news about its link, and the
//! system calls of sockets. `port` is the port over descriptors that pass whole frames (packet sockets, tap devices): `device`
//! says what those have to do, `inbox` makes packets of what they hand over (`slots`: where long frames lie), `message` calls the kernel.

pub(super) mod device;
mod inbox;
pub(super) mod interface;
pub(super) mod message;
pub(super) mod netlink;
pub(super) mod port;
pub(super) mod slots;
pub(super) mod sys;
pub(super) mod tun;

/// What was tried, with its object, and what the system answered.
pub(super) type Failure = (String, std::io::Error);
