//! The commands of `bpf(2)` that the port needs, each behind a safe function.
//!
//! The attribute structures are our own: `#[repr(C)]`, only the leading fields that are used. The kernel
//! takes a shorter structure than its own as one whose other fields are zero.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::c_long;

use super::sys::uninterrupted;

const MAP_CREATE: c_long = 0;
const MAP_UPDATE_ELEM: c_long = 2;
const MAP_DELETE_ELEM: c_long = 3;
const PROG_LOAD: c_long = 5;
const PROG_GET_FD_BY_ID: c_long = 13;
const OBJ_GET_INFO_BY_FD: c_long = 15;
const LINK_CREATE: c_long = 28;

const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;

/// A name as the kernel stores it: at most 15 bytes of `[A-Za-z0-9_.]`.
pub(super) type Name = [u8; 16];

/// One BPF instruction (RFC 9669 section 3.1), fields packed as the kernel's `bpf_insn` on this machine.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Instruction {
    /// Operation.
    pub(super) code: u8,
    /// Destination register in the low, source register in the high four bits.
    pub(super) registers: u8,
    /// Signed offset.
    pub(super) offset: i16,
    /// Signed immediate value.
    pub(super) immediate: i32,
}

/// Runs one command.
///
/// # Safety
/// The addresses in `attributes` must be valid for what `command` does with them while it runs.
unsafe fn bpf<T>(command: c_long, attributes: &mut T) -> io::Result<i32> {
    uninterrupted(|| {
        let pointer: *mut T = attributes;
        // SAFETY: pointer and size are those of `attributes`; what it points to is the caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(0)) }
    })
}

/// Runs a command that answers with a new descriptor.
///
/// # Safety
/// As for [`bpf`], and `command` must return a descriptor.
unsafe fn bpf_fd<T>(command: c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; a descriptor that the kernel just made is owned by nobody else.
    unsafe { bpf(command, attributes).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Makes a map from queue numbers below `queues` to AF_XDP sockets.
pub(super) fn create_socket_map(name: Name, queues: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
        inner_map_fd: u32,
        numa_node: u32,
        map_name: Name,
    }
    let mut attributes = Attributes {
        map_type: MAP_TYPE_XSKMAP,
        key_size: 4,
        value_size: 4,
        max_entries: queues,
        map_flags: 0,
        inner_map_fd: 0,
        numa_node: 0,
        map_name: name,
    };
    // SAFETY: the structure holds no address; the command returns a descriptor.
    unsafe { bpf_fd(MAP_CREATE, &mut attributes) }
}

#[repr(C)]
struct ElementAttributes {
    map_fd: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Lets `queue` of the map lead to `socket`.
pub(super) fn set_socket(map: BorrowedFd<'_>, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let value = raw(socket);
    let mut attributes = ElementAttributes {
        map_fd: raw(map),
        _padding: 0,
        key: (&raw const queue) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: `key` and `value` lead to `queue` and `value`, 4 bytes each as the map was made with.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
}

/// Takes `queue` out of the map. The kernel does this itself when the socket is closed.
pub(super) fn clear_socket(map: BorrowedFd<'_>, queue: u32) -> io::Result<()> {
    let mut attributes = ElementAttributes {
        map_fd: raw(map),
        _padding: 0,
        key: (&raw const queue) as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: `key` leads to `queue`, 4 bytes as the map was made with; the command reads no value.
    unsafe { bpf(MAP_DELETE_ELEM, &mut attributes) }.map(drop)
}

/// Loads an XDP program. On failure the verifier's words are put in `log`.
pub(super) fn load_program(
    name: Name,
    instructions: &[Instruction],
    log: &mut String,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: Name,
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let license = c"Apache-2.0";
    let mut text = vec![0u8; 16 * 1024];
    let mut attributes = Attributes {
        prog_type: PROG_TYPE_XDP,
        insn_cnt: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 1,
        log_size: u32::try_from(text.len()).unwrap_or(0),
        log_buf: text.as_mut_ptr() as u64,
        kern_version: 0,
        prog_flags: 0,
        prog_name: name,
        prog_ifindex: 0,
        expected_attach_type: ATTACH_TYPE_XDP,
    };
    // SAFETY: `insns` leads to `insn_cnt` instructions, `license` to a string closed by zero, `log_buf` to
    // `log_size` writable bytes; all of them outlive the call.
    let result = unsafe { bpf_fd(PROG_LOAD, &mut attributes) };
    if result.is_err() {
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        *log = String::from_utf8_lossy(&text[..end]).trim().to_owned();
    }
    result
}

/// Attaches an XDP program to an interface by a link: it lasts until the returned descriptor is closed, also
/// by the end of the process.
pub(super) fn create_xdp_link(
    program: BorrowedFd<'_>,
    interface_index: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attributes = Attributes {
        prog_fd: raw(program),
        target_ifindex: interface_index,
        attach_type: ATTACH_TYPE_XDP,
        flags,
    };
    // SAFETY: the structure holds no address; the command returns a descriptor.
    unsafe { bpf_fd(LINK_CREATE, &mut attributes) }
}

/// The name of the loaded program with this id.
pub(super) fn program_name(id: u32) -> io::Result<String> {
    #[repr(C)]
    struct ById {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    #[repr(C)]
    struct InfoByFd {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    /// `bpf_prog_info` up to the name, which is at byte 64.
    #[repr(C, align(8))]
    struct ProgramInfo {
        before: [u8; 64],
        name: Name,
    }
    let mut by_id = ById { id, next_id: 0, open_flags: 0 };
    // SAFETY: the structure holds no address; the command returns a descriptor.
    let program = unsafe { bpf_fd(PROG_GET_FD_BY_ID, &mut by_id) }?;
    let mut info = ProgramInfo { before: [0; 64], name: [0; 16] };
    let mut by_fd = InfoByFd {
        bpf_fd: program.as_raw_fd().cast_unsigned(),
        info_len: size_of::<ProgramInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `info` leads to `info_len` writable bytes. They are zero, so that the counts and addresses
    // which the kernel reads from them ask for no further output.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut by_fd) }?;
    let end = info.name.iter().position(|&byte| byte == 0).unwrap_or(info.name.len());
    let _ = info.before;
    Ok(String::from_utf8_lossy(&info.name[..end]).into_owned())
}
