//! [`LayerNorm`].

use std::marker::PhantomData;

use vram_types::DType;

use super::operand::{read, refused, stored, write};
use super::rows::{Grid, affine, dtype_of, sum};
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::cpu::error::KernelError;
use crate::cpu::isa::{Body, Isa, dispatch};
use crate::cpu::num::{Act, Elem, with_act, with_weight};
use crate::cpu::par::{self, Pool};
use crate::ops::{LayerNorm, Operation};

/// `y = (x - mean) / sqrt(variance + eps) * weight + bias` for each row of x [rows, width], all in f32 and
/// rounded once. Weight and bias are rounded to `act`; if one is absent, its operation is skipped.
///
/// # Errors
/// If a dtype is not allowed in its place, or the lengths do not agree.
pub fn layer_norm(
    isa: Isa,
    x: &[u8],
    width: usize,
    weight: Option<(&[u8], DType)>,
    bias: Option<(&[u8], DType)>,
    eps: f32,
    y: &mut [u8],
    act: DType,
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    let affine = [("weight", weight), ("bias", bias)];
    let Some(grid) = Grid::new(x, width, &affine, y, act, pool)? else {
        return Ok(());
    };
    with_act!(act, A => with_weight!(dtype_of(weight), W => with_weight!(dtype_of(bias), B => {
        par::for_each_block(grid.pool, y, grid.block, |i, y| {
            let x = &x[i * grid.block..][..y.len()];
            let (w, b) = (weight.map(|w| &w.0[..width * W::BYTES]), bias.map(|b| &b.0[..width * B::BYTES]));
            dispatch(isa, Layer::<A, W, B> { x, y, row: grid.row, w, b, eps, types: PhantomData });
        });
    })));
    Ok(())
}

impl Cpu {
    pub(super) fn layer_norm(&self, op: LayerNorm<'_>) -> Result<(), DeviceError> {
        let name = op.name();
        let LayerNorm { x, weight, bias, eps, mut y } = op;
        layer_norm(
            self.isa,
            read(name, &x)?,
            x.shape().last(),
            weight.as_ref().map(|weight| stored(name, weight)).transpose()?,
            bias.as_ref().map(|bias| stored(name, bias)).transpose()?,
            eps,
            write(name, &mut y)?,
            x.dtype(),
            Some(&self.pool),
        )
        .map_err(|e| refused(name, e))
    }
}

struct Layer<'a, A, W, B> {
    x: &'a [u8],
    y: &'a mut [u8],
    row: usize,
    w: Option<&'a [u8]>,
    b: Option<&'a [u8]>,
    eps: f32,
    types: PhantomData<(A, W, B)>,
}

impl<A: Act, W: Elem, B: Elem> Body for Layer<'_, A, W, B> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (w, b) = (self.w.map(W::slice), self.b.map(B::slice));
        for (x, y) in self.x.chunks_exact(self.row).zip(self.y.chunks_exact_mut(self.row)) {
            let x = A::slice(x);
            let mean = sum::<A>(x, |v| v) / x.len() as f32;
            let variance = sum::<A>(x, |v| (v - mean) * (v - mean)) / x.len() as f32;
            let scale = 1.0 / (variance + self.eps).sqrt();
            affine::<A, W, B>(x, w, b, A::slice_mut(y), |x| (x - mean) * scale);
        }
    }
}
