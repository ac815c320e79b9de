//! A few rows of weights, rounded to the compute dtype, in a tile that stays in the first-level cache.

use std::marker::PhantomData;

use super::super::isa::Body;
use super::super::num::{Act, Elem};

/// Rounds `len` values from column `k0` of rows `first..first + rows` to `A`, widened to f32, into rows of `ld`.
pub(super) struct Widen<'a, A, W> {
    pub(super) w: &'a [u8],
    pub(super) k: usize,
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) k0: usize,
    pub(super) len: usize,
    pub(super) out: &'a mut [f32],
    pub(super) ld: usize,
    pub(super) types: PhantomData<(A, W)>,
}

impl<A: Act, W: Elem> Body for Widen<'_, A, W> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (r, out) in self.out.chunks_exact_mut(self.ld).take(self.rows).enumerate() {
            let start = ((self.first + r) * self.k + self.k0) * W::BYTES;
            let w = W::slice(&self.w[start..start + self.len * W::BYTES]);
            for (o, &w) in out[..self.len].iter_mut().zip(w) {
                *o = A::round(W::get(w));
            }
        }
    }
}
