//! A few rows of x: lanes run along the rows of W, which are transposed in registers on the way from memory.
//!
//! With lanes along the rows of x, one row would cost as much as sixteen. An element is the same chain of operations as in
//! `blocked`: sums of [`KC`] products in the order of k, added up in order. So the bits do not depend on which of both ran.

use super::args::LinearArgs;
use super::blocked::bias;
use super::pack::KC;
#[cfg(target_arch = "x86_64")]
use super::quants;
use super::tile::{Decode, Decoded, Piece, Plain, Source, fits};
#[cfg(target_arch = "x86_64")]
use super::transpose;
use crate::cpu::isa::{Body, Isa, IsaKind, dispatch};
use crate::cpu::num::{Act, Elem, F32};
use crate::cpu::par::{Pool, Shared, for_each};

/// Up to so many rows of x are few. With more of them the transposition is dearer than idle lanes.
pub(super) const FEW: usize = 8;
/// Rows of W that are multiplied at once.
pub(super) const LANES: usize = 32;
/// Rows of W in a task where there are many: the rows after those at hand are then mostly this thread's own next ones.
const LONG: usize = 4 * LANES;

/// Sums of the elements of y: for each row of x those of [`LANES`] rows of W.
pub(super) type Sums = [[f32; LANES]; FEW];

/// Rows of x in its packed form, for which there are kernels.
pub(super) fn padded(m: usize) -> usize {
    m.next_power_of_two()
}

/// Lays x out as f32: for each column the values of all rows, with zeros up to [`padded`].
pub(super) fn pack<A: Act>(isa: Isa, x: &[u8], m: usize, k: usize, out: &mut [u8]) {
    dispatch(isa, Pack::<A> { x, m, k, out, act: std::marker::PhantomData });
}

struct Pack<'a, A> {
    x: &'a [u8],
    m: usize,
    k: usize,
    out: &'a mut [u8],
    act: std::marker::PhantomData<A>,
}

impl<A: Act> Body for Pack<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (out, width) = (self.out.as_chunks_mut::<4>().0, padded(self.m));
        for row in 0..width {
            let column = out.iter_mut().skip(row).step_by(width);
            if row >= self.m {
                column.for_each(|o| *o = [0; 4]);
                continue;
            }
            let x = A::slice(&self.x[row * self.k * A::BYTES..][..self.k * A::BYTES]);
            if width == 1 {
                for (o, &v) in out.iter_mut().zip(x) {
                    *o = A::get(v).to_ne_bytes();
                }
            } else {
                for (o, &v) in column.zip(x) {
                    *o = A::get(v).to_ne_bytes();
                }
            }
        }
    }
}

/// Columns `n0..n0 + n` of y for x packed by [`pack`].
pub(super) fn run<A: Act, S: Few>(
    isa: Isa,
    args: &LinearArgs<'_>,
    source: S,
    y: &Shared<'_, u8>,
    pool: Pool<'_>,
) {
    let rows = if args.n >= 16 * LONG { LONG } else { LANES };
    for_each(pool, args.n.div_ceil(rows), |_, task| {
        for n in (task * rows..args.n.min((task + 1) * rows)).step_by(LANES) {
            let count = LANES.min(args.n - n);
            let mut sums: Sums = [[0.0; LANES]; FEW];
            source.multiply::<A>(isa, args, (n, count), &mut sums);
            let mut biases = [0f32; LANES];
            bias::<A>(args, n, &mut biases[..count]);
            for (row, sums) in sums.iter().enumerate().take(args.m) {
                let start = row * args.ldy + args.n0 + n;
                // SAFETY: this row of y has `ldy` columns, `n0 + n + count` are at most that many, and y was found long
                // enough; tasks have different columns.
                let y = unsafe { y.slice(start * A::BYTES, count * A::BYTES) };
                for ((y, sum), bias) in A::slice_mut(y).iter_mut().zip(sums).zip(biases) {
                    *y = A::put(sum + bias);
                }
            }
        }
    });
}

/// What [`run`] reads weights from.
pub(super) trait Few: Source {
    /// The products of all rows of x and up to [`LANES`] rows of W from the first one given, rounded to `A`.
    fn multiply<A: Act>(self, isa: Isa, args: &LinearArgs<'_>, rows: (usize, usize), sums: &mut Sums);
}

impl<W: Elem> Few for Plain<W> {
    fn multiply<A: Act>(self, isa: Isa, args: &LinearArgs<'_>, rows: (usize, usize), sums: &mut Sums) {
        if fits::<A, W>() && W::BYTES > 1 {
            in_place::<W>(isa, args, rows, sums);
        } else {
            widened::<A, Self>(self, isa, args, rows, sums);
        }
    }
}

impl<D: Decode> Few for Decoded<D> {
    fn multiply<A: Act>(self, isa: Isa, args: &LinearArgs<'_>, rows: (usize, usize), sums: &mut Sums) {
        #[cfg(target_arch = "x86_64")]
        if let Some(block) = self.0.block().filter(|&block| quants::known(isa, block)) {
            return in_quants::<A>(block, isa, args, rows, sums);
        }
        widened::<A, Self>(self, isa, args, rows, sums);
    }
}

/// With quants that become numbers in registers.
#[cfg(target_arch = "x86_64")]
fn in_quants<A: Act>(
    block: vram_types::BlockType,
    isa: Isa,
    args: &LinearArgs<'_>,
    (first, rows): (usize, usize),
    sums: &mut Sums,
) {
    let mut apart = quants::Apart::new();
    for k0 in (0..args.k).step_by(KC) {
        let piece = Piece { w: args.w, k: args.k, first, rows, k0, len: KC.min(args.k - k0) };
        if !quants::add_products::<A>(isa, block, args, piece, &mut apart, sums) {
            let mut tile = [0f32; LANES * KC];
            widened_piece::<A, _>(Decoded(block), isa, args, piece, &mut tile, sums);
        }
    }
}

/// With the weights as they lie in memory.
fn in_place<W: Elem>(isa: Isa, args: &LinearArgs<'_>, (n, count): (usize, usize), sums: &mut Sums) {
    let (k, width) = (args.k, padded(args.m));
    for k0 in (0..k).step_by(KC) {
        let len = KC.min(k - k0);
        // Past the end the last row again: its sums go nowhere.
        let row = |r: usize| &args.w[((n + r.min(count - 1)) * k + k0) * W::BYTES..][..len * W::BYTES];
        let w: [&[u8]; LANES] = std::array::from_fn(row);
        // What is read next: the same rows further on, or the rows after them.
        let ahead = if k0 + len < k { len } else { LANES * k - k0 } * W::BYTES;
        let x = &args.packed[k0 * width * 4..][..len * width * 4];
        add_products::<W>(isa, Job { w: &w, x, width, ahead, first: k0 == 0 }, sums);
    }
}

/// With the weights rounded and widened to f32 in a tile that stays in the first-level cache.
fn widened<A: Act, S: Source>(
    source: S,
    isa: Isa,
    args: &LinearArgs<'_>,
    (first, rows): (usize, usize),
    sums: &mut Sums,
) {
    let mut tile = [0f32; LANES * KC];
    for k0 in (0..args.k).step_by(KC) {
        let piece = Piece { w: args.w, k: args.k, first, rows, k0, len: KC.min(args.k - k0) };
        widened_piece::<A, S>(source, isa, args, piece, &mut tile, sums);
    }
}

fn widened_piece<A: Act, S: Source>(
    source: S,
    isa: Isa,
    args: &LinearArgs<'_>,
    piece: Piece<'_>,
    tile: &mut [f32; LANES * KC],
    sums: &mut Sums,
) {
    let Piece { k0, len, rows, .. } = piece;
    source.widen::<A>(isa, piece, tile, KC);
    let (bytes, width) = (as_bytes(tile), padded(args.m));
    let w: [&[u8]; LANES] = std::array::from_fn(|r| &bytes[r.min(rows - 1) * KC * 4..][..len * 4]);
    let x = &args.packed[k0 * width * 4..][..len * width * 4];
    add_products::<F32>(isa, Job { w: &w, x, width, ahead: 0, first: k0 == 0 }, sums);
}

fn as_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: any f32 is four bytes, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Up to [`KC`] columns of a group of rows of W.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    /// The columns of each row.
    pub(super) w: &'a [&'a [u8]; LANES],
    /// The same columns of x: for each `width` values.
    pub(super) x: &'a [u8],
    /// [`padded`] rows of x.
    pub(super) width: usize,
    /// Bytes from here to what is read next.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    // plain Rust leaves prefetching to the processor
    pub(super) ahead: usize,
    /// These are the first columns: sums begin here.
    pub(super) first: bool,
}

/// Adds the products of a job, summed up in order from zero, to the sums.
fn add_products<W: Elem>(isa: Isa, job: Job<'_>, sums: &mut Sums) {
    match job.width {
        1 => add_rows::<W, 1>(isa, job, sums),
        2 => add_rows::<W, 2>(isa, job, sums),
        4 => add_rows::<W, 4>(isa, job, sums),
        _ => add_rows::<W, 8>(isa, job, sums),
    }
}

fn add_rows<W: Elem, const M: usize>(isa: Isa, job: Job<'_>, sums: &mut Sums) {
    let x = job.x.as_chunks::<4>().0.as_chunks::<M>().0;
    match isa.kind() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of these kinds exists only where `IsaKind::missing` found all these features.
        IsaKind::Amx | IsaKind::Avx512 => unsafe { transpose::avx512::<W, M>(job, x, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        IsaKind::Avx2 => unsafe { transpose::avx2::<W, M>(job, x, sums) },
        _ => portable::<W, M>(job, x, sums),
    }
}

/// Plain Rust.
fn portable<W: Elem, const M: usize>(job: Job<'_>, x: &[[[u8; 4]; M]], sums: &mut Sums) {
    const WIDE: usize = 8;
    const STEP: usize = 8;
    for lane in (0..LANES).step_by(WIDE) {
        let rows: [&[W::Raw]; WIDE] = std::array::from_fn(|r| W::slice(job.w[lane + r]));
        let mut partial = [[0f32; WIDE]; M];
        for (step, x) in x.chunks(STEP).enumerate() {
            let mut columns = [[0f32; WIDE]; STEP];
            for (r, row) in rows.iter().enumerate() {
                for (column, &w) in columns.iter_mut().zip(&row[step * STEP..][..x.len()]) {
                    column[r] = W::get(w);
                }
            }
            for (column, x) in columns.iter().zip(x) {
                for (partial, &x) in partial.iter_mut().zip(x) {
                    let x = f32::from_ne_bytes(x);
                    for (p, w) in partial.iter_mut().zip(column) {
                        *p += w * x;
                    }
                }
            }
        }
        for (sums, partial) in sums.iter_mut().zip(partial) {
            for (sum, p) in sums[lane..].iter_mut().zip(partial) {
                *sum = if job.first { p } else { p + *sum };
            }
        }
    }
}
