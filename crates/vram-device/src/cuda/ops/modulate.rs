//! [`Modulate`].

use super::super::device::Cuda;
use super::super::launch::{Arg, over};
use super::super::program::{Key, Program};
use crate::DeviceError;
use crate::ops::Modulate;

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "modulate",
    source: concat!(include_str!("common.cu"), include_str!("modulate.cu")),
    kernels: &["modulate"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn modulate(&self, op: &Modulate<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "modulate";
        let (elements, width) = (op.y.meta().elements(), op.y.shape().last() as u64);
        let [x, scale, shift] = [
            self.launcher.read(NAME, &op.x)?,
            self.launcher.read(NAME, &op.scale)?,
            self.launcher.read(NAME, &op.shift)?,
        ];
        let y = self.launcher.write(NAME, &op.y)?;
        let args = [
            Arg::Pointer(x.pointer),
            Arg::Pointer(scale.pointer),
            Arg::Pointer(shift.pointer),
            Arg::Pointer(y.pointer),
            Arg::Long(width),
            Arg::Long(elements),
        ];
        self.launcher.launch(Key::new(&PROGRAM, y.dtype), NAME, over(elements), &args)
    }
}
