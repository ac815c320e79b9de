//! Normalisation over the last extent.

use vram_alloc::{AllocError, Init, Parameter, module};
use vram_device::ops;
use vram_types::{DType, TensorMeta};

use crate::error::Error;
use crate::model::forward::Forward;
use crate::model::tensor::Tensor;

/// `(x - mean) / sqrt(var + eps) * weight + bias`, as PyTorch's `nn.LayerNorm`.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Parameter,
    bias: Parameter,
    eps: f32,
}

module! { LayerNorm { weight, bias, eps as _ } }

impl LayerNorm {
    /// Over a last extent of `width`.
    ///
    /// # Errors
    /// [`AllocError`], outside `skip_init`, if it cannot be initialised.
    pub fn new(width: usize, eps: f32, dtype: DType) -> Result<LayerNorm, AllocError> {
        Ok(LayerNorm {
            weight: Parameter::new(TensorMeta::new(dtype, [width])?, Init::Ones)?,
            bias: Parameter::new(TensorMeta::new(dtype, [width])?, Init::Zeros)?,
            eps,
        })
    }

    /// `[.., width] -> [.., width]`.
    ///
    /// # Errors
    /// See [`Forward::run_with`].
    pub fn forward(&self, fwd: &mut Forward<'_>, x: &Tensor) -> Result<Tensor, Error> {
        let mut y = fwd.tensor(x.shape().clone())?;
        fwd.run_with(&self.weight, |tile| {
            let (weight, bias) = (tile.tensor(&self.weight)?, tile.tensor(&self.bias)?);
            tile.run(ops::LayerNorm::new(x.view(), weight, bias, self.eps, y.view_mut()))
        })?;
        Ok(y)
    }
}

/// `round(x * rsqrt(mean(x^2) + eps)) * weight`. The mean is taken in f32, and the quotient is rounded to the
/// compute dtype before the weight is applied.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Parameter,
    eps: f32,
}

module! { RmsNorm { weight, eps as _ } }

impl RmsNorm {
    /// Over a last extent of `width`.
    ///
    /// # Errors
    /// [`AllocError`], outside `skip_init`, if it cannot be initialised.
    pub fn new(width: usize, eps: f32, dtype: DType) -> Result<RmsNorm, AllocError> {
        Ok(RmsNorm { weight: Parameter::new(TensorMeta::new(dtype, [width])?, Init::Ones)?, eps })
    }

    /// `[.., width] -> [.., width]`.
    ///
    /// # Errors
    /// See [`Forward::run_with`].
    pub fn forward(&self, fwd: &mut Forward<'_>, x: &Tensor) -> Result<Tensor, Error> {
        let mut y = fwd.tensor(x.shape().clone())?;
        fwd.run_with(&self.weight, |tile| {
            let weight = tile.tensor(&self.weight)?;
            tile.run(ops::RmsNorm::new(x.view(), weight, self.eps, y.view_mut()))
        })?;
        Ok(y)
    }
}
