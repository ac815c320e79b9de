//! A gated activation.

use super::check::same;
use super::operation::{Operation, operation};
use super::unary::UnaryKind;
use crate::{DeviceError, View, ViewMut};

operation! {
    /// `y = f(gate) * y`, in place, computed in f32 and rounded once.
    ///
    /// With [`UnaryKind::Silu`] this is the middle of a SwiGLU layer, with [`UnaryKind::Gelu`] that of a
    /// GEGLU layer (arXiv 2002.05202).
    pub struct Gated<'a> {
        /// The function of the gate.
        pub kind: UnaryKind,
        /// A tensor of any shape in the compute dtype.
        pub gate: View<'a>,
        /// The other factor and the result, of the dtype and shape of `gate`.
        pub y: ViewMut<'a>,
    }
}

impl<'a> Gated<'a> {
    /// With any function for the gate.
    pub fn new(kind: UnaryKind, gate: View<'a>, y: ViewMut<'a>) -> Gated<'a> {
        Gated { kind, gate, y }
    }
}

impl Operation for Gated<'_> {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn check(&self) -> Result<(), DeviceError> {
        same(self.name(), self.gate.meta(), self.y.meta())
    }

    /// The function counts as ten.
    fn flops(&self) -> u64 {
        self.y.meta().elements().saturating_mul(11)
    }

    fn bytes_read(&self) -> u64 {
        self.gate.meta().bytes().saturating_add(self.y.meta().bytes())
    }
}
