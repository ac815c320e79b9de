//! Softmax attention.

use super::check::same;
use super::operation::{Operation, operation};
use crate::{DeviceError, View, ViewMut};

operation! {
    /// `y = softmax(scale q k^T) v` for each head. Heads lie side by side in a row.
    ///
    /// Several neighbouring heads of `q` may share one of `k` and `v` (grouped-query attention, arXiv
    /// 2305.13245). Every query sees every key, or with a [causal mask](Attention::with_causal) only those up
    /// to its own position.
    pub struct Attention<'a> {
        /// Queries `[queries, heads * head_dim]`.
        pub q: View<'a>,
        /// Keys `[keys, kv_heads * head_dim]`.
        pub k: View<'a>,
        /// Values `[keys, kv_heads * head_dim]`.
        pub v: View<'a>,
        /// Heads of `q`.
        pub heads: usize,
        /// Heads of `k` and `v`; each is shared by `heads / kv_heads` neighbouring heads of `q`.
        pub kv_heads: usize,
        /// Factor of the scores.
        pub scale: f32,
        /// The position of the first query: query `i` sees the keys `0..=causal + i`. Keys that no query sees
        /// may hold anything. `None` shows every key to every query.
        pub causal: Option<usize>,
        /// Result, of the dtype and shape of `q`.
        pub y: ViewMut<'a>,
    }
}

impl<'a> Attention<'a> {
    /// With as many heads of `k` and `v` as of `q`, no mask, and the usual scale, `1 / sqrt(head_dim)`.
    pub fn new(q: View<'a>, k: View<'a>, v: View<'a>, heads: usize, y: ViewMut<'a>) -> Attention<'a> {
        // Zero heads fail the check later; this only avoids a division by zero.
        let dim = q.shape().last() / heads.max(1);
        let scale = 1.0 / (dim as f32).sqrt();
        Attention { q, k, v, heads, kv_heads: heads, scale, causal: None, y }
    }

    /// With another scale.
    #[must_use]
    pub fn with_scale(self, scale: f32) -> Attention<'a> {
        Attention { scale, ..self }
    }

    /// With this number of heads in `k` and `v`, a divisor of the number of heads.
    #[must_use]
    pub fn with_kv_heads(self, kv_heads: usize) -> Attention<'a> {
        Attention { kv_heads, ..self }
    }

    /// Query `i` sees the keys `0..=position + i`, where `position` is the number of keys before the first
    /// query's own.
    #[must_use]
    pub fn with_causal(self, position: usize) -> Attention<'a> {
        Attention { causal: Some(position), ..self }
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.q.shape().last() / self.heads.max(1)
    }

    /// Pairs of a query and a key that it sees.
    fn pairs(&self) -> u64 {
        let (queries, keys) = (self.q.shape().rows() as u64, self.k.shape().rows() as u64);
        let first = self.causal.map_or(keys, |position| (position as u64).saturating_add(1)).min(keys);
        // Each of these queries sees one key more than the one before; the rest see all.
        let growing = queries.min(keys - first);
        let triangle = growing.saturating_mul(growing.saturating_sub(1)) / 2;
        growing
            .saturating_mul(first)
            .saturating_add(triangle)
            .saturating_add((queries - growing).saturating_mul(keys))
    }
}

impl Operation for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    /// Keys and values match, and the widths divide into heads of one size.
    fn check(&self) -> Result<(), DeviceError> {
        same(self.name(), self.q.meta(), self.y.meta())?;
        let (width, heads, kv_heads) = (self.q.shape().last(), self.heads, self.kv_heads);
        if heads == 0 || !width.is_multiple_of(heads) {
            let what = format!("a width of {width} does not divide into {heads} heads");
            return Err(DeviceError::shape(self.name(), what));
        }
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let what = format!("{heads} heads do not divide into groups for {kv_heads} heads of keys");
            return Err(DeviceError::shape(self.name(), what));
        }
        let (row, dtype) = (kv_heads * self.head_dim(), self.q.dtype());
        for (what, view) in [("k", &self.k), ("v", &self.v)] {
            if view.shape().last() != row || view.dtype() != dtype {
                let (is, its) = (view.shape(), view.dtype());
                let what = format!("{what} is {its} {is} where rows of {row} elements in {dtype} are needed");
                return Err(DeviceError::shape(self.name(), what));
            }
        }
        if self.k.shape() != self.v.shape() {
            return Err(DeviceError::mismatch(self.name(), "v", self.k.shape(), self.v.shape()));
        }
        Ok(())
    }

    /// The scores and their weighted sums of values, each a multiplication and an addition.
    fn flops(&self) -> u64 {
        (self.q.shape().last() as u64).saturating_mul(4).saturating_mul(self.pairs())
    }
}
