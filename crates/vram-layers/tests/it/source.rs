//! Weights in memory, laid out as unkindly as the trait permits.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;
use vram_types::{
    BlockType, DType, Encoded, FileId, FileRange, HostBytes, Located, ReadOptions, ReadRequest, ReadTarget,
    SourceError, SourceErrorKind, StorageId, TensorMeta, WeightSource,
};

use crate::common::Random;

/// How tensors lie in files.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What `alignment()` says.
    pub alignment: u64,
    /// Whether `map()` gives windows.
    pub mapped: bool,
    /// Gaps before tensors, chosen from at random.
    pub gaps: Vec<u64>,
    pub files: usize,
    /// Out of 8 tensors, so many have no place in a file or several.
    pub indirect: usize,
}

impl Layout {
    pub fn plain() -> Layout {
        Layout { alignment: 1, mapped: false, gaps: vec![0], files: 1, indirect: 0 }
    }
}

struct Tensor {
    located: Located,
    bytes: Vec<u8>,
}

pub struct MemorySource {
    layout: Layout,
    files: Vec<Vec<u8>>,
    shared: Vec<Arc<[u8]>>,
    paths: Vec<PathBuf>,
    names: Vec<String>,
    tensors: HashMap<String, Tensor>,
    read: Arc<AtomicU64>,
}

impl MemorySource {
    pub fn new(layout: Layout) -> MemorySource {
        MemorySource {
            files: vec![Vec::new(); layout.files],
            shared: Vec::new(),
            paths: (0..layout.files).map(|i| PathBuf::from(format!("memory-{i}.bin"))).collect(),
            layout,
            names: Vec::new(),
            tensors: HashMap::new(),
            read: Arc::default(),
        }
    }

    pub fn add(&mut self, random: &mut Random, name: &str, meta: TensorMeta, bytes: Vec<u8>) {
        assert_eq!(bytes.len() as u64, meta.bytes());
        let file = random.below(self.files.len());
        let gap = self.layout.gaps[random.below(self.layout.gaps.len())] as usize;
        let rest = random.bytes(gap);
        self.files[file].extend(rest);
        let offset = self.files[file].len() as u64;
        let id = FileId(file as u32);
        let indirect = random.below(8) < self.layout.indirect;
        let ranges: SmallVec<[FileRange; 1]> = match (indirect, bytes.len() as u64) {
            (false, bytes) => SmallVec::from_slice(&[FileRange { file: id, offset, bytes }]),
            // In two pieces.
            (true, bytes) if bytes > 1 && random.below(2) == 0 => SmallVec::from_slice(&[
                FileRange { file: id, offset, bytes: bytes / 2 },
                FileRange { file: id, offset: offset + bytes / 2, bytes: bytes - bytes / 2 },
            ]),
            _ => SmallVec::new(),
        };
        self.files[file].extend(&bytes);
        let located = Located::new(meta, StorageId { file: id, offset }, ranges);
        self.names.push(name.to_owned());
        self.tensors.insert(name.to_owned(), Tensor { located, bytes });
    }

    /// A tensor in quantised blocks, in one run of a file: by name it is decoded.
    pub fn add_blocks(&mut self, name: &str, block: BlockType, shape: [usize; 2], stored: &[u8]) {
        let meta = TensorMeta::new(DType::F32, shape).unwrap();
        let mut bytes = vec![0; meta.bytes() as usize];
        block.decode(stored, &mut bytes).unwrap();
        let (file, offset) = (FileId(0), self.files[0].len() as u64);
        self.files[0].extend(stored);
        let range = FileRange { file, offset, bytes: stored.len() as u64 };
        let encoded = Encoded { encoding: block.into(), ranges: [range].into() };
        let located = Located::new(meta, StorageId { file, offset }, []).with_encoded(encoded);
        self.names.push(name.to_owned());
        self.tensors.insert(name.to_owned(), Tensor { located, bytes });
    }

    pub fn finish(mut self) -> MemorySource {
        self.shared = std::mem::take(&mut self.files).into_iter().map(Arc::from).collect();
        self
    }

    /// The tensor that lies at an offset of a file, or the next.
    pub fn tensor_at(&self, file: FileId, offset: u64) -> Option<&str> {
        let name = |n: &&String| {
            let located = &self.tensors[*n].located;
            located.storage.file == file && offset < located.storage.offset + located.meta.bytes()
        };
        self.names.iter().find(name).map(String::as_str)
    }

    fn path(&self, file: FileId) -> Option<&Path> {
        self.paths.get(file.0 as usize).map(PathBuf::as_path)
    }

    fn outside(&self, path: Option<&Path>, tensor: Option<&str>, offset: u64) -> SourceError {
        let mut e = SourceError::new(SourceErrorKind::Truncated, "it ends before that").at_offset(offset);
        if let Some(path) = path {
            e = e.at_path(path);
        }
        match tensor {
            Some(name) => e.at_tensor(name),
            None => e,
        }
    }
}

/// What nobody may take for a weight.
const POISON: u8 = 0xa5;

impl WeightSource for MemorySource {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.names.iter().map(String::as_str))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        self.tensors.get(name).map(|t| t.located.clone())
    }

    fn describe(&self, file: FileId) -> Option<Cow<'_, str>> {
        Some(self.path(file)?.to_string_lossy())
    }

    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        for request in requests {
            options.check()?;
            let (bytes, target) = (request.bytes as usize, request.target);
            let from = match target {
                ReadTarget::File { file, offset } => self
                    .shared
                    .get(file.0 as usize)
                    .and_then(|f| f.get(offset as usize..offset as usize + bytes))
                    .ok_or_else(|| self.outside(self.path(file), None, offset))?,
                ReadTarget::Tensor { name, offset } => self
                    .tensors
                    .get(name)
                    .and_then(|t| t.bytes.get(offset as usize..offset as usize + bytes))
                    .ok_or_else(|| self.outside(None, Some(name), offset))?,
            };
            // The slack is ours to spoil; what needs it for something else will be found out.
            request.dst.fill(POISON);
            let to = request.wanted()?;
            if let ReadTarget::File { offset, .. } = target {
                let sector = self.layout.alignment;
                assert_eq!(
                    to.as_ptr() as u64 % sector,
                    offset % sector,
                    "a read is not congruent to its file"
                );
            }
            to.copy_from_slice(from);
            self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn map(&self, range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        if !self.layout.mapped {
            return None;
        }
        let file = Arc::clone(&self.shared[range.file.0 as usize]);
        if range.end() > file.len() as u64 {
            return Some(Err(self.outside(self.path(range.file), None, range.offset)));
        }
        Some(Ok(Arc::new(Window { file, range, read: Arc::clone(&self.read) })))
    }

    fn alignment(&self) -> u64 {
        self.layout.alignment
    }

    fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

struct Window {
    file: Arc<[u8]>,
    range: FileRange,
    read: Arc<AtomicU64>,
}

impl HostBytes for Window {
    fn bytes(&self) -> &[u8] {
        &self.file[self.range.offset as usize..self.range.end() as usize]
    }

    fn prefault(&self) -> Result<(), SourceError> {
        self.read.fetch_add(self.range.bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// Weights in memory; `before` is called with the requests of each read, and may fail it.
pub struct Before<F> {
    pub inner: Arc<MemorySource>,
    pub before: F,
}

impl<F> WeightSource for Before<F>
where
    F: Fn(&mut [ReadRequest<'_>], &ReadOptions) -> Result<(), SourceError> + Send + Sync,
{
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        self.inner.names()
    }
    fn locate(&self, name: &str) -> Option<Located> {
        self.inner.locate(name)
    }
    fn describe(&self, file: FileId) -> Option<Cow<'_, str>> {
        self.inner.describe(file)
    }
    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        (self.before)(requests, options)?;
        self.inner.read_many(requests, options)
    }
    fn map(&self, range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        self.inner.map(range)
    }
    fn alignment(&self) -> u64 {
        self.inner.alignment()
    }
    fn bytes_read(&self) -> u64 {
        self.inner.bytes_read()
    }
}
