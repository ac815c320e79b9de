//! What a file is on, and by which way bytes that are not in the page cache are brought from there.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::cache::{Cached, cached};
use super::probe::{self, Probe};
use super::{ReadMode, StoredFile};

/// A mount is probed once it has given so many bytes: before that a probe costs more than it can save.
const PROBED_AFTER_BYTES: u64 = 4 << 30;
/// How much faster than positioned direct reads another way has to be: disks change their mood within a probe.
const WORTH_IT: f64 = 1.5;

/// A way in which bytes are read that the page cache has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadPath {
    /// Positioned reads through the page cache, which gives the pages back afterwards.
    Buffered,
    /// Positioned reads past the page cache (`O_DIRECT`), by several threads.
    Direct,
    /// io_uring past the page cache.
    Uring,
    /// A memory map.
    Mapped,
}

impl ReadPath {
    /// As it is said in reports: `buffered`, `direct`, `io_uring`, `mapped`.
    pub fn name(self) -> &'static str {
        match self {
            ReadPath::Buffered => "buffered",
            ReadPath::Direct => "direct",
            ReadPath::Uring => "io_uring",
            ReadPath::Mapped => "mapped",
        }
    }
}

/// How a file is read, and why; see [`DiskMap::reading`](crate::DiskMap::reading).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FileReading {
    /// The file system that it is on, where the system tells.
    pub file_system: Option<&'static str>,
    /// How bytes come that are not in the page cache.
    pub path: ReadPath,
    /// Why in this way.
    pub why: String,
    /// What addresses and offsets of reads past the page cache are multiples of, in bytes; `None` where there are none.
    pub alignment: Option<usize>,
    /// Bytes of it that are in the page cache, where the system tells.
    pub cached_bytes: Option<u64>,
}

/// A mounted file system.
pub(crate) struct Mount {
    file_system: Option<(&'static str, Kind)>,
    /// Bytes that it has given and the page cache had not.
    given: AtomicU64,
    probed: OnceLock<Probe>,
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
            let (given, probed) = (AtomicU64::new(0), OnceLock::new());
            Arc::new(Mount { file_system: file_system(file), given, probed })
        };
        Arc::clone(mounts.entry(device).or_insert_with(new))
    }

    /// By which way `Auto` reads what the page cache has not, of files that can be read that way.
    pub(crate) fn path(&self) -> ReadPath {
        match (self.probed.get(), self.kind()) {
            (Some(probe), _) => choice(probe),
            (None, Kind::Disk) => ReadPath::Direct,
            (None, Kind::Memory | Kind::Network) => ReadPath::Buffered,
        }
    }

    /// Counts what it gave, and probes it once that has become much.
    pub(crate) fn has_read(&self, file: &StoredFile, bytes: u64) {
        let before = self.given.fetch_add(bytes, Ordering::Relaxed);
        let crossed = before / PROBED_AFTER_BYTES != before.saturating_add(bytes) / PROBED_AFTER_BYTES;
        if crossed && self.kind() != Kind::Memory && self.probed.get().is_none()
            // Of a file that is short, cached or read through something there is nothing to learn; another one may come.
            && let Some(probe) = probe::probe(file)
        {
            let _ = self.probed.set(probe);
        }
    }

    pub(crate) fn reading(&self, file: &StoredFile, mode: ReadMode) -> FileReading {
        let file_system = self.file_system.map(|(name, _)| name);
        let alignment = file.direct.alignment(&file.plain, file.path());
        let cached_bytes = match cached(file.plain.file(), 0, file.bytes()) {
            Cached::All => Some(file.bytes()),
            Cached::None => Some(0),
            Cached::Missing(pages) => Some(file.bytes().saturating_sub(pages * probe::page_bytes())),
            Cached::Unknown => None,
        };
        let (path, why) = match (file.map(), mode) {
            (Some(_), _) => (ReadPath::Mapped, "asked for".to_owned()),
            (None, ReadMode::Auto) => (self.path(), self.why()),
            (None, ReadMode::Buffered) => (ReadPath::Buffered, "asked for".to_owned()),
            (None, ReadMode::Direct) => (ReadPath::Direct, "asked for".to_owned()),
            (None, ReadMode::Uring) => (ReadPath::Uring, "asked for".to_owned()),
        };
        let (path, why) = available(file, path, why, alignment.is_some());
        FileReading { file_system, path, why, alignment, cached_bytes }
    }

    fn kind(&self) -> Kind {
        self.file_system.map_or(Kind::Disk, |(_, kind)| kind)
    }

    fn why(&self) -> String {
        match (self.probed.get(), self.kind()) {
            (Some(probe), _) => probe.to_string(),
            (None, Kind::Memory) => "the file system is in memory".to_owned(),
            (None, Kind::Disk) => "not probed yet".to_owned(),
            (None, Kind::Network) => "a network's file system, not probed yet".to_owned(),
        }
    }
}

/// The fastest, unless that is not much faster than direct reads by threads.
fn choice(probe: &Probe) -> ReadPath {
    let mut best = (ReadPath::Direct, probe.direct * WORTH_IT);
    for (path, rate) in [(ReadPath::Buffered, Some(probe.buffered)), (ReadPath::Uring, probe.uring)] {
        if let Some(rate) = rate.filter(|rate| *rate > best.1) {
            best = (path, rate);
        }
    }
    best.0
}

/// What is left of a way where the file or the system refuses it.
fn available(file: &StoredFile, path: ReadPath, why: String, direct: bool) -> (ReadPath, String) {
    match path {
        ReadPath::Uring => match refusal(file) {
            None if direct => (path, why),
            Some(refusal) if direct => {
                (ReadPath::Direct, format!("{why}, but io_uring is not there: {refusal}"))
            }
            _ => (ReadPath::Buffered, format!("{why}, but there are no direct reads of this file")),
        },
        ReadPath::Direct if !direct => {
            (ReadPath::Buffered, format!("{why}, but there are no direct reads of this file"))
        }
        _ => (path, why),
    }
}

/// Why there is no io_uring for this file.
#[cfg(all(target_os = "linux", feature = "io-uring"))]
fn refusal(file: &StoredFile) -> Option<String> {
    if file.plain.is_bare() {
        super::uring::refusal()
    } else {
        Some("the file is read through something else".into())
    }
}

#[cfg(not(all(target_os = "linux", feature = "io-uring")))]
fn refusal(_file: &StoredFile) -> Option<String> {
    Some("not built in (feature io-uring, Linux alone)".to_owned())
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
            assert_eq!(choice(&Probe { direct, buffered, uring }), expected);
        };
        check(2.0, 2.9, None, ReadPath::Direct);
        check(2.0, 3.1, None, ReadPath::Buffered);
        check(2.0, 1.0, Some(2.9), ReadPath::Direct);
        check(2.0, 3.2, Some(3.3), ReadPath::Uring);
        check(0.5, 2.9, Some(2.8), ReadPath::Buffered);
    }
}
