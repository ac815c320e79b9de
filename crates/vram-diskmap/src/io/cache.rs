//! What the page cache holds of a file.

use std::fs::File;

/// How much of a range is in the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    All,
    /// Some of it: this many pages are missing.
    Missing(u64),
    None,
    /// The system does not tell (before Linux 6.5, or a file of somebody else's).
    Unknown,
}

/// Asks the system what it holds of `bytes` bytes at `offset`, without touching the disk.
///
/// `preadv2(RWF_NOWAIT)` does not serve as this question: on a miss it starts a read-ahead, which
/// fills the cache with what is then read past it.
#[cfg(target_os = "linux")]
pub(crate) fn cached(file: &File, offset: u64, bytes: u64) -> Cached {
    use std::os::fd::AsRawFd;

    const CACHESTAT: libc::c_long = 451; // the same number on every architecture
    #[repr(C)]
    struct Range {
        offset: u64,
        bytes: u64,
    }
    if bytes == 0 {
        return Cached::All;
    }
    let range = Range { offset, bytes };
    let mut stat = [0u64; 5];
    // SAFETY: cachestat(2) reads a `struct cachestat_range` (two u64) and writes a `struct cachestat` (five u64) through
    // pointers to locals that outlive the call; an unknown system call number fails with ENOSYS
    // and touches nothing.
    let rc = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, stat.as_mut_ptr(), 0u32) };
    let page = page_bytes();
    let pages = (offset + bytes).div_ceil(page) - offset / page;
    match (rc, stat[0]) {
        (0, 0) => Cached::None,
        (0, held) if held >= pages => Cached::All,
        (0, held) => Cached::Missing(pages - held),
        _ => Cached::Unknown,
    }
}

/// Asks the system what it holds of a range.
#[cfg(not(target_os = "linux"))]
pub(crate) fn cached(_file: &File, _offset: u64, _bytes: u64) -> Cached {
    Cached::Unknown
}

/// Lets the page cache drop a range. Pages that somebody maps or has changed stay, and a system
/// that does not know how keeps all.
#[cfg(target_os = "linux")]
pub(crate) fn forget(file: &File, offset: u64, bytes: u64) {
    let bytes = std::num::NonZeroU64::new(bytes);
    // Advice that is refused leaves pages to the system, which drops them when it needs room.
    let _ = rustix::fs::fadvise(file, offset, bytes, rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn forget(_file: &File, _offset: u64, _bytes: u64) {}

/// From now on reads of this descriptor bring no more into the page cache than they ask for.
///
/// Read-ahead is not only waste here: whoever reads what it brought keeps it going, window after
/// window, and in the end nothing of the file is read past the cache.
#[cfg(target_os = "linux")]
pub(crate) fn end_read_ahead(file: &File) {
    // A file system that does not know the advice reads ahead: slower, and otherwise as well.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn end_read_ahead(_file: &File) {}

/// Begins to bring a range into the page cache, without waiting for it.
#[cfg(target_os = "linux")]
pub(crate) fn bring(file: &File, offset: u64, bytes: u64) {
    // Where it is refused, the read that follows brings what it needs.
    let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(bytes), rustix::fs::Advice::WillNeed);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn bring(_file: &File, _offset: u64, _bytes: u64) {}

/// Bytes of a page, by which the system counts what it holds.
#[cfg(target_os = "linux")]
pub(crate) fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn page_bytes() -> u64 {
    4096
}
