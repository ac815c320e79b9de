//! A few rows of weights, rounded to the compute dtype, in a tile that stays in the first-level cache.

use std::marker::PhantomData;

use vram_types::DType;

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
        let last = self.k0 + self.len == self.k;
        let ahead = if last { (self.rows - 1) * self.k + self.len } else { self.len } * W::BYTES;
        for (r, out) in self.out.chunks_exact_mut(self.ld).take(self.rows).enumerate() {
            let start = ((self.first + r) * self.k + self.k0) * W::BYTES;
            let w = W::slice(&self.w[start..start + self.len * W::BYTES]);
            // Each tile fetches the one that follows: the same rows further on, or the rows after them.
            #[cfg(target_arch = "x86_64")]
            for line in (0..self.len * W::BYTES).step_by(64) {
                use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
                // SAFETY: a prefetch reads nothing, wherever it points.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T1>(self.w.as_ptr().wrapping_add(start + ahead + line).cast());
                };
            }
            if fits::<A, W>() {
                for (o, &w) in out[..self.len].iter_mut().zip(w) {
                    *o = W::get(w);
                }
            } else {
                for (o, &w) in out[..self.len].iter_mut().zip(w) {
                    *o = A::round(W::get(w));
                }
            }
        }
    }
}

/// Whether every `W` is an `A` already.
#[inline(always)]
fn fits<A: Act, W: Elem>() -> bool {
    A::DTYPE == DType::F32 || W::DTYPE == A::DTYPE || W::BYTES == 1
}
