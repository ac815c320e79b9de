//! Dtype, blocks, or numbers with scales.

use std::fmt;

use super::block::BlockType;
use crate::{DType, Shape, TypeError};

/// How a tensor's elements are stored.
///
/// ```
/// use vram_types::{BlockType, DType, Encoding};
///
/// let q4 = Encoding::Blocks(BlockType::Q4_0);
/// assert_eq!(q4.row_bytes(64), Some(36));
/// assert_eq!(q4.row_bytes(65), None); // no whole blocks
/// assert_eq!(q4.bytes(&[10, 64].into())?, 360);
/// assert_eq!(Encoding::Plain(DType::BF16).row_bytes(65), Some(130));
/// # Ok::<(), vram_types::TypeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// Numbers of a dtype, one after the other.
    Plain(DType),
    /// Quantised blocks along the rows, each of which is whole blocks.
    Blocks(BlockType),
    /// Numbers of a dtype that are each multiplied with a scale. The scales are another tensor, so
    /// they are not among the bytes.
    Scaled(DType),
}

impl Encoding {
    /// The name of the dtype or of the block type.
    pub const fn name(self) -> &'static str {
        match self {
            Encoding::Plain(dtype) | Encoding::Scaled(dtype) => dtype.name(),
            Encoding::Blocks(block) => block.name(),
        }
    }

    /// The dtype of plain numbers.
    pub const fn dtype(self) -> Option<DType> {
        match self {
            Encoding::Plain(dtype) => Some(dtype),
            Encoding::Blocks(_) | Encoding::Scaled(_) => None,
        }
    }

    /// The dtype of the numbers that it is decoded into: its own, `F32` for blocks and with scales.
    pub const fn decoded(self) -> DType {
        match self {
            Encoding::Plain(dtype) => dtype,
            Encoding::Blocks(_) | Encoding::Scaled(_) => DType::F32,
        }
    }

    /// Bytes of a row of so many elements: a step of all extents but the innermost. `None` where a
    /// row is not whole blocks, or not whole bytes, or where the size overflows.
    pub const fn row_bytes(self, elements: u64) -> Option<u64> {
        match self {
            Encoding::Plain(dtype) | Encoding::Scaled(dtype) => dtype.bytes_of(elements),
            Encoding::Blocks(block) => {
                if !elements.is_multiple_of(block.block_elements()) {
                    return None;
                }
                (elements / block.block_elements()).checked_mul(block.block_bytes())
            }
        }
    }

    /// Bytes of a tensor of that shape.
    ///
    /// # Errors
    /// [`TypeError::Overflow`] and [`TypeError::PartialByte`] as
    /// [`TensorMeta::new`](crate::TensorMeta::new) has them; [`TypeError::PartialBlock`] where
    /// rows are not whole blocks.
    pub fn bytes(self, shape: &Shape) -> Result<u64, TypeError> {
        let dtype = self.decoded();
        let overflow = || TypeError::Overflow { dtype, shape: shape.clone() };
        let elements = shape.elements().ok_or_else(overflow)?;
        match self {
            Encoding::Plain(dtype) | Encoding::Scaled(dtype) => {
                dtype.bytes_of(elements).ok_or_else(|| match dtype.bits() < 8 {
                    true => TypeError::PartialByte { dtype, shape: shape.clone() },
                    false => overflow(),
                })
            }
            Encoding::Blocks(block) => {
                let row = shape.last() as u64;
                if shape.rank() == 0 || !row.is_multiple_of(block.block_elements()) {
                    return Err(TypeError::PartialBlock { block, shape: shape.clone() });
                }
                (elements / block.block_elements()).checked_mul(block.block_bytes()).ok_or_else(overflow)
            }
        }
    }
}

impl From<DType> for Encoding {
    fn from(dtype: DType) -> Encoding {
        Encoding::Plain(dtype)
    }
}

impl From<BlockType> for Encoding {
    fn from(block: BlockType) -> Encoding {
        Encoding::Blocks(block)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Scaled(dtype) => write!(f, "{dtype} with scales"),
            _ => f.pad(self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TensorMeta;

    #[test]
    fn bytes_of_rows_and_of_whole_tensors_agree() {
        for block in BlockType::ALL {
            let encoding = Encoding::Blocks(block);
            for (rows, blocks) in [(0, 3), (1, 1), (7, 5), (3, 0)] {
                let row = blocks * block.block_elements();
                let shape = Shape::from([rows as usize, row as usize]);
                let bytes = encoding.bytes(&shape).unwrap();
                assert_eq!(bytes, rows * encoding.row_bytes(row).unwrap(), "{block}");
                assert_eq!(bytes, rows * blocks * block.block_bytes(), "{block}");
            }
            let partial = Shape::from([2, block.block_elements() as usize / 2]);
            assert!(matches!(encoding.bytes(&partial), Err(TypeError::PartialBlock { .. })));
            assert!(matches!(encoding.bytes(&Shape::scalar()), Err(TypeError::PartialBlock { .. })));
            assert!(matches!(encoding.bytes(&[usize::MAX, 256].into()), Err(TypeError::Overflow { .. })));
        }
        for dtype in DType::ALL {
            for shape in [Shape::from([3, 4]), Shape::scalar(), Shape::from([5]), [1 << 40, 1 << 30].into()] {
                let meta = TensorMeta::new(dtype, shape.clone()).map(|meta| meta.bytes());
                assert_eq!(Encoding::Plain(dtype).bytes(&shape), meta, "{dtype} {shape}");
            }
        }
    }
}
