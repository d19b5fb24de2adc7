//! Ports that pass whole frames with the kernel: packet sockets and tap devices, against real stacks.

mod bench;
#[path = "../af_xdp/net.rs"]
#[allow(dead_code)]
mod net;
mod packet_sockets;
mod streams;
mod taps;
mod whole;
