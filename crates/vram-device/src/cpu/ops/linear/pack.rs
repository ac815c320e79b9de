//! How x is laid out for the kernels.

use crate::cpu::isa::{Body, Isa, dispatch};
use crate::cpu::num::Act;
use crate::cpu::par::{Pool, Shared, for_each};

/// Rows of x that lie beside one another.
pub(crate) const PANEL: usize = 16;
/// Length of the partial sums of the f32 kernels: a part of the answer, since it fixes the order of additions.
pub(crate) const KC: usize = 256;
/// Values of k in one tile of bf16 pairs.
pub(crate) const TILE_K: usize = 32;

/// Lays x out as f32: for each block of [`KC`] columns, for each panel of sixteen rows, for each column sixteen values.
/// Rows past the end are zero.
pub(super) fn panels<A: Act>(isa: Isa, x: &[u8], m: usize, k: usize, out: &mut [u8], pool: Pool<'_>) {
    let rows = m.div_ceil(PANEL) * PANEL;
    let out = Shared::new(out);
    for_each(pool, rows / PANEL, |_, panel| {
        for k0 in (0..k).step_by(KC) {
            let len = KC.min(k - k0);
            // SAFETY: block `k0` begins after `k0` columns of all rows, and the panels in it lie one after the other;
            // the slice was cut to `rows * k` values, and each (panel, block) is visited once.
            let out = unsafe { out.slice((k0 * rows + panel * PANEL * len) * 4, PANEL * len * 4) };
            dispatch(
                isa,
                Panel::<A> { x, m, k, first: panel * PANEL, k0, len, out, act: std::marker::PhantomData },
            );
        }
    });
}

struct Panel<'a, A> {
    x: &'a [u8],
    m: usize,
    k: usize,
    first: usize,
    k0: usize,
    len: usize,
    out: &'a mut [u8],
    act: std::marker::PhantomData<A>,
}

impl<A: Act> Body for Panel<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let out = self.out.as_chunks_mut::<4>().0;
        for lane in 0..PANEL {
            let row = self.first + lane;
            let column = out.iter_mut().skip(lane).step_by(PANEL);
            if row < self.m {
                let start = (row * self.k + self.k0) * A::BYTES;
                let x = A::slice(&self.x[start..start + self.len * A::BYTES]);
                for (o, &v) in column.zip(x) {
                    *o = A::get(v).to_ne_bytes();
                }
            } else {
                column.for_each(|o| *o = [0; 4]);
            }
        }
    }
}

/// Lays bf16 x out in tiles of 1 KiB: for each panel of sixteen rows, for each [`TILE_K`] columns, sixteen rows of pairs
/// (k, k + 1), each row holding the pair of all sixteen rows of x. Rows and columns past the end are zero.
pub(super) fn pairs(isa: Isa, x: &[u8], m: usize, k: usize, out: &mut [u8], pool: Pool<'_>) {
    let tiles = k.div_ceil(TILE_K);
    let bytes = tiles * PANEL * TILE_K * 2;
    let out = Shared::new(out);
    for_each(pool, m.div_ceil(PANEL), |_, panel| {
        // SAFETY: the slice was cut to one such part per panel, and each panel is visited once.
        let out = unsafe { out.slice(panel * bytes, bytes) };
        dispatch(isa, Pairs { x, m, k, first: panel * PANEL, out });
    });
}

struct Pairs<'a> {
    x: &'a [u8],
    m: usize,
    k: usize,
    first: usize,
    out: &'a mut [u8],
}

impl Body for Pairs<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let out = self.out.as_chunks_mut::<4>().0;
        for lane in 0..PANEL {
            let row = self.first + lane;
            let mut column = out.iter_mut().skip(lane).step_by(PANEL);
            if row < self.m {
                let (pairs, rest) = self.x[row * self.k * 2..(row + 1) * self.k * 2].as_chunks::<4>();
                for (&pair, o) in pairs.iter().zip(column.by_ref()) {
                    *o = pair;
                }
                if let &[low, high] = rest {
                    column.by_ref().take(1).for_each(|o| *o = [low, high, 0, 0]);
                }
            }
            column.for_each(|o| *o = [0; 4]);
        }
    }
}
