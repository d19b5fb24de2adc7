//! Ports over AF_XDP sockets (`Documentation/networking/af_xdp.rst` of the kernel): any Linux interface, no
//! driver of our own. Kernel 5.4 or later; the interface stays with the kernel for all that the port does not
//! take.
//!
//! The files, from the outside in: `device` checks the interface and opens ports; `program` is what sends
//! packets to us instead of to the kernel's stack; `port` moves packets; `shared` is what the ports of an interface
//! have in common; `frames` knows which frames the kernel has; `socket` binds to a queue and kicks; `umem` registers
//! the pool's memory; `ring` is the memory shared with the kernel; `netlink`, `bpf` and `sys` are the system calls.
//!
//! Buffers are the pool's own: the kernel (in zero-copy mode the device) writes received packets into frames
//! that were put in the fill ring, behind [`crate::limits::DATA_OFFSET`], and reads packets to send where
//! they lie. Only a packet whose frame belongs to another pool is copied, and counted.
//!
//! What can't be seen: a kernel at the other end of a veth pair leaves checksums unfinished unless told
//! otherwise. The port warns with the command that tells it.

mod bpf;
mod device;
mod frames;
mod interface;
mod port;
mod program;
mod ring;
mod shared;
mod socket;
mod sys;
mod umem;

pub use device::AfXdpDevice;
pub use port::AfXdpPort;
pub use umem::Umem;

/// Which receive queues of an interface get a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Queues {
    /// All that the interface has when it is opened.
    #[default]
    All,
    /// These, counted from 0. What arrives on others goes to the kernel.
    List(Vec<u32>),
}

/// Who copies packets between the device and our frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyMode {
    /// Nobody if the driver can do that, else the kernel.
    #[default]
    Auto,
    /// The kernel.
    Copy,
    /// Nobody; an error if the driver can't do that.
    ZeroCopy,
}

/// Where the XDP program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver if it can do that, else in the kernel's stack.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's stack, which works with every interface and is slower.
    Skb,
}

/// What holds the XDP program on the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgramHolder {
    /// A BPF link, which ends with the process; where the kernel has none (before 5.9), as [`Self::Netlink`].
    #[default]
    Auto,
    /// The interface itself. After `kill -9` the program stays attached until the next start removes it.
    Netlink,
}

/// What to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AfXdpConfig {
    /// The port's name, for messages.
    pub name: String,
    /// The interface.
    pub interface: String,
    /// Its queues.
    pub queues: Queues,
    /// Entries of the RX ring: a power of two from 64 to 65,536, as the other two.
    pub rx_ring: u32,
    /// Entries of the TX and the completion ring: the most frames that the kernel has to send.
    pub tx_ring: u32,
    /// Entries of the fill ring: the most frames that the kernel has for packets to receive.
    pub fill_ring: u32,
    /// Whether packets are copied.
    pub mode: CopyMode,
    /// Where the program runs.
    pub attach: AttachMode,
    /// What holds the program.
    pub holder: ProgramHolder,
    /// Whether frames for other stations are received too.
    pub promiscuous: bool,
}

impl AfXdpConfig {
    /// All queues of `interface`, with rings of 2,048 entries and whatever modes work best.
    pub fn new(name: &str, interface: &str) -> Self {
        Self {
            name: name.to_owned(),
            interface: interface.to_owned(),
            queues: Queues::All,
            rx_ring: 2_048,
            tx_ring: 2_048,
            fill_ring: 2_048,
            mode: CopyMode::Auto,
            attach: AttachMode::Auto,
            holder: ProgramHolder::Auto,
            promiscuous: false,
        }
    }
}
