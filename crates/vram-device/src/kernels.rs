//! Arithmetic on device memory.

use vram_types::TensorMeta;

use crate::{Device, DeviceError, View, ViewMut};

/// Elementwise functions, computed in f32 and rounded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `x/2 (1 + erf(x / sqrt 2))`, the exact form.
    Gelu,
    /// `x / (1 + exp(-x))`.
    Silu,
}

/// Elementwise operations of two tensors of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Binary {
    /// `y + x`.
    Add,
    /// `y * x`.
    Mul,
}

/// A kernel for which [`Kernels::scratch_bytes`] is asked.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ScratchFor<'a> {
    /// [`Kernels::linear_pack`] of such an input.
    Linear {
        /// Dtype and shape of the input.
        x: &'a TensorMeta,
    },
    /// [`Kernels::attention`] over keys of this shape.
    Attention {
        /// Dtype and shape `[tokens, heads * head_dim]` of the keys.
        k: &'a TensorMeta,
        /// Number of heads.
        heads: usize,
    },
}

/// Inputs of [`Kernels::linear`].
#[derive(Clone, Debug)]
pub struct LinearArgs<'a> {
    /// Input `[.., in]`, in the compute dtype.
    pub x: View<'a>,
    /// What [`Kernels::linear_pack`] made of the same input.
    pub packed: View<'a>,
    /// Some rows `[rows, in]` of the weight, in its storage dtype.
    pub weight: View<'a>,
    /// The same rows `[rows]` of the bias, in its storage dtype.
    pub bias: Option<View<'a>>,
    /// Which output column the first of these rows gives.
    pub first_output: usize,
}

/// Inputs of [`Kernels::attention`].
#[derive(Clone, Debug)]
pub struct AttentionArgs<'a> {
    /// Queries `[tokens, heads * head_dim]`.
    pub q: View<'a>,
    /// Keys `[tokens, heads * head_dim]`.
    pub k: View<'a>,
    /// Values `[tokens, heads * head_dim]`.
    pub v: View<'a>,
    /// Number of heads.
    pub heads: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}

/// Kernels of a backend. Activations are row-major in the *compute dtype* (f32, bf16 or f16); weights come in their
/// *storage dtype* at any alignment and are rounded to the compute dtype as they are read, never as a whole matrix.
/// Sums run in f32 and are rounded once.
///
/// Every output element depends only on its own row of the input, its own row of the weight, the inner extent, the
/// dtypes and the instruction-set path: not on how many rows there are, on how the weight was split, on where it
/// lies or on the number of threads. That is what lets a budget change without changing the answer.
///
/// # Errors
/// All kernels give [`DeviceError::Shape`] where tensors do not fit together, [`DeviceError::DType`] where there is
/// no version for a dtype, and [`DeviceError::OutOfRange`] for memory of another device.
pub trait Kernels: Device {
    /// Bytes of scratch that a kernel needs.
    fn scratch_bytes(&self, kernel: ScratchFor<'_>) -> u64;

    /// Brings the input of a linear layer into the kernel's own order, once for all pieces of the weight.
    ///
    /// # Errors
    /// See the trait.
    fn linear_pack(&self, x: &View<'_>, packed: &mut ViewMut<'_>) -> Result<(), DeviceError>;

    /// Columns `first_output ..` of `y = x W^T + b`.
    ///
    /// # Errors
    /// See the trait.
    fn linear(&self, args: &LinearArgs<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError>;

    /// `y = round(x * rsqrt(mean(x^2) + eps)) * weight`, the mean over the last extent.
    ///
    /// # Errors
    /// See the trait.
    fn rms_norm(
        &self,
        x: &View<'_>,
        weight: &View<'_>,
        eps: f32,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError>;

    /// `y = (x - mean) / sqrt(var + eps) * weight + bias` over the last extent.
    ///
    /// # Errors
    /// See the trait.
    fn layer_norm(
        &self,
        x: &View<'_>,
        weight: &View<'_>,
        bias: &View<'_>,
        eps: f32,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError>;

    /// `x = f(x)`, in place.
    ///
    /// # Errors
    /// See the trait.
    fn activate(&self, f: Activation, x: &mut ViewMut<'_>) -> Result<(), DeviceError>;

    /// `y = y op x`, in place.
    ///
    /// # Errors
    /// See the trait.
    fn binary(&self, op: Binary, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError>;

    /// `y = softmax(scale q k^T) v` for each head, all tokens seeing all.
    ///
    /// # Errors
    /// See the trait.
    fn attention(
        &self,
        args: &AttentionArgs<'_>,
        scratch: &mut ViewMut<'_>,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError>;

    /// Row `i` of `y` is row `ids[i]` of `table`, cast to `y`'s dtype.
    ///
    /// # Errors
    /// See the trait; an id outside the table is a [`DeviceError::OutOfRange`].
    fn gather(&self, table: &View<'_>, ids: &[u32], y: &mut ViewMut<'_>) -> Result<(), DeviceError>;

    /// Runs a whole forward where issuing kernels is cheapest: the CPU's own pool, a thread that a context is current
    /// on. Kernels may be called from anywhere; this saves a change of threads for each.
    fn scope(&self, forward: &mut (dyn FnMut() + Send)) {
        forward();
    }

    /// `y = x` in `y`'s dtype, rounded as PyTorch's `.to(dtype)` does.
    ///
    /// # Errors
    /// See the trait.
    fn cast(&self, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError>;
}
