//! The map itself: which tensor is where.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vram_types::{ByteSize, FileId, SourceError, SourceErrorKind, StorageId};

use crate::catalog::checksums::Checksums;
use crate::catalog::contents::{Unread, Unreadable};
use crate::catalog::names::{Names, Table};
use crate::catalog::tensor::{TensorInfo, order};
use crate::format::safetensors::header;
use crate::io::{FileReading, Pool, ReadMode, ReadQueue, StoredFile};
use crate::read::strides::Strides;

/// Named tensors in one or more files of any [format](crate#formats), read on demand.
///
/// Opening reads the headers alone. All reads take `&self` and may run on many threads at once.
/// The files stay open: one that is replaced by renaming another over it goes on being read as it
/// was, one that is written to or cut short is an error at the next read.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// # let meta = vram_types::TensorMeta::new(vram_types::DType::F32, [1000, 4])?;
/// # let mut writer = vram_diskmap::SafetensorsWriter::create(&path, [("embed.weight", meta)], &[])?;
/// # writer.write(&[0; 16000])?;
/// # writer.finish()?;
/// use vram_diskmap::DiskMap;
/// use vram_types::{DType, WeightSourceExt};
///
/// let map = DiskMap::open(&path)?;
/// let info = map.tensor("embed.weight").ok_or("it has one")?;
/// assert_eq!((info.dtype(), info.shape().dims()), (DType::F32, &[1000, 4][..]));
/// // Whole, some rows, or some bytes of it into memory of one's own.
/// assert_eq!(map.get("embed.weight")?.bytes().len(), 16000);
/// assert_eq!(map.get_slice("embed.weight", &[10..20])?.bytes().len(), 160);
/// let mut row = [0; 16];
/// map.read_range("embed.weight", 160..176, &mut row)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DiskMap {
    pub(crate) files: Vec<StoredFile>,
    /// Metadata of each file, as a JSON object of strings.
    pub(crate) metadata: Vec<Box<str>>,
    /// In the order of [`order`].
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) strides: Vec<Strides>,
    pub(crate) unreadable: Vec<Unreadable>,
    pub(crate) unread: Vec<Unread>,
    pub(crate) lenient: Vec<String>,
    pub(crate) checksums: Checksums,
    pub(crate) names: Names,
    pub(crate) table: Table,
    pub(crate) mode: ReadMode,
    pub(crate) pool: Pool,
    pub(crate) queue: Arc<ReadQueue>,
    pub(crate) bytes_read: AtomicU64,
}

impl DiskMap {
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

    /// The files' names for messages, in the order of their [`FileId`]: paths, or what storages
    /// call themselves.
    pub fn files(&self) -> impl ExactSizeIterator<Item = Cow<'_, str>> + '_ {
        self.files.iter().map(StoredFile::describe)
    }

    /// Where a file of this machine is; `None` for one in a storage, and if there is no such file.
    pub fn path(&self, file: FileId) -> Option<&Path> {
        Some(self.files.get(file.0 as usize)?.local()?.path())
    }

    /// How long a file was when it was opened, in bytes.
    pub fn file_bytes(&self, file: FileId) -> Option<u64> {
        Some(self.files.get(file.0 as usize)?.bytes())
    }

    /// The metadata of a file, in its order; empty if it has none: `__metadata__` of safetensors,
    /// the key-value pairs of GGUF (arrays as JSON), the numbers and texts beside the tensors of a
    /// PyTorch file.
    pub fn metadata(&self, file: FileId) -> Vec<(String, String)> {
        self.metadata.get(file.0 as usize).map(|text| header::metadata_pairs(text)).unwrap_or_default()
    }

    /// Tensors that are there and that cannot be read, and why: quantised types without a decoder,
    /// sparse tensors.
    pub fn unreadable(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + '_ {
        self.unreadable.iter().map(|tensor| (self.names.get(tensor.name), &*tensor.why))
    }

    /// What PyTorch files hold beside tensors, numbers and texts and what was left unread: where it
    /// is among the file's dictionaries, and what it is. Objects of unknown classes, bytes, what
    /// has a key without a text. Nothing of it is executed.
    pub fn unread(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + '_ {
        self.unread.iter().map(|unread| (&*unread.name, &*unread.what))
    }

    /// What was wrong with the files and was let pass, as
    /// [`lenient`](crate::DiskMapOptions::lenient) allowed; a sentence each.
    pub fn leniencies(&self) -> impl ExactSizeIterator<Item = &str> + '_ {
        self.lenient.iter().map(String::as_str)
    }

    /// What addresses, offsets and lengths should be multiples of, in bytes, so that direct reads
    /// need no copy: the largest of all files, and 4096 at least.
    pub fn direct_alignment(&self) -> usize {
        self.files.iter().map(StoredFile::direct_alignment).max().unwrap_or(4096)
    }

    /// How a file is read, and why: what it is on, what of it is in the page cache, by which way
    /// the rest comes.
    pub fn reading(&self, file: FileId) -> Option<FileReading> {
        Some(self.files.get(file.0 as usize)?.reading(self.mode))
    }

    /// Bytes asked of storage so far, headers and index included. What a read was widened by is
    /// not counted.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// A tensor, or why it is not there.
    pub(crate) fn info(&self, name: &str) -> Result<&TensorInfo, SourceError> {
        self.tensor(name).ok_or_else(|| {
            if let Some(there) = self.unreadable.iter().find(|t| self.names.get(t.name) == name) {
                let error = SourceError::new(SourceErrorKind::Unsupported, &*there.why).at_tensor(name);
                return match self.files.get(there.file.0 as usize) {
                    Some(file) => file.named(error),
                    None => error,
                };
            }
            let error = SourceError::new(SourceErrorKind::NotFound, "the checkpoint has no such tensor")
                .at_tensor(name);
            match self.files.as_slice() {
                [only] => only.named(error),
                _ => error,
            }
        })
    }

    pub(crate) fn strides_of(&self, info: &TensorInfo) -> Option<&Strides> {
        self.strides.get(info.strides?.index())
    }

    /// Which stored bytes a tensor is, and how they are read.
    ///
    /// Tensors of one place that are not the same numbers (a matrix beside its transpose) are told
    /// apart by offsets beyond the end of their file.
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
        let own_order = order(info, &self.strides);
        let same = self.tensors.partition_point(|t| order(t, &self.strides) < own_order);
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
