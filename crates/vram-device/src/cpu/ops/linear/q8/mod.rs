//! Quantised blocks times activations of 8 bits: [`Activations::Q8`].
//!
//! x is rounded to bytes with a scale for each 32 columns (`pack`). Blocks are taken apart into whole bytes for
//! [`LANES`] rows of W at once (`forms`), so that an instruction multiplies four columns of all of them. Sums within a
//! group of columns are integers and exact; the groups are added up in order of the columns, in f32. An element of y is
//! thus the same chain of operations for any number of rows of x, any cut of W and any number of threads.

mod forms;
mod pack;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::marker::PhantomData;

use vram_types::{BlockType, Encoding};

use super::args::LinearArgs;
use super::blocked::bias;
use crate::cpu::error::{KernelError, check_len};
use crate::cpu::isa::{Isa, IsaKind};
use crate::cpu::num::{Act, act_bytes, row_bytes, with_act};
use crate::cpu::par::{self, Pool, Shared, for_each};
#[allow(unused_imports)] // named in documentation
use crate::ops::Activations;
use forms::{Form, Sink};
use pack::{RECORD, Record};
pub(super) use pack::{pack, scratch_bytes};
use simd::{Portable, Rows, Simd};

/// Rows of W that are multiplied at once.
const LANES: usize = 16;
/// Columns that are taken apart at once, and the columns of a record of x.
const COLUMNS: usize = 256;
/// Rows of x that are multiplied with columns that were taken apart once.
const BATCH: usize = 128;

/// Most bytes that so many columns take.
const LONGEST: usize = COLUMNS / 32 * 34;

/// Four columns of each row of W, a byte each.
type Quad = [u32; LANES];

/// Up to [`COLUMNS`] columns of [`LANES`] rows of W, taken apart: an element is `scale * (byte - offset) + least`, with
/// the offset of its [form](Form).
#[repr(C, align(64))]
struct Tile {
    quads: [Quad; COLUMNS / 4],
    /// For each group of columns.
    scales: [[f32; LANES]; COLUMNS / 16],
    /// The same, for forms that have it.
    leasts: [[f32; LANES]; COLUMNS / 16],
}

impl Tile {
    fn new() -> Tile {
        Tile { quads: [[0; LANES]; _], scales: [[0.0; LANES]; _], leasts: [[0.0; LANES]; _] }
    }
}

/// Runs `$body` with `$F` as the form of a block type that has one.
macro_rules! with_form {
    ($block:expr, $F:ident => $some:expr, $none:expr) => {{
        use forms::*;
        match $block {
            BlockType::Q4_0 => {
                type $F = Q40;
                $some
            }
            BlockType::Q4_1 => {
                type $F = Q41;
                $some
            }
            BlockType::Q5_0 => {
                type $F = Q50;
                $some
            }
            BlockType::Q5_1 => {
                type $F = Q51;
                $some
            }
            BlockType::Q8_0 => {
                type $F = Q80;
                $some
            }
            BlockType::Q2_K => {
                type $F = Q2K;
                $some
            }
            BlockType::Q3_K => {
                type $F = Q3K;
                $some
            }
            BlockType::Q4_K => {
                type $F = Q4K;
                $some
            }
            BlockType::Q5_K => {
                type $F = Q5K;
                $some
            }
            BlockType::Q6_K => {
                type $F = Q6K;
                $some
            }
            BlockType::IQ4_NL => {
                type $F = Iq4Nl;
                $some
            }
            BlockType::IQ4_XS => {
                type $F = Iq4Xs;
                $some
            }
            BlockType::MXFP4 => {
                type $F = Mxfp4;
                $some
            }
            _ => $none,
        }
    }};
}

/// What must be known of a form to lay x out for it.
#[derive(Clone, Copy)]
struct Layout {
    /// Columns that share a scale.
    group: usize,
    /// What the bytes of quants are too large by.
    offset: i32,
}

fn layout(block: BlockType) -> Layout {
    with_form!(block, F => Layout { group: F::GROUP, offset: F::OFFSET }, Layout { group: 32, offset: 0 })
}

/// As [`linear`](super::linear) for weights that [`Activations::applies_to`] names; x comes packed by [`pack`].
///
/// # Errors
/// If a slice is too short for the shape, or `n0 + n` is more than `ldy`.
pub(super) fn linear(
    isa: Isa,
    block: BlockType,
    args: &LinearArgs<'_>,
    y: &mut [u8],
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    let LinearArgs { m, k, n, act, .. } = *args;
    check_len("packed x", args.packed.len(), &[scratch_bytes(m, k)])?;
    check_len("w", args.w.len(), &[n, row_bytes("w", Encoding::Blocks(block), k)?])?;
    super::check_output(args, y.len(), act_bytes("act", act)?)?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let pool = par::worth(pool, args.w.len().saturating_add(m.saturating_mul(n).saturating_mul(k) / 128));
    let out = Shared::new(y);
    // Rows in a task where there are many: what is fetched ahead is then mostly this thread's own.
    let rows = if n >= 64 * LANES { 4 * LANES } else { LANES };
    for_each(pool, n.div_ceil(rows), |_, task| {
        let rows = task * rows..n.min((task + 1) * rows);
        let write = with_act!(act, A => write::<A> as Write);
        with_form!(block, F => {
            Task::<F> { args, rows: (rows.start, rows.end), y: &out, write, form: PhantomData }.dispatch(isa);
        }, unreachable!("the caller asked `Activations`"));
    });
    Ok(())
}

/// Rows of W times all rows of x.
struct Task<'a, F> {
    args: &'a LinearArgs<'a>,
    /// From the first row to the end.
    rows: (usize, usize),
    y: &'a Shared<'a, u8>,
    write: Write,
    form: PhantomData<F>,
}

/// Writes the sums of `count` columns from one on to rows of y from one on, and adds the bias.
type Write = fn(&LinearArgs<'_>, &Shared<'_, u8>, columns: (usize, usize), m0: usize, sums: &[[f32; LANES]]);

impl<F: Form> Task<'_, F> {
    fn dispatch(self, isa: Isa) {
        #[cfg(target_arch = "x86_64")]
        match isa.kind() {
            IsaKind::Amx | IsaKind::Avx512 if x86::has_vnni() => return x86::in_avx512(isa, self),
            IsaKind::Amx | IsaKind::Avx512 | IsaKind::Avx2 => return x86::in_avx2(isa, self),
            IsaKind::Portable => {}
        }
        let _ = isa;
        self.run(Portable);
    }

    /// Inlined into a function that has the features of `S`.
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S) {
        let LinearArgs { m, k, w, packed, .. } = *self.args;
        let bytes = |columns: usize| columns / F::ELEMENTS * F::BYTES;
        let records = packed.as_chunks::<RECORD>().0;
        let mut tile = Tile::new();
        let mut sums = [[0f32; LANES]; BATCH];
        let mut padded = [0u8; LANES * LONGEST];
        let stride = bytes(k);
        for first in (self.rows.0..self.rows.1).step_by(LANES) {
            let count = LANES.min(self.rows.1 - first);
            for m0 in (0..m).step_by(BATCH) {
                let batch = BATCH.min(m - m0);
                sums[..batch].fill([0.0; LANES]);
                for k0 in (0..k).step_by(COLUMNS) {
                    let len = COLUMNS.min(k - k0);
                    let from = first * stride + bytes(k0);
                    let rows = if count == LANES {
                        if m0 == 0 {
                            // A part of the rows after these.
                            let next = (first + LANES) * stride + LANES * bytes(k0);
                            prefetch(w, next, LANES * bytes(len));
                        }
                        Rows::new(&w[from..], stride, bytes(len))
                    } else {
                        // The products of rows past the end go nowhere.
                        for (r, row) in padded.chunks_exact_mut(bytes(len)).take(count).enumerate() {
                            row.copy_from_slice(&w[from + r * stride..][..bytes(len)]);
                        }
                        Rows::new(&padded, bytes(len), bytes(len))
                    };
                    let records = &records[k0 / COLUMNS * m + m0..][..batch];
                    if let [record] = records {
                        let sum = simd.load(&sums[0].map(f32::to_bits));
                        let mut sink = Direct { simd, record, sum, form: PhantomData::<F> };
                        for b in 0..len / F::ELEMENTS {
                            F::take_apart(simd, &rows, b, &mut sink);
                        }
                        simd.store_f32(sink.sum, &mut sums[0]);
                    } else {
                        let mut sink = Kept { simd, tile: &mut tile };
                        for b in 0..len / F::ELEMENTS {
                            F::take_apart(simd, &rows, b, &mut sink);
                        }
                        add_products::<S, F>(simd, &tile, len / F::GROUP, records, &mut sums);
                    }
                }
                (self.write)(self.args, self.y, (first, count), m0, &sums[..batch]);
            }
        }
    }
}

fn write<A: Act>(
    args: &LinearArgs<'_>,
    y: &Shared<'_, u8>,
    (n, count): (usize, usize),
    m0: usize,
    sums: &[[f32; LANES]],
) {
    let mut biases = [0f32; LANES];
    bias::<A>(args, n, &mut biases[..count]);
    for (row, sums) in (m0..).zip(sums) {
        let start = row * args.ldy + args.n0 + n;
        // SAFETY: this row of y has `ldy` columns, `n0 + n + count` are at most that many, and y was found long enough;
        // tasks have different columns.
        let y = unsafe { y.slice(start * A::BYTES, count * A::BYTES) };
        for ((y, sum), bias) in A::slice_mut(y).iter_mut().zip(sums).zip(biases) {
            *y = A::put(sum + bias);
        }
    }
}

/// Fetches bytes of a weight.
#[inline(always)]
fn prefetch(w: &[u8], start: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..len).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(w.as_ptr().wrapping_add(start + line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (w, start, len);
}

/// Multiplies with one row of x, without a detour through memory.
struct Direct<'a, S: Simd, F> {
    simd: S,
    record: &'a Record,
    sum: S::V,
    form: PhantomData<F>,
}

impl<S: Simd, F: Form> Sink<S> for Direct<'_, S, F> {
    #[inline(always)]
    fn group<const QUADS: usize>(
        &mut self,
        g: usize,
        quads: [S::V; QUADS],
        scale: S::V,
        least: Option<S::V>,
    ) {
        self.sum = match F::WIDE {
            true => self.simd.add_group::<QUADS, true>(self.sum, g, quads, (scale, least), self.record),
            false => self.simd.add_group::<QUADS, false>(self.sum, g, quads, (scale, least), self.record),
        };
    }
}

/// Keeps what was taken apart for several rows of x.
struct Kept<'a, S> {
    simd: S,
    tile: &'a mut Tile,
}

impl<S: Simd> Sink<S> for Kept<'_, S> {
    #[inline(always)]
    fn group<const QUADS: usize>(
        &mut self,
        g: usize,
        quads: [S::V; QUADS],
        scale: S::V,
        least: Option<S::V>,
    ) {
        for (quad, to) in quads.into_iter().zip(&mut self.tile.quads[g * QUADS..][..QUADS]) {
            self.simd.store(quad, to);
        }
        self.simd.store_f32(scale, &mut self.tile.scales[g]);
        if let Some(least) = least {
            self.simd.store_f32(least, &mut self.tile.leasts[g]);
        }
    }
}

/// Adds the products of a tile and the records of several rows of x.
#[inline(always)]
fn add_products<S: Simd, F: Form>(
    simd: S,
    tile: &Tile,
    groups: usize,
    records: &[Record],
    sums: &mut [[f32; LANES]; BATCH],
) {
    let mut at = 0;
    while at < records.len() {
        let (records, sums) = (&records[at..], &mut sums[at..]);
        at += match records.len() {
            8.. if S::ROWS == 8 => step::<S, F, 8>(simd, tile, groups, records, sums),
            4.. => step::<S, F, 4>(simd, tile, groups, records, sums),
            2.. => step::<S, F, 2>(simd, tile, groups, records, sums),
            _ => step::<S, F, 1>(simd, tile, groups, records, sums),
        };
    }
}

/// For the first `R` rows of x.
#[inline(always)]
fn step<S: Simd, F: Form, const R: usize>(
    simd: S,
    tile: &Tile,
    groups: usize,
    records: &[Record],
    sums: &mut [[f32; LANES]],
) -> usize {
    let (Some(records), Some(sums)) = (records.first_chunk::<R>(), sums.first_chunk_mut::<R>()) else {
        unreachable!("there are as many rows")
    };
    match (F::GROUP, F::LEAST, F::WIDE) {
        (32, false, false) => simd.add_products::<R, 8, false, false>(tile, groups, records, sums),
        (32, false, true) => simd.add_products::<R, 8, false, true>(tile, groups, records, sums),
        (32, true, false) => simd.add_products::<R, 8, true, false>(tile, groups, records, sums),
        (16, false, false) => simd.add_products::<R, 4, false, false>(tile, groups, records, sums),
        (16, true, false) => simd.add_products::<R, 4, true, false>(tile, groups, records, sums),
        _ => unreachable!("no form is like that"),
    }
    R
}

#[cfg(test)]
mod tests;
