//! bf16 products in tiles: `y^T = W x^T`, sixteen rows of W by sixteen rows of x at a time.
//!
//! Sums stay in f32 and run through k in order in one accumulator, which passes through memory unrounded between blocks
//! of k, so that neither the blocks nor the number of rows of x show in the bits.

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

use vram_types::DType;

use super::args::LinearArgs;
use super::pack::{PANEL, TILE_K};
use super::tile::{Decode, Decoded, Piece, Plain};
use super::transpose::transpose16;
use crate::cpu::isa::{Body, Isa, IsaKind, dispatch};
use crate::cpu::num::{Act, Bf16, Elem, with_weight};
use crate::cpu::par::{Pool, Shared, for_each};

/// Rows of a tile, of W or of x.
const ROWS: usize = 16;
/// Bytes of a tile, whether of bf16 pairs or of f32 sums.
const TILE: usize = 1024;
/// Rows of W in a task: two tiles.
const TASK: usize = 2 * ROWS;
/// Tiles of k in a block: two tiles of rows by so many are 32 KiB, which the first-level cache holds.
const STEPS: usize = 16;
/// Tiles of x whose sums a task holds at once.
const PANELS: usize = 16;

#[repr(C, align(64))]
pub(super) struct Aligned<T>(T);

/// Sums of a task: `[tile of rows][panel of x][row of W][row of x]`.
type Sums = Aligned<[[[[f32; PANEL]; ROWS]; PANELS]; 2]>;
/// A block of W: `[tile of rows][step][row][bytes]`.
pub(super) type Block = Aligned<[[[[u8; TILE_K * 2]; ROWS]; STEPS]; 2]>;

/// Panels of x up to which the weights' memory is the bound: a task then takes [`STREAM`] pairs of tiles, so that the next
/// block can nearly always be fetched ahead.
const FEW_PANELS: usize = 4;
const STREAM: usize = 4;

/// Columns `n0..n0 + n` of y, for x packed in pairs.
pub(super) fn run<S: Source>(isa: Isa, args: &LinearArgs<'_>, source: S, y: &Shared<'_, u8>, pool: Pool<'_>) {
    let panels = args.m.div_ceil(PANEL);
    let long = panels <= FEW_PANELS && args.n >= 16 * STREAM * TASK;
    let rows = if long { STREAM * TASK } else { TASK };
    for_each(pool, args.n.div_ceil(rows), |_, task| {
        let _tiles = Tiles::configure(isa);
        let mut sums: Sums = Aligned([[[[0.0; PANEL]; ROWS]; PANELS]; 2]);
        let mut block: Block = Aligned([[[[0; TILE_K * 2]; ROWS]; STEPS]; 2]);
        for n in (task * rows..args.n.min((task + 1) * rows)).step_by(TASK) {
            for panel in (0..panels).step_by(PANELS) {
                group(isa, args, source, (n, panel), &mut sums, &mut block);
                finish(isa, args, y, n, panel, &sums);
            }
        }
    });
}

/// The sums of up to [`TASK`] columns from row `n` of W, for up to [`PANELS`] panels of x from `panel`. The tiles are
/// configured.
fn group<S: Source>(
    isa: Isa,
    args: &LinearArgs<'_>,
    source: S,
    (n, panel): (usize, usize),
    sums: &mut Sums,
    block: &mut Block,
) {
    let LinearArgs { k, w, .. } = *args;
    let steps = k.div_ceil(TILE_K);
    let panels = PANELS.min(args.m.div_ceil(PANEL) - panel);
    let x = &args.packed[panel * steps * TILE..][..panels * steps * TILE];
    if k == 0 {
        sums.0 = [[[[0.0; PANEL]; ROWS]; PANELS]; 2];
    }
    for step in (0..steps).step_by(STEPS) {
        let count = STEPS.min(steps - step);
        let rows = TASK.min(args.n - n);
        let k0 = step * TILE_K;
        let piece = Piece { w, k, first: n, rows, k0, len: (count * TILE_K).min(k - k0) };
        source.gather(isa, piece, count, block);
        let a = [block.0[0].as_ptr().cast::<u8>(), block.0[1].as_ptr().cast::<u8>()];
        for p in (0..panels).step_by(2) {
            // SAFETY: `a` are two rows of `STEPS` tiles, `b` one or two of `count` tiles that lie in `x`, whose length was
            // just taken; `c` are the four (two) tiles of sums of the panels `p` and `p + 1 < panels <= PANELS`. The
            // tiles are configured by `run`, and an `Isa` of kind `Amx` says that the instructions are there.
            unsafe {
                let b = x.as_ptr().add((p * steps + step) * TILE);
                let c = [
                    sums.0[0].as_mut_ptr().add(p).cast::<f32>(),
                    sums.0[1].as_mut_ptr().add(p).cast::<f32>(),
                ];
                if p + 1 < panels {
                    multiply_two(a, [b, b.add(steps * TILE)], c, count, step > 0);
                } else {
                    multiply_one(a, b, c, count, step > 0);
                }
            }
        }
    }
}

/// What the tiles are made from.
pub(super) trait Source: Copy + Sync {
    /// Copies a piece of W together in `count` tiles of k, rounded to bf16, with zeros past both ends.
    fn gather(self, isa: Isa, piece: Piece<'_>, count: usize, out: &mut Block);
}

impl<W: Elem> Source for Plain<W> {
    fn gather(self, isa: Isa, piece: Piece<'_>, count: usize, out: &mut Block) {
        dispatch(isa, Gather::<W> { piece, count, out, dtype: PhantomData });
    }
}

impl<D: Decode> Source for Decoded<D> {
    fn gather(self, isa: Isa, piece: Piece<'_>, count: usize, out: &mut Block) {
        // Behind the piece it stays zero.
        let mut values = [0f32; STEPS * TILE_K];
        for r in 0..TASK {
            match r < piece.rows {
                true => self.0.decode(&piece, r, &mut values[..piece.len]),
                false => values[..piece.len].fill(0.0),
            }
            let tiles = &mut out.0[r / ROWS][..count];
            dispatch(isa, Round { values: &values, tiles, row: r % ROWS });
        }
    }
}

struct Gather<'a, W> {
    piece: Piece<'a>,
    count: usize,
    out: &'a mut Block,
    dtype: PhantomData<W>,
}

impl<W: Elem> Body for Gather<'_, W> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Piece { w, k, first, rows, k0, len } = self.piece;
        // What is read next: the same rows further on, or the rows after them.
        let ahead = if k0 + len < k { len } else { (TASK - 1) * k + len } * W::BYTES;
        for r in 0..TASK {
            let tiles = &mut self.out.0[r / ROWS];
            if r >= rows {
                for tile in tiles.iter_mut().take(self.count) {
                    tile[r % ROWS] = [0; TILE_K * 2];
                }
                continue;
            }
            let start = ((first + r) * k + k0) * W::BYTES;
            let source = &w[start..start + len * W::BYTES];
            let mut chunks = source.chunks_exact(TILE_K * W::BYTES);
            for (tile, source) in tiles.iter_mut().zip(chunks.by_ref()) {
                let row = &mut tile[r % ROWS];
                for line in (0..TILE_K * W::BYTES).step_by(64) {
                    // Into the second-level cache: the first has too few fill buffers to hide memory's latency.
                    // SAFETY: a prefetch reads nothing, wherever it points.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(source.as_ptr().wrapping_add(ahead + line).cast()) };
                }
                Self::convert(source, row);
            }
            if !chunks.remainder().is_empty() {
                let row = &mut tiles[self.count - 1][r % ROWS];
                *row = [0; TILE_K * 2];
                Self::convert(chunks.remainder(), row);
            }
        }
    }
}

impl<W: Elem> Gather<'_, W> {
    #[inline(always)]
    fn convert(source: &[u8], row: &mut [u8; TILE_K * 2]) {
        if W::DTYPE == DType::BF16 {
            row[..source.len()].copy_from_slice(source);
            return;
        }
        for (o, &v) in Bf16::slice_mut(row).iter_mut().zip(W::slice(source)) {
            *o = Bf16::put(W::get(v));
        }
    }
}

/// Rounds values to a row of each of the tiles.
struct Round<'a> {
    values: &'a [f32; STEPS * TILE_K],
    tiles: &'a mut [[[u8; TILE_K * 2]; ROWS]],
    row: usize,
}

impl Body for Round<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (tile, values) in self.tiles.iter_mut().zip(self.values.as_chunks::<TILE_K>().0) {
            for (o, &value) in Bf16::slice_mut(&mut tile[self.row]).iter_mut().zip(values) {
                *o = Bf16::put(value);
            }
        }
    }
}

/// Adds the bias to the sums of [`group`], rounds them, and writes them to their columns of y.
fn finish(isa: Isa, args: &LinearArgs<'_>, y: &Shared<'_, u8>, n: usize, panel: usize, sums: &Sums) {
    debug_assert_eq!(isa.kind(), IsaKind::Amx);
    let panels = PANELS.min(args.m.div_ceil(PANEL) - panel);
    for (t, sums) in sums.0.iter().enumerate() {
        let n = n + t * ROWS;
        if n >= args.n {
            break;
        }
        let columns = ROWS.min(args.n - n);
        let mut bias = [0f32; ROWS];
        if let Some((bytes, dtype)) = args.bias {
            with_weight!(dtype, B => {
                for (b, &raw) in bias.iter_mut().zip(&B::slice(bytes)[n..n + columns]) {
                    *b = Bf16::round(B::get(raw));
                }
            });
        }
        for (p, sums) in (panel..).zip(sums.iter().take(panels)) {
            // SAFETY: an `Isa` of kind `Amx` says that AVX-512 is there too.
            let rows = unsafe { transpose(sums, &bias) };
            for (row, values) in rows.iter().enumerate().take(args.m - p * PANEL) {
                let start = (p * PANEL + row) * args.ldy + args.n0 + n;
                // SAFETY: this row of y has `ldy` columns, `n0 + n + columns` are at most that many, and y was found long
                // enough; tasks have different columns.
                let out = unsafe { y.slice(start * 2, columns * 2) };
                if let Ok(out) = <&mut [u8; 2 * ROWS]>::try_from(&mut *out) {
                    *out = *values;
                } else {
                    out.copy_from_slice(&values[..columns * 2]);
                }
            }
        }
    }
}

/// `out[j][i] = bf16(tile[i][j] + bias[i])`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn transpose(tile: &[[f32; PANEL]; ROWS], bias: &[f32; ROWS]) -> [[u8; 2 * ROWS]; PANEL] {
    // SAFETY: sixteen vectors of sixteen values are 1 KiB, as the tile and the bias are.
    let (rows, bias): ([__m512; ROWS], __m512) = unsafe {
        (std::array::from_fn(|i| _mm512_loadu_ps(tile[i].as_ptr())), _mm512_loadu_ps(bias.as_ptr()))
    };
    let mut out = [[0; 2 * ROWS]; PANEL];
    for (column, out) in transpose16(rows).into_iter().zip(&mut out) {
        let bits = _mm512_castps_si512(_mm512_add_ps(column, bias));
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
        let nan = _mm512_fpclass_ps_mask::<0x81>(_mm512_castsi512_ps(bits));
        let bits = _mm512_mask_mov_epi32(rounded, nan, quiet);
        let half = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits));
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), half) };
    }
    out
}

/// The tile registers of this thread, all of sixteen rows of 64 bytes, given back on drop.
struct Tiles;

impl Tiles {
    fn configure(isa: Isa) -> Tiles {
        debug_assert_eq!(isa.kind(), IsaKind::Amx);
        // Palette 1; from byte 16 on the bytes of a row of each tile as u16, from byte 48 on its rows.
        let mut config = Aligned([0u8; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64;
            config.0[48 + tile] = 16;
        }
        // SAFETY: the 64 bytes are alive and a valid palette; an `Isa` of kind `Amx` says that the process may use tiles.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags, readonly));
        };
        Tiles
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: touches the tile registers only, which nobody else uses on this thread while `self` lives.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

/// `c[i][j] = a[i] * b[j]` (with `accumulate` added to what was there) for two tiles of rows of W and two panels of x, over `steps` tiles of k (at least one).
///
/// # Safety
/// The tiles are configured; `a` and `b` are good for `steps` tiles each, and each `c` for two tiles.
unsafe fn multiply_two(
    a: [*const u8; 2],
    b: [*const u8; 2],
    c: [*mut f32; 2],
    steps: usize,
    accumulate: bool,
) {
    // SAFETY: the caller's promise covers all reads and writes; only tile registers and the named ones change.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {accumulate}, {accumulate}",
            "jz 2f",
            "tileloadd tmm0, [{c0} + {row}]",
            "tileloadd tmm1, [{c0} + {row} + 1024]",
            "tileloadd tmm2, [{c1} + {row}]",
            "tileloadd tmm3, [{c1} + {row} + 1024]",
            "2:",
            "tileloadd tmm4, [{a0} + {row}]",
            "tileloadd tmm6, [{b0} + {row}]",
            "tileloadd tmm5, [{a1} + {row}]",
            "tileloadd tmm7, [{b1} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c0} + {row}], tmm0",
            "tilestored [{c0} + {row} + 1024], tmm1",
            "tilestored [{c1} + {row}], tmm2",
            "tilestored [{c1} + {row} + 1024], tmm3",
            a0 = inout(reg) a[0] => _,
            a1 = inout(reg) a[1] => _,
            b0 = inout(reg) b[0] => _,
            b1 = inout(reg) b[1] => _,
            c0 = in(reg) c[0],
            c1 = in(reg) c[1],
            steps = inout(reg) steps => _,
            accumulate = in(reg) usize::from(accumulate),
            row = in(reg) 64usize,
            options(nostack),
        );
    }
}

/// As [`multiply_two`], for one panel of x.
///
/// # Safety
/// The tiles are configured; `a` and `b` are good for `steps` tiles each, and each `c` for one tile.
unsafe fn multiply_one(a: [*const u8; 2], b: *const u8, c: [*mut f32; 2], steps: usize, accumulate: bool) {
    // SAFETY: the caller's promise covers all reads and writes; only tile registers and the named ones change.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm2",
            "test {accumulate}, {accumulate}",
            "jz 2f",
            "tileloadd tmm0, [{c0} + {row}]",
            "tileloadd tmm2, [{c1} + {row}]",
            "2:",
            "tileloadd tmm4, [{a0} + {row}]",
            "tileloadd tmm6, [{b} + {row}]",
            "tileloadd tmm5, [{a1} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c0} + {row}], tmm0",
            "tilestored [{c1} + {row}], tmm2",
            a0 = inout(reg) a[0] => _,
            a1 = inout(reg) a[1] => _,
            b = inout(reg) b => _,
            c0 = in(reg) c[0],
            c1 = in(reg) c[1],
            steps = inout(reg) steps => _,
            accumulate = in(reg) usize::from(accumulate),
            row = in(reg) 64usize,
            options(nostack),
        );
    }
}
