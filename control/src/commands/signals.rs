//! Signals to commands that run until they are told to end.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;

/// The first SIGINT or SIGTERM sets the flag, the second ends the process as if nobody handled it. SIGHUP, with which a terminal
/// closes, sets the flag however often it comes: shells send it once more. Who started the process with SIGHUP ignored, as
/// nohup(1) does, wants it to outlive the terminal. SIGUSR1 and SIGUSR2 mean nothing, and so must not end a data plane.
pub(super) fn handle() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let once = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag not set yet.
        flag::register_conditional_default(signal, Arc::clone(&once))?;
        flag::register(signal, Arc::clone(&once))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    if !is_ignored(SIGHUP) {
        flag::register(SIGHUP, Arc::clone(&stop))?;
    }
    for signal in [SIGUSR1, SIGUSR2] {
        flag::register(signal, Arc::default())?;
    }
    Ok(stop)
}

/// Whether this process was started with a signal ignored, as far as the system says (proc_pid_status(5), SigIgn).
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
