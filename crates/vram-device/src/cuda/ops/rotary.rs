//! [`Rotary`].

use super::super::device::Cuda;
use super::super::launch::{Arg, over};
use super::super::operand::count;
use super::super::program::{Key, Program};
use crate::DeviceError;
use crate::ops::{Rotary, RotaryForm};

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "rotary",
    source: concat!(include_str!("common.cu"), include_str!("rotary.cu")),
    kernels: &["rotary"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn rotary(&self, op: &Rotary<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "rotary";
        let (rows, pairs) = (op.x.shape().rows() as u64, op.table.shape().last() / 2);
        // The elements of a row are counted in 32 bits, and there are fewer pairs.
        count(NAME, op.x.shape().last())?;
        let (table, x) = (self.launcher.stored(NAME, &op.table)?, self.launcher.write(NAME, &op.x)?);
        let args = [
            Arg::Pointer(table.pointer),
            Arg::Pointer(x.pointer),
            Arg::Int(count(NAME, op.heads)?),
            Arg::Int(count(NAME, op.head_dim())?),
            Arg::Int(count(NAME, pairs)?),
            Arg::Int(u32::from(op.form == RotaryForm::Interleaved)),
        ];
        let blocks = [rows, over((op.heads * pairs) as u64)[0], 1];
        self.launcher.launch(Key::new(&PROGRAM, x.dtype), NAME, blocks, &args)
    }
}
