//! What a source is asked to read.

use std::fmt;

use super::FileId;
use crate::{SourceError, SourceErrorKind};

/// What one [`ReadRequest`] asks for; its length is the request's `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadTarget<'a> {
    /// Bytes of a file, as [`Located::ranges`](crate::Located::ranges) gave them. May span several
    /// tensors and the gaps between them.
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
/// After success `dst[at..at + bytes]` holds what was asked for. The rest of `dst` is slack that
/// the source may overwrite, so that a read can be widened to whole sectors when the address is
/// congruent to the file offset.
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
