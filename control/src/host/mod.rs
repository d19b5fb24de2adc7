//! The host stack: TCP and UDP on the data plane's own addresses, in the control plane.
//!
//! 1. The router sends what is for our addresses, and served, to a port (`dataplane` `port::host`); `device` is its other end.
//! 2. `stack` is smoltcp on that, one for each chain: sockets, and the services on them: `echo`, `web`.
//! 3. [`thread`] runs all stacks, follows changes of the configuration, and is started again if it panics or stalls.
//! 4. [`page`] makes the status page of the rows that `show` has.
//! 5. [`probe`] asks hosts, through the chain, whether they work.
//!
//! smoltcp has no addresses of ours, no neighbours and no routes: which packets are for us, and how to get anywhere, is the router's
//! to know. So everything that a probe or a page says passes the chain, as what others say does.
//!
//! **Bounds.** A service has a fixed number of sockets, whose buffers are there from the beginning. When none is left to listen, the
//! one whose connection was longest half open, or has ended, takes the next connection: a flood of SYNs costs no memory, and a
//! client that answers in time gets through. What requests may be, and how long they may take, is in `web`.

mod device;
mod echo;
mod listener;
pub mod page;
pub mod probe;
mod stack;
pub mod thread;
mod web;
