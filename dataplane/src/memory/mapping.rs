//! The arena's mapping: how its pages are got from the kernel, best kind first.
//!
//! Huge pages of hugetlbfs through `memfd_create(2)`, else transparent huge pages, else plain pages. Every step
//! that failed is kept with its reason, so that the report says why the result is not better.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use super::limits;
use super::reservation::{self, Reservation};

/// Bytes of a plain page.
const PLAIN_PAGE_BYTES: usize = 4 << 10;
/// Bytes of the usual huge page, and the alignment of a mapping that may get transparent ones.
pub(super) const HUGE_2M_BYTES: usize = 2 << 20;
/// Bytes of the large huge page.
const HUGE_1G_BYTES: usize = 1 << 30;
/// From this size on, pages of 1 GiB are tried without being asked for: rounding up wastes a quarter at most.
const HUGE_1G_FROM_BYTES: usize = 4 << 30;

/// The page size wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageSize {
    /// The best that can be had: huge pages of 1 GiB for arenas of 4 GiB and more, of 2 MiB, transparent ones, plain pages.
    #[default]
    Auto,
    /// Huge pages of 1 GiB, and no others.
    Huge1G,
    /// Huge pages of 2 MiB, and no others.
    Huge2M,
    /// Transparent huge pages, else plain pages.
    Transparent,
    /// Plain pages.
    Plain,
}

/// What the arena should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaConfig {
    /// Bytes wanted; rounded up to whole pages.
    pub bytes: usize,
    /// The page size wanted.
    pub page_size: PageSize,
    /// Whether huge pages that are missing may be added to the system's pool (needs root). What was added is
    /// given back when the arena is dropped.
    pub reserve: bool,
    /// The NUMA node to take the pages from.
    pub node: Option<u32>,
}

impl ArenaConfig {
    /// An arena of `bytes` with the best pages that are there.
    pub const fn new(bytes: usize) -> Self {
        Self { bytes, page_size: PageSize::Auto, reserve: false, node: None }
    }
}

/// The kind of pages that the arena got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Reserved huge pages (hugetlbfs).
    HugePages,
    /// Transparent huge pages.
    TransparentHugePages,
    /// Plain pages.
    PlainPages,
}

impl Backing {
    /// The stable name, in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HugePages => "huge_pages",
            Self::TransparentHugePages => "transparent_huge_pages",
            Self::PlainPages => "plain_pages",
        }
    }
}

/// A step that failed on the way to the mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedStep {
    /// What was tried: `map 64 huge pages of 2 MiB`.
    pub step: String,
    /// Why it failed, in the system's words where it said something.
    pub reason: String,
}

/// What the arena got, and why nothing better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaReport {
    /// Bytes mapped.
    pub bytes: usize,
    /// Bytes of one page of the backing.
    pub page_bytes: usize,
    /// The kind of pages.
    pub backing: Backing,
    /// Bytes that lie on huge pages, as far as the kernel says.
    pub huge_bytes: usize,
    /// The NUMA node that the pages are bound to, if they are.
    pub node: Option<u32>,
    /// Huge pages that were added to the system's pool for this arena; given back when it is dropped.
    pub pages_reserved: usize,
    /// Whether the memory has a file descriptor that another process can map.
    pub shareable: bool,
    /// The steps that failed, in the order in which they were tried.
    pub failed_steps: Vec<FailedStep>,
}

/// An owned mapping, unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    fd: Option<OwnedFd>,
    report: ArenaReport,
    /// Huge pages added for us. The last field: they can go when the mapping and its descriptor are gone.
    reservation: Option<Reservation>,
}

// SAFETY: a mapping is plain memory that belongs to the process, not to a thread; this type gives out its
// address and size only, and who may touch which bytes is decided by the regions carved from it.
unsafe impl Send for Mapping {}
// SAFETY: as above; all methods take `&self` and read fields that never change.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `config.bytes` by the best means that works.
    pub(super) fn new(config: &ArenaConfig) -> io::Result<Self> {
        limits::check_addresses(config.bytes)?;
        let mut failed_steps = Vec::new();
        if let Err(reason) = reservation::give_back_orphaned() {
            failed_steps.push(FailedStep {
                step: "give back the huge pages of runs that ended early".into(),
                reason: reason.to_string(),
            });
        }
        for page_bytes in huge_page_sizes(config) {
            match Self::huge_pages(config, page_bytes, &mut failed_steps) {
                Ok(mapping) => return Ok(mapping.finish(failed_steps)),
                Err(reason) => failed_steps.push(FailedStep {
                    step: format!("map {}", pages_name(config.bytes, page_bytes)),
                    reason: explain_huge(config, page_bytes, &reason),
                }),
            }
        }
        if matches!(config.page_size, PageSize::Huge1G | PageSize::Huge2M) {
            let steps = failed_steps.iter().map(|failed| format!("{}: {}", failed.step, failed.reason));
            return Err(io::Error::other(steps.collect::<Vec<_>>().join("; ")));
        }
        let bytes = round_up(config.bytes, HUGE_2M_BYTES)?;
        // Taking more than there is would wake the out-of-memory killer.
        reservation::check_available(bytes)?;
        limits::check_groups(bytes)?;
        if config.page_size == PageSize::Plain {
            return Ok(Self::plain(bytes, config, &mut failed_steps)?.finish(failed_steps));
        }
        let mapping = Self::transparent(bytes, config, &mut failed_steps)?;
        Ok(mapping.finish(failed_steps))
    }

    fn finish(mut self, failed_steps: Vec<FailedStep>) -> Self {
        self.report.failed_steps = failed_steps;
        self
    }

    fn huge_pages(config: &ArenaConfig, page_bytes: usize, failed: &mut Vec<FailedStep>) -> io::Result<Self> {
        let bytes = round_up(config.bytes, page_bytes)?;
        let mut reservation = None;
        if config.reserve {
            let pool = reservation::pool_directory(page_bytes, config.node);
            match Reservation::ensure(&pool, page_bytes, bytes / page_bytes) {
                Ok(reserved) => reservation = reserved,
                Err(reason) => failed.push(FailedStep {
                    step: format!("reserve {}", pages_name(bytes, page_bytes)),
                    reason: reason.to_string(),
                }),
            }
        }
        let flags = libc::MFD_HUGETLB | (page_bytes.trailing_zeros() << libc::MFD_HUGE_SHIFT);
        let fd = memfd(flags, bytes)?;
        // Hugetlb mappings are aligned to their page by the kernel; mapping them takes the pages out of the pool.
        let mapping = Self::map(bytes, page_bytes, Some(fd), Backing::HugePages)?;
        let mut mapping = mapping.bind(config, failed);
        mapping.populate()?;
        mapping.report.huge_bytes = bytes;
        mapping.report.pages_reserved = reservation.as_ref().map_or(0, Reservation::pages);
        mapping.reservation = reservation;
        Ok(mapping)
    }

    fn transparent(bytes: usize, config: &ArenaConfig, failed: &mut Vec<FailedStep>) -> io::Result<Self> {
        let shared = transparent_mode("shmem_enabled").is_some_and(|mode| mode != "never" && mode != "deny");
        let fd = if shared { Some(memfd(0, bytes)?) } else { None };
        if !shared {
            failed.push(FailedStep {
                step: "use transparent huge pages for shared memory".into(),
                reason:
                    "/sys/kernel/mm/transparent_hugepage/shmem_enabled forbids them; private memory instead"
                        .into(),
            });
        }
        let mapping = Self::map(bytes, PLAIN_PAGE_BYTES, fd, Backing::PlainPages)?;
        let advised = mapping.advise(libc::MADV_HUGEPAGE);
        let mut mapping = mapping.bind(config, failed);
        mapping.populate()?;
        if let Err(reason) = advised {
            failed.push(FailedStep {
                step: "ask for transparent huge pages".into(),
                reason: reason.to_string(),
            });
        }
        let huge_bytes = huge_bytes_at(mapping.base.as_ptr() as usize);
        if huge_bytes > 0 {
            mapping.report.backing = Backing::TransparentHugePages;
            mapping.report.page_bytes = HUGE_2M_BYTES;
            mapping.report.huge_bytes = huge_bytes;
        } else {
            failed.push(FailedStep {
                step: "fill the arena with transparent huge pages".into(),
                reason: "the kernel gave none (switched off, or memory is fragmented)".into(),
            });
        }
        Ok(mapping)
    }

    fn plain(bytes: usize, config: &ArenaConfig, failed: &mut Vec<FailedStep>) -> io::Result<Self> {
        let fd = memfd(0, bytes)?;
        let mapping = Self::map(bytes, PLAIN_PAGE_BYTES, Some(fd), Backing::PlainPages)?.bind(config, failed);
        mapping.populate()?;
        Ok(mapping)
    }

    /// Private pages that come into being when they are touched.
    pub(super) fn anonymous(bytes: usize) -> io::Result<Self> {
        Self::map(round_up(bytes, HUGE_2M_BYTES)?, PLAIN_PAGE_BYTES, None, Backing::PlainPages)
    }

    /// Maps `bytes` of `fd`, or private memory, aligned to 2 MiB at least.
    fn map(bytes: usize, page_bytes: usize, fd: Option<OwnedFd>, backing: Backing) -> io::Result<Self> {
        let base = if backing == Backing::HugePages {
            map_at(None, bytes, fd.as_ref().map(AsRawFd::as_raw_fd))?
        } else {
            map_aligned(bytes, fd.as_ref().map(AsRawFd::as_raw_fd))?
        };
        let report = ArenaReport {
            bytes,
            page_bytes,
            backing,
            huge_bytes: 0,
            node: None,
            pages_reserved: 0,
            shareable: fd.is_some(),
            failed_steps: Vec::new(),
        };
        Ok(Self { base, bytes, fd, report, reservation: None })
    }

    fn bind(mut self, config: &ArenaConfig, failed: &mut Vec<FailedStep>) -> Self {
        let Some(node) = config.node else { return self };
        match self.bind_to(node) {
            Ok(()) => self.report.node = Some(node),
            Err(reason) => failed.push(FailedStep {
                step: format!("bind the arena to NUMA node {node}"),
                reason: reason.to_string(),
            }),
        }
        self
    }

    /// `mbind(2)` with `MPOL_BIND`, before the pages are touched.
    fn bind_to(&self, node: u32) -> io::Result<()> {
        const NODES_MAX: u32 = 1024;
        if node >= NODES_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut mask = [0u64; NODES_MAX as usize / 64];
        mask[node as usize / 64] = 1 << (node % 64);
        // SAFETY: the range is this mapping; `mask` outlives the call and holds NODES_MAX bits. The kernel reads
        // one bit less than `maxnode` says, hence the + 1.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.base.as_ptr(),
                self.bytes,
                libc::MPOL_BIND,
                mask.as_ptr(),
                libc::c_ulong::from(NODES_MAX + 1),
                0,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is this mapping, which nobody else uses yet; the advices given here (huge pages,
        // populate) keep its contents.
        let result = unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, advice) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Takes all pages now, so that a page that isn't there is an error at the start and not a signal later.
    fn populate(&self) -> io::Result<()> {
        match self.advise(libc::MADV_POPULATE_WRITE) {
            // Kernels before 5.14 don't know the advice.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                for at in (0..self.bytes).step_by(PLAIN_PAGE_BYTES) {
                    // SAFETY: `at` is inside this mapping, which is writable and which nobody else uses yet.
                    unsafe { self.base.add(at).write_volatile(0) };
                }
                Ok(())
            }
            result => result,
        }
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn fd(&self) -> Option<RawFd> {
        self.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub(super) fn report(&self) -> &ArenaReport {
        &self.report
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and belongs to this value alone; regions hold a reference count
        // on it, so none is left that could be used afterwards.
        if unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) } != 0 {
            tracing::error!(error = %io::Error::last_os_error(), "the arena could not be unmapped");
        }
    }
}

fn huge_page_sizes(config: &ArenaConfig) -> impl Iterator<Item = usize> {
    let (large, usual) = match config.page_size {
        PageSize::Huge1G => (true, false),
        PageSize::Huge2M => (false, true),
        PageSize::Auto => (config.bytes >= HUGE_1G_FROM_BYTES, true),
        PageSize::Transparent | PageSize::Plain => (false, false),
    };
    [large.then_some(HUGE_1G_BYTES), usual.then_some(HUGE_2M_BYTES)].into_iter().flatten()
}

/// `64 huge pages of 2 MiB`.
fn pages_name(bytes: usize, page_bytes: usize) -> String {
    let size = if page_bytes == HUGE_1G_BYTES { "1 GiB" } else { "2 MiB" };
    format!("{} huge pages of {size}", bytes.div_ceil(page_bytes))
}

/// The system's reason, and what can be done about it if pages are missing.
fn explain_huge(config: &ArenaConfig, page_bytes: usize, reason: &io::Error) -> String {
    if reason.raw_os_error() != Some(libc::ENOMEM) {
        return reason.to_string();
    }
    let free = reservation::free_pages(&reservation::pool_directory(page_bytes, config.node));
    let reserve = if config.reserve { "" } else { ", and none may be reserved (`reserve` is off)" };
    format!("{free} are free{reserve}")
}

fn round_up(bytes: usize, unit: usize) -> io::Result<usize> {
    bytes.max(1).checked_next_multiple_of(unit).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

fn memfd(flags: libc::c_uint, bytes: usize) -> io::Result<OwnedFd> {
    let name = CString::from(c"millrace-arena");
    // SAFETY: `name` is a terminated string that outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was opened just now and has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let length = libc::off_t::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // SAFETY: `fd` is open; the call touches no memory of ours.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

/// Maps readable and writable memory, at `at` exactly if given.
fn map_at(at: Option<NonNull<u8>>, bytes: usize, fd: Option<RawFd>) -> io::Result<NonNull<u8>> {
    let kind = if fd.is_some() { libc::MAP_SHARED } else { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS };
    let fixed = if at.is_some() { libc::MAP_FIXED } else { 0 };
    let hint = at.map_or(std::ptr::null_mut(), |at| at.as_ptr().cast());
    // SAFETY: without `at` the kernel picks unused addresses; with it, `map_aligned` reserved the range for this
    // call, so that nothing of value is replaced.
    let address = unsafe {
        libc::mmap(hint, bytes, libc::PROT_READ | libc::PROT_WRITE, kind | fixed, fd.unwrap_or(-1), 0)
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

/// Maps memory aligned to 2 MiB, so that transparent huge pages fit from its first byte on.
fn map_aligned(bytes: usize, fd: Option<RawFd>) -> io::Result<NonNull<u8>> {
    let reserved =
        bytes.checked_add(HUGE_2M_BYTES).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the kernel picks unused addresses; the pages are not accessible until they are mapped over.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), reserved, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let head = start.cast::<u8>().align_offset(HUGE_2M_BYTES);
    // SAFETY: `head` < 2 MiB, so that `head + bytes` lies inside the range reserved above, which is ours alone;
    // the two rests around the aligned part are unmapped once and not used again.
    unsafe {
        let aligned = start.cast::<u8>().add(head);
        let mapped = map_at(NonNull::new(aligned), bytes, fd);
        if mapped.is_err() {
            libc::munmap(start, reserved);
            return mapped;
        }
        if head > 0 {
            libc::munmap(start, head);
        }
        libc::munmap(aligned.add(bytes).cast(), HUGE_2M_BYTES - head);
        mapped
    }
}

/// The selected word of a switch of transparent huge pages: `madvise` in `always [madvise] never`.
fn transparent_mode(switch: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{switch}")).ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Bytes of the mapping at `address` that lie on transparent huge pages, by `/proc/self/smaps`.
fn huge_bytes_at(address: usize) -> usize {
    let Ok(text) = fs::read_to_string("/proc/self/smaps") else { return 0 };
    let start = format!("{address:x}-");
    let mut huge_kib = 0usize;
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start)).skip(1);
    let fields = lines.by_ref().map_while(|line| {
        let (name, value) = line.split_once(':')?;
        // The header line of the next mapping has spaces before its first colon, if it has one.
        (!name.contains(' ')).then_some((name, value))
    });
    for (name, value) in fields {
        if matches!(name, "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped") {
            let kib = value.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
            huge_kib = huge_kib.max(kib);
        }
    }
    huge_kib << 10
}
