//! [`TopK`].

use super::super::device::Wgpu;
use super::super::launch::{flat, pieces};
use super::super::operand::{activation, count};
use super::super::pipeline::{Key, Program, Writes};
use crate::DeviceError;
use crate::ops::TopK;

static PROGRAM: Program =
    Program { name: "top_k", source: include_str!("top_k.wgsl"), writes: Writes::Itself { buffers: 2 } };

impl Wgpu {
    pub(super) fn top_k(&self, op: &TopK<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "top_k";
        let (m, width, k) = (op.x.shape().rows() as u64, op.x.shape().last(), op.k());
        let (x, y) = (self.launcher.read(NAME, &op.x)?, self.launcher.write(NAME, &op.indices)?);
        let (row, found) = (width as u64 * activation(NAME, x.dtype)?, k as u64 * 4);
        let key = Key::new(&PROGRAM, &[x.dtype], y.dtype);
        for (first, rows) in pieces(m, self.launcher.rows_at_once(NAME, row.max(found))?) {
            let x = self.launcher.window(NAME, &x, first * row, rows * row)?;
            let y = self.launcher.window(NAME, &y, first * found, rows * found)?;
            let parameters = [rows as u32, count(NAME, width)?, count(NAME, k)?, x.skip, y.skip_elements(4)];
            self.launcher.run(key, &[x, y], &parameters, flat(rows))?;
        }
        Ok(())
    }
}
