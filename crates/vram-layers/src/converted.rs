//! A source whose tensors are converted as they are read: what they are stored as on the host and on the device.

use std::path::Path;
use std::sync::Arc;

use globset::{Glob, GlobMatcher};
use vram_types::cast::{can_cast, cast_serial};
use vram_types::{
    CancelToken, DType, FileId, FileRange, HostBytes, Located, Priority, ReadRequest, ReadTarget,
    SourceError, SourceErrorKind, TensorMeta, WeightSource, WeightSourceExt,
};

use crate::Error;

/// Elements that are converted at a time: the buffer on a reader's stack of work is at most 512 KiB.
const CHUNK: u64 = 64 << 10;

/// Dtypes that weights are stored as once they have left the disk.
#[derive(Clone, Debug, Default)]
pub struct StorageDtypes {
    default: Option<DType>,
    rules: Vec<(GlobMatcher, Option<DType>)>,
}

impl StorageDtypes {
    /// Every weight in the dtype of its checkpoint.
    pub fn checkpoint() -> StorageDtypes {
        StorageDtypes::default()
    }

    /// Weights that can be cast in `dtype`, the others as they are.
    pub fn all(dtype: DType) -> StorageDtypes {
        StorageDtypes { default: Some(dtype), rules: Vec::new() }
    }

    /// Weights whose name in the checkpoint matches a glob such as `*.norm.*` in a dtype of their own, or as they are
    /// if `None`. The first rule that matches counts.
    ///
    /// # Errors
    /// [`Error::Model`] if the glob is none.
    pub fn with(mut self, names: &str, dtype: Option<DType>) -> Result<StorageDtypes, Error> {
        let glob = Glob::new(names).map_err(|e| Error::Model(e.to_string()))?;
        self.rules.push((glob.compile_matcher(), dtype));
        Ok(self)
    }

    /// The same rules, and `dtype` for what none of them is for, unless there is a dtype for that already.
    pub(crate) fn or_all(mut self, dtype: DType) -> StorageDtypes {
        self.default.get_or_insert(dtype);
        self
    }

    /// Whether nothing is converted.
    pub fn is_checkpoint(&self) -> bool {
        self.default.is_none() && self.rules.iter().all(|(_, dtype)| dtype.is_none())
    }

    /// The dtype of a tensor that is `stored` in the checkpoint.
    fn of(&self, name: &str, stored: DType) -> Result<DType, SourceError> {
        match self.rules.iter().find(|(glob, _)| glob.is_match(name)) {
            Some((_, None)) => Ok(stored),
            Some((_, Some(dtype))) if can_cast(stored, *dtype) => Ok(*dtype),
            Some((_, Some(dtype))) => {
                let what = format!("the rule for it asks for {dtype}, which {stored} cannot be cast to");
                Err(SourceError::new(SourceErrorKind::Unsupported, what).at_tensor(name))
            }
            None => Ok(self.default.filter(|dtype| can_cast(stored, *dtype)).unwrap_or(stored)),
        }
    }
}

/// Another source, some of whose tensors have another dtype.
pub(crate) struct Converted {
    inner: Arc<dyn WeightSource>,
    dtypes: StorageDtypes,
}

impl Converted {
    /// # Errors
    /// [`Error::Source`] naming a tensor whose rule asks for a cast that there is not.
    pub(crate) fn new(inner: Arc<dyn WeightSource>, dtypes: StorageDtypes) -> Result<Converted, Error> {
        for name in inner.names() {
            dtypes.of(name, inner.require(name)?.meta.dtype())?;
        }
        Ok(Converted { inner, dtypes })
    }

    /// What a tensor is stored as, and what it becomes.
    fn conversion(&self, name: &str) -> Result<(DType, DType), SourceError> {
        let stored = self.inner.require(name)?.meta.dtype();
        Ok((stored, self.dtypes.of(name, stored)?))
    }

    fn convert(
        &self,
        request: &mut ReadRequest<'_>,
        (name, offset): (&str, u64),
        (from, to): (DType, DType),
        priority: Priority,
        cancel: &CancelToken,
    ) -> Result<(), SourceError> {
        let (wide, narrow) = (u64::from(from.layout().block_bytes), u64::from(to.layout().block_bytes));
        let wanted = request.wanted()?;
        if !offset.is_multiple_of(narrow) || !(wanted.len() as u64).is_multiple_of(narrow) {
            let what = format!("{} bytes from {offset} are no whole elements of {to}", wanted.len());
            return Err(SourceError::new(SourceErrorKind::OutOfRange, what).at_tensor(name));
        }
        let mut first = offset / narrow;
        let mut buffer = Vec::new();
        for dst in wanted.chunks_mut((CHUNK * narrow) as usize) {
            let elements = dst.len() as u64 / narrow;
            buffer.resize((elements * wide) as usize, 0);
            let read = ReadRequest::tensor(name, first * wide, &mut buffer);
            self.inner.read_many(&mut [read], priority, cancel)?;
            cast_serial(&buffer, from, dst, to)
                .map_err(|e| SourceError::new(SourceErrorKind::Unsupported, e.to_string()).at_tensor(name))?;
            first += elements;
        }
        Ok(())
    }
}

impl WeightSource for Converted {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        self.inner.names()
    }

    fn locate(&self, name: &str) -> Option<Located> {
        let mut located = self.inner.locate(name)?;
        // Checked when the source was made.
        let to = self.dtypes.of(name, located.meta.dtype()).ok()?;
        if to != located.meta.dtype() {
            located.meta = TensorMeta::new(to, located.meta.shape().clone()).ok()?;
            located.ranges.clear();
        }
        Some(located)
    }

    fn file(&self, file: FileId) -> Option<&Path> {
        self.inner.file(file)
    }

    fn read_many(
        &self,
        requests: &mut [ReadRequest<'_>],
        priority: Priority,
        cancel: &CancelToken,
    ) -> Result<(), SourceError> {
        for request in requests {
            cancel.check()?;
            match request.target {
                ReadTarget::Tensor { name, offset } => match self.conversion(name)? {
                    (from, to) if from == to => {
                        self.inner.read_many(std::slice::from_mut(request), priority, cancel)?;
                    }
                    dtypes => self.convert(request, (name, offset), dtypes, priority, cancel)?,
                },
                ReadTarget::File { .. } => {
                    self.inner.read_many(std::slice::from_mut(request), priority, cancel)?;
                }
            }
        }
        Ok(())
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
