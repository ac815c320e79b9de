//! The map itself: which tensor is where.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vram_types::{ByteSize, DType, FileId, FileRange, Shape, SourceError, StorageId, TensorMeta};

use crate::blocks::BlockType;
use crate::checksums::Checksums;
use crate::contents::{StridesRef, Unreadable};
use crate::header;
use crate::io::{FileReading, Pool, ReadMode, ReadQueue, StoredFile};
use crate::names::{NameRef, Names, Table};
use crate::open::DiskMapOptions;
use crate::strides::Strides;

/// Named tensors in one or more files of any [format](crate#formats), read on demand.
///
/// Opening reads the headers alone. All reads take `&self` and may run on many threads at once. The files stay open: one
/// that is replaced by renaming another over it goes on being read as it was, one that is written to or cut short is
/// an error at the next read.
pub struct DiskMap {
    pub(crate) files: Vec<StoredFile>,
    /// Metadata of each file, as a JSON object of strings.
    pub(crate) metadata: Vec<Box<str>>,
    /// In the order of [`DiskMap::order`].
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) strides: Vec<Strides>,
    pub(crate) unreadable: Vec<Unreadable>,
    pub(crate) lenient: Vec<String>,
    pub(crate) checksums: Checksums,
    pub(crate) names: Names,
    pub(crate) table: Table,
    pub(crate) mode: ReadMode,
    pub(crate) pool: Pool,
    pub(crate) queue: Arc<ReadQueue>,
    pub(crate) bytes_read: AtomicU64,
}

/// What tensors are sorted by; see [`DiskMap::order`].
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

    /// The quantised blocks that the tensor is decoded from; `None` if it is stored as numbers, or read as raw blocks.
    pub fn block_type(&self) -> Option<BlockType> {
        self.block
    }

    /// The quantised blocks whose bytes the elements are, as [`raw_blocks`](DiskMapOptions::raw_blocks) asked for.
    pub fn raw_block(&self) -> Option<BlockType> {
        self.raw
    }

    /// Whether the bytes that are read are not those of the file: converted, decoded, or gathered from strides.
    ///
    /// Such a tensor is read by name only; [`locate`](vram_types::WeightSource::locate) gives no ranges for it.
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

    /// The tensor's bytes in its file. Of a tensor with strides: its first byte, and as many as it has elements for.
    pub fn range(&self) -> FileRange {
        FileRange { file: self.file, offset: self.offset, bytes: self.stored_bytes() }
    }

    fn stored_bytes(&self) -> u64 {
        self.stored_before(self.meta.elements())
    }

    /// Bytes of the file that so many elements take: all of them, or a number that makes whole blocks and bytes.
    pub(crate) fn stored_before(&self, elements: u64) -> u64 {
        match self.block {
            Some(block) => elements / block.elements() * block.bytes(),
            None => self.decoded_bytes(elements),
        }
    }

    /// Bytes of so many elements of the stored dtype: of the whole tensor, or of a number that makes whole bytes.
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

impl DiskMap {
    /// Opens a file of any [format](crate#formats), a `*.index.json`, or a folder that holds either.
    ///
    /// A folder with one index is read by it; without one, all its `*.safetensors` are read. A folder without either is
    /// read by its PyTorch file or index, of which there must be one, and a folder without those by all its `*.gguf`.
    ///
    /// # Errors
    /// `NotFound` where there is no such file; `Invalid` or `Truncated` with file, tensor and offset for whatever the format
    /// forbids; `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<DiskMap, SourceError> {
        DiskMap::options().open(path)
    }

    /// Opens a list of files as one map, in that order.
    ///
    /// # Errors
    /// As [`DiskMap::open`]; `Invalid` also where two files have a tensor of the same name.
    pub fn open_files<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<DiskMap, SourceError> {
        DiskMap::options().open_files(paths)
    }

    /// Options for opening: how to read, another dtype.
    pub fn options() -> DiskMapOptions {
        DiskMapOptions::default()
    }

    /// Opens as [`DiskMap::open`] does and serves all reads from a memory map of the files.
    ///
    /// # Safety
    /// Nobody, in this process or another, writes to the files or shortens them while the map or any
    /// [`HostBytes`](vram_types::HostBytes) of it lives. Changed bytes under a shared reference are undefined behaviour,
    /// and a read beyond the end of a shortened file is a fatal signal.
    ///
    /// # Errors
    /// As [`DiskMap::open`].
    pub unsafe fn open_mapped(path: impl AsRef<Path>) -> Result<DiskMap, SourceError> {
        // SAFETY: the caller's promise is the same.
        unsafe { DiskMap::options().open_mapped(path) }
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }

    /// What is known of a tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(self.number_of(name)?)
    }

    /// All tensors in storage order: file after file, by offset.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &TensorInfo)> + '_ {
        self.tensors.iter().map(|info| (self.names.get(info.name), info))
    }

    /// The files, in the order of their [`FileId`].
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> + '_ {
        self.files.iter().map(StoredFile::path)
    }

    /// The metadata of a file, in its order; empty if it has none: `__metadata__` of safetensors, the key-value pairs of
    /// GGUF (arrays as JSON), the numbers and texts beside the tensors of a PyTorch file.
    pub fn metadata(&self, file: FileId) -> Vec<(String, String)> {
        self.metadata.get(file.0 as usize).map(|text| header::metadata_pairs(text)).unwrap_or_default()
    }

    /// Tensors that are there and that cannot be read, and why: quantised types without a decoder, sparse tensors.
    pub fn unreadable(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + '_ {
        self.unreadable.iter().map(|tensor| (self.names.get(tensor.name), &*tensor.why))
    }

    /// What was wrong with the files and was let pass, as [`lenient`](DiskMapOptions::lenient) allowed; a sentence each.
    pub fn leniencies(&self) -> impl ExactSizeIterator<Item = &str> + '_ {
        self.lenient.iter().map(String::as_str)
    }

    /// What addresses, offsets and lengths should be multiples of, in bytes, so that direct reads need no copy: the
    /// largest of all files, and 4096 at least.
    pub fn direct_alignment(&self) -> usize {
        self.files.iter().map(StoredFile::direct_alignment).max().unwrap_or(4096)
    }

    /// How a file is read, and why: what it is on, what of it is in the page cache, by which way the rest comes.
    pub fn reading(&self, file: FileId) -> Option<FileReading> {
        Some(self.files.get(file.0 as usize)?.reading(self.mode))
    }

    /// Bytes asked of storage so far, headers and index included. What a read was widened by is not counted.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    pub(crate) fn strides_of(&self, info: &TensorInfo) -> Option<&Strides> {
        self.strides.get(info.strides?.index())
    }

    /// What tensors are sorted by: place, then everything that makes the same bytes another tensor. Empty ones first.
    pub(crate) fn order<'a>(info: &'a TensorInfo, strides: &'a [Strides]) -> Order<'a> {
        let strides = info.strides.and_then(|number| strides.get(number.index()));
        (info.file, info.offset, info.meta.bytes() > 0, strides, info.block, info.stored)
    }

    /// Which stored bytes a tensor is, and how they are read.
    ///
    /// Tensors of one place that are not the same numbers (a matrix beside its transpose) are told apart by offsets beyond
    /// the end of their file.
    pub(crate) fn storage_of(&self, number: usize, info: &TensorInfo) -> StorageId {
        let own = StorageId { file: info.file, offset: info.offset };
        let shares = |other: &TensorInfo| {
            (other.file, other.offset) == (info.file, info.offset) && other.meta.bytes() > 0
        };
        if number.checked_sub(1).and_then(|n| self.tensors.get(n)).is_none_or(|before| !shares(before)) {
            return own;
        }
        let place = (info.file, info.offset, true);
        let first = self.tensors.partition_point(|t| (t.file, t.offset, t.meta.bytes() > 0) < place);
        let order = DiskMap::order(info, &self.strides);
        let same = self.tensors.partition_point(|t| DiskMap::order(t, &self.strides) < order);
        if same <= first {
            return own;
        }
        let beyond = self.files.get(info.file.0 as usize).map_or(0, StoredFile::bytes);
        StorageId { offset: beyond.saturating_add(same as u64), ..own }
    }

    pub(crate) fn number_of(&self, name: &str) -> Option<usize> {
        Some(self.table.find(name, |i| self.name_of(i))? as usize)
    }

    pub(crate) fn name_of(&self, number: u32) -> &str {
        self.tensors.get(number as usize).map_or("", |info| self.names.get(info.name))
    }

    /// The tensor that a byte of a file belongs to.
    pub(crate) fn name_at(&self, file: FileId, offset: u64) -> Option<&str> {
        let after = self.tensors.partition_point(|info| (info.file, info.offset) <= (file, offset));
        let info = self.tensors.get(..after)?.iter().rev().find(|info| info.range().bytes > 0)?;
        (info.file == file && offset < info.range().end()).then(|| self.names.get(info.name))
    }
}

impl fmt::Debug for DiskMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.tensors.iter().map(|info| info.meta.bytes()).sum();
        f.debug_struct("DiskMap")
            .field("files", &self.files().collect::<Vec<_>>())
            .field("tensors", &self.tensors.len())
            .field("bytes", &ByteSize(bytes).to_string())
            .field("mode", &self.mode)
            .finish()
    }
}
