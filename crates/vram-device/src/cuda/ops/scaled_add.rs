//! [`ScaledAdd`].

use super::super::device::Cuda;
use super::super::launch::{Arg, over};
use super::super::program::{Key, Program};
use crate::DeviceError;
use crate::ops::ScaledAdd;

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "scaled_add",
    source: concat!(include_str!("common.cu"), include_str!("scaled_add.cu")),
    kernels: &["scaled_add"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn scaled_add(&self, op: &ScaledAdd<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "scaled_add";
        let (elements, width) = (op.y.meta().elements(), op.y.shape().last() as u64);
        let (x, y) = (self.launcher.read(NAME, &op.x)?, self.launcher.write(NAME, &op.y)?);
        let gate = op.gate.as_ref().map(|gate| self.launcher.read(NAME, gate)).transpose()?;
        let args = [
            Arg::Pointer(x.pointer),
            Arg::Pointer(gate.map_or(0, |gate| gate.pointer)),
            Arg::Float(op.factor),
            Arg::Pointer(y.pointer),
            Arg::Long(width),
            Arg::Long(elements),
        ];
        self.launcher.launch(Key::new(&PROGRAM, y.dtype), NAME, over(elements), &args)
    }
}
