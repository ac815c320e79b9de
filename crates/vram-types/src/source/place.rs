//! Where a tensor's bytes are.

use smallvec::SmallVec;

use crate::{DType, Encoding, TensorMeta, TypeError};

/// One file of a source; [`WeightSource::describe`](crate::WeightSource::describe) names it.
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
#[non_exhaustive]
pub struct Located {
    /// Dtype and shape, after any conversion that the source performs.
    pub meta: TensorMeta,
    /// Which stored bytes these are.
    pub storage: StorageId,
    /// The file ranges that, one after the other, are the tensor's bytes in row-major order. Empty
    /// if the source computes the bytes (converts, decodes, gathers): such a tensor is read by
    /// name only, see [`ReadTarget::Tensor`](crate::ReadTarget::Tensor).
    pub ranges: SmallVec<[FileRange; 1]>,
    /// The tensor as it is stored, where that is another encoding than what is read by name:
    /// quantised blocks, or numbers of a dtype that the source casts. `None` where the two are the
    /// same, and where the source does not know.
    pub encoded: Option<Encoded>,
}

/// The bytes of a tensor before the source decodes or casts them: rows of the same shape, in
/// another encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// What the bytes are.
    pub encoding: Encoding,
    /// The file ranges that, one after the other, are all rows.
    pub ranges: SmallVec<[FileRange; 1]>,
}

impl Located {
    /// A tensor that is stored as it is read.
    pub fn new(meta: TensorMeta, storage: StorageId, ranges: impl IntoIterator<Item = FileRange>) -> Located {
        Located { meta, storage, ranges: ranges.into_iter().collect(), encoded: None }
    }

    /// The same with what is known of how it is stored.
    #[must_use]
    pub fn with_encoded(mut self, encoded: impl Into<Option<Encoded>>) -> Located {
        self.encoded = encoded.into();
        self
    }

    /// How the tensor is stored, and where: encoded bytes that are read by file range. `None` if
    /// the source only computes it.
    ///
    /// ```
    /// use vram_types::{BlockType, DType, Encoded, Encoding, FileId, FileRange, Located, StorageId, TensorMeta};
    ///
    /// let (file, offset) = (FileId(0), 4096);
    /// let range = FileRange { file, offset, bytes: 360 };
    /// let encoded = Encoded { encoding: Encoding::Blocks(BlockType::Q4_0), ranges: [range].into() };
    /// let meta = TensorMeta::new(DType::F32, [10, 64])?;
    /// let located = Located::new(meta, StorageId { file, offset }, []).with_encoded(encoded);
    /// let (encoding, ranges) = located.stored().expect("known");
    /// assert_eq!((encoding.row_bytes(64), ranges), (Some(36), &[range][..]));
    /// # Ok::<(), vram_types::TypeError>(())
    /// ```
    pub fn stored(&self) -> Option<(Encoding, &[FileRange])> {
        match &self.encoded {
            Some(encoded) => Some((encoded.encoding, &encoded.ranges)),
            None if self.ranges.is_empty() => None,
            None => Some((Encoding::Plain(self.meta.dtype()), &self.ranges)),
        }
    }

    /// The same tensor cast to another dtype by the source that wraps this one: it has no ranges
    /// any more, and is stored as before.
    ///
    /// # Errors
    /// [`TypeError`] where the new size does not exist.
    pub fn cast(mut self, to: DType) -> Result<Located, TypeError> {
        let from = self.meta.dtype();
        if from == to {
            return Ok(self);
        }
        self.meta = TensorMeta::new(to, self.meta.shape().clone())?;
        let ranges = std::mem::take(&mut self.ranges);
        if self.encoded.is_none() && !ranges.is_empty() {
            self.encoded = Some(Encoded { encoding: Encoding::Plain(from), ranges });
        }
        Ok(self)
    }
}
