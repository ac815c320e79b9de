//! `y = x W^T + b`.

use vram_alloc::{AllocError, Init, Parameter, module};
use vram_device::{LinearArgs, ScratchFor};
use vram_types::{DType, TensorMeta};

use crate::Error;
use crate::forward::{Forward, Tensor};

/// A linear layer with a weight `[out, in]` and a bias `[out]`, initialised as PyTorch's `nn.Linear`.
///
/// A weight that is too large for the budget comes in tiles of its rows; the result is the same bit for bit.
#[derive(Debug)]
pub struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
}

module! { Linear { weight, bias } }

impl Linear {
    /// `inputs -> outputs`, with weights of dtype `dtype`.
    ///
    /// # Errors
    /// [`AllocError`] if the weight's size overflows or, outside `skip_init`, if it cannot be initialised.
    pub fn new(inputs: usize, outputs: usize, bias: bool, dtype: DType) -> Result<Linear, AllocError> {
        let init = Init::linear(inputs);
        Ok(Linear {
            weight: Parameter::new(TensorMeta::new(dtype, [outputs, inputs])?, init)?,
            bias: if bias { Some(Parameter::new(TensorMeta::new(dtype, [outputs])?, init)?) } else { None },
        })
    }

    /// Extent of the last dimension that comes in.
    pub fn inputs(&self) -> usize {
        self.weight.meta().shape().last()
    }

    /// Extent of the last dimension that goes out.
    pub fn outputs(&self) -> usize {
        self.weight.meta().shape().first().copied().unwrap_or(0)
    }

    /// `[.., inputs] -> [.., outputs]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has another last extent; see [`Forward::with_weights`].
    pub fn forward(&self, fwd: &mut Forward<'_, '_>, x: &Tensor) -> Result<Tensor, Error> {
        if x.shape().last() != self.inputs() {
            return Err(Error::Shape(format!(
                "a linear layer of {} inputs is given {}",
                self.inputs(),
                x.shape()
            )));
        }
        let mut y = fwd.tensor(x.shape().with_last(self.outputs()))?;
        let mut packed = fwd.scratch(ScratchFor::Linear { x: x.meta() })?;
        fwd.kernel(|k| Ok(k.linear_pack(&x.view()?, &mut packed.view_mut()?)?))?;
        let weight = fwd.index(&self.weight)?;
        let bias = self.bias.as_ref().map(|b| fwd.index(b)).transpose()?;
        fwd.with_weights(&self.weight, |k, lease| {
            let args = LinearArgs {
                x: x.view()?,
                packed: packed.view()?,
                weight: lease.tensor(weight)?,
                bias: bias.map(|b| lease.tensor(b)).transpose()?,
                first_output: lease.rows().map_or(0, |rows| rows.start),
            };
            Ok(k.linear(&args, &mut y.view_mut()?)?)
        })?;
        // A multiplication and an addition for each weight and row.
        let outputs = y.shape().elements().unwrap_or(u64::MAX);
        fwd.declare_flops(outputs.saturating_mul(2 * self.inputs() as u64));
        Ok(y)
    }
}
