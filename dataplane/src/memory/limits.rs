//! What limits the memory of this process beside what the machine has: the control groups that it runs in, and its address space.
//!
//! Who takes more than a group may have is killed without a word, and an allocator that gets no address space ends the process. So both
//! are asked before anything is mapped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What threads, stacks, tables on the heap and what is asked of an instance need beside the arena, in bytes.
const BESIDE_ARENA_BYTES: u64 = 32 << 20;
/// Address space that the process needs beside the arena: each thread reserves some for its stack and its heap.
const ADDRESSES_BESIDE_ARENA: u64 = 256 << 20;

/// Fails if the control groups of this process would not let it have `bytes` more, and what it needs beside.
///
/// # Errors
/// Which group allows how much, of which how much is used.
pub(super) fn check_groups(bytes: usize) -> io::Result<()> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let directories = group_directories(&read("/proc/self/cgroup"), &read("/proc/self/mounts"));
    directories.iter().try_for_each(|directory| check_group(directory, bytes as u64))
}

/// Fails if the address space of this process may not grow by `bytes`, and what it needs beside.
///
/// # Errors
/// How much it may have.
pub(super) fn check_addresses(bytes: usize) -> io::Result<()> {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let wanted = (bytes as u64).saturating_add(ADDRESSES_BESIDE_ARENA);
    match address_limit(&limits).filter(|limit| *limit < wanted) {
        None => Ok(()),
        Some(limit) => Err(out_of_memory(format!(
            "Cannot allocate memory: {wanted} bytes of addresses are wanted, {bytes} of them for the arena, and the process may have \
             {limit} (`ulimit -v`)"
        ))),
    }
}

fn out_of_memory(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, message)
}

/// The soft limit in `/proc/self/limits`.
fn address_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The directories of the groups that account for memory, from the innermost outwards; of version 1 and version 2 (cgroups(7)).
fn group_directories(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mounted = |wanted: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (path, kind, options) = (fields.nth(1)?, fields.next()?, fields.next()?);
            wanted(kind, options).then(|| PathBuf::from(path))
        })
    };
    let mut directories = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let root = if number == "0" && controllers.is_empty() {
            mounted(&|kind, _| kind == "cgroup2")
        } else if controllers.split(',').any(|it| it == "memory") {
            mounted(&|kind, options| kind == "cgroup" && options.split(',').any(|it| it == "memory"))
        } else {
            None
        };
        let Some(root) = root else { continue };
        let innermost = root.join(path.trim_start_matches('/'));
        directories
            .extend(innermost.ancestors().take_while(|it| it.starts_with(&root)).map(Path::to_path_buf));
    }
    directories
}

/// Fails if a group may not have `bytes` more. One that says nothing, or sets no limit, has no say.
fn check_group(directory: &Path, bytes: u64) -> io::Result<()> {
    let number = |name: &str| fs::read_to_string(directory.join(name)).ok()?.trim().parse::<u64>().ok();
    let (limit, used) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")),
        None => match number("memory.limit_in_bytes") {
            Some(limit) => (limit, number("memory.usage_in_bytes")),
            None => return Ok(()),
        },
    };
    // Pages of files that the group only caches are given up for others.
    let cached = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
    let part = |name: &str| {
        let value = |name: &str| {
            cached
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
        };
        // Version 1 has figures of the group alone beside those with its children, which `used` has in it.
        value(&format!("total_{name}")).or_else(|| value(name)).unwrap_or(0)
    };
    let used = used.unwrap_or(0).saturating_sub(part("inactive_file") + part("active_file"));
    let wanted = bytes.saturating_add(BESIDE_ARENA_BYTES);
    if limit.saturating_sub(used) >= wanted {
        return Ok(());
    }
    Err(out_of_memory(format!(
        "Cannot allocate memory: {wanted} bytes are wanted, {bytes} of them for the arena, and the control group {} allows {limit}, of \
         which {used} are used",
        directory.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_both_versions() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let groups = "9:name=systemd:/\n4:cpu,memory:/jobs/one\n0::/a:b/c\n";
        let found: Vec<_> = group_directories(groups, mounts);
        let expected = [
            "/sys/fs/cgroup/memory/jobs/one",
            "/sys/fs/cgroup/memory/jobs",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/unified/a:b/c",
            "/sys/fs/cgroup/unified/a:b",
            "/sys/fs/cgroup/unified",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        assert!(group_directories("nonsense\n::\n", "").is_empty());
    }

    #[test]
    fn a_group_that_allows_too_little_is_named() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(group.path().join(name), text).unwrap();
        check_group(group.path(), 1 << 40).unwrap();
        write("memory.max", "max\n");
        check_group(group.path(), 1 << 40).unwrap();
        write("memory.max", "268435456\n");
        write("memory.current", "104857600\n");
        check_group(group.path(), 100 << 20).unwrap();
        let said = check_group(group.path(), 150 << 20).unwrap_err().to_string();
        assert!(
            said.contains("allows 268435456, of which 104857600") && said.contains("157286400"),
            "{said}"
        );
        write("memory.stat", "anon 1\ninactive_file 94371840\n");
        check_group(group.path(), 150 << 20).unwrap();
        write(
            "memory.stat",
            "inactive_file 4096\ntotal_inactive_file 47185920\ntotal_active_file 47185920\n",
        );
        check_group(group.path(), 150 << 20).unwrap();
        fs::remove_file(group.path().join("memory.max")).unwrap();
        write("memory.limit_in_bytes", "1048576\n");
        assert!(check_group(group.path(), 1 << 20).is_err());
    }

    #[test]
    fn the_address_space_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max address space         102400000            unlimited            bytes     \n";
        assert_eq!(address_limit(limits), Some(102_400_000));
        assert_eq!(address_limit(&limits.replace("102400000", "unlimited")), None);
        check_addresses(1 << 20).unwrap();
    }
}
