//! [`Gather`].

use super::super::device::Wgpu;
use super::super::launch::{over_words, pieces};
use super::super::operand::{activation, count, stored};
use super::super::pipeline::{Key, Program, Writes};
use crate::DeviceError;
use crate::ops::Gather;

static PROGRAM: Program = Program {
    name: "gather",
    source: concat!(include_str!("../shaders/each.wgsl"), include_str!("gather.wgsl")),
    writes: Writes::Packed,
};

/// Ids that one launch of the gather passes with its parameters.
const IDS: usize = 4096;

impl Wgpu {
    pub(super) fn gather(&self, op: &Gather<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "gather";
        let width: usize = op.table.shape().iter().skip(1).product();
        let all = op.table.shape().first().copied().unwrap_or(0) as u64;
        let table = self.launcher.read(NAME, &op.table)?;
        let y = self.launcher.write(NAME, &op.y)?;
        let (row, stored_row) =
            (width as u64 * activation(NAME, y.dtype)?, width as u64 * stored(NAME, table.dtype)?);
        let key = Key::new(&PROGRAM, &[table.dtype], y.dtype);
        let at_once = self.launcher.rows_at_once(NAME, row)?.min(IDS as u64) as usize;
        for (i, ids) in op.ids.chunks(at_once).enumerate() {
            let (from, bytes) = ((i * at_once) as u64 * row, ids.len() as u64 * row);
            let to = self.launcher.window(NAME, &y, from, bytes)?;
            for (first, rows) in pieces(all, self.launcher.rows_at_once(NAME, stored_row)?) {
                let end = first + rows;
                if !ids.iter().any(|&id| (first..end).contains(&u64::from(id))) {
                    continue;
                }
                let part = self.launcher.window(NAME, &table, first * stored_row, rows * stored_row)?;
                let elements = count(NAME, ids.len() * width)?;
                let y_at = to.skip_elements(row / (width as u64).max(1));
                let mut parameters =
                    vec![elements, width as u32, part.skip, y_at, first as u32, end as u32, 0, 0];
                parameters.extend(ids);
                parameters.resize(8 + IDS, 0);
                self.launcher.run(key, &[part, to], &parameters, over_words(to.skip, bytes))?;
            }
        }
        Ok(())
    }
}
