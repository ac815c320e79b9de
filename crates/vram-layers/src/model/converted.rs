//! A source that converts tensors while they are read, to their storage dtype on the host and the device.

use std::borrow::Cow;
use std::sync::Arc;

use globset::{Glob, GlobMatcher};
use vram_types::cast::{can_cast, cast_pieces};
use vram_types::{
    DType, FileId, FileRange, HostBytes, Located, ReadOptions, ReadRequest, ReadTarget, SourceError,
    SourceErrorKind, WeightSource, WeightSourceExt,
};

use crate::error::Error;

/// Bytes to cast that are read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Storage dtypes of weights that have left the disk.
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

    /// All weights that can be cast, in `dtype`; the others unchanged. Quantised blocks are decoded.
    pub fn all(dtype: DType) -> StorageDtypes {
        StorageDtypes { default: Some(dtype), rules: Vec::new() }
    }

    /// Gives weights whose checkpoint name matches a glob such as `*.norm.*` their own dtype, or leaves them
    /// unchanged if `None`. The first matching rule wins.
    ///
    /// # Errors
    /// [`Error::Model`] if the glob is invalid.
    pub fn with(mut self, names: &str, dtype: Option<DType>) -> Result<StorageDtypes, Error> {
        let glob = Glob::new(names).map_err(|e| Error::Model(e.to_string()))?;
        self.rules.push((glob.compile_matcher(), dtype));
        Ok(self)
    }

    /// The same rules, with `dtype` for all other weights unless they already have one.
    pub(crate) fn or_all(mut self, dtype: DType) -> StorageDtypes {
        self.default.get_or_insert(dtype);
        self
    }

    /// Whether nothing is converted.
    pub fn is_checkpoint(&self) -> bool {
        self.default.is_none() && self.rules.iter().all(|(_, dtype)| dtype.is_none())
    }

    /// Whether a dtype is asked for explicitly, rather than the checkpoint's.
    fn asks(&self, name: &str) -> bool {
        self.rules
            .iter()
            .find(|(glob, _)| glob.is_match(name))
            .map_or(self.default, |(_, dtype)| *dtype)
            .is_some()
    }

    /// The storage dtype of a tensor that is `stored` in the checkpoint.
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

/// A source with the dtype of some tensors changed.
pub(crate) struct Converted {
    inner: Arc<dyn WeightSource>,
    dtypes: StorageDtypes,
}

impl Converted {
    /// # Errors
    /// [`Error::Source`] naming a tensor whose rule asks for an unsupported cast.
    pub(crate) fn new(inner: Arc<dyn WeightSource>, dtypes: StorageDtypes) -> Result<Converted, Error> {
        for name in inner.names() {
            dtypes.of(name, inner.require(name)?.meta.dtype())?;
        }
        Ok(Converted { inner, dtypes })
    }

    /// The stored dtype of a tensor, and the dtype it is converted to.
    fn conversion(&self, name: &str) -> Result<(DType, DType), SourceError> {
        let stored = self.inner.require(name)?.meta.dtype();
        Ok((stored, self.dtypes.of(name, stored)?))
    }

    fn convert(
        &self,
        request: &mut ReadRequest<'_>,
        (name, offset): (&str, u64),
        (from, to): (DType, DType),
        options: &ReadOptions,
    ) -> Result<(), SourceError> {
        let (wide, narrow) = (u64::from(from.layout().block_bytes), u64::from(to.layout().block_bytes));
        let wanted = request.wanted()?;
        if !offset.is_multiple_of(narrow) || !(wanted.len() as u64).is_multiple_of(narrow) {
            let what = format!("{} bytes from {offset} are not whole elements of {to}", wanted.len());
            return Err(SourceError::new(SourceErrorKind::OutOfRange, what).at_tensor(name));
        }
        let begin = offset / narrow;
        let cast = cast_pieces(from, wanted, to, PIECE_BYTES, |first, piece| {
            let read = ReadRequest::tensor(name, (begin + first) * wide, piece);
            self.inner.read_many(&mut [read], options)
        });
        cast.map_err(|e| if e.tensor().is_some() { e } else { e.at_tensor(name) })
    }
}

impl WeightSource for Converted {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        self.inner.names()
    }

    fn locate(&self, name: &str) -> Option<Located> {
        let located = self.inner.locate(name)?;
        // This was checked when the source was made.
        let to = self.dtypes.of(name, located.meta.dtype()).ok()?;
        let mut located = located.cast(to).ok()?;
        if self.dtypes.asks(name) {
            // It has a dtype, so it is not in blocks.
            located.encoded = located.encoded.filter(|stored| stored.encoding.dtype().is_some());
        }
        Some(located)
    }

    fn describe(&self, file: FileId) -> Option<Cow<'_, str>> {
        self.inner.describe(file)
    }

    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        for request in requests {
            options.check()?;
            match request.target {
                ReadTarget::Tensor { name, offset } => match self.conversion(name)? {
                    (from, to) if from == to => {
                        self.inner.read_many(std::slice::from_mut(request), options)?;
                    }
                    dtypes => self.convert(request, (name, offset), dtypes, options)?,
                },
                ReadTarget::File { .. } => {
                    self.inner.read_many(std::slice::from_mut(request), options)?;
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
