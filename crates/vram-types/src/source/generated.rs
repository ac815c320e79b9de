//! Weights without a checkpoint.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{FileId, Located, ReadOptions, ReadRequest, ReadTarget, StorageId};
use crate::{SourceError, SourceErrorKind, TensorMeta, WeightSource};

/// Tensors whose bytes a function makes as they are read: models without a checkpoint, for tests,
/// measurements and demonstrations.
///
/// The function is given the tensor's number, the byte of it that the memory begins at, and the
/// memory, which it fills. It is called by several threads at once, and has to make the same bytes
/// whenever it is asked for them.
///
/// ```
/// use vram_types::{DType, GeneratedSource, TensorMeta, WeightSource, WeightSourceExt};
///
/// let tensors = [("ones", TensorMeta::new(DType::F32, [2])?), ("twos", TensorMeta::new(DType::F32, [2])?)];
/// let source = GeneratedSource::new(tensors, |number, offset, dst| {
///     let value = (number as f32 + 1.0).to_le_bytes();
///     for (i, byte) in dst.iter_mut().enumerate() {
///         *byte = value[(offset as usize + i) % 4];
///     }
/// })?;
/// let mut bytes = [0; 4];
/// source.read_range("twos", 4..8, &mut bytes)?;
/// assert_eq!(f32::from_le_bytes(bytes), 2.0);
/// assert_eq!(source.bytes_read(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct GeneratedSource<F> {
    tensors: Vec<(String, TensorMeta)>,
    numbers: HashMap<String, usize>,
    make: F,
    bytes_read: AtomicU64,
}

impl<F: Fn(usize, u64, &mut [u8]) + Send + Sync> GeneratedSource<F> {
    /// Of tensors in the order of their numbers.
    ///
    /// # Errors
    /// `Invalid` where a name occurs twice.
    pub fn new<N: Into<String>>(
        tensors: impl IntoIterator<Item = (N, TensorMeta)>,
        make: F,
    ) -> Result<GeneratedSource<F>, SourceError> {
        let tensors: Vec<(String, TensorMeta)> =
            tensors.into_iter().map(|(name, meta)| (name.into(), meta)).collect();
        let mut numbers = HashMap::with_capacity(tensors.len());
        for (number, (name, _)) in tensors.iter().enumerate() {
            if numbers.insert(name.clone(), number).is_some() {
                let twice = SourceError::new(SourceErrorKind::Invalid, "there are two tensors of this name");
                return Err(twice.at_tensor(name));
            }
        }
        Ok(GeneratedSource { tensors, numbers, make, bytes_read: AtomicU64::new(0) })
    }

    /// The tensors, in the order of their numbers.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorMeta)> {
        self.tensors.iter().map(|(name, meta)| (name.as_str(), meta))
    }

    /// Number and meta of a tensor.
    fn find(&self, name: &str) -> Option<(usize, &TensorMeta)> {
        let number = *self.numbers.get(name)?;
        Some((number, &self.tensors.get(number)?.1))
    }
}

impl<F: Fn(usize, u64, &mut [u8]) + Send + Sync> WeightSource for GeneratedSource<F> {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.iter().map(|(name, _)| name.as_str()))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        let (number, meta) = self.find(name)?;
        let storage = StorageId { file: FileId(0), offset: number as u64 };
        Some(Located::new(meta.clone(), storage, []))
    }

    fn describe(&self, _: FileId) -> Option<Cow<'_, str>> {
        None
    }

    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        for request in requests {
            options.check()?;
            let ReadTarget::Tensor { name, offset } = request.target else {
                return Err(SourceError::new(SourceErrorKind::NotFound, "these tensors are in no file"));
            };
            let (number, meta) = self.find(name).ok_or_else(|| {
                SourceError::new(SourceErrorKind::NotFound, "there is no such tensor").at_tensor(name)
            })?;
            if offset.checked_add(request.bytes).is_none_or(|end| end > meta.bytes()) {
                let message = format!("{} bytes at {offset} of {}", request.bytes, meta.bytes());
                return Err(SourceError::new(SourceErrorKind::OutOfRange, message).at_tensor(name));
            }
            let bytes = request.bytes;
            (self.make)(number, offset, request.wanted()?);
            self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

impl<F> fmt::Debug for GeneratedSource<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeneratedSource").field("tensors", &self.tensors.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CancelToken, DType, WeightSourceExt};

    fn source() -> GeneratedSource<impl Fn(usize, u64, &mut [u8]) + Send + Sync> {
        let meta = |len: usize| TensorMeta::new(DType::U8, [len]).unwrap();
        let make = |number: usize, offset: u64, dst: &mut [u8]| {
            dst.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = (number as u64 * 100 + at) as u8);
        };
        GeneratedSource::new([("a", meta(50)), ("b", meta(0)), ("c", meta(7))], make).unwrap()
    }

    #[test]
    fn gives_what_the_function_makes_of_a_tensor_from_any_byte() {
        let source = source();
        let mut some = [0; 3];
        source.read_range("c", 4..7, &mut some).unwrap();
        assert_eq!(some, [204, 205, 206]);
        source.read_range("b", 0..0, &mut []).unwrap();
        assert!(source.names().eq(["a", "b", "c"]));
        assert_eq!(source.locate("a").unwrap().meta.bytes(), 50);
        assert_ne!(source.locate("a").unwrap().storage, source.locate("b").unwrap().storage);
        assert_eq!(source.bytes_read(), 3);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let source = source();
        let cancel = CancelToken::new();
        let options = ReadOptions::default().with_cancel(&cancel);
        let kind = |mut request: ReadRequest<'_>| {
            source.read_many(std::slice::from_mut(&mut request), &options).map_err(|e| e.kind())
        };
        assert_eq!(kind(ReadRequest::tensor("d", 0, &mut [0])), Err(SourceErrorKind::NotFound));
        assert_eq!(kind(ReadRequest::tensor("c", 7, &mut [0])), Err(SourceErrorKind::OutOfRange));
        assert_eq!(kind(ReadRequest::tensor("c", u64::MAX, &mut [0])), Err(SourceErrorKind::OutOfRange));
        assert_eq!(kind(ReadRequest::file(FileId(0), 0, &mut [0])), Err(SourceErrorKind::NotFound));
        cancel.cancel();
        assert_eq!(kind(ReadRequest::tensor("c", 0, &mut [0])), Err(SourceErrorKind::Cancelled));
        let meta = TensorMeta::new(DType::U8, [1]).unwrap();
        let twice = GeneratedSource::new([("a", meta.clone()), ("a", meta)], |_, _, _| {});
        assert_eq!(twice.unwrap_err().tensor(), Some("a"));
    }
}
