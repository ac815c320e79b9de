//! A few rows of weights, decoded and rounded to the compute dtype, in a tile that stays in the first-level cache.

use std::marker::PhantomData;

use vram_types::{BlockType, DType};

use crate::cpu::isa::{Body, Isa, dispatch};
use crate::cpu::num::{Act, Elem};
use crate::cpu::ops::scaled::Scaled;

/// What the tiles of a weight are made from: numbers of a dtype ([`Plain`]), or what is decoded to f32 first ([`Decoded`]).
pub(super) trait Source: Copy + Sync {
    /// Rounds a piece of the weight to `A`, widened to f32, into rows of `ld`.
    fn widen<A: Act>(self, isa: Isa, piece: Piece<'_>, out: &mut [f32], ld: usize);
}

/// `len` values from column `k0` of rows `first..first + rows` of a weight of `k` columns. In a weight of quantised blocks
/// they are whole blocks: `k` is, and tiles begin at multiples of the largest block.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) w: &'a [u8],
    pub(super) k: usize,
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) k0: usize,
    pub(super) len: usize,
}

/// Numbers of the type `W`.
pub(super) struct Plain<W>(pub(super) PhantomData<W>);

impl<W> Clone for Plain<W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Plain<W> {}

impl<W: Elem> Source for Plain<W> {
    fn widen<A: Act>(self, isa: Isa, piece: Piece<'_>, out: &mut [f32], ld: usize) {
        dispatch(isa, Widen::<A, W> { piece, out, ld, types: PhantomData });
    }
}

/// How rows are decoded.
pub(super) trait Decode: Copy + Sync {
    /// The values of row `r` of a piece.
    fn decode(self, piece: &Piece<'_>, r: usize, out: &mut [f32]);

    /// The type of the blocks that rows consist of, if they do.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // kernels for blocks are for x86-64
    fn block(self) -> Option<BlockType> {
        None
    }
}

/// Rows that are decoded to f32 before they are rounded.
#[derive(Clone, Copy)]
pub(super) struct Decoded<D>(pub(super) D);

impl<D: Decode> Source for Decoded<D> {
    fn widen<A: Act>(self, isa: Isa, piece: Piece<'_>, out: &mut [f32], ld: usize) {
        for (r, out) in out.chunks_exact_mut(ld).take(piece.rows).enumerate() {
            let out = &mut out[..piece.len];
            self.0.decode(&piece, r, out);
            if A::DTYPE != DType::F32 {
                dispatch(isa, Round::<A> { values: out, act: PhantomData });
            }
        }
    }
}

impl Decode for BlockType {
    /// The values are whole blocks.
    fn decode(self, piece: &Piece<'_>, r: usize, out: &mut [f32]) {
        let bytes = |elements: usize| elements / self.block_elements() as usize * self.block_bytes() as usize;
        let start = (piece.first + r) * bytes(piece.k) + bytes(piece.k0);
        let decoded = self.decode_f32(&piece.w[start..start + bytes(piece.len)], out);
        debug_assert_eq!(decoded, Ok(()), "a piece is whole blocks");
    }

    fn block(self) -> Option<BlockType> {
        Some(self)
    }
}

impl Decode for &Scaled<'_> {
    fn decode(self, piece: &Piece<'_>, r: usize, out: &mut [f32]) {
        self.values((piece.first + r) * piece.k + piece.k0, out);
    }
}

struct Widen<'a, A, W> {
    piece: Piece<'a>,
    out: &'a mut [f32],
    ld: usize,
    types: PhantomData<(A, W)>,
}

impl<A: Act, W: Elem> Body for Widen<'_, A, W> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Piece { w: weight, k, first, rows, k0, len } = self.piece;
        let last = k0 + len == k;
        let ahead = if last { (rows - 1) * k + len } else { len } * W::BYTES;
        for (r, out) in self.out.chunks_exact_mut(self.ld).take(rows).enumerate() {
            let start = ((first + r) * k + k0) * W::BYTES;
            let w = W::slice(&weight[start..start + len * W::BYTES]);
            // Each tile fetches the one that follows: the same rows further on, or the rows after them.
            #[cfg(target_arch = "x86_64")]
            for line in (0..len * W::BYTES).step_by(64) {
                use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
                // SAFETY: a prefetch reads nothing, wherever it points.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T1>(weight.as_ptr().wrapping_add(start + ahead + line).cast());
                };
            }
            if fits::<A, W>() {
                for (o, &w) in out[..len].iter_mut().zip(w) {
                    *o = W::get(w);
                }
            } else {
                for (o, &w) in out[..len].iter_mut().zip(w) {
                    *o = A::round(W::get(w));
                }
            }
        }
    }
}

/// Rounds values in place.
struct Round<'a, A> {
    values: &'a mut [f32],
    act: PhantomData<A>,
}

impl<A: Act> Body for Round<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.values.iter_mut().for_each(|value| *value = A::round(*value));
    }
}

/// Whether every `W` is an `A` already.
#[inline(always)]
pub(super) fn fits<A: Act, W: Elem>() -> bool {
    A::DTYPE == DType::F32 || W::DTYPE == A::DTYPE || W::BYTES == 1
}
