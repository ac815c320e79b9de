//! [`TopK`].

use super::super::device::Cuda;
use super::super::launch::Arg;
use super::super::operand::count;
use super::super::program::{Key, Program};
use crate::DeviceError;
use crate::ops::TopK;

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "top_k",
    source: concat!(include_str!("common.cu"), include_str!("top_k.cu")),
    kernels: &["top_k"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn top_k(&self, op: &TopK<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "top_k";
        let (rows, width) = (op.x.shape().rows() as u64, count(NAME, op.x.shape().last())?);
        let x = self.launcher.read(NAME, &op.x)?;
        let indices = self.launcher.bytes_mut(NAME, &op.indices, 4)?;
        let args =
            [Arg::Pointer(x.pointer), Arg::Pointer(indices), Arg::Int(width), Arg::Int(count(NAME, op.k())?)];
        self.launcher.launch(Key::new(&PROGRAM, x.dtype), NAME, [rows, 1, 1], &args)
    }
}
