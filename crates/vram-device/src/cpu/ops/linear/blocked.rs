//! The f32 kernels for many rows of x: who computes which part of y, and in which order memory is walked.

use std::marker::PhantomData;

use super::args::LinearArgs;
use super::micro::{Job, Micro};
use super::pack::{KC, PANEL};
use super::tile::{Piece, Source};
use crate::cpu::isa::{Body, Isa, dispatch};
use crate::cpu::num::{Act, Elem, with_weight};
use crate::cpu::par::{Pool, Shared, for_each};

/// Rows of weights in a task; a multiple of every [`Micro::NR`].
const TASK: usize = 48;
/// Rows of x whose sums a task holds at once.
const MC: usize = 256;
/// Up to so many panels x stays in the second-level cache whole, and the weights are best walked row by row.
const FEW_PANELS: usize = 2;
/// The largest [`Micro::NR`].
const MAX_NR: usize = 12;

pub(super) struct Blocked<'a, A, S> {
    isa: Isa,
    args: &'a LinearArgs<'a>,
    source: S,
    y: &'a Shared<'a, u8>,
    act: PhantomData<A>,
}

impl<'a, A: Act, S: Source> Blocked<'a, A, S> {
    pub(super) fn new(isa: Isa, args: &'a LinearArgs<'a>, source: S, y: &'a Shared<'a, u8>) -> Self {
        Blocked { isa, args, source, y, act: PhantomData }
    }

    pub(super) fn run<M: Micro>(&self, pool: Pool<'_>) {
        const { assert!(TASK.is_multiple_of(M::NR) && M::NR <= MAX_NR) };
        for_each(pool, self.args.n.div_ceil(TASK), |_, task| {
            let first = task * TASK;
            let last = self.args.n.min(first + TASK);
            let panels = self.args.m.div_ceil(PANEL);
            let group = if panels <= FEW_PANELS { M::NR } else { TASK };
            let mut sums = [0f32; TASK * MC];
            for n in (first..last).step_by(group) {
                for m in (0..self.args.m).step_by(MC) {
                    self.group::<M>(n, group.min(last - n), m, &mut sums);
                }
            }
        });
    }

    /// Columns `n..n + rows` of up to [`MC`] rows of y from row `m`.
    fn group<M: Micro>(&self, n: usize, rows: usize, m: usize, sums: &mut [f32; TASK * MC]) {
        let LinearArgs { k, packed, w, .. } = *self.args;
        let all = self.args.m.div_ceil(PANEL) * PANEL;
        let panels = MC.min(self.args.m - m).div_ceil(PANEL);
        let mut tile = [0f32; MAX_NR * KC];
        for k0 in (0..k).step_by(KC) {
            let len = KC.min(k - k0);
            let x = &packed[(k0 * all + m * len) * 4..][..panels * PANEL * len * 4];
            let x = x.as_ptr().cast::<f32>();
            for r in (0..rows).step_by(M::NR) {
                let count = M::NR.min(rows - r);
                let piece = Piece { w, k, first: n + r, rows: count, k0, len };
                self.source.widen::<A>(self.isa, piece, &mut tile, KC);
                for p in (0..panels).step_by(2) {
                    // SAFETY: the panels `p` and `p + 1` (if there is one) lie in `x`, whose length was just taken;
                    // the tile has `MAX_NR` rows of `KC`; sums have `TASK` rows of `MC`, and `r + NR <= TASK`, since
                    // `TASK` is a multiple of `NR`. The instruction set is there, or `isa` would not have chosen `M`.
                    unsafe {
                        let x = x.add(p * PANEL * len);
                        let next = if p + 1 < panels { x.add(PANEL * len) } else { x };
                        let c = sums.as_mut_ptr().add(r * MC + p * PANEL);
                        let job = Job {
                            k: len,
                            x: [x, next],
                            w: tile.as_ptr(),
                            ldw: 0,
                            c,
                            ldc: MC,
                            accumulate: k0 > 0,
                        };
                        if p + 1 < panels {
                            M::run::<2, KC>(job);
                        } else {
                            M::run::<1, KC>(job);
                        }
                    }
                }
            }
        }
        if k == 0 {
            sums.fill(0.0);
        }
        let mut biases = [0f32; TASK];
        bias::<A>(self.args, n, &mut biases[..rows]);
        for i in 0..MC.min(self.args.m - m) {
            let start = (m + i) * self.args.ldy + self.args.n0 + n;
            // SAFETY: row `m + i` of y has `ldy` columns, `n0 + n + rows` are at most that many, and y was found long
            // enough; tasks have different columns.
            let y = unsafe { self.y.slice(start * A::BYTES, rows * A::BYTES) };
            dispatch(self.isa, Finish::<A> { sums: &sums[i..], bias: &biases, y, act: PhantomData });
        }
    }
}

/// The biases of the columns from `n` on, rounded; left alone where there are none.
pub(super) fn bias<A: Act>(args: &LinearArgs<'_>, n: usize, out: &mut [f32]) {
    if let Some((bytes, dtype)) = args.bias {
        with_weight!(dtype, B => {
            for (b, &raw) in out.iter_mut().zip(&B::slice(bytes)[n..]) {
                *b = A::round(B::get(raw));
            }
        });
    }
}

/// Adds the bias to one column of the sums, and rounds it into a piece of a row of y.
struct Finish<'a, A> {
    sums: &'a [f32],
    bias: &'a [f32; TASK],
    y: &'a mut [u8],
    act: PhantomData<A>,
}

impl<A: Act> Body for Finish<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((y, sum), bias) in
            A::slice_mut(self.y).iter_mut().zip(self.sums.iter().step_by(MC)).zip(self.bias)
        {
            *y = A::put(sum + bias);
        }
    }
}
