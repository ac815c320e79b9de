//! The arithmetic of the CPU device: plain functions over byte slices.
//!
//! Activations are row-major in a compute dtype `act` (`F32`, `BF16`, `F16`). Weights are in their storage
//! dtype (those, and `F8_E4M3`, `F8_E5M2`), with or without separate scales, or in quantised blocks, at any
//! alignment. On the way into registers or a tile in the first-level cache, blocks are decoded, scales are
//! applied, and a weight of another dtype is rounded to `act`: no matrix of weights is ever copied whole.
//! Products and sums are in `f32`, and a result is rounded to `act` once, as PyTorch does per operation.
//!
//! The bits of an output element depend only on its own inputs, the length of the sum and the instruction-set
//! path ([`Isa`](super::Isa)): not on the number of rows, on how they are split, on threads or on alignment.
//! No function allocates: scratch comes from the caller.

#![allow(clippy::too_many_arguments)] // kernels take slices, extents and dtypes, and little would be gained by naming each set

mod activation;
mod attention;
mod binary;
mod cast;
mod custom;
mod gated;
mod gather;
mod group_norm;
mod im2col;
mod layer_norm;
mod linear;
mod modulate;
mod operand;
mod rms_norm;
mod rotary;
mod rows;
mod scaled;
mod scaled_add;
mod strided_copy;
mod top_k;
mod unary;
mod upsample;
mod volume;

pub use attention::{AttentionArgs, attention, attention_scratch_bytes};
pub use binary::{add, add_bias, mul};
pub use gather::gather_rows;
pub use layer_norm::layer_norm;
pub use linear::{LinearArgs, linear, linear_pack, linear_scratch_bytes};
pub use rms_norm::rms_norm;
pub use scaled::ScaleArgs;
pub use unary::unary;

use vram_types::Encoding;

use super::Cpu;
use crate::ops::{Checked, Op, Operation as _};
use crate::{DeviceError, Kernels, View, ViewMut};

impl Kernels for Cpu {
    fn scope(&self, forward: &mut (dyn FnMut() + Send)) {
        self.pool.install(forward);
    }

    fn scratch(&self, op: &Op<'_>) -> u64 {
        match op {
            Op::Linear(op) => self.linear_scratch(op),
            Op::GroupNorm(op) => self.group_norm_scratch(op),
            Op::Attention(op) => self.attention_scratch(op),
            _ => 0,
        }
    }

    fn takes(&self, op: &Op<'_>) -> Result<(), DeviceError> {
        match op.decoded().map(View::encoding) {
            None | Some(Encoding::Plain(_) | Encoding::Blocks(_)) => Ok(()),
            Some(Encoding::Scaled(dtype)) if scaled::takes(op, dtype) => Ok(()),
            Some(other) => Err(op.unsupported(format!("it does not decode {other}"))),
        }
    }

    fn run(&self, op: Checked<'_>, scratch: Option<&mut ViewMut<'_>>) -> Result<(), DeviceError> {
        match op.into_op() {
            Op::Linear(op) => self.linear(op, scratch),
            Op::Gather(op) => self.gather(op),
            Op::RmsNorm(op) => self.rms_norm(op),
            Op::LayerNorm(op) => self.layer_norm(op),
            Op::GroupNorm(op) => self.group_norm(op, scratch),
            Op::Unary(op) => self.unary(op),
            Op::Gated(op) => self.gated(op),
            Op::Binary(op) => self.binary(op),
            Op::Modulate(op) => self.modulate(op),
            Op::ScaledAdd(op) => self.scaled_add(op),
            Op::Attention(op) => self.attention(op, scratch),
            Op::Rotary(op) => self.rotary(op),
            Op::Im2col(op) => self.im2col(op),
            Op::Upsample(op) => self.upsample(op),
            Op::StridedCopy(op) => self.strided_copy(op),
            Op::TopK(op) => self.top_k(op),
            Op::Cast(op) => self.cast(op),
            Op::Custom(op) => self.custom(op),
        }
    }
}
