//! [`RmsNorm`].

use super::super::device::Cuda;
use super::super::launch::Arg;
use super::super::operand::count;
use super::super::program::{Key, Program};
use crate::DeviceError;
use crate::ops::RmsNorm;

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "rms_norm",
    source: concat!(include_str!("common.cu"), include_str!("total.cu"), include_str!("rms_norm.cu")),
    kernels: &["rms_norm"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn rms_norm(&self, op: &RmsNorm<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "rms_norm";
        let (rows, width) = (op.x.shape().rows() as u64, count(NAME, op.x.shape().last())?);
        let (x, y) = (self.launcher.read(NAME, &op.x)?, self.launcher.write(NAME, &op.y)?);
        let (weight, weight_dtype) = self.launcher.optional(NAME, op.weight.as_ref())?;
        let args = [
            Arg::Pointer(x.pointer),
            weight,
            weight_dtype,
            Arg::Float(op.eps),
            Arg::Pointer(y.pointer),
            Arg::Int(width),
        ];
        self.launcher.launch(Key::new(&PROGRAM, y.dtype), NAME, [rows, 1, 1], &args)
    }
}
