//! How each type of blocks is taken apart: four quants to a word, a row of W to a lane.

use super::LANES;
use super::simd::{Rows, Simd};

/// Repeats a block for each value of a constant, so that shifts by it are constant as well.
macro_rules! each {
    ($i:ident in [$($n:literal),*] $body:block) => {
        $({
            const $i: usize = $n;
            $body
        })*
    };
}

/// A type of blocks.
pub(super) trait Form {
    const BYTES: usize;
    const ELEMENTS: usize;
    /// Columns that share a scale.
    const GROUP: usize;
    /// What a quant's byte is too large by.
    const OFFSET: i32;
    /// Whether something is added to the scaled quants.
    const LEAST: bool = false;
    /// Whether bytes are larger than 127.
    const WIDE: bool = false;

    /// Hands over block `b` of each row.
    fn take_apart<S: Simd, K: Sink<S>>(simd: S, rows: &Rows<'_>, b: usize, sink: &mut K);
}

/// Receives blocks that are taken apart, the groups of a row in order: sums depend on it.
pub(super) trait Sink<S: Simd> {
    /// Group `g` of columns: four times `QUADS` of them, their scale, and their least if the form has it.
    fn group<const QUADS: usize>(&mut self, g: usize, quads: [S::V; QUADS], scale: S::V, least: Option<S::V>);
}

/// The low halves of the bytes of four words, then the high ones.
#[inline(always)]
fn nibbles<S: Simd>(s: S, words: [S::V; 4]) -> [S::V; 8] {
    let low = s.splat(0x0f0f_0f0f);
    let [a, b, c, d] = words;
    let high = |v| s.and(s.shr::<4>(v), low);
    [s.and(a, low), s.and(b, low), s.and(c, low), s.and(d, low), high(a), high(b), high(c), high(d)]
}

/// Nibbles with the bits of a word on top, the lowest bit at the first.
#[inline(always)]
fn fifths<S: Simd>(s: S, mut quads: [S::V; 8], mut bits: S::V) -> [S::V; 8] {
    for quad in &mut quads {
        // Copies of four bits, shifted so that each brings another of them to the lowest place of a byte.
        let spread = s.times(s.and(bits, s.splat(15)), s.splat(0x0020_4081));
        bits = s.shr::<4>(bits);
        *quad = s.or(*quad, s.shl::<4>(s.and(spread, s.splat(0x0101_0101))));
    }
    quads
}

/// The entries of a table.
#[inline(always)]
fn looked_up<S: Simd>(s: S, mut quads: [S::V; 8], table: &[u8; 16]) -> [S::V; 8] {
    for quad in &mut quads {
        *quad = s.lookup(*quad, table);
    }
    quads
}

/// The nibbles of thirty-two bytes: the low halves, then the high ones.
#[inline(always)]
fn long_nibbles<S: Simd>(s: S, rows: &Rows<'_>, at: usize) -> [[S::V; 8]; 2] {
    let [a, b, c, d, e, f, g, h] = nibbles(s, s.words4(rows, at));
    let [i, j, k, l, m, n, o, p] = nibbles(s, s.words4(rows, at + 16));
    [[a, b, c, d, i, j, k, l], [e, f, g, h, m, n, o, p]]
}

/// Byte `N` of each word, as an f32.
#[inline(always)]
fn byte<S: Simd>(s: S, words: S::V, n: usize) -> S::V {
    s.number(s.and(shifted(s, words, 8 * n), s.splat(255)))
}

/// Words without their `bits` lowest bits; a constant once loops are unrolled.
#[inline(always)]
fn shifted<S: Simd>(s: S, v: S::V, bits: usize) -> S::V {
    match bits {
        0 => v,
        2 => s.shr::<2>(v),
        4 => s.shr::<4>(v),
        6 => s.shr::<6>(v),
        8 => s.shr::<8>(v),
        10 => s.shr::<10>(v),
        12 => s.shr::<12>(v),
        14 => s.shr::<14>(v),
        16 => s.shr::<16>(v),
        18 => s.shr::<18>(v),
        20 => s.shr::<20>(v),
        22 => s.shr::<22>(v),
        24 => s.shr::<24>(v),
        26 => s.shr::<26>(v),
        28 => s.shr::<28>(v),
        30 => s.shr::<30>(v),
        _ => unreachable!("an even number below 32"),
    }
}

/// The bits of a mask of words without their lowest bits.
#[inline(always)]
fn masked<S: Simd>(s: S, [a, b, c, d]: [S::V; 4], bits: usize, mask: u32) -> [S::V; 4] {
    let mask = s.splat(mask);
    let (a, b) = (s.and(shifted(s, a, bits), mask), s.and(shifted(s, b, bits), mask));
    [a, b, s.and(shifted(s, c, bits), mask), s.and(shifted(s, d, bits), mask)]
}

/// Nibbles with two bits on top.
#[inline(always)]
fn sixes<S: Simd>(s: S, mut low: [S::V; 4], high: [S::V; 4]) -> [S::V; 4] {
    for (low, high) in low.iter_mut().zip(high) {
        *low = s.or(*low, s.shl::<4>(high));
    }
    low
}

/// Byte `n` of each word, which is signed, as an f32.
#[inline(always)]
fn signed<S: Simd>(s: S, words: S::V, n: usize) -> S::V {
    // As an unsigned one, which is 128 larger.
    let larger = s.and(shifted(s, s.xor(words, s.splat(0x8080_8080)), 8 * n), s.splat(255));
    s.number(s.add(larger, s.splat((-128i32).cast_unsigned())))
}

pub(super) struct Q40;

impl Form for Q40 {
    const BYTES: usize = 18;
    const ELEMENTS: usize = 32;
    const GROUP: usize = 32;
    const OFFSET: i32 = 8;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, b: usize, sink: &mut K) {
        let at = b * Self::BYTES;
        let scale = s.half(s.word(rows, at));
        sink.group(b, nibbles(s, s.words4(rows, at + 2)), scale, None);
    }
}

pub(super) struct Q41;

impl Form for Q41 {
    const BYTES: usize = 20;
    const ELEMENTS: usize = 32;
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const LEAST: bool = true;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, b: usize, sink: &mut K) {
        let at = b * Self::BYTES;
        let (scale, least) = halves(s, s.word(rows, at));
        sink.group(b, nibbles(s, s.words4(rows, at + 4)), scale, Some(least));
    }
}

/// The two f16 of each word.
#[inline(always)]
fn halves<S: Simd>(s: S, both: S::V) -> (S::V, S::V) {
    (s.half(both), s.half(s.shr::<16>(both)))
}

pub(super) struct Q50;

impl Form for Q50 {
    const BYTES: usize = 22;
    const ELEMENTS: usize = 32;
    const GROUP: usize = 32;
    const OFFSET: i32 = 16;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, b: usize, sink: &mut K) {
        let at = b * Self::BYTES;
        let quads = fifths(s, nibbles(s, s.words4(rows, at + 6)), s.word(rows, at + 2));
        sink.group(b, quads, s.half(s.word(rows, at)), None);
    }
}

pub(super) struct Q51;

impl Form for Q51 {
    const BYTES: usize = 24;
    const ELEMENTS: usize = 32;
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const LEAST: bool = true;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, b: usize, sink: &mut K) {
        let at = b * Self::BYTES;
        let (scale, least) = halves(s, s.word(rows, at));
        let quads = fifths(s, nibbles(s, s.words4(rows, at + 8)), s.word(rows, at + 4));
        sink.group(b, quads, scale, Some(least));
    }
}

pub(super) struct Q80;

impl Form for Q80 {
    const BYTES: usize = 34;
    const ELEMENTS: usize = 32;
    const GROUP: usize = 32;
    const OFFSET: i32 = 128;
    const WIDE: bool = true;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, b: usize, sink: &mut K) {
        let at = b * Self::BYTES;
        let ([a, b0, c, d], [e, f, g, h]) = (s.words4(rows, at + 2), s.words4(rows, at + 18));
        let mut quads = [a, b0, c, d, e, f, g, h];
        for quad in &mut quads {
            *quad = s.xor(*quad, s.splat(0x8080_8080));
        }
        sink.group(b, quads, s.half(s.word(rows, at)), None);
    }
}

pub(super) struct Iq4Nl;

/// The values of the type, all 128 larger.
const IQ4: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

impl Form for Iq4Nl {
    const BYTES: usize = 18;
    const ELEMENTS: usize = 32;
    const GROUP: usize = 32;
    const OFFSET: i32 = 128;
    const WIDE: bool = true;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, b: usize, sink: &mut K) {
        let at = b * Self::BYTES;
        let quads = looked_up(s, nibbles(s, s.words4(rows, at + 2)), &IQ4);
        sink.group(b, quads, s.half(s.word(rows, at)), None);
    }
}

pub(super) struct Iq4Xs;

impl Form for Iq4Xs {
    const BYTES: usize = 136;
    const ELEMENTS: usize = 256;
    const GROUP: usize = 32;
    const OFFSET: i32 = 128;
    const WIDE: bool = true;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, _: usize, sink: &mut K) {
        let (both, low) = (s.word(rows, 0), s.word(rows, 4));
        let (d, high) = (s.half(both), s.shr::<16>(both));
        for g in 0..8 {
            let four = s.and(shifted(s, low, 4 * g), s.splat(15));
            let two = s.and(shifted(s, high, 2 * g), s.splat(3));
            let scale = s.add(s.or(four, s.shl::<4>(two)), s.splat((-32i32).cast_unsigned()));
            let quads = looked_up(s, nibbles(s, s.words4(rows, 8 + 16 * g)), &IQ4);
            sink.group(g, quads, s.mul(d, s.number(scale)), None);
        }
    }
}

pub(super) struct Mxfp4;

/// The doubled values of e2m1, all twelve larger.
const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

impl Form for Mxfp4 {
    const BYTES: usize = 17;
    const ELEMENTS: usize = 32;
    const GROUP: usize = 32;
    const OFFSET: i32 = 12;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, b: usize, sink: &mut K) {
        let at = b * Self::BYTES;
        // Half of a power of two. The two smallest are subnormal.
        let exponents: [u32; LANES] = std::array::from_fn(|row| u32::from(rows.four(row, at)[0]));
        let mut scales = [0u32; LANES];
        for (scale, exponent) in scales.iter_mut().zip(exponents) {
            let small = 0x0020_0000 << (exponent & 1);
            *scale = if exponent < 2 { small } else { exponent.wrapping_sub(1) << 23 };
        }
        let quads = looked_up(s, nibbles(s, s.words4(rows, at + 1)), &E2M1);
        sink.group(b, quads, s.load(&scales), None);
    }
}

pub(super) struct Q2K;

impl Form for Q2K {
    const BYTES: usize = 84;
    const ELEMENTS: usize = 256;
    const GROUP: usize = 16;
    const OFFSET: i32 = 0;
    const LEAST: bool = true;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, _: usize, sink: &mut K) {
        let (d, min) = halves(s, s.word(rows, 80));
        let min = s.mul(min, s.splat((-1f32).to_bits()));
        let packed = s.words4(rows, 0);
        each!(PART in [0, 1] {
            let words = [s.words4(rows, 16 + 32 * PART), s.words4(rows, 32 + 32 * PART)];
            each!(TWO in [0, 1, 2, 3] {
                each!(HALF in [0, 1] {
                    let g = 8 * PART + 2 * TWO + HALF;
                    let both = shifted(s, packed[g / 4], 8 * (g % 4));
                    let scale = s.number(s.and(both, s.splat(15)));
                    let least = s.number(s.and(s.shr::<4>(both), s.splat(15)));
                    let quads = masked(s, words[HALF], 2 * TWO, 0x0303_0303);
                    sink.group(g, quads, s.mul(d, scale), Some(s.mul(min, least)));
                });
            });
        });
    }
}

pub(super) struct Q3K;

impl Form for Q3K {
    const BYTES: usize = 110;
    const ELEMENTS: usize = 256;
    const GROUP: usize = 16;
    const OFFSET: i32 = 4;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, _: usize, sink: &mut K) {
        let d = s.half(s.shr::<16>(s.word(rows, 106)));
        let (lows, highs) = ([s.word(rows, 96), s.word(rows, 100)], s.word(rows, 104));
        let masks = [s.words4(rows, 0), s.words4(rows, 16)];
        each!(PART in [0, 1] {
            let words = [s.words4(rows, 32 + 32 * PART), s.words4(rows, 48 + 32 * PART)];
            each!(TWO in [0, 1, 2, 3] {
                each!(HALF in [0, 1] {
                    let mut quads = masked(s, words[HALF], 2 * TWO, 0x0303_0303);
                    for (quad, &mask) in quads.iter_mut().zip(&masks[HALF]) {
                        // The bit of the mask comes to the third place.
                        let mask = match 4 * PART + TWO {
                            0 => s.shl::<2>(mask),
                            1 => s.shl::<1>(mask),
                            2 => mask,
                            3 => s.shr::<1>(mask),
                            4 => s.shr::<2>(mask),
                            5 => s.shr::<3>(mask),
                            6 => s.shr::<4>(mask),
                            _ => s.shr::<5>(mask),
                        };
                        *quad = s.or(*quad, s.and(mask, s.splat(0x0404_0404)));
                    }
                    let g = 8 * PART + 2 * TWO + HALF;
                    let four = s.and(shifted(s, lows[g % 8 / 4], 8 * (g % 4) + 4 * (g / 8)), s.splat(15));
                    let top = s.and(shifted(s, highs, 8 * (g % 4) + 2 * (g / 4)), s.splat(3));
                    let scale = s.add(s.or(four, s.shl::<4>(top)), s.splat((-32i32).cast_unsigned()));
                    sink.group(g, quads, s.mul(d, s.number(scale)), None);
                });
            });
        });
    }
}

/// The scales and leasts of eight groups: two f16 and twelve bytes, in which they have six bits each.
#[derive(Clone, Copy)]
struct SixBits<V> {
    d: V,
    min: V,
    /// A byte for each group.
    scales: [V; 2],
    leasts: [V; 2],
}

impl<V: Copy> SixBits<V> {
    #[inline(always)]
    fn new<S: Simd<V = V>>(s: S, [both, a, b, c]: [V; 4]) -> SixBits<V> {
        let (d, min) = halves(s, both);
        let min = s.mul(min, s.splat((-1f32).to_bits()));
        let (six, four, two) = (s.splat(0x3f3f_3f3f), s.splat(0x0f0f_0f0f), s.splat(0x3030_3030));
        let scales = [s.and(a, six), s.or(s.and(c, four), s.and(s.shr::<2>(a), two))];
        let leasts = [s.and(b, six), s.or(s.and(s.shr::<4>(c), four), s.and(s.shr::<2>(b), two))];
        SixBits { d, min, scales, leasts }
    }

    #[inline(always)]
    fn of<S: Simd<V = V>>(&self, s: S, g: usize) -> (V, V) {
        let scale = s.mul(self.d, byte(s, self.scales[g / 4], g % 4));
        (scale, s.mul(self.min, byte(s, self.leasts[g / 4], g % 4)))
    }
}

pub(super) struct Q4K;

impl Form for Q4K {
    const BYTES: usize = 144;
    const ELEMENTS: usize = 256;
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const LEAST: bool = true;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, _: usize, sink: &mut K) {
        let scales = SixBits::new(s, s.words4(rows, 0));
        for pair in 0..4 {
            for (half, quads) in long_nibbles(s, rows, 16 + 32 * pair).into_iter().enumerate() {
                let (scale, least) = scales.of(s, 2 * pair + half);
                sink.group(2 * pair + half, quads, scale, Some(least));
            }
        }
    }
}

pub(super) struct Q5K;

impl Form for Q5K {
    const BYTES: usize = 176;
    const ELEMENTS: usize = 256;
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const LEAST: bool = true;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, _: usize, sink: &mut K) {
        let scales = SixBits::new(s, s.words4(rows, 0));
        let ([a, b, c, d], [e, f, g, h]) = (s.words4(rows, 16), s.words4(rows, 32));
        let mut highs = [a, b, c, d, e, f, g, h];
        for pair in 0..4 {
            for (half, mut quads) in long_nibbles(s, rows, 48 + 32 * pair).into_iter().enumerate() {
                for (quad, high) in quads.iter_mut().zip(&mut highs) {
                    // The lowest bit is that of these columns.
                    *quad = s.or(*quad, s.shl::<4>(s.and(*high, s.splat(0x0101_0101))));
                    *high = s.shr::<1>(*high);
                }
                let (scale, least) = scales.of(s, 2 * pair + half);
                sink.group(2 * pair + half, quads, scale, Some(least));
            }
        }
    }
}

pub(super) struct Q6K;

impl Form for Q6K {
    const BYTES: usize = 210;
    const ELEMENTS: usize = 256;
    const GROUP: usize = 16;
    const OFFSET: i32 = 32;

    #[inline(always)]
    fn take_apart<S: Simd, K: Sink<S>>(s: S, rows: &Rows<'_>, _: usize, sink: &mut K) {
        let d = s.half(s.shr::<16>(s.word(rows, 206)));
        let packed = s.words4(rows, 192);
        each!(PART in [0, 1] {
            let highs = [s.words4(rows, 128 + 32 * PART), s.words4(rows, 144 + 32 * PART)];
            // Columns that have the high halves of bytes come after all that have the low ones.
            let mut later = [highs; 2];
            each!(PAIR in [0, 1] {
                each!(HALF in [0, 1] {
                    let [a, b, c, e, f, g, h, i] = nibbles(s, s.words4(rows, 64 * PART + 32 * PAIR + 16 * HALF));
                    let quads = sixes(s, [a, b, c, e], masked(s, highs[HALF], 2 * PAIR, 0x0303_0303));
                    let at = 8 * PART + 2 * PAIR + HALF;
                    sink.group(at, quads, s.mul(d, signed(s, packed[at / 4], at % 4)), None);
                    later[PAIR][HALF] = sixes(s, [f, g, h, i], masked(s, highs[HALF], 4 + 2 * PAIR, 0x0303_0303));
                });
            });
            each!(PAIR in [0, 1] {
                each!(HALF in [0, 1] {
                    let at = 8 * PART + 4 + 2 * PAIR + HALF;
                    sink.group(at, later[PAIR][HALF], s.mul(d, signed(s, packed[at / 4], at % 4)), None);
                });
            });
        });
    }
}
