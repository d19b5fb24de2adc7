//! Pinning threads to cores, and what the system says about cores.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Most cores that the system's masks name here.
const CORES_MAX: usize = libc::CPU_SETSIZE as usize;
/// Longest name that the kernel keeps for a thread, in bytes.
const THREAD_NAME_BYTES_MAX: usize = 15;

/// The cores of threads that move no packets; none while nobody has said.
static CONTROL_CORES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Pins the calling thread to `core`.
///
/// # Errors
/// The core does not exist, is offline, or is not allowed for this process.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    if core >= CORES_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut set = empty_set();
    // SAFETY: `core` is below the number of bits in the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    set_allowed(0, &set)
}

/// Allows a thread of this process, by its number as [`thread_number`] gives it, to run on all of `cores`.
///
/// # Errors
/// `cores` is empty, none of them may be used, or there is no such thread any more.
pub fn allow_cores(thread: i32, cores: &[usize]) -> io::Result<()> {
    let mut set = empty_set();
    for &core in cores.iter().filter(|&&core| core < CORES_MAX) {
        // SAFETY: `core` is below the number of bits in the set.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    set_allowed(thread, &set)
}

/// Says where threads run that move no packets, for [`join_control_cores`].
pub fn set_control_cores(cores: &[usize]) {
    *CONTROL_CORES.lock().unwrap_or_else(PoisonError::into_inner) = cores.to_vec();
}

/// Lets the calling thread run where threads run that move no packets: one that a worker starts has the worker's core until it
/// says this. Without [`set_control_cores`] it stays where it is.
pub fn join_control_cores() {
    // Held until it is done, so that who sets other cores afterwards finds the thread where these are.
    let cores = CONTROL_CORES.lock().unwrap_or_else(PoisonError::into_inner);
    if !cores.is_empty()
        && let Err(error) = allow_cores(0, &cores)
    {
        tracing::debug!(%error, "a thread stays on the cores of who started it");
    }
}

/// The number that the kernel knows the calling thread by.
pub fn thread_number() -> i32 {
    // SAFETY: the call takes nothing and touches nothing.
    unsafe { libc::gettid() }
}

/// The numbers of all threads of this process.
///
/// # Errors
/// The system does not say.
pub fn thread_numbers() -> io::Result<Vec<i32>> {
    let entries = fs::read_dir("/proc/self/task")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The cores that the calling thread may run on, in ascending order.
///
/// # Errors
/// The system does not say.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    cores_of_thread(0)
}

/// The cores that a thread of this process may run on, in ascending order; 0 is the calling one.
///
/// # Errors
/// There is no such thread any more, or the system does not say.
pub fn cores_of_thread(thread: i32) -> io::Result<Vec<usize>> {
    let mut set = empty_set();
    // SAFETY: `set` is writable and as large as the call is told.
    if unsafe { libc::sched_getaffinity(thread, size_of_val(&set), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every `core` is below the number of bits in the set.
    Ok((0..CORES_MAX).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
}

/// The NUMA node of a core, if the system has nodes.
pub fn node_of_core(core: usize) -> Option<u32> {
    let entries = fs::read_dir(Path::new("/sys/devices/system/cpu").join(format!("cpu{core}"))).ok()?;
    entries.flatten().find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

/// Names the calling thread, as `ps -L` and debuggers show it; cut to 15 bytes, without zero bytes.
pub fn name_thread(name: &str) {
    let mut end = name.len().min(THREAD_NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let name: String = name[..end].chars().filter(|&character| character != '\0').collect();
    let Ok(name) = CString::new(name) else { return };
    // SAFETY: `name` is a terminated string of at most 16 bytes with its end, which outlives the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

fn empty_set() -> libc::cpu_set_t {
    // SAFETY: the set is an array of integers, for which zero bytes are a value: the empty set.
    unsafe { std::mem::zeroed() }
}

fn set_allowed(thread: i32, set: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: `set` is readable and as large as the call is told.
    if unsafe { libc::sched_setaffinity(thread, size_of_val(set), set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_pinned_and_released() {
        let before = allowed_cores().unwrap();
        let core = *before.last().unwrap();
        pin_to_core(core).unwrap();
        assert_eq!(allowed_cores().unwrap(), [core]);
        allow_cores(thread_number(), &before).unwrap();
        assert_eq!(allowed_cores().unwrap(), before);
    }

    #[test]
    fn a_thread_that_a_pinned_one_starts_joins_the_control_threads() {
        let all = allowed_cores().unwrap();
        let (first, last) = (all[0], *all.last().unwrap());
        let started = |joins: bool| {
            let work = move || {
                pin_to_core(last).unwrap();
                let look = move || {
                    if joins {
                        join_control_cores();
                    }
                    allowed_cores().unwrap()
                };
                std::thread::spawn(look).join().unwrap()
            };
            std::thread::spawn(work).join().unwrap()
        };
        assert_eq!(started(true), [last], "nobody has said where");
        set_control_cores(&[first]);
        assert_eq!((started(false), started(true)), (vec![last], vec![first]));
        set_control_cores(&[CORES_MAX - 1]);
        assert_eq!(started(true), [last], "it runs in any case");
        set_control_cores(&[]);
    }

    #[test]
    fn cores_that_do_not_exist_are_errors() {
        assert!(pin_to_core(usize::MAX).is_err());
        assert!(pin_to_core(CORES_MAX - 1).is_err());
        assert!(allow_cores(0, &[]).is_err());
        assert!(thread_numbers().unwrap().contains(&thread_number()));
        assert_eq!(node_of_core(CORES_MAX), None);
    }

    #[test]
    fn names_are_cut_between_characters() {
        std::thread::spawn(|| {
            name_thread("mühle-ä\0-ööööööööö");
            let name = fs::read_to_string("/proc/thread-self/comm").unwrap();
            assert_eq!(name.trim_end(), "mühle-ä-öö");
        })
        .join()
        .unwrap();
    }
}
