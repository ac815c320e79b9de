//! [`Rotary`].

use vram_types::DType;

use super::super::device::Wgpu;
use super::super::launch::{flat, pieces};
use super::super::operand::{activation, count};
use super::super::pipeline::{Key, Program, Writes};
use crate::DeviceError;
use crate::ops::{Rotary, RotaryForm};

static PROGRAM: Program =
    Program { name: "rotary", source: include_str!("rotary.wgsl"), writes: Writes::Scattered };

/// Threads of a workgroup.
const GROUP: u64 = 64;

impl Wgpu {
    pub(super) fn rotary(&self, op: &Rotary<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "rotary";
        let (m, width, angles) =
            (op.x.shape().rows() as u64, op.x.shape().last() as u64, op.table.shape().last() as u64);
        let (table, x) = (self.launcher.read(NAME, &op.table)?, self.launcher.write(NAME, &op.x)?);
        let size = activation(NAME, x.dtype)?;
        if angles == 0 || width == 0 {
            return Ok(());
        }
        let key = Key::new(&PROGRAM, &[DType::F32], x.dtype);
        let [heads, head_dim] = [count(NAME, op.heads)?, count(NAME, op.head_dim())?];
        let pairs = angles / 2;
        // A head has no more angles than elements, but they may be wider.
        let at_once = self.launcher.rows_at_once(NAME, (width * size).max(angles * 4))?;
        for (first, rows) in pieces(m, at_once) {
            let table = self.launcher.window(NAME, &table, first * angles * 4, rows * angles * 4)?;
            let x = self.launcher.window(NAME, &x, first * width * size, rows * width * size)?;
            let interleaved = u32::from(op.form == RotaryForm::Interleaved);
            let parameters =
                [rows as u32, heads, head_dim, pairs as u32, table.skip, x.skip_elements(size), interleaved];
            let threads = rows * u64::from(heads) * pairs.div_ceil(2);
            self.launcher.run(key, &[table, x], &parameters, flat(threads.div_ceil(GROUP)))?;
        }
        Ok(())
    }
}
