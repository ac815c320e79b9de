//! Which scale belongs to which element: arithmetic alone.

use std::ops::Range;

use smallvec::SmallVec;

use crate::Shape;

/// The block size that checkpoints use where none is written down: that of DeepSeek's models,
/// whose last blocks are cut off.
const USUAL_BLOCK: u64 = 128;

/// Blocks of a tensor whose elements share a scale, one extent for each of the tensor's.
///
/// ```
/// use vram_types::encoding::ScaleBlocks;
///
/// // A scale for each 128 x 128 of a matrix, the last ones cut off.
/// let blocks = ScaleBlocks::new(&[300, 256].into(), &[3, 2].into()).expect("blocks");
/// assert_eq!(blocks.extents(), [128, 128]);
/// let mut values = [1.0; 4];
/// // Row 130, columns 126 to 129: the scales number 2 and 3.
/// blocks.multiply(&mut values, 130 * 256 + 126, &[0.5, 1.0, 2.0, 4.0, 8.0, 16.0], 0);
/// assert_eq!(values, [2.0, 2.0, 4.0, 4.0]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScaleBlocks {
    /// Of the tensor.
    shape: SmallVec<[u64; 4]>,
    blocks: SmallVec<[u64; 4]>,
}

impl ScaleBlocks {
    /// The blocks that scales of this shape are for; `None` if the two shapes do not fit.
    ///
    /// One scale is for the whole tensor. A vector with as many scales as the tensor has rows is
    /// for its rows (steps of the outermost extent). Else the scales have as many extents as the
    /// tensor: where there are several in an extent, and not one for each index, a block is 128
    /// long if that gives their number, the last one cut off, and otherwise an equal part.
    pub fn new(tensor: &Shape, scales: &Shape) -> Option<ScaleBlocks> {
        let shape: SmallVec<[u64; 4]> = tensor.iter().map(|&extent| extent as u64).collect();
        let whole = |mut blocks: SmallVec<[u64; 4]>| {
            blocks.iter_mut().for_each(|block| *block = (*block).max(1));
            ScaleBlocks { shape: shape.clone(), blocks }
        };
        if scales.iter().all(|&extent| extent == 1) {
            return Some(whole(shape.clone()));
        }
        let counts: SmallVec<[u64; 4]> = match (scales.dims(), shape.first()) {
            (&[rows], Some(&first)) if shape.len() > 1 && rows as u64 == first => {
                std::iter::once(first).chain(shape.iter().skip(1).map(|_| 1)).collect()
            }
            (counts, _) if counts.len() == shape.len() => counts.iter().map(|&n| n as u64).collect(),
            _ => return None,
        };
        let blocks = shape.iter().zip(counts).map(|(&extent, count)| block(extent, count));
        Some(whole(blocks.collect::<Option<_>>()?))
    }

    /// The extents of the tensor.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The extents of a block, as many as the tensor has.
    pub fn extents(&self) -> &[u64] {
        &self.blocks
    }

    /// The numbers of all scales that `elements` elements from number `first` on need, and of
    /// those between.
    pub fn range(&self, first: u64, elements: u64) -> Range<u64> {
        let (mut least, mut end) = (u64::MAX, 0);
        self.runs(first, elements, |_, scale| (least, end) = (least.min(scale), end.max(scale + 1)));
        least.min(end)..end
    }

    /// Multiplies elements, from number `first` of the tensor on, with their scales. `scales`
    /// begins with the scale of number `first_scale`; elements whose scale is not in it are left
    /// as they are.
    pub fn multiply(&self, values: &mut [f32], first: u64, scales: &[f32], first_scale: u64) {
        let mut rest = values;
        let elements = rest.len() as u64;
        self.runs(first, elements, |len, scale| {
            let (run, after) = std::mem::take(&mut rest).split_at_mut(len as usize);
            let scale = scale.checked_sub(first_scale).and_then(|number| scales.get(number as usize));
            if let Some(&scale) = scale {
                run.iter_mut().for_each(|value| *value *= scale);
            }
            rest = after;
        });
    }

    /// Tells of the runs of elements that share a scale, from element number `first` on: how long
    /// each is, and its scale's number.
    pub fn runs(&self, first: u64, elements: u64, mut each: impl FnMut(u64, u64)) {
        let columns = self.shape.last().copied().unwrap_or(1).max(1);
        let width = self.blocks.last().copied().unwrap_or(1);
        let (mut at, end) = (first, first.saturating_add(elements));
        while at < end {
            let row_end = ((at / columns + 1) * columns).min(end);
            let row = self.row_scale(at / columns);
            while at < row_end {
                let column = at % columns;
                let len = (width - column % width).min(row_end - at);
                each(len, row + column / width);
                at += len;
            }
        }
    }

    /// The number of the first scale of a row: of a step of all extents but the innermost.
    fn row_scale(&self, row: u64) -> u64 {
        let mut extents = self.shape.iter().zip(&self.blocks).rev();
        let Some((&columns, &width)) = extents.next() else { return 0 };
        let (mut left, mut scale, mut step) = (row, 0, columns.div_ceil(width));
        for (&extent, &block) in extents {
            scale += left % extent.max(1) / block * step;
            left /= extent.max(1);
            step *= extent.div_ceil(block);
        }
        scale
    }
}

/// How long a block is of which there are so many in an extent.
fn block(extent: u64, count: u64) -> Option<u64> {
    match count {
        0 => (extent == 0).then_some(1),
        1 => Some(extent),
        _ if count == extent => Some(1),
        _ if extent.div_ceil(USUAL_BLOCK) == count => Some(USUAL_BLOCK),
        _ if extent.is_multiple_of(count) => Some(extent / count),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each element's scale, the slow way.
    fn slowly(shape: &[usize], scales: &[usize], blocks: &[u64]) -> Vec<u64> {
        let elements: usize = shape.iter().product();
        let number = |element: usize| {
            let mut left = element;
            let mut index = vec![0; shape.len()];
            for (at, &extent) in index.iter_mut().zip(shape).rev() {
                *at = left % extent;
                left /= extent;
            }
            let counts = shape.iter().zip(blocks).map(|(&e, &b)| (e as u64).div_ceil(b));
            assert_eq!(counts.clone().product::<u64>(), scales.iter().product::<usize>() as u64);
            index.iter().zip(blocks).zip(counts).fold(0, |n, ((&i, &b), count)| n * count + i as u64 / b)
        };
        (0..elements).map(number).collect()
    }

    fn check(shape: &[usize], scales: &[usize], expected: &[u64]) {
        let blocks = ScaleBlocks::new(&Shape::new(shape), &Shape::new(scales)).unwrap();
        assert_eq!(blocks.extents(), expected, "{shape:?} {scales:?}");
        let numbers = slowly(shape, scales, expected);
        let count: usize = scales.iter().product();
        let all: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let step = (numbers.len() / 7).max(1);
        for first in (0..=numbers.len()).step_by(step) {
            for last in (first..=numbers.len()).step_by(step) {
                let wanted: Vec<f32> = numbers[first..last].iter().map(|&n| n as f32).collect();
                let range = blocks.range(first as u64, (last - first) as u64);
                let mut values = vec![1.0; last - first];
                blocks.multiply(
                    &mut values,
                    first as u64,
                    &all[range.start as usize..range.end as usize],
                    range.start,
                );
                assert_eq!(values, wanted, "{shape:?} {scales:?} {first}..{last}");
            }
        }
    }

    #[test]
    fn every_element_has_the_scale_of_its_block() {
        check(&[5, 7], &[], &[5, 7]);
        check(&[5, 7], &[1], &[5, 7]);
        check(&[5, 7], &[5], &[1, 7]);
        check(&[5, 7], &[5, 1], &[1, 7]);
        check(&[5, 7], &[1, 7], &[5, 1]);
        check(&[130, 257], &[2, 3], &[128, 128]);
        check(&[4, 64], &[4, 4], &[1, 16]);
        check(&[96, 6], &[2, 1], &[48, 6]);
        check(&[3, 130, 2], &[3, 2, 1], &[1, 128, 2]);
        check(&[3, 4, 2], &[3], &[1, 4, 2]);
        check(&[4, 4, 2], &[2, 4, 1], &[2, 1, 2]);
        check(&[9], &[9], &[1]);
        check(&[], &[], &[]);
        check(&[0, 3], &[], &[1, 3]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_told() {
        for (shape, scales) in
            [(&[2, 2][..], &[3][..]), (&[301, 2], &[2, 2]), (&[4], &[2, 2]), (&[4, 4], &[0, 4])]
        {
            assert_eq!(
                ScaleBlocks::new(&Shape::new(shape), &Shape::new(scales)),
                None,
                "{shape:?} {scales:?}"
            );
        }
        // 300 in two are not 128 each, and halves are: equal parts.
        assert!(ScaleBlocks::new(&[300, 2].into(), &[2, 1].into()).is_some());
    }
}
