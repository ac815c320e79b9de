//! A few rows of x times quants that are transposed in registers, with AVX2 and AVX-512.

use std::arch::x86_64::*;

use vram_types::DType;

use super::few::{LANES, Sums};
use super::pack::KC;
use super::quants::{Apart, GROUP};
use crate::cpu::num::Act;

/// Fetches what lies so many bytes behind a piece of a weight.
#[inline(always)]
pub(super) fn prefetch(piece: &[u8], ahead: usize) {
    for line in (0..piece.len()).step_by(64) {
        // SAFETY: a prefetch reads nothing, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(piece.as_ptr().wrapping_add(ahead + line).cast()) };
    }
}

/// Adds to the sums the products with `M` rows of x, summed up in order from zero; `first` begins sums.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn avx512<A: Act, const M: usize>(
    apart: &Apart,
    x: &[[[[u8; 4]; M]; GROUP]],
    first: bool,
    sums: &mut Sums,
) {
    if M <= 2 {
        wide::<A, M, 2>(apart, 0, x, first, sums);
    } else {
        wide::<A, M, 1>(apart, 0, x, first, sums);
        wide::<A, M, 1>(apart, 16, x, first, sums);
    }
}

/// For `V` times sixteen rows of W from `lane`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn wide<A: Act, const M: usize, const V: usize>(
    apart: &Apart,
    lane: usize,
    x: &[[[[u8; 4]; M]; GROUP]],
    first: bool,
    sums: &mut Sums,
) {
    let mut partial = [[_mm512_setzero_ps(); V]; M];
    for (g, x) in x.iter().enumerate() {
        for v in 0..V {
            let lane = lane + 16 * v;
            let mut quarters = [_mm512_setzero_si512(); 4];
            for (i, quarter) in quarters.iter_mut().enumerate() {
                let rows = &apart.quants[lane + i..];
                let low = _mm512_castsi128_si512(group(&rows[0], g));
                let low = _mm512_inserti32x4::<1>(low, group(&rows[4], g));
                let low = _mm512_inserti32x4::<2>(low, group(&rows[8], g));
                *quarter = _mm512_inserti32x4::<3>(low, group(&rows[12], g));
            }
            // Four by four groups of four quants: quarter `c` then holds columns `4 c..4 c + 4` of all rows.
            let [a, b, c, d] = quarters;
            let (ab, ab2) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd, cd2) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            let quarters = [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab2, cd2),
                _mm512_unpackhi_epi64(ab2, cd2),
            ];
            // SAFETY: both arrays hold sixteen values from `lane`, as slicing finds.
            let (scale, least) = unsafe {
                (
                    _mm512_loadu_ps(apart.scales[g][lane..lane + 16].as_ptr()),
                    _mm512_loadu_ps(apart.leasts[g][lane..lane + 16].as_ptr()),
                )
            };
            for (quarter, x) in quarters.into_iter().zip(x.as_chunks::<4>().0) {
                let columns = [
                    _mm512_slli_epi32::<24>(quarter),
                    _mm512_slli_epi32::<16>(quarter),
                    _mm512_slli_epi32::<8>(quarter),
                    quarter,
                ];
                for (column, x) in columns.into_iter().zip(x) {
                    let quant = _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(column));
                    let value = round16::<A>(_mm512_add_ps(_mm512_mul_ps(quant, scale), least));
                    for (partial, &x) in partial.iter_mut().zip(x) {
                        let x = _mm512_set1_ps(f32::from_ne_bytes(x));
                        partial[v] = _mm512_fmadd_ps(value, x, partial[v]);
                    }
                }
            }
        }
    }
    for (sums, partial) in sums.iter_mut().zip(partial) {
        for (sums, partial) in sums[lane..].as_chunks_mut::<16>().0.iter_mut().zip(partial) {
            // SAFETY: sixteen values.
            unsafe {
                let sum = match first {
                    true => partial,
                    false => _mm512_add_ps(partial, _mm512_loadu_ps(sums.as_ptr())),
                };
                _mm512_storeu_ps(sums.as_mut_ptr(), sum);
            }
        }
    }
}

/// The quants of a row in the group of columns `g`.
#[target_feature(enable = "avx2")]
#[inline]
fn group(row: &[i8; KC], g: usize) -> __m128i {
    // SAFETY: they are sixteen bytes.
    unsafe { _mm_loadu_si128(row.as_chunks::<GROUP>().0[g].as_ptr().cast()) }
}

/// Numbers rounded as [`Act::round`] does.
#[target_feature(enable = "avx512f")]
#[inline]
fn round16<A: Act>(value: __m512) -> __m512 {
    match A::DTYPE {
        DType::BF16 => {
            let bits = _mm512_castps_si512(value);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
            _mm512_castsi512_ps(_mm512_and_si512(rounded, high))
        }
        DType::F16 => _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value)),
        _ => value,
    }
}

/// As [`avx512`], with vectors of eight.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn avx2<A: Act, const M: usize>(
    apart: &Apart,
    x: &[[[[u8; 4]; M]; GROUP]],
    first: bool,
    sums: &mut Sums,
) {
    if M <= 2 {
        for lane in (0..LANES).step_by(16) {
            narrow::<A, M, 2>(apart, lane, x, first, sums);
        }
    } else {
        for lane in (0..LANES).step_by(8) {
            narrow::<A, M, 1>(apart, lane, x, first, sums);
        }
    }
}

/// For `V` times eight rows of W from `lane`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn narrow<A: Act, const M: usize, const V: usize>(
    apart: &Apart,
    lane: usize,
    x: &[[[[u8; 4]; M]; GROUP]],
    first: bool,
    sums: &mut Sums,
) {
    let mut partial = [[_mm256_setzero_ps(); V]; M];
    for (g, x) in x.iter().enumerate() {
        for v in 0..V {
            let lane = lane + 8 * v;
            let mut quarters = [_mm256_setzero_si256(); 4];
            for (i, quarter) in quarters.iter_mut().enumerate() {
                let rows = &apart.quants[lane + i..];
                let low = _mm256_castsi128_si256(group(&rows[0], g));
                *quarter = _mm256_inserti128_si256::<1>(low, group(&rows[4], g));
            }
            let [a, b, c, d] = quarters;
            let (ab, ab2) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd, cd2) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            let quarters = [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab2, cd2),
                _mm256_unpackhi_epi64(ab2, cd2),
            ];
            // SAFETY: both arrays hold eight values from `lane`, as slicing finds.
            let (scale, least) = unsafe {
                (
                    _mm256_loadu_ps(apart.scales[g][lane..lane + 8].as_ptr()),
                    _mm256_loadu_ps(apart.leasts[g][lane..lane + 8].as_ptr()),
                )
            };
            for (quarter, x) in quarters.into_iter().zip(x.as_chunks::<4>().0) {
                let columns = [
                    _mm256_slli_epi32::<24>(quarter),
                    _mm256_slli_epi32::<16>(quarter),
                    _mm256_slli_epi32::<8>(quarter),
                    quarter,
                ];
                for (column, x) in columns.into_iter().zip(x) {
                    let quant = _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(column));
                    let value = round8::<A>(_mm256_add_ps(_mm256_mul_ps(quant, scale), least));
                    for (partial, &x) in partial.iter_mut().zip(x) {
                        let x = _mm256_set1_ps(f32::from_ne_bytes(x));
                        partial[v] = _mm256_fmadd_ps(value, x, partial[v]);
                    }
                }
            }
        }
    }
    for (sums, partial) in sums.iter_mut().zip(partial) {
        for (sums, partial) in sums[lane..].as_chunks_mut::<8>().0.iter_mut().zip(partial) {
            // SAFETY: eight values.
            unsafe {
                let sum = match first {
                    true => partial,
                    false => _mm256_add_ps(partial, _mm256_loadu_ps(sums.as_ptr())),
                };
                _mm256_storeu_ps(sums.as_mut_ptr(), sum);
            }
        }
    }
}

/// Numbers rounded as [`Act::round`] does.
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn round8<A: Act>(value: __m256) -> __m256 {
    match A::DTYPE {
        DType::BF16 => {
            let bits = _mm256_castps_si256(value);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            _mm256_castsi256_ps(_mm256_and_si256(rounded, high))
        }
        DType::F16 => _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value)),
        _ => value,
    }
}
