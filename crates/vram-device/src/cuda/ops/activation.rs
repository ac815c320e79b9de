//! The functions of [`UnaryKind`], for all operations that apply one.

use crate::ops::UnaryKind;

/// The number that `activation.cu` gives the function.
pub(super) fn number(kind: UnaryKind) -> u32 {
    match kind {
        UnaryKind::Gelu => 0,
        UnaryKind::GeluTanh => 1,
        UnaryKind::GeluSigmoid => 2,
        UnaryKind::Silu => 3,
        UnaryKind::Tanh => 4,
        UnaryKind::Sigmoid => 5,
    }
}
