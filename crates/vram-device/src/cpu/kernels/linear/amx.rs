//! bf16 products in tiles: `y^T = W x^T`, sixteen rows of W by sixteen rows of x at a time.
//!
//! Sums stay in f32 and run through k in order in one accumulator, which passes through memory unrounded between blocks
//! of k, so that neither the blocks nor the number of rows of x show in the bits.

use std::arch::asm;
use std::marker::PhantomData;

use super::super::isa::{Body, Isa, dispatch};
use super::super::num::{Act, Bf16, Elem, with_weight};
use super::super::par::{Pool, Shared, for_each};
use super::LinearArgs;
use super::pack::{PANEL, TILE_K};

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
struct Aligned<T>(T);

/// Sums of a task: `[tile of rows][panel of x][row of W][row of x]`.
type Sums = Aligned<[[[[f32; PANEL]; ROWS]; PANELS]; 2]>;
/// A block of W: `[tile of rows][step][row][bytes]`.
type Block = Aligned<[[[[u8; TILE_K * 2]; ROWS]; STEPS]; 2]>;

/// Columns `n0..n0 + n` of y, for x packed in pairs.
pub(super) fn run<W: Elem>(isa: Isa, args: &LinearArgs<'_>, y: &Shared<'_, u8>, pool: Pool<'_>) {
    for_each(pool, args.n.div_ceil(TASK), |_, task| {
        let _tiles = Tiles::configure(isa);
        for panel in (0..args.m.div_ceil(PANEL)).step_by(PANELS) {
            group::<W>(isa, args, y, task * TASK, panel);
        }
    });
}

/// The columns of a task from row `n` of W, for up to [`PANELS`] panels of x from `panel`. The tiles are configured.
fn group<W: Elem>(isa: Isa, args: &LinearArgs<'_>, y: &Shared<'_, u8>, n: usize, panel: usize) {
    let LinearArgs { k, w, .. } = *args;
    let rows = TASK.min(args.n - n);
    let steps = k.div_ceil(TILE_K);
    let panels = PANELS.min(args.m.div_ceil(PANEL) - panel);
    let x = &args.packed[panel * steps * TILE..][..panels * steps * TILE];
    let mut sums: Sums = Aligned([[[[0.0; PANEL]; ROWS]; PANELS]; 2]);
    let mut block: Block = Aligned([[[[0; TILE_K * 2]; ROWS]; STEPS]; 2]);
    for step in (0..steps).step_by(STEPS) {
        let count = STEPS.min(steps - step);
        dispatch(
            isa,
            Gather::<W> {
                w,
                k,
                n,
                rows,
                step,
                count,
                out: &mut block,
                dtype: PhantomData,
            },
        );
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
                    multiply_two(a, [b, b.add(steps * TILE)], c, count);
                } else {
                    multiply_one(a, b, c, count);
                }
            }
        }
    }
    let mut bias = [0f32; TASK];
    if let Some((bytes, dtype)) = args.bias {
        with_weight!(dtype, B => {
            for (b, &raw) in bias.iter_mut().zip(&B::slice(bytes)[n..n + rows]) {
                *b = Bf16::round(B::get(raw));
            }
        });
    }
    for i in 0..(panels * PANEL).min(args.m - panel * PANEL) {
        let start = (panel * PANEL + i) * args.ldy + args.n0 + n;
        // SAFETY: row `panel * PANEL + i < m` of y has `ldy` columns, `n0 + n + rows` are at most that many, and y was
        // found long enough; tasks have different columns.
        let out = unsafe { y.slice(start * 2, rows * 2) };
        dispatch(
            isa,
            Finish {
                sums: &sums,
                bias: &bias,
                row: i,
                y: out,
            },
        );
    }
}

/// Copies tiles `step..step + count` of the rows `n..n + rows` of W together, rounded to bf16, with zeros past both ends.
struct Gather<'a, W> {
    w: &'a [u8],
    k: usize,
    n: usize,
    rows: usize,
    step: usize,
    count: usize,
    out: &'a mut Block,
    dtype: PhantomData<W>,
}

impl<W: Elem> Body for Gather<'_, W> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let k0 = self.step * TILE_K;
        let len = (self.count * TILE_K).min(self.k - k0);
        for r in 0..TASK {
            let tiles = &mut self.out.0[r / ROWS];
            if r >= self.rows {
                for tile in tiles.iter_mut().take(self.count) {
                    tile[r % ROWS] = [0; TILE_K * 2];
                }
                continue;
            }
            let start = ((self.n + r) * self.k + k0) * W::BYTES;
            let source = &self.w[start..start + len * W::BYTES];
            for (tile, source) in tiles.iter_mut().zip(source.chunks(TILE_K * W::BYTES)) {
                let row = &mut tile[r % ROWS];
                if source.len() < TILE_K * W::BYTES {
                    *row = [0; TILE_K * 2];
                }
                for (o, &v) in Bf16::slice_mut(row).iter_mut().zip(W::slice(source)) {
                    *o = Bf16::put(W::get(v));
                }
            }
        }
    }
}

/// Adds the bias to the sums of one row of x, and rounds them into a piece of a row of y.
struct Finish<'a> {
    sums: &'a Sums,
    bias: &'a [f32; TASK],
    row: usize,
    y: &'a mut [u8],
}

impl Body for Finish<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (i, (y, bias)) in Bf16::slice_mut(self.y).iter_mut().zip(self.bias).enumerate() {
            let sum = self.sums.0[i / ROWS][self.row / PANEL][i % ROWS][self.row % PANEL];
            *y = Bf16::put(sum + bias);
        }
    }
}

/// The tile registers of this thread, all of sixteen rows of 64 bytes, given back on drop.
struct Tiles;

impl Tiles {
    fn configure(isa: Isa) -> Tiles {
        debug_assert_eq!(isa.kind(), super::super::isa::IsaKind::Amx);
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

/// `c[i][j] += a[i] * b[j]` for two tiles of rows of W and two panels of x, over `steps` tiles of k (at least one).
///
/// # Safety
/// The tiles are configured; `a` and `b` are good for `steps` tiles each, and each `c` for two tiles.
unsafe fn multiply_two(a: [*const u8; 2], b: [*const u8; 2], c: [*mut f32; 2], steps: usize) {
    // SAFETY: the caller's promise covers all reads and writes; only tile registers and the named ones change.
    unsafe {
        asm!(
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
            row = in(reg) 64usize,
            options(nostack),
        );
    }
}

/// As [`multiply_two`], for one panel of x.
///
/// # Safety
/// The tiles are configured; `a` and `b` are good for `steps` tiles each, and each `c` for one tile.
unsafe fn multiply_one(a: [*const u8; 2], b: *const u8, c: [*mut f32; 2], steps: usize) {
    // SAFETY: the caller's promise covers all reads and writes; only tile registers and the named ones change.
    unsafe {
        asm!(
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
            row = in(reg) 64usize,
            options(nostack),
        );
    }
}
