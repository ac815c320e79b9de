//! The innermost loops with AVX2 and AVX-512.

use std::arch::x86_64::*;

use super::micro::{Job, Micro};
use super::pack::PANEL;

/// AVX-512: 12 rows by two vectors fill 24 of the 32 registers.
pub(crate) struct Avx512;

impl Micro for Avx512 {
    const NR: usize = 12;

    #[inline(always)]
    unsafe fn run<const VECTORS: usize, const PITCH: usize>(job: Job) {
        // SAFETY: the caller's promise is this function's.
        unsafe { avx512::<VECTORS, PITCH>(job) }
    }
}

/// # Safety
/// As [`Micro::run`].
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const VECTORS: usize, const PITCH: usize>(job: Job) {
    const NR: usize = 12;
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; NR];
    for k in 0..job.k {
        let mut x = [_mm512_setzero_ps(); VECTORS];
        for (v, x) in x.iter_mut().enumerate() {
            // SAFETY: a panel holds `k` times sixteen values.
            *x = unsafe { _mm512_loadu_ps(job.x[v].add(k * PANEL)) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let at = if PITCH == 0 { k * job.ldw + r } else { r * PITCH + k };
            // SAFETY: the tile holds `NR` rows of `k` values.
            let w = unsafe { _mm512_set1_ps(job.w.add(at).read_unaligned()) };
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = _mm512_fmadd_ps(w, x, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            // SAFETY: `c` has `NR` rows of at least `VECTORS * 16` values.
            unsafe {
                let c = job.c.add(r * job.ldc + v * PANEL);
                let sum = if job.accumulate { _mm512_add_ps(sum, _mm512_loadu_ps(c)) } else { sum };
                _mm512_storeu_ps(c, sum);
            }
        }
    }
}

/// AVX2: 6 rows by two vectors of eight fill 12 of the 16 registers.
pub(crate) struct Avx2;

impl Micro for Avx2 {
    const NR: usize = 6;

    #[inline(always)]
    unsafe fn run<const VECTORS: usize, const PITCH: usize>(job: Job) {
        for v in 0..VECTORS {
            // SAFETY: the caller's promise, for the panel `v` and its columns of `c`.
            unsafe { avx2::<PITCH>(job, job.x[v], job.c.add(v * PANEL)) };
        }
    }
}

/// # Safety
/// As [`Micro::run`] with one panel `x` and the sums `c` that belong to it.
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const PITCH: usize>(job: Job, x: *const f32, c: *mut f32) {
    const NR: usize = 6;
    let mut sums = [[_mm256_setzero_ps(); 2]; NR];
    for k in 0..job.k {
        // SAFETY: a panel holds `k` times sixteen values.
        let (low, high) =
            unsafe { (_mm256_loadu_ps(x.add(k * PANEL)), _mm256_loadu_ps(x.add(k * PANEL + 8))) };
        for (r, sums) in sums.iter_mut().enumerate() {
            let at = if PITCH == 0 { k * job.ldw + r } else { r * PITCH + k };
            // SAFETY: the tile holds `NR` rows of `k` values.
            let w = unsafe { _mm256_set1_ps(job.w.add(at).read_unaligned()) };
            sums[0] = _mm256_fmadd_ps(w, low, sums[0]);
            sums[1] = _mm256_fmadd_ps(w, high, sums[1]);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            // SAFETY: `c` has `NR` rows of at least sixteen values.
            unsafe {
                let c = c.add(r * job.ldc + v * 8);
                let sum = if job.accumulate { _mm256_add_ps(sum, _mm256_loadu_ps(c)) } else { sum };
                _mm256_storeu_ps(c, sum);
            }
        }
    }
}
