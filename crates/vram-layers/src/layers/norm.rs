//! Normalisation over the last extent.

use vram_alloc::{AllocError, Init, Parameter, module};
use vram_types::{DType, TensorMeta};

use crate::Error;
use crate::forward::{Forward, Tensor};

/// `(x - mean) / sqrt(var + eps) * weight + bias`, as PyTorch's `nn.LayerNorm`.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Parameter,
    bias: Parameter,
    eps: f32,
}

module! { LayerNorm { weight, bias } }

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
    /// See [`Forward::with_weights`].
    pub fn forward(&self, fwd: &mut Forward<'_, '_>, x: &Tensor) -> Result<Tensor, Error> {
        let mut y = fwd.tensor(x.shape().clone())?;
        let (weight, bias) = (fwd.index(&self.weight)?, fwd.index(&self.bias)?);
        fwd.with_weights(&self.weight, |k, lease| {
            let (weight, bias) = (lease.tensor(weight)?, lease.tensor(bias)?);
            Ok(k.layer_norm(&x.view()?, &weight, &bias, self.eps, &mut y.view_mut()?)?)
        })?;
        Ok(y)
    }
}

/// `round(x * rsqrt(mean(x^2) + eps)) * weight`, the mean taken in f32 and the quotient rounded to the compute dtype
/// before the weight is applied.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Parameter,
    eps: f32,
}

module! { RmsNorm { weight } }

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
    /// See [`Forward::with_weights`].
    pub fn forward(&self, fwd: &mut Forward<'_, '_>, x: &Tensor) -> Result<Tensor, Error> {
        let mut y = fwd.tensor(x.shape().clone())?;
        let weight = fwd.index(&self.weight)?;
        fwd.with_weights(&self.weight, |k, lease| {
            Ok(k.rms_norm(&x.view()?, &lease.tensor(weight)?, self.eps, &mut y.view_mut()?)?)
        })?;
        Ok(y)
    }
}
