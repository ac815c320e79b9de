//! What norms share: rows in blocks, and sums over a row.

use vram_types::DType;

use crate::cpu::error::{KernelError, check_len};
use crate::cpu::num::{Act, Elem, act_bytes, weight_bytes};
use crate::cpu::par::{self, BLOCK, Pool};

/// Sums that run side by side. It affects results, because it fixes the order of additions.
const LANES: usize = 32;

/// A weight or a bias, in its storage dtype.
pub(super) type Stored<'a> = (&'a [u8], DType);

/// The dtype to assume for an absent weight.
pub(super) fn dtype_of(stored: Option<Stored<'_>>) -> DType {
    stored.map_or(DType::F32, |(_, dtype)| dtype)
}

/// Rows of a tensor in blocks, each a task.
pub(super) struct Grid<'a> {
    pub(super) row: usize,
    pub(super) block: usize,
    pub(super) pool: Pool<'a>,
}

impl<'a> Grid<'a> {
    /// The blocks of rows; `None` if there are no elements.
    pub(super) fn new(
        x: &[u8],
        width: usize,
        affine: &[(&'static str, Option<Stored<'_>>)],
        y: &[u8],
        act: DType,
        pool: Pool<'a>,
    ) -> Result<Option<Grid<'a>>, KernelError> {
        let row = width.saturating_mul(act_bytes("act", act)?);
        for &(what, stored) in affine {
            if let Some((bytes, dtype)) = stored {
                check_len(what, bytes.len(), &[width, weight_bytes(what, dtype)?])?;
            }
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
pub(super) fn sum<A: Act>(row: &[A::Raw], f: impl Fn(f32) -> f32) -> f32 {
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

/// `y = normal(x) * weight + bias`, rounded once; an absent weight or bias is skipped.
#[inline(always)]
pub(super) fn affine<A: Act, W: Elem, B: Elem>(
    x: &[A::Raw],
    weight: Option<&[W::Raw]>,
    bias: Option<&[B::Raw]>,
    y: &mut [A::Raw],
    normal: impl Fn(f32) -> f32,
) {
    let both = y.iter_mut().zip(x);
    match (weight, bias) {
        (Some(w), Some(b)) => {
            for (((y, &x), &w), &b) in both.zip(w).zip(b) {
                *y = A::put(normal(A::get(x)) * A::round(W::get(w)) + A::round(B::get(b)));
            }
        }
        (Some(w), None) => {
            for ((y, &x), &w) in both.zip(w) {
                *y = A::put(normal(A::get(x)) * A::round(W::get(w)));
            }
        }
        (None, Some(b)) => {
            for ((y, &x), &b) in both.zip(b) {
                *y = A::put(normal(A::get(x)) + A::round(B::get(b)));
            }
        }
        (None, None) => {
            for (y, &x) in both {
                *y = A::put(normal(A::get(x)));
            }
        }
    }
}
