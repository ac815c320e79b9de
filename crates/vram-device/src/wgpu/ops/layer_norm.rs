//! [`LayerNorm`].

use super::super::device::Wgpu;
use super::super::pipeline::Program;
use super::rows::{norm, program};
use crate::DeviceError;
use crate::ops::LayerNorm;

static PLAIN: Program = program!("layer_norm.wgsl", "layer_norm", "1.0", "0.0");
static SCALED: Program =
    program!("layer_norm.wgsl", "layer_norm: weight", "rounded(read1(p.first, i))", "0.0");
static SHIFTED: Program =
    program!("layer_norm.wgsl", "layer_norm: bias", "1.0", "rounded(read1(p.first, i))");
static AFFINE: Program = program!(
    "layer_norm.wgsl",
    "layer_norm: weight, bias",
    "rounded(read1(p.first, i))",
    "rounded(read2(p.second, i))"
);

impl Wgpu {
    pub(super) fn layer_norm(&self, op: &LayerNorm<'_>) -> Result<(), DeviceError> {
        let program = match (&op.weight, &op.bias) {
            (None, None) => &PLAIN,
            (Some(_), None) => &SCALED,
            (None, Some(_)) => &SHIFTED,
            (Some(_), Some(_)) => &AFFINE,
        };
        let affine: Vec<_> = op.weight.iter().chain(&op.bias).collect();
        norm(&self.launcher, ("layer_norm", program), &op.x, &affine, op.eps, &op.y)
    }
}
