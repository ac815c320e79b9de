//! [`RmsNorm`].

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
use crate::ops::{Operation, RmsNorm};

/// `y = round(x * rsqrt(mean(x^2) + eps)) * weight` for each row of x [rows, width].
///
/// The mean and the product with the reciprocal root are in f32. The product is rounded to `act`, multiplied
/// by the weight (rounded to `act`) if there is one, and rounded again.
///
/// # Errors
/// If a dtype is not allowed in its place, or the lengths do not agree.
pub fn rms_norm(
    isa: Isa,
    x: &[u8],
    width: usize,
    weight: Option<(&[u8], DType)>,
    eps: f32,
    y: &mut [u8],
    act: DType,
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    let Some(grid) = Grid::new(x, width, &[("weight", weight)], y, act, pool)? else {
        return Ok(());
    };
    with_act!(act, A => with_weight!(dtype_of(weight), W => {
        par::for_each_block(grid.pool, y, grid.block, |i, y| {
            let x = &x[i * grid.block..][..y.len()];
            let (w, types) = (weight.map(|w| &w.0[..width * W::BYTES]), PhantomData);
            dispatch(isa, Rms::<A, W> { x, y, row: grid.row, w, eps, types });
        });
    }));
    Ok(())
}

impl Cpu {
    pub(super) fn rms_norm(&self, op: RmsNorm<'_>) -> Result<(), DeviceError> {
        let name = op.name();
        let RmsNorm { x, weight, eps, mut y } = op;
        rms_norm(
            self.isa,
            read(name, &x)?,
            x.shape().last(),
            weight.as_ref().map(|weight| stored(name, weight)).transpose()?,
            eps,
            write(name, &mut y)?,
            x.dtype(),
            Some(&self.pool),
        )
        .map_err(|e| refused(name, e))
    }
}

struct Rms<'a, A, W> {
    x: &'a [u8],
    y: &'a mut [u8],
    row: usize,
    w: Option<&'a [u8]>,
    eps: f32,
    types: PhantomData<(A, W)>,
}

impl<A: Act, W: Elem> Body for Rms<'_, A, W> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let w = self.w.map(W::slice);
        for (x, y) in self.x.chunks_exact(self.row).zip(self.y.chunks_exact_mut(self.row)) {
            let x = A::slice(x);
            let mean = sum::<A>(x, |v| v * v) / x.len() as f32;
            let scale = 1.0 / (mean + self.eps).sqrt();
            affine::<A, W, W>(x, w, None, A::slice_mut(y), |x| A::round(x * scale));
        }
    }
}
