//! The windows of a convolution as rows.

use super::operation::{Operation, operation, parameters};
use crate::{DeviceError, View, ViewMut};

/// How the window of a convolution moves along depth, height and width. For a convolution over fewer axes,
/// set the kernel to 1 along the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Extents of the kernel.
    pub kernel: [usize; 3],
    /// Steps from one output to the next.
    pub stride: [usize; 3],
    /// Steps from one element of the kernel to the next.
    pub dilation: [usize; 3],
    /// Zeros before the first element.
    pub before: [usize; 3],
    /// Zeros after the last element. A causal axis has all of its padding before.
    pub after: [usize; 3],
}

parameters!(Window, [usize; 3]);

impl Window {
    /// A kernel of these extents that moves by one, without padding.
    pub fn new(kernel: [usize; 3]) -> Window {
        Window { kernel, stride: [1; 3], dilation: [1; 3], before: [0; 3], after: [0; 3] }
    }

    /// Number of outputs along each axis; `None` if the window does not fit the input, or if one of its
    /// extents, strides or dilations is 0.
    pub fn outputs(&self, input: [usize; 3]) -> Option<[usize; 3]> {
        let mut outputs = [0; 3];
        for axis in 0..3 {
            if self.dilation[axis] == 0 {
                return None;
            }
            // From the first element of the kernel to its last.
            let reach = self.kernel[axis].checked_sub(1)?.checked_mul(self.dilation[axis])?;
            let padded = input[axis].checked_add(self.before[axis])?.checked_add(self.after[axis])?;
            let steps = padded.checked_sub(reach)?.checked_sub(1)?.checked_div(self.stride[axis])?;
            outputs[axis] = steps.checked_add(1)?;
        }
        Some(outputs)
    }
}

operation! {
    /// Row `r` of `y` is the window at output position `first + r`: for each element of the kernel, in the order depth,
    /// height, width, the channels of `x` there, and zeros in the padding.
    ///
    /// A convolution is a [`Linear`](super::Linear) over these rows with a weight `[out, depth * height *
    /// width * channels]`. Positions count along the width first. A large input is processed in several runs
    /// of positions, so that the rows need little memory.
    pub struct Im2col<'a> {
        /// Input of `depth * height * width` rows of channels, in the compute dtype.
        pub x: View<'a>,
        /// Depth, height and width of the input.
        pub extents: [usize; 3],
        /// How the window moves.
        pub window: Window,
        /// The output position of the first row.
        pub first: usize,
        /// `[positions, kernel depth * kernel height * kernel width * channels]`, of the dtype of `x`.
        pub y: ViewMut<'a>,
    }
}

impl<'a> Im2col<'a> {
    /// The windows from the first position on, one for each row of `y`.
    pub fn new(x: View<'a>, extents: [usize; 3], window: Window, y: ViewMut<'a>) -> Im2col<'a> {
        Im2col { x, extents, window, first: 0, y }
    }

    /// Starts at another position.
    #[must_use]
    pub fn from_position(self, first: usize) -> Im2col<'a> {
        Im2col { first, ..self }
    }
}

impl Operation for Im2col<'_> {
    fn name(&self) -> &'static str {
        "im2col"
    }

    fn check(&self) -> Result<(), DeviceError> {
        let refused = |what: String| Err(DeviceError::shape(self.name(), what));
        let product = |of: [usize; 3]| of.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
        let (x, y) = (self.x.meta(), self.y.meta());
        let (rows, width) = (y.shape().rows(), y.shape().last());
        if product(self.extents) != Some(x.shape().rows()) {
            let (is, extents) = (x.shape(), self.extents);
            return refused(format!("x is {is} where {extents:?} rows of channels are needed"));
        }
        let Some(outputs) = self.window.outputs(self.extents) else {
            return refused(format!("{:?} does not fit an input of {:?}", self.window, self.extents));
        };
        let window = product(self.window.kernel).and_then(|n| n.checked_mul(x.shape().last()));
        if window != Some(width) || x.dtype() != y.dtype() {
            let (kernel, channels) = (self.window.kernel, x.shape().last());
            let is = format!("y is {} {}", y.dtype(), y.shape());
            return refused(format!("{is} where rows of {kernel:?} x {channels} {} are needed", x.dtype()));
        }
        let positions = product(outputs).unwrap_or(usize::MAX);
        if self.first.checked_add(rows).is_none_or(|end| end > positions) {
            return refused(format!(
                "{rows} positions from {} on, but there are only {positions}",
                self.first
            ));
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        0
    }

    /// At most the whole input, and at most what is written.
    fn bytes_read(&self) -> u64 {
        self.x.meta().bytes().min(self.y.meta().bytes())
    }
}
