//! The functions that models are written with: one method of [`Forward`] for each, under its name in papers.

use vram_device::ops::{self, BinaryKind, UnaryKind};
use vram_types::{DType, TensorMeta};

use crate::error::Error;
use crate::model::forward::Forward;
use crate::model::tensor::Tensor;

/// Functions of activations. Each runs one operation of [`vram_device::ops`], whose documentation has its formula.
///
/// # Errors
/// All of them give [`Error::Device`] if tensors do not fit together, if the device has no kernel for the
/// operation, or if the pass would take more memory than its dry run did.
impl Forward<'_> {
    /// `y = y + x`. Here and in [`mul`](Forward::mul), `x` may be a single row, applied to every row of `y`,
    /// or a column with one value for each row.
    ///
    /// # Errors
    /// See above.
    pub fn add(&mut self, y: &mut Tensor, x: &Tensor) -> Result<(), Error> {
        self.run(ops::Binary::new(BinaryKind::Add, x.view(), y.view_mut()))
    }

    /// `y = y * x`.
    ///
    /// # Errors
    /// See above.
    pub fn mul(&mut self, y: &mut Tensor, x: &Tensor) -> Result<(), Error> {
        self.run(ops::Binary::new(BinaryKind::Mul, x.view(), y.view_mut()))
    }

    /// `x = gelu(x)`, the exact form.
    ///
    /// # Errors
    /// See above.
    pub fn gelu(&mut self, x: &mut Tensor) -> Result<(), Error> {
        self.activate(UnaryKind::Gelu, x)
    }

    /// `x = x / (1 + exp(-x))`.
    ///
    /// # Errors
    /// See above.
    pub fn silu(&mut self, x: &mut Tensor) -> Result<(), Error> {
        self.activate(UnaryKind::Silu, x)
    }

    /// `x = f(x)`.
    ///
    /// # Errors
    /// See above.
    pub fn activate(&mut self, function: UnaryKind, x: &mut Tensor) -> Result<(), Error> {
        self.run(ops::Unary::new(function, x.view_mut()))
    }

    /// `y = f(gate) * y`: SwiGLU with [`UnaryKind::Silu`].
    ///
    /// # Errors
    /// See above.
    pub fn gated(&mut self, function: UnaryKind, gate: &Tensor, y: &mut Tensor) -> Result<(), Error> {
        self.run(ops::Gated::new(function, gate.view(), y.view_mut()))
    }

    /// `x * (1 + scale) + shift`, with one row of `scale` and `shift` for every row of `x`.
    ///
    /// # Errors
    /// See above.
    pub fn modulate(&mut self, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor, Error> {
        let mut y = self.tensor(x.shape().clone())?;
        self.run(ops::Modulate::new(x.view(), scale.view(), shift.view(), y.view_mut()))?;
        Ok(y)
    }

    /// `y = y + gate * x`, with one row of gates for every row.
    ///
    /// # Errors
    /// See above.
    pub fn add_gated(&mut self, y: &mut Tensor, gate: &Tensor, x: &Tensor) -> Result<(), Error> {
        self.run(ops::ScaledAdd::new(x.view(), gate.view(), y.view_mut()))
    }

    /// `y = y + factor * x`.
    ///
    /// # Errors
    /// See above.
    pub fn add_scaled(&mut self, y: &mut Tensor, factor: f32, x: &Tensor) -> Result<(), Error> {
        self.run(ops::ScaledAdd::by(factor, x.view(), y.view_mut()))
    }

    /// Attention of every query to every key in `heads` heads: `[queries, width]`, `[keys, width]` twice, to
    /// `[queries, width]`.
    ///
    /// # Errors
    /// See above.
    pub fn attention(&mut self, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor, Error> {
        let mut y = self.tensor(q.shape().clone())?;
        self.run(ops::Attention::new(q.view(), k.view(), v.view(), heads, y.view_mut()))?;
        Ok(y)
    }

    /// `x` in another dtype, rounded as PyTorch does.
    ///
    /// # Errors
    /// See above.
    pub fn cast(&mut self, x: &Tensor, dtype: DType) -> Result<Tensor, Error> {
        let mut y = self.tensor_of(TensorMeta::new(dtype, x.shape().clone())?)?;
        self.run(ops::Cast::new(x.view(), y.view_mut()))?;
        Ok(y)
    }

    /// Writes the rows of `x` to the rows of `y` from `at` on, rounded to the dtype of `y`: new keys into a
    /// cache.
    ///
    /// # Errors
    /// See above; [`Error::Shape`] if `y` does not have these rows.
    pub fn store(&mut self, x: &Tensor, y: &mut Tensor, at: usize) -> Result<(), Error> {
        let rows = x.shape().first().copied().unwrap_or(0);
        self.run(ops::Cast::new(x.view(), y.rows_mut(at..at.saturating_add(rows))?))
    }
}
