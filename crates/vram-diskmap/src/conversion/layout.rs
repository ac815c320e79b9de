//! How the elements of a view lie in what it is a view of: arithmetic alone.

use smallvec::SmallVec;
use vram_types::{BlockType, DType};

/// Elements that are never parted, and the bytes that they take: two of 4 bits in a byte, or the
/// bytes of a quantised block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Unit {
    pub(super) elements: u32,
    pub(super) bytes: u32,
    /// The block whose bytes the elements are.
    block: Option<BlockType>,
}

impl Unit {
    pub(super) fn of(dtype: DType) -> Unit {
        let layout = dtype.layout();
        Unit { elements: layout.block_elements, bytes: layout.block_bytes, block: None }
    }

    /// Of a tensor whose elements are the bytes of blocks.
    pub(super) fn of_blocks(block: BlockType) -> Unit {
        let bytes = block.block_bytes() as u32;
        Unit { elements: bytes, bytes, block: Some(block) }
    }

    /// In an error.
    pub(super) fn describe(self) -> String {
        match self.block {
            Some(block) => format!("a {} block of {} bytes", block.name(), self.bytes),
            None => format!("a byte: {} elements are in {}", self.elements, self.bytes),
        }
    }
}

/// Elements from one index to the next, outermost extent first; 0 for an extent of 1.
pub(super) type Steps = SmallVec<[u64; 4]>;

/// The steps of elements that lie side by side in row-major order.
pub(super) fn dense(shape: &[usize]) -> Steps {
    let mut steps: Steps = SmallVec::from_elem(0, shape.len());
    let mut step = 1u64;
    for (to, &extent) in steps.iter_mut().zip(shape).rev() {
        *to = step;
        step = step.saturating_mul(extent as u64);
    }
    normalise(shape, &mut steps);
    steps
}

/// Gives equal views equal steps: those that are never taken are 0.
pub(super) fn normalise(shape: &[usize], steps: &mut Steps) {
    let empty = shape.contains(&0);
    for (step, &extent) in steps.iter_mut().zip(shape) {
        if extent <= 1 || empty {
            *step = 0;
        }
    }
}

/// The extents of so many elements; one of them may be -1 and follows from the others.
pub(super) fn inferred(elements: u64, asked: &[i64]) -> Option<Vec<usize>> {
    let known: Vec<Option<usize>> = asked
        .iter()
        .map(|&extent| if extent == -1 { Some(None) } else { usize::try_from(extent).ok().map(Some) })
        .collect::<Option<_>>()?;
    let product = known.iter().flatten().try_fold(1u64, |n, &d| n.checked_mul(d as u64))?;
    let open = known.iter().filter(|extent| extent.is_none()).count();
    let rest = match (open, product) {
        (0, product) if product == elements => 1,
        (1, 1..) if elements.is_multiple_of(product) => usize::try_from(elements / product).ok()?,
        _ => return None,
    };
    Some(known.into_iter().map(|extent| extent.unwrap_or(rest)).collect())
}

/// Neighbouring extents that one step walks through, as one; extents of 1 are left out.
fn merged(shape: &[usize], steps: &[u64]) -> (SmallVec<[usize; 4]>, Steps) {
    let mut merged: (SmallVec<[usize; 4]>, Steps) = Default::default();
    for (&extent, &step) in shape.iter().zip(steps).filter(|(extent, _)| **extent != 1) {
        match (merged.0.last_mut(), merged.1.last_mut()) {
            (Some(outer), Some(outer_step)) if *outer_step == step * extent as u64 => {
                *outer *= extent;
                *outer_step = step;
            }
            _ => {
                merged.0.push(extent);
                merged.1.push(step);
            }
        }
    }
    merged
}

/// The steps of the same elements under another shape; `None` where there are none.
pub(super) fn restepped(shape: &[usize], steps: &[u64], to: &[usize]) -> Option<Steps> {
    if shape.contains(&0) {
        return Some(dense(to));
    }
    let (mut extents, mut strides) = merged(shape, steps);
    let mut steps: Steps = SmallVec::from_elem(0, to.len());
    for (step, &extent) in steps.iter_mut().zip(to).rev().filter(|(_, extent)| **extent != 1) {
        while extents.last() == Some(&1) {
            extents.pop();
            strides.pop();
        }
        let (left, stride) = (extents.last_mut()?, strides.last_mut()?);
        if !left.is_multiple_of(extent) {
            return None;
        }
        *step = *stride;
        *stride *= extent as u64;
        *left /= extent;
    }
    Some(steps)
}

/// A view in units: elements that are never parted, such as the two in a byte of 4-bit ones.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) shape: SmallVec<[usize; 4]>,
    pub(super) steps: Steps,
    pub(super) first: u64,
}

impl Layout {
    /// `None` if a unit would be parted.
    pub(super) fn new(shape: &[usize], steps: &[u64], first: u64, unit: u32) -> Option<Layout> {
        if shape.contains(&0) {
            return Some(Layout {
                shape: SmallVec::from_slice(&[0]),
                steps: SmallVec::from_slice(&[0]),
                first: 0,
            });
        }
        let (mut extents, mut strides) = merged(shape, steps);
        if unit == 1 {
            return Some(Layout { shape: extents, steps: strides, first });
        }
        let (unit_extent, unit) = (unit as usize, u64::from(unit));
        let (inner, 1) = (extents.pop()?, strides.pop()?) else { return None };
        let whole = inner.is_multiple_of(unit_extent) && first.is_multiple_of(unit);
        if !whole || !strides.iter().all(|step| step.is_multiple_of(unit)) {
            return None;
        }
        extents.push(inner / unit_extent);
        strides.iter_mut().for_each(|step| *step /= unit);
        strides.push(1);
        Some(Layout { shape: extents, steps: strides, first: first / unit })
    }

    /// Whether the units lie side by side.
    pub(super) fn is_dense(&self) -> bool {
        matches!((self.shape.as_slice(), self.steps.as_slice()), ([], _) | ([0], _) | ([_], [1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_follow() {
        let check = |elements, asked: &[i64], expected: Option<&[usize]>| {
            assert_eq!(inferred(elements, asked).as_deref(), expected, "{elements} as {asked:?}");
        };
        check(12, &[3, 4], Some(&[3, 4]));
        check(12, &[-1, 4], Some(&[3, 4]));
        check(12, &[-1, 5], None);
        check(12, &[-1, -1], None);
        check(12, &[-2, 6], None);
        check(1, &[], Some(&[]));
        check(0, &[0, 7], Some(&[0, 7]));
        check(0, &[-1, 7], Some(&[0, 7]));
        check(0, &[-1, 0], None);
        check(5, &[i64::MAX, i64::MAX], None);
    }

    #[test]
    fn steps_under_another_shape() {
        let check = |shape: &[usize], steps: &[u64], to: &[usize], expected: Option<&[u64]>| {
            let found = restepped(shape, steps, to);
            assert_eq!(found.as_deref(), expected, "{shape:?} {steps:?} as {to:?}");
        };
        check(&[4, 6], &[6, 1], &[2, 2, 3, 2], Some(&[12, 6, 2, 1]));
        check(&[4, 6], &[6, 1], &[24], Some(&[1]));
        check(&[4, 3], &[6, 1], &[12], None);
        check(&[4, 3], &[6, 1], &[2, 2, 3], Some(&[12, 6, 1]));
        check(&[6, 4], &[1, 6], &[2, 3, 4], Some(&[3, 1, 6]));
        check(&[6, 4], &[1, 6], &[24], None);
        check(&[6, 1, 4], &[1, 0, 6], &[6, 4, 1], Some(&[1, 6, 0]));
    }

    #[test]
    fn units_stay_whole() {
        let new = |shape: &[usize], steps: &[u64], first, unit| Layout::new(shape, steps, first, unit);
        assert_eq!(new(&[2, 3], &[3, 1], 0, 2).unwrap().shape.as_slice(), [3]);
        assert!(new(&[2, 3], &[3, 1], 0, 2).unwrap().is_dense());
        assert!(new(&[2, 3], &[4, 1], 0, 2).is_none());
        assert!(new(&[2, 4], &[8, 1], 1, 2).is_none());
        assert!(new(&[2, 4], &[8, 1], 2, 2).is_some());
        assert!(new(&[4, 4], &[1, 4], 0, 2).is_none());
        assert!(new(&[], &[], 0, 2).is_none());
        assert!(new(&[], &[], 0, 1).unwrap().is_dense());
        assert!(new(&[3, 0], &[0, 0], 0, 2).unwrap().is_dense());
    }
}
