//! The XDP program of the port: made of six instructions, loaded, attached, and detached again.
//!
//! It sends each packet to the AF_XDP socket of the queue that it arrived on, and lets the kernel have what
//! arrives on queues without a socket.
//!
//! How it is detached. A *link* (kernel 5.9) belongs to a descriptor: it ends with the process, however that
//! ends. Older kernels know only attachments that last until somebody removes them; a process that was killed
//! leaves one behind. It is recognised by the program's name and removed at the next start, unless its owner
//! lives: an owner holds a name in the abstract Unix space of its network namespace, which ends with it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use super::bpf::{self, Instruction, Name};
use super::{AttachMode, ProgramHolder, sys};
use crate::port::kernel::Failure;
use crate::port::kernel::netlink::{RouteSocket, XdpMode};

/// The name of our program, by which it is recognised.
const NAME: &str = "millrace_xsk";
/// How long an attachment of a process that is just ending is waited for.
const BUSY_TIME_MAX: Duration = Duration::from_secs(1);
/// How long to sleep between tries.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(20);

const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1 << 0;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_FLAGS_HW_MODE: u32 = 1 << 3;

const fn flag(mode: XdpMode) -> u32 {
    match mode {
        XdpMode::Native => XDP_FLAGS_DRV_MODE,
        XdpMode::Skb => XDP_FLAGS_SKB_MODE,
        XdpMode::Hardware => XDP_FLAGS_HW_MODE,
    }
}

/// The loaded and attached program. Dropping it detaches.
#[derive(Debug)]
pub(super) struct Program {
    map: OwnedFd,
    mode: XdpMode,
    _attachment: Attachment,
}

/// What keeps the program attached.
#[derive(Debug)]
enum Attachment {
    /// The kernel detaches when this is closed.
    Link { _fd: OwnedFd },
    /// Detached by us.
    Netlink { _held: NetlinkAttachment },
}

#[derive(Debug)]
struct NetlinkAttachment {
    socket: RouteSocket,
    interface_index: u32,
    mode: XdpMode,
    _owner: OwnedFd,
}

impl Drop for NetlinkAttachment {
    fn drop(&mut self) {
        let ours =
            matches!(attached(&mut self.socket, self.interface_index), Ok(Some(found)) if found.is_ours());
        if ours && let Err(error) = self.socket.set_xdp(self.interface_index, None, flag(self.mode)) {
            tracing::warn!(interface_index = self.interface_index, %error, "can't detach the XDP program");
        }
    }
}

/// A program found on an interface.
struct Found {
    mode: XdpMode,
    id: u32,
    name: String,
}

impl Found {
    fn is_ours(&self) -> bool {
        self.name == NAME
    }
}

impl Program {
    /// Loads the program with room for queues below `queues` and attaches it.
    pub(super) fn attach(
        interface: &str,
        interface_index: u32,
        queues: u32,
        attach: AttachMode,
        holder: ProgramHolder,
    ) -> Result<Self, Failure> {
        make_room(interface, interface_index)?;
        let map = create_map(queues)
            .map_err(|error| (format!("create a BPF map of {queues} AF_XDP sockets"), privileges(error)))?;
        let mut log = String::new();
        let program =
            bpf::load_program(name(), &instructions(map.as_raw_fd()), &mut log).map_err(|error| {
                let log = if log.is_empty() { String::new() } else { format!(" (verifier: {log})") };
                (format!("load the XDP program{log}"), privileges(error))
            })?;
        let modes: &[XdpMode] = match attach {
            AttachMode::Auto => &[XdpMode::Native, XdpMode::Skb],
            AttachMode::Native => &[XdpMode::Native],
            AttachMode::Skb => &[XdpMode::Skb],
        };
        let mut failures = Vec::new();
        for &mode in modes {
            let attached = attach_one(&program, interface_index, mode, holder);
            match attached {
                Ok(attachment) => {
                    for (mode, error) in &failures {
                        tracing::info!(interface, ?mode, %error, "no XDP in this mode; using the next");
                    }
                    return Ok(Self { map, mode, _attachment: attachment });
                }
                Err(error) => failures.push((mode, error)),
            }
        }
        let tried: Vec<String> =
            failures.iter().map(|(mode, error)| format!("{}: {error}", mode.ip_word())).collect();
        let action = format!("attach the XDP program to {interface} (tried {})", tried.join("; "));
        let last = failures.pop().map_or_else(|| io::ErrorKind::Unsupported.into(), |(_, error)| error);
        Err((action, privileges(last)))
    }

    /// The map from queues to sockets.
    pub(super) fn map(&self) -> &OwnedFd {
        &self.map
    }

    /// For people: where the program runs.
    pub(super) const fn mode_text(&self) -> &'static str {
        match self.mode {
            XdpMode::Native => "native",
            XdpMode::Skb => "skb",
            XdpMode::Hardware => "hardware",
        }
    }
}

/// Kernels before 5.11 count BPF maps as locked memory, of which little is allowed by default.
fn create_map(queues: u32) -> io::Result<OwnedFd> {
    bpf::create_socket_map(name(), queues).or_else(|error| {
        if error.raw_os_error() != Some(libc::EPERM) {
            return Err(error);
        }
        sys::raise_locked_memory_limit();
        bpf::create_socket_map(name(), queues)
    })
}

fn name() -> Name {
    let mut name = Name::default();
    name[..NAME.len()].copy_from_slice(NAME.as_bytes());
    name
}

/// `return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS)` in BPF instructions (RFC 9669).
fn instructions(map: i32) -> [Instruction; 6] {
    const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction { code, registers, offset, immediate }
    }
    [
        // r2 = *(u32 *)(r1 + 16): rx_queue_index of `struct xdp_md`.
        instruction(0x61, 0x12, 16, 0),
        // r1 = the map, by its descriptor (source register 1); a 64-bit immediate takes two.
        instruction(0x18, 0x11, 0, map),
        instruction(0, 0, 0, 0),
        // r3 = XDP_PASS: what to return when the map has no socket for the queue (kernel 5.3).
        instruction(0xb7, 0x03, 0, 2),
        // call bpf_redirect_map
        instruction(0x85, 0, 0, 51),
        // exit
        instruction(0x95, 0, 0, 0),
    ]
}

/// Adds to a refusal what would be needed.
pub(super) fn privileges(error: io::Error) -> io::Error {
    if !matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) {
        return error;
    }
    let text = format!(
        "{error}: AF_XDP needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF, or root; kernels before 5.11 also \
         CAP_IPC_LOCK or enough locked memory (ulimit -l)"
    );
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

fn attached(socket: &mut RouteSocket, interface_index: u32) -> io::Result<Option<Found>> {
    let Some((mode, id)) = socket.link_by_index(interface_index)?.xdp else { return Ok(None) };
    // A program that went meanwhile, or may not be looked at, is a stranger.
    let name = bpf::program_name(id).unwrap_or_default();
    Ok(Some(Found { mode, id, name }))
}

/// Makes sure that no program is attached: removes what a killed process of ours left, waits a moment for one
/// that is ending, and refuses to touch anything else.
fn make_room(interface: &str, interface_index: u32) -> Result<(), Failure> {
    let look = format!("look for an XDP program on {interface}");
    let mut socket = RouteSocket::open().map_err(|error| (look.clone(), error))?;
    let start = Instant::now();
    loop {
        let found = attached(&mut socket, interface_index).map_err(|error| (look.clone(), error))?;
        let Some(found) = found else { return Ok(()) };
        if !found.is_ours() {
            return Err(foreign(interface, &found));
        }
        // The owner's name is taken while it lives. A link can't be removed this way (EBUSY): it has an
        // owner.
        if let Ok(_owner) = claim(interface_index)
            && socket.set_xdp(interface_index, None, flag(found.mode)).is_ok()
        {
            tracing::warn!(interface, id = found.id, "removed the XDP program that a killed process left");
            return Ok(());
        }
        if start.elapsed() > BUSY_TIME_MAX {
            let text = format!("another process of Millrace uses it (XDP program {} \"{NAME}\")", found.id);
            return Err((
                format!("attach an XDP program to {interface}"),
                io::Error::new(io::ErrorKind::ResourceBusy, text),
            ));
        }
        thread::sleep(BUSY_PAUSE);
    }
}

fn foreign(interface: &str, found: &Found) -> Failure {
    let text = format!(
        "it has the XDP program {} \"{}\" of somebody else; stop its owner, or remove it with: \
         ip link set dev {interface} {} off",
        found.id,
        found.name,
        found.mode.ip_word()
    );
    (format!("attach an XDP program to {interface}"), io::Error::new(io::ErrorKind::ResourceBusy, text))
}

/// Takes the name that says that the owner of this interface's program lives.
fn claim(interface_index: u32) -> io::Result<OwnedFd> {
    let socket = sys::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    sys::bind_abstract(socket.as_fd(), &format!("{NAME}/{interface_index}"))?;
    Ok(socket)
}

fn attach_one(
    program: &OwnedFd,
    interface_index: u32,
    mode: XdpMode,
    holder: ProgramHolder,
) -> io::Result<Attachment> {
    if holder == ProgramHolder::Auto {
        match bpf::create_xdp_link(program.as_fd(), interface_index, flag(mode)) {
            Ok(fd) => return Ok(Attachment::Link { _fd: fd }),
            // The command, or links for XDP, came with kernel 5.9; before it is an invalid argument.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    let owner = claim(interface_index)?;
    let mut socket = RouteSocket::open()?;
    let flags = flag(mode) | XDP_FLAGS_UPDATE_IF_NOEXIST;
    socket.set_xdp(interface_index, Some(program.as_raw_fd()), flags)?;
    Ok(Attachment::Netlink { _held: NetlinkAttachment { socket, interface_index, mode, _owner: owner } })
}
