//! The arithmetic of the CPU device: plain functions over byte slices.
//!
//! Activations are row-major in a compute dtype `act` (`F32`, `BF16`, `F16`); weights lie in their storage dtype (those,
//! and `F8_E4M3`, `F8_E5M2`) at any alignment. A weight of another dtype is rounded to `act` on the way into registers
//! or a tile in the first-level cache: no matrix of weights is ever copied whole. Products and sums are in `f32`, and a
//! result is rounded to `act` once, as PyTorch does per operation.
//!
//! The bits of an output element depend on its own inputs, the length of the sum and the instruction-set path ([`Isa`])
//! alone: not on how many rows there are, how they are split, on threads or on alignment. No function allocates:
//! scratch comes from the caller.

#![allow(clippy::too_many_arguments)] // kernels take slices, extents and dtypes, and little would be gained by naming each set

mod attention;
mod elementwise;
mod embedding;
mod error;
mod isa;
mod linear;
mod math;
mod norm;
mod num;
mod par;

pub use attention::{AttentionArgs, attention, attention_scratch_bytes};
pub use elementwise::{add, add_bias, gelu, mul, silu};
pub use embedding::gather_rows;
pub use error::KernelError;
pub use isa::{ISA_VARIABLE, Isa, IsaKind};
pub use linear::{LinearArgs, linear, linear_pack, linear_scratch_bytes};
pub use norm::{layer_norm, rms_norm};
pub use par::Pool;
