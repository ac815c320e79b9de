//! The few vector operations that blocks are taken apart with, and the products; here in plain Rust.

use super::pack::{Record, least, quad, scale, start};
use super::{LANES, Quad, Tile};
use crate::cpu::num::{Elem, F16};

/// Bytes of [`LANES`] rows of W, so many in each.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    bytes: &'a [u8],
    /// From one row to the next.
    stride: usize,
    /// How many bytes each row has here.
    len: usize,
}

impl<'a> Rows<'a> {
    /// Rows that follow each other: those of `len` bytes whose first begins where `bytes` do.
    #[inline(always)]
    pub(super) fn new(bytes: &'a [u8], stride: usize, len: usize) -> Rows<'a> {
        assert!((LANES - 1) * stride + len <= bytes.len(), "all rows are there");
        Rows { bytes, stride, len }
    }

    /// Four bytes of a row.
    #[inline(always)]
    pub(super) fn four(&self, row: usize, offset: usize) -> [u8; 4] {
        // SAFETY: `at` finds four bytes there, and any four bytes are an array.
        unsafe { self.at(row, offset, 4).cast::<[u8; 4]>().read() }
    }

    /// Where bytes of a row begin, of which there are `len`.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, offset: usize, len: usize) -> *const u8 {
        assert!(row < LANES && offset + len <= self.len, "inside the row");
        self.bytes.as_ptr().wrapping_add(row * self.stride + offset)
    }
}

/// Vectors of [`LANES`] words: bytes, whole numbers or f32, a row of W in each.
pub(super) trait Simd: Copy {
    type V: Copy;
    /// Most rows of x that are multiplied at once.
    const ROWS: usize;

    /// The four words of the sixteen bytes at `offset` of each row.
    fn words4(self, rows: &Rows<'_>, offset: usize) -> [Self::V; 4];
    /// The word at `offset` of each row.
    fn word(self, rows: &Rows<'_>, offset: usize) -> Self::V;
    fn splat(self, word: u32) -> Self::V;
    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    fn or(self, a: Self::V, b: Self::V) -> Self::V;
    fn xor(self, a: Self::V, b: Self::V) -> Self::V;
    /// The sum of whole numbers.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// The low half of the product of whole numbers.
    fn times(self, a: Self::V, b: Self::V) -> Self::V;
    fn shl<const N: u32>(self, a: Self::V) -> Self::V;
    fn shr<const N: u32>(self, a: Self::V) -> Self::V;
    /// The entry of a table for each byte, all of which are below sixteen.
    fn lookup(self, bytes: Self::V, table: &[u8; 16]) -> Self::V;
    /// The f16 in the low half of each word, as f32.
    fn half(self, a: Self::V) -> Self::V;
    /// Signed whole numbers as f32.
    fn number(self, a: Self::V) -> Self::V;
    /// The product of f32.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn load(self, from: &Quad) -> Self::V;
    fn store(self, a: Self::V, to: &mut Quad);
    fn store_f32(self, a: Self::V, to: &mut [f32; LANES]);

    /// The sum of f32 and of what group `g` of columns gives: the same operations as in `add_products`, for one row of x.
    fn add_group<const QUADS: usize, const WIDE: bool>(
        self,
        sum: Self::V,
        g: usize,
        quads: [Self::V; QUADS],
        scales: (Self::V, Option<Self::V>),
        record: &Record,
    ) -> Self::V;

    /// Adds to the sums the products of `groups` groups of `QUADS` times four columns with `R` rows of x. `LEAST` says
    /// that there are leasts, `WIDE` that bytes are as large as 255 and their offset is 128.
    fn add_products<const R: usize, const QUADS: usize, const LEAST: bool, const WIDE: bool>(
        self,
        tile: &Tile,
        groups: usize,
        records: &[Record; R],
        sums: &mut [[f32; LANES]; R],
    );
}

/// Any processor. On x86-64 few have nothing better, and the time that inlining takes to compile is better spent.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Simd for Portable {
    type V = Quad;
    const ROWS: usize = 4;

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn words4(self, rows: &Rows<'_>, offset: usize) -> [Quad; 4] {
        std::array::from_fn(|word| self.word(rows, offset + 4 * word))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn word(self, rows: &Rows<'_>, offset: usize) -> Quad {
        std::array::from_fn(|row| u32::from_le_bytes(rows.four(row, offset)))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn splat(self, word: u32) -> Quad {
        [word; LANES]
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn and(self, a: Quad, b: Quad) -> Quad {
        std::array::from_fn(|i| a[i] & b[i])
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn or(self, a: Quad, b: Quad) -> Quad {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn xor(self, a: Quad, b: Quad) -> Quad {
        std::array::from_fn(|i| a[i] ^ b[i])
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn add(self, a: Quad, b: Quad) -> Quad {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn times(self, a: Quad, b: Quad) -> Quad {
        std::array::from_fn(|i| a[i].wrapping_mul(b[i]))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn shl<const N: u32>(self, a: Quad) -> Quad {
        a.map(|a| a << N)
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn shr<const N: u32>(self, a: Quad) -> Quad {
        a.map(|a| a >> N)
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn lookup(self, bytes: Quad, table: &[u8; 16]) -> Quad {
        bytes.map(|word| u32::from_le_bytes(word.to_le_bytes().map(|byte| table[usize::from(byte & 15)])))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn half(self, a: Quad) -> Quad {
        a.map(|a| F16::get((a as u16).to_le_bytes()).to_bits())
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn number(self, a: Quad) -> Quad {
        a.map(|a| (a.cast_signed() as f32).to_bits())
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn mul(self, a: Quad, b: Quad) -> Quad {
        std::array::from_fn(|i| (f32::from_bits(a[i]) * f32::from_bits(b[i])).to_bits())
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn load(self, from: &Quad) -> Quad {
        *from
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn store(self, a: Quad, to: &mut Quad) {
        *to = a;
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn store_f32(self, a: Quad, to: &mut [f32; LANES]) {
        *to = a.map(f32::from_bits);
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn add_group<const QUADS: usize, const WIDE: bool>(
        self,
        sum: Quad,
        g: usize,
        quads: [Quad; QUADS],
        (scales, leasts): (Quad, Option<Quad>),
        record: &Record,
    ) -> Quad {
        let mut dots = [start(record, g); LANES];
        for (q, bytes) in quads.iter().enumerate() {
            dots = dotted(dots, bytes, quad(record, g * QUADS + q));
        }
        let (scale, least) = (scale(record, g * QUADS / 8), least(record, g));
        std::array::from_fn(|lane| {
            let sum = f32::from_bits(sum[lane]) + dots[lane] as f32 * (f32::from_bits(scales[lane]) * scale);
            leasts.map_or(sum, |leasts| sum + f32::from_bits(leasts[lane]) * least).to_bits()
        })
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn add_products<const R: usize, const QUADS: usize, const LEAST: bool, const WIDE: bool>(
        self,
        tile: &Tile,
        groups: usize,
        records: &[Record; R],
        sums: &mut [[f32; LANES]; R],
    ) {
        for g in 0..groups {
            let quads = &tile.quads[g * QUADS..][..QUADS];
            for (record, sums) in records.iter().zip(&mut *sums) {
                let mut dots = [start(record, g); LANES];
                for (q, bytes) in quads.iter().enumerate() {
                    dots = dotted(dots, bytes, quad(record, g * QUADS + q));
                }
                let (scale, least) = (scale(record, g * QUADS / 8), least(record, g));
                for (lane, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                    *sum += dot as f32 * (tile.scales[g][lane] * scale);
                    if LEAST {
                        *sum += tile.leasts[g][lane] * least;
                    }
                }
            }
        }
    }
}

/// Adds the products of four columns.
#[inline(always)]
fn dotted(mut dots: [i32; LANES], w: &Quad, x: i32) -> [i32; LANES] {
    let x = x.to_le_bytes().map(|x| i32::from(x as i8));
    for (dot, w) in dots.iter_mut().zip(w) {
        let w = w.to_le_bytes().map(i32::from);
        *dot += w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
    }
    dots
}
