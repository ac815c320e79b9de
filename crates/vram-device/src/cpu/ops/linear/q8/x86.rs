//! The same with AVX-512 and its byte products (VNNI), and with AVX2.

use std::arch::x86_64::*;

use super::forms::Form;
use super::pack::{Record, least, quad, scale, start};
use super::simd::{Rows, Simd};
use super::{LANES, Quad, Task, Tile};
use crate::cpu::isa::{Isa, IsaKind};

/// Whether the processor multiplies bytes in vectors of 512 bits.
pub(super) fn has_vnni() -> bool {
    is_x86_feature_detected!("avx512vnni")
}

/// Runs a task with AVX-512, whose presence the `isa` has found, and VNNI.
pub(super) fn in_avx512<F: Form>(isa: Isa, task: Task<'_, F>) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    fn run<F: Form>(task: Task<'_, F>) {
        task.run(Avx512(()));
    }
    assert!(matches!(isa.kind(), IsaKind::Amx | IsaKind::Avx512) && has_vnni());
    // SAFETY: an `Isa` of these kinds exists only where `IsaKind::missing` found all these features; VNNI is there too.
    unsafe { run(task) }
}

/// Runs a task with AVX2, whose presence the `isa` has found.
pub(super) fn in_avx2<F: Form>(isa: Isa, task: Task<'_, F>) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run<F: Form>(task: Task<'_, F>) {
        task.run(Avx2(()));
    }
    assert!(isa.kind() != IsaKind::Portable);
    // SAFETY: an `Isa` of another kind exists only where `IsaKind::missing` found all these features.
    unsafe { run(task) }
}

/// Says that the processor has AVX-512 and VNNI: only [`in_avx512`] makes it.
#[derive(Clone, Copy)]
struct Avx512(());

/// Says that the processor has AVX2, FMA and F16C: only [`in_avx2`] makes it.
#[derive(Clone, Copy)]
struct Avx2(());

/// One instruction that `Avx512` or `Avx2` permits.
macro_rules! with {
    ($call:expr) => {
        // SAFETY: `self` says that the processor has the instruction, and the call reads and writes no memory.
        unsafe { $call }
    };
}

impl Simd for Avx512 {
    type V = __m512i;
    const ROWS: usize = 8;

    #[inline(always)]
    fn words4(self, rows: &Rows<'_>, offset: usize) -> [__m512i; 4] {
        // SAFETY: `self` says that the processor has the instructions, and each pointer is to sixteen bytes.
        unsafe {
            let quarter = |i: usize| {
                let load = |row: usize| _mm_loadu_si128(rows.at(row, offset, 16).cast());
                let low = _mm512_castsi128_si512(load(i));
                let low = _mm512_inserti32x4::<1>(low, load(i + 4));
                let low = _mm512_inserti32x4::<2>(low, load(i + 8));
                _mm512_inserti32x4::<3>(low, load(i + 12))
            };
            // Four by four words: a word of all rows, in order, is left in each.
            let (a, b, c, d) = (quarter(0), quarter(1), quarter(2), quarter(3));
            let (ab, ab2) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd, cd2) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab2, cd2),
                _mm512_unpackhi_epi64(ab2, cd2),
            ]
        }
    }

    #[inline(always)]
    fn word(self, rows: &Rows<'_>, offset: usize) -> __m512i {
        let words: [i32; LANES] = std::array::from_fn(|row| i32::from_le_bytes(rows.four(row, offset)));
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = words;
        with!(_mm512_set_epi32(p, o, n, m, l, k, j, i, h, g, f, e, d, c, b, a))
    }

    #[inline(always)]
    fn splat(self, word: u32) -> __m512i {
        with!(_mm512_set1_epi32(word.cast_signed()))
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        with!(_mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        with!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        with!(_mm512_xor_si512(a, b))
    }

    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        with!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn times(self, a: __m512i, b: __m512i) -> __m512i {
        with!(_mm512_mullo_epi32(a, b))
    }

    #[inline(always)]
    fn shl<const N: u32>(self, a: __m512i) -> __m512i {
        with!(_mm512_slli_epi32::<N>(a))
    }

    #[inline(always)]
    fn shr<const N: u32>(self, a: __m512i) -> __m512i {
        with!(_mm512_srli_epi32::<N>(a))
    }

    #[inline(always)]
    fn lookup(self, bytes: __m512i, table: &[u8; 16]) -> __m512i {
        // SAFETY: `self` says that the processor has the instructions, and the table has sixteen bytes.
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), bytes) }
    }

    #[inline(always)]
    fn half(self, a: __m512i) -> __m512i {
        with!(_mm512_castps_si512(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(a))))
    }

    #[inline(always)]
    fn number(self, a: __m512i) -> __m512i {
        with!(_mm512_castps_si512(_mm512_cvtepi32_ps(a)))
    }

    #[inline(always)]
    fn mul(self, a: __m512i, b: __m512i) -> __m512i {
        with!(_mm512_castps_si512(_mm512_mul_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b))))
    }

    #[inline(always)]
    fn load(self, from: &Quad) -> __m512i {
        // SAFETY: `self` says that the processor has the instruction, and sixteen words are read.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn add_group<const QUADS: usize, const WIDE: bool>(
        self,
        sum: __m512i,
        g: usize,
        quads: [__m512i; QUADS],
        (scales, leasts): (__m512i, Option<__m512i>),
        record: &Record,
    ) -> __m512i {
        // SAFETY: `self` says that the processor has the instructions, none of which reads or writes memory.
        unsafe {
            let mut dots = _mm512_set1_epi32(start(record, g));
            for (q, w) in quads.into_iter().enumerate() {
                dots = _mm512_dpbusd_epi32(dots, w, _mm512_set1_epi32(quad(record, g * QUADS + q)));
            }
            let scale = _mm512_set1_ps(scale(record, g * QUADS / 8));
            let scale = _mm512_mul_ps(_mm512_castsi512_ps(scales), scale);
            let mut sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, _mm512_castsi512_ps(sum));
            if let Some(leasts) = leasts {
                sum = _mm512_fmadd_ps(_mm512_castsi512_ps(leasts), _mm512_set1_ps(least(record, g)), sum);
            }
            _mm512_castps_si512(sum)
        }
    }

    #[inline(always)]
    fn store(self, a: __m512i, to: &mut Quad) {
        // SAFETY: `self` says that the processor has the instruction, and sixteen words are written.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), a) }
    }

    #[inline(always)]
    fn store_f32(self, a: __m512i, to: &mut [f32; LANES]) {
        // SAFETY: `self` says that the processor has the instruction, and sixteen numbers are written.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), a) }
    }

    #[inline(always)]
    fn add_products<const R: usize, const QUADS: usize, const LEAST: bool, const WIDE: bool>(
        self,
        tile: &Tile,
        groups: usize,
        records: &[Record; R],
        sums: &mut [[f32; LANES]; R],
    ) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn products<const R: usize, const QUADS: usize, const LEAST: bool>(
            tile: &Tile,
            groups: usize,
            records: &[Record; R],
            sums: &mut [[f32; LANES]; R],
        ) {
            // SAFETY: all pointers are to arrays of sixteen.
            unsafe {
                let mut all: [__m512; R] = std::array::from_fn(|r| _mm512_loadu_ps(sums[r].as_ptr()));
                for g in 0..groups {
                    let mut dots: [__m512i; R] =
                        std::array::from_fn(|r| _mm512_set1_epi32(start(&records[r], g)));
                    for q in g * QUADS..(g + 1) * QUADS {
                        let w = _mm512_load_si512(tile.quads[q].as_ptr().cast());
                        for (dot, record) in dots.iter_mut().zip(records) {
                            *dot = _mm512_dpbusd_epi32(*dot, w, _mm512_set1_epi32(quad(record, q)));
                        }
                    }
                    let scales = _mm512_load_ps(tile.scales[g].as_ptr());
                    for (r, record) in records.iter().enumerate() {
                        let scale = _mm512_mul_ps(scales, _mm512_set1_ps(scale(record, g * QUADS / 8)));
                        all[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scale, all[r]);
                        if LEAST {
                            let leasts = _mm512_load_ps(tile.leasts[g].as_ptr());
                            all[r] = _mm512_fmadd_ps(leasts, _mm512_set1_ps(least(record, g)), all[r]);
                        }
                    }
                }
                for (sums, all) in sums.iter_mut().zip(all) {
                    _mm512_storeu_ps(sums.as_mut_ptr(), all);
                }
            }
        }
        // SAFETY: `self` says that the processor has the instructions.
        unsafe { products::<R, QUADS, LEAST>(tile, groups, records, sums) }
    }
}

/// Eight rows of W, and eight more.
type Two = [__m256i; 2];

/// One instruction for both halves.
macro_rules! both {
    (|$a:ident| $call:expr, $from:expr) => {{
        let from: Two = $from;
        // SAFETY: `self` says that the processor has the instruction, and the call reads and writes no memory.
        from.map(|$a| unsafe { $call })
    }};
    (|$a:ident, $b:ident| $call:expr, $from:expr, $other:expr) => {{
        let (a, b): (Two, Two) = ($from, $other);
        std::array::from_fn(|i| {
            let ($a, $b) = (a[i], b[i]);
            // SAFETY: `self` says that the processor has the instruction, and the call reads and writes no memory.
            unsafe { $call }
        })
    }};
}

/// The sums of the products of four bytes each of W and x. Bytes that are wide lose their offset first.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dotted<const WIDE: bool>(w: __m256i, x: __m256i) -> __m256i {
    let signed = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
    // Pairs of products are at most 2 * 128 * 127, which 16 bits hold.
    let pairs = if WIDE {
        _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed))
    } else {
        _mm256_maddubs_epi16(w, x)
    };
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

impl Simd for Avx2 {
    type V = Two;
    const ROWS: usize = 4;

    #[inline(always)]
    fn words4(self, rows: &Rows<'_>, offset: usize) -> [Two; 4] {
        let half = |first: usize| {
            // SAFETY: `self` says that the processor has the instructions, and each pointer is to sixteen bytes.
            unsafe {
                let pair = |i: usize| {
                    let load = |row: usize| _mm_loadu_si128(rows.at(first + row, offset, 16).cast());
                    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(i)), load(i + 4))
                };
                let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3));
                let (ab, ab2) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                let (cd, cd2) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
                [
                    _mm256_unpacklo_epi64(ab, cd),
                    _mm256_unpackhi_epi64(ab, cd),
                    _mm256_unpacklo_epi64(ab2, cd2),
                    _mm256_unpackhi_epi64(ab2, cd2),
                ]
            }
        };
        let (low, high) = (half(0), half(8));
        std::array::from_fn(|word| [low[word], high[word]])
    }

    #[inline(always)]
    fn word(self, rows: &Rows<'_>, offset: usize) -> Two {
        let word = |row: usize| i32::from_le_bytes(rows.four(row, offset));
        [0, 8].map(|first| {
            let [a, b, c, d, e, f, g, h]: [i32; 8] = std::array::from_fn(|row| word(first + row));
            with!(_mm256_set_epi32(h, g, f, e, d, c, b, a))
        })
    }

    #[inline(always)]
    fn splat(self, word: u32) -> Two {
        [with!(_mm256_set1_epi32(word.cast_signed())); 2]
    }

    #[inline(always)]
    fn and(self, a: Two, b: Two) -> Two {
        both!(|a, b| _mm256_and_si256(a, b), a, b)
    }

    #[inline(always)]
    fn or(self, a: Two, b: Two) -> Two {
        both!(|a, b| _mm256_or_si256(a, b), a, b)
    }

    #[inline(always)]
    fn xor(self, a: Two, b: Two) -> Two {
        both!(|a, b| _mm256_xor_si256(a, b), a, b)
    }

    #[inline(always)]
    fn add(self, a: Two, b: Two) -> Two {
        both!(|a, b| _mm256_add_epi32(a, b), a, b)
    }

    #[inline(always)]
    fn times(self, a: Two, b: Two) -> Two {
        both!(|a, b| _mm256_mullo_epi32(a, b), a, b)
    }

    #[inline(always)]
    fn shl<const N: u32>(self, a: Two) -> Two {
        both!(|a| _mm256_sll_epi32(a, _mm_cvtsi32_si128(N.cast_signed())), a)
    }

    #[inline(always)]
    fn shr<const N: u32>(self, a: Two) -> Two {
        both!(|a| _mm256_srl_epi32(a, _mm_cvtsi32_si128(N.cast_signed())), a)
    }

    #[inline(always)]
    fn lookup(self, bytes: Two, table: &[u8; 16]) -> Two {
        // SAFETY: `self` says that the processor has the instructions, and the table has sixteen bytes.
        let table = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) };
        both!(|a| _mm256_shuffle_epi8(table, a), bytes)
    }

    #[inline(always)]
    fn half(self, a: Two) -> Two {
        // Packing takes the low halves of words to the low half of each 128 bits.
        both!(
            |a| {
                let halves = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
                let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(halves, halves));
                _mm256_castps_si256(_mm256_cvtph_ps(_mm256_castsi256_si128(packed)))
            },
            a
        )
    }

    #[inline(always)]
    fn number(self, a: Two) -> Two {
        both!(|a| _mm256_castps_si256(_mm256_cvtepi32_ps(a)), a)
    }

    #[inline(always)]
    fn mul(self, a: Two, b: Two) -> Two {
        both!(|a, b| _mm256_castps_si256(_mm256_mul_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b))), a, b)
    }

    #[inline(always)]
    fn load(self, from: &Quad) -> Two {
        // SAFETY: `self` says that the processor has the instruction, and eight words are read each time.
        [0, 8].map(|lane| unsafe { _mm256_loadu_si256(from[lane..].as_ptr().cast()) })
    }

    #[inline(always)]
    fn add_group<const QUADS: usize, const WIDE: bool>(
        self,
        mut sum: Two,
        g: usize,
        quads: [Two; QUADS],
        (scales, leasts): (Two, Option<Two>),
        record: &Record,
    ) -> Two {
        for half in 0..2 {
            // SAFETY: `self` says that the processor has the instructions, none of which reads or writes memory.
            unsafe {
                let mut dots =
                    if WIDE { _mm256_setzero_si256() } else { _mm256_set1_epi32(start(record, g)) };
                for (q, w) in quads.iter().enumerate() {
                    let x = _mm256_set1_epi32(quad(record, g * QUADS + q));
                    dots = _mm256_add_epi32(dots, dotted::<WIDE>(w[half], x));
                }
                let scale = _mm256_set1_ps(scale(record, g * QUADS / 8));
                let scale = _mm256_mul_ps(_mm256_castsi256_ps(scales[half]), scale);
                let before = _mm256_castsi256_ps(sum[half]);
                let mut after = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scale, before);
                if let Some(leasts) = leasts {
                    let least = _mm256_set1_ps(least(record, g));
                    after = _mm256_fmadd_ps(_mm256_castsi256_ps(leasts[half]), least, after);
                }
                sum[half] = _mm256_castps_si256(after);
            }
        }
        sum
    }

    #[inline(always)]
    fn store(self, a: Two, to: &mut Quad) {
        for (to, a) in to.as_chunks_mut::<8>().0.iter_mut().zip(a) {
            // SAFETY: `self` says that the processor has the instruction, and eight words are written.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), a) }
        }
    }

    #[inline(always)]
    fn store_f32(self, a: Two, to: &mut [f32; LANES]) {
        for (to, a) in to.as_chunks_mut::<8>().0.iter_mut().zip(a) {
            // SAFETY: `self` says that the processor has the instruction, and eight numbers are written.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), a) }
        }
    }

    #[inline(always)]
    fn add_products<const R: usize, const QUADS: usize, const LEAST: bool, const WIDE: bool>(
        self,
        tile: &Tile,
        groups: usize,
        records: &[Record; R],
        sums: &mut [[f32; LANES]; R],
    ) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn products<const R: usize, const QUADS: usize, const LEAST: bool, const WIDE: bool>(
            tile: &Tile,
            groups: usize,
            records: &[Record; R],
            sums: &mut [[f32; LANES]; R],
        ) {
            for lane in [0, 8] {
                // SAFETY: all pointers are to eight values from `lane` on, of sixteen.
                unsafe {
                    let mut all: [__m256; R] =
                        std::array::from_fn(|r| _mm256_loadu_ps(sums[r][lane..].as_ptr()));
                    for g in 0..groups {
                        let mut dots: [__m256i; R] = std::array::from_fn(|r| {
                            if WIDE {
                                _mm256_setzero_si256()
                            } else {
                                _mm256_set1_epi32(start(&records[r], g))
                            }
                        });
                        for q in g * QUADS..(g + 1) * QUADS {
                            let w = _mm256_loadu_si256(tile.quads[q][lane..].as_ptr().cast());
                            for (dot, record) in dots.iter_mut().zip(records) {
                                let x = _mm256_set1_epi32(quad(record, q));
                                *dot = _mm256_add_epi32(*dot, dotted::<WIDE>(w, x));
                            }
                        }
                        let scales = _mm256_loadu_ps(tile.scales[g][lane..].as_ptr());
                        for (r, record) in records.iter().enumerate() {
                            let scale = _mm256_mul_ps(scales, _mm256_set1_ps(scale(record, g * QUADS / 8)));
                            all[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r]), scale, all[r]);
                            if LEAST {
                                let leasts = _mm256_loadu_ps(tile.leasts[g][lane..].as_ptr());
                                all[r] = _mm256_fmadd_ps(leasts, _mm256_set1_ps(least(record, g)), all[r]);
                            }
                        }
                    }
                    for (sums, all) in sums.iter_mut().zip(all) {
                        _mm256_storeu_ps(sums[lane..].as_mut_ptr(), all);
                    }
                }
            }
        }
        // SAFETY: `self` says that the processor has the instructions.
        unsafe { products::<R, QUADS, LEAST, WIDE>(tile, groups, records, sums) }
    }
}
