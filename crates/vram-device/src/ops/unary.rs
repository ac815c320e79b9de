//! A function of each element, in place.

use super::operation::{Operation, operation, parameters};
use crate::{DeviceError, ViewMut};

/// Functions of one element, computed in f32 and rounded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnaryKind {
    /// `x/2 (1 + erf(x / sqrt 2))`, the exact form.
    Gelu,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, which PyTorch calls `gelu(approximate="tanh")`.
    GeluTanh,
    /// `x sigmoid(1.702 x)`, which Hugging Face calls `quick_gelu`.
    GeluSigmoid,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `tanh(x)`.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl UnaryKind {
    /// All of them.
    pub const ALL: [UnaryKind; 6] = [
        UnaryKind::Gelu,
        UnaryKind::GeluTanh,
        UnaryKind::GeluSigmoid,
        UnaryKind::Silu,
        UnaryKind::Tanh,
        UnaryKind::Sigmoid,
    ];
}

parameters!(UnaryKind);

operation! {
    /// `x = f(x)`, in place.
    pub struct Unary<'a> {
        /// Which function.
        pub kind: UnaryKind,
        /// A tensor of any shape in the compute dtype.
        pub x: ViewMut<'a>,
    }
}

impl<'a> Unary<'a> {
    /// Any function of [`UnaryKind`].
    pub fn new(kind: UnaryKind, x: ViewMut<'a>) -> Unary<'a> {
        Unary { kind, x }
    }

    /// `x/2 (1 + erf(x / sqrt 2))`, the exact form.
    pub fn gelu(x: ViewMut<'a>) -> Unary<'a> {
        Unary::new(UnaryKind::Gelu, x)
    }

    /// `x / (1 + exp(-x))`.
    pub fn silu(x: ViewMut<'a>) -> Unary<'a> {
        Unary::new(UnaryKind::Silu, x)
    }
}

impl Operation for Unary<'_> {
    fn name(&self) -> &'static str {
        "unary"
    }

    fn check(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn flops(&self) -> u64 {
        self.x.meta().elements().saturating_mul(10)
    }

    fn bytes_read(&self) -> u64 {
        self.x.meta().bytes()
    }
}
