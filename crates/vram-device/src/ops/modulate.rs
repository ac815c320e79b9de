//! Rows scaled and shifted.

use super::check::{row, same};
use super::operation::{Operation, operation};
use crate::{DeviceError, View, ViewMut};

operation! {
    /// `y = x * (1 + scale) + shift` with one scale and one shift for all rows, computed in f32 and rounded once.
    ///
    /// After a norm without a weight, this is the adaptive normalisation of diffusion transformers (arXiv
    /// 2212.09748).
    pub struct Modulate<'a> {
        /// Input `[.., width]` in the compute dtype.
        pub x: View<'a>,
        /// `[width]` or `[1, width]`, in the dtype of `x`.
        pub scale: View<'a>,
        /// `[width]` or `[1, width]`, in the dtype of `x`.
        pub shift: View<'a>,
        /// Result, of the dtype and shape of `x`.
        pub y: ViewMut<'a>,
    }
}

impl<'a> Modulate<'a> {
    /// The same `scale` and `shift` for all rows of `x`.
    pub fn new(x: View<'a>, scale: View<'a>, shift: View<'a>, y: ViewMut<'a>) -> Modulate<'a> {
        Modulate { x, scale, shift, y }
    }
}

impl Operation for Modulate<'_> {
    fn name(&self) -> &'static str {
        "modulate"
    }

    fn check(&self) -> Result<(), DeviceError> {
        same(self.name(), self.x.meta(), self.y.meta())?;
        row(self.name(), "the scale", &self.scale, self.x.meta())?;
        row(self.name(), "the shift", &self.shift, self.x.meta())
    }

    fn flops(&self) -> u64 {
        self.x.meta().elements().saturating_mul(3)
    }
}
