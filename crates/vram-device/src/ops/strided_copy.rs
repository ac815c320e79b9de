//! Strided copies of elements, for concatenation, slices and permutations.

use std::ops::Deref;

use smallvec::SmallVec;

use super::operation::{Operation, operation, parameters};
use crate::{DeviceError, View, ViewMut};

/// The most axes of a copy.
const MOST: usize = 6;

/// One axis of a [`StridedCopy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// Number of steps.
    pub extent: usize,
    /// Elements of `x` from one step to the next; 0 repeats the same element.
    pub from: usize,
    /// Elements of `y` from one step to the next.
    pub to: usize,
}

/// The axes of a [`StridedCopy`], in any order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Axes(SmallVec<[Axis; MOST]>);

parameters!(Axes);

impl Deref for Axes {
    type Target = [Axis];

    fn deref(&self) -> &[Axis] {
        &self.0
    }
}

impl From<&[Axis]> for Axes {
    fn from(axes: &[Axis]) -> Axes {
        Axes(SmallVec::from_slice(axes))
    }
}

impl<const N: usize> From<[Axis; N]> for Axes {
    fn from(axes: [Axis; N]) -> Axes {
        Axes::from(axes.as_slice())
    }
}

impl FromIterator<Axis> for Axes {
    fn from_iter<I: IntoIterator<Item = Axis>>(axes: I) -> Axes {
        Axes(axes.into_iter().collect())
    }
}

impl Axes {
    /// The axes of more than one step, from the largest stride in `y` to the smallest.
    pub(crate) fn outermost_first(&self) -> Axes {
        let mut axes: Axes = self.iter().copied().filter(|axis| axis.extent > 1).collect();
        axes.0.sort_by_key(|axis| std::cmp::Reverse(axis.to));
        axes
    }

    /// The same elements in the same order of `y` with the fewest axes: two axes that step together like one
    /// are merged.
    pub(crate) fn merged(&self) -> Axes {
        let mut merged = Axes(SmallVec::new());
        for &Axis { extent, from, to } in self.outermost_first().iter() {
            let joins = |last: &&mut Axis| {
                extent.checked_mul(from) == Some(last.from) && extent.checked_mul(to) == Some(last.to)
            };
            match merged.0.last_mut().filter(joins) {
                Some(last) => *last = Axis { extent: last.extent * extent, from, to },
                None => merged.0.push(Axis { extent, from, to }),
            }
        }
        merged
    }

    /// Elements from the first to the last that is touched, inclusive; `None` on overflow.
    fn reach(&self, stride: impl Fn(&Axis) -> usize) -> Option<usize> {
        if self.iter().any(|axis| axis.extent == 0) {
            return Some(0);
        }
        let mut steps = self.iter().map(|axis| (axis.extent - 1).checked_mul(stride(axis)));
        steps.try_fold(1, |sum: usize, step| sum.checked_add(step?))
    }
}

operation! {
    /// `y[to + i . to strides] = x[from + i . from strides]` for every index `i` within the extents of the
    /// axes. What is not reached of `y` stays as it is.
    ///
    /// Strides of `x` may be 0. Those of `y` must be so large that no two steps meet: each must be larger
    /// than everything that the axes of smaller strides reach together.
    pub struct StridedCopy<'a> {
        /// A tensor whose elements are whole bytes; its shape does not matter.
        pub x: View<'a>,
        /// The element of `x` where the copy begins.
        pub from: usize,
        /// The axes, six at most.
        pub axes: Axes,
        /// The element of `y` where the copy begins.
        pub to: usize,
        /// The result, of the dtype of `x`; its shape does not matter.
        pub y: ViewMut<'a>,
    }
}

impl<'a> StridedCopy<'a> {
    /// Any copy, from element `from` of `x` to element `to` of `y`.
    pub fn new(
        x: View<'a>,
        from: usize,
        axes: impl Into<Axes>,
        to: usize,
        y: ViewMut<'a>,
    ) -> StridedCopy<'a> {
        StridedCopy { x, from, axes: axes.into(), to, y }
    }

    /// All of `x` with its axes in another order: axis `i` of `y` is axis `order[i]` of `x`.
    ///
    /// # Errors
    /// [`DeviceError::Shape`] if the order does not name each axis once, or if `y` does not have the
    /// resulting shape.
    pub fn permuted(x: View<'a>, order: &[usize], y: ViewMut<'a>) -> Result<StridedCopy<'a>, DeviceError> {
        let dims = x.shape().dims();
        let named = (0..dims.len()).all(|axis| order.contains(&axis));
        if order.len() != dims.len() || !named || !order.iter().map(|&i| &dims[i]).eq(y.shape().iter()) {
            let what = format!("{} in the order {order:?} is not {}", x.shape(), y.shape());
            return Err(DeviceError::shape("strided_copy", what));
        }
        let stride = |dims: &[usize], axis: usize| dims[axis + 1..].iter().product();
        let axis = |(i, &axis): (usize, &usize)| Axis {
            extent: dims[axis],
            from: stride(dims, axis),
            to: stride(y.shape().dims(), i),
        };
        let axes = order.iter().enumerate().map(axis).collect();
        Ok(StridedCopy { x, from: 0, axes, to: 0, y })
    }

    /// Copies `count` columns of every row of `x`, from column `from` on, to the columns of `y` from `to` on.
    ///
    /// # Errors
    /// [`DeviceError::Shape`] if the numbers of rows differ or the columns do not fit.
    pub fn columns(
        x: View<'a>,
        from: usize,
        count: usize,
        to: usize,
        y: ViewMut<'a>,
    ) -> Result<StridedCopy<'a>, DeviceError> {
        let (rows, wide, target) = (x.shape().rows(), x.shape().last(), y.shape().last());
        let fits = |first: usize, width| first.checked_add(count).is_some_and(|end| end <= width);
        if y.shape().rows() != rows || !fits(from, wide) || !fits(to, target) {
            let (is, other) = (x.shape(), y.shape());
            let what =
                format!("{count} columns of {is} from {from} on cannot be copied to {other} from {to} on");
            return Err(DeviceError::shape("strided_copy", what));
        }
        let axes = [Axis { extent: rows, from: wide, to: target }, Axis { extent: count, from: 1, to: 1 }];
        Ok(StridedCopy { x, from, axes: axes.into(), to, y })
    }
}

impl Operation for StridedCopy<'_> {
    fn name(&self) -> &'static str {
        "strided_copy"
    }

    fn check(&self) -> Result<(), DeviceError> {
        let refused = |what: String| Err(DeviceError::shape(self.name(), what));
        let axes = &*self.axes;
        if axes.len() > MOST {
            return refused(format!("{} axes are more than {MOST}", axes.len()));
        }
        if self.x.dtype() != self.y.dtype() || !self.x.dtype().bits().is_multiple_of(8) {
            return refused(format!("from {} to {}", self.x.dtype(), self.y.dtype()));
        }
        for (what, first, reach, elements) in [
            ("x", self.from, self.axes.reach(|axis| axis.from), self.x.meta().elements()),
            ("y", self.to, self.axes.reach(|axis| axis.to), self.y.meta().elements()),
        ] {
            let end = reach.and_then(|reach| first.checked_add(reach));
            if end.is_none_or(|end| end as u64 > elements) {
                let what = format!("{what}, which has {elements}");
                return refused(format!("{axes:?} from element {first} on lie outside {what}"));
            }
        }
        if axes.iter().any(|axis| axis.extent == 0) {
            return Ok(());
        }
        let mut reach = 1;
        for axis in self.axes.outermost_first().iter().rev() {
            if axis.to < reach {
                return refused(format!("steps of {axes:?} meet in y"));
            }
            // Does not overflow: all of it is inside `y`.
            reach += (axis.extent - 1) * axis.to;
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_written()
    }

    fn bytes_written(&self) -> u64 {
        let elements = self.axes.iter().fold(1u64, |n, axis| n.saturating_mul(axis.extent as u64));
        elements.saturating_mul(u64::from(self.x.dtype().bits() / 8))
    }
}
