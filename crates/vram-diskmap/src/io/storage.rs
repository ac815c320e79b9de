//! Where the bytes of a checkpoint's file are, as far as formats need to know.

use std::borrow::Cow;
use std::fmt;
use std::io;

use vram_types::{ReadOptions, SourceError, SourceErrorKind};

use super::read_at::fill;
use super::threads::{THREADS, share};

/// Bytes that one call of [`Storage::read_at`] is asked for at most, where a storage performs
/// several reads by itself.
const PIECE_BYTES: usize = 2 << 20;

/// Bytes that a checkpoint's file consists of, wherever they are: on a disk, in memory, in an
/// object store.
///
/// Every format works over it: give one to
/// [`DiskMapOptions::open_storage`](crate::DiskMapOptions::open_storage), or several. A file of
/// this machine needs none of its own, since [`DiskMap::open`](crate::DiskMap::open) takes its
/// path and reads it past the page cache, by io_uring or as a map; bytes in memory are a
/// [`MemoryStorage`](crate::MemoryStorage).
///
/// ```
/// use std::borrow::Cow;
/// use std::io;
/// use std::sync::Arc;
/// use vram_diskmap::{DiskMap, Storage};
///
/// /// An object of a store that answers requests for ranges.
/// struct Object {
///     url: String,
///     bytes: u64,
/// }
///
/// # fn fetch(_url: &str, offset: u64, dst: &mut [u8]) -> io::Result<usize> {
/// #     let header = br#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
/// #     let all = [&(header.len() as u64).to_le_bytes()[..], header, &[7, 8]].concat();
/// #     let rest = all.get(offset as usize..).unwrap_or_default();
/// #     let len = rest.len().min(dst.len());
/// #     dst[..len].copy_from_slice(&rest[..len]);
/// #     Ok(len)
/// # }
/// # let bytes = 8 + 53 + 2;
/// impl Storage for Object {
///     fn bytes(&self) -> u64 {
///         self.bytes
///     }
///
///     fn describe(&self) -> Cow<'_, str> {
///         Cow::Borrowed(&self.url)
///     }
///
///     fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
///         fetch(&self.url, offset, dst)
///     }
/// }
///
/// let url = "https://example.org/model.safetensors".to_owned();
/// let map = DiskMap::open_storage(Arc::new(Object { url, bytes }))?;
/// assert_eq!(map.get("a")?.bytes(), [7, 8]);
/// # Ok::<(), vram_types::SourceError>(())
/// ```
pub trait Storage: Send + Sync {
    /// How many bytes there are.
    fn bytes(&self) -> u64;

    /// A name for messages: a path, a URL, "bytes in memory".
    fn describe(&self) -> Cow<'_, str>;

    /// Reads at an offset; may read less than asked for, 0 only at the end. Several threads call
    /// it at once.
    ///
    /// # Errors
    /// Whatever goes wrong; `Interrupted` is tried again, and `TimedOut` says that trying again
    /// later may help.
    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Performs several reads and returns when the last is done. By default eight threads call
    /// [`read_at`](Storage::read_at) for 2 MiB at most; a storage that answers many requests at
    /// once does better.
    ///
    /// # Errors
    /// The first failure, which names the storage and the offset; the contents of every `dst` are
    /// unspecified then. Fewer bytes than asked for are [`Truncated`](SourceErrorKind::Truncated).
    fn read_many(&self, reads: &mut [StorageRead<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        read_by_threads(self, reads, options)
    }

    /// What changes when somebody replaces the bytes, such as an entity tag. It is asked when a
    /// map opens and after each read, and must cost nothing worth mentioning: keep the tag of the
    /// last answer instead of asking for it. By default nothing ever changes.
    ///
    /// # Errors
    /// Whatever goes wrong; the read then fails with it.
    fn identity(&self) -> io::Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(&[]))
    }

    /// Names the storage in an error, by default as it [describes](Storage::describe) itself.
    fn named(&self, error: SourceError) -> SourceError {
        error.at_file(self.describe())
    }
}

/// One read of a [`Storage`]: fills all of `dst`.
pub struct StorageRead<'a> {
    /// First byte.
    pub offset: u64,
    /// Memory that takes the bytes.
    pub dst: &'a mut [u8],
}

impl fmt::Debug for StorageRead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageRead").field("offset", &self.offset).field("bytes", &self.dst.len()).finish()
    }
}

/// Fills all of `dst`.
pub(crate) fn read_exact<S: Storage + ?Sized>(
    storage: &S,
    dst: &mut [u8],
    offset: u64,
) -> Result<(), SourceError> {
    let got = fill(|dst, offset| storage.read_at(dst, offset), dst, offset);
    complete(storage, got, dst.len(), offset)
}

/// What came of a read: an error that names storage and offset unless all of it is there.
pub(super) fn complete<S: Storage + ?Sized>(
    storage: &S,
    got: io::Result<usize>,
    wanted: usize,
    offset: u64,
) -> Result<(), SourceError> {
    match got {
        Ok(got) if got < wanted => Err(truncated(storage, offset + got as u64).at_offset(offset)),
        Ok(_) => Ok(()),
        Err(e) => Err(storage.named(SourceError::io(e)).at_offset(offset)),
    }
}

/// The storage has become shorter.
pub(super) fn truncated<S: Storage + ?Sized>(storage: &S, end: u64) -> SourceError {
    let message = format!("the file ends at byte {end}, it had {} bytes when it was opened", storage.bytes());
    storage.named(SourceError::new(SourceErrorKind::Truncated, message))
}

fn read_by_threads<S: Storage + ?Sized>(
    storage: &S,
    reads: &mut [StorageRead<'_>],
    options: &ReadOptions,
) -> Result<(), SourceError> {
    let bytes = reads.iter().map(|read| read.dst.len()).sum();
    let pieces = reads.iter_mut().flat_map(|StorageRead { offset, dst }| {
        let offsets = (*offset..).step_by(PIECE_BYTES);
        offsets.zip(dst.chunks_mut(PIECE_BYTES))
    });
    share(pieces.collect(), bytes, THREADS, |(offset, dst)| {
        options.check()?;
        read_exact(storage, dst, offset)
    })
}
