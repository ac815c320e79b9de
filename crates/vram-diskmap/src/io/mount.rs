//! What a file is on, and by which way bytes that are not in the page cache are brought from
//! there.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::mode::ReadPath;

/// A mount is probed once it has given so many bytes: before that a probe costs more than it can
/// save.
const PROBED_AFTER_BYTES: u64 = 4 << 30;
/// How much faster than positioned direct reads another way has to be: disks change their mood
/// within a probe.
const WORTH_IT: f64 = 1.5;

/// What a probe measured, in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    pub(crate) direct: f64,
    pub(crate) buffered: f64,
    pub(crate) uring: Option<f64>,
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "probed: direct {:.2} GB/s, buffered {:.2} GB/s", self.direct / 1e9, self.buffered / 1e9)?;
        match self.uring {
            Some(uring) => write!(f, ", io_uring {:.2} GB/s", uring / 1e9),
            None => Ok(()),
        }
    }
}

/// A mounted file system.
pub(crate) struct Mount {
    file_system: Option<(&'static str, Kind)>,
    /// Bytes that it has given and the page cache had not.
    given: AtomicU64,
    due: AtomicBool,
    rates: OnceLock<Rates>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The page cache is all there is.
    Memory,
    Disk,
    Network,
}

impl Mount {
    /// That of an open file. What is learnt of a mount is remembered as long as the process lives.
    pub(crate) fn of(file: &File, device: u64) -> Arc<Mount> {
        static MOUNTS: OnceLock<Mutex<HashMap<u64, Arc<Mount>>>> = OnceLock::new();
        let mounts = MOUNTS.get_or_init(Mutex::default);
        let mut mounts = mounts.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let (given, due, rates) = (AtomicU64::new(0), AtomicBool::new(false), OnceLock::new());
            Arc::new(Mount { file_system: file_system(file), given, due, rates })
        };
        Arc::clone(mounts.entry(device).or_insert_with(new))
    }

    /// By which way `Auto` reads what the page cache has not, of files that can be read that way.
    pub(super) fn path(&self) -> ReadPath {
        match (self.rates.get(), self.kind()) {
            (Some(rates), _) => choice(rates),
            (None, Kind::Disk) => ReadPath::Direct,
            (None, Kind::Memory | Kind::Network) => ReadPath::Buffered,
        }
    }

    /// Counts what it gave; once that has become much, a probe is due.
    pub(super) fn has_given(&self, bytes: u64) {
        let before = self.given.fetch_add(bytes, Ordering::Relaxed);
        let crossed = before / PROBED_AFTER_BYTES != before.saturating_add(bytes) / PROBED_AFTER_BYTES;
        if crossed && self.kind() != Kind::Memory && self.rates.get().is_none() {
            self.due.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it is to be probed now: says so once.
    pub(super) fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed) && self.due.swap(false, Ordering::Relaxed)
    }

    /// Keeps what a probe has found; the first counts.
    pub(super) fn learn(&self, rates: Rates) {
        let _ = self.rates.set(rates);
    }

    pub(super) fn file_system(&self) -> Option<&'static str> {
        self.file_system.map(|(name, _)| name)
    }

    fn kind(&self) -> Kind {
        self.file_system.map_or(Kind::Disk, |(_, kind)| kind)
    }

    /// Why [`path`](Mount::path) is what it is.
    pub(super) fn why(&self) -> String {
        match (self.rates.get(), self.kind()) {
            (Some(rates), _) => rates.to_string(),
            (None, Kind::Memory) => "the file system is in memory".to_owned(),
            (None, Kind::Disk) => "not probed yet".to_owned(),
            (None, Kind::Network) => "a network's file system, not probed yet".to_owned(),
        }
    }
}

/// The fastest, unless that is not much faster than direct reads by threads.
fn choice(rates: &Rates) -> ReadPath {
    let mut best = (ReadPath::Direct, rates.direct * WORTH_IT);
    for (path, rate) in [(ReadPath::Buffered, Some(rates.buffered)), (ReadPath::Uring, rates.uring)] {
        if let Some(rate) = rate.filter(|rate| *rate > best.1) {
            best = (path, rate);
        }
    }
    best.0
}

/// What a file is on, by the numbers of statfs(2).
#[cfg(target_os = "linux")]
fn file_system(file: &File) -> Option<(&'static str, Kind)> {
    let magic = rustix::fs::fstatfs(file).ok()?.f_type as u64 & 0xFFFF_FFFF;
    Some(match magic {
        0x0102_1994 => ("tmpfs", Kind::Memory),
        0x8584_58F6 => ("ramfs", Kind::Memory),
        0x9584_58F6 => ("hugetlbfs", Kind::Memory),
        0xEF53 => ("ext4", Kind::Disk),
        0x5846_5342 => ("xfs", Kind::Disk),
        0x9123_683E => ("btrfs", Kind::Disk),
        0xF2F5_2010 => ("f2fs", Kind::Disk),
        0xCA45_1A4E => ("bcachefs", Kind::Disk),
        0x2FC1_2FC1 => ("zfs", Kind::Disk),
        0x794C_7630 => ("overlayfs", Kind::Disk),
        0x5346_544E | 0x7366_746E => ("ntfs", Kind::Disk),
        0x4D44 => ("fat", Kind::Disk),
        0x2011_BAB0 => ("exfat", Kind::Disk),
        0x7371_7368 => ("squashfs", Kind::Disk),
        0xE0F5_E1E2 => ("erofs", Kind::Disk),
        0x6969 => ("nfs", Kind::Network),
        0xFE53_4D42 | 0xFF53_4D42 => ("smb", Kind::Network),
        0x0102_1997 => ("9p", Kind::Network),
        0x6573_5546 => ("fuse", Kind::Network),
        0x00C3_6400 => ("ceph", Kind::Network),
        0x0BD0_0BD0 => ("lustre", Kind::Network),
        _ => return None,
    })
}

#[cfg(not(target_os = "linux"))]
fn file_system(_file: &File) -> Option<(&'static str, Kind)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_way_has_to_be_worth_it() {
        let check = |direct, buffered, uring, expected| {
            assert_eq!(choice(&Rates { direct, buffered, uring }), expected);
        };
        check(2.0, 2.9, None, ReadPath::Direct);
        check(2.0, 3.1, None, ReadPath::Buffered);
        check(2.0, 1.0, Some(2.9), ReadPath::Direct);
        check(2.0, 3.2, Some(3.3), ReadPath::Uring);
        check(0.5, 2.9, Some(2.8), ReadPath::Buffered);
    }
}
