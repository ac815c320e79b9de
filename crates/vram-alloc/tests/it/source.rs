//! A source whose only file is in memory.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use vram_types::{
    DType, FileId, FileRange, Located, ReadOptions, ReadRequest, ReadTarget, SourceError, SourceErrorKind,
    StorageId, TensorMeta, WeightSource,
};

#[derive(Default)]
pub(crate) struct MemorySource {
    tensors: Vec<(String, TensorMeta, u64)>,
    file: Vec<u8>,
    bytes_read: AtomicU64,
    /// How many calls of `read_many` succeed before one fails.
    pub(crate) calls_before_failure: Option<AtomicUsize>,
}

impl MemorySource {
    pub(crate) fn add(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        bytes: &[u8],
    ) -> &mut MemorySource {
        let offset = self.file.len() as u64;
        self.file.extend_from_slice(bytes);
        let meta = TensorMeta::new(dtype, shape.to_vec()).unwrap();
        assert_eq!(meta.bytes(), bytes.len() as u64);
        self.tensors.push((name.to_owned(), meta, offset));
        self
    }

    pub(crate) fn add_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut MemorySource {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.add(name, DType::F32, shape, &bytes)
    }

    /// Adds a second name for stored bytes.
    pub(crate) fn alias(&mut self, name: &str, of: &str) -> &mut MemorySource {
        let (_, meta, offset) = self.tensors.iter().find(|t| t.0 == of).unwrap().clone();
        self.tensors.push((name.to_owned(), meta, offset));
        self
    }

    fn one(&self, request: &mut ReadRequest<'_>) -> Result<(), SourceError> {
        let ReadTarget::Tensor { name, offset } = request.target else {
            return Err(SourceError::new(SourceErrorKind::Unsupported, "reads by name only"));
        };
        let (_, meta, start) =
            self.tensors.iter().find(|t| t.0 == name).ok_or_else(|| {
                SourceError::new(SourceErrorKind::NotFound, "no such tensor").at_tensor(name)
            })?;
        assert!(offset + request.bytes <= meta.bytes());
        let first = (start + offset) as usize;
        let from = &self.file[first..first + request.bytes as usize];
        request.wanted()?.copy_from_slice(from);
        self.bytes_read.fetch_add(from.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl WeightSource for MemorySource {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.iter().map(|t| t.0.as_str()))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        let (_, meta, offset) = self.tensors.iter().find(|t| t.0 == name)?;
        let (file, offset) = (FileId(0), *offset);
        let range = FileRange { file, offset, bytes: meta.bytes() };
        Some(Located::new(meta.clone(), StorageId { file, offset }, [range]))
    }

    fn describe(&self, _file: FileId) -> Option<Cow<'_, str>> {
        None
    }

    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        options.check()?;
        if let Some(left) = &self.calls_before_failure
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err()
        {
            return Err(SourceError::new(SourceErrorKind::Truncated, "a fault on request"));
        }
        requests.iter_mut().try_for_each(|r| self.one(r))
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}
