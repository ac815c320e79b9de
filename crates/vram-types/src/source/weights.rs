//! The trait behind which every checkpoint format and remote store stands.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::{FileId, FileRange, Located, ReadOptions, ReadRequest};
use crate::{SourceError, SourceErrorKind};

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
/// Implement this for a new format or a remote store; use [`WeightSourceExt`] for the
/// conveniences.
pub trait WeightSource: Send + Sync {
    /// Names of all tensors in storage order: file after file, by offset.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// Where a tensor is; `None` if there is none of that name.
    fn locate(&self, name: &str) -> Option<Located>;

    /// A name for a file of this source, for messages: a path, a URL, "bytes in memory". `None` if
    /// the source has no such file.
    fn describe(&self, file: FileId) -> Option<Cow<'_, str>>;

    /// Performs all requests, in any order, and returns when the last is done.
    ///
    /// # Errors
    /// The first failure; then the contents of every `dst` are unspecified. A short read is
    /// [`SourceErrorKind::Truncated`] and never leaves zeros behind as if they were weights.
    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError>;

    /// The same bytes without a copy, if the source was opened as a memory map; `None` if it was
    /// not.
    ///
    /// # Errors
    /// [`SourceErrorKind::OutOfRange`] if the file has no such bytes.
    fn map(&self, _range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        None
    }

    /// Reads go fastest into memory whose address is congruent to the file offset modulo this many
    /// bytes, a power of two: the page, or a larger sector, for direct reads, 1 where it makes no
    /// difference.
    fn alignment(&self) -> u64 {
        1
    }

    /// Bytes requested from storage so far, headers included.
    fn bytes_read(&self) -> u64;

    /// Tensors that are there and that this source cannot read, each with the reason. They are not
    /// among the [`names`](WeightSource::names).
    fn unreadable_tensors(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// How many bytes of storage the elements of a tensor are read from, where the source knows:
    /// far fewer than the tensor's own where elements are repeated (expanded by PyTorch).
    fn stored_bytes(&self, _name: &str) -> Option<u64> {
        None
    }
}

impl<S: WeightSource + ?Sized> WeightSource for Arc<S> {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        (**self).names()
    }

    fn locate(&self, name: &str) -> Option<Located> {
        (**self).locate(name)
    }

    fn describe(&self, file: FileId) -> Option<Cow<'_, str>> {
        (**self).describe(file)
    }

    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        (**self).read_many(requests, options)
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

    fn unreadable_tensors(&self) -> Vec<(String, String)> {
        (**self).unreadable_tensors()
    }

    fn stored_bytes(&self, name: &str) -> Option<u64> {
        (**self).stored_bytes(name)
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
    /// Whatever the source's [`read_many`](WeightSource::read_many) gives,
    /// [`SourceErrorKind::OutOfRange`] if `dst` has another length than the range.
    fn read_range(&self, name: &str, range: Range<u64>, dst: &mut [u8]) -> Result<(), SourceError> {
        if range.end.checked_sub(range.start) != Some(dst.len() as u64) {
            return Err(SourceError::new(
                SourceErrorKind::OutOfRange,
                format!("bytes {range:?} do not fit a buffer of {} bytes", dst.len()),
            )
            .at_tensor(name));
        }
        let request = ReadRequest::tensor(name, range.start, dst);
        self.read_many(&mut [request], &ReadOptions::BLOCKING)
    }
}

impl<S: WeightSource + ?Sized> WeightSourceExt for S {}
