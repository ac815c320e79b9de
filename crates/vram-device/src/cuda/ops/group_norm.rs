//! [`GroupNorm`], in three launches: sums over chunks of positions, the resulting factors for each channel,
//! and the result.

use super::super::device::Cuda;
use super::super::launch::{Arg, over};
use super::super::operand::count;
use super::super::program::{Key, Program};
use crate::ops::GroupNorm;
use crate::{DeviceError, ViewMut};

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "group_norm",
    source: concat!(include_str!("common.cu"), include_str!("total.cu"), include_str!("group_norm.cu")),
    kernels: &["group_norm_sums", "group_norm_moments", "group_norm"],
    by_weight: false,
};

/// Elements of a group that a block adds up.
const ELEMENTS: usize = 4096;

/// How a norm is divided; sizes in bytes of f32.
struct Layout {
    /// Positions of a chunk, by the width of a group alone.
    chunk: u64,
    chunks: u64,
    /// Size of the sums, and of the sums and the table.
    sums: u64,
    total: u64,
}

impl Layout {
    fn new(op: &GroupNorm<'_>) -> Layout {
        let (batch, positions, channels) = op.extents();
        let chunk = (ELEMENTS / (channels / op.groups.max(1)).max(1)).max(1) as u64;
        let chunks = (positions as u64).div_ceil(chunk);
        let sums = (batch as u64).saturating_mul(chunks).saturating_mul(op.groups as u64).saturating_mul(8);
        let table = (batch as u64).saturating_mul(channels as u64).saturating_mul(12);
        Layout { chunk, chunks, sums, total: sums.saturating_add(table) }
    }
}

impl Cuda {
    pub(super) fn group_norm_scratch(&self, op: &GroupNorm<'_>) -> u64 {
        Layout::new(op).total
    }

    pub(super) fn group_norm(
        &self,
        op: &GroupNorm<'_>,
        scratch: Option<&ViewMut<'_>>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "group_norm";
        let (batch, positions, channels) = op.extents();
        let Layout { chunk, chunks, sums, total } = Layout::new(op);
        let (x, y) = (self.launcher.read(NAME, &op.x)?, self.launcher.write(NAME, &op.y)?);
        let (weight, weight_dtype) = self.launcher.optional(NAME, op.weight.as_ref())?;
        let (bias, bias_dtype) = self.launcher.optional(NAME, op.bias.as_ref())?;
        let elements = positions as u64 * channels as u64;
        if batch == 0 || elements == 0 {
            return Ok(());
        }
        let Some(scratch) = scratch.filter(|view| view.meta().bytes() >= total) else {
            return Err(DeviceError::shape(NAME, format!("less scratch than {total} bytes")));
        };
        let parts = self.launcher.bytes_mut(NAME, scratch, 4)?;
        let table = parts + sums;
        let (groups, items) = (op.groups as u64, batch as u64);
        let width = count(NAME, channels / op.groups)?;
        let (positions, channels) = (Arg::Long(positions as u64), Arg::Int(count(NAME, channels)?));
        let key = Key::new(&PROGRAM, y.dtype);
        let args = [
            Arg::Pointer(x.pointer),
            Arg::Pointer(parts),
            positions,
            channels,
            Arg::Int(width),
            Arg::Long(chunk),
        ];
        self.launcher.launch(key, "group_norm_sums", [chunks, groups, items], &args)?;
        let args = [
            Arg::Pointer(parts),
            Arg::Pointer(table),
            weight,
            weight_dtype,
            bias,
            bias_dtype,
            Arg::Float(op.eps),
            positions,
            channels,
            Arg::Int(width),
            Arg::Long(chunk),
            Arg::Long(chunks),
        ];
        self.launcher.launch(key, "group_norm_moments", [groups, items, 1], &args)?;
        let args = [
            Arg::Pointer(x.pointer),
            Arg::Pointer(table),
            Arg::Pointer(y.pointer),
            channels,
            Arg::Long(elements),
        ];
        self.launcher.launch(key, NAME, [over(elements)[0], items, 1], &args)
    }
}
