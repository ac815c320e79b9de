//! [`Binary`].

use super::super::device::Cuda;
use super::super::launch::{Arg, over};
use super::super::program::{Key, Program};
use crate::DeviceError;
use crate::ops::{Binary, BinaryKind, Broadcast};

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "binary",
    source: concat!(include_str!("common.cu"), include_str!("binary.cu")),
    kernels: &["binary"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn binary(&self, op: &Binary<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "binary";
        // The numbers of `binary.cu`.
        let kind = match op.kind {
            BinaryKind::Add => 0,
            BinaryKind::Mul => 1,
        };
        let broadcast = match op.broadcast()? {
            Broadcast::Equal => 0,
            Broadcast::Row => 1,
            Broadcast::Column => 2,
        };
        let (elements, width) = (op.y.meta().elements(), op.y.shape().last() as u64);
        let (x, y) = (self.launcher.read(NAME, &op.x)?, self.launcher.write(NAME, &op.y)?);
        let args = [
            Arg::Int(kind),
            Arg::Int(broadcast),
            Arg::Pointer(x.pointer),
            Arg::Pointer(y.pointer),
            Arg::Long(width),
            Arg::Long(elements),
        ];
        self.launcher.launch(Key::new(&PROGRAM, y.dtype), NAME, over(elements), &args)
    }
}
