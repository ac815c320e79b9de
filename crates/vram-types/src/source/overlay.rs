//! A source some of whose tensors come from another.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::parts::Parts;
use super::{FileId, FileRange, HostBytes, Located, ReadOptions, ReadRequest, WeightSource};
use crate::SourceError;

/// One source over another: the tensors of the upper one win, whatever their dtype and shape, and
/// those that only the lower one has are its own.
///
/// An adapter or a finetune that stores the changed weights alone lies over the checkpoint that it
/// was made from. Files are numbered anew, those of the base first.
///
/// ```
/// use std::sync::Arc;
/// use vram_types::{DType, GeneratedSource, Overlay, TensorMeta, WeightSource, WeightSourceExt};
///
/// let meta = |len: usize| TensorMeta::new(DType::U8, [len]);
/// let base = GeneratedSource::new([("a", meta(2)?), ("b", meta(2)?)], |_, _, dst| dst.fill(1))?;
/// let tuned = GeneratedSource::new([("b", meta(3)?)], |_, _, dst| dst.fill(2))?;
/// let both = Overlay::new(Arc::new(base), Arc::new(tuned))?;
/// assert!(both.names().eq(["a", "b"]));
/// let mut bytes = [0; 3];
/// both.read_range("b", 0..3, &mut bytes)?;
/// assert_eq!(bytes, [2; 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Overlay {
    parts: Parts,
    base: usize,
    upper: usize,
    /// The names of the upper source.
    over: HashSet<String>,
}

impl Overlay {
    /// Puts `upper` over `base`.
    ///
    /// # Errors
    /// [`Unsupported`](crate::SourceErrorKind::Unsupported) where there are more files than can be
    /// numbered.
    pub fn new(base: Arc<dyn WeightSource>, upper: Arc<dyn WeightSource>) -> Result<Overlay, SourceError> {
        let over = upper.names().map(str::to_owned).collect();
        let mut parts = Parts::default();
        Ok(Overlay { base: parts.add(base)?, upper: parts.add(upper)?, parts, over })
    }

    /// The part that a tensor of this name would be in.
    fn part(&self, name: &str) -> usize {
        if self.over.contains(name) { self.upper } else { self.base }
    }
}

impl WeightSource for Overlay {
    /// Those of the base that are its own, then those of the upper source.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        let names = |part| self.parts.get(part).into_iter().flat_map(|source| source.names());
        Box::new(names(self.base).filter(|name| !self.over.contains(*name)).chain(names(self.upper)))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        self.parts.locate(self.part(name), name)
    }

    fn describe(&self, file: FileId) -> Option<Cow<'_, str>> {
        self.parts.describe(file)
    }

    /// Reads the base first, then what is over it.
    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        self.parts.read_many(requests, options, |name| Some((self.part(name), name)), |_, own| own.to_owned())
    }

    fn map(&self, range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        self.parts.map(range)
    }

    fn alignment(&self) -> u64 {
        self.parts.alignment()
    }

    fn bytes_read(&self) -> u64 {
        self.parts.bytes_read()
    }

    fn unreadable_tensors(&self) -> Vec<(String, String)> {
        let of = |part| self.parts.get(part).map_or(Vec::new(), |source| source.unreadable_tensors());
        let mut all = of(self.base);
        all.retain(|(name, _)| !self.over.contains(name.as_str()));
        all.extend(of(self.upper));
        all
    }

    fn stored_bytes(&self, name: &str) -> Option<u64> {
        self.parts.get(self.part(name))?.stored_bytes(name)
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay").field("over", &self.over.len()).finish_non_exhaustive()
    }
}
