//! Conversion between dtypes on the way from the file.

use vram_types::{DType, TypeError, cast};

/// Whether tensors of one dtype can be read as another.
pub(crate) fn converts(from: DType, to: DType) -> bool {
    from == to || cast::can_cast(from, to)
}

/// Casts `src` into `dst` on the calling thread, as PyTorch's `.to(dtype)` rounds.
pub(crate) fn cast(src: &[u8], from: DType, dst: &mut [u8], to: DType) -> Result<(), TypeError> {
    cast::cast_serial(src, from, dst, to)
}
