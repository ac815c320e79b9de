//! [`GroupNorm`].
//!
//! Sums are taken over a few positions at a time, for all groups of these, while they are in the caches. They
//! are in f64, which is precise enough to get a variance from a sum of squares, so `x` is read only twice.

use std::marker::PhantomData;

use super::operand::{read, refused, room, stored, write};
use super::rows::{Grid, Stored, affine};
use crate::cpu::Cpu;
use crate::cpu::error::check_len;
use crate::cpu::isa::{Body, dispatch};
use crate::cpu::num::{Act, Elem, F32, with_act, with_weight};
use crate::cpu::par;
use crate::ops::{GroupNorm, Operation};
use crate::{DeviceError, ViewMut};

/// Positions that are summed at a time. It affects results, because it fixes the order of additions.
const POSITIONS: usize = 64;
/// Sums that run side by side. It affects results too.
const LANES: usize = 8;
/// Bytes of a sum and a sum of squares, in f64.
const SUMS: usize = 16;
/// Bytes of a mean and a scale, in f32.
const PART: usize = 8;

impl Cpu {
    pub(super) fn group_norm_scratch(&self, op: &GroupNorm<'_>) -> u64 {
        Layout::new(op).total as u64
    }

    pub(super) fn group_norm(
        &self,
        op: GroupNorm<'_>,
        scratch: Option<&mut ViewMut<'_>>,
    ) -> Result<(), DeviceError> {
        let (name, layout, (_, positions, channels)) = (op.name(), Layout::new(&op), op.extents());
        let GroupNorm { x, weight, bias, groups, eps, mut y } = op;
        let dtype = x.dtype();
        let weight = weight.as_ref().map(|weight| stored(name, weight)).transpose()?;
        let bias = bias.as_ref().map(|bias| stored(name, bias)).transpose()?;
        let (x, y) = (read(name, &x)?, write(name, &mut y)?);
        let affine = [("weight", weight), ("bias", bias)];
        let grid =
            Grid::new(x, channels, &affine, y, dtype, Some(&self.pool)).map_err(|e| refused(name, e))?;
        let Some(Grid { row, block, pool }) = grid else { return Ok(()) };
        let scratch = room(name, scratch)?;
        check_len("scratch", scratch.len(), &[layout.total]).map_err(|e| refused(name, e))?;
        let (parts, rest) = scratch[..layout.total].split_at_mut(layout.parts);
        let (w, rest) = rest.split_at_mut(layout.weight);
        let (b, sums) = rest.split_at_mut(layout.weight);
        let (blocks, width) = (positions.div_ceil(POSITIONS), channels / groups);

        with_act!(dtype, A => par::for_each_block(pool, sums, groups * SUMS, |task, sums| {
            let (item, first) = (task / blocks, task % blocks * POSITIONS);
            let count = POSITIONS.min(positions - first);
            let x = &x[(item * positions + first) * row..][..count * row];
            dispatch(self.isa, Sums::<A> { x, row, width, sums, types: PhantomData });
        }));
        for (i, part) in parts.as_chunks_mut::<PART>().0.iter_mut().enumerate() {
            let all = &sums.as_chunks::<SUMS>().0[i / groups * blocks * groups..][..blocks * groups];
            let own = all.iter().skip(i % groups).step_by(groups);
            *part = statistics(own, (positions * width) as f64, eps);
        }
        with_act!(dtype, A => {
            let weight = weight.map(|weight| widen::<A>(weight, w));
            let bias = bias.map(|bias| widen::<A>(bias, b));
            let parts = parts.as_chunks().0;
            par::for_each_block(pool, y, block, |i, y| {
                let first = i * (block / row);
                let x = &x[first * row..][..y.len()];
                let types = PhantomData;
                let apply = Apply::<A> { x, y, row, first, positions, groups, parts, weight, bias, types };
                dispatch(self.isa, apply);
            });
        });
        Ok(())
    }
}

/// Sizes of the parts of the scratch in bytes, in order; the sums are last.
struct Layout {
    /// Mean and scale of each item and group.
    parts: usize,
    /// The weight in f32; the bias takes as much again.
    weight: usize,
    total: usize,
}

impl Layout {
    fn new(op: &GroupNorm<'_>) -> Layout {
        let (batch, positions, channels) = op.extents();
        let groups = batch.saturating_mul(op.groups);
        let (parts, weight) = (groups.saturating_mul(PART), channels.saturating_mul(F32::BYTES));
        let sums = groups.saturating_mul(positions.div_ceil(POSITIONS)).saturating_mul(SUMS);
        let total = parts.saturating_add(weight.saturating_mul(2)).saturating_add(sums);
        Layout { parts, weight, total }
    }
}

/// The sums of each group over some positions.
struct Sums<'a, A> {
    x: &'a [u8],
    row: usize,
    width: usize,
    sums: &'a mut [u8],
    types: PhantomData<A>,
}

impl<A: Act> Body for Sums<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (group, to) in self.sums.as_chunks_mut::<SUMS>().0.iter_mut().enumerate() {
            let (mut sums, mut squares) = ([0f64; LANES], [0f64; LANES]);
            for row in self.x.chunks_exact(self.row) {
                for chunk in A::slice(row)[group * self.width..][..self.width].chunks(LANES) {
                    for ((sum, square), &v) in sums.iter_mut().zip(&mut squares).zip(chunk) {
                        let v = f64::from(A::get(v));
                        *sum += v;
                        *square += v * v;
                    }
                }
            }
            let (sum, square) = to.split_at_mut(SUMS / 2);
            sum.copy_from_slice(&sums.iter().sum::<f64>().to_le_bytes());
            square.copy_from_slice(&squares.iter().sum::<f64>().to_le_bytes());
        }
    }
}

/// Mean and scale from partial sums.
fn statistics<'a>(sums: impl Iterator<Item = &'a [u8; SUMS]>, count: f64, eps: f32) -> [u8; PART] {
    let (mut sum, mut square) = (0.0, 0.0);
    for part in sums {
        let [a, b] = *part.as_chunks::<8>().0 else { continue };
        sum += f64::from_le_bytes(a);
        square += f64::from_le_bytes(b);
    }
    let mean = sum / count;
    let variance = square / count - mean * mean;
    // A NaN stays a NaN.
    let variance = if variance < 0.0 { 0.0 } else { variance };
    let scale = 1.0 / (variance + f64::from(eps)).sqrt();
    let mut part = [0; PART];
    part[..4].copy_from_slice(&(mean as f32).to_le_bytes());
    part[4..].copy_from_slice(&(scale as f32).to_le_bytes());
    part
}

/// A weight or a bias, rounded to the compute dtype.
fn widen<'a, A: Act>((bytes, dtype): Stored<'_>, to: &'a mut [u8]) -> &'a [[u8; 4]] {
    let to = F32::slice_mut(to);
    with_weight!(dtype, W => {
        for (to, &from) in to.iter_mut().zip(W::slice(bytes)) {
            *to = F32::put(A::round(W::get(from)));
        }
    });
    to
}

/// Whole rows, beginning with row `first`.
struct Apply<'a, A> {
    x: &'a [u8],
    y: &'a mut [u8],
    row: usize,
    first: usize,
    positions: usize,
    groups: usize,
    parts: &'a [[u8; PART]],
    weight: Option<&'a [[u8; 4]]>,
    bias: Option<&'a [[u8; 4]]>,
    types: PhantomData<A>,
}

impl<A: Act> Body for Apply<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let rows = self.x.chunks_exact(self.row).zip(self.y.chunks_exact_mut(self.row));
        for (i, (x, y)) in rows.enumerate() {
            let parts = &self.parts[(self.first + i) / self.positions * self.groups..][..self.groups];
            let (x, y) = (A::slice(x), A::slice_mut(y));
            let width = x.len() / self.groups;
            for (group, part) in parts.iter().enumerate() {
                let [mean, scale] = *part.as_chunks::<4>().0 else { continue };
                let (mean, scale) = (f32::from_le_bytes(mean), f32::from_le_bytes(scale));
                let at = group * width..(group + 1) * width;
                let weight = self.weight.map(|weight| &weight[at.clone()]);
                let bias = self.bias.map(|bias| &bias[at.clone()]);
                let normal = |x: f32| (x - mean) * scale;
                affine::<A, F32, F32>(&x[at.clone()], weight, bias, &mut y[at], normal);
            }
        }
    }
}
