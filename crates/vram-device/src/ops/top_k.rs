//! The largest elements of each row.

use vram_types::{DType, Shape};

use super::operation::{Operation, operation};
use crate::{DeviceError, View, ViewMut};

operation! {
    /// The positions of the `k` largest elements of each row, the largest first; with `k = 1` the argmax. Of
    /// equal elements the first comes first, and a NaN is larger than any number.
    pub struct TopK<'a> {
        /// Input `[.., width]` in the compute dtype.
        pub x: View<'a>,
        /// `[rows, k]` in U32, with a row for each row of `x`.
        pub indices: ViewMut<'a>,
    }
}

impl<'a> TopK<'a> {
    /// The largest elements of each row, as many as `indices` has columns.
    pub fn new(x: View<'a>, indices: ViewMut<'a>) -> TopK<'a> {
        TopK { x, indices }
    }

    /// How many elements of each row.
    pub fn k(&self) -> usize {
        self.indices.shape().last()
    }
}

impl Operation for TopK<'_> {
    fn name(&self) -> &'static str {
        "top_k"
    }

    fn check(&self) -> Result<(), DeviceError> {
        let (rows, k, width) = (self.x.shape().rows(), self.k(), self.x.shape().last());
        let (indices, dtype) = (self.indices.shape(), self.indices.dtype());
        if indices.dims() != [rows, k] || dtype != DType::U32 {
            let expected = Shape::from([rows, k]);
            let what = format!("the indices are {dtype} {indices} where u32 {expected} is needed");
            return Err(DeviceError::shape(self.name(), what));
        }
        if k == 0 || k > width || u32::try_from(width).is_err() {
            let what =
                format!("there are no {k} largest among {width}, or they are too many to count in u32");
            return Err(DeviceError::shape(self.name(), what));
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        self.x.meta().elements()
    }
}
