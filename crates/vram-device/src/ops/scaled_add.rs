//! A gated residual.

use super::check::{row, same};
use super::operation::{Operation, operation};
use crate::{DeviceError, View, ViewMut};

operation! {
    /// `y = y + factor * gate * x`, in place, with one gate for all rows or none, computed in f32 and rounded once.
    ///
    /// It ends a block of a diffusion transformer (arXiv 2212.09748).
    pub struct ScaledAdd<'a> {
        /// A tensor `[.., width]` in the compute dtype.
        pub x: View<'a>,
        /// `[width]` or `[1, width]`, in the dtype of `x`; ones if absent.
        pub gate: Option<View<'a>>,
        /// A factor for all elements.
        pub factor: f32,
        /// The other summand and the result, of the dtype and shape of `x`.
        pub y: ViewMut<'a>,
    }
}

impl<'a> ScaledAdd<'a> {
    /// With the same gate for all rows of `x`.
    pub fn new(x: View<'a>, gate: View<'a>, y: ViewMut<'a>) -> ScaledAdd<'a> {
        ScaledAdd { x, gate: Some(gate), factor: 1.0, y }
    }

    /// With a number as the factor of all of `x`.
    pub fn by(factor: f32, x: View<'a>, y: ViewMut<'a>) -> ScaledAdd<'a> {
        ScaledAdd { x, gate: None, factor, y }
    }
}

impl Operation for ScaledAdd<'_> {
    fn name(&self) -> &'static str {
        "scaled_add"
    }

    fn check(&self) -> Result<(), DeviceError> {
        same(self.name(), self.x.meta(), self.y.meta())?;
        self.gate.iter().try_for_each(|gate| row(self.name(), "the gate", gate, self.x.meta()))
    }

    fn flops(&self) -> u64 {
        self.x.meta().elements().saturating_mul(2)
    }

    fn bytes_read(&self) -> u64 {
        let operands = self.x.meta().bytes().saturating_add(self.y.meta().bytes());
        operands.saturating_add(self.gate.as_ref().map_or(0, |gate| gate.meta().bytes()))
    }
}
