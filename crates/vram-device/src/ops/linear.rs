//! `y = x W^T + b`.

use super::check::vector;
use super::operation::{Operation, operation, parameters};
use crate::{DeviceError, View, ViewMut};
use vram_types::{BlockType, Encoding};

parameters!(Activations);

/// What a product with a weight in quantised blocks makes of its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// It is read in the compute dtype. The result is that of the decoded weight.
    #[default]
    Exact,
    /// It is rounded to 8 bits with a scale for each 32 columns, the largest magnitude among them by 127, and multiplied
    /// with the blocks' own whole numbers, as `llama.cpp` does: several times as fast, at an error of about half a percent.
    ///
    /// This is for the block types that [`applies_to`](Activations::applies_to) names. With all other weights the input
    /// is read as it is.
    Q8,
}

impl Activations {
    /// Whether the input of a product with such a weight is rounded.
    pub fn applies_to(self, weight: Encoding) -> bool {
        use BlockType::{IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
        match (self, weight) {
            (Activations::Q8, Encoding::Blocks(block)) => matches!(
                block,
                Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_NL | IQ4_XS | MXFP4
            ),
            _ => false,
        }
    }
}

operation! {
    /// `y = x W^T + b`, all of it or the columns that some rows of the weight give.
    ///
    /// The weight and the bias are rounded to the compute dtype as they are read. Sums run in f32 and are rounded once,
    /// bias included. A weight that is encoded or has scales is decoded as it is read; the result is that of the decoded
    /// weight.
    ///
    /// A backend may bring `x` into an order of its own first, in the operation's scratch. A weight that comes in tiles
    /// needs that once: the operations after the first say that they are [reusing the scratch](Linear::reusing_scratch).
    pub struct Linear<'a> {
        /// Input `[.., in]` in the compute dtype.
        pub x: View<'a>,
        /// Some rows `[rows, in]` of the weight, in its storage dtype or [encoded](View::encoded).
        pub weight: View<'a>,
        /// The same rows `[rows]` of the bias, in its storage dtype.
        pub bias: Option<View<'a>>,
        /// The output column that the first of these rows gives.
        pub first_output: usize,
        /// The scratch holds what an operation on the same `x` left in it.
        pub packed: bool,
        /// Whether `x` is rounded to 8 bits.
        pub activations: Activations,
        /// Result `[.., out]` in the compute dtype. Columns that the rows of the weight do not give stay as they are.
        pub y: ViewMut<'a>,
    }
}

impl<'a> Linear<'a> {
    /// The product without a bias, from the first output on.
    pub fn new(x: View<'a>, weight: View<'a>, y: ViewMut<'a>) -> Linear<'a> {
        Linear { x, weight, bias: None, first_output: 0, packed: false, activations: Activations::Exact, y }
    }

    /// With a bias, if there is one.
    #[must_use]
    pub fn with_bias(self, bias: Option<View<'a>>) -> Linear<'a> {
        Linear { bias, ..self }
    }

    /// The first row of the weight gives this column of `y`.
    #[must_use]
    pub fn at_output(self, first_output: usize) -> Linear<'a> {
        Linear { first_output, ..self }
    }

    /// With `x` as it is or rounded to 8 bits.
    #[must_use]
    pub fn with_activations(self, activations: Activations) -> Linear<'a> {
        Linear { activations, ..self }
    }

    /// The scratch is that of the operation before, which had the same `x`, and nothing has written to either since.
    #[must_use]
    pub fn reusing_scratch(self) -> Linear<'a> {
        Linear { packed: true, ..self }
    }
}

impl Operation for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn check(&self) -> Result<(), DeviceError> {
        let refused = |what: String| Err(DeviceError::shape(self.name(), what));
        let (rows, inner) = (self.x.shape().rows(), self.x.shape().last());
        let &[outputs, inputs] = self.weight.shape().dims() else {
            return refused(format!("a weight of shape {} is no matrix", self.weight.shape()));
        };
        if inputs != inner {
            return refused(format!("a weight of {inputs} inputs is given {inner}"));
        }
        if self.y.shape().rows() != rows || self.y.dtype() != self.x.dtype() {
            let (is, dtype) = (self.y.shape(), self.y.dtype());
            return refused(format!("y is {dtype} {is} where {rows} rows of {} are needed", self.x.dtype()));
        }
        let columns = self.y.shape().last();
        if self.first_output.checked_add(outputs).is_none_or(|end| end > columns) {
            return refused(format!(
                "{outputs} outputs from {} on do not fit {columns} columns",
                self.first_output
            ));
        }
        self.bias.iter().try_for_each(|bias| vector(self.name(), "the bias", bias, outputs))
    }

    fn decoded(&self) -> Option<&View<'_>> {
        Some(&self.weight)
    }

    /// A multiplication and an addition for each weight and row.
    fn flops(&self) -> u64 {
        2u64.saturating_mul(self.x.shape().rows() as u64).saturating_mul(self.weight.meta().elements())
    }
}
