//! A change of dtype.

use super::operation::{Operation, operation};
use crate::{DeviceError, View, ViewMut};

operation! {
    /// `y = x` in `y`'s dtype, rounded as PyTorch's `.to(dtype)` does.
    pub struct Cast<'a> {
        /// A tensor of any shape, which may be [encoded](View::encoded): decoded, then rounded.
        pub x: View<'a>,
        /// Result, of the shape of `x`.
        pub y: ViewMut<'a>,
    }
}

impl<'a> Cast<'a> {
    /// From the dtype of `x` to that of `y`.
    pub fn new(x: View<'a>, y: ViewMut<'a>) -> Cast<'a> {
        Cast { x, y }
    }
}

impl Operation for Cast<'_> {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn check(&self) -> Result<(), DeviceError> {
        if self.x.shape() != self.y.shape() {
            return Err(DeviceError::mismatch(self.name(), "y", self.x.shape(), self.y.shape()));
        }
        Ok(())
    }

    fn decoded(&self) -> Option<&View<'_>> {
        Some(&self.x)
    }

    fn flops(&self) -> u64 {
        self.y.meta().elements()
    }
}
