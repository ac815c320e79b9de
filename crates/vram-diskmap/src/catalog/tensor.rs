//! What is known of a tensor without reading it.

use std::num::NonZeroU32;

use vram_types::{BlockType, DType, Encoding, FileId, FileRange, Shape, SourceErrorKind, TensorMeta};

use crate::catalog::names::{NameRef, count};
use crate::fault::Fault;
use crate::read::strides::Strides;

/// What tensors are sorted by; see [`order`].
pub(crate) type Order<'a> = (FileId, u64, bool, Option<&'a Strides>, Option<BlockType>, DType);

/// What is known of a tensor without reading it.
#[derive(Debug)]
pub struct TensorInfo {
    pub(crate) meta: TensorMeta,
    pub(crate) offset: u64,
    pub(crate) name: NameRef,
    pub(crate) file: FileId,
    /// Where the header names the tensor.
    pub(crate) named_at: u32,
    /// `None` for elements that lie side by side.
    pub(crate) strides: Option<StridesRef>,
    pub(crate) stored: DType,
    /// `None` for elements that are numbers of `stored`.
    pub(crate) block: Option<BlockType>,
    /// The blocks that `U8` elements are the bytes of.
    pub(crate) raw: Option<BlockType>,
}

impl TensorInfo {
    /// Dtype and shape of what is read, after any conversion.
    pub fn meta(&self) -> &TensorMeta {
        &self.meta
    }

    /// Element type of what is read, after any conversion.
    pub fn dtype(&self) -> DType {
        self.meta.dtype()
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        self.meta.shape()
    }

    /// Element type in the file; `F32` for quantised blocks, into which they decode.
    pub fn stored_dtype(&self) -> DType {
        self.stored
    }

    /// How the elements are stored in the file.
    pub fn encoding(&self) -> Encoding {
        match self.block {
            Some(block) => Encoding::Blocks(block),
            None => Encoding::Plain(self.stored),
        }
    }

    /// The quantised blocks that the tensor is decoded from; `None` if it is stored as numbers, or
    /// read as raw blocks.
    pub fn block_type(&self) -> Option<BlockType> {
        self.block
    }

    /// The quantised blocks whose bytes the elements are, as
    /// [`raw_blocks`](crate::DiskMapOptions::raw_blocks) asked for.
    pub fn raw_block(&self) -> Option<BlockType> {
        self.raw
    }

    /// Whether the bytes that are read are not those of the file: converted, decoded, or gathered
    /// from strides.
    ///
    /// Such a tensor is read by name only; [`locate`](vram_types::WeightSource::locate) gives no
    /// ranges for it.
    pub fn is_computed(&self) -> bool {
        self.is_converted() || self.block.is_some() || self.strides.is_some()
    }

    /// Whether reading converts to another dtype.
    pub fn is_converted(&self) -> bool {
        self.stored != self.meta.dtype()
    }

    /// Whether elements are gathered from where they lie apart.
    pub(crate) fn is_gathered(&self) -> bool {
        self.strides.is_some()
    }

    /// The tensor's bytes in its file. Of a tensor with strides: its first byte, and as many as it
    /// has elements for.
    pub fn range(&self) -> FileRange {
        FileRange { file: self.file, offset: self.offset, bytes: self.stored_bytes() }
    }

    fn stored_bytes(&self) -> u64 {
        self.stored_before(self.meta.elements())
    }

    /// Bytes of the file that so many elements take: all of them, or a number that makes whole
    /// blocks and bytes.
    pub(crate) fn stored_before(&self, elements: u64) -> u64 {
        match self.block {
            Some(block) => elements / block.block_elements() * block.block_bytes(),
            None => self.decoded_bytes(elements),
        }
    }

    /// Bytes of so many elements of the stored dtype: of the whole tensor, or of a number that
    /// makes whole bytes.
    pub(crate) fn decoded_bytes(&self, elements: u64) -> u64 {
        // The header was checked, so the size exists.
        self.stored.bytes_of(elements).unwrap_or(0)
    }

    /// Bytes of one number of the stored dtype: half an element where that is complex.
    pub(crate) fn number_bytes(&self) -> usize {
        match self.stored {
            DType::C64 => 4,
            dtype => dtype.layout().block_bytes as usize,
        }
    }
}

/// What tensors are sorted by: place, then everything that makes the same bytes another tensor.
/// Empty ones first.
pub(crate) fn order<'a>(info: &'a TensorInfo, strides: &'a [Strides]) -> Order<'a> {
    let strides = info.strides.and_then(|number| strides.get(number.index()));
    (info.file, info.offset, info.meta.bytes() > 0, strides, info.block, info.stored)
}

/// The number of a tensor's strides, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StridesRef(NonZeroU32);

impl StridesRef {
    pub(crate) fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    /// Refers to the last of `of` strides.
    pub(crate) fn last(of: usize) -> Result<StridesRef, Fault> {
        let none = || Fault::new(SourceErrorKind::Invalid, "no strides");
        NonZeroU32::new(count(of)?).map(StridesRef).ok_or_else(none)
    }

    /// The number among strides of which `before` come first.
    pub(crate) fn after(self, before: usize) -> Result<StridesRef, Fault> {
        let number = count(self.0.get() as usize + before)?;
        Ok(StridesRef(NonZeroU32::new(number).unwrap_or(self.0)))
    }
}
