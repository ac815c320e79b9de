//! [`Kernels`]: each operation is launched by the file of its name.

mod activation;
mod attention;
mod binary;
mod cast;
mod gated;
mod gather;
mod group_norm;
mod im2col;
mod layer_norm;
mod linear;
mod modulate;
mod rms_norm;
mod rotary;
mod scaled_add;
mod strided_copy;
mod top_k;
mod unary;
mod upsample;

use super::device::Cuda;
use super::program::Program;
use crate::ops::{Checked, Op};
use crate::{DeviceError, Kernels, ViewMut};

/// The programs of all operations.
pub(super) static PROGRAMS: [&Program; 16] = [
    &attention::PROGRAM,
    &binary::PROGRAM,
    &cast::PROGRAM,
    &gated::PROGRAM,
    &gather::PROGRAM,
    &group_norm::PROGRAM,
    &im2col::PROGRAM,
    &layer_norm::PROGRAM,
    &linear::PROGRAM,
    &modulate::PROGRAM,
    &rms_norm::PROGRAM,
    &rotary::PROGRAM,
    &scaled_add::PROGRAM,
    &strided_copy::PROGRAM,
    &top_k::PROGRAM,
    &unary::PROGRAM,
];

impl Kernels for Cuda {
    fn scratch(&self, op: &Op<'_>) -> u64 {
        match op {
            Op::GroupNorm(op) => self.group_norm_scratch(op),
            // Inputs are read in place, and scores of attention are never stored.
            _ => 0,
        }
    }

    fn run(&self, op: Checked<'_>, scratch: Option<&mut ViewMut<'_>>) -> Result<(), DeviceError> {
        self.takes(op.op())?;
        match op.into_op() {
            Op::Linear(op) => self.linear(&op),
            Op::Gather(op) => self.gather(&op),
            Op::RmsNorm(op) => self.rms_norm(&op),
            Op::LayerNorm(op) => self.layer_norm(&op),
            Op::GroupNorm(op) => self.group_norm(&op, scratch.as_deref()),
            Op::Unary(op) => self.unary(&op),
            Op::Gated(op) => self.gated(&op),
            Op::Binary(op) => self.binary(&op),
            Op::Modulate(op) => self.modulate(&op),
            Op::ScaledAdd(op) => self.scaled_add(&op),
            Op::Rotary(op) => self.rotary(&op),
            Op::Attention(op) => self.attention(&op),
            Op::Im2col(op) => self.im2col(&op),
            Op::Upsample(op) => self.upsample(&op),
            Op::StridedCopy(op) => self.strided_copy(&op),
            Op::TopK(op) => self.top_k(&op),
            Op::Cast(op) => self.cast(&op),
            op @ Op::Custom(_) => Err(op.unsupported("operations of one's own run on the CPU alone")),
        }
    }
}
