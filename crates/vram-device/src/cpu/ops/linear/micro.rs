//! The innermost loops: a few rows of weights times sixteen or thirty-two rows of x.
//!
//! Lanes run along the rows of x, so an output element is one chain of additions in the order of k, whatever is
//! computed beside it. That is what makes the bits independent of shapes.

use super::pack::PANEL;

/// One product of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    /// Length of the sums.
    pub(crate) k: usize,
    /// Panels of x, each `k` times sixteen values; both the same where there is one only.
    pub(crate) x: [*const f32; 2],
    /// The tile of weights.
    pub(crate) w: *const f32,
    /// Values from one k to the next in a tile that is stored so.
    pub(crate) ldw: usize,
    /// Sums: `NR` rows.
    pub(crate) c: *mut f32,
    /// Values from one row of sums to the next.
    pub(crate) ldc: usize,
    /// Add to what `c` holds instead of overwriting it.
    pub(crate) accumulate: bool,
}

/// A way to do a [`Job`] with some instruction set.
pub(crate) trait Micro {
    /// Rows of a tile.
    const NR: usize;

    /// `c[r][v * 16 + lane] = sum over k of w[r][k] * x[v][k][lane]` for `r < NR`, `v < VECTORS`.
    ///
    /// The sum starts at zero, goes through k in order, and is then added to `c` as one value where `accumulate` says so.
    /// The tile is `w[r][k]` with rows of `PITCH` values; with `PITCH` 0 it is `w[k][r]`, with `ldw` values for each k.
    ///
    /// # Safety
    /// The instruction set must be there, and all pointers must be good for what the fields of the job say.
    unsafe fn run<const VECTORS: usize, const PITCH: usize>(job: Job);
}

/// Plain Rust.
pub(crate) struct Portable;

impl Micro for Portable {
    const NR: usize = 2;

    #[inline(always)]
    unsafe fn run<const VECTORS: usize, const PITCH: usize>(job: Job) {
        // One vector at a time: this is all that sixteen registers of four lanes hold.
        for v in 0..VECTORS {
            let mut sums = [[0f32; PANEL]; Self::NR];
            for k in 0..job.k {
                // SAFETY: a panel holds `k` times sixteen values; f32 values have no alignment needs as bytes here.
                let x = unsafe { job.x[v].add(k * PANEL).cast::<[f32; PANEL]>().read_unaligned() };
                for (r, sum) in sums.iter_mut().enumerate() {
                    let at = if PITCH == 0 { k * job.ldw + r } else { r * PITCH + k };
                    // SAFETY: the tile holds `NR` rows of `k` values.
                    let w = unsafe { job.w.add(at).read_unaligned() };
                    for (s, x) in sum.iter_mut().zip(x) {
                        *s += w * x;
                    }
                }
            }
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `c` has `NR` rows of at least `VECTORS * 16` values.
                unsafe {
                    let c = job.c.add(r * job.ldc + v * PANEL).cast::<[f32; PANEL]>();
                    if job.accumulate {
                        for (s, c) in sum.iter_mut().zip(c.read_unaligned()) {
                            *s += c;
                        }
                    }
                    c.write_unaligned(*sum);
                }
            }
        }
    }
}
