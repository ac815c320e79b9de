//! Normalisation of rows.

use std::marker::PhantomData;

use vram_types::DType;

use super::error::{KernelError, check_len};
use super::isa::{Body, Isa, dispatch};
use super::num::{Act, Elem, act_bytes, weight_bytes, with_act, with_weight};
use super::par::{self, Pool};

/// Sums that run side by side; a part of the answer, since it fixes the order of additions.
const LANES: usize = 32;
/// Bytes that a task works on, at least a row.
const BLOCK: usize = 16 << 10;

/// `y = round(x * rsqrt(mean(x^2) + eps)) * weight` for each row of x [rows, width].
///
/// The mean and the product with the reciprocal root are in f32; that is rounded to `act`, multiplied by the weight
/// (rounded to `act`), and rounded again.
///
/// # Errors
/// If a dtype is not one for its place or the lengths do not agree.
pub fn rms_norm(
    isa: Isa,
    x: &[u8],
    width: usize,
    weight: (&[u8], DType),
    eps: f32,
    y: &mut [u8],
    act: DType,
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    let Some(grid) = Grid::new(x, width, &[("weight", weight)], y, act, pool)? else {
        return Ok(());
    };
    with_act!(act, A => with_weight!(weight.1, W => {
        par::for_each_block(grid.pool, y, grid.block, |i, y| {
            let x = &x[i * grid.block..][..y.len()];
            let (w, types) = (&weight.0[..width * W::BYTES], PhantomData);
            dispatch(isa, Rms::<A, W> { x, y, row: grid.row, w, eps, types });
        });
    }));
    Ok(())
}

/// `y = (x - mean) / sqrt(variance + eps) * weight + bias` for each row of x [rows, width], all in f32 and rounded once.
///
/// # Errors
/// If a dtype is not one for its place, or the lengths do not agree.
pub fn layer_norm(
    isa: Isa,
    x: &[u8],
    width: usize,
    weight: (&[u8], DType),
    bias: (&[u8], DType),
    eps: f32,
    y: &mut [u8],
    act: DType,
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    let affine = [("weight", weight), ("bias", bias)];
    let Some(grid) = Grid::new(x, width, &affine, y, act, pool)? else {
        return Ok(());
    };
    with_act!(act, A => with_weight!(weight.1, W => with_weight!(bias.1, B => {
        par::for_each_block(grid.pool, y, grid.block, |i, y| {
            let x = &x[i * grid.block..][..y.len()];
            let (w, b) = (&weight.0[..width * W::BYTES], &bias.0[..width * B::BYTES]);
            dispatch(isa, Layer::<A, W, B> { x, y, row: grid.row, w, b, eps, types: PhantomData });
        });
    })));
    Ok(())
}

struct Grid<'a> {
    row: usize,
    block: usize,
    pool: Pool<'a>,
}

impl<'a> Grid<'a> {
    /// The blocks of rows; `None` if there are no elements.
    fn new(
        x: &[u8],
        width: usize,
        affine: &[(&'static str, (&[u8], DType))],
        y: &[u8],
        act: DType,
        pool: Pool<'a>,
    ) -> Result<Option<Grid<'a>>, KernelError> {
        let row = width.saturating_mul(act_bytes("act", act)?);
        for &(what, (bytes, dtype)) in affine {
            check_len(what, bytes.len(), &[width, weight_bytes(what, dtype)?])?;
        }
        if x.len() != y.len() {
            return Err(KernelError::Length { what: "x", needed: y.len(), given: x.len() });
        }
        if y.is_empty() {
            return Ok(None);
        }
        if row == 0 || !y.len().is_multiple_of(row) {
            return Err(KernelError::Shape { what: "x and y do not consist of whole rows" });
        }
        Ok(Some(Grid { row, block: row * (BLOCK / row).max(1), pool: par::worth(pool, y.len()) }))
    }
}

/// The sum of `f(x)` over a row, in [`LANES`] partial sums that are then added pairwise.
#[inline(always)]
fn sum<A: Act>(row: &[A::Raw], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (s, &x) in sums.iter_mut().zip(chunk) {
            *s += f(A::get(x));
        }
    }
    for (s, &x) in sums.iter_mut().zip(rest) {
        *s += f(A::get(x));
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

struct Rms<'a, A, W> {
    x: &'a [u8],
    y: &'a mut [u8],
    row: usize,
    w: &'a [u8],
    eps: f32,
    types: PhantomData<(A, W)>,
}

impl<A: Act, W: Elem> Body for Rms<'_, A, W> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let w = W::slice(self.w);
        for (x, y) in self.x.chunks_exact(self.row).zip(self.y.chunks_exact_mut(self.row)) {
            let x = A::slice(x);
            let mean = sum::<A>(x, |v| v * v) / x.len() as f32;
            let scale = 1.0 / (mean + self.eps).sqrt();
            for ((y, &x), &w) in A::slice_mut(y).iter_mut().zip(x).zip(w) {
                *y = A::put(A::round(A::get(x) * scale) * A::round(W::get(w)));
            }
        }
    }
}

struct Layer<'a, A, W, B> {
    x: &'a [u8],
    y: &'a mut [u8],
    row: usize,
    w: &'a [u8],
    b: &'a [u8],
    eps: f32,
    types: PhantomData<(A, W, B)>,
}

impl<A: Act, W: Elem, B: Elem> Body for Layer<'_, A, W, B> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (w, b) = (W::slice(self.w), B::slice(self.b));
        for (x, y) in self.x.chunks_exact(self.row).zip(self.y.chunks_exact_mut(self.row)) {
            let x = A::slice(x);
            let mean = sum::<A>(x, |v| v) / x.len() as f32;
            let variance = sum::<A>(x, |v| (v - mean) * (v - mean)) / x.len() as f32;
            let scale = 1.0 / (variance + self.eps).sqrt();
            for (((y, &x), &w), &b) in A::slice_mut(y).iter_mut().zip(x).zip(w).zip(b) {
                let normal = (A::get(x) - mean) * scale;
                *y = A::put(normal * A::round(W::get(w)) + A::round(B::get(b)));
            }
        }
    }
}
