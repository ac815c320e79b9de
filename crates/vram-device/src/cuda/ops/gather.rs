//! [`Gather`].

use super::super::device::Cuda;
use super::super::launch::{Arg, IDS, over};
use super::super::operand::activation;
use super::super::program::{Key, Program};
use crate::DeviceError;
use crate::ops::Gather;

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "gather",
    source: concat!(include_str!("common.cu"), include_str!("gather.cu")),
    kernels: &["gather"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn gather(&self, op: &Gather<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "gather";
        let width = op.table.shape().iter().skip(1).product::<usize>() as u64;
        let (table, y) = (self.launcher.stored(NAME, &op.table)?, self.launcher.write(NAME, &op.y)?);
        let row = width * activation(NAME, y.dtype)?;
        for (i, ids) in op.ids.chunks(IDS).enumerate() {
            let mut padded = [0; IDS];
            padded[..ids.len()].copy_from_slice(ids);
            let args = [
                Arg::Pointer(table.pointer),
                Arg::Int(table.number),
                Arg::Pointer(y.pointer + (i * IDS) as u64 * row),
                Arg::Long(width),
                Arg::Ids(&padded),
            ];
            let blocks = [over(width)[0], ids.len() as u64, 1];
            self.launcher.launch(Key::new(&PROGRAM, y.dtype), NAME, blocks, &args)?;
        }
        Ok(())
    }
}
