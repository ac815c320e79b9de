//! [`GroupNorm`], item by item in three launches: sums over chunks of positions, the resulting factors for
//! each channel, and the result.

use vram_types::DType;

use super::super::device::Wgpu;
use super::super::launch::{flat, over_words, pieces};
use super::super::operand::{Operand, activation, count, stored};
use super::super::pipeline::{Key, Program, Writes};
use crate::ops::GroupNorm;
use crate::{DeviceError, ViewMut};

static SUMS: Program = Program {
    name: "group_norm: sums",
    source: concat!(include_str!("../shaders/total.wgsl"), include_str!("group_norm_sums.wgsl")),
    writes: Writes::Scattered,
};

/// Computes the factors from the sums, with expressions for the weight and the bias of channel `i`: ones and
/// zeros if absent.
macro_rules! moments {
    ($name:literal, $weight:literal, $bias:literal) => {
        Program {
            name: $name,
            source: concat!(
                include_str!("../shaders/total.wgsl"),
                include_str!("group_norm_moments.wgsl"),
                "fn weight(i: u32) -> f32 { return ",
                $weight,
                "; }\nfn bias(i: u32) -> f32 { return ",
                $bias,
                "; }\n"
            ),
            writes: Writes::Scattered,
        }
    };
}

static PLAIN: Program = moments!("group_norm: moments", "1.0", "0.0");
static SCALED: Program = moments!("group_norm: moments, weight", "rounded(read0(p.first, i))", "0.0");
static SHIFTED: Program = moments!("group_norm: moments, bias", "1.0", "rounded(read0(p.first, i))");
static AFFINE: Program = moments!(
    "group_norm: moments, weight, bias",
    "rounded(read0(p.first, i))",
    "rounded(read1(p.second, i))"
);

static RESULT: Program = Program {
    name: "group_norm",
    source: concat!(include_str!("../shaders/each.wgsl"), include_str!("group_norm.wgsl")),
    writes: Writes::Packed,
};

/// Positions of a chunk: few enough for an adapter with small bindings.
const CHUNK: u64 = 32;

/// Values per chunk and group, and per channel.
const PART: u64 = 2;
const ENTRY: u64 = 3;

/// Elements of the sums of an item; the table of its channels follows.
fn sums(op: &GroupNorm<'_>) -> u64 {
    let (_, positions, _) = op.extents();
    (positions as u64).div_ceil(CHUNK).saturating_mul(op.groups as u64).saturating_mul(PART)
}

impl Wgpu {
    pub(super) fn group_norm_scratch(&self, op: &GroupNorm<'_>) -> u64 {
        let (_, _, channels) = op.extents();
        sums(op).saturating_add((channels as u64).saturating_mul(ENTRY)).saturating_mul(4)
    }

    pub(super) fn group_norm(
        &self,
        op: &GroupNorm<'_>,
        scratch: Option<&ViewMut<'_>>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "group_norm";
        let (batch, positions, channels) = op.extents();
        let (positions, groups) = (positions as u64, op.groups as u64);
        let (x, y) = (self.launcher.read(NAME, &op.x)?, self.launcher.write(NAME, &op.y)?);
        let (act, size) = (y.dtype, activation(NAME, y.dtype)?);
        let (mut affine, mut reads) = (Vec::new(), Vec::new());
        for view in op.weight.iter().chain(&op.bias) {
            let operand = self.launcher.read(NAME, view)?;
            stored(NAME, operand.dtype)?;
            reads.push(operand.dtype);
            affine.push(self.launcher.whole(NAME, &operand)?);
        }
        if batch == 0 || positions == 0 || channels == 0 {
            return Ok(());
        }
        let needed = self.group_norm_scratch(op);
        let Some(scratch) = scratch.filter(|view| view.meta().bytes() >= needed) else {
            return Err(DeviceError::shape(NAME, format!("less scratch than {needed} bytes")));
        };
        let scratch = Operand { dtype: DType::F32, ..self.launcher.write(NAME, scratch)? };
        if !scratch.at.is_multiple_of(4) {
            return Err(DeviceError::shape(NAME, "the scratch does not begin at a multiple of 4 bytes"));
        }
        let program = match (&op.weight, &op.bias) {
            (None, None) => &PLAIN,
            (Some(_), None) => &SCALED,
            (None, Some(_)) => &SHIFTED,
            (Some(_), Some(_)) => &AFFINE,
        };
        let row = channels as u64 * size;
        let width = count(NAME, channels / op.groups)?;
        let channels = count(NAME, channels)?;
        let groups_here = count(NAME, op.groups)?;
        let at_once = self.launcher.rows_at_once(NAME, row)?;
        let (table, end) = (sums(op), needed / 4);
        let all = self.launcher.window(NAME, &scratch, 0, needed)?;
        let entries = self.launcher.window(NAME, &scratch, table * 4, (end - table) * 4)?;
        for item in 0..batch as u64 {
            // Whole chunks, so that limits change no sum.
            let chunks = self.launcher.rows_at_once(NAME, row * CHUNK)?;
            for (first, n) in pieces(positions.div_ceil(CHUNK), chunks) {
                let (first_row, rows) = (first * CHUNK, (n * CHUNK).min(positions - first * CHUNK));
                let x = self.launcher.window(NAME, &x, (item * positions + first_row) * row, rows * row)?;
                let part = groups * PART * 4;
                let to = self.launcher.window(NAME, &scratch, first * part, n * part)?;
                let parameters = [
                    count(NAME, (n * groups) as usize)?,
                    groups_here,
                    width,
                    channels,
                    rows as u32,
                    CHUNK as u32,
                    x.skip,
                    to.skip_elements(4),
                ];
                let key = Key::new(&SUMS, &[act], DType::F32);
                self.launcher.run(key, &[x, to], &parameters, flat(n * groups))?;
            }
            let skip = |i: usize| affine.get(i).map_or(0, |window| window.skip);
            let parameters = [
                groups_here,
                width,
                count(NAME, positions as usize)?,
                CHUNK as u32,
                count(NAME, positions.div_ceil(CHUNK) as usize)?,
                all.skip_elements(4),
                all.skip_elements(4) + count(NAME, table as usize)?,
                skip(0),
                skip(1),
                op.eps.to_bits(),
            ];
            let key = Key { act, ..Key::new(program, &reads, DType::F32) };
            let windows: Vec<_> = affine.iter().copied().chain([all]).collect();
            self.launcher.run(key, &windows, &parameters, flat(groups))?;
            for (first, rows) in pieces(positions, at_once) {
                let (from, bytes) = ((item * positions + first) * row, rows * row);
                let x = self.launcher.window(NAME, &x, from, bytes)?;
                let y = self.launcher.window(NAME, &y, from, bytes)?;
                let parameters =
                    [(bytes / size) as u32, channels, x.skip, entries.skip, y.skip_elements(size)];
                let key = Key::new(&RESULT, &[act, DType::F32], act);
                self.launcher.run(key, &[x, entries, y], &parameters, over_words(y.skip, bytes))?;
            }
        }
        Ok(())
    }
}
