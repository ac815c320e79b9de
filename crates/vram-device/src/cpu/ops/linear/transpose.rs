//! A few rows of x times rows of W that are transposed in registers, with AVX2 and AVX-512.

use std::arch::x86_64::*;

use vram_types::DType;

use super::few::{Job, LANES, Sums};
use crate::cpu::num::Elem;

/// Adds to the sums what [`Job`] says, for `M` rows of x.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn avx512<W: Elem, const M: usize>(job: Job<'_>, x: &[[[u8; 4]; M]], sums: &mut Sums) {
    // Two vectors of sums for each row of x where registers allow it, so that one chain need not wait for itself.
    if M <= 2 {
        wide::<W, M, 2>(job, 0, x, sums);
    } else {
        wide::<W, M, 1>(job, 0, x, sums);
        wide::<W, M, 1>(job, 16, x, sums);
    }
}

/// For `V` times sixteen rows of W from `lane`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn wide<W: Elem, const M: usize, const V: usize>(
    job: Job<'_>,
    lane: usize,
    x: &[[[u8; 4]; M]],
    sums: &mut Sums,
) {
    let mut partial = [[_mm512_setzero_ps(); V]; M];
    let mut steps = if pairs::<W>() { x.chunks_exact(32) } else { x.chunks_exact(16) };
    for (step, x) in steps.by_ref().enumerate() {
        let at = step * x.len() * W::BYTES;
        for v in 0..V {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (row, w) in rows.iter_mut().zip(&job.w[lane + 16 * v..]) {
                let w = &w[at..at + x.len() * W::BYTES];
                // SAFETY: a prefetch reads nothing, wherever it points; `w` was just found to hold what is loaded, which
                // is sixteen f32 or f16, or 32 bf16.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T1>(w.as_ptr().wrapping_add(job.ahead).cast());
                    *row = match W::DTYPE {
                        DType::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(w.as_ptr().cast())),
                        _ => _mm512_loadu_ps(w.as_ptr().cast()),
                    };
                }
            }
            let columns = transpose16(rows);
            for (k, column) in columns.into_iter().enumerate() {
                if pairs::<W>() {
                    let bits = _mm512_castps_si512(column);
                    let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits));
                    let odd = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
                    for (i, partial) in partial.iter_mut().enumerate() {
                        partial[v] = _mm512_fmadd_ps(even, broadcast(x[2 * k][i]), partial[v]);
                    }
                    for (i, partial) in partial.iter_mut().enumerate() {
                        let odd = _mm512_castsi512_ps(odd);
                        partial[v] = _mm512_fmadd_ps(odd, broadcast(x[2 * k + 1][i]), partial[v]);
                    }
                } else {
                    for (i, partial) in partial.iter_mut().enumerate() {
                        partial[v] = _mm512_fmadd_ps(column, broadcast(x[k][i]), partial[v]);
                    }
                }
            }
        }
    }
    let rest = steps.remainder();
    for (k, x) in (x.len() - rest.len()..).zip(rest) {
        for v in 0..V {
            let mut column = [0f32; 16];
            for (value, w) in column.iter_mut().zip(&job.w[lane + 16 * v..]) {
                *value = W::get(W::slice(w)[k]);
            }
            // SAFETY: sixteen values.
            let column = unsafe { _mm512_loadu_ps(column.as_ptr()) };
            for (partial, &x) in partial.iter_mut().zip(x) {
                partial[v] = _mm512_fmadd_ps(column, broadcast(x), partial[v]);
            }
        }
    }
    for (sums, partial) in sums.iter_mut().zip(partial) {
        for (sums, partial) in sums[lane..].as_chunks_mut::<16>().0.iter_mut().zip(partial) {
            // SAFETY: sixteen values.
            unsafe {
                let sum = match job.first {
                    true => partial,
                    false => _mm512_add_ps(partial, _mm512_loadu_ps(sums.as_ptr())),
                };
                _mm512_storeu_ps(sums.as_mut_ptr(), sum);
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(x: [u8; 4]) -> __m512 {
    _mm512_set1_ps(f32::from_ne_bytes(x))
}

/// Sixteen by sixteen values with rows and columns exchanged.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn transpose16(r: [__m512; 16]) -> [__m512; 16] {
    let zero = _mm512_setzero_ps();
    // Exchange within groups of four lanes: pairs of values, then pairs of pairs.
    let mut a = [zero; 16];
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    let mut b = [zero; 16];
    for i in 0..4 {
        for j in 0..2 {
            let (low, high) = (_mm512_castps_pd(a[4 * i + j]), _mm512_castps_pd(a[4 * i + 2 + j]));
            b[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            b[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    // Then whole groups of four lanes. b[4 i + c] holds column c, 4 + c, 8 + c, 12 + c of the rows 4 i..4 i + 4.
    let mut out = [zero; 16];
    for c in 0..4 {
        let low = _mm512_shuffle_f32x4::<0x88>(b[c], b[4 + c]);
        let high = _mm512_shuffle_f32x4::<0xdd>(b[c], b[4 + c]);
        let low2 = _mm512_shuffle_f32x4::<0x88>(b[8 + c], b[12 + c]);
        let high2 = _mm512_shuffle_f32x4::<0xdd>(b[8 + c], b[12 + c]);
        out[c] = _mm512_shuffle_f32x4::<0x88>(low, low2);
        out[8 + c] = _mm512_shuffle_f32x4::<0xdd>(low, low2);
        out[4 + c] = _mm512_shuffle_f32x4::<0x88>(high, high2);
        out[12 + c] = _mm512_shuffle_f32x4::<0xdd>(high, high2);
    }
    out
}

/// As [`avx512`], with vectors of eight.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn avx2<W: Elem, const M: usize>(job: Job<'_>, x: &[[[u8; 4]; M]], sums: &mut Sums) {
    if M <= 2 {
        for lane in (0..LANES).step_by(16) {
            narrow::<W, M, 2>(job, lane, x, sums);
        }
    } else {
        for lane in (0..LANES).step_by(8) {
            narrow::<W, M, 1>(job, lane, x, sums);
        }
    }
}

/// For `V` times eight rows of W from `lane`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn narrow<W: Elem, const M: usize, const V: usize>(
    job: Job<'_>,
    lane: usize,
    x: &[[[u8; 4]; M]],
    sums: &mut Sums,
) {
    let mut partial = [[_mm256_setzero_ps(); V]; M];
    let mut steps = if pairs::<W>() { x.chunks_exact(16) } else { x.chunks_exact(8) };
    for (step, x) in steps.by_ref().enumerate() {
        let at = step * x.len() * W::BYTES;
        for v in 0..V {
            let mut rows = [_mm256_setzero_ps(); 8];
            for (row, w) in rows.iter_mut().zip(&job.w[lane + 8 * v..]) {
                let w = &w[at..at + x.len() * W::BYTES];
                // SAFETY: a prefetch reads nothing, wherever it points; `w` was just found to hold what is loaded, which
                // is eight f32 or f16, or sixteen bf16.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T1>(w.as_ptr().wrapping_add(job.ahead).cast());
                    *row = match W::DTYPE {
                        DType::F16 => _mm256_cvtph_ps(_mm_loadu_si128(w.as_ptr().cast())),
                        _ => _mm256_loadu_ps(w.as_ptr().cast()),
                    };
                }
            }
            let columns = transpose8(rows);
            for (k, column) in columns.into_iter().enumerate() {
                if pairs::<W>() {
                    let bits = _mm256_castps_si256(column);
                    let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits));
                    let odd = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
                    for (i, partial) in partial.iter_mut().enumerate() {
                        let x = _mm256_set1_ps(f32::from_ne_bytes(x[2 * k][i]));
                        partial[v] = _mm256_fmadd_ps(even, x, partial[v]);
                    }
                    for (i, partial) in partial.iter_mut().enumerate() {
                        let x = _mm256_set1_ps(f32::from_ne_bytes(x[2 * k + 1][i]));
                        partial[v] = _mm256_fmadd_ps(_mm256_castsi256_ps(odd), x, partial[v]);
                    }
                } else {
                    for (i, partial) in partial.iter_mut().enumerate() {
                        let x = _mm256_set1_ps(f32::from_ne_bytes(x[k][i]));
                        partial[v] = _mm256_fmadd_ps(column, x, partial[v]);
                    }
                }
            }
        }
    }
    let rest = steps.remainder();
    for (k, x) in (x.len() - rest.len()..).zip(rest) {
        for v in 0..V {
            let mut column = [0f32; 8];
            for (value, w) in column.iter_mut().zip(&job.w[lane + 8 * v..]) {
                *value = W::get(W::slice(w)[k]);
            }
            // SAFETY: eight values.
            let column = unsafe { _mm256_loadu_ps(column.as_ptr()) };
            for (partial, &x) in partial.iter_mut().zip(x) {
                let x = _mm256_set1_ps(f32::from_ne_bytes(x));
                partial[v] = _mm256_fmadd_ps(column, x, partial[v]);
            }
        }
    }
    for (sums, partial) in sums.iter_mut().zip(partial) {
        for (sums, partial) in sums[lane..].as_chunks_mut::<8>().0.iter_mut().zip(partial) {
            // SAFETY: eight values.
            unsafe {
                let sum = match job.first {
                    true => partial,
                    false => _mm256_add_ps(partial, _mm256_loadu_ps(sums.as_ptr())),
                };
                _mm256_storeu_ps(sums.as_mut_ptr(), sum);
            }
        }
    }
}

/// Eight by eight values with rows and columns exchanged.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose8(r: [__m256; 8]) -> [__m256; 8] {
    let zero = _mm256_setzero_ps();
    // Within groups of four lanes: pairs of values, then pairs of pairs.
    let mut a = [zero; 8];
    for i in 0..4 {
        a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    let mut b = [zero; 8];
    for i in 0..2 {
        for j in 0..2 {
            let (low, high) = (_mm256_castps_pd(a[4 * i + j]), _mm256_castps_pd(a[4 * i + 2 + j]));
            b[4 * i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
            b[4 * i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
        }
    }
    // Then the groups. b[4 i + c] holds columns c and 4 + c of the rows 4 i..4 i + 4.
    let mut out = [zero; 8];
    for c in 0..4 {
        out[c] = _mm256_permute2f128_ps::<0x20>(b[c], b[4 + c]);
        out[4 + c] = _mm256_permute2f128_ps::<0x31>(b[c], b[4 + c]);
    }
    out
}

/// Whether values of `W` come in pairs of two bytes that widen by a shift.
const fn pairs<W: Elem>() -> bool {
    matches!(W::DTYPE, DType::BF16)
}
