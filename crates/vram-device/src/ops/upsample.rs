//! Nearest-neighbour upsampling of channels-last tensors.

use super::operation::{Operation, operation};
use super::strided_copy::{Axes, Axis};
use crate::{DeviceError, View, ViewMut};

operation! {
    /// Each position of `x` repeated a whole number of times along depth, height and width.
    pub struct Upsample<'a> {
        /// Input of `depth * height * width` rows of channels, in the compute dtype.
        pub x: View<'a>,
        /// Depth, height and width of the input.
        pub extents: [usize; 3],
        /// How often each position is repeated along each axis.
        pub factors: [usize; 3],
        /// Result, of the dtype and width of `x`; the products of extents and factors give its rows.
        pub y: ViewMut<'a>,
    }
}

impl<'a> Upsample<'a> {
    /// An input of these extents, enlarged by these factors.
    pub fn new(x: View<'a>, extents: [usize; 3], factors: [usize; 3], y: ViewMut<'a>) -> Upsample<'a> {
        Upsample { x, extents, factors, y }
    }

    /// The same as a strided copy; where a position is repeated, the stride of `x` is 0.
    pub(crate) fn axes(&self) -> Axes {
        let channels = self.x.shape().last();
        let (mut axes, mut from, mut to) =
            (vec![Axis { extent: channels, from: 1, to: 1 }], channels, channels);
        for (&extent, &factor) in self.extents.iter().zip(&self.factors).rev() {
            axes.push(Axis { extent: factor, from: 0, to });
            axes.push(Axis { extent, from, to: to * factor });
            (from, to) = (from * extent, to * factor * extent);
        }
        axes.into_iter().collect()
    }
}

impl Operation for Upsample<'_> {
    fn name(&self) -> &'static str {
        "upsample"
    }

    fn check(&self) -> Result<(), DeviceError> {
        let product = |of: [usize; 3]| of.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
        let (x, y) = (self.x.meta(), self.y.meta());
        let rows = product(self.extents);
        let outputs = product(self.factors).and_then(|factor| rows?.checked_mul(factor));
        if self.factors.contains(&0)
            || rows != Some(x.shape().rows())
            || outputs != Some(y.shape().rows())
            || y.shape().last() != x.shape().last()
            || y.dtype() != x.dtype()
        {
            let is = format!("x is {} {} and y is {} {}", x.dtype(), x.shape(), y.dtype(), y.shape());
            let what =
                format!("{is} where {:?} positions are repeated {:?} times", self.extents, self.factors);
            return Err(DeviceError::shape(self.name(), what));
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        0
    }
}
