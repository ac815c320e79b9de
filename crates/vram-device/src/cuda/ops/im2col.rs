//! [`Im2col`].

use super::super::device::Cuda;
use super::super::launch::{Arg, over};
use super::super::operand::count;
use super::super::program::{Key, Program};
use crate::DeviceError;
use crate::ops::Im2col;

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "im2col",
    source: concat!(include_str!("common.cu"), include_str!("im2col.cu")),
    kernels: &["im2col"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn im2col(&self, op: &Im2col<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "im2col";
        let (rows, width) = (op.y.shape().rows() as u64, op.y.shape().last());
        let (x, y) = (self.launcher.read(NAME, &op.x)?, self.launcher.write(NAME, &op.y)?);
        let window = &op.window;
        let Some(outputs) = window.outputs(op.extents).filter(|_| width > 0) else { return Ok(()) };
        for ((extent, before), after) in op.extents.iter().zip(&window.before).zip(&window.after) {
            // Positions include the padding.
            count(NAME, extent + before + after)?;
        }
        let parts = [op.extents, outputs, window.kernel, window.stride, window.dilation, window.before];
        let mut values = [0; 18];
        values.iter_mut().zip(parts.as_flattened()).for_each(|(to, &value)| *to = value as u64);
        let args = [
            Arg::Pointer(x.pointer),
            Arg::Pointer(y.pointer),
            Arg::Longs(&values),
            Arg::Long(op.first as u64),
            Arg::Int(count(NAME, op.x.shape().last())?),
            Arg::Int(count(NAME, width)?),
        ];
        let blocks = [rows, over(width as u64)[0], 1];
        self.launcher.launch(Key::new(&PROGRAM, y.dtype), NAME, blocks, &args)
    }
}
