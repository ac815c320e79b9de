//! Tensors whose elements lie at strides: which bytes of the file go where. Arithmetic alone.

use std::ops::Range;

use smallvec::SmallVec;

/// Bytes between wanted ones up to which both sides are read together: storage reads whole pages
/// anyway.
const MOST_GAP_BYTES: u64 = 4096;
/// Most bytes of one joint read.
const MOST_JOINT_BYTES: u64 = 1 << 20;

/// How the elements of a tensor lie in their storage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Strides {
    /// Elements from one index to the next, outermost extent first; 0 for an extent of 1.
    pub(crate) steps: SmallVec<[u64; 4]>,
    /// The bytes of each number are in the other order (big-endian).
    pub(crate) swapped: bool,
}

impl Strides {
    /// `None` where the elements lie side by side in row-major order and so need no strides.
    pub(crate) fn new(shape: &[usize], steps: &[u64], swapped: bool) -> Option<Strides> {
        let empty = shape.contains(&0);
        let mut steps: SmallVec<[u64; 4]> = SmallVec::from_slice(steps);
        let mut plain = 1u64;
        let mut is_plain = true;
        for (step, &extent) in steps.iter_mut().zip(shape).rev() {
            if extent <= 1 || empty {
                *step = 0;
            } else {
                is_plain &= *step == plain;
            }
            plain = plain.saturating_mul(extent as u64);
        }
        (!empty && (!is_plain || swapped)).then_some(Strides { steps, swapped })
    }
}

/// Elements from the first to the one after the last that a tensor touches; `None` if that
/// overflows.
pub(crate) fn span(shape: &[usize], steps: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .zip(steps)
        .try_fold(0u64, |last, (&extent, &step)| last.checked_add((extent as u64 - 1).checked_mul(step)?))?
        .checked_add(1)
}

/// One extent of a [`Part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dim {
    extent: u64,
    /// Bytes from one index to the next, in the file.
    from: u64,
    /// The same in the result.
    to: u64,
}

/// A rectangular part of a strided tensor, from any place in the file to a dense place in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Outermost in the file first, so that the file is read forwards.
    dims: SmallVec<[Dim; 4]>,
    /// First byte, from the tensor's first.
    from: u64,
    /// Where it goes, from the beginning of the destination.
    to: u64,
    element: u64,
}

/// Elements at a fixed distance in the file that go to a fixed distance in memory; all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) count: u64,
    pub(crate) from_step: u64,
    pub(crate) to_step: u64,
}

/// Lines that are near enough in the file to be read together.
#[derive(Debug)]
pub(crate) struct Group {
    /// Bytes from the tensor's first.
    pub(crate) bytes: Range<u64>,
    lines: Lines,
    count: usize,
}

impl Group {
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line> {
        self.lines.clone().take(self.count)
    }
}

/// Cuts elements `range` (row-major numbers) into rectangular parts.
pub(crate) fn parts(shape: &[usize], steps: &[u64], element: u64, range: Range<u64>) -> Vec<Part> {
    let mut parts = Vec::new();
    if !shape.contains(&0) && range.start < range.end {
        let cut = Cut { element, first: range.start };
        cut.collect(shape, steps, range, 0, 0, &mut parts);
    }
    parts
}

struct Cut {
    element: u64,
    /// The number of the destination's first element.
    first: u64,
}

impl Cut {
    /// `range` counts within the inner tensor that begins at element `from` of the storage and has
    /// `before` elements before it.
    fn collect(
        &self,
        shape: &[usize],
        steps: &[u64],
        range: Range<u64>,
        from: u64,
        before: u64,
        parts: &mut Vec<Part>,
    ) {
        let (Some((_, inner_shape)), Some((&step, inner_steps))) = (shape.split_first(), steps.split_first())
        else {
            parts.push(self.part(&[], &[], from, before));
            return;
        };
        let inner: u64 = inner_shape.iter().map(|&d| d as u64).product();
        let mut at = range.start;
        while at < range.end {
            let index = at / inner;
            let (row, below) = (index * inner, from + index * step);
            let whole = (range.end - row) / inner;
            if at > row || whole == 0 {
                let within = at - row..(range.end - row).min(inner);
                at = row + within.end;
                self.collect(inner_shape, inner_steps, within, below, before + row, parts);
                continue;
            }
            let mut extents: SmallVec<[u64; 4]> = SmallVec::from_iter([whole]);
            extents.extend(inner_shape.iter().map(|&d| d as u64));
            parts.push(self.part(&extents, steps, below, before + row));
            at = row + whole * inner;
        }
    }

    fn part(&self, extents: &[u64], steps: &[u64], from: u64, number: u64) -> Part {
        let mut dims: SmallVec<[Dim; 4]> = SmallVec::new();
        let mut to = self.element;
        for (&extent, &step) in extents.iter().zip(steps).rev() {
            if extent > 1 {
                dims.push(Dim { extent, from: step * self.element, to });
            }
            to *= extent;
        }
        dims.sort_by_key(|dim| (std::cmp::Reverse(dim.from), std::cmp::Reverse(dim.to)));
        Part {
            dims,
            from: from * self.element,
            to: (number - self.first) * self.element,
            element: self.element,
        }
    }
}

impl Part {
    /// The reads that fetch it, mostly forwards through the file.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Group> + '_ {
        let mut lines = self.lines();
        std::iter::from_fn(move || {
            let start = lines.clone();
            let first = lines.next()?;
            let mut bytes = first.from..first.end(self.element);
            let mut count = 1;
            loop {
                let mut ahead = lines.clone();
                let Some(next) = ahead.next() else { break };
                let end = bytes.end.max(next.end(self.element));
                let near = next.from >= bytes.start && next.from <= bytes.end.saturating_add(MOST_GAP_BYTES);
                if !near || end - bytes.start > MOST_JOINT_BYTES {
                    break;
                }
                (bytes.end, count, lines) = (end, count + 1, ahead);
            }
            Some(Group { bytes, lines: start, count })
        })
    }

    fn lines(&self) -> Lines {
        let mut outer = self.dims.clone();
        let sparse = |dim: &Dim| dim.from > self.element + MOST_GAP_BYTES;
        let inner = match outer.last().copied() {
            Some(dim) if !sparse(&dim) => {
                outer.pop();
                dim
            }
            _ => Dim { extent: 1, from: 0, to: 0 },
        };
        let most = (MOST_JOINT_BYTES / inner.from.max(self.element)).max(1);
        Lines { outer, inner, most, from: self.from, to: self.to, line: 0, within: 0 }
    }
}

impl Line {
    fn end(&self, element: u64) -> u64 {
        self.from + (self.count - 1) * self.from_step + element
    }
}

/// Iterates over the lines of a part.
#[derive(Clone, Debug)]
struct Lines {
    outer: SmallVec<[Dim; 4]>,
    inner: Dim,
    /// Most elements of one line.
    most: u64,
    from: u64,
    to: u64,
    /// Number of the line among the outer extents.
    line: u64,
    /// Elements of the line that have been given out.
    within: u64,
}

impl Iterator for Lines {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        let (mut left, mut from, mut to) = (self.line, self.from, self.to);
        for dim in self.outer.iter().rev() {
            from += left % dim.extent * dim.from;
            to += left % dim.extent * dim.to;
            left /= dim.extent;
        }
        if left > 0 {
            return None;
        }
        let count = (self.inner.extent - self.within).min(self.most);
        let line = Line {
            from: from + self.within * self.inner.from,
            to: to + self.within * self.inner.to,
            count,
            from_step: self.inner.from,
            to_step: self.inner.to,
        };
        self.within += count;
        if self.within == self.inner.extent {
            (self.line, self.within) = (self.line + 1, 0);
        }
        Some(line)
    }
}

/// Copies a line out of `bytes`, which begin at `start` of the tensor's own counting.
pub(crate) fn scatter(line: Line, element: usize, bytes: &[u8], start: u64, dst: &mut [u8]) {
    let (mut from, mut to) = ((line.from - start) as usize, line.to as usize);
    let (from_step, to_step) = (line.from_step as usize, line.to_step as usize);
    if from_step == element && to_step == element {
        let len = line.count as usize * element;
        dst[to..to + len].copy_from_slice(&bytes[from..from + len]);
        return;
    }
    for _ in 0..line.count {
        match element {
            4 => dst[to..to + 4].copy_from_slice(&bytes[from..from + 4]),
            2 => dst[to..to + 2].copy_from_slice(&bytes[from..from + 2]),
            _ => dst[to..to + element].copy_from_slice(&bytes[from..from + element]),
        }
        from += from_step;
        to += to_step;
    }
}

/// Turns the bytes of each number round.
pub(crate) fn swap(bytes: &mut [u8], number: usize) {
    bytes.chunks_exact_mut(number).for_each(<[u8]>::reverse);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The elements of a strided tensor of one-byte elements, the slow way.
    fn slowly(shape: &[usize], steps: &[u64], storage: &[u8]) -> Vec<u8> {
        let count: usize = shape.iter().product();
        let place = |number: usize| {
            let mut left = number as u64;
            shape.iter().zip(steps).rev().fold(0, |at, (&extent, &step)| {
                let index = left % extent as u64;
                left /= extent as u64;
                at + index * step
            })
        };
        (0..count).map(|number| storage[place(number) as usize]).collect()
    }

    fn gathered(shape: &[usize], steps: &[u64], storage: &[u8], range: Range<u64>) -> Vec<u8> {
        let mut dst = vec![0; (range.end - range.start) as usize];
        for part in parts(shape, steps, 1, range) {
            for group in part.groups() {
                let bytes = &storage[group.bytes.start as usize..group.bytes.end as usize];
                group.lines().for_each(|line| scatter(line, 1, bytes, group.bytes.start, &mut dst));
            }
        }
        dst
    }

    #[test]
    fn every_range_of_every_layout_is_gathered() {
        let storage: Vec<u8> = (0..120_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let cases: [(&[usize], &[u64]); 9] = [
            (&[4, 5, 6], &[30, 6, 1]),
            (&[6, 5, 4], &[1, 6, 30]),
            (&[5, 4, 6], &[6, 30, 1]),
            (&[4, 3], &[10, 2]),
            (&[3, 4], &[0, 1]),
            (&[3, 4], &[1, 1]),
            (&[], &[]),
            (&[7, 3, 2], &[1, 16_000, 5_000]),
            (&[3, 0, 2], &[1, 1, 1]),
        ];
        for (shape, steps) in cases {
            let expected = slowly(shape, steps, &storage);
            for from in 0..=expected.len() {
                for to in from..=expected.len() {
                    let got = gathered(shape, steps, &storage, from as u64..to as u64);
                    assert_eq!(got, expected[from..to], "{shape:?} {steps:?} {from}..{to}");
                }
            }
        }
    }

    #[test]
    fn what_lies_side_by_side_needs_no_strides() {
        let new = |shape: &[usize], steps: &[u64]| Strides::new(shape, steps, false).is_none();
        assert!(new(&[2, 3], &[3, 1]));
        assert!(new(&[2, 1, 3], &[3, 99, 1]));
        assert!(new(&[1], &[7]));
        assert!(new(&[0, 3], &[1, 1]));
        assert!(!new(&[3, 2], &[1, 3]));
        assert!(!new(&[2], &[2]));
        assert!(!new(&[2, 2], &[0, 1]));
        assert!(Strides::new(&[2], &[1], true).is_some());
        assert_eq!(span(&[2, 3], &[3, 1]), Some(6));
        assert_eq!(span(&[2, 0], &[u64::MAX, 1]), Some(0));
        assert_eq!(span(&[3], &[u64::MAX]), None);
    }
}
