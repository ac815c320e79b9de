//! Tensors in host memory.

use std::fmt;

use vram_types::{DType, Shape, SourceError, SourceErrorKind, TensorMeta};

use crate::io;

/// What decoding and converting make of a byte at most.
const MOST_EXPANSION: u64 = 64;

/// A tensor in host memory.
#[derive(Clone, PartialEq, Eq)]
pub struct HostTensor {
    pub(super) meta: TensorMeta,
    pub(super) buffer: Vec<u8>,
    pub(super) at: usize,
    pub(super) len: usize,
}

impl HostTensor {
    /// A tensor that `fill` writes into zeros.
    pub(crate) fn filled(
        meta: TensorMeta,
        fill: impl FnOnce(&mut [u8]) -> Result<(), SourceError>,
    ) -> Result<HostTensor, SourceError> {
        let len = memory(meta.bytes())?;
        let mut buffer = zeros(len, 0)?;
        fill(&mut buffer)?;
        Ok(HostTensor { meta, buffer, at: 0, len })
    }

    /// Dtype and shape.
    pub fn meta(&self) -> &TensorMeta {
        &self.meta
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.meta.dtype()
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        self.meta.shape()
    }

    /// The elements, little-endian, row-major. Their address has no particular alignment.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.at..self.at + self.len).unwrap_or_default()
    }

    /// The same as a vector; moves the bytes where they do not begin it.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.buffer.truncate(self.at + self.len);
        self.buffer.drain(..self.at);
        self.buffer
    }
}

impl fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostTensor({} {}, {} bytes)", self.meta.dtype(), self.meta.shape(), self.len)
    }
}

/// Memory for a tensor whose size is not bounded by that of its file: expanded ones are as large
/// as the file claims.
pub(super) fn zeros(len: usize, file_bytes: u64) -> Result<Vec<u8>, SourceError> {
    if len as u64 / MOST_EXPANSION <= file_bytes {
        return Ok(io::zeroed(len));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|e| {
        let message = format!("no memory for {len} bytes");
        SourceError::new(SourceErrorKind::Unsupported, message).caused_by(e)
    })?;
    bytes.resize(len, 0);
    Ok(bytes)
}

pub(super) fn memory(bytes: u64) -> Result<usize, SourceError> {
    usize::try_from(bytes).map_err(|_| {
        SourceError::new(SourceErrorKind::Unsupported, "larger than this machine's address space")
    })
}
