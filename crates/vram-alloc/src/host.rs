//! Tensors in host memory.

use std::fmt;
use std::sync::Arc;

use vram_types::{DType, Shape, TensorMeta, TypeError, cast};

use crate::AllocError;

/// Bytes whose address is a multiple of [`AlignedBytes::ALIGN`].
pub struct AlignedBytes {
    /// Long enough to contain the bytes from the first aligned address on. Never grows, so the
    /// address does not change.
    buffer: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBytes {
    /// A cache line, which is also the widest vector register.
    pub const ALIGN: usize = 64;

    /// Allocates `bytes` zeros.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`].
    pub fn zeroed(bytes: u64) -> Result<AlignedBytes, AllocError> {
        let oom = || AllocError::OutOfMemory { bytes };
        let len = usize::try_from(bytes).map_err(|_| oom())?;
        let room = if len == 0 { 0 } else { len.checked_add(AlignedBytes::ALIGN - 1).ok_or_else(oom)? };
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(room).map_err(|_| oom())?;
        buffer.resize(room, 0);
        let start = buffer.as_ptr().align_offset(AlignedBytes::ALIGN).min(room - len);
        Ok(AlignedBytes { buffer, start, len })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }

    /// The bytes, mutable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}

/// A tensor in host memory, row-major and little-endian. Clones share the bytes, which never
/// change.
#[derive(Clone)]
pub struct ParamStorage {
    meta: TensorMeta,
    bytes: Arc<AlignedBytes>,
}

impl ParamStorage {
    /// Wraps the bytes of a tensor.
    ///
    /// # Errors
    /// [`TypeError::Length`] if the number of bytes is not that of the tensor.
    pub fn new(meta: TensorMeta, bytes: AlignedBytes) -> Result<ParamStorage, AllocError> {
        let actual = bytes.as_slice().len() as u64;
        if actual != meta.bytes() {
            return Err(
                TypeError::Length { what: "a tensor's storage", expected: meta.bytes(), actual }.into()
            );
        }
        Ok(ParamStorage { meta, bytes: Arc::new(bytes) })
    }

    /// Copies the bytes of a tensor.
    ///
    /// # Errors
    /// As [`new`](ParamStorage::new), and [`AllocError::OutOfMemory`].
    pub fn copy_from(meta: TensorMeta, bytes: &[u8]) -> Result<ParamStorage, AllocError> {
        let mut own = AlignedBytes::zeroed(bytes.len() as u64)?;
        own.as_mut_slice().copy_from_slice(bytes);
        ParamStorage::new(meta, own)
    }

    /// Creates a tensor from values, rounded to a floating-point `dtype`.
    ///
    /// # Errors
    /// [`TypeError::NoCast`] if `f32` does not cast to the dtype, [`TypeError::Length`] if the
    /// number of values is not that of the shape, and [`AllocError::OutOfMemory`].
    pub fn from_f32(
        dtype: DType,
        shape: impl Into<Shape>,
        values: &[f32],
    ) -> Result<ParamStorage, AllocError> {
        let meta = TensorMeta::new(dtype, shape)?;
        let wide: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut bytes = AlignedBytes::zeroed(meta.bytes())?;
        cast::cast_serial(&wide, DType::F32, bytes.as_mut_slice(), dtype)?;
        ParamStorage::new(meta, bytes)
    }

    /// Dtype and shape.
    pub fn meta(&self) -> &TensorMeta {
        &self.meta
    }

    /// The bytes, aligned to [`AlignedBytes::ALIGN`].
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Whether both share the same memory.
    pub fn shares_bytes_with(&self, other: &ParamStorage) -> bool {
        Arc::ptr_eq(&self.bytes, &other.bytes)
    }
}

impl fmt::Debug for ParamStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParamStorage({}{}, {} bytes)", self.meta.dtype(), self.meta.shape(), self.meta.bytes())
    }
}
