//! Normalisation of rows to mean 0 and variance 1.

use super::check::{same, vector};
use super::operation::{Operation, operation};
use crate::{DeviceError, View, ViewMut};

operation! {
    /// `y = (x - mean) / sqrt(variance + eps) * weight + bias`, mean and variance over the last extent; all in f32 and
    /// rounded once. Weight and bias are optional.
    pub struct LayerNorm<'a> {
        /// Input `[.., width]` in the compute dtype.
        pub x: View<'a>,
        /// Optional `[width]`, in its storage dtype.
        pub weight: Option<View<'a>>,
        /// Optional `[width]`, in its storage dtype.
        pub bias: Option<View<'a>>,
        /// Added to the variance.
        pub eps: f32,
        /// Result, of the dtype and shape of `x`.
        pub y: ViewMut<'a>,
    }
}

impl<'a> LayerNorm<'a> {
    /// With a weight and a bias.
    pub fn new(x: View<'a>, weight: View<'a>, bias: View<'a>, eps: f32, y: ViewMut<'a>) -> LayerNorm<'a> {
        LayerNorm { x, weight: Some(weight), bias: Some(bias), eps, y }
    }

    /// Without weight and bias.
    pub fn plain(x: View<'a>, eps: f32, y: ViewMut<'a>) -> LayerNorm<'a> {
        LayerNorm { x, weight: None, bias: None, eps, y }
    }

    /// With optional weight and bias.
    #[must_use]
    pub fn with_affine(self, weight: Option<View<'a>>, bias: Option<View<'a>>) -> LayerNorm<'a> {
        LayerNorm { weight, bias, ..self }
    }
}

impl Operation for LayerNorm<'_> {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn check(&self) -> Result<(), DeviceError> {
        same(self.name(), self.x.meta(), self.y.meta())?;
        let width = self.x.shape().last();
        self.weight.iter().try_for_each(|weight| vector(self.name(), "the weight", weight, width))?;
        self.bias.iter().try_for_each(|bias| vector(self.name(), "the bias", bias, width))
    }

    fn flops(&self) -> u64 {
        self.x.meta().elements().saturating_mul(8)
    }
}
