//! What a product is computed on.

use vram_types::{DType, Encoding};

use crate::cpu::ops::scaled::ScaleArgs;

/// What [`linear`](super::linear) computes on; the activations come packed by [`linear_pack`](super::linear_pack).
#[derive(Clone, Copy)]
pub struct LinearArgs<'a> {
    /// The scratch that [`linear_pack`](super::linear_pack) filled from x [m, k], for the same `isa`, `m`, `k` and `act`.
    pub packed: &'a [u8],
    /// Rows of x and of y.
    pub m: usize,
    /// Columns of x and of the weights.
    pub k: usize,
    /// Weights [n, k], dense, of any alignment: all rows of a layer or some.
    pub w: &'a [u8],
    /// How the weights are stored.
    pub w_encoding: Encoding,
    /// What they are multiplied with, with [`Encoding::Scaled`] and with nothing else.
    pub scales: Option<ScaleArgs<'a>>,
    /// Rows of the weights, which are columns of y.
    pub n: usize,
    /// One value per row of the weights.
    pub bias: Option<(&'a [u8], DType)>,
    /// Elements from one row of y to the next.
    pub ldy: usize,
    /// The column of y that the first row of the weights gives.
    pub n0: usize,
    /// Dtype of x, of the arithmetic, and of y.
    pub act: DType,
}

impl std::fmt::Debug for LinearArgs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "LinearArgs([{}, {}] {} x [{}, {}] {} -> columns {}.. of {})",
            self.m, self.k, self.act, self.n, self.k, self.w_encoding, self.n0, self.ldy
        )
    }
}
