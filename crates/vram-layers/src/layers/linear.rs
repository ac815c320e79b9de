//! `y = x W^T + b`.

use vram_alloc::{AllocError, Init, Parameter, module};
use vram_device::ops;
use vram_types::{DType, TensorMeta};

use crate::error::Error;
use crate::model::forward::Forward;
use crate::model::tensor::Tensor;

/// A linear layer with a weight `[out, in]` and a bias `[out]`, initialised like PyTorch's `nn.Linear`.
///
/// A weight that is too large for the budget comes in tiles of its rows; the result is the same, bit for bit.
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

    /// A layer with these parameters: a weight `[out, in]`, which may be [tied](Parameter::tie) to a table, and a bias
    /// `[out]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not fit together.
    pub fn from_parameters(weight: Parameter, bias: Option<Parameter>) -> Result<Linear, Error> {
        let outputs = matrix("a linear layer", &weight)?;
        if let Some(bias) = &bias
            && bias.meta().shape().dims() != [outputs]
        {
            let is = bias.meta().shape();
            return Err(Error::Shape(format!(
                "a linear layer of {outputs} outputs has a bias of shape {is}"
            )));
        }
        Ok(Linear { weight, bias })
    }

    /// The weight, so that a table can be tied to it.
    pub fn weight(&self) -> &Parameter {
        &self.weight
    }

    /// Last extent of the input.
    pub fn inputs(&self) -> usize {
        self.weight.meta().shape().last()
    }

    /// Last extent of the output.
    pub fn outputs(&self) -> usize {
        self.weight.meta().shape().first().copied().unwrap_or(0)
    }

    /// `[.., inputs] -> [.., outputs]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has another last extent; see [`Forward::run_with`].
    pub fn forward(&self, fwd: &mut Forward<'_>, x: &Tensor) -> Result<Tensor, Error> {
        if x.shape().last() != self.inputs() {
            return Err(Error::Shape(format!(
                "a linear layer of {} inputs is given {}",
                self.inputs(),
                x.shape()
            )));
        }
        // A tied weight may belong to another layer; the bias is then added separately.
        let (beside, apart) = match &self.bias {
            Some(bias) if fwd.together(&self.weight, bias)? => (Some(bias), None),
            bias => (None, bias.as_ref()),
        };
        let mut y = fwd.tensor(x.shape().with_last(self.outputs()))?;
        let activations = fwd.activations();
        fwd.run_with(&self.weight, |tile| {
            let first_output = tile.rows().map_or(0, |rows| rows.start);
            let bias = beside.map(|bias| tile.tensor(bias)).transpose()?;
            let op = ops::Linear::new(x.view(), tile.tensor(&self.weight)?, y.view_mut());
            tile.run(op.with_bias(bias).at_output(first_output).with_activations(activations))
        })?;
        if let Some(bias) = apart {
            let bias = fwd.parameter(bias)?;
            fwd.add(&mut y, &bias)?;
        }
        Ok(y)
    }
}

/// Rows of a weight, which must be a matrix.
pub(super) fn matrix(what: &str, weight: &Parameter) -> Result<usize, Error> {
    match weight.meta().shape().dims() {
        &[rows, _] => Ok(rows),
        _ => Err(Error::Shape(format!(
            "{what} needs a matrix, and has a weight of shape {}",
            weight.meta().shape()
        ))),
    }
}
