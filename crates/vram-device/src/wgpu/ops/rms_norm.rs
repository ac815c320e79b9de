//! [`RmsNorm`].

use super::super::device::Wgpu;
use super::super::pipeline::Program;
use super::rows::{norm, program};
use crate::DeviceError;
use crate::ops::RmsNorm;

static PLAIN: Program = program!("rms_norm.wgsl", "rms_norm", "1.0", "0.0");
static SCALED: Program = program!("rms_norm.wgsl", "rms_norm: weight", "rounded(read1(p.first, i))", "0.0");

impl Wgpu {
    pub(super) fn rms_norm(&self, op: &RmsNorm<'_>) -> Result<(), DeviceError> {
        let program = if op.weight.is_some() { &SCALED } else { &PLAIN };
        let affine: Vec<_> = op.weight.iter().collect();
        norm(&self.launcher, ("rms_norm", program), &op.x, &affine, op.eps, &op.y)
    }
}
