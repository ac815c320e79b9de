//! Quantised blocks for a few rows of x: quants stay bytes until they are transposed, and become numbers in registers.
//!
//! A value is `scale * quant + least` in the order of operations of [`BlockType::decode`], so it has the same bits. Types
//! of another form, and blocks whose scales are not finite, are decoded by that function instead.

use vram_types::BlockType;

use super::args::LinearArgs;
use super::few::{LANES, Sums, padded};
use super::pack::KC;
use super::quants_x86;
use super::tile::Piece;
use crate::cpu::isa::{Body, Isa, IsaKind, dispatch};
use crate::cpu::num::{Act, Elem, F16};

/// Columns that share a scale.
pub(super) const GROUP: usize = 16;

/// Up to [`KC`] columns of [`LANES`] rows of W, taken apart.
pub(super) struct Apart {
    /// The quants of each row.
    pub(super) quants: [[i8; KC]; LANES],
    /// For each [`GROUP`] of columns the scale of each row.
    pub(super) scales: [[f32; LANES]; KC / GROUP],
    /// What is added; -0 changes no number.
    pub(super) leasts: [[f32; LANES]; KC / GROUP],
}

impl Apart {
    pub(super) fn new() -> Apart {
        Apart {
            quants: [[0; KC]; LANES],
            scales: [[0.0; LANES]; KC / GROUP],
            leasts: [[-0.0; LANES]; KC / GROUP],
        }
    }
}

/// Whether there is a kernel for such blocks.
pub(super) fn known(isa: Isa, block: BlockType) -> bool {
    isa.kind() != IsaKind::Portable
        && matches!(
            block,
            BlockType::Q4_0
                | BlockType::Q4_1
                | BlockType::Q5_0
                | BlockType::Q5_1
                | BlockType::Q8_0
                | BlockType::Q4_K
                | BlockType::Q5_K
                | BlockType::Q6_K
        )
}

/// Adds the products of a piece of W, of a [`known`] type, to the sums; false, and nothing done, if a scale is not finite.
pub(super) fn add_products<A: Act>(
    isa: Isa,
    block: BlockType,
    args: &LinearArgs<'_>,
    piece: Piece<'_>,
    apart: &mut Apart,
    sums: &mut Sums,
) -> bool {
    let mut finite = true;
    dispatch(isa, TakeApart { block, piece, apart: &mut *apart, finite: &mut finite });
    if !finite {
        return false;
    }
    let width = padded(args.m);
    let x = &args.packed[piece.k0 * width * 4..][..piece.len * width * 4];
    let first = piece.k0 == 0;
    match width {
        1 => add_rows::<A, 1>(isa, apart, x, first, sums),
        2 => add_rows::<A, 2>(isa, apart, x, first, sums),
        4 => add_rows::<A, 4>(isa, apart, x, first, sums),
        _ => add_rows::<A, 8>(isa, apart, x, first, sums),
    }
    true
}

fn add_rows<A: Act, const M: usize>(isa: Isa, apart: &Apart, x: &[u8], first: bool, sums: &mut Sums) {
    let x = x.as_chunks::<4>().0.as_chunks::<M>().0.as_chunks::<GROUP>().0;
    if isa.kind() == IsaKind::Avx2 {
        // SAFETY: an `Isa` of this kind exists only where `IsaKind::missing` found all these features.
        unsafe { quants_x86::avx2::<A, M>(apart, x, first, sums) };
    } else {
        // SAFETY: `known` leaves AMX and AVX-512, for which the same holds.
        unsafe { quants_x86::avx512::<A, M>(apart, x, first, sums) };
    }
}

struct TakeApart<'a> {
    block: BlockType,
    piece: Piece<'a>,
    apart: &'a mut Apart,
    finite: &'a mut bool,
}

impl Body for TakeApart<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let TakeApart { block, piece, apart, finite } = self;
        match block {
            BlockType::Q4_0 => blocks::<18, 32, Q40>(piece, apart, finite),
            BlockType::Q4_1 => blocks::<20, 32, Q41>(piece, apart, finite),
            BlockType::Q5_0 => blocks::<22, 32, Q50>(piece, apart, finite),
            BlockType::Q5_1 => blocks::<24, 32, Q51>(piece, apart, finite),
            BlockType::Q8_0 => blocks::<34, 32, Q80>(piece, apart, finite),
            BlockType::Q4_K => blocks::<144, 256, Q4K>(piece, apart, finite),
            BlockType::Q5_K => blocks::<176, 256, Q5K>(piece, apart, finite),
            BlockType::Q6_K => blocks::<210, 256, Q6K>(piece, apart, finite),
            // There is no kernel for the others.
            _ => *finite = false,
        }
    }
}

// Arithmetic below wraps so that overflow checks, where a build has them, do not keep loops from becoming vector code.

/// Scales and leasts of each [`GROUP`] of a block; those of 32 elements use the first two.
type Scales = [(f32, f32); KC / GROUP];

/// A type of blocks. A function as an argument would not be inlined, and be compiled for any processor.
trait Form<const BYTES: usize, const ELEMENTS: usize> {
    fn take_apart(block: &[u8; BYTES], out: &mut [i8; ELEMENTS], scales: &mut Scales);
}

#[inline(always)]
fn blocks<const BYTES: usize, const ELEMENTS: usize, F: Form<BYTES, ELEMENTS>>(
    piece: Piece<'_>,
    apart: &mut Apart,
    finite: &mut bool,
) {
    let Piece { w, k, first, rows, k0, len } = piece;
    let bytes = len / ELEMENTS * BYTES;
    for r in 0..rows {
        let start = (first + r) * (k / ELEMENTS * BYTES) + k0 / ELEMENTS * BYTES;
        let stored = &w[start..start + bytes];
        quants_x86::prefetch(stored, bytes);
        let quants = apart.quants[r].as_chunks_mut::<ELEMENTS>().0;
        for (b, (stored, quants)) in stored.as_chunks::<BYTES>().0.iter().zip(quants).enumerate() {
            let mut scales = [(0.0, -0.0); KC / GROUP];
            F::take_apart(stored, quants, &mut scales);
            for (g, &(scale, least)) in scales[..ELEMENTS / GROUP].iter().enumerate() {
                *finite &= scale.is_finite() & least.is_finite();
                apart.scales[b * (ELEMENTS / GROUP) + g][r] = scale;
                apart.leasts[b * (ELEMENTS / GROUP) + g][r] = least;
            }
        }
    }
}

#[inline(always)]
fn half<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    F16::get([block[at], block[at + 1]])
}

/// The low halves of sixteen bytes, then the high ones.
#[inline(always)]
fn nibbles(bytes: &[u8], out: &mut [i8; 32], minus: i8) {
    for (i, &byte) in bytes.iter().enumerate().take(16) {
        out[i] = ((byte & 15) as i8).wrapping_sub(minus);
        out[16 + i] = ((byte >> 4) as i8).wrapping_sub(minus);
    }
}

/// Adds a fifth bit to each.
#[inline(always)]
fn fifths(bytes: &[u8], out: &mut [i8; 32]) {
    for (out, &byte) in out.as_chunks_mut::<8>().0.iter_mut().zip(bytes) {
        for (bit, out) in out.iter_mut().enumerate() {
            *out = out.wrapping_add(((byte >> bit & 1) << 4) as i8);
        }
    }
}

struct Q40;

impl Form<18, 32> for Q40 {
    #[inline(always)]
    fn take_apart(block: &[u8; 18], out: &mut [i8; 32], scales: &mut Scales) {
        nibbles(&block[2..], out, 8);
        scales[..2].fill((half(block, 0), -0.0));
    }
}

struct Q41;

impl Form<20, 32> for Q41 {
    #[inline(always)]
    fn take_apart(block: &[u8; 20], out: &mut [i8; 32], scales: &mut Scales) {
        nibbles(&block[4..], out, 0);
        scales[..2].fill((half(block, 0), half(block, 2)));
    }
}

struct Q50;

impl Form<22, 32> for Q50 {
    #[inline(always)]
    fn take_apart(block: &[u8; 22], out: &mut [i8; 32], scales: &mut Scales) {
        nibbles(&block[6..], out, 16);
        fifths(&block[2..6], out);
        scales[..2].fill((half(block, 0), -0.0));
    }
}

struct Q51;

impl Form<24, 32> for Q51 {
    #[inline(always)]
    fn take_apart(block: &[u8; 24], out: &mut [i8; 32], scales: &mut Scales) {
        nibbles(&block[8..], out, 0);
        fifths(&block[4..8], out);
        scales[..2].fill((half(block, 0), half(block, 2)));
    }
}

struct Q80;

impl Form<34, 32> for Q80 {
    #[inline(always)]
    fn take_apart(block: &[u8; 34], out: &mut [i8; 32], scales: &mut Scales) {
        for (out, &byte) in out.iter_mut().zip(&block[2..]) {
            *out = byte as i8;
        }
        scales[..2].fill((half(block, 0), -0.0));
    }
}

/// The scales and minima of 6 bits of eight groups of 32, in twelve bytes.
#[inline(always)]
fn k_scales<const N: usize>(block: &[u8; N], scales: &mut Scales) {
    let (d, min, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    for j in 0..8 {
        let (scale, least) = match j {
            0..4 => (packed[j] & 63, packed[j + 4] & 63),
            _ => (packed[j + 4] & 15 | packed[j - 4] >> 2 & 0x30, packed[j + 4] >> 4 | packed[j] >> 2 & 0x30),
        };
        // What is subtracted there is added here.
        scales[2 * j..2 * j + 2].fill((d * f32::from(scale), -(min * f32::from(least))));
    }
}

#[inline(always)]
fn k_nibbles(bytes: &[u8], out: &mut [i8; 256]) {
    for (pair, bytes) in out.as_chunks_mut::<64>().0.iter_mut().zip(bytes.as_chunks::<32>().0) {
        for (i, &byte) in bytes.iter().enumerate() {
            pair[i] = (byte & 15) as i8;
            pair[32 + i] = (byte >> 4) as i8;
        }
    }
}

struct Q4K;

impl Form<144, 256> for Q4K {
    #[inline(always)]
    fn take_apart(block: &[u8; 144], out: &mut [i8; 256], scales: &mut Scales) {
        k_nibbles(&block[16..], out);
        k_scales(block, scales);
    }
}

struct Q5K;

impl Form<176, 256> for Q5K {
    #[inline(always)]
    fn take_apart(block: &[u8; 176], out: &mut [i8; 256], scales: &mut Scales) {
        k_nibbles(&block[48..], out);
        for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (out, &high) in out.iter_mut().zip(&block[16..48]) {
                *out |= ((high >> j & 1) << 4) as i8;
            }
        }
        k_scales(block, scales);
    }
}

struct Q6K;

impl Form<210, 256> for Q6K {
    #[inline(always)]
    fn take_apart(block: &[u8; 210], out: &mut [i8; 256], scales: &mut Scales) {
        for (part, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let (low, high) = (&block[part * 64..][..64], &block[128 + part * 32..][..32]);
            for (quarter, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let low = &low[quarter % 2 * 32..][..32];
                for (out, (&low, &high)) in out.iter_mut().zip(low.iter().zip(high)) {
                    let (four, two) = (low >> (quarter / 2 * 4) & 15, high >> (quarter * 2) & 3);
                    *out = ((four | two << 4) as i8).wrapping_sub(32);
                }
            }
        }
        let d = half(block, 208);
        for (scale, &byte) in scales.iter_mut().zip(&block[192..208]) {
            *scale = (d * f32::from(byte as i8), -0.0);
        }
    }
}
