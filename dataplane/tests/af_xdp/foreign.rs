//! Somebody else's XDP program: `return XDP_PASS`.

use std::os::fd::{FromRawFd, OwnedFd};

#[repr(C)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
struct LinkAttributes {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<T>(command: i64, attributes: &T) -> OwnedFd {
    let pointer: *const T = attributes;
    // SAFETY: both callers pass attributes whose addresses lead to live values, and commands that return descriptors.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>());
        assert!(fd >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    }
}

/// Attaches a program named `stranger` to the interface, in the driver, until the result is dropped.
pub fn attach(interface: &str) -> [OwnedFd; 2] {
    use std::os::fd::AsRawFd;
    // r0 = XDP_PASS; exit
    let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let mut prog_name = [0; 16];
    prog_name[..8].copy_from_slice(b"stranger");
    let program = bpf(
        5,
        &LoadAttributes {
            prog_type: 6,
            insn_cnt: 2,
            insns: instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
            prog_name,
        },
    );
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: the name is a string closed by zero.
    let target_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let prog_fd = program.as_raw_fd() as u32;
    let link = bpf(28, &LinkAttributes { prog_fd, target_ifindex, attach_type: 37, flags: 4 });
    [program, link]
}
