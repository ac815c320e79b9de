//! A table of vectors.

use vram_alloc::{AllocError, Init, Parameter, module};
use vram_types::{DType, TensorMeta};

use crate::error::Error;
use crate::layers::linear::matrix;
use crate::model::forward::Forward;
use crate::model::tensor::Tensor;

/// A table `[rows, width]`, initialised like PyTorch's `nn.Embedding`. If it is not resident, only the rows
/// that are asked for are read.
#[derive(Debug)]
pub struct Embedding {
    weight: Parameter,
}

module! { Embedding { weight } }

impl Embedding {
    /// `rows` vectors of `width`, of dtype `dtype`.
    ///
    /// # Errors
    /// [`AllocError`] if the size overflows or, outside `skip_init`, if it cannot be initialised.
    pub fn new(rows: usize, width: usize, dtype: DType) -> Result<Embedding, AllocError> {
        let meta = TensorMeta::new(dtype, [rows, width])?;
        Ok(Embedding { weight: Parameter::new(meta, Init::Normal { std: 1.0 })? })
    }

    /// A table over this parameter `[rows, width]`, which may be [tied](Parameter::tie) to another.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is not a matrix.
    pub fn from_parameter(weight: Parameter) -> Result<Embedding, Error> {
        matrix("an embedding", &weight)?;
        Ok(Embedding { weight })
    }

    /// The table, so that a head can be tied to it.
    pub fn weight(&self) -> &Parameter {
        &self.weight
    }

    /// Number of vectors.
    pub fn rows(&self) -> usize {
        self.weight.meta().shape().first().copied().unwrap_or(0)
    }

    /// Extent of a vector.
    pub fn width(&self) -> usize {
        self.weight.meta().shape().last()
    }

    /// `ids -> [ids, width]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for an id outside the table; see [`Forward::gather`].
    pub fn forward(&self, fwd: &mut Forward<'_>, ids: &[u32]) -> Result<Tensor, Error> {
        if let Some(bad) = ids.iter().find(|&&id| id as usize >= self.rows()) {
            return Err(Error::Shape(format!("an embedding of {} rows has no row {bad}", self.rows())));
        }
        fwd.gather(&self.weight, ids)
    }
}
