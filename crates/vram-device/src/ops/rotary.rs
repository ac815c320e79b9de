//! Rotary position embedding.

use vram_types::DType;

use super::operation::{Operation, operation, parameters};
use crate::{DeviceError, View, ViewMut};

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RotaryForm {
    /// Elements `i` and `i + width / 2`, as in GPT-NeoX and in the Llama checkpoints of Hugging Face.
    Halves,
    /// Elements `2 i` and `2 i + 1`, as in the RoFormer paper, Meta's Llama checkpoints and most diffusion
    /// transformers.
    Interleaved,
}

parameters!(RotaryForm);

operation! {
    /// `a = a cos - b sin`, `b = b cos + a sin` for pairs `a`, `b` of elements of each head, in place, by angles that
    /// depend on the row; in f32, rounded once.
    ///
    /// This is rotary position embedding (arXiv 2104.09864). The table holds the angles, so the caller
    /// chooses frequencies and the number of position axes. A head that is wider than the table keeps its
    /// last elements unchanged.
    pub struct Rotary<'a> {
        /// Which elements are a pair.
        pub form: RotaryForm,
        /// `[rows, width]` in f32 with a row for each row of `x`: the cosines of the `width / 2` pairs, then
        /// their sines.
        pub table: View<'a>,
        /// Number of heads.
        pub heads: usize,
        /// `[rows, heads * head_dim]` in the compute dtype.
        pub x: ViewMut<'a>,
    }
}

impl<'a> Rotary<'a> {
    /// The same rotation for all heads.
    pub fn new(form: RotaryForm, table: View<'a>, heads: usize, x: ViewMut<'a>) -> Rotary<'a> {
        Rotary { form, table, heads, x }
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.x.shape().last() / self.heads.max(1)
    }
}

impl Operation for Rotary<'_> {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn check(&self) -> Result<(), DeviceError> {
        let refused = |what: String| Err(DeviceError::shape(self.name(), what));
        let (rows, width) = (self.x.shape().rows(), self.x.shape().last());
        if self.heads == 0 || !width.is_multiple_of(self.heads) {
            return refused(format!("a width of {width} does not divide into {} heads", self.heads));
        }
        let (table, dtype, head) = (self.table.shape(), self.table.dtype(), self.head_dim());
        match table.dims() {
            &[n, turned] if n == rows && turned <= head && turned % 2 == 0 && dtype == DType::F32 => Ok(()),
            _ => refused(format!(
                "the table is {dtype} {table} where f32 [{rows}, n] is needed, n even and at most {head}"
            )),
        }
    }

    /// Four products and two sums for each pair.
    fn flops(&self) -> u64 {
        self.table.meta().elements().saturating_mul(3).saturating_mul(self.heads as u64)
    }

    fn bytes_read(&self) -> u64 {
        self.x.meta().bytes().saturating_add(self.table.meta().bytes())
    }
}
