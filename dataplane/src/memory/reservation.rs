//! Huge pages added to the system's pool, and given back: on drop, or by the next start after a crash.
//!
//! Each reservation has a ledger file that says what was added where; its owner holds a lock on it. A ledger
//! that can be locked has lost its owner, and what it says is given back. A lock on their directory orders all
//! changes, since the pool's size is read, changed and written.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Where ledgers lie: memory, so that a reboot forgets them together with the pages.
const LEDGER_DIRECTORY: &str = "/run/millrace";
const LEDGER_PREFIX: &str = "hugepages-";
/// Longest ledger, in bytes: two numbers, a state and a path.
const LEDGER_BYTES_MAX: u64 = 4_096;

/// Pages that were added to a pool of huge pages.
#[derive(Debug)]
pub(super) struct Reservation {
    directory: PathBuf,
    pool: PathBuf,
    pages: usize,
    ledger: PathBuf,
    /// Open for its lock.
    _ledger_lock: File,
}

/// The kernel's directory of a pool: of pages of `page_bytes`, of one NUMA node or of all.
pub(super) fn pool_directory(page_bytes: usize, node: Option<u32>) -> PathBuf {
    let size = format!("hugepages-{}kB", page_bytes >> 10);
    match node {
        Some(node) => Path::new("/sys/devices/system/node").join(format!("node{node}/hugepages")).join(size),
        None => Path::new("/sys/kernel/mm/hugepages").join(size),
    }
}

/// Pages of a pool that nobody uses or has been promised; 0 if the system does not say.
pub(super) fn free_pages(pool: &Path) -> usize {
    let free = read_number(&pool.join("free_hugepages")).unwrap_or(0);
    // Pools of a node don't say what is promised.
    free.saturating_sub(read_number(&pool.join("resv_hugepages")).unwrap_or(0))
}

/// Gives back what processes that ended without doing so had reserved.
///
/// # Errors
/// The ledgers or a pool can't be read or written.
pub(super) fn give_back_orphaned() -> io::Result<()> {
    let directory = Path::new(LEDGER_DIRECTORY);
    if !directory.exists() {
        return Ok(());
    }
    let _lock = lock(directory)?;
    give_back_orphaned_in(directory)
}

impl Reservation {
    /// Adds pages of `page_bytes` to `pool` until `pages` are free; `None` if they already are.
    ///
    /// # Errors
    /// The pool can't be changed (it needs root), or the system has not enough memory, or not in pieces of this size;
    /// nothing stays changed then.
    pub(super) fn ensure(pool: &Path, page_bytes: usize, pages: usize) -> io::Result<Option<Self>> {
        Self::ensure_in(Path::new(LEDGER_DIRECTORY), pool, page_bytes, pages)
    }

    fn ensure_in(directory: &Path, pool: &Path, page_bytes: usize, pages: usize) -> io::Result<Option<Self>> {
        fs::create_dir_all(directory)?;
        let _lock = lock(directory)?;
        let missing = pages.saturating_sub(free_pages(pool));
        if missing == 0 {
            return Ok(None);
        }
        // The kernel would take all memory there is before it finds that it is not enough.
        check_available(missing.saturating_mul(page_bytes))?;
        let size = pool.join("nr_hugepages");
        let before = read_number(&size)?;
        let (ledger, mut ledger_lock) = create_ledger(directory)?;
        // Until it is known whether the pool grew, the ledger says by what it can be told.
        write_ledger(&mut ledger_lock, "pending", missing, before, pool)?;
        let grown = grow(&size, before, missing);
        let grown = grown.and_then(|()| write_ledger(&mut ledger_lock, "added", missing, before, pool));
        if let Err(error) = grown {
            fs::remove_file(&ledger)?;
            return Err(error);
        }
        Ok(Some(Self {
            directory: directory.to_owned(),
            pool: pool.to_owned(),
            pages: missing,
            ledger,
            _ledger_lock: ledger_lock,
        }))
    }

    /// Number of pages added.
    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    fn give_back(&self) -> io::Result<()> {
        let _lock = lock(&self.directory)?;
        shrink(&self.pool, self.pages)?;
        fs::remove_file(&self.ledger)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            let (pool, pages) = (self.pool.display(), self.pages);
            tracing::error!(%pool, pages, %error, "reserved huge pages could not be given back");
        }
    }
}

/// Fails if the system has not `bytes` bytes of memory to give.
pub(super) fn check_available(bytes: usize) -> io::Result<()> {
    let Ok(text) = fs::read_to_string("/proc/meminfo") else { return Ok(()) };
    let available = text.lines().find_map(|line| {
        let kib = line.strip_prefix("MemAvailable:")?.trim().trim_end_matches("kB").trim_end();
        kib.parse::<usize>().ok()?.checked_mul(1 << 10)
    });
    match available {
        Some(available) if available < bytes => Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            format!("{bytes} bytes are wanted, and the system has {available} available"),
        )),
        _ => Ok(()),
    }
}

fn read_number(path: &Path) -> io::Result<usize> {
    fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
}

/// The directory itself is what is locked: no file stays behind.
fn lock(directory: &Path) -> io::Result<File> {
    let file = File::open(directory)?;
    file.lock()?;
    Ok(file)
}

fn create_ledger(directory: &Path) -> io::Result<(PathBuf, File)> {
    let random = getrandom::u64().map_err(io::Error::other)?;
    let path = directory.join(format!("{LEDGER_PREFIX}{random:016x}"));
    let file = File::options().write(true).create_new(true).open(&path)?;
    file.lock()?;
    Ok((path, file))
}

fn write_ledger(file: &mut File, state: &str, pages: usize, before: usize, pool: &Path) -> io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    writeln!(file, "{state} {pages} {before} {}", pool.display())
}

/// Makes the pool of `before` pages larger by `pages`, or leaves it as it was.
fn grow(size: &Path, before: usize, pages: usize) -> io::Result<()> {
    fs::write(size, (before + pages).to_string())?;
    let added = read_number(size)?.saturating_sub(before);
    if added < pages {
        fs::write(size, before.to_string())?;
        return Err(io::Error::other(format!("the system could add {added} of {pages} pages")));
    }
    Ok(())
}

/// Makes the pool smaller by `pages`. Those in use go when their user does.
fn shrink(pool: &Path, pages: usize) -> io::Result<()> {
    let size = pool.join("nr_hugepages");
    let rest = read_number(&size)?.saturating_sub(pages);
    fs::write(size, rest.to_string())
}

fn give_back_orphaned_in(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(LEDGER_PREFIX) {
            continue;
        }
        let file = File::open(entry.path())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut text = String::new();
        (&file).take(LEDGER_BYTES_MAX).read_to_string(&mut text)?;
        // A ledger without its line was written by a process that ended before it changed anything.
        if let Some((pages, pool)) = pages_to_give_back(&text) {
            shrink(pool, pages)?;
            tracing::warn!(pages, pool = %pool.display(), "gave back huge pages of a run that ended early");
        }
        fs::remove_file(entry.path())?;
    }
    Ok(())
}

/// What an orphaned ledger says is to be given back, and where.
fn pages_to_give_back(text: &str) -> Option<(usize, &Path)> {
    let mut words = text.trim_end_matches('\n').splitn(4, ' ');
    let state = words.next()?;
    let pages: usize = words.next()?.parse().ok()?;
    let before: usize = words.next()?.parse().ok()?;
    let pool = Path::new(words.next()?);
    let now = read_number(&pool.join("nr_hugepages")).ok()?;
    let added = state == "added" || (state == "pending" && now >= before.checked_add(pages)?);
    added.then_some((pages, pool))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool that is a directory of plain files: its size changes as written, its free pages don't.
    struct Fixture {
        _root: tempfile::TempDir,
        ledgers: PathBuf,
        pool: PathBuf,
    }

    impl Fixture {
        fn new(size: usize, free: usize) -> Self {
            let root = tempfile::tempdir().unwrap();
            let (ledgers, pool) = (root.path().join("ledgers"), root.path().join("pool of pages"));
            fs::create_dir(&pool).unwrap();
            fs::write(pool.join("nr_hugepages"), format!("{size}\n")).unwrap();
            fs::write(pool.join("free_hugepages"), format!("{free}\n")).unwrap();
            fs::write(pool.join("resv_hugepages"), "1\n").unwrap();
            Self { _root: root, ledgers, pool }
        }

        fn size(&self) -> usize {
            read_number(&self.pool.join("nr_hugepages")).unwrap()
        }

        fn ledgers(&self) -> usize {
            fs::read_dir(&self.ledgers).unwrap().count()
        }
    }

    #[test]
    fn missing_pages_are_added_and_given_back() {
        let fixture = Fixture::new(10, 4);
        assert!(Reservation::ensure_in(&fixture.ledgers, &fixture.pool, 2 << 20, 3).unwrap().is_none());
        let reservation =
            Reservation::ensure_in(&fixture.ledgers, &fixture.pool, 2 << 20, 8).unwrap().unwrap();
        assert_eq!((reservation.pages(), fixture.size(), fixture.ledgers()), (5, 15, 1));
        // Another process sees that the owner lives.
        give_back_orphaned_in(&fixture.ledgers).unwrap();
        assert_eq!((fixture.size(), fixture.ledgers()), (15, 1));
        drop(reservation);
        assert_eq!((fixture.size(), fixture.ledgers()), (10, 0));
    }

    #[test]
    fn orphaned_pages_are_given_back_once() {
        let fixture = Fixture::new(30, 4);
        fs::create_dir(&fixture.ledgers).unwrap();
        let pool = fixture.pool.display();
        let write = |name: &str, text: String| fs::write(fixture.ledgers.join(name), text).unwrap();
        write("hugepages-1", format!("added 5 10 {pool}\n"));
        write("hugepages-2", format!("pending 3 27 {pool}\n"));
        write("hugepages-3", format!("pending 3 28 {pool}\n"));
        write("hugepages-4", String::new());
        write("hugepages-5", "added many of them".into());
        for _ in 0..2 {
            give_back_orphaned_in(&fixture.ledgers).unwrap();
            // 5 that were added; of the two that may have been, at most one pool size says yes.
            assert!([22, 25].contains(&fixture.size()), "{}", fixture.size());
            assert_eq!(fixture.ledgers(), 0);
        }
    }

    #[test]
    fn a_pool_that_cannot_grow_stays_as_it_is() {
        let fixture = Fixture::new(10, 4);
        let error = Reservation::ensure_in(&fixture.ledgers, &fixture.pool, 2 << 20, usize::MAX >> 22);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert_eq!((fixture.size(), fixture.ledgers()), (10, 0));
        // A pool that says nothing of its size.
        fs::write(fixture.pool.join("nr_hugepages"), "many").unwrap();
        assert!(Reservation::ensure_in(&fixture.ledgers, &fixture.pool, 2 << 20, 8).is_err());
        assert_eq!(fixture.ledgers(), 0);
    }
}
