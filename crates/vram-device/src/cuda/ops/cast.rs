//! [`Cast`].

use super::super::device::Cuda;
use super::super::launch::{Arg, over};
use super::super::program::{Key, Program};
use crate::DeviceError;
use crate::ops::Cast;

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "cast",
    source: concat!(include_str!("common.cu"), include_str!("cast.cu")),
    kernels: &["cast"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn cast(&self, op: &Cast<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "cast";
        let elements = op.y.meta().elements();
        let (x, y) = (self.launcher.stored(NAME, &op.x)?, self.launcher.write(NAME, &op.y)?);
        let args =
            [Arg::Pointer(x.pointer), Arg::Int(x.number), Arg::Pointer(y.pointer), Arg::Long(elements)];
        self.launcher.launch(Key::new(&PROGRAM, y.dtype), NAME, over(elements), &args)
    }
}
