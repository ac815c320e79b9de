//! [`Unary`].

use super::super::device::Cuda;
use super::super::launch::{Arg, over};
use super::super::program::{Key, Program};
use super::activation::number;
use crate::DeviceError;
use crate::ops::Unary;

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "unary",
    source: concat!(include_str!("common.cu"), include_str!("activation.cu"), include_str!("unary.cu")),
    kernels: &["unary"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn unary(&self, op: &Unary<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "unary";
        let elements = op.x.meta().elements();
        let x = self.launcher.write(NAME, &op.x)?;
        let args = [Arg::Int(number(op.kind)), Arg::Pointer(x.pointer), Arg::Long(elements)];
        self.launcher.launch(Key::new(&PROGRAM, x.dtype), NAME, over(elements), &args)
    }
}
