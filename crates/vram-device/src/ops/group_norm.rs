//! Group normalisation of channels-last tensors.

use super::check::{same, vector};
use super::operation::{Operation, operation};
use crate::{DeviceError, View, ViewMut};

operation! {
    /// `y = (x - mean) / sqrt(variance + eps) * weight + bias`, mean and variance over all positions of an item of the
    /// batch and the channels of a group; all in f32 and rounded once. Weight and bias are optional.
    ///
    /// Channels are the last extent, whereas PyTorch's `nn.GroupNorm` has them second. A group is a run of
    /// neighbouring channels (arXiv 1803.08494).
    pub struct GroupNorm<'a> {
        /// Input `[batch, .., channels]` in the compute dtype, or `[channels]` for one item of one position.
        pub x: View<'a>,
        /// Optional `[channels]`, in its storage dtype.
        pub weight: Option<View<'a>>,
        /// Optional `[channels]`, in its storage dtype.
        pub bias: Option<View<'a>>,
        /// Number of groups, a divisor of the number of channels.
        pub groups: usize,
        /// Added to the variance.
        pub eps: f32,
        /// Result, of the dtype and shape of `x`.
        pub y: ViewMut<'a>,
    }
}

impl<'a> GroupNorm<'a> {
    /// Without weight and bias.
    pub fn plain(x: View<'a>, groups: usize, eps: f32, y: ViewMut<'a>) -> GroupNorm<'a> {
        GroupNorm { x, weight: None, bias: None, groups, eps, y }
    }

    /// With optional weight and bias.
    #[must_use]
    pub fn with_affine(self, weight: Option<View<'a>>, bias: Option<View<'a>>) -> GroupNorm<'a> {
        GroupNorm { weight, bias, ..self }
    }

    /// Items of the batch, positions of each, and channels.
    pub fn extents(&self) -> (usize, usize, usize) {
        match self.x.shape().dims() {
            [] => (1, 1, 1),
            [channels] => (1, 1, *channels),
            [batch, positions @ .., channels] => (*batch, positions.iter().product(), *channels),
        }
    }
}

impl Operation for GroupNorm<'_> {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn check(&self) -> Result<(), DeviceError> {
        same(self.name(), self.x.meta(), self.y.meta())?;
        let (_, _, channels) = self.extents();
        if self.groups == 0 || !channels.is_multiple_of(self.groups) {
            let what = format!("{channels} channels do not divide into {} groups", self.groups);
            return Err(DeviceError::shape(self.name(), what));
        }
        self.weight.iter().try_for_each(|weight| vector(self.name(), "the weight", weight, channels))?;
        self.bias.iter().try_for_each(|bias| vector(self.name(), "the bias", bias, channels))
    }

    fn flops(&self) -> u64 {
        self.x.meta().elements().saturating_mul(8)
    }
}
