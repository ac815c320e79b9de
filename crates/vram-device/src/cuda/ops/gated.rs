//! [`Gated`].

use super::super::device::Cuda;
use super::super::launch::{Arg, over};
use super::super::program::{Key, Program};
use super::activation::number;
use crate::DeviceError;
use crate::ops::Gated;

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "gated",
    source: concat!(include_str!("common.cu"), include_str!("activation.cu"), include_str!("gated.cu")),
    kernels: &["gated"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn gated(&self, op: &Gated<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "gated";
        let elements = op.y.meta().elements();
        let (gate, y) = (self.launcher.read(NAME, &op.gate)?, self.launcher.write(NAME, &op.y)?);
        let args = [
            Arg::Int(number(op.kind)),
            Arg::Pointer(gate.pointer),
            Arg::Pointer(y.pointer),
            Arg::Long(elements),
        ];
        self.launcher.launch(Key::new(&PROGRAM, y.dtype), NAME, over(elements), &args)
    }
}
