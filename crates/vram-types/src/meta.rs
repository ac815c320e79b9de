//! What is known of a tensor without its bytes.

use crate::{DType, Shape, TypeError};

/// Dtype and shape of a tensor whose size in bytes is known to be a whole number that fits a `u64`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorMeta {
    dtype: DType,
    shape: Shape,
    bytes: u64,
}

impl TensorMeta {
    /// Checks that the size in bytes exists.
    ///
    /// # Errors
    /// [`TypeError::Overflow`] if the number of bytes overflows, [`TypeError::PartialByte`] if a sub-byte
    /// dtype would end in the middle of a byte.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Result<TensorMeta, TypeError> {
        let shape = shape.into();
        let overflow = |shape: &Shape| TypeError::Overflow { dtype, shape: shape.clone() };
        let elements = shape.elements().ok_or_else(|| overflow(&shape))?;
        match dtype.bytes_of(elements) {
            Some(bytes) => Ok(TensorMeta { dtype, shape, bytes }),
            None if dtype.bits() < 8 => Err(TypeError::PartialByte { dtype, shape }),
            None => Err(overflow(&shape)),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        let layout = self.dtype.layout();
        self.bytes / u64::from(layout.block_bytes) * u64::from(layout.block_elements)
    }

    /// Bytes of one row (one step of the outermost extent), `None` for a scalar or where a row is not a whole
    /// number of bytes. A tensor with no rows has rows of zero bytes.
    pub fn row_bytes(&self) -> Option<u64> {
        let rows = *self.shape.first()? as u64;
        if rows == 0 {
            return Some(0);
        }
        let inner: Shape = self.shape.iter().skip(1).copied().collect();
        self.dtype.bytes_of(inner.elements()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_has_no_size() {
        assert!(matches!(TensorMeta::new(DType::F4, [3]), Err(TypeError::PartialByte { .. })));
        assert!(matches!(TensorMeta::new(DType::F64, [1 << 61]), Err(TypeError::Overflow { .. })));
        let zero = TensorMeta::new(DType::F32, [usize::MAX, 0, usize::MAX]).unwrap();
        assert_eq!((zero.bytes(), zero.elements()), (0, 0));
        let f6 = TensorMeta::new(DType::F6_E2M3, [2, 4]).unwrap();
        assert_eq!((f6.bytes(), f6.elements(), f6.row_bytes()), (6, 8, Some(3)));
        assert_eq!(TensorMeta::new(DType::F32, []).unwrap().bytes(), 4);
    }
}
