//! Some rows of a weight with scales.

use std::ops::Range;

use super::scale::ScaleBlocks;

/// Rows of a matrix whose elements have scales, and which of the matrix's scales they need.
///
/// ```
/// use vram_types::encoding::{ScaleBlocks, ScaledRows};
///
/// // A scale for each 128 x 128.
/// let blocks = ScaleBlocks::new(&[300, 256].into(), &[3, 2].into()).expect("blocks");
/// let rows = ScaledRows::new(&blocks, 100..200).expect("there are such rows");
/// assert_eq!((rows.columns(), rows.scales()), (256, 0..4));
/// assert_eq!(ScaledRows::new(&blocks, 200..301), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaledRows {
    blocks: ScaleBlocks,
    rows: Range<usize>,
    columns: usize,
    scales: Range<u64>,
}

impl ScaledRows {
    /// Rows of the matrix that `blocks` is for; `None` if that is no matrix or has no such rows.
    pub fn new(blocks: &ScaleBlocks, rows: Range<usize>) -> Option<ScaledRows> {
        let &[all, columns] = blocks.shape() else { return None };
        let count = rows.end.checked_sub(rows.start)? as u64;
        if rows.end as u64 > all {
            return None;
        }
        let scales = blocks.range((rows.start as u64).checked_mul(columns)?, count.checked_mul(columns)?);
        Some(ScaledRows { blocks: blocks.clone(), rows, columns: usize::try_from(columns).ok()?, scales })
    }

    /// The same for all rows.
    pub fn all(blocks: &ScaleBlocks) -> Option<ScaledRows> {
        let rows = usize::try_from(*blocks.shape().first()?).ok()?;
        ScaledRows::new(blocks, 0..rows)
    }

    /// Which rows of the matrix they are.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Elements of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The numbers of the scales that they need, among all scales of the matrix.
    pub fn scales(&self) -> Range<u64> {
        self.scales.clone()
    }

    /// Tells of the runs of elements that share a scale, from element number `first` of these rows
    /// on: how long each is, and its scale, counted from the first of [`scales`](Self::scales).
    pub fn runs(&self, first: usize, elements: usize, mut each: impl FnMut(usize, usize)) {
        let from = self.rows.start as u64 * self.columns as u64 + first as u64;
        self.blocks.runs(from, elements as u64, |len, scale| {
            each(len as usize, (scale - self.scales.start) as usize);
        });
    }
}
