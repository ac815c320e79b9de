//! In which ways files are read, and what is said of it.

/// How the bytes of tensors are read. Headers are always read through the page cache.
///
/// A way that is not there (the file system, the platform or the sandbox refuses it) is replaced
/// by the one before it in this order: `Uring`, `Direct`, `Buffered`;
/// [`DiskMap::reading`](crate::DiskMap::reading) says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadMode {
    /// What the page cache holds is copied from there; the rest is read so that the cache stays as
    /// it was, in the way that is chosen for the mount: a file larger than memory evicts nobody's
    /// pages.
    #[default]
    Auto,
    /// Through the page cache, always, by several threads.
    Buffered,
    /// Past the page cache, always (Linux `O_DIRECT`), by several threads.
    Direct,
    /// Past the page cache, always, by io_uring (Linux, feature `io-uring`).
    Uring,
}

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
    /// A [`Storage`](crate::Storage) of the caller's.
    Storage,
}

impl ReadPath {
    /// As it is said in reports: `buffered`, `direct`, `io_uring`, `mapped`, `by its storage`.
    pub fn name(self) -> &'static str {
        match self {
            ReadPath::Buffered => "buffered",
            ReadPath::Direct => "direct",
            ReadPath::Uring => "io_uring",
            ReadPath::Mapped => "mapped",
            ReadPath::Storage => "by its storage",
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
    /// What addresses and offsets of reads past the page cache are multiples of, in bytes; `None`
    /// where there are none.
    pub alignment: Option<usize>,
    /// Bytes of it that are in the page cache, where the system tells.
    pub cached_bytes: Option<u64>,
}
