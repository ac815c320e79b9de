//! Where weights come from: the trait behind which every checkpoint format and remote store stands.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use crate::{SourceError, SourceErrorKind, TensorMeta};

/// One file of a source; [`WeightSource::file`] gives its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// Identity of stored bytes: tensors that share it are tied, and are read and counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageId {
    /// The file.
    pub file: FileId,
    /// Where in the file the storage begins, in bytes.
    pub offset: u64,
}

/// A run of bytes in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileRange {
    /// The file.
    pub file: FileId,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
}

impl FileRange {
    /// The first byte after the range.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes
    }
}

/// What a source knows of a tensor without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Dtype and shape, after any conversion that the source performs.
    pub meta: TensorMeta,
    /// Which stored bytes these are.
    pub storage: StorageId,
    /// The file ranges that, one after the other, are the tensor's bytes in row-major order. Empty if the source
    /// computes the bytes (converts, gathers): such a tensor is read by name only, see [`ReadTarget::Tensor`].
    pub ranges: SmallVec<[FileRange; 1]>,
}

/// What one [`ReadRequest`] asks for; its length is the request's `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadTarget<'a> {
    /// Bytes of a file, as [`Located::ranges`] gave them. May span several tensors and the gaps between them.
    File {
        /// The file.
        file: FileId,
        /// First byte in the file.
        offset: u64,
    },
    /// Bytes of one tensor, counted from its beginning in row-major order, after conversion.
    Tensor {
        /// The tensor's name.
        name: &'a str,
        /// First byte within the tensor.
        offset: u64,
    },
}

/// One read into memory of the caller's.
///
/// After success `dst[at..at + bytes]` holds what was asked for. The rest of `dst` is slack that the source may
/// overwrite, so that a read can be widened to whole sectors when the address is congruent to the file offset.
pub struct ReadRequest<'a> {
    /// What to read.
    pub target: ReadTarget<'a>,
    /// How many bytes.
    pub bytes: u64,
    /// Memory that takes them, slack included.
    pub dst: &'a mut [u8],
    /// Where in `dst` the first byte goes.
    pub at: usize,
}

impl<'a> ReadRequest<'a> {
    /// Fills all of `dst` from a file, without slack.
    pub fn file(file: FileId, offset: u64, dst: &'a mut [u8]) -> ReadRequest<'a> {
        ReadRequest { target: ReadTarget::File { file, offset }, bytes: dst.len() as u64, dst, at: 0 }
    }

    /// Fills all of `dst` from a tensor, without slack.
    pub fn tensor(name: &'a str, offset: u64, dst: &'a mut [u8]) -> ReadRequest<'a> {
        ReadRequest { target: ReadTarget::Tensor { name, offset }, bytes: dst.len() as u64, dst, at: 0 }
    }

    /// The part of `dst` that is asked for.
    ///
    /// # Errors
    /// [`SourceErrorKind::OutOfRange`] if the request does not fit its own buffer.
    pub fn wanted(&mut self) -> Result<&mut [u8], SourceError> {
        let len = self.dst.len();
        usize::try_from(self.bytes)
            .ok()
            .and_then(|bytes| self.at.checked_add(bytes))
            .and_then(|end| self.dst.get_mut(self.at..end))
            .ok_or_else(|| {
                SourceError::new(
                    SourceErrorKind::OutOfRange,
                    format!("{} bytes at {} do not fit a buffer of {len} bytes", self.bytes, self.at),
                )
            })
    }
}

impl fmt::Debug for ReadRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadRequest")
            .field("target", &self.target)
            .field("bytes", &self.bytes)
            .field("dst_bytes", &self.dst.len())
            .field("at", &self.at)
            .finish()
    }
}

/// How urgent a read is. A source with a queue serves higher priorities first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Nobody waits for it yet.
    #[default]
    ReadAhead,
    /// The computing thread waits for it.
    Urgent,
}

/// Tells readers to stop. Clones share one flag; it is never reset.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that has not been cancelled.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Asks everybody who holds a clone to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`cancel`](CancelToken::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// An error if cancelled.
    ///
    /// # Errors
    /// [`SourceErrorKind::Cancelled`].
    pub fn check(&self) -> Result<(), SourceError> {
        if self.is_cancelled() {
            return Err(SourceError::new(SourceErrorKind::Cancelled, "the read was cancelled"));
        }
        Ok(())
    }
}

/// Bytes of a source that lie in host memory already, such as a window of a memory map.
///
/// Dropping it gives the pages back to the system.
pub trait HostBytes: Send + Sync {
    /// The bytes.
    fn bytes(&self) -> &[u8];

    /// Brings the pages in, on the calling thread, so that the computing thread never faults.
    ///
    /// # Errors
    /// [`SourceErrorKind::Io`] if the system refuses.
    fn prefault(&self) -> Result<(), SourceError>;
}

/// Named tensors that can be located without reading and read in any order from many threads.
///
/// Implement this for a new format or a remote store; use [`WeightSourceExt`] for the conveniences.
pub trait WeightSource: Send + Sync {
    /// Names of all tensors in storage order: file after file, by offset.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// Where a tensor is; `None` if there is none of that name.
    fn locate(&self, name: &str) -> Option<Located>;

    /// Path of a file that a [`FileId`] of this source names, for messages; `None` for a source without files.
    fn file(&self, file: FileId) -> Option<&Path>;

    /// Performs all requests, in any order, and returns when the last is done.
    ///
    /// # Errors
    /// The first failure; then the contents of every `dst` are unspecified. A short read is
    /// [`SourceErrorKind::Truncated`] and never leaves zeros behind as if they were weights.
    fn read_many(
        &self,
        requests: &mut [ReadRequest<'_>],
        priority: Priority,
        cancel: &CancelToken,
    ) -> Result<(), SourceError>;

    /// The same bytes without a copy, if the source was opened as a memory map; `None` if it was not.
    ///
    /// # Errors
    /// [`SourceErrorKind::OutOfRange`] if the file has no such bytes.
    fn map(&self, _range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        None
    }

    /// Reads go fastest into memory whose address is congruent to the file offset modulo this many bytes, a power
    /// of two: the page, or a larger sector, for direct reads, 1 where it makes no difference.
    fn alignment(&self) -> u64 {
        1
    }

    /// Bytes requested from storage so far, headers included.
    fn bytes_read(&self) -> u64;
}

impl<S: WeightSource + ?Sized> WeightSource for Arc<S> {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        (**self).names()
    }

    fn locate(&self, name: &str) -> Option<Located> {
        (**self).locate(name)
    }

    fn file(&self, file: FileId) -> Option<&Path> {
        (**self).file(file)
    }

    fn read_many(
        &self,
        requests: &mut [ReadRequest<'_>],
        priority: Priority,
        cancel: &CancelToken,
    ) -> Result<(), SourceError> {
        (**self).read_many(requests, priority, cancel)
    }

    fn map(&self, range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        (**self).map(range)
    }

    fn alignment(&self) -> u64 {
        (**self).alignment()
    }

    fn bytes_read(&self) -> u64 {
        (**self).bytes_read()
    }
}

/// Conveniences over any [`WeightSource`].
pub trait WeightSourceExt: WeightSource {
    /// Where a tensor is, or an error that names it.
    ///
    /// # Errors
    /// [`SourceErrorKind::NotFound`].
    fn require(&self, name: &str) -> Result<Located, SourceError> {
        self.locate(name).ok_or_else(|| {
            SourceError::new(SourceErrorKind::NotFound, "the checkpoint has no such tensor").at_tensor(name)
        })
    }

    /// Reads bytes `range` of a tensor, counted from its beginning.
    ///
    /// # Errors
    /// Whatever the source's [`read_many`](WeightSource::read_many) gives, [`SourceErrorKind::OutOfRange`] if `dst`
    /// has another length than the range.
    fn read_range(&self, name: &str, range: Range<u64>, dst: &mut [u8]) -> Result<(), SourceError> {
        if range.end.checked_sub(range.start) != Some(dst.len() as u64) {
            return Err(SourceError::new(
                SourceErrorKind::OutOfRange,
                format!("bytes {range:?} do not fit a buffer of {} bytes", dst.len()),
            )
            .at_tensor(name));
        }
        let request = ReadRequest::tensor(name, range.start, dst);
        self.read_many(&mut [request], Priority::Urgent, &CancelToken::new())
    }
}

impl<S: WeightSource + ?Sized> WeightSourceExt for S {}
