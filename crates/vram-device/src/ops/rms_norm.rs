//! Root-mean-square normalisation of rows.

use super::check::{same, vector};
use super::operation::{Operation, operation};
use crate::{DeviceError, View, ViewMut};

operation! {
    /// `y = round(x * rsqrt(mean(x^2) + eps)) * weight`, the mean over the last extent. The quotient is rounded to the
    /// compute dtype before the weight is applied; without a weight it is the result.
    pub struct RmsNorm<'a> {
        /// Input `[.., width]` in the compute dtype.
        pub x: View<'a>,
        /// Optional `[width]`, in its storage dtype.
        pub weight: Option<View<'a>>,
        /// Added to the mean.
        pub eps: f32,
        /// Result, of the dtype and shape of `x`.
        pub y: ViewMut<'a>,
    }
}

impl<'a> RmsNorm<'a> {
    /// With a weight.
    pub fn new(x: View<'a>, weight: View<'a>, eps: f32, y: ViewMut<'a>) -> RmsNorm<'a> {
        RmsNorm { x, weight: Some(weight), eps, y }
    }

    /// Without a weight.
    pub fn plain(x: View<'a>, eps: f32, y: ViewMut<'a>) -> RmsNorm<'a> {
        RmsNorm { x, weight: None, eps, y }
    }

    /// With an optional weight.
    #[must_use]
    pub fn with_weight(self, weight: Option<View<'a>>) -> RmsNorm<'a> {
        RmsNorm { weight, ..self }
    }
}

impl Operation for RmsNorm<'_> {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn check(&self) -> Result<(), DeviceError> {
        same(self.name(), self.x.meta(), self.y.meta())?;
        let width = self.x.shape().last();
        self.weight.iter().try_for_each(|weight| vector(self.name(), "the weight", weight, width))
    }

    fn flops(&self) -> u64 {
        self.x.meta().elements().saturating_mul(4)
    }
}
