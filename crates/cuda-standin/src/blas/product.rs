//! The product of two matrices, summed in f32 in an order that depends only on the algorithm and
//! the inner dimension.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::blocks::Span;

/// Rows and columns of a tile.
const ROWS: usize = 16;
const COLUMNS: usize = 6;

/// Element type of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
}

/// A matrix, column-major: element (i, j) of batch b is at `b * stride + j * ld + i`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) element: Element,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) ld: usize,
    pub(super) batches: usize,
    pub(super) stride: usize,
}

/// The order of summation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// One after the other.
    Sequential,
    /// Even and odd indices separately.
    Interleaved,
    /// The inner dimension in this many parts, which are added at the end.
    Split(usize),
}

/// D = alpha op(A) op(B) + beta C, queued.
#[derive(Debug)]
pub(crate) struct Product {
    pub(super) spans: [Span; 4],
    pub(super) layouts: [Layout; 4],
    pub(super) transposed: [bool; 2],
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) order: Order,
}

impl Element {
    pub(super) fn bytes(self) -> usize {
        if self == Element::F32 { 4 } else { 2 }
    }
}

impl Layout {
    /// Bytes from the first element to the end of the last; `None` on overflow.
    pub(super) fn bytes(&self) -> Option<usize> {
        if self.rows == 0 || self.columns == 0 || self.batches == 0 {
            return Some(0);
        }
        let last = (self.columns - 1).checked_mul(self.ld)?.checked_add(self.rows)?;
        let batches = (self.batches - 1).checked_mul(self.stride)?;
        batches.checked_add(last)?.checked_mul(self.element.bytes())
    }
}

/// A matrix in memory.
#[derive(Clone, Copy)]
struct Matrix {
    at: *const u8,
    layout: Layout,
}

// SAFETY: pointers to memory that the owner of the product keeps valid, and that nothing else
// writes meanwhile.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// # Safety
    ///
    /// The element is within the layout.
    #[inline(always)]
    unsafe fn get(&self, row: usize, column: usize) -> f32 {
        let index = column * self.layout.ld + row;
        // SAFETY: the caller promises that an element of this type is there.
        unsafe {
            match self.layout.element {
                Element::F32 => self.at.cast::<f32>().add(index).read_unaligned(),
                Element::F16 => self.at.cast::<f16>().add(index).read_unaligned().to_f32(),
                Element::Bf16 => self.at.cast::<bf16>().add(index).read_unaligned().to_f32(),
            }
        }
    }

    /// # Safety
    ///
    /// The element is within the layout, and nothing else accesses it.
    unsafe fn set(&self, row: usize, column: usize, value: f32) {
        let index = column * self.layout.ld + row;
        let at = self.at.cast_mut();
        // SAFETY: the caller promises that an element of this type is there.
        unsafe {
            match self.layout.element {
                Element::F32 => at.cast::<f32>().add(index).write_unaligned(value),
                Element::F16 => at.cast::<f16>().add(index).write_unaligned(f16::from_f32(value)),
                Element::Bf16 => at.cast::<bf16>().add(index).write_unaligned(bf16::from_f32(value)),
            }
        }
    }
}

impl Product {
    /// The operands that it accesses: A, B, C and D.
    pub(crate) fn operands(&self) -> [&Span; 4] {
        self.spans.each_ref()
    }

    /// Multiplies.
    ///
    /// # Safety
    ///
    /// The addresses are those of A, B, C and D with their whole layouts, and nothing else uses
    /// them.
    pub(crate) unsafe fn run(&self, addresses: [u64; 4]) {
        for batch in 0..self.layouts[3].batches {
            let matrix = |i: usize| {
                let layout = self.layouts[i];
                // A single matrix is used for every batch.
                let offset =
                    if layout.batches > 1 { batch * layout.stride * layout.element.bytes() } else { 0 };
                Matrix { at: (addresses[i] as usize + offset) as *const u8, layout }
            };
            // SAFETY: the caller's promise.
            unsafe { self.one([matrix(0), matrix(1), matrix(2), matrix(3)]) };
        }
    }

    /// # Safety
    ///
    /// As for [`run`](Self::run).
    unsafe fn one(&self, [a, b, c, d]: [Matrix; 4]) {
        let (rows, columns) = (d.layout.rows, d.layout.columns);
        let inner = if self.transposed[0] { a.layout.rows } else { a.layout.columns };
        // Panels of COLUMNS columns of op(B); in each panel, for every k, its columns side by
        // side.
        let mut packed = vec![0f32; columns.div_ceil(COLUMNS) * inner * COLUMNS];
        let panel = inner * COLUMNS;
        if panel > 0 {
            packed.par_chunks_mut(panel).enumerate().for_each(|(p, panel)| {
                for j in 0..COLUMNS.min(columns - p * COLUMNS) {
                    for k in 0..inner {
                        let (row, column) =
                            if self.transposed[1] { (p * COLUMNS + j, k) } else { (k, p * COLUMNS + j) };
                        // SAFETY: k is below the inner dimension and the column below that of D,
                        // which B has too.
                        panel[k * COLUMNS + j] = unsafe { b.get(row, column) };
                    }
                }
            });
        }
        let tile = tile_function();
        (0..rows.div_ceil(ROWS)).into_par_iter().for_each(|t| {
            let first = t * ROWS;
            let here = ROWS.min(rows - first);
            let mut left = vec![0f32; inner * ROWS];
            for i in 0..here {
                for k in 0..inner {
                    let (row, column) = if self.transposed[0] { (k, first + i) } else { (first + i, k) };
                    // SAFETY: the row is below that of D, which A has too, and k is below the
                    // inner dimension.
                    left[k * ROWS + i] = unsafe { a.get(row, column) };
                }
            }
            for p in 0..columns.div_ceil(COLUMNS) {
                let sums = self.sums(tile, &left, &packed[p * panel..(p + 1) * panel], inner);
                for (j, sums) in sums.iter().enumerate().take(COLUMNS.min(columns - p * COLUMNS)) {
                    for (i, sum) in sums.iter().enumerate().take(here) {
                        let (row, column) = (first + i, p * COLUMNS + j);
                        let mut value = self.alpha * sum;
                        // SAFETY: an element of D, which C has too; each belongs to one task.
                        unsafe {
                            if self.beta != 0.0 {
                                value += self.beta * c.get(row, column);
                            }
                            d.set(row, column, value);
                        }
                    }
                }
            }
        });
    }

    /// The tile of one panel of rows and one of columns, summed in the product's order.
    fn sums(&self, tile: TileFn, left: &[f32], right: &[f32], inner: usize) -> Tile {
        let parts: Vec<(usize, usize, usize)> = match self.order {
            Order::Sequential => vec![(0, inner, 1)],
            Order::Interleaved => vec![(0, inner, 2), (1, inner, 2)],
            Order::Split(n) => (0..n).map(|i| (i * inner / n, (i + 1) * inner / n, 1)).collect(),
        };
        let mut sums = [[0f32; ROWS]; COLUMNS];
        for (from, to, step) in parts {
            // SAFETY: chosen for this processor.
            let part = unsafe { tile(left, right, from, to, step) };
            for (sum, part) in sums.iter_mut().flatten().zip(part.iter().flatten()) {
                *sum += part;
            }
        }
        sums
    }
}

type Tile = [[f32; ROWS]; COLUMNS];
/// Sums for every `step`th k of a range. Unsafe to call without the instructions that it is
/// compiled for.
type TileFn = unsafe fn(&[f32], &[f32], usize, usize, usize) -> Tile;

fn tile_function() -> TileFn {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        return tile_fma;
    }
    tile_plain
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn tile_fma(left: &[f32], right: &[f32], from: usize, to: usize, step: usize) -> Tile {
    tile(left, right, from, to, step, f32::mul_add)
}

fn tile_plain(left: &[f32], right: &[f32], from: usize, to: usize, step: usize) -> Tile {
    tile(left, right, from, to, step, |a, b, sum| a * b + sum)
}

#[inline(always)]
fn tile(
    left: &[f32],
    right: &[f32],
    from: usize,
    to: usize,
    step: usize,
    add: impl Fn(f32, f32, f32) -> f32,
) -> Tile {
    let mut sums = [[0f32; ROWS]; COLUMNS];
    let (left, right) = (left.as_chunks::<ROWS>().0, right.as_chunks::<COLUMNS>().0);
    let mut k = from;
    while k < to {
        let (a, b) = (left[k], right[k]);
        for j in 0..COLUMNS {
            for i in 0..ROWS {
                sums[j][i] = add(a[i], b[j], sums[j][i]);
            }
        }
        k += step;
    }
    sums
}
