//! The map itself: which tensor is where.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use vram_types::{ByteSize, DType, FileId, FileRange, Shape, SourceError, TensorMeta};

use crate::header;
use crate::io::{Pool, ReadMode, StoredFile};
use crate::names::{NameRef, Names, Table};
use crate::open::DiskMapOptions;

/// Named tensors in one or more safetensors files, read on demand.
///
/// Opening reads the headers alone. All reads take `&self` and may run on many threads at once. The files stay open: one
/// that is replaced by renaming another over it goes on being read as it was, one that is written to or cut short is
/// an error at the next read.
pub struct DiskMap {
    pub(crate) files: Vec<StoredFile>,
    /// `__metadata__` of each file, as JSON.
    pub(crate) metadata: Vec<Box<str>>,
    /// By file, then by offset.
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) names: Names,
    pub(crate) table: Table,
    pub(crate) mode: ReadMode,
    pub(crate) pool: Pool,
    pub(crate) bytes_read: AtomicU64,
}

/// What is known of a tensor without reading it.
#[derive(Debug)]
pub struct TensorInfo {
    pub(crate) meta: TensorMeta,
    pub(crate) offset: u64,
    pub(crate) name: NameRef,
    pub(crate) file: FileId,
    /// Where the header names the tensor.
    pub(crate) named_at: u32,
    pub(crate) stored: DType,
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

    /// Element type in the file.
    pub fn stored_dtype(&self) -> DType {
        self.stored
    }

    /// Whether reading converts to another dtype.
    pub fn is_converted(&self) -> bool {
        self.stored != self.meta.dtype()
    }

    /// The tensor's bytes in its file.
    pub fn range(&self) -> FileRange {
        // The header was checked, so the size exists.
        let bytes = self.stored.bytes_of(self.meta.elements()).unwrap_or(0);
        FileRange { file: self.file, offset: self.offset, bytes }
    }
}

impl DiskMap {
    /// Opens a safetensors file, a `*.index.json`, or a folder that holds either.
    ///
    /// A folder with one index is read by it; without one, all its `*.safetensors` are read.
    ///
    /// # Errors
    /// `NotFound` where there is no such file; `Invalid` or `Truncated` with file, tensor and offset for whatever the format
    /// forbids; `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<DiskMap, SourceError> {
        DiskMap::options().open(path)
    }

    /// Opens a list of safetensors files as one map, in that order.
    ///
    /// # Errors
    /// As [`DiskMap::open`]; `Invalid` also where two files have a tensor of the same name.
    pub fn open_files<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<DiskMap, SourceError> {
        DiskMap::options().open_files(paths)
    }

    /// Options for opening: how to read, other names, another dtype.
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
        let number = self.table.find(name, |i| self.name_of(i))?;
        self.tensors.get(number as usize)
    }

    /// All tensors in storage order: file after file, by offset.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &TensorInfo)> + '_ {
        self.tensors.iter().map(|info| (self.names.get(info.name), info))
    }

    /// The files, in the order of their [`FileId`].
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> + '_ {
        self.files.iter().map(StoredFile::path)
    }

    /// The `__metadata__` of a file, in its order; empty if it has none.
    pub fn metadata(&self, file: FileId) -> Vec<(String, String)> {
        self.metadata.get(file.0 as usize).map(|text| header::metadata_pairs(text)).unwrap_or_default()
    }

    /// What addresses, offsets and lengths should be multiples of, in bytes, so that direct reads need no copy: the
    /// largest of all files, and 4096 for a file system that does not tell.
    pub fn direct_alignment(&self) -> usize {
        self.files.iter().map(StoredFile::direct_alignment).max().unwrap_or(4096)
    }

    /// Bytes asked of storage so far, headers and index included. What a read was widened by is not counted.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
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
